#include "log/statsd.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "log/sink.h"

namespace gcorn {

namespace {

constexpr std::string_view kUnixScheme = "unix://";

/// Resolves what StatsdOptions::host names.
Result<SocketAddress> find_target(const std::string& host) {
    if (host.starts_with(kUnixScheme)) return unix_socket_address(host.substr(kUnixScheme.size()));
    const std::optional<HostPort> target = parse_host_port(host, "8125");
    GCORN_CHECK(target);  // validated by the caller
    return resolve(target->host, target->port, AF_UNSPEC, SOCK_DGRAM);
}

}  // namespace

Status validate_statsd_host(std::string_view host) {
    const bool is_unix = host.starts_with(kUnixScheme);
    if (is_unix ? host.size() > kUnixScheme.size() : parse_host_port(host, "8125").has_value())
        return {};
    return Error{0, "Value must be one of ('host:port', 'unix://PATH')"};
}

Status Statsd::open(const StatsdOptions& options) {
    if (options.host.empty()) {
        socket_.reset();
        return {};
    }
    if (Status status = validate_statsd_host(options.host); !status) return status;
    if (Status status = connect(options.host); !status) return status;
    host_ = options.host;
    prefix_ = options.prefix.substr(0, options.prefix.find_last_not_of('.') + 1);
    if (!prefix_.empty()) prefix_ += '.';
    suffix_ = options.tags.empty() ? "" : "|#" + options.tags;
    return {};
}

void Statsd::reopen() {
    // Metrics are expendable: a name that no longer resolves leaves the old address in use.
    if (is_enabled()) static_cast<void>(connect(host_).is_ok());
}

Status Statsd::connect(const std::string& host) {
    Result<SocketAddress> address = find_target(host);
    if (!address) return Error{address.error().code, "statsd: " + address.message()};
    const SocketAddress* current = target_.load();
    if (is_enabled() && current && *current == *address) return {};

    Fd fresh = open_socket(address->family(), SOCK_DGRAM);
    if (!fresh) return errno_error(errno, "statsd: socket for " + host);
    // A failure here is repaired by send_datagram, which connects again when it has to.
    static_cast<void>(::connect(fresh.get(), address->raw(), address->size));
    target_.store(&targets_.emplace_back(*address));
    if (!is_enabled())
        socket_ = std::move(fresh);
    else if (!replace_descriptor(fresh, socket_.get()))
        return errno_error(errno, "statsd: dup");
    return {};
}

void Statsd::error_record(Level level, std::string_view message) {
    if (level < Level::Warning) return;
    const bool has_traceback = message.find(kTracebackStart) != std::string_view::npos;
    const char* const name = level == Level::Critical  ? "critical"
                             : level == Level::Warning ? "warning"
                             : has_traceback           ? "exception"
                                                       : "error";
    send("gunicorn.log." + std::string(name) + ":", "1", "|c|@1.0");
}

void Statsd::request(int status_code, int64_t duration_us) {
    const int64_t us = std::max<int64_t>(duration_us, 0);
    // Milliseconds as Python prints a float: at least one decimal, no zeros after it.
    char duration[32];
    const int size = std::snprintf(duration, sizeof duration, "%lld.%03d",
                                   static_cast<long long>(us / 1000), static_cast<int>(us % 1000));
    std::string_view text(duration, static_cast<size_t>(size));
    for (int zeros = 0; zeros < 2 && text.back() == '0'; ++zeros)
        text.remove_suffix(1);

    send("gunicorn.request.duration:", text, "|ms");
    send("gunicorn.requests:", "1", "|c|@1.0");
    send("gunicorn.request.status." + std::to_string(status_code) + ":", "1", "|c|@1.0");
}

void Statsd::send(std::string_view name, std::string_view value, std::string_view type) {
    if (!is_enabled()) return;
    std::string datagram;
    datagram.reserve(prefix_.size() + name.size() + value.size() + type.size() + suffix_.size());
    ((((datagram += prefix_) += name) += value) += type) += suffix_;
    static_cast<void>(send_datagram(socket_.get(), *target_.load(), datagram));
}

}  // namespace gcorn
