"""The application most end-to-end tests talk to: every path is one behaviour, good or bad.

Events that the client cannot see (close() was called) go to the file named by PROBE_LOG, a line each.
"""

import os
import sys
import threading
import time
import traceback
from urllib.parse import parse_qs

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT = [("Content-Type", "text/plain")]
# Period of the pattern that tests/support/http_client.h describes.
PERIOD = 65521
PATTERN = bytes((i * 31 + (i >> 8)) & 255 for i in range(PERIOD))


def note(event):
    path = os.environ.get("PROBE_LOG")
    if path:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(fd, event.encode() + b"\n")
        os.close(fd)


def text(start_response, body, status="200 OK", headers=()):
    if isinstance(body, str):
        body = body.encode()
    start_response(status, TEXT + [("Content-Length", str(len(body)))] + list(headers))
    return [body]


def option(environ, name, default):
    return type(default)(parse_qs(environ["QUERY_STRING"]).get(name, [default])[0])


class Noted:
    """An iterable that tells when it is closed, and breaks where it is told to."""

    def __init__(self, items, name="closed", break_at=None, close_raises=False):
        self.items = iter(items)
        self.name = name
        self.break_at = break_at
        self.close_raises = close_raises
        self.count = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.count == self.break_at:
            raise ValueError("broken on purpose")
        self.count += 1
        return next(self.items)

    def close(self):
        note(self.name)
        if self.close_raises:
            raise ValueError("close broken on purpose")


# --- answers of every shape -------------------------------------------------------------------------

def hello(environ, start_response):
    return text(start_response, "Hello, world!\n")


def environ_dump(environ, start_response):
    """A line for each key: name, type and value, separated by tabs."""
    lines = ["%s\t%s\t%s" % (key, type(value).__name__, value)
             for key, value in sorted(environ.items())]
    return text(start_response, "\n".join(lines).encode("latin-1", "backslashreplace"))


def as_list(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"one ", b"two ", b"three"]


def as_tuple(environ, start_response):
    start_response("200 OK", TEXT)
    return (b"one ", b"two ", b"three")


