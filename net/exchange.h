// Exchange: one request and its response, shared by the loop and the application side.
//
// The loop fills in head and body and queues the complete Exchange. From then on the application
// side owns it: it reads head and body, drives `response`, and sends. Bytes go straight to the
// socket from the calling thread if nothing is queued before them, else into a queue, which the
// leader of the loop empties while the application goes on (PEP 3333 "Buffering and Streaming").
// finish() hands the Exchange back. ReadyQueue is where complete Exchanges wait for the application
// side.
//
// Locks: one mutex per Exchange (output queue, body arrival) and one per ReadyQueue. They guard
// memory operations only; nobody calls Python, does I/O, or asks for the GIL while holding one.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "http_parse.h"
#include "http_response.h"
#include "net/buffer.h"
#include "os/wake_up.h"

namespace gcorn {

class Connection;

/// How much output of one response waits in memory before it continues in an unlinked file. Once
/// all responses of the worker have kOutboxMemoryOfAllMax there, each gets only the least, so that
/// a thousand slow readers do not cost a GiB.
constexpr size_t kOutboxMemoryMax = 1 << 20;
constexpr size_t kOutboxMemoryLeast = 64 * 1024;
constexpr size_t kOutboxMemoryOfAllMax = 32 << 20;
/// Beyond this much waiting output of one response, or unread input of one request, the producer
/// waits for the consumer: the one bounded exception to "never wait for a client".
constexpr uint64_t kBodyBytesInFlightMax = uint64_t{256} << 20;

/// A block that follows the previous one within this time may wait just as long for the next, so
/// that a stream of small blocks costs one system call for each batch instead of one for each
/// block. PEP 3333 allows it because sending goes on while the application is busy: the leader sees
/// to it.
constexpr int64_t kHoldUs = 1000;
/// Held bytes are sent at once when there are this many.
constexpr uint64_t kHeldBytesMax = 16 * 1024;

/// What is the same for all requests of a connection. Lives in the Connection, which outlives every
/// use of it by the application side.
struct ConnectionFacts {
    std::string remote_addr;       ///< textual IP; "" on unix sockets
    std::string remote_port;       ///< "" on unix sockets
    std::string_view server_name;  ///< the listener's own address; its path on unix sockets
    std::string_view server_port;  ///< "" on unix sockets
    bool is_unix = false;
    PeerFacts peer;
    bool has_proxy_header = false;       ///< a PROXY header named the addresses below
    std::string proxy_protocol;          ///< "TCP4", "TCP6"
    std::string proxy_addr, proxy_port;  ///< destination address and port of the PROXY header
    void* tls_peer = nullptr;  ///< see ByteTransform::peer_info(); null on plain connections
};

class Exchange;

/// The loop as the Exchange sees it. Any thread may call these.
class ExchangeOwner {
public:
    virtual ~ExchangeOwner() = default;
    /// The leader has something to do: bytes to flush, a finished Exchange, room for body bytes.
    virtual void exchange_needs_leader(Exchange& exchange) = 0;
    /// Called about once a second by a thread that waits for a client: it is not stuck.
    virtual void beat_while_waiting() = 0;
    /// Greenlets: lets others of this thread go on for a moment. False: the thread may block.
    virtual bool pause() { return false; }
    /// The last byte was handed to the kernel, or the response was cut: time for the access line.
    virtual void exchange_completed(Exchange& exchange) = 0;
    /// The response is cut because a file that it sends cannot be read: errno; ENODATA if the file
    /// was too short.
    virtual void file_failed(const Exchange&, int) {}
    /// The worker leaves: answers whose head is not sent yet should say Connection: close.
    [[nodiscard]] virtual bool is_stopping() const { return false; }

    /// How many are queued or inside the application.
    [[nodiscard]] size_t active() const { return active_.load(std::memory_order_relaxed); }
    /// Bytes of output, of all responses together, that wait in memory.
    [[nodiscard]] size_t output_memory() const {
        return output_memory_.load(std::memory_order_relaxed);
    }

protected:
    friend class Exchange;
    std::atomic<size_t> active_{0};
    std::atomic<size_t> output_memory_{0};
    /// The leader must hear of every finish(): the loop stops, or waits for a free slot to accept.
    std::atomic<bool> wants_every_finish_{false};
};

class Exchange : public std::enable_shared_from_this<Exchange> {
public:
    /// How far the leader got with the queued output.
    enum class Flush : uint8_t { Drained, Blocked, Failed, Held };

