// Poller: which descriptors are ready. Four calls over epoll on Linux and over poll(2) elsewhere
// (-DGCORN_POLLER=poll builds the portable one anywhere), level-triggered in both.
//
// Borrows descriptors, owns only its own (epoll descriptor, wake pipe). One thread at a time calls
// everything but wake(), which any thread and any signal handler may call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"

namespace gcorn {

/// What to wait for. Hang-up and error are always reported, even for None, and again by every
/// wait() until remove(): a socket that was shut down has to leave the poller, or the loop spins.
enum class Interest : uint8_t { None = 0, Read = 1, Write = 2, ReadWrite = 3 };

class EventTarget;

struct PollEvent {
    EventTarget* target = nullptr;  ///< as given to add()
    bool readable = false;          ///< includes end of stream
    bool writable = false;
    bool hangup = false;  ///< both directions are gone (EPOLLHUP) or the socket failed (EPOLLERR)
};

/// What a Poller reports events for.
class EventTarget {
public:
    virtual ~EventTarget() = default;
    virtual void on_event(const PollEvent& event) = 0;
};

class Poller {
public:
    /// The most events of one wait(). Further ready descriptors come with the next call: both
    /// kernel interfaces are level-triggered, and both implementations take turns fairly.
    static constexpr size_t kEventsMax = 256;

    Poller();
    ~Poller();
    Poller(Poller&&) = delete;

    /// Opens the kernel objects. Call once, in the process that will use it (after fork).
    Status open();

    /// `target` comes back with each event; the caller keeps it valid until remove().
    Status add(int fd, Interest interest, EventTarget* target);
    void set(int fd, Interest interest, EventTarget* target);
    /// Call before the descriptor is closed. Its events that were not looked at yet are dropped.
    void remove(int fd, const EventTarget* target);

    /// Waits at most timeout_ms (-1: no limit, 0: only look). EINTR and wake() end the wait early
    /// with what is there. The span is valid until the next call; targets of removed descriptors
    /// are null.
    [[nodiscard]] std::span<PollEvent> wait(int timeout_ms);

    /// A signal handler ended the last wait().
    [[nodiscard]] bool was_interrupted() const;

    /// Ends a wait() now, or the next one at once. Async-signal-safe.
    void wake();

private:
    struct Impl;
    /// Nulls the targets of events handed out and not looked at yet.
    void forget_events(const EventTarget* target);
    std::unique_ptr<Impl> impl_;
};

}  // namespace gcorn