def as_generator(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"one "
    yield b""
    yield b"two "
    yield b"three"


def as_iterable(environ, start_response):
    """Only __getitem__: the oldest way to be iterable."""
    class Items:
        def __getitem__(self, index):
            return (b"one ", b"two ", b"three")[index]
    start_response("200 OK", TEXT)
    return Items()


def late_start(environ, start_response):
    """A generator that calls start_response only when it is asked for its first item."""
    def items():
        start_response("200 OK", TEXT)
        yield b"late"
    return items()


def empty_list(environ, start_response):
    start_response("200 OK", TEXT)
    return []


def empty_generator(environ, start_response):
    start_response("200 OK", TEXT)
    return iter(())


def first_empty(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"", b"then some"]


def with_write(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"written ")
    write(b"twice ")
    return [b"and returned"]


def with_write_and_length(environ, start_response):
    write = start_response("200 OK", TEXT + [("Content-Length", "12")])
    write(b"written ")
    return [b"four"]


def no_content(environ, start_response):
    start_response("204 No Content", [])
    return [b"must not appear"]


def not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"'), ("Content-Length", "17")])
    return []


def teapot(environ, start_response):
    return text(start_response, "short and stout", "418 I'm a teapot")


def many_headers(environ, start_response):
    return text(start_response, "headers", headers=[
        ("X-One", "1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Latin", "caf\xe9"),
        ("X-Spelling-LIKE-this", "kept"), ("X-Empty", "")])


def hop_by_hop(environ, start_response):
    return text(start_response, "hop", headers=[
        ("Connection", "close"), ("Keep-Alive", "timeout=99"), ("Transfer-Encoding", "gzip"),
        ("TE", "trailers"), ("Proxy-Authenticate", "Basic"), ("X-Kept", "yes")])


def slow_chunks(environ, start_response):
    """n pieces with s seconds between them."""
    count, pause = option(environ, "n", 5), option(environ, "s", 0.2)

    def items():
        try:
            for number in range(count):
                if number:
                    time.sleep(pause)
                yield b"piece %d\n" % number
        finally:
            note("slow_chunks closed")
    start_response("200 OK", TEXT)
    return items()


# --- bodies -----------------------------------------------------------------------------------------

def echo(environ, start_response):
    return text(start_response, environ["wsgi.input"].read())


def ignore_body(environ, start_response):
    return text(start_response, "not read")


def read_input(environ, start_response):
    """Every way to read; the client sends four lines of known text."""
    body = environ["wsgi.input"]
    said = [body.read(3), body.readline(), body.readline(2), next(iter(body)), body.read(0),
            body.readlines(), body.read(), body.read(10), body.readline(), body.readlines()]
    return text(start_response, repr(said))


def check_pattern(environ, start_response):
    """Counts the body's bytes and compares them with the pattern, block by block."""
    body = environ["wsgi.input"]
    twice = PATTERN + PATTERN
    position = 0
    while True:
        block = body.read(PERIOD)
        if not block:
            break
        at = position % PERIOD
        if block != twice[at:at + len(block)]:
            return text(start_response, "differs between %d and %d" % (position, position + len(block)))
        position += len(block)
    return text(start_response, "%d bytes as expected" % position)


def send_pattern(environ, start_response):
    """n bytes of the pattern in blocks; with length=1 they are announced."""
    count = option(environ, "n", 1000)
    size = min(option(environ, "block", PERIOD), PERIOD)
    ends = PATTERN + PATTERN[:size]
    headers = [("Content-Type", "application/octet-stream")]
    if option(environ, "length", 0):
        headers.append(("Content-Length", str(count)))
    start_response("200 OK", headers)

    def blocks():
        try:
            for at in range(0, count, size):
                start = at % PERIOD
                yield ends[start:start + min(size, count - at)]
        finally:
            note("send_pattern closed")
    return blocks()


def one_block(environ, start_response):
    """n bytes of the pattern as one bytes object."""
    count = option(environ, "n", 1000)
    body = (PATTERN * (count // PERIOD + 1))[:count]
    start_response("200 OK", [("Content-Type", "application/octet-stream"),
                              ("Content-Length", str(count))])
    return [body]


# --- files ------------------------------------------------------------------------------------------

class NotedFile:
    """A file-like object; fileno() is what the test wants to be wrong."""

    def __init__(self, data, fileno=None):
        self.data = data
        if fileno is not None:
            self.fileno = fileno

    def read(self, size=-1):
        if size is None or size < 0:
            size = len(self.data)
        block, self.data = self.data[:size], self.data[size:]
        return block

    def close(self):
        note("file closed")


def real_file(environ, start_response):
    path = os.environ["PROBE_FILE"]
    offset = option(environ, "offset", 0)
    length = option(environ, "length", -1)

    class Closing:
        """The real file, with a close() that leaves a trace."""

        def __init__(self, file):
            self.file = file
            self.read = file.read
            self.fileno = file.fileno
            self.seek = file.seek
            self.tell = file.tell

        def close(self):
            note("file closed")
            self.file.close()

    file = open(path, "rb")
    file.seek(offset)
    headers = [("Content-Type", "application/octet-stream")]
    if length >= 0:
        headers.append(("Content-Length", str(length)))
    start_response("200 OK", headers)
    return environ["wsgi.file_wrapper"](Closing(file), option(environ, "block", 8192))


def file_without_fileno(environ, start_response):
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](NotedFile(b"no descriptor here" * 1000), 1000)


def file_with_bad_fileno(environ, start_response):
    def fileno():
        raise OSError("not a real file")
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](NotedFile(b"bad descriptor" * 1000, fileno))


def proc_file(environ, start_response):
    """A regular file whose size is said to be 0."""
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](open("/proc/self/status", "rb"))


def wrapped_wrapper(environ, start_response):
    """A middleware iterates the wrapper itself: nothing may be sent behind its back."""
    def upper(blocks):
        for block in blocks:
            yield block.upper()
        blocks.close()
    start_response("200 OK", TEXT)
    return upper(environ["wsgi.file_wrapper"](NotedFile(b"lower case " * 100), 10))


# --- faults -----------------------------------------------------------------------------------------

def raise_in_call(environ, start_response):
    raise ValueError("broken on purpose")


def raise_after_start(environ, start_response):
    start_response("200 OK", TEXT)
    raise ValueError("broken on purpose")


