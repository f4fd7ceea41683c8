// Fuzz target: what one client sends on one connection, against the whole engine with an
// application in C++. The first byte chooses a strict or a tight policy; the rest is sent in
// pieces, to an application that answers at once or late, by a client that reads at once or late.
//
// Invariants, for every way to cut and time it: the application sees the requests that the pure
// parser finds in the whole input, and no others; each is answered, in order and with one framing;
// a refusal is answered once and logged once, and nothing after it is ever seen; the connection
// ends.
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "log/access_log.h"
#include "log/log.h"
#include "log/statsd.h"
#include "net/event_loop.h"
#include "net/exchange.h"
#include "net/listener.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace gcorn;
using fuzz::require;

constexpr size_t kBigBytes = 300'000;  ///< more than a unix socket takes at once

/// A request as the application saw it, and what it answered.
struct Seen {
    std::string method, target, body;
    int status = 0;
    bool is_cut = false;       ///< the answer is cut off
    bool keeps_alive = false;  ///< the connection goes on after it
    bool operator==(const Seen&) const = default;
};

/// All that must not depend on cuts and timing.
struct Outcome {
    std::vector<Seen> seen;
    std::vector<int> statuses;  ///< of the answers that reached the client
    bool operator==(const Outcome&) const = default;
};

std::string body_of(const Exchange& exchange) {
    std::string body(static_cast<size_t>(exchange.body.size()), '\0');
    for (size_t got = 0; got < body.size();) {
        const Result<size_t> read = exchange.body.read_at(got, &body[got], body.size() - got);
        require(read.is_ok() && *read > 0, "a body can be read");
        got += *read;
    }
    return body;
}

/// Answers in one of the ways applications have, chosen by the request's path.
Seen answer(Exchange& exchange) {
    const RequestHead& head = exchange.head;
    require(exchange.body_complete(), "only complete requests are queued");
    Seen seen{std::string(head.method), std::string(head.target), body_of(exchange)};
    const char kind = head.raw_path.size() > 1 ? head.raw_path[1] : '\0';
    ResponseWriter& response = exchange.response;
    const auto begin = [&](const char* status, size_t length) {
        seen.status = std::atoi(status);
        bool is_fine = response.set_status(status).is_ok();
        if (length != SIZE_MAX)
            is_fine &= response.add_field("Content-Length", std::to_string(length)).is_ok();
        require(is_fine, "the answer is valid");
    };
    const auto send = [&](std::string_view block, bool is_last) {
        exchange.send(response.body(block.size(), is_last), block, is_last);
    };
    switch (kind) {
        case 'b':
            begin("200 OK", kBigBytes);
            send(std::string(kBigBytes, 'b'), true);
            break;
        case 'c':
            begin("202 Accepted", SIZE_MAX);
            for (const char* block : {"one", "", "three"})
                send(block, false);
            exchange.send(response.finish(), {}, true);
            break;
        case 'n':
            begin("204 No Content", SIZE_MAX);
            exchange.send(response.finish(), {}, true);
            break;
        case 's':  // fewer bytes than promised
            begin("203 Short", 10);
            send("short", false);
            exchange.send(response.finish(), {}, true);
            seen.is_cut = response.is_short();
            if (seen.is_cut) response.must_close();
            break;
        case 'x':
            begin("201 Created", 10);
            send("cut", false);
            exchange.abort();
            seen.is_cut = !head.is_head();
            break;
        default: begin("200 OK", seen.body.size()); send(seen.body, true);
    }
    seen.keeps_alive = response.keeps_alive();
    exchange.finish();
    return seen;
}

/// The client's side: parses the answers as a strict client does.
class AnswerReader {
public:
    explicit AnswerReader(std::string_view wire) : rest_(wire) {}

