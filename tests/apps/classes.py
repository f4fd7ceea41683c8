"""What only worker classes differ in: waiting together, raw sockets, calls that no class can interrupt.

Everything else is the probe's. Files in the directory SIGNS are how a test and this application wait for
each other.
"""

import base64
import ctypes
import gc
import hashlib
import os
import queue
import struct
import sys
import threading
import time
import urllib.request

import probe

BARRIERS = {}
BARRIERS_LOCK = threading.Lock()
LOCAL = threading.local()
WEBSOCKET_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


def wait_for_sign(name, seconds=20):
    path = os.path.join(os.environ["SIGNS"], name)
    until = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > until:
            raise TimeoutError(name)
        time.sleep(0.01)


def meet(environ, start_response):
    """Returns once n requests are here at the same time."""
    count = probe.option(environ, "n", 2)
    with BARRIERS_LOCK:
        barrier = BARRIERS.setdefault(count, threading.Barrier(count))
    barrier.wait(timeout=20)
    return probe.text(start_response, "met")


def wait_in_c(environ, start_response):
    """s seconds inside a C function that lets go of the GIL."""
    probe.note("waits in C")
    ctypes.CDLL(None).sleep(int(probe.option(environ, "s", 1.0)))
    return probe.text(start_response, "waited")


def block_in_c(environ, start_response):
    """Until the sign that the query names, inside C functions that no patch makes cooperative."""
    probe.note("blocks")
    while not os.path.exists(os.path.join(os.environ["SIGNS"], environ["QUERY_STRING"])):
        ctypes.CDLL(None).usleep(10000)
    return probe.text(start_response, "went on")


def nth(environ, start_response):
    """Which request of its thread or greenlet this is, s seconds later."""
    LOCAL.nth = getattr(LOCAL, "nth", 0) + 1
    seconds = probe.option(environ, "s", 0.0)
    if seconds:
        time.sleep(seconds)
    return probe.text(start_response, str(LOCAL.nth))


def gated_events(environ, start_response):
    """Server-sent events, each after the test has asked for it by a sign."""
    def events():
        try:
            for number in range(probe.option(environ, "n", 3)):
                wait_for_sign("event %d" % number)
                yield b"data: %d\n\n" % number
        finally:
            probe.note("events closed")
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return events()


def outgoing(environ, start_response):
    """Asks another server and passes its answer on."""
    with urllib.request.urlopen("http://127.0.0.1:" + environ["QUERY_STRING"]) as answer:
        return probe.text(start_response, answer.read())


def stubborn(environ, start_response):
    """Takes every Exception for a thing to try again."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            for _ in range(1000):
                pass
        except Exception:
            pass
    return probe.text(start_response, "never interrupted")


def counts(environ, start_response):
    """What may not grow: objects the collector knows, descriptors, threads, resident KiB."""
    gc.collect()
    with open("/proc/self/status") as status:
        facts = dict(line.split(":", 1) for line in status)
    return probe.text(start_response, "%d %d %s %s" % (
        len(gc.get_objects()), len(os.listdir("/proc/self/fd")), facts["Threads"].strip(),
        facts["VmRSS"].split()[0]))


# --- a WebSocket as simple-websocket (flask-sock) makes one of gunicorn.socket -----------------------

class WebSocket:
    def __init__(self, environ):
        self.socket = environ["gunicorn.socket"]
        accept = hashlib.sha1(environ["HTTP_SEC_WEBSOCKET_KEY"].encode() + WEBSOCKET_MAGIC).digest()
        self.socket.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                         b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
                         + base64.b64encode(accept) + b"\r\n\r\n")
        self.received = queue.Queue()
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read_exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the client left")
            data += more
        return data

    def read(self):
        """Puts each message into the queue, at the end None."""
        try:
            while True:
                first, length = self.read_exactly(2)
                length &= 127
                if length == 126:
                    length, = struct.unpack("!H", self.read_exactly(2))
                mask = self.read_exactly(4)
                data = self.read_exactly(length)
                if first & 15 == 8:
                    break
                self.received.put(bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))
        except OSError:
            pass
        self.received.put(None)

    def send(self, data, opcode=1):
        length = (bytes([len(data)]) if len(data) < 126 else struct.pack("!BH", 126, len(data)))
        self.socket.sendall(bytes([128 | opcode]) + length + data)

    def close(self):
        try:
            self.send(b"\x03\xe8", opcode=8)
        except OSError:
            pass
        self.thread.join()
        self.socket.close()


def websocket(environ, start_response):
    """Echoes messages until the client closes."""
    socket = WebSocket(environ)
    while True:
        message = socket.received.get()
        if message is None:
            break
        socket.send(message)
    socket.close()
    probe.note("websocket closed")
    raise StopIteration  # how flask-sock leaves a gunicorn worker


def wsgi_websocket(environ, start_response):
    """The same with gevent-websocket's object, for its worker class."""
    socket = environ.get("wsgi.websocket")
    if socket is None:
        return probe.text(start_response, "no WebSocket\n")
    while (message := socket.receive()) is not None:
        socket.send(message)
    probe.note("wsgi.websocket closed beside %d" % len(socket.handler.server.clients))
    return []


INTERPRETERS_ENDED = []
INTERPRETERS_WORK = """
import _thread
def deep(levels):
    return levels and deep(levels - 1)
ended = _thread.allocate_lock()
ended.acquire()
def run():
    deep(400)
    ended.release()
for _ in range(400):
    _thread.start_new_thread(run, ())
    ended.acquire()
"""


def run_interpreters(environ, start_response):
    """The first call starts three threads, not greenlets, that each run an interpreter with a GIL of its own;
    all tell how many have ended. Each starts and ends many stacks of frames."""
    try:
        from concurrent import interpreters
    except ImportError:
        return probe.text(start_response, "none")
    if environ["QUERY_STRING"] == "start":
        def run():
            interpreter = interpreters.create()
            try:
                interpreter.exec(INTERPRETERS_WORK)
            finally:
                interpreter.close()
            INTERPRETERS_ENDED.append(interpreter)
        for _ in range(3):
            start_thread(run, ())
    return probe.text(start_response, str(len(INTERPRETERS_ENDED)))


def start_thread(function, arguments):
    """What _thread has where no library has replaced it."""
    import _thread
    if "eventlet" in sys.modules:
        start = sys.modules["eventlet"].patcher.original("_thread").start_new_thread
    elif "gevent" in sys.modules:
        start = sys.modules["gevent"].monkey.get_original("_thread", "start_new_thread")
    else:
        start = _thread.start_new_thread
    start(function, arguments)


PATHS = {
    "/meet": meet, "/c": wait_in_c, "/blocked": block_in_c, "/nth": nth, "/events": gated_events, "/outgoing": outgoing,
    "/stubborn": stubborn, "/counts": counts, "/websocket": websocket, "/wsgi.websocket": wsgi_websocket,
    "/interpreters": run_interpreters,
}


def app(environ, start_response):
    return PATHS.get(environ["PATH_INFO"], probe.app)(environ, start_response)
