// The arbiter with real forks, real signals and the real engine; only Python is missing:
// application, hooks and runtime are C++. The tests steer the processes by files in a directory of
// their own and read the log, as an operator would.

#include "arbiter.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#ifdef __linux__
#include <linux/capability.h>
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include "base/clock.h"
#include "net/exchange.h"
#include "settings.h"
#include "tests/support/loop_fixture.h"
#include "tests/support/notify_socket.h"

extern char** environ;

namespace gcorn {
namespace {

namespace fs = std::filesystem;
using testing::Client;
using testing::eventually;

bool exists(const std::string& path) {
    return ::access(path.c_str(), F_OK) == 0;
}

std::string read_file(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

void write_file(const std::string& path, const std::string& text) {
    std::ofstream(path + ".new") << text;
    fs::rename(path + ".new", path);
}

/// Waits for a file, in a process under test; ends the process rather than wait for ever.
void wait_for(const std::string& path) {
    if (!eventually([&] { return exists(path); })) ::_exit(99);
}

// --- stand-ins for the server's Python parts ---

class FakeRuntime : public Runtime {
public:
    Status start_threads(size_t, std::function<void(size_t)>) override { return {}; }
    bool join_threads(int) override { return true; }
    void set_environment(const std::string& name, const std::string* value) override {
        if (value == nullptr) {
            ::unsetenv(name.c_str());
        } else {
            ::setenv(name.c_str(), value->c_str(), 1);
        }
    }
};

/// An application called "NUMBER" (the version it answers), "broken" (cannot be imported),
/// "missing" (does not exist), "waits" (boots when the file "go" exists), "hangs" (never boots) or
/// "ends" (ends the process as soon as that is ready), as the file "app" says when it is loaded.
class FakeApp : public App {
public:
    FakeApp(Logger& log, std::string directory) : log_(log), directory_(std::move(directory)) {}

    Status load() override {
        version_ = read_file(directory_ + "/app");
        log_.info("application loads");
        if (version_ == "broken") return Error{kExitBootFailed, "broken"};
        if (version_ == "missing") return Error{kExitAppFailed, "Failed to find attribute 'app'"};
        if (version_ == "waits") wait_for(directory_ + "/go");
        while (version_ == "hangs")
            ::pause();
        if (version_ == "ends") std::thread([this] { end_when_ready(); }).detach();
        return {};
    }
    void call(Exchange& exchange) override {
        const std::string target(exchange.head.target);
        log_.info("application called");
        if (target == "/waits") wait_for(directory_ + "/release");
        if (target.starts_with("/hangs")) {
            for (;;)
                ::pause();
        }
        if (target == "/exits") ::_exit(9);
        if (target == "/dies") ::kill(::getpid(), SIGKILL);
        std::string body = version_ + " " + std::to_string(::getpid());
        if (target.starts_with("/env/")) {
            const char* value = std::getenv(target.c_str() + 5);
            body = value != nullptr ? value : "(unset)";
        }
        testing::answer(exchange, body);
    }
    [[nodiscard]] bool is_loaded() const override { return !version_.empty(); }
    std::vector<std::string> source_files() override { return {}; }

private:
    [[noreturn]] void end_when_ready() const {
        const std::string sentence = "(pid:" + std::to_string(::getpid()) + ") is ready after ";
        (void)eventually(
            [&] { return read_file(directory_ + "/log").find(sentence) != std::string::npos; });
        ::_exit(9);
    }

    Logger& log_;
    std::string directory_, version_;
};

/// Logs each call, and fails it if the file "fail_NAME" exists.
class FakeHooks : public Hooks {
public:
    FakeHooks(Logger& log, std::string directory) : log_(log), directory_(std::move(directory)) {}

    Status run(Hook hook, Arbiter*, Worker* worker, std::initializer_list<int> numbers) override {
        if (hook == &Config::pre_fork) {
            if (exists(directory_ + "/foreign") && ::fork() == 0) ::_exit(kExitBootFailed);
            rlimit limit{};
            ::getrlimit(RLIMIT_NPROC, &limit);
            limit.rlim_cur = exists(directory_ + "/nofork") ? 1 : limit.rlim_max;
            ::setrlimit(RLIMIT_NPROC, &limit);
        }
        std::string detail;
        if (hook == &Config::child_exit)
            detail = std::to_string(worker->pid()) + (worker->aborted() ? " aborted" : "");
        if (numbers.size() == 2)
            detail = std::to_string(numbers.begin()[1]) + "->" + std::to_string(*numbers.begin());
        const std::string name(
            std::ranges::find(settings(), MemberPointer(hook), &Setting::field)->name);
        const bool is_workers_own = worker != nullptr && hook != &Config::pre_fork &&
                                    hook != &Config::post_fork && hook != &Config::child_exit;
        return is_workers_own ? Status() : note(name, detail);
    }

private:
    Status note(const std::string& name, const std::string& detail) {
        log_.info("hook %s %s", name.c_str(), detail.c_str());
        if (!exists(directory_ + "/fail_" + name)) return {};
        log_.error("%s is not happy", name.c_str());
        return Error{exists(directory_ + "/fail_with_9") ? 9 : 0, name + " is not happy"};
    }
    Logger& log_;
    std::string directory_;
};

/// Runs an arbiter in this process, to its end.
int run_master(const std::string& directory, const Config& cfg,
               std::function<Result<Config>()> reload_config) {
    Logger log;
    LogOptions log_options;
    log_options.errorlog = directory + "/log";
    log_options.level = Level::Debug;
    if (!log.open(log_options)) return 98;
    Statsd statsd;
    Starter starter;
    FakeRuntime runtime;
    FakeHooks hooks(log, directory);
    FakeApp app(log, directory);
    std::vector<std::string> environment;
    for (char** entry = environ; *entry != nullptr; ++entry)
        environment.emplace_back(*entry);
    Arbiter arbiter(cfg, {// See Successor below.
                          .argv = {"arbiter_test", "--gtest_also_run_disabled_tests",
                                   "--gtest_filter=ArbiterRoomSuccessor.DISABLED_Successor"},
                          .environment = environment,
                          .executable = exists(directory + "/noexec")
                                            ? directory + "/noexec"
                                            : fs::read_symlink("/proc/self/exe").string(),
                          .start_directory = "/",
                          .reload_config = std::move(reload_config),
                          .use_config = [&](const Config& fresh) -> Status {
                              log.info("use_config %s", fresh.proc_name.c_str());
                              return {};
                          },
                          .make_worker = [&](WorkerContext context) -> std::unique_ptr<Worker> {
                              log.info("relay is %s", context.relay->fd() < 0 ? "off" : "on");
                              return std::make_unique<SyncWorker>(std::move(context));
                          },
                          .log = log,
                          .statsd = statsd,
                          .runtime = runtime,
                          .hooks = hooks,
                          .app = app,
                          .starter = starter});
    return arbiter.run();
}

class ArbiterRoom : public ::testing::Test {
protected:
    void SetUp() override {
        char pattern[] = "/tmp/gcorn-arbiter-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern), nullptr);
        directory_ = pattern;
        ASSERT_EQ(::chmod(pattern, 0777), 0);
        set_app("1");
        cfg.bind = {"127.0.0.1:0"};
        cfg.graceful_timeout = 5;
        cfg.keepalive = 0;
        reload_config = [this]() -> Result<Config> { return cfg; };
    }
    void TearDown() override {
        if (master_ > 0) ::kill(-master_, SIGKILL);  // its process group: workers and successors
        if (master_ > 0 && !is_over_) ::waitpid(master_, nullptr, 0);
        if (HasFailure() || std::getenv("GCORN_TEST_LOG") != nullptr)
            std::fprintf(stderr, "%s\n", log().c_str());
        fs::remove_all(directory_);
    }

    // --- before start() ---
    Config cfg;
    std::function<Result<Config>()> reload_config;  // runs in the master
    std::function<void()> prepare_master = [] {};   // likewise, first of all

    void start() {
        master_ = ::fork();
        ASSERT_GE(master_, 0);
        if (master_ == 0) {
            ::setpgid(0, 0);
            GCORN_CHECK(std::freopen((directory_ + "/stderr").c_str(), "w", stderr) != nullptr);
            prepare_master();
            const int code = run_master(directory_, cfg, reload_config);
            std::fflush(nullptr);
            ::_exit(code);
        }
        ::setpgid(master_, master_);
    }
    /// Starts, and waits until that many workers are ready.
    void start_ready(size_t workers = 1) {
        cfg.workers = static_cast<int64_t>(workers);
        start();
        ASSERT_TRUE(logged(") is ready after ", workers));
    }

    // --- steering ---
    void set_app(const std::string& text) const { write_file(directory_ + "/app", text); }
    void touch(const std::string& name) const { write_file(directory_ + "/" + name, ""); }
    void remove(const std::string& name) const { fs::remove(directory_ + "/" + name); }
    void signal(int number) const { ASSERT_EQ(::kill(master_, number), 0); }
    /// Sends HUPs that fail for `why` while the file exists, more of them than there are places for
    /// workers.
    void fails_more_often_than_there_are_places(const std::string& file,
                                                const std::string& why) const {
        touch(file);
        for (size_t i = 1; i <= 260; ++i) {  // of 256
            signal(SIGHUP);
            ASSERT_TRUE(logged("settings: " + why, i));
        }
        remove(file);
    }
    /// Waits for the master's end; its exit code, -signal, or -1000 if it does not end.
    int exit_code() {
        int status = 0;
        if (!eventually([&] { return ::waitpid(master_, &status, WNOHANG) == master_; }))
            return -1000;
        is_over_ = true;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }
    int stop(int number = SIGTERM) {
        signal(number);
        return exit_code();
    }

    // --- looking ---
    [[nodiscard]] std::string log() const { return read_file(directory_ + "/log"); }
    [[nodiscard]] size_t count(const std::string& text) const {
        const std::string all = log();
        size_t times = 0;
        for (size_t at = all.find(text); at != std::string::npos; at = all.find(text, at + 1))
            ++times;
        return times;
    }
    [[nodiscard]] bool logged(const std::string& text, size_t times = 1) const {
        return eventually([&] { return count(text) >= times; });
    }
    /// True if the texts occur in the log in this order.
    [[nodiscard]] ::testing::AssertionResult in_order(const std::vector<std::string>& texts) const {
        const std::string all = log();
        size_t at = 0;
        for (const std::string& text : texts) {
            at = all.find(text, at);
            if (at == std::string::npos)
                return ::testing::AssertionFailure() << "missing: " << text;
            at += text.size();
        }
        return ::testing::AssertionSuccess();
    }
    /// The numbers that follow `text` in the log.
    [[nodiscard]] std::vector<int> numbers_after(const std::string& text) const {
        const std::string all = log();
        std::vector<int> numbers;
        for (size_t at = all.find(text); at != std::string::npos; at = all.find(text, at + 1)) {
            numbers.push_back(std::atoi(all.c_str() + at + text.size()));
        }
        return numbers;
    }
    /// Pids of all workers ever, in boot order.
    [[nodiscard]] std::vector<int> booted() const {
        return numbers_after("Booting worker with pid: ");
    }
    static bool is_alive(int pid) { return ::kill(pid, 0) == 0; }
    [[nodiscard]] size_t living() const {
        const std::vector<int> all = booted();
        return static_cast<size_t>(std::count_if(all.begin(), all.end(), is_alive));
    }
    /// Waits until that many workers live and none is coming or going.
    [[nodiscard]] bool settles_at(size_t workers) const {
        return eventually(
            [&] { return living() == workers && count("hook pre_fork") == workers + ended(); });
    }
    [[nodiscard]] size_t ended() const { return count("hook child_exit"); }

    // --- asking ---
    [[nodiscard]] uint16_t port(size_t index = 0) const {
        const std::vector<int> ports = numbers_after("Listening at: http://127.0.0.1:");
        return index < ports.size() ? static_cast<uint16_t>(ports[index]) : 0;
    }
    /// The body of the next answer, with the length that its head gives; "" if none comes.
    static std::string read_body(Client& client) {
        const std::string head = client.read_until("\r\n\r\n");
        const size_t end = head.find("\r\n\r\n"), length = head.find("Content-Length: ");
        if (end == std::string::npos || length == std::string::npos) return "";
        const size_t size = static_cast<size_t>(std::atoi(head.c_str() + length + 16));
        return client.read_size(end + 4 + size).substr(end + 4);
    }
    /// The body of one answer over a connection of its own; "" if there is none.
    [[nodiscard]] std::string get(const std::string& target, uint16_t at_port = 0) const {
        Client client(*Address::from_ip("127.0.0.1", at_port != 0 ? at_port : port()));
        if (!client.is_connected()) return "";
        client.send("GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        return read_body(client);
    }
    [[nodiscard]] std::string version() const {
        const std::string body = get("/");
        return body.substr(0, body.find(' '));
    }
    /// Sends a request and leaves the connection open.
    [[nodiscard]] std::unique_ptr<Client> ask(const std::string& target) const {
        auto client = std::make_unique<Client>(*Address::from_ip("127.0.0.1", port()));
        EXPECT_TRUE(client->is_connected());
        client->send("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n");
        return client;
    }
    static uint16_t free_port() {
        const auto listener = Listener::open(*parse_bind("127.0.0.1:0"), {});
        EXPECT_TRUE(listener.is_ok());
        return static_cast<uint16_t>(std::atoi((*listener)->server_port().c_str()));
    }

    std::string directory_;
    pid_t master_ = -1;
    bool is_over_ = false;
};

// --- start and stop ---

TEST_F(ArbiterRoom, StartsServesAndStopsInGunicornsOrder) {
    start_ready(2);
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(stop(), 0);
    const std::string pid = std::to_string(master_);
    EXPECT_TRUE(in_order({"hook nworkers_changed -1->2", "[INFO] Starting gcorn " GCORN_VERSION,
                          "hook on_starting", "[DEBUG] Arbiter booted",
                          "[INFO] Listening at: http://127.0.0.1:", "(" + pid + ")",
                          "[INFO] Using worker: sync", "hook when_ready", "hook pre_fork",
                          "[INFO] Booting worker with pid: ", "[INFO] Handling signal: term",
                          "[INFO] Worker exiting (pid: ", "hook child_exit",
                          "[INFO] Shutting down: Master", "hook on_exit"}));
    EXPECT_EQ(count("hook post_fork"), 2u);
    EXPECT_EQ(ended(), 2u);
    EXPECT_EQ(count("was sent"), 0u);
    EXPECT_EQ(living(), 0u);
}

TEST_F(ArbiterRoom, TermLetsARunningRequestFinish) {
    start_ready();
    const auto client = ask("/waits");
    ASSERT_TRUE(logged("application called"));
    signal(SIGTERM);
    ASSERT_TRUE(logged("Handling signal: term"));
    remove("log");  // rotated while the last requests run
    signal(SIGUSR1);
    ASSERT_TRUE(eventually([&] { return exists(directory_ + "/log"); }));
    touch("release");
    EXPECT_TRUE(read_body(*client).starts_with("1 "));
    EXPECT_EQ(exit_code(), 0);
    EXPECT_TRUE(in_order({"Worker exiting", "Shutting down: Master"}));
}

TEST_F(ArbiterRoom, KillsWhatIsStillThereAfterTheGracefulTimeout) {
    cfg.graceful_timeout = 0;
    start_ready();
    const auto client = ask("/hangs");
    ASSERT_TRUE(logged("application called"));
    EXPECT_EQ(stop(), 0);
    EXPECT_TRUE(in_order({"Handling signal: term",
                          "was sent SIGKILL! By gcorn: graceful_timeout has passed.",
                          "Shutting down: Master"}));
}

TEST_F(ArbiterRoom, DoesNotWaitLongForAWorkerThatBoots) {
    cfg.graceful_timeout = 60;
    set_app("hangs");
    start();
    ASSERT_TRUE(logged("application loads"));
    const int64_t start_ms = monotonic_ms();
    EXPECT_EQ(stop(), 0);
    EXPECT_LT(monotonic_ms() - start_ms, 30'000);
}

TEST_F(ArbiterRoom, ASecondIntHurries) {
    cfg.graceful_timeout = 60;
    start_ready();
    const auto client = ask("/hangs");
    ASSERT_TRUE(logged("application called"));
    signal(SIGINT);
    ASSERT_TRUE(logged("Handling signal: int"));
    signal(SIGTERM);  // changes nothing
    ASSERT_TRUE(logged("Ignoring signal while stopping: term"));
    const int64_t begin_ms = monotonic_ms();
    EXPECT_EQ(stop(SIGQUIT), 0);
    EXPECT_LT(monotonic_ms() - begin_ms, 5000);
    EXPECT_TRUE(in_order({"Quick shutdown requested", "Shutting down: Master"}));
    EXPECT_EQ(count("Handling signal: quit"), 0u);
}

TEST_F(ArbiterRoom, ManyIntsGainNobodyTime) {
    cfg.graceful_timeout = 60;
    start_ready();
    const auto client = ask("/hangs");
    ASSERT_TRUE(logged("application called"));
    EXPECT_TRUE(eventually([&] {
        ::kill(master_, SIGINT);
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        is_over_ = ::waitpid(master_, nullptr, WNOHANG) == master_;
        return is_over_;
    }));
}

TEST_F(ArbiterRoom, RemovesSocketAndPidFileAtTheEnd) {
    cfg.bind = {"unix:" + directory_ + "/sock"};
    cfg.pidfile = directory_ + "/pid";
    start();
    ASSERT_TRUE(logged("Using worker"));
    EXPECT_EQ(read_pidfile(cfg.pidfile), master_);
    EXPECT_TRUE(exists(directory_ + "/sock"));
    EXPECT_EQ(stop(), 0);
    EXPECT_FALSE(exists(directory_ + "/sock"));
    EXPECT_FALSE(exists(cfg.pidfile));
}

TEST_F(ArbiterRoom, RefusesTheUsedPidFile) {
    cfg.pidfile = directory_ + "/pid";
    write_file(cfg.pidfile, std::to_string(::getpid()));
    start();
    EXPECT_EQ(exit_code(), 1);
    EXPECT_NE(read_file(directory_ + "/stderr").find("\nError: Already running on PID "),
              std::string::npos);
    EXPECT_EQ(count("[ERROR] Already running on PID "), 1u);
    EXPECT_EQ(read_pidfile(cfg.pidfile), ::getpid());
    EXPECT_EQ(count("Booting"), 0u);
}

TEST_F(ArbiterRoom, TriesAUsedAddressFiveTimes) {
    const auto blocker = Listener::open(*parse_bind("127.0.0.1:0"), {});
    ASSERT_TRUE(blocker);
    const std::string where = "('127.0.0.1', " + (*blocker)->server_port() + ")";
    cfg.bind = {"127.0.0.1:" + (*blocker)->server_port()};
    cfg.pidfile = directory_ + "/pid";
    start();
    EXPECT_EQ(exit_code(), 1);
    EXPECT_EQ(count("Connection in use: " + where), 5u);
    EXPECT_EQ(
        count("connection to " + where + " failed: [Errno 98] " + std::strerror(EADDRINUSE) + "\n"),
        5u);
    EXPECT_EQ(count("Can't connect to " + where), 1u);
    EXPECT_FALSE(exists(cfg.pidfile));
}

TEST_F(ArbiterRoom, CanBeStoppedWhileItWaitsForAnAddress) {
    const auto blocker = Listener::open(*parse_bind("127.0.0.1:0"), {});
    ASSERT_TRUE(blocker);
    cfg.bind = {"127.0.0.1:" + (*blocker)->server_port()};
    start();
    ASSERT_TRUE(logged("Retrying in 1 second."));
    EXPECT_EQ(stop(), 0);
    EXPECT_EQ(count("Can't connect"), 0u);
}

TEST_F(ArbiterRoom, GivesUpAtOnceOnAnAddressThatCannotGetFree) {
    touch("file");
    cfg.bind = {"unix:" + directory_ + "/file"};
    start();
    EXPECT_EQ(exit_code(), 1);
    EXPECT_EQ(count("connection to "), 1u);
    EXPECT_TRUE(exists(directory_ + "/file"));
}

TEST_F(ArbiterRoom, FailingHooksEndTheServerWithTheCodeTheyAskFor) {
    touch("fail_with_9");
    for (const char* hook : {"nworkers_changed", "on_starting", "when_ready", "pre_fork"}) {
        touch(std::string("fail_") + hook);
        start();
        EXPECT_EQ(exit_code(), 9) << hook;
        remove(std::string("fail_") + hook);
    }
    touch("fail_on_exit");
    start_ready();
    EXPECT_EQ(stop(), 9);
}

TEST_F(ArbiterRoom, FailingHooksOfTheStartEndItWithOne) {
    for (const char* hook : {"nworkers_changed", "on_starting", "when_ready", "pre_fork"}) {
        touch(std::string("fail_") + hook);
        start();
        EXPECT_EQ(exit_code(), 1) << hook;
        EXPECT_TRUE(logged(std::string(hook) + " is not happy")) << hook;
        EXPECT_EQ(booted().size(), 0u);
        remove(std::string("fail_") + hook);
        remove("log");
    }
}

TEST_F(ArbiterRoom, AFailingOnExitMakesTheCodeOne) {
    touch("fail_on_exit");
    start_ready();
    EXPECT_EQ(stop(), 1);
}

TEST_F(ArbiterRoom, ServesWithoutAnyWorkerIfToldSo) {
    cfg.workers = 0;
    start();
    ASSERT_TRUE(logged("Using worker"));
    signal(SIGTTIN);
    EXPECT_TRUE(eventually([&] { return version() == "1"; }));
    EXPECT_EQ(stop(), 0);
}

// --- boot failures ---

TEST_F(ArbiterRoom, AFirstGenerationThatCannotBootEndsTheServer) {
    set_app("broken");
    cfg.workers = 3;
    cfg.pidfile = directory_ + "/pid";
    start();
    EXPECT_EQ(exit_code(), kExitBootFailed);
    EXPECT_TRUE(in_order({"exited with code 3.", "[ERROR] Shutting down: Master",
                          "[ERROR] Reason: Worker failed to boot."}));
    EXPECT_FALSE(exists(cfg.pidfile));
}

TEST_F(ArbiterRoom, AMissingApplicationEndsTheServerWithFour) {
    set_app("missing");
    start();
    EXPECT_EQ(exit_code(), kExitAppFailed);
    EXPECT_TRUE(in_order({"exited with code 4.", "Reason: App failed to load."}));
    EXPECT_EQ(ended(), 0u) << "as in gunicorn, child_exit is for those that booted";
}

TEST_F(ArbiterRoom, LaterBootFailuresBackOffAndKeepServing) {
    start_ready(2);
    set_app("broken");
    ASSERT_EQ(::kill(booted().at(0), SIGKILL), 0);
    ASSERT_TRUE(logged("No new worker for 1 s: Worker failed to boot."));
    EXPECT_EQ(version(), "1");
    ASSERT_TRUE(logged("No new worker for 2 s"));
    set_app("2");
    ASSERT_TRUE(eventually([&] { return version() == "2"; }));
    set_app("broken");  // and the wait starts with one second again
    ASSERT_EQ(::kill(booted().at(1), SIGKILL), 0);
    ASSERT_TRUE(logged("No new worker for 1 s", 2));
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, AWaveOfBootFailuresIsOneStepOfTheWait) {
    start_ready(3);
    set_app("broken");
    const std::vector<int> pids = booted();
    const auto gets_to = [](int pid, const std::string& state) {
        return eventually([&] {
            const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
            const fs::directory_iterator threads("/proc/" + std::to_string(pid) + "/task");
            return stat.find(") " + state + " ") != std::string::npos &&
                   std::distance(begin(threads), end(threads)) == 1;
        });
    };
    signal(SIGSTOP);  // so that it sees all three deaths at once
    ASSERT_TRUE(gets_to(master_, "T"));
    for (const int pid : pids) {
        ASSERT_EQ(::kill(pid, SIGKILL), 0);
        ASSERT_TRUE(gets_to(pid, "Z"));
    }
    signal(SIGCONT);
    ASSERT_TRUE(logged(") exited with code 3.", 3));
    ASSERT_TRUE(logged("No new worker for 1 s"));
    EXPECT_EQ(count("No new worker for"), 1u);
}

TEST_F(ArbiterRoom, HupEndsTheWaitForAWorkerThatBoots) {
    start_ready();
    set_app("broken");
    ASSERT_EQ(::kill(booted().at(0), SIGKILL), 0);
    ASSERT_TRUE(logged("No new worker for 4 s"));
    set_app("2");
    const int64_t start_ms = monotonic_ms();
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return version() == "2"; }));
    EXPECT_LT(monotonic_ms() - start_ms, 3800);
}

TEST_F(ArbiterRoom, WorkersThatCouldNotBeForkedTakeNoPlace) {
    start_ready();
    set_app("2");
    fails_more_often_than_there_are_places("fail_pre_fork", "pre_fork is not happy");
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return version() == "2"; }));
}

