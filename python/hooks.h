// The sixteen server hooks: Python callables of the config file, called with small views.
//
// `server`, `worker`, `req`, `resp` are plain Python objects (python/bridge.py) that hold copies of
// what the C++ objects said when the hook was called, so a view kept by a hook can grow old but never
// dangles. Their own attributes are read-only; hooks may add others (`req.start = time()`), and find
// them again, because each worker and each request keeps its one view. Only `worker.alive = False` is
// an order: the worker leaves gracefully, as gunicorn's would.
//
// A hook that raises is logged once with its traceback; the Error carries "<hook> hook: <exception>",
// and as its code the status of a SystemExit, else 0. What follows is the arbiter's or worker's
// decision. Any thread of the application side; every method takes the GIL unless it says otherwise.
//
// Limit: changing req.headers does not change the environ; worker_class objects of one's own and
// cfg.set() are refused with a sentence.
#pragma once

#include "python/pyref.h"

#include <string>

#include "app.h"
#include "base/result.h"
#include "config.h"
#include "log/log.h"

namespace gcorn {

class PythonLogging;

/// What wsgi.cpp calls around the application, on whatever thread runs it. GIL held, no Python error
/// set on entry. Not called at all while is_active() is false.
class RequestHooks {
public:
    virtual ~RequestHooks() = default;

    /// True if a request has anything to do here; constant between two configure().
    [[nodiscard]] virtual bool is_active() const = 0;

    /// Request complete, environ not built: makes its `req` and runs pre_request.
    /// body  what becomes wsgi.input.
    /// req   set even on failure; give it to the two calls below.
    /// Raises: what the hook raised. The caller answers 500 without calling the application.
    [[nodiscard]] virtual bool pre_request(Exchange& exchange, PyObject* body, PyRef& req) = 0;

    /// Response sent, result not closed: the access record, where Python's logging writes it.
    /// Never raises.
    virtual void access(Exchange& exchange, PyObject* req, PyObject* environ) = 0;

    /// Always, after everything else of the request: runs post_request. A failure is logged as
    /// "Exception in post_request hook" and goes no further. environ: null before it was built.
    virtual void post_request(Exchange& exchange, PyObject* req, PyObject* environ) = 0;
};

class PythonHooks final : public Hooks, public RequestHooks {
public:
    /// Both outlive this object.
    PythonHooks(Logger& log, PythonLogging& logging);
    ~PythonHooks() override;
    PythonHooks(const PythonHooks&) = delete;
    PythonHooks& operator=(const PythonHooks&) = delete;

    /// Takes the hooks of `cfg` and makes its `cfg` view: at start, and on HUP before on_reload.
    Status configure(const Config& cfg);

    /// In the child, before post_fork: the worker whose requests these are. Outlives this process'
    /// use of the hooks.
    void set_worker(Worker* worker) { worker_ = worker; }

    Status nworkers_changed(Arbiter&, int new_value, int old_value) override;
    Status on_starting(Arbiter&) override;
    Status when_ready(Arbiter&) override;
    Status on_reload(Arbiter&) override;
    Status on_exit(Arbiter&) override;
    Status pre_fork(Arbiter&, Worker&) override;
    Status child_exit(Arbiter&, Worker&) override;
    Status pre_exec(Arbiter&) override;
    Status post_fork(Arbiter&, Worker&) override;
    Status post_worker_init(Worker&) override;
    Status worker_exit(Arbiter&, Worker&) override;
    Status worker_int(Worker&) override;
    Status worker_abort(Worker&) override;

    bool is_active() const override;
    bool pre_request(Exchange& exchange, PyObject* body, PyRef& req) override;
    void access(Exchange& exchange, PyObject* req, PyObject* environ) override;
    void post_request(Exchange& exchange, PyObject* req, PyObject* environ) override;

private:
    Logger& log_;
    PythonLogging& logging_;
    Worker* worker_ = nullptr;
};

}  // namespace gcorn
