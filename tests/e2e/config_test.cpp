// Settings end to end: the sixteen hooks in their order and process, config files as people write
// them, precedence, what is refused and in which words, exit codes.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <regex>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "settings.h"
#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

std::string unused_address() {
    return "127.0.0.1:" + std::to_string(free_port());
}

// ------------------------------------------------------------------------------------------- hooks

/// Every hook writes "PROCESS NAME FACTS" into the file HOOKS; PROCESS is arbiter or worker.
constexpr const char* kHooks = R"PY(
import os
arbiter = []
def note(name, *facts):
    process = "arbiter" if not arbiter or os.getpid() == arbiter[0] else "worker"
    line = " ".join([process, name, *map(str, facts)]) + "\n"
    fd = os.open(os.environ["HOOKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)
def nworkers_changed(server, new_value, old_value):
    if not arbiter: arbiter.append(os.getpid())
    note("nworkers_changed", new_value, old_value)
def on_starting(server): note("on_starting", server.pid == os.getpid(), server.num_workers)
def when_ready(server): note("when_ready", len(server.WORKERS), bool(server.address), server.cfg.workers)
def pre_fork(server, worker): note("pre_fork", worker.age, worker.pid, worker.booted)
def post_fork(server, worker): note("post_fork", worker.age, worker.pid == os.getpid(), worker.ppid == server.pid and worker.age == server.worker_age)
def post_worker_init(worker): note("post_worker_init", worker.age, worker.alive, callable(worker.wsgi), worker.cfg.workers)
def worker_int(worker): note("worker_int", worker.age)
def worker_abort(worker): note("worker_abort", worker.age)
def pre_request(worker, req):
    req.mark = "mine"
    note("pre_request", req.method, req.uri, req.path, req.query, req.version, dict(req.headers)["X-IN"])
def post_request(worker, req, environ, resp):
    note("post_request", req.mark, environ["PATH_INFO"], resp.status, resp.sent, dict(resp.headers)["Content-Length"], worker.nr)
def worker_exit(server, worker): note("worker_exit", worker.age, worker.pid == os.getpid())
def child_exit(server, worker): note("child_exit", worker.age, worker.pid > 0)
def on_reload(server): note("on_reload", server.num_workers, len(server.WORKERS))
def pre_exec(server): note("pre_exec")
def on_exit(server): note("on_exit", len(server.WORKERS))
)PY";

class HookOrder : public PerEngine {
protected:
    void SetUp() override {
        SKIP_ON_GUNICORN("its order on HUP differs");
        if (GetParam().workers > 1) GTEST_SKIP() << "the order is that of one worker";
    }
    Server& start() {
        ServerOptions options = with({"-c", scratch_.write("conf.py", kHooks), "-p",
                                      scratch_ / "pid", "--log-level", "debug"});
        options.env["HOOKS"] = scratch_ / "hooks";
        server_.emplace(options);
        return *server_;
    }
    /// The lines since the last call, once there are that many.
    std::string next(size_t lines) {
        std::string text;
        eventually([&] {
            text = read_file(scratch_ / "hooks").substr(seen_);
            return static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) >= lines;
        });
        seen_ += text.size();
        return text;
    }
    static std::string sorted(const std::string& text) {
        std::vector<std::string> lines;
        std::istringstream in(text);
        for (std::string line; std::getline(in, line);)
            lines.push_back(line + "\n");
        std::sort(lines.begin(), lines.end());
        std::string all;
        for (const std::string& line : lines)
            all += line;
        return all;
    }

    TempDir scratch_;
    std::optional<Server> server_;
    size_t seen_ = 0;
};
FOR_EVERY_ENGINE(HookOrder);

TEST_P(HookOrder, IsGunicornsFromStartToStop) {
    Server& server = start();
    EXPECT_EQ(next(6),
              "arbiter nworkers_changed 1 None\n"
              "arbiter on_starting True 1\n"
              "arbiter when_ready 0 True 1\n"
              "arbiter pre_fork 1 [booting] False\n"
              "worker post_fork 1 True True\n"
              "worker post_worker_init 1 True True 1\n")
        << server.story();
    EXPECT_EQ(server.get("/?a=b", {{"X-In", "sent"}}).status, 200);
    EXPECT_EQ(next(2),
              "worker pre_request GET /?a=b / a=b (1, 1) sent\n"
              "worker post_request mine / 200 OK 14 14 1\n")
        << server.story();

    server.signal(SIGHUP);
    EXPECT_EQ(next(7),
              "arbiter nworkers_changed 1 1\n"
              "arbiter on_reload 1 1\n"
              "arbiter pre_fork 2 [booting] False\n"
              "worker post_fork 2 True True\n"
              "worker post_worker_init 2 True True 1\n"
              "worker worker_exit 1 True\n"
              "arbiter child_exit 1 True\n")
        << server.story();

    server.signal(SIGTTIN);
    EXPECT_EQ(next(4),
              "arbiter nworkers_changed 2 1\n"
              "arbiter pre_fork 3 [booting] False\n"
              "worker post_fork 3 True True\n"
              "worker post_worker_init 3 True True 1\n")
        << server.story();
    EXPECT_TRUE(eventually([&] { return count(server.err(), "is ready after") == 3; }));
    server.signal(SIGTTOU);
    EXPECT_EQ(next(3),
              "arbiter nworkers_changed 1 2\n"
              "worker worker_exit 2 True\n"
              "arbiter child_exit 2 True\n")
        << server.story();

    ASSERT_TRUE(server.has_workers(1));
    ::kill(server.workers().at(0), SIGKILL);  // none of its own hooks can run
    EXPECT_EQ(next(4),
              "arbiter child_exit 3 True\n"
              "arbiter pre_fork 4 [booting] False\n"
              "worker post_fork 4 True True\n"
              "worker post_worker_init 4 True True 1\n")
        << server.story();
    for (const auto& [number, name] : std::vector<std::pair<int, std::string>>{
             {SIGINT, "worker_int"}, {SIGABRT, "worker_abort"}}) {
        const std::string age = number == SIGINT ? "4" : "5";
        const std::string next_age = number == SIGINT ? "5" : "6";
        ASSERT_TRUE(server.has_workers(1));
        ::kill(server.workers().at(0), number);
        // Its successor may be forked before its end is noticed.
        EXPECT_EQ(sorted(next(6)),
                  sorted("worker " + name + " " + age + "\nworker worker_exit " + age +
                         " True\narbiter child_exit " + age + " True\narbiter pre_fork " +
                         next_age + " [booting] False\nworker post_fork " + next_age +
                         " True True\nworker post_worker_init " + next_age + " True True 1\n"))
            << server.story();
    }

    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_EQ(next(3),
              "worker worker_exit 6 True\n"
              "arbiter child_exit 6 True\n"
              "arbiter on_exit 0\n")
        << server.story();
}

