#include "tests/support/http_client.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ostream>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace gcorn::e2e {
namespace {

using Clock = std::chrono::steady_clock;

bool same_name(std::string_view a, std::string_view b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
        return std::tolower(x) == std::tolower(y);
    });
}

bool is_token(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || std::strchr("!#$%&'*+-.^_`|~", c) != nullptr;
    });
}

bool is_field_value(std::string_view text) {
    return std::all_of(text.begin(), text.end(),
                       [](unsigned char c) { return c == '\t' || (c >= 0x20 && c != 0x7f); });
}

std::optional<uint64_t> parse_number(std::string_view text, int base) {
    uint64_t value = 0;
    const auto [end, failure] =
        std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (text.empty() || failure != std::errc{} || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return value;
}

/// Waits until fd is ready for `events`; false on timeout.
bool wait_for(int fd, short events, Clock::time_point until) {
    for (;;) {
        const auto left = std::chrono::duration_cast<Milliseconds>(until - Clock::now()).count();
        pollfd entry{.fd = fd, .events = events, .revents = 0};
        const int ready = ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(left, 0)));
        if (ready > 0) return true;
        if (ready == 0 && left <= 0) return false;
        if (ready < 0 && errno != EINTR) return false;
    }
}

/// Bytes for a message: unprintable ones become \xNN.
std::string printable(std::string_view bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    std::string text;
    for (const char byte : bytes) {
        const auto c = static_cast<unsigned char>(byte);
        if (c == '\n' || (c >= 0x20 && c < 0x7f)) {
            text += byte;
        } else {
            text += {'\\', 'x', kDigits[c >> 4], kDigits[c & 15]};
        }
    }
    return text;
}

int open_socket(const Endpoint& endpoint, sockaddr_storage& address, socklen_t& size) {
    if (!endpoint.path.empty()) {
        auto& to = reinterpret_cast<sockaddr_un&>(address);
        to.sun_family = AF_UNIX;
        endpoint.path.copy(to.sun_path, sizeof(to.sun_path) - 1);
        size = sizeof(sockaddr_un);
        return ::socket(AF_UNIX, SOCK_STREAM, 0);
    }
    if (endpoint.is_v6) {
        auto& to = reinterpret_cast<sockaddr_in6&>(address);
        to.sin6_family = AF_INET6;
        to.sin6_addr = in6addr_loopback;
        to.sin6_port = htons(static_cast<uint16_t>(endpoint.port));
        size = sizeof(sockaddr_in6);
        return ::socket(AF_INET6, SOCK_STREAM, 0);
    }
    auto& to = reinterpret_cast<sockaddr_in&>(address);
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<uint16_t>(endpoint.port));
    size = sizeof(sockaddr_in);
    return ::socket(AF_INET, SOCK_STREAM, 0);
}

}  // namespace

std::string Response::field(std::string_view name) const {
    std::string values;
    for (const auto& [key, value] : fields) {
        if (same_name(key, name)) values += (values.empty() ? "" : "|") + value;
    }
    return values;
}

size_t Response::count(std::string_view name) const {
    return static_cast<size_t>(std::count_if(fields.begin(), fields.end(), [&](const auto& field) {
        return same_name(field.first, name);
    }));
}

bool Response::says_close() const {
    return same_name(field("Connection"), "close");
}

std::ostream& operator<<(std::ostream& out, const Response& response) {
    out << "\n--- answer" << (response.error.empty() ? "" : ", broken: ") << response.error << "\n"
        << response.version << ' ' << response.status << ' ' << response.reason << "\n";
    for (const auto& [name, value] : response.fields)
        out << name << ": " << value << "\n";
    return out << "\n"
               << printable(response.body.substr(0, 2000)) << "\n--- (" << response.body_bytes
               << " bytes of body)\n";
}

Client::Client(const Endpoint& endpoint, Milliseconds deadline) {
    const auto until = Clock::now() + deadline;
    sockaddr_storage address{};
    socklen_t size = 0;
    fd_ = open_socket(endpoint, address, size);
    if (fd_ < 0) return;
    ::fcntl(fd_, F_SETFD, FD_CLOEXEC);
    ::fcntl(fd_, F_SETFL, O_NONBLOCK);
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on,
                 sizeof on);  // fails on Unix sockets: no matter
    int failure = 0;
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), size) != 0) {
        failure = errno;
        if (failure == EINPROGRESS && wait_for(fd_, POLLOUT, until)) {
            socklen_t length = sizeof failure;
            ::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &failure, &length);
        }
    }
    if (failure != 0) {
        ::close(fd_);
        fd_ = -1;
    }
}

Client::~Client() {
    if (fd_ >= 0) ::close(fd_);
}

Client::Client(Client&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), buffer_(std::move(other.buffer_)) {}

