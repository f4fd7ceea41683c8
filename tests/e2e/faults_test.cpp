// What the machine can do to a server: no more processes, no more descriptors, a read-only
// directory, a wall clock that steps, killed workers, a killed arbiter, a foreign child. Linux.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "tests/support/daemon.h"
#include "tests/support/e2e.h"
#include "tests/support/load.h"

namespace gcorn::e2e {
namespace {

/// Sets only the soft limit, which the process may raise again.
void limit(pid_t pid, int resource, rlim_t value) {
    rlimit now{};
    ASSERT_EQ(::prlimit(pid, static_cast<__rlimit_resource>(resource), nullptr, &now), 0);
    now.rlim_cur = std::min(value, now.rlim_max);
    ASSERT_EQ(::prlimit(pid, static_cast<__rlimit_resource>(resource), &now, nullptr), 0);
}

class Faults : public PerEngine {
protected:
    void SetUp() override { SKIP_ON_GUNICORN("not what these tests are about"); }
};
FOR_EVERY_ENGINE(Faults);

TEST_P(Faults, ASmallStackIsEnoughForALargeAnswer) {
    const std::string& worker_class = GetParam().args[1];
    if (worker_class != "sync" && worker_class != "gthread")
        GTEST_SKIP() << "to import its library takes Python more";
    rlimit stack{};
    ASSERT_EQ(::getrlimit(RLIMIT_STACK, &stack), 0);
    limit(0, RLIMIT_STACK, 64 * 1024);  // ours as well, until the server has inherited it
    const Server server(with());
    ASSERT_EQ(::setrlimit(RLIMIT_STACK, &stack), 0);
    EXPECT_EQ(server.get("/block?n=30000000").body.size(), 30'000'000u) << server.story();
}

TEST_P(Faults, RunningOutOfDescriptorsIsSurvived) {
    Server server(with());
    ASSERT_TRUE(server.has_workers(GetParam().workers));
    EXPECT_EQ(server.get("/").status, 200);
    for (const pid_t worker : server.workers())
        limit(worker, RLIMIT_NOFILE, open_descriptors(worker) + 8);
    std::vector<Client> idle;
    for (int i = 0; i < 60; ++i) {
        idle.push_back(server.connect());
        idle.back().send("GET / HTTP/1.1\r\n");  // an unfinished head
    }
    // Once the idle connections are gone, new clients are answered again.
    const std::vector<pid_t> before = server.workers();
    idle.clear();
    EXPECT_TRUE(eventually([&] { return server.get("/").status == 200; })) << server.story();
    EXPECT_EQ(server.workers(), before) << server.story();
    EXPECT_LT(count(server.err(), "\n"), 200U) << "a line for every attempt";
}

TEST_P(Faults, AWorkerWhoseDescriptorsTheApplicationKeepsIsReplaced) {
    const TempDir site;
    site.write("leaks.py",
               "import os, threading, time\n"
               "kept = []\n"
               "def leak():\n"
               "    while True:\n"
               "        try: kept.append(os.open('/', os.O_RDONLY))\n"
               "        except OSError: time.sleep(0.01)\n"
               "def app(environ, start_response):\n"
               "    if environ['PATH_INFO'] == '/leak':\n"
               "        threading.Thread(target=leak, daemon=True).start()\n"
               "    start_response('200 OK', [])\n"
               "    return [b'ok']\n");
    ServerOptions options = with();
    options.app = "leaks:app";
    options.directory = site.path();
    Server server(options);
    ASSERT_TRUE(server.has_workers(GetParam().workers));
    const std::vector<pid_t> before = server.workers();
    for (const pid_t worker : before)
        limit(worker, RLIMIT_NOFILE, open_descriptors(worker) + 8);
    for (size_t i = 0; i < before.size(); ++i)
        server.get("/leak");
    // Clients wait in the backlog, unless a sibling takes them.
    EXPECT_TRUE(eventually([&] {
        Client waiting = server.connect();
        waiting.send(make_request("GET", "/"));
        return server.logs("it has no file descriptors left", Milliseconds(1000));
    })) << server.story();
    EXPECT_TRUE(eventually([&] { return server.get("/").status == 200; })) << server.story();
}

TEST_P(Faults, AChildThatTheApplicationForksMayEndAsAScriptDoes) {
    Server server(with());
    ASSERT_TRUE(server.has_workers(GetParam().workers));
    const std::vector<pid_t> before = server.workers();
    for (int i = 0; i < 5; ++i) {
        const Response response = server.get("/fork_and_exit");
        EXPECT_EQ(response.status, 200) << response << server.story();
        EXPECT_EQ(response.body, "child ended with 7") << server.story();
    }
    EXPECT_EQ(server.workers(), before) << server.story();
    EXPECT_EQ(server.err().find("ERROR"), std::string::npos) << server.err();
}

// It inherits the sockets of all clients. When the server closes one, the client must hear of it,
// not wait until the child ends, too.
TEST_P(Faults, AChildThatTheApplicationForksHoldsNoConnectionOpen) {
    const TempDir site;
    site.write("forks.py",
               "import os\n"
               "def app(environ, start_response):\n"
               "    end, held_by_worker = os.pipe()\n"
               "    if os.fork() == 0:\n"
               "        os.close(held_by_worker)\n"
               "        os.read(end, 1)\n"
               "        os._exit(0)\n"
               "    os.close(end)\n"
               "    start_response('200 OK', [('Content-Length', '2')])\n"
               "    yield b'o'\n"
               "    if environ['PATH_INFO'] != '/cut': yield b'k'\n");
    ServerOptions options = with({"--keep-alive", "1"});
    options.app = "forks:app";
    options.directory = site.path();
    Server server(options);
    Client idle = server.connect(), cut = server.connect();
    EXPECT_EQ(idle.get("/").body, "ok") << server.story();
    ASSERT_TRUE(cut.send("GET /cut HTTP/1.1\r\nHost: x\r\n\r\n"));
    EXPECT_TRUE(cut.read_to_end().ends_with("\r\n\r\no")) << server.story();
    EXPECT_TRUE(idle.closes_within(kDeadline)) << server.story();
    Client kept = server.connect();
    EXPECT_EQ(kept.get("/").body, "ok") << server.story();
    server.signal(SIGTERM);
    EXPECT_TRUE(kept.closes_within(kDeadline)) << server.story();
    EXPECT_EQ(server.exit_code(), 0) << server.story();
}

// The kernel would give its copy of a worker's own listener a share of the connections.
TEST_P(Faults, AChildThatTheApplicationForksTakesNoConnectionsWhenItsWorkerStops) {
    const TempDir site;
    // One that stays, like a daemon: it only ends with this test.
    site.write("forks.py",
               "import os\n"
               "def app(environ, start_response):\n"
               "    if environ['PATH_INFO'] == '/fork' and os.fork() == 0:\n"
               "        open('held').read()\n"
               "        os._exit(0)\n"
               "    start_response('200 OK', [('Content-Length', '2')])\n"
               "    return [b'ok']\n");
    ASSERT_EQ(::mkfifo((site / "held").c_str(), 0600), 0);
    const Fd held(::open((site / "held").c_str(), O_RDWR | O_CLOEXEC));
    ServerOptions options = with({"--reuse-port"});
    options.app = "forks:app";
    options.directory = site.path();
    Server server(options);
    EXPECT_EQ(server.get("/fork").body, "ok") << server.story();
    server.signal(SIGHUP);
    ASSERT_TRUE(eventually([&] {
        return count(server.err(), "Worker exiting") == GetParam().workers;
    })) << server.story();
    for (int i = 0; i < 20; ++i)
        EXPECT_EQ(server.get("/").body, "ok") << server.story();
}

TEST_P(Faults, AChildThatAnImportTheConfigFileOrAHookForksMayEndSoToo) {
    const TempDir site;
    const std::string fork =
        "import os, sys\n"
        "def fork(*_):\n"
        "    pid = os.fork()\n"
        "    if pid == 0: sys.exit(7)\n"
        "    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "    os.write(2, b'child ended with %d\\n' % status)\n";
    site.write("forks.py", fork +
                               "fork()\n"
                               "class Result(list):\n"
                               "    close = fork\n"
                               "def app(environ, start_response):\n"
                               "    start_response('200 OK', [('Content-Length', '2')])\n"
                               "    return Result([b'ok'])\n");
    const std::string hooks =
        fork +
        "fork()\n"
        "on_starting = when_ready = post_worker_init = on_exit = lambda one: fork()\n"
        "pre_fork = post_fork = worker_exit = child_exit = pre_request = lambda one, two: fork()\n"
        "post_request = lambda worker, req, environ, resp: fork()\n";
    ServerOptions options = with({"-c", site.write("hooks.py", hooks), "-p", site / "gcorn.pid"});
    options.app = "forks:app";
    options.directory = site.path();
    Server server(options);
    const size_t workers = GetParam().workers;
    ASSERT_TRUE(server.has_workers(workers)) << server.story();
    EXPECT_EQ(server.get("/").body, "ok") << server.story();
    EXPECT_TRUE(std::filesystem::exists(site / "gcorn.pid")) << server.story();
    const auto ended = [&] { return count(server.err(), "child ended with 7\n"); };
    // The config file, on_starting, when_ready; pre_request, close(), post_request; for each worker
    // pre_fork, post_fork, the import, post_worker_init.
    EXPECT_TRUE(eventually([&] { return ended() == 3 + 3 + 4 * workers; })) << server.story();
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    // worker_exit and child_exit; on_exit
    EXPECT_EQ(ended(), 6 + 4 * workers + 2 * workers + 1) << server.err();
    EXPECT_EQ(count(server.err(), "Worker exiting"), workers) << server.err();
    // Since Python 3.13 an assertion of eventlet fails wherever a greenlet forks.
    if (GetParam().args[1] != "eventlet") {
        EXPECT_EQ(server.err().find("Traceback"), std::string::npos) << server.err();
    }
}

TEST_P(Faults, AWorkerThatLeavesSparesTheProcessesThatMultiprocessingStartedInTheArbiter) {
    const TempDir site;
    const std::string starts =
        "import multiprocessing, time\n"
        "def on_starting(server):\n"
        "    for daemon in True, False:\n"
        "        child = multiprocessing.Process(target=time.sleep, args=(60,), daemon=daemon)\n"
        "        child.start()\n"
        "        print('started', child.pid, flush=True)\n"
        "        server.last = child\n"
        "def on_exit(server):\n"
        "    server.last.terminate()\n";
    ServerOptions options = with({"-c", site.write("starts.py", starts)});
    Server server(options);
    ASSERT_TRUE(server.has_workers(GetParam().workers + 2)) << server.story();
    std::vector<pid_t> started;
    for (size_t at = 0; (at = server.out().find("started ", at)) != std::string::npos; ++at)
        started.push_back(std::stoi(server.out().substr(at + 8)));
    ASSERT_EQ(started.size(), 2U) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    server.signal(SIGHUP);
    EXPECT_TRUE(eventually([&] {
        return server.err().find("Worker exiting") != std::string::npos &&
               server.workers().size() == GetParam().workers + 2;
    })) << server.story();
    for (const pid_t pid : started)
        EXPECT_EQ(::kill(pid, 0), 0) << server.story();
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_EQ(server.err().find("can only join"), std::string::npos) << server.err();
}

TEST_P(Faults, AChildThatTheConfigFileForksIsNoSecondArbiter) {
    const TempDir site;
    const std::string file = site.write("forks.py",
                                        "import os, sys\n"
                                        "if os.fork() == 0: sys.exit(7)\n"
                                        "os.write(2, b'child: %d\\n' % (os.wait()[1] >> 8))\n");
    Server server(with({"-c", file}));
    ASSERT_TRUE(server.has_workers(GetParam().workers)) << server.story();
    server.signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return count(server.err(), "child: 7\n") == 2; }))
        << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_EQ(server.err().find("sys.exit"), std::string::npos) << server.err();
}

