# The formula of gunicorn's manual: two workers a core and one more.
import multiprocessing

bind = "127.0.0.1:8000"
workers = multiprocessing.cpu_count() * 2 + 1
worker_class = "gthread"
threads = 4
max_requests = 1000
max_requests_jitter = 50
