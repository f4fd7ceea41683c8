#include "tests/support/server_process.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include <gtest/gtest.h>

namespace gcorn::e2e {
namespace {

using Clock = std::chrono::steady_clock;

std::string variable(const char* name, const std::string& fallback) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != 0 ? value : fallback;
}

/// The environment of a server: nothing of the caller's that could change its behaviour.
std::map<std::string, std::string> clean_environment(const std::string& home) {
    std::map<std::string, std::string> env = {
        {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        {"HOME", home},
        {"LANG", "C.UTF-8"},
        {"EVENTLET_TESTS", "1"},  // else new versions warn on stderr against their own use
        {"PYTHONPYCACHEPREFIX", GCORN_BUILD_DIR "/pycache"}};
    for (const char* name : {"ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS",
                             "PYTHONMALLOC", "TMPDIR"}) {
        if (const char* value = std::getenv(name)) env[name] = value;
    }
    return env;
}

/// Forks and executes; the child leads a process group and dies with the test.
pid_t spawn(const std::vector<std::string>& command, const std::map<std::string, std::string>& env,
            const std::string& directory, const TempDir& scratch) {
    std::vector<std::string> pairs;
    for (const auto& [name, value] : env)
        pairs.push_back(name + "=" + value);
    std::vector<char*> argv;
    std::vector<char*> envp;
    for (const auto& word : command)
        argv.push_back(const_cast<char*>(word.c_str()));
    for (const auto& pair : pairs)
        envp.push_back(const_cast<char*>(pair.c_str()));
    argv.push_back(nullptr);
    envp.push_back(nullptr);
    const std::string out = scratch / "stdout";
    const std::string err = scratch / "stderr";
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    ::setpgid(0, 0);
#if defined(__linux__)
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    const int null = ::open("/dev/null", O_RDONLY);
    const int to_out = ::open(out.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    const int to_err = ::open(err.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (null < 0 || to_out < 0 || to_err < 0 || ::dup2(null, 0) < 0 || ::dup2(to_out, 1) < 0 ||
        ::dup2(to_err, 2) < 0 || ::chdir(directory.c_str()) != 0) {
        ::_exit(126);
    }
    for (int fd = 3; fd < 256; ++fd)
        ::close(fd);
    ::execve(argv[0], argv.data(), envp.data());
    std::fprintf(stderr, "cannot execute %s: %s\n", argv[0], std::strerror(errno));
    ::_exit(127);
}

std::optional<int> reap(pid_t pid, Milliseconds deadline) {
    std::optional<int> code;
    eventually(
        [&] {
            int status = 0;
            const pid_t got = ::waitpid(pid, &status, WNOHANG);
            if (got == pid) {
                code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            } else if (got < 0 && errno != EINTR) {
                code = -1;  // not our child: a bug in the test
            }
            return code.has_value();
        },
        deadline);
    return code;
}

}  // namespace

std::vector<std::string> server_command() {
    const std::string which = variable("GCORN_E2E_SERVER", "gcorn");
    if (which == "gunicorn") return {"/usr/bin/gunicorn"};
    if (which != "gcorn") return {which};
    return {variable("GCORN_BINARY", GCORN_BUILD_DIR "/gcorn")};
}

int gunicorn_version() {
    static const int version = [] {
        if (variable("GCORN_E2E_SERVER", "gcorn") == "gcorn") return 0;
        const std::string said = run_server({"--version"}).out;  // "gunicorn (version 20.1.0)"
        const size_t at = said.find("version ");
        return at == std::string::npos ? 1 : std::atoi(said.c_str() + at + 8);
    }();
    return version;
}

std::string python() {
    return GCORN_PYTHON;
}

std::string apps_dir() {
    return GCORN_SOURCE_DIR "/tests/apps";
}

bool eventually(const std::function<bool()>& condition, Milliseconds deadline) {
    const auto until = Clock::now() + deadline;
    for (auto pause = Milliseconds(1);; pause = std::min(pause * 2, Milliseconds(20))) {
        if (condition()) return true;
        if (Clock::now() >= until) return false;
        std::this_thread::sleep_for(pause);
    }
}

TempDir::TempDir() {
    std::string name = variable("TMPDIR", "/tmp") + "/gcorn-e2e-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
        std::fprintf(stderr, "mkdtemp %s: %s\n", name.c_str(), std::strerror(errno));
        std::abort();
    }
    path_ = name;
}

TempDir::~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::write(std::string_view name, std::string_view text) const {
    const std::string path = *this / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
}

std::string read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

namespace {

/// Whether this test process alone, among those that run at the same time, may use the port from
/// now on: an abstract socket (unix(7)) of that name is the reservation, and dies with the process.
/// Without it two tests could get the same port, and the second would talk to the first one's
/// server.
bool reserve(int port) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    const int length =
        std::snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "gcorn-test-port-%d", port);
    const auto size =
        static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + static_cast<size_t>(length));
    if (::bind(fd, reinterpret_cast<sockaddr*>(&name), size) == 0) return true;  // stays open
    ::close(fd);
    return false;
}

}  // namespace