    /// Status of the next answer that is not interim; 0 at the end.
    int next(const Seen* request) {
        for (;;) {
            if (rest_.empty()) return 0;
            const std::string_view line = take_line();
            require(line.substr(0, 7) == "HTTP/1." && line.size() > 12, "a status line");
            const std::optional<uint64_t> status = parse_decimal(line.substr(9, 3));
            require(status.has_value(), "a status");
            std::string length;
            bool is_chunked = false;
            for (std::string_view field = take_line(); !field.empty(); field = take_line()) {
                const size_t colon = field.find(':');
                require(colon != std::string_view::npos, "a field");
                const std::string_view name = field.substr(0, colon);
                if (iequals(name, "Content-Length")) length = trim(field.substr(colon + 1));
                if (iequals(name, "Transfer-Encoding")) is_chunked = true;
            }
            if (*status == 100) continue;
            take_body(request, static_cast<int>(*status), length, is_chunked);
            return static_cast<int>(*status);
        }
    }

private:
    std::string_view take_line() {
        const size_t end = rest_.find("\r\n");
        require(end != std::string_view::npos, "a line ends");
        const std::string_view line = rest_.substr(0, end);
        rest_.remove_prefix(end + 2);
        return line;
    }
    void take_body(const Seen* request, int status, const std::string& length, bool is_chunked) {
        if ((request != nullptr && request->method == "HEAD") || status == 204) return;
        const bool may_be_cut = request != nullptr && request->is_cut;
        if (is_chunked) {
            for (;;) {
                const std::optional<uint64_t> size = fuzz::parse_hex(take_line());
                require(size && *size + 2 <= rest_.size(), "a chunk");
                rest_.remove_prefix(static_cast<size_t>(*size) + 2);
                if (*size == 0) return;
            }
        }
        const std::optional<uint64_t> size = parse_decimal(length);
        if (size) {
            // A refusal's page, or none: the refused request may have been a HEAD.
            if (request == nullptr && rest_.empty()) return;
            require(may_be_cut || *size <= rest_.size(), "the whole body");
            rest_.remove_prefix(static_cast<size_t>(std::min<uint64_t>(*size, rest_.size())));
            return;
        }
        // Nothing says where it ends, so the end of the connection must.
        require(request != nullptr && !request->keeps_alive, "a framing");
        rest_ = {};
    }

    std::string_view rest_;
};

/// Counts the refusals that are logged.
class Warnings final : public LogObserver {
public:
    void error_record(Level level, std::string_view message) override {
        require(level < Level::Error, "a client causes no errors");
        if (message.substr(0, 16) == "Invalid request ") ++refusals;
    }
    int refusals = 0;
};

/// An EventLoop behind a unix socket, driven by the only thread.
class Engine {
public:
    /// When things happen during one run.
    struct Timing {
        bool answers_late = false;  ///< the application runs only when nothing else can happen
        bool reads_late = false;    ///< the client takes nothing before it has sent everything
    };

    explicit Engine(LoopOptions options) : access_log_(compile()) {
        LogOptions quiet;
        quiet.errorlog = "";
        require(log_.open(quiet).is_ok(), "a log");
        log_.set_observer(&warnings_);
        options.header_timeout_ms = options.body_timeout_ms = options.write_timeout_ms = 0;
        options.keepalive_ms = 3'600'000;
        options.slots = 8;
        loop_ = std::make_unique<EventLoop>(std::move(options), ready_, log_, access_log_, statsd_);
        const std::string path = "/tmp/gcorn-fuzz-" + std::to_string(::getpid()) + "-" +
                                 std::to_string(reinterpret_cast<uintptr_t>(this)) + ".sock";
        Result<BindSpec> spec = parse_bind("unix:" + path);
        require(spec.is_ok(), "an address");
        Result<std::unique_ptr<Listener>> listener = Listener::open(*spec, {});
        require(listener.is_ok(), "a listener");
        listener_ = std::move(*listener);
        require(loop_->open({listener_.get()}).is_ok(), "a loop");
    }
    ~Engine() {
        const Status unlinked = listener_->unlink_path();
        require(unlinked.is_ok(), "the socket's file goes away");
    }

    Outcome run(std::string_view input, const std::vector<size_t>& cuts, Timing timing) {
        outcome_ = {};
        received_.clear();
        warnings_.refusals = 0;
        turns_left_ = 1000 + 4 * cuts.size();
        timing_ = timing;
        const Address& address = listener_->address();
        client_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        require(::connect(client_.get(), address.raw(), address.size) == 0, "a connection");
        turn();
        turn();
        require(loop_->connection_count() == 1, "it is accepted");
        size_t from = 0;
        for (size_t piece = 0; piece <= cuts.size(); ++piece) {
            const size_t end = piece < cuts.size() ? cuts[piece] : input.size();
            send(input.substr(from, end - from));
            from = end;
        }
        timing_ = {};
        ::shutdown(client_.get(), SHUT_WR);
        while (!read_answers())
            turn();
        client_.reset();
        while (loop_->connection_count() > 0)
            turn();
        judge_answers();
        return std::move(outcome_);
    }

    [[nodiscard]] const LoopOptions& options() const { return loop_->options(); }

private:
    static AccessLog compile() {
        Result<AccessLog> compiled = AccessLog::compile(kDefaultAccessFormat);
        require(compiled.is_ok(), "an access format");
        return std::move(*compiled);
    }

    void send(std::string_view piece) {
        do {
            const ssize_t sent =
                ::send(client_.get(), piece.data(), piece.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent > 0)
                piece.remove_prefix(static_cast<size_t>(sent));
            else if (sent < 0 && errno != EAGAIN)
                return;  // closed: as good as read and ignored
            else if (sent < 0)
                timing_ = {};  // no room: both sides have to move now
            turn();
            if (!timing_.reads_late) read_answers();
        } while (!piece.empty());
    }

