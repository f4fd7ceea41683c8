#include "python/logging.h"

#include <algorithm>
#include <array>
#include <string>

#include "python/config_file.h"
#include "python/embedded.h"
#include "python/greenlet.h"
#include "python/interpreter.h"

namespace gcorn {
namespace {

/// The str as UTF-8, whatever is in it. Raises (not a str).
bool log_text(PyObject* text, std::string& out) {
    const PyRef bytes =
        PyUnicode_Check(text)
            ? PyRef::steal(PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace"))
            : PyRef();
    if (bytes) {
        out = bytes_view(bytes.get());
    } else if (PyErr_Occurred() == nullptr) {
        PyErr_SetString(PyExc_TypeError, "a log takes str");
    }
    return static_cast<bool>(bytes);
}

/// Python's numeric level → ours; a number between two levels counts as the lower one.
Level level_of(long number) {
    if (number >= 50) return Level::Critical;
    if (number >= 40) return Level::Error;
    if (number >= 30) return Level::Warning;
    return number >= 20 ? Level::Info : Level::Debug;
}

const char* level_method(Level level) {
    constexpr std::array kNames = {"debug", "info", "warning", "error", "critical"};
    return kNames[static_cast<size_t>(level)];
}

// --- functions of _gcorn_native; `self` is a capsule of the Logger or of the Config ---

/// write(levelno, text) → False, and nothing was written, if loglevel excludes it, or if records no
/// longer take that way.
PyObject* native_write(PyObject* self, PyObject* arguments) {
    long number = 0;
    PyObject* text = nullptr;  // borrowed
    std::string message;
    if (!PyArg_ParseTuple(arguments, "lO", &number, &text) || !log_text(text, message)) {
        return nullptr;
    }
    Logger& log = native_self<Logger>(self);
    if (!log.enabled(level_of(number)) || log.is_handed_over()) Py_RETURN_FALSE;
    {
        WithoutGil nogil;
        log.write(level_of(number), message);
    }
    Py_RETURN_TRUE;
}

/// write_raw(text) and write_access(text)
template <void (Logger::*kWrite)(std::string_view)>
PyObject* native_write_text(PyObject* self, PyObject* text) {
    std::string message;
    if (!log_text(text, message)) return nullptr;
    {
        WithoutGil nogil;
        (native_self<Logger>(self).*kWrite)(message);
    }
    return PyLong_FromSsize_t(PyUnicode_GET_LENGTH(text));
}

PyObject* native_error_fd(PyObject* self, PyObject*) {
    return PyLong_FromLong(native_self<Logger>(self).error_fd());
}

PyObject* native_config(PyObject* self, PyObject*) {
    return make_config_view(native_self<const Config>(self)).release();
}

PyMethodDef kOfLogger[] = {
    {"write", native_write, METH_VARARGS, nullptr},
    {"write_raw", native_write_text<&Logger::write_raw>, METH_O, nullptr},
    {"write_access", native_write_text<&Logger::write_access>, METH_O, nullptr},
    {"error_fd", native_error_fd, METH_NOARGS, nullptr},
};
PyMethodDef kConfig = {"config", native_config, METH_NOARGS, nullptr};

/// Makes the next config() ask C++ again. Raises.
bool forget_config() {
    if (!is_imported("_gcorn")) return true;
    const PyRef bridge = import("_gcorn");
    return bridge && PyObject_SetAttrString(bridge.get(), "_config", Py_None) == 0;
}

bool wants_json(const Config& cfg) {
    const std::string& access = cfg.access_log_format;
    return access == "json" || access.starts_with("json:") || cfg.error_log_format == "json";
}

}  // namespace

bool logging_takes_over(const Config& cfg) {
    return !cfg.logger_class.name.empty() || cfg.logconfig_dict || !cfg.logconfig_json.empty() ||
           !cfg.logconfig.empty();
}

PythonLogging::~PythonLogging() {
    log_.set_observer(nullptr);
}

Status PythonLogging::configure(const Config& cfg) {
    if (wants_json(cfg) && logging_takes_over(cfg)) {
        return Error{1,
                     "json is a format of the built-in logger, which logconfig* and logger_class "
                     "replace: configure a Python JSON formatter there"};
    }
    WithGil gil;
    Config previous = std::exchange(cfg_, cfg);
    Status status = set_up(logging_takes_over(cfg));
    if (!status) {
        cfg_ = std::move(previous);
        if (!forget_config()) PyErr_Clear();
        return status;
    }
    takes_over_ = logging_takes_over(cfg);
    log_.set_observer(takes_over_ ? this : nullptr);
    return {};
}

bool PythonLogging::follow_loggers() {
    if (takes_over_) return true;
    WithGil gil;
    if (wants_json(cfg_) || !is_imported("_gcorn_logging")) return false;
    const PyRef is_changed = call_embedded("_gcorn_logging", "is_changed");
    if (!is_changed) log_python_error(log_, Level::Error, "Cannot look at the loggers");
    takes_over_ = is_changed.get() == Py_True;
    if (takes_over_) log_.hand_over(*this);
    // Our own logger class makes access records only for an access log.
    return takes_over_ && !cfg_.accesslog.empty();
}

Status PythonLogging::set_up(bool takes_over) {
    if (!install_gunicorn_stub() || !add_natives() || !forget_config()) return failure();
    if (takes_over || is_imported("logging")) {
        return call_embedded("_gcorn_logging", "configure") ? Status() : failure();
    }
    return call_object(import("_gcorn_finder", "watch_logging")) ? Status() : failure();
}

Status PythonLogging::failure() {
    if (PyErr_ExceptionMatches(PyExc_RuntimeError) != 0)  // see glogging.py
        return Error{1, take_error_sentence()};
    // Raw, because no sink may be open yet: then it goes to stderr.
    log_.write_raw("Exception in logger_class\n" + take_error_text());
    return Error{1, "logger_class cannot be set up"};
}

bool PythonLogging::add_natives() {
    return std::ranges::all_of(kOfLogger, [this](auto& one) { return add_native(one, &log_); }) &&
           add_native(kConfig, &cfg_);
}

void PythonLogging::error_record(Level level, std::string_view message) {
    if (Py_IsInitialized() == 0) {  // the interpreter has ended: at least tell stderr
        log_.write_raw(message);
        return;
    }
    WithGil gil;
    PyRef pending = take_exception();  // whoever logs may be about to handle one
    const LoggedError error = take_error_being_logged();
    const PyRef text = utf8_str(error.exception == nullptr ? message : error.context);
    const PyRef exception = PyRef::borrow(error.exception == nullptr ? Py_None : error.exception);
    const char* const function = is_beside_hub() ? "record_in_hub" : "record";
    if (!call_embedded("_gcorn_logging", function, utf8_str(level_method(level)), text,
                       exception)) {
        log_.write_raw(std::string(message) + "\n" + take_error_text());
    }
    if (pending) restore_exception(std::move(pending));
}

void PythonLogging::reopened() {
    if (Py_IsInitialized() == 0) return;
    WithGil gil;
    if (!is_imported("logging")) return;  // so there is no handler
    const PyRef logger = call_embedded("_gcorn_logging", "current");
    if (!logger || !PyRef::steal(PyObject_CallMethod(logger.get(), "reopen_files", nullptr))) {
        log_.write_raw("Log files cannot be reopened: " + take_error_text());
    }
}

}  // namespace gcorn
