// The supervisor's end of NOTIFY_SOCKET.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <string>

#include "base/fd.h"

namespace gcorn::testing {

class NotifySocket {
public:
    explicit NotifySocket(bool is_abstract) {
        static int count = 0;
        name_ = (is_abstract ? "@" : "/tmp/") + std::string("gcorn-notify-") +
                std::to_string(::getpid()) + "-" + std::to_string(++count);
        fd_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, name_.data(), name_.size());
        if (is_abstract) address.sun_path[0] = '\0';
        const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name_.size());
        EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
    }
    ~NotifySocket() {
        if (name_[0] == '/') ::unlink(name_.c_str());
    }
    NotifySocket(const NotifySocket&) = delete;
    NotifySocket& operator=(const NotifySocket&) = delete;

    [[nodiscard]] const std::string& name() const { return name_; }
    /// One datagram; "" if there is none.
    std::string receive() {
        char bytes[512];
        const ssize_t count = ::recv(fd_.get(), bytes, sizeof(bytes), 0);
        return count > 0 ? std::string(bytes, static_cast<size_t>(count)) : "";
    }

private:
    std::string name_;
    Fd fd_;
};

}  // namespace gcorn::testing
