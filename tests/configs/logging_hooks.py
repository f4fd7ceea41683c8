# Hooks that log what happens, the longer kind of example configuration.
import os
import threading
import traceback
import sys

bind = ["0.0.0.0:8000", "unix:/tmp/example.sock"]
backlog = 2048
workers = 2
timeout = 30
keepalive = 2
spew = False
daemon = False
raw_env = ["DJANGO_SECRET_KEY=something", "SPAM=eggs"]
pidfile = None
umask = 0
user = None
group = None
tmp_upload_dir = None
errorlog = "-"
loglevel = "info"
accesslog = "-"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
proc_name = None


def on_starting(server):
    server.log.info("starting on %s", server.address)


def when_ready(server):
    server.log.info("Server is ready. Spawning workers")


def pre_fork(server, worker):
    pass


def post_fork(server, worker):
    server.log.info("Worker spawned (pid: %s)", worker.pid)


def pre_exec(server):
    server.log.info("Forked child, re-executing.")


def worker_int(worker):
    worker.log.info("worker received INT or QUIT signal")
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    code = []
    for ident, stack in sys._current_frames().items():
        code.append("\n# Thread: %s(%d)" % (names.get(ident, ""), ident))
        for filename, line, name, text in traceback.extract_stack(stack):
            code.append('File: "%s", line %d, in %s' % (filename, line, name))
            if text:
                code.append("  %s" % text.strip())
    worker.log.debug("\n".join(code))


def worker_abort(worker):
    worker.log.info("worker received SIGABRT signal")


def child_exit(server, worker):
    server.log.info("worker %s of %s is gone", worker.pid, os.getpid())


def nworkers_changed(server, new_value, old_value):
    server.log.info("from %s to %s workers", old_value, new_value)
