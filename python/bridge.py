R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""gcorn's Python side of the config file and of the hooks: the module `_gcorn`.

Executed on first need (gunicorn_stub.cpp), before the first fork. C++ adds the functions it
implements: write, write_raw, write_access, error_fd (logging.cpp), notify, wsgi (hooks.cpp).
"""

import os
import signal
import sys

cfg = None      # the Config view of the running configuration
server = None   # the Server view
workers = {}    # Worker views by age, which unlike a pid is known before the fork

STAND_IN = "gcorn's stand-in for gunicorn"


# --- config file ---------------------------------------------------------------------------------

def run_config(location, directory):
    """Executes a config file; returns (its path, its names, warnings).

    A failure is raised as ConfigFailure: the sentence (with the traceback, if the user's code
    raised) and the exit status.
    """
    if directory not in sys.path:
        sys.path.insert(0, directory)
    warnings = []
    if location.startswith("python:"):
        path = location
        run = lambda: _import_afresh(location[len("python:"):])
    else:
        path = location[len("file:"):] if location.startswith("file:") else location
        full_path = os.path.join(directory, path)
        if not os.path.isfile(full_path):
            raise ConfigFailure(f"{path!r} doesn't exist", 1)
        if not path.endswith((".py", ".pyc")):
            warnings.append(f"config file {path} is executed as Python although it is not named .py")
        run = lambda: _run_file(full_path)
    try:
        names = run()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise ConfigFailure(f"config file {path} called sys.exit({stop.code!r})", status) from None
    except BaseException as error:
        raise ConfigFailure(f"Failed to read config file: {path}\n{format_error(error)}", 1) from None
    return path, names, warnings


class ConfigFailure(Exception):
    pass


def _run_file(path):
    # Not through a loader: it would write __pycache__ beside the file, and on HUP could take an old
    # .pyc of the same second for the file's present text.
    module = type(sys)("__config__")
    module.__file__ = path
    if path.endswith(".pyc"):
        from importlib.machinery import SourcelessFileLoader
        code = SourcelessFileLoader("__config__", path).get_code("__config__")
    else:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
    sys.modules["__config__"] = module
    exec(code, module.__dict__)
    return dict(module.__dict__)


def _import_afresh(name):
    previous = sys.modules.pop(name, None)  # HUP wants what the file says now
    try:
        __import__(name)
    except BaseException:
        if previous is not None:
            sys.modules[name] = previous
        raise
    return dict(sys.modules[name].__dict__)


def check_hook(hook, arity):
    """A hook as C++ may call it, with exactly `arity` arguments; raises TypeError with a sentence."""
    if isinstance(hook, str):
        hook = import_object(hook)
    if not callable(hook):
        raise TypeError(f"Value is not callable: {hook!r}")
    if _takes(hook, arity):
        return hook
    if arity == 4:  # post_request grew (worker, req), then environ, then resp
        if _takes(hook, 3):
            return lambda worker, req, environ, resp: hook(worker, req, environ)
        if _takes(hook, 2):
            return lambda worker, req, environ, resp: hook(worker, req)
    raise TypeError(f"Value must have an arity of: {arity}")


def import_object(path):
    """The object with the dotted name `path`; raises TypeError with a sentence."""
    module, dot, name = path.rpartition(".")
    if not dot:
        raise TypeError(f"{path!r} is not a dotted name: module.object")
    try:
        __import__(module)
        return getattr(sys.modules[module], name)
    except (ImportError, AttributeError) as error:
        raise TypeError(f"Cannot import {path!r}: {error}") from None


def _takes(function, count):
    """True if `count` positional arguments can be passed, as far as anybody can tell."""
    code = getattr(function, "__code__", None)
    if type(function).__name__ == "method":
        count, code = count + 1, getattr(function.__func__, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):  # partial, class, decorated: the slow way
        from inspect import signature
        try:
            signature(function, follow_wrapped=False).bind(*[None] * count)
        except TypeError:
            return False
        except ValueError:  # a builtin that hides its signature: the call will tell
            pass
        return True
    function = getattr(function, "__func__", function)
    keyword_only = code.co_varnames[code.co_argcount:code.co_argcount + code.co_kwonlyargcount]
    if any(name not in (function.__kwdefaults__ or ()) for name in keyword_only):
        return False
    least = code.co_argcount - len(function.__defaults__ or ())
    has_rest = code.co_flags & 0x04  # CO_VARARGS
    return least <= count and (has_rest or count <= code.co_argcount)


def format_error(error):
    """Traceback and exception as text, without gcorn's own frames at its start."""
    import traceback
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename.startswith("<gcorn"):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip("\n")


# --- views ---------------------------------------------------------------------------------------

class View:
    """An object of the server as Python sees it; C++ fills its __dict__."""

    def __getattr__(self, name):  # only called for what is missing
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"gcorn's {type(self).__name__.lower()} object has no {name!r}; it has "
            + ", ".join(sorted(self._own.union(n for n in vars(type(self)) if n[0] != "_"))))

    def __setattr__(self, name, value):
        if name in self._own or name in vars(type(self)):
            raise AttributeError(f"{name!r} of gcorn's {type(self).__name__.lower()} object is read-only")
        object.__setattr__(self, name, value)

    def __delattr__(self, name):
        self.__setattr__(name, None) if name in self._own else object.__delattr__(self, name)

    @property
    def log(self):
        return logger()