def raise_first(environ, start_response):
    start_response("200 OK", TEXT)
    return Noted([b"never"], break_at=0)


def raise_later(environ, start_response):
    start_response("200 OK", TEXT)
    return Noted([b"first ", b"second"], break_at=1)


def raise_later_with_length(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "13")])
    return Noted([b"first ", b"second"], break_at=1)


def raise_in_close(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "4")])
    return Noted([b"body"], close_raises=True)


def raise_after_write(environ, start_response):
    start_response("200 OK", TEXT)(b"written")
    raise ValueError("broken on purpose")


def raise_oserror(environ, start_response):
    open("/nonexistent/file")


def system_exit(environ, start_response):
    sys.exit(7)


def keyboard_interrupt(environ, start_response):
    raise KeyboardInterrupt


def noted(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "4")])
    return Noted([b"body"])


def noted_empty(environ, start_response):
    start_response("200 OK", TEXT)
    return Noted([])


def start_twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return [b"never"]


def never_start(environ, start_response):
    return [b"no status"]


def return_none(environ, start_response):
    start_response("200 OK", TEXT)


def return_str_items(environ, start_response):
    start_response("200 OK", TEXT)
    return ["text, not bytes"]


def late_str_item(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"bytes", b"more bytes", "text, not bytes"]


def exc_info_before(environ, start_response):
    """The head is not out: the second call replaces the first."""
    start_response("200 OK", TEXT + [("X-First", "1")])
    try:
        raise ValueError("broken on purpose")
    except ValueError:
        start_response("503 Sorry", TEXT + [("X-Second", "2"), ("Content-Length", "5")],
                       sys.exc_info())
    return [b"sorry"]


def exc_info_after(environ, start_response):
    """The head is out: the second call raises the application's own exception again."""
    write = start_response("200 OK", TEXT)
    write(b"out already")
    try:
        raise ValueError("broken on purpose")
    except ValueError:
        try:
            start_response("503 Sorry", TEXT, sys.exc_info())
        except ValueError:
            note("raised again")
            raise
    return []


BAD_STARTS = {
    "status_type": (200, []),
    "status_bytes": (b"200 OK", []),
    "status_empty": ("", []),
    "status_newline": ("200 OK\r\nX-Injected: yes", []),
    "status_control": ("200 O\x00K", []),
    "headers_type": ("200 OK", {"a": "b"}.keys()),
    "header_shape": ("200 OK", [("just one",)]),
    "name_type": ("200 OK", [(b"X-Bytes", "v")]),
    "name_space": ("200 OK", [("X Space", "v")]),
    "name_empty": ("200 OK", [("", "v")]),
    "name_newline": ("200 OK", [("X-A\r\nX-Injected", "v")]),
    "value_type": ("200 OK", [("X-Number", 5)]),
    "value_newline": ("200 OK", [("X-A", "v\r\nX-Injected: yes")]),
    "value_bare_cr": ("200 OK", [("X-A", "v\rw")]),
    "value_nul": ("200 OK", [("X-A", "v\x00w")]),
    "value_unicode": ("200 OK", [("X-A", "\u20ac")]),
    "length_text": ("200 OK", [("Content-Length", "many")]),
    "length_negative": ("200 OK", [("Content-Length", "-1")]),
}


def bad_start(environ, start_response):
    status, headers = BAD_STARTS[option(environ, "kind", "status_type")]
    start_response(status, headers)
    return [b"never"]


def too_few_bytes(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "20")])
    return [b"only fifteen..."]


def too_many_bytes(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "10")])
    return [b"ten bytes!", b"and more that must not be sent"]


# --- the process ------------------------------------------------------------------------------------

def sleep(environ, start_response):
    note("sleeping")
    time.sleep(option(environ, "s", 1.0))
    return text(start_response, "slept")


def busy(environ, start_response):
    """Busy Python code for s seconds: holds the GIL but for the switch interval."""
    until = time.monotonic() + option(environ, "s", 1.0)
    note("busy")
    spin(until)
    return text(start_response, "done")


def spin(until):
    while time.monotonic() < until:
        pass


def stubborn(environ, start_response):
    """Busy for s seconds, and deaf to the first SystemExit."""
    until = time.monotonic() + option(environ, "s", 1.0)
    try:
        note("busy")
        spin(until)  # a call: CPython 3.13 leaves a loop's jump out of the try around it
    except SystemExit:
        note("deaf")
    spin(until)
    return text(start_response, "done")