    /// One turn of the loop, then the application's; too many mean a connection that hangs.
    void turn() {
        require(turns_left_-- > 0, "a connection does not hang");
        loop_->turn(0);
        if (timing_.answers_late) return;
        while (const std::shared_ptr<Exchange> exchange = ready_.try_pop()) {
            require(warnings_.refusals == 0, "nothing is seen behind a refusal");
            require(outcome_.seen.empty() || outcome_.seen.back().keeps_alive,
                    "nothing is seen behind an answer that closes");
            outcome_.seen.push_back(answer(*exchange));
        }
    }

    /// True: the server ended the connection.
    bool read_answers() {
        char bytes[16384];
        for (;;) {
            const ssize_t got = ::recv(client_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
            if (got > 0)
                received_.append(bytes, static_cast<size_t>(got));
            else
                return got == 0 || errno != EAGAIN;
        }
    }

    void judge_answers() {
        AnswerReader reader(received_);
        for (const Seen& request : outcome_.seen) {
            outcome_.statuses.push_back(reader.next(&request));
            require(outcome_.statuses.back() == request.status, "each request gets its answer");
        }
        const int refused_with = reader.next(nullptr);
        if (refused_with != 0) outcome_.statuses.push_back(refused_with);
        require(reader.next(nullptr) == 0, "nothing is answered behind a refusal");
        require(warnings_.refusals == (refused_with != 0 ? 1 : 0), "one warning a refusal");
    }

    Logger log_;
    AccessLog access_log_;
    Statsd statsd_;
    ReadyQueue ready_;
    Warnings warnings_;
    std::unique_ptr<Listener> listener_;
    std::unique_ptr<EventLoop> loop_;
    // One run:
    Fd client_;
    std::string received_;
    Outcome outcome_;
    Timing timing_;
    size_t turns_left_ = 0;
};

/// What the pure rooms make of the whole input; `was` tells which answers ended the connection.
void judge_requests(std::string_view input, const LoopOptions& options, const Outcome& was) {
    size_t at = 0;
    size_t count = 0;
    const auto ends = [&](int refused_with) {
        require(count == was.seen.size(), "every request is seen, and no other");
        require(was.statuses.size() == count + (refused_with != 0 ? 1 : 0), "each is answered");
        require(refused_with == 0 || was.statuses.back() == refused_with, "… with its status");
    };
    ProxyHeader proxy;
    switch (parse_proxy_header(input, options.proxy_mode, proxy)) {
        case ProxyParse::NeedMore: return ends(0);
        case ProxyParse::Bad: return ends(400);
        case ProxyParse::Absent: break;
        case ProxyParse::Done: at = proxy.used; break;
    }
    for (;;) {
        RequestHead head;
        HeadParser parser;
        HttpError error;
        size_t used = 0;
        const Parse parsed =
            parser.parse(input.substr(at), options.policy, {true, false}, head, used, error);
        if (parsed == Parse::NeedMore) return ends(0);
        if (parsed == Parse::Bad) return ends(error.status);
        at += used;
        BodyReader reader;
        reader.begin(head.framing, head.content_length, options.policy);
        std::string body;
        for (Parse more = Parse::NeedMore; more != Parse::Done;) {
            std::string_view data;
            more = reader.next(input.substr(at), used, data, error);
            if (more == Parse::Bad) return ends(error.status);
            at += used;
            body += data;
            if (more == Parse::NeedMore && used == 0) return ends(400);  // ended early
        }
        require(count < was.seen.size(), "every request is seen");
        const Seen& seen = was.seen[count++];
        require(seen.method == head.method && seen.target == head.target && seen.body == body,
                "a request is seen as it was sent");
        if (!seen.keeps_alive) return ends(0);
    }
}

LoopOptions tight() {
    LoopOptions options;
    options.proxy_mode = ProxyMode::Auto;
    options.policy.limit_request_line = 60;
    options.policy.limit_request_fields = 4;
    options.policy.limit_request_field_size = 60;
    options.policy.limit_request_body = 20;
    options.policy.header_map = HeaderMap::Refuse;
    options.policy.permit_obsolete_folding = true;
    return options;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static Engine engines[] = {Engine(LoopOptions()), Engine(tight())};
    if (size == 0) return 0;
    Engine& engine = engines[data[0] & 1];
    const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
    const Outcome whole = engine.run(input, {}, {});
    judge_requests(input, engine.options(), whole);
    std::vector<size_t> every;
    for (size_t i = 1; i < input.size(); ++i)
        every.push_back(i);
    const auto check = [&](const std::vector<size_t>& cuts, Engine::Timing timing) {
        require(engine.run(input, cuts, timing) == whole,
                "cut and timed otherwise, the same answer");
    };
    if (every.size() < 200) check(every, {});
    check({}, {true, true});
    check(fuzz::cuts_for(input, 2, 1), {});
    check(fuzz::cuts_for(input, 3, 2), {true, false});
    check(fuzz::cuts_for(input, 4, 3), {false, true});
    return 0;
}
