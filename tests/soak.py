#!/usr/bin/env python3
"""Good, slow, broken and vanishing clients against one worker of each class, for minutes.

No good request may be lost, and after the warm-up nothing may grow: descriptors, threads, objects the
garbage collector knows, resident memory. Phases of load alternate with quiet ones, in which the worker
is asked for its figures (tests/apps/classes.py, /counts). Only the standard library; `make soak`.
"""

import argparse
import http.client
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE_S = 30            # longest wait for an answer that must come
WARM_UP_SHARE = 0.25
RSS_GROWTH_KIB_MAX = 2048
OBJECTS_GROWTH_MAX = 100   # a leak of one object a request would be thousands
CLASSES = {
    "sync": ["-k", "sync"],
    "gthread": ["-k", "gthread", "--threads", "4"],
    "gevent": ["-k", "gevent"],
    "eventlet": ["-k", "eventlet"],
}
# The deadlines are short, so that slow clients meet them.
OPTIONS = ["-w", "1", "--header-timeout", "3", "--body-timeout", "3", "--write-timeout", "3",
           "--keep-alive", "20", "--timeout", "30", "--log-level", "warning"]
PERIOD = 65521
PATTERN = bytes((i * 31 + (i >> 8)) & 255 for i in range(PERIOD))


class Server:
    def __init__(self, binary, arguments):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = tempfile.NamedTemporaryFile("w+", prefix="gcorn-soak-", suffix=".log", delete=False)
        self.process = subprocess.Popen(
            [binary, "-b", "127.0.0.1:%d" % self.port, *OPTIONS, *arguments, "classes:app"],
            cwd=os.path.join(HERE, "apps"), stdout=self.log, stderr=self.log)
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.connect().close()
                break
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise SystemExit("the server does not start\n" + self.story()) from None
                time.sleep(0.05)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def story(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "had to be killed"

    def counts(self):
        """Figures of the idle server: {name: number}, once two looks in a row agree on descriptors."""
        before = None
        until = time.monotonic() + PATIENCE_S
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            connection.request("GET", "/counts", headers={"Connection": "close"})
            names = ("objects", "descriptors", "threads", "rss_kib")
            now = dict(zip(names, map(int, connection.getresponse().read().split())))
            connection.close()
            now["master_descriptors"] = len(os.listdir("/proc/%d/fd" % self.process.pid))
            if before and before["descriptors"] == now["descriptors"] or time.monotonic() > until:
                return now
            before = now
            time.sleep(1)


class Clients:
    """Threads that all run one kind of client each while the load is on."""

    def __init__(self, server, seed):
        self.server = server
        self.runs = threading.Event()
        self.quits = False
        self.lock = threading.Lock()
        self.idle = 0
        self.done = {}
        self.lost = []
        kinds = [self.good] * 4 + [self.slow] * 6 + [self.broken] + [self.vanishing] * 3
        self.threads = [threading.Thread(target=self.loop, args=(kind, seed + number), daemon=True)
                        for number, kind in enumerate(kinds)]
        for thread in self.threads:
            thread.start()

    def loop(self, kind, seed):
        chance = random.Random(seed)
        while True:
            with self.lock:
                self.idle += 1
            self.runs.wait()
            with self.lock:
                self.idle -= 1
            if self.quits:
                return
            try:
                kind(chance)
            except Exception as error:  # what a client did not expect is a loss
                self.lose(kind.__name__, error)

    def load(self, seconds):
        """Lets them run, then waits until all of them rest."""
        self.runs.set()
        time.sleep(seconds)
        self.runs.clear()
        until = time.monotonic() + PATIENCE_S
        while self.idle < len(self.threads) and time.monotonic() < until:
            time.sleep(0.05)
        if self.idle < len(self.threads):
            self.lose("harness", "a client does not come to its end")

    def quit(self):
        self.quits = True
        self.runs.set()
        for thread in self.threads:
            thread.join(PATIENCE_S)

    def count(self, what):
        with self.lock:
            self.done[what] = self.done.get(what, 0) + 1

    def lose(self, what, why):
        with self.lock:
            self.lost.append("%s: %r" % (what, why))

    # --- the kinds ---

    def good(self, chance):
        """Up to 50 requests on one connection, each answered in full."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
        for _ in range(chance.randrange(1, 50)):
            method, target, body, status, expected = self.good_request(chance)
            try:
                connection.request(method, target, body)
                answer = connection.getresponse()
                got = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.lose("good " + target, error)
                break
            if answer.status != status or expected is not None and got != expected:
                self.lose("good " + target, (answer.status, got[:100]))
            self.count("good")
            if not self.runs.is_set():
                break
        connection.close()

    @staticmethod
    def good_request(chance):
        """(method, target, body, status, body of the answer)."""
        kind = chance.randrange(8)
        if kind == 0:
            body = chance.randbytes(chance.choice((0, 1, 1000, 100_000, 300_000)))
            return "POST", "/echo", body, 200, body
        if kind == 1:
            size = chance.randrange(2_000_000)
            return ("GET", "/pattern?n=%d" % size, None, 200,
                    (PATTERN * (size // PERIOD + 1))[:size])
        if kind == 2:
            return "GET", "/generator", None, 200, b"one two three"
        if kind == 3:
            return "GET", "/sleep?s=0.005", None, 200, b"slept"
        if kind == 4:
            return "GET", chance.choice(("/raise", "/exit", "/never_start")), None, 500, None
        if kind == 5:
            chunks = [chance.randbytes(chance.randrange(1, 9000)) for _ in range(5)]
            return "POST", "/echo", iter(chunks), 200, b"".join(chunks)
        return "GET", "/", None, 200, b"Hello, world!\n"

    def slow(self, chance):
        """A request in small pieces, or an answer read in small pieces; complete in time, or not."""
        kind = chance.randrange(4)
        with self.server.connect() as client:
            if kind == 3:  # reads slowly
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                client.sendall(b"GET /block?n=1000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                size = 0
                while True:
                    more = client.recv(50_000)
                    if not more:
                        break
                    size += len(more)
                    time.sleep(0.02)
                if size < 1_000_000:
                    self.lose("slow reader", size)
            else:
                request = (b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                           b"Content-Length: 10\r\n\r\n0123456789")
                expected = b" 200 "
                if kind == 0:  # never completes it
                    request = request[:chance.randrange(1, len(request) - 1)]
                    expected = b" 408 "
                step = chance.randrange(5, 30)
                for at in range(0, len(request), step):
                    client.sendall(request[at:at + step])
                    time.sleep(0.02)
                answer = b""
                while more := client.recv(65536):
                    answer += more
                if expected not in answer[:13]:
                    self.lose("slow", (request, answer[:100]))
            self.count("slow")

    def broken(self, chance):
        """No HTTP, or bad HTTP: refused and closed."""
        bad = chance.choice((
            chance.randbytes(200).replace(b"\n", b"-") + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nbad name: y\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n"))
        with self.server.connect() as client:
            answer = b""
            try:
                client.sendall(bad)
                while more := client.recv(65536):
                    answer += more
            except ConnectionError:
                pass
            if not re.match(rb"HTTP/1\.1 [45]\d\d ", answer):
                self.lose("broken", (bad[:50], answer[:100]))
            self.count("broken")
        time.sleep(0.01)

    def vanishing(self, chance):
        """Leaves in the middle, with a reset or without."""
        request = chance.choice((
            b"", b"GET / HT", b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\npart",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /pattern?n=20000000 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /slow?n=100&s=0.01 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: eA==\r\n\r\n"))
        with self.server.connect() as client:
            client.sendall(request)
            if request.endswith(b"\r\n\r\n") and chance.random() < 0.7:
                client.recv(1000)
            if chance.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.count("vanishing")
        time.sleep(0.01)


def soak(binary, name, seconds, seed):
    """One class; returns what was wrong with it."""
    server = Server(binary, CLASSES[name])
    clients = Clients(server, seed)
    faults = []
    try:
        clients.load(seconds * WARM_UP_SHARE)
        first = server.counts()
        print("%-9s %s" % (name, first), flush=True)
        rounds = max(1, round(seconds * (1 - WARM_UP_SHARE) / 60))
        for _ in range(rounds):
            clients.load(seconds * (1 - WARM_UP_SHARE) / rounds)
            last = server.counts()
            print("%-9s %s" % ("", last), flush=True)
        print("%-9s %s, %d lost" % ("", clients.done, len(clients.lost)), flush=True)
        allowed = {"objects": OBJECTS_GROWTH_MAX, "rss_kib": RSS_GROWTH_KIB_MAX}
        for figure, begin in first.items():
            if last[figure] - begin > allowed.get(figure, 0):
                faults.append("%s grew from %d to %d" % (figure, begin, last[figure]))
    finally:
        clients.quit()
        code = server.stop()
    faults += clients.lost[:20]
    if code != 0:
        faults.append("the server's exit code: %s" % code)
    log = server.story()
    for sign in ("[CRITICAL]", "exited with code", "was sent SIG", "graceful timeout"):
        if sign in log:
            faults.append("the log says " + sign)
    if faults:
        faults.append("its log is " + server.log.name)
    else:
        os.unlink(server.log.name)
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=10, help="for each class")
    parser.add_argument("--classes", default=",".join(CLASSES))
    parser.add_argument("--binary", default=os.path.join(HERE, "..", "gcorn"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    failed = False
    for name in options.classes.split(","):
        for fault in soak(os.path.abspath(options.binary), name, options.minutes * 60, options.seed):
            print("%s: %s" % (name, fault))
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
