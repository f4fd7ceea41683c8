R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""gcorn's Python side of the config file and of the hooks: the module `_gcorn`.

Imported on first need (embedded.cpp). `native` holds functions written in C++: config and write… in
logging.cpp, the others in hooks.cpp.
"""

import io
import os
import sys

import _gcorn_native as native


# --- config file ---------------------------------------------------------------------------------

def run_config(location, directory, settings):
    """Executes a config file; returns (its names, warnings, None, 0). settings: the names that count.

    On failure: (None, None, lines of the error message, exit status). The message is followed by
    the traceback if the user's code raised.
    """
    if directory not in sys.path:
        sys.path.insert(0, directory)
    path, warnings = location.removeprefix("file:"), []
    is_module = location.startswith("python:")
    if not is_module:
        full_path = os.path.join(directory, path)
        if not os.path.exists(full_path):
            return None, None, [f"{path!r} doesn't exist"], 1
        if os.path.isdir(full_path):
            return None, None, [f"{path!r} is a directory"], 1
        if not path.endswith((".py", ".pyc")):
            warnings.append(f"config file {path} is executed as Python although it is not named .py")
    pid = os.getpid()
    try:
        names = _import_afresh(location[len("python:"):]) if is_module else _run_file(full_path)
        _import_lazy(names, settings)
        if "gunicorn.glogging" in sys.modules and not names.get("logger_class"):
            import _gcorn_logging
            names["logger_class"] = _gcorn_logging.patched_class()
    except BaseException as error:
        if os.getpid() != pid:  # a child that the file forked; load_config_file() ends it
            raise
        if isinstance(error, SystemExit):
            # Nothing is served, so 0 would be wrong; the system keeps only 8 bits of a number.
            status = (error.code if isinstance(error.code, int) else 1) & 0xFF or 1
            return None, None, [f"config file {path} called sys.exit({error.code!r})"], status
        return None, None, [f"Failed to read config file: {path}\n", *error_lines(error)], 1
    stand_in = sys.modules.get("_gcorn_stand_in")
    return names, warnings + (stand_in.take_useless_patches() if stand_in else []), None, 0


def _run_file(path):
    # Not through a loader: it would write __pycache__ beside the file, and on HUP could take an old
    # .pyc of the same second for the file's current text.
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
    previous = sys.modules.pop(name, None)  # HUP wants the current text of the file
    try:
        __import__(name)
    except BaseException:
        if previous is not None:
            sys.modules[name] = previous
        raise
    return dict(sys.modules[name].__dict__)


def _import_lazy(names, settings):
    """Resolves values of settings that are lazy imports (Python 3.15)."""
    if sys.version_info >= (3, 15):
        from types import LazyImportType
        for name in settings:
            value = names.get(name)
            if isinstance(value, LazyImportType):
                names[name] = value.resolve()


def check_hook(hook, arity):
    """A hook as C++ may call it, with exactly `arity` arguments; raises TypeError with a sentence."""
    if isinstance(hook, str):
        hook = import_object(hook)
    if not callable(hook):
        raise TypeError(f"Value is not callable: {hook!r}")
    if _takes(hook, arity):
        return hook
    if arity == 4:  # post_request first took (worker, req), later environ, then resp, too
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
    """True if `count` positional arguments can be passed, as far as one can tell."""
    code = getattr(function, "__code__", None)
    if type(function).__name__ == "method":
        count, code = count + 1, getattr(function.__func__, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):  # partial, class, decorated: the slow way
        from inspect import signature
        options = {"follow_wrapped": False}
        if sys.version_info >= (3, 14):  # else it evaluates names that only type checkers import
            from annotationlib import Format
            options["annotation_format"] = Format.STRING
        try:
            signature(function, **options).bind(*[None] * count)
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


def error_lines(error):
    """Traceback and exception, without gcorn's own frames at its start."""
    import traceback
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename.startswith("<gcorn"):
        trace = trace.tb_next
    return traceback.format_exception(type(error), error, trace)


# --- views ---------------------------------------------------------------------------------------