    explicit Exchange(ExchangeOwner& owner) : owner_(owner) {}
    Exchange(Exchange&&) = delete;

    // --- filled by the loop, read-only for the application side ---
    RequestHead head;
    Spool body;                              ///< the decoded body; see wait_for_body() for big ones
    const ConnectionFacts* facts = nullptr;  ///< borrowed from the Connection

    // --- application side ---
    ResponseWriter response;
    /// Values of the access format's %({name}e)s, captured by wsgi.cpp when the format has any.
    std::vector<std::pair<std::string, std::string>> logged_environ;

    /// Some thread of the application is framing and sending (see SendTurn).
    std::atomic<bool> has_sender{false};

    // Monotonic µs, 0 = not yet: first byte of the head, queued, taken, last byte sent.
    int64_t received_us = 0, queued_us = 0, taken_us = 0, done_us = 0;
    int64_t app_us = 0;  ///< inside the application callable and its iterable, without close()

    // ---------------------------------------------------------------- application side
    [[nodiscard]] bool is_worker_stopping() const { return owner_.is_stopping(); }
    /// The client is gone or the server has given up: stop producing, close the iterable.
    [[nodiscard]] bool is_aborted() const { return aborted_.load(std::memory_order_relaxed); }

    /// Sends before + block + after, and queues what the socket does not take. What it takes is not
    /// copied, unless small blocks follow each other fast (see kHoldUs). is_last: the response ends
    /// here (its bytes may then leave together with a pipelined successor's). False: the client is
    /// gone (like is_aborted()). May wait (see kBodyBytesInFlightMax), until write_timeout ends the
    /// connection. It never needs the GIL: call it without, if the bytes are more than a few KiB or
    /// the socket may be slow.
    bool send(std::string_view before, std::string_view block, std::string_view after,
              bool is_last);
    bool send(const ResponseWriter::Pieces& pieces, std::string_view block, bool is_last) {
        return send(pieces.before, pieces.part_of(block), pieces.after, is_last);
    }

    /// Queues the end of the response, if it may leave together with a pipelined successor's.
    /// Neither waits nor makes a system call, so the GIL may be held. False: it did nothing; call
    /// send().
    bool join_successor(std::string_view before, std::string_view block, std::string_view after);

    /// Sends before, then `length` bytes of `file` from `offset` (sendfile where the connection is
    /// plain), then after. The descriptor is borrowed for the call and duplicated if the range has
    /// to wait. A file that ends early cuts the connection. The file's offset does not move.
    bool send_file(std::string_view before, int file, off_t offset, uint64_t length,
                   std::string_view after, bool is_last);

    /// Lets other threads or greenlets of the application go on for a moment. Without the GIL.
    void pause();

    /// The last call of the application side: the response is complete (or aborted with abort()).
    /// Afterwards only head and body of an Exchange still held by somebody may be touched.
    void finish();

    /// Cuts the connection, because the response cannot be completed. finish() still has to follow.
    void abort();

    /// Waits until more than `position` body bytes are there or the body is complete; returns how
    /// many there are (== body.size()). Only bodies above kBodyBytesInFlightMax ever wait. Error:
    /// the body ended early (ECONNRESET), was malformed (EPROTO) or stalled (ETIMEDOUT).
    Result<uint64_t> wait_for_body(uint64_t position);
    /// The bytes before `position` have been read, so the loop may receive more of a big body.
    void body_consumed(uint64_t position);
    /// The whole body is there and well-formed.
    [[nodiscard]] bool body_complete() const {
        return body_complete_.load(std::memory_order_acquire);
    }

    /// Hands the raw socket to the application (gunicorn.socket): waits, like send() and without
    /// the GIL, until queued output is sent; after that the loop never reads, writes or reuses this
    /// connection. Returns a new descriptor (dup) that the caller owns; under TLS an Error.
    /// Idempotent.
    Result<Fd> detach();
    /// A new descriptor of the raw socket for an application that only inspects it while the
    /// request runs: the connection stays the loop's.
    [[nodiscard]] Result<Fd> copy_socket() const;
    [[nodiscard]] bool is_detached() const { return detached_.load(std::memory_order_relaxed); }

