// The syslog sink: gunicorn's records to a syslog server over UDP, TCP or a unix socket.
//
// Datagrams have gunicorn's form, "<PRI>gunicorn.PREFIX.error: [PID] message" and a NUL (a PRI and
// a TAG as in RFC 3164 §4.1, no time or host: the receiver adds them). Streams end each record with
// a newline and write newlines inside it as #012, as rsyslog does. Nothing blocks after open():
// what the socket does not take at once is lost, and the Logger, the only caller, counts it. Any
// thread.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "log/log.h"
#include "log/sink.h"

namespace gcorn {

/// Ok for unix://PATH[#dgram|#stream], udp://HOST[:PORT] and tcp://HOST[:PORT] (514). Pure.
Status validate_syslog_address(std::string_view address);
/// Ok for a facility's name in any case: "user", "daemon", "local0" … Pure.
Status validate_syslog_facility(std::string_view name);

/// One server. Neither copyable nor movable.
class SyslogSink {
public:
    /// Resolves and connects; may wait for DNS and up to a second for a TCP handshake. An absent
    /// server is no Error, but a host that does not exist is one.
    static Result<std::unique_ptr<SyslogSink>> open(const LogOptions& options);

    /// kind: "error" or "access". 0, or the errno with which the record was lost. A stream whose
    /// server went away is reconnected, with one attempt a second.
    int write(std::string_view kind, int severity, int pid, std::string_view message);

private:
    Status find(std::string_view address);
    int connect();
    int send_stream(std::string_view bytes);

    std::string tag_;  ///< "gunicorn.PREFIX."
    int facility_ = 1;
    int type_ = SOCK_DGRAM;
    SocketAddress address_;
    Fd socket_;                            ///< its number never changes
    std::atomic<int64_t> connected_s_{0};  ///< when connecting was last tried
};

}  // namespace gcorn