TEST_P(Faults, KillingWorkersLosesOnlyWhatTheyRan) {
    const Server server(with({"-w", "3"}));
    ASSERT_TRUE(server.has_workers(3));
    Client bystander = server.connect();
    EXPECT_EQ(bystander.get("/").status, 200);
    size_t lost = 0;
    for (int i = 0; i < 20; ++i) {
        std::vector<pid_t> workers;
        ASSERT_TRUE(eventually([&] {
            workers = server.workers();
            return workers.size() == 3;
        })) << server.story();
        ::kill(workers.at(static_cast<size_t>(i) % 3), SIGKILL);
        // Nothing runs in that worker: a new connection goes to another one.
        if (server.get("/").status != 200) ++lost;
    }
    EXPECT_EQ(lost, 0U) << server.story();
}

TEST_P(Faults, WorkersOfAKilledArbiterLeaveSoon) {
    Server server(with({"-w", "3", "--log-level", "debug"}));
    ASSERT_TRUE(server.has_workers(3));
    EXPECT_TRUE(eventually([&] { return count(server.err(), ") is ready after") == 3; }));
    const std::vector<pid_t> workers = server.workers();
    const auto begin = std::chrono::steady_clock::now();
    server.signal(SIGKILL);
    EXPECT_TRUE(eventually([&] { return std::none_of(workers.begin(), workers.end(), is_alive); }));
    // Two seconds are promised; the rest is slack for a busy machine, and far below any timeout.
    EXPECT_LT(std::chrono::steady_clock::now() - begin, Milliseconds(8000));
}