class View:
    """An object of the server as Python sees it; C++ fills its __dict__."""

    def __getattr__(self, name):  # only called for what is missing
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"gcorn's {self._kind} object has no {name!r}; it has "
            + ", ".join(sorted(self._own.union(n for n in dir(type(self)) if n[0] != "_"))))

    def __setattr__(self, name, value):
        if name in self._own or hasattr(type(self), name):
            raise AttributeError(f"{name!r} of gcorn's {self._kind} object is read-only")
        object.__setattr__(self, name, value)

    def __delattr__(self, name):
        self.__setattr__(name, None) if name in self._own else object.__delattr__(self, name)

    @property
    def log(self):
        """Made on first use, because `import logging` is slow and large."""
        import _gcorn_logging
        return _gcorn_logging.current()

    cfg = property(lambda self: config())
    _kind = property(lambda self: type(self).__name__.lower())


class Config(View):
    """All settings by name. worker_class is its name; unset texts are None."""

    def __init__(self, values):
        self.__dict__.update(values)
        self.__dict__["_own"] = frozenset(values)

    @property
    def settings(self):
        return {name: Setting(name, self.__dict__[name]) for name in sorted(self._own)}

    address = property(lambda self: [_address(text) for text in self.bind])
    is_ssl = property(lambda self: bool(self.certfile or self.keyfile))
    worker_class_str = property(lambda self: self.worker_class)
    uid = property(lambda self: self.user)
    gid = property(lambda self: self.group)
    env = property(lambda self: dict(pair.split("=", 1) for pair in self.raw_env))

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
    _own = frozenset("pid master_pid reexec_pid systemd num_workers worker_age WORKERS LISTENERS "
                     "proc_name START_CTX".split())

    address = property(lambda self: config().address)
    app = property(lambda self: Application())
    timeout = property(lambda self: config().timeout)
    worker_class = property(lambda self: WORKER_CLASSES[config().worker_class])
    master_name = property(lambda self: "Master.2" if self.master_pid else "Master")

    def kill_worker(self, pid, sig):
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            pass


class Worker(View):
    _kind = "worker"
    _own = frozenset("pid ppid age nr max_requests booted aborted sockets timeout".split())

    def __setattr__(self, name, value):
        if name != "alive":
            View.__setattr__(self, name, value)
        elif not value:
            if self.pid != os.getpid():
                raise AttributeError("worker.alive can only be set inside that worker")
            native.leave()

    alive = property(lambda self: self._alive)
    app = property(lambda self: Application())
    wsgi = property(lambda self: native.wsgi())
    tmp = property(lambda self: self)
    reloader = property(lambda self: Reloader() if config().reload else None)

    def notify(self):
        """Tells the arbiter that this worker is not stuck; for use in a long post_fork, say."""
        native.notify()

    def __str__(self):
        return f"<Worker {self.pid}>"


# Their names under gunicorn; a config file's worker_class may be one of the classes.
WORKER_CLASSES = {
    name: type(class_name, (Worker,), {"__module__": f"gunicorn.workers.{module}"})
    for name, module, class_name in (
        ("sync", "sync", "SyncWorker"), ("gthread", "gthread", "ThreadWorker"),
        ("gevent", "ggevent", "GeventWorker"), ("eventlet", "geventlet", "EventletWorker"),
        ("gevent_websocket", "ggevent", "GeventPyWSGIWorker"))}


class Reloader:
    def add_extra_file(self, filename):
        extra_files.append(os.path.abspath(filename))


class Application(View):
    """What server.app and worker.app are."""
    _own = frozenset()

    app_uri = property(lambda self: config().wsgi_app)
    callable = property(lambda self: native.wsgi())

    def wsgi(self):
        """The application. Loads it where that has not happened yet: in the arbiter, for all workers."""
        return native.load()


class Listener(View):
    """A listening socket; str() is its address as the log shows it."""
    _own = frozenset(("fd", "address"))

    def fileno(self):
        return self.fd

    def __getattr__(self, name):
        return super().__getattr__(name) if name.startswith("_") else getattr(self.sock, name)

    @property
    def sock(self):
        """A socket.socket of its own (the descriptor is duplicated)."""
        import socket
        return socket.socket(fileno=os.dup(self.fd))

    def __str__(self):
        return self.address


class Request(View):
    _own = frozenset("method uri path query fragment version headers trailers scheme peer_addr "
                     "proxy_protocol_info".split())

    @property
    def body(self):
        """A file over the whole body; reading it leaves the application's input untouched."""
        if "_body" not in vars(self):
            vars(self)["_body"] = io.BufferedReader(Body(self._exchange))
        return self._body

    remote_addr = property(lambda self: self.peer_addr)
    must_close = property(lambda self: self._should_close)
    limit_request_line = property(lambda self: config().limit_request_line)
    limit_request_fields = property(lambda self: config().limit_request_fields)
    limit_request_field_size = property(lambda self: config().limit_request_field_size)

    def should_close(self):
        return self._should_close


