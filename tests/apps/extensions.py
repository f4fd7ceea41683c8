"""Uses modules that live in shared objects: the standard library's, and others where they are installed."""

import importlib

import ctypes
import hashlib
import random
import sqlite3
import ssl


def use_ctypes():
    assert ctypes.CDLL(None).abs(-42) == 42


def use_hashlib():
    for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b"):
        assert len(getattr(hashlib, name)(b"corn").digest()) == hashlib.new(name).digest_size
    assert random.Random("a seed that is hashed").random() < 1


def use_sqlite3():
    assert sqlite3.connect(":memory:").execute("SELECT 6 * 7").fetchone() == (42,)


def use_ssl():
    assert ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).session_stats()


def app(environ, start_response):
    lines = []
    for use, name in ((use_ctypes, "ctypes"), (use_hashlib, "hashlib"), (use_sqlite3, "sqlite3"), (use_ssl, "ssl")):
        use()
        lines.append(f"{name} works")
    for name in ("gevent.greenlet", "greenlet._greenlet", "markupsafe._speedups"):
        try:
            importlib.import_module(name)
            lines.append(f"{name} works")
        except ModuleNotFoundError as missing:
            lines.append(f"{missing.name} is not installed")
    body = "\n".join([*lines, ""]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
