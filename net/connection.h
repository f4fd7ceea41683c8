// Connection: one client socket and the state machine that turns its bytes into Exchanges.
//
// Reads a head, spools a body, queues the complete Exchange, sends what the application side could
// not send itself, and decides whether another request may follow (RFC 9112 §9). One switch over
// the state; every handler does one bounded step. All of it on the thread that leads the EventLoop,
// which owns every Connection. A socket whose Exchange is with the application is never closed
// here, only marked aborted, so that the application side may send on it directly.
//
//   state      polls              deadline                       leaves to
//   Preamble   read               header                         Handshake, Head
//   Handshake  read               header                         Head
//   Idle       read               keepalive                      Head
//   Head       read               header, for the whole head     Body, App
//   Body       read               body, since the last byte      App
//   App        see below          write if blocked, body if open Reply, Idle, Head, Linger
//   Reply      nothing            write, since the last byte     Idle, Head, Linger
//   Linger     read               kLingerMs, since the last byte
//   Closed     swept at the end of the turn
//
// Each also polls for writing while output is blocked, and may leave to Closed. A refusal passes
// through App, within one step. A failure of TLS leads to Linger, except in App; under TLS, Reply
// also sends the close_notify behind the last answer.
//
// While in App we do not read: the read interest stays set only because changing it twice a request
// would cost two system calls; the first event that comes all the same clears it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "http_parse.h"
#include "net/buffer.h"
#include "net/exchange.h"
#include "net/listener.h"
#include "net/poller.h"
#include "net/transform.h"

namespace gcorn {

class EventLoop;

/// How long after the last byte, how long in all, and how much a half-closed connection is drained,
/// so that the peer sees our answer before a reset: many clients and proxies send a whole body
/// before they look for an answer such as 413.
constexpr int64_t kLingerMs = 2000;
constexpr int64_t kLingerMsMax = 30'000;
constexpr size_t kLingerBytesMax = 64 * 1024 * 1024;

/// A client that only closes its sending side does so right behind its request. One that closes
/// this much later has given up, and a request of its that still waits is not run. Both look alike
/// but for the time.
constexpr int64_t kHalfCloseMs = 100;

/// When all worker_connections are taken, a new client gets the place of the peer that has kept us
/// waiting longest: at least this long for the rest of a request (whose body should come at
/// kBytesPerSecondMin), or this long without another byte of a body, or without reading any of an
/// answer (of which the kernel may hold megabytes).
constexpr int64_t kRequestPatienceMs = 2000;
constexpr int64_t kStallPatienceMs = 10'000;
/// ... or this long to close after its last answer.
constexpr int64_t kLingerPatienceMs = 100;
/// A client may be as slow as it likes while it only holds memory. Below this rate it can lose its
/// place to a new client, and where the application may have to wait for it, its deadline passes.
constexpr int64_t kBytesPerSecondMin = 500;

class Connection final : public EventTarget {
public:
    enum class State : uint8_t {
        Preamble,
        Handshake,
        Idle,
        Head,
        Body,
        App,
        Reply,
        Linger,
        Closed
    };

    /// `listener` outlives the connection (the worker holds both).
    Connection(EventLoop& loop, Accepted accepted, const Listener& listener);
    Connection(Connection&&) = delete;

    /// First look at a new connection, whose request may be there already. preamble: what a sibling
    /// has read of it. False: it brought neither a request nor the start of a TLS handshake, and
    /// passes its turn on (see Admission).
    bool start(std::string_view preamble);
    void on_event(const PollEvent& event) override;
    /// The Exchange asked for the leader: it has output to flush, is finished, or has room for body
    /// bytes.
    void on_exchange();
    /// deadline() has passed: the state's time is up.
    void on_deadline();
    /// The worker stops: closes at once, unless a request is running, arriving or likely on its
    /// way.
    void on_stop();

