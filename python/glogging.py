R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""The module `_gcorn_logging`: loggers gunicorn.error and gunicorn.access, and the logger class.

`import gunicorn.glogging` finds these names where no real gunicorn is installed. While C++ writes
the logs (is_native), both loggers have one handler that leads back to it; with logconfig* or a
user's logger_class, Python's own handlers are set up as in gunicorn.
"""

import collections
import functools
import logging
import os
import sys
import threading
import time
import traceback

import _gcorn
import _gcorn_native as native

_current = None   # the Logger in use
_installed = []   # (logger, its handlers, its filters) that the last configure() added

# Keyed by their names in the logger class.
FORMATS = {"error_fmt": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
           "datefmt": "[%Y-%m-%d %H:%M:%S %z]",
           "access_fmt": "%(message)s",
           "syslog_fmt": "[%(process)d] %(message)s"}
CONFIG_DEFAULTS = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": ["console"]},
    # Deviation: gunicorn's defaults also propagate to the root logger, which prints every line twice.
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["error_console"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": False},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "generic",
                    "stream": "ext://sys.stdout"},
        "error_console": {"class": "logging.StreamHandler", "formatter": "generic",
                          "stream": "ext://sys.stderr"},
    },
    "formatters": {
        "generic": {"class": "logging.Formatter", "format": FORMATS["error_fmt"],
                    "datefmt": FORMATS["datefmt"]},
    },
}
DEFAULT_FORMATTER = logging.Formatter(FORMATS["error_fmt"], FORMATS["datefmt"])


class NativeStream:
    """The `stream` of NativeHandler: text written here goes to the same file, without a prefix."""

    def __init__(self, write):
        self.write = write

    def flush(self):
        pass

    def isatty(self):
        return os.isatty(self.fileno())

    def fileno(self):
        return native.error_fd()


class NativeHandler(logging.Handler):
    """Hands records to C++, which writes them where errorlog and accesslog say.

    Without a formatter the line gets the error log's own format (text or JSON). With one (set by an
    application that borrows this handler) the formatter's output is written as it is, and so are
    records below loglevel: like gunicorn's, this handler leaves levels to the loggers.
    """

    def __init__(self, is_access):
        super().__init__()
        self.is_access = is_access
        self.stream = NativeStream(native.write_access if is_access else native.write_raw)

    def emit(self, record):
        try:
            if self.is_access:
                native.write_access(self.format(record))
            elif self.formatter or not native.write(record.levelno, self.format(record)):
                native.write_raw((self.formatter or DEFAULT_FORMATTER).format(record))
        except Exception:
            self.handleError(record)


class SafeAtoms(dict):
    """Access atoms: a missing one is "-", {Name}x is looked up in lower case, values are escaped."""

    def __init__(self, atoms):
        super().__init__((key, _escape(value) if isinstance(value, str) else value)
                         for key, value in atoms.items())

    def __getitem__(self, key):
        return self.get(key.lower() if key.startswith("{") else key, "-")


def _escape(text):
    # Deviation: gunicorn escapes only the quote, which lets a client forge lines.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
                   ).replace('"', '\\"')


class Logger:
    """The logger class: what `server.log` and `worker.log` are, and what logger_class subclasses.

    A subclass may override setup(cfg), access(resp, req, environ, request_time), atoms(the same),
    now() and the methods named like levels.
    """

    LOG_LEVELS = {"critical": logging.CRITICAL, "error": logging.ERROR, "warning": logging.WARNING,
                  "info": logging.INFO, "debug": logging.DEBUG}
    loglevel = logging.INFO
    vars().update(FORMATS)
    atoms_wrapper_class = SafeAtoms

    def __init__(self, cfg):
        self.cfg = cfg
        self.error_log = logging.getLogger("gunicorn.error")
        self.access_log = logging.getLogger("gunicorn.access")
        self.error_log.propagate = self.access_log.propagate = False
        self.error_handlers, self.access_handlers = [], []
        self.logfile = None
        self.lock = threading.Lock()
        self.setup(cfg)

    def setup(self, cfg):
        self.loglevel = self.LOG_LEVELS.get(cfg.loglevel.lower(), logging.INFO)
        self.error_log.setLevel(self.loglevel)
        self.access_log.setLevel(logging.INFO)
        if is_native(cfg):
            self._install(self.error_log, NativeHandler(is_access=False))
            self._install(self.access_log, NativeHandler(is_access=True))
            return
        self._set_handler(self.error_log, cfg.errorlog,
                          logging.Formatter(self.error_fmt, self.datefmt))
        self._set_handler(self.access_log, cfg.accesslog, logging.Formatter(self.access_fmt),
                          sys.stdout)
        if _logconfig(cfg):
            _apply_logconfig(cfg)

    def critical(self, msg, *args, **kwargs):
        self.error_log.critical(msg, *args, **kwargs)

    def error(self, msg, *args, **kwargs):
        self.error_log.error(msg, *args, **kwargs)

    def warning(self, msg, *args, **kwargs):
        self.error_log.warning(msg, *args, **kwargs)

    def info(self, msg, *args, **kwargs):
        self.error_log.info(msg, *args, **kwargs)

    def debug(self, msg, *args, **kwargs):
        self.error_log.debug(msg, *args, **kwargs)

    def exception(self, msg, *args, **kwargs):
        self.error_log.exception(msg, *args, **kwargs)

    def log(self, lvl, msg, *args, **kwargs):
        if isinstance(lvl, str):
            lvl = self.LOG_LEVELS.get(lvl.lower(), logging.INFO)
        self.error_log.log(lvl, msg, *args, **kwargs)

    def access(self, resp, req, environ, request_time):
        """One access record. request_time: a timedelta."""
        if self.cfg.accesslog or _logconfig(self.cfg):
            atoms = self.atoms_wrapper_class(self.atoms(resp, req, environ, request_time))
            self.access_log.info(self.cfg.access_log_format, atoms)

    def atoms(self, resp, req, environ, request_time):
        microseconds = request_time.seconds * 1000000 + request_time.microseconds
        request_line = (environ["REQUEST_METHOD"], environ["RAW_URI"], environ["SERVER_PROTOCOL"])
        atoms = {
            "h": environ.get("REMOTE_ADDR", "-"),
            "l": "-",
            "u": self._get_user(environ) or "-",
            "t": self.now(),
            "r": " ".join(request_line),
            "s": str(resp.status).split(None, 1)[0],
            "m": environ.get("REQUEST_METHOD"),
            "U": environ.get("PATH_INFO"),
            "q": environ.get("QUERY_STRING"),
            "H": environ.get("SERVER_PROTOCOL"),
            "b": str(resp.sent),
            "B": resp.sent,
            "f": environ.get("HTTP_REFERER", "-"),
            "a": environ.get("HTTP_USER_AGENT", "-"),
            "T": request_time.seconds,
            "M": microseconds // 1000,
            "D": microseconds,
            "L": "%d.%06d" % (request_time.seconds, request_time.microseconds),
            "p": "<%d>" % os.getpid(),
        }
        for kind, pairs in (("i", req.headers), ("o", resp.headers), ("e", environ.items())):
            atoms.update(("{%s}%s" % (name.lower(), kind), value) for name, value in pairs)
        return atoms

    def now(self):
        return time.strftime("[%d/%b/%Y:%H:%M:%S %z]")

    def reopen_files(self):
        """Reopens every file handler's file by its path, after a log rotation."""
        for log in _all_loggers():
            for handler in log.handlers:
                if isinstance(handler, logging.FileHandler):
                    with handler.lock:
                        if handler.stream:
                            handler.close()
                            handler.stream = handler._open()

    def close_on_exec(self):
        pass  # Python opens all files that way

    def _get_user(self, environ):
        scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        import base64
        try:
            return base64.b64decode(credentials.strip()).decode().partition(":")[0]
        except ValueError:
            return None

    def _get_gunicorn_handler(self, log):  # subclasses give it a formatter of their own
        return next((h for h in log.handlers if getattr(h, "_gunicorn", False)), None)

    def _install(self, log, handler):
        handler._gunicorn = True
        log.removeHandler(self._get_gunicorn_handler(log))
        log.addHandler(handler)

    def _set_handler(self, log, output, fmt, stream=None):
        if output is None:
            return
        if output == "-":
            handler = logging.StreamHandler(stream)
        else:
            handler = logging.FileHandler(output)
            try:  # workers reopen it as their own user after a rotation
                os.chown(handler.baseFilename, self.cfg.user, self.cfg.group)
            except OSError:
                pass  # not root, or not a file one may own (/dev/null)
        handler.setFormatter(fmt)
        self._install(log, handler)


