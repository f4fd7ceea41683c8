// PEP 3333: finds the application, calls it, and turns what it returns into a response.
//
// Stands on both sides of the seam (app.h): implements App for the core, and holds the Python
// objects that requests share. Parsing, framing and sending are not done here; see http_parse,
// http_response, net/exchange. environ is made in python/environ, the objects inside it in
// python/streams. Application side: one thread (sync), several (gthread), or greenlets.
#pragma once

#include "python/pyref.h"

#include <memory>
#include <string>
#include <vector>

#include "app.h"
#include "base/result.h"
#include "log/log.h"

namespace gcorn {

class RequestObjects;

/// The two hooks around a request (python/hooks implements them). Called with the GIL held.
class RequestHooks {
public:
    virtual ~RequestHooks() = default;
    /// Before the environ is made. False: raised, the request is answered with 500. Raises.
    virtual bool pre_request(Exchange& exchange) = 0;
    /// After it is made: applies to it what pre_request changed in the request's headers. False as
    /// above.
    virtual bool environ_made(Exchange&, PyObject* /*environ*/) { return true; }
    /// Once everything is sent and the iterable is closed. environ is null if it was never made.
    /// False: raised, the error is logged and forgotten. Raises.
    virtual bool post_request(Exchange& exchange, PyObject* environ_or_null) = 0;
};

struct WsgiOptions {
    std::string app;               ///< "module", "module:name" or "module:factory(literals)"
    bool is_multithread = false;   ///< wsgi.multithread
    bool is_multiprocess = false;  ///< wsgi.multiprocess
    bool is_preload = false;       ///< freezes the collector's objects after loading (gc.freeze)
    /// reload: while the application does not import, requests get a 500 page.
    bool survives_broken_app = false;
    bool uses_sendfile = true;       ///< file_wrapper may hand real files to the kernel
    bool measures_time = true;       ///< fills Exchange::app_us
    bool watches_calls = false;      ///< request_timeout: interrupt_overdue() will be called
    bool offers_websockets = false;  ///< as environ["wsgi.websocket"], see websocket.py
    std::vector<std::string> logged_environ;  ///< AccessLog::environ_names()
};

class WsgiApp final : public App {
public:
    /// References are borrowed and outlive this object; hooks may be null. The interpreter must
    /// already be running.
    WsgiApp(Logger& log, WsgiOptions options, RequestHooks* hooks = nullptr);
    ~WsgiApp() override;

    /// New options (a reload); the next load() uses them.
    void configure(WsgiOptions options, RequestHooks* hooks);

    /// Imports and checks the application. kExitBootFailed: importing or the factory raised;
    /// "Exception in worker process" and a traceback are logged. kExitAppFailed: what options.app
    /// names does not exist or is no application; the message says it all, and the caller prints
    /// it.
    Status load() override;
    [[nodiscard]] bool is_loaded() const override { return static_cast<bool>(callable_); }
    void call(Exchange& exchange) override;
    OverdueCalls interrupt_overdue(int64_t limit_ms) override;
    std::vector<std::string> source_files() override;

    /// call() for a thread that already holds the GIL and keeps it (a greenlet). No object on this
    /// thread's stack is reachable from elsewhere while the application runs.
    void call_with_gil(Exchange& exchange);
    /// From now on requests are timed, and these hooks are told of them. Before the first call.
    void log_requests(RequestHooks& hooks) {
        options_.measures_time = true;
        hooks_ = &hooks;
    }
    /// From now on the worker ends calls by exceptions like GreenletExit, which are not logged.
    void expect_end() { expects_end_ = true; }

    /// The application's callable, null before load(). Borrowed. GIL held.
    [[nodiscard]] PyObject* callable() const { return callable_.get(); }

private:
    friend class Call;
    PyRef find_callable();
    Status load_failed(PyRef exception);

    Logger& log_;
    WsgiOptions options_;
    RequestHooks* hooks_;
    PyRef loader_;                             ///< globals of the embedded loader text
    std::unique_ptr<RequestObjects> objects_;  ///< made by load()
    PyRef callable_;
    bool expects_end_ = false;
    std::string broken_app_text_;  ///< survives_broken_app: the traceback to show
    std::vector<std::string> broken_app_files_;
};

}  // namespace gcorn
