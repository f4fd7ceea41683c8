// A worker's whole life with real sockets and signals, on a thread of this process instead of in a
// child of its own, so that the thread sanitizer sees all of it; application, hooks and runtime are
// C++.

#include "worker.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#ifdef __linux__
#include <linux/capability.h>
#include <sys/syscall.h>
#endif

#include <array>
#include <condition_variable>
#include <csignal>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>

#include "arbiter.h"
#include "os/signals.h"
#include "tests/support/loop_fixture.h"

namespace gcorn {
namespace {

using testing::Client;
using testing::eventually;

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// threading.Thread, but not Python's.
class FakeRuntime : public Runtime {
public:
    ~FakeRuntime() override { join(); }
    /// For threads that were late; in production they end with the process.
    void join() {
        for (std::thread& thread : threads_)
            thread.join();
        threads_.clear();
    }
    void finalize() override { is_final = true; }
    Status start_threads(size_t count, std::function<void(size_t)> body) override {
        running_ = count;
        for (size_t i = 0; i < count; ++i) {
            threads_.emplace_back([this, i, body] {
                body(i);
                --running_;
            });
        }
        return {};
    }
    bool join_threads(int timeout_ms) override {
        const int64_t end_ms = monotonic_ms() + timeout_ms;
        while (running_ > 0 && monotonic_ms() < end_ms)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return running_ == 0;
    }
    void set_environment(const std::string&, const std::string*) override {}

    std::atomic<bool> is_final{false};

private:
    std::vector<std::thread> threads_;
    std::atomic<size_t> running_{0};
};

class FakeApp : public App {
public:
    Status load() override { return load_status; }
    [[nodiscard]] bool is_loaded() const override { return false; }
    void call(Exchange& exchange) override {
        ++calls;
        on_call(exchange);
        testing::answer(exchange, body);
        after_answer();
    }
    OverdueCalls interrupt_overdue(int64_t limit_ms) override {
        ++looks;
        return {.next_look_ms = limit_ms, .stuck = stuck.exchange(0)};
    }
    std::vector<std::string> source_files() override { return {}; }

    Status load_status;
    std::function<void(Exchange&)> on_call = [](Exchange&) {};
    std::function<void()> after_answer = [] {};
    std::string body = "hello";
    std::atomic<int> calls{0}, looks{0};
    std::atomic<size_t> stuck{0};
};

class FakeHooks : public Hooks {
public:
    Status run(Hook hook, Arbiter*, Worker*, std::initializer_list<int>) override {
        if (hook == &Config::post_fork) called += "post_fork ";
        if (hook == &Config::post_worker_init) called += "post_worker_init ";
        if (hook == &Config::worker_exit) called += "worker_exit ";
        if (hook == &Config::worker_int) called += "worker_int ";
        if (hook == &Config::post_worker_init) return post_worker_init_status;
        return hook == &Config::post_fork ? post_fork_status : Status();
    }

    Status post_fork_status, post_worker_init_status;
    std::string called;  ///< by the worker's thread; read it once that has ended
};

/// Holds calls until the test lets them go.
class Gate {
public:
    void open() {
        const std::lock_guard lock(mutex_);
        is_open_ = true;
        opened_.notify_all();
    }
    void pass() {
        std::unique_lock lock(mutex_);
        ++waiting_;
        opened_.wait_for(lock, std::chrono::milliseconds(testing::kPatienceMs),
                         [this] { return is_open_; });
    }
    [[nodiscard]] size_t waiting() const { return waiting_; }

private:
    std::mutex mutex_;
    std::condition_variable opened_;
    bool is_open_ = false;
    std::atomic<size_t> waiting_{0};
};

/// Holds each thread that logs a warning, at a gate of its own.
class WarningGates : public LogObserver {
public:
    void error_record(Level level, std::string_view) override {
        if (level == Level::Warning && count_ < gates.size()) gates.at(count_++).pass();
    }
    std::array<Gate, 2> gates;

private:
    std::atomic<size_t> count_{0};
};

/// The parameter: 0 for sync, else the number of gthread's threads.
class WorkerTest : public ::testing::TestWithParam<size_t> {
protected:
    void SetUp() override {
        char path[] = "/tmp/gcorn-worker-XXXXXX";
        Fd(::mkstemp(path)).reset();
        log_path_ = path;
        LogOptions log_options;
        log_options.errorlog = path;
        ASSERT_TRUE(log_.open(log_options).is_ok());
        ASSERT_TRUE(signals::open().is_ok());
        slot_ = scoreboard_.claim();
        cfg.threads = static_cast<int64_t>(std::max<size_t>(GetParam(), 1));
        cfg.graceful_timeout = 10;
    }
    void TearDown() override {
        gate.open();
        if (thread_.joinable()) {
            worker_->leave();
            thread_.join();
        }
        runtime.join();
        signals::reset_to_defaults();
        if (HasFailure()) std::fprintf(stderr, "%s\n", log_text().c_str());
        ::unlink(log_path_.c_str());
    }

