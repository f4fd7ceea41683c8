"""The small applications that bench/run measures; those that import much have their own modules."""
import time

HELLO = b"Hello, World!"
BIG = b"x" * (100 * 1024)
CHUNK = b"x" * 1024
MIB = b"x" * (1 << 20)


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


def mixed(environ, start_response):
    if environ["PATH_INFO"] != "/mib":
        return hello(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(MIB)))])
    return [MIB]


def busy(environ, start_response):
    sum(range(50_000))
    return hello(environ, start_response)


def sleeping(environ, start_response):
    time.sleep(0.05)
    return hello(environ, start_response)
