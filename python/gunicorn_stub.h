// The embedded Python texts and how they are imported: bridge.py (module `_gcorn`), glogging.py
// (`_gcorn_logging`), and gunicorn_stub.py, the stand-in for the package `gunicorn` that config
// files and applications import.
//
// The stand-in is found only where no real package is (its finder is last on sys.meta_path) and
// offers what config files really use; anything else fails with a sentence that says so. All texts
// are compiled on first use: a server without config file, hooks and logging never pays for them.
// Functions of C++ that the texts call live in the module `_gcorn_native`. GIL held in all
// functions but the last; once Python runs, on any thread.
#pragma once

#include "python/pyref.h"

#include <optional>
#include <string>

namespace gcorn {

/// Makes `import gunicorn` and the modules above work. Idempotent. Raises.
[[nodiscard]] bool install_gunicorn_stub();

/// import `name`, one of the embedded modules. Installs the finder if need be. Raises.
[[nodiscard]] PyRef embedded_module(const char* name);

/// True if sys.modules has `name`. Never raises.
[[nodiscard]] bool is_imported(const char* name);

/// Adds a native_function() to `_gcorn_native`. Raises.
[[nodiscard]] bool add_native(PyMethodDef& definition, void* self);

/// What the config file made of gunicorn.SERVER, or else of gunicorn.SERVER_SOFTWARE: the value for
/// the Server field ("" leaves it out). nullopt if it changed neither, or to what cannot stand in a
/// field (no str, control bytes). Takes the GIL.
[[nodiscard]] std::optional<std::string> patched_server_name();

}  // namespace gcorn
