// The process tree under signals, deaths and hangs: who is replaced, who is waited for, what the
// log says, and which code the arbiter leaves with.

#include <algorithm>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

class Signals : public PerEngine {
protected:
    Server& start(const std::vector<std::string>& more = {}) {
        ServerOptions options = with(more);
        options.env["PROBE_LOG"] = scratch_ / "events";
        server_.emplace(options);
        EXPECT_TRUE(server_->has_workers(GetParam().workers)) << server_->story();
        // All workers have booted: none is still booting when the signal comes.
        EXPECT_TRUE(eventually([&] {
            const std::string log = server_->err();
            size_t count = 0;
            for (size_t at = log.find("Booting worker"); at != std::string::npos;
                 at = log.find("Booting worker", at + 1)) {
                ++count;
            }
            return count == GetParam().workers;
        })) << server_->story();
        EXPECT_EQ(server_->get("/").status, 200);
        return *server_;
    }
    /// Waits until the application noted that it is at work.
    [[nodiscard]] bool noted(std::string_view event) const {
        return eventually(
            [&] { return read_file(scratch_ / "events").find(event) != std::string::npos; });
    }
    /// A server whose workers are all in the middle of an import, where `source` notes "importing"
    /// and does not sleep: a signal that comes just before gevent's hub polls would not end a
    /// sleep.
    [[nodiscard]] Server& start_importing(const std::string& source,
                                          const std::vector<std::string>& more = {}) {
        scratch_.write("importing.py", "from probe import note\n" + source);
        ServerOptions options = with(more);
        options.app = "importing:app";
        options.args.insert(options.args.end(), {"--chdir", scratch_.path()});
        options.env["PYTHONPATH"] = apps_dir();
        options.env["PROBE_LOG"] = scratch_.write("events", "");
        server_.emplace(options);
        EXPECT_TRUE(eventually([&] {
            return count(read_file(scratch_ / "events"), "importing") == GetParam().workers;
        })) << server_->story();
        return *server_;
    }
    TempDir scratch_;
    std::optional<Server> server_;
};
FOR_EVERY_ENGINE(Signals);

TEST_P(Signals, TermEndsEverythingWithZero) {
    Server& server = start();
    const std::vector<pid_t> workers = server.workers();
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    for (const pid_t worker : workers)
        EXPECT_FALSE(is_alive(worker));
    EXPECT_TRUE(server.logs("Handling signal: term")) << server.story();
    EXPECT_TRUE(server.logs("Worker exiting (pid: ")) << server.story();
    EXPECT_TRUE(server.logs("Shutting down: Master")) << server.story();
    EXPECT_FALSE(server.connect().connected());
}

TEST_P(Signals, IntAndQuitEndEverythingWithZero) {
    if (is_gunicorn() && GetParam().name == "gthread") GTEST_SKIP() << "gunicorn waits";
    for (const int number : {SIGINT, SIGQUIT}) {
        Server& server = start();
        server.signal(number);
        EXPECT_EQ(server.exit_code(), 0) << server.story();
        EXPECT_TRUE(
            server.logs(number == SIGINT ? "Handling signal: int" : "Handling signal: quit"))
            << server.story();
    }
}

TEST_P(Signals, TermLetsTheRunningRequestFinish) {
    Server& server = start();
    Client client = server.connect();
    client.send(make_request("GET", "/sleep?s=1"));
    ASSERT_TRUE(noted("sleeping"));
    server.signal(SIGTERM);
    const Response response = client.read_response();
    EXPECT_EQ(response.body, "slept") << response << server.story();
    if (!is_gunicorn()) {
        EXPECT_TRUE(response.says_close()) << response;
    }
    EXPECT_EQ(server.exit_code(), 0) << server.story();
}