bool Client::send(std::string_view bytes, Milliseconds deadline) {
    const auto until = Clock::now() + deadline;
    while (!bytes.empty()) {
        const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent >= 0) {
            bytes.remove_prefix(static_cast<size_t>(sent));
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!wait_for(fd_, POLLOUT, until)) return false;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

void Client::finish_sending() {
    ::shutdown(fd_, SHUT_WR);
}

void Client::reset() {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    ::close(std::exchange(fd_, -1));
}

Client::Got Client::fill(Clock::time_point until) {
    char block[65536];
    for (;;) {
        const ssize_t got = ::recv(fd_, block, sizeof block, 0);
        if (got > 0) {
            buffer_.append(block, static_cast<size_t>(got));
            return Got::Bytes;
        }
        if (got == 0) return Got::End;
        if (errno == EINTR) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK) return Got::Error;
        if (!wait_for(fd_, POLLIN, until)) return Got::Timeout;
    }
}

std::string Client::read_some(Milliseconds deadline) {
    if (buffer_.empty()) fill(Clock::now() + deadline);
    return std::exchange(buffer_, {});
}

std::string Client::read_to_end(Milliseconds deadline) {
    const auto until = Clock::now() + deadline;
    for (;;) {
        switch (fill(until)) {
            case Got::Bytes: break;
            case Got::End:
            case Got::Error: return std::exchange(buffer_, {});
            case Got::Timeout: return std::exchange(buffer_, {}) + kStillOpen;
        }
    }
}

bool Client::closes_within(Milliseconds deadline) {
    if (!buffer_.empty()) return false;
    const Got got = fill(Clock::now() + deadline);
    return got == Got::End || got == Got::Error;
}

bool Client::read_head(Response& response, Clock::time_point until) {
    for (;;) {
        const size_t end = buffer_.find("\r\n\r\n");
        if (end != std::string::npos) {
            const std::string head = buffer_.substr(0, end + 2);
            buffer_.erase(0, end + 4);
            return parse_head(head, response);
        }
        const Got got = fill(until);
        if (got == Got::Bytes) continue;
        response.error = got == Got::Timeout ? "no complete head in time"
                         : buffer_.empty()   ? "closed without an answer"
                                             : "closed inside the head";
        if (got == Got::Error) response.error += " (reset)";
        if (!buffer_.empty()) response.error += ": " + buffer_.substr(0, 200);
        return false;
    }
}

bool Client::parse_head(std::string_view head, Response& response) {
    const auto bad = [&](std::string_view why, std::string_view line) {
        response.error = std::string(why) + ": " + std::string(line);
        return false;
    };
    size_t end = head.find("\r\n");
    const std::string_view line = head.substr(0, end);
    // status-line = HTTP-version SP status-code SP [ reason-phrase ] (RFC 9112 §4)
    if (line.size() < 13 || line.substr(0, 7) != "HTTP/1." || line[8] != ' ' || line[12] != ' ') {
        return bad("malformed status line", line);
    }
    const auto status = parse_number(line.substr(9, 3), 10);
    if (!status || *status < 100 || !is_field_value(line))
        return bad("malformed status line", line);
    response.version = line.substr(0, 8);
    response.status = static_cast<int>(*status);
    response.reason = line.substr(13);
    head.remove_prefix(end + 2);
    while (!head.empty()) {
        end = head.find("\r\n");
        const std::string_view field = head.substr(0, end);
        const size_t colon = field.find(':');
        if (colon == std::string_view::npos || !is_token(field.substr(0, colon)) ||
            !is_field_value(field)) {
            return bad("malformed field", field);
        }
        std::string_view value = field.substr(colon + 1);
        while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) {
            value.remove_prefix(1);
        }
        response.fields.emplace_back(field.substr(0, colon), value);
        head.remove_prefix(end + 2);
    }
    return true;
}

bool Client::read_line(std::string& line, Clock::time_point until) {
    size_t end = 0;
    while ((end = buffer_.find("\r\n")) == std::string::npos) {
        if (fill(until) != Got::Bytes) return false;
    }
    line = buffer_.substr(0, end);
    buffer_.erase(0, end + 2);
    return true;
}

bool Client::read_exactly(uint64_t count, Response& response, Clock::time_point until,
                          const Sink& sink) {
    while (count > 0) {
        if (buffer_.empty()) {
            const Got got = fill(until);
            if (got != Got::Bytes) {
                response.error = (got == Got::Timeout ? "no more body in time, missing "
                                                      : "closed inside the body, missing ") +
                                 std::to_string(count) + " bytes";
                return false;
            }
        }
        const auto take = static_cast<size_t>(std::min<uint64_t>(count, buffer_.size()));
        if (sink) {
            sink(std::string_view(buffer_).substr(0, take));
        } else {
            response.body.append(buffer_, 0, take);
        }
        buffer_.erase(0, take);
        response.body_bytes += take;
        count -= take;
    }
    return true;
}

