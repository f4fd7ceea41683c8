// Above 800 lines: this is one state machine, in which every transition may lead to any other, so
// it has to be read as a whole. The sections are marked.
#include "net/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "net/event_loop.h"

namespace gcorn {

namespace {

constexpr size_t kReadBytesMax = 64 * 1024;
/// Bytes read from one connection in a turn before the others get their turn.
constexpr size_t kReadBytesPerTurn = 256 * 1024;
/// TLS: plain bytes encrypted for one connection in a turn; otherwise a fast client would keep the
/// leader busy until the end of its answer.
constexpr size_t kSendBytesPerTurn = 256 * 1024;
/// TLS: encrypted bytes that may wait to be sent. An answer needs fewer; but a peer can request
/// replies of the protocol itself without end and read none of them (KeyUpdate, RFC 8446 §4.6.3).
constexpr size_t kWireBytesMax = 256 * 1024;
/// TLS, after the handshake: received bytes that may carry no content. An incomplete record has 16
/// KiB at most; a KeyUpdate, of 27 bytes, costs as much time as a small request. Each byte of
/// content accounts for up to kWireBytesPerByte of the record around it.
constexpr size_t kEmptyBytesMax = 32 * 1024;
constexpr size_t kWireBytesPerByte = 96;
/// How long a stopping worker waits for the next request on a connection that was just busy: to
/// close it at that moment could lose a request that is on its way.
constexpr int64_t kStopPatienceMs = 500;
/// How often a connection in App is checked, in case its answer went out without the leader's help.
constexpr int64_t kSettleMs = 250;
/// How long an answer waits for its pipelined successor's.
constexpr int64_t kJoinMs = 2;
/// How much of a refused client's text a log line quotes.
constexpr size_t kQuotedBytesMax = 200;

/// Pieces of a body up to this size are stored together: otherwise chunks of one byte would cost
/// one write(2) each, once the body is in a file.
constexpr size_t kSmallPieceBytes = 1024;
/// A head, or a part of one, is large beyond this. Most have a few KiB.
constexpr size_t kLargeHeadBytes = 64 * 1024;
/// A large head is judged again each time it has grown by this much (it may come byte by byte).
constexpr size_t kHeadStepBytes = 16 * 1024;

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

/// Some of a request has arrived: more than the empty line that RFC 9112 §2.2 has us ignore.
bool is_begun(std::string_view in) {
    return !in.empty() && in != "\r\n";
}

}  // namespace

Connection::Connection(EventLoop& loop, Accepted accepted, const Listener& listener)
    : loop_(loop), listener_(&listener), fd_(std::move(accepted.fd)), peer_(accepted.peer) {
    facts_.is_unix = listener.is_unix();
    if (!facts_.is_unix) {
        facts_.remote_addr = peer_.host();
        facts_.remote_port = peer_.port();
    }
    facts_.server_name = listener.server_name();
    facts_.server_port = listener.server_port();
    facts_.peer.is_trusted = facts_.is_unix || loop.options().forwarded_allow.contains(peer_);
    facts_.peer.is_tls = static_cast<bool>(loop.options().make_tls);
}

bool Connection::start(std::string_view preamble) {
    const uint64_t before = loop_.admission_.events();
    if (loop_.options().make_tls) {
        Result<std::unique_ptr<ByteTransform>> transform = loop_.options().make_tls();
        if (!transform) {
            loop_.log_.error("TLS: %s", transform.message().c_str());
            close();
            return false;
        }
        tls_ = std::make_unique<Tls>();
        tls_->transform = std::move(*transform);
    }
    if (loop_.options().proxy_mode != ProxyMode::Off)
        enter(State::Preamble);
    else
        enter(tls_ ? State::Handshake : State::Head);
    loop_.register_later(*this);
    if (!preamble.empty()) on_bytes(preamble);
    // As a rule the request is there already: TCP_DEFER_ACCEPT, or it waited in the backlog.
    if (tls_ && loop_.turn_is_long()) return true;  // not known yet: it is read in the next turn
    read_more();
    return loop_.admission_.events() != before || (tls_ && tls_->has_spoken);
}

// -------------------------------------------------------------------------- states and interest

/// The deadline of the state if it, or the wait for the next byte, begins now.
int64_t Connection::fresh_deadline() const {
    const LoopOptions& options = loop_.options();
    const auto after = [&](int64_t timeout_ms) {
        return timeout_ms > 0 ? loop_.now_ms() + timeout_ms : 0;
    };
    switch (state_) {
        case State::Preamble:
        case State::Handshake:
        case State::Head: return after(options.header_timeout_ms);
        case State::Idle: return after(options.keepalive_ms);
        case State::Body: return after(options.body_timeout_ms);
        case State::App: return after(kSettleMs);
        case State::Reply: return after(options.write_timeout_ms);
        case State::Linger: return after(loop_.is_stopping() ? kStopPatienceMs : kLingerMs);
        case State::Closed: return 0;
    }
    return 0;
}

void Connection::enter(State state) {
    // One deadline covers everything up to the end of the head: entering Head from Preamble or
    // Handshake does not restart it (a peer must not gain time by sending little).
    const bool keeps_deadline = (state == State::Head || state == State::Handshake) &&
                                (state_ == State::Preamble || state_ == State::Handshake);
    state_ = state;
    read_paused_ = false;
    since_ms_ = loop_.now_ms();
    set_deadline(keeps_deadline ? deadline_ms_ : fresh_deadline());
}

void Connection::set_deadline(int64_t deadline_ms) {
    deadline_ms_ = deadline_ms;
    loop_.schedule(deadline_ms);
}

void Connection::update_interest() {
    if (state_ == State::Closed || !registered_) return;
    // In App the interest stays as it is until an event makes a change necessary.
    const bool reads =
        state_ != State::Reply &&
        (body_open_ ? exchange_->body_backlog() < kBodyBytesInFlightMax : !read_paused_);
    const auto wanted = static_cast<Interest>((reads ? 1 : 0) | (output_blocked_ ? 2 : 0));
    if (wanted == interest_) return;
    interest_ = wanted;
    loop_.poller_.set(fd_.get(), wanted, this);
}

void Connection::ensure_registered() {
    if (registered_ || state_ == State::Closed) return;
    interest_ = Interest::Read;
    const Status added = loop_.poller_.add(fd_.get(), interest_, this);
    if (!added) {
        loop_.log_.error("%s", added.message().c_str());
        return peer_gone();
    }
    registered_ = true;
    update_interest();
}

void Connection::leave_unread() {
    read_paused_ = true;
    set_deadline(0);
    update_interest();
}

void Connection::read_now() {
    read_paused_ = false;
    if (deadline_ms_ == 0) set_deadline(fresh_deadline());
    read_more();
    update_interest();
}

void Connection::on_event(const PollEvent& event) {
    switch (state_) {
        case State::Idle:
            if (moves_on(event)) return;
            [[fallthrough]];
        case State::Preamble:
        case State::Handshake:
        case State::Head:
        case State::Body:
            if (is_costly() && loop_.turn_is_long()) break;  // the poller will report it again
            if (event.writable && !flush_output()) break;
            if (event.readable || event.hangup) read_more();
            break;
        case State::App: on_event_in_app(event); break;
        case State::Reply:
            if (event.hangup && !event.writable)
                peer_gone();
            else if (flush_output() && !output_blocked_)
                after_reply();
            break;
        case State::Linger: drain_lingering(); break;
        case State::Closed: return;
    }
    update_interest();
}

/// In Idle: the next request may go to a sibling. True: it stays unread for now.
bool Connection::moves_on(const PollEvent& event) {
    const bool is_known = !has_preamble_ || !preamble_.empty();
    return event.readable && !event.hangup && is_known && loop_.relays(*this);
}

void Connection::on_event_in_app(const PollEvent& event) {
    exchange_->leader_waits_.store(true, std::memory_order_seq_cst);
    if (exchange_->is_finished()) {
        settle();
        if (state_ == State::Idle && moves_on(event)) return;
        if (state_ == State::Idle || state_ == State::Head) read_more();
        return;
    }
    if (event.hangup) return peer_gone();
    if (event.writable && !flush_output()) return;
    if (!event.readable) return;
    if (body_open_ && loop_.turn_is_long()) return;  // the poller will report it again
    if (body_open_)
        read_more();
    else if (has_given_up())
        peer_gone();
    else
        read_paused_ = true;
}

/// The client closed long after its request, which still waits to be run. Never under TLS, where a
/// close_notify precedes the end of the stream: there the request is run.
bool Connection::has_given_up() const {
    const int64_t waits_ms = loop_.now_ms() - loop_.ready_.waits_since_ms(*exchange_);
    char byte = 0;
    return waits_ms >= kHalfCloseMs && ::recv(fd_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void Connection::on_deadline() {
    const auto is_over = [&](int64_t timeout_ms) {
        return timeout_ms > 0 && loop_.now_ms() - since_ms_ >= timeout_ms;
    };
    // The peer may have kept its deadline unnoticed: the process was stopped or frozen, or one poll
    // did not report all events.
    const State before = state_;
    if (state_ < State::App) read_more();
    if (state_ == State::Reply && flush_output() && !output_blocked_) after_reply();
    if (state_ != before || deadline_ms_ > loop_.now_ms()) return update_interest();
    switch (state_) {
        case State::Idle:
        case State::Preamble:
        case State::Handshake: leave(); break;
        case State::Head:
            // A client that asked nothing gets no answer (RFC 9110 §15.5.9).
            if (is_begun(in_.view()))
                refuse(408, "timeout while receiving the request head");
            else
                finish_connection();
            break;
        case State::Body: refuse(408, "timeout while receiving the request body"); break;
        case State::App:
            if (exchange_->is_finished()) {
                settle();
            } else if (output_blocked_ && is_over(loop_.options().write_timeout_ms)) {
                loop_.log_.debug(
                    "Closing connection: the client does not read its response (ip=%s)",
                    facts_.remote_addr.c_str());
                peer_gone();
            } else if (body_open_ && is_over(loop_.options().body_timeout_ms) &&
                       exchange_->body_backlog() < kBodyBytesInFlightMax) {
                break_body(ETIMEDOUT);
                set_deadline(fresh_deadline());
            } else {
                set_deadline(fresh_deadline());
                if (!output_blocked_ && exchange_->has_output()) flush_output();
            }
            break;
        case State::Reply: peer_gone(); break;
        case State::Linger: close(); break;
        case State::Closed: return;
    }
    update_interest();
}

int64_t Connection::late_ms() const {
    const int64_t waits_ms = loop_.now_ms() - since_ms_;
    const auto if_above = [](int64_t late, int64_t patience) {
        return late >= patience ? late : 0;
    };
    switch (state_) {
        case State::Preamble:
        case State::Handshake:
        case State::Head: return if_above(waits_ms, kRequestPatienceMs);
        case State::Linger: return if_above(waits_ms, kLingerPatienceMs);
        case State::Body: {
            const auto received = static_cast<int64_t>(exchange_->body.size());
            const int64_t timeout_ms = loop_.options().body_timeout_ms;
            const int64_t last_ms = timeout_ms > 0 ? deadline_ms_ - timeout_ms : loop_.now_ms();
            return std::max(
                if_above(waits_ms - received * 1000 / kBytesPerSecondMin, kRequestPatienceMs),
                if_above(loop_.now_ms() - last_ms, kStallPatienceMs));
        }
        case State::Reply: return if_above(waits_ms, kStallPatienceMs);
        case State::Idle:
        case State::App:
        case State::Closed: return 0;
    }
    return 0;
}

bool Connection::give_way() {
    if (state_ == State::Idle) {
        read_more();
        if (state_ != State::Idle) return state_ == State::Closed;
    }
    if (state_ == State::Body || (state_ == State::Head && is_begun(in_.view())))
        refuse(408, "too slow, while others wait for a connection (worker_connections, ulimit -n)");
    else if (state_ == State::Reply)
        peer_gone();
    else
        leave();
    close();  // no time for Linger
    return true;
}

void Connection::on_stop() {
    if (state_ == State::App && exchange_->is_finished()) settle();
    const auto is_waiting = [this] {
        return state_ == State::Idle || state_ == State::Preamble || state_ == State::Handshake ||
               (state_ == State::Head && !is_begun(in_.view()));
    };
    if (is_waiting()) {
        // A request may already be in the kernel, and another one may be on its way.
        read_more();
        if (is_waiting()) {
            const int64_t leave_ms = since_ms_ + kStopPatienceMs;
            if (leave_ms <= loop_.now_ms())
                leave();
            else
                set_deadline(leave_ms);
        }
    } else if (state_ == State::Linger) {
        set_deadline(std::min(deadline_ms_, loop_.now_ms() + kStopPatienceMs));
    }
    update_interest();
}

// --------------------------------------------------------------------------------------- reading

/// One recv(2) into the loop's scratch memory. Empty: the end of the stream or a reset; nothing
/// more will come. nullopt: there is nothing to read now.
std::optional<std::string_view> Connection::receive() {
    const ssize_t got = retry_on_eintr(
        [&] { return ::recv(fd_.get(), loop_.scratch_.get(), kReadBytesMax, MSG_DONTWAIT); });
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return std::nullopt;
    return std::string_view(loop_.scratch_.get(), static_cast<size_t>(std::max<ssize_t>(got, 0)));
}

void Connection::read_more() {
    for (size_t total = 0; total < kReadBytesPerTurn;) {
        const std::optional<std::string_view> bytes = receive();
        if (!bytes) return;
        if (bytes->empty()) return on_tcp_eof();
        total += bytes->size();
        const bool was_full = bytes->size() == kReadBytesMax;
        on_bytes(*bytes);
        // A short read has emptied the socket. Only for a body is another call worth while.
        const bool wants_more = state_ == State::Body || (state_ == State::App && body_open_);
        if (!was_full || !wants_more || loop_.turn_is_long()) return;
    }
}

void Connection::on_bytes(std::string_view bytes) {
    if (state_ == State::Linger || state_ == State::Closed) return;
    if (state_ == State::Body || body_open_) bytes_moved(bytes.size());
    if (tls_ && state_ != State::Preamble) {
        std::string plain;
        if (!decrypt(bytes, plain)) return;
        // A peer may send close_notify right behind its last request, which is still answered.
        const bool ends_now = tls_->transform->is_ended() && !saw_eof_;
        saw_eof_ = saw_eof_ || ends_now;
        if (!plain.empty()) on_plain_bytes(plain);
        if (ends_now && state_ != State::Closed) on_eof();
        return;
    }
    on_plain_bytes(bytes);
}

/// Feeds the transform; its output is in `plain`. False: the connection ends.
bool Connection::decrypt(std::string_view wire, std::string& plain) {
    const bool is_first = !std::exchange(tls_->has_bytes, true);
    // A TLS record starts with its type, 22 for a handshake (RFC 8446 §5.1): never a letter.
    if (is_first && is_alpha(wire[0]))
        return refuse_plainly(400, "plain HTTP request to a TLS port");
    const bool was_open = tls_->transform->is_open();
    Status fed = tls_->transform->feed(wire, false, plain);
    if (was_open && !tls_->transform->is_ended()) {  // what follows a close_notify is ignored
        const size_t received = tls_->empty_bytes + wire.size();
        tls_->empty_bytes = received - std::min(received, plain.size() * kWireBytesPerByte);
        if (fed && tls_->empty_bytes > kEmptyBytesMax)
            fed = Error{EPROTO, "TLS: too many empty records"};
    }
    if (!flush_tls()) return false;
    if (tls_->wire.size() > kWireBytesMax) {
        loop_.log_.warning("Invalid request from ip=%s: TLS: the client sends but does not read",
                           facts_.remote_addr.c_str());
        peer_gone();
        return false;
    }
    if (!fed) {
        loop_.log_.warning("Invalid request from ip=%s: %s", facts_.remote_addr.c_str(),
                           fed.message().c_str());
        must_linger_ = true;
        if (state_ == State::App)
            peer_gone();
        else
            linger();
        return false;
    }
    if (state_ == State::Handshake && tls_->transform->is_open()) {
        facts_.tls_peer = tls_->transform->peer_info();
        enter(State::Head);
    }
    return true;
}

/// The end of the TCP stream, or a reset. TLS judges an end without close_notify.
void Connection::on_tcp_eof() {
    if (tls_ && tls_->transform->is_open() && !tls_->transform->is_ended()) {
        std::string plain;
        const Status fed = tls_->transform->feed({}, true, plain);
        if (!fed)
            loop_.log_.warning("Connection from ip=%s ended without close_notify: %s",
                               facts_.remote_addr.c_str(), fed.message().c_str());
    }
    on_eof();
}

void Connection::on_plain_bytes(std::string_view bytes) {
    if (!in_.empty()) {
        const size_t before = in_.size();
        in_.append(bytes);
        const bool is_to_judge = state_ == State::Head && in_.size() > kLargeHeadBytes &&
                                 in_.size() / kHeadStepBytes > before / kHeadStepBytes;
        if (is_to_judge && !loop_.has_room_for_heads())
            refuse(503, "no memory left for a request head this large");
        else
            advance();
        return;
    }
    // Straight from the scratch memory; only an incomplete rest is copied.
    size_t used = 0;
    for (bool goes_on = true; goes_on && used < bytes.size();) {
        size_t taken = 0;
        goes_on = step(bytes.substr(used), taken);
        used += taken;
    }
    if (state_ == State::Closed || state_ == State::Linger || state_ == State::Reply) return;
    if (used < bytes.size()) in_.append(bytes.substr(used));
}

/// Goes on with bytes that were received earlier.
void Connection::advance() {
    while (!in_.empty()) {
        size_t used = 0;
        const bool goes_on = step(in_.view(), used);
        if (state_ == State::Closed || state_ == State::Linger) return;
        if (in_.empty()) break;  // a refusal has thrown everything away, the used bytes included
        in_.consume(used);
        if (!goes_on) break;
    }
    if (in_.empty()) in_.release();
}

/// One step of the machine over `in`. True: it made progress and may go on with the rest.
bool Connection::step(std::string_view in, size_t& used) {
    switch (state_) {
        case State::Preamble: return step_preamble(in, used);
        case State::Idle:
            if (!is_begun(in)) return false;
            enter(State::Head);
            return step_head(in, used);
        case State::Head: return step_head(in, used);
        case State::Body: return step_body(in, used);
        case State::App: return body_open_ && step_body(in, used);
        case State::Handshake:
        case State::Reply:
        case State::Linger:
        case State::Closed: return false;
    }
    return false;
}

bool Connection::step_preamble(std::string_view in, size_t& used) {
    ProxyHeader header;
    switch (parse_proxy_header(in, loop_.options().proxy_mode, header)) {
        case ProxyParse::NeedMore: return false;
        case ProxyParse::Bad: return refuse_plainly(400, header.rule);
        case ProxyParse::Absent: break;
        case ProxyParse::Done:
            if (!facts_.is_unix && !loop_.options().proxy_allow.contains(peer_))
                return refuse_plainly(
                    403, "PROXY header from a peer that proxy_allow_ips does not list");
            used = header.used;
            has_preamble_ = true;
            if (used <= Relay::kPreambleMax) preamble_ = in.substr(0, used);
            if (header.has_addresses) {
                facts_.has_proxy_header = true;
                facts_.remote_addr = header.source_host;
                facts_.remote_port = header.source_port;
                facts_.proxy_protocol = header.protocol;
                facts_.proxy_addr = header.destination_host;
                facts_.proxy_port = header.destination_port;
            }
            break;
    }
    enter(tls_ ? State::Handshake : State::Head);
    if (!tls_) return true;
    // What follows the header is TLS already. It cannot contain a request yet: the client has no
    // keys before we answer (there is no early data).
    const std::string wire(in.substr(used));
    if (wire.empty()) return false;
    std::string plain;
    used = decrypt(wire, plain) ? in.size() : 0;
    return false;
}

bool Connection::step_head(std::string_view in, size_t& used) {
    if (!exchange_) exchange_ = loop_.make_exchange(*this);
    if (exchange_->received_us == 0 && loop_.options().measures_time)
        exchange_->received_us = monotonic_us();
    HttpError error;
    const Parse result =
        parser_.parse(in, loop_.options().policy, facts_.peer, exchange_->head, used, error);
    if (result == Parse::Bad) return refuse(error, in);
    if (result == Parse::NeedMore) {
        used = 0;
        return false;
    }
    parser_.reset();
    if (!exchange_->head.dropped_names.empty()) loop_.report_dropped(exchange_->head, facts_);
    exchange_->response.begin(exchange_->head, loop_.options().keepalive_ms > 0,
                              loop_.options().response);
    // A body of no bytes is complete already; no further byte will come to say so.
    const bool has_body =
        exchange_->head.framing == Framing::Chunked || exchange_->head.content_length > 0;
    if (!has_body) {
        // If a complete pipelined head waits behind this one, the answers may leave together.
        exchange_->corked_ =
            in.size() > used && in.substr(used).find("\r\n\r\n") != std::string_view::npos;
        dispatch(true, in.size() > used);
        return false;
    }
    enter(State::Body);
    body_.begin(exchange_->head.framing, exchange_->head.content_length, loop_.options().policy);
    // A peer that has sent body bytes does not wait for permission (RFC 9110 §10.1.1).
    if (!exchange_->head.expects_continue || in.size() > used) return true;
    exchange_->send(kContinue, {}, {}, false);
    // Plain text is on its way already; TLS still has to encrypt it here.
    return !exchange_->has_output() || flush_output();
}

/// Ends the body that the application is reading with an errno, and then the connection.
void Connection::break_body(int error) {
    body_open_ = false;
    must_linger_ = true;
    exchange_->response.must_close();
    exchange_->body_arrived(false, error);
}

bool Connection::step_body(std::string_view in, size_t& used) {
    std::string_view data;
    HttpError error;
    Parse result = body_.next(in, used, data, error);
    std::string& pieces = loop_.pieces_;
    pieces.clear();
    for (size_t taken = 1; result == Parse::NeedMore && used < in.size() && taken > 0;
         used += taken) {
        if (data.size() > kSmallPieceBytes) break;
        pieces += data;
        result = body_.next(in.substr(used), taken, data, error);
    }
    if (result == Parse::Bad) {
        if (!body_open_) return refuse(error, {});
        (void)exchange_->body.append(pieces);
        break_body(EPROTO);
        return false;
    }
    if (!pieces.empty()) data = pieces.append(data);
    const bool is_whole = result == Parse::Done && exchange_->body.size() == 0;
    if (!data.empty() && !(is_whole && loop_.hand_over(data, exchange_->body))) {
        const Status stored = exchange_->body.append(data);
        if (!stored) {
            loop_.log_.error("Cannot store a request body: %s", stored.message().c_str());
            if (!body_open_) return refuse(503, "no room for the request body");
            break_body(ECONNRESET);
            return false;
        }
    }
    if (result == Parse::Done) {
        if (body_open_) {
            body_open_ = false;
            exchange_->body_arrived(true, 0);
        } else {
            dispatch(true, in.size() > used);
        }
        return false;
    }
    if (body_open_)
        exchange_->body_arrived(false, 0);
    else if (exchange_->body.size() > kBodyBytesInFlightMax)
        dispatch(false, true);
    return used > 0;
}

/// Queues the request. has_rest: more bytes wait behind it, so the leader must know when it has
/// been answered.
void Connection::dispatch(bool is_body_complete, bool has_rest) {
    enter(State::App);
    // The previous answer waits for this one, but not for long.
    if (std::exchange(joins_, false)) set_deadline(loop_.now_ms() + kJoinMs);
    read_paused_ = saw_eof_;
    body_open_ = !is_body_complete;
    exchange_->body_begins(is_body_complete);
    // Before queue(): afterwards the answer may be finished at any moment.
    if (has_rest || saw_eof_ || !registered_)
        exchange_->leader_waits_.store(true, std::memory_order_seq_cst);
    if (loop_.options().measures_time) exchange_->queued_us = monotonic_us();
    loop_.queue(exchange_);
}

void Connection::on_eof() {
    saw_eof_ = true;
    switch (state_) {
        case State::Idle: leave(); break;
        case State::Preamble:
        case State::Handshake:
        case State::Head:
            loop_.log_.debug("Ignored premature client disconnection. (ip=%s)",
                             facts_.remote_addr.c_str());
            leave();
            break;
        // RFC 9112 §8: an incomplete body is an error, never a shorter body.
        case State::Body: refuse(400, "the request body ended early"); break;
        case State::App:
            if (body_open_) break_body(ECONNRESET);
            read_paused_ = true;
            break;
        case State::Reply:
        case State::Linger:
        case State::Closed: break;
    }
}

// -------------------------------------------------------------------------------------- refusing

bool Connection::refuse(int status, const char* rule) {
    return refuse({.status = status, .rule = rule}, {});
}

/// Refuses a client before any TLS handshake, with an answer that is not encrypted. False.
bool Connection::refuse_plainly(int status, const char* rule) {
    tls_.reset();
    facts_.peer.is_tls = false;
    return refuse(status, rule);
}

/// Answers a request that never reaches the application: one warning, one error page, one access
/// line. The rest of the input is never parsed. False.
bool Connection::refuse(const HttpError& error, std::string_view in) {
    if (!exchange_) exchange_ = loop_.make_exchange(*this);
    std::string detail;
    if (!error.detail.empty()) detail = ": " + escape_for_log(error.detail, kQuotedBytesMax);
    loop_.log_.warning("Invalid request from ip=%s: %s%s", facts_.remote_addr.c_str(), error.rule,
                       detail.c_str());
    // The method matters even now: an answer to HEAD has no body (RFC 9110 §9.3.2).
    if (state_ != State::Body && exchange_->head.raw_path.empty()) exchange_->head.name_refused(in);
    exchange_->response.begin(exchange_->head, false, loop_.options().response);
    must_linger_ = true;
    in_.release();
    loop_.active_.fetch_add(1, std::memory_order_relaxed);  // finish() subtracts it again
    loop_.admission_.pass_turn_on();
    state_ = State::App;
    exchange_->send(exchange_->response.error_page(error.status), {}, {}, true);
    exchange_->finish();
    if (loop_.options().on_refused) loop_.options().on_refused(*exchange_);
    settle();
    return false;
}

// ------------------------------------------------------------------------------- output, the end

void Connection::on_exchange() {
    if (state_ == State::Closed || !exchange_) return;
    if (state_ == State::App) {
        if (exchange_->is_finished()) settle();
        // A failed flush may have closed the connection, because the answer can end meanwhile on
        // the application's thread.
        else if (flush_output() && exchange_->is_aborted())
            body_open_ = false;
    }
    update_interest();
}

/// The application is done with the Exchange: sends what is left of the answer, then turns to the
/// next request.
void Connection::settle() {
    body_open_ = false;
    if (exchange_->is_detached()) {
        // The application's descriptor keeps the connection alive; we only close ours.
        if (exchange_->has_output()) flush_output();
        return close();
    }
    if (exchange_->is_aborted()) {
        // What was queued before the cut still goes out: it may hold answers to earlier requests.
        if (exchange_->has_output() || has_wire()) enter(State::Reply);
        if (state_ == State::Reply && (!flush_output() || output_blocked_)) return;
        return close();
    }
    if (!exchange_->body_complete()) {
        must_linger_ = true;
        exchange_->response.must_close();
    }
    const bool keeps_alive = exchange_->response.keeps_alive();
    const Exchange::Rest rest = exchange_->rest();
    joins_ = rest == Exchange::Rest::MayJoin && keeps_alive && !in_.empty() &&
             exchange_.use_count() == 1;
    if ((rest != Exchange::Rest::Nothing && !joins_) || has_wire()) {
        enter(State::Reply);
        if (!flush_output() || output_blocked_) return;
    }
    after_reply();
}

/// Every byte of the answer is out (or joins its successor's).
void Connection::after_reply() {
    if (!std::exchange(exchange_->completed_, true)) loop_.exchange_completed(*exchange_);
    if (exchange_->is_aborted()) return close();
    if (!exchange_->response.keeps_alive()) return finish_connection();
    if (!is_begun(in_.view())) {
        if (saw_eof_) return leave();
        loop_.recycle(std::move(exchange_));
        enter(State::Idle);
        if (loop_.is_stopping()) on_stop();
        return;
    }
    if (exchange_.use_count() == 1) {
        exchange_->reset_for_reuse();
    } else {
        exchange_->connection_ = nullptr;  // somebody still holds it, and may outlive us
        exchange_ = loop_.make_exchange(*this);
    }
    enter(State::Head);
    advance();
    // There is no successor to join: send what waited for one.
    const bool is_incomplete = state_ == State::Head || state_ == State::Body;
    if (is_incomplete && exchange_ && exchange_->has_output()) flush_output();
    if (state_ == State::Head && saw_eof_) leave();
}

/// Sends queued output. False: the connection is gone. output_blocked_ tells whether some is left.
bool Connection::flush_output() {
    if (state_ == State::Closed) return false;
    // A client that reads slowly must not keep its request's body on our disk all that time.
    if (state_ == State::Reply && exchange_.use_count() == 1) exchange_->body.clear();
    if (tls_) return flush_tls();
    if (!exchange_) return true;
    size_t moved = 0;
    const Exchange::Flush outcome = exchange_->flush(moved);
    if (outcome == Exchange::Flush::Failed) {
        peer_gone();
        return false;
    }
    if (outcome == Exchange::Flush::Held) {
        loop_.watch_held(exchange_);
        return true;
    }
    output_moved(moved, outcome == Exchange::Flush::Blocked);
    return true;
}

/// Restarts the deadlines that count from the last byte. While a worker may have to wait for the
/// peer (see kBodyBytesInFlightMax), a byte now and then is not enough: each buys a fixed time.
void Connection::bytes_moved(size_t bytes) {
    const auto bought_ms = static_cast<int64_t>(bytes) * 1000 / kBytesPerSecondMin;
    if (state_ == State::App)
        since_ms_ = std::min(loop_.now_ms(), since_ms_ + bought_ms);
    else if (state_ != State::Body)
        since_ms_ = loop_.now_ms();
    if (state_ == State::Body || state_ == State::Reply) set_deadline(fresh_deadline());
}

void Connection::output_moved(size_t bytes, bool is_blocked) {
    if (is_blocked && !output_blocked_) since_ms_ = loop_.now_ms();
    if (bytes > 0) bytes_moved(bytes);
    output_blocked_ = is_blocked;
}

bool Connection::flush_tls() {
    std::string& wire = tls_->wire;
    std::string plain;
    for (size_t total = 0;;) {
        tls_->transform->drain(wire);
        bool has_more = false;
        if (wire.empty() && exchange_ && tls_->transform->is_open()) {
            plain.clear();
            const Exchange::Flush taken = exchange_->take_for_transform(plain, kReadBytesMax);
            const Status written = plain.empty() ? Status() : tls_->transform->write(plain);
            if (!written)
                loop_.log_.error("Cutting short the response to ip=%s: %s",
                                 facts_.remote_addr.c_str(), written.message().c_str());
            if (taken == Exchange::Flush::Failed || !written) {
                peer_gone();
                return false;
            }
            has_more = taken == Exchange::Flush::Blocked;
            total += plain.size();
            tls_->transform->drain(wire);
        }
        if (wire.empty()) {
            output_blocked_ = false;
            return true;
        }
        const ssize_t sent = retry_on_eintr([&] {
            return ::send(fd_.get(), wire.data(), wire.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        });
        if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
            peer_gone();
            return false;
        }
        if (sent > 0) {
            tls_->has_spoken = true;
            wire.erase(0, static_cast<size_t>(sent));
        }
        if (wire.empty()) std::string().swap(wire);  // most connections are idle most of the time
        has_more = has_more || (exchange_ && exchange_->has_output());
        // If the turn's share is used up, the poller reports in the next turn that the socket takes
        // more.
        output_moved(static_cast<size_t>(std::max<ssize_t>(sent, 0)),
                     !wire.empty() || (has_more && total >= kSendBytesPerTurn));
        if (output_blocked_ || !has_more) return true;
    }
}

/// Closes in order, with nothing left to send but TLS's close_notify. To cut an answer short, call
/// close() instead: the missing close_notify tells the peer (RFC 8446 §6.1).
void Connection::leave() {
    if (tls_ && state_ != State::Closed) {
        tls_->transform->close();
        if (!flush_tls()) return;
    }
    close();
}

/// No further request on this connection.
void Connection::finish_connection() {
    if (tls_) {
        tls_->transform->close();
        if (!flush_tls()) return;
        // Without close_notify an answer looks cut (RFC 8446 §6.1): wait until that is out, too.
        if (output_blocked_ && exchange_) return enter(State::Reply);
    }
    // If the peer did not ask for the end, or we did not read all its bytes, closing at once would
    // reset the connection, and the reset may overtake our answer (RFC 9112 §9.6).
    const bool peer_may_send =
        must_linger_ || !in_.empty() || (exchange_ && exchange_->head.keep_alive);
    if (peer_may_send && !saw_eof_)
        linger();
    else
        close();
}

void Connection::linger() {
    if (state_ == State::Closed) return;
    if (exchange_) loop_.recycle(std::move(exchange_));
    in_.release();
    output_blocked_ = false;
    if (::shutdown(fd_.get(), SHUT_WR) != 0 || saw_eof_) return close();
    enter(State::Linger);
    drain_lingering();
}

void Connection::drain_lingering() {
    size_t total = 0;
    while (total < kReadBytesPerTurn) {
        const std::optional<std::string_view> bytes = receive();
        if (!bytes) break;
        total += bytes->size();
        lingered_bytes_ += bytes->size();
        if (bytes->empty()) return close();
    }
    if (lingered_bytes_ > kLingerBytesMax) return close();
    if (total > 0 && !loop_.is_stopping())
        set_deadline(std::min(fresh_deadline(), since_ms_ + kLingerMsMax));
}

/// The peer is gone or reads nothing. While the application works on the request, the socket stays
/// open until it is done; is_aborted() tells it.
void Connection::peer_gone() {
    if (state_ == State::Closed) return;
    const bool is_with_application = state_ == State::App && !exchange_->is_finished();
    if (!is_with_application) {
        if (exchange_ && !std::exchange(exchange_->completed_, true))
            loop_.exchange_completed(*exchange_);
        return close();
    }
    exchange_->mark_aborted();
    body_open_ = false;
    output_blocked_ = false;
    read_paused_ = true;
    ::shutdown(fd_.get(), SHUT_RDWR);
    // A hang-up cannot be masked (epoll_ctl(2)): left registered, it would end every wait at once.
    unregister();
}

void Connection::unregister() {
    if (std::exchange(registered_, false)) loop_.poller_.remove(fd_.get(), this);
}

void Connection::close() {
    if (state_ == State::Closed) return;
    const bool knows_the_end = std::exchange(state_, State::Closed) == State::Linger;
    unregister();
    // close(2) alone tells the peer nothing while a child that the application has forked since
    // holds the socket, too. One that the application has taken is the application's to end.
    if (!knows_the_end && !(exchange_ && (exchange_->is_detached() || exchange_->fin_sent_)))
        ::shutdown(fd_.get(), SHUT_RDWR);
    if (exchange_) loop_.recycle(std::move(exchange_));
    loop_.connection_closed(*this);
}

}  // namespace gcorn