def is_native(cfg):
    """C++ writes the logs, not Python's logging."""
    return not (cfg.logger_class or _logconfig(cfg))


def _logconfig(cfg):
    """The setting that configures Python's logging, dict before JSON before ini; None if none does."""
    names = "logconfig_dict", "logconfig_json", "logconfig"
    return next((name for name in names if getattr(cfg, name)), None)


def _apply_logconfig(cfg):
    """Raises RuntimeError with a sentence that names the setting."""
    import logging.config
    name = _logconfig(cfg)
    value = getattr(cfg, name)
    if name != "logconfig_dict" and not os.path.exists(value):
        raise RuntimeError(f"{name}: log config {value!r} not found")
    try:
        if name == "logconfig":
            # Absolute, unlike gunicorn's: with a relative file, %(here)s/log would be /log.
            path = os.path.abspath(value)
            defaults = {"__file__": path, "here": os.path.dirname(path)}
            logging.config.fileConfig(
                value, {key: text.replace("%", "%%") for key, text in defaults.items()},
                disable_existing_loggers=False)
            return
        if name == "logconfig_json":
            import json
            with open(value, encoding="utf-8") as file:
                value = json.load(file)
        logging.config.dictConfig({**CONFIG_DEFAULTS, **value})
    except Exception as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        # On one line: configparser's messages have several.
        raise RuntimeError(" ".join(f"{name}: {error}{cause}".split())) from error


