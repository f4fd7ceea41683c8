// PROXY headers: no over-read, and the answer does not depend on how the bytes were split. The
// first byte chooses the mode.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/result.h"
#include "net/proxy_protocol.h"

namespace {

using gcorn::ProxyHeader;
using gcorn::ProxyParse;

bool same(const ProxyHeader& a, const ProxyHeader& b) {
    return a.used == b.used && a.rule == b.rule && a.has_addresses == b.has_addresses &&
           a.source_host == b.source_host && a.source_port == b.source_port &&
           a.destination_host == b.destination_host && a.destination_port == b.destination_port;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const auto mode = static_cast<gcorn::ProxyMode>(data[0] % 4);
    const size_t bytes = size - 1;
    ProxyHeader decided;
    ProxyParse result = ProxyParse::NeedMore;
    for (size_t prefix = 0; prefix <= bytes; ++prefix) {
        // A copy of exactly this size, so that the sanitizer sees a read of one byte too many.
        const auto copy = std::make_unique<char[]>(prefix);
        std::copy_n(data + 1, prefix, copy.get());
        ProxyHeader header;
        const ProxyParse now = gcorn::parse_proxy_header({copy.get(), prefix}, mode, header);
        GCORN_CHECK(result == ProxyParse::NeedMore || (now == result && same(header, decided)));
        GCORN_CHECK(header.used <= prefix && (now == ProxyParse::Done) == (header.used > 0));
        GCORN_CHECK((now == ProxyParse::Bad) == (header.rule != nullptr));
        GCORN_CHECK(now != ProxyParse::NeedMore || prefix < gcorn::kProxyHeaderBytesMax);
        // Inputs that are decided early stay cheap: only a few longer prefixes are tried.
        if (result != ProxyParse::NeedMore && prefix > header.used + 64) break;
        result = now;
        decided = header;
    }
    return 0;
}
