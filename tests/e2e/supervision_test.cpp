// Deploying, scaling, upgrading, recycling and killing under continuous load: clients count every
// failed or wrong answer, on kept-alive and on new connections, and must count none.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "tests/support/e2e.h"
#include "tests/support/load.h"

namespace gcorn::e2e {
namespace {

class Supervision : public PerEngine {
protected:
    void SetUp() override {
        SKIP_ON_GUNICORN("it drops requests here");
        if (GetParam().name == "sync_2") GTEST_SKIP() << "each test says how many workers it wants";
    }
    /// Importing eventlet takes two seconds of processor time in each worker: fewer rounds.
    static size_t rounds(size_t count) { return GetParam().name == "eventlet" ? count / 2 : count; }
    static bool has_other_workers(const Server& server, const std::vector<pid_t>& old,
                                  size_t count) {
        return eventually(
            [&] {
                const std::vector<pid_t> now = server.workers();
                if (now.size() != count) return false;
                for (const pid_t pid : now)
                    if (std::find(old.begin(), old.end(), pid) != old.end()) return false;
                return true;
            },
            kLoadPatience);
    }
};

TEST_P(Supervision, ReloadsLoseNoRequest) {
    Server server(with({"-w", "2"}));
    ASSERT_TRUE(server.has_workers(2));
    Load load(server.at());
    for (size_t i = 0; i < rounds(20); ++i) {
        ASSERT_TRUE(load.goes_on(5));
        const std::vector<pid_t> old = server.workers();
        server.signal(SIGHUP);
        ASSERT_TRUE(has_other_workers(server, old, 2)) << server.story();
    }
    load.stop();
    EXPECT_EQ(load.bad_count(), 0u) << load.bad();
}

/// A network namespace of the test's own while the object lives, to change kernel settings in.
class OwnNetwork {
public:
    OwnNetwork() {
        if (!home_ || ::unshare(CLONE_NEWNET) != 0) return;
        ifreq loopback{};
        std::strcpy(loopback.ifr_name, "lo");
        loopback.ifr_flags = IFF_UP;
        const Fd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        is_up_ = ::ioctl(any.get(), SIOCSIFFLAGS, &loopback) == 0;
    }
    ~OwnNetwork() {
        if (home_) ::setns(home_.get(), CLONE_NEWNET);
    }
    OwnNetwork(const OwnNetwork&) = delete;
    OwnNetwork& operator=(const OwnNetwork&) = delete;
    /// Changes a setting; false if it does not exist or cannot be changed.
    [[nodiscard]] bool set(const std::string& name, const std::string& value) const {
        std::ofstream file("/proc/sys/net/" + name, std::ios::in);
        return is_up_ && file << value << std::flush;
    }

private:
    const Fd home_{::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)};
    bool is_up_ = false;
};

TEST_P(Supervision, ReloadsLoseNoRequestOnSocketsOfTheWorkersOwn) {
    const OwnNetwork network;
    if (!network.set("ipv4/tcp_migrate_req", "1"))
        GTEST_SKIP() << "needs root and Linux 5.14 or newer";
    Server server(with({"-w", "2", "--reuse-port"}));
    ASSERT_TRUE(server.has_workers(2));
    EXPECT_EQ(count(server.err(), "tcp_migrate_req"), 0U) << server.story();
    Load load(server.at());
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(load.goes_on());
        const std::vector<pid_t> old = server.workers();
        server.signal(SIGHUP);
        ASSERT_TRUE(has_other_workers(server, old, 2)) << server.story();
    }
    load.stop();
    // Linux finds the listener of an arriving segment, and looks again whether it still listens
    // only when it puts the new connection into the queue: what arrives just as the socket is
    // closed, on another processor, is reset (inet_csk_complete_hashdance(), 6.18). Once in about
    // 200 reloads.
    EXPECT_LE(load.bad_count(), 1u) << load.bad();
}

