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
        const int on = 1;
        EXPECT_EQ(::setsockopt(fd_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
    }
    ~NotifySocket() {
        if (name_[0] == '/') ::unlink(name_.c_str());
    }
    NotifySocket(const NotifySocket&) = delete;
    NotifySocket& operator=(const NotifySocket&) = delete;

    [[nodiscard]] const std::string& name() const { return name_; }
    /// One datagram; "" if there is none. A descriptor that comes with it is closed.
    std::string receive() {
        char bytes[512];
        iovec vector{.iov_base = bytes, .iov_len = sizeof(bytes)};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];  // no room for a descriptor
        msghdr message{};
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        const ssize_t count = ::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC);
        if (count <= 0) return "";
        for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
             header = CMSG_NXTHDR(&message, header)) {
            if (header->cmsg_type != SCM_CREDENTIALS) continue;
            ucred credentials{};
            std::memcpy(&credentials, CMSG_DATA(header), sizeof(credentials));
            sender_ = credentials.pid;
        }
        return std::string(bytes, static_cast<size_t>(count));
    }
    /// Who sent the last datagram.
    [[nodiscard]] pid_t sender() const { return sender_; }

private:
    std::string name_;
    Fd fd_;
    pid_t sender_ = 0;
};

}  // namespace gcorn::testing
