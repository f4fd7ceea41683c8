#include "python/interpreter.h"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <csignal>
#include <filesystem>
#include <initializer_list>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "net/exchange.h"
#include "os/process.h"
#include "os/signals.h"
#include "python/embedded.h"
#include "python/environ.h"

#ifdef GCORN_WITHOUT_SHA2  // CMakeLists.txt says when
extern "C" PyObject* PyInit__sha2();
extern "C" PyObject* PyInit__sha2() {
    PyErr_SetString(PyExc_ImportError, "_sha2 is not in the archive of this Python; use hashlib");
    return nullptr;
}
#endif

namespace gcorn {
namespace {

#define GCORN_TEXT2(x) #x
#define GCORN_TEXT(x) GCORN_TEXT2(x)
/// "3.11": a virtual environment fits this binary if its version is the same.
constexpr const char* kPythonVersion =
    GCORN_TEXT(PY_MAJOR_VERSION) "." GCORN_TEXT(PY_MINOR_VERSION);
constexpr const char* kPythonPatchVersion =
    GCORN_TEXT(PY_MAJOR_VERSION) "." GCORN_TEXT(PY_MINOR_VERSION) "." GCORN_TEXT(PY_MICRO_VERSION);

/// The signal faulthandler listens on: interrupt(SIGABRT) raises it, because faulthandler itself
/// refuses to be registered for SIGABRT. A real-time signal no program is known to use.
int dump_signal() {
#ifdef SIGRTMIN
    return SIGRTMIN + 7;
#else
    return SIGIO;
#endif
}

// --- choosing an interpreter ---

/// The value that a pyvenv.cfg gives to one of these keys; "" if none.
std::string venv_value(std::string_view pyvenv_cfg, std::initializer_list<const char*> keys) {
    for (const std::string_view line : split(pyvenv_cfg, '\n')) {
        const size_t equals = line.find('=');
        if (equals == std::string_view::npos) continue;
        const std::string key = lower(trim(line.substr(0, equals)));
        if (std::ranges::find(keys, key) != keys.end())
            return std::string(trim(line.substr(equals + 1), " \t\r"));
    }
    return {};
}

/// The first `count` parts of a version, or all: "3.11.2" of "3.11.2.final.0".
std::string first_parts(const std::string& version, int count) {
    size_t end = version.find('.');
    while (--count > 0 && end != version.npos)
        end = version.find('.', end + 1);
    return version.substr(0, end);
}

/// Takes the environment in `directory` if it has a pyvenv.cfg; else false.
Result<bool> take_venv(const std::string& directory, PythonChoice& choice) {
    const std::optional<std::string> settings = read_small_file(directory + "/pyvenv.cfg");
    if (!settings || settings->empty()) return false;
    // venv says version, virtualenv and uv say version_info.
    const std::string full = venv_value(*settings, {"version", "version_info"});
    std::string version = first_parts(full, 2);
    if (version.empty() &&
        ::access((directory + "/lib/python" + kPythonVersion + (kHasGil ? "" : "t")).c_str(),
                 F_OK) == 0)
        version = kPythonVersion;
    if (version != kPythonVersion)
        return Error{0, "virtual environment " + directory + " is for Python " +
                            (version.empty() ? "(unknown version)" : version) +
                            ", but this gcorn embeds Python " + kPythonVersion +
                            ": create the environment with that Python, or build gcorn with yours"};
    const std::string patch = first_parts(full, 3), home = venv_value(*settings, {"home"});
    std::error_code error;  // no such directory: not ours
    const bool is_ours =
        std::filesystem::equivalent(home, std::filesystem::path(GCORN_PYTHON).parent_path(), error);
    if (std::ranges::count(patch, '.') == 2 && patch != kPythonPatchVersion && !is_ours)
        choice.warning = "virtual environment " + directory +
                         " uses the standard library of Python " + patch + " in " + home +
                         ", but this gcorn embeds Python " + kPythonPatchVersion +
                         ": parts of it may fail (multiprocessing, for one); build gcorn with that "
                         "Python";
    choice.venv = directory;
    choice.executable = directory + "/bin/python3";
    if (!is_executable(choice.executable)) choice.executable = directory + "/bin/python";
    return true;
}

/// The interpreter this binary was linked for, wherever it is by now.
std::string built_for(const std::string& path) {
    if (is_executable(GCORN_PYTHON)) return GCORN_PYTHON;
    const std::string found = find_on_path(path, std::string("python") + kPythonVersion);
    return found.empty() ? GCORN_PYTHON : found;
}

}  // namespace

Result<PythonChoice> choose_python(const std::string& virtual_env, const std::string& path,
                                   const std::string& binary) {
    PythonChoice choice;
    const std::filesystem::path own_bin =
        std::filesystem::path(binary).lexically_normal().parent_path();
    const std::filesystem::path bin =
        std::filesystem::path(find_on_path(path, "python3")).parent_path();
    for (const std::string& directory :
         {own_bin.parent_path().string(), virtual_env, bin.parent_path().string()}) {
        if (directory.empty()) continue;
        Result<bool> taken = take_venv(directory, choice);
        if (!taken) return taken.error();
        if (*taken) return choice;
    }
    choice.executable = built_for(path);
    return choice;
}

// ------------------------------------------------------------------------------- start and end

namespace {

/// Makes each line one write(2), at once. Python would hold back lines for a file or a pipe, and a
/// crash would lose them; with PYTHONUNBUFFERED it writes a line's end separately, and the lines of
/// several workers mix.
bool buffer_lines(PyObject* stream) {
    const PyRef reconfigure = PyRef::steal(PyObject_GetAttrString(stream, "reconfigure"));
    return static_cast<bool>(call_with_names(
        reconfigure,
        Facts().add("line_buffering", boolean(true)).add("write_through", boolean(false)).take()));
}

/// Why Python did not start: its message names the step, and a pending exception the cause (a
/// sitecustomize that raises, a missing standard library).
Error start_failure(const PyStatus& status) {
    std::string text = status.err_msg != nullptr ? status.err_msg : "unknown reason";
    const bool can_ask = PyGILState_GetThisThreadState() != nullptr;
    if (can_ask && PyErr_Occurred() != nullptr) text += ": " + take_error_text();
    if (text.ends_with("No module named 'encodings'"))
        text += std::string(" (is the standard library of Python ") + kPythonVersion +
                " installed? Does PYTHONHOME name another place?)";
    return Error{0, "start Python: " + text};
}

}  // namespace

Result<std::unique_ptr<Interpreter>> Interpreter::start(InterpreterOptions options) {
    std::vector<char*> argv;
    for (std::string& argument : options.argv)
        argv.push_back(argument.data());

    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;               // the command line is ours
    config.install_signal_handlers = 0;  // so are the signals
    PyStatus status =
        PyConfig_SetBytesArgv(&config, static_cast<Py_ssize_t>(argv.size()), argv.data());
    const char* executable = options.python.executable.c_str();
    for (wchar_t** field : {&config.program_name, &config.executable})
        if (*executable != '\0' && !PyStatus_Exception(status))
            status = PyConfig_SetBytesString(&config, field, executable);
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) return start_failure(status);