TEST_P(HookOrder, PreExecRunsInTheChildOfUsr2) {
    Server& server = start();
    next(6);
    server.signal(SIGUSR2);
    EXPECT_EQ(next(7).rfind("worker pre_exec\n", 0), 0U) << server.story();
    ASSERT_TRUE(eventually([&] { return std::filesystem::exists(scratch_ / "pid.2"); }));
    const pid_t fresh = std::atoi(read_file(scratch_ / "pid.2").c_str());
    ASSERT_GT(fresh, 1);
    ::kill(fresh, SIGTERM);
    EXPECT_TRUE(eventually([&] { return !is_alive(fresh); }));
}

TEST(Hooks, MayHaveTheSuccessorStartedElsewhere) {
    SKIP_ON_GUNICORN("its program is Python");
    const TempDir scratch, release;
    const std::string config =
        scratch.write("conf.py",
                      "def pre_exec(server):\n"
                      "    server.START_CTX['cwd'] = '" +
                          release.path() +
                          "'\n"
                          "    server.START_CTX[0] = server.START_CTX['args'][0] = '" +
                          release / "gcorn" +
                          "'\n"
                          "def when_ready(server):\n"
                          "    open('ready', 'w').write(server.START_CTX[0])\n");
    std::filesystem::create_symlink(server_command().at(0), release / "gcorn");
    Server server({.args = {"-c", config, "-p", scratch / "pid", "--pythonpath", apps_dir()},
                   .directory = scratch.path()});
    server.signal(SIGUSR2);
    EXPECT_TRUE(eventually([&] { return read_file(release / "ready") == release / "gcorn"; }))
        << server.story();
    const pid_t fresh = std::atoi(read_file(scratch / "pid.2").c_str());
    ASSERT_GT(fresh, 1);
    ::kill(fresh, SIGTERM);
    EXPECT_TRUE(eventually([&] { return !is_alive(fresh); }));
}

TEST(Hooks, ThatRaiseEndTheStartWithTheirTraceback) {
    for (const auto& [hook, arguments, code] :
         std::vector<std::tuple<std::string, std::string, int>>{
             {"nworkers_changed", "server, new_value, old_value", 1},
             {"on_starting", "server", 1},
             {"when_ready", "server", 1},
             {"pre_fork", "server, worker", is_gunicorn() ? 255 : 1},
             {"post_fork", "server, worker", 3},
             {"post_worker_init", "worker", 3}}) {
        const TempDir scratch;
        const std::string config = scratch.write(
            "conf.py", "def " + hook + "(" + arguments + "): raise RuntimeError('hook broken')\n");
        const Finished finished = run_server({"-c", config, "-b", unused_address(), "probe:app"});
        EXPECT_EQ(finished.code, code) << hook << finished;
        EXPECT_TRUE(is_gunicorn() || contains(finished.err, "RuntimeError: hook broken"))
            << hook << finished;
        const size_t tracebacks = count(finished.err, "Traceback (most recent call last)");
        EXPECT_TRUE(is_gunicorn() || tracebacks == 1) << hook << finished;
    }
}

TEST(Hooks, ThatRaiseLaterAreToldAndSurvived) {
    SKIP_ON_GUNICORN("it ends with 255");
    const TempDir scratch;
    const std::string config =
        scratch.write("conf.py",
                      "def on_reload(server): raise RuntimeError('reload broken')\n"
                      "def child_exit(server, worker): raise RuntimeError('child broken')\n"
                      "def worker_exit(server, worker): raise RuntimeError('exit broken')\n"
                      "def post_request(worker, req): raise RuntimeError('post broken')\n"
                      "def pre_request(worker, req):\n"
                      "    if req.path == '/teapot': raise RuntimeError('pre broken')\n");
    Server server({.args = {"-c", config}});
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    EXPECT_EQ(server.get("/teapot").status, 500) << server.story();
    server.signal(SIGHUP);
    EXPECT_TRUE(server.logs("reload broken")) << server.story();
    ASSERT_TRUE(server.has_workers(1));
    ::kill(server.workers().at(0), SIGTERM);
    EXPECT_TRUE(server.logs("exit broken")) << server.story();
    EXPECT_TRUE(server.logs("child broken")) << server.story();
    EXPECT_TRUE(server.has_workers(1));
    EXPECT_TRUE(eventually([&] { return server.get("/").status == 200; })) << server.story();
    EXPECT_TRUE(contains(server.err(), "Exception in post_request hook")) << server.story();
    EXPECT_TRUE(contains(server.err(), "post broken")) << server.story();
    EXPECT_TRUE(contains(server.err(), "pre broken")) << server.story();
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
}

TEST(Hooks, SeeTheAddressesOfWorkersThatAReloadLeavesBehind) {
    SKIP_ON_GUNICORN("its old workers are gone from there");
    const TempDir scratch;
    const std::string address = "unix:" + (scratch / "a-name-that-a-string-keeps-on-the-heap");
    const auto configure = [&](const std::string& bind) {
        return scratch.write(
            "conf.py", "bind = '" + bind +
                           "'\n"
                           "def seen(server, worker):\n"
                           "    server.log.info('seen %r', [str(s) for w in server.WORKERS.values()"
                           " for s in w.sockets])\n"
                           "post_fork = worker_exit = seen\n");
    };
    const std::string config = configure(address);
    const Server server({.args = {"-c", config}, .adds_bind = false, .waits = false});
    ASSERT_TRUE(server.logs("seen []")) << server.story();
    configure(address + "-too");
    server.signal(SIGHUP);
    EXPECT_TRUE(server.logs("seen ['" + address + "']")) << server.story();
}

