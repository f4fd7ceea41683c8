// The embedded interpreter: which Python, its start, fork, threads, interrupts and end.
//
// One per process, made by server.cpp before any other use of Python. start() leaves the GIL
// released: everybody takes it in scopes (pyref.h). The interpreter installs no signal handler of
// its own; the core owns the signals, and interrupt() is its way to reach running Python code. Also
// here: the one function that prints tracebacks.
#pragma once

#include "python/pyref.h"

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "app.h"
#include "base/result.h"
#include "log/log.h"

namespace gcorn {

/// Which interpreter this process is to be; see choose_python().
struct PythonChoice {
    std::string executable;  ///< becomes sys.executable; decides sys.prefix and the packages
    std::string venv;        ///< directory of the virtual environment, "" = none
    std::string warning;     ///< "" = it fits
};

/// Finds the interpreter to impersonate: the virtual environment that this binary lies in, else the
/// active one (VIRTUAL_ENV, else the first python3 on PATH if a pyvenv.cfg says it is one), else
/// the one this binary was built for.
///
/// virtual_env, path   the values of VIRTUAL_ENV and PATH, "" = unset.
/// binary              the path it was started by, links unresolved; "" = unknown.
/// Error               the environment is for another Python version; the sentence names both.
/// Reads files, runs no Python. Any thread.
[[nodiscard]] Result<PythonChoice> choose_python(const std::string& virtual_env,
                                                 const std::string& path,
                                                 const std::string& binary = "");

struct InterpreterOptions {
    std::vector<std::string> argv = {"gcorn"};  ///< becomes sys.argv
    PythonChoice python;
};

class Interpreter final : public Runtime {
public:
    /// Starts Python on this thread, which becomes its main thread, and releases the GIL.
    /// sys.path[0] is the current directory. Error: Python's own sentence.
    [[nodiscard]] static Result<std::unique_ptr<Interpreter>> start(InterpreterOptions options);
    ~Interpreter() override;  ///< finalize()

    // --- Runtime ---
    /// The GIL stays held from before_fork() to after_fork_…(): fork on the same thread.
    void before_fork() override;
    void after_fork_parent() override;
    void after_fork_child() override;
    /// atexit handlers, then the end of Python. If a thread started here never came back, only the
    /// atexit handlers run and standard output is flushed: a stuck thread must not hold up the
    /// exit.
    void finalize() override;
    /// Python runs them on the main thread only. What they raise is logged, except the SystemExit
    /// of our own interrupts: the core stops by itself.
    void run_signal_handlers() override;
    void together(const std::function<void()>& calls) override;
    /// Async-signal-safe. Only after install_interrupts(). For SIGABRT the stacks of all Python
    /// threads are written first if enable_traceback_dump() was called.
    void interrupt(int signal) override;
    Status start_threads(size_t count, std::function<void(size_t)> body) override;
    bool join_threads(int timeout_ms) override;
    void set_environment(const std::string& name, const std::string* value_or_null) override;

    // --- for server.cpp and python/ ---
    /// Puts directories in front of sys.path, so that the last one comes first, in place of those
    /// from the previous call (chdir, pythonpath). One that sys.path has already stays where it is.
    Status use_path(const std::vector<std::string>& directories);

    /// Python-level handlers for SIGINT, SIGQUIT and SIGABRT: they call on_interrupt(signal) with
    /// the GIL held (hooks worker_int, worker_abort), then raise SystemExit(0), or SystemExit(1)
    /// for SIGABRT, in whatever the main thread runs, unless on_interrupt() returned false. While
    /// it runs, only SIGABRT has an effect. Handlers that the application installs later work; the
    /// core still hears of their signals. Worker only, on the main thread, after signals::open().
    /// Order: this replaces the process's C handlers, so call the core's catch_for_worker after it.
    Status install_interrupts(std::function<bool(int)> on_interrupt);
    /// TERM, INT and QUIT raise KeyboardInterrupt in the Python code that `calls` runs: a config
    /// file that never ends must not make the arbiter deaf. Arbiter only, on the main thread.
    void interruptible(const std::function<void()>& calls);
    /// One of these handlers has raised. A later failure may be whatever Python, or an application,
    /// has made of the SystemExit. GIL held.
    [[nodiscard]] static bool has_interrupted() { return has_raised_; }

