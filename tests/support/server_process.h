// The server under test as a child process: started with tests/apps/*.py on a free port or a Unix
// socket, watched with deadlines, ended by pid when the test ends. GCORN_E2E_SERVER=gunicorn (or
// the path of one) starts gunicorn instead, so that the same expectations measure parity.
//
// Output goes to files, never to a pipe that could fill; when a test fails, the destructor prints
// them.
#pragma once

#include <csignal>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "tests/support/http_client.h"

namespace gcorn::e2e {

/// The major version of gunicorn when the tests run against it, else 0: for expectations where
/// gcorn is meant to be better, or to be like newer versions only.
int gunicorn_version();
inline bool is_gunicorn() {
    return gunicorn_version() != 0;
}

/// Polls until the condition holds; false when it does not in time.
bool eventually(const std::function<bool()>& condition, Milliseconds deadline = kDeadline);

/// A directory below the system's temporary one, removed with everything in it.
class TempDir {
public:
    TempDir();
    ~TempDir();
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string operator/(std::string_view name) const {
        return path_ + "/" + std::string(name);
    }
    /// Writes a file there and returns its path.
    std::string write(std::string_view name, std::string_view text) const;

private:
    std::string path_;
};

std::string read_file(const std::string& path);
/// The directory of the test applications.
std::string apps_dir();
/// An unused port of 127.0.0.1, outside the kernel's ephemeral range.
int free_port();

/// How a program ended and what it said.
struct Finished {
    int code = -1;  ///< exit code, 128 + signal, or -1: did not end in time and was killed
    std::string out;
    std::string err;
};
std::ostream& operator<<(std::ostream& out, const Finished& finished);

struct ServerOptions {
    std::string app = "probe:app";       ///< application spec; empty: none
    std::vector<std::string> args = {};  ///< before the application
    std::map<std::string, std::string> env = {};
    std::string directory = {};  ///< current directory; empty: tests/apps
    bool on_unix_socket = false;
    bool adds_bind = true;  ///< add -b with an address
    bool waits = true;      ///< until it accepts connections
};

class Server {
public:
    /// Throws if it does not accept connections: that ends the test with the server's output.
    explicit Server(ServerOptions options = {});
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    [[nodiscard]] const Endpoint& at() const { return endpoint_; }
    [[nodiscard]] Client connect() const { return Client(endpoint_); }
    Response get(std::string_view target, const Fields& fields = {}) const {
        return fetch(endpoint_, "GET", target, fields);
    }
    Response request(std::string_view method, std::string_view target, const Fields& fields = {},
                     std::string_view body = {}) const {
        return fetch(endpoint_, method, target, fields, body);
    }

    [[nodiscard]] pid_t pid() const { return pid_; }
    void signal(int number) const { ::kill(pid_, number); }
    /// The exit code, 128 + signal, or nothing if it is still running.
    std::optional<int> exit_code(Milliseconds deadline = kDeadline);

    [[nodiscard]] std::string out() const { return read_file(scratch_ / "stdout"); }
    [[nodiscard]] std::string err() const { return read_file(scratch_ / "stderr"); }
    /// Whether the text appears on stderr in time.
    [[nodiscard]] bool logs(std::string_view text, Milliseconds deadline = kDeadline) const;
    /// Both outputs, for an assertion message.
    [[nodiscard]] std::string story() const;
    [[nodiscard]] const TempDir& scratch() const { return scratch_; }

    /// Process ids of the workers (children), sorted.
    [[nodiscard]] std::vector<pid_t> workers() const;
    /// Waits until there are that many.
    [[nodiscard]] bool has_workers(size_t count, Milliseconds deadline = kDeadline) const;
    /// Largest resident size so far (VmHWM), all processes of the server added up.
    [[nodiscard]] size_t peak_bytes() const;

private:
    void start(const ServerOptions& options);
    void stop();
    bool wait_until_accepting();

    TempDir scratch_;
    Endpoint endpoint_;
    pid_t pid_ = -1;
    std::optional<int> exit_code_;
};

/// The words of a command line that start the program under test; its arguments follow.
std::vector<std::string> server_command();

/// Starts the server with these arguments and waits for its end; for servers that stop at start.
Finished run_server(const std::vector<std::string>& args,
                    const std::map<std::string, std::string>& env = {},
                    const std::string& directory = {});
/// Runs any program to its end, in the environment that servers get.
Finished run(const std::vector<std::string>& command,
             const std::map<std::string, std::string>& env = {}, const std::string& directory = {},
             Milliseconds deadline = kDeadline);
/// The interpreter that gcorn embeds, as a program.
std::string python();

// Facts about one process, from /proc.
std::vector<pid_t> children_of(pid_t pid);
size_t open_descriptors(pid_t pid);
/// A value of /proc/PID/status in bytes, such as VmRSS; 0 if there is none.
size_t memory_of(pid_t pid, std::string_view name);
bool is_alive(pid_t pid);

/// A worker class and its size: the end-to-end tests run with each.
struct Engine {
    std::string name;               ///< part of the test's name
    std::vector<std::string> args;  ///< for the command line
    bool is_threaded = false;       ///< wsgi.multithread
    size_t workers = 1;
};
/// GCORN_E2E_CLASSES (comma-separated worker classes) or those of this build.
std::vector<Engine> engines();
/// args of the engine, then more.
std::vector<std::string> operator+(const Engine& engine, const std::vector<std::string>& more);
std::ostream& operator<<(std::ostream& out, const Engine& engine);

}  // namespace gcorn::e2e
