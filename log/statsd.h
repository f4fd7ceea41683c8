// Metrics for a statsd server: one small datagram each, over UDP or a unix datagram socket.
//
// gunicorn's names and forms (gunicorn.requests, gunicorn.request.duration, gunicorn.workers …).
// The socket never blocks and a datagram that cannot be sent is dropped without a word: metrics may
// not slow or fail a request. A Statsd that was never opened sends nothing. Made once in
// server.cpp. open() while no other thread uses the object, reopen() on one thread while others may
// send, the metrics on any thread. Called by arbiter, worker and the Logger (set_counter).
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "base/socket_address.h"
#include "log/log.h"

namespace gcorn {

struct StatsdOptions {
    std::string host;    ///< HOST[:PORT] (8125), [IPV6]:PORT or unix://PATH; "" = off
    std::string prefix;  ///< "" or a name; its trailing dots collapse to one
    std::string tags;    ///< dogstatsd tags without "#", e.g. "env:prod,app:shop"; "" = none
};

/// Ok if `host` has one of the forms above ("unix:8125" is a host called unix); the Error's
/// sentence is gunicorn's. Pure.
Status validate_statsd_host(std::string_view host);

class Statsd : public LogObserver {
public:
    Statsd() = default;
    Statsd(Statsd&&) = delete;

    /// Resolves the host and connects; host "" turns metrics off. May wait for DNS. An unknown host
    /// or a malformed one is an Error and leaves the object as it was; a unix socket that does not
    /// exist yet is none: datagrams are dropped until it does.
    Status open(const StatsdOptions& options);

    /// Resolves and connects again, for servers that moved; keeps the old target if that fails.
    void reopen();

    [[nodiscard]] bool is_enabled() const { return socket_.is_open(); }

    /// One finished request: counter, duration and status counter (three datagrams).
    void request(int status_code, int64_t duration_us);
    /// Gauge of worker processes; call when the number changes.
    void workers(int64_t count) { send("gunicorn.workers:", std::to_string(count), "|g"); }
    /// Connections waiting in the listeners' accept queues.
    void backlog(int64_t count) { send("gunicorn.backlog:", std::to_string(count), "|h"); }

    /// As LogObserver: counts a record of warning or above; an error with a Python traceback counts
    /// as an exception.
    void error_record(Level level, std::string_view message) override;

private:
    void send(std::string_view name, std::string_view value, std::string_view type);
    Status connect(const std::string& host);

    Fd socket_;  ///< non-blocking datagram socket; closed = off. Its number never changes.
    std::string host_;
    std::string prefix_;  ///< "" or "name."
    std::string suffix_;  ///< "" or "|#tags"
    /// The last of targets_. Old ones stay: another thread may be sending to one (there is a new
    /// one only when the address really changed).
    std::atomic<const SocketAddress*> target_{nullptr};
    std::list<SocketAddress> targets_;
};

}  // namespace gcorn
