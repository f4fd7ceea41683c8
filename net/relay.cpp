#include "net/relay.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

namespace gcorn {

namespace {

/// One message: the listener's index and the preamble, with the descriptor attached.
struct Message {
    Message(size_t& listener, char* preamble, size_t size)
        : parts{{&listener, sizeof listener}, {preamble, size}} {
        header.msg_iov = parts;
        header.msg_iovlen = 2;
        header.msg_control = space;
        header.msg_controllen = sizeof space;
    }
    iovec parts[2];
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
};

}  // namespace

Status Relay::open() {
    int ends[2] = {-1, -1};
#ifdef __linux__
    constexpr int kType = SOCK_SEQPACKET;  // more of them may wait than datagrams (max_dgram_qlen)
#else
    constexpr int kType = SOCK_DGRAM;
#endif
    if (::socketpair(AF_UNIX, kType, 0, ends) != 0) return errno_error(errno, "socketpair");
    in_.reset(ends[0]);
    out_.reset(ends[1]);
    for (const int end : ends)
        if (::fcntl(end, F_SETFD, FD_CLOEXEC) != 0) return errno_error(errno, "socketpair");
    return {};
}

bool Relay::give(int connection, size_t listener, std::string_view preamble) const {
    // const_cast: sendmsg(2) only reads.
    Message message(listener, const_cast<char*>(preamble.data()), preamble.size());
    cmsghdr* const rights = CMSG_FIRSTHDR(&message.header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof connection);
    std::memcpy(CMSG_DATA(rights), &connection, sizeof connection);
    // Never SIGPIPE: the other end is ours, too.
    const ssize_t sent =
        retry_on_eintr([&] { return ::sendmsg(in_.get(), &message.header, MSG_DONTWAIT); });
    return sent >= 0;  // a message goes out whole or not at all
}

Accepted Relay::take(size_t& listener, std::string& preamble) const {
    Accepted result;
    // Without a free number for it the descriptor would be closed on arrival, and the request lost.
    if (const Fd place(::fcntl(out_.get(), F_DUPFD_CLOEXEC, 0)); !place) {
        result.status = AcceptStatus::OutOfResources;
        result.error = errno;
        return result;
    }
    char bytes[kPreambleMax];
    Message message(listener, bytes, sizeof bytes);
#ifdef MSG_CMSG_CLOEXEC
    constexpr int kFlags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
#else
    constexpr int kFlags = MSG_DONTWAIT;
#endif
    const ssize_t got =
        retry_on_eintr([&] { return ::recvmsg(out_.get(), &message.header, kFlags); });
    if (got < static_cast<ssize_t>(sizeof listener)) return result;
    preamble.assign(bytes, static_cast<size_t>(got) - sizeof listener);
    const cmsghdr* const rights = CMSG_FIRSTHDR(&message.header);
    result.status = AcceptStatus::Aborted;
    if (rights == nullptr) return result;
    int connection = -1;
    std::memcpy(&connection, CMSG_DATA(rights), sizeof connection);
    result.fd.reset(connection);
    result.peer.size = sizeof result.peer.storage;
    if (::getpeername(connection, result.peer.raw(), &result.peer.size) != 0) {
        result.fd.reset();  // its client is gone
        return result;
    }
#ifndef MSG_CMSG_CLOEXEC
    static_cast<void>(::fcntl(connection, F_SETFD, FD_CLOEXEC));
#endif
    result.status = AcceptStatus::Connection;
    return result;
}

}  // namespace gcorn
