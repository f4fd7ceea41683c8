R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""What a greenlet worker does in its hub, with the names that gevent_hub.py or eventlet_hub.py adds."""

import os
import sys


# What each worker class needs: packages, and the oldest versions that are known to work.
PACKAGES = {
    "gevent": [("gevent", 20, 9)],
    "gevent_websocket": [("gevent", 20, 9), ("gevent-websocket", 0, 10)],
    "eventlet": [("eventlet", 0, 30)],
}


def refusal(worker_class):
    """Why that class cannot be used; None if it can."""
    for package, *least in PACKAGES[worker_class]:
        wanted = "%s %d.%d or newer" % (package, *least)
        hint = f": install python3-{package} (Debian, Ubuntu), or run 'pip install {package}'"
        name = package.replace("-", "")
        try:
            module = __import__(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                return f"needs the package {wanted}{hint}"
            raise
        parts = module.__version__.split(".") if hasattr(module, "__version__") else module.VERSION
        found = list(map(int, parts[:2]))
        if found < least:
            return "needs %s, found %d.%d" % (wanted, *found) + hint
    return None


def serve(fd, on_ready, look, tend):
    """Runs the worker; fd is readable while requests wait, which on_ready() then starts.

    tend() returns the seconds to its next call, or a negative number when the worker is done. The
    semaphore `look` is released if it has to be called at once.
    """
    is_writing, pid = False, os.getpid()
    records = sys.modules.get("_gcorn_logging")  # if Python's logging has taken over
    def write_records():
        nonlocal is_writing
        while records.write_left():
            sleep(0)
        is_writing = False
    end = watch(fd, on_ready)
    try:
        seconds = tend()
        while seconds >= 0:
            look.acquire(timeout=seconds)
            seconds = tend()
            if records and records.is_left() and not is_writing:
                is_writing = True
                spawn(write_records)
    finally:
        if os.getpid() == pid:  # else a child forked by the application, which may share our poller
            end()
            while records and records.write_left():
                pass
# )PY"