/// An application that never returns, from its import or from a call, and never releases the GIL.
class Held : public Faults {
protected:
    Held() {
        site_.write("holding.py",
                    "import ctypes, os, threading, time\n"
                    "import probe\n"
                    "def hold(where):\n"
                    "    probe.note(where)\n"
                    "    while True:\n"
                    "        ctypes.PyDLL(None).sleep(60)  # keeps the GIL\n"
                    "def stand_by():\n"
                    "    time.sleep(60)\n"
                    "threading.Thread(target=stand_by, daemon=True).start()\n"
                    "if os.environ['HOLDS'] == 'import':\n"
                    "    hold('import')\n"
                    "def app(environ, start_response):\n"
                    "    hold('call')\n");
    }
    [[nodiscard]] ServerOptions held_in(const std::string& where,
                                        const std::vector<std::string>& more = {}) const {
        ServerOptions options = with(more);
        options.args.insert(options.args.end(), {"-w", "1", "--chdir", site_.path()});
        options.app = "holding:app";
        options.env = {
            {"PYTHONPATH", apps_dir()}, {"HOLDS", where}, {"PROBE_LOG", site_ / ("in " + where)}};
        return options;
    }
    [[nodiscard]] bool is_held_in(const std::string& where) const {
        return eventually([&] { return read_file(site_ / ("in " + where)) == where + "\n"; });
    }
    /// Whether any worker ever got that far.
    [[nodiscard]] bool was_held_in(const std::string& where) const {
        return !read_file(site_ / ("in " + where)).empty();
    }

private:
    TempDir site_;
};
FOR_EVERY_ENGINE(Held);

