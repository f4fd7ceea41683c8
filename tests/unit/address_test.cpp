#include "net/address.h"

#include <gtest/gtest.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>
#include <tuple>

namespace gcorn {
namespace {

using namespace std::string_view_literals;

BindSpec bound(std::string_view text) {
    const Result<BindSpec> spec = parse_bind(text);
    EXPECT_TRUE(spec.is_ok()) << text << " → " << (spec ? "" : spec.message());
    return spec ? *spec : BindSpec{};
}

std::string refusal(std::string_view text) {
    const Result<BindSpec> spec = parse_bind(text);
    EXPECT_FALSE(spec.is_ok()) << text;
    return spec ? "" : spec.message();
}

Address unix_address(std::string_view path_bytes) {
    sockaddr_un raw{};
    raw.sun_family = AF_UNIX;
    std::memcpy(raw.sun_path, path_bytes.data(), path_bytes.size());
    Address address;
    std::memcpy(&address.storage, &raw, sizeof raw);
    address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path_bytes.size());
    return address;
}

TEST(Address, WritesIpAddressesLikeTheRestOfTheWorld) {
    const auto v4 = Address::from_ip("127.0.0.1", 8000);
    ASSERT_TRUE(v4);
    EXPECT_EQ(v4->host(), "127.0.0.1");
    EXPECT_EQ(v4->port(), "8000");
    EXPECT_EQ(v4->text(), "127.0.0.1:8000");
    EXPECT_FALSE(v4->is_unix());
    for (const auto text : {"0.0.0.0", "255.255.255.255", "1.20.200.9", "10.0.100.99"})
        EXPECT_EQ(Address::from_ip(text, 0)->host(), text);
    const auto v6 = Address::from_ip("2001:DB8:0:0::1", 65535);
    ASSERT_TRUE(v6);
    EXPECT_EQ(v6->host(), "2001:db8::1");
    EXPECT_EQ(v6->text(), "[2001:db8::1]:65535");
}

TEST(Address, OnlyNumericTextMakesAnIp) {
    for (const auto text : {"", "localhost", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.256",
                            "::1::", "[::1]", " 1.2.3.4", "fe80::1%lo"})
        EXPECT_FALSE(Address::from_ip(text, 0)) << text;
    EXPECT_FALSE(Address::from_ip("1.2.3.4\0x"sv, 0)) << "cut short by a NUL";
}

TEST(Address, UnixSocketsHaveAPathAndNoPort) {
    EXPECT_EQ(unix_address("/run/a.sock\0"sv).host(), "/run/a.sock");
    EXPECT_EQ(unix_address("/run/a.sock").host(), "/run/a.sock") << "no final NUL";
    EXPECT_EQ(unix_address("/run/a.sock").text(), "unix:/run/a.sock");
    EXPECT_EQ(unix_address("/run/a.sock").port(), "");
    EXPECT_EQ(unix_address("").host(), "") << "an unnamed peer";
    EXPECT_EQ(unix_address("\0name"sv).host(), "@name") << "an abstract name";
    EXPECT_EQ(Address{}.host(), "");
    EXPECT_EQ(Address{}.family(), AF_UNSPEC);
}

TEST(Address, BindTakesEveryTcpForm) {
    const std::tuple<const char*, const char*, int> cases[] = {
        {"", "0.0.0.0", 8000},
        {"tcp://", "0.0.0.0", 8000},
        {"localhost", "localhost", 8000},
        {"LOCALHOST:80", "localhost", 80},
        {":8080", "", 8080},
        {"127.0.0.1:0", "127.0.0.1", 0},
        {"0.0.0.0:65535", "0.0.0.0", 65535},
        {"tcp://127.0.0.1:80", "127.0.0.1", 80},
        {"[::1]:81", "::1", 81},
        {"[::]", "::", 8000},
        {"tcp://[2001:DB8::1]:8", "2001:db8::1", 8},
        {"[fe80::1%eth0]:80", "fe80::1%eth0", 80},
    };
    for (const auto& [text, host, port] : cases) {
        const BindSpec spec = bound(text);
        EXPECT_EQ(spec.kind, BindSpec::Kind::Tcp) << text;
        EXPECT_EQ(spec.host, host) << text;
        EXPECT_EQ(spec.port, port) << text;
    }
}

TEST(Address, BindRefusesBadPortsByQuotingThem) {
    EXPECT_EQ(refusal("foo:bar"), "'bar' is not a valid port number.");
    EXPECT_EQ(refusal("0.0.0.0:x"), "'x' is not a valid port number.");
    EXPECT_EQ(refusal("host:"), "'' is not a valid port number.");
    EXPECT_EQ(refusal("host:65536"), "'65536' is not a valid port number.");
    EXPECT_EQ(refusal("host:-1"), "'-1' is not a valid port number.");
    EXPECT_EQ(refusal("::1:80"), "':1:80' is not a valid port number.");
    EXPECT_EQ(refusal("::1"), "':1' is not a valid port number.");
    EXPECT_EQ(refusal("a:1,b:2"), "'1,b:2' is not a valid port number.");
    EXPECT_EQ(refusal("[::1]:"), "'' is not a valid port number.");
    EXPECT_EQ(refusal("[::1]80"), "'80' is not a valid port number.");
}

TEST(Address, BindRefusesBracketsWithoutAnIpv6Address) {
    for (const auto text : {"[", "[]", "[::1", "[localhost]:80", "[1.2.3.4]:80", "[::g]"})
        EXPECT_EQ(refusal(text),
                  "'" + std::string(text) + "' does not start with an IPv6 address in brackets.");
}

TEST(Address, BindTakesUnixPathsInBothSpellings) {
    for (const auto text : {"unix:/run/a.sock", "unix:///run/a.sock"}) {
        const BindSpec spec = bound(text);
        EXPECT_EQ(spec.kind, BindSpec::Kind::Unix);
        EXPECT_EQ(spec.path, "/run/a.sock");
        EXPECT_FALSE(spec.mode || spec.user || spec.group);
    }
    EXPECT_EQ(bound("unix:rel/a:b.sock").path, "rel/a:b.sock");
    EXPECT_EQ(refusal("unix:"), "'unix:' has no path.");
    EXPECT_EQ(refusal("unix://"), "'unix://' has no path.");
}

TEST(Address, BindKnowsTheLongestUnixPath) {
    const std::string longest(sizeof(sockaddr_un::sun_path) - 1, 'x');
    EXPECT_EQ(bound("unix:" + longest).path, longest);
    EXPECT_EQ(refusal("unix:" + longest + "x"),
              "'" + longest + "x' is too long for the path of a unix socket.");
}

TEST(Address, BindTakesModeUserAndGroupOfAUnixSocket) {
    const BindSpec spec = bound("unix:/s?mode=0660&user=www&group=33");
    EXPECT_EQ(spec.path, "/s");
    EXPECT_EQ(spec.mode, 0660u);
    EXPECT_EQ(spec.user, "www");
    EXPECT_EQ(spec.group, "33");
    EXPECT_EQ(bound("unix:/s?mode=660").mode, 0660u) << "octal with and without the zero";
    EXPECT_EQ(bound("unix:/s?mode=0o600").mode, 0600u);
    EXPECT_EQ(bound("unix:/s?mode=0").mode, 0u);
    EXPECT_EQ(bound("unix:/s?mode=777").mode, 0777u);
}

TEST(Address, BindRefusesUnknownOptionsOfAUnixSocket) {
    EXPECT_EQ(refusal("unix:/s?mode=1000"), "'1000' is not an octal file mode up to 0777.");
    EXPECT_EQ(refusal("unix:/s?mode=8"), "'8' is not an octal file mode up to 0777.");
    EXPECT_EQ(refusal("unix:/s?mode=068"), "'068' is not an octal file mode up to 0777.");
    EXPECT_EQ(refusal("unix:/s?mode="), "'' is not an octal file mode up to 0777.");
    EXPECT_EQ(refusal("unix:/s?user="), "'user=' needs a name or number.");
    EXPECT_EQ(refusal("unix:/s?group"), "'group' needs a name or number.");
    EXPECT_EQ(refusal("unix:/s?x=1"), "'x=1' is not a unix socket option (mode, user, group).");
    EXPECT_EQ(refusal("unix:/s?"), "'' is not a unix socket option (mode, user, group).");
}

TEST(Address, BindTakesInheritedDescriptors) {
    EXPECT_EQ(bound("fd://3").kind, BindSpec::Kind::Fd);
    EXPECT_EQ(bound("fd://3").fd, 3);
    EXPECT_EQ(bound("fd://2147483647").fd, 2147483647);
    EXPECT_EQ(refusal("fd://x"), "'x' is not a valid file descriptor.");
    EXPECT_EQ(refusal("fd://"), "'' is not a valid file descriptor.");
    EXPECT_EQ(refusal("fd://-1"), "'-1' is not a valid file descriptor.");
    EXPECT_EQ(refusal("fd://2147483648"), "'2147483648' is not a valid file descriptor.");
}

TEST(Address, BindLogTextIsGunicorns) {
    EXPECT_EQ(bound("127.0.0.1:80").log_text(), "('127.0.0.1', 80)");
    EXPECT_EQ(bound("[::1]:80").log_text(), "('::1', 80)");
    EXPECT_EQ(bound("unix:/s?mode=600").log_text(), "/s");
    EXPECT_EQ(bound("fd://3").log_text(), "3");
}

NetworkList networks(std::string_view text) {
    const Result<NetworkList> list = NetworkList::parse(text);
    EXPECT_TRUE(list.is_ok()) << text << " → " << (list ? "" : list.message());
    return list ? *list : NetworkList{};
}

bool contains(const NetworkList& list, std::string_view ip) {
    return list.contains(Address::from_ip(ip, 0).value_or(Address{}));
}

TEST(NetworkList, MatchesSingleAddresses) {
    const NetworkList list = networks("127.0.0.1, ::1,");
    EXPECT_TRUE(contains(list, "127.0.0.1"));
    EXPECT_TRUE(contains(list, "::1"));
    EXPECT_TRUE(contains(list, "0:0::1"));
    EXPECT_FALSE(contains(list, "127.0.0.2"));
    EXPECT_FALSE(contains(list, "::2"));
    EXPECT_FALSE(contains(list, ""));
    EXPECT_FALSE(contains(list, "localhost"));
}

TEST(NetworkList, MatchesNetworksUpToTheirLastBit) {
    const NetworkList list =
        networks("10.0.0.0/8,192.168.4.0/23,2001:db8::/33,172.16.0.0/255.240.0.0");
    EXPECT_TRUE(contains(list, "10.255.255.255"));
    EXPECT_FALSE(contains(list, "11.0.0.0"));
    EXPECT_FALSE(contains(list, "9.255.255.255"));
    EXPECT_TRUE(contains(list, "192.168.4.0"));
    EXPECT_TRUE(contains(list, "192.168.5.255"));
    EXPECT_FALSE(contains(list, "192.168.6.0"));
    EXPECT_FALSE(contains(list, "192.168.3.255"));
    EXPECT_TRUE(contains(list, "2001:db8:7fff:ffff::1"));
    EXPECT_FALSE(contains(list, "2001:db8:8000::"));
    EXPECT_TRUE(contains(list, "172.31.255.255"));
    EXPECT_FALSE(contains(list, "172.32.0.0"));
    EXPECT_TRUE(contains(networks("0.0.0.0/0"), "255.1.2.3"));
    EXPECT_FALSE(contains(networks("0.0.0.0/0"), "::1"));
    EXPECT_TRUE(contains(networks("1.2.3.4/32"), "1.2.3.4"));
    EXPECT_TRUE(contains(networks("::1/128"), "::1"));
}

TEST(NetworkList, MappedIpv6PeersDoNotMatchIpv4Entries) {
    EXPECT_FALSE(contains(networks("127.0.0.0/8"), "::ffff:127.0.0.1"));
    EXPECT_TRUE(contains(networks("::ffff:127.0.0.0/104"), "::ffff:127.0.0.1"));
}

TEST(NetworkList, AScopeHasNoSay) {
    const NetworkList list = networks("fe80::1%eth0,fe80:1::%lo/64");
    EXPECT_TRUE(contains(list, "fe80::1"));
    EXPECT_FALSE(contains(list, "fe80::2"));
    EXPECT_TRUE(contains(list, "fe80:1::2"));
}

TEST(NetworkList, StarMatchesEverybody) {
    const NetworkList list = networks("10.0.0.1,*");
    EXPECT_TRUE(contains(list, "8.8.8.8"));
    EXPECT_TRUE(contains(list, ""));
    EXPECT_TRUE(list.contains(Address{}));
    EXPECT_FALSE(contains(networks(""), ""));
}

TEST(NetworkList, UnixPeersMatchOnlyStar) {
    EXPECT_FALSE(networks("0.0.0.0/0,::/0").contains(unix_address("")));
    EXPECT_TRUE(networks("*").contains(unix_address("")));
}

TEST(NetworkList, EmptyTextTrustsNobody) {
    EXPECT_FALSE(contains(networks(" , "), "127.0.0.1"));
    EXPECT_FALSE(contains(networks(""), "127.0.0.1"));
}

TEST(NetworkList, RefusesHostBitsAndNonsenseByName) {
    const std::pair<const char*, const char*> cases[] = {
        {"1.2.3.4/8", "1.2.3.4/8 has host bits set"},
        {"127.0.0.1, 10.0.0.1/31", "10.0.0.1/31 has host bits set"},
        {"2001:db8::1/64", "2001:db8::1/64 has host bits set"},
        {"localhost", "'localhost' is not an IP address or network."},
        {"1.2.3", "'1.2.3' is not an IP address or network."},
        {"fe80::1%", "'fe80::1%' is not an IP address or network."},
        {"fe80::1%a%b", "'fe80::1%a%b' is not an IP address or network."},
        {"127.0.0.1%lo", "'127.0.0.1%lo' is not an IP address or network."},
        {"1.2.3.0/33", "'1.2.3.0/33' has no valid prefix length."},
        {"::/129", "'::/129' has no valid prefix length."},
        {"1.2.3.0/", "'1.2.3.0/' has no valid prefix length."},
        {"1.2.3.0/+8", "'1.2.3.0/+8' has no valid prefix length."},
        {"1.2.3.0/255.0.255.0", "'1.2.3.0/255.0.255.0' has no valid prefix length."},
        {"10.0.0.0/ff00::", "'10.0.0.0/ff00::' has no valid prefix length."},
        {"::/255.0.0.0", "'::/255.0.0.0' has no valid prefix length."},
    };
    for (const auto& [text, message] : cases) {
        const Result<NetworkList> list = NetworkList::parse(text);
        ASSERT_FALSE(list.is_ok()) << text;
        EXPECT_EQ(list.message(), message);
    }
}

}  // namespace
}  // namespace gcorn