int free_port() {
    // The kernel gives clients ports from 32768 on: below that, no connection can be in the way.
    static std::minstd_rand random(static_cast<unsigned>(::getpid()) ^ std::random_device{}());
    for (;;) {
        const int port = 15000 + static_cast<int>(random() % 15000);
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const int on = 1;
        ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_ANY);
        address.sin_port = htons(static_cast<uint16_t>(port));
        const bool is_free = ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
        ::close(fd);
        if (is_free && reserve(port)) return port;
    }
}

std::ostream& operator<<(std::ostream& out, const Finished& finished) {
    return out << "\n--- exit code " << finished.code << "\n--- stdout\n"
               << finished.out << "--- stderr\n"
               << finished.err << "---\n";
}

Server::Server(ServerOptions options) {
    // Another process may take the port between free_port() and the server's bind: then try again.
    for (int attempt = 0; attempt < 3; ++attempt) {
        start(options);
        if (!options.waits || wait_until_accepting()) return;
        if (err().find("in use") == std::string::npos) break;
    }
    // The rest of the test would be pointless: an exception ends it (and no destructor will run).
    stop();
    throw std::runtime_error("the server does not accept connections" + story());
}

void Server::start(const ServerOptions& options) {
    std::vector<std::string> command = server_command();
    if (options.on_unix_socket) {
        endpoint_.path = scratch_ / "socket";
    } else {
        endpoint_.port = free_port();
    }
    if (options.adds_bind) {
        command.insert(command.end(), {"-b", options.on_unix_socket
                                                 ? "unix:" + endpoint_.path
                                                 : "127.0.0.1:" + std::to_string(endpoint_.port)});
    }
    command.insert(command.end(), options.args.begin(), options.args.end());
    if (!options.app.empty()) command.push_back(options.app);
    auto env = clean_environment(scratch_.path());
    for (const auto& [name, value] : options.env)
        env[name] = value;
    exit_code_.reset();
    pid_ =
        spawn(command, env, options.directory.empty() ? apps_dir() : options.directory, scratch_);
}

bool Server::wait_until_accepting() {
    bool accepts = false;
    eventually([&] {
        accepts = connect().connected();
        return accepts || exit_code(Milliseconds(0)).has_value();
    });
    return accepts;
}

Server::~Server() {
    stop();
    if (::testing::Test::HasFailure()) std::fprintf(stderr, "%s", story().c_str());
}

void Server::stop() {
    // The process group includes whatever the server forked; the arbiter itself gets a chance to
    // stop cleanly first (not gunicorn's, which takes seconds for that, in every test).
    if (!exit_code_ && !is_gunicorn()) {
        ::kill(pid_, SIGQUIT);
        exit_code(Milliseconds(3000));
    }
    if (!exit_code_) ::kill(pid_, SIGKILL);
    ::kill(-pid_, SIGKILL);
    exit_code(kDeadline);
}

std::optional<int> Server::exit_code(Milliseconds deadline) {
    if (!exit_code_) exit_code_ = reap(pid_, deadline);
    return exit_code_;
}

bool Server::logs(std::string_view text, Milliseconds deadline) const {
    return eventually([&] { return err().find(text) != std::string::npos; }, deadline);
}

