// Fuzz target: an application that answers with whatever it likes.
//
// The input is a script: request, status, fields, blocks. The wire is then read the way a strict
// client reads it. Invariants: it parses; it holds exactly the status and fields that were
// accepted, nothing else (no injection); its body has one framing and equals the blocks, cut to the
// length.
#include <string>
#include <utility>

#include "base/text.h"
#include "http_response.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace gcorn;
using fuzz::require;
using Fields = std::vector<std::pair<std::string, std::string>>;

/// Parses the script.
class Script {
public:
    explicit Script(std::string_view bytes) : rest_(bytes) {}
    [[nodiscard]] bool at_end() const { return rest_.empty(); }
    uint8_t byte() {
        if (rest_.empty()) return 0;
        const auto value = static_cast<uint8_t>(rest_.front());
        rest_.remove_prefix(1);
        return value;
    }
    std::string_view text() {
        const size_t size = byte();  // before rest_ is looked at
        const std::string_view value = rest_.substr(0, size);
        rest_.remove_prefix(value.size());
        return value;
    }

private:
    std::string_view rest_;
};

constexpr const char* kRequests[] = {
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
};
constexpr const char* kNames[] = {"Content-Length", "Connection", "Transfer-Encoding", "X",
                                  "Upgrade"};
constexpr const char* kValues[] = {"0",       "5",       "7",         "close",
                                   "upgrade", "chunked", "websocket", "a\tb"};

/// The head as a strict client reads it: every line ends with CRLF, names are tokens.
std::string read_head(std::string_view& wire, Fields& fields) {
    std::string status_line;
    for (bool is_first = true;; is_first = false) {
        const size_t end = wire.find("\r\n");
        require(end != std::string_view::npos, "the head ends");
        const std::string line(wire.substr(0, end));
        wire.remove_prefix(end + 2);
        for (const char c : line)
            require(!is_control(c) || c == '\t', "no control byte in the head");
        if (is_first) {
            status_line = line;
            continue;
        }
        if (line.empty()) return status_line;
        const size_t colon = line.find(':');
        require(colon != std::string::npos && is_token(line.substr(0, colon)), "a field line");
        fields.emplace_back(line.substr(0, colon), trim(line.substr(colon + 1)));
    }
}

std::string value_of(const Fields& fields, std::string_view name, int& count) {
    std::string value;
    count = 0;
    for (const auto& [have, text] : fields) {
        if (!iequals(have, name)) continue;
        value = text;
        ++count;
    }
    return value;
}

/// The body as a client extracts it; `is_complete` is false if only closing the connection can tell
/// that the rest is missing.
std::string read_body(std::string_view wire, const Fields& fields, bool has_none, bool is_unframed,
                      bool& is_complete) {
    int lengths = 0, codings = 0;
    const std::string length = value_of(fields, "Content-Length", lengths);
    const std::string coding = value_of(fields, "Transfer-Encoding", codings);
    require(lengths + codings <= 1, "one framing at most");
    is_complete = true;
    if (has_none) {
        require(wire.empty(), "no body where none may be");
        require(codings == 0, "no chunks where no body may be");
        return "";
    }
    if (is_unframed) require(lengths + codings == 0, "no framing after a switch");
    if (codings == 1) {
        require(coding == "chunked", "chunked only");
        std::string body;
        for (;;) {
            const size_t end = wire.find("\r\n");
            require(end != std::string_view::npos, "a chunk size line");
            const std::optional<uint64_t> size = fuzz::parse_hex(wire.substr(0, end));
            require(size.has_value(), "a chunk size");
            wire.remove_prefix(end + 2);
            require(*size <= wire.size(), "chunk data");
            const std::string_view data = wire.substr(0, static_cast<size_t>(*size));
            body += data;
            wire.remove_prefix(data.size());
            require(wire.starts_with("\r\n"), "the end of chunk data");
            wire.remove_prefix(2);
            if (data.empty()) break;
        }
        require(wire.empty(), "nothing behind the last chunk");
        return body;
    }
    if (lengths == 1) {
        const std::optional<uint64_t> wanted = parse_decimal(length);
        require(wanted && wire.size() <= *wanted, "never more than the length");
        is_complete = wire.size() == *wanted;
    }
    return std::string(wire);
}

