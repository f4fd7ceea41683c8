#include "python/embedded.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string_view>

#include "base/result.h"
#include "http_fields.h"

namespace gcorn {
namespace {

struct Text {
    std::string_view name;
    const char* text;
};

// Each file is Python as it stands. Its first line, a string literal to Python, begins a raw string
// here, and its last line, a comment to Python, ends it.
// clang-format off
constexpr Text kTexts[] = {
{"_gcorn",
#include "python/bridge.py"
},
{"_gcorn_client",
#include "python/client.py"
},
{"_gcorn_client_socket",
#include "python/client_socket.py"
},
{"_gcorn_logging",
#include "python/glogging.py"
},
{"_gcorn_stand_in",
#include "python/gunicorn_stub.py"
},
{"_gcorn_streams",
#include "python/streams.py"
},
{"eventlet_hub",
#include "python/eventlet_hub.py"
},
{"finder",
#include "python/finder.py"
},
{"gevent_hub",
#include "python/gevent_hub.py"
},
{"help",
#include "python/help.py"
},
{"hub",
#include "python/hub.py"
},
{"loader",
#include "python/loader.py"
},
{"reload",
#include "python/reload.py"
},
{"spew",
#include "python/spew.py"
},
{"tls",
#include "python/tls.py"
},
{"websocket",
#include "python/websocket.py"
},
};
// clang-format on

/// Null if there is none of that name.
const Text* find_text(std::string_view name) {
    const Text* found = std::ranges::find(kTexts, name, &Text::name);
    return found != std::end(kTexts) ? found : nullptr;
}

/// The newline of the first line stays, so that line numbers are those of the file.
const char* lines_of(const Text& text) {
    return std::strchr(text.text, '\n');
}

PyObject* embedded_text(PyObject*, PyObject* name) {
    std::string_view wanted;
    if (!utf8_view(name, wanted)) return nullptr;
    const Text* text = find_text(wanted);
    if (text == nullptr) Py_RETURN_NONE;
    return PyUnicode_FromString(lines_of(*text));
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
    if (text == original || std::ranges::any_of(text, is_control)) return std::nullopt;
    return std::string(text);
}

}  // namespace

PyRef run_embedded(const char* name, PyRef names) {
    static PyObject* compiled[std::size(kTexts)];  // they live as long as Python does
    const Text* text = find_text(name);
    GCORN_CHECK(text != nullptr);
    PyObject*& code = compiled[text - kTexts];
    if (code == nullptr) {
        const std::string file = std::string("<gcorn ") + name + ">";
        code = Py_CompileString(lines_of(*text), file.c_str(), Py_file_input);
    }
    if (!names || code == nullptr ||
        PyDict_SetItemString(names.get(), "__builtins__", PyEval_GetBuiltins()) != 0 ||
        !PyRef::steal(PyEval_EvalCode(code, names.get(), names.get())))
        return {};
    return names;
}

PyRef name_in(const PyRef& names, const char* name) {
    return names ? PyRef::steal(PyMapping_GetItemString(names.get(), name)) : PyRef();
}

bool install_gunicorn_stub() {
    if (is_imported("_gcorn_finder")) return true;
    if (!add_native(kEmbeddedText, &kEmbeddedText)) return false;
    PyObject* module = PyImport_AddModule("_gcorn_finder");  // borrowed
    if (module == nullptr) return false;
    return static_cast<bool>(run_embedded("finder", PyRef::borrow(PyModule_GetDict(module))));
}

PyRef embedded_module(const char* name) {
    if (!install_gunicorn_stub()) return {};
    return import(name);
}

bool is_imported(const char* name) {
    PyObject* modules = PyImport_GetModuleDict();  // borrowed
    return PyDict_GetItemString(modules, name) != nullptr;
}

bool add_to_natives(const char* name, const PyRef& value) {
    PyObject* module = value ? PyImport_AddModule("_gcorn_native") : nullptr;  // borrowed
    return module != nullptr && PyObject_SetAttrString(module, name, value.get()) == 0;
}

bool add_native(PyMethodDef& definition, void* self) {
    return add_to_natives(definition.ml_name, native_function(definition, self));
}

std::optional<std::string> patched_server_name() {
    WithGil gil;
    PyObject* modules = PyImport_GetModuleDict();  // borrowed, as is what it holds
    if (PyObject* answers = PyDict_GetItemString(modules, "gunicorn.http.wsgi"))
        if (auto server = changed_text(answers, "SERVER", "gunicorn")) return server;
    PyObject* module = PyDict_GetItemString(modules, "gunicorn");
    if (module == nullptr) return std::nullopt;
    if (auto server = changed_text(module, "SERVER", "gunicorn")) return server;
    const auto version = changed_text(module, "__version__", "");
    return changed_text(module, "SERVER_SOFTWARE", "gunicorn/" + version.value_or(""));
}

}  // namespace gcorn