    [[nodiscard]] State state() const { return state_; }
    [[nodiscard]] int64_t deadline() const { return deadline_ms_; }  ///< 0: none
    /// When the state was entered; in App and Reply, when the last byte moved.
    [[nodiscard]] int64_t since() const { return since_ms_; }
    /// For how many ms the peer has been late (see kRequestPatienceMs); 0: it may keep its place.
    [[nodiscard]] int64_t late_ms() const;
    /// Closes, because a new client needs the place. False: its request has just arrived. Never in
    /// App.
    bool give_way();

    /// Registers a connection that has not needed polling so far (most short ones never do).
    void ensure_registered();

    /// In Idle: leaves the next request in the kernel until read_now() or close().
    void leave_unread();
    [[nodiscard]] bool is_unread() const { return state_ == State::Idle && read_paused_; }
    void read_now();

private:
    friend class EventLoop;

    /// The TLS side; absent for plain connections.
    struct Tls {
        std::unique_ptr<ByteTransform> transform;
        std::string wire;         ///< encrypted, not sent yet
        size_t empty_bytes = 0;   ///< received, without content (so far); see kEmptyBytesMax
        bool has_bytes = false;   ///< the peer has sent something
        bool has_spoken = false;  ///< and we have replied
    };

    void enter(State state);
    void set_deadline(int64_t deadline_ms);
    void update_interest();
    [[nodiscard]] int64_t fresh_deadline() const;
    /// The peer's next bytes may cost much more than a small request does.
    [[nodiscard]] bool is_costly() const {
        return state_ == State::Handshake || state_ == State::Body || !in_.empty() ||
               (tls_ && tls_->empty_bytes > 0);
    }

    void read_more();
    std::optional<std::string_view> receive();
    void on_bytes(std::string_view bytes);
    void on_plain_bytes(std::string_view bytes);
    bool decrypt(std::string_view wire, std::string& plain);
    void on_tcp_eof();
    void on_eof();
    void advance();
    bool step(std::string_view in, size_t& used);
    bool step_preamble(std::string_view in, size_t& used);
    bool step_head(std::string_view in, size_t& used);
    bool step_body(std::string_view in, size_t& used);
    void break_body(int error);
    void dispatch(bool is_body_complete, bool has_rest);
    bool refuse(const HttpError& error, std::string_view in);
    bool refuse(int status, const char* rule);
    bool refuse_plainly(int status, const char* rule);

    bool moves_on(const PollEvent& event);
    void on_event_in_app(const PollEvent& event);
    [[nodiscard]] bool has_given_up() const;
    void settle();
    void after_reply();
    bool flush_output();
    bool flush_tls();
    [[nodiscard]] bool has_wire() const { return tls_ && !tls_->wire.empty(); }
    void bytes_moved(size_t bytes);
    void output_moved(size_t bytes, bool is_blocked);
    void finish_connection();
    void leave();
    void linger();
    void drain_lingering();
    void peer_gone();
    void unregister();
    void close();

    EventLoop& loop_;
    const Listener* const listener_;
    Fd fd_;
    ConnectionFacts facts_;
    std::string preamble_;  ///< the PROXY header, for a sibling; empty: none, or a long one
    Address peer_;
    std::unique_ptr<Tls> tls_;
    std::shared_ptr<Exchange> exchange_;
    Buffer in_;  ///< received, not used yet
    HeadParser parser_;
    BodyReader body_;
    int64_t deadline_ms_ = 0;
    int64_t since_ms_ = 0;
    size_t lingered_bytes_ = 0;
    size_t index_ = 0;  ///< in the loop's list
    State state_ = State::Head;
    Interest interest_ = Interest::Read;
    bool registered_ = false;
    bool output_blocked_ = false;  ///< the socket is full and output waits
    bool body_open_ = false;       ///< in App, and a big body is still arriving
    bool read_paused_ = false;     ///< in App: read after the answer; in Idle: see leave_unread()
    bool saw_eof_ = false;         ///< the peer will send nothing more
    bool has_preamble_ = false;    ///< began with a PROXY header, which a sibling would expect, too
    bool must_linger_ = false;     ///< the peer may still send: half-close first
    bool joins_ = false;           ///< an answer waits for its successor's
};

}  // namespace gcorn