def _all_loggers():
    known = list(logging.root.manager.loggerDict.values())  # threads may add loggers meanwhile
    return [logging.root, *(log for log in known if isinstance(log, logging.Logger))]


def _state(log):
    return log.handlers[:], log.filters[:], log.level, log.propagate, log.disabled


def _restore(log, state):
    log.handlers[:], log.filters[:], level, log.propagate, log.disabled = state
    log.setLevel(level)


def configure():
    """Sets the loggers up as the settings say; raises, and leaves them as they were, if that fails."""
    global _current, _installed
    cfg = _gcorn.config()
    before = {log: _state(log) for log in _all_loggers()}
    # What a preloaded application has changed stays: it is not loaded again.
    kept = {log: _state(log) for log in _changed()} if is_native(cfg) else {}
    try:
        for log, handlers, filters in _installed:
            log.handlers[:] = [h for h in log.handlers if h not in handlers]
            log.filters[:] = [f for f in log.filters if f not in filters]
        clean = {log: _state(log) for log in _all_loggers()}
        made = logger_class(cfg)(cfg)
        for log, state in kept.items():
            _restore(log, state)
        _add_atoms(made)
        if cfg.syslog:
            _drop_syslog_handlers()
    except BaseException:
        for log, state in before.items():
            _restore(log, state)
        raise
    in_use = {handler for log in _all_loggers() for handler in log.handlers}
    for handler in {h for _, handlers, _ in _installed for h in handlers} - in_use:
        handler.close()  # else its file would stay open; a handler still in use reopens it
    _installed = []
    for log in _all_loggers():
        handlers, filters = clean.get(log, ((), ()))[:2]
        _installed.append((log, [h for h in log.handlers if h not in handlers],
                           [f for f in log.filters if f not in filters]))
    _current = made


def _changed():
    """Those of our two loggers that somebody has given a handler, filter, formatter or level, or has
    silenced."""
    if _current is None or not is_native(_current.cfg):
        return []
    error, access = _current.error_log, _current.access_log
    return [log for log, other, level in ((error, access, _current.loglevel),
                                          (access, error, logging.INFO))
            if not _is_as_made(log, level) or _is_silenced(log, other)]


def _is_silenced(log, other):
    """Disabled by its name: a logging configuration that leaves it out would have disabled the other
    one as well, or have given it new handlers."""
    return (log.disabled and not other.disabled
            and any(type(handler) is NativeHandler for handler in other.handlers))


def _is_as_made(log, level):
    handler = log.handlers[0] if len(log.handlers) == 1 else None
    return (type(handler) is NativeHandler and log.level == level
            and not (log.filters or log.propagate)
            and not (handler.filters or handler.formatter or handler.level))


