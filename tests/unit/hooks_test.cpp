#include "python/pyref.h"

#include "python/hooks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "arbiter.h"
#include "log/statsd.h"
#include "net/exchange.h"
#include "os/scoreboard.h"
#include "python/config_file.h"
#include "python/logging.h"
#include "tests/support/apply.h"
#include "tests/support/python_fixture.h"
#include "worker.h"

namespace gcorn {
namespace {

class NoApp final : public App {
public:
    Status load() override { return {}; }
    [[nodiscard]] bool is_loaded() const override { return false; }
    void call(Exchange&) override {}
    std::vector<std::string> source_files() override { return {}; }
};

class NoRuntime final : public Runtime {
public:
    Status start_threads(size_t, std::function<void(size_t)>) override { return {}; }
    bool join_threads(int) override { return true; }
    void set_environment(const std::string&, const std::string*) override {}
};

class NoOwner final : public ExchangeOwner {
public:
    void exchange_needs_leader(Exchange&) override {}
    void beat_while_waiting() override {}
    void exchange_completed(Exchange&) override {}
};

/// A worker of this very process, as the hooks see it after the fork.
struct Site {
    Site(Logger& log, Hooks& hooks, Config config)
        : scoreboard(std::move(*Scoreboard::create(2))),
          access_log(std::move(*AccessLog::compile("%(r)s"))),
          arbiter(std::move(config), {.argv = {},
                                      .environment = {},
                                      .executable = "",
                                      .start_directory = "/",
                                      .reload_config = {},
                                      .use_config = {},
                                      .make_worker = {},
                                      .log = log,
                                      .statsd = statsd,
                                      .runtime = runtime,
                                      .hooks = hooks,
                                      .app = app,
                                      .starter = starter}),
          listener(std::move(*Listener::open(*parse_bind("127.0.0.1:0"), {}))),
          worker(std::make_unique<SyncWorker>(WorkerContext{.arbiter = arbiter,
                                                            .cfg = arbiter.cfg(),
                                                            .log = log,
                                                            .access_log = access_log,
                                                            .statsd = statsd,
                                                            .runtime = runtime,
                                                            .hooks = hooks,
                                                            .app = app,
                                                            .scoreboard = scoreboard,
                                                            .slot = scoreboard.claim(),
                                                            .listeners = {listener.get()},
                                                            .age = 7,
                                                            .response = {}})) {}

    Statsd statsd;
    Starter starter;
    NoApp app;
    NoRuntime runtime;
    Scoreboard scoreboard;
    AccessLog access_log;
    Arbiter arbiter;
    std::unique_ptr<Listener> listener;
    std::unique_ptr<Worker> worker;
};

class HooksTest : public PythonTest {
protected:
    void SetUp() override {
        PythonTest::SetUp();
        facts_.remote_addr = "10.0.0.9";
        facts_.remote_port = "4711";
        ASSERT_TRUE(run_python("seen = []"));
    }

    /// Makes the site with the config file `text`, which can take notes in `seen` of __main__.
    void use(const std::string& text, const std::string& loglevel = "info") {
        LogOptions options;
        options.errorlog = "error.log";
        ASSERT_TRUE(parse_level(loglevel, options.level));
        ASSERT_TRUE(log_.open(options));
        write_file("conf.py",
                   "from __main__ import seen\nerrorlog = 'error.log'\nproc_name = 'site'\n"
                   "loglevel = '" +
                       loglevel + "'\n" + text);
        auto file = load_config_file("conf.py", directory_);
        ASSERT_TRUE(file) << file.message();
        Config cfg;
        for (const auto& [name, value] : file->values) {
            Status applied = testing::apply(cfg, name, value);
            ASSERT_TRUE(applied) << applied.message();
        }
        ASSERT_TRUE(logging_.configure(cfg));
        site_ = std::make_unique<Site>(log_, hooks_, std::move(cfg));
    }

    Arbiter& arbiter() { return site_->arbiter; }
    Worker& worker() { return *site_->worker; }
    static std::string seen() { return eval_python("seen"); }
    [[nodiscard]] std::string errors() const { return read_file("error.log"); }