void run(Script script) {
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    const std::string request = kRequests[script.byte() % std::size(kRequests)];
    const Parse parse = parser.parse(request, HttpPolicy(), {}, head, used, error);
    require(parse == Parse::Done, "the requests are valid");

    const ResponseOptions options{std::string(script.text())};
    ResponseWriter writer;
    const uint8_t flags = script.byte();
    writer.begin(head, (flags & 1) != 0, options);
    const bool is_common = (flags & 2) != 0;
    if (!writer.set_status(is_common ? "200 OK" : script.text())) return;

    Fields given;
    for (int i = script.byte() % 8; i > 0; --i) {
        const uint8_t choice = script.byte();
        const std::string name((choice & 1) != 0 ? kNames[choice / 4 % std::size(kNames)]
                                                 : script.text());
        const std::string value((choice & 2) != 0 ? kValues[choice / 4 % std::size(kValues)]
                                                  : script.text());
        if (writer.add_field(name, value)) given.emplace_back(name, trim(value));
    }
    std::string wire, blocks;
    const auto send = [&](const ResponseWriter::Pieces& pieces, std::string_view block) {
        require(pieces.take <= block.size(), "takes no more than offered");
        wire.append(pieces.before).append(pieces.part_of(block)).append(pieces.after);
    };
    for (int i = script.byte() % 5; i > 0; --i) {
        const std::string_view block = script.text();
        const bool is_last = i == 1 && (flags & 4) != 0;
        blocks += block;
        send(writer.body(block.size(), is_last), block);
    }
    send(writer.finish(), {});

    std::string_view rest = wire;
    Fields fields;
    const std::string status_line = read_head(rest, fields);
    const std::string reason = status_line.substr(9);
    require(status_line.substr(0, 9) == (head.is_http_11() ? "HTTP/1.1 " : "HTTP/1.0 "), "version");
    require(trim(reason) == trim(writer.status()), "the status that was set");

    const int code = writer.status_code();
    const bool has_none = head.is_head() || code == 204 || code == 304;
    const bool is_unframed = code == 101 || (head.method == "CONNECT" && code < 300);
    bool is_complete = false;
    const std::string body = read_body(rest, fields, has_none, is_unframed, is_complete);
    require(body.size() == writer.body_bytes(), "body bytes are counted");
    require(has_none || body == blocks.substr(0, body.size()), "the body is what was given");
    require(has_none || writer.is_cut() || body == blocks, "… all of it, unless it was cut");
    require(is_complete != writer.is_short(), "is_short tells the truth");

    int count = 0;
    const std::string connection = value_of(fields, "Connection", count);
    require(count == 1, "one Connection");
    if (!writer.keeps_alive()) {
        require(connection == "close" || is_unframed || writer.is_short(), "closing is announced");
    } else {
        require(head.is_http_11() || iequals(head.find(FieldId::Connection)->value, "keep-alive"),
                "asked");
        require(connection == "keep-alive" || connection == "upgrade", "keep-alive is announced");
        const bool is_framed = has_none || is_complete;
        int framings = 0, chunked = 0;
        value_of(fields, "Content-Length", framings);
        value_of(fields, "Transfer-Encoding", chunked);
        require(is_framed && (has_none || framings + chunked == 1),
                "a persistent answer has an end");
    }

    // The server's own fields are followed by the accepted ones, in order, except those it drops.
    auto next = given.begin();
    for (const auto& field : fields) {
        const std::string_view name = field.first;
        const bool is_own = iequals(name, "Server") || iequals(name, "Date") ||
                            iequals(name, "Connection") || iequals(name, "Transfer-Encoding");
        if (is_own) continue;
        next = std::find(next, given.end(), field);
        require(next != given.end(), "no field the application did not give");
        ++next;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    run(Script({reinterpret_cast<const char*>(data), size}));
    return 0;
}