    auto interpreter = std::unique_ptr<Interpreter>(new Interpreter);
    char directory[PATH_MAX];
    Status ready;
    if (::getcwd(directory, sizeof directory) != nullptr)
        ready = interpreter->prepend_path(directory);
    interpreter->path_in_use_.clear();  // the start directory stays
    for_standard_streams(buffer_lines);
    PyEval_SaveThread();  // kept in the thread's own storage; WithGil finds it there
    if (!ready) return ready.error();
    return interpreter;
}

Interpreter::~Interpreter() {
    finalize();
}

void Interpreter::finalize() {
    if (std::exchange(finalized_, true)) return;
    PyGILState_Ensure();  // no scope: there is nothing left to release it to
    run_signal_handlers();
    changed_since_import_.reset();
    if (!threads_.empty()) {
        if (!call_object(import("atexit", "_run_exitfuncs"))) report("Exception at exit");
        flush_standard_streams();
        for (PyRef& thread : threads_)
            (void)thread.release();  // Python lives on, and they with it
        PyEval_SaveThread();
        return;
    }
    // Its result says whether buffered output could be flushed; Python has told stderr already.
    (void)Py_FinalizeEx();
}

// ----------------------------------------------------------------------------------- processes

void Interpreter::before_fork() {
    fork_gil_ = PyGILState_Ensure();
    if (!std::exchange(has_forked_, true)) share_with_workers();
    flush_standard_streams();  // or each worker would write a line begun before the fork
    PyOS_BeforeFork();
}

