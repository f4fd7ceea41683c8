#!/usr/bin/env python3
"""What docs/deploying.md says of systemd, tried as root in the machine of tests/vm/run.

Every wait is for a condition, with a deadline that an emulated processor can keep."""

import http.client
import os
import pathlib
import socket
import subprocess
import threading
import time
import traceback

DEADLINE_S = 120
APP = pathlib.Path("/srv/site/wsgi.py")
GATE = pathlib.Path("/srv/site/gate")  # while it exists, the application cannot be imported
DROP_IN = pathlib.Path("/etc/systemd/system/gcorn.service.d/check.conf")
BROKEN = "import nothing_of_that_name\n"
GOOD = '''
import os, time
while os.path.exists("/srv/site/gate"): time.sleep(0.05)
def app(environ, start_response):
    path, text = environ["PATH_INFO"], "first"
    if path == "/hoard": text = str([b"x" * 1000000 for _ in range(1000)])
    if path == "/slow": time.sleep(2)
    if path == "/upload":
        text = "%d bytes" % len(environ["wsgi.input"].read())
        links = ["/proc/self/fd/" + fd for fd in os.listdir("/proc/self/fd")]
        text += str([os.readlink(link) for link in links if os.path.islink(link)])
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]
'''


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect("/run/gcorn.sock")


def get(path="/", body=None, connection=None):
    connection = connection or Connection("site")
    connection.request("POST" if body else "GET", path, body)
    answer = connection.getresponse()
    return "%d %s" % (answer.status, answer.read().decode())


class Client(threading.Thread):
    """One request after the other: each with a new connection, or all with one while it is kept."""

    def __init__(self, keeps, path="/"):
        super().__init__()
        self.keeps, self.path, self.stops, self.done, self.failures = keeps, path, False, 0, []

    def run(self):
        connection = Connection("site")
        while not self.stops:
            try:
                answer = get(self.path, connection=connection if self.keeps else None)
                if not answer.startswith("200 "):
                    self.failures.append(answer)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection = Connection("site")
            self.done += 1


class Load:
    """Clients that must not lose a request."""

    def __enter__(self):
        self.clients = [Client(False), Client(True), Client(False, "/slow")]
        for client in self.clients:
            client.start()
        self.more()
        return self

    def more(self):
        goals = [client.done + 3 for client in self.clients]
        wait(lambda: all(c.done >= goal for c, goal in zip(self.clients, goals)), "answers")

    def __exit__(self, *_):
        for client in self.clients:
            client.stops = True
        for client in self.clients:
            client.join()
        say("%s requests" % [client.done for client in self.clients])
        failures = [client.failures for client in self.clients]
        assert not any(failures), failures


def say(text):
    for line in text.splitlines():
        print("    " + line, flush=True)


