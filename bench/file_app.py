"""A file of 64 KiB through wsgi.file_wrapper, as bench/run measures it."""
import tempfile

_file = tempfile.NamedTemporaryFile(prefix="gcorn-bench-")
_file.write(b"f" * (64 * 1024))
_file.flush()


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(64 * 1024))])
    return environ["wsgi.file_wrapper"](open(_file.name, "rb"))