TEST_F(ArbiterRoom, ForksThatFailTakeNoPlaceOfAWorker) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to become a user without processes";
    prepare_master = [] {
        if (::setuid(54'322) != 0) ::_exit(97);
    };
    start_ready();
    set_app("2");
    fails_more_often_than_there_are_places("nofork", "fork: Resource temporarily unavailable");
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return version() == "2"; }));
}

TEST_F(ArbiterRoom, AForkThatFailsIsToldOnceAndTriedAgain) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to become a user without processes";
    prepare_master = [] {
        if (::setuid(54'321) != 0) ::_exit(97);
    };
    start_ready(2);
    touch("nofork");
    ASSERT_EQ(::kill(booted().at(0), SIGKILL), 0);
    ASSERT_TRUE(logged("No new worker for 1 s: fork: Resource temporarily unavailable"));
    EXPECT_EQ(version(), "1");
    remove("nofork");
    EXPECT_TRUE(eventually([&] { return living() == 2; }));
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, ALaterFailingPreForkIsAWorkerThatCouldNotBoot) {
    start_ready(2);
    touch("fail_pre_fork");
    ASSERT_EQ(::kill(booted().at(0), SIGKILL), 0);
    ASSERT_TRUE(logged("No new worker for 1 s: pre_fork is not happy"));
    EXPECT_EQ(version(), "1");
    remove("fail_pre_fork");
    EXPECT_TRUE(eventually([&] { return living() == 2; }));
}

TEST_F(ArbiterRoom, WorkersThatEndAsSoonAsTheyAreReadyAreTriedAgainAfterAPause) {
    set_app("ends");
    start();
    ASSERT_TRUE(logged("No new worker for 1 s: Worker ended as soon as it was ready.", 2));
    EXPECT_LE(booted().size(), 3U) << log();
    set_app("2");
    EXPECT_TRUE(eventually([&] { return version() == "2"; }));
    EXPECT_EQ(stop(), 0);
}

#ifdef __linux__
TEST_F(ArbiterRoom, AWorkerThatSomebodyKillsIsReplacedAtOnce) {
    start_ready();
    ASSERT_EQ(::kill(booted().at(0), SIGKILL), 0);  // as soon as it is ready
    ASSERT_TRUE(logged(") is ready after ", 2));
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(get("/exits"), "");
    ASSERT_TRUE(logged(") is ready after ", 3)) << "it had served somebody";
    EXPECT_EQ(count("No new worker"), 0u);
}

TEST_F(ArbiterRoom, AWorkerThatHasServedIsReplacedAtOnce) {
    start_ready();
    EXPECT_EQ(get("/exits"), "");
    EXPECT_TRUE(logged(") is ready after ", 2));
    EXPECT_EQ(count("No new worker for "), 0u);
}

TEST_F(ArbiterRoom, AWorkerThatSomebodyTellsToLeaveHasNotFailed) {
    start_ready();
    ::kill(booted()[0], SIGTERM);
    EXPECT_TRUE(logged(") is ready after ", 2));
    EXPECT_EQ(count("No new worker for "), 0u);
}

TEST_F(ArbiterRoom, AWorkerThatSomebodyTellsToLeaveIsReplacedWhileItFinishes) {
    start_ready();
    const auto client = ask("/waits");
    ASSERT_TRUE(logged("application called"));
    ::kill(booted()[0], SIGTERM);
    EXPECT_TRUE(logged(") is ready after ", 2));
    EXPECT_TRUE(is_alive(booted()[0]));
    touch("release");
    EXPECT_TRUE(read_body(*client).starts_with("1 "));
    EXPECT_TRUE(settles_at(1));
}

TEST_F(ArbiterRoom, AWorkerThatMayNotBeSignalledIsNamed) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to give it up in the workers";
    prepare_master = [] {  // as in a container with --cap-drop=KILL
        __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
        __user_cap_data_struct data[2];
        GCORN_CHECK(::syscall(SYS_capget, &header, data) == 0);
        data[0].effective &= ~(1U << CAP_KILL);
        data[0].permitted &= ~(1U << CAP_KILL);
        GCORN_CHECK(::syscall(SYS_capset, &header, data) == 0);
    };
    cfg.user = "54323";
    start_ready();
    signal(SIGHUP);
    const std::string worker = "worker (pid:" + std::to_string(booted().at(0)) + "): ";
    EXPECT_TRUE(logged("Cannot send SIGTERM to " + worker + "Operation not permitted")) << log();
}
#endif