/// Like gunicorn's example when_ready.conf.py, which ends workers that have grown too large.
TEST(Hooks, MayWatchTheWorkersFromAThread) {
    const TempDir scratch;
    const std::string config =
        scratch.write("conf.py",
                      "import signal, threading, time\n"
                      "def watch(server):\n"
                      "    for count in range(2):\n"
                      "        while not server.WORKERS: time.sleep(0.01)\n"
                      "        pid = list(server.WORKERS)[0]\n"
                      "        server.log.info('no %d is to go: %d', count, pid)\n"
                      "        while pid in server.WORKERS:\n"
                      "            server.kill_worker(pid, signal.SIGTERM)\n"
                      "            time.sleep(0.01)\n"
                      "        server.log.info('no %d is gone', count)\n"
                      "    server.log.info('watched with timeout %r', server.timeout)\n"
                      "def when_ready(server):\n"
                      "    threading.Thread(target=watch, args=(server,), daemon=True).start()\n");
    const Server server({.args = {"-c", config, "--timeout", "77"}});
    EXPECT_TRUE(server.logs("no 1 is gone")) << server.story();
    EXPECT_TRUE(server.logs("watched with timeout 77")) << server.story();
}

/// For what has to be done once and needs the application: schedulers, connection pools.
TEST(Hooks, MayLoadTheApplicationBeforeTheWorkersDo) {
    for (const bool in_arbiter : {true, false}) {
        const TempDir site;
        site.write("early.py",
                   "import os\n"
                   "made_by = str(os.getpid()).encode()\n"
                   "def app(environ, start_response):\n"
                   "    start_response('200 OK', [('Content-Length', str(len(made_by)))])\n"
                   "    return [made_by]\n");
        site.write("gunicorn.conf.py",
                   in_arbiter ? "def pre_fork(server, worker): server.app.wsgi().x = 1\n"
                              : "def post_fork(server, worker): worker.app.wsgi().x = 1\n");
        const Server server({.app = "early:app", .directory = site.path()});
        EXPECT_TRUE(eventually([&] {
            const std::string made_by = server.get("/").body;  // first: now there is a worker
            return made_by == std::to_string(in_arbiter ? server.pid() : server.workers().at(0));
        })) << server.story();
    }
}

TEST(Hooks, LearnThatTheApplicationCannotBeLoaded) {
    const TempDir site;
    site.write("early.py", "raise RuntimeError('app broken')\n");
    const std::string config = site.write("conf.py",
                                          "def on_starting(server):\n"
                                          "    try:\n"
                                          "        server.app.wsgi()\n"
                                          "    except Exception as error:\n"
                                          "        print('caught', error)\n");
    const Finished finished = run_server(
        {"-c", config, "-b", unused_address(), "--pythonpath", site.path(), "early:app"});
    EXPECT_EQ(finished.code, 3) << finished;
    EXPECT_TRUE(contains(finished.out, "caught")) << finished;
    EXPECT_TRUE(contains(finished.out, "app broken")) << finished;
}

TEST(Hooks, MayChangeTheHeadersOfARequest) {
    const TempDir scratch;
    const std::string config =
        scratch.write("conf.py",
                      "def pre_request(worker, req):\n"
                      "    req.headers.append(('X-REQUEST-ID', 'from the hook'))\n"
                      "    req.headers[:] = [h for h in req.headers if h[0] != 'X-SECRET']\n");
    const Server server({.args = {"-c", config}});
    const std::string environ =
        server.get("/environ", {{"X-Secret", "mine"}, {"X-Other", "stays"}}).body;
    EXPECT_TRUE(contains(environ, "HTTP_X_REQUEST_ID")) << environ << server.story();
    EXPECT_TRUE(contains(environ, "from the hook")) << environ;
    EXPECT_TRUE(contains(environ, "HTTP_X_OTHER")) << environ;
    EXPECT_FALSE(contains(environ, "HTTP_X_SECRET")) << environ;
}

TEST(Hooks, SeeWhatGunicornsObjectsHave) {
    const TempDir scratch;
    const std::string config = scratch.write("conf.py", R"PY(
import os, sys
max_requests, max_requests_jitter = 1000, 10
def note(*facts):
    with open("facts", "a") as file: print(*facts, file=file)
def when_ready(server):
    note(server.master_pid, server.reexec_pid, server.systemd, server.master_name,
         server.worker_class.__name__, server.START_CTX["cwd"] == os.getcwd(),
         server.START_CTX["args"][-1], os.path.isabs(server.START_CTX[0]))
def post_fork(server, worker):
    note(1000 <= worker.max_requests <= 1010, isinstance(worker, server.worker_class))
def post_request(worker, req, environ, resp):
    note(req.remote_addr == req.peer_addr, req.must_close, resp.req is req, resp.upgrade,
         req.limit_request_line, req.limit_request_fields, req.limit_request_field_size)
def worker_int(worker): note(worker.alive)
)PY");
    Server server(
        {.args = {"-c", config, "--pythonpath", apps_dir()}, .directory = scratch.path()});
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    EXPECT_TRUE(eventually([&] { return count(read_file(scratch / "facts"), "\n") == 3; }));
    server.signal(SIGINT);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_EQ(read_file(scratch / "facts"),
              "0 0 False Master SyncWorker True probe:app True\n"
              "True True\n"
              "True False True False 4094 100 8190\n"
              "False\n")
        << server.story();
}

/// One hook that raises in a running server, what makes it run, and what comes of it.
struct Raising {
    std::string name, parameters;
    std::string condition;             ///< "" = always
    std::function<void(Server&)> act;  ///< makes it run
    size_t tracebacks = 1;             ///< in total, including the stop
    bool keeps_workers = true;         ///< the old ones still serve
    int code = 0;                      ///< of the server, after TERM
};
std::ostream& operator<<(std::ostream& out, const Raising& hook) {
    return out << hook.name;
}

void signal_worker(Server& server, int number) {
    ASSERT_TRUE(server.has_workers(1));
    const pid_t worker = server.workers().at(0);
    ::kill(worker, number);
    EXPECT_TRUE(eventually([&] { return !is_alive(worker); })) << server.story();
}