    /// finish() was called: the Exchange is the leader's again.
    [[nodiscard]] bool is_finished() const { return finished_.load(std::memory_order_acquire); }

private:
    friend class Connection;
    friend class EventLoop;
    friend class ReadyQueue;
    friend class ExchangeTest;

    /// A stretch of output: bytes, or a range of a file (the application's or the spill file).
    struct Segment {
        std::string bytes{};
        size_t start = 0;
        Fd file{};              ///< open for a range of the application's file
        bool in_spill = false;  ///< a range of spill_
        off_t offset = 0;
        uint64_t length = 0;  ///< of a range
        [[nodiscard]] bool is_range() const { return in_spill || file.is_open(); }
    };

    // Leader only.
    void prepare(const ConnectionFacts* connection_facts, int fd, std::string_view spool_dir);
    void reset_for_reuse();
    /// Sends queued output until there is none or the socket is full; moved: bytes sent. Held:
    /// there is some, but the application side may be about to add to it; look again later.
    Flush flush(size_t& moved);
    /// After Held: true if the output may still wait.
    [[nodiscard]] bool may_stay_held();
    Flush take_for_transform(std::string& plain, size_t bytes_max);  ///< the same for TLS
    void mark_aborted();
    void forget_output();
    /// Publishes what has arrived of the body. Before queue(), while nobody else looks at it.
    void body_begins(bool is_complete);
    void body_arrived(bool is_complete, int error);
    [[nodiscard]] bool has_output();
    /// The output that is queued when the application side has finished: it may join that of a
    /// pipelined successor whose head is complete, or it waits for the socket: more than
    /// kCorkBytesMax, or ranges of files, are sent before the next request is looked at.
    enum class Rest : uint8_t { Nothing, MayJoin, Waits };
    [[nodiscard]] Rest rest();
    [[nodiscard]] uint64_t body_backlog();  ///< body bytes received and not consumed yet

    // Application side.
    [[nodiscard]] bool may_send_directly() const {
        return fd_ >= 0 && !facts->peer.is_tls && !is_sending();
    }
    [[nodiscard]] bool ends_connection() const;
    [[nodiscard]] bool may_hold(bool is_last, size_t size) const;
    bool hold(std::unique_lock<std::mutex>& lock, std::string_view before, std::string_view block,
              std::string_view after);
    bool send_held();
    bool fail(std::unique_lock<std::mutex>& lock);
    void tell_file_failure(int error) const;
    bool send_copies(int file, off_t offset, uint64_t length);
    bool enqueue(std::unique_lock<std::mutex>& lock, std::string_view bytes);
    void wait_a_moment(std::unique_lock<std::mutex>& lock);
    bool let_leader_work(std::unique_lock<std::mutex>& lock, bool (Exchange::*is_blocked)() const);
    void request_leader() { owner_.exchange_needs_leader(*this); }

    // Both, with the lock held.
    Flush send_queued(std::unique_lock<std::mutex>& lock, size_t& moved);
    Flush end_of_flush(std::unique_lock<std::mutex>& lock);
    [[nodiscard]] bool is_output_full() const { return queued_bytes_ > kBodyBytesInFlightMax; }
    [[nodiscard]] bool is_spilling() const {
        return !segments_.empty() && segments_.back().in_spill;
    }
    [[nodiscard]] bool is_sending() const { return in_flight_ || !segments_.empty(); }
    [[nodiscard]] bool is_memory_full() const { return queued_memory_ > kOutboxMemoryMax; }
    [[nodiscard]] size_t memory_max() const;
    void clear_output();
    void count_memory(size_t now_queued);
    void consume_front(size_t bytes);

    ExchangeOwner& owner_;
    Connection* connection_ = nullptr;  ///< leader only
    std::atomic<bool> aborted_{false};
    std::atomic<bool> finished_{false};
    std::atomic<bool> detached_{false};
    std::atomic<bool> body_complete_{true};
    std::atomic<bool> leader_waits_{false};  ///< finish() must tell the leader

    // The loop's list of Exchanges that need the leader (a lock-free stack of its own).
    std::atomic<bool> signalled_{false};
    std::shared_ptr<Exchange> signalled_self_;  ///< keeps this alive while it is in the list
    Exchange* signalled_next_ = nullptr;