class Body(io.RawIOBase):
    def __init__(self, exchange):
        self.exchange, self.position = exchange, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        data = native.read_body(self.exchange, self.position, len(buffer))
        buffer[:len(data)] = data
        self.position += len(data)
        return len(data)


class Response(View):
    _own = frozenset("req status status_code headers response_length sent headers_sent chunked "
                     "must_close app_us queue_us".split())

    upgrade = property(lambda self: self.status_code == 101)

    def is_chunked(self):
        return self.chunked

    def should_close(self):
        return self.must_close


extra_files = []  # of this process; loader.py passes them to --reload
_config = None   # the Config view; C++ sets it to None when the configuration changed
_server = None
_workers = {}    # Worker views by age, which unlike a pid is known before the fork


def config():
    global _config
    if _config is None:
        _config = native.config()
    return _config


def make_config(values):
    """A Config view; some values take the form that they have in gunicorn's cfg."""
    values["user"] = _identity(values["user"], "pwd", "getpwnam", os.geteuid)
    values["group"] = _identity(values["group"], "grp", "getgrnam", os.getegid)
    for name in "forwarded_allow_ips", "proxy_allow_ips":
        values[name] = [item.strip() for item in (values[name] or "").split(",") if item.strip()]
    values["proc_name"] = values["proc_name"] or values["default_proc_name"]
    values["errorlog"] = values["errorlog"] or None
    if (values["ssl_version"] or "").isdigit():  # one of ssl.PROTOCOL_…, for ssl.SSLContext()
        values["ssl_version"] = int(values["ssl_version"])
    return Config(values)


def _identity(value, module, lookup, own):
    if not value:
        return own()
    return int(value) if value.isdigit() else getattr(__import__(module), lookup)(value)[2]


def views(server_facts, worker_facts):
    """The Server and Worker views, refreshed; None where there are no facts.

    Facts are what C++ knows, as dicts by attribute name. A worker's view stays the same object from
    pre_fork to child_exit, across the fork.
    """
    server = _refresh_server(server_facts, worker_facts) if server_facts else None
    return server, _refresh_worker(worker_facts) if worker_facts else None


def _refresh_server(facts, worker_facts):
    global _server
    start = {"args": facts.pop("args"), "cwd": facts.pop("cwd"), 0: facts.pop("executable")}
    if _server is None:
        _server = _set(Server(), {}, START_CTX=start)
    living = facts.pop("workers")
    ages = {fact["age"] for fact in living} | {worker_facts["age"] if worker_facts else None}
    for age in [age for age in _workers if age not in ages]:
        del _workers[age]
    workers = {fact["pid"]: _refresh_worker(fact) for fact in living}
    _set(_server, facts, WORKERS=workers, LISTENERS=_listeners(facts.pop("listeners")))
    return _server


def start_context():
    """What USR2 starts, as the pre_exec hook left it: directory, program, arguments."""
    start = _server.START_CTX
    return [os.fspath(item) for item in (start["cwd"], start[0], *start["args"])]


def _refresh_worker(facts):
    view = _workers.get(facts["age"])
    if view is None:
        view = _workers[facts["age"]] = WORKER_CLASSES[config().worker_class]()
        _set(view, {}, sockets=_listeners(facts["listeners"]), timeout=config().timeout / 2)
    del facts["listeners"]
    return _set(view, facts)


def _listeners(pairs):
    return [_set(Listener(), {}, fd=fd, address=address) for fd, address in pairs]


def request(facts):
    return _set(Request(), facts, _received=tuple(facts["headers"]))


def adjust(request, environ):
    """Applies to the environ what a pre_request hook changed in req.headers."""
    now = list(map(tuple, request.headers))
    for name in {name for name, _ in set(now) ^ set(request._received)}:
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        values = [value for other, value in now if other == name]
        if values:
            environ[key] = ",".join(values)
        else:
            environ.pop(key, None)


def response(facts):
    # "Name: value\r\n"…
    lines = facts["headers"].split("\r\n")[:-1]
    return _set(Response(), facts, headers=[tuple(line.split(": ", 1)) for line in lines])


def _set(view, facts, **more):
    vars(view).update(facts, **more)
    return view
# )PY"
