// The config file, which is Python: settings → (name, Value), and back again as the `cfg` object.
//
// Runs a file (or an importable module) in the interpreter and hands over every module-level name
// that is exactly a setting's name; what a value means, and whether it is allowed, is Config's
// business. By itself it refuses only a file that cannot be read or raises, and a hook that cannot
// be called with its arguments. Arbiter's main thread only, at start and on HUP; every function
// takes the GIL.
#pragma once

#include "python/pyref.h"

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "config.h"

namespace gcorn {

/// What a config file says.
struct ConfigFile {
    std::vector<std::pair<std::string, Value>> values;  ///< in the order of the file
    /// Whole sentences for the operator: a name within one edit of a setting, a file not named .py,
    /// a patch of the stand-in `gunicorn` module that has no effect.
    std::vector<std::string> warnings;
};

/// Executes `location`: PATH, file:PATH (both as module `__config__`) or python:dotted.module.
///
/// location    as given with -c; a relative PATH is relative to `directory`.
/// directory   where the server was started; goes first on sys.path, so that the file can import
///             its neighbours. Taken before --chdir applies.
/// Nothing is cached: every call runs the file's current text, and no .pyc is written beside it.
/// Error: the file does not exist ("'x' doesn't exist"), or "Failed to read config file: <path>",
/// a newline and the traceback without gcorn's own frames; or the one sentence about a bad hook. A
/// file that calls sys.exit() fails with its text, and with its status as the Error's code; else
/// the code is 1.
[[nodiscard]] Result<ConfigFile> load_config_file(const std::string& location,
                                                  const std::string& directory);

/// A handle on `object` for Config, dropped under the GIL, or not at all once the interpreter is
/// gone. GIL held.
[[nodiscard]] HookRef make_hook_ref(PyObject* object, std::string name);

/// The object of such a handle; null if there is none. GIL held.
[[nodiscard]] inline PyRef object_of(const HookRef& hook) {
    return PyRef::borrow(static_cast<PyObject*>(hook.object.get()));
}

/// The settings as Python sees them: the `cfg` of hooks, an object with one attribute per setting,
/// of the type a gunicorn config file would give it. A copy: it does not follow later changes. GIL
/// held. Raises.
[[nodiscard]] PyRef make_config_view(const Config& cfg);

/// What --help=FORM prints, one of kHelpForms. Takes the GIL.
[[nodiscard]] Result<std::string> help_in_form(const std::string& form);

}  // namespace gcorn