    /// Where interrupt(SIGABRT) writes the Python stacks: a descriptor that stays open (the error
    /// log's). Call again when it changed. Uses faulthandler, so it works inside C extensions.
    Status enable_traceback_dump(int fd);

    /// Prints every line of Python that runs, in frames entered from now on by the main thread, its
    /// greenlets and threads started later, to standard output as "module:LINENO: source"; or stops
    /// that. (gunicorn: --spew)
    Status set_spew(bool is_on);

    /// For --reload: modules imported from now on leave no .pyc, and changed_since_import() knows
    /// the sources they came from. (Python takes a .pyc for current if it has the source's size and
    /// its time in seconds: after two saves within a second a new worker could run the code of the
    /// first.)
    Status prepare_reload();
    std::string changed_since_import() override;

    /// Where errors of asynchronous things (signal handlers) go; null = stderr. Borrowed.
    void set_logger(Logger* log) { log_ = log; }

private:
    Interpreter() = default;
    // The C functions behind callables that Python holds.
    static PyObject* handle_interrupt(PyObject* capsule, PyObject* arguments);
    static PyObject* handle_note(PyObject* capsule, PyObject* arguments);
    static PyObject* ignore_handled(PyObject* capsule, PyObject*);
    static PyObject* run_thread(PyObject* capsule, PyObject* index);
    Status keep_listening(const PyRef& set_handler);
    Status prepend_path(const std::string& directory);
    static void share_with_workers();
    void report(const std::string& context);
    void report_unless_interrupt(const std::string& context);

    Logger* log_ = nullptr;
    std::function<bool(int)> on_interrupt_;
    static inline bool has_raised_ = false;  ///< see has_interrupted(); under the GIL
    int interrupting_ = 0;                   ///< the signal on_interrupt_ is called for right now
    std::function<void(size_t)> thread_body_;
    std::vector<std::string> path_in_use_;  ///< of use_path()
    std::vector<PyRef> threads_;            ///< threading.Thread objects that have not been joined
    bool finalized_ = false;
    bool dumps_tracebacks_ = false;
    PyRef changed_since_import_;  ///< Python's function of that name; null without prepare_reload()
    bool has_forked_ = false;
    PyGILState_STATE fork_gil_ = PyGILState_UNLOCKED;  ///< between before_fork and after_fork_…
};

/// A list of str as file names; empty, with the exception cleared, if it is not one. GIL held.
[[nodiscard]] std::vector<std::string> paths_of(const PyRef& list);

/// The strings of a list, joined, without final newlines; lone surrogates, which source lines and
/// file names may hold, are escaped. "" if `lines` is null or holds something else. Never raises,
/// and clears what was raised before. GIL held.
[[nodiscard]] std::string joined_lines(const PyRef& lines);

/// The exception that is set, as Python prints it, without the final newline; clears it.
/// with_traceback false: only what it says, in one line ("ValueError: bad value"). GIL held.
[[nodiscard]] std::string take_error_text(bool with_traceback = true);

/// Only its message, without its name, if that is a whole sentence by itself; clears it. GIL held.
[[nodiscard]] std::string take_error_sentence();

/// The exception that is set, as an Error: "WHAT: " and its last line; clears it. GIL held.
[[nodiscard]] Error python_error(const std::string& what, int code = 1);

/// "GET /path", for the log: what the client sent is escaped. Pure.
[[nodiscard]] std::string request_label(const Exchange& exchange);

/// Logs the exception that is set, and clears it: one record, `context` as its first line and the
/// traceback below. The one place that prints tracebacks. GIL held; it is dropped for the write.
void log_python_error(Logger& log, Level level, std::string_view context);

/// What log_python_error() is writing on this thread: for Python's own formatters and handlers,
/// which want the exception itself, not its text. Handed out once: while a handler runs, another
/// greenlet may log something else.
struct LoggedError {
    PyObject* exception = nullptr;  ///< borrowed; null: the record has no exception
    std::string_view context;
};
[[nodiscard]] LoggedError take_error_being_logged();

}  // namespace gcorn