class RaisingHook : public ::testing::TestWithParam<Raising> {};
INSTANTIATE_TEST_SUITE_P(
    Hooks, RaisingHook,
    ::testing::Values(
        Raising{"nworkers_changed", "server, new, old", "old",
                [](Server& s) { s.signal(SIGTTIN); }},
        Raising{"pre_fork", "server, worker", "worker.age == 2",
                [](Server& s) { s.signal(SIGTTIN); }},
        Raising{"on_reload", "server", "", [](Server& s) { s.signal(SIGHUP); }},
        Raising{"pre_exec", "server", "", [](Server& s) { s.signal(SIGUSR2); }},
        Raising{"on_exit", "server", "", nullptr, 1, true, 1},
        Raising{"child_exit", "server, worker", "worker.age == 1",
                [](Server& s) { signal_worker(s, SIGKILL); }, 1, false},
        Raising{"worker_exit", "server, worker", "worker.age == 1",
                [](Server& s) { signal_worker(s, SIGTERM); }, 1, false},
        Raising{"worker_int", "worker", "", [](Server& s) { signal_worker(s, SIGINT); }, 1, false},
        Raising{"worker_abort", "worker", "", [](Server& s) { signal_worker(s, SIGABRT); }, 1,
                false},
        Raising{"pre_request", "worker, req", "req.path == '/hooked'",
                [](Server& s) { EXPECT_EQ(s.get("/hooked").status, 500) << s.story(); }},
        Raising{"post_request", "worker, req", "req.path == '/hooked'",
                [](Server& s) { EXPECT_EQ(s.get("/hooked").status, 404) << s.story(); }}),
    [](const auto& hook) { return hook.param.name; });

TEST_P(RaisingHook, InARunningServerIsToldOnceAndSurvived) {
    SKIP_ON_GUNICORN("it ends with 255");
    const Raising& hook = GetParam();
    const TempDir scratch;
    const std::string condition = hook.condition.empty() ? "True" : hook.condition;
    const std::string config =
        scratch.write("conf.py", "def " + hook.name + "(" + hook.parameters + "):\n    if " +
                                     condition + ": raise RuntimeError('hook broken')\n");
    Server server({.args = {"-c", config, "-p", scratch / "pid"}});
    ASSERT_TRUE(server.has_workers(1));
    EXPECT_EQ(server.get("/").status, 200);
    const std::vector<pid_t> before = server.workers();
    if (hook.act) {
        hook.act(server);
        EXPECT_TRUE(server.logs("RuntimeError: hook broken")) << server.story();
    }
    EXPECT_TRUE(eventually([&] { return server.get("/").status == 200; })) << server.story();
    if (hook.keeps_workers) {
        const std::vector<pid_t> now = server.workers();
        EXPECT_NE(std::find(now.begin(), now.end(), before.at(0)), now.end()) << server.story();
    }
    EXPECT_FALSE(std::filesystem::exists(scratch / "pid.2"));
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), hook.code) << server.story();
    EXPECT_EQ(count(server.err(), "Traceback (most recent call last)"), hook.tracebacks)
        << server.story();
    const std::string named = hook.name == "worker_exit"   ? "Exception during worker exit"
                              : hook.name == "pre_request" ? "Error handling request GET /hooked"
                                                           : "Exception in " + hook.name + " hook";
    EXPECT_TRUE(contains(server.err(), named + "\nTraceback")) << server.story();
}

TEST(Hooks, OfAWrongArityAreRefused) {
    const TempDir scratch;
    const std::string config = scratch.write("conf.py", "def pre_fork(server): pass\n");
    const Finished finished = run_server({"-c", config, "probe:app"});
    EXPECT_EQ(finished.code, 1) << finished;
    EXPECT_TRUE(contains(finished.err, "Value must have an arity of: 2")) << finished;
}

// ------------------------------------------------------------------------------------ config files

class RealConfig : public ::testing::TestWithParam<std::string> {};
std::string config_name(const ::testing::TestParamInfo<std::string>& name) {
    return name.param;
}
INSTANTIATE_TEST_SUITE_P(Files, RealConfig,
                         ::testing::Values("airflow_style", "container", "cpu_count",
                                           "custom_logger", "django", "environment",
                                           "gevent_psycogreen", "logconfig_dict", "logging_hooks",
                                           "memory_limit", "prometheus_multiprocess", "typed"),
                         config_name);

TEST_P(RealConfig, IsStartedWith) {
    const TempDir scratch;
    std::string config = std::string(GCORN_SOURCE_DIR "/tests/configs/") + GetParam() + ".py";
    ServerOptions options;
    // Stand-ins for what the files expect on their machines; the real thing on this one must not be
    // found.
    const std::string configs = GCORN_SOURCE_DIR "/tests/configs";
    scratch.write("psycogreen/__init__.py", "");
    scratch.write("psycogreen/gevent.py", "def patch_psycopg(): pass\n");
    scratch.write("prometheus_client/__init__.py", "");
    scratch.write("prometheus_client/multiprocess.py", "def mark_process_dead(pid): pass\n");
    options.env["PYTHONPATH"] = configs + ":" + scratch.path() + ":" + apps_dir();
    options.env["PROMETHEUS_MULTIPROC_DIR"] = scratch / "metrics";
    options.env["GUNICORN_WORKERS"] = "2";  // environment.py
    options.args = {"-c", config, "-w", "2", "--pythonpath", apps_dir()};
    options.directory = scratch.path();
    if (GetParam() == "django")  // whose user need not be allowed to read the tests
        options.args.insert(options.args.end(), {"-u", std::to_string(::geteuid())});
    if (GetParam() == "gevent_psycogreen" && run({python(), "-c", "import gevent"}).code != 0)
        GTEST_SKIP() << "gevent is not installed";
    if (GetParam() == "typed" && run({python(), "-c", "import gunicorn"}).code == 0)
        GTEST_SKIP() << "it looks at types, and here they are those of the gunicorn installed";
    Server server(options);
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    EXPECT_TRUE(server.has_workers(2)) << server.story();
    server.signal(is_gunicorn() ? SIGQUIT : SIGTERM);  // gunicorn's TERM waits for kept clients
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_FALSE(contains(server.err(), "Traceback")) << server.story();
}

