// PROXY protocol: the client's real address, sent by a load balancer ahead of the first request.
//
// Reads version 1 (text) and version 2 (binary) of HAProxy's "The PROXY protocol" specification.
// Deviation: the specification forbids guessing whether a header is there; we follow gunicorn,
// where it is optional: bytes that cannot start one are an ordinary request, decided at the first
// byte that differs. What makes that safe is the caller's rule for whose header to accept
// (proxy_allow_ips). Resumes by parsing again from the first byte; the answer never depends on how
// the bytes were split. Limit: TLVs are skipped, the optional CRC32C among them. Pure. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gcorn {

/// Which versions to look for (gunicorn: proxy_protocol).
enum class ProxyMode : uint8_t { Off, V1, V2, Auto };

/// A version 1 line with its CRLF is never longer (specification §2.1).
constexpr size_t kProxyV1BytesMax = 107;
/// Addresses and TLVs of a version 2 header. The specification promises less than a TCP segment, so
/// this is generous; the length field alone would allow 64 KiB from anybody.
constexpr size_t kProxyV2PayloadMax = 4096;
/// With this many bytes the parser never needs more.
constexpr size_t kProxyHeaderBytesMax = 16 + kProxyV2PayloadMax;

enum class ProxyParse : uint8_t {
    NeedMore,  ///< could still become a header
    Absent,    ///< not a header: the first byte belongs to the request
    Done,      ///< a header of `used` bytes
    Bad,       ///< a header that breaks `rule`: answer 400
};

struct ProxyHeader {
    size_t used = 0;             ///< Done: bytes to drop before the request
    const char* rule = nullptr;  ///< Bad: the broken rule, a phrase for the log

    /// Done: the header names the client. False for UNKNOWN, LOCAL, UNSPEC and unix-socket clients,
    /// which have no address an application could use: keep those of the connection itself.
    bool has_addresses = false;
    const char* protocol = "";  ///< "TCP4" or "TCP6" (also for version 2), for PROXY_PROTOCOL
    std::string source_host, source_port;            ///< the client
    std::string destination_host, destination_port;  ///< what the client connected to
};

/// in      the first bytes of a connection, from its very first one.
/// out     overwritten; see the fields for what is valid when.
[[nodiscard]] ProxyParse parse_proxy_header(std::string_view in, ProxyMode mode, ProxyHeader& out);

}  // namespace gcorn