TEST(ReusePort, NobodyWaitsForAWorkerThatImports) {
    SKIP_ON_GUNICORN("its workers share one socket");
    const TempDir scratch;
    scratch.write("slow.py",
                  "import os, time\n"
                  "while os.path.exists('hold'): time.sleep(0.01)\n"
                  "with open('imports', 'a') as file: file.write('x')\n"
                  "def app(environ, start_response):\n"
                  "    start_response('200 OK', [('Content-Length', '2')])\n"
                  "    return [b'ok']\n");
    Server server(
        {.app = "slow:app", .args = {"-w", "2", "--reuse-port", "--chdir", scratch.path()}});
    const auto imports = [&] { return read_file(scratch.path() + "/imports").size(); };
    ASSERT_TRUE(eventually([&] { return imports() == 2; })) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    const std::string hold = scratch.write("hold", "");
    const std::vector<pid_t> old = server.workers();
    server.signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return count(server.err(), "Booting worker") == 4; }))
        << server.story();
    // Each connection goes to a socket that the kernel chooses.
    for (int i = 0; i < 40; ++i)
        ASSERT_EQ(server.get("/").status, 200) << i << server.story();
    ASSERT_EQ(::unlink(hold.c_str()), 0);
    EXPECT_TRUE(eventually([&] {
        const std::vector<pid_t> now = server.workers();
        return now.size() == 2 &&
               std::find_first_of(now.begin(), now.end(), old.begin(), old.end()) == now.end();
    })) << server.story();
    EXPECT_EQ(server.get("/").status, 200) << server.story();
}

TEST(ReusePort, NobodyWaitsForAWorkerThatLeaves) {
    SKIP_ON_GUNICORN("its workers share one socket");
    Server server({.args = {"-w", "2", "--reuse-port"}});
    ASSERT_TRUE(server.has_workers(2));
    Client busy = server.connect();
    busy.send(make_request("GET", "/sleep?s=4"));
    const std::vector<pid_t> old = server.workers();
    const auto old_ones = [&] {
        return std::count_if(old.begin(), old.end(), [](pid_t pid) { return is_alive(pid); });
    };
    server.signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return old_ones() == 1; })) << server.story();
    for (int i = 0; i < 40; ++i)
        ASSERT_EQ(server.get("/").status, 200) << i << server.story();
    EXPECT_EQ(old_ones(), 1) << "too late to show anything" << server.story();
    EXPECT_EQ(busy.read_response().body, "slept");
}

TEST(ReusePort, SaysWhatItCosts) {
    SKIP_ON_GUNICORN("it says nothing");
    const OwnNetwork network;
    if (!network.set("ipv4/tcp_migrate_req", "0"))
        GTEST_SKIP() << "needs root and Linux 5.14 or newer";
    const Server server({.args = {"--reuse-port"}});
    EXPECT_TRUE(server.logs("`sysctl -w net.ipv4.tcp_migrate_req=1`")) << server.story();
}

TEST(ReusePort, ChangedByHupWaitsForARestart) {
    SKIP_ON_GUNICORN("it does not say so");
    const TempDir scratch;
    for (const char* first : {"False", "True"}) {
        const auto configure = [&](const std::string& value) {
            return scratch.write("conf.py", "reuse_port = " + value + "\n");
        };
        const Server server({.args = {"-c", configure(first)}});
        ASSERT_TRUE(server.has_workers(1)) << server.story();
        const std::vector<pid_t> old = server.workers();
        configure(std::string(first) == "True" ? "False" : "True");
        server.signal(SIGHUP);
        EXPECT_TRUE(eventually([&] {
            return server.workers().size() == 1 && server.workers() != old;
        })) << server.story();
        EXPECT_TRUE(contains(server.err(), "reuse_port has changed, but takes effect only after"))
            << server.story();
        EXPECT_EQ(server.get("/").status, 200) << server.story();
    }
}

TEST_P(Supervision, ScalingLosesNoRequest) {
    Server server(with({"-w", "1"}));
    Load load(server.at());
    for (const auto& [signal, count] : std::vector<std::pair<int, size_t>>{
             {SIGTTIN, 2}, {SIGTTIN, 3}, {SIGTTOU, 2}, {SIGTTOU, 1}}) {
        ASSERT_TRUE(load.goes_on());
        server.signal(signal);
        ASSERT_TRUE(server.has_workers(count)) << server.story();
    }
    load.stop();
    EXPECT_EQ(load.bad_count(), 0u) << load.bad();
}

