// WakeUp: a descriptor that polls readable from wake() until drain().
//
// An eventfd on Linux, a pipe elsewhere and with GCORN_POLLER=poll; if it is full, that is as good
// as written. Neither call blocks. Any thread and any process that inherited it may call wake(),
// signal handlers too.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#if defined(__linux__) && !defined(GCORN_POLLER_POLL)
#define GCORN_WAKES_BY_EVENTFD 1
#include <sys/eventfd.h>
#endif

#include "base/fd.h"
#include "base/result.h"
#include "os/process.h"

namespace gcorn {

class WakeUp {
public:
    /// Error: errno in code.
    Status open() {
#ifdef GCORN_WAKES_BY_EVENTFD
        read_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!read_) return errno_error(errno, "eventfd");
#else
        Result<Pipe> ends = make_pipe();
        if (!ends) return ends.error();
        read_ = std::move(ends->read);
        write_ = std::move(ends->write);
#endif
        return {};
    }
    /// What to poll; -1 before open().
    [[nodiscard]] int fd() const {
        return read_.get();
    }
    void wake() const {
        const int saved_errno = errno;  // for signal handlers
        const uint64_t one = 1;
        // Fails only with EAGAIN, when a wake-up is pending anyway.
        const ssize_t written = ::write(write_ ? write_.get() : read_.get(), &one, sizeof one);
        static_cast<void>(written);
        errno = saved_errno;
    }
    void drain() const {
        char bytes[256];
        while (::read(read_.get(), bytes, sizeof bytes) == sizeof bytes)
            continue;
    }

private:
    Fd read_, write_;
};

}  // namespace gcorn
