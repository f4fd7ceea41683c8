R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""The modules of `gunicorn` where the real package is not installed: the module `_gcorn_stand_in`.

They offer what config files and applications import in practice, to patch, to subclass or to name in
an annotation. Everything else fails with a sentence that says so; a patch that has no effect here is
reported as a warning. SERVER and SERVER_SOFTWARE may be changed (patched_server_name()).
"""

import sys
from importlib.machinery import ModuleSpec

import _gcorn

VERSION = (26, 1, 0)  # the gunicorn whose settings, hooks and messages gcorn follows
VERSION_TEXT = ".".join(map(str, VERSION))
PATCHABLE = {"SERVER", "SERVER_SOFTWARE"}

_useless_patches = []  # sentences


class HaltServer(BaseException):
    """Raised by a hook: stop with this status."""

    def __init__(self, reason, exit_status=1):
        super().__init__(reason, exit_status)
        self.reason, self.exit_status = reason, exit_status

    def __str__(self):
        return f"<HaltServer {self.reason!r} {self.exit_status}>"


class ConfigError(Exception):
    pass


class AppImportError(Exception):
    pass


class BaseApplication:
    """To subclass; gcorn is started from a shell, not from Python."""

    def __init__(self, usage=None, prog=None):
        self.usage, self.prog = usage, prog

    def load_config(self):
        raise NotImplementedError

    def load(self):
        raise NotImplementedError

    def run(self):
        raise RuntimeError("gcorn cannot be started from Python: run `gcorn module:application`")


def _glogging():
    import _gcorn_logging as module
    return {name: getattr(module, name) for name in ("Logger", "SafeAtoms", "CONFIG_DEFAULTS")}


# What each module offers; a function where making that costs an import.
SERVER = {"SERVER": "gunicorn", "SERVER_SOFTWARE": f"gunicorn/{VERSION_TEXT}"}
MODULES = {
    "gunicorn": {**SERVER, "__version__": VERSION_TEXT, "version_info": VERSION},
    "gunicorn.app": {},
    "gunicorn.app.base": {"BaseApplication": BaseApplication, "Application": BaseApplication},
    "gunicorn.app.wsgiapp": {"WSGIApplication": BaseApplication},
    "gunicorn.arbiter": {"Arbiter": _gcorn.Server},
    "gunicorn.config": {"Config": _gcorn.Config},
    "gunicorn.errors": {"HaltServer": HaltServer, "ConfigError": ConfigError,
                        "AppImportError": AppImportError},
    "gunicorn.glogging": _glogging,
    "gunicorn.http": {"Request": _gcorn.Request},
    "gunicorn.http.message": {"Request": _gcorn.Request},
    "gunicorn.http.wsgi": {**SERVER, "Response": _gcorn.Response},
    "gunicorn.instrument": {},
    "gunicorn.instrument.statsd": lambda: {"Statsd": _glogging()["Logger"]},
    "gunicorn.util": {"import_app": _gcorn.import_object},
    "gunicorn.workers": {"SUPPORTED_WORKERS": dict.fromkeys(_gcorn.WORKER_CLASSES)},
    "gunicorn.workers.base": {"Worker": _gcorn.Worker},
    "gunicorn.workers.base_async": {"ALREADY_HANDLED": object()},
}
for _worker in _gcorn.WORKER_CLASSES.values():
    MODULES.setdefault(_worker.__module__, {})[_worker.__name__] = _worker


class StandIn(type(sys)):
    """One module of the package."""

    def __getattr__(self, name):  # only called for what is missing
        if f"{self.__name__}.{name}" in MODULES:  # gunicorn itself imports all its modules
            __import__(f"{self.__name__}.{name}")
            return self.__dict__[name]
        offers = ", ".join(n for n in self.__dict__ if not n.startswith("__")) or "nothing"
        raise AttributeError(f"{self.__spec__.origin} has no {self.__name__}.{name} (it has {offers})")

    def __setattr__(self, name, value):
        if name in self.__dict__ and name not in PATCHABLE and not name.startswith("__"):
            if self.__dict__[name] is not value:
                _useless_patches.append(f"replacing {self.__name__}.{name} has no effect in gcorn")
        super().__setattr__(name, value)


class Loader:
    @staticmethod
    def create_module(spec):
        return StandIn(spec.name)

    @staticmethod
    def exec_module(module):
        offers = MODULES[module.__name__]
        module.__dict__.update(offers() if callable(offers) else offers)


def take_useless_patches():
    """The config file's patches that have no effect, one sentence each, as warnings."""
    taken, _useless_patches[:] = _useless_patches[:], []
    return taken


def find_spec(name):
    package = sys.modules.get("gunicorn")
    if package is not None and not isinstance(package, StandIn):
        return None  # leave it to the real one
    origin = "gcorn's stand-in for the gunicorn package, which is not installed,"
    if name not in MODULES:
        raise ModuleNotFoundError(f"{origin} has no module {name}", name=name)
    is_package = any(other.startswith(name + ".") for other in MODULES)
    spec = ModuleSpec(name, Loader, origin=origin, is_package=is_package)
    # Makes Python name the origin at the end of the error for `from gunicorn.x import missing`.
    spec.has_location = True
    return spec
# )PY"