// Goal: leaving needs neither the loop nor the interpreter.
TEST_P(Held, LeavesSoonWhenItsArbiterIsKilled) {
    for (const std::string where : {"import", "call"}) {
        Server server(held_in(where));
        Client client = server.connect();
        client.send(make_request("GET", "/"));
        ASSERT_TRUE(is_held_in(where)) << server.story();
        const pid_t worker = server.workers().at(0);
        const auto begin = std::chrono::steady_clock::now();
        server.signal(SIGKILL);
        EXPECT_TRUE(eventually([&] { return !is_alive(worker); })) << where << server.story();
        EXPECT_LT(std::chrono::steady_clock::now() - begin, Milliseconds(8000)) << where;
    }
}

TEST_P(Held, IsToldWithItsRequestAndTheStacksOfAllThreads) {
    Server server(held_in("call", {"-t", "1"}));
    Client client = server.connect();
    client.send(make_request("GET", "/held?x=1"));
    ASSERT_TRUE(is_held_in("call")) << server.story();
    const pid_t pid = server.workers().at(0);
    const std::string worker = "(pid:" + std::to_string(pid) + ")";
    EXPECT_TRUE(server.logs("[CRITICAL] WORKER TIMEOUT " + worker)) << server.story();
    EXPECT_TRUE(server.logs("Worker " + worker + " was running: GET /held?x=1 for 1."));
    EXPECT_TRUE(server.logs(" s, in the application, from 127.0.0.1\n")) << server.story();
    EXPECT_TRUE(eventually([&] { return !is_alive(pid); })) << server.story();
    EXPECT_TRUE(eventually([&] {
        const std::vector<pid_t> now = server.workers();
        return now.size() == 1 && now.at(0) != pid;
    })) << server.story();
    const std::string log = server.err();
    const size_t stack = log.find("holding.py\", line 6 in hold");
    EXPECT_LT(stack, std::min(log.find("was sent SIGKILL"), log.find("exited with code")))
        << server.story();
    const std::string& engine = GetParam().name;
    const bool has_threads = engine != "gevent" && engine != "eventlet";
    EXPECT_EQ(contains(log, "in stand_by"), has_threads) << server.story();
}

TEST_P(Held, EndsTheStartAfterItsBootTimeout) {
    // Loading greenlet libraries is part of the boot: on a busy machine it may use up the whole
    // limit.
    for (const char* limit : {"1", "4", "10"}) {
        Server server(held_in("import", {"--boot-timeout", limit}));
        EXPECT_EQ(server.exit_code(), 3) << server.story();
        const std::string log = server.err();
        EXPECT_TRUE(contains(log, "[CRITICAL] WORKER BOOT TIMEOUT (pid:")) << log;
        EXPECT_TRUE(contains(log, "Reason: Worker failed to boot.")) << log;
        if (!was_held_in("import")) continue;
        EXPECT_TRUE(contains(log, "holding.py\", line 6 in hold")) << log;
        return;
    }
    ADD_FAILURE() << "no worker came as far as its application";
}

/// The year in an answer's Date.
int year_of(const Response& answer) {
    const std::string date = answer.field("Date");
    return date.size() == 29 ? std::atoi(date.substr(12, 4).c_str()) : 0;
}