def fork_and_exit(environ, start_response):
    """A child that does its work and ends as a script does, before its parent hears of it."""
    if not hasattr(fork_and_exit, "is_watched"):
        # WNOWAIT: whoever waits for it below still can.
        os.register_at_fork(after_in_parent=lambda: os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT))
        fork_and_exit.is_watched = True
    child = os.fork()
    if child == 0:
        note("child works")
        sys.exit(7)
    status = os.waitpid(child, 0)[1]
    return text(start_response, "child ended with %d" % os.waitstatus_to_exitcode(status))


def cpp_extension(environ, start_response):
    import cpp_extension
    return text(start_response, cpp_extension.greet())


def pid(environ, start_response):
    return text(start_response, "%d" % os.getpid())


def thread(environ, start_response):
    return text(start_response, threading.current_thread().name)


def directory(environ, start_response):
    return text(start_response, os.getcwd())


def variable(environ, start_response):
    return text(start_response, os.environ.get(option(environ, "name", ""), "(unset)"))


def interpreter(environ, start_response):
    return text(start_response, "\n".join([sys.prefix, sys.executable] + sys.path))


def errors(environ, start_response):
    stream = environ["wsgi.errors"]
    stream.write("written to wsgi.errors\n")
    stream.writelines(["first of two lines\n", "second of two lines\n"])
    stream.flush()
    print("printed to stdout", flush=True)
    return text(start_response, "told")


def stacks(environ, start_response):
    frames = sys._current_frames().values()
    return text(start_response, "".join("".join(traceback.format_stack(f)) for f in frames))


PATHS = {
    "/": hello, "/environ": environ_dump, "/list": as_list, "/tuple": as_tuple,
    "/generator": as_generator, "/iterable": as_iterable, "/late_start": late_start,
    "/empty_list": empty_list, "/empty_generator": empty_generator, "/first_empty": first_empty,
    "/write": with_write, "/write_length": with_write_and_length, "/204": no_content,
    "/304": not_modified, "/teapot": teapot, "/headers": many_headers, "/hop": hop_by_hop,
    "/slow": slow_chunks, "/echo": echo, "/ignore": ignore_body, "/input": read_input,
    "/check": check_pattern, "/pattern": send_pattern, "/block": one_block, "/file": real_file,
    "/file_without_fileno": file_without_fileno, "/file_with_bad_fileno": file_with_bad_fileno,
    "/proc_file": proc_file, "/wrapped_wrapper": wrapped_wrapper, "/raise": raise_in_call,
    "/raise_after_start": raise_after_start, "/raise_first": raise_first,
    "/raise_later": raise_later, "/raise_later_with_length": raise_later_with_length,
    "/raise_in_close": raise_in_close, "/raise_after_write": raise_after_write,
    "/oserror": raise_oserror, "/exit": system_exit, "/interrupt": keyboard_interrupt,
    "/noted": noted, "/noted_empty": noted_empty, "/twice": start_twice,
    "/never_start": never_start, "/none": return_none, "/str_items": return_str_items,
    "/late_str_item": late_str_item,
    "/exc_info_before": exc_info_before, "/exc_info_after": exc_info_after,
    "/bad_start": bad_start, "/short": too_few_bytes, "/long": too_many_bytes, "/sleep": sleep,
    "/busy": busy, "/stubborn": stubborn, "/pid": pid, "/cpp_extension": cpp_extension, "/fork_and_exit": fork_and_exit, "/thread": thread, "/directory": directory,
    "/variable": variable, "/interpreter": interpreter, "/errors": errors, "/stacks": stacks,
}


def app(environ, start_response):
    function = PATHS.get(environ["PATH_INFO"])
    if function is None:
        return text(start_response, "nothing here\n", "404 Not Found")
    return function(environ, start_response)


application = app


def make(greeting="made", times=1, **more):
    """A factory, for application specs such as probe:make("hi", times=2)."""
    def made(environ, start_response):
        return text(start_response, greeting * times + "".join(sorted(more)))
    return made


class Nested:
    application = staticmethod(app)
    number = 5


nested = Nested()
number = 5
nothing = None
