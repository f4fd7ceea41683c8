#include "net/exchange.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#ifdef __linux__
#include <sys/sendfile.h>
#endif

#include "base/clock.h"

namespace gcorn {

namespace {

/// Up to here head and body are copied into one buffer: one send(2) of a few KiB costs less than
/// the same bytes through an iovec.
constexpr size_t kGatherBytesMax = 4096;
/// What is copied from a file at a time, through the stack, which may be small (ulimit -s 64).
constexpr size_t kCopiedBytesMax = 16 * 1024;
/// A queued piece of memory grows up to this before a new one is started.
constexpr size_t kSegmentBytesMax = 64 * 1024;
/// What a piece of memory starts with that several pipelined answers will share.
constexpr size_t kCorkedBytes = 4096;
/// One system call moves at most this much, so that one fast reader does not hold the leader.
constexpr size_t kSendBytesMax = 1 << 20;
constexpr size_t kIovMax = 16;
/// The votes on whether calls are long count up to this.
constexpr int kLongVotesMax = 16;

#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
#else
constexpr int kSendFlags = MSG_DONTWAIT;  // the process ignores SIGPIPE
#endif

/// For bytes that shutdown(2) follows: they share a segment with the FIN.
#ifdef MSG_MORE
constexpr int kBeforeFin = MSG_MORE;
#else
constexpr int kBeforeFin = 0;
#endif

/// The outcome of one attempt to send: bytes taken, or -errno. 0: the socket is full.
using SendResult = ssize_t;

SendResult result_of(ssize_t sent) {
    if (sent >= 0) return sent;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) return 0;
    return -errno;
}

SendResult send_vector(int fd, iovec* parts, size_t count, int flags = kSendFlags) {
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(count);  // POSIX: an int
    return result_of(retry_on_eintr([&] { return ::sendmsg(fd, &message, flags); }));
}

SendResult send_bytes(int fd, std::string_view bytes, int flags = kSendFlags) {
    return result_of(retry_on_eintr([&] { return ::send(fd, bytes.data(), bytes.size(), flags); }));
}

iovec as_iovec(std::string_view bytes) {
    return {const_cast<char*>(bytes.data()), bytes.size()};  // sendmsg(2) only reads
}

SendResult send_parts(int fd, std::string_view before, std::string_view block,
                      std::string_view after, bool is_end) {
    const int flags = kSendFlags | (is_end ? kBeforeFin : 0);
    if (block.empty() && after.empty()) return send_bytes(fd, before, flags);
    const size_t total = before.size() + block.size() + after.size();
    if (total <= kGatherBytesMax) {
        char gathered[kGatherBytesMax];
        char* end = std::copy(before.begin(), before.end(), gathered);
        end = std::copy(block.begin(), block.end(), end);
        std::copy(after.begin(), after.end(), end);
        return send_bytes(fd, {gathered, total}, flags);
    }
    iovec parts[] = {as_iovec(before), as_iovec(block), as_iovec(after)};
    return send_vector(fd, parts, 3, flags);
}

/// Sends bytes of a file range through memory. 0: the socket is full; -ENODATA: the file ended
/// early.
SendResult send_copied(int fd, int file, off_t offset, uint64_t length) {
    char bytes[kCopiedBytesMax];
    const size_t size = static_cast<size_t>(std::min<uint64_t>(length, sizeof bytes));
    const ssize_t got = ::pread(file, bytes, size, offset);
    if (got < 0) return errno == EINTR ? 0 : -errno;
    if (got == 0) return -ENODATA;
    return send_bytes(fd, {bytes, static_cast<size_t>(got)});
}

/// The same without a copy, where the kernel can do that.
SendResult send_range(int fd, int file, off_t offset, uint64_t length) {
#ifdef __linux__
    const size_t size = static_cast<size_t>(std::min<uint64_t>(length, kSendBytesMax));
    off_t position = offset;
    const ssize_t sent = retry_on_eintr([&] { return ::sendfile(fd, file, &position, size); });
    // A descriptor that sendfile(2) cannot read falls through to the copying way below.
    if (sent > 0) return sent;
    if (sent == 0) return -ENODATA;
    if (errno != EINVAL && errno != ENOSYS) return result_of(sent);
#endif
    return send_copied(fd, file, offset, length);
}

}  // namespace

