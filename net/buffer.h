// Buffer: bytes that have arrived and are not used yet. Spool: a body, in memory first, then in an
// unlinked file, so that neither a large upload nor a slow reader costs memory without bound.
//
// Neither takes locks: a Buffer belongs to the leader, a Spool to whichever side has the Exchange
// (see net/exchange.h for the one case where two threads share a Spool in file mode).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace gcorn {

/// A body up to this size stays in memory (the size unicorn and puma spool at).
constexpr size_t kSpoolMemoryMax = size_t{112} * 1024;

/// Growing byte queue: append at the end, consume at the front. Gives its memory back when emptied
/// by release(), so that an idle connection costs nothing.
class Buffer {
public:
    [[nodiscard]] std::string_view view() const { return std::string_view(bytes_).substr(start_); }
    [[nodiscard]] size_t size() const { return bytes_.size() - start_; }
    [[nodiscard]] bool empty() const { return size() == 0; }
    void append(std::string_view bytes);
    /// Drops `n` ≤ size() bytes from the front; amortised constant time.
    void consume(size_t n);
    void clear() { bytes_.clear(), start_ = 0; }
    /// clear(), and the memory goes back to the allocator.
    void release();

private:
    std::string bytes_;
    size_t start_ = 0;
};

/// A body store: append, then read at any position. Switches to an unlinked temporary file of
/// `directory` once it grows past memory_max.
class Spool {
public:
    Spool() = default;
    Spool(Spool&&) = delete;

    /// directory: where the file goes; borrowed view of a string that outlives the spool. Only
    /// remembered; nothing is opened before it is needed.
    void configure(std::string_view directory, size_t memory_max = kSpoolMemoryMax);

    /// Error (errno in code, e.g. ENOSPC): nothing of `bytes` is kept.
    Status append(std::string_view bytes);
    /// For an empty spool: takes over `block` instead of copying the body, all of which lies in it
    /// at `bytes` (not empty). The caller gets the block of an earlier body in exchange; null if
    /// there was none.
    void adopt(std::unique_ptr<char[]>& block, std::string_view bytes);
    [[nodiscard]] uint64_t size() const { return size_; }
    [[nodiscard]] bool in_memory() const { return !file_.is_open(); }
    /// Everything, while in_memory().
    [[nodiscard]] std::string_view memory() const {
        return adopted_.empty() ? std::string_view(memory_) : adopted_;
    }
    /// The file, once !in_memory(); positions in it are positions in the body.
    [[nodiscard]] int file() const { return file_.get(); }

    /// Reads up to `n` bytes at `position` into `out`; 0 only at or past the end. Error: errno in
    /// code. In file mode also concurrently with append().
    Result<size_t> read_at(uint64_t position, char* out, size_t n) const;

    /// The bytes before `position` are not needed any more: frees their disk blocks where the file
    /// system can (fallocate PUNCH_HOLE), in steps of a MiB. No-op in memory mode.
    void discard_before(uint64_t position);

    /// Empty again; the file is closed, small memory is kept for the next body.
    void clear();

private:
    Status move_to_file();

    std::string_view directory_;
    size_t memory_max_ = kSpoolMemoryMax;
    std::string memory_;
    std::string_view adopted_;       ///< the body, in block_ instead of memory_
    std::unique_ptr<char[]> block_;  ///< kept after clear(), to be exchanged for the next
    Fd file_;
    std::atomic<uint64_t> size_{0};  ///< in file mode one thread may read what another appends to
    uint64_t discarded_ = 0;
};

/// An unlinked, close-on-exec temporary file in `directory`.
Result<Fd> open_unlinked_file(std::string_view directory);

/// The directory for spools: `wish`, or if that is empty the first of $TMPDIR, /tmp, /var/tmp and
/// /dev/shm where such a file can be made: a read-only container often has only one of them. Error:
/// there is none, with the reason for the first.
Result<std::string> find_spool_directory(const std::string& wish);

}  // namespace gcorn
