// The sixteen server hooks: Python callables of the config file, called with small views.
//
// `server`, `worker`, `req`, `resp` are plain Python objects (python/bridge.py) that hold copies of
// what the C++ objects said when the hook was called, so a view kept by a hook can become outdated
// but never dangles. Their own attributes are read-only; hooks may add others (`req.start =
// time()`) and find them again, because each worker and each request keeps its one view. Only
// `worker.alive = False` is a command: the worker leaves gracefully, as gunicorn's would.
//
// A hook that raises is logged once, here, with its traceback; the Error says "<hook> hook:
// <exception>", and its code is the status of a SystemExit or HaltServer, else 0. What follows is
// the arbiter's or the worker's decision. Every method takes the GIL itself; application side.
//
// Limit: settings cannot be changed through cfg.
#pragma once

#include "python/pyref.h"

#include <initializer_list>
#include <mutex>
#include <unordered_map>

#include "app.h"
#include "base/result.h"
#include "config.h"
#include "log/log.h"
#include "wsgi.h"

namespace gcorn {

class PythonLogging;

class PythonHooks final : public Hooks, public RequestHooks {
public:
    /// All outlive this object. app: for worker.wsgi; may be null (then it is None).
    PythonHooks(Logger& log, PythonLogging& logging, WsgiApp* app);
    ~PythonHooks() override;
    PythonHooks(PythonHooks&&) = delete;

    /// True if requests under `cfg` need the two RequestHooks below; if not, give WsgiApp none.
    [[nodiscard]] bool has_request_hooks(const Config& cfg) const;

    /// Loads what worker_int and worker_abort may use, if `cfg` has either: they can interrupt any
    /// import, and a half-imported `logging` would be of no use to them.
    Status prepare_for_interrupts(const Config& cfg);

    // Hooks. post_fork also remembers the worker for the request hooks.
    Status run(Hook hook, Arbiter* arbiter, Worker* worker = nullptr,
               std::initializer_list<int> numbers = {}) override;
    void workers_changed(Arbiter& arbiter) override;
    [[nodiscard]] bool logs_requests() override;
    void request_refused(Exchange& exchange) override;

    // RequestHooks. Without a pre_request hook the request is named in the debug log, as gunicorn's
    // default hook does. post_request also writes the access record where Python's logging does
    // that.
    bool pre_request(Exchange& exchange) override;
    bool environ_made(Exchange& exchange, PyObject* environ) override;
    bool post_request(Exchange& exchange, PyObject* environ_or_null) override;

private:
    void write_refused(const Exchange& exchange, const PyRef& request, const PyRef& response);
    [[nodiscard]] PyRef worker_view();
    [[nodiscard]] PyRef take_request(const Exchange& exchange);

    Logger& log_;
    PythonLogging& logging_;
    WsgiApp* app_;
    Worker* worker_ = nullptr;  ///< in a worker: itself
    bool has_shown_server_ = false;

    std::mutex mutex_;  ///< guards what follows; no Python code runs under it
    PyRef own_view_;    ///< the Worker view of worker_
    /// The `req` of each request between its two hooks.
    std::unordered_map<const Exchange*, PyRef> requests_;

    friend struct HookNatives;
};

}  // namespace gcorn
