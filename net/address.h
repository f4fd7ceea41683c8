// Addresses: socket addresses as values, bind strings, and lists of networks to trust.
//
// Parsing is pure and knows nothing of the machine: names are resolved and users looked up when a
// Listener opens. Refuses what gunicorn misreads (a second colon without brackets, a port beyond
// 65535). Standards: RFC 3986 §3.2.2 (bracketed IPv6 literals), RFC 4632 (CIDR). Any thread.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/socket_address.h"

namespace gcorn {

constexpr uint16_t kDefaultPort = 8000;

/// A socket address that can be shown as text.
struct Address : SocketAddress {
    [[nodiscard]] bool is_unix() const { return family() == AF_UNIX; }
    /// "127.0.0.1", "::1" (no zone); the path of a unix socket, "@name" if it is abstract, "" if it
    /// has no name, like most connecting unix peers.
    [[nodiscard]] std::string host() const;
    /// "8000"; "" for a unix socket.
    [[nodiscard]] std::string port() const;
    /// "127.0.0.1:8000", "[::1]:8000", "unix:/run/app.sock".
    [[nodiscard]] std::string text() const;

    /// From a numeric IP ("127.0.0.1", "::1"); nullopt for anything else, names included.
    static std::optional<Address> from_ip(std::string_view ip, uint16_t port);
};

/// True for an IPv6 literal without brackets; a zone ("fe80::1%eth0") is allowed.
[[nodiscard]] bool is_ipv6_literal(std::string_view host);

/// One bind: where to listen, as the operator wrote it. Equal specs need no new listener on reload.
struct BindSpec {
    enum class Kind : uint8_t { Tcp, Unix, Fd };

    Kind kind = Kind::Tcp;
    std::string host{};  ///< Tcp: lower case, without brackets; "" means all IPv4 interfaces
    uint16_t port = kDefaultPort;                ///< Tcp; 0 lets the kernel choose
    std::string path{};                          ///< Unix: never empty
    int fd = -1;                                 ///< Fd: inherited, already bound descriptor
    std::optional<mode_t> mode{};                ///< Unix: permission bits instead of 0777 & ~umask
    std::optional<std::string> user{}, group{};  ///< Unix: owner, a name or a decimal id

    bool operator==(const BindSpec&) const = default;

    /// As gunicorn's log lines show it: "('127.0.0.1', 80)", "/run/app.sock", "3".
    [[nodiscard]] std::string log_text() const;
};

/// Reads HOST, HOST:PORT, :PORT, "", [v6], [v6]:PORT, tcp://…, unix:PATH, unix://PATH (both with an
/// optional ?mode=0660&user=u&group=g) and fd://N. Error: one sentence that quotes the bad part;
/// code 0.
Result<BindSpec> parse_bind(std::string_view text);

/// Who may be trusted: a comma-separated list of IP addresses, networks in CIDR form and "*".
class NetworkList {
public:
    /// Error: one sentence that quotes the entry; "1.2.3.4/8 has host bits set" when the address
    /// part of a network is not its first address.
    static Result<NetworkList> parse(std::string_view text);

    /// True if "*" is listed or the address lies in a listed network. An IPv4-mapped IPv6 peer
    /// does not match IPv4 entries (gunicorn: forwarded_allow_ips). Unix peers match only "*":
    /// whether they are trusted is the caller's rule.
    [[nodiscard]] bool contains(const Address& address) const;

private:
    struct Network {
        int family = AF_UNSPEC;
        std::array<unsigned char, 16> bytes{};  ///< IPv4: the first four
        unsigned prefix_bits = 0;
    };
    static Result<Network> parse_network(std::string_view text);

    std::vector<Network> networks_;
    bool everything_ = false;
};

}  // namespace gcorn