TEST(ConfigFile, WarnsOnceOfANameThatIsAlmostASetting) {
    SKIP_ON_GUNICORN("it ignores it in silence");
    const TempDir scratch;
    const std::string config =
        scratch.write("conf.py", "worker = 3\nunrelated = 1\nWORKERS = _workers = 2\n");
    const Server server({.args = {"-c", config}});
    EXPECT_EQ(server.get("/").status, 200);
    EXPECT_EQ(count(server.err(), "workers"), 1U) << server.story();
    EXPECT_FALSE(contains(server.err(), "unrelated")) << server.story();
}

// ------------------------------------------------------------------------------------- precedence

TEST(PrintConfig, TellsEachValueAndWhereItCameFrom) {
    SKIP_ON_GUNICORN("it does not tell");
    const TempDir scratch;
    const std::string config =
        scratch.write("conf.py", "timeout = 41\nthreads = 2\nkeepalive = 3\nloglevel = 'debug'\n");
    const Finished finished =
        run_server({"-c", config, "--keep-alive", "5", "--print-config", "probe:app"},
                   {{"GUNICORN_CMD_ARGS", "--threads 4 --keep-alive 4"}, {"WEB_CONCURRENCY", "7"}});
    EXPECT_EQ(finished.code, 0) << finished;
    const auto line = [&](const std::string& name) {
        std::smatch found;
        std::regex_search(finished.out, found, std::regex("(^|\n)" + name + " += ([^\n]*)"));
        return found.str(2);
    };
    EXPECT_EQ(line("backlog"), "2048  # default");
    EXPECT_EQ(line("timeout"), "41  # " + config);
    EXPECT_EQ(line("threads"), "4  # GUNICORN_CMD_ARGS");
    EXPECT_EQ(line("keepalive"), "5  # command line");
    EXPECT_EQ(line("workers"), "7  # environment WEB_CONCURRENCY");
}

// ------------------------------------------------------------------------------------- directories

/// An application that answers with its working directory and the name of its code's directory.
constexpr const char* kWhere =
    "import os\n"
    "def app(environ, start_response):\n"
    "    place = f'{os.getcwd()} {os.path.realpath(__file__)}'.encode()\n"
    "    start_response('200 OK', [('Content-Length', str(len(place)))])\n"
    "    return [place]\n";

std::string place_of(const Server& server) {
    return server.get("/").body;
}

TEST(Directories, AreFollowedAgainOnHup) {
    const TempDir site;
    for (const char* release : {"1", "2"})
        site.write(std::string(release) + "/where.py", kWhere);
    const std::string link = site / "current";
    const auto deploy = [&](const std::string& release) {
        std::filesystem::remove(link);
        std::filesystem::create_symlink(site / release, link);
    };
    deploy("1");
    const std::string config = site.write("conf.py", "chdir = '" + link + "'\n");
    for (const bool is_start : {true, false}) {
        deploy("1");
        ServerOptions options{.app = "where:app", .env = {{"PWD", is_start ? link : site.path()}}};
        options.directory = is_start ? link : site.path();
        if (!is_start) options.args = {"-c", config};
        Server server(options);
        EXPECT_EQ(place_of(server), site / "1 " + (site / "1/where.py")) << server.story();
        deploy("2");
        server.signal(SIGHUP);
        const std::string expected = site / "2 " + (site / "2/where.py");
        EXPECT_TRUE(eventually([&] { return place_of(server) == expected; }))
            << place_of(server) << server.story();
    }
}

TEST(Directories, OfTheStartIsTheConfigFilesOnHupToo) {
    const TempDir site;
    site.write("served/where.py", kWhere);
    site.write("started/size", "1");
    site.write("started/gunicorn.conf.py",
               "workers = int(open('size').read())\n"
               "chdir = '../served'\n"
               "reload_extra_files = ['size']\n");
    Server server({.app = "where:app", .directory = site / "started"});
    ASSERT_TRUE(server.has_workers(1)) << server.story();
    site.write("started/size", "2");
    server.signal(SIGHUP);
    EXPECT_TRUE(server.has_workers(2)) << server.story();
    EXPECT_EQ(place_of(server), site / "served " + (site / "served/where.py"));
}