/// What is loaded before the first fork is shared with every worker. The collector would write into
/// each object's header and so give every worker a copy of its own: about 0.5 MiB.
void Interpreter::share_with_workers() {
    for (const char* used_by_every_worker : {"atexit", "faulthandler", "_signal"})
        if (!import(used_by_every_worker)) PyErr_Clear();  // this only saves memory
    if (!embedded_module("_gcorn_streams") || !client_socket_type()) PyErr_Clear();
    if (!call_object(import("gc", "freeze"))) PyErr_Clear();
}

void Interpreter::after_fork_parent() {
    PyOS_AfterFork_Parent();
    PyGILState_Release(fork_gil_);
}

void Interpreter::after_fork_child() {
    PyOS_AfterFork_Child();
    // What multiprocessing has started so far is not ours: when we exit, it would terminate what is
    // daemonic and complain that it cannot join the rest. It does the same in its own children.
    if (is_imported("multiprocessing.process")) {
        const PyRef module = import("multiprocessing", "process");
        const PyRef started = module ? attribute(module.get(), "_children") : PyRef();
        if (!started || !call_object(attribute(started.get(), "clear"))) PyErr_Clear();
    }
    PyGILState_Release(fork_gil_);
}

void Interpreter::set_environment(const std::string& name, const std::string* value_or_null) {
    WithGil gil;
    // os.environ calls setenv and unsetenv itself, so both views stay the same.
    const PyRef environ = import("os", "environ");
    const PyRef change =
        environ ? attribute(environ.get(), value_or_null != nullptr ? "__setitem__" : "pop")
                : PyRef();
    const PyRef value =
        value_or_null != nullptr ? path_str(*value_or_null) : PyRef::borrow(Py_None);
    if (!call_object(change, path_str(name), value)) report("Setting environment variable " + name);
}

Status Interpreter::use_path(const std::vector<std::string>& directories) {
    WithGil gil;
    for (const std::string& directory : std::exchange(path_in_use_, {})) {
        PyObject* path = PySys_GetObject("path");  // borrowed
        const PyRef entry = path_str(directory);
        if (path == nullptr || !entry ||
            !PyRef::steal(PyObject_CallMethod(path, "remove", "O", entry.get())))
            PyErr_Clear();  // the application took it out already
    }
    for (const std::string& directory : directories)
        if (Status inserted = prepend_path(directory); !inserted) return inserted;
    return {};
}

/// GIL held.
Status Interpreter::prepend_path(const std::string& directory) {
    PyObject* path = PySys_GetObject("path");  // borrowed
    PyRef entry = path_str(directory);
    if (path == nullptr || !PyList_Check(path) || !entry) {
        PyErr_Clear();
        return Error{0, "insert " + directory + " into sys.path: sys.path is not a list"};
    }
    const int present = PySequence_Contains(path, entry.get());
    if (present < 0 || (present == 0 && PyList_Insert(path, 0, entry.get()) < 0))
        return python_error("insert " + directory + " into sys.path");
    if (present == 0) path_in_use_.push_back(directory);
    return {};
}

// ------------------------------------------------------------------------- signals and liveness

/// Python runs signal handlers between bytecodes; an idle worker runs none, so it asks.
void Interpreter::run_signal_handlers() {
    WithGil gil;
    if (PyErr_CheckSignals() != 0) report_unless_interrupt("Exception in a signal handler");
}

void Interpreter::together(const std::function<void()>& calls) {
    WithGil gil;
    calls();
}

void Interpreter::report_unless_interrupt(const std::string& context) {
    if (PyErr_ExceptionMatches(PyExc_SystemExit) != 0)
        PyErr_Clear();  // the core has seen the signal, too, and is stopping
    else
        report(context);
}

void Interpreter::interrupt(int signal) {
    if (signal == SIGABRT && dumps_tracebacks_) ::raise(dump_signal());
    PyErr_SetInterruptEx(signal);
}