TEST_P(Signals, TermAnswersWhatFollowsAnAnswerThatSaidKeepAlive) {
    SKIP_ON_GUNICORN("it closes");
    Server& server = start();
    Client client = server.connect();
    client.send(make_request("GET", "/slow?n=20&s=0.05") + make_request("GET", "/"));
    std::string got = client.read_some();  // its head is out
    server.signal(SIGTERM);
    got += client.read_to_end();
    const size_t second = got.find("HTTP/1.1 200 OK", 1);
    ASSERT_NE(second, std::string::npos) << got << server.story();
    EXPECT_TRUE(contains(got.substr(0, second), "piece 19")) << got;
    EXPECT_TRUE(contains(got.substr(second), "Connection: close")) << got;
    EXPECT_EQ(server.exit_code(), 0) << server.story();
}

TEST_P(Signals, AnotherTermHurries) {
    SKIP_ON_GUNICORN("it ignores it");
    Server& server = start({"--graceful-timeout", "60"});
    Client client = server.connect();
    client.send(make_request("GET", "/sleep?s=60"));
    ASSERT_TRUE(noted("sleeping"));
    EXPECT_TRUE(eventually([&] {
        server.signal(SIGTERM);  // those that come together with the first do not count
        return server.logs("Quick shutdown requested", Milliseconds(100));
    })) << server.story();
    EXPECT_EQ(server.exit_code(Milliseconds(20'000)), 0) << server.story();
}

TEST_P(Signals, QuitDoesNotWaitForABusyApplication) {
    if (is_gunicorn() && GetParam().is_threaded)
        GTEST_SKIP() << "gunicorn waits for its threads and greenlets";
    Server& server = start({"--graceful-timeout", "20"});
    Client client = server.connect();
    client.send(make_request("GET", "/busy?s=30"));
    ASSERT_TRUE(noted("busy"));
    server.signal(SIGQUIT);
    EXPECT_EQ(server.exit_code(Milliseconds(10'000)), 0) << server.story();
}

TEST_P(Signals, QuitIsRepeatedForACallThatMissedIt) {
    SKIP_ON_GUNICORN("it waits for the graceful timeout");
    if (GetParam().is_threaded) GTEST_SKIP() << "only the guard of sync can tell";
    const std::string hook = "def worker_int(worker): worker.log.info('hook: interrupted')\n";
    Server& server = start({"--graceful-timeout", "60", "-c", scratch_.write("hooks.py", hook)});
    Client client = server.connect();
    client.send(make_request("GET", "/stubborn?s=60"));
    ASSERT_TRUE(noted("busy"));
    server.signal(SIGQUIT);
    EXPECT_EQ(server.exit_code(Milliseconds(10'000)), 0) << server.story();
    EXPECT_TRUE(noted("deaf"));
    const size_t told = count(server.err(), "hook: interrupted");
    EXPECT_GE(told, 1U) << server.story();
    EXPECT_LE(told, GetParam().workers) << server.story();  // once each
}

TEST_P(Signals, AHookOutlastsTheRepetitionsOfQuit) {
    SKIP_ON_GUNICORN("it repeats nothing");
    if (GetParam().is_threaded) GTEST_SKIP() << "only the guard of sync repeats it";
    const std::string hook =
        "import time\n"
        "def worker_int(worker): time.sleep(1); worker.log.info('hook: at its end')\n";
    Server& server = start({"--graceful-timeout", "60", "-c", scratch_.write("hooks.py", hook)});
    ASSERT_TRUE(server.has_workers(GetParam().workers)) << server.story();
    Client client = server.connect();
    client.send(make_request("GET", "/busy?s=60"));
    ASSERT_TRUE(noted("busy"));
    server.signal(SIGQUIT);
    EXPECT_EQ(server.exit_code(Milliseconds(10'000)), 0) << server.story();
    EXPECT_TRUE(contains(server.err(), "hook: at its end")) << server.story();
    EXPECT_FALSE(contains(server.err(), "Exception in worker_int hook")) << server.story();
}

// While the import of `logging` still runs, Python already lists the module, which is empty. And
// `collections.namedtuple` runs code that has no builtins.
TEST_P(Signals, AHookMayInterruptTheImportOfWhatItNeeds) {
    SKIP_ON_GUNICORN("its greenlet workers die of it");
    const std::string hook =
        "def worker_int(worker):\n"
        "    worker.log.info('hook: logs')\n"
        "    raise RuntimeError('of the hook')\n";
    Server& server = start_importing(
        "import sys, types\n"
        "for name in 'logging', 'threading', 'traceback':\n"
        "    sys.modules.setdefault(name, types.ModuleType(name))\n"
        "note('importing')\n"
        "exec('while True: pass', {'__builtins__': {}})\n",
        {"-c", scratch_.write("hooks.py", hook)});
    server.signal(SIGQUIT);
    EXPECT_EQ(server.exit_code(Milliseconds(10'000)), 0) << server.story();
    EXPECT_TRUE(contains(server.err(), "hook: logs")) << server.story();
    EXPECT_TRUE(contains(server.err(), "RuntimeError: of the hook")) << server.story();
}

// As by Ctrl-C while the server is starting. Python 3.11 turns an exception in __set_name__() into
// a RuntimeError.
TEST_P(Signals, AnInterruptedImportIsNoError) {
    SKIP_ON_GUNICORN("its greenlet workers die of it");
    for (const int number : {SIGINT, SIGQUIT}) {
        Server& server = start_importing(
            "class Descriptor:\n"
            "    def __set_name__(self, owner, name):\n"
            "        note('importing')\n"
            "        while True: pass\n"
            "class Owner:\n"
            "    descriptor = Descriptor()\n");
        server.signal(number);
        EXPECT_EQ(server.exit_code(Milliseconds(10'000)), 0) << server.story();
        EXPECT_FALSE(contains(server.err(), "[ERROR]")) << server.story();
    }
}

// The terminal signals the whole group, then the arbiter its workers: a worker gets INT and QUIT.
TEST_P(Signals, CtrlCInterruptsOnce) {
    SKIP_ON_GUNICORN("it tells the hook twice, the second time inside the first");
    const std::string hooks =
        "import os\n"
        "from probe import note\n"
        "def outlast(worker, name):\n"
        "    note(name + ' begins')\n"
        "    while not os.path.exists(os.environ['GO'] + name):\n"
        "        pass\n"  // the hub must not sleep
        "    worker.log.info('hook: %s at its end', name)\n"
        "def worker_int(worker): outlast(worker, 'int')\n"
        "def worker_exit(server, worker): outlast(worker, 'exit')\n";
    ServerOptions options = with({"-c", scratch_.write("hooks.py", hooks)});
    options.env["PROBE_LOG"] = scratch_ / "events";
    options.env["GO"] = scratch_ / "go ";
    for (const char* during : {"int", "exit"}) {
        scratch_.write("events", "");
        for (const char* name : {"go int", "go exit"})
            ::unlink((scratch_ / name).c_str());
        Server server(options);
        ASSERT_TRUE(server.has_workers(GetParam().workers)) << server.story();
        EXPECT_EQ(server.get("/").status, 200);
        const pid_t worker = server.workers().at(0);
        ::kill(worker, SIGINT);
        if (std::string_view(during) == "exit") scratch_.write("go int", "");
        ASSERT_TRUE(noted(std::string(during) + " begins")) << server.story();
        ::kill(worker, SIGQUIT);
        for (const char* name : {"go int", "go exit"})
            scratch_.write(name, "");
        EXPECT_TRUE(server.logs("hook: exit at its end")) << server.story();
        EXPECT_EQ(count(server.err(), "hook: int at its end"), 1U) << server.story();
        EXPECT_EQ(count(read_file(scratch_ / "events"), "int begins"), 1U);
        EXPECT_FALSE(contains(server.err(), "Exception")) << server.story();
    }
}

TEST_P(Signals, AWorkerMayBeInterruptedBeforeItIsReady) {
    SKIP_ON_GUNICORN("its greenlet workers die of it");
    const std::string once =
        "import _signal, os, signal, time\n"
        "from probe import note\n"
        "def is_first():\n"
        "    try:\n"
        "        return os.close(os.open(os.environ['ONCE'], os.O_CREAT | os.O_EXCL)) is None\n"
        "    except FileExistsError:\n"
        "        return False\n";
    const std::string while_handlers_are_set =
        "really = _signal.signal\n"
        "def set_handler(number, handler):\n"
        "    before = really(number, handler)\n"
        "    if number == signal.SIGQUIT and callable(handler) and is_first():\n"
        "        os.kill(os.getpid(), signal.SIGQUIT)\n"
        "        note('interrupted')\n"
        "    return before\n"
        "_signal.signal = set_handler\n";
    const std::string in_the_hook =
        "def post_worker_init(worker):\n"
        "    if is_first():\n"
        "        note('interrupted')\n"
        "        os.kill(os.getpid(), signal.SIGQUIT)\n"
        "        time.sleep(60)\n";
    for (const std::string& when : {while_handlers_are_set, in_the_hook}) {
        scratch_.write("events", "");
        ::unlink((scratch_ / "once").c_str());
        ServerOptions options = with({"-c", scratch_.write("hooks.py", once + when)});
        options.env["PROBE_LOG"] = scratch_ / "events";
        options.env["ONCE"] = scratch_ / "once";
        Server server(options);
        ASSERT_TRUE(noted("interrupted")) << server.story();
        EXPECT_TRUE(eventually([&] {
            return count(server.err(), "Booting worker") == GetParam().workers + 1;
        })) << server.story();
        EXPECT_EQ(server.get("/").status, 200) << server.story();
        EXPECT_FALSE(contains(server.err(), "[ERROR]")) << server.story();
    }
}

TEST_P(Signals, InTheLastMomentsOfTheInterpreterEndNothing) {
    SKIP_ON_GUNICORN("it dies of it");
    const std::string hook =
        "import os, signal, sys, types\n"
        "class Late:\n"
        "    def __init__(self):\n"
        "        self.note = os.open('" +
        (scratch_ / "events") +
        "', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "        self.kill = lambda note=self.note, write=os.write, kill=os.kill, pid=os.getpid(),"
        " numbers=(signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):"
        " ([kill(pid, number) for number in numbers], write(note, b'late '))\n"
        "    def __del__(self):\n"
        "        self.kill()\n"
        "def post_worker_init(worker):\n"
        "    signal.signal(signal.SIGALRM, print)\n"
        "    sys.modules['late'] = types.ModuleType('late')\n"
        "    sys.modules['late'].late = Late()\n";
    Server& server = start({"-c", scratch_.write("hooks.py", hook)});
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_EQ(count(read_file(scratch_ / "events"), "late"), GetParam().workers);
    EXPECT_FALSE(server.logs("was sent", Milliseconds(0))) << server.story();
}

TEST_P(Signals, TermKillsWhoIsNotDoneAfterTheGracefulTimeout) {
    Server& server = start({"--graceful-timeout", "1"});
    Client client = server.connect();
    client.send(make_request("GET", "/sleep?s=30"));
    ASSERT_TRUE(noted("sleeping"));
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(Milliseconds(10'000)), 0) << server.story();
}

TEST_P(Signals, TermIsNotDelayedByAnIdleConnection) {
    SKIP_ON_GUNICORN("gthread waits for it");
    Server& server = start({"--keep-alive", "600", "--graceful-timeout", "600"});
    Client client = server.connect();
    EXPECT_EQ(client.get("/").status, 200);
    Client silent = server.connect();
    server.signal(SIGTERM);
    EXPECT_TRUE(client.closes_within(kDeadline));
    EXPECT_EQ(server.exit_code(), 0) << server.story();  // within its deadline
}

TEST_P(Signals, AKilledWorkerIsReplaced) {
    Server& server = start();
    const pid_t victim = server.workers().at(0);
    ::kill(victim, SIGKILL);
    EXPECT_TRUE(eventually([&] {
        const std::vector<pid_t> now = server.workers();
        return now.size() == GetParam().workers &&
               std::find(now.begin(), now.end(), victim) == now.end();
    })) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    if (gunicorn_version() != 20) {
        const std::string line = "Worker (pid:" + std::to_string(victim) + ") was sent SIGKILL!";
        EXPECT_TRUE(server.logs(line)) << server.story();
    }
}

TEST_P(Signals, AWorkerThatHangsIsAbortedAndReplaced) {
    if (GetParam().is_threaded) GTEST_SKIP() << "a busy thread does not stop the heartbeat";
    Server& server = start({"-t", "1"});
    const std::vector<pid_t> before = server.workers();
    Client client = server.connect();
    client.send(make_request("GET", "/busy?s=60"));
    ASSERT_TRUE(noted("busy"));
    EXPECT_TRUE(server.logs("WORKER TIMEOUT (pid:")) << server.story();
    EXPECT_TRUE(eventually([&] {
        const std::vector<pid_t> now = server.workers();
        return now.size() == before.size() && now != before;
    })) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
}

TEST_P(Signals, RotatingTheLogsEndsNoWorkerThatBoots) {
    SKIP_ON_GUNICORN("such a worker dies");
    const std::string hook =
        "import os, time\n"
        "def post_fork(server, worker):\n"
        "    while not os.path.exists(os.environ['GO']):\n"
        "        time.sleep(0.01)\n";
    ServerOptions options = with({"-c", scratch_.write("hooks.py", hook)});
    options.env["GO"] = scratch_ / "go";
    Server server(options);
    ASSERT_TRUE(server.has_workers(GetParam().workers)) << server.story();
    const std::vector<pid_t> workers = server.workers();
    server.signal(SIGUSR1);
    ASSERT_TRUE(server.logs("Handling signal: usr1")) << server.story();
    scratch_.write("go", "");
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    EXPECT_EQ(server.workers(), workers) << server.story();
}

// posix is os, but never patched by greenlet libraries; the alarm ends a child that survives its
// signal.
constexpr const char* kForkingApp =
    "import posix, signal\n"
    "def app(environ, start_response):\n"
    "    number = int(environ['PATH_INFO'][1:] or 0)\n"
    "    pid = posix.fork() if number else 0\n"
    "    if number and pid == 0:\n"
    "        signal.alarm(10)\n"
    "        while True:\n"
    "            signal.pause()\n"
    "    body = b'-'\n"
    "    if number:\n"
    "        posix.kill(pid, number)\n"
    "        body = str(posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])).encode()\n"
    "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
    "    return [body]\n";

TEST_P(Signals, ToAChildOfTheApplicationEndTheChildOnly) {
    SKIP_ON_GUNICORN("its children do not end by TERM");
    ServerOptions options = with();
    scratch_.write("forking.py", kForkingApp);
    options.app = "forking:app";
    options.directory = scratch_.path();
    Server server(options);
    EXPECT_EQ(server.get("/").body, "-") << server.story();
    ASSERT_TRUE(server.has_workers(GetParam().workers)) << server.story();
    const std::vector<pid_t> workers = server.workers();
    for (const int number : {SIGTERM, SIGINT, SIGABRT})
        EXPECT_EQ(server.get("/" + std::to_string(number)).body, std::to_string(-number));
    EXPECT_EQ(server.get("/").body, "-") << server.story();
    EXPECT_EQ(server.workers(), workers) << server.story();
}

// Applications and what they load (tracers, metrics) put handlers of their own in front of the one
// that getsignal() returns, set that one again, or exit in their own.
TEST_P(Signals, TermStopsAWorkerWhoseApplicationHandlesIt) {
    if (is_gunicorn() && GetParam().name == "eventlet") GTEST_SKIP() << "gunicorn's may stay";
    for (const char* const end : {"before(number, frame)", "sys.exit(0)"}) {
        scratch_.write("handling.py",
                       "import signal, sys\n"
                       "from probe import app, note\n"
                       "for name in 'TERM', 'INT', 'QUIT', 'ABRT', 'USR1', 'USR2', 'HUP', 'CHLD':\n"
                       "    number = getattr(signal, 'SIG' + name)\n"
                       "    signal.signal(number, signal.getsignal(number))\n"
                       "before = signal.getsignal(signal.SIGTERM)\n"
                       "def handle(number, frame):\n"
                       "    note('handled')\n"
                       "    " +
                           std::string(end) +
                           "\n"
                           "signal.signal(signal.SIGTERM, handle)\n");
        ServerOptions options = with({"--chdir", scratch_.path()});
        options.app = "handling:app";
        options.env["PYTHONPATH"] = apps_dir();
        options.env["PROBE_LOG"] = scratch_ / "events";
        scratch_.write("events", "");
        Server server(options);
        EXPECT_EQ(server.get("/").status, 200) << server.story();
        server.signal(SIGTERM);
        EXPECT_EQ(server.exit_code(), 0) << server.story();
        EXPECT_TRUE(noted("handled")) << server.story();
        EXPECT_EQ(count(server.err(), "SIGKILL"), 0U) << server.story();
        EXPECT_EQ(count(server.err(), "exited with code"), 0U) << server.story();
    }
}

// A launcher that waits for signals by sigwait(3) or signalfd(2) may leave them blocked in its
// children.
TEST_P(Signals, AreHeardThoughTheParentBlockedThem) {
    SKIP_ON_GUNICORN("it stays deaf");
    sigset_t all, before;
    sigfillset(&all);
    ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &all, &before), 0);
    Server& server = start();
    ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
    const pid_t killed = server.workers().at(0);
    ::kill(killed, SIGKILL);
    EXPECT_TRUE(eventually([&] {
        const std::vector<pid_t> workers = server.workers();
        return workers.size() == GetParam().workers && std::ranges::count(workers, killed) == 0;
    })) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_EQ(count(server.err(), "SIGKILL! By gcorn"), 0U) << server.story();
}

// SIG_IGN would survive exec: a program that ignores HUP, a script whose `trap` does nothing.
TEST_P(Signals, AreNotIgnoredByProgramsThatTheApplicationStarts) {
    scratch_.write(
        "starting.py",
        "import signal, subprocess\n"
        "def ignored():\n"
        "    command = ['grep', 'SigIgn', '/proc/self/status']\n"
        "    mask = subprocess.run(command, stdout=subprocess.PIPE).stdout.split()[1]\n"
        "    ours = (signal.SIGHUP, signal.SIGUSR2, signal.SIGWINCH)  # others: inherited\n"
        "    return b'%d' % sum(int(mask, 16) >> number - 1 & 1 for number in ours)\n"
        "imported = ignored()\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [imported, b' ', ignored()]\n");
    ServerOptions options = with({"--chdir", scratch_.path()});
    options.app = "starting:app";
    Server server(options);
    EXPECT_EQ(server.get("/").body, "0 0") << server.story();
    const std::vector<pid_t> workers = server.workers();
    for (const int number : {SIGHUP, SIGUSR2, SIGWINCH})  // they still end no worker
        if (!is_gunicorn()) ::kill(workers.at(0), number);
    EXPECT_EQ(server.get("/").body, "0 0") << server.story();
    EXPECT_EQ(server.workers(), workers) << server.story();
}

// A signal that no handler hears of: a library took the wake-up descriptor or the C handler, or
// blocks it.
TEST_P(Signals, TermStopsAWorkerThatDoesNotHearIt) {
    SKIP_ON_GUNICORN("its workers wait for KILL");
    const std::string kinds[] = {
        "asyncio.new_event_loop().add_signal_handler(signal.SIGTERM, print)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})",
    };
    for (const std::string& deafen : kinds) {
        scratch_.write("deaf.py",
                       "import asyncio, signal\n"
                       "from probe import app\n" +
                           deafen + "\n");
        ServerOptions options = with({"--chdir", scratch_.path(), "-t", "3"});
        options.app = "deaf:app";
        options.env["PYTHONPATH"] = apps_dir();
        Server server(options);
        EXPECT_EQ(server.get("/").status, 200) << server.story();
        server.signal(SIGTERM);
        EXPECT_EQ(server.exit_code(), 0) << server.story();
        EXPECT_EQ(count(server.err(), "SIGKILL"), 0U) << deafen << server.story();
    }
}

TEST_P(Signals, WhatAChildOfTheApplicationHandlesIsItsOwn) {
    SKIP_ON_GUNICORN("its children go on serving, or log as the worker they were");
    scratch_.write("forking.py",
                   "import os, posix, signal, sys, time\n"
                   "def app(environ, start_response):\n"
                   "    end = {'/exit': sys.exit, '/_exit': posix._exit}[environ['PATH_INFO']]\n"
                   "    ready, told = posix.pipe()\n"
                   "    pid = os.fork()\n"
                   "    if pid == 0:\n"
                   "        signal.signal(signal.SIGTERM, lambda number, frame: end(5))\n"
                   "        posix.write(told, b'.')\n"
                   // signal() checks for signals, which CPython 3.13 misses in a thread's child
                   "        while True: signal.signal(signal.SIGUSR2, signal.SIG_IGN)\n"
                   "    posix.read(ready, 1)\n"
                   "    posix.kill(pid, signal.SIGTERM)\n"
                   "    body = b'%d' % posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])\n"
                   "    start_response('200 OK', [('Content-Length', '1')])\n"
                   "    return [body]\n");
    ServerOptions options = with();
    options.app = "forking:app";
    options.directory = scratch_.path();
    Server server(options);
    ASSERT_TRUE(server.has_workers(GetParam().workers)) << server.story();
    for (const char* const path : {"/_exit", "/exit", "/exit", "/_exit"})
        EXPECT_EQ(server.get(path).body, "5") << path << server.story();
    EXPECT_EQ(count(server.err(), "Worker exiting"), 0U) << server.story();
}

TEST_P(Signals, ToAChildOfAHookEndTheChildOnly) {
    SKIP_ON_GUNICORN("its children do not end by TERM");
    const std::string hook =
        "import os, signal\n"
        "def when_ready(server):\n"
        "    pid = os.fork()\n"
        "    while pid == 0:\n"
        "        signal.pause()\n"
        "    with open('" +
        (scratch_ / "helper") +
        "', 'w') as file:\n"
        "        file.write('%d.' % pid)\n";
    Server server(with({"-c", scratch_.write("hooks.py", hook)}));
    ASSERT_EQ(server.get("/").status, 200) << server.story();
    ASSERT_TRUE(server.has_workers(GetParam().workers + 1)) << server.story();
    const pid_t helper = std::stoi(read_file(scratch_ / "helper"));
    ASSERT_TRUE(is_alive(helper));
    for (const int number : {SIGHUP, SIGUSR1, SIGTERM})
        ::kill(helper, number);
    EXPECT_TRUE(eventually([&] { return !is_alive(helper); })) << server.story();
    server.signal(SIGTTIN);  // is handled after all that the arbiter got before
    EXPECT_TRUE(server.logs("Handling signal: ttin")) << server.story();
    EXPECT_EQ(count(server.err(), "Handling signal: "), 1U) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
}

TEST_P(Signals, WorkersLeaveWhenTheArbiterIsKilled) {
    if (is_gunicorn() && GetParam().name == "eventlet") GTEST_SKIP() << "gunicorn's may stay";
    Server& server = start({"-t", "4"});  // gunicorn's sync checks twice in that time
    const std::vector<pid_t> workers = server.workers();
    server.signal(SIGKILL);
    EXPECT_EQ(server.exit_code(), 128 + SIGKILL);
    EXPECT_TRUE(eventually([&] { return std::none_of(workers.begin(), workers.end(), is_alive); },
                           Milliseconds(10'000)))
        << server.story();
}

TEST_P(Signals, AtexitHandlersOfTheApplicationRun) {
    const TempDir site;
    site.write("leaving.py",
               "import atexit, os\n"
               "from probe import app, note\n"
               "atexit.register(note, 'left in order')\n");
    ServerOptions options = with({"--chdir", site.path()});
    options.app = "leaving:app";
    options.env["PYTHONPATH"] = apps_dir();
    options.env["PROBE_LOG"] = scratch_ / "events";
    Server server(options);
    EXPECT_EQ(server.get("/").status, 200);
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_TRUE(noted("left in order")) << server.story();
}

}  // namespace
}  // namespace gcorn::e2e
