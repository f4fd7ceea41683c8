"""The applications that bench/run measures. Each is one module-level callable."""
import os
import tempfile
import time

HELLO = b"Hello, World!"
BIG = b"x" * (100 * 1024)
CHUNK = b"x" * 1024

_file = tempfile.NamedTemporaryFile(prefix="gcorn-bench-")
_file.write(b"f" * (64 * 1024))
_file.flush()


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [HELLO]


def post(environ, start_response):
    size = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    body = b"%d" % size
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def big(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BIG)))])
    return [BIG]


def chunks(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (CHUNK for _ in range(100))


def file(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "65536")])
    return environ["wsgi.file_wrapper"](open(_file.name, "rb"))


def sleeping(environ, start_response):
    time.sleep(0.05)
    return hello(environ, start_response)


def make_flask():
    import flask

    app = flask.Flask(__name__)
    app.add_url_rule("/", "hello", lambda: "Hello, World!")
    return app


def make_django():
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(
        ROOT_URLCONF=__name__, SECRET_KEY="bench", ALLOWED_HOSTS=["*"], DEBUG=False, MIDDLEWARE=[]
    )
    globals()["urlpatterns"] = [path("", lambda request: HttpResponse("Hello, World!"))]
    return get_wsgi_application()


# Loaded only when a server asks for it by name, so that hello's memory stays hello's.
def __getattr__(name):
    if name == "flask_hello":
        return make_flask()
    if name == "django_hello":
        return make_django()
    raise AttributeError(name)