    /// A request as the loop hands it to the application side.
    std::shared_ptr<Exchange> exchange(const std::string& wire, const std::string& body = "") {
        auto made = std::make_shared<Exchange>(owner_);
        size_t used = 0;
        HttpError error;
        EXPECT_EQ(HeadParser().parse(wire, {}, {}, made->head, used, error), Parse::Done);
        made->facts = &facts_;
        EXPECT_TRUE(made->body.append(body));
        made->response.begin(made->head, true, response_options_);
        return made;
    }

    bool pre_request(Exchange& exchange) {
        WithGil gil;
        if (hooks_.pre_request(exchange)) return true;
        failure_ = take_error_text(false);
        return false;
    }

    bool post_request(Exchange& exchange, const char* environ_expression) {
        WithGil gil;
        PyObject* names = PyModule_GetDict(PyImport_AddModule("__main__"));
        const PyRef environ =
            environ_expression != nullptr
                ? PyRef::steal(PyRun_String(environ_expression, Py_eval_input, names, names))
                : PyRef();
        if (hooks_.post_request(exchange, environ.get())) return true;
        failure_ = take_error_text(false);
        return false;
    }

    Logger log_;
    PythonLogging logging_{log_};
    PythonHooks hooks_{log_, logging_, nullptr};
    std::unique_ptr<Site> site_;
    NoOwner owner_;
    ConnectionFacts facts_;
    ResponseOptions response_options_;
    std::string failure_;
};

// --- who is called with what ---

TEST_F(HooksTest, CallsEveryHookOfTheArbiterWithTheServer) {
    use("def note(name):\n"
        "    def hook(server): seen.append((name, type(server).__name__))\n"
        "    return hook\n"
        "for name in 'on_starting when_ready on_reload on_exit pre_exec'.split():\n"
        "    globals()[name] = note(name)\n");
    EXPECT_TRUE(hooks_.run(&Config::on_starting, &arbiter()));
    EXPECT_TRUE(hooks_.run(&Config::when_ready, &arbiter()));
    EXPECT_TRUE(hooks_.run(&Config::on_reload, &arbiter()));
    EXPECT_TRUE(hooks_.run(&Config::pre_exec, &arbiter()));
    EXPECT_TRUE(hooks_.run(&Config::on_exit, &arbiter()));
    EXPECT_EQ(seen(),
              "[('on_starting', 'Server'), ('when_ready', 'Server'), ('on_reload', 'Server'), "
              "('pre_exec', 'Server'), ('on_exit', 'Server')]");
}

TEST_F(HooksTest, CallsEveryHookOfAWorkerWithTheWorker) {
    use("def note(name, count):\n"
        "    def one(worker): seen.append((name, worker.age, worker.alive))\n"
        "    def two(server, worker): seen.append((name, server.proc_name, worker.age))\n"
        "    return one if count == 1 else two\n"
        "for name in 'pre_fork post_fork child_exit worker_exit'.split():\n"
        "    globals()[name] = note(name, 2)\n"
        "for name in 'post_worker_init worker_int worker_abort'.split():\n"
        "    globals()[name] = note(name, 1)\n");
    EXPECT_TRUE(hooks_.run(&Config::pre_fork, &arbiter(), &worker()));
    EXPECT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    EXPECT_TRUE(hooks_.run(&Config::post_worker_init, nullptr, &worker()));
    (void)hooks_.run(&Config::worker_int, nullptr, &worker());
    (void)hooks_.run(&Config::worker_abort, nullptr, &worker());
    (void)hooks_.run(&Config::worker_exit, &arbiter(), &worker());
    (void)hooks_.run(&Config::child_exit, &arbiter(), &worker());
    EXPECT_EQ(seen(),
              "[('pre_fork', 'site', 7), ('post_fork', 'site', 7), ('post_worker_init', 7, "
              "True), ('worker_int', 7, False), ('worker_abort', 7, False), "
              "('worker_exit', 'site', 7), "
              "('child_exit', 'site', 7)]");
}

/// After HUP old workers leave; the arbiter, which has the new configuration, buries them.
TEST_F(HooksTest, CallsTheHooksThatAWorkerWasMadeWith) {
    use("def child_exit(server, worker): seen.append(('old', server.cfg.proc_name))\n");
    const std::unique_ptr<Site> old = std::move(site_);
    use("proc_name = 'new'\ndef child_exit(server, worker): seen.append('new')\n");
    ASSERT_TRUE(hooks_.run(&Config::child_exit, &arbiter(), old->worker.get()));
    ASSERT_TRUE(hooks_.run(&Config::child_exit, &arbiter(), &worker()));
    EXPECT_EQ(seen(), "[('old', 'new'), 'new']");
}

TEST_F(HooksTest, TellsTheNumberOfWorkersBeforeAndAfter) {
    use("def nworkers_changed(server, new_value, old_value): seen.append((new_value, "
        "old_value))\n");
    EXPECT_TRUE(hooks_.run(&Config::nworkers_changed, &arbiter(), nullptr, {2, -1}));
    EXPECT_TRUE(hooks_.run(&Config::nworkers_changed, &arbiter(), nullptr, {0, 2}));
    EXPECT_EQ(seen(), "[(2, None), (0, 2)]");
}

TEST_F(HooksTest, DoesNothingWhereNoHookIsSet) {
    use("");
    EXPECT_TRUE(hooks_.run(&Config::on_starting, &arbiter()));
    EXPECT_TRUE(hooks_.run(&Config::nworkers_changed, &arbiter(), nullptr, {1, -1}));
    EXPECT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    (void)hooks_.run(&Config::worker_exit, &arbiter(), &worker());
    EXPECT_EQ(errors(), "");
}

// --- views ---

TEST_F(HooksTest, ShowsTheServer) {
    use("workers = 3\nbind = ['127.0.0.1:81', 'unix:/x.sock']\n"
        "def on_starting(server):\n"
        "    seen.append((server.pid, server.num_workers, server.address, server.WORKERS,\n"
        "                 server.LISTENERS, server.proc_name, server.cfg.workers,\n"
        "                 server.app.cfg.workers, server.app.callable))\n");
    ASSERT_TRUE(hooks_.run(&Config::on_starting, &arbiter()));
    EXPECT_EQ(seen(), "[(" + std::to_string(arbiter().pid()) +
                          ", 0, [('127.0.0.1', 81), '/x.sock'], {}, [], 'site', 3, 3, None)]");
}

TEST_F(HooksTest, ShowsTheWorkerBeforeAndAfterTheFork) {
    use("timeout = 31\n"
        "def look(w): seen.append((w.pid, w.age, w.nr, w.alive, w.booted, w.aborted, "
        "w.timeout))\n"
        "def pre_fork(server, worker): look(worker)\n"
        "def post_worker_init(worker):\n"
        "    look(worker)\n"
        "    seen.append((worker.sockets[0].getsockname() == "
        "worker.sockets[0].sock.getsockname(),\n"
        "                 str(worker.sockets[0])[:17], worker.wsgi, str(worker)))\n");
    ASSERT_TRUE(hooks_.run(&Config::pre_fork, &arbiter(), &worker()));
    worker().set_pid(4321);
    worker().set_aborted();
    WorkerSlot& slot = site_->scoreboard.slot(worker().slot());
    slot.state = WorkerState::Ready;
    slot.requests = 5;
    ASSERT_TRUE(hooks_.run(&Config::post_worker_init, nullptr, &worker()));
    EXPECT_EQ(seen(),
              "[('[booting]', 7, 0, True, False, False, 15.5), "
              "(4321, 7, 5, True, True, True, 15.5), "
              "(True, 'http://127.0.0.1:', None, '<Worker 4321>')]");
}

TEST_F(HooksTest, ListenersOfferWhatSocketsDo) {
    use("import copy, socket\n"
        "def post_fork(server, worker):\n"
        "    listener = copy.copy(worker.sockets[0])\n"
        "    seen.append((listener.family.name, listener.getsockname()[0],\n"
        "                 len(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)),\n"
        "                 hasattr(listener, 'nothing')))\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker())) << errors();
    EXPECT_EQ(seen(), "[('AF_INET', '127.0.0.1', 104, False)]");
}

TEST_F(HooksTest, KeepsWhatAHookStoredOnAView) {
    use("def pre_fork(server, worker):\n"
        "    worker.colour = 'green'\n"
        "    server.count = 1\n"
        "    seen.append(worker)\n"
        "def post_fork(server, worker):\n"
        "    seen.append((worker is seen[0], worker.colour, server.count))\n");
    ASSERT_TRUE(hooks_.run(&Config::pre_fork, &arbiter(), &worker()));
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    EXPECT_EQ(eval_python("seen[1]"), "(True, 'green', 1)");
}

TEST_F(HooksTest, ForgetsWorkersThatAreGone) {
    use("def child_exit(server, worker): seen.append(worker)\ndef when_ready(server): pass\n");
    (void)hooks_.run(&Config::child_exit, &arbiter(), &worker());
    EXPECT_EQ(eval_python("len(__import__('_gcorn')._workers)"), "1");
    ASSERT_TRUE(hooks_.run(&Config::when_ready, &arbiter()));
    EXPECT_EQ(eval_python("len(__import__('_gcorn')._workers)"), "0");
    EXPECT_EQ(eval_python("seen[0].age"), "7");
}

TEST_F(HooksTest, RefusesChangesAndNamesWhatExists) {
    use("def post_worker_init(worker):\n"
        "    for change in 'worker.pid = 1', 'worker.log = 1', 'worker.cfg.workers = 2', 'del "
        "worker.nr':\n"
        "        try:\n            exec(change)\n"
        "        except AttributeError as e:\n            seen.append(str(e))\n"
        "    try:\n        worker.reload\n"
        "    except AttributeError as e:\n        seen.append(str(e))\n"
        "    seen.append(hasattr(worker, 'nothing'))\n");
    ASSERT_TRUE(hooks_.run(&Config::post_worker_init, nullptr, &worker())) << errors();
    EXPECT_EQ(eval_python("seen[0]"), "'pid' of gcorn's worker object is read-only");
    EXPECT_EQ(eval_python("seen[1]"), "'log' of gcorn's worker object is read-only");
    EXPECT_EQ(eval_python("seen[2]"), "'workers' of gcorn's config object is read-only");
    EXPECT_EQ(eval_python("seen[3]"), "'nr' of gcorn's worker object is read-only");
    EXPECT_EQ(
        eval_python("seen[4]"),
        "gcorn's worker object has no 'reload'; it has aborted, age, alive, app, booted, cfg, "
        "log, max_requests, notify, nr, pid, ppid, reloader, sockets, timeout, tmp, wsgi");
    EXPECT_EQ(eval_python("seen[5]"), "False");
}

TEST_F(HooksTest, LetsAWorkerLeaveByItsAliveAttribute) {
    use("def post_fork(server, worker): worker.alive = True\n"
        "def post_worker_init(worker): worker.alive = False\n");
    worker().set_pid(::getpid());
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    EXPECT_TRUE(worker().alive());
    ASSERT_TRUE(hooks_.run(&Config::post_worker_init, nullptr, &worker()));
    EXPECT_FALSE(worker().alive());
}

TEST_F(HooksTest, RefusesToStopAnotherProcessesWorker) {
    use("def child_exit(server, worker):\n"
        "    try:\n        worker.alive = False\n"
        "    except AttributeError as e:\n        seen.append(str(e))\n");
    worker().set_pid(1);
    (void)hooks_.run(&Config::child_exit, &arbiter(), &worker());
    EXPECT_EQ(seen(), "['worker.alive can only be set inside that worker']");
    EXPECT_TRUE(worker().alive());
}

TEST_F(HooksTest, BeatsForALongPostFork) {
    use("def post_fork(server, worker):\n    worker.notify()\n    worker.tmp.notify()\n");
    WorkerSlot& slot = site_->scoreboard.slot(worker().slot());
    slot.heartbeat_ms = 0;
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    EXPECT_GT(slot.heartbeat_ms.load(), 0);
}

TEST_F(HooksTest, LogsThroughTheViews) {
    use("def when_ready(server): server.log.info('ready with %d', server.cfg.workers)\n"
        "def worker_int(worker): worker.log.warning('interrupted')\n");
    ASSERT_TRUE(hooks_.run(&Config::when_ready, &arbiter()));
    (void)hooks_.run(&Config::worker_int, nullptr, &worker());
    EXPECT_NE(errors().find("[INFO] ready with 1\n"), std::string::npos) << errors();
    EXPECT_NE(errors().find("[WARNING] interrupted\n"), std::string::npos) << errors();
}

// --- hooks that raise ---

TEST_F(HooksTest, ReportsAFailureOnceWithItsTraceback) {
    use("def on_starting(server):\n    raise RuntimeError('no database')\n");
    Status status = hooks_.run(&Config::on_starting, &arbiter());
    ASSERT_FALSE(status);
    EXPECT_EQ(status.message(), "on_starting hook: RuntimeError: no database");
    EXPECT_EQ(status.error().code, 0);
    const std::string text = errors();
    EXPECT_NE(text.find("[ERROR] Exception in on_starting hook\nTraceback"), std::string::npos)
        << text;
    EXPECT_NE(text.find("conf.py\", line 6, in on_starting"), std::string::npos) << text;
    EXPECT_EQ(text.find("RuntimeError: no database"), text.rfind("RuntimeError: no database"));
    WithGil gil;
    EXPECT_EQ(PyErr_Occurred(), nullptr);
}

TEST_F(HooksTest, PassesOnTheStatusOfAHookThatWantsToStop) {
    use("import sys\nfrom gunicorn.errors import HaltServer\n"
        "def on_starting(server): sys.exit(9)\n"
        "def when_ready(server): raise HaltServer('enough', 5)\n"
        "def on_reload(server): sys.exit('text')\n"
        "def on_exit(server): raise KeyboardInterrupt\n");
    EXPECT_EQ(hooks_.run(&Config::on_starting, &arbiter()).error().code, 9);
    EXPECT_EQ(hooks_.run(&Config::when_ready, &arbiter()).error().code, 5);
    EXPECT_EQ(hooks_.run(&Config::on_reload, &arbiter()).error().code, 1);
    EXPECT_EQ(hooks_.run(&Config::on_exit, &arbiter()).error().code, 0);
}

TEST_F(HooksTest, SurvivesFailuresThatChangeNothing) {
    use("def fail(*a): raise ValueError('oops')\n"
        "child_exit = worker_exit = worker_int = worker_abort = fail\n");
    (void)hooks_.run(&Config::child_exit, &arbiter(), &worker());
    (void)hooks_.run(&Config::worker_int, nullptr, &worker());
    (void)hooks_.run(&Config::worker_abort, nullptr, &worker());
    (void)hooks_.run(&Config::worker_exit, &arbiter(), &worker());
    EXPECT_NE(errors().find("[ERROR] Exception in child_exit hook\n"), std::string::npos);
    EXPECT_NE(errors().find("[WARNING] Exception during worker exit\n"), std::string::npos);
}

// --- requests ---

TEST_F(HooksTest, KnowsWhetherRequestsNeedHooks) {
    use("");
    EXPECT_FALSE(hooks_.has_request_hooks(arbiter().cfg()));
    use("def pre_request(worker, req): pass\n");
    EXPECT_TRUE(hooks_.has_request_hooks(arbiter().cfg()));
    use("def post_request(worker, req): pass\n");
    EXPECT_TRUE(hooks_.has_request_hooks(arbiter().cfg()));
    use("", "debug");
    EXPECT_TRUE(hooks_.has_request_hooks(arbiter().cfg()));
}

TEST_F(HooksTest, ShowsTheRequest) {
    use("def pre_request(worker, req):\n"
        "    seen.append((req.method, req.uri, req.path, req.query, req.fragment, req.version))\n"
        "    seen.append((req.headers, req.trailers, req.scheme, req.peer_addr,\n"
        "                 req.proxy_protocol_info, req.should_close()))\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /a%20b?x=1#top HTTP/1.1\r\nHost: h\r\nx-Id: \xe9\r\n\r\n");
    ASSERT_TRUE(pre_request(*request)) << failure_;
    EXPECT_EQ(eval_python("seen[0]"), "('GET', '/a%20b?x=1#top', '/a%20b', 'x=1', 'top', (1, 1))");
    EXPECT_EQ(eval_python("seen[1]"),
              "([('HOST', 'h'), ('X-ID', 'é')], [], 'http', ('10.0.0.9', 4711), None, False)");
}

TEST_F(HooksTest, ShowsThePeerOfAProxyAndOfAUnixSocket) {
    use("def pre_request(worker, req): seen.append((req.peer_addr, req.proxy_protocol_info))\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    facts_.has_proxy_header = true;
    facts_.proxy_protocol = "TCP4";
    facts_.proxy_addr = "1.2.3.4";
    facts_.proxy_port = "80";
    auto request = exchange("GET / HTTP/1.0\r\n\r\n");
    ASSERT_TRUE(pre_request(*request));
    facts_ = ConnectionFacts();
    facts_.is_unix = true;
    ASSERT_TRUE(pre_request(*request));
    EXPECT_EQ(seen(),
              "[(('10.0.0.9', 4711), {'proxy_protocol': 'TCP4', 'client_addr': '10.0.0.9', "
              "'client_port': '4711', 'proxy_addr': '1.2.3.4', 'proxy_port': '80'}), "
              "('', None)]");
}

TEST_F(HooksTest, LetsAHookReadTheBodyWithoutTakingIt) {
    use("def pre_request(worker, req):\n"
        "    seen.append((req.body.readline(), req.body.read(3), req.body.read(), "
        "req.body.read()))\n"
        "    seen.append(req)\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request =
        exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n", "one\ntwothree");
    ASSERT_TRUE(pre_request(*request)) << failure_;
    EXPECT_EQ(eval_python("seen[0]"), "(b'one\\n', b'two', b'three', b'')");
    ASSERT_TRUE(post_request(*request, "{}"));
    request.reset();  // a kept view keeps the body alive
    EXPECT_EQ(eval_python("type(seen[1].body).__name__"), "BufferedReader");
    ASSERT_TRUE(run_python("seen.clear()"));
}

TEST_F(HooksTest, GivesTheBodyPieceByPieceAndSaysIfItEndedEarly) {
    use("def pre_request(worker, req):\n"
        "    import _gcorn_native as native\n"
        "    for position, size in ((0, 0), (0, -1), (2, 3), (2, 4 << 20), (9, 1), (2**64 - 1, "
        "1)):\n"
        "        seen.append(len(native.read_body(req._exchange, position, size)))\n"
        "    try: native.read_body(native.read_body, 0, 1)\n"
        "    except ValueError as e: seen.append(type(e).__name__)\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n";
    auto request = exchange(head, std::string(2'000'000, 'b'));
    ASSERT_TRUE(pre_request(*request)) << failure_;
    EXPECT_EQ(seen(), "[0, 0, 3, 1048576, 1, 0, 'ValueError']");
    ASSERT_TRUE(post_request(*request, "{}"));
}

TEST_F(HooksTest, GivesBothHooksTheSameRequestAndTheResponse) {
    use("def pre_request(worker, req): req.started = 12\n"
        "def post_request(worker, req, environ, resp):\n"
        "    seen.append((req.started, req.path, environ, resp.status, resp.status_code, "
        "resp.headers,\n"
        "                 resp.response_length, resp.sent, resp.headers_sent, resp.chunked,\n"
        "                 resp.must_close, resp.should_close()))\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    ASSERT_TRUE(pre_request(*request));
    ASSERT_TRUE(request->response.set_status("201 Created"));
    ASSERT_TRUE(request->response.add_field("X-A", "1"));
    ASSERT_TRUE(request->response.add_field("Content-Length", "3"));
    (void)request->response.body(3, true);
    ASSERT_TRUE(post_request(*request, "{'k': 1}")) << failure_;
    EXPECT_EQ(seen(),
              "[(12, '/p', {'k': 1}, '201 Created', 201, [('X-A', '1'), ('Content-Length', '3')], "
              "3, 3, True, False, False, False)]");
}

TEST_F(HooksTest, ForgetsARequestThatOnlyPreRequestWanted) {
    use("def pre_request(worker, req): seen.append(req.path)\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    const long before = request.use_count();
    ASSERT_TRUE(pre_request(*request));
    EXPECT_GT(request.use_count(), before);
    ASSERT_TRUE(post_request(*request, "{}"));
    EXPECT_EQ(request.use_count(), before);
}

TEST_F(HooksTest, LogsARequestWhosePreRequestFailed) {
    use("import gunicorn\n"
        "class Own(gunicorn.glogging.Logger):\n"
        "    def access(self, resp, req, environ, request_time):\n"
        "        seen.append((resp.status, req.path))\n"
        "logger_class = Own\n"
        "def pre_request(worker, req): raise ValueError('no')\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_FALSE(pre_request(*request));
    ASSERT_TRUE(request->response.set_status("500 Internal Server Error"));
    ASSERT_TRUE(post_request(*request, nullptr)) << failure_;
    EXPECT_EQ(seen(), "[('500 Internal Server Error', '/p')]");
}

TEST_F(HooksTest, CallsPostRequestWithoutEnvironAndResponse) {
    use("def post_request(worker, req, environ, resp): seen.append((req.path, environ, resp))\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    ASSERT_TRUE(post_request(*request, nullptr)) << failure_;
    EXPECT_EQ(seen(), "[('/p', {}, None)]");
}

TEST_F(HooksTest, CallsAPostRequestWithTwoParameters) {
    use("def post_request(worker, req): seen.append((worker.nr, worker.alive, req.method))\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    for (const int number : {3, 4}) {
        site_->scoreboard.slot(worker().slot()).requests = static_cast<uint64_t>(number);
        auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
        ASSERT_TRUE(pre_request(*request));
        ASSERT_TRUE(post_request(*request, "{}"));
        worker().leave();
    }
    EXPECT_EQ(seen(), "[(3, True, 'GET'), (4, False, 'GET')]");
}

TEST_F(HooksTest, LeavesWhatARequestHookRaisesToTheCaller) {
    use("def pre_request(worker, req): raise ValueError('before')\n"
        "def post_request(worker, req): raise ValueError('after')\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_FALSE(pre_request(*request));
    EXPECT_EQ(failure_, "ValueError: before");
    EXPECT_FALSE(post_request(*request, "{}"));
    EXPECT_EQ(failure_, "ValueError: after");
    EXPECT_EQ(errors(), "");
}

TEST_F(HooksTest, NamesRequestsInTheDebugLogWithoutAHook) {
    use("", "debug");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /p\"?x HTTP/1.1\r\nHost: h\r\n\r\n");
    ASSERT_TRUE(pre_request(*request));
    EXPECT_NE(errors().find("[DEBUG] GET /p\\\"\n"), std::string::npos) << errors();
}

TEST_F(HooksTest, HandsAccessRecordsToPythonsLogging) {
    use("import gunicorn\n"
        "class Own(gunicorn.glogging.Logger):\n"
        "    def access(self, resp, req, environ, request_time):\n"
        "        seen.append((resp.status, req.path, environ, request_time.total_seconds()))\n"
        "logger_class = Own\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    EXPECT_TRUE(hooks_.has_request_hooks(arbiter().cfg()));
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    request->received_us = 1000000;
    request->done_us = 3500000;
    ASSERT_TRUE(pre_request(*request));
    ASSERT_TRUE(request->response.set_status("200 OK"));
    ASSERT_TRUE(post_request(*request, "{'k': 1}")) << failure_;
    EXPECT_EQ(seen(), "[('200 OK', '/p', {'k': 1}, 2.5)]");
}

TEST_F(HooksTest, TellsPythonsLoggingHowLongARequestTook) {
    use("import gunicorn\n"
        "class Own(gunicorn.glogging.Logger):\n"
        "    def access(self, resp, req, environ, request_time):\n"
        "        seen.append((request_time.total_seconds(), resp.app_us, resp.queue_us))\n"
        "logger_class = Own\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    EXPECT_TRUE(hooks_.logs_requests());
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    ASSERT_TRUE(pre_request(*request));
    request->received_us = 1'000'000;
    request->queued_us = 1'000'100;
    request->taken_us = 1'000'300;
    request->app_us = 1'000;
    request->done_us = 3'500'000;
    ASSERT_TRUE(request->response.set_status("200 OK"));
    ASSERT_TRUE(post_request(*request, "{}")) << failure_;
    EXPECT_EQ(seen(), "[(2.5, 1000, 200)]");
}

TEST_F(HooksTest, SurvivesALoggerClassWhoseAccessRaises) {
    use("import gunicorn\n"
        "class Own(gunicorn.glogging.Logger):\n"
        "    def access(self, *a): raise ValueError('no disk')\n"
        "logger_class = Own\n"
        "def post_request(worker, req): seen.append('called')\n");
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    ASSERT_TRUE(request->response.set_status("200 OK"));
    ASSERT_TRUE(post_request(*request, "{}")) << failure_;
    EXPECT_EQ(seen(), "['called']");
    EXPECT_NE(errors().find("ValueError: no disk"), std::string::npos) << errors();
}

// --- real-world files, run ---

TEST_F(HooksTest, RunsTheHooksThatLogOfTheLongExample) {
    use("exec(open('" + configs_directory() +
        "/logging_hooks.py').read())\nerrorlog = 'error.log'\n");
    ASSERT_TRUE(hooks_.run(&Config::nworkers_changed, &arbiter(), nullptr, {2, -1}));
    ASSERT_TRUE(hooks_.run(&Config::on_starting, &arbiter()));
    ASSERT_TRUE(hooks_.run(&Config::when_ready, &arbiter()));
    ASSERT_TRUE(hooks_.run(&Config::pre_fork, &arbiter(), &worker()));
    worker().set_pid(77);
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    (void)hooks_.run(&Config::worker_int, nullptr, &worker());
    (void)hooks_.run(&Config::child_exit, &arbiter(), &worker());
    const std::string text = errors();
    for (const char* line :
         {"from None to 2 workers", "Server is ready. Spawning workers", "Worker spawned (pid: 77)",
          "worker received INT or QUIT signal", "worker 77 of "})
        EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
    EXPECT_EQ(text.find("Exception"), std::string::npos) << text;
}

TEST_F(HooksTest, RunsTheMemoryLimitOfTheExample) {
    use("exec(open('" + configs_directory() + "/memory_limit.py').read())\nMAX_KILOBYTES = 0\n",
        "debug");
    worker().set_pid(::getpid());
    ASSERT_TRUE(hooks_.run(&Config::post_fork, &arbiter(), &worker()));
    auto request = exchange("GET /p HTTP/1.1\r\nHost: h\r\n\r\n");
    ASSERT_TRUE(pre_request(*request)) << failure_;
    ASSERT_TRUE(post_request(*request, "{}")) << failure_;
    EXPECT_FALSE(worker().alive());
    EXPECT_NE(errors().find("[DEBUG] GET /p\n"), std::string::npos) << errors();
}

TEST_F(HooksTest, MarksADeadProcessForPrometheus) {
    write_file("prometheus_client.py",
               "class multiprocess:\n"
               "    mark_process_dead = staticmethod(__import__('__main__').seen.append)\n");
    use("exec(open('" + configs_directory() + "/prometheus_multiprocess.py').read())\n");
    worker().set_pid(4242);
    (void)hooks_.run(&Config::child_exit, &arbiter(), &worker());
    EXPECT_EQ(seen(), "[4242]");
    ASSERT_TRUE(run_python("del sys.modules['prometheus_client']"));
}

}  // namespace
}  // namespace gcorn