def is_changed():
    """True if there are such loggers. Then the other one works, even if it is disabled.

    (A logging configuration disables the loggers that it does not name.)
    """
    changed = _changed()
    if changed:
        for log in {_current.error_log, _current.access_log}.difference(changed):
            log.disabled = False
    return bool(changed)


def _add_atoms(logger):
    """%(A)s and %(Q)s, for every logger class that makes the atoms in a method `atoms`."""
    atoms = getattr(logger, "atoms", None)
    if atoms is None:
        return

    def with_times(resp, *rest, **named):
        times = {"A": getattr(resp, "app_us", "-"), "Q": getattr(resp, "queue_us", "-")}
        return {**times, **atoms(resp, *rest, **named)}
    logger.atoms = with_times


def _drop_syslog_handlers():
    """A subclass of the real gunicorn's Logger, if that is installed, brings its own syslog
    handler; but C++ already sends the server's records there, so each would arrive twice."""
    for log in map(logging.getLogger, ("gunicorn.error", "gunicorn.access")):
        for handler in log.handlers[:]:
            if getattr(handler, "_gunicorn", False) and hasattr(handler, "facility"):
                log.removeHandler(handler)
                handler.close()


def patched_class():
    """The logger_class to use if a config file patched gunicorn.glogging.Logger; else None."""
    logger = sys.modules["gunicorn.glogging"].Logger
    own = logger.__module__
    if (all(getattr(logger, name, text) == text for name, text in FORMATS.items())
            and all(getattr(value, "__module__", own) == own for value in vars(logger).values())):
        return None
    return type("Logger", (logger,), {"__module__": "__config__"})  # named as if it were the user's


def logger_class(cfg):
    """What makes the logger. Raises RuntimeError with a sentence."""
    wanted = cfg.logger_class or Logger
    if isinstance(wanted, str):
        try:
            wanted = _gcorn.import_object(wanted)
        except TypeError as error:
            raise RuntimeError(f"logger_class: {error}") from None
    if not callable(getattr(wanted, "access", None)):
        raise RuntimeError(f"logger_class: {wanted!r} is not a subclass of gunicorn.glogging.Logger")
    return wanted


def current():
    if _current is None:
        configure()
    return _current


def record(level, message, error):
    """A record of the server, while Python's logging has taken over; error: an exception or None."""
    if error is None:
        getattr(_current, level)(message)
    else:
        getattr(_current, "exception" if level == "error" else level)(message, exc_info=error)


def access(resp, req, environ, microseconds):
    from datetime import timedelta
    _current.access(resp, req, environ, timedelta(microseconds=microseconds))


def refused(resp, req, address, protocol, microseconds):
    """The access record of a request that had no environ; what could not be parsed is empty."""
    from urllib.parse import unquote_to_bytes
    environ = {
        "REQUEST_METHOD": req.method, "RAW_URI": req.uri, "QUERY_STRING": req.query,
        "PATH_INFO": unquote_to_bytes(req.path.encode("latin-1")).decode("latin-1"),
        "SERVER_PROTOCOL": protocol, "REMOTE_ADDR": address,
    }
    environ.update(("HTTP_" + name.replace("-", "_"), value) for name, value in req.headers)
    access(resp, req, environ, microseconds)


# Records from threads beside a hub of greenlets: there the patched locks of Python's logging would
# wait in a hub of that thread. So a greenlet of the hub writes them (hub.py).
_left = collections.deque()
_LEFT_MAX = 1000
_lost = 0


def _leave(function, *arguments):
    global _lost
    if len(_left) < _LEFT_MAX:
        _left.append((function, arguments))
    else:
        _lost += 1


record_in_hub = functools.partial(_leave, record)
refused_in_hub = functools.partial(_leave, refused)


def is_left():
    return bool(_left or _lost)


def write_left():
    """Writes one record that was left to the hub; False if there was none."""
    global _lost
    if _left:
        function, arguments = _left.popleft()
    elif _lost:
        lost, _lost = _lost, 0
        function = record
        arguments = "warning", f"{lost} log records were lost: Python's logging is too slow", None
    else:
        return False
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()
    return True
# )PY"
