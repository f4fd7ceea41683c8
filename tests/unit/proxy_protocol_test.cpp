#include "net/proxy_protocol.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <tuple>

namespace gcorn {
namespace {

using namespace std::string_literals;
using namespace std::string_view_literals;

const std::string kSignature = "\r\n\r\n\0\r\nQUIT\n"s;

/// Room for an input that ends where an unreadable page begins: reading one byte too far faults.
class GuardedInput {
public:
    GuardedInput() : page_(static_cast<size_t>(::sysconf(_SC_PAGESIZE))) {
        void* base =
            ::mmap(nullptr, 2 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT_NE(base, MAP_FAILED);
        base_ = static_cast<char*>(base);
        EXPECT_EQ(::mprotect(base_ + page_, page_, PROT_NONE), 0);
    }
    ~GuardedInput() { ::munmap(base_, 2 * page_); }
    GuardedInput(const GuardedInput&) = delete;
    GuardedInput& operator=(const GuardedInput&) = delete;

    /// A copy of at most a page; valid until the next call.
    std::string_view put(std::string_view bytes) {
        EXPECT_LE(bytes.size(), page_);
        char* start = base_ + page_ - bytes.size();
        std::memcpy(start, bytes.data(), bytes.size());
        return {start, bytes.size()};
    }

private:
    size_t page_;
    char* base_ = nullptr;
};

struct Outcome {
    ProxyParse parse = ProxyParse::NeedMore;
    ProxyHeader header;
};

/// Parses `in` whole and in every prefix, each against an unreadable page: once a prefix is
/// decided, all longer inputs must be decided the same way.
Outcome parse(std::string_view in, ProxyMode mode = ProxyMode::Auto) {
    Outcome first;
    GuardedInput guarded;
    for (size_t size = 0; size <= in.size(); ++size) {
        ProxyHeader header;
        const ProxyParse result = parse_proxy_header(guarded.put(in.substr(0, size)), mode, header);
        if (first.parse == ProxyParse::NeedMore) {
            first = {result, header};
            continue;
        }
        EXPECT_EQ(result, first.parse) << "at " << size;
        EXPECT_EQ(header.used, first.header.used) << "at " << size;
        EXPECT_STREQ(header.rule, first.header.rule) << "at " << size;
        EXPECT_EQ(header.source_host, first.header.source_host) << "at " << size;
    }
    return first;
}

std::string v2(unsigned char command, unsigned char family, std::string_view payload,
               size_t length = SIZE_MAX) {
    if (length == SIZE_MAX) length = payload.size();
    std::string out = kSignature;
    out += static_cast<char>(command);
    out += static_cast<char>(family);
    out += static_cast<char>(length >> 8);
    out += static_cast<char>(length & 0xFF);
    return out.append(payload);
}

const std::string kV4Block = "\x0a\x01\x02\x03\x0a\x04\x05\x06\x30\x39\x00\x50"s;

TEST(ProxyProtocol, V1NamesTheClient) {
    const std::string line = "PROXY TCP4 10.1.2.3 10.4.5.6 12345 80\r\n";
    const auto [result, header] = parse(line + "GET / HTTP/1.1\r\n");
    ASSERT_EQ(result, ProxyParse::Done);
    EXPECT_EQ(header.used, line.size());
    EXPECT_TRUE(header.has_addresses);
    EXPECT_STREQ(header.protocol, "TCP4");
    EXPECT_EQ(header.source_host, "10.1.2.3");
    EXPECT_EQ(header.source_port, "12345");
    EXPECT_EQ(header.destination_host, "10.4.5.6");
    EXPECT_EQ(header.destination_port, "80");
}

TEST(ProxyProtocol, V1WritesIpv6LikeOtherPeers) {
    const auto [result, header] = parse("PROXY TCP6 2001:0DB8:0:0::1 ::ffff:1.2.3.4 0 65535\r\n");
    ASSERT_EQ(result, ProxyParse::Done);
    EXPECT_STREQ(header.protocol, "TCP6");
    EXPECT_EQ(header.source_host, "2001:db8::1");
    EXPECT_EQ(header.destination_host, "::ffff:1.2.3.4");
    EXPECT_EQ(header.source_port, "0");
    EXPECT_EQ(header.destination_port, "65535");
}

TEST(ProxyProtocol, V1UnknownKeepsTheRealPeer) {
    for (const auto line : {"PROXY UNKNOWN\r\n"sv, "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"sv,
                            "PROXY UNKNOWN what ever \xff\t\0\r\n"sv}) {
        const auto [result, header] = parse(line);
        ASSERT_EQ(result, ProxyParse::Done) << line;
        EXPECT_EQ(header.used, line.size());
        EXPECT_FALSE(header.has_addresses);
        EXPECT_EQ(header.source_host, "");
    }
}

TEST(ProxyProtocol, V1IsStrict) {
    for (const std::string_view words : {
             "PROXY TCP4 10.1.2.3 10.4.5.6 65536 80"sv,
             "PROXY TCP4 10.1.2.3 10.4.5.6 -1 80"sv,
             "PROXY TCP4 10.1.2.3 10.4.5.6 01 80"sv,
             "PROXY TCP4 10.1.2.3 10.4.5.6 00 80"sv,
             "PROXY TCP4 10.1.2.3 10.4.5.6  80"sv,
             "PROXY TCP4 10.1.2.3 10.4.5.6 1 +80"sv,
             "PROXY TCP4 2001:db8::1 10.4.5.6 1 80"sv,
             "PROXY TCP6 10.1.2.3 ::1 1 80"sv,
             "PROXY TCP4 10.1.2.03 10.4.5.6 1 80"sv,
             "PROXY TCP4 10.1.2 10.4.5.6 1 80"sv,
             "PROXY TCP4 10.1.2.3 10.4.5.6 1"sv,
             "PROXY TCP4 10.1.2.3 10.4.5.6 1 80 9"sv,
             "PROXY TCP4 10.1.2.3  10.4.5.6 1 80"sv,
             "PROXY TCP4 10.1.2.3 10.4.5.6 1 80 "sv,
             "PROXY TCP6 fe80::1%lo ::1 1 80"sv,
             "PROXY TCP4 10.1.2.3\t10.4.5.6 1 80"sv,
             "PROXY UDP4 10.1.2.3 10.4.5.6 1 80"sv,
             "PROXY tcp4 10.1.2.3 10.4.5.6 1 80"sv,
             "PROXY UNKNOWNX"sv,
             "PROXY unknown"sv,
             "PROXY "sv,
             "PROXY  TCP4 10.1.2.3 10.4.5.6 1 80"sv,
             "PROXY / HTTP/1.1"sv,
             "PROXY UNKNOWN\nGET / HTTP/1.1"sv,
             "PROXY UNKNOWN \r x"sv,
             "PROXY UNKNOWN \n"sv,
             "PROXY TCP4 10.1.2.3\0 10.4.5.6 1 80"sv,
         }) {
        const auto [result, header] = parse(std::string(words) + "\r\nGET / HTTP/1.1\r\n\r\n");
        EXPECT_EQ(result, ProxyParse::Bad) << words;
        ASSERT_NE(header.rule, nullptr) << words;
        EXPECT_FALSE(header.has_addresses) << words;
        EXPECT_EQ(header.source_host, "") << "a refused header leaves nothing behind: " << words;
    }
}

TEST(ProxyProtocol, V1LineEndsWithin107Bytes) {
    const auto line_of = [](size_t bytes) {
        return "PROXY UNKNOWN " + std::string(bytes - 16, 'x') + "\r\n";
    };
    EXPECT_EQ(line_of(107).size(), 107u);
    EXPECT_EQ(parse(line_of(106)).parse, ProxyParse::Done);
    EXPECT_EQ(parse(line_of(107)).parse, ProxyParse::Done);
    EXPECT_EQ(parse(line_of(108)).parse, ProxyParse::Bad);
    EXPECT_EQ(parse(line_of(200)).parse, ProxyParse::Bad);
    EXPECT_STREQ(parse(line_of(200)).header.rule, "PROXY line is too long");
}

TEST(ProxyProtocol, OrdinaryRequestsAreDecidedAtTheFirstDifferingByte) {
    const std::tuple<std::string_view, ProxyMode, ProxyParse> cases[] = {
        {""sv, ProxyMode::Auto, ProxyParse::NeedMore},
        {"G"sv, ProxyMode::Auto, ProxyParse::Absent},
        {"P"sv, ProxyMode::Auto, ProxyParse::NeedMore},
        {"PO"sv, ProxyMode::Auto, ProxyParse::Absent},
        {"PROXY"sv, ProxyMode::Auto, ProxyParse::NeedMore},
        {"PROXYX"sv, ProxyMode::Auto, ProxyParse::Absent},
        {"proxy "sv, ProxyMode::Auto, ProxyParse::Absent},
        {"\r"sv, ProxyMode::Auto, ProxyParse::NeedMore},
        {"\r\nG"sv, ProxyMode::Auto, ProxyParse::Absent},
        {"\r\n\r\nG"sv, ProxyMode::Auto, ProxyParse::Absent},
        {"\r\n\r\n\0\r\nQUIT"sv, ProxyMode::Auto, ProxyParse::NeedMore},
        {"\r\n\r\n\0\r\nQUIT\r"sv, ProxyMode::Auto, ProxyParse::Absent},
        {"PRI * HTTP/2.0\r\n"sv, ProxyMode::Auto, ProxyParse::Absent},
        // A header of a version that is not looked for is not a header.
        {"P"sv, ProxyMode::V2, ProxyParse::Absent},
        {"\r"sv, ProxyMode::V1, ProxyParse::Absent},
        {"PROXY UNKNOWN\r\n"sv, ProxyMode::V2, ProxyParse::Absent},
        {"PROXY UNKNOWN\r\n"sv, ProxyMode::V1, ProxyParse::Done},
        {"PROXY UNKNOWN\r\n"sv, ProxyMode::Off, ProxyParse::Absent},
        {""sv, ProxyMode::Off, ProxyParse::Absent},
    };
    for (const auto& [in, mode, expected] : cases) {
        ProxyHeader header;
        EXPECT_EQ(parse_proxy_header(in, mode, header), expected) << testing::PrintToString(in);
    }
}

TEST(ProxyProtocol, V2NamesTheClientAndSkipsTlvs) {
    for (const std::string& tlvs : {""s,
                                    "\x04\x00\x03"
                                    "abc"s,
                                    std::string(500, '\xff')}) {
        const std::string header_bytes = v2(0x21, 0x11, kV4Block + tlvs);
        const auto [result, header] = parse(header_bytes + "GET /");
        ASSERT_EQ(result, ProxyParse::Done);
        EXPECT_EQ(header.used, header_bytes.size());
        EXPECT_TRUE(header.has_addresses);
        EXPECT_STREQ(header.protocol, "TCP4");
        EXPECT_EQ(header.source_host, "10.1.2.3");
        EXPECT_EQ(header.source_port, "12345");
        EXPECT_EQ(header.destination_host, "10.4.5.6");
        EXPECT_EQ(header.destination_port, "80");
    }
}

TEST(ProxyProtocol, V2NamesIpv6Clients) {
    std::string block = "\x20\x01\x0d\xb8"s + std::string(11, '\0') + "\x01"s;
    block += std::string(15, '\0') + "\x01"s + "\xff\xff\x01\xbb"s;
    const auto [result, header] = parse(v2(0x21, 0x21, block), ProxyMode::V2);
    ASSERT_EQ(result, ProxyParse::Done);
    EXPECT_STREQ(header.protocol, "TCP6");
    EXPECT_EQ(header.source_host, "2001:db8::1");
    EXPECT_EQ(header.destination_host, "::1");
    EXPECT_EQ(header.source_port, "65535");
    EXPECT_EQ(header.destination_port, "443");
}

TEST(ProxyProtocol, V2WithoutAnAddressKeepsTheRealPeer) {
    for (const std::string& bytes : {
             v2(0x20, 0x00, ""), v2(0x20, 0x00, "ignored"), v2(0x20, 0x11, kV4Block),
             v2(0x20, 0x11, ""), v2(0x20, 0x12, ""), v2(0x20, 0xff, ""),  // LOCAL: any family
             v2(0x21, 0x00, ""), v2(0x21, 0x00, "\x04\x00\x00"s),         // UNSPEC
             v2(0x21, 0x31, std::string(216, 'x')),                       // a unix-socket client
         }) {
        const auto [result, header] = parse(bytes);
        ASSERT_EQ(result, ProxyParse::Done) << testing::PrintToString(bytes);
        EXPECT_EQ(header.used, bytes.size());
        EXPECT_FALSE(header.has_addresses);
    }
}

TEST(ProxyProtocol, V2IsStrict) {
    for (const std::string& bytes : {
             v2(0x11, 0x11, kV4Block),
             v2(0x31, 0x11, kV4Block),  // version
             v2(0x22, 0x11, kV4Block),
             v2(0x2f, 0x11, kV4Block),  // command
             v2(0x21, 0x12, kV4Block),
             v2(0x21, 0x22, std::string(36, 'x')),  // datagrams
             v2(0x21, 0x32, std::string(216, 'x')),
             v2(0x21, 0x10, kV4Block),
             v2(0x21, 0x01, kV4Block),
             v2(0x21, 0x13, kV4Block),
             v2(0x21, 0x41, kV4Block),
             v2(0x21, 0x11, kV4Block.substr(0, 11)),
             v2(0x21, 0x11, ""),
             v2(0x21, 0x21, std::string(35, 'x')),
             v2(0x21, 0x31, std::string(215, 'x')),
         }) {
        const auto [result, header] = parse(bytes);
        EXPECT_EQ(result, ProxyParse::Bad) << testing::PrintToString(bytes);
        EXPECT_NE(header.rule, nullptr);
    }
}

TEST(ProxyProtocol, V2LengthHasALimit) {
    const std::string at_limit(kProxyV2PayloadMax, 'x');
    ProxyHeader header;
    EXPECT_EQ(parse_proxy_header(v2(0x21, 0x11, at_limit), ProxyMode::Auto, header),
              ProxyParse::Done);
    EXPECT_EQ(header.used, kProxyHeaderBytesMax);
    EXPECT_EQ(parse(v2(0x21, 0x11, "", kProxyV2PayloadMax + 1)).parse, ProxyParse::Bad);
    EXPECT_EQ(parse(v2(0x20, 0x00, "", 0xFFFF)).parse, ProxyParse::Bad) << "LOCAL as well";
}

}  // namespace
}  // namespace gcorn
