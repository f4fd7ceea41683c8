// Connection: one client socket and the state machine that turns its bytes into Exchanges.
//
// Reads a head, spools a body, queues the complete Exchange, sends what the application side could
// not send itself, and decides whether another request may follow (RFC 9112 §9). One switch over
// the state; every handler does one bounded step. All of it on the thread that leads the EventLoop,
// which owns every Connection. A socket whose Exchange is with the application is never closed
// here, only marked aborted, so that the application side may send on it directly.
//
//   state      polls              deadline                       leaves to
//   Preamble   read               header                         Handshake, Head, Closed
//   Handshake  read (write)       header                         Head, Closed
//   Idle       read               keepalive                      Head, Closed
//   Head       read (write)       header, for the whole head     Body, App, Reply, Closed
//   Body       read               body, since the last byte      App, Reply, Closed
//   App        write if blocked   write, if blocked              Reply, Idle, Head, Linger, Closed
//   Reply      write              write, since the last byte     Idle, Head, Linger, Closed
//   Linger     read               kLingerMs, kLingerBytesMax     Closed
//   Closed     swept at the end of the turn
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

/// A half-closed connection drains so much, and so long, that the peer sees our answer before a
/// reset: many clients send a whole body before they look for an answer such as 413.
constexpr int64_t kLingerMs = 2000;
constexpr size_t kLingerBytesMax = 64 * 1024 * 1024;

/// A client that closes its half does so right behind its request. One that closes so much later
/// has given up, and a request of its that still waits is not run: both look alike, so time must
/// tell.
constexpr int64_t kHalfCloseMs = 100;

/// When every place is taken, a newcomer gets that of the peer that has kept us waiting longest: at
/// least so long for the rest of a request, whose body should come at this rate, and so long
/// without a byte more of a body, or taken of an answer, of which the kernel may hold megabytes.
constexpr int64_t kRequestPatienceMs = 2000;
constexpr int64_t kStallPatienceMs = 10'000;
/// ... or, with its last answer sent, to close.
constexpr int64_t kLingerPatienceMs = 100;
/// A client may be as slow as it likes while it holds memory only: with less it loses its place to
/// newcomers, and the deadlines of what the application may have to wait for pass.
constexpr int64_t kBytesPerSecondMin = 500;

/// Whatever a Poller reports events for.
class EventTarget {
public:
    virtual ~EventTarget() = default;
    virtual void on_event(const PollEvent& event) = 0;
};

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
    ~Connection() override;
    Connection(Connection&&) = delete;

    /// First look at a new connection: its request may be there already. preamble: what a sibling
    /// read of it before. False: it brings neither a request nor the handshake before one,
    /// and its turn is to be left to the next one.
    bool start(std::string_view preamble);
    void on_event(const PollEvent& event) override;
    /// The Exchange asked for the leader: output to flush, finished, room for body bytes.
    void on_exchange();
    /// `now_ms` ≥ deadline(): the state's time is up.
    void on_deadline(int64_t now_ms);
    /// The worker stops: closes at once unless a request is running, arriving or likely on its way.
    void on_stop(int64_t now_ms);

    [[nodiscard]] State state() const { return state_; }
    [[nodiscard]] int64_t deadline() const { return deadline_ms_; }  ///< 0: none
    /// When the state was entered; in App and Reply, when the last byte moved.
    [[nodiscard]] int64_t since() const { return since_ms_; }
    /// How long the peer has been late with what it owes us, in ms; 0: it may keep its place.
    [[nodiscard]] int64_t late_ms() const;
    /// Closes, as somebody else needs the place. False: its request has just come. Never in App.
    bool give_way();

    /// Tells the poller about a connection that needed no polling so far (most short ones never
    /// do).
    void ensure_registered();

    /// In Idle: the next request stays in the kernel until read_now(), or until we close.
    void leave_unread();
    [[nodiscard]] bool is_unread() const { return state_ == State::Idle && read_paused_; }
    void read_now();

private:
    friend class EventLoop;

    /// The TLS side; absent for plain connections.
    struct Tls {
        std::unique_ptr<ByteTransform> transform;
        std::string wire;         ///< encrypted, not sent yet
        size_t empty_bytes = 0;   ///< received that carried nothing (yet); see kEmptyBytesMax
        bool has_bytes = false;   ///< the peer sent something
        bool has_spoken = false;  ///< and got an answer
    };

    void enter(State state);
    void set_deadline(int64_t deadline_ms);
    void update_interest();
    [[nodiscard]] int64_t deadline_for(State state) const;
    /// What the peer sends next may cost much more than a small request does.
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
    bool body_open_ = false;       ///< in App, with a big body still arriving
    bool read_paused_ = false;     ///< in App: read after the answer; in Idle: leave_unread()
    bool saw_eof_ = false;         ///< the peer will send nothing more
    bool has_preamble_ = false;    ///< a PROXY header, and so would a sibling expect one
    bool must_linger_ = false;     ///< the peer may still send: half-close first
    bool joins_ = false;           ///< an answer waits for its successor's
};

}  // namespace gcorn
