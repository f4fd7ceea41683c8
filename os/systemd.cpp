#include "os/systemd.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/socket_address.h"
#include "base/text.h"
#include "os/process.h"
#include "os/signals.h"

namespace gcorn::systemd {

namespace {

#ifdef SOCK_CLOEXEC
constexpr int kCloseOnExec = SOCK_CLOEXEC;
#else
constexpr int kCloseOnExec = 0;  // macOS: the descriptor lives for one call on the only thread
#endif
constexpr uint64_t kListenFdsMax = 1024;  // more than any unit has; a nonsense number must not loop

std::optional<uint64_t> number_from_environment(const char* name) {
    const char* text = std::getenv(name);
    return text == nullptr ? std::nullopt : parse_decimal(text);
}

}  // namespace

std::vector<int> take_listen_fds() {
    const auto pid = number_from_environment("LISTEN_PID");
    const auto count = number_from_environment("LISTEN_FDS");
    if (!pid || *pid != static_cast<uint64_t>(::getpid())) return {};
    for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})
        ::unsetenv(name);
    std::vector<int> fds;
    for (uint64_t i = 0; i < std::min(count.value_or(0), kListenFdsMax); ++i) {
        const int fd = kListenFdsStart + static_cast<int>(i);
        if (set_close_on_exec(fd, true)) fds.push_back(fd);
    }
    return fds;
}

Status pass_listen_fds(const std::vector<int>& fds, std::vector<std::string>& environment) {
    const int count = static_cast<int>(fds.size());
    std::vector<Fd> aside;  // beyond the numbers that are about to be overwritten
    for (const int fd : fds) {
        aside.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, kListenFdsStart + count));
        if (!aside.back()) return errno_error(errno, "dup fd " + std::to_string(fd));
    }
    for (int i = 0; i < count; ++i) {
        // The copy that dup2 makes is not close-on-exec.
        if (::dup2(aside[static_cast<size_t>(i)].get(), kListenFdsStart + i) < 0)
            return errno_error(errno, "dup2 to fd " + std::to_string(kListenFdsStart + i));
    }
    environment.push_back("LISTEN_PID=" + std::to_string(::getpid()));
    environment.push_back("LISTEN_FDS=" + std::to_string(count));
    return {};
}

Notifier::Notifier() {
    const char* path = std::getenv("NOTIFY_SOCKET");
    // Only these two families are defined for us; vsock is for virtual machine monitors.
    if (path == nullptr || (path[0] != '/' && path[0] != '@') || path[1] == '\0') return;
    socket_path_ = path;
    const auto interval_us = number_from_environment("WATCHDOG_USEC");
    const auto pid = number_from_environment("WATCHDOG_PID");
    if (pid && *pid != static_cast<uint64_t>(::getpid())) return;
    if (interval_us && *interval_us > 0)
        watchdog_interval_ms_ = std::max<int64_t>(1, static_cast<int64_t>(*interval_us / 2000));
}

Status Notifier::ready(std::string_view status) const {
    return send("READY=1\nSTATUS=" + std::string(status));
}

Status Notifier::reloading() const {
    return send("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(monotonic_us()));
}

Status Notifier::watchdog() const {
    // If it cannot be sent now, the next one is due soon: a supervisor that hangs must not hang us.
    return send("WATCHDOG=1", MSG_DONTWAIT);
}

Status Notifier::reclaim_main_pid() const {
    if (socket_path_.empty()) return {};
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | kCloseOnExec, 0, ends) < 0)
        return errno_error(errno, "socketpair");
    Fd ours(ends[0]);
    Fd theirs(ends[1]);
    char turn = 0;
    // A signal for us must not be handled by the other process.
    const signals::Hold hold;
    const pid_t self = ::getpid();
    const pid_t other = ::fork();
    if (other < 0) return errno_error(errno, "fork");
    if (other == 0) {
        ours.reset();
        // The sender is the main process each time, as NotifyAccess=main demands.
        if (::read(theirs.get(), &turn, 1) == 1 && main_pid(self) &&
            ::send(theirs.get(), &turn, 1, MSG_NOSIGNAL) == 1) {
            // A message whose sender is gone when the supervisor reads it is not trusted.
            while (::read(theirs.get(), &turn, 1) > 0)
                continue;
        }
        ::_exit(0);
    }
    theirs.reset();
    Status status = main_pid(other);
    if (status) {
        const bool is_back =
            ::send(ours.get(), &turn, 1, MSG_NOSIGNAL) == 1 && ::read(ours.get(), &turn, 1) == 1;
        // Better a message from a stranger than a main process that is gone; NotifyAccess=all may
        // allow it.
        if (!is_back) status = main_pid(self);
        wait_until_read();
    }
    ours.reset();
    retry_on_eintr([&] { return ::waitpid(other, nullptr, 0); });
    return status;
}

void Notifier::wait_until_read() const {
    Result<Pipe> pipe = make_pipe();
    // sd_notify_barrier(3): the supervisor closes the descriptor when it gets to this message.
    if (!pipe || !send("BARRIER=1", 0, pipe->write.get())) return;
    pipe->write.reset();
    pollfd closed{.fd = pipe->read.get(), .events = POLLIN, .revents = 0};
    ::poll(&closed, 1, 1000);
}

Status Notifier::send(std::string_view message, int flags, int passed) const {
    if (socket_path_.empty()) return {};
    Result<SocketAddress> address = unix_socket_address(socket_path_, socket_path_[0] == '@');
    if (!address) return Error{ENAMETOOLONG, "NOTIFY_SOCKET " + socket_path_ + ": name too long"};
    // A new socket each time: messages are rare, and nothing has to be closed after fork.
    const Fd fd(::socket(AF_UNIX, SOCK_DGRAM | kCloseOnExec, 0));
    if (!fd) return errno_error(errno, "socket for NOTIFY_SOCKET");
    const timeval patience{.tv_sec = 1, .tv_usec = 0};
    if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
        return errno_error(errno, "SO_SNDTIMEO for NOTIFY_SOCKET");
    iovec bytes{.iov_base = const_cast<char*>(message.data()), .iov_len = message.size()};
    msghdr datagram{};
    datagram.msg_name = address->raw();
    datagram.msg_namelen = address->size;
    datagram.msg_iov = &bytes;
    datagram.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    if (passed >= 0) {
        datagram.msg_control = control;
        datagram.msg_controllen = sizeof(control);
        cmsghdr* header = CMSG_FIRSTHDR(&datagram);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(header), &passed, sizeof(int));
    }
    if (retry_on_eintr([&] { return ::sendmsg(fd.get(), &datagram, MSG_NOSIGNAL | flags); }) < 0)
        return errno_error(errno, "notify " + socket_path_);
    return {};
}

}  // namespace gcorn::systemd
