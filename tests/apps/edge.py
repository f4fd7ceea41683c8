"""What an application sees of the edges of the machine: addresses, scheme, the client's certificate."""

import os
import time

SHOWN = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "PROXY_PROTOCOL", "PROXY_ADDR",
         "PROXY_PORT", "wsgi.url_scheme", "HTTP_X_FORWARDED_FOR", "HTTP_HOST")


def peer(environ):
    socket = environ["gunicorn.socket"]
    certificate = socket.getpeercert()
    subject = dict(pair for names in certificate["subject"] for pair in names) if certificate else {}
    return ["version=%s" % socket.version(), "cipher=%s" % socket.cipher()[0],
            "alpn=%s" % socket.selected_alpn_protocol(), "client=%s" % subject.get("commonName"),
            "peer=%s:%s" % socket.getpeername(), "timeout=%s" % socket.gettimeout(),
            "number=%s" % (socket.fileno() > 2)]


def app(environ, start_response):
    path = environ["PATH_INFO"]
    lines = ["pid=%d" % os.getpid(), "host=%s" % os.environ.get("EDGE_HOST")]
    lines += ["%s=%s" % (key, environ[key]) for key in SHOWN if key in environ]
    if path == "/peer":
        lines += peer(environ)
    elif path == "/steal":
        try:
            environ["gunicorn.socket"].dup()
        except OSError as error:
            lines.append("refused=%s" % error)
    elif path == "/slow":
        time.sleep(0.05)
    elif path == "/echo":
        lines = ["bytes=%d" % len(environ["wsgi.input"].read())]
    body = "\n".join(lines).encode() + b"\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
