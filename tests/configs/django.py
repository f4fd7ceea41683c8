"""A Django site behind a proxy that ends TLS."""
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent

command = "/srv/site/venv/bin/gunicorn"
pythonpath = str(BASE_DIR)
chdir = str(BASE_DIR)
wsgi_app = "site.wsgi:application"
bind = "unix:/run/site/gunicorn.sock"
workers = 3
user = "nobody"
umask = 0o007
preload_app = True
raw_env = ["DJANGO_SETTINGS_MODULE=site.settings"]
forwarded_allow_ips = "10.0.0.0/8"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
limit_request_line = 8190