PyObject* Interpreter::handle_interrupt(PyObject* capsule, PyObject* arguments) {
    int signal = 0;
    PyObject* frame = nullptr;
    if (PyArg_ParseTuple(arguments, "iO", &signal, &frame) == 0) return nullptr;
    auto& self = native_self<Interpreter>(capsule);
    // A stop signal is repeated until the call it was meant for has ended. That must not end the
    // hook: only an abort may.
    if (self.interrupting_ != 0 && (signal != SIGABRT || self.interrupting_ == SIGABRT))
        Py_RETURN_NONE;
    const int outer = std::exchange(self.interrupting_, signal);
    const bool raises = self.on_interrupt_(signal);
    self.interrupting_ = outer;
    if (!raises) Py_RETURN_NONE;
    has_raised_ = true;
    PyRef code = number(signal == SIGABRT ? 1 : 0);
    if (code) PyErr_SetObject(PyExc_SystemExit, code.get());
    return nullptr;
}

/// TERM, USR1 and the like, from a handler of the application that calls the previous one.
PyObject* Interpreter::handle_note(PyObject*, PyObject* arguments) {
    int signal = 0;
    PyObject* frame = nullptr;
    if (PyArg_ParseTuple(arguments, "iO", &signal, &frame) == 0) return nullptr;
    signals::note(signal);
    Py_RETURN_NONE;
}

/// The last exit function: Py_FinalizeEx() goes on with the default action of each signal for which
/// Python has a handler, ours or the application's. Most of these end the process, those of QUIT
/// and ABRT with a core file, and signals may still come (from the application's timers, or from
/// supervisors that signal the whole group).
PyObject* Interpreter::ignore_handled(PyObject*, PyObject*) {
    const PyRef get_handler = import("_signal", "getsignal");
    const PyRef set_handler = import("_signal", "signal"), ignore = import("_signal", "SIG_IGN");
    for (int signal = 1; signal < NSIG; ++signal) {
        const PyRef handler = call_object(get_handler, number(signal));
        if (handler && PyCallable_Check(handler.get()) != 0)
            (void)call_object(set_handler, number(signal), ignore);
        PyErr_Clear();  // the other signals are still worth it
    }
    Py_RETURN_NONE;
}

Status Interpreter::install_interrupts(std::function<bool(int)> on_interrupt) {
    static PyMethodDef method = {"gcorn_interrupt", handle_interrupt, METH_VARARGS, nullptr};
    static PyMethodDef ignore = {"gcorn_ignore_handled", ignore_handled, METH_NOARGS, nullptr};
    on_interrupt_ = std::move(on_interrupt);
    WithGil gil;
    const signals::Hold hold;  // or the first handler may interrupt the setting of the next
    const PyRef handler = native_function(method, this);
    const PyRef set_handler = import("_signal", "signal");
    for (const int signal : {SIGINT, SIGQUIT, SIGABRT})
        if (!call_object(set_handler, number(signal), handler))
            return python_error("install the worker's signal handlers");
    if (!call_object(import("atexit", "register"), native_function(ignore, this)))
        return python_error("prepare for the interpreter's end");
    return keep_listening(set_handler);
}

void Interpreter::interruptible(const std::function<void()>& calls) {
    {
        signals::ArbiterHandlers handlers;
        {
            const WithGil gil;
            const signals::Hold hold;  // Python's C handler would not tell the arbiter
            (void)call_object(import("_signal", "signal"), number(SIGINT),
                              import("_signal", "default_int_handler"));
            PyErr_Clear();
            handlers.interrupt_with([](void*, int) { PyErr_SetInterruptEx(SIGINT); });
        }
        calls();
    }
    // One that came too late would hit a hook.
    const WithGil gil;
    if (PyErr_CheckSignals() != 0) PyErr_Clear();
}

/// Makes the core hear of signals that the application handles itself: a worker with a handler for
/// TERM must stop all the same. And makes getsignal() return what an application can call, or put
/// back later: for a C handler, such as catch_for_worker installs, it returns None. GIL held.
Status Interpreter::keep_listening(const PyRef& set_handler) {
    static PyMethodDef note = {"gcorn_note", handle_note, METH_VARARGS, nullptr};
    const PyRef handler = native_function(note, this);
    const PyRef standard = import("_signal", "SIG_DFL");
    const std::pair<int, const PyRef&> table[] = {
        {SIGTERM, handler},  {SIGUSR1, handler},  {SIGHUP, handler},   {SIGUSR2, handler},
        {SIGWINCH, handler}, {SIGCHLD, standard}, {SIGTTIN, standard}, {SIGTTOU, standard},
    };
    for (const auto& [signal, action] : table)
        if (!call_object(set_handler, number(signal), action))
            return python_error("install the worker's signal handlers");
    // PySignal_SetWakeupFd() does the same, but before 3.13 no shared libpython exports it.
    const PyRef set_fd = import("_signal", "set_wakeup_fd");
    if (!call_object(set_fd, number(signals::note_fd())))
        return python_error("hear of the application's signals");
    // In a child that the application forks: its signals must not be reported to its parent.
    PyRef forget = call_object(import("_functools", "partial"), set_fd, number(-1));
    const PyRef after_fork = Facts().add("after_in_child", std::move(forget)).take();
    if (!call_with_names(import("posix", "register_at_fork"), after_fork))
        return python_error("prepare for forks of the application");
    return {};
}