TEST_P(Supervision, RecyclingLosesNoRequest) {
    Server server(with({"-w", "4", "--max-requests", "50"}));
    ASSERT_TRUE(server.has_workers(4));
    const std::vector<pid_t> old = server.workers();
    Load load(server.at());
    // Under this load some worker is always about to be replaced: only the old ones must be gone.
    EXPECT_TRUE(eventually(
        [&] {
            return std::none_of(old.begin(), old.end(), [](pid_t pid) { return is_alive(pid); });
        },
        kLoadPatience))
        << server.story();
    ASSERT_TRUE(load.goes_on(rounds(300)));
    load.stop();
    EXPECT_EQ(load.bad_count(), 0u) << load.bad();
    EXPECT_TRUE(server.logs("Autorestarting worker after current request."));
}

/// An application some of whose calls take long.
void write_slow_app(const TempDir& directory) {
    directory.write("slow.py",
                    "import itertools, os, time\n"
                    "calls = itertools.count()\n"
                    "here = os.path.dirname(__file__)\n"
                    "def app(environ, start_response):\n"
                    "    start_response('200 OK', [])\n"
                    "    if environ['PATH_INFO'] == '/pid':\n"
                    "        return [b'%d' % os.getpid()]\n"
                    "    if environ['PATH_INFO'] == '/peer':\n"
                    "        return [environ['REMOTE_ADDR'].encode()]\n"
                    "    if environ['PATH_INFO'] == '/hang':\n"
                    "        open(here + '/hangs', 'w').close()\n"
                    "        while not os.path.exists(here + '/go'):\n"
                    "            time.sleep(0.01)\n"
                    "    elif next(calls) % 5 == 0:\n"
                    "        time.sleep(0.02)\n"
                    "    return [b'Hello, world!\\n']\n");
}

/// What a client sends before its first request, the server's options, and the client address that
/// the application is to see.
struct Way {
    const char* name;
    std::vector<std::string> options;
    std::string preamble, peer;
};