// Goal: Date and log lines follow the clock; no deadline, heartbeat or duration does.
TEST_P(Faults, StepsOfTheWallClockEndNothing) {
    using Clock = std::chrono::steady_clock;
    constexpr int kYears = 3;
    const TempDir scratch;
    const std::string step = std::to_string(kYears * 366 * 86400);
    ServerOptions options =
        with({"-w", "2", "--timeout", "6", "--header-timeout", "3", "--keep-alive", "60",
              "--graceful-timeout", "5", "--access-logfile", scratch / "access",
              "--access-logformat", "%(D)s"});
    options.env["LD_PRELOAD"] = GCORN_CLOCK_STEP;
    options.env["CLOCK_STEP"] = scratch / "clock";
    options.env["PROBE_LOG"] = scratch / "events";
    Server server(options);
    ASSERT_TRUE(server.has_workers(2));
    Client kept = server.connect();
    const int year = year_of(kept.get("/"));
    ASSERT_GT(year, 2000);
    const std::vector<pid_t> workers = server.workers();
    size_t calls = 0;
    for (const auto& [seconds, years] :
         std::vector<std::pair<std::string, int>>{{step, kYears}, {"-" + step, -kYears}}) {
        Client halved = server.connect();
        ASSERT_TRUE(halved.send("GET / HTTP/1.1\r\n"));
        const auto begin = Clock::now();
        Client busy = server.connect();
        ASSERT_TRUE(busy.send(make_request("GET", "/sleep?s=2")));
        ++calls;
        ASSERT_TRUE(eventually([&] {
            const std::string events = read_file(scratch / "events");
            return static_cast<size_t>(std::count(events.begin(), events.end(), '\n')) == calls;
        })) << server.story();
        scratch.write("clock", seconds);
        const Response now = kept.get("/");
        EXPECT_EQ(now.status, 200) << server.story();
        EXPECT_NEAR(year_of(now), year + years, 1) << "the clock did step";
        EXPECT_EQ(busy.read_response().status, 200) << server.story();
        const std::string end = halved.read_to_end();
        EXPECT_FALSE(end.ends_with(Client::kStillOpen)) << "header_timeout still counts";
        EXPECT_GE(Clock::now() - begin, Milliseconds(2500)) << end;
        EXPECT_EQ(server.workers(), workers) << server.story();
    }
    EXPECT_FALSE(contains(server.err(), "WORKER TIMEOUT")) << server.story();
    std::istringstream lines(read_file(scratch / "access"));
    size_t logged = 0;
    for (std::string line; std::getline(lines, line); ++logged) {
        if (line == "-") continue;  // a request that never began
        EXPECT_GE(std::atol(line.c_str()), 0) << line;
        EXPECT_LT(std::atol(line.c_str()), 60'000'000) << line;
    }
    EXPECT_GE(logged, 5U);
    // A worker that hangs is still ended in time, and the stop takes no longer than usual.
    if (GetParam().args[1] != "gthread") {  // there, the other threads still beat
        Client hung = server.connect();
        hung.send(make_request("GET", "/busy?s=60"));
        EXPECT_TRUE(server.logs("WORKER TIMEOUT")) << server.story();
    }
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
}

/// A server that runs as a user of its own, whose processes and threads can be limited in number.
class NoProcesses : public Faults {
protected:
    void SetUp() override {
        Faults::SetUp();
        if (IsSkipped()) return;
        if (::geteuid() != 0) GTEST_SKIP() << "a limit for another user needs root";
        ASSERT_EQ(::chmod(place_.path().c_str(), 0777), 0);
        std::filesystem::copy_file(server_command().at(0), place_ / "gcorn");
        std::filesystem::copy_file(apps_dir() + "/hello.py", place_ / "hello.py");
        // python drops root, so that the limit counts, and becomes the server.
        const std::string start = become_ + "os.execv(sys.argv[1], sys.argv[1:])";
        std::string engine;
        for (const std::string& word : GetParam().args)
            engine += " " + word;
        const std::string command =
            "exec " + python() + " -c '" + start + "' " + (place_ / "gcorn") + engine +
            " -w 1 -b 127.0.0.1:" + std::to_string(at_.port) + " -p " + (place_ / "pid") +
            " --chdir " + place_.path() + " hello:app 2>" + (place_ / "log") + " &";
        run({"/bin/sh", "-c", command}, {{"HOME", place_.path()}}, place_.path());
        ASSERT_TRUE(eventually([&] { return Client(at_).connected(); })) << log();
        ASSERT_TRUE(serves()) << log();
        arbiter_ = std::atoi(read_file(place_ / "pid").c_str());
        ASSERT_GT(arbiter_, 1);
        worker_ = children_of(arbiter_).at(0);
    }
    void TearDown() override {
        if (arbiter_ <= 1) return;
        ::kill(arbiter_, SIGTERM);
        EXPECT_TRUE(eventually([&] { return !is_alive(arbiter_); })) << log();
    }
    [[nodiscard]] std::string log() const { return read_file(place_ / "log"); }
    [[nodiscard]] bool logs(const std::string& text) const {
        return eventually([&] { return contains(log(), text); });
    }
    [[nodiscard]] bool serves() const { return fetch(at_, "GET", "/").status == 200; }
    /// `number` is a Python expression; "hard" lifts the limit.
    void limit_processes(const std::string& number) const {
        const std::string code = become_ +
                                 "import resource\n"
                                 "kind, pid = resource.RLIMIT_NPROC, int(sys.argv[1])\n"
                                 "hard = resource.prlimit(pid, kind)[1]\n"
                                 "resource.prlimit(pid, kind, (" +
                                 number + ", hard))";
        const Finished done = run({python(), "-c", code, std::to_string(arbiter_)});
        EXPECT_EQ(done.code, 0) << done;
    }
    /// Threads that count against the limit.
    [[nodiscard]] size_t threads() const {
        size_t sum = 0;
        for (const pid_t pid : {arbiter_, worker_}) {
            const std::filesystem::directory_iterator tasks("/proc/" + std::to_string(pid) +
                                                            "/task");
            sum += static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
        }
        return sum;
    }

