#include "net/address.h"

#include <arpa/inet.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>

#include "base/text.h"

namespace gcorn {

namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr mode_t kPermissionBits = 0777;

Error refuse(std::string_view quoted, std::string_view rest) {
    return Error{0, "'" + std::string(quoted) + "' " + std::string(rest)};
}

Error bad_port(std::string_view text) {
    return refuse(text, "is not a valid port number.");
}

Result<BindSpec> with_port(BindSpec spec, std::string_view text) {
    const auto port = parse_decimal(text);
    if (!port || *port > UINT16_MAX) return bad_port(text);
    spec.port = static_cast<uint16_t>(*port);
    return spec;
}

/// "0660", "660" and "0o660" alike: a mode is always meant to be octal.
std::optional<mode_t> parse_mode(std::string_view text) {
    if (text.substr(0, 2) == "0o") text.remove_prefix(2);
    unsigned mode = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, mode, 8);
    if (error != std::errc{} || stop != end || mode > kPermissionBits) return std::nullopt;
    return static_cast<mode_t>(mode);
}

Status apply_unix_option(std::string_view option, BindSpec& spec) {
    const size_t equals = option.find('=');
    const std::string_view name = option.substr(0, equals);
    const std::string_view value =
        equals == std::string_view::npos ? std::string_view{} : option.substr(equals + 1);
    if (name == "mode") {
        spec.mode = parse_mode(value);
        if (!spec.mode) return refuse(value, "is not an octal file mode up to 0777.");
    } else if (name == "user" || name == "group") {
        if (value.empty()) return refuse(option, "needs a name or number.");
        (name == "user" ? spec.user : spec.group) = std::string(value);
    } else {
        return refuse(option, "is not a unix socket option (mode, user, group).");
    }
    return {};
}

Result<BindSpec> parse_unix(std::string_view text) {
    std::string_view rest = text.substr(kUnixPrefix.size());
    if (rest.substr(0, 2) == "//") rest.remove_prefix(2);
    const size_t question = rest.find('?');
    BindSpec spec{.kind = BindSpec::Kind::Unix, .path = std::string(rest.substr(0, question))};
    if (spec.path.empty()) return refuse(text, "has no path.");
    if (spec.path.size() >= sizeof(sockaddr_un::sun_path))
        return refuse(spec.path, "is too long for the path of a unix socket.");
    if (question == std::string_view::npos) return spec;
    for (const std::string_view option : split(rest.substr(question + 1), '&'))
        if (Status status = apply_unix_option(option, spec); !status) return status.error();
    return spec;
}

Result<BindSpec> parse_fd(std::string_view number) {
    const auto fd = parse_decimal(number);
    if (!fd || *fd > INT32_MAX) return refuse(number, "is not a valid file descriptor.");
    return BindSpec{.kind = BindSpec::Kind::Fd, .fd = static_cast<int>(*fd)};
}

/// `text` starts with '['.
Result<BindSpec> parse_bracketed(std::string_view text) {
    const size_t close = text.find(']');
    const std::string_view host =
        text.substr(1, close == std::string_view::npos ? close : close - 1);
    if (close == std::string_view::npos || !is_ipv6_literal(host))
        return refuse(text, "does not start with an IPv6 address in brackets.");
    BindSpec spec{.host = lower(host)};
    const std::string_view rest = text.substr(close + 1);
    if (rest.empty()) return spec;
    return rest[0] == ':' ? with_port(spec, rest.substr(1)) : bad_port(rest);
}

/// First `bits` bits of both are equal.
bool same_prefix(const unsigned char* a, const unsigned char* b, unsigned bits) {
    const size_t bytes = bits / 8;
    if (std::memcmp(a, b, bytes) != 0) return false;
    if (bits % 8 == 0) return true;
    const auto mask = static_cast<unsigned char>(0xFF00u >> bits % 8);
    return ((a[bytes] ^ b[bytes]) & mask) == 0;
}

/// The bytes of an IP address in `address`, network order; null for other families.
const unsigned char* ip_bytes(const Address& address) {
    const void* storage = &address.storage;
    if (address.family() == AF_INET)
        return reinterpret_cast<const unsigned char*>(
            &static_cast<const sockaddr_in*>(storage)->sin_addr);
    if (address.family() == AF_INET6)
        return static_cast<const sockaddr_in6*>(storage)->sin6_addr.s6_addr;
    return nullptr;
}

/// Bits of a prefix written as a number or, for IPv4, as a netmask ("255.255.0.0").
std::optional<unsigned> parse_prefix(std::string_view text, int family) {
    if (const auto bits = parse_decimal(text))
        return *bits <= (family == AF_INET ? 32 : 128) ? std::optional(static_cast<unsigned>(*bits))
                                                       : std::nullopt;
    const auto mask = family == AF_INET ? Address::from_ip(text, 0) : std::nullopt;
    if (!mask || mask->family() != AF_INET) return std::nullopt;
    uint32_t ones = 0;
    std::memcpy(&ones, ip_bytes(*mask), sizeof ones);
    ones = ntohl(ones);
    // A netmask is ones followed by zeros: its complement plus one is a power of two (or zero).
    if ((~ones & (~ones + 1)) != 0) return std::nullopt;
    return static_cast<unsigned>(__builtin_popcount(ones));
}

/// inet_ntop(3) formats IPv4 with sprintf(3): 1,500 instructions for each new connection.
std::string dotted(const unsigned char* ip) {
    std::string text;
    for (int i = 0; i < 4; ++i) {
        char digits[3];
        const auto end = std::to_chars(digits, std::end(digits), unsigned{ip[i]}).ptr;
        (text += i > 0 ? "." : "").append(digits, end);
    }
    return text;
}

}  // namespace