TEST_F(ArbiterRoom, PreloadLoadsOnceAndFailsWithTheApplicationsCode) {
    cfg.preload_app = true;
    start_ready(2);
    set_app("2");
    ASSERT_EQ(::kill(booted().at(0), SIGKILL), 0);
    ASSERT_TRUE(eventually([&] { return booted().size() == 3; }));
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(stop(), 0);
    is_over_ = false;

    remove("log");
    set_app("missing");
    start();
    EXPECT_EQ(exit_code(), kExitAppFailed);
    EXPECT_EQ(count("Starting gcorn"), 0u);
}

TEST_F(ArbiterRoom, HupDoesNotPreload) {
    reload_config = [this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.preload_app = true;
        return fresh;
    };
    start_ready();
    for (const char* version_now : {"2", "3"}) {
        set_app(version_now);
        signal(SIGHUP);
        EXPECT_TRUE(eventually([&] { return version() == version_now; })) << version();
    }
}

// --- number of workers ---

TEST_F(ArbiterRoom, TtinAndTtouCountUpAndDownToOne) {
    start_ready();
    signal(SIGTTIN);
    ASSERT_TRUE(logged("hook nworkers_changed 1->2"));
    signal(SIGTTIN);
    ASSERT_TRUE(logged("hook nworkers_changed 2->3"));
    ASSERT_TRUE(logged(") is ready after ", 3));
    EXPECT_TRUE(settles_at(3));
    for (int i = 0; i < 5; ++i) {
        signal(SIGTTOU);
        ASSERT_TRUE(logged("Handling signal: ttou", static_cast<size_t>(i + 1)));
    }
    EXPECT_TRUE(settles_at(1));
    EXPECT_EQ(count("hook nworkers_changed"), 5u);
    EXPECT_FALSE(is_alive(booted().at(0)));  // the oldest leaves first
    EXPECT_EQ(version(), "1");
}

