# Metrics of several processes: each worker's files are marked dead when it exits.
import os
from shutil import rmtree

PROMETHEUS_DIR = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "/tmp/metrics-of-nobody")

workers = 2
threads = 4
worker_class = "gthread"


def on_starting(server):
    rmtree(PROMETHEUS_DIR, ignore_errors=True)
    os.makedirs(PROMETHEUS_DIR)


def child_exit(server, worker):
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)
