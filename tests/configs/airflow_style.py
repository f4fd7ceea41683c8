# A web server that ships its own configuration: it names its processes and tells when it is ready.
import os
import airflow_style_helper


def post_worker_init(_):
    airflow_style_helper.set_title(f"ready to serve, {os.getpid()}")


def on_starting(server):
    airflow_style_helper.initialise(server)


def worker_exit(server, worker):
    airflow_style_helper.shut_down()


timeout = 120
preload_app = True