std::string Address::host() const {
    if (const unsigned char* ip = ip_bytes(*this)) {
        if (family() == AF_INET) return dotted(ip);
        char text[INET6_ADDRSTRLEN] = "";
        ::inet_ntop(family(), ip, text, sizeof text);
        return text;
    }
    if (!is_unix()) return {};
    constexpr size_t kPathStart = offsetof(sockaddr_un, sun_path);
    if (size <= kPathStart) return {};
    const auto* path = reinterpret_cast<const char*>(&storage) + kPathStart;
    const std::string_view bytes(path, std::min<size_t>(size, sizeof(sockaddr_un)) - kPathStart);
    // A leading NUL marks Linux's abstract names; a path may be followed by one, or many (unix(7)).
    if (bytes[0] == '\0') return bytes.size() == 1 ? "" : "@" + std::string(bytes.substr(1));
    return std::string(bytes.substr(0, bytes.find('\0')));
}

std::string Address::port() const {
    const void* data = &storage;
    if (family() == AF_INET)
        return std::to_string(ntohs(static_cast<const sockaddr_in*>(data)->sin_port));
    if (family() == AF_INET6)
        return std::to_string(ntohs(static_cast<const sockaddr_in6*>(data)->sin6_port));
    return {};
}

std::string Address::text() const {
    if (is_unix()) return std::string(kUnixPrefix) + host();
    return (family() == AF_INET6 ? "[" + host() + "]" : host()) + ":" + port();
}

std::optional<Address> Address::from_ip(std::string_view ip, uint16_t port) {
    const std::string text(ip);
    if (text.find('\0') != text.npos) return std::nullopt;  // the C library would stop there
    Address address;
    if (text.find(':') == text.npos) {
        sockaddr_in v4{};
        if (::inet_pton(AF_INET, text.c_str(), &v4.sin_addr) != 1) return std::nullopt;
        v4.sin_family = AF_INET;
        v4.sin_port = htons(port);
        address.size = sizeof v4;
        std::memcpy(&address.storage, &v4, sizeof v4);
    } else {
        sockaddr_in6 v6{};
        if (::inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) != 1) return std::nullopt;
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons(port);
        address.size = sizeof v6;
        std::memcpy(&address.storage, &v6, sizeof v6);
    }
    return address;
}

bool is_ipv6_literal(std::string_view host) {
    const auto address = Address::from_ip(host.substr(0, host.find('%')), 0);
    return address && address->family() == AF_INET6;
}

std::string BindSpec::log_text() const {
    if (kind == Kind::Fd) return std::to_string(fd);
    if (kind == Kind::Unix) return path;
    return "('" + host + "', " + std::to_string(port) + ")";
}

Result<BindSpec> parse_bind(std::string_view text) {
    if (text.substr(0, kUnixPrefix.size()) == kUnixPrefix) return parse_unix(text);
    if (text.substr(0, 5) == "fd://") return parse_fd(text.substr(5));
    if (text.substr(0, 6) == "tcp://") text.remove_prefix(6);
    if (text.empty()) return BindSpec{.host = "0.0.0.0"};
    if (text[0] == '[') return parse_bracketed(text);

    const size_t colon = text.find(':');
    BindSpec spec{.host = lower(text.substr(0, colon))};
    return colon == text.npos ? spec : with_port(spec, text.substr(colon + 1));
}

Result<NetworkList::Network> NetworkList::parse_network(std::string_view text) {
    const size_t slash = text.find('/');
    const std::string_view ip = text.substr(0, slash);
    // "fe80::1%eth0": the scope is not compared, as in gunicorn.
    const size_t percent = ip.find('%');
    const auto address = Address::from_ip(ip.substr(0, percent), 0);
    if (!address ||
        (percent != ip.npos && (address->family() == AF_INET || percent + 1 == ip.size() ||
                                ip.find('%', percent + 1) != ip.npos)))
        return refuse(text, "is not an IP address or network.");
    const bool is_v4 = address->family() == AF_INET;
    Network network{.family = address->family(), .prefix_bits = is_v4 ? 32u : 128u};
    std::memcpy(network.bytes.data(), ip_bytes(*address), is_v4 ? 4 : 16);
    if (slash == std::string_view::npos) return network;

    const auto prefix = parse_prefix(text.substr(slash + 1), network.family);
    if (!prefix) return refuse(text, "has no valid prefix length.");
    for (unsigned bit = *prefix; bit < network.prefix_bits; ++bit)
        if (network.bytes[bit / 8] & (0x80u >> bit % 8))
            return Error{0, std::string(text) + " has host bits set"};
    network.prefix_bits = *prefix;
    return network;
}

Result<NetworkList> NetworkList::parse(std::string_view text) {
    NetworkList list;
    for (const std::string_view item : split_list(text)) {
        if (item == "*") {
            list.everything_ = true;
            continue;
        }
        Result<Network> network = parse_network(item);
        if (!network) return network.error();
        list.networks_.push_back(*network);
    }
    return list;
}

bool NetworkList::contains(const Address& address) const {
    if (everything_) return true;
    const unsigned char* ip = ip_bytes(address);
    if (ip == nullptr) return false;
    return std::any_of(networks_.begin(), networks_.end(), [&](const Network& network) {
        return network.family == address.family() &&
               same_prefix(network.bytes.data(), ip, network.prefix_bits);
    });
}

}  // namespace gcorn
