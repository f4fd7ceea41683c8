#include "os/scoreboard.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>

#include <sys/mman.h>

#include "base/clock.h"
#include "base/text.h"

namespace gcorn {

static_assert(std::atomic<int64_t>::is_always_lock_free &&
                  std::atomic<uint32_t>::is_always_lock_free &&
                  std::atomic<bool>::is_always_lock_free,
              "a lock inside an atomic would be private to one process");

namespace {

/// Copies what fits; a shorter text ends with a zero byte.
template <size_t N>
void put(char (&cell)[N], std::string_view text) {
    const size_t size = std::min(text.size(), N);
    std::memcpy(cell, text.data(), size);
    if (size < N) cell[size] = '\0';
}

template <size_t N>
std::string get(const char (&cell)[N]) {
    return {cell, ::strnlen(cell, N)};
}

}  // namespace

// --- one slot ---

std::string ActivityView::text(int64_t now_ms) const {
    char age[32];
    std::snprintf(age, sizeof(age), "%.1f", static_cast<double>(now_ms - since_ms) / 1000.0);
    // A method is a token, and a peer an IP address: neither needs to be escaped.
    return method + " " + escape_for_log(target) + " for " + age + " s, in the application, from " +
           (peer.empty() ? "a unix socket" : peer);
}

void WorkerSlot::beat() {
    heartbeat_ms.store(monotonic_ms(), std::memory_order_relaxed);
}

// A sequence lock (Boehm, "Can seqlocks get along with programming language memory models?", 2012).
// The read-modify-writes are its fences: cheap here, and thread sanitizers understand them.
void WorkerSlot::begin(size_t index, std::string_view method, std::string_view target,
                       std::string_view peer) {
    Activity& activity = activities[index % kActivitiesMax];
    const uint32_t before = activity.sequence.load(std::memory_order_relaxed);
    activity.sequence.exchange(before | 1, std::memory_order_acq_rel);
    put(activity.method, method);
    put(activity.target, target);
    put(activity.peer, peer);
    activity.since_ms.store(monotonic_ms(), std::memory_order_relaxed);
    activity.is_running.store(true, std::memory_order_relaxed);
    activity.sequence.store((before | 1) + 1, std::memory_order_release);
}

void WorkerSlot::end(size_t index) {
    activities[index % kActivitiesMax].is_running.store(false, std::memory_order_relaxed);
}

bool WorkerSlot::read(size_t index, ActivityView& view) const {
    // const_cast: the second look at the sequence must be a read-modify-write, or the copies could
    // be made after it.
    auto& activity = const_cast<Activity&>(activities[index % kActivitiesMax]);
    constexpr int kAttemptsMax = 100;  // an owner that died while writing never finishes
    for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
        const uint32_t before = activity.sequence.load(std::memory_order_acquire);
        const bool is_running = activity.is_running.load(std::memory_order_relaxed);
        if (!is_running) return false;
        view.since_ms = activity.since_ms.load(std::memory_order_relaxed);
        view.method = get(activity.method);
        view.target = get(activity.target);
        view.peer = get(activity.peer);
        if (before % 2 == 0 && activity.sequence.fetch_add(0, std::memory_order_acq_rel) == before)
            return true;
    }
    return false;
}

// --- the board ---

struct Scoreboard::Shared {
    std::atomic<uint32_t> used;  ///< slots 0 … used-1 were claimed at least once
    alignas(64) WorkerSlot slots[1];
};

void Scoreboard::Unmap::operator()(Shared* shared) const {
    ::munmap(shared, bytes);
}

Result<Scoreboard> Scoreboard::create(size_t slots) {
    GCORN_CHECK(slots > 0);
    // Zero bytes are a valid start for every cell that is read before its slot is claimed.
    const size_t bytes = sizeof(Shared) + (slots - 1) * sizeof(WorkerSlot);
    void* memory =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return errno_error(errno, "map the scoreboard");
    Scoreboard board;
    board.shared_ = {static_cast<Shared*>(memory), Unmap{bytes}};
    board.size_ = slots;
    if (Status status = board.notice_.open(); !status) return status.error();
    return board;
}

WorkerSlot& Scoreboard::slot(size_t index) const {
    GCORN_CHECK(index < size_);
    return *(shared_->slots + index);
}

size_t Scoreboard::claim() {
    auto& used = shared_->used;
    for (size_t index = 0; index < size_; ++index) {
        WorkerSlot& candidate = slot(index);
        if (candidate.state.load() != WorkerState::Free) continue;
        ::new (&candidate) WorkerSlot;  // resets all cells; nobody else may look at a free slot
        candidate.state.store(WorkerState::Booting);
        if (index >= used.load()) used.store(static_cast<uint32_t>(index + 1));
        return index;
    }
    return size_;
}

void Scoreboard::free(size_t index) {
    slot(index).state.store(WorkerState::Free);
}

bool Scoreboard::has_sibling(size_t self, Sibling kind, size_t with_fewer_than) const {
    const uint32_t used = shared_->used.load(std::memory_order_relaxed);
    for (size_t index = 0; index < used; ++index) {
        if (index == self) continue;
        const WorkerSlot& sibling = slot(index);
        const auto of = [](const auto& cell) { return cell.load(std::memory_order_relaxed); };
        if (of(sibling.state) == WorkerState::Ready && !of(sibling.is_retired) &&
            of(sibling.connections) < with_fewer_than &&
            (kind == Sibling::Any || of(sibling.busy) < of(sibling.capacity)))
            return true;
    }
    return false;
}

}  // namespace gcorn
