R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""What hub.py needs of eventlet; see gevent_hub.py."""

import eventlet
from eventlet import hubs, sleep, spawn
from eventlet.greenthread import GreenThread
from eventlet.semaphore import Semaphore


def patch(is_worker):
    eventlet.monkey_patch()
    if is_worker:  # before the application or a hook can start greenlets
        hubs.use_hub()  # not one made before the fork


def start(run):
    GreenThread(hubs.get_hub().greenlet).switch(run, (), {})


def end_calls():
    pass  # as in gunicorn's worker


def watch(fd, callback):
    hub = hubs.get_hub()
    listener = hub.add(hub.READ, fd, callback, callback, None)
    return lambda: hub.remove(listener)
# )PY"