TEST_F(ArbiterRoom, TtouNeverTakesTheOnlyWorkerThatIsReady) {
    start_ready();
    set_app("hangs");
    signal(SIGTTIN);
    ASSERT_TRUE(logged("application loads", 2));
    signal(SIGTTOU);
    ASSERT_TRUE(logged("was sent SIGKILL! By gcorn: it was still booting."));
    EXPECT_TRUE(is_alive(booted().at(0)));
    EXPECT_EQ(version(), "1");
}

TEST_F(ArbiterRoom, AWorkerThatNobodyWantsAnyMoreHasNotFailedToBoot) {
    start_ready();
    set_app("hangs");
    signal(SIGTTIN);
    ASSERT_TRUE(logged("application loads", 2));
    signal(SIGTTOU);
    ASSERT_TRUE(logged("was sent SIGKILL! By gcorn: it was still booting."));
    set_app("2");
    signal(SIGTTIN);
    ASSERT_TRUE(logged(") is ready after ", 2));
    EXPECT_EQ(count("No new worker for"), 0u);
}

TEST_F(ArbiterRoom, WinchStopsTheWorkersOfADaemonOnly) {
    start_ready();
    signal(SIGWINCH);
    ASSERT_TRUE(logged("SIGWINCH ignored. Not daemonized."));
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(stop(), 0);
    is_over_ = false;

    remove("log");
    cfg.daemon = true;
    start_ready(2);
    signal(SIGWINCH);
    ASSERT_TRUE(logged("graceful stop of workers"));
    EXPECT_TRUE(settles_at(0));
    EXPECT_TRUE(is_alive(master_));
    signal(SIGHUP);
    EXPECT_TRUE(settles_at(2));
    signal(SIGWINCH);
    EXPECT_TRUE(settles_at(0));
    signal(SIGTTIN);
    EXPECT_TRUE(settles_at(1));
}

TEST_F(ArbiterRoom, AWornWorkerServesUntilItsReplacementIsReady) {
    cfg.max_requests = 3;
    start_ready();
    ASSERT_TRUE(eventually([&] { return booted().size() == 1; }));
    set_app("waits");
    ASSERT_TRUE(eventually([&] {
        EXPECT_EQ(version(), "1");
        return booted().size() == 2;
    }));
    for (int i = 0; i < 20; ++i)
        EXPECT_EQ(version(), "1");
    EXPECT_EQ(count("Autorestarting worker after current request."), 1u);
    touch("go");
    ASSERT_TRUE(eventually([&] {
        const std::string now = version();
        EXPECT_NE(now, "");  // no gap
        return now == "waits";
    }));
    EXPECT_TRUE(eventually([&] { return !is_alive(booted().at(0)); }));
}

TEST_F(ArbiterRoom, WorkersThatAreTooLargeAreReplacedOneByOne) {
    cfg.max_worker_memory = 1;
    start_ready(2);
    set_app("broken");
    ASSERT_TRUE(logged("(max_worker_memory is 1): replacing it"));
    ASSERT_TRUE(logged("No new worker for 4 s"));  // three looks later
    EXPECT_EQ(count("replacing it"), 1u) << "the first one has no successor";
    EXPECT_EQ(version(), "1");
}

// --- deaths and timeouts ---

TEST_F(ArbiterRoom, TellsHowAWorkerDiedAndWhatItWasRunning) {
    start_ready();
    int pid = booted().back();
    EXPECT_EQ(get("/exits"), "");
    ASSERT_TRUE(logged("[ERROR] Worker (pid:" + std::to_string(pid) + ") exited with code 9."));
    ASSERT_TRUE(logged("Worker (pid:" + std::to_string(pid) + ") was running: GET /exits for 0."));
    ASSERT_TRUE(eventually([&] { return version() == "1"; }));

    pid = booted().back();
    EXPECT_EQ(get("/dies"), "");
    ASSERT_TRUE(logged("[ERROR] Worker (pid:" + std::to_string(pid) + ") was sent SIGKILL!"));
    ASSERT_TRUE(logged("was running: GET /dies for 0."));
    EXPECT_EQ(count("By gcorn"), 0u);
    ASSERT_TRUE(eventually([&] { return version() == "1"; }));

    pid = booted().back();
    ASSERT_EQ(::kill(pid, SIGALRM), 0);
    ASSERT_TRUE(logged("[WARNING] Worker (pid:" + std::to_string(pid) + ") was sent SIGALRM!"));
    ASSERT_TRUE(eventually([&] { return version() == "1"; }));
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, ATimeoutNamesTheRequestAndEndsTheWorker) {
    cfg.timeout = 1;
    start_ready();
    const std::string pid = std::to_string(booted().at(0));
    const auto client = ask("/hangs%0a?x=1");
    ASSERT_TRUE(logged("[CRITICAL] WORKER TIMEOUT (pid:" + pid + ")"));
    ASSERT_TRUE(logged("was running: GET /hangs%0a?x=1 for 1."));
    ASSERT_TRUE(logged("in the application, from 127.0.0.1"));
    ASSERT_TRUE(
        logged("was sent SIGKILL! By gcorn: it sent no heartbeat for longer than timeout."));
    EXPECT_EQ(count("was running"), 1u);
    EXPECT_TRUE(logged("hook child_exit " + pid + " aborted\n"));
    EXPECT_TRUE(eventually([&] { return version() == "1"; }));
}

