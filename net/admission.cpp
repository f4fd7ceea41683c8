#include "net/admission.h"

#include <algorithm>

namespace gcorn {

void Admission::judge(int64_t now_ms, size_t active, int64_t oldest_ms) {
    is_blocked_ = active < slots_ && now_ms - oldest_ms >= kStuckMs;
}

void Admission::plan(int64_t now_ms, size_t active, int64_t oldest_ms) {
    judge(now_ms, active, oldest_ms);
    budget_ = active < slots_ && !is_blocked_ ? slots_ - active : 0;
    const uint64_t answered = came_ - active;
    auto turns = static_cast<size_t>(answered - std::exchange(answered_, answered));
    has_answered_ = turns > 0;
    if (has_answered_) stuck_since_ms_ = now_ms;
    if (!is_stuck(now_ms, active)) turns += std::exchange(turns_passed_on_, 0);
    // A sibling that is blocked, too, counts as idle, so none is waited for.
    budget_min_ = turns > budget_ && (is_blocked_ || !has_sibling(Sibling::Idle)) ? turns : 0;
    budget_ = std::max(budget_, budget_min_);
}

void Admission::plan_again(int64_t now_ms, size_t active, int64_t oldest_ms) {
    judge(now_ms, active, oldest_ms);
    if (is_blocked_) budget_ = std::min(budget_, budget_min_);
}

void Admission::call_came(int64_t now_ms, size_t active) {
    if (active < slots_ && !is_blocked_) stuck_since_ms_ = now_ms;
    ++came_;
}

bool Admission::is_stuck(int64_t now_ms, size_t active) const {
    const bool has_just_answered = came_ - active != answered_;  // since the turn began
    return (active >= slots_ || is_blocked_) && !has_just_answered &&
           now_ms - stuck_since_ms_ >= kStuckMs;
}

bool Admission::leaves_to_sibling(int64_t now_ms, size_t connections) {
    if (turns_given_ == 0) given_since_ms_ = now_ms;
    const int64_t patience_ms = has_answered_ ? kGiveBusyMs : kGiveIdleMs;
    const bool has_waited =
        turns_given_ >= kTurnsGivenMax || now_ms - given_since_ms_ > patience_ms;
    const bool leaves =
        !has_waited && has_sibling(has_answered_ ? Sibling::Any : Sibling::Idle, connections);
    turns_given_ = leaves ? turns_given_ + 1 : 0;
    return leaves;
}

}  // namespace gcorn
