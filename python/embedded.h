// The Python texts that gcorn carries, the files python/*.py, and how they are run.
//
// Modules, imported on first need: bridge.py (`_gcorn`), glogging.py (`_gcorn_logging`), client.py
// (`_gcorn_client`), client_socket.py, streams.py and gunicorn_stub.py (`_gcorn_stand_in`), the
// stand-in for the package `gunicorn` that config files and applications import. It is found only
// where no real package is (finder.py is last on sys.meta_path) and offers what config files really
// use; anything else fails with a sentence that says so. A server without config file, hooks and
// logging pays for client_socket.py and streams.py only. C++ functions that the modules call are in
// `_gcorn_native`.
//
// The other texts are no modules: their users run them and take names from them. In tracebacks the
// file of a text is "<gcorn NAME>". GIL held in all functions but the last; once Python runs, on
// any thread.
#pragma once

#include "python/pyref.h"

#include <optional>
#include <string>

namespace gcorn {

/// Runs python/NAME.py, which is no module, in the dict `names` and returns that; null if `names`
/// is null. The text is compiled once per process and its children. Raises.
[[nodiscard]] PyRef run_embedded(const char* name, PyRef names = PyRef::steal(PyDict_New()));
/// The value of one of those names; null if `names` is null. Raises, unless it is.
[[nodiscard]] PyRef name_in(const PyRef& names, const char* name);

/// Makes `import gunicorn` and the modules above work. Idempotent. Raises.
[[nodiscard]] bool install_gunicorn_stub();

/// import `name`, one of the modules. Installs the finder if need be. Raises.
[[nodiscard]] PyRef embedded_module(const char* name);

/// Calls a module's function; null if an argument (a PyRef) is null. Raises.
template <typename... Arguments>
[[nodiscard]] PyRef call_embedded(const char* module, const char* function,
                                  const Arguments&... arguments) {
    if (!(arguments && ...)) return {};
    const PyRef imported = embedded_module(module);
    return imported ? call_object(attribute(imported.get(), function), arguments...) : PyRef();
}

/// True if sys.modules has `name`. Never raises.
[[nodiscard]] bool is_imported(const char* name);

/// Sets an attribute of `_gcorn_native`. Raises.
[[nodiscard]] bool add_to_natives(const char* name, const PyRef& value);

/// Adds a native_function() to it. Raises.
[[nodiscard]] bool add_native(PyMethodDef& definition, void* self);

/// What the config file made of gunicorn.http.wsgi.SERVER, or else of gunicorn.SERVER, or else of
/// gunicorn.SERVER_SOFTWARE: the value for the Server field ("" leaves it out). nullopt if it
/// changed none of them, or to what no field can hold (not a str, control bytes). Takes the GIL.
[[nodiscard]] std::optional<std::string> patched_server_name();

}  // namespace gcorn
