// A raw HTTP/1.1 client for the end-to-end tests: sends exactly the bytes it is given and reads
// answers with a parser that forgives nothing (RFC 9112), so that a test which sees a Response
// knows that its framing was right. Every wait has a deadline; nothing throws. One thread per
// Client.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gcorn::e2e {

using Milliseconds = std::chrono::milliseconds;

/// How long a test waits for anything before it calls that a failure. Generous: a loaded machine
/// must not fail a test; a test about time states its own bound.
constexpr Milliseconds kDeadline{20'000};

using Fields = std::vector<std::pair<std::string, std::string>>;

/// One answer. `error` is empty if and only if it was complete and well-formed.
struct Response {
    std::string error;    ///< what was wrong or missing
    std::string version;  ///< "HTTP/1.1"
    int status = 0;
    std::string reason;
    Fields fields;     ///< in order, as spelt
    std::string body;  ///< decoded; empty when a sink took it
    uint64_t body_bytes = 0;
    std::vector<size_t> chunks;  ///< sizes of the chunks, except the last-chunk
    bool is_chunked = false;
    bool until_close = false;  ///< framed by the end of the connection
    std::vector<int> interim;  ///< statuses of 1xx answers before this one

    [[nodiscard]] bool ok() const { return error.empty(); }
    /// Values of all fields of that name (case-insensitive), joined by "|"; empty if there are
    /// none.
    [[nodiscard]] std::string field(std::string_view name) const;
    [[nodiscard]] size_t count(std::string_view name) const;
    /// Whether the server announced that it closes.
    [[nodiscard]] bool says_close() const;
};

/// For gtest messages: the whole answer, bodies truncated.
std::ostream& operator<<(std::ostream& out, const Response& response);

/// Where to connect: a port on 127.0.0.1 (or [::1]), or a Unix socket.
struct Endpoint {
    int port = 0;
    std::string path = {};
    bool is_v6 = false;
};

class Client {
public:
    explicit Client(const Endpoint& endpoint, Milliseconds deadline = kDeadline);
    ~Client();
    Client(Client&& other) noexcept;
    Client& operator=(Client&&) = delete;
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    [[nodiscard]] bool connected() const { return fd_ >= 0; }
    [[nodiscard]] int fd() const { return fd_; }

    /// Sends all of it; false if the peer does not take it in time or is gone.
    bool send(std::string_view bytes, Milliseconds deadline = kDeadline);
    /// Half-closes: the server sees the end of our bytes.
    void finish_sending();
    /// Closes with RST instead of FIN.
    void reset();

    using Sink = std::function<void(std::string_view)>;
    /// Reads one final answer (1xx before it are noted). `method` is that of the request it
    /// answers: the answer to HEAD has no body. With a sink, the decoded body goes there as it
    /// arrives.
    Response read_response(std::string_view method = "GET", Milliseconds deadline = kDeadline,
                           const Sink& sink = nullptr);
    /// read_response after sending a request made of these parts; adds Host, and Content-Length if
    /// there is a body.
    Response request(std::string_view method, std::string_view target, const Fields& fields = {},
                     std::string_view body = {});
    Response get(std::string_view target, const Fields& fields = {}) {
        return request("GET", target, fields);
    }

    /// Bytes that arrive in time: at least one unless the peer closed or time ran out.
    std::string read_some(Milliseconds deadline = kDeadline);
    /// Everything up to the end of the connection; ends in kStillOpen if that does not come in
    /// time.
    std::string read_to_end(Milliseconds deadline = kDeadline);
    static constexpr const char* kStillOpen = "[still open]";
    /// Whether the peer closed (with nothing left to read before that); waits at most that long.
    bool closes_within(Milliseconds deadline);

private:
    enum class Got { Bytes, End, Timeout, Error };
    Got fill(std::chrono::steady_clock::time_point until);
    bool read_head(Response& response, std::chrono::steady_clock::time_point until);
    bool parse_head(std::string_view head, Response& response);
    void read_body(Response& response, std::chrono::steady_clock::time_point until,
                   const Sink& sink);
    bool read_line(std::string& line, std::chrono::steady_clock::time_point until);
    void read_chunks(Response& response, std::chrono::steady_clock::time_point until,
                     const Sink& sink);
    bool read_exactly(uint64_t count, Response& response,
                      std::chrono::steady_clock::time_point until, const Sink& sink);

    int fd_ = -1;
    std::string buffer_;  // received, not yet parsed
};

/// The text of a request: request line, Host (unless among the fields), the fields, Content-Length
/// if there is a body, and the body.
std::string make_request(std::string_view method, std::string_view target,
                         const Fields& fields = {}, std::string_view body = {});

/// One request on a connection of its own.
Response fetch(const Endpoint& endpoint, std::string_view method, std::string_view target,
               const Fields& fields = {}, std::string_view body = {});

/// Byte `position` of the endless pattern that the transfer tests send and expect; its period is a
/// prime, so lost, doubled or displaced pieces of any size show. tests/apps/probe.py knows it, too.
class Pattern {
public:
    static constexpr size_t kPeriod = 65521;
    Pattern();
    /// `count` bytes from `position` on.
    [[nodiscard]] std::string bytes(uint64_t position, size_t count) const;
    [[nodiscard]] bool matches(uint64_t position, std::string_view bytes) const;

private:
    std::string twice_;  // two periods, so that any run of one period is contiguous
};

}  // namespace gcorn::e2e
