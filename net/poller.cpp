#include "net/poller.h"

#include <fcntl.h>
#include <poll.h>

#include <array>
#include <cerrno>
#include <vector>

#include "base/fd.h"
#include "os/wake_up.h"

#if defined(__linux__) && !defined(GCORN_POLLER_POLL)
#define GCORN_POLLER_EPOLL 1
#include <sys/epoll.h>
#endif

namespace gcorn {

namespace {

bool wants(Interest interest, Interest direction) {
    return (static_cast<unsigned>(interest) & static_cast<unsigned>(direction)) != 0;
}

}  // namespace

#ifdef GCORN_POLLER_EPOLL

struct Poller::Impl {
    Fd epoll;
    WakeUp wake_up;
    std::array<epoll_event, Poller::kEventsMax> raw;
    std::array<PollEvent, Poller::kEventsMax> events;
    size_t count = 0;  // of the span handed out last
    bool was_interrupted = false;

    static uint32_t mask(Interest interest) {
        return (wants(interest, Interest::Read) ? EPOLLIN : 0u) |
               (wants(interest, Interest::Write) ? EPOLLOUT : 0u);
    }
    int control(int operation, int fd, Interest interest, EventTarget* target) const {
        epoll_event event{};
        event.events = mask(interest);
        event.data.ptr = target;
        return ::epoll_ctl(epoll.get(), operation, fd, &event);
    }
    void take(const epoll_event& event) {
        if (event.data.ptr == nullptr) return wake_up.drain();
        events[count++] = {.target = static_cast<EventTarget*>(event.data.ptr),
                           .readable = (event.events & EPOLLIN) != 0,
                           .writable = (event.events & EPOLLOUT) != 0,
                           .hangup = (event.events & (EPOLLHUP | EPOLLERR)) != 0};
    }
};

Status Poller::open() {
    impl_->epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!impl_->epoll) return errno_error(errno, "epoll_create1");
    if (Status status = impl_->wake_up.open(); !status) return status;
    return add(impl_->wake_up.fd(), Interest::Read, nullptr);
}

Status Poller::add(int fd, Interest interest, EventTarget* target) {
    if (impl_->control(EPOLL_CTL_ADD, fd, interest, target) != 0)
        return errno_error(errno, "epoll_ctl");
    return {};
}

void Poller::set(int fd, Interest interest, EventTarget* target) {
    GCORN_CHECK(impl_->control(EPOLL_CTL_MOD, fd, interest, target) == 0);
}

void Poller::remove(int fd, const EventTarget* target) {
    GCORN_CHECK(impl_->control(EPOLL_CTL_DEL, fd, Interest::None, nullptr) == 0);
    forget_events(target);
}

std::span<PollEvent> Poller::wait(int timeout_ms) {
    impl_->count = 0;
    const int ready = ::epoll_wait(impl_->epoll.get(), impl_->raw.data(), kEventsMax, timeout_ms);
    GCORN_CHECK(ready >= 0 || errno == EINTR);
    impl_->was_interrupted = ready < 0;
    for (int i = 0; i < ready; ++i)
        impl_->take(impl_->raw[static_cast<size_t>(i)]);
    return {impl_->events.data(), impl_->count};
}

#else

struct Poller::Impl {
    WakeUp wake_up;
    // Both indexed by descriptor; poll(2) skips those that are not watched, whose fd is -1.
    std::vector<pollfd> fds;
    std::vector<EventTarget*> targets;
    size_t next = 0;  // where the next scan starts, so that low numbers do not always win
    std::array<PollEvent, Poller::kEventsMax> events;
    size_t count = 0;  // of the span handed out last
    bool was_interrupted = false;

    static short mask(Interest interest) {
        return static_cast<short>((wants(interest, Interest::Read) ? POLLIN : 0) |
                                  (wants(interest, Interest::Write) ? POLLOUT : 0));
    }
    [[nodiscard]] bool is_watched(int fd) const {
        return fd >= 0 && static_cast<size_t>(fd) < fds.size() &&
               fds[static_cast<size_t>(fd)].fd == fd;
    }
    void watch(int fd, Interest interest, EventTarget* target) {
        const auto place = static_cast<size_t>(fd);
        if (place >= fds.size()) {
            fds.resize(place + 1, {.fd = -1, .events = 0, .revents = 0});
            targets.resize(place + 1);
        }
        fds[place] = {.fd = fd, .events = mask(interest), .revents = 0};
        targets[place] = target;
    }
    void take(size_t i) {
        const int got = fds[i].revents;
        if (targets[i] == nullptr) return wake_up.drain();
        events[count++] = {
            .target = targets[i],
            // Not every system adds POLLIN to the POLLHUP of an ended stream.
            .readable = (got & (POLLIN | (fds[i].events & POLLIN ? POLLHUP : 0))) != 0,
            .writable = (got & POLLOUT) != 0,
            .hangup = (got & (POLLHUP | POLLERR | POLLNVAL)) != 0};
    }
};

Status Poller::open() {
    if (Status status = impl_->wake_up.open(); !status) return status;
    return add(impl_->wake_up.fd(), Interest::Read, nullptr);
}

Status Poller::add(int fd, Interest interest, EventTarget* target) {
    // Refuse here what epoll_ctl would refuse: poll(2) does not.
    if (::fcntl(fd, F_GETFD) < 0) return errno_error(errno, "poll");
    if (impl_->is_watched(fd)) return errno_error(EEXIST, "poll");
    impl_->watch(fd, interest, target);
    return {};
}

void Poller::set(int fd, Interest interest, EventTarget* target) {
    GCORN_CHECK(impl_->is_watched(fd));
    impl_->watch(fd, interest, target);
}

void Poller::remove(int fd, const EventTarget* target) {
    GCORN_CHECK(impl_->is_watched(fd));
    impl_->fds[static_cast<size_t>(fd)] = {.fd = -1, .events = 0, .revents = 0};
    forget_events(target);
}

std::span<PollEvent> Poller::wait(int timeout_ms) {
    impl_->count = 0;
    std::vector<pollfd>& fds = impl_->fds;
    const int ready = ::poll(fds.data(), static_cast<nfds_t>(fds.size()), timeout_ms);
    GCORN_CHECK(ready >= 0 || errno == EINTR || errno == EAGAIN);
    impl_->was_interrupted = ready < 0;
    for (int left = ready; left > 0 && impl_->count < kEventsMax;) {
        const size_t i = impl_->next++ % fds.size();
        if (fds[i].revents == 0) continue;
        impl_->take(i);
        --left;
    }
    return {impl_->events.data(), impl_->count};
}

#endif

Poller::Poller() : impl_(std::make_unique<Impl>()) {}
Poller::~Poller() = default;

bool Poller::was_interrupted() const {
    return impl_->was_interrupted;
}

void Poller::wake() {
    impl_->wake_up.wake();
}

void Poller::forget_events(const EventTarget* target) {
    for (size_t i = 0; i < impl_->count; ++i)
        if (impl_->events[i].target == target) impl_->events[i].target = nullptr;
}

}  // namespace gcorn