    pid_t arbiter_ = 0, worker_ = 0;

private:
    const TempDir place_;
    const Endpoint at_{.port = free_port()};
    /// Python code that makes the process a user that no other test is at the same time.
    const std::string user_ = std::to_string(60'000 + ::getpid() % 5'000);
    const std::string become_ =
        "import os, sys\nos.setgid(" + user_ + "); os.setuid(" + user_ + ")\n";
};
FOR_EVERY_ENGINE(NoProcesses);

TEST_P(NoProcesses, AForkThatFailsIsToldAndTriedAgain) {
    limit_processes("1");
    ::kill(arbiter_, SIGTTIN);  // a second worker is wanted but cannot be forked
    EXPECT_TRUE(logs("fork")) << log();
    EXPECT_TRUE(serves()) << log();
    limit_processes("hard");
    EXPECT_TRUE(eventually([&] { return children_of(arbiter_).size() == 2; })) << log();
    EXPECT_EQ(children_of(arbiter_).at(0), worker_);
}

// Goal: no old worker is retired for a new one that has a process but not its threads.
TEST_P(NoProcesses, AWorkerWithoutItsThreadsIsNotReady) {
    limit_processes(std::to_string(threads() + 1));
    ::kill(arbiter_, SIGHUP);
    EXPECT_TRUE(logs("Reload failed, keeping the old workers and settings")) << log();
    EXPECT_TRUE(serves()) << log();
    ::kill(arbiter_, SIGTTIN);
    EXPECT_TRUE(logs("No new worker for 1 s: Worker failed to boot.")) << log();
    EXPECT_TRUE(serves()) << log();
    EXPECT_TRUE(is_alive(worker_)) << log();
    limit_processes("hard");
    EXPECT_TRUE(eventually([&] { return children_of(arbiter_).size() == 2; })) << log();
}

TEST_P(Faults, APidFileThatCannotBeWrittenEndsTheStart) {
    // root may write everywhere except in /proc.
    const Finished finished = run_server(
        GetParam() + std::vector<std::string>{"-b", "127.0.0.1:" + std::to_string(free_port()),
                                              "-p", "/proc/gcorn.pid", "probe:app"});
    EXPECT_EQ(finished.code, 1) << finished;
    EXPECT_TRUE(contains(finished.err, "/proc")) << finished;
    EXPECT_FALSE(contains(finished.err, "Traceback")) << finished;
}

TEST_P(Faults, APidFileThatCannotBeMovedStaysWhereItIs) {
    const TempDir scratch;
    const std::string config = scratch.write("conf.py", "pidfile = '" + (scratch / "pid") + "'\n");
    Server server(with({"-c", config}));
    ASSERT_TRUE(server.has_workers(GetParam().workers)) << server.story();
    scratch.write("conf.py", "pidfile = '/proc/gcorn.pid'\n");
    server.signal(SIGHUP);
    ASSERT_TRUE(server.logs("create pid file '/proc/gcorn.pid'")) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    server.signal(SIGUSR2);  // the new master cannot write its own
    ASSERT_TRUE(server.logs("exited with code 1; this one continues")) << server.story();
    EXPECT_EQ(read_file(scratch / "pid"), std::to_string(server.pid()) + "\n");
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_EQ(read_file(scratch / "pid"), "");
}

