// The clients of lifecycle_fuzz: each does what a step of the program says, remembers what it sent,
// and judges what it got.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "net/address.h"
#include "net/buffer.h"
#include "net/transform.h"
#include "tests/fuzz/fuzz.h"

namespace gcorn::fuzz {

/// Stands in for TLS, without cryptography: control bytes between those of HTTP.
class ControlBytes final : public ByteTransform {
public:
    static constexpr char kOpen = '\x16', kGoodbye = '\x15', kNothing = '\x17', kBroken = '\x18';
    static constexpr std::string_view kAll = "\x15\x16\x17\x18";

    Status feed(std::string_view wire, bool is_eof, std::string& plain) override {
        while (!wire.empty() && !is_ended_) {
            const char byte = wire[0];
            if (byte == kBroken || (!is_open_ && byte != kOpen)) return Error{EPROTO, "broken"};
            const size_t size = std::min(wire.size(), wire.find_first_of(kAll));
            plain += wire.substr(0, size);
            wire.remove_prefix(std::max<size_t>(size, 1));
            is_ended_ = byte == kGoodbye;
            is_open_ = true;
            if (byte == kOpen || (byte == kNothing && wire.empty())) wire_ += byte;
        }
        return is_eof && !is_ended_ ? Status(Error{EPROTO, "no goodbye"}) : Status();
    }
    Status write(std::string_view plain) override {
        require(!is_closed_, "nothing is said behind a goodbye");
        wire_ += plain;
        return {};
    }
    void drain(std::string& wire) override { wire += std::exchange(wire_, {}); }
    [[nodiscard]] bool is_open() const override { return is_open_; }
    [[nodiscard]] bool is_ended() const override { return is_ended_; }
    void close() override {
        if (!std::exchange(is_closed_, true)) wire_ += kGoodbye;
    }
    static Result<std::unique_ptr<ByteTransform>> make() {
        return std::unique_ptr<ByteTransform>(std::make_unique<ControlBytes>());
    }

private:
    std::string wire_;
    bool is_open_ = false, is_ended_ = false, is_closed_ = false;
};

class Client {
public:
    bool stays = false;  ///< it takes all it is sent

    void connect(const Address& address, int kind, bool is_tls) {
        fd_ = Fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
        const int size = (kind & 1) != 0 ? 4096 : 200'000;
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        if (::connect(fd_.get(), address.raw(), address.size) != 0) fd_.reset();
        stays = address.family() == AF_UNIX;  // TCP delivers later
        is_tls_ = is_tls;
        if ((kind & 2) != 0) out_ += "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n";
        if (is_tls && (kind & 4) == 0) out_ += ControlBytes::kOpen;
        if ((kind & 8) != 0) send(0);
    }

    void say(int kind, size_t& last_id) {
        if (!fd_ || out_.size() > 1'000'000) return;
        const auto request = [&](std::string_view end, const std::string& body = "") {
            ids_.push_back(++last_id);
            out_ += (body.empty() ? "GET /" : "POST /") + std::to_string(last_id);
            out_ += end;
            if (!body.empty())
                out_ += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
        };
        const auto control = [&](char byte, char plain) { out_ += is_tls_ ? byte : plain; };
        const std::string fields = " HTTP/1.1\r\nHost: a\r\n";
        const std::string chunked = fields + "Transfer-Encoding: chunked\r\n\r\n";
        switch (kind % 16) {
            case 0: break;  // sends what is left
            case 1: request(fields + "\r\n"); [[fallthrough]];
            case 2: request(fields + "\r\n"); break;
            case 3: request(" HTTP/1.0\r\n\r\n"); break;
            case 4: request(fields + "Connection: close\r\n\r\n"); break;
            case 5: request(fields, "body"); break;
            case 6: request(fields, std::string(5000, 'u')); break;
            case 7: request(fields, std::string(kSpoolMemoryMax + 1, 'u')); break;
            case 8: request(fields + "Expect: 100-continue\r\n", "body"); break;
            case 9: request(chunked + "5\r\nchunk\r\n0\r\n\r\n"); break;
            case 10: request(chunked + "no"); break;
            case 11: out_ += "\x01 garbage\r\n\r\n"; break;
            case 12: out_ += "\r\n"; break;
            case 13: control(ControlBytes::kGoodbye, 'G'); break;
            case 14: out_ += std::string(20'000, is_tls_ ? ControlBytes::kNothing : 'x'); break;
            case 15: control(ControlBytes::kBroken, '\n'); break;
        }
        stays = stays && !(is_tls_ && kind % 16 > 13);
        send(kind / 16);
    }

    /// Sends part of what is waiting: all, all but a byte, half of it, a byte.
    void send(int part) {
        const size_t size = out_.size();
        if (!fd_ || size == 0) return;
        const std::array<size_t, 4> parts = {size, size - 1, size / 2, 1};
        const ssize_t sent = ::send(fd_.get(), out_.data(), parts[static_cast<size_t>(part)],
                                    MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) out_.erase(0, static_cast<size_t>(sent));
    }

    void read(size_t bytes_max) {
        char bytes[65536];
        while (fd_ && bytes_max > 0) {
            const ssize_t got =
                ::recv(fd_.get(), bytes, std::min(sizeof bytes, bytes_max), MSG_DONTWAIT);
            if (got <= 0) return;
            received_.append(bytes, static_cast<size_t>(got));
            bytes_max -= static_cast<size_t>(got);
        }
    }
    [[nodiscard]] size_t moved() const { return received_.size() - out_.size(); }

    void shut() {
        if (fd_) ::shutdown(fd_.get(), SHUT_WR);
    }

    /// whole: ids of the requests whose answers went out to the last byte.
    void leave(bool resets, const std::vector<size_t>& whole) {
        if (!fd_) return;
        const linger reset{resets, 0};
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        judge(whole);
        *this = {};
    }

    [[nodiscard]] bool has_sent(size_t id) const {
        return std::find(ids_.begin(), ids_.end(), id) != ids_.end();
    }
    /// How the answer to a request begins, and ends.
    static constexpr const char* kIdField = "X-Id";
    static std::string end_of(size_t id) { return "end:" + std::to_string(id) + ";"; }

private:
    void judge(const std::vector<size_t>& whole) {
        std::string& text = received_;
        for (const char byte : ControlBytes::kAll)
            if (text.find(byte) != text.npos) std::erase(text, byte);
        require(std::string_view("HTTP/1.").starts_with(text.substr(0, 7)), "a status line");
        const std::string field = std::string(kIdField) + ": ";
        for (size_t at = 0, last = 0; (at = text.find(field, at)) != text.npos; ++at) {
            const size_t id = std::strtoul(text.c_str() + at + field.size(), nullptr, 10);
            require(id > last && has_sent(id), "answers come in order, and once");
            last = id;
        }
        for (const size_t id : whole)
            require(!stays || !has_sent(id) || text.find(end_of(id)) != text.npos,
                    "who stays gets each answer as a whole");
    }

    Fd fd_;
    std::string out_, received_;
    std::vector<size_t> ids_;  ///< of its requests
    bool is_tls_ = false;
};

}  // namespace gcorn::fuzz