TEST_F(ArbiterRoom, BeingFrozenTogetherIsNoTimeout) {
    cfg.timeout = 1;
    start_ready();
    ASSERT_EQ(::kill(-master_, SIGSTOP), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(3500));
    ASSERT_EQ(::kill(-master_, SIGCONT), 0);
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(stop(), 0);
    EXPECT_EQ(count("TIMEOUT"), 0u);
    EXPECT_EQ(booted().size(), 1u);
}

// The cgroup freezer wakes the arbiter first: it looks before a worker can beat.
TEST_F(ArbiterRoom, BeingFrozenForAboutTheTimeoutIsNoneEither) {
    cfg.timeout = 2;
    start_ready();
    using Clock = std::chrono::steady_clock;
    ASSERT_EQ(::kill(-master_, SIGSTOP), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(3000));
    const auto begin = Clock::now();
    ASSERT_EQ(::kill(master_, SIGCONT), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ASSERT_EQ(::kill(-master_, SIGCONT), 0);
    if (Clock::now() - begin > std::chrono::milliseconds(500))
        GTEST_SKIP() << "the machine was too slow";
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(stop(), 0);
    EXPECT_EQ(count("TIMEOUT"), 0u);
    EXPECT_EQ(booted().size(), 1u);
}

TEST_F(ArbiterRoom, BeingFrozenSavesNobodyWhoHangs) {
    cfg.timeout = 1;
    start_ready();
    const auto client = ask("/hangs");
    ASSERT_EQ(::kill(-master_, SIGSTOP), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    ASSERT_EQ(::kill(-master_, SIGCONT), 0);
    EXPECT_TRUE(logged("[CRITICAL] WORKER TIMEOUT"));
    EXPECT_TRUE(
        logged("was sent SIGKILL! By gcorn: it sent no heartbeat for longer than timeout."));
}

TEST_F(ArbiterRoom, TimeoutDoesNotCountForBooting) {
    cfg.timeout = 1;
    set_app("waits");
    start();
    ASSERT_TRUE(eventually([&] { return booted().size() == 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // something must not happen
    touch("go");
    EXPECT_TRUE(eventually([&] { return version() == "waits"; }));
    EXPECT_EQ(count("TIMEOUT"), 0u);
    EXPECT_EQ(booted().size(), 1u);
}

TEST_F(ArbiterRoom, BootTimeoutEndsABootThatHangs) {
    cfg.boot_timeout = 1;
    set_app("hangs");
    start();
    EXPECT_EQ(exit_code(), kExitBootFailed);
    EXPECT_TRUE(
        in_order({"[CRITICAL] WORKER BOOT TIMEOUT (pid:", "running no request",
                  "it took longer than boot_timeout to boot", "Reason: Worker failed to boot."}));
}

TEST_F(ArbiterRoom, SaysWhenDescriptorsAreFewerThanConnections) {
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    const rlim_t places = limit.rlim_cur - limit.rlim_cur / 16 - 16;
    cfg.worker_connections = static_cast<int64_t>(limit.rlim_cur) * 2;
    start_ready();
    EXPECT_TRUE(
        logged("[WARNING] Each worker accepts at most " + std::to_string(places) + " connections"));
}

TEST_F(ArbiterRoom, ForeignChildrenAreNoWorkers) {
    touch("foreign");
    start_ready();
    ASSERT_TRUE(logged("[DEBUG] Reaped a foreign child"));
    EXPECT_EQ(count("exited with code"), 0u);
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, SleepsWhenThereIsNothingToDo) {
    start_ready(4);
    const auto wakeups = [&] {
        const std::string status = read_file("/proc/" + std::to_string(master_) + "/status");
        const std::string key = "\nvoluntary_ctxt_switches:";
        return std::atoi(status.c_str() + status.find(key) + key.size());
    };
    ASSERT_TRUE(settles_at(4));
    const int before = wakeups();
    std::this_thread::sleep_for(std::chrono::seconds(1));
    EXPECT_LE(wakeups() - before, 4);
}

// As with a library's handler that waits for all children, or with SIGCHLD ignored in the config
// file.
TEST_F(ArbiterRoom, AWorkerWhoseEndIsLostIsReplacedAllTheSame) {
    cfg.timeout = 1;
    reload_config = [this]() -> Result<Config> {
        ::signal(SIGCHLD, SIG_IGN);
        return cfg;
    };
    start_ready();
    signal(SIGHUP);
    ASSERT_TRUE(logged(") is ready after ", 2));
    ASSERT_TRUE(eventually([&] { return !is_alive(booted().at(0)); }));
    ASSERT_EQ(::kill(booted().at(1), SIGKILL), 0);
    EXPECT_TRUE(
        logged("(pid:" + std::to_string(booted().at(1)) + ") has exited with unknown status"));
    EXPECT_TRUE(settles_at(1));
    EXPECT_EQ(count("WORKER TIMEOUT"), 0u);
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, WorkersLeaveWhenTheirArbiterIsKilled) {
    start_ready(2);
    const std::vector<int> pids = booted();
    EXPECT_EQ(stop(SIGKILL), -SIGKILL);
    EXPECT_TRUE(eventually([&] { return !is_alive(pids[0]) && !is_alive(pids[1]); }));
    EXPECT_EQ(count("Parent changed, shutting down"), 2u);
}

// --- reload ---

TEST_F(ArbiterRoom, HupReplacesWorkersOnlyWhenTheNewOnesAreReady) {
    start_ready(2);
    set_app("waits");
    signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return booted().size() == 4; }));
    for (int i = 0; i < 20; ++i)
        ASSERT_EQ(version(), "1");
    EXPECT_EQ(living(), 4u);
    touch("go");
    ASSERT_TRUE(eventually([&] {
        const std::string now = version();
        EXPECT_NE(now, "");
        return now == "waits" && living() == 2;
    }));
    EXPECT_TRUE(in_order({"Handling signal: hup", "Hang up: Master", "use_config",
                          "hook nworkers_changed 2->2", "hook on_reload", "Booting worker",
                          "Booting worker", "Worker exiting"}));
    EXPECT_EQ(numbers_after("Listening at: http://127.0.0.1:").size(), 1u);
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, HupWithABrokenApplicationKeepsTheOldWorkersAndSettings) {
    cfg.proc_name = "old";
    reload_config = [this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.workers = 3;
        fresh.proc_name = "new";
        return fresh;
    };
    start_ready(2);
    const std::vector<int> before = booted();
    set_app("broken");
    signal(SIGHUP);
    ASSERT_TRUE(
        logged("[ERROR] Reload failed, keeping the old workers and settings: "
               "Worker failed to boot."));
    EXPECT_TRUE(in_order(
        {"use_config new", "nworkers_changed 2->3", "use_config old", "nworkers_changed 3->2"}));
    EXPECT_EQ(version(), "1");
    ASSERT_TRUE(eventually([&] { return living() == 2; }));
    EXPECT_TRUE(is_alive(before[0]) && is_alive(before[1]));
    EXPECT_EQ(count("Reload failed"), 1u);

    set_app("2");  // repaired: the next reload works
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return version() == "2" && living() == 3; }));
}

TEST_F(ArbiterRoom, HupWithABrokenConfigurationChangesNothing) {
    reload_config = []() -> Result<Config> { return Error{1, "Failed to read config file: x.py"}; };
    start_ready();
    signal(SIGHUP);
    ASSERT_TRUE(logged("keeping the old workers and settings: Failed to read config file: x.py"));
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(booted().size(), 1u);
    EXPECT_EQ(count("use_config"), 0u);
}

// Goal: the last of several deploys is the one that serves, whatever the earlier ones left behind.
TEST_F(ArbiterRoom, HupsThatFillAllPlacesWaitForThoseThatLeave) {
    start_ready(70);  // of 280 places
    set_app("waits");
    for (size_t i = 1; i <= 3; ++i) {
        signal(SIGHUP);
        ASSERT_TRUE(logged("Booting worker with pid: ", 70 * (i + 1)));
    }
    set_app("2");
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return version() == "2"; }));
    EXPECT_EQ(count("Reload failed"), 0u);
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, HupToMoreWorkersThanThereIsRoomForTellsWhatHelps) {
    reload_config = [this]() -> Result<Config> {
        Config many = cfg;
        many.workers = 256;  // besides the one that serves
        return many;
    };
    start_ready();
    signal(SIGHUP);
    EXPECT_TRUE(
        logged("Reload failed, keeping the old workers and settings: there is room "
               "for only 256 workers"));
    EXPECT_EQ(booted().size(), 1u) << "none of the new ones has been started in vain";
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, AnotherHupReplacesAReloadThatHangs) {
    start_ready();
    set_app("hangs");
    signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return booted().size() == 2; }));
    set_app("2");
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return version() == "2"; }));
    EXPECT_TRUE(settles_at(1));
    EXPECT_EQ(count("Reload failed"), 0u);
}

