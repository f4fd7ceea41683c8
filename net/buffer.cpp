#include "net/buffer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace gcorn {

namespace {

/// Buffer: the used part in front is cut off once it is this large and at least half of everything,
/// so that each byte is moved about once at most.
constexpr size_t kCompactBytesMin = 4096;
/// Buffer: this much used memory in front of the rest goes back to the allocator at once.
constexpr size_t kLargeBytesMin = size_t{64} * 1024;
/// Spool: memory worth keeping between two bodies of a connection.
constexpr size_t kKeptBytesMax = size_t{16} * 1024;
/// Spool: blocks are freed in steps of this size, one system call each.
constexpr uint64_t kDiscardStepBytes = uint64_t{1} << 20;

/// Writes all of `bytes` at `position`. A full disk may take a part of them.
Status write_all(int fd, std::string_view bytes, uint64_t position) {
    while (!bytes.empty()) {
        const ssize_t n = retry_on_eintr(
            [&] { return ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(position)); });
        if (n <= 0)
            return errno_error(n < 0 ? errno : ENOSPC,
                               "write request or response body to temporary file");
        bytes.remove_prefix(static_cast<size_t>(n));
        position += static_cast<uint64_t>(n);
    }
    return {};
}

}  // namespace

void Buffer::append(std::string_view bytes) {
    if (start_ >= kCompactBytesMin && start_ >= size()) {
        bytes_.erase(0, start_);
        start_ = 0;
    }
    bytes_.append(bytes);
}

void Buffer::consume(size_t n) {
    GCORN_CHECK(n <= size());
    start_ += n;
    if (start_ == bytes_.size()) {
        clear();
    } else if (start_ >= kLargeBytesMin && start_ >= size()) {
        bytes_ = std::string(view());
        start_ = 0;
    }
}

void Buffer::release() {
    std::string().swap(bytes_);
    start_ = 0;
}

void Spool::configure(std::string_view directory, size_t memory_max) {
    directory_ = directory;
    memory_max_ = memory_max;
}

Status Spool::append(std::string_view bytes) {
    GCORN_CHECK(adopted_.empty());
    if (in_memory()) {
        if (bytes.size() <= memory_max_ && memory_.size() <= memory_max_ - bytes.size()) {
            memory_.append(bytes);
            size_ += bytes.size();
            return {};
        }
        if (Status status = move_to_file(); !status) return status;
    }
    // What a failure leaves beyond size_ is never read; the next append overwrites it.
    if (Status written = write_all(file_.get(), bytes, size_); !written) return written;
    size_ += bytes.size();
    return {};
}

void Spool::adopt(std::unique_ptr<char[]>& block, std::string_view bytes) {
    GCORN_CHECK(size_ == 0 && in_memory());
    block.swap(block_);
    adopted_ = bytes;
    size_ = bytes.size();
}

/// Error: it stays in memory mode, with its contents.
Status Spool::move_to_file() {
    Result<Fd> file = open_unlinked_file(directory_);
    if (!file) return file.error();
    if (Status written = write_all(file->get(), memory_, 0); !written) return written;
    file_ = std::move(*file);
    std::string().swap(memory_);
    return {};
}

Result<size_t> Spool::read_at(uint64_t position, char* out, size_t n) const {
    if (position >= size_ || n == 0) return size_t{0};
    n = static_cast<size_t>(std::min<uint64_t>(n, size_ - position));
    if (in_memory()) {
        std::memcpy(out, memory().data() + position, n);
        return n;
    }
    const ssize_t got =
        retry_on_eintr([&] { return ::pread(file_.get(), out, n, static_cast<off_t>(position)); });
    if (got > 0) return static_cast<size_t>(got);
    // The file is ours alone and holds size_ bytes: an early end is an I/O error as well.
    return errno_error(got < 0 ? errno : EIO, "read body from temporary file");
}

void Spool::discard_before(uint64_t position) {
#if defined(__linux__) && defined(FALLOC_FL_PUNCH_HOLE)
    if (in_memory()) return;
    const uint64_t end = std::min(position, size()) / kDiscardStepBytes * kDiscardStepBytes;
    if (end <= discarded_) return;
    // Best effort: not every file system can, and then the disk is merely used a little longer.
    static_cast<void>(::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  static_cast<off_t>(discarded_),
                                  static_cast<off_t>(end - discarded_)));
    discarded_ = end;
#else
    static_cast<void>(position);
#endif
}

void Spool::clear() {
    file_.reset();
    adopted_ = {};
    memory_.clear();
    if (memory_.capacity() > kKeptBytesMax) std::string().swap(memory_);
    size_ = 0;
    discarded_ = 0;
}

Result<Fd> open_unlinked_file(std::string_view directory) {
    const std::string where(directory);
#ifdef O_TMPFILE
    // A file that never has a name. Old kernels and some file systems cannot make one (EOPNOTSUPP,
    // EISDIR, ENOENT): then the second way is tried, and its error is the one to report.
    Fd nameless(::open(where.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (nameless) return nameless;
#endif
    std::string name = where + "/gcorn-body-XXXXXX";
    Fd file(::mkostemp(name.data(), O_CLOEXEC));
    if (!file) return errno_error(errno, "create temporary file in " + where);
    if (::unlink(name.c_str()) != 0) return errno_error(errno, "unlink " + name);
    return file;
}

Result<std::string> find_spool_directory(const std::string& wish) {
    const char* variable = std::getenv("TMPDIR");
    std::vector<std::string> candidates = {variable != nullptr ? variable : "", "/tmp", "/var/tmp",
                                           "/dev/shm"};
    if (!wish.empty()) candidates = {wish};
    Status first;
    for (const std::string& candidate : candidates) {
        if (candidate.empty()) continue;
        const Result<Fd> file = open_unlinked_file(candidate);
        if (file) return candidate;
        if (first) first = file.error();
    }
    return first.error();
}

}  // namespace gcorn