Status Interpreter::enable_traceback_dump(int fd) {
    WithGil gil;
    dumps_tracebacks_ =
        static_cast<bool>(call_object(import("faulthandler", "register"), number(dump_signal()),
                                      number(fd), boolean(true), boolean(false)));
    return dumps_tracebacks_ ? Status() : python_error("prepare stack dumps");
}

Status Interpreter::set_spew(bool is_on) {
    WithGil gil;
    const PyRef spew = name_in(run_embedded("spew"), "spew");
    return call_object(spew, boolean(is_on)) ? Status() : python_error("start spew");
}

Status Interpreter::prepare_reload() {
    WithGil gil;
    changed_since_import_ = name_in(run_embedded("reload"), "changed_since_import");
    return changed_since_import_ ? Status() : python_error("prepare to reload");
}

std::string Interpreter::changed_since_import() {
    if (!changed_since_import_) return {};
    WithGil gil;
    const PyRef path = call_object(changed_since_import_);
    const PyRef bytes = path ? PyRef::steal(PyUnicode_EncodeFSDefault(path.get())) : PyRef();
    if (!bytes) report_unless_interrupt("Looking for changed modules");
    return bytes ? std::string(bytes_view(bytes.get())) : std::string();
}

// ------------------------------------------------------------------------------------- threads

PyObject* Interpreter::run_thread(PyObject* capsule, PyObject* index) {
    const size_t number = PyLong_AsSize_t(index);
    if (PyErr_Occurred() != nullptr) return nullptr;
    {
        WithoutGil nogil;
        native_self<Interpreter>(capsule).thread_body_(number);
    }
    Py_RETURN_NONE;
}

Status Interpreter::start_threads(size_t count, std::function<void(size_t)> body) {
    static PyMethodDef method = {"gcorn_thread", run_thread, METH_O, nullptr};
    thread_body_ = std::move(body);
    WithGil gil;
    // Greenlets in their place would never give each other, or us, a turn. (A debugger's are real.)
    const PyRef starter = attribute(import("_thread", "start_new_thread").get(), "__module__");
    std::string_view owner;
    if (starter && utf8_view(starter.get(), owner) &&
        (owner.starts_with("gevent.") || owner.starts_with("eventlet.")))
        return Error{1, "worker class gthread needs Python's own threads, but " +
                            std::string(owner) +
                            " has replaced them in this process: restart, without monkey patching"};
    PyErr_Clear();
    PyRef target = native_function(method, this);
    PyRef thread_type = target ? import("threading", "Thread") : PyRef();
    bool is_started = static_cast<bool>(thread_type);
    for (size_t i = 0; is_started && i < count; ++i) {
        PyRef thread = PyRef::steal(PyObject_CallFunction(
            thread_type.get(), "OON(n)", Py_None, target.get(),
            PyUnicode_FromFormat("gthread-%zu", i + 1), static_cast<Py_ssize_t>(i)));
        is_started = thread && PyRef::steal(PyObject_CallMethod(thread.get(), "start", nullptr));
        // Kept in any case: an interrupt can end start() when the thread already runs.
        if (thread) threads_.push_back(std::move(thread));
    }
    return is_started ? Status() : python_error("start application threads");
}

bool Interpreter::join_threads(int timeout_ms) {
    const int64_t deadline_ms = monotonic_ms() + timeout_ms;
    WithGil gil;
    std::erase_if(threads_, [deadline_ms, this](const PyRef& thread) {
        const double left_ms =
            static_cast<double>(std::max<int64_t>(deadline_ms - monotonic_ms(), 0));
        // A thread that never started cannot be joined.
        PyRef alive = PyRef::steal(PyObject_CallMethod(thread.get(), "is_alive", nullptr));
        if (alive.get() == Py_True &&
            PyRef::steal(PyObject_CallMethod(thread.get(), "join", "d", left_ms / 1000.0)))
            alive = PyRef::steal(PyObject_CallMethod(thread.get(), "is_alive", nullptr));
        if (PyErr_Occurred() != nullptr) report_unless_interrupt("Joining application threads");
        return alive.get() == Py_False;
    });
    return threads_.empty();
}