TEST_F(ArbiterRoom, AnotherHupTakesTheNewAddressesOfAReloadThatHangs) {
    const uint16_t fresh_port = free_port();
    const std::string unix_path = directory_ + "/sock";
    reload_config = [=, this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {"127.0.0.1:" + std::to_string(fresh_port)};
        if (!exists(directory_ + "/no_unix")) fresh.bind.push_back("unix:" + unix_path);
        return fresh;
    };
    start_ready();
    set_app("hangs");
    signal(SIGHUP);
    ASSERT_TRUE(logged("application loads", 2));
    EXPECT_TRUE(exists(unix_path));
    touch("no_unix");
    set_app("2");
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return get("/", fresh_port).substr(0, 2) == "2 "; }));
    EXPECT_TRUE(settles_at(1));
    EXPECT_EQ(count("Reload failed"), 0u);
    EXPECT_FALSE(exists(unix_path));
    EXPECT_EQ(stop(), 0);
}

#ifdef __linux__
/// Else they would keep connections that the old workers gave each other, or addresses.
TEST_F(ArbiterRoom, NewWorkersHoldNothingOfTheOldOnes) {
    const auto descriptors = [](int pid) {
        const fs::directory_iterator all("/proc/" + std::to_string(pid) + "/fd");
        return std::distance(begin(all), end(all));
    };
    reload_config = [this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {"127.0.0.1:" + std::to_string(free_port())};
        return fresh;
    };
    start_ready();
    const auto before = descriptors(booted().at(0));
    signal(SIGHUP);
    ASSERT_TRUE(logged(") is ready after ", 2));
    EXPECT_EQ(descriptors(booted().at(1)), before);
}
#endif

TEST_F(ArbiterRoom, ManyHupsEndWithOneGeneration) {
    start_ready(2);
    for (int i = 0; i < 20; ++i) {
        signal(SIGHUP);
        EXPECT_NE(version(), "");
    }
    EXPECT_TRUE(settles_at(2));
    EXPECT_NE(version(), "");
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterRoom, HupOpensNewAddressesBeforeItClosesOldOnes) {
    const uint16_t first = free_port(), second = free_port(), third = free_port();
    const auto address = [](uint16_t number) { return "127.0.0.1:" + std::to_string(number); };
    cfg.bind = {address(first), address(second)};
    cfg.pidfile = directory_ + "/one";
    reload_config = [&, this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {address(third), address(second)};
        fresh.pidfile = directory_ + "/two";
        return fresh;
    };
    start_ready();
    signal(SIGHUP);
    ASSERT_TRUE(
        logged("Listening at: http://" + address(third) + ",http://" + address(second) + "\n"));
    EXPECT_EQ(get("/", third).substr(0, 2), "1 ");
    EXPECT_EQ(get("/", second).substr(0, 2), "1 ");
    EXPECT_TRUE(
        eventually([&] { return !Client(*Address::from_ip("127.0.0.1", first)).is_connected(); }));
    EXPECT_TRUE(eventually([&] { return read_pidfile(directory_ + "/two") == master_; }));
    EXPECT_TRUE(eventually([&] { return !exists(directory_ + "/one"); }));
}

TEST_F(ArbiterRoom, HupChangesTheModeOfASocketAndMakesALostOneAgain) {
    const std::string path = directory_ + "/socket";
    const auto mode = [&] {
        struct stat info {};
        return ::stat(path.c_str(), &info) == 0 ? info.st_mode & 0777 : 0;
    };
    cfg.bind = {"unix:" + path, "127.0.0.1:0"};
    reload_config = [&, this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {"unix:" + path + "?mode=0600", "127.0.0.1:0"};
        return fresh;
    };
    start_ready();
    EXPECT_EQ(mode(), 0777u);
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return mode() == 0600; }));
    ASSERT_EQ(::chmod(path.c_str(), 0660), 0);
    signal(SIGHUP);  // the setting is the same, so somebody's own mode stays
    ASSERT_TRUE(eventually([&] { return ended() == 2; })) << log();
    EXPECT_EQ(mode(), 0660u);
    ASSERT_EQ(::unlink(path.c_str()), 0);
    signal(SIGHUP);
    EXPECT_TRUE(eventually([&] { return mode() == 0600; })) << log();
    EXPECT_TRUE(Client(Address{*unix_socket_address(path)}).is_connected());
    EXPECT_EQ(stop(), 0) << log();
    EXPECT_FALSE(exists(path));
}

/// The reload that made it again is given up for a newer one, which finds the file in its place.
TEST_F(ArbiterRoom, TwoHupsInARowMakeALostSocketAgain) {
    const std::string path = directory_ + "/socket";
    cfg.bind = {"unix:" + path};
    reload_config = [&, this, times = 0]() mutable -> Result<Config> {
        if (++times == 1) ::raise(SIGHUP);
        return cfg;
    };
    start_ready();
    ASSERT_EQ(::unlink(path.c_str()), 0);
    signal(SIGHUP);
    ASSERT_TRUE(logged("Hang up: Master", 2));
    ASSERT_TRUE(eventually([&] { return count("hook pre_fork") == 3 && living() == 1; })) << log();
    EXPECT_TRUE(Client(Address{*unix_socket_address(path)}).is_connected()) << log();
    EXPECT_EQ(stop(), 0) << log();
    EXPECT_FALSE(exists(path));
}

/// The old worker's generation still has it when the next reload asks for it again.
TEST_F(ArbiterRoom, HupGoesBackToAnAddressThatWasClosed) {
    const uint16_t first = free_port(), second = free_port();
    const auto address = [](uint16_t number) { return "127.0.0.1:" + std::to_string(number); };
    cfg.bind = {address(first)};
    reload_config = [&, this, times = 0]() mutable -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {address(++times == 1 ? second : first)};
        return fresh;
    };
    start_ready();
    const auto client = ask("/waits");
    ASSERT_TRUE(logged("application called"));
    signal(SIGHUP);
    ASSERT_TRUE(logged("Listening at: http://" + address(second)));
    ASSERT_TRUE(
        eventually([&] { return !Client(*Address::from_ip("127.0.0.1", first)).is_connected(); }));
    signal(SIGHUP);
    ASSERT_TRUE(logged("Listening at: http://" + address(first), 2));
    EXPECT_EQ(get("/", first).substr(0, 2), "1 ");
    touch("release");
    EXPECT_TRUE(read_body(*client).starts_with("1 "));
}

TEST_F(ArbiterRoom, AFailedHupToAnotherAddressKeepsTheOldOneForLaterWorkers) {
    const std::string other = "127.0.0.1:" + std::to_string(free_port());
    reload_config = [&, this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {other};
        return fresh;
    };
    start_ready();
    set_app("broken");
    signal(SIGHUP);
    ASSERT_TRUE(logged("Reload failed"));
    set_app("2");
    ::kill(booted()[0], SIGKILL);
    EXPECT_TRUE(logged(") is ready after ", 2));
    EXPECT_EQ(version(), "2");
}

/// As at the start; a worker could not poll one socket twice.
TEST_F(ArbiterRoom, HupToAnAddressThatIsNamedTwiceIsRefused) {
    cfg.bind = {"127.0.0.1:" + std::to_string(free_port())};
    reload_config = [&, this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {cfg.bind[0], cfg.bind[0]};
        return fresh;
    };
    start_ready();
    signal(SIGHUP);
    ASSERT_TRUE(logged("Reload failed, keeping the old workers and settings: cannot listen on"));
    EXPECT_EQ(booted().size(), 1u);
    EXPECT_EQ(version(), "1");
}

/// A worker could not go on with the encryption of another one.
TEST_F(ArbiterRoom, ConnectionsUnderTlsStayWithTheirWorker) {
    reload_config = [this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.certfile = "x.pem";
        return fresh;
    };
    start_ready();
    EXPECT_EQ(count("relay is on"), 1u);
    signal(SIGHUP);
    EXPECT_TRUE(logged("relay is off"));
}

TEST_F(ArbiterRoom, HupToAUsedAddressIsRefused) {
    const auto blocker = Listener::open(*parse_bind("127.0.0.1:0"), {});
    ASSERT_TRUE(blocker);
    const std::string used = "127.0.0.1:" + (*blocker)->server_port();
    const std::string unix_path = directory_ + "/sock";
    reload_config = [&, this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {"unix:" + unix_path, used};
        return fresh;
    };
    start_ready();
    signal(SIGHUP);
    ASSERT_TRUE(logged("Reload failed, keeping the old workers and settings: cannot listen on"));
    EXPECT_EQ(count("Connection in use"), 1u);
    EXPECT_FALSE(exists(unix_path));  // what was opened before that is removed again
    EXPECT_EQ(version(), "1");
}

