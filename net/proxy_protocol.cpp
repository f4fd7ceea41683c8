#include "net/proxy_protocol.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "net/address.h"

namespace gcorn {

namespace {

using namespace std::string_view_literals;

constexpr std::string_view kV1Start = "PROXY "sv;
constexpr std::string_view kV2Signature = "\r\n\r\n\0\r\nQUIT\n"sv;
constexpr size_t kV2FixedBytes = 16;  // signature, version and command, family, length
static_assert(kV2FixedBytes + kProxyV2PayloadMax == kProxyHeaderBytesMax);

ProxyParse bad(ProxyHeader& out, const char* rule) {
    out = ProxyHeader{};
    out.rule = rule;
    return ProxyParse::Bad;
}

ProxyParse done(ProxyHeader& out, size_t used) {
    out.used = used;
    return ProxyParse::Done;
}

/// Gives the address the form of every other peer's, so that one client has one spelling.
bool canonical_ip(std::string_view text, int family, std::string& out) {
    const auto address = Address::from_ip(text, 0);
    if (!address || address->family() != family) return false;
    out = address->host();
    return true;
}

/// 0 to 65535 without leading zeros (specification §2.1).
bool canonical_port(std::string_view text, std::string& out) {
    const auto port = parse_decimal(text);
    if (!port || *port > 65535 || (text.size() > 1 && text[0] == '0')) return false;
    out = text;
    return true;
}

/// A complete line without its CRLF.
ProxyParse parse_v1_line(std::string_view line, size_t used, ProxyHeader& out) {
    const std::vector<std::string_view> words = split(line, ' ');
    const std::string_view family_word = words[1];
    // Whatever follows UNKNOWN is to be ignored (§2.1).
    if (family_word == "UNKNOWN") return done(out, used);
    const bool is_v4 = family_word == "TCP4";
    if (!is_v4 && family_word != "TCP6") return bad(out, "PROXY line names an unknown protocol");
    if (words.size() != 6) return bad(out, "PROXY line does not have six words");
    const int family = is_v4 ? AF_INET : AF_INET6;
    if (!canonical_ip(words[2], family, out.source_host) ||
        !canonical_ip(words[3], family, out.destination_host))
        return bad(out, "PROXY line has an invalid address");
    if (!canonical_port(words[4], out.source_port) ||
        !canonical_port(words[5], out.destination_port))
        return bad(out, "PROXY line has an invalid port");
    out.has_addresses = true;
    out.protocol = is_v4 ? "TCP4" : "TCP6";
    return done(out, used);
}

/// `in` starts with kV1Start.
ProxyParse parse_v1(std::string_view in, ProxyHeader& out) {
    const std::string_view head = in.substr(0, kProxyV1BytesMax);
    const size_t line_bytes = std::min(head.find_first_of("\r\n"), head.size());
    const std::string_view line_end = head.substr(line_bytes, 2);
    if (line_end == "\r\n") return parse_v1_line(head.substr(0, line_bytes), line_bytes + 2, out);
    // Neither byte may end the line alone (§2.1).
    if (!line_end.empty() && line_end != "\r") return bad(out, "PROXY line has a bare CR or LF");
    if (head.size() == kProxyV1BytesMax) return bad(out, "PROXY line is too long");
    return ProxyParse::NeedMore;
}

std::string ip_text(const char* bytes, int family) {
    char text[INET6_ADDRSTRLEN] = "";
    ::inet_ntop(family, bytes, text, sizeof text);
    return text;
}

std::string port_text(const char* bytes) {
    return std::to_string(static_cast<unsigned char>(bytes[0]) << 8 |
                          static_cast<unsigned char>(bytes[1]));
}

/// Address block of an IP family: source, destination, source port, destination port (§2.2).
void take_v2_addresses(const char* block, int family, ProxyHeader& out) {
    const size_t ip_bytes = family == AF_INET ? 4 : 16;
    out.has_addresses = true;
    out.protocol = family == AF_INET ? "TCP4" : "TCP6";
    out.source_host = ip_text(block, family);
    out.destination_host = ip_text(block + ip_bytes, family);
    out.source_port = port_text(block + 2 * ip_bytes);
    out.destination_port = port_text(block + 2 * ip_bytes + 2);
}

struct V2Family {
    unsigned char byte;  // address family and transport
    size_t block_bytes;  // length of its address block
    int family;          // AF_UNSPEC: no addresses for us
};
// Datagrams cannot carry HTTP/1, and bytes that §2.2 does not list are to be refused. A client on a
// unix socket is treated as UNSPEC.
constexpr std::array<V2Family, 4> kV2Families = {
    {{0x00, 0, AF_UNSPEC}, {0x11, 12, AF_INET}, {0x21, 36, AF_INET6}, {0x31, 216, AF_UNSPEC}}};

/// `in` starts with kV2Signature.
ProxyParse parse_v2(std::string_view in, ProxyHeader& out) {
    if (in.size() < kV2FixedBytes) return ProxyParse::NeedMore;
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(in[i]); };
    if (byte(12) >> 4 != 2) return bad(out, "PROXY header has an unknown version");
    const unsigned command = byte(12) & 0x0Fu;
    if (command > 1) return bad(out, "PROXY header has an unknown command");
    const bool is_local = command == 0;
    const auto* family = std::find_if(kV2Families.begin(), kV2Families.end(),
                                      [&](const V2Family& row) { return row.byte == byte(13); });
    // LOCAL (health checks of the balancer itself): family and block are to be ignored (§2.2).
    if (!is_local && family == kV2Families.end())
        return bad(out, "PROXY header has an unsupported address family");
    const size_t payload_bytes = size_t{byte(14)} << 8 | byte(15);
    if (payload_bytes > kProxyV2PayloadMax) return bad(out, "PROXY header is too long");
    if (!is_local && payload_bytes < family->block_bytes)
        return bad(out, "PROXY header is too short for its addresses");
    const size_t used = kV2FixedBytes + payload_bytes;
    if (in.size() < used) return ProxyParse::NeedMore;
    // What follows the addresses are TLVs; none of them matters here.
    if (!is_local && family->family != AF_UNSPEC)
        take_v2_addresses(in.data() + kV2FixedBytes, family->family, out);
    return done(out, used);
}

/// Does `in` start with `start`, or could it with more bytes?
ProxyParse match_start(std::string_view in, std::string_view start) {
    const size_t bytes = std::min(in.size(), start.size());
    if (in.substr(0, bytes) != start.substr(0, bytes)) return ProxyParse::Absent;
    return bytes == start.size() ? ProxyParse::Done : ProxyParse::NeedMore;
}

}  // namespace

ProxyParse parse_proxy_header(std::string_view in, ProxyMode mode, ProxyHeader& out) {
    out = ProxyHeader{};
    const bool wants_v1 = mode == ProxyMode::V1 || mode == ProxyMode::Auto;
    const bool wants_v2 = mode == ProxyMode::V2 || mode == ProxyMode::Auto;
    const ProxyParse v1 = wants_v1 ? match_start(in, kV1Start) : ProxyParse::Absent;
    const ProxyParse v2 = wants_v2 ? match_start(in, kV2Signature) : ProxyParse::Absent;
    if (v1 == ProxyParse::Done) return parse_v1(in, out);
    if (v2 == ProxyParse::Done) return parse_v2(in, out);
    const bool is_undecided = v1 == ProxyParse::NeedMore || v2 == ProxyParse::NeedMore;
    return is_undecided ? ProxyParse::NeedMore : ProxyParse::Absent;
}

}  // namespace gcorn