// ------------------------------------------------------------------------------ application side

bool Exchange::join_successor(std::string_view before, std::string_view block,
                              std::string_view after) {
    if (!corked_) return false;
    std::unique_lock lock(mutex_);
    const size_t total = before.size() + block.size() + after.size();
    if (held_ || is_spilling() || is_aborted() || queued_bytes_ + total > kCorkBytesMax)
        return false;
    for (const std::string_view part : {before, block, after})
        (void)enqueue(lock, part);  // this little neither waits nor goes to a file
    return true;
}

bool Exchange::send(std::string_view before, std::string_view block, std::string_view after,
                    bool is_last) {
    if (is_last && join_successor(before, block, after)) return true;
    const size_t total = before.size() + block.size() + after.size();
    std::unique_lock lock(mutex_);
    if (is_aborted()) return false;
    if (total == 0) return true;
    if (held_ && total >= kHeldBytesMax) {  // too large to be copied
        lock.unlock();
        if (!send_held()) return false;
        lock.lock();
    }
    if (held_ || may_hold(is_last, total)) {
        if (!hold(lock, before, block, after)) return false;
        if (!is_last && queued_bytes_ < kHeldBytesMax) return true;
        lock.unlock();
        return send_held();
    }
    if (may_send_directly()) {
        if (!is_last) last_block_us_ = monotonic_us();
        in_flight_ = true;
        lock.unlock();
        const bool is_end = is_last && ends_connection();
        const SendResult sent = send_parts(fd_, before, block, after, is_end);
        const bool is_sent = sent == static_cast<SendResult>(total);
        fin_sent_ = is_sent && is_end;
        if (fin_sent_) ::shutdown(fd_, SHUT_WR);  // the leader closes, or lingers
        lock.lock();
        in_flight_ = false;
        if (is_sent) return !is_aborted();
        if (sent < 0) return fail(lock);
        auto taken = static_cast<size_t>(sent);
        for (std::string_view* part : {&before, &block, &after}) {
            const size_t cut = std::min(taken, part->size());
            part->remove_prefix(cut);
            taken -= cut;
        }
    }
    for (const std::string_view part : {before, block, after})
        if (!enqueue(lock, part)) return false;
    return let_leader_work(lock, &Exchange::is_output_full);
}

/// Whether the FIN may follow the answer's last byte in the same segment. Unix sockets have
/// neither.
bool Exchange::ends_connection() const {
    return !response.keeps_alive() && !is_detached() && !facts->is_unix;
}

/// Whether this block follows the previous one so fast that the next one probably will, too.
bool Exchange::may_hold(bool is_last, size_t size) const {
    return !is_last && last_block_us_ != 0 && size < kHeldBytesMax && may_send_directly() &&
           monotonic_us() - last_block_us_ < kHoldUs;
}

/// Adds to what is held, or begins to hold; the caller holds the lock.
bool Exchange::hold(std::unique_lock<std::mutex>& lock, std::string_view before,
                    std::string_view block, std::string_view after) {
    if (!held_) held_since_us_ = monotonic_us();
    held_ = true;
    for (const std::string_view part : {before, block, after})
        if (!enqueue(lock, part)) return false;
    if (leader_watches_) return true;
    lock.unlock();
    request_leader();
    lock.lock();
    return !is_aborted();
}

/// Sends held output from the calling thread; the leader does the rest if the socket fills up.
bool Exchange::send_held() {
    std::unique_lock lock(mutex_);
    if (!held_) return !is_aborted();
    held_ = false;
    size_t moved = 0;
    const Flush outcome = send_queued(lock, moved);
    if (outcome == Flush::Failed) return fail(lock);
    last_block_us_ = monotonic_us();
    if (outcome == Flush::Blocked) {
        lock.unlock();
        request_leader();
    }
    return !is_aborted();
}

