// Scoreboard: one shared-memory slot per worker, the only thing workers tell the arbiter besides
// their exit status: heartbeat, state, what is running, counters. And one flag from the arbiter,
// for a worker that signals do not reach.
//
// Anonymous shared memory, mapped before the first fork: no file, no disk, gone with the processes.
// The arbiter claims and frees slots; a worker writes only its own. Every cell is a lock-free
// atomic or guarded by a sequence number, because the reader may look while a worker dies.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "os/wake_up.h"

namespace gcorn {

enum class WorkerState : uint32_t { Free, Booting, Ready, Stopping };

/// How many running requests a worker describes (one per thread; greenlets share the first ones).
constexpr size_t kActivitiesMax = 64;

/// One running request. A seqlock: `sequence` is odd while the owner writes.
struct Activity {
    std::atomic<uint32_t> sequence{0};
    std::atomic<bool> is_running{false};
    std::atomic<int64_t> since_ms{0};
    char method[16];
    char target[160];  ///< truncated; raw bytes
    char peer[64];
};

/// A copy of an Activity that was read consistently.
struct ActivityView {
    int64_t since_ms = 0;
    std::string method, target, peer;

    /// "GET /x?y for 3.1 s, in the application, from 10.0.0.1:5050", escaped for logs.
    [[nodiscard]] std::string text(int64_t now_ms) const;
};

struct WorkerSlot {
    std::atomic<WorkerState> state{WorkerState::Free};
    std::atomic<int64_t> heartbeat_ms{0};  ///< monotonic; 0 = has not beaten yet
    std::atomic<uint64_t> requests{0};     ///< taken by the application since the worker's start
    std::atomic<uint32_t> busy{0};         ///< requests inside the application
    std::atomic<uint32_t> capacity{1};     ///< requests it can run at once (slots of the class)
    std::atomic<uint32_t> connections{0};  ///< open ones
    std::atomic<bool> wants_replacement{false};  ///< max_requests reached: boot another one first
    std::atomic<bool> is_retired{false};         ///< set by the arbiter: a signal told it to leave
    Activity activities[kActivitiesMax];

    void beat();
    /// Describes what runs in `index` (mod kActivitiesMax); one writer per index.
    void begin(size_t index, std::string_view method, std::string_view target,
               std::string_view peer);
    void end(size_t index);
    [[nodiscard]] bool read(size_t index, ActivityView& view) const;  ///< false if nothing runs
};

/// Idle: it could run a request at once.
enum class Sibling : uint8_t { Any, Idle };

class Scoreboard {
public:
    /// Maps `slots` slots and opens the notification descriptor. Once, before the first fork. A
    /// slot costs memory (20 KiB) only from its first claim on.
    static Result<Scoreboard> create(size_t slots);

    [[nodiscard]] WorkerSlot& slot(size_t index) const;
    [[nodiscard]] size_t size() const { return size_; }
    /// Arbiter: a free slot, reset and marked Booting; size() if all are taken.
    size_t claim();
    void free(size_t index);

    /// Worker: "look at my state" (ready, wants replacement, stopping). Never blocks.
    void notify() const { notice_.wake(); }
    /// Arbiter: polls this; drain() empties it.
    [[nodiscard]] int notify_fd() const { return notice_.fd(); }
    void drain() const { notice_.drain(); }

    /// True if some other worker than `self` is Ready, was not told to leave, and holds fewer than
    /// that many connections.
    [[nodiscard]] bool has_sibling(size_t self, Sibling kind,
                                   size_t with_fewer_than = SIZE_MAX) const;

private:
    struct Shared;  ///< the mapping: how many slots were ever used, then the slots
    struct Unmap {
        size_t bytes;
        void operator()(Shared* shared) const;
    };

    Scoreboard() = default;
    std::unique_ptr<Shared, Unmap> shared_;
    size_t size_ = 0;
    WakeUp notice_;
};

}  // namespace gcorn
