// Receivers of records outside this process: a host and port, or a unix socket.
//
// The small common part of syslog and statsd: what an address text means, its name resolved once,
// and sockets that never block. Private to log/. Any thread; plain values and system calls.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/socket_address.h"
#include "base/text.h"

namespace gcorn {

/// True if a write to `fd` would find room (or an error) within timeout_ms; 0 does not wait.
[[nodiscard]] inline bool is_writable(int fd, int timeout_ms) {
    struct pollfd item {};
    item.fd = fd;
    item.events = POLLOUT;
    return retry_on_eintr([&] { return ::poll(&item, 1, timeout_ms); }) > 0;
}

/// True for one caller in each second; the others of that second get false.
[[nodiscard]] inline bool is_first_this_second(std::atomic<int64_t>& last_s) {
    const int64_t now_s = std::time(nullptr);
    return last_s.load(std::memory_order_relaxed) != now_s && last_s.exchange(now_s) != now_s;
}

/// HOST, HOST:PORT, [IPV6] or [IPV6]:PORT; an empty host means localhost.
struct HostPort {
    std::string host;
    std::string port;  ///< digits, 1 to 65535
};

/// Nullopt if `text` is none of the forms above. Pure.
[[nodiscard]] inline std::optional<HostPort> parse_host_port(std::string_view text,
                                                             const char* default_port) {
    HostPort out{"localhost", default_port};
    std::string_view port;
    if (!text.empty() && text.front() == '[') {
        const size_t end = text.find(']');
        if (end == std::string_view::npos || end == 1) return std::nullopt;
        out.host = text.substr(1, end - 1);
        port = text.substr(end + 1);
    } else {
        const size_t colon = text.find(':');
        if (colon != 0 && !text.empty()) out.host = text.substr(0, colon);
        if (colon != std::string_view::npos) port = text.substr(colon);
    }
    if (port.empty()) return out;
    const std::optional<uint64_t> number = parse_decimal(port.substr(1));
    if (port.front() != ':' || !number || *number == 0 || *number > 65535) return std::nullopt;
    out.port = std::to_string(*number);
    return out;
}

/// Puts `fresh` in place of the open descriptor `number`, which other threads may be using: they
/// see the old file or the new one, never a closed number. True on success.
[[nodiscard]] inline bool replace_descriptor(const Fd& fresh, int number) {
    for (;;) {
#ifdef __linux__
        const int result = ::dup3(fresh.get(), number, O_CLOEXEC);
#else
        const int result = ::dup2(fresh.get(), number);
        if (result >= 0) ::fcntl(number, F_SETFD, FD_CLOEXEC);
#endif
        if (result >= 0) return true;
        if (errno != EINTR && errno != EBUSY) return false;
    }
}

/// Sends one datagram without blocking; 0, or the errno with which it was lost. A receiver that was
/// restarted is found again: reconnecting a datagram socket is one atomic call.
[[nodiscard]] inline int send_datagram(int fd, const SocketAddress& address,
                                       std::string_view bytes) {
    for (int attempt = 0;; ++attempt) {
        if (::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return 0;
        const int saved_errno = errno;
        if (saved_errno == EINTR) continue;
        const bool is_stale = saved_errno == ECONNREFUSED || saved_errno == ECONNRESET ||
                              saved_errno == ENOTCONN || saved_errno == EDESTADDRREQ;
        if (!is_stale || attempt > 1) return saved_errno;
        if (::connect(fd, address.raw(), address.size) < 0) return errno;
    }
}

}  // namespace gcorn