bool Exchange::send_file(std::string_view before, int file, off_t offset, uint64_t length,
                         std::string_view after, bool is_last) {
    if (!send(before, {}, {}, false) || !send_held()) return false;
    std::unique_lock lock(mutex_);
    while (length > 0 && may_send_directly()) {
        in_flight_ = true;
        lock.unlock();
        const SendResult sent = send_range(fd_, file, offset, length);
        if (sent < 0) tell_file_failure(static_cast<int>(-sent));
        lock.lock();
        in_flight_ = false;
        if (sent < 0) return fail(lock);
        if (sent == 0) break;
        offset += sent;
        length -= static_cast<uint64_t>(sent);
        if (is_aborted()) return false;
    }
    const bool is_left = length > 0;
    if (is_left) {
        Fd copy(::fcntl(file, F_DUPFD_CLOEXEC, 0));
        if (!copy) {  // no descriptor is left
            lock.unlock();
            return send_copies(file, offset, length) && send(after, {}, {}, is_last);
        }
        segments_.push_back({.file = std::move(copy), .offset = offset, .length = length});
        // A range costs neither memory nor disk of ours, so it does not count as queued bytes.
    }
    lock.unlock();
    if (is_left) request_leader();
    return send(after, {}, {}, is_last);
}

/// Sends a file for which there is no descriptor to give to the leader: through the queue, while
/// the application still has it open.
bool Exchange::send_copies(int file, off_t offset, uint64_t length) {
    char bytes[kCopiedBytesMax];
    while (length > 0) {
        const size_t size = static_cast<size_t>(std::min<uint64_t>(length, sizeof bytes));
        const ssize_t got = retry_on_eintr([&] { return ::pread(file, bytes, size, offset); });
        if (got <= 0) {
            tell_file_failure(got < 0 ? errno : ENODATA);
            abort();
            return false;
        }
        if (!send({}, {bytes, static_cast<size_t>(got)}, {}, false)) return false;
        offset += got;
        length -= static_cast<uint64_t>(got);
    }
    return true;
}

/// Appends to the output; the caller holds the lock, which is dropped around disk writes.
bool Exchange::enqueue(std::unique_lock<std::mutex>& lock, std::string_view bytes) {
    if (bytes.empty()) return true;
    if (is_spilling() || queued_memory_ + bytes.size() > memory_max()) {
        // Only this side appends to the spill file, so writing needs no lock; the leader sees the
        // bytes once the segment is published.
        lock.unlock();
        const auto start = static_cast<off_t>(spill_.size());
        const bool written = spill_.append(bytes).is_ok();
        lock.lock();
        if (written) {
            if (!is_spilling()) segments_.push_back({.in_spill = true, .offset = start});
            segments_.back().length += bytes.size();
            queued_bytes_ += bytes.size();
            return !is_aborted();
        }
        // There is no disk space: wait for the client instead, a MiB at a time.
        if (!let_leader_work(lock, &Exchange::is_memory_full)) return false;
    }
    // The leader may be sending right now, but never the last piece (see send_queued).
    const bool may_grow = !segments_.empty() && !segments_.back().is_range() &&
                          segments_.back().bytes.size() + bytes.size() <= kSegmentBytesMax;
    if (may_grow) {
        segments_.back().bytes += bytes;
    } else {
        std::string& piece = segments_.emplace_back().bytes;
        if (corked_) piece.reserve(kCorkedBytes);  // answers to pipelined requests follow
        piece += bytes;
    }
    queued_bytes_ += bytes.size();
    count_memory(queued_memory_ + bytes.size());
    return !is_aborted();
}

size_t Exchange::memory_max() const {
    return owner_.output_memory() < kOutboxMemoryOfAllMax ? kOutboxMemoryMax : kOutboxMemoryLeast;
}

void Exchange::count_memory(size_t now_queued) {
    owner_.output_memory_.fetch_add(now_queued - std::exchange(queued_memory_, now_queued),
                                    std::memory_order_relaxed);
}

void Exchange::clear_output() {
    segments_.clear();
    queued_bytes_ = 0;
    count_memory(0);
}

/// Waits until something has changed, a second at most; the worker keeps beating, and greenlets
/// keep running.
void Exchange::wait_a_moment(std::unique_lock<std::mutex>& lock) {
    lock.unlock();
    owner_.beat_while_waiting();
    const bool has_paused = owner_.pause();
    lock.lock();
    if (!has_paused) changed_.wait_for(lock, std::chrono::seconds(1));
}

