// The embedded Python texts: bridge.py (module `_gcorn`) and gunicorn_stub.py, the stand-in for the
// package `gunicorn` that config files import.
//
// The stand-in is found only where no real package is (its finder is last on sys.meta_path) and offers
// what config files really use; anything else fails with a sentence that says so. Both texts are
// compiled on first use: a server without config file, hooks and logging never pays for them.
#pragma once

#include "python/pyref.h"

#include <optional>
#include <string>

namespace gcorn {

/// Makes `import gunicorn` work. Once, after the interpreter started. GIL held. Raises.
[[nodiscard]] bool install_gunicorn_stub();

/// The module `_gcorn`; borrowed, lives as long as the interpreter. GIL held. Raises.
[[nodiscard]] PyObject* bridge_module();

/// What the config file made of gunicorn.SERVER, or else of gunicorn.SERVER_SOFTWARE: the value for
/// the Server field ("" leaves it out); nullopt if it changed neither. Takes the GIL.
[[nodiscard]] std::optional<std::string> patched_server_name();

}  // namespace gcorn
