// Admission: how many new connections a worker takes in a turn, and which it leaves to a sibling.
//
// Each free slot takes one. A worker whose slots are all busy has two duties: clients in the accept
// queue must not starve behind those that are already connected, and a connection that a sibling
// could serve sooner should go to that sibling. So each call that ends lets one in, unless a
// sibling is idle, and a client that brings no request to run passes its turn on to the next. And a
// new connection is left, for a moment, to a sibling that holds fewer.
//
// A slot that takes no request is not free: requests wait although there is one if a greenlet
// blocks its hub, or a thread of gthread keeps the GIL.
//
// Pure: no sockets, no clock. The thread that leads the EventLoop. All times are monotonic ms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "os/scoreboard.h"

namespace gcorn {

class Admission {
public:
    /// Is there another worker that takes from the same listeners and holds fewer connections?
    using HasSibling = std::function<bool(Sibling kind, size_t with_fewer_than)>;

    /// All slots are busy and no call has ended for this long: the worker is stuck.
    static constexpr int64_t kStuckMs = 5;
    /// Behind calls that last this long, other clients no longer wait, even if every sibling is
    /// busy, too.
    static constexpr int64_t kStuckLongMs = 250;
    /// For how many turns a connection is left to a sibling. A turn takes a few microseconds, so
    /// that is long enough for the sibling to wake up. A busy worker's turns take longer, as do
    /// those on a shared processor: hence the limits in time, for a busy and for an idle sibling.
    static constexpr int kTurnsGivenMax = 100;
    static constexpr int64_t kGiveBusyMs = 1;
    static constexpr int64_t kGiveIdleMs = 10;

    /// slots: calls that run at once. has_sibling: empty if there never is one.
    Admission(size_t slots, HasSibling has_sibling)
        : slots_(slots), has_sibling_(std::move(has_sibling)) {}

    /// Begins a turn, in which budget() connections may be accepted. active: calls that are queued
    /// or running. oldest_ms: when the one came that has been queued longest; INT64_MAX: none is.
    void plan(int64_t now_ms, size_t active, int64_t oldest_ms = INT64_MAX);
    /// After the poll, which may have lasted: are the free slots really free?
    void plan_again(int64_t now_ms, size_t active, int64_t oldest_ms);
    /// A request has waited for kStuckMs although there is a slot for it.
    [[nodiscard]] bool is_blocked() const { return is_blocked_; }
    [[nodiscard]] size_t budget() const { return budget_; }
    void set_budget(size_t budget) { budget_ = budget; }
    void spend() { --budget_; }

    /// A request was queued for the application, behind `active` others.
    void call_came(int64_t now_ms, size_t active);
    /// A client that was let in brought no request to run; many of those would use up all turns.
    void pass_turn_on() { ++turns_passed_on_; }
    /// Grows with either of the two.
    [[nodiscard]] uint64_t events() const { return came_ + turns_passed_on_; }

    /// Every slot is taken by a call that lasts.
    [[nodiscard]] bool is_stuck(int64_t now_ms, size_t active) const;
    [[nodiscard]] bool is_stuck_long(int64_t now_ms) const {
        return now_ms - stuck_since_ms_ >= kStuckLongMs;
    }

    [[nodiscard]] bool has_sibling(Sibling kind, size_t with_fewer_than = SIZE_MAX) const {
        return has_sibling_ && has_sibling_(kind, with_fewer_than);
    }
    /// Whether to leave the next connection in the accept queue, given how many we hold. It should
    /// go to the worker with the fewest, if that one is idle (then it woke up for it, too) or as
    /// busy as we are.
    [[nodiscard]] bool leaves_to_sibling(int64_t now_ms, size_t connections);
    /// Somebody took that connection: the next one is left for a time of its own.
    void was_taken() { turns_given_ = 0; }

private:
    void judge(int64_t now_ms, size_t active, int64_t oldest_ms);

    const size_t slots_;
    const HasSibling has_sibling_;
    size_t budget_ = 0;
    size_t budget_min_ = 0;  ///< even if no slot is free
    bool is_blocked_ = false;
    uint64_t came_ = 0;           ///< calls
    uint64_t answered_ = 0;       ///< of these, by the time the last turn began
    bool has_answered_ = false;   ///< a call ended between the last two turns
    size_t turns_passed_on_ = 0;  ///< and not used yet
    int64_t stuck_since_ms_ = 0;  ///< when a slot was last free, or a call ended
    int turns_given_ = 0;         ///< for which the next connection has been left to a sibling
    int64_t given_since_ms_ = 0;  ///< the first of those turns
};

}  // namespace gcorn
