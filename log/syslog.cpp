#include "log/syslog.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/text.h"

namespace gcorn {

namespace {

constexpr int kSyslogConnectWaitMs = 1000;  ///< only in open()
constexpr size_t kSyslogBytesMax = 8192;    ///< rsyslog's and syslog-ng's default limit

/// RFC 3164 §4.1.1
constexpr std::pair<std::string_view, int> kFacilities[] = {
    {"kern", 0},     {"user", 1},      {"mail", 2},    {"daemon", 3},  {"auth", 4},
    {"security", 4}, {"syslog", 5},    {"lpr", 6},     {"news", 7},    {"uucp", 8},
    {"cron", 9},     {"authpriv", 10}, {"ftp", 11},    {"local0", 16}, {"local1", 17},
    {"local2", 18},  {"local3", 19},   {"local4", 20}, {"local5", 21}, {"local6", 22},
    {"local7", 23}};

/// Code of a facility's name in any case, or -1.
int facility_code(std::string_view name) {
    for (const auto& [facility, code] : kFacilities)
        if (iequals(facility, name)) return code;
    return -1;
}

/// What --log-syslog-to names.
struct SyslogTarget {
    int type = SOCK_DGRAM;
    bool is_either = false;  ///< a unix path without suffix: a stream if it takes no datagrams
    std::string path;        ///< "" = host
    HostPort host;
};

std::optional<SyslogTarget> parse_syslog_address(std::string_view text) {
    SyslogTarget out;
    const std::string_view scheme = text.substr(0, text.find("://"));
    if (scheme.size() == text.size()) return std::nullopt;
    const std::string_view rest = text.substr(scheme.size() + 3);
    if (scheme == "unix") {
        const std::string_view path = rest.substr(0, rest.find('#'));
        const std::string_view kind = rest.substr(path.size());
        if (path.empty() || !(kind.empty() || kind == "#dgram" || kind == "#stream"))
            return std::nullopt;
        out.path = path;
        out.type = kind == "#stream" ? SOCK_STREAM : SOCK_DGRAM;
        out.is_either = kind.empty();
        return out;
    }
    if (scheme != "udp" && scheme != "tcp") return std::nullopt;
    const std::optional<HostPort> host = parse_host_port(rest, "514");
    if (!host) return std::nullopt;
    out.host = *host;
    out.type = scheme == "tcp" ? SOCK_STREAM : SOCK_DGRAM;
    return out;
}

}  // namespace

Status validate_syslog_address(std::string_view address) {
    if (parse_syslog_address(address)) return {};
    return Error{0, "invalid syslog address: '" + std::string(address) + "'"};
}

Status validate_syslog_facility(std::string_view name) {
    if (facility_code(name) >= 0) return {};
    return Error{0, "unknown facility name: '" + std::string(name) + "'"};
}

Result<std::unique_ptr<SyslogSink>> SyslogSink::open(const LogOptions& options) {
    if (Status status = validate_syslog_address(options.syslog_addr); !status)
        return status.error();
    if (Status status = validate_syslog_facility(options.syslog_facility); !status)
        return status.error();
    auto sink = std::make_unique<SyslogSink>();
    sink->facility_ = facility_code(options.syslog_facility);
    std::string prefix = options.syslog_prefix;
    if (prefix.empty()) {
        prefix = options.process_name;
        std::replace(prefix.begin(), prefix.end(), ':', '.');
    }
    sink->tag_ = prefix.empty() ? "gunicorn." : "gunicorn." + prefix + ".";
    if (Status status = sink->find(options.syslog_addr); !status)
        return Error{status.error().code, "syslog: " + status.message()};
    return sink;
}

/// Resolves the target, decides on the socket type and connects.
Status SyslogSink::find(std::string_view address) {
    const SyslogTarget target = *parse_syslog_address(address);  // validated by open()
    type_ = target.type;
    Result<SocketAddress> resolved =
        target.path.empty() ? resolve(target.host.host, target.host.port, AF_UNSPEC, type_)
                            : unix_socket_address(target.path);
    if (!resolved) return resolved.error();
    address_ = *resolved;
    int failure = connect();
    if (failure == EPROTOTYPE && target.is_either) {
        type_ = SOCK_STREAM;
        failure = connect();
    }
    if (!socket_) return errno_error(failure, "socket");
    // The first records come at once; the TCP handshake should be over by then.
    if (failure == EINPROGRESS) static_cast<void>(is_writable(socket_.get(), kSyslogConnectWaitMs));
    return {};
}

/// A new socket behind the same number, connected as far as possible without waiting; 0 or errno.
int SyslogSink::connect() {
    Fd fresh = open_socket(address_.family(), type_);
    if (!fresh) return errno;
    const int failure = ::connect(fresh.get(), address_.raw(), address_.size) < 0 ? errno : 0;
    if (!socket_)
        socket_ = std::move(fresh);
    else if (!replace_descriptor(fresh, socket_.get()))
        return errno;
    return failure;
}

int SyslogSink::write(std::string_view kind, int severity, int pid, std::string_view message) {
    std::string bytes = "<" + std::to_string(facility_ * 8 + severity) + ">" + tag_;
    ((bytes += kind) += ": [") += std::to_string(pid) + "] ";
    if (type_ == SOCK_DGRAM) {
        bytes += message;
        if (bytes.size() >= kSyslogBytesMax) bytes.resize(kSyslogBytesMax - 1);
        bytes += '\0';
        return send_datagram(socket_.get(), address_, bytes);
    }
    for (const char c : message)
        c == '\n' ? bytes += "#012" : bytes += c;
    if (bytes.size() >= kSyslogBytesMax) bytes.resize(kSyslogBytesMax - 1);
    return send_stream(bytes += '\n');
}

int SyslogSink::send_stream(std::string_view bytes) {
    for (;;) {
        // Writable means room for far more than one record, so that none is sent in part.
        if (!is_writable(socket_.get(), 0)) return EAGAIN;
        const ssize_t sent =
            ::send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        const int reason = sent < 0 ? errno : EAGAIN;
        if (sent == static_cast<ssize_t>(bytes.size())) return 0;
        if (reason == EINTR) continue;
        // If one was, the half line would spoil the next one: this connection is finished.
        if (sent >= 0)
            ::shutdown(socket_.get(), SHUT_RDWR);
        else if (reason == EAGAIN)
            return reason;
        if (!is_first_this_second(connected_s_) || connect() != 0) return reason;
    }
}

}  // namespace gcorn