    void start() {
        auto spec = parse_bind("127.0.0.1:0");
        auto opened = Listener::open(*spec, {});
        ASSERT_TRUE(opened.is_ok()) << opened.message();
        listener_ = std::move(*opened);
        auto compiled = AccessLog::compile(kDefaultAccessFormat);
        ASSERT_TRUE(compiled.is_ok());
        access_log_ = std::make_unique<AccessLog>(std::move(*compiled));
        arbiter_ = std::make_unique<Arbiter>(cfg, ArbiterOptions{.argv = {},
                                                                 .environment = {},
                                                                 .executable = "",
                                                                 .start_directory = "/",
                                                                 .reload_config = nullptr,
                                                                 .use_config = nullptr,
                                                                 .make_worker = nullptr,
                                                                 .log = log_,
                                                                 .statsd = statsd_,
                                                                 .runtime = runtime,
                                                                 .hooks = hooks,
                                                                 .app = app,
                                                                 .starter = starter_});
        WorkerContext context{.arbiter = *arbiter_,
                              .cfg = cfg,
                              .log = log_,
                              .access_log = *access_log_,
                              .statsd = statsd_,
                              .runtime = runtime,
                              .hooks = hooks,
                              .app = app,
                              .scoreboard = scoreboard_,
                              .slot = slot_,
                              .listeners = {listener_.get()},
                              .life_fd = life_read.get(),
                              .response = {},
                              .starting = [this](const Config&) { return starting_status; }};
        if (GetParam() == 0)
            worker_ = std::make_unique<SyncWorker>(std::move(context));
        else
            worker_ = std::make_unique<ThreadWorker>(std::move(context));
        thread_ = std::thread([this] {
            code_ = worker_->run();
            has_ended_ = true;
        });
    }
    void start_ready() {
        ASSERT_NO_FATAL_FAILURE(start());
        ASSERT_TRUE(eventually([this] { return board().state == WorkerState::Ready; }))
            << log_text();
    }
    /// What run() returned; -1 if it does not return.
    int exit_code() {
        if (!eventually([this] { return has_ended_.load(); })) return -1;
        thread_.join();
        runtime.join();
        return code_;
    }
    [[nodiscard]] WorkerSlot& board() const { return scoreboard_.slot(slot_); }
    [[nodiscard]] const Address& address() const { return listener_->address(); }
    [[nodiscard]] std::string log_text() const {
        std::ostringstream text;
        text << std::ifstream(log_path_).rdbuf();
        return text.str();
    }
    [[nodiscard]] bool has_logged(const std::string& text) const {
        return log_text().find(text) != std::string::npos;
    }
    void expect_hello(Client& client) {
        client.forget();
        ASSERT_TRUE(client.send(kGet));
        EXPECT_NE(client.read_until("hello").find("200 OK"), std::string::npos);
    }