TEST_P(Faults, AnArbiterWithoutDescriptorsGoesOnWithWhatItHas) {
    const TempDir scratch;
    Server server(with({"-c", scratch.write("conf.py", "")}));
    ASSERT_TRUE(server.has_workers(GetParam().workers)) << server.story();
    EXPECT_EQ(server.get("/").status, 200);
    const std::vector<pid_t> workers = server.workers();
    limit(server.pid(), RLIMIT_NOFILE, 3);  // it has more already, but gets no new ones
    server.signal(SIGHUP);
    ASSERT_TRUE(server.logs("Reload failed, keeping the old workers and settings"))
        << server.story();
    EXPECT_EQ(server.workers(), workers) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    limit(server.pid(), RLIMIT_NOFILE, RLIM_INFINITY);
    server.signal(SIGHUP);
    EXPECT_TRUE(eventually([&] {
        const std::vector<pid_t> now = server.workers();
        return now.size() == workers.size() &&
               std::find(now.begin(), now.end(), workers.at(0)) == now.end();
    })) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
}

// Goal: the three ends of a worker that look the same to waitpid(2) are told apart, each with the
// request that ran. The kernel's counter is a file of the test's own, in a private mount namespace.
TEST_P(Faults, ADeathSaysWhoKilledAndWhatRan) {
    if (run({"/usr/bin/unshare", "--mount", "mount", "-t", "tmpfs", "none", "/sys/fs/cgroup"})
            .code != 0)
        GTEST_SKIP() << "no mount namespace here";
    const std::string membership = read_file("/proc/self/cgroup");
    const size_t at = membership.find("0::");
    if (at == std::string::npos) GTEST_SKIP() << "no unified cgroup hierarchy here";
    const std::string group = membership.substr(at + 3, membership.find('\n', at) - at - 3);
    const TempDir scratch;
    const int port = free_port();
    std::string options;
    for (const std::string& word : GetParam() + std::vector<std::string>{"-w", "1"})
        options += " " + word;
    const std::string command = "mount -t tmpfs none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup" +
                                group + " && echo oom_kill 3 >/sys/fs/cgroup" + group +
                                "/memory.events && exec '" + server_command().at(0) + "'" +
                                options + " -b 127.0.0.1:" + std::to_string(port) + " probe:app";
    Daemon server({"/usr/bin/unshare", "--mount", "/bin/sh", "-c", command},
                  {{"PROBE_LOG", scratch / "events"}});
    const auto logs = [&](const std::string& text) {
        return eventually([&] { return contains(server.output(), text); });
    };
    for (const auto& [kills, words] : std::vector<std::pair<int, std::string>>{
             {3, " Not by gcorn, and its cgroup has not run out of memory."},
             {4, " By the kernel: out of memory (oom_kill 4 in its cgroup)."}}) {
        ASSERT_TRUE(eventually([&] { return fetch({.port = port}, "GET", "/").status == 200; }))
            << server.output();
        const std::string worker = "Worker (pid:" + std::to_string(children_of(server.pid()).at(0));
        Client client({.port = port});
        const std::string path = "/sleep?s=" + std::to_string(60 + kills);
        client.send(make_request("GET", path));
        ASSERT_TRUE(eventually([&] {
            return count(read_file(scratch / "events"), "sleeping") ==
                   static_cast<size_t>(kills - 2);
        })) << server.output();
        std::ofstream("/proc/" + std::to_string(server.pid()) + "/root/sys/fs/cgroup" + group +
                      "/memory.events")
            << "oom_kill " << kills << "\n";
        ::kill(children_of(server.pid()).at(0), SIGKILL);
        EXPECT_TRUE(logs(worker + ") was sent SIGKILL!" + words)) << server.output();
        EXPECT_TRUE(logs(worker + ") was running: GET " + path + " for ")) << server.output();
        EXPECT_TRUE(logs(" s, in the application, from 127.0.0.1\n")) << server.output();
    }
}

