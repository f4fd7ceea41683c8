R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""What hub.py needs of gevent.

patch(is_worker), sleep(seconds), spawn(function), Semaphore, start(run) (starts a greenlet at once;
called in the hub) and watch(fd, callback), which returns a function that ends the watching.
"""

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


def start(run):
    Greenlet(run).switch()


def watch(fd, callback):
    watcher = gevent.get_hub().loop.io(fd, 1)
    watcher.start(callback)
    def end():
        watcher.stop()
        watcher.close()
    return end
# )PY"