def sh(command, code=0):
    done = subprocess.run(command, shell=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert code in (None, done.returncode), "%s: %d\n%s" % (command, done.returncode, done.stdout)
    return done.stdout.strip()


def show(*names):
    text = sh("systemctl show gcorn " + " ".join("-p " + name for name in names))
    values = dict(line.split("=", 1) for line in text.splitlines())
    return " ".join(values[name] for name in names)


def signal_main(name):
    sh("systemctl kill --kill-whom=main -s %s gcorn" % name)


def journal():
    """What was logged since begin()."""
    sh("journalctl --sync")
    return sh("journalctl -u gcorn -o cat --no-pager")[journal.start:]


journal.start = 0


def wait(condition, what):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain for %s; the journal:\n%s" % (what, journal())
        time.sleep(0.05)


def becomes(state):
    wait(lambda: show("ActiveState") == state, state)


def begin(settings="", start="gcorn.socket gcorn.service"):
    """The service as it is shipped, with `settings` in a drop-in."""
    sh("systemctl stop gcorn.service gcorn.socket")
    sh("systemctl reset-failed gcorn.service gcorn.socket", None)
    GATE.unlink(missing_ok=True)
    APP.write_text(GOOD)
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text("[Service]\n" + settings)
    sh("systemctl daemon-reload")
    journal.start += len(journal())
    sh("systemctl start " + start)


def check_unit_files_are_in_order():
    say(sh("systemctl --version | head -n 1; uname -r; stat -f -c %T /sys/fs/cgroup"))
    text = sh("systemd-analyze verify gcorn.service gcorn.socket")
    assert text == "", text
    say(sh("systemd-analyze security --no-pager gcorn | tail -n 1"))


def check_first_request_starts_the_service():
    begin(start="gcorn.socket")
    assert show("ActiveState") == "inactive"
    assert get() == "200 first"
    becomes("active")


def check_active_means_that_a_worker_serves():
    begin(start="gcorn.socket")
    GATE.touch()
    sh("systemctl start --no-block gcorn")
    wait(lambda: "Booting worker" in journal(), "a worker")
    assert show("ActiveState") == "activating"
    GATE.unlink()
    becomes("active")
    say(show("SubState", "StatusText"))


def check_broken_application_is_told_and_heals_when_mended():
    begin(start="gcorn.socket")
    APP.write_text(BROKEN)
    say(sh("systemctl start gcorn", 1))
    for words in ("No module named 'nothing_of_that_name'", "Reason: Worker failed to boot."):
        assert words in journal(), journal()
    wait(lambda: int(show("NRestarts")) > 1, "further attempts")
    APP.write_text(GOOD)
    assert get() == "200 first"


def check_nginx_in_front():
    begin()
    sh("systemctl restart nginx")
    connection = http.client.HTTPConnection("127.0.0.1", timeout=DEADLINE_S)
    assert get(connection=connection) == "200 first"


def check_restart_loses_nothing():
    begin()
    with Load() as load:
        for _ in range(2):
            before = show("MainPID")
            sh("systemctl restart gcorn")
            assert show("MainPID") != before
            load.more()


def check_reload_loses_nothing():
    begin()
    before = show("MainPID")
    with Load() as load:
        GATE.touch()
        APP.write_text(GOOD.replace("first", "second"))
        sh("systemctl reload --no-block gcorn")
        becomes("reloading")
        assert get() == "200 first"
        GATE.unlink()
        becomes("active")
        wait(lambda: get() == "200 second", "the new code")
        load.more()
        APP.write_text(BROKEN)
        sh("systemctl reload gcorn")
        wait(lambda: "nothing_of_that_name" in journal(), "the broken code")
        becomes("active")
        load.more()
    assert get() == "200 second"
    assert show("MainPID", "NRestarts") == before + " 0"


def check_upgrade_leaves_a_service_like_any_other():
    begin("WatchdogSec=10\n")
    old = show("MainPID")
    with Load() as load:
        signal_main("USR2")
        wait(lambda: journal().count("Booting worker") == 8, "the new master's workers")
        signal_main("TERM")
        wait(lambda: "Master has been promoted." in journal(), "the old one's end")
        fed = show("WatchdogTimestampMonotonic")
        wait(lambda: show("WatchdogTimestampMonotonic") != fed, "word from the new master")
        new = show("MainPID")
        assert new != old and show("ActiveState", "NRestarts") == "active 0"
        sh("systemctl reload gcorn")
        load.more()
        # systemd waits for its end, though it did not start it.
        sh("systemctl restart gcorn")
        load.more()
    assert show("MainPID") not in (old, new)
    for words in ("status=9/KILL", "Failed with result"):
        assert words not in journal(), journal()


def check_watchdog_ends_a_hanging_arbiter():
    begin("WatchdogSec=5\nTimeoutAbortSec=1\n")
    signal_main("STOP")
    wait(lambda: show("NRestarts") == "1", "a restart")
    assert "Failed with result 'watchdog'" in journal(), journal()
    assert get() == "200 first"


def check_sandbox_is_in_nobodys_way():
    options = "--access-logfile /var/lib/gcorn/log --pid /run/gcorn/pid"
    begin('Environment="GUNICORN_CMD_ARGS=%s"\n' % options)
    answer = get("/upload", b"x" * 5_000_000)
    assert answer.startswith("200 5000000 bytes") and "/tmp/#" in answer, answer
    assert pathlib.Path("/run/gcorn/pid").read_text().strip() == show("MainPID")
    log = pathlib.Path("/var/lib/gcorn/log")
    wait(lambda: '"POST /upload HTTP/1.1" 200' in log.read_text(), "the access log")


def check_stop_is_a_success():
    begin()
    assert get() == "200 first"
    sh("systemctl stop gcorn")
    assert show("ActiveState", "Result", "ExecMainStatus") == "inactive success 0"


def check_lack_of_memory_costs_one_worker():
    begin("MemoryMax=120M\n")
    before = show("MainPID")
    try:
        assert not get("/hoard")
    except (OSError, http.client.HTTPException):
        pass  # the connection ended with the worker
    wait(lambda: journal().count("Booting worker") == 5, "a new worker")
    say(sh("journalctl -u gcorn -o cat --no-pager | tail -n 3"))
    for words in ("By the kernel: out of memory (oom_kill 1 in its cgroup)", "was running: GET /hoard"):
        assert words in journal(), journal()
    assert get() == "200 first"
    assert show("ActiveState", "MainPID", "NRestarts") == "active %s 0" % before


failures = 0
for name, check in list(globals().items()):
    if name.startswith("check_"):
        print("--- " + name[len("check_"):].replace("_", " "), flush=True)
        try:
            check()
        except Exception:
            failures += 1
            say(traceback.format_exc())
print("%d checks failed" % failures if failures else "all checks passed", flush=True)