TEST(KeptConnections, DoNotWaitBehindACallThatHangs) {
    SKIP_ON_GUNICORN("its sync class keeps no connections");
    const Way ways[] = {
        {"sync", {"-k", "sync"}, "", "127.0.0.1"},
        {"gthread", {"-k", "gthread"}, "", "127.0.0.1"},
        {"unix", {}, "", ""},
        {"proxy", {"--proxy-protocol", "v1"}, "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "1.2.3.4"}};
    for (const Way& way : ways) {
        SCOPED_TRACE(way.name);
        TempDir directory;
        write_slow_app(directory);
        ServerOptions options{.app = "slow:app",
                              .args = {"-w", "2", "--keep-alive", "60"},
                              .directory = directory.path(),
                              .on_unix_socket = way.peer.empty(),
                              .waits = way.preamble.empty()};
        options.args.insert(options.args.end(), way.options.begin(), way.options.end());
        Server server(options);
        ASSERT_TRUE(server.has_workers(2));
        // More than one client on the same worker.
        std::vector<std::unique_ptr<Client>> clients;
        std::map<std::string, std::vector<Client*>> by_worker;
        ASSERT_TRUE(eventually([&] {
            clients.push_back(std::make_unique<Client>(server.at()));
            EXPECT_TRUE(clients.back()->send(way.preamble));
            auto& same = by_worker[clients.back()->get("/pid").body];
            same.push_back(clients.back().get());
            return by_worker.size() == 2 && same.size() > 3;
        }));
        const auto crowd = std::ranges::max_element(
            by_worker, {}, [](const auto& entry) { return entry.second.size(); });
        Client& hanging = *crowd->second[0];
        ASSERT_TRUE(hanging.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n"));
        ASSERT_TRUE(eventually([&] { return std::filesystem::exists(directory / "hangs"); }));
        std::this_thread::sleep_for(Milliseconds(20));  // a call counts as long after 5
        for (size_t i = 1; i < crowd->second.size(); ++i) {
            EXPECT_NE(crowd->second[i]->get("/pid").body, crowd->first) << server.story();
            EXPECT_EQ(crowd->second[i]->get("/peer").body, way.peer);
        }
        directory.write("go", "");
        EXPECT_EQ(hanging.read_response().body, "Hello, world!\n") << server.story();
        EXPECT_EQ(hanging.get("/pid").body, crowd->first);
    }
}

TEST_P(Supervision, ReloadsLoseNoRequestWhileCallsLast) {
    TempDir directory;
    write_slow_app(directory);
    ServerOptions options = with({"-w", "3"});
    options.app = "slow:app";
    options.directory = directory.path();
    Server server(options);
    ASSERT_TRUE(server.has_workers(3));
    Load load(server.at());
    for (size_t i = 0; i < rounds(10); ++i) {
        ASSERT_TRUE(load.goes_on(20));
        const std::vector<pid_t> old = server.workers();
        server.signal(SIGHUP);
        ASSERT_TRUE(has_other_workers(server, old, 3)) << server.story();
    }
    load.stop();
    EXPECT_EQ(load.bad_count(), 0u) << load.bad();
}

TEST(WorkerMemory, TooMuchHasAWorkerReplacedOneAtATime) {
    SKIP_ON_GUNICORN("it does not look at memory");
    TempDir directory;
    directory.write("growing.py",
                    "import os\n"
                    "kept = []\n"
                    "def app(environ, start_response):\n"
                    "    start_response('200 OK', [])\n"
                    "    if environ['PATH_INFO'] != '/grow':\n"
                    "        return [b'Hello, world!\\n']\n"
                    "    kept[:] = kept or [b'x' * (int(environ['QUERY_STRING']) << 20)]\n"
                    "    return [b'%d' % os.getpid()]\n");
    ServerOptions options;
    options.args = {"-w", "3", "--max-worker-memory", "200"};
    options.app = "growing:app";
    options.directory = directory.path();
    Server server(options);
    ASSERT_TRUE(server.has_workers(3));
    // Two grow beyond the limit, the third not quite.
    std::set<std::string> large, small;
    ASSERT_TRUE(eventually([&] {
        if (large.size() < 2)
            large.insert(server.get("/grow?250").body);
        else if (const std::string pid = server.get("/grow?100").body; !large.contains(pid))
            small.insert(pid);
        return !small.empty();
    }));
    Load load(server.at());
    ASSERT_TRUE(eventually(
        [&] {
            const std::vector<pid_t> now = server.workers();
            return now.size() == 3 && std::ranges::none_of(now, [&](pid_t pid) {
                       return large.contains(std::to_string(pid));
                   });
        },
        kLoadPatience))
        << server.story();
    load.stop();
    EXPECT_EQ(load.bad_count(), 0u) << load.bad();
    const std::vector<pid_t> now = server.workers();
    EXPECT_TRUE(std::ranges::any_of(now, [&](pid_t pid) {
        return small.contains(std::to_string(pid));
    })) << server.story();
    EXPECT_TRUE(server.logs("(max_worker_memory is 200): replacing it"));
    // The second one is replaced only when the first one is gone.
    const std::string log = server.err();
    const size_t first = log.find("replacing it"), second = log.rfind("replacing it");
    const size_t left = log.find("Worker exiting");
    EXPECT_LT(first, left) << log;
    EXPECT_LT(left, second) << log;
}

TEST_P(Supervision, ABrokenDeployIsRefusedAndTheOldCodeServes) {
    TempDir directory;
    directory.write("deployed.py",
                    "def app(environ, start_response):\n"
                    "    start_response('200 OK', [('Content-Length', '14')])\n"
                    "    return [b'Hello, world!\\n']\n");
    ServerOptions options = with({"-w", "2", "--log-level", "debug"});
    options.app = "deployed:app";
    options.directory = directory.path();
    Server server(options);
    // Both must have read the good file before it breaks.
    ASSERT_TRUE(eventually([&] {
        const std::string log = server.err();
        const size_t first = log.find(") is ready after");
        return first != std::string::npos &&
               log.find(") is ready after", first + 1) != std::string::npos;
    })) << server.story();
    const std::vector<pid_t> old = server.workers();
    Load load(server.at());
    ASSERT_TRUE(load.goes_on());
    directory.write("deployed.py", "import no_such_module_anywhere\n");
    server.signal(SIGHUP);
    ASSERT_TRUE(server.logs("Reload failed, keeping the old workers and settings"))
        << server.story();
    ASSERT_TRUE(eventually([&] { return server.workers() == old; })) << server.story();
    ASSERT_TRUE(load.goes_on());
    load.stop();
    EXPECT_EQ(load.bad_count(), 0u) << load.bad();
    EXPECT_FALSE(server.exit_code(Milliseconds(0)).has_value());
}

/// Answers with its process id, after noting which request runs where.
constexpr const char* kTelling =
    "import os, time\n"
    "fd = os.open(os.environ['STARTED'], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
    "def app(environ, start_response):\n"
    "    os.write(fd, b'%s %d\\n' % (environ['QUERY_STRING'].encode(), os.getpid()))\n"
    "    time.sleep(0.002)\n"
    "    body = b'%d' % os.getpid()\n"
    "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
    "    return [body]\n";

/// A request that got no answer.
struct Lost {
    std::string id;
    pid_t holder = 0;  ///< worker that answered the connection before; 0: a fresh one
    std::string why;
};

TEST_P(Supervision, AKilledWorkerLosesOnlyWhatWasInsideIt) {
    const TempDir site;
    site.write("telling.py", kTelling);
    ServerOptions options = with({"-w", "4"});
    options.app = "telling:app";
    options.directory = site.path();
    options.env["STARTED"] = site / "started";
    Server server(options);
    ASSERT_TRUE(server.has_workers(4));

    std::atomic<bool> stops{false};
    std::atomic<size_t> good{0};
    std::mutex mutex;
    std::vector<Lost> lost;
    std::vector<std::thread> clients;
    for (int i = 0; i < 6; ++i) {
        clients.emplace_back([&, name = std::to_string(i), keeps = i % 2 == 0] {
            std::unique_ptr<Client> client;
            pid_t holder = 0;
            for (int number = 0; !stops; ++number) {
                if (!client) client = std::make_unique<Client>(server.at());
                const std::string id = name + "." + std::to_string(number);
                const Response answer = client->get("/?" + id);
                if (answer.ok() && answer.status == 200) {
                    ++good;
                    holder = std::atoi(answer.body.c_str());
                } else {
                    const std::lock_guard lock(mutex);
                    lost.push_back({id, holder, answer.error + std::to_string(answer.status)});
                }
                if (keeps && answer.ok() && !answer.says_close()) continue;
                client.reset();
                holder = 0;
            }
        });
    }
    std::vector<pid_t> victims;
    for (size_t i = 0; i < rounds(20); ++i) {
        const size_t before = good;
        EXPECT_TRUE(server.has_workers(4, kLoadPatience)) << server.story();
        EXPECT_TRUE(eventually([&] { return good >= before + 20; }, kLoadPatience));
        const std::vector<pid_t> now = server.workers();
        if (now.empty()) break;
        victims.push_back(now[i % now.size()]);
        ::kill(victims.back(), SIGKILL);
        EXPECT_TRUE(eventually([&] { return !is_alive(victims.back()); }));
    }
    stops = true;
    for (std::thread& client : clients)
        client.join();

    EXPECT_EQ(victims.size(), rounds(20));
    std::map<std::string, pid_t> started;
    std::istringstream lines(read_file(site / "started"));
    std::string id;
    for (pid_t pid = 0; lines >> id >> pid;)
        started[id] = pid;
    const auto was_killed = [&](pid_t pid) {
        return std::find(victims.begin(), victims.end(), pid) != victims.end();
    };
    size_t unread = 0;  // new connections that the victim had accepted but not read
    for (const Lost& request : lost) {
        const auto where = started.find(request.id);
        const pid_t pid = where != started.end() ? where->second : request.holder;
        if (pid == 0)
            ++unread;
        else
            EXPECT_TRUE(was_killed(pid)) << request.id << " " << request.why << server.story();
    }
    EXPECT_LE(unread, victims.size()) << server.story();
    EXPECT_GT(good, victims.size() * 20);
}

TEST_P(Supervision, AWorkerThatHangsLeavesTheBacklogToItsSuccessor) {
    if (GetParam().is_threaded) GTEST_SKIP() << "it has taken in as many as it has slots";
    const TempDir site;
    site.write("hangs.py",
               "import ctypes, os\n"
               "def app(environ, start_response):\n"
               "    if environ['PATH_INFO'] == '/hang':\n"
               "        open('hangs', 'w').close()\n"
               "        ctypes.PyDLL(None).sleep(60)\n"
               "    start_response('200 OK', [('Content-Length', '2')])\n"
               "    return [b'ok']\n");
    ServerOptions options = with({"-w", "1", "--timeout", "2", "--graceful-timeout", "2"});
    options.app = "hangs:app";
    options.directory = site.path();
    Server server(options);
    ASSERT_TRUE(server.has_workers(1));
    EXPECT_EQ(server.get("/").status, 200);
    Client stuck = server.connect();
    stuck.send(make_request("GET", "/hang"));
    ASSERT_TRUE(eventually([&] { return std::filesystem::exists(site / "hangs"); }));
    std::vector<Client> others;
    for (int i = 0; i < 10; ++i) {
        others.push_back(server.connect());
        others.back().send(make_request("GET", "/"));
    }
    ASSERT_TRUE(server.logs("WORKER TIMEOUT")) << server.story();
    size_t answered = 0;
    for (Client& client : others)
        answered += client.read_response().status == 200 ? 1 : 0;
    // A client that was accepted before the call began to hang is lost with its worker.
    EXPECT_GE(answered, 9U) << server.story();
}

TEST_P(Supervision, StoppingAnswersWhatIsInFlight) {
    const TempDir scratch;
    ServerOptions options = with({"-w", "2"});
    options.env["PROBE_LOG"] = scratch / "events";
    Server server(options);
    Client client = server.connect();
    ASSERT_TRUE(client.send(make_request("GET", "/sleep?s=1")));
    ASSERT_TRUE(eventually([&] { return read_file(scratch / "events") == "sleeping\n"; }));
    server.signal(SIGTERM);
    const Response answer = client.read_response();
    EXPECT_TRUE(answer.ok()) << answer;
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
}

class Upgrade : public Supervision {
protected:
    static pid_t pid_in(const std::string& path) {
        return static_cast<pid_t>(std::atoi(read_file(path).c_str()));
    }
};

TEST_P(Upgrade, FiveCyclesLoseNoRequest) {
    TempDir directory;
    const std::string pidfile = directory / "gcorn.pid";
    Server server(with({"-w", "2", "--pid", pidfile}));
    ASSERT_TRUE(server.has_workers(2));
    Load load(server.at());
    pid_t master = server.pid();
    for (int cycle = 0; cycle < 5; ++cycle) {
        ASSERT_TRUE(load.goes_on());
        ASSERT_EQ(pid_in(pidfile), master);
        ::kill(master, SIGUSR2);
        ASSERT_TRUE(eventually([&] { return pid_in(pidfile + ".2") > 0; })) << server.story();
        const pid_t fresh = pid_in(pidfile + ".2");
        ASSERT_TRUE(eventually([&] { return children_of(fresh).size() == 2; })) << server.story();
        ASSERT_TRUE(load.goes_on());
        ::kill(master, SIGTERM);
        ASSERT_TRUE(eventually([&] { return pid_in(pidfile) == fresh; })) << server.story();
        master = fresh;
    }
    ASSERT_TRUE(load.goes_on());
    load.stop();
    EXPECT_EQ(load.bad_count(), 0u) << load.bad();
    ::kill(master, SIGTERM);
    EXPECT_TRUE(eventually([&] { return !is_alive(master); }));
    EXPECT_EQ(read_file(pidfile), "");
}

TEST_P(Upgrade, TheNewMasterCanBeRolledBack) {
    TempDir directory;
    const std::string pidfile = directory / "gcorn.pid";
    Server server(with({"-w", "1", "--pid", pidfile}));
    ASSERT_TRUE(server.has_workers(1));
    server.signal(SIGUSR2);
    ASSERT_TRUE(eventually([&] { return pid_in(pidfile + ".2") > 0; })) << server.story();
    const pid_t fresh = pid_in(pidfile + ".2");
    server.signal(SIGUSR2);
    EXPECT_TRUE(server.logs("USR2 signal ignored. Child exists."));
    ASSERT_TRUE(eventually([&] { return children_of(fresh).size() == 1; })) << server.story();
    ::kill(fresh, SIGTERM);
    ASSERT_TRUE(eventually([&] { return !is_alive(fresh); }));
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    EXPECT_EQ(pid_in(pidfile), server.pid());
}

TEST_P(Upgrade, TwoMastersThatStopTogetherLeaveNoSocket) {
    SKIP_ON_GUNICORN("it leaves the file");
    const TempDir directory;
    const std::string pidfile = directory / "pid", socket = directory / "socket";
    Server server(with({"-w", "1", "--pid", pidfile, "-b", "unix:" + socket}));
    ASSERT_TRUE(server.has_workers(1)) << server.story();
    server.signal(SIGUSR2);
    ASSERT_TRUE(eventually([&] { return pid_in(pidfile + ".2") > 0; })) << server.story();
    const pid_t fresh = pid_in(pidfile + ".2");
    ASSERT_TRUE(eventually([&] { return children_of(fresh).size() == 1; })) << server.story();
    ::kill(fresh, SIGSTOP);  // so that each is told while the other is alive
    server.signal(SIGTERM);
    EXPECT_TRUE(server.logs("Handling signal: term")) << server.story();
    ::kill(fresh, SIGTERM);
    ::kill(fresh, SIGCONT);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_TRUE(eventually([&] { return !is_alive(fresh); })) << server.story();
    EXPECT_FALSE(std::filesystem::exists(socket)) << server.story();
}

TEST_P(Upgrade, WorksForADaemonOnSeveralSockets) {
    const TempDir scratch;
    const Endpoint tcp{.port = free_port()};
    const Endpoint local{.path = scratch / "socket"};
    const Finished started =
        run_server(GetParam() + std::vector<std::string>{"-D", "-w", "2", "-p", scratch / "pid",
                                                         "--log-file", scratch / "log", "-b",
                                                         "127.0.0.1:" + std::to_string(tcp.port),
                                                         "-b", "unix:" + local.path, "probe:app"});
    ASSERT_EQ(started.code, 0) << started;
    const auto log = [&] { return read_file(scratch / "log"); };
    ASSERT_TRUE(eventually([&] { return fetch(local, "GET", "/").status == 200; })) << log();
    const pid_t old = pid_in(scratch / "pid");
    ASSERT_GT(old, 1);
    Load on_tcp(tcp, 2), on_local(local, 2);
    ASSERT_TRUE(on_tcp.goes_on() && on_local.goes_on()) << log();
    ::kill(old, SIGUSR2);
    ASSERT_TRUE(eventually([&] { return pid_in(scratch / "pid.2") > 0; })) << log();
    const pid_t fresh = pid_in(scratch / "pid.2");
    ASSERT_TRUE(eventually([&] { return children_of(fresh).size() == 2; })) << log();
    // The careful way: the old one stays without workers until the operator is sure of the new one.
    ::kill(old, SIGWINCH);
    ASSERT_TRUE(eventually([&] { return children_of(old) == std::vector<pid_t>{fresh}; })) << log();
    EXPECT_TRUE(on_tcp.goes_on() && on_local.goes_on()) << log();
    ::kill(old, SIGQUIT);
    ASSERT_TRUE(eventually([&] { return !is_alive(old) && pid_in(scratch / "pid") == fresh; }))
        << log();
    EXPECT_TRUE(on_tcp.goes_on() && on_local.goes_on()) << log();
    on_tcp.stop();
    on_local.stop();
    EXPECT_EQ(on_tcp.bad_count(), 0u) << on_tcp.bad() << log();
    EXPECT_EQ(on_local.bad_count(), 0u) << on_local.bad() << log();
    EXPECT_TRUE(contains(log(), "Master has been promoted.")) << log();
    ::kill(fresh, SIGTERM);
    EXPECT_TRUE(eventually([&] { return !is_alive(fresh); })) << log();
    EXPECT_FALSE(std::filesystem::exists(local.path));
    EXPECT_FALSE(std::filesystem::exists(scratch / "pid"));
}

class Idle : public Supervision {};

TEST_P(Idle, AServerWithFourWorkersHardlyEverWakesUp) {
    Server server(with({"-w", "4", "--log-level", "debug"}));
    ASSERT_TRUE(eventually([&] { return count(server.err(), ") is ready after") == 4; }));
    EXPECT_EQ(server.get("/").status, 200);
    const auto switches = [&] {
        size_t sum = 0;
        std::vector<pid_t> all = server.workers();
        all.push_back(server.pid());
        for (const pid_t pid : all) {
            const std::string threads = "/proc/" + std::to_string(pid) + "/task";
            for (const auto& thread : std::filesystem::directory_iterator(threads)) {
                const std::string status = read_file(thread.path().string() + "/status");
                const size_t at = status.find("\nvoluntary_ctxt_switches:");
                sum += static_cast<size_t>(std::atol(status.c_str() + at + 25));
            }
        }
        return sum;
    };
    std::this_thread::sleep_for(Milliseconds(1500));  // the guard parks, answers are settled
    const size_t before = switches();
    std::this_thread::sleep_for(Milliseconds(4000));
    EXPECT_LT(switches() - before, 20u) << "wake-ups in 4 s";
}

FOR_EVERY_ENGINE(Supervision);
FOR_EVERY_ENGINE(Upgrade);
FOR_EVERY_ENGINE(Idle);

}  // namespace
}  // namespace gcorn::e2e