std::string Server::story() const {
    const auto tail = [](const std::string& text) {
        return text.size() > 8000 ? "[...]" + text.substr(text.size() - 8000) : text;
    };
    return "\n--- server's stdout\n" + tail(out()) + "--- server's stderr\n" + tail(err()) +
           "---\n";
}

std::vector<pid_t> Server::workers() const {
    return children_of(pid_);
}

bool Server::has_workers(size_t count, Milliseconds deadline) const {
    return eventually([&] { return workers().size() == count; }, deadline);
}

size_t Server::peak_bytes() const {
    size_t sum = memory_of(pid_, "VmHWM");
    for (const pid_t worker : workers())
        sum += memory_of(worker, "VmHWM");
    return sum;
}

Finished run(const std::vector<std::string>& command, const std::map<std::string, std::string>& env,
             const std::string& directory, Milliseconds deadline) {
    const TempDir scratch;
    auto all = clean_environment(scratch.path());
    for (const auto& [name, value] : env)
        all[name] = value;
    const pid_t pid = spawn(command, all, directory.empty() ? apps_dir() : directory, scratch);
    Finished finished;
    const auto code = reap(pid, deadline);
    if (code) {
        finished.code = *code;  // what it left behind, a daemon perhaps, was meant to stay
    } else {
        ::kill(-pid, SIGKILL);
        reap(pid, kDeadline);
    }
    finished.out = read_file(scratch / "stdout");
    finished.err = read_file(scratch / "stderr");
    return finished;
}

Finished run_server(const std::vector<std::string>& args,
                    const std::map<std::string, std::string>& env, const std::string& directory) {
    std::vector<std::string> command = server_command();
    command.insert(command.end(), args.begin(), args.end());
    return run(command, env, directory);
}

std::vector<pid_t> children_of(pid_t pid) {
    std::vector<pid_t> children;
    std::ifstream in("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
    for (pid_t child = 0; in >> child;)
        children.push_back(child);
    std::sort(children.begin(), children.end());
    return children;
}

size_t open_descriptors(pid_t pid) {
    std::error_code failure;
    const std::filesystem::directory_iterator entries("/proc/" + std::to_string(pid) + "/fd",
                                                      failure);
    return failure ? 0 : static_cast<size_t>(std::distance(begin(entries), end(entries)));
}

size_t memory_of(pid_t pid, std::string_view name) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(in, line);) {
        if (line.compare(0, name.size(), name) == 0 && line[name.size()] == ':') {
            return std::strtoul(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
        }
    }
    return 0;
}

bool is_alive(pid_t pid) {
    // A zombie counts as gone: its parent just has not reaped it yet.
    std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(in, text);
    const size_t name_end = text.rfind(')');
    return name_end != std::string::npos && text[name_end + 2] != 'Z' && text[name_end + 2] != 'X';
}

std::vector<Engine> engines() {
    const std::vector<Engine> all = {
        {.name = "sync_1", .args = {"-k", "sync", "-w", "1"}},
        {.name = "sync_2", .args = {"-k", "sync", "-w", "2"}, .workers = 2},
        {.name = "gthread", .args = {"-k", "gthread", "--threads", "4"}, .is_threaded = true},
        {.name = "gevent", .args = {"-k", "gevent"}, .is_threaded = true},
        {.name = "eventlet", .args = {"-k", "eventlet"}, .is_threaded = true}};
    const std::string wanted = "," + variable("GCORN_E2E_CLASSES", GCORN_E2E_CLASSES) + ",";
    std::vector<Engine> chosen;
    std::copy_if(all.begin(), all.end(), std::back_inserter(chosen), [&](const Engine& engine) {
        return wanted.find("," + engine.args[1] + ",") != std::string::npos;
    });
    return chosen;
}

std::vector<std::string> operator+(const Engine& engine, const std::vector<std::string>& more) {
    std::vector<std::string> args = engine.args;
    args.insert(args.end(), more.begin(), more.end());
    return args;
}

std::ostream& operator<<(std::ostream& out, const Engine& engine) {
    return out << engine.name;
}

}  // namespace gcorn::e2e
