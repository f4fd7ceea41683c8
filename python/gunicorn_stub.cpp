#include "python/gunicorn_stub.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace gcorn {
namespace {

// Each file is Python as it stands. Its first line, a string prefix to Python, begins a raw string
// here, and its last line, a comment to Python, ends it.
// clang-format off
constexpr char kBridge[] =
#include "python/bridge.py"
;
constexpr char kLogging[] =
#include "python/glogging.py"
;
constexpr char kStandIn[] =
#include "python/gunicorn_stub.py"
;
// clang-format on

constexpr char kFinder[] = R"PY(
import sys
from _gcorn_native import embedded_text

class Finder:
    """Last on sys.meta_path: the embedded modules, and gunicorn where nobody else has it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "gunicorn":
            import _gcorn_stand_in
            return _gcorn_stand_in.find_spec(name)
        if name.startswith("_gcorn") and embedded_text(name) is not None:
            return type(sys.__spec__)(name, Finder, origin="gcorn")

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        name = module.__name__
        exec(compile(embedded_text(name), f"<gcorn {name}>", "exec"), module.__dict__)


class LoggingWatch:
    """First on sys.meta_path until somebody imports logging; then sets our two loggers up."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(LoggingWatch)
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec = next(filter(None, found), None)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if "_gcorn_logging" not in sys.modules:  # else it is what imports logging
                import _gcorn_logging
                _gcorn_logging.current()

        spec.loader.exec_module = exec_module
        return spec


def watch_logging():
    if LoggingWatch not in sys.meta_path:
        sys.meta_path.insert(0, LoggingWatch)


sys.meta_path.append(Finder)
)PY";

PyObject* embedded_text(PyObject*, PyObject* name) {
    std::string_view wanted;
    if (!utf8_view(name, wanted)) return nullptr;
    const char* text = nullptr;
    if (wanted == "_gcorn") text = kBridge;
    if (wanted == "_gcorn_logging") text = kLogging;
    if (wanted == "_gcorn_stand_in") text = kStandIn;
    if (text == nullptr) Py_RETURN_NONE;
    return PyUnicode_FromString(std::strchr(text, '\n'));  // keeps the file's line numbers
}

PyMethodDef kEmbeddedText = {"embedded_text", embedded_text, METH_O, nullptr};

/// A str attribute of gunicorn that is not `original` any more; nullopt if it still is.
std::optional<std::string> changed_text(PyObject* module, const char* name,
                                        const std::string& original) {
    const PyRef value = attribute(module, name);
    std::string_view text;
    if (!value || !utf8_view(value.get(), text)) {
        PyErr_Clear();
        return std::nullopt;
    }
    const auto is_control = [](char c) { return (c >= 0 && c < ' ') || c == '\x7f'; };
    if (text == original || std::any_of(text.begin(), text.end(), is_control)) return std::nullopt;
    return std::string(text);
}

}  // namespace

bool install_gunicorn_stub() {
    if (is_imported("_gcorn_finder")) return true;
    if (!add_native(kEmbeddedText, &kEmbeddedText)) return false;
    PyObject* module = PyImport_AddModule("_gcorn_finder");  // borrowed
    if (module == nullptr) return false;
    PyObject* names = PyModule_GetDict(module);  // borrowed
    const PyRef code = PyRef::steal(Py_CompileString(kFinder, "<gcorn finder>", Py_file_input));
    return code && PyRef::steal(PyEval_EvalCode(code.get(), names, names));
}

PyRef embedded_module(const char* name) {
    if (!install_gunicorn_stub()) return {};
    return import(name);
}

bool is_imported(const char* name) {
    PyObject* modules = PyImport_GetModuleDict();  // borrowed
    return PyDict_GetItemString(modules, name) != nullptr;
}

bool add_native(PyMethodDef& definition, void* self) {
    PyObject* module = PyImport_AddModule("_gcorn_native");  // borrowed
    const PyRef function = module != nullptr ? native_function(definition, self) : PyRef();
    return function && PyObject_SetAttrString(module, definition.ml_name, function.get()) == 0;
}

std::optional<std::string> patched_server_name() {
    WithGil gil;
    PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "gunicorn");  // borrowed
    if (module == nullptr) return std::nullopt;
    if (auto server = changed_text(module, "SERVER", "gunicorn")) return server;
    const auto version = changed_text(module, "__version__", "");
    return changed_text(module, "SERVER_SOFTWARE", "gunicorn/" + version.value_or(""));
}

}  // namespace gcorn
