# Annotations, a class as worker class, hooks by dotted name: the modern style.
from __future__ import annotations

from typing import TYPE_CHECKING

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker

if TYPE_CHECKING:
    from gunicorn.http.message import Request

worker_class = ThreadWorker
threads: int = 8
when_ready = "airflow_style_helper.initialise"


def pre_fork(server: Arbiter, worker: Worker) -> None:
    assert isinstance(server, Arbiter) and isinstance(worker, Worker)


def post_request(worker: Worker, req: Request) -> None:
    pass