void Exchange::pause() {
    if (!owner_.pause()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

/// Asks the leader to send, and waits for as long as `is_blocked`. False: the client is gone.
bool Exchange::let_leader_work(std::unique_lock<std::mutex>& lock,
                               bool (Exchange::*is_blocked)() const) {
    lock.unlock();
    request_leader();
    lock.lock();
    while ((this->*is_blocked)() && !is_aborted())
        wait_a_moment(lock);
    return !is_aborted();
}

/// Called without the lock. An error of sendfile(2) may come from either end: those of the socket
/// are the peer's doing, and no news.
void Exchange::tell_file_failure(int error) const {
    switch (error) {
        case EPIPE:
        case ECONNRESET:
        case ENOTCONN:
        case ETIMEDOUT:
        case EHOSTUNREACH:
        case ENETUNREACH:
        case ENETDOWN: return;
        default: owner_.file_failed(*this, error);
    }
}

/// Cuts the connection; the caller holds the lock, and ends with it. False.
bool Exchange::fail(std::unique_lock<std::mutex>& lock) {
    lock.unlock();
    abort();
    return false;
}

void Exchange::abort() {
    (void)send_held();
    aborted_.store(true, std::memory_order_relaxed);
    response.must_close();
}

void Exchange::finish() {
    bool must_tell = false;
    {
        std::unique_lock lock(mutex_);
        if (held_) {
            lock.unlock();
            (void)send_held();
            lock.lock();
        }
        const bool has_rest = !segments_.empty();
        completed_ = !has_rest || corked_ || is_aborted();
        if (!completed_) done_us = 0;  // the leader sends the rest
        must_tell = has_rest || is_aborted() || !response.keeps_alive();
    }
    if (completed_) owner_.exchange_completed(*this);
    const bool may_have_readers = !body_complete();
    owner_.active_.fetch_sub(1, std::memory_order_relaxed);
    finished_.store(true, std::memory_order_seq_cst);
    // From here on the leader may reuse everything except the atomics.
    if (may_have_readers) changed_.notify_all();
    must_tell = must_tell || leader_waits_.load(std::memory_order_seq_cst) ||
                owner_.wants_every_finish_.load(std::memory_order_seq_cst);
    if (must_tell) request_leader();
}

Result<uint64_t> Exchange::wait_for_body(uint64_t position) {
    std::unique_lock lock(mutex_);
    while (body_received_ <= position && !body_complete() && body_error_ == 0 && !is_aborted() &&
           !is_finished())
        wait_a_moment(lock);
    if (body_received_ > position || body_complete()) return body_received_;
    switch (body_error_) {
        case ETIMEDOUT: return Error{ETIMEDOUT, "the client stopped sending the request body"};
        case EPROTO: return Error{EPROTO, "the client sent a malformed request body"};
        default: return Error{ECONNRESET, "the client ended the request body early"};
    }
}

void Exchange::body_consumed(uint64_t position) {
    if (body_complete()) return;
    {
        const std::lock_guard lock(mutex_);
        body_consumed_ = std::max(body_consumed_, position);
    }
    request_leader();
}

Result<Fd> Exchange::detach() {
    (void)send_held();
    std::unique_lock lock(mutex_);
    if (facts->peer.is_tls)
        return Error{EOPNOTSUPP, "the raw socket of a TLS connection cannot be handed out"};
    // Part of this answer may wait, or answers to earlier requests that were to leave with it.
    if (is_sending()) (void)let_leader_work(lock, &Exchange::is_sending);
    if (is_aborted()) return Error{ECONNRESET, "the client is gone"};
    Result<Fd> copy = copy_socket();
    if (!copy) return copy;
    detached_.store(true, std::memory_order_relaxed);
    response.must_close();
    return copy;
}

Result<Fd> Exchange::copy_socket() const {
    Fd copy(::fcntl(fd_, F_DUPFD_CLOEXEC, 0));
    if (!copy) return errno_error(errno, "duplicate the client's socket");
    return copy;
}

// ---------------------------------------------------------------------------------------- leader

void Exchange::prepare(const ConnectionFacts* connection_facts, int fd,
                       std::string_view spool_dir) {
    facts = connection_facts;
    fd_ = fd;
    body.configure(spool_dir);
    spill_.configure(spool_dir, 0);
}

void Exchange::reset_for_reuse() {
    head.clear();
    body.clear();
    logged_environ.clear();
    response.forget();
    received_us = queued_us = taken_us = done_us = app_us = 0;
    aborted_.store(false, std::memory_order_relaxed);
    finished_.store(false, std::memory_order_relaxed);
    detached_.store(false, std::memory_order_relaxed);
    body_complete_.store(true, std::memory_order_relaxed);
    leader_waits_.store(false, std::memory_order_relaxed);
    // Output that waits for a pipelined successor stays: it leaves before the next answer.
    body_received_ = body_consumed_ = 0;
    body_error_ = 0;
    corked_ = completed_ = fin_sent_ = false;
    held_ = leader_watches_ = has_sender = false;
    last_block_us_ = 0;
    if (segments_.empty() && spill_.size() > 0) spill_.clear();
    spill_sent_ = 0;
}

bool Exchange::has_output() {
    const std::lock_guard lock(mutex_);
    return !segments_.empty();
}

Exchange::Rest Exchange::rest() {
    const std::lock_guard lock(mutex_);
    if (segments_.empty()) return Rest::Nothing;
    const auto is_range = [](const Segment& segment) { return segment.is_range(); };
    const bool may_join = corked_ && queued_bytes_ <= kCorkBytesMax &&
                          std::none_of(segments_.begin(), segments_.end(), is_range);
    return may_join ? Rest::MayJoin : Rest::Waits;
}

/// Drops `bytes` from the front of the queue, and pieces that are empty; the caller holds the lock.
void Exchange::consume_front(size_t bytes) {
    while (!segments_.empty()) {
        Segment& front = segments_.front();
        if (front.is_range()) {
            front.offset += static_cast<off_t>(bytes);
            front.length -= bytes;
            if (front.in_spill) {
                queued_bytes_ -= bytes;
                spill_sent_ = static_cast<uint64_t>(front.offset);
            }
            bytes = 0;
            if (front.length > 0) return;
        } else {
            const size_t cut = std::min(bytes, front.bytes.size() - front.start);
            front.start += cut;
            bytes -= cut;
            queued_bytes_ -= cut;
            count_memory(queued_memory_ - cut);
            if (front.start < front.bytes.size()) return;
        }
        segments_.pop_front();
    }
}

Exchange::Flush Exchange::flush(size_t& moved) {
    std::unique_lock lock(mutex_);
    leader_watches_ = held_ && monotonic_us() - held_since_us_ < kHoldUs;
    if (leader_watches_) return Flush::Held;
    held_ = false;
    return send_queued(lock, moved);
}

bool Exchange::may_stay_held() {
    const std::lock_guard lock(mutex_);
    // A stream between two batches counts as well: it will hold output again soon.
    const int64_t since_us = held_ ? held_since_us_ : last_block_us_;
    leader_watches_ = !is_finished() && monotonic_us() - since_us < kHoldUs;
    return leader_watches_;
}

/// flush() with the lock held, before and after; it is dropped around system calls.
Exchange::Flush Exchange::send_queued(std::unique_lock<std::mutex>& lock, size_t& moved) {
    for (moved = 0; moved < kSendBytesMax;) {
        if (segments_.empty()) return Flush::Drained;
        if (in_flight_) return Flush::Blocked;
        Segment& front = segments_.front();
        SendResult sent = 0;
        in_flight_ = true;
        if (front.is_range()) {
            const bool is_spill = front.in_spill;
            const int file = is_spill ? spill_.file() : front.file.get();
            const off_t offset = front.offset;
            const uint64_t length = front.length;
            lock.unlock();
            // What sendfile(2) queues in the socket still refers to the file's pages: punching
            // holes (discard_before) would change bytes that are on their way. So our own file is
            // copied.
            sent = is_spill ? send_copied(fd_, file, offset, length)
                            : send_range(fd_, file, offset, length);
            if (sent < 0) tell_file_failure(static_cast<int>(-sent));
        } else {
            std::array<iovec, kIovMax> parts;
            size_t count = 0;
            for (const Segment& segment : segments_) {
                if (segment.is_range() || count == kIovMax) break;
                parts[count++] = as_iovec(std::string_view(segment.bytes).substr(segment.start));
            }
            // The pieces listed here must not grow meanwhile (see enqueue): start a new one.
            if (count == segments_.size()) segments_.emplace_back();
            lock.unlock();
            sent = send_vector(fd_, parts.data(), count);
        }
        lock.lock();
        in_flight_ = false;
        if (sent < 0) return Flush::Failed;
        consume_front(static_cast<size_t>(sent));
        moved += static_cast<size_t>(sent);
        changed_.notify_all();
        if (sent == 0) break;
    }
    return end_of_flush(lock);
}

/// Tells whether output is left, and gives the disk back what was sent; the lock is dropped for
/// that.
Exchange::Flush Exchange::end_of_flush(std::unique_lock<std::mutex>& lock) {
    const Flush outcome = segments_.empty() ? Flush::Drained : Flush::Blocked;
    if (const uint64_t sent = spill_sent_; sent > 0) {
        lock.unlock();
        spill_.discard_before(sent);
        lock.lock();
    }
    return outcome;
}

Exchange::Flush Exchange::take_for_transform(std::string& plain, size_t bytes_max) {
    std::unique_lock lock(mutex_);
    while (!segments_.empty() && plain.size() < bytes_max) {
        Segment& front = segments_.front();
        const size_t room = bytes_max - plain.size();
        size_t size = 0;
        if (front.is_range()) {
            // TLS copies anyway, and a read from the page cache under the lock is short and
            // bounded.
            const int file = front.in_spill ? spill_.file() : front.file.get();
            const size_t start = plain.size();
            plain.resize(start + static_cast<size_t>(std::min<uint64_t>(front.length, room)));
            const ssize_t got =
                ::pread(file, plain.data() + start, plain.size() - start, front.offset);
            const int error = got < 0 ? errno : ENODATA;
            plain.resize(start + static_cast<size_t>(std::max<ssize_t>(got, 0)));
            if (got <= 0) {
                lock.unlock();
                tell_file_failure(error);
                return Flush::Failed;
            }
            size = static_cast<size_t>(got);
        } else {
            const std::string_view bytes = std::string_view(front.bytes).substr(front.start, room);
            plain += bytes;
            size = bytes.size();
        }
        consume_front(size);
    }
    changed_.notify_all();
    return end_of_flush(lock);
}

void Exchange::mark_aborted() {
    aborted_.store(true, std::memory_order_relaxed);
    forget_output();
    changed_.notify_all();
}

void Exchange::forget_output() {
    const std::lock_guard lock(mutex_);
    if (!in_flight_) clear_output();
}

void Exchange::body_begins(bool is_complete) {
    body_received_ = body.size();
    body_complete_.store(is_complete, std::memory_order_release);
}

void Exchange::body_arrived(bool is_complete, int error) {
    {
        const std::lock_guard lock(mutex_);
        body_received_ = body.size();
        body_error_ = error;
        body_complete_.store(is_complete, std::memory_order_release);
    }
    changed_.notify_all();
}

uint64_t Exchange::body_backlog() {
    const std::lock_guard lock(mutex_);
    return body_received_ - body_consumed_;
}

// ------------------------------------------------------------------------------------ ReadyQueue

int ReadyQueue::fd() {
    const std::lock_guard lock(mutex_);
    if (event_.fd() < 0 && event_.open() && !items_.empty()) signal_event();
    return event_.fd();
}

void ReadyQueue::push(std::shared_ptr<Exchange> exchange, int64_t now_ms) {
    const std::lock_guard lock(mutex_);
    items_.push_back({std::move(exchange), now_ms});
}

bool ReadyQueue::announce(int64_t now_ms) {
    size_t wakes = 0;
    bool is_short_of_threads = false;
    {
        const std::lock_guard lock(mutex_);
        if (items_.empty()) return false;
        signal_event();
        wakes = wakes_wanted(now_ms);
        woken_ += wakes;
        is_short_of_threads = waiting_ > woken_;
    }
    for (size_t i = 0; i < wakes; ++i)
        not_empty_.notify_one();
    return is_short_of_threads;
}

size_t ReadyQueue::wakes_wanted(int64_t now_ms) const {
    const size_t wakeable = waiting_ - woken_;
    const size_t unserved = items_.size() - std::min(woken_, items_.size());
    // ">": the difference of two rounded times may be up to 1 ms too large.
    const bool is_late = now_ms - items_.front().since_ms > kPatienceMs;
    if (is_late || long_votes_ >= kLongVotesMax / 2) return std::min(wakeable, unserved);
    const bool is_served = woken_ > 0 || (calling_ > 0 && now_ms - last_pop_ms_ <= kPatienceMs);
    return is_served ? 0 : std::min<size_t>(wakeable, 1);
}

/// If a third of the calls are long, that is enough to be prepared for the next long one.
void ReadyQueue::count_call(int64_t duration_us) {
    const int vote = duration_us > kLongCallUs ? 2 : -1;
    long_votes_ = std::clamp(long_votes_ + vote, 0, kLongVotesMax);
}

void ReadyQueue::signal_event() {
    if (event_.fd() >= 0 && !std::exchange(event_is_set_, true)) event_.wake();
}

void ReadyQueue::poke() {
    const std::lock_guard lock(mutex_);
    signal_event();
}

std::shared_ptr<Exchange> ReadyQueue::try_pop() {
    for (;;) {
        std::shared_ptr<Exchange> exchange;
        {
            const std::lock_guard lock(mutex_);
            if (!items_.empty()) {
                exchange = std::move(items_.front().exchange);
                items_.pop_front();
            }
            drain_event();
            if (!exchange) return nullptr;
        }
        // Nobody waits for the answer to an aborted request: do not run it.
        if (!exchange->is_aborted()) return exchange;
        exchange->finish();
    }
}

/// The descriptor means "not empty", so it is drained together with the queue, under its lock: a
/// non-blocking read of a counter, about as short as a memory operation.
void ReadyQueue::drain_event() {
    if (items_.empty() && std::exchange(event_is_set_, false)) event_.drain();
}

std::shared_ptr<Exchange> ReadyQueue::pop(int64_t& call_began_us) {
    int64_t now_us = monotonic_us();
    std::unique_lock lock(mutex_);
    if (call_began_us != 0) {
        --calling_;
        count_call(now_us - call_began_us);
    }
    for (;;) {
        if (items_.empty()) {
            if (closed_) return nullptr;
            ++waiting_;
            not_empty_.wait(lock);
            --waiting_;
            if (woken_ > 0) --woken_;
            now_us = monotonic_us();
            continue;
        }
        std::shared_ptr<Exchange> exchange = std::move(items_.front().exchange);
        items_.pop_front();
        last_pop_ms_ = now_us / 1000;
        if (!exchange->is_aborted()) {
            call_began_us = now_us;
            ++calling_;
            return exchange;
        }
        lock.unlock();
        exchange->finish();  // see try_pop()
        lock.lock();
    }
}

size_t ReadyQueue::look() {
    const std::lock_guard lock(mutex_);
    drain_event();
    return items_.size();
}

bool ReadyQueue::is_empty() {
    const std::lock_guard lock(mutex_);
    return items_.empty();
}

void ReadyQueue::close() {
    {
        const std::lock_guard lock(mutex_);
        closed_ = true;
    }
    not_empty_.notify_all();
}

int64_t ReadyQueue::oldest_ms() {
    const std::lock_guard lock(mutex_);
    return items_.empty() ? INT64_MAX : items_.front().since_ms;
}

int64_t ReadyQueue::waits_since_ms(const Exchange& exchange) {
    const std::lock_guard lock(mutex_);
    for (const Item& item : items_)
        if (item.exchange.get() == &exchange) return item.since_ms;
    return INT64_MAX;
}

}  // namespace gcorn
