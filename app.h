// The seam between the core and Python: App, Hooks, Runtime.
//
// The core (everything but wsgi.cpp and python/) sees the interpreter only through these
// interfaces, so that it builds, runs, fuzzes and sanitises without Python; tests implement them in
// C++. Threads that run core code do not hold the GIL: every method here takes it where needed and
// has released it when it returns.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/result.h"

namespace gcorn {

class Arbiter;
class Config;
class Exchange;
class Worker;
struct HookRef;  // config.h

/// Exit codes that mean something to the arbiter (gunicorn's).
constexpr int kExitBootFailed = 3;  ///< a worker could not start
constexpr int kExitAppFailed = 4;   ///< the application could not be found or is not callable

/// SERVER_SOFTWARE (RFC 3875 §4.1.17: products, the most significant first). Applications look for
/// gunicorn's name before they rely on what it does, such as chunked request bodies.
constexpr const char* kSoftware = "gunicorn/26.1.0 gcorn/" GCORN_VERSION;

/// What App::interrupt_overdue() found.
struct OverdueCalls {
    int64_t next_look_ms = 0;  ///< nothing new can be found before that
    size_t stuck = 0;          ///< calls newly found to run on although they were interrupted
    bool needs_hub = false;    ///< some wait in greenlets: their hub has to look, too
};

/// The application.
class App {
public:
    virtual ~App() = default;
    /// Imports it. Once per worker (or once in the arbiter, with preload_app or by a hook). The
    /// Error's code is kExitBootFailed or kExitAppFailed; a Python traceback was logged already.
    /// Code 0: a signal interrupted it.
    virtual Status load() = 0;
    /// Also where a hook has loaded it earlier: server.app.wsgi() does.
    [[nodiscard]] virtual bool is_loaded() const = 0;
    /// Runs it on one request, which it ends with exchange.finish() whatever happens: every failure
    /// becomes a 500 or a cut connection. Application side; several threads at once if the worker
    /// class has them.
    virtual void call(Exchange& exchange) = 0;
    /// request_timeout: logs and interrupts every call that has run for limit_ms; each is answered
    /// with 504, or cut if its head is out already. Any native thread, but it waits for the GIL.
    virtual OverdueCalls interrupt_overdue(int64_t limit_ms) { return {.next_look_ms = limit_ms}; }
    /// Files of all imported modules, for the reloader.
    virtual std::vector<std::string> source_files() = 0;
};

/// The server hooks, all no-ops here.
class Hooks {
public:
    using Hook = HookRef Config::*;  ///< named by its setting: &Config::when_ready

    virtual ~Hooks() = default;
    /// Runs one with (server, worker, numbers…), leaving out null ones; a negative number is passed
    /// as None. An Error from the arbiter's hooks ends the start (with its code, or 1) but is
    /// survived later; from post_fork and post_worker_init it fails the worker's boot. The Error is
    /// already logged.
    virtual Status run(Hook, Arbiter*, Worker* = nullptr, std::initializer_list<int> = {}) {
        return {};
    }
    /// A worker came or went: for threads that hooks left running in the arbiter.
    virtual void workers_changed(Arbiter&) {}
    /// Requests are logged by Python: they are timed, and request_refused() is called. Asked by a
    /// worker, once its application is loaded.
    [[nodiscard]] virtual bool logs_requests() { return false; }
    /// A request that never reached the application was answered. The loop's thread.
    virtual void request_refused(Exchange&) {}
    /// pre_request and post_request are called by wsgi.cpp itself, which is on both sides of the
    /// seam.
};

/// The interpreter, as the process model needs it.
class Runtime {
public:
    virtual ~Runtime() = default;
    /// Around fork(2), on the thread that forks.
    virtual void before_fork() {}
    virtual void after_fork_parent() {}
    virtual void after_fork_child() {}
    /// Ends the interpreter (runs atexit); the last thing a worker does. Idempotent.
    virtual void finalize() {}
    /// Takes the GIL and lets Python's pending signal handlers run, for a thread that runs
    /// no Python by itself. That it returns proves that the interpreter is alive.
    virtual void run_signal_handlers() {}
    /// Runs `calls`, which calls the application several times in a row on this thread: the GIL is
    /// taken once for all of them, and dropped where they wait.
    virtual void together(const std::function<void()>& calls) { calls(); }
    /// Makes the interpreter run the worker's Python signal handler between two bytecodes. For use
    /// in a signal handler: async-signal-safe (PyErr_SetInterruptEx).
    virtual void interrupt(int /*signal*/) {}
    /// Starts `count` threads the application knows as threading.Thread, each running `body` once
    /// without the GIL.
    virtual Status start_threads(size_t count, std::function<void(size_t)> body) = 0;
    /// Waits for them, at most timeout_ms; false if some did not come back.
    virtual bool join_threads(int timeout_ms) = 0;
    /// setenv/unsetenv that os.environ sees, too.
    virtual void set_environment(const std::string& name, const std::string* value_or_null) = 0;
    /// With reload: a module's source that has changed since this worker imported it, "" if there
    /// is none. Each module is checked, and reported, only once: later changes are the reloader's
    /// job.
    virtual std::string changed_since_import() { return {}; }
};

}  // namespace gcorn