// -------------------------------------------------------------------------------------- errors

/// Reports an error that cannot be returned: to the log, or to stderr before there is one. GIL
/// held.
void Interpreter::report(const std::string& context) {
    if (log_ != nullptr) {
        log_python_error(*log_, Level::Error, context);
    } else {
        PySys_FormatStderr("%s\n%s\n", context.c_str(), take_error_text().c_str());
    }
}

std::vector<std::string> paths_of(const PyRef& list) {
    std::vector<std::string> paths;
    for (Py_ssize_t i = 0; list && i < PyList_Size(list.get()); ++i) {
        PyRef path = PyRef::steal(PyUnicode_EncodeFSDefault(PyList_GET_ITEM(list.get(), i)));
        if (path) paths.emplace_back(bytes_view(path.get()));
        PyErr_Clear();
    }
    PyErr_Clear();
    return paths;
}

std::string joined_lines(const PyRef& lines) {
    const PyRef empty = lines ? utf8_str("") : PyRef();
    const PyRef text = empty ? PyRef::steal(PyUnicode_Join(empty.get(), lines.get())) : PyRef();
    PyRef bytes;
    if (text) bytes.reset(PyUnicode_AsEncodedString(text.get(), "utf-8", "backslashreplace"));
    PyErr_Clear();
    return bytes ? std::string(trim(bytes_view(bytes.get()), "\n")) : std::string();
}

namespace {

/// The string that names the exception, of those from format_exception_only(): indented source
/// lines of a SyntaxError come before it, and notes follow (PEP 678).
PyRef naming_string(const PyRef& strings) {
    const Py_ssize_t count = strings ? PyList_Size(strings.get()) : 0;
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* string = PyList_GET_ITEM(strings.get(), i);
        if (PyUnicode_GET_LENGTH(string) > 0 && PyUnicode_READ_CHAR(string, 0) != ' ')
            return PyRef::steal(PyList_GetSlice(strings.get(), i, i + 1));
    }
    return {};
}

}  // namespace

std::string take_error_text(bool with_traceback) {
    PyRef exception = take_exception();
    if (!exception) return "unknown error";
    const char* formatter = with_traceback ? "format_exception" : "format_exception_only";
    PyRef strings = call_object(import("traceback", formatter), exception);
    if (!strings) {  // the import may need a descriptor, and the error be that none is left
        PyErr_Clear();
        const PyRef said = PyRef::steal(PyObject_Str(exception.get()));
        const char* form = said && PyUnicode_GET_LENGTH(said.get()) > 0 ? "%s: %U" : "%s";
        PyErr_Clear();
        strings = PyRef::steal(Py_BuildValue(
            "[N]", PyUnicode_FromFormat(form, Py_TYPE(exception.get())->tp_name, said.get())));
    }
    if (!with_traceback) strings = naming_string(strings);
    std::string text = joined_lines(strings);
    if (text.empty()) return Py_TYPE(exception.get())->tp_name;
    if (!with_traceback) std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
}

std::string take_error_sentence() {
    const std::string text = take_error_text(false);
    const size_t colon = text.find(": ");
    return colon == text.npos ? text : text.substr(colon + 2);
}

Error python_error(const std::string& what, int code) {
    return Error{code, what + ": " + take_error_text(false)};
}

std::string request_label(const Exchange& exchange) {
    return escape_for_log(exchange.head.method) + " " + escape_for_log(exchange.head.target);
}

namespace {
thread_local LoggedError being_logged;
}

void log_python_error(Logger& log, Level level, std::string_view context) {
    const PyRef exception = take_exception();
    if (exception) restore_exception(PyRef::borrow(exception.get()));
    std::string record(context);
    record += '\n';
    record += take_error_text();
    being_logged = {exception.get(), context};
    {
        WithoutGil nogil;  // the write may block, and observers take the GIL themselves
        log.write(level, record);
    }
    being_logged = {};
}

LoggedError take_error_being_logged() {
    return std::exchange(being_logged, {});
}

}  // namespace gcorn
