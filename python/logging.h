// Python's logging and ours: the loggers `gunicorn.error` and `gunicorn.access`.
//
// Usually C++ writes every log line, and the two Python loggers have a handler that leads to the
// same files: for hooks (`server.log`) and applications that borrow the handlers. `import logging`
// is slow and large, so nothing of this exists until somebody imports logging.
//
// With logconfig, logconfig_dict, logconfig_json or logger_class Python's logging takes over, as it
// does in gunicorn: handlers of Python write errorlog and accesslog, or what the log configuration
// says, and each record of the server goes to `gunicorn.error` through LogObserver. The server
// opens the Logger without files then (see logging_takes_over()). Access records come from the
// application side, through access(resp, req, environ, request_time) of the logger class;
// subclasses may override setup, access, atoms, now and the levels' methods, or add filters and
// handlers.
//
// It takes over in a worker, too, if the application or the config file has given one of the two
// loggers handlers, filters, a formatter or a level of its own (Django's LOGGING, say, or a filter
// against health checks). Handlers of ours that are left then write to the server's files.
//
// Limit: while Python's logging has taken over, error_log_format and the JSON access format have no
// effect, syslog gets the server's own records only, and a record logged by a native thread waits
// for the GIL (or, with greenlets, for the hub).
#pragma once

#include "python/pyref.h"

#include <string_view>

#include "base/result.h"
#include "config.h"
#include "log/log.h"

namespace gcorn {

/// True if `cfg` hands the logs to Python's logging: then LogOptions::errorlog and accesslog of the
/// process's Logger must be "". Pure.
[[nodiscard]] bool logging_takes_over(const Config& cfg);

class PythonLogging final : public LogObserver {
public:
    /// `log` outlives this object, which outlives every use of the interpreter.
    explicit PythonLogging(Logger& log) : log_(log) {}
    ~PythonLogging() override;
    PythonLogging(PythonLogging&&) = delete;

    /// Makes `cfg` the settings that Python code sees (the `cfg` of hooks), and sets the loggers
    /// up: at start, before the first hook, and on HUP. What Logger::open() will close may still be
    /// open, for the traceback of a failure. Takes the GIL. Error: one sentence that names the
    /// setting (the traceback is logged if it was the user's code that raised); loggers and
    /// settings are as they were before.
    Status configure(const Config& cfg);

    /// In a worker, once its application is loaded: takes over if somebody has changed a logger
    /// (not where the server writes JSON). Returns whether requests are logged by Python. Takes the
    /// GIL.
    bool follow_loggers();

    /// True while Python's logging has taken over.
    [[nodiscard]] bool takes_over() const { return takes_over_; }

    // LogObserver. Any thread; takes the GIL.
    void error_record(Level level, std::string_view message) override;
    void reopened() override;

private:
    Status set_up(bool takes_over);
    Status failure();
    bool add_natives();

    Logger& log_;
    Config cfg_;  ///< a copy: Python code may ask for it at any time
    bool takes_over_ = false;
};

}  // namespace gcorn
