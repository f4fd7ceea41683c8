// EventLoop: all client sockets of one worker, turned one bounded round at a time.
//
// Passive: it has no thread. Exactly one thread at a time, the leader (who holds lead()), calls
// turn(); all Connection state is the leader's. Any thread may wake() it, stop() it, or use the
// Exchanges it queued. A turn runs without the GIL and without Python, except for TLS (see
// net/transform.h) and for what Python's logging has taken over (see python/logging.h). Accepts as
// many connections a turn as can be served (net/admission.h), never above worker_connections.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "http_parse.h"
#include "http_response.h"
#include "log/access_log.h"
#include "log/log.h"
#include "log/statsd.h"
#include "net/address.h"
#include "net/admission.h"
#include "net/connection.h"
#include "net/exchange.h"
#include "net/listener.h"
#include "net/poller.h"
#include "net/proxy_protocol.h"
#include "net/relay.h"
#include "net/transform.h"

namespace gcorn {

struct LoopOptions {
    HttpPolicy policy;
    ResponseOptions response;
    int64_t header_timeout_ms = 15'000;  ///< 0 turns a deadline off
    int64_t body_timeout_ms = 30'000;
    int64_t write_timeout_ms = 30'000;
    int64_t keepalive_ms = 2'000;  ///< 0: every response closes
    int64_t release_ms = 30'000;   ///< free memory is given back this long after much was needed
    size_t worker_connections = 1000;
    size_t slots = 1;  ///< requests the application side can run at once
    ProxyMode proxy_mode = ProxyMode::Off;
    NetworkList proxy_allow, forwarded_allow;
    std::string spool_directory = "/tmp";  ///< see find_spool_directory()
    TransformMaker make_tls;               ///< empty: plain HTTP
    bool measures_time = false;            ///< the access format or statsd wants durations
    Admission::HasSibling has_sibling;     ///< empty: there never is one
    /// Takes connections to a sibling, and brings them; null: neither.
    const Relay* relay = nullptr;
    std::atomic<uint32_t>* connections = nullptr;  ///< where siblings read our count; may be null
    /// Called after a refused request was answered; may be empty.
    std::function<void(Exchange&)> on_refused;
    /// For seconds there was no descriptor for a new connection, nor a connection to close.
    std::function<void()> on_starved;
    std::function<void()> beat;   ///< heartbeat of a thread that waits for a client
    std::function<void()> pause;  ///< greenlets: lets others run instead of blocking; may be empty
};

class EventLoop final : public ExchangeOwner {
public:
    /// Borrows everything; `access_log` is used only while the Logger has an access log.
    EventLoop(LoopOptions options, ReadyQueue& ready, Logger& log, const AccessLog& access_log,
              Statsd& statsd);
    ~EventLoop() override;

    /// Opens the poller and takes the listeners, which a stop closes. After fork.
    Status open(const std::vector<Listener*>& listeners);

    /// The lead: whoever holds it may call turn() and the other leader-only members.
    [[nodiscard]] std::mutex& lead() { return lead_; }

    // ------------------------------------------------------------------------------ leader only
    /// One round: serves Exchanges, polls (at most timeout_ms; -1 = until something happens), does
    /// I/O, accepts, checks deadlines, sweeps.
    void turn(int timeout_ms);

    /// A signal handler ran during the last poll: the interpreter may have something to do.
    [[nodiscard]] bool was_interrupted() const { return poller_.was_interrupted(); }

    /// Calls `handler` in a turn when `fd` is readable (signals, the arbiter's life, the reloader).
    Status watch(int fd, std::function<void()> handler);

    [[nodiscard]] size_t connection_count() const { return connections_.size(); }

    // ------------------------------------------------------------------------------- any thread
    /// Ends a running or the next poll. Async-signal-safe.
    void wake() { poller_.wake(); }

    /// From the next turn on: stops listening, closes what is idle, answers the rest with
    /// Connection: close. takes_queue: first accepts everybody who waits. A worker that stops at
    /// once does not: the queue belongs to its siblings and its successor.
    void stop(bool takes_queue = true);
    [[nodiscard]] bool is_stopping() const override {
        return stopping_.load(std::memory_order_relaxed);
    }

    /// stop() has taken effect and no connection is left: the worker may leave.
    [[nodiscard]] bool is_drained() const { return drained_.load(std::memory_order_relaxed); }

    /// Monotonic ms at the end of the last turn; the guard compares it with its tick.
    [[nodiscard]] int64_t last_turn_ms() const {
        return last_turn_.load(std::memory_order_relaxed);
    }

    void exchange_needs_leader(Exchange& exchange) override;
    void beat_while_waiting() override;
    bool pause() override;
    void exchange_completed(Exchange& exchange) override;
    void file_failed(const Exchange& exchange, int error) override;

    [[nodiscard]] const LoopOptions& options() const { return options_; }

private:
    friend class Connection;

    struct Watch final : EventTarget {
        Watch(int watched, std::function<void()> callback)
            : fd(watched), handler(std::move(callback)) {}
        void on_event(const PollEvent&) override { handler(); }
        int fd;
        std::function<void()> handler;
    };

