R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""What hub.py needs of gevent.

patch(is_worker), sleep(seconds), spawn(function), Semaphore, start(run) (starts a greenlet at once;
called in the hub), watch(fd, callback), which returns a function that ends the watching, and
end_calls(), which makes the greenlets that start() started and that still run clean up.
"""

import gc
import os

import gevent
import gevent.events  # most of the library's memory, which patch_all() would load in every worker
from gevent import Greenlet, monkey, sleep, spawn
from gevent.lock import Semaphore


def patch(is_worker):
    monkey.patch_all()
    gevent.reinit()  # a hub made before the fork
    if is_worker:
        # gevent listens for children only after its first fork, whose child may have ended by then.
        os.register_at_fork(before=gevent.get_hub().loop.install_sigchld)


class Call(Greenlet):
    """A greenlet of the server's, not of the application's."""


def start(run):
    Call(run).switch()


def end_calls():
    # Found only now, because keeping account of them would cost every request. The arbiter kills
    # half a second after the graceful timeout.
    calls = [thing for thing in gc.get_objects() if type(thing) is Call]
    gevent.killall(calls, block=False)
    gevent.joinall(calls, timeout=0.2)


def watch(fd, callback):
    watcher = gevent.get_hub().loop.io(fd, 1)
    watcher.start(callback)
    def end():
        watcher.stop()
        watcher.close()
    return end
# )PY"