TEST_F(ArbiterRoom, HupFromOneHostToAllOnTheSamePortTellsWhatHelps) {
    const std::string number = std::to_string(free_port());
    cfg.bind = {"127.0.0.1:" + number};
    reload_config = [&, this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {"0.0.0.0:" + number};
        return fresh;
    };
    start_ready();
    signal(SIGHUP);
    EXPECT_TRUE(logged("settings: cannot listen on ('0.0.0.0', " + number +
                       "); this server has http://127.0.0.1:" + number +
                       " open, so the change takes a restart\n"))
        << log();
    EXPECT_EQ(get("/").substr(0, 2), "1 ");
}

TEST_F(ArbiterRoom, HupUndoesAndAppliesRawEnv) {
    ::setenv("GCORN_TEST_A", "start", 1);
    cfg.raw_env = {"GCORN_TEST_A=one", "GCORN_TEST_B=x=y"};
    reload_config = [this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.raw_env = {"GCORN_TEST_C=three"};
        return fresh;
    };
    start_ready();
    ::unsetenv("GCORN_TEST_A");
    EXPECT_EQ(get("/env/GCORN_TEST_A"), "one");
    EXPECT_EQ(get("/env/GCORN_TEST_B"), "x=y");
    EXPECT_EQ(get("/env/SERVER_SOFTWARE"), "gunicorn/26.1.0 gcorn/" GCORN_VERSION);
    signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return get("/env/GCORN_TEST_C") == "three"; }));
    ASSERT_TRUE(settles_at(1));
    EXPECT_EQ(get("/env/GCORN_TEST_A"), "start");
    EXPECT_EQ(get("/env/GCORN_TEST_B"), "(unset)");
}

TEST_F(ArbiterRoom, AFailedHupGoesBackToTheOldRawEnv) {
    cfg.raw_env = {"GCORN_TEST_A=one"};
    reload_config = [this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.raw_env = {"GCORN_TEST_C=three"};
        return fresh;
    };
    start_ready();
    set_app("broken");
    signal(SIGHUP);
    ASSERT_TRUE(logged("Reload failed"));
    set_app("2");
    ASSERT_EQ(::kill(booted().at(0), SIGKILL), 0);
    ASSERT_TRUE(eventually([&] { return version() == "2"; }));
    EXPECT_EQ(get("/env/GCORN_TEST_A"), "one");
    EXPECT_EQ(get("/env/GCORN_TEST_C"), "(unset)");
}

TEST_F(ArbiterRoom, OldWorkersKeepTheirGracefulTimeout) {
    cfg.graceful_timeout = 1;
    reload_config = [this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.graceful_timeout = 3600;
        return fresh;
    };
    start_ready();
    const auto client = ask("/hangs");
    ASSERT_TRUE(logged("application called"));
    signal(SIGHUP);
    EXPECT_TRUE(logged("was sent SIGKILL! By gcorn: graceful_timeout has passed."));
}

TEST_F(ArbiterRoom, HupOpensTheLogAnew) {
    start_ready();
    fs::rename(directory_ + "/log", directory_ + "/log.1");
    signal(SIGHUP);
    EXPECT_TRUE(logged(") is ready after "));
    EXPECT_NE(read_file(directory_ + "/log.1").find("Hang up: Master"), std::string::npos);
}

TEST_F(ArbiterRoom, AFailingOnReloadRefusesTheReload) {
    start_ready();
    touch("fail_on_reload");
    signal(SIGHUP);
    ASSERT_TRUE(logged("keeping the old workers and settings: on_reload is not happy"));
    EXPECT_EQ(booted().size(), 1u);
    EXPECT_EQ(version(), "1");
}

TEST_F(ArbiterRoom, OpensADescriptorOrAPathThatIsNamedTwiceOnce) {
    const auto given = Listener::open(*parse_bind("127.0.0.1:0"), {});
    ASSERT_TRUE(given);
    const std::string fd = std::to_string((*given)->fd());
    const std::string path = "unix:" + directory_ + "/sock";
    for (const std::string& name : {"fd://" + fd, path}) {
        cfg.bind = {name, name};
        start_ready();
        EXPECT_EQ(count("[WARNING] bind names " + name + " more than once"), 1u);
        EXPECT_EQ(stop(), 0);
        is_over_ = false;
        remove("log");
    }
    prepare_master = [&] { ::setenv("GUNICORN_FD", (fd + "," + fd).c_str(), 1); };
    start_ready();
    EXPECT_EQ(port(), std::stoi((*given)->server_port()));
    EXPECT_EQ(version(), "1");
}

TEST_F(ArbiterRoom, ReusePortTellsItsAddressAndLetsWorkersListen) {
    const uint16_t number = free_port();
    cfg.bind = {"127.0.0.1:" + std::to_string(number)};
    cfg.reuse_port = true;
    start_ready(2);
    EXPECT_EQ(port(), number);
    EXPECT_EQ(version(), "1");
    signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return booted().size() == 4; }));
    EXPECT_TRUE(settles_at(2));
    EXPECT_EQ(version(), "1");
    EXPECT_EQ(stop(), 0);
}

// --- supervisor ---

TEST_F(ArbiterRoom, TellsSystemdAboutReadinessReloadAndStop) {
    testing::NotifySocket socket(true);
    set_app("waits");
    prepare_master = [&] {
        ::setenv("NOTIFY_SOCKET", socket.name().c_str(), 1);
        ::setenv("WATCHDOG_USEC", "200000", 1);
    };
    start();
    std::vector<std::string> messages;
    const auto collect = [&](const std::string& until) {
        return eventually([&] {
            for (std::string text; !(text = socket.receive()).empty();) {
                messages.push_back(text.substr(0, text.find('\n')));
            }
            return std::count(messages.begin(), messages.end(), until) > 0;
        });
    };
    ASSERT_TRUE(collect("WATCHDOG=1"));
    EXPECT_EQ(std::count(messages.begin(), messages.end(), "READY=1"), 0);
    touch("go");
    ASSERT_TRUE(collect("READY=1"));
    messages.clear();
    signal(SIGHUP);
    ASSERT_TRUE(collect("READY=1"));
    EXPECT_EQ(std::count(messages.begin(), messages.end(), "RELOADING=1"), 1);
    messages.clear();
    set_app("broken");
    signal(SIGHUP);
    ASSERT_TRUE(collect("READY=1")) << "a reload that failed is over, too";
    EXPECT_EQ(count("Reload failed"), 1u);
    messages.clear();
    EXPECT_EQ(stop(), 0);
    EXPECT_TRUE(collect("STOPPING=1"));
    EXPECT_EQ(std::count(messages.begin(), messages.end(), "READY=1"), 0);
}

TEST_F(ArbiterRoom, ServesOnSocketsThatSystemdGave) {
    const std::string path = directory_ + "/given";
    const auto given = Listener::open(*parse_bind("unix:" + path), {});
    ASSERT_TRUE(given);
    cfg.bind = {"127.0.0.1:1"};  // not even tried
    prepare_master = [&] {
        std::vector<std::string> variables;
        if (!systemd::pass_listen_fds({(*given)->fd()}, variables)) ::_exit(96);
        for (std::string& variable : variables)
            ::putenv(variable.data());
        ::_exit(run_master(directory_, cfg, reload_config));
    };
    start();
    ASSERT_TRUE(logged("Listening at: unix:" + path));
    Client client((*given)->address());
    ASSERT_TRUE(client.is_connected());
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(read_body(client).substr(0, 2), "1 ");
    EXPECT_EQ(stop(), 0);
    EXPECT_TRUE(exists(path));  // it belongs to systemd
}

TEST_F(ArbiterRoom, WorkersOpenNothingBesideSocketsThatSystemdGave) {
    const auto given = Listener::open(*parse_bind("unix:" + directory_ + "/given"), {});
    ASSERT_TRUE(given);
    const uint16_t number = free_port();
    cfg.bind = {"127.0.0.1:" + std::to_string(number)};
    cfg.reuse_port = true;
    prepare_master = [&] {
        std::vector<std::string> variables;
        if (!systemd::pass_listen_fds({(*given)->fd()}, variables)) ::_exit(96);
        for (std::string& variable : variables)
            ::putenv(variable.data());
        ::_exit(run_master(directory_, cfg, reload_config));
    };
    start_ready();
    EXPECT_FALSE(Client(*Address::from_ip("127.0.0.1", number)).is_connected());
    EXPECT_EQ(stop(), 0);
}

// --- upgrade ---

// Not a test: what the arbiter executes on USR2 in the tests below, this very program as a new
// master.
TEST(ArbiterRoomSuccessor, DISABLED_Successor) {
    const char* directory = std::getenv("GCORN_ARBITER_TEST");
    if (directory == nullptr) GTEST_SKIP() << "run by the upgrade tests";
    Config cfg;
    cfg.bind = {std::getenv("GCORN_ARBITER_BIND")};
    cfg.pidfile = std::string(directory) + "/pid";
    cfg.keepalive = 0;
    ::_exit(run_master(directory, cfg, [&]() -> Result<Config> { return cfg; }));
}

