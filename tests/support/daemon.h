// Any other long-running program that a test needs (nginx, haproxy, a supervisor), killed by pid
// when the test ends.
#pragma once

#include <gtest/gtest.h>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "tests/support/server_process.h"

namespace gcorn::e2e {

class Daemon {
public:
    /// Starts `command` (absolute path first) with `env` added to ours. `listen_fds` become
    /// descriptors 3, 4, … as a supervisor passes them (sd_listen_fds(3)).
    explicit Daemon(const std::vector<std::string>& command,
                    const std::map<std::string, std::string>& env = {},
                    const std::vector<int>& listen_fds = {}) {
        std::vector<char*> argv;
        for (const std::string& word : command)
            argv.push_back(const_cast<char*>(word.c_str()));
        argv.push_back(nullptr);
        const std::string log = scratch_ / "output";
        const std::string directory = apps_dir();
        pid_ = ::fork();
        if (pid_ != 0) return;
        // The test has no other threads yet, so the child need not be async-signal-safe.
        ::setpgid(0, 0);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
        if (output < 0 || ::dup2(output, 1) < 0 || ::dup2(output, 2) < 0) ::_exit(126);
        if (::chdir(directory.c_str()) != 0) ::_exit(126);
        for (size_t i = 0; i < listen_fds.size(); ++i) {
            // Callers keep their descriptors above these, so none is overwritten before it is
            // copied.
            if (::dup2(listen_fds[i], 3 + static_cast<int>(i)) < 0) ::_exit(126);
        }
        for (int fd = 3 + static_cast<int>(listen_fds.size()); fd < 256; ++fd)
            ::close(fd);
        if (!listen_fds.empty()) {
            ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
            ::setenv("LISTEN_FDS", std::to_string(listen_fds.size()).c_str(), 1);
        }
        for (const auto& [name, value] : env)
            ::setenv(name.c_str(), value.c_str(), 1);
        ::execv(argv[0], argv.data());
        ::perror(argv[0]);
        ::_exit(127);
    }
    ~Daemon() {
        ::kill(pid_, SIGTERM);
        if (!ended(Milliseconds(3000))) ::kill(pid_, SIGKILL);
        ::kill(-pid_, SIGKILL);
        ended(kDeadline);
        if (::testing::Test::HasFailure()) std::fprintf(stderr, "\n--- %s", output().c_str());
    }
    Daemon(const Daemon&) = delete;
    Daemon& operator=(const Daemon&) = delete;

    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] std::string output() const { return read_file(scratch_ / "output"); }
    void signal(int number) const { ::kill(pid_, number); }
    /// Whether it ended in time (and is reaped).
    bool ended(Milliseconds deadline) {
        return eventually(
            [&] {
                if (!is_reaped_) is_reaped_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
                return is_reaped_;
            },
            deadline);
    }
    /// The exit code once ended(), or 128 + signal if a signal killed it.
    [[nodiscard]] int exit_code() const {
        return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
    }

private:
    TempDir scratch_;
    pid_t pid_ = -1;
    int status_ = 0;
    bool is_reaped_ = false;
};

}  // namespace gcorn::e2e