void Client::read_chunks(Response& response, Clock::time_point until, const Sink& sink) {
    response.is_chunked = true;
    std::string line;
    for (;;) {
        if (!read_line(line, until)) {
            response.error = "no complete chunk size: " + buffer_.substr(0, 100);
            return;
        }
        const auto size = parse_number(line, 16);  // gcorn sends no extensions
        if (!size) {
            response.error = "malformed chunk size: " + line;
            return;
        }
        if (*size == 0) break;
        response.chunks.push_back(static_cast<size_t>(*size));
        if (!read_exactly(*size, response, until, sink)) return;
        if (!read_line(line, until) || !line.empty()) {
            response.error = "chunk data not followed by CRLF";
            return;
        }
    }
    if (!read_line(line, until) || !line.empty()) response.error = "last chunk without its end";
}

void Client::read_body(Response& response, Clock::time_point until, const Sink& sink) {
    const size_t lengths = response.count("Content-Length");
    const bool coded = response.count("Transfer-Encoding") > 0;
    if (lengths + (coded ? 1 : 0) > 1) {
        response.error = "more than one framing (RFC 9112 section 6.3)";
    } else if (coded && response.field("Transfer-Encoding") != "chunked") {
        response.error = "unknown transfer coding";
    } else if (coded) {
        read_chunks(response, until, sink);
    } else if (lengths == 1) {
        const auto length = parse_number(response.field("Content-Length"), 10);
        if (!length) {
            response.error = "malformed Content-Length";
            return;
        }
        read_exactly(*length, response, until, sink);
    } else {
        response.until_close = true;
        Got got = Got::Bytes;
        while (got == Got::Bytes) {
            read_exactly(buffer_.size(), response, until, sink);
            got = fill(until);
        }
        if (got != Got::End) response.error = "body until close, but no orderly close";
    }
}

Response Client::read_response(std::string_view method, Milliseconds deadline, const Sink& sink) {
    const auto until = Clock::now() + deadline;
    std::vector<int> interim;
    for (;;) {
        Response response;
        response.interim = interim;
        if (fd_ < 0) {
            response.error = "not connected";
            return response;
        }
        if (!read_head(response, until)) return response;
        if (response.status / 100 == 1 && response.status != 101) {
            interim.push_back(response.status);
            continue;
        }
        // Answers without a body whatever their fields say (RFC 9112 §6.3, rule 1).
        if (method != "HEAD" && response.status != 204 && response.status != 304 &&
            response.status != 101) {
            read_body(response, until, sink);
        }
        return response;
    }
}

Response Client::request(std::string_view method, std::string_view target, const Fields& fields,
                         std::string_view body) {
    send(make_request(method, target, fields, body));  // a refusal may cut it short: read anyway
    return read_response(method);
}

std::string make_request(std::string_view method, std::string_view target, const Fields& fields,
                         std::string_view body) {
    std::string text = std::string(method) + " " + std::string(target) + " HTTP/1.1\r\n";
    bool has_host = false;
    for (const auto& [name, value] : fields) {
        has_host = has_host || same_name(name, "Host");
        text += name + ": " + value + "\r\n";
    }
    if (!has_host) text += "Host: test.example\r\n";
    if (!body.empty()) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    return text + "\r\n" + std::string(body);
}

Response fetch(const Endpoint& endpoint, std::string_view method, std::string_view target,
               const Fields& fields, std::string_view body) {
    Client client(endpoint);
    return client.request(method, target, fields, body);
}

Pattern::Pattern() {
    twice_.reserve(2 * kPeriod);
    for (size_t i = 0; i < 2 * kPeriod; ++i) {
        const size_t at = i % kPeriod;
        twice_ += static_cast<char>((at * 31 + (at >> 8)) & 0xff);
    }
}

std::string Pattern::bytes(uint64_t position, size_t count) const {
    std::string out;
    out.reserve(count);
    while (out.size() < count) {
        const auto at = static_cast<size_t>((position + out.size()) % kPeriod);
        out.append(twice_, at, std::min(kPeriod, count - out.size()));
    }
    return out;
}

bool Pattern::matches(uint64_t position, std::string_view bytes) const {
    while (!bytes.empty()) {
        const auto at = static_cast<size_t>(position % kPeriod);
        const size_t run = std::min(kPeriod, bytes.size());
        if (std::memcmp(twice_.data() + at, bytes.data(), run) != 0) return false;
        position += run;
        bytes.remove_prefix(run);
    }
    return true;
}

}  // namespace gcorn::e2e