/// A cgroup, version 2 or 1, whose processes get that much memory and no more.
class MemoryGroup {
public:
    explicit MemoryGroup(size_t bytes) {
        std::fstream("/sys/fs/cgroup/cgroup.subtree_control", std::ios::in | std::ios::out)
            << "+memory" << std::flush;
        for (const auto& [root, limit, swap] : std::vector<std::array<std::string, 3>>{
                 {"/sys/fs/cgroup", "memory.max", "memory.swap.max"},
                 {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.swappiness"}}) {
            const std::string path = root + "/gcorn-test-" + std::to_string(::getpid());
            if (::mkdir(path.c_str(), 0755) != 0) continue;
            path_ = path;
            // Opened for reading, too, so that files that do not exist are not created.
            constexpr auto kExisting = std::ios::in | std::ios::out;
            std::fstream(path + "/" + swap, kExisting) << 0 << std::flush;
            is_limited_ = bool(std::fstream(path + "/" + limit, kExisting) << bytes << std::flush);
            if (is_limited_) return;
            ::rmdir(path.c_str());
        }
    }
    ~MemoryGroup() {
        (void)eventually([&] { return ::rmdir(path_.c_str()) == 0 || errno != EBUSY; });
    }
    MemoryGroup(const MemoryGroup&) = delete;
    MemoryGroup& operator=(const MemoryGroup&) = delete;
    [[nodiscard]] explicit operator bool() const { return is_limited_; }
    [[nodiscard]] std::string processes() const { return path_ + "/cgroup.procs"; }

private:
    std::string path_;
    bool is_limited_ = false;
};

TEST_P(Faults, TheRealOutOfMemoryKillerIsNamed) {
    SKIP_ON_GUNICORN("it only guesses");
    const MemoryGroup group(160U << 20);
    if (!group) GTEST_SKIP() << "no cgroup may be made here";
    const TempDir scratch;
    scratch.write("hog.py",
                  "def app(environ, start_response):\n"
                  "    start_response('200 OK', [])\n"
                  "    hoard = [b'x' * (1 << 20) for _ in range(int(environ['QUERY_STRING']))]\n"
                  "    return [b'%d' % len(hoard)]\n");
    const int port = free_port();
    std::string options;
    for (const std::string& word : GetParam() + std::vector<std::string>{"-w", "1"})
        options += " " + word;
    Daemon server(
        {"/bin/sh", "-c",
         "echo $$ >" + group.processes() + " && exec '" + server_command().at(0) + "'" + options +
             " --chdir " + scratch.path() + " -b 127.0.0.1:" + std::to_string(port) + " hog:app"},
        {});
    const auto serves = [&] {
        return eventually([&] { return fetch({.port = port}, "GET", "/?2").body == "2"; });
    };
    ASSERT_TRUE(serves()) << server.output();
    Client client({.port = port});
    client.send(make_request("GET", "/?1000"));
    for (const std::string line :
         {") was sent SIGKILL! By the kernel: out of memory (oom_kill 1 in its cgroup).",
          ") was running: GET /?1000 for "}) {
        EXPECT_TRUE(eventually([&] { return contains(server.output(), line); })) << server.output();
    }
    EXPECT_TRUE(serves()) << server.output();
}

TEST(Init, ReapsForeignChildrenAndStopsOnTerm) {
    SKIP_ON_GUNICORN("it reports them as workers");
    if (run({"/usr/bin/unshare", "--pid", "--fork", "--mount-proc", "true"}).code != 0)
        GTEST_SKIP() << "no pid namespace here";
    const TempDir scratch;
    // An application whose grandchildren outlive their parent: PID 1 inherits and reaps them.
    scratch.write("orphans.py",
                  "import os, subprocess\n"
                  "def state(pid):\n"
                  "    try:\n"
                  "        return open(f'/proc/{pid}/stat').read().split(') ')[1][0]\n"
                  "    except OSError:\n"
                  "        return ''  # reaped since it was listed\n"
                  "def app(environ, start_response):\n"
                  "    if environ['PATH_INFO'] == '/orphan':\n"
                  "        subprocess.run(['sh', '-c', '(exit 3) & (exit 4) & sleep 0.1 &'])\n"
                  "    states = [state(p) for p in os.listdir('/proc') if p.isdigit()]\n"
                  "    body = ''.join(sorted(states)).encode() + b' %d' % os.getppid()\n"
                  "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
                  "    return [body]\n");
    const int port = free_port();
    const std::string command = "exec unshare --pid --fork --kill-child --mount-proc '" +
                                server_command().at(0) + "' -b 127.0.0.1:" + std::to_string(port) +
                                " --chdir " + scratch.path() +
                                " --log-file log orphans:app & echo $! >" + (scratch / "outer");
    run({"/bin/sh", "-c", command});
    const pid_t outer = std::atoi(read_file(scratch / "outer").c_str());
    ASSERT_GT(outer, 1);
    ASSERT_TRUE(eventually([&] { return Client(Endpoint{.port = port}).connected(); }));
    const auto get = [&](const char* path) { return fetch({.port = port}, "GET", path).body; };
    for (int i = 0; i < 5; ++i) {
        const std::string body = get("/orphan");
        EXPECT_TRUE(body.ends_with(" 1")) << body;
    }
    EXPECT_TRUE(eventually([&] { return !contains(get("/"), "Z") && get("/").size() <= 4; }))
        << get("/");
    const std::string log = read_file(scratch / "log");
    EXPECT_FALSE(contains(log, "exited with code")) << log;
    ASSERT_FALSE(children_of(outer).empty());
    ::kill(children_of(outer).at(0), SIGTERM);
    EXPECT_TRUE(eventually([&] { return !is_alive(outer); })) << read_file(scratch / "log");
    EXPECT_TRUE(contains(read_file(scratch / "log"), "Shutting down: Master"));
}

}  // namespace
}  // namespace gcorn::e2e