class Config(View):
    """All settings by name. worker_class is its name; unset texts are None."""

    def __init__(self, values):
        self.__dict__.update(values)
        self.__dict__["_own"] = frozenset(values)

    @property
    def settings(self):
        return {name: Setting(name, self.__dict__[name]) for name in sorted(self._own)}

    @property
    def address(self):
        return [_address(text) for text in self.bind]

    @property
    def is_ssl(self):
        return bool(self.certfile or self.keyfile)

    @property
    def worker_class_str(self):
        return self.worker_class

    @property
    def uid(self):
        return self.user

    @property
    def gid(self):
        return self.group

    @property
    def env(self):
        return dict(pair.split("=", 1) for pair in self.raw_env)

    def set(self, name, value):
        raise AttributeError(f"gcorn's settings cannot be changed once it runs ({name})")


class Setting:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def get(self):
        return self.value


def _address(text):
    if text.startswith("unix:"):
        return text[5:].removeprefix("//").partition("?")[0]
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    return (host.strip("[]") or "0.0.0.0", int(port)) if colon and port.isdigit() else text


class Server(View):
    """The arbiter."""
    _own = frozenset("pid address num_workers WORKERS LISTENERS proc_name cfg app worker_age".split())


class Worker(View):
    _own = frozenset("pid ppid age nr booted aborted cfg sockets timeout app".split())

    def __setattr__(self, name, value):
        if name != "alive":
            View.__setattr__(self, name, value)
        elif not value:
            if self.pid != os.getpid():
                raise AttributeError("worker.alive can only be set inside that worker")
            os.kill(self.pid, signal.SIGTERM)  # leave gracefully, by the one road there is

    @property
    def alive(self):
        return self._alive

    @property
    def wsgi(self):
        return wsgi()

    @property
    def tmp(self):
        return self

    def notify(self):
        """Tells the arbiter that this worker is not stuck, as a long post_fork may want to."""
        notify()

    def __str__(self):
        return f"<Worker {self.pid}>"


class Application(View):
    """What server.app and worker.app are."""
    _own = frozenset(("cfg", "app_uri"))

    def __init__(self, config):
        self.__dict__.update(cfg=config, app_uri=config.wsgi_app)

    def wsgi(self):
        return wsgi()

    @property
    def callable(self):
        return wsgi()


class Listener(View):
    """A listening socket; str() is its address as the log shows it."""
    _own = frozenset(("fd", "address", "cfg_addr"))

    def fileno(self):
        return self.fd

    def getsockname(self):
        return self.sock.getsockname()

    @property
    def sock(self):
        """A socket.socket of its own (the descriptor is duplicated)."""
        import socket
        return socket.socket(fileno=os.dup(self.fd))

    def __str__(self):
        return self.address


class Request(View):
    _own = frozenset("method uri path query fragment version headers body trailers scheme peer_addr "
                     "proxy_protocol_info".split())

    def should_close(self):
        return self._should_close


class Response(View):
    _own = frozenset("status status_code headers response_length sent headers_sent chunked "
                     "must_close".split())

    def is_chunked(self):
        return self.chunked

    def should_close(self):
        return self.must_close


def set_config(values):
    global cfg
    values["user"] = _identity(values["user"], "pwd", "getpwnam", 2, os.geteuid)
    values["group"] = _identity(values["group"], "grp", "getgrnam", 2, os.getegid)
    for name in "forwarded_allow_ips", "proxy_allow_ips":
        values[name] = [item.strip() for item in values[name].split(",") if item.strip()]
    cfg = Config(values)
    return cfg


def _identity(value, module, lookup, field, own):
    """gunicorn's cfg.user and cfg.group are numbers."""
    if value is None:
        return own()
    if value.isdigit():
        return int(value)
    return getattr(__import__(module), lookup)(value)[field]


def update_server(facts, worker_facts, listeners):
    """Refreshes and returns the Server view; `worker_facts` are those of its living workers."""
    global server
    if server is None:
        server = Server()
    living = {fact["age"] for fact in worker_facts}
    for age in [age for age in workers if age not in living]:
        del workers[age]
    views = [update_worker(fact, listeners) for fact in worker_facts]
    vars(server).update(facts, cfg=cfg, app=Application(cfg), LISTENERS=listeners,
                        WORKERS={view.pid: view for view in views})
    return server


def update_worker(facts, listeners):
    view = workers.get(facts["age"])
    if view is None:
        view = workers[facts["age"]] = Worker()
        vars(view).update(cfg=cfg, app=Application(cfg), sockets=listeners, timeout=cfg.timeout / 2)
    vars(view).update(facts)
    return view


def make_view(kind, facts):
    view = kind.__new__(kind)
    vars(view).update(facts)
    return view


def logger():
    """The `log` of hooks: made on first use, because `import logging` is slow and large."""
    from _gcorn_logging import current
    return current(cfg)
# )PY"
