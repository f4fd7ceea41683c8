"""wsgiref.validate around an application that uses every part of the protocol. A breach of PEP 3333 by
the server raises AssertionError, which the client sees as a 500 and the error log as a traceback."""

import sys
from wsgiref.validate import validator

TEXT = [("Content-Type", "text/plain")]


def read_body(environ):
    body = environ["wsgi.input"]
    parts = [body.read(2), body.read(0), body.readline(), body.readline(3)]
    parts.append(next(iter(body), b""))
    parts.extend(body.readlines())
    parts.append(body.read(100))
    return b"".join(parts)


def use_errors(environ):
    errors = environ["wsgi.errors"]
    errors.write("validated: ")
    errors.writelines(["two ", "words\n"])
    errors.flush()


def plain(environ, start_response):
    body = read_body(environ)
    use_errors(environ)
    start_response("200 OK", TEXT + [("Content-Length", str(len(body)))])
    return [body]


def generated(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"a"
    yield b""
    yield b"b"


def written(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"w")
    return [b"r"]


def replaced(environ, start_response):
    start_response("200 OK", TEXT)
    try:
        raise ValueError("caught")
    except ValueError:
        start_response("500 Replaced", TEXT, sys.exc_info())
    return [b"replaced"]


def nothing(environ, start_response):
    start_response("204 No Content", [])
    return []


def wrapped(environ, start_response):
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](open(__file__, "rb"), 100)


PATHS = {"/plain": plain, "/generated": generated, "/written": written, "/replaced": replaced,
         "/nothing": nothing, "/wrapped": wrapped}


@validator
def app(environ, start_response):
    return PATHS[environ["PATH_INFO"]](environ, start_response)
