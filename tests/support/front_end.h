// Real front ends for the tests, running the files of deploy/ with other addresses in them, and the
// load that is driven through them.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/e2e.h"

namespace gcorn::e2e {

inline std::string deploy_file(const std::string& name) {
    return read_file(apps_dir() + "/../../deploy/" + name);
}

/// `text` with every `from` replaced; throws if there is none, as the test would then test
/// something else.
inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
    size_t at = text.find(from);
    if (at == std::string::npos)
        throw std::runtime_error("no \"" + from + "\" in the shipped file");
    for (; at != std::string::npos; at = text.find(from, at + to.size()))
        text.replace(at, from.size(), to);
    return text;
}

/// The path of an installed program, or "".
inline std::string find_program(const std::string& name) {
    for (const char* directory :
         {"/usr/sbin/", "/usr/bin/", "/usr/local/sbin/", "/usr/local/bin/"}) {
        if (::access((directory + name).c_str(), X_OK) == 0) return directory + name;
    }
    return "";
}

/// Skips the test, saying why, if a program is not installed.
#define NEEDS_PROGRAM(name, package)              \
    if (::gcorn::e2e::find_program(name).empty()) \
    GTEST_SKIP() << "NOT TESTED: " name " is not installed (package " package ")"

/// nginx with deploy/nginx.conf in front of a unix socket.
class Nginx {
public:
    explicit Nginx(const std::string& unix_socket) {
        std::string site = deploy_file("nginx.conf");
        site = replaced(site, "/run/gcorn.sock", unix_socket);
        site = replaced(
            site, "listen 80;",
            "listen 127.0.0.1:" + std::to_string(at_.port) + "; keepalive_requests 100000;");
        const std::string conf = scratch_.write(
            "nginx.conf", "daemon off; pid " + (scratch_ / "pid") +
                              "; error_log stderr; worker_processes 2;\n" +
                              (::geteuid() == 0 ? "user root;\n" : "") +
                              "events { worker_connections 512; }\nhttp {\naccess_log off;\n"
                              "client_body_temp_path " +
                              (scratch_ / "body") + ";\nproxy_temp_path " + (scratch_ / "proxy") +
                              ";\nfastcgi_temp_path " + (scratch_ / "fastcgi") +
                              ";\nuwsgi_temp_path " + (scratch_ / "uwsgi") + ";\nscgi_temp_path " +
                              (scratch_ / "scgi") + ";\n" + site + "}\n");
        daemon_ = std::make_unique<Daemon>(std::vector<std::string>{
            find_program("nginx"), "-e", "stderr", "-p", scratch_.path(), "-c", conf});
        eventually([&] { return Client(at_).connected(); });
    }
    [[nodiscard]] const Endpoint& at() const { return at_; }
    [[nodiscard]] std::string output() const { return daemon_->output(); }

private:
    TempDir scratch_;
    Endpoint at_{.port = free_port()};
    std::unique_ptr<Daemon> daemon_;
};

/// HAProxy with deploy/haproxy.cfg in front of these addresses, checking them ten times a second.
class Haproxy {
public:
    /// `change` makes the last edits to the configuration.
    explicit Haproxy(const std::vector<std::string>& servers,
                     const std::function<std::string(std::string)>& change = nullptr) {
        std::string text = deploy_file("haproxy.cfg");
        text = replaced(text, "bind :80", "bind 127.0.0.1:" + std::to_string(at_.port));
        // Each connection takes two descriptors: this many fit a low limit of the machine.
        text = replaced(text, "maxconn 4000", "maxconn 400");
        text = replaced(text, "inter 2s", "inter 100ms");
        text =
            replaced(text, "global\n", "global\n    stats socket " + (scratch_ / "stats") + "\n");
        text.erase(text.find("    server app1 "));
        for (size_t i = 0; i < servers.size(); ++i)
            text += "    server app" + std::to_string(i + 1) + " " + servers[i] + "\n";
        if (change) text = change(text);
        daemon_ = std::make_unique<Daemon>(std::vector<std::string>{
            find_program("haproxy"), "-db", "-f", scratch_.write("haproxy.cfg", text)});
        eventually([&] { return Client(at_).connected(); });
    }
    [[nodiscard]] const Endpoint& at() const { return at_; }
    [[nodiscard]] std::string output() const { return daemon_->output(); }
    /// "UP", "DOWN", "UP 1/2" … of a server.
    [[nodiscard]] std::string status(const std::string& server) const {
        Client client({.path = scratch_ / "stats"});
        client.send("show stat\n");
        const std::string table = client.read_to_end();
        const size_t at = table.find("\ngcorn," + server + ",");
        if (at == std::string::npos) return "(unknown)";
        const std::string row = table.substr(at + 1, table.find('\n', at + 1) - at);
        size_t start = 0;
        for (int column = 0; column < 17; ++column)
            start = row.find(',', start) + 1;
        return row.substr(start, row.find(',', start) - start);
    }
    [[nodiscard]] bool becomes(const std::string& server, const std::string& wanted) const {
        return eventually([&] { return status(server) == wanted; });
    }

private:
    TempDir scratch_;
    Endpoint at_{.port = free_port()};
    std::unique_ptr<Daemon> daemon_;
};

/// Clients that each send one request after another over a connection of their own until told to
/// stop, and record what went wrong.
class Load {
public:
    using Request = std::function<Response(Client&, size_t number)>;
    Load(const Endpoint& at, size_t clients, Request request) {
        for (size_t i = 0; i < clients; ++i) {
            threads_.emplace_back([this, at, request] {
                auto client = std::make_unique<Client>(at);
                while (!stops_) {
                    const size_t number = started_.fetch_add(1);
                    const Response response = request(*client, number);
                    if (response.status != 200 || !response.ok()) note(response, number);
                    done_.fetch_add(1);
                    if (!response.ok() || response.says_close())
                        client = std::make_unique<Client>(at);
                }
            });
        }
    }
    ~Load() { stop(); }
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;

    [[nodiscard]] size_t done() const { return done_; }
    /// Waits until that many more requests are answered; false if that takes too long.
    bool more(size_t count) {
        const size_t goal = done_ + count;
        return eventually([&] { return done_ >= goal; }, Milliseconds(60'000));
    }
    void stop() {
        stops_ = true;
        for (std::thread& thread : threads_)
            if (thread.joinable()) thread.join();
    }
    /// The first failures in words; empty if there was none.
    [[nodiscard]] std::string failures() {
        const std::lock_guard lock(mutex_);
        return failed_ == 0 ? "" : std::to_string(failed_) + " failed, such as: " + first_;
    }

private:
    void note(const Response& response, size_t number) {
        const std::lock_guard lock(mutex_);
        if (failed_++ > 2) return;
        std::ostringstream text;
        text << "request " << number << " " << response << " ";
        first_ += text.str();
    }

    std::atomic<bool> stops_{false};
    std::atomic<size_t> started_{0}, done_{0};
    std::mutex mutex_;
    size_t failed_ = 0;
    std::string first_;
    std::vector<std::thread> threads_;  ///< last: they use everything above
};

}  // namespace gcorn::e2e