    Status add_watch(std::vector<std::unique_ptr<Watch>>& list, int fd,
                     std::function<void()> handler);
    void serve_signalled();
    void look_at_held();
    void look_at_unread();
    void plan_accepting(int64_t oldest_ms);
    void set_listening(bool is_listening);
    void show_connections();
    void accept_in_turn(std::span<PollEvent> events);
    void accept_from(const Listener& listener);
    void take_relayed();
    bool has_place(bool is_first);
    bool keep(Accepted accepted, const Listener& listener, std::string_view preamble = {});
    void pause_accepting(int64_t pause_ms);
    void out_of_resources(int error);
    bool make_room();
    void run_deadlines();
    [[nodiscard]] int wait_ms(int timeout_ms, bool must_announce_again) const;
    void register_new();
    void stop_now();
    void write_access_line(const Exchange& exchange);

    // For Connection.
    [[nodiscard]] int64_t now_ms() const { return now_ms_; }
    void schedule(int64_t deadline_ms);
    /// The turn has taken long: bodies and handshakes should wait for the next one.
    [[nodiscard]] bool turn_is_long();
    /// Whether there is memory for a large head beside what all connections have received and not
    /// used yet, and the heads of requests that are not answered yet. Looks at all connections.
    [[nodiscard]] bool has_room_for_heads();
    void plan_release();
    /// If every slot is taken by a call that lasts, leaves this connection's next request unread
    /// until some worker is free (see look_at_unread()). True: it did.
    bool relays(Connection& connection);
    void connection_closed(Connection& connection);
    /// With the poller: at the start of the next turn, if it is still open then.
    void register_later(Connection& connection) { unregistered_.push_back(&connection); }
    bool give_to_sibling(Connection& connection);
    [[nodiscard]] std::shared_ptr<Exchange> make_exchange(Connection& connection);
    void recycle(std::shared_ptr<Exchange> exchange);
    /// Hands the scratch memory over together with the whole body, if the body lies in it and is so
    /// large that a copy would cost more.
    [[nodiscard]] bool hand_over(std::string_view whole_body, Spool& body);
    void queue(const std::shared_ptr<Exchange>& exchange);
    void watch_held(std::shared_ptr<Exchange> exchange) { held_.push_back(std::move(exchange)); }
    void report_dropped(const RequestHead& head, const ConnectionFacts& facts);

    const LoopOptions options_;
    ReadyQueue& ready_;
    Logger& log_;
    const AccessLog& access_log_;
    Statsd& statsd_;
    const pid_t pid_;  ///< for access lines; a getpid(2) for each would cost more than the line
    Poller poller_;
    Admission admission_;
    std::mutex lead_;
    std::vector<std::unique_ptr<Watch>> listeners_;  ///< polled while the accept budget lasts
    std::vector<Listener*> accepts_from_;            ///< closed by a stop
    std::vector<std::unique_ptr<Watch>> watches_;
    std::vector<std::unique_ptr<Connection>> connections_;
    std::vector<std::unique_ptr<Connection>> closed_;  ///< destroyed at the end of the turn
    std::vector<Connection*> unregistered_;            ///< accepted, not polled yet
    std::vector<Connection*> unread_;                  ///< their requests wait for a free worker
    std::vector<std::shared_ptr<Exchange>> pool_;      ///< empty Exchanges, for reuse
    std::vector<std::shared_ptr<Exchange>> held_;      ///< they hold output back (see kHoldUs)
    std::unique_ptr<char[]> scratch_;                  ///< where every recv(2) goes first
    std::string pieces_;                               ///< of a body, small ones, being joined
    std::set<std::string> dropped_names_;              ///< reported already (header_map)
    std::atomic<Exchange*> signalled_{nullptr};        ///< stack of Exchanges that need the leader
    std::atomic<bool> polling_{false};                 ///< only wake() reaches the leader
    std::atomic<bool> leaves_queue_{false};            ///< when it stops: see stop()
    std::atomic<bool> stopping_{false};
    std::atomic<bool> drained_{false};
    std::atomic<int64_t> last_turn_{0};
    int64_t now_ms_ = 0;
    int64_t next_deadline_ms_ = 0;  ///< no deadline is due before this; 0: there is none
    int64_t accept_again_ms_ = 0;   ///< back-off after EMFILE
    int64_t release_ms_ = 0;        ///< when to give free memory back; 0: never (see kMuchOutput)
    bool has_newcomer_ = false;     ///< a listener was ready in this turn
    bool has_put_off_ = false;      ///< the budget was spent before every listener had its turn
    size_t first_listener_ = 0;     ///< which one goes first then
    int polls_skipped_ = 0;
    size_t long_turns_ = 0;
    bool is_long_ = false;     ///< this turn is; see kLongTurnMs
    bool has_queued_ = false;  ///< in this turn
    bool listening_ = false;
    bool stop_seen_ = false;
    int64_t starved_since_ms_ = 0;  ///< since when accept() has found no descriptor; 0: it does
    /// When it last failed so; 0: not since the log said that it works again.
    int64_t out_of_resources_ms_ = 0;
};

}  // namespace gcorn
