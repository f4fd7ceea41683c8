// Fd: the one owner of a file descriptor.
//
// Every descriptor of the program lives in an Fd from the system call that made it to its close.
// Creators set close-on-exec at creation; inheriting across exec is an explicit act elsewhere. Also
// the one way to retry after EINTR.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace gcorn {

/// Repeats the system call in `call` while signal handlers interrupt it, and returns its result
/// (below 0: errno is set). Any thread; async-signal-safe if the call is.
template <typename Call>
auto retry_on_eintr(Call call) {
    auto result = call();
    while (result < 0 && errno == EINTR)
        result = call();
    return result;
}

class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) reset(std::exchange(other.fd_, -1));
        return *this;
    }
    ~Fd() { reset(); }

    [[nodiscard]] int get() const { return fd_; }
    [[nodiscard]] bool is_open() const { return fd_ >= 0; }
    explicit operator bool() const { return is_open(); }

    /// Gives the descriptor away; the caller closes it.
    [[nodiscard]] int release() { return std::exchange(fd_, -1); }

    /// Closes what is held and takes `fd` instead. close(2) is not retried on EINTR: on Linux the
    /// descriptor is gone either way, and a second close could hit somebody else's.
    void reset(int fd = -1) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = fd;
    }

private:
    int fd_ = -1;
};

}  // namespace gcorn