TEST(Directories, StayWhenAReloadFails) {
    SKIP_ON_GUNICORN("it stops");
    const TempDir site;
    site.write("where.py", kWhere);
    std::filesystem::create_directory(site / "other");
    site.write("other/where.py", kWhere);
    site.write("gunicorn.conf.py", "");
    Server server({.app = "where:app", .directory = site.path()});
    ASSERT_TRUE(server.has_workers(1)) << server.story();
    for (const char* broken :
         {"chdir = 'other'\nbroken\n", "chdir = 'other'\nerrorlog = '/nonexistent/log'\n",
          "chdir = 'other'\ndef on_reload(server): raise ValueError('no')\n"}) {
        site.write("gunicorn.conf.py", broken);
        const size_t failed = count(server.err(), "Reload failed");
        server.signal(SIGHUP);
        ASSERT_TRUE(eventually([&] { return count(server.err(), "Reload failed") > failed; },
                               Milliseconds(20'000)))
            << broken << server.story();
        const std::vector<pid_t> old = server.workers();
        ::kill(old.at(0), SIGTERM);
        ASSERT_TRUE(eventually([&] {
            const std::vector<pid_t> now = server.workers();
            return now.size() == 1 && now != old;
        })) << broken
            << server.story();
        EXPECT_EQ(place_of(server), site.path() + " " + (site / "where.py")) << server.story();
    }
}

TEST(Environment, OfTheStartIsTheOneOfEveryHup) {
    SKIP_ON_GUNICORN("its log does not show it");
    const TempDir scratch;
    const std::string config = scratch.write("conf.py",
                                             "import os\n"
                                             "os.environ['WEB_CONCURRENCY'] = '3'\n"
                                             "os.environ['FORWARDED_ALLOW_IPS'] = '10.0.0.1'\n"
                                             "os.environ['SENDFILE'] = 'no'\n"
                                             "loglevel = 'debug'\n");
    Server server({.args = {"-c", config}, .env = {{"WEB_CONCURRENCY", "2"}}});
    ASSERT_TRUE(server.has_workers(2)) << server.story();
    server.signal(SIGHUP);
    const std::string_view title = "Current configuration:";
    ASSERT_TRUE(eventually([&] { return count(server.err(), title) == 2; })) << server.story();
    const std::string log = server.err();
    const std::string second = log.substr(log.rfind(title));
    for (const char* line :
         {"\n  workers: 2\n", "\n  forwarded_allow_ips: 127.0.0.1,::1\n", "\n  sendfile: None\n"})
        EXPECT_TRUE(contains(second, line)) << line << second;
}

// A second reading of a pipe would find nothing, hence the defaults, or wait for a writer.
TEST(ConfigFile, ThatIsAPipeIsReadOnlyAtTheStart) {
    SKIP_ON_GUNICORN("it takes the defaults, or hangs");
    const TempDir site;
    const std::string pipe = site / "conf.py", log_pipe = site / "log.ini";
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    std::thread writer([&] {
        Fd end;  // cannot be opened for writing before the server reads
        (void)eventually([&] {
            end.reset(::open(pipe.c_str(), O_WRONLY | O_NONBLOCK));
            return end.get() >= 0;
        });
        EXPECT_EQ(::write(end.get(), "workers = 2\n", 12), 12);
    });
    Server server({.args = {"-c", pipe}, .waits = false});
    writer.join();
    ASSERT_TRUE(server.has_workers(2)) << server.story();
    const std::vector<pid_t> workers = server.workers();
    server.signal(SIGHUP);
    EXPECT_TRUE(server.logs("Reload failed, keeping the old workers and settings: '" + pipe +
                            "' is a pipe or a terminal, which can be read only once, at the start "
                            "(config)"))
        << server.story();
    server.signal(SIGUSR2);
    EXPECT_TRUE(server.logs("exited with code 1; this one continues")) << server.story();
    EXPECT_EQ(server.workers(), workers);

    // The file may be one again, and another that it names become a pipe.
    ASSERT_EQ(::unlink(pipe.c_str()), 0);
    site.write("conf.py", "workers = 2\nlogconfig = '" + log_pipe + "'\n");
    ASSERT_EQ(::mkfifo(log_pipe.c_str(), 0600), 0);
    server.signal(SIGHUP);
    EXPECT_TRUE(server.logs("'" + log_pipe + "' is a pipe or a terminal")) << server.story();
    EXPECT_EQ(server.workers(), workers);
    site.write("conf.py", "workers = 1\n");
    server.signal(SIGHUP);
    EXPECT_TRUE(server.has_workers(1)) << server.story();
}

TEST(ConfigFile, ThatNeverEndsDoesNotKeepTheServerFromStopping) {
    SKIP_ON_GUNICORN("it has to be killed");
    const TempDir site;
    const std::string config = site.write("conf.py", "");
    Server server({.args = {"-c", config}});
    ASSERT_TRUE(server.has_workers(1)) << server.story();
    site.write("conf.py",
               "import os, time\n"
               "os.write(2, b'waiting')\n"
               "while True: time.sleep(1000)\n");
    server.signal(SIGHUP);
    ASSERT_TRUE(server.logs("waiting")) << server.story();
    EXPECT_EQ(server.get("/").status, 200);
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_TRUE(contains(server.err(), "line 3, in <module>")) << server.story();
    EXPECT_TRUE(contains(server.err(), "KeyboardInterrupt")) << server.story();
}

// At the start they have no effect, because the arbiter sets its own afterwards.
TEST(ConfigFile, SetsNoSignalHandlersOnHupEither) {
    SKIP_ON_GUNICORN("it does");
    const TempDir site;
    const std::string config = site.write("conf.py",
                                          "import signal\n"
                                          "for number in signal.SIGTERM, signal.SIGHUP:\n"
                                          "    signal.signal(number, signal.SIG_IGN)\n");
    Server server({.args = {"-c", config}});
    ASSERT_TRUE(server.has_workers(1)) << server.story();
    for (size_t times = 1; times <= 2; ++times) {
        server.signal(SIGHUP);
        ASSERT_TRUE(eventually([&] { return count(server.err(), "Worker exiting") == times; }))
            << server.story();
    }
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
}

TEST(Directories, OfPythonpathAreSeenFromTheOneServed) {
    const TempDir site;
    site.write("served/lib/where.py", kWhere);
    std::filesystem::create_directory(site / "started");
    const Server server({.app = "where:app",
                         .args = {"--chdir", "../served", "--pythonpath", "lib"},
                         .directory = site / "started"});
    EXPECT_EQ(place_of(server), site / "served " + (site / "served/lib/where.py"));
}

// ---------------------------------------------------------------------------------------- refusals

TEST(CommandLine, SuggestsListsAndRefuses) {
    SKIP_ON_GUNICORN("it has other words");
    const auto says = [](const std::vector<std::string>& args, int code, std::string_view text) {
        std::vector<std::string> all = args;
        all.push_back("probe:app");
        const Finished finished = run_server(all);
        EXPECT_EQ(finished.code, code) << args[0] << finished;
        EXPECT_TRUE(contains(finished.err, text)) << args[0] << finished;
    };
    says({"--wrokers", "2"}, 2, "did you mean --workers?");
    says({"--limit-request-f", "2"}, 2, "--limit-request-fields");
    says({"--worker", "2"}, 2, "--worker-class");
    says({"-k", "tornado"}, 1, "tornado");
    says({"-k", "asgi"}, 1, "asgi");
    says({"--protocol", "uwsgi"}, 1, "http");
}

TEST(Settings, OutOfScopeAreRefusedWithASentenceFromEverySource) {
    SKIP_ON_GUNICORN("it has them");
    size_t refused = 0;
    for (const Setting& setting : settings()) {
        if (setting.section != kOutOfScope || setting.refused.empty()) continue;
        ++refused;
        const std::string name(setting.name);
        const TempDir scratch;
        const Finished file = run_server(
            {"-c", scratch.write("conf.py", name + " = 2\n"), "--check-config", "probe:app"});
        EXPECT_EQ(file.code, 1) << name << file;
        EXPECT_TRUE(contains(file.err, "Error: ")) << name << file;
        EXPECT_TRUE(contains(file.err, std::string(setting.refused))) << name << file;
        if (setting.flags.empty()) continue;
        const Finished line = run_server({std::string(setting.flags), "2", "probe:app"});
        EXPECT_EQ(line.code, 1) << name << line;
        EXPECT_TRUE(contains(line.err, std::string(setting.refused))) << name << line;
    }
    EXPECT_GE(refused, 20U);
}

TEST(Settings, OutOfScopeMayHaveTheDefaultsThatAskForNothing) {
    const TempDir scratch;
    const Finished finished =
        run_server({"-c",
                    scratch.write("conf.py",
                                  "asgi_loop = 'auto'\nhttp_protocols = 'h1'\n"
                                  "http2_cleartext = False\ndirty_workers = 0\n"
                                  "tolerate_dangerous_framing = False\n"
                                  "dirty_apps = []\nroot_path = ''\n"
                                  "http_parser = 'python'\n"),
                    "--check-config", "probe:app"});
    EXPECT_EQ(finished.code, 0) << finished;
}

TEST(Settings, WithoutEffectSaySoAtTheStart) {
    SKIP_ON_GUNICORN("it has them");
    size_t told = 0;
    for (const Setting& setting : settings()) {
        if (setting.ignored.empty()) continue;
        ++told;
        const TempDir scratch;
        const std::string value = setting.name == "worker_tmp_dir" ? "'/tmp'"
                                  : setting.name == "ssl_version"  ? "5"
                                                                   : "True";
        const Server server({.args = {"-c", scratch.write("conf.py", std::string(setting.name) +
                                                                         " = " + value + "\n")}});
        EXPECT_TRUE(server.logs(setting.ignored)) << setting.name << server.story();
    }
    EXPECT_GE(told, 3U);
}

TEST(Settings, AreAllShownByPrintConfig) {
    SKIP_ON_GUNICORN("it has others");
    const Finished finished = run_server({"--print-config", "probe:app"});
    for (const Setting& setting : settings()) {
        if (setting.section == kOutOfScope) continue;
        EXPECT_TRUE(contains("\n" + finished.out, "\n" + std::string(setting.name) + " "))
            << setting.name;
    }
}

TEST(Paste, LoadsFromAFileOrSaysWhatIsMissing) {
    SKIP_ON_GUNICORN("it shows a traceback");
    const TempDir scratch;
    scratch.write("pasted.py",
                  "def factory(global_conf, **local_conf):\n"
                  "    body = (global_conf['where'] + local_conf['what']).encode()\n"
                  "    def app(environ, start_response):\n"
                  "        start_response('200 OK', [('Content-Length', str(len(body)))])\n"
                  "        return [body]\n"
                  "    return app\n");
    const std::string ini = scratch.write(
        "site.ini", "[app:main]\npaste.app_factory = pasted:factory\nwhat = pasted\n");
    const bool has_paste = run({python(), "-c", "import paste.deploy"}).code == 0;
    ServerOptions options{.app = "",
                          .args = {"--paste", ini, "--paste-global", "where=here,"},
                          .env = {{"PYTHONPATH", scratch.path()}}};
    if (has_paste) {
        const Server server(options);
        EXPECT_EQ(server.get("/").body, "here,pasted") << server.story();
        // As if it were not installed:
        scratch.write("sitecustomize.py", "import sys\nsys.modules['paste.deploy'] = None\n");
    }
    const Finished finished = run_server({"-b", unused_address(), "--paste", ini}, options.env);
    EXPECT_EQ(finished.code, 4) << finished;
    EXPECT_TRUE(contains(finished.err, "PasteDeploy")) << finished;
    EXPECT_FALSE(contains(finished.err, "Traceback")) << finished;
}

TEST(Paste, ItsLoggersAreTheLogconfigUnlessAnotherIsSet) {
    if (run({python(), "-c", "import paste.deploy"}).code != 0)
        GTEST_SKIP() << "PasteDeploy is not installed";
    const TempDir scratch;
    scratch.write("pasted.py",
                  "import logging\n"
                  "def factory(global_conf):\n"
                  "    def app(environ, start_response):\n"
                  "        logging.getLogger('shop').warning('sold %s', environ['PATH_INFO'])\n"
                  "        start_response('200 OK', [('Content-Length', '2')])\n"
                  "        return [b'ok']\n"
                  "    return app\n");
    const auto ini = [&](const std::string& name, const std::string& application) {
        return scratch.write(name, application +
                                       "[loggers]\nkeys = root\n"
                                       "[handlers]\nkeys = file\n"
                                       "[formatters]\nkeys = plain\n"
                                       "[logger_root]\nlevel = INFO\nhandlers = file\n"
                                       "[handler_file]\nclass = FileHandler\n"
                                       "args = (r'%(here)s/" +
                                       name + ".log',)\nformatter = plain\n" +
                                       "[formatter_plain]\nformat = %(name)s: %(message)s\n");
    };
    ini("site.ini", "[app:shop]\npaste.app_factory = pasted:factory\n");
    ini("other.ini", "");
    ServerOptions options{.app = "",
                          .args = {"--paste", "site.ini#shop"},
                          .env = {{"PYTHONPATH", scratch.path()}},
                          .directory = scratch.path()};
    const auto logged = [&](const std::string& name) {
        return contains(read_file(scratch / name), "shop: sold /here\n");
    };
    {
        const Server server(options);
        EXPECT_EQ(server.get("/here").body, "ok") << server.story();
        EXPECT_TRUE(eventually([&] { return logged("site.ini.log"); })) << server.story();
        std::filesystem::remove(scratch / "site.ini.log");
    }
    options.args.insert(options.args.end(), {"--log-config", scratch / "other.ini"});
    const Server server(options);
    EXPECT_EQ(server.get("/here").body, "ok") << server.story();
    EXPECT_TRUE(eventually([&] { return logged("other.ini.log"); })) << server.story();
    EXPECT_FALSE(std::filesystem::exists(scratch / "site.ini.log"));
}

// ------------------------------------------------------------------------------- titles, preload

std::string title(pid_t pid) {
    std::string text = read_file("/proc/" + std::to_string(pid) + "/cmdline");
    return text.substr(0, text.find('\0'));
}

TEST(Titles, NameTheProcesses) {
    SKIP_ON_GUNICORN("it needs a package");
    Server server({.args = {"-n", "shop"}});
    ASSERT_TRUE(server.has_workers(1));
    EXPECT_EQ(server.get("/").status, 200);
    EXPECT_EQ(title(server.pid()), "gcorn: master [shop]");
    EXPECT_EQ(title(server.workers().at(0)), "gcorn: worker [shop]");
    const Server unnamed;
    EXPECT_EQ(title(unnamed.pid()), "gcorn: master [probe:app]");
}

TEST(Preload, IsImportedOnceAndHupSaysThatItStays) {
    SKIP_ON_GUNICORN("it does not say so");
    const TempDir site;
    const std::string code =
        "import os\n"
        "made_by = str(os.getpid()).encode()\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', str(len(made_by)))])\n"
        "    return [made_by]\n";
    site.write("early.py", code);
    Server server({.app = "early:app", .args = {"--preload", "-w", "2"}, .directory = site.path()});
    EXPECT_EQ(server.get("/").body, std::to_string(server.pid()));
    ASSERT_TRUE(server.has_workers(2));
    const std::vector<pid_t> old = server.workers();
    site.write("early.py", "made_by = b'new code'\n" + code.substr(code.find("def app")));
    server.signal(SIGHUP);
    EXPECT_TRUE(server.logs("preload")) << server.story();
    EXPECT_TRUE(eventually([&] {
        const std::vector<pid_t> now = server.workers();
        return now.size() == 2 && now[0] != old[0] && now[0] != old[1];
    })) << server.story();
    EXPECT_EQ(server.get("/").body, std::to_string(server.pid())) << server.story();
}

TEST(Preload, AThreadThatTheImportStartsDisturbsNoWorker) {
    const TempDir site;
    site.write("early.py",
               "import threading\n"
               "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
               "def app(environ, start_response):\n"
               "    start_response('200 OK', [('Content-Length', '2')])\n"
               "    return [b'ok']\n");
    Server server({.app = "early:app",
                   .args = {"-k", "gevent", "--preload", "-w", "2"},
                   .directory = site.path()});
    EXPECT_EQ(server.get("/").body, "ok");
    ASSERT_TRUE(server.has_workers(2));
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_FALSE(contains(server.err(), "Traceback")) << server.story();
}

TEST(Preload, SwitchedOnByHupWaitsForARestart) {
    SKIP_ON_GUNICORN("it loads the application then");
    const TempDir site;
    // Texts of different lengths: by its time alone, a stale compiled module could pass for the new
    // one.
    const auto deploy = [&](const std::string& code, const std::string& settings) {
        site.write("early.py",
                   "import os\n"
                   "body = ('" +
                       code +
                       "%d' % os.getpid()).encode()\n"
                       "def app(environ, start_response):\n"
                       "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
                       "    return [body]\n");
        site.write("gunicorn.conf.py", settings);
    };
    deploy("1 ", "");
    Server server({.app = "early:app", .directory = site.path()});
    // Waits until the only worker is a new one, and checks that it imported this code itself.
    pid_t worker = 0;
    const auto expect_next = [&](const std::string& code) {
        EXPECT_TRUE(eventually([&] {
            const std::vector<pid_t> now = server.workers();
            return now.size() == 1 && now[0] != worker;
        })) << server.story();
        worker = server.workers().at(0);
        EXPECT_EQ(server.get("/").body, code + std::to_string(worker)) << server.story();
    };
    expect_next("1 ");

    deploy("two ", "preload_app = True\ndef on_reload(server): raise ValueError('no')\n");
    server.signal(SIGHUP);
    ASSERT_TRUE(server.logs("Reload failed")) << server.story();
    EXPECT_TRUE(contains(server.err(), "preload_app has changed, but takes effect only after"));
    ::kill(worker, SIGKILL);
    expect_next("two ");

    deploy("three ", "preload_app = True\n");
    server.signal(SIGHUP);
    expect_next("three ");
    deploy("fourth ", "");
    server.signal(SIGHUP);
    expect_next("fourth ");
    EXPECT_FALSE(contains(server.err(), "was preloaded")) << server.story();
}

// ------------------------------------------------------------------------------------- exit codes

TEST(ExitCodes, AreThoseOfTheTable) {
    const TempDir scratch;
    scratch.write("raising.py", "raise RuntimeError('no')\n");
    const auto code = [&](const std::vector<std::string>& args) {
        std::vector<std::string> all = {"-b", unused_address(), "--chdir", scratch.path()};
        all.insert(all.end(), args.begin(), args.end());
        return run_server(all).code;
    };
    EXPECT_EQ(code({"--version"}), 0);
    EXPECT_EQ(code({"-w", "-1", "raising:app"}), 1);
    EXPECT_EQ(code({"--check-config", "raising:app"}), 1);
    EXPECT_EQ(code({"--no-such", "raising:app"}), 2);
    EXPECT_EQ(code({"raising:app"}), 3);
    EXPECT_EQ(code({"--preload", "raising:app"}), is_gunicorn() ? 1 : 3);
    scratch.write("leaving.py", "import sys\nsys.exit(255)\n");
    if (!is_gunicorn() || gunicorn_version() >= 21) {  // 20 boots workers one after another
        EXPECT_EQ(code({"leaving:app"}), is_gunicorn() ? 255 : 3);
    }
    EXPECT_EQ(code({"--check-config", "leaving:app"}), is_gunicorn() ? 255 : 1);
    for (const int status : {255, 7}) {
        const std::string stop = "sys.exit(" + std::to_string(status) + ")\n";
        scratch.write("file.py", "import sys\n" + stop);
        EXPECT_EQ(code({"-c", scratch / "file.py", "empty:app"}), status);
        scratch.write("hook.py", "import sys\ndef on_starting(server): " + stop);
        EXPECT_EQ(code({"-c", scratch / "hook.py", "empty:app"}), status);
    }
    scratch.write("empty.py", "");
    EXPECT_EQ(code({"empty:app"}), 4);
    EXPECT_EQ(code({"--preload", "empty:app"}), is_gunicorn() ? 1 : 4);
}

}  // namespace
}  // namespace gcorn::e2e