    std::mutex mutex_;
    std::condition_variable changed_;  ///< room in the output, body bytes, abort
    std::deque<Segment> segments_;
    Spool spill_;              ///< appended to by the application side, read by the leader
    uint64_t spill_sent_ = 0;  ///< the spill file before this position is not needed
    uint64_t queued_bytes_ = 0;
    size_t queued_memory_ = 0;
    uint64_t body_received_ = 0;
    uint64_t body_consumed_ = 0;
    int body_error_ = 0;
    int fd_ = -1;                  ///< any thread may write plain text to it; -1: gone
    bool in_flight_ = false;       ///< some thread is sending, outside the lock
    bool held_ = false;            ///< queued output waits for the next block (kHoldUs)
    bool leader_watches_ = false;  ///< … and the leader takes care of it
    int64_t last_block_us_ = 0;    ///< when a block was last sent (held ones do not count)
    int64_t held_since_us_ = 0;
    bool corked_ = false;     ///< a pipelined request waits: the last bytes may join its answer
    bool completed_ = false;  ///< exchange_completed() was called
    bool fin_sent_ = false;   ///< right behind the answer's last byte
};

/// The largest end of a response that waits for a pipelined successor.
constexpr size_t kCorkBytesMax = 64 * 1024;
static_assert(kCorkBytesMax <= kOutboxMemoryLeast);

/// Complete Exchanges in arrival order. push, announce: leader; pop: application side, any thread.
///
/// How many threads it wakes: an application that answers at once is served best by one thread (two
/// would only take the GIL from each other); one that waits (sleeps, asks a database) needs a
/// thread for each request. So threads report how long their calls last, and the last few calls
/// vote. Whatever the vote, a thread is woken if none of those awake has come back for another
/// request within kPatienceMs, and every request that has waited that long gets a thread of its
/// own.
class ReadyQueue {
public:
    /// For greenlet hubs: a descriptor that polls readable while the queue is not empty. Opened on
    /// first use; -1 if that failed.
    [[nodiscard]] int fd();

    /// now_ms: monotonic. Wakes nobody: see announce().
    void push(std::shared_ptr<Exchange> exchange, int64_t now_ms);
    /// Wakes threads for what was pushed, once for all pushes of a turn, because each wake-up costs
    /// more than a fast call. True: call it again within kPatienceMs, even if nothing is pushed.
    bool announce(int64_t now_ms);
    /// The oldest Exchange that has not been aborted; null if there is none.
    [[nodiscard]] std::shared_ptr<Exchange> try_pop();
    /// Waits; null after close() once the queue is empty. call_began_us: when the caller's previous
    /// call began (0: there was none); becomes the time of this one (monotonic µs).
    [[nodiscard]] std::shared_ptr<Exchange> pop(int64_t& call_began_us);
    /// How many wait, for the watcher of fd(); if none, the descriptor stops being readable.
    [[nodiscard]] size_t look();
    [[nodiscard]] bool is_empty();
    /// Makes fd() readable once, even if nothing is queued, so that its watcher wakes up.
    void poke();
    /// No more requests will come: waiting threads return once the queue is empty.
    void close();
    /// When the oldest request was pushed (monotonic ms); INT64_MAX if there is none.
    [[nodiscard]] int64_t oldest_ms();
    /// When this one was; INT64_MAX if it does not wait (any more).
    [[nodiscard]] int64_t waits_since_ms(const Exchange& exchange);

    static constexpr int64_t kPatienceMs = 1;
    static constexpr int64_t kLongCallUs = 200;  ///< such a call votes for more threads

private:
    friend class ExchangeTest;
    struct Item {
        std::shared_ptr<Exchange> exchange;
        int64_t since_ms;
    };
    [[nodiscard]] size_t wakes_wanted(int64_t now_ms) const;
    void count_call(int64_t duration_us);
    void signal_event();
    void drain_event();  ///< if the queue is empty

    std::mutex mutex_;
    std::condition_variable not_empty_;
    std::deque<Item> items_;
    size_t waiting_ = 0;  ///< threads that sleep in pop()
    size_t woken_ = 0;    ///< of these, told to wake up
    size_t calling_ = 0;  ///< threads between two calls of pop()
    int long_votes_ = 0;  ///< see count_call()
    int64_t last_pop_ms_ = 0;
    bool closed_ = false;
    bool event_is_set_ = false;  ///< fd() polls readable
    WakeUp event_;
};

}  // namespace gcorn
