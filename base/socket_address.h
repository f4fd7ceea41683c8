// Socket addresses, names resolved to them, and sockets: what listeners, log receivers and the
// supervisor's socket have in common. Any thread; plain values and system calls.
#pragma once

#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace gcorn {

/// A socket address of any family, as the kernel gives and takes it.
struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t size = 0;

    [[nodiscard]] int family() const { return size == 0 ? AF_UNSPEC : storage.ss_family; }
    [[nodiscard]] const sockaddr* raw() const {
        return reinterpret_cast<const sockaddr*>(&storage);
    }
    [[nodiscard]] sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
    [[nodiscard]] bool operator==(const SocketAddress& other) const {
        return size == other.size && std::memcmp(&storage, &other.storage, size) == 0;
    }
};

/// is_abstract: the first byte of `path` stands for the NUL of Linux's abstract names (unix(7)).
/// Error: the path does not fit (108 bytes on Linux) or is empty; ENAMETOOLONG in code.
[[nodiscard]] inline Result<SocketAddress> unix_socket_address(std::string_view path,
                                                               bool is_abstract = false) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof name.sun_path)
        return Error{ENAMETOOLONG,
                     "unix socket path '" + std::string(path) + "' is empty or too long"};
    path.copy(name.sun_path, path.size());
    if (is_abstract) name.sun_path[0] = '\0';
    SocketAddress out;
    std::memcpy(&out.storage, &name, sizeof name);
    // A path ends with a zero byte, an abstract name where the address ends.
    const size_t bytes = offsetof(sockaddr_un, sun_path) + path.size() + (is_abstract ? 0 : 1);
    out.size = static_cast<socklen_t>(bytes);
    return out;
}

/// Resolves a name ("" means all interfaces); may wait for DNS. family: AF_UNSPEC allows any, and
/// prefers IPv4: a sender of datagrams cannot find out that nobody listens on ::1, and receivers
/// usually listen on 127.0.0.1. type: SOCK_DGRAM or SOCK_STREAM. Error: EADDRNOTAVAIL, or errno.
[[nodiscard]] inline Result<SocketAddress> resolve(const std::string& host, const std::string& port,
                                                   int family, int type) {
    addrinfo hints{};
    hints.ai_family = family;
    hints.ai_socktype = type;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    addrinfo* list = nullptr;
    const char* const name = host.empty() ? nullptr : host.c_str();
    const int failure = ::getaddrinfo(name, port.c_str(), &hints, &list);
    if (failure == EAI_SYSTEM) return errno_error(errno, "resolve " + host);
    if (failure != 0)
        return Error{EADDRNOTAVAIL, "resolve " + host + ": " + ::gai_strerror(failure)};
    const addrinfo* best = list;
    while (best != nullptr && best->ai_family != AF_INET)
        best = best->ai_next;
    if (best == nullptr) best = list;
    SocketAddress out;
    std::memcpy(&out.storage, best->ai_addr, best->ai_addrlen);
    out.size = best->ai_addrlen;
    ::freeaddrinfo(list);
    return out;
}

/// A non-blocking, close-on-exec socket, not connected. Closed on failure (errno).
[[nodiscard]] inline Fd open_socket(int family, int type) {
#ifdef SOCK_CLOEXEC
    return Fd(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
#else
    Fd fd(::socket(family, type, 0));
    if (fd &&
        (::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) < 0 || ::fcntl(fd.get(), F_SETFL, O_NONBLOCK) < 0))
        fd.reset();
    return fd;
#endif
}

}  // namespace gcorn