    Config cfg;
    FakeRuntime runtime;
    FakeApp app;
    FakeHooks hooks;
    Gate gate;
    Status starting_status;
    Fd life_read, life_write;  ///< as the arbiter holds them
    Worker* worker() { return worker_.get(); }
    Logger& log() { return log_; }
    WarningGates warnings;

private:
    Scoreboard scoreboard_ = std::move(*Scoreboard::create(2));
    size_t slot_ = 0;
    std::string log_path_;
    Logger log_;
    Statsd statsd_;
    Starter starter_;
    std::unique_ptr<AccessLog> access_log_;
    std::unique_ptr<Listener> listener_;
    std::unique_ptr<Arbiter> arbiter_;
    std::unique_ptr<Worker> worker_;
    std::thread thread_;
    int code_ = -1;
    std::atomic<bool> has_ended_{false};
};

INSTANTIATE_TEST_SUITE_P(Classes, WorkerTest, ::testing::Values(size_t{0}, size_t{4}),
                         [](const auto& threads) {
                             return threads.param == 0 ? "sync" : "gthread";
                         });

// ----------------------------------------------------------------------------------- the guard

// The main thread asks for the lead just before the guard polls, and the poll brings a request.
TEST_P(WorkerTest, TheMainThreadDoesNotSleepOnWhatItsGuardHasQueued) {
    if (GetParam() != 0) GTEST_SKIP() << "only sync has a guard";
    cfg.timeout = 0;  // the next heartbeat is five seconds away
    cfg.header_timeout = 1;
    auto& [late_head, bad_head] = warnings.gates;
    log().set_observer(&warnings);
    Gate answered;
    app.on_call = [&](Exchange& exchange) {
        if (exchange.head.target == "/hold") gate.pass();
    };
    app.after_answer = [&] {
        if (app.calls == 3) answered.pass();
    };
    start_ready();
    Client waiting(address()), late(address()), holding(address());
    expect_hello(waiting);
    expect_hello(late);  // a busy worker accepts nobody
    waiting.forget();
    ASSERT_TRUE(holding.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\nbad\r\n\r\n"));
    ASSERT_TRUE(eventually([&] { return gate.waiting() == 1; }));
    // The loop looks at a running request every 250 ms: the time below must lie between two looks.
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ASSERT_TRUE(late.send("GET"));
    // The guard leads, and is held after the last look at finished answers in its turn …
    ASSERT_TRUE(eventually([&] { return late_head.waiting() == 1; }));
    gate.open();
    ASSERT_TRUE(eventually([&] { return answered.waiting() == 1; }));
    late_head.open();
    // … then at the beginning of the next one, where it meets the bad head after the answered
    // request.
    ASSERT_TRUE(eventually([&] { return bad_head.waiting() == 1; }));
    ASSERT_TRUE(waiting.send(kGet));
    answered.open();
    // The main thread asks for the lead now. If it needs longer, this proves less, but still holds.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const int64_t begin_ms = monotonic_ms();
    bad_head.open();
    EXPECT_NE(waiting.read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_LT(monotonic_ms() - begin_ms, 100);  // a millisecond; if asleep, until the next look
}

// ----------------------------------------------------------------------------------------- life

TEST_P(WorkerTest, BootsServesAndLeaves) {
    start_ready();
    EXPECT_EQ(board().capacity, std::max<size_t>(GetParam(), 1));
    Client client(address());
    for (int i = 0; i < 10; ++i)
        expect_hello(client);
    EXPECT_TRUE(eventually([this] { return worker()->nr() == 10; }));
    worker()->leave();
    EXPECT_EQ(exit_code(), 0);
    EXPECT_TRUE(client.is_closed());
    EXPECT_EQ(hooks.called, "post_fork post_worker_init worker_exit ");
    EXPECT_TRUE(runtime.is_final);
    EXPECT_EQ(board().state, WorkerState::Stopping);
}

TEST_P(WorkerTest, EverySignalToEndDoes) {
    for (const auto& [signal, code] :
         {std::pair{SIGTERM, 0}, {SIGINT, 0}, {SIGQUIT, 0}, {SIGABRT, 1}}) {
        ASSERT_NO_FATAL_FAILURE(start_ready());
        ASSERT_EQ(::kill(::getpid(), signal), 0);
        EXPECT_EQ(exit_code(), code) << signals::name(signal);
        board().state = WorkerState::Booting;
    }
}

TEST_P(WorkerTest, AFailingHookOrApplicationIsAnExitCode) {
    hooks.post_fork_status = Error{0, "post_fork is not happy"};
    start();
    EXPECT_EQ(exit_code(), kExitBootFailed);
    hooks.post_fork_status = {};
    for (const int code : {kExitBootFailed, kExitAppFailed}) {
        app.load_status = Error{code, "no such application"};
        start();
        EXPECT_EQ(exit_code(), code);
    }
    app.load_status = {};
    starting_status = Error{0, "nothing can be patched"};
    start();
    EXPECT_EQ(exit_code(), kExitBootFailed);
    EXPECT_TRUE(has_logged("nothing can be patched"));
    starting_status = {};
    hooks.post_worker_init_status = Error{0, "post_worker_init is not happy"};
    start();
    EXPECT_EQ(exit_code(), kExitBootFailed);
    EXPECT_NE(board().state, WorkerState::Ready);
    EXPECT_EQ(app.calls, 0);
}

// The traceback was logged where it was caught; only a missing application has none.
TEST_P(WorkerTest, ABootFailureIsToldOnce) {
    for (const auto& [code, is_told] :
         {std::pair{kExitAppFailed, true}, {kExitBootFailed, false}}) {
        app.load_status = Error{code, "code " + std::to_string(code)};
        start();
        EXPECT_EQ(exit_code(), code);
        EXPECT_EQ(has_logged(app.load_status.message()), is_told);
    }
}

#ifdef __linux__
// All threads give up the same: the C library gives every thread the new ids, or ends the process.
TEST_P(WorkerTest, DoesNotServeAsAnotherUserThanItWasTold) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct before[2]{}, none[2]{};
    ASSERT_EQ(::syscall(SYS_capget, &header, before), 0);
    for (size_t i = 0; i < 2; ++i)
        none[i].permitted = before[i].permitted;
    ASSERT_EQ(::syscall(SYS_capset, &header, none), 0);
    cfg.user = "1234567";
    start();
    EXPECT_EQ(exit_code(), kExitBootFailed);
    EXPECT_TRUE(has_logged("change to user 1234567 (setting user): Operation not permitted"));
    EXPECT_EQ(hooks.called, "post_fork worker_exit ");
    EXPECT_EQ(::syscall(SYS_capset, &header, before), 0);
}
#endif

TEST_P(WorkerTest, WithReusePortItOpensNoSocketButThoseOfPorts) {
    char path[] = "/tmp/gcorn-worker-XXXXXX";
    Fd(::mkstemp(path)).reset();
    const std::string unix_bind = std::string("unix:") + path;
    ::unlink(path);
    auto others = Listener::open(*parse_bind(unix_bind), {});
    ASSERT_TRUE(others.is_ok()) << others.message();
    struct stat first {
    }, now{};
    ASSERT_EQ(::stat(path, &first), 0);
    cfg.reuse_port = true;
    cfg.bind = {unix_bind, "127.0.0.1:0"};
    start_ready();
    EXPECT_EQ(::stat(path, &now), 0);
    EXPECT_EQ(now.st_ino, first.st_ino);
    EXPECT_EQ(worker()->context().listeners.size(), 2u);  // the inherited one, and its own
    worker()->leave();
    EXPECT_EQ(exit_code(), 0);
    EXPECT_TRUE((*others)->unlink_path().is_ok());
}

TEST_P(WorkerTest, WithoutASocketOfItsOwnItDoesNotBoot) {
    auto taken = Listener::open(*parse_bind("127.0.0.1:0"), {});
    ASSERT_TRUE(taken.is_ok()) << taken.message();
    cfg.reuse_port = true;
    cfg.bind = {"127.0.0.1:" + (*taken)->address().port()};
    start();
    EXPECT_EQ(exit_code(), kExitBootFailed);
    EXPECT_TRUE(has_logged("Address already in use")) << log_text();
}

TEST_P(WorkerTest, LeavesWhenItsArbiterIsGone) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    life_read = Fd(ends[0]);
    life_write = Fd(ends[1]);
    start_ready();
    life_write.reset();
    EXPECT_EQ(exit_code(), 0);
    EXPECT_TRUE(has_logged("Parent changed, shutting down"));
}

TEST_P(WorkerTest, BeatsWhileNothingHappens) {
    cfg.timeout = 1;  // so it beats every third of a second
    start_ready();
    int64_t before = board().heartbeat_ms;
    for (int i = 0; i < 5; ++i) {
        EXPECT_TRUE(eventually([&] { return board().heartbeat_ms != before; })) << i;
        EXPECT_LT(board().heartbeat_ms - before, 900) << "too late for a timeout of one second";
        before = board().heartbeat_ms;
    }
}

// ------------------------------------------------------------------------------------- settings

TEST_P(WorkerTest, DropsAClientThatTakesNothingForItsWriteTimeout) {
    cfg.write_timeout = 3;
    app.body = std::string(32 << 20, 'z');
    start_ready();
    Client client(address(), 4096);
    ASSERT_TRUE(client.send(kGet));
    ASSERT_TRUE(eventually([this] { return app.calls == 1 && board().connections == 1; }));
    EXPECT_TRUE(eventually([this] { return board().connections == 0; }));
}

TEST_P(WorkerTest, KeepsLargeBodiesInItsDirectory) {
    cfg.tmp_upload_dir = "/no/such/directory";
    start_ready();
    Client client(address());
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" +
                            std::string(300'000, 'x')));
    EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 503 ");
    EXPECT_TRUE(has_logged("Cannot store a request body: "));
    EXPECT_EQ(app.calls, 0);
    EXPECT_TRUE(has_logged("Request bodies over 112 KiB will be answered with 503")) << "at start";
}

TEST_P(WorkerTest, TakesProxyHeadersFromThoseWhomThatSettingLists) {
    cfg.proxy_protocol = "auto";
    for (const bool is_listed : {false, true}) {
        cfg.proxy_allow_ips = is_listed ? "127.0.0.1" : "192.0.2.1";
        cfg.forwarded_allow_ips = is_listed ? "192.0.2.1" : "127.0.0.1";
        board().state = WorkerState::Booting;
        ASSERT_NO_FATAL_FAILURE(start_ready());
        Client client(address());
        ASSERT_TRUE(client.send("PROXY TCP4 192.0.2.7 192.0.2.8 1 80\r\n" + std::string(kGet)));
        EXPECT_EQ(client.read_until("\r\n").substr(0, 13),
                  is_listed ? "HTTP/1.1 200 " : "HTTP/1.1 403 ");
        worker()->leave();
        EXPECT_EQ(exit_code(), 0);
    }
}

TEST(WorkerListeners, AreOpenedAsTheSettingsSay) {
    Config cfg;
    cfg.backlog = 17;
    cfg.umask = 027;
    const ListenerOptions options = *listener_options(cfg);
    EXPECT_EQ(options.backlog, 17);
    EXPECT_EQ(options.umask, mode_t{027});
    EXPECT_EQ(options.defer_accept_s, 1);
    EXPECT_FALSE(options.reuse_port);
    EXPECT_FALSE(options.is_tls);
    EXPECT_FALSE(options.owner.user || options.owner.group);
    cfg.proxy_protocol = "v2";
    EXPECT_EQ(listener_options(cfg)->defer_accept_s, 0);
    cfg.proxy_protocol = "off";
    cfg.reuse_port = true;
    cfg.user = "1234";
    cfg.group = "5678";
    EXPECT_TRUE(listener_options(cfg)->reuse_port);
    EXPECT_EQ(listener_options(cfg)->owner.user, uid_t{1234});
    EXPECT_EQ(listener_options(cfg)->owner.group, gid_t{5678});
    cfg.certfile = "server.pem";
    EXPECT_TRUE(listener_options(cfg)->is_tls);
    EXPECT_EQ(listener_options(cfg)->defer_accept_s, 0) << "a handshake has its time limit";
    cfg.user = "no such user";
    EXPECT_FALSE(listener_options(cfg).is_ok());
}

// -------------------------------------------------------------------------------------- stopping

TEST_P(WorkerTest, AnswersWhatRunsBeforeItLeaves) {
    app.on_call = [this](Exchange&) { gate.pass(); };
    start_ready();
    Client client(address());
    ASSERT_TRUE(client.send(kGet));
    ASSERT_TRUE(eventually([this] { return gate.waiting() == 1; }));
    Client idle(address());
    worker()->leave();
    gate.open();
    const std::string answer = client.read_all();
    EXPECT_NE(answer.find("hello"), std::string::npos);
    EXPECT_EQ(exit_code(), 0);
}

TEST_P(WorkerTest, DoesNotWaitLongerThanItsGracefulTimeout) {
    if (GetParam() == 0)
        GTEST_SKIP() << "its only thread is in the call: the arbiter's KILL ends it";
    cfg.graceful_timeout = 1;
    app.on_call = [this](Exchange&) { gate.pass(); };
    start_ready();
    Client client(address());
    ASSERT_TRUE(client.send(kGet));
    ASSERT_TRUE(eventually([this] { return gate.waiting() == 1; }));
    worker()->leave();
    EXPECT_TRUE(eventually([this] { return has_logged("Worker graceful timeout"); }));
    gate.open();  // in production the process ends with its threads
    EXPECT_EQ(exit_code(), 0);
}

TEST_P(WorkerTest, BeingToldAgainGivesItNoMoreTime) {
    if (GetParam() == 0) GTEST_SKIP() << "as above";
    cfg.graceful_timeout = 4;
    app.on_call = [this](Exchange&) { gate.pass(); };
    start_ready();
    Client client(address());
    ASSERT_TRUE(client.send(kGet));
    ASSERT_TRUE(eventually([this] { return gate.waiting() == 1; }));
    const int64_t start_ms = monotonic_ms();
    worker()->leave();
    std::this_thread::sleep_for(std::chrono::milliseconds(3500));
    worker()->leave();
    EXPECT_TRUE(eventually([this] { return has_logged("Worker graceful timeout"); }));
    EXPECT_LT(monotonic_ms() - start_ms, 7000);
    gate.open();
    EXPECT_EQ(exit_code(), 0);
}

TEST_P(WorkerTest, WithoutItsArbiterItLeavesInTwoSeconds) {
    if (GetParam() == 0) GTEST_SKIP() << "its only thread is in the call";
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    life_read = Fd(ends[0]);
    life_write = Fd(ends[1]);
    app.on_call = [this](Exchange&) { gate.pass(); };
    start_ready();
    Client client(address());
    ASSERT_TRUE(client.send(kGet));
    ASSERT_TRUE(eventually([this] { return gate.waiting() == 1; }));
    const int64_t start_ms = monotonic_ms();
    life_write.reset();
    EXPECT_TRUE(eventually([this] { return has_logged("Worker graceful timeout"); }));
    EXPECT_LT(monotonic_ms() - start_ms, 15'000);
    gate.open();
    EXPECT_EQ(exit_code(), 0);
}

// -------------------------------------------------------------------------------------- requests

TEST_P(WorkerTest, TheLoopIsLedDuringEachCall) {
    std::atomic<int> begun{0}, ended{0};
    app.on_call = [&](Exchange&) {
        const int call = ++begun;
        EXPECT_TRUE(eventually([&] { return ended >= call; }));
    };
    start_ready();
    for (int call = 1; call <= 3; ++call) {
        // The guard parks when there was no call for 200 ms, and each call must wake it.
        if (call == 3) std::this_thread::sleep_for(std::chrono::milliseconds(500));
        Client refused(address());
        ASSERT_TRUE(refused.send("GET"));
        Client calling(address());
        ASSERT_TRUE(calling.send(kGet));
        ASSERT_TRUE(eventually([&] { return begun == call; }));
        // The only answer in which no application thread takes part; in sync the guard must give
        // it.
        ASSERT_TRUE(refused.send(" no request\r\n\r\n"));
        EXPECT_NE(refused.read_all().find("400 Bad Request"), std::string::npos);
        ended = call;
        EXPECT_NE(calling.read_until("hello").find("200 OK"), std::string::npos);
    }
}

TEST_P(WorkerTest, AsManyCallsRunAsItHasThreads) {
    const size_t threads = std::max<size_t>(GetParam(), 1);
    app.on_call = [this](Exchange&) { gate.pass(); };
    start_ready();
    std::vector<Client> clients;
    for (size_t i = 0; i < threads + 2; ++i) {
        clients.emplace_back(address());
        ASSERT_TRUE(clients.back().send(kGet));
    }
    ASSERT_TRUE(eventually([&] { return gate.waiting() == threads; }));
    EXPECT_EQ(board().busy, threads);
    ActivityView running;
    ASSERT_TRUE(board().read(0, running));
    EXPECT_EQ(running.method, "GET");
    gate.open();
    for (Client& client : clients)
        EXPECT_NE(client.read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_TRUE(eventually([&] { return board().busy == 0; }));
}

TEST_P(WorkerTest, LosesNothingUnderManyClients) {
    start_ready();
    std::vector<std::thread> clients;
    std::atomic<int> answers{0};
    for (int i = 0; i < 4; ++i) {
        clients.emplace_back([&, i] {
            for (int n = 0; n < 50; ++n) {
                Client client(address());
                if (!client.send(kGet)) continue;
                if (n % 5 == i) {
                    client.reset();
                    ++answers;
                    continue;
                }
                for (int again = 0; again < 2; ++again) {
                    client.read_until("hello");
                    client.forget();
                    client.send(kGet);
                }
                if (client.read_until("hello").find("200 OK") != std::string::npos) ++answers;
            }
        });
    }
    for (std::thread& client : clients)
        client.join();
    EXPECT_EQ(answers, 200);
    worker()->leave();
    EXPECT_EQ(exit_code(), 0);
}

TEST_P(WorkerTest, AsksForASuccessorAfterMaxRequestsAndServesOn) {
    cfg.max_requests = 3;
    start_ready();
    Client client(address());
    for (int i = 0; i < 2; ++i)
        expect_hello(client);
    EXPECT_FALSE(board().wants_replacement);
    expect_hello(client);
    EXPECT_TRUE(eventually([this] { return board().wants_replacement.load(); }));
    expect_hello(client);
    EXPECT_TRUE(has_logged("Autorestarting worker after current request."));
}

TEST_P(WorkerTest, EachLastsForItsOwnNumberOfRequests) {
    cfg.max_requests = 10;
    cfg.max_requests_jitter = 2;
    start_ready();
    std::set<uint64_t> seen;
    for (int i = 0; i < 200; ++i)
        seen.insert(SyncWorker(worker()->context()).requests_max());
    EXPECT_EQ(seen, (std::set<uint64_t>{10, 11, 12}));
}

TEST_P(WorkerTest, AsksForASuccessorOnceWhenFilesChange) {
    char path[] = "/tmp/gcorn-worker-XXXXXX";
    Fd(::mkstemp(path)).reset();
    cfg.reload = true;
    cfg.reload_engine = "auto";
    cfg.reload_extra_files = {path};
    start_ready();
    std::ofstream(path) << "changed";
    EXPECT_TRUE(eventually([this] { return board().wants_replacement.load(); }));
    const std::string line = std::string("Worker reloading: ") + path + " modified";
    EXPECT_TRUE(eventually([&] { return has_logged(line); }));
    std::ofstream(path) << "changed again";
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    Client client(address());
    expect_hello(client);
    worker()->leave();
    EXPECT_EQ(exit_code(), 0);
    EXPECT_EQ(log_text().find(line), log_text().rfind(line)) << log_text();
    EXPECT_EQ(hooks.called, "post_fork post_worker_init worker_int worker_exit ");
    ::unlink(path);
}

TEST_P(WorkerTest, AsksForASuccessorWhenACallIsStuck) {
    cfg.request_timeout = 1;
    start_ready();
    EXPECT_TRUE(eventually([this] { return app.looks > 0; }));
    EXPECT_FALSE(board().wants_replacement);
    app.stuck = 1;
    EXPECT_TRUE(eventually([this] { return board().wants_replacement.load(); }));
    EXPECT_TRUE(eventually([this] { return has_logged("Replacing worker (pid:"); }));
    Client client(address());
    expect_hello(client);
}

TEST_P(WorkerTest, LooksForNoLongCallsUnlessItIsTold) {
    start_ready();
    Client client(address());
    expect_hello(client);
    EXPECT_EQ(app.looks, 0);
}

TEST(ConnectionPlaces, AreNotAllDescriptors) {
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const auto places = [&](rlim_t descriptors, int64_t wanted) {
        const rlimit limit = {descriptors, before.rlim_max};
        EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
        Config cfg;
        cfg.worker_connections = wanted;
        return connection_places(cfg);
    };
    EXPECT_EQ(places(160, 133), 133u);
    EXPECT_EQ(places(160, 134), 134u);  // 160 - 10 - 16
    EXPECT_EQ(places(160, 135), 134u);
    EXPECT_EQ(places(before.rlim_cur, 0), 0u);
    EXPECT_EQ(places(16, 1000), 1u);
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace gcorn
