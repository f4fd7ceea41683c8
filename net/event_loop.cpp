#include "net/event_loop.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "os/process.h"

namespace gcorn {

namespace {

/// Deadlines are checked no more often than this, so that a thousand connections whose deadlines
/// are a millisecond apart do not cost a thousand checks.
constexpr int64_t kDeadlineStepMs = 50;
/// Pause after EMFILE and friends with nothing to close; meanwhile running connections may free
/// descriptors.
constexpr int64_t kOutOfResourcesMs = 500;
/// A worker that has been unable to accept for this long, and has no connection to close, is
/// replaced; one that has been able to accept again for this long says so.
constexpr int64_t kStarvedMs = 3000;
/// How often the leader looks for an idle sibling while requests are left unread, and whether the
/// application takes requests again.
constexpr int kUnreadLookMs = 5;
/// A turn that has taken this long leaves handshakes, bodies and the rest of large heads to the
/// next one: 256 TLS handshakes, of a millisecond each, would hold up everybody else's answers.
constexpr int64_t kLongTurnMs = 10;
/// How many turns in a row may skip the poll because pipelined requests are ready to run.
constexpr int kPollsSkippedMax = 32;
/// Empty Exchanges kept for reuse; more than are ever active at once in most workers.
constexpr size_t kPoolMax = 128;
/// How many different dropped field names are reported; the rest are dropped silently.
constexpr size_t kReportedNamesMax = 100;
/// How soon held output is looked at again, so that none waits much longer than kHoldUs.
constexpr int kHeldLookMs = 1;
constexpr size_t kScratchBytes = 64 * 1024;
/// Received bytes of all connections together beyond which a large head is refused (the limits
/// allow 800 KiB for one).
constexpr size_t kUnusedInputMax = 32 << 20;
/// A worker with more output than this waiting in memory gives free memory back to the system, once
/// it has not needed that much for release_ms.
constexpr size_t kMuchOutput = 8 << 20;
/// Smaller bodies are copied, so that they do not tie up a block of scratch memory each.
constexpr size_t kHandOverBytesMin = 4 * 1024;

}  // namespace

EventLoop::EventLoop(LoopOptions options, ReadyQueue& ready, Logger& log,
                     const AccessLog& access_log, Statsd& statsd)
    : options_(std::move(options)),
      ready_(ready),
      log_(log),
      access_log_(access_log),
      statsd_(statsd),
      pid_(::getpid()),
      admission_(options_.slots, options_.has_sibling),
      scratch_(std::make_unique_for_overwrite<char[]>(kScratchBytes)) {}

EventLoop::~EventLoop() {
    // Exchanges that still ask for the leader are dropped: nobody leads any more.
    Exchange* signalled = signalled_.exchange(nullptr);
    while (signalled != nullptr) {
        const std::shared_ptr<Exchange> self = std::move(signalled->signalled_self_);
        signalled = self->signalled_next_;
    }
}

Status EventLoop::open(const std::vector<Listener*>& listeners) {
    if (Status opened = poller_.open(); !opened) return opened;
    for (const Listener* listener : listeners) {
        Status added =
            add_watch(listeners_, listener->fd(), [this, listener] { accept_from(*listener); });
        if (!added) return added;
    }
    // What siblings give away came from one of these.
    if (options_.relay != nullptr && !listeners.empty())
        if (Status added = add_watch(listeners_, options_.relay->fd(), [this] { take_relayed(); });
            !added)
            return added;
    accepts_from_ = listeners;
    listening_ = true;
    now_ms_ = monotonic_ms();
    last_turn_.store(now_ms_, std::memory_order_relaxed);
    return {};
}

Status EventLoop::add_watch(std::vector<std::unique_ptr<Watch>>& list, int fd,
                            std::function<void()> handler) {
    auto target = std::make_unique<Watch>(fd, std::move(handler));
    Status added = poller_.add(fd, Interest::Read, target.get());
    if (added) list.push_back(std::move(target));
    return added;
}

Status EventLoop::watch(int fd, std::function<void()> handler) {
    return add_watch(watches_, fd, std::move(handler));
}

// -------------------------------------------------------------------------------------- the turn

void EventLoop::turn(int timeout_ms) {
    now_ms_ = monotonic_ms();
    has_queued_ = false;
    if (is_stopping() && !stop_seen_) stop_now();
    serve_signalled();
    look_at_held();
    register_new();
    // Before the poll, which may last: their peers wait for the connection to end.
    closed_.clear();
    const bool must_announce_again = ready_.announce(now_ms_);
    // Answering pipelined requests has just made others ready: no need to ask the kernel first.
    if (timeout_ms != 0 && polls_skipped_ < kPollsSkippedMax && has_queued_) {
        ++polls_skipped_;
        return;
    }
    polls_skipped_ = 0;
    // While requests wait for the application side, there is no hurry to read more: on a shared
    // core the application runs first, and one poll then finds many events.
    const int64_t oldest_ms = ready_.oldest_ms();
    if (timeout_ms != 0 && oldest_ms != INT64_MAX) ::sched_yield();
    plan_accepting(oldest_ms);
    look_at_unread();

    // Do not sleep with requests to run, nor in the turn that finds the last connection gone.
    const bool is_last = stop_seen_ && connections_.empty() && !is_drained();
    const int wait = is_last || has_queued_ ? 0 : wait_ms(timeout_ms, must_announce_again);
    polling_.store(true, std::memory_order_seq_cst);
    const bool is_wanted =
        signalled_.load(std::memory_order_seq_cst) != nullptr || (is_stopping() && !stop_seen_);
    const std::span<PollEvent> events = poller_.wait(is_wanted ? 0 : wait);
    polling_.store(false, std::memory_order_relaxed);
    now_ms_ = monotonic_ms();
    admission_.plan_again(now_ms_, active(), ready_.oldest_ms());

    has_newcomer_ = false;
    accept_in_turn(events);
    // In the order of arrival. But a long turn puts the last events off (see kLongTurnMs), so the
    // turn after one starts at another place each time. A handler may remove other descriptors:
    // their targets become null in this very span.
    const size_t first = std::exchange(is_long_, false) ? ++long_turns_ : 0;
    for (size_t i = 0; i < events.size(); ++i) {
        const PollEvent& event = events[(first + i) % events.size()];
        if (event.target != nullptr) event.target->on_event(event);
    }
    if (listening_ && !has_newcomer_ && events.size() < Poller::kEventsMax) admission_.was_taken();
    serve_signalled();
    if (next_deadline_ms_ != 0 && now_ms_ >= next_deadline_ms_) run_deadlines();
    if (output_memory() > kMuchOutput) plan_release();
    if (release_ms_ != 0 && now_ms_ >= release_ms_) {
        release_ms_ = 0;
        release_free_memory();
    }
    if (has_queued_) ready_.announce(now_ms_);
    closed_.clear();
    if (stop_seen_) drained_.store(connections_.empty(), std::memory_order_relaxed);
    last_turn_.store(now_ms_, std::memory_order_relaxed);
}

/// How long the poll may last: timeout_ms (see turn()), or less if something is due before.
int EventLoop::wait_ms(int timeout_ms, bool must_announce_again) const {
    int64_t wait = timeout_ms < 0 ? INT32_MAX : timeout_ms;  // 24 days are as good as no limit
    const auto at_most = [&wait](bool is_needed, int64_t ms) {
        if (is_needed) wait = std::min(wait, std::max<int64_t>(ms, 0));
    };
    at_most(must_announce_again, ReadyQueue::kPatienceMs);
    at_most(!held_.empty(), kHeldLookMs);
    at_most(!unread_.empty() || admission_.is_blocked(), kUnreadLookMs);
    for (const int64_t due_ms : {next_deadline_ms_, accept_again_ms_, release_ms_})
        at_most(due_ms != 0, due_ms - now_ms_);
    return static_cast<int>(wait);
}

void EventLoop::schedule(int64_t deadline_ms) {
    if (deadline_ms == 0) return;
    if (next_deadline_ms_ == 0 || deadline_ms < next_deadline_ms_) next_deadline_ms_ = deadline_ms;
}

bool EventLoop::turn_is_long() {
    is_long_ = is_long_ || monotonic_ms() - now_ms_ >= kLongTurnMs;
    return is_long_;
}

bool EventLoop::has_room_for_heads() {
    size_t unused = 0;
    for (const auto& connection : connections_) {
        unused += connection->in_.size();
        // A complete head waits for the application here.
        if (connection->exchange_) unused += connection->exchange_->head.size();
    }
    if (unused > kUnusedInputMax / 4) plan_release();
    return unused < kUnusedInputMax;
}

void EventLoop::plan_release() {
    release_ms_ = now_ms_ + options_.release_ms;
}

void EventLoop::run_deadlines() {
    // Handlers may close connections (which moves others into their places) and schedule deadlines.
    next_deadline_ms_ = 0;
    for (size_t i = 0; i < connections_.size();) {
        Connection& connection = *connections_[i];
        const int64_t due = connection.deadline();
        if (due != 0 && due <= now_ms_)
            connection.on_deadline();
        else
            schedule(due);
        if (i < connections_.size() && connections_[i].get() == &connection) ++i;
    }
    if (next_deadline_ms_ != 0)
        next_deadline_ms_ = std::max(next_deadline_ms_, now_ms_ + kDeadlineStepMs);
}

void EventLoop::register_new() {
    for (size_t i = 0; i < unregistered_.size(); ++i) {
        if (unregistered_[i] != nullptr) unregistered_[i]->ensure_registered();
    }
    unregistered_.clear();
}

// ----------------------------------------------------------------------------- asking the leader

void EventLoop::exchange_needs_leader(Exchange& exchange) {
    if (exchange.signalled_.exchange(true, std::memory_order_acq_rel)) return;
    exchange.signalled_self_ = exchange.shared_from_this();
    Exchange* head = signalled_.load(std::memory_order_relaxed);
    do {
        exchange.signalled_next_ = head;
    } while (!signalled_.compare_exchange_weak(head, &exchange, std::memory_order_seq_cst));
    // One wake() serves everybody who asks before the leader runs again.
    if (polling_.load(std::memory_order_seq_cst) &&
        polling_.exchange(false, std::memory_order_seq_cst))
        poller_.wake();
}

void EventLoop::serve_signalled() {
    Exchange* stack = signalled_.exchange(nullptr, std::memory_order_acq_rel);
    // The stack has the newest on top; serve in the order of arrival.
    Exchange* oldest = nullptr;
    while (stack != nullptr) {
        Exchange* next = stack->signalled_next_;
        stack->signalled_next_ = oldest;
        oldest = stack;
        stack = next;
    }
    while (oldest != nullptr) {
        std::shared_ptr<Exchange> self = std::move(oldest->signalled_self_);
        oldest = oldest->signalled_next_;
        self->signalled_.store(false, std::memory_order_release);
        Connection* connection = self->connection_;
        // The connection holds its own reference; ours would keep it from being reused.
        self.reset();
        if (connection != nullptr) connection->on_exchange();
    }
}

/// Sends output that the application side holds back, unless its next block came in time.
void EventLoop::look_at_held() {
    if (held_.empty()) return;
    std::vector<std::shared_ptr<Exchange>> looked_at;
    looked_at.swap(held_);  // on_exchange() may add to it
    for (std::shared_ptr<Exchange>& exchange : looked_at) {
        if (exchange->may_stay_held())
            held_.push_back(std::move(exchange));
        else if (exchange->connection_ != nullptr)
            exchange->connection_->on_exchange();
    }
}

void EventLoop::beat_while_waiting() {
    if (options_.beat) options_.beat();
}

bool EventLoop::pause() {
    if (!options_.pause) return false;
    options_.pause();
    return true;
}

void EventLoop::exchange_completed(Exchange& exchange) {
    if (!exchange.response.has_status()) return;  // dropped before it ran: there was no answer
    if (options_.measures_time && exchange.done_us == 0) exchange.done_us = monotonic_us();
    if (log_.has_access()) write_access_line(exchange);
    if (statsd_.is_enabled())
        statsd_.request(exchange.response.status_code(), exchange.done_us - exchange.received_us);
}

void EventLoop::file_failed(const Exchange& exchange, int error) {
    log_.error("Cutting short the response to %s %s: its file can't be read: %s",
               escape_for_log(exchange.head.method).c_str(),
               escape_for_log(exchange.head.target).c_str(),
               error == ENODATA ? "it has been truncated" : std::strerror(error));
}

void EventLoop::write_access_line(const Exchange& exchange) {
    AccessRecord record;
    record.remote_addr = exchange.facts->remote_addr;
    record.request = exchange.head.request_line();
    record.method = exchange.head.method;
    record.path = exchange.head.raw_path;
    record.query = exchange.head.query;
    record.protocol = exchange.head.protocol;
    const FieldFinder find_field = [&](char kind, std::string_view name) {
        if (kind == 'o') return exchange.response.field(name);
        const auto& fields = exchange.head.fields;
        const auto last = std::find_if(fields.rbegin(), fields.rend(), [&](const Field& field) {
            return iequals(field.name, name);
        });
        return last == fields.rend() ? std::nullopt : std::optional(last->value);
    };
    record.find_field = &find_field;
    record.status = exchange.response.status();
    record.body_bytes = exchange.response.body_bytes();
    record.duration_us = exchange.done_us - exchange.received_us;
    record.app_us = exchange.app_us;
    if (exchange.taken_us != 0) record.queue_us = exchange.taken_us - exchange.queued_us;
    record.environ = &exchange.logged_environ;
    record.pid = pid_;
    log_.write_access(access_log_.format(record));
}

// ------------------------------------------------------------------------------------- accepting

void EventLoop::plan_accepting(int64_t oldest_ms) {
    if (accept_again_ms_ != 0 && now_ms_ >= accept_again_ms_) accept_again_ms_ = 0;
    admission_.plan(now_ms_, active(), oldest_ms);
    if (is_stopping() || accept_again_ms_ != 0) admission_.set_budget(0);
    set_listening(admission_.budget() > 0);
}

void EventLoop::set_listening(bool is_listening) {
    if (is_listening == listening_) return;
    listening_ = is_listening;
    // A worker that waits for a free slot must hear of every finished request.
    wants_every_finish_.store(!is_listening, std::memory_order_seq_cst);
    for (const auto& target : listeners_)
        poller_.set(target->fd, is_listening ? Interest::Read : Interest::None, target.get());
}

/// The poller always names the listeners in the same order. If the accept budget is spent before
/// all of them had their share, another listener goes first in the next turn.
void EventLoop::accept_in_turn(std::span<PollEvent> events) {
    if (!listening_ || !std::exchange(has_put_off_, false)) return;
    ++first_listener_;
    for (size_t i = 0; i < listeners_.size(); ++i) {
        Watch& listener = *listeners_[(first_listener_ + i) % listeners_.size()];
        for (PollEvent& event : events)
            if (event.target == &listener) {
                event.target = nullptr;
                listener.handler();
            }
    }
}

void EventLoop::accept_from(const Listener& listener) {
    has_newcomer_ = true;
    has_put_off_ = has_put_off_ || admission_.budget() == 0;
    for (bool is_first = true; admission_.budget() > 0; is_first = false) {
        if (!is_stopping() && admission_.leaves_to_sibling(now_ms_, connections_.size()))
            return std::this_thread::yield();  // it may need this processor to wake up
        if (!has_place(is_first) || !keep(listener.accept(), listener)) return;
    }
}

/// Accepts connections that a busy sibling gave away.
void EventLoop::take_relayed() {
    has_put_off_ = has_put_off_ || admission_.budget() == 0;
    for (bool is_first = true; admission_.budget() > 0 && has_place(is_first); is_first = false) {
        size_t index = 0;
        std::string preamble;
        Accepted accepted = options_.relay->take(index, preamble);
        if (accepted.status == AcceptStatus::Connection) GCORN_CHECK(index < accepts_from_.size());
        if (!keep(std::move(accepted), *accepts_from_[index], preamble)) return;
    }
}

/// Whether one more connection may be accepted.
bool EventLoop::has_place(bool is_first) {
    if (connections_.size() < options_.worker_connections) return true;
    // One client is certainly waiting, so an idle connection makes room; the next turn will tell
    // whether there are more.
    if (is_first && make_room()) return true;
    // All connections are busy: wait until one of them is not.
    if (is_first) pause_accepting(kDeadlineStepMs);
    return false;
}

/// Takes an accepted connection into the loop. False: no more are waiting, or none can be accepted.
bool EventLoop::keep(Accepted accepted, const Listener& listener, std::string_view preamble) {
    switch (accepted.status) {
        case AcceptStatus::Connection: break;
        case AcceptStatus::Nothing: return false;
        case AcceptStatus::Aborted:
            admission_.spend();  // a rule that refuses every one must not hold us here
            admission_.pass_turn_on();
            return true;
        case AcceptStatus::OutOfResources: out_of_resources(accepted.error); return false;
        case AcceptStatus::Failed:
            log_.error("accept on %s: %s", listener.name().c_str(), std::strerror(accepted.error));
            pause_accepting(kOutOfResourcesMs);
            return false;
    }
    admission_.spend();
    starved_since_ms_ = 0;
    if (out_of_resources_ms_ != 0 && now_ms_ - out_of_resources_ms_ >= kStarvedMs) {
        log_.info("Accepting connections again");
        out_of_resources_ms_ = 0;
    }
    connections_.push_back(std::make_unique<Connection>(*this, std::move(accepted), listener));
    Connection& connection = *connections_.back();
    connection.index_ = connections_.size() - 1;
    show_connections();
    if (!connection.start(preamble)) admission_.pass_turn_on();
    return true;
}

bool EventLoop::relays(Connection& connection) {
    if (!admission_.is_stuck(now_ms_, active()) || options_.relay == nullptr || is_stopping() ||
        !admission_.has_sibling(Sibling::Any))
        return false;
    char byte = 0;  // or its end
    if (::recv(connection.fd_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) return false;
    connection.leave_unread();
    unread_.push_back(&connection);
    look_at_unread();
    return true;
}

/// The requests that relays() left unread: we read them once a call ends. Until then an idle
/// sibling gets them; a busy one only after kStuckLongMs, because they might wait there, too.
void EventLoop::look_at_unread() {
    if (unread_.empty()) return;
    const bool gives = admission_.is_stuck(now_ms_, active()) && !is_stopping();
    if (gives && !admission_.has_sibling(Sibling::Idle) &&
        (!admission_.is_stuck_long(now_ms_) || !admission_.has_sibling(Sibling::Any)))
        return;
    for (Connection* connection : std::exchange(unread_, {}))
        if (connection != nullptr && connection->is_unread() &&
            !(gives && give_to_sibling(*connection)))
            connection->read_now();
}

bool EventLoop::give_to_sibling(Connection& connection) {
    const auto listener = std::ranges::find(accepts_from_, connection.listener_);
    const auto index = static_cast<size_t>(listener - accepts_from_.begin());
    if (!options_.relay->give(connection.fd_.get(), index, connection.preamble_)) return false;
    connection.unregister();
    connection.fd_.reset();  // or close() would end it for the sibling, too
    connection.close();
    return true;
}

void EventLoop::show_connections() {
    if (options_.connections != nullptr)
        options_.connections->store(static_cast<uint32_t>(connections_.size()),
                                    std::memory_order_relaxed);
}

void EventLoop::pause_accepting(int64_t pause_ms) {
    accept_again_ms_ = now_ms_ + pause_ms;
    admission_.set_budget(0);
}

void EventLoop::out_of_resources(int error) {
    // A connection that was closed to make room leaves its descriptor to the next turn.
    const bool has_room = make_room() && error == EMFILE;
    pause_accepting(has_room ? 0 : kOutOfResourcesMs);
    if (starved_since_ms_ == 0) starved_since_ms_ = now_ms_;
    // The application keeps all the descriptors: only the end of the process frees them.
    if (error == EMFILE && connections_.empty() && now_ms_ - starved_since_ms_ >= kStarvedMs &&
        options_.on_starved)
        options_.on_starved();
    if (std::exchange(out_of_resources_ms_, now_ms_) != 0) return;
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const std::string setting =
        error == EMFILE ? " (ulimit -n is " + std::to_string(limit.rlim_cur) + ")" : "";
    log_.warning("Cannot accept connections: %s%s. New ones wait in the backlog",
                 std::strerror(error), setting.c_str());
}

/// Closes the connection that has been idle longest; if none is idle, the one whose peer is late
/// longest with its request, or with taking our answer. False: there is none.
bool EventLoop::make_room() {
    Connection* longest = nullptr;
    int64_t longest_since = 0;
    Connection* latest = nullptr;
    for (size_t i = 0; i < connections_.size(); ++i) {
        Connection& connection = *connections_[i];
        // Read before settling, which would make a connection look as if it were idle only now.
        const int64_t since = connection.since();
        if (connection.state() == Connection::State::App) connection.on_exchange();
        if (connection.state() == Connection::State::Idle &&
            (longest == nullptr || since < longest_since)) {
            longest = &connection;
            longest_since = since;
        }
        if (connection.late_ms() > (latest != nullptr ? latest->late_ms() : 0))
            latest = &connection;
    }
    if (longest == nullptr) longest = latest;
    if (longest == nullptr) return false;
    return longest->give_way();
}

// -------------------------------------------------------------------------------------- stopping

void EventLoop::stop(bool takes_queue) {
    if (!takes_queue) leaves_queue_.store(true, std::memory_order_seq_cst);
    stopping_.store(true, std::memory_order_seq_cst);
    wants_every_finish_.store(true, std::memory_order_seq_cst);
    if (polling_.load(std::memory_order_seq_cst)) poller_.wake();
}

void EventLoop::stop_now() {
    stop_seen_ = true;
    // Everybody who got into the accept queue is served: first accept them all, then stop
    // listening.
    if (!leaves_queue_.load()) {
        for (const auto& target : listeners_) {
            admission_.set_budget(options_.worker_connections);
            target->handler();
        }
    }
    admission_.set_budget(0);
    for (const auto& target : listeners_)
        poller_.remove(target->fd, target.get());
    listeners_.clear();
    // New clients now go to a sibling or are refused; here they would wait until this worker ends.
    for (Listener* listener : accepts_from_)
        listener->close();
    for (size_t i = 0; i < connections_.size();) {
        const Connection* connection = connections_[i].get();
        connections_[i]->on_stop();  // may remove itself
        if (i < connections_.size() && connections_[i].get() == connection) ++i;
    }
}

// ------------------------------------------------------------------------------------ Connection

void EventLoop::connection_closed(Connection& connection) {
    const size_t index = connection.index_;
    for (auto* list : {&unregistered_, &unread_})
        std::ranges::replace(*list, &connection, nullptr);
    closed_.push_back(std::move(connections_[index]));
    if (index + 1 != connections_.size()) {
        connections_[index] = std::move(connections_.back());
        connections_[index]->index_ = index;
    }
    connections_.pop_back();
    show_connections();
}

std::shared_ptr<Exchange> EventLoop::make_exchange(Connection& connection) {
    if (pool_.empty()) pool_.push_back(std::make_shared<Exchange>(*this));
    std::shared_ptr<Exchange> exchange = std::move(pool_.back());
    pool_.pop_back();
    exchange->connection_ = &connection;
    exchange->prepare(&connection.facts_, connection.fd_.get(), options_.spool_directory);
    return exchange;
}

void EventLoop::recycle(std::shared_ptr<Exchange> exchange) {
    exchange->connection_ = nullptr;
    exchange->facts = nullptr;
    if (exchange.use_count() != 1 || pool_.size() >= kPoolMax) return exchange->forget_output();
        // Pairs with the release of the last other owner's reference. The thread sanitizer does not
        // know fences, but it understands that taking a reference acquires.
#if defined(__SANITIZE_THREAD__)
    std::shared_ptr<Exchange>(exchange).reset();
#else
    std::atomic_thread_fence(std::memory_order_acquire);
#endif
    exchange->clear_output();
    exchange->fd_ = -1;
    exchange->reset_for_reuse();
    pool_.push_back(std::move(exchange));
}

bool EventLoop::hand_over(std::string_view whole_body, Spool& body) {
    const std::less<> before;  // a total order, even of pointers into different blocks
    const char* const start = whole_body.data();
    if (whole_body.size() < kHandOverBytesMin || before(start, scratch_.get()) ||
        !before(start, scratch_.get() + kScratchBytes))
        return false;
    body.adopt(scratch_, whole_body);
    if (!scratch_) scratch_ = std::make_unique_for_overwrite<char[]>(kScratchBytes);
    return true;
}

void EventLoop::queue(const std::shared_ptr<Exchange>& exchange) {
    admission_.call_came(now_ms_, active_.fetch_add(1, std::memory_order_relaxed));
    has_queued_ = true;
    ready_.push(exchange, now_ms_);
}

void EventLoop::report_dropped(const RequestHead& head, const ConnectionFacts& facts) {
    for (const std::string_view name : head.dropped_names) {
        if (dropped_names_.size() >= kReportedNamesMax) return;
        if (!dropped_names_.insert(lower(name)).second) continue;
        log_.warning(
            "Dropped the header field %s from ip=%s: names with an underscore are not passed on "
            "(see header_map and forwarder_headers; logged once per name)",
            escape_for_log(name).c_str(), facts.remote_addr.c_str());
    }
}

}  // namespace gcorn
