// A log or metrics server's end of a socket: whatever arrives, as text.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "tests/support/server_process.h"

namespace gcorn::e2e {

/// Receives datagrams (each ends in a newline here) or, as a TCP server, the bytes of one client at
/// a time.
class Receiver {
public:
    enum class Kind { Udp, UnixDatagram, Tcp };

    /// path: of the unix socket.
    explicit Receiver(Kind kind, const std::string& path = "") : kind_(kind) {
        if (kind == Kind::UnixDatagram) {
            sockaddr_un address{};
            address.sun_family = AF_UNIX;
            std::memcpy(address.sun_path, path.data(), path.size());
            fd_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            EXPECT_EQ(
                ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
            return;
        }
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd_ =
            Fd(::socket(AF_INET, (kind == Kind::Udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0));
        EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
                  0);
        EXPECT_TRUE(kind != Kind::Tcp || ::listen(fd_.get(), 5) == 0);
        socklen_t size = sizeof address;
        EXPECT_EQ(::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
        port_ = ntohs(address.sin_port);
    }

    [[nodiscard]] std::string port() const { return std::to_string(port_); }
    [[nodiscard]] const std::string& received() {
        while (take_one()) {
        }
        return received_;
    }
    /// Whether the text arrives in time.
    [[nodiscard]] bool gets(std::string_view text) {
        return eventually([&] { return received().find(text) != std::string::npos; });
    }

private:
    static bool is_readable(int fd) {
        pollfd entry{fd, POLLIN, 0};
        return ::poll(&entry, 1, 0) == 1;
    }
    bool take_one() {
        char bytes[65536];
        if (kind_ != Kind::Tcp) {
            if (!is_readable(fd_.get())) return false;
            const ssize_t count = ::recv(fd_.get(), bytes, sizeof bytes, 0);
            if (count > 0) (received_.append(bytes, static_cast<size_t>(count))) += '\n';
            return count > 0;
        }
        if (is_readable(fd_.get()))
            clients_.emplace_back(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        for (const Fd& client : clients_) {
            if (!is_readable(client.get())) continue;
            const ssize_t count = ::recv(client.get(), bytes, sizeof bytes, 0);
            if (count <= 0) continue;
            received_.append(bytes, static_cast<size_t>(count));
            return true;
        }
        return false;
    }

    Kind kind_;
    Fd fd_;
    std::vector<Fd> clients_;
    int port_ = 0;
    std::string received_;
};

}  // namespace gcorn::e2e