class ArbiterUpgrade : public ArbiterRoom {
protected:
    void SetUp() override {
        ArbiterRoom::SetUp();
        path_ = directory_ + "/sock";
        cfg.bind = {"unix:" + path_};
        cfg.pidfile = directory_ + "/pid";
        prepare_master = [this] {
            ::setenv("GCORN_ARBITER_TEST", directory_.c_str(), 1);
            ::setenv("GCORN_ARBITER_BIND", cfg.bind[0].c_str(), 1);
        };
    }
    void TearDown() override {
        if (successor_ > 0) ::kill(successor_, SIGKILL);
        ArbiterRoom::TearDown();
    }
    /// The first word of the answer.
    std::string get_there(const std::string& target) const {
        sockaddr_un raw{};
        raw.sun_family = AF_UNIX;
        path_.copy(raw.sun_path, sizeof(raw.sun_path) - 1);
        Address address;
        std::memcpy(&address.storage, &raw, sizeof(raw));
        address.size = sizeof(raw);
        Client client(address);
        if (!client.is_connected()) return "";
        client.send("GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        const std::string body = read_body(client);
        return body.substr(0, body.find(' '));
    }
    std::string version_there() const { return get_there("/"); }
    /// A running master, and a second one beside it that serves version 2.
    void upgrade() {
        start();
        ASSERT_TRUE(eventually([&] { return version_there() == "1"; }));
        set_app("2");
        signal(SIGUSR2);
        ASSERT_TRUE(eventually([&] { return version_there() == "2"; }));
        successor_ = read_pidfile(directory_ + "/pid.2");
        ASSERT_GT(successor_, 0);
        EXPECT_EQ(read_pidfile(directory_ + "/pid"), master_);
    }

    std::string path_;
    pid_t successor_ = 0;
};

TEST_F(ArbiterUpgrade, ANewMasterServesBesideTheOldAndTakesItsPlace) {
    upgrade();
    signal(SIGUSR2);
    ASSERT_TRUE(logged("USR2 signal ignored. Child exists."));
    ::kill(successor_, SIGUSR2);
    ASSERT_TRUE(logged("USR2 signal ignored. Parent exists."));
    EXPECT_EQ(stop(), 0);
    ASSERT_TRUE(logged("Master has been promoted."));
    ASSERT_TRUE(eventually([&] { return read_pidfile(directory_ + "/pid") == successor_; }));
    EXPECT_FALSE(exists(directory_ + "/pid.2"));
    EXPECT_TRUE(exists(path_));
    for (int i = 0; i < 10; ++i)
        EXPECT_EQ(version_there(), "2");
    ::kill(successor_, SIGTERM);
    EXPECT_TRUE(logged("Shutting down: Master", 2));
    EXPECT_TRUE(eventually([&] { return !exists(path_) && !exists(directory_ + "/pid"); }));
}

/// A program that its application starts may be a server, too.
TEST_F(ArbiterUpgrade, TheNewMasterKeepsWhatItWasToldToItself) {
    prepare_master = [this, before = prepare_master] {
        before();
        ::setenv("GCORN_ARBITER_BIND", "127.0.0.1:0", 1);
    };
    upgrade();
    EXPECT_EQ(stop(), 0);  // nobody else answers
    EXPECT_EQ(get_there("/env/GUNICORN_PID"), "(unset)");
    EXPECT_EQ(get_there("/env/GUNICORN_FD"), "(unset)");
    EXPECT_EQ(count("An upgrade keeps the old sockets"), 0u);  // any port will do
#ifdef __linux__
    EXPECT_EQ(fs::read_symlink("/proc/" + std::to_string(successor_) + "/cwd"), "/");
#endif
}

TEST_F(ArbiterUpgrade, AVariableOfAnotherServersUpgradeMakesNoSuccessor) {
    prepare_master = [] { ::setenv("GUNICORN_PID", "1", 1); };
    start();
    ASSERT_TRUE(eventually([&] { return version_there() == "1"; }));
    EXPECT_EQ(get_there("/env/GUNICORN_PID"), "(unset)");
    EXPECT_EQ(stop(), 0);
    EXPECT_EQ(count("Shutting down: Master\n"), 1u);
    EXPECT_FALSE(exists(path_));
}

TEST_F(ArbiterUpgrade, StoppingTheNewMasterRollsBack) {
    upgrade();
    ::kill(successor_, SIGTERM);
    ASSERT_TRUE(logged("Shutting down: Master.2"));
    ASSERT_TRUE(
        logged("The new master (pid:" + std::to_string(successor_) + ") exited with code 0"));
    EXPECT_TRUE(exists(path_));
    EXPECT_FALSE(exists(directory_ + "/pid.2"));
    for (int i = 0; i < 10; ++i)
        EXPECT_EQ(version_there(), "1");
    EXPECT_EQ(stop(), 0);
    EXPECT_FALSE(exists(path_));
}

TEST_F(ArbiterUpgrade, TheNewMasterKeepsTheWatchdogQuiet) {
    testing::NotifySocket socket(true);
    prepare_master = [&, before = prepare_master] {
        before();
        ::setenv("NOTIFY_SOCKET", socket.name().c_str(), 1);
        ::setenv("WATCHDOG_USEC", "200000", 1);
        ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);  // as systemd does
    };
    upgrade();
    EXPECT_EQ(stop(), 0);
    ASSERT_TRUE(logged("Master has been promoted."));
    while (!socket.receive().empty()) {
    }
    EXPECT_TRUE(eventually([&] { return socket.receive().starts_with("WATCHDOG=1"); }));
}

TEST_F(ArbiterUpgrade, RollingBackAfterWinchBringsTheWorkersBack) {
    cfg.daemon = true;
    upgrade();
    signal(SIGWINCH);
    ASSERT_TRUE(logged("hook nworkers_changed 1->0"));
    ASSERT_TRUE(logged("Worker exiting"));
    ::kill(successor_, SIGKILL);
    ASSERT_TRUE(logged(") was sent SIGKILL; this one continues"));
    EXPECT_FALSE(exists(directory_ + "/pid.2"));
    ASSERT_TRUE(logged("hook nworkers_changed 0->1"));
    EXPECT_EQ(version_there(), "2");  // the code on disk now
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterUpgrade, ABrokenNewVersionLeavesTheOldOneAlone) {
    start();
    ASSERT_TRUE(eventually([&] { return version_there() == "1"; }));
    set_app("broken");
    signal(SIGUSR2);
    ASSERT_TRUE(logged("exited with code 3; this one continues"));
    EXPECT_EQ(version_there(), "1");
    EXPECT_TRUE(exists(path_));
    touch("fail_pre_exec");
    signal(SIGUSR2);
    ASSERT_TRUE(logged("Upgrade failed: pre_exec is not happy"));
    ASSERT_TRUE(logged("exited with code 1; this one continues"));
    EXPECT_EQ(version_there(), "1");
    EXPECT_EQ(stop(), 0);
}

TEST_F(ArbiterUpgrade, ANewMasterThatCannotStartLeavesTheSocketAlone) {
    start();
    ASSERT_TRUE(eventually([&] { return version_there() == "1"; }));
    touch("fail_when_ready");
    signal(SIGUSR2);
    ASSERT_TRUE(logged("exited with code 1; this one continues"));
    EXPECT_EQ(version_there(), "1");
    EXPECT_FALSE(exists(directory_ + "/pid.2"));
    EXPECT_EQ(stop(), 0);
    EXPECT_FALSE(exists(path_));
}

TEST_F(ArbiterUpgrade, HupToAnotherAddressLeavesTheNewMasterItsSocket) {
    reload_config = [this]() -> Result<Config> {
        Config fresh = cfg;
        fresh.bind = {"unix:" + directory_ + "/other"};
        return fresh;
    };
    upgrade();
    signal(SIGHUP);
    ASSERT_TRUE(logged("Listening at: unix:" + directory_ + "/other"));
    // Until it leaves, the old master's worker answers there, too.
    ASSERT_TRUE(eventually([&] { return !is_alive(booted().at(0)); }));
    EXPECT_EQ(version_there(), "2");
}

TEST_F(ArbiterUpgrade, TheNewMasterSaysThatItOpensNoOtherAddress) {
    prepare_master = [this, before = prepare_master] {
        before();
        ::setenv("GCORN_ARBITER_BIND", "127.0.0.1:1", 1);
    };
    upgrade();
    EXPECT_TRUE(logged(
        "An upgrade keeps the old sockets: it takes a restart to listen on ('127.0.0.1', 1)"));
}

TEST_F(ArbiterUpgrade, ABinaryThatIsGoneIsOneErrorLine) {
    touch("noexec");
    start();
    ASSERT_TRUE(eventually([&] { return version_there() == "1"; }));
    signal(SIGUSR2);
    ASSERT_TRUE(logged("Upgrade failed: execute " + directory_ + "/noexec: Permission denied"));
    ASSERT_TRUE(logged("exited with code 1; this one continues"));
    EXPECT_EQ(version_there(), "1");
    EXPECT_EQ(count("[ERROR]"), 1u);
}

}  // namespace
}  // namespace gcorn
