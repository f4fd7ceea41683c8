// Python's logging and ours: the loggers `gunicorn.error` and `gunicorn.access`.
//
// Usually C++ writes every log line, and the two Python loggers have a handler that leads to the same
// files: for hooks (`server.log`) and applications that borrow the handlers. `import logging` is slow
// and large, so nothing of this exists until somebody imports logging.
//
// With logconfig, logconfig_dict, logconfig_json or logger_class Python's logging takes over: its
// handlers replace our files, and each record of the server goes to `gunicorn.error` through
// LogObserver. Access records then come from the application side, through Logger.access(resp, req,
// environ, request_time) of the logger class, so subclasses may override setup, access, atoms, now and
// the levels' methods, or add filters and handlers, as they do under gunicorn.
//
// Limit: while Python's logging has taken over, error_log_format and the JSON access format have no
// effect, requests refused before they reach the application have no access line, and a record
// logged by a native thread waits for the GIL.
#pragma once

#include "python/pyref.h"

#include <memory>
#include <string_view>

#include "base/result.h"
#include "config.h"
#include "log/log.h"

namespace gcorn {

class PythonLogging final : public LogObserver {
public:
    /// `log` outlives this object, which is its observer while Python's logging has taken over.
    explicit PythonLogging(Logger& log);
    ~PythonLogging() override;
    PythonLogging(const PythonLogging&) = delete;
    PythonLogging& operator=(const PythonLogging&) = delete;

    /// Sets the loggers up as `cfg` says: at start after Logger::open(), and on HUP. Takes the GIL.
    /// cfg_view: make_config_view(cfg).
    /// Error: one sentence that names the setting; the loggers are as they were before.
    Status configure(const Config& cfg, PyObject* cfg_view);

    /// True while Python's logging has taken over.
    [[nodiscard]] bool takes_over() const { return takes_over_; }

    // LogObserver
    void error_record(Level level, std::string_view message) override;

private:
    Logger& log_;
    bool takes_over_ = false;
};

}  // namespace gcorn
