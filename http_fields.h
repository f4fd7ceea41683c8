// The field names the program knows, in one list, and the bytes no head may contain.
//
// Parser, response writer and environ all need to recognise names fast: the parser decides framing
// by them, the environ turns each into a ready-made HTTP_… key. A known name is an index into this
// list. Pure. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#if defined(__SSE2__) && !defined(GCORN_PORTABLE_SCAN)
#include <emmintrin.h>
#endif

namespace gcorn {

// X(identifier, "name in lower case"). The first six decide what a request is; the parser relies on
// their order.
#define GCORN_KNOWN_FIELDS(X)                               \
    X(Host, "host")                                         \
    X(Connection, "connection")                             \
    X(ContentLength, "content-length")                      \
    X(ContentType, "content-type")                          \
    X(TransferEncoding, "transfer-encoding")                \
    X(Expect, "expect")                                     \
    X(Accept, "accept")                                     \
    X(AcceptCharset, "accept-charset")                      \
    X(AcceptEncoding, "accept-encoding")                    \
    X(AcceptLanguage, "accept-language")                    \
    X(Authorization, "authorization")                       \
    X(CacheControl, "cache-control")                        \
    X(ContentEncoding, "content-encoding")                  \
    X(Cookie, "cookie")                                     \
    X(Date, "date")                                         \
    X(Dnt, "dnt")                                           \
    X(Forwarded, "forwarded")                               \
    X(From, "from")                                         \
    X(IfMatch, "if-match")                                  \
    X(IfModifiedSince, "if-modified-since")                 \
    X(IfNoneMatch, "if-none-match")                         \
    X(IfRange, "if-range")                                  \
    X(IfUnmodifiedSince, "if-unmodified-since")             \
    X(KeepAlive, "keep-alive")                              \
    X(Origin, "origin")                                     \
    X(Pragma, "pragma")                                     \
    X(Priority, "priority")                                 \
    X(ProxyAuthorization, "proxy-authorization")            \
    X(ProxyConnection, "proxy-connection")                  \
    X(Range, "range")                                       \
    X(Referer, "referer")                                   \
    X(SecChUa, "sec-ch-ua")                                 \
    X(SecChUaMobile, "sec-ch-ua-mobile")                    \
    X(SecChUaPlatform, "sec-ch-ua-platform")                \
    X(SecFetchDest, "sec-fetch-dest")                       \
    X(SecFetchMode, "sec-fetch-mode")                       \
    X(SecFetchSite, "sec-fetch-site")                       \
    X(SecFetchUser, "sec-fetch-user")                       \
    X(SecWebSocketExtensions, "sec-websocket-extensions")   \
    X(SecWebSocketKey, "sec-websocket-key")                 \
    X(SecWebSocketProtocol, "sec-websocket-protocol")       \
    X(SecWebSocketVersion, "sec-websocket-version")         \
    X(Te, "te")                                             \
    X(Traceparent, "traceparent")                           \
    X(Trailer, "trailer")                                   \
    X(Upgrade, "upgrade")                                   \
    X(UpgradeInsecureRequests, "upgrade-insecure-requests") \
    X(UserAgent, "user-agent")                              \
    X(Via, "via")                                           \
    X(XCsrfToken, "x-csrftoken")                            \
    X(XForwardedFor, "x-forwarded-for")                     \
    X(XForwardedHost, "x-forwarded-host")                   \
    X(XForwardedPort, "x-forwarded-port")                   \
    X(XForwardedProto, "x-forwarded-proto")                 \
    X(XForwardedProtocol, "x-forwarded-protocol")           \
    X(XForwardedSsl, "x-forwarded-ssl")                     \
    X(XRealIp, "x-real-ip")                                 \
    X(XRequestId, "x-request-id")                           \
    X(XRequestedWith, "x-requested-with")

enum class FieldId : uint8_t {
    Unknown = 0,
#define GCORN_FIELD_ENUM(identifier, name) identifier,
    GCORN_KNOWN_FIELDS(GCORN_FIELD_ENUM)
#undef GCORN_FIELD_ENUM
        Count
};

/// Lower-case names by FieldId; the one of Unknown is empty.
inline constexpr std::string_view kFieldNames[] = {"",
#define GCORN_FIELD_NAME(identifier, name) name,
                                                   GCORN_KNOWN_FIELDS(GCORN_FIELD_NAME)
#undef GCORN_FIELD_NAME
};

/// The id of a field name in any case, or Unknown (http_parse.cpp: a small perfect hash). Pure.
[[nodiscard]] FieldId find_field(std::string_view name);

/// True for the bytes 0x00–0x1F and 0x7F. HTAB is one of them: where it is allowed, the caller
/// skips it.
[[nodiscard]] constexpr bool is_control(char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
}

/// Position of the first control byte in text[from, size), or `size`. `from` ≤ `size`. Reads
/// nothing outside. Of all legal bytes only these can end a line or hurt a log, so this one search
/// finds line ends and refuses the rest, 16 bytes at a step.
[[nodiscard]] inline size_t find_control(const char* text, size_t from, size_t size) {
    size_t i = from;
#if defined(__SSE2__) && !defined(GCORN_PORTABLE_SCAN)
    const __m128i last_low = _mm_set1_epi8(0x1F);
    const __m128i del = _mm_set1_epi8(0x7F);
    for (; size - i >= 16; i += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + i));
        const __m128i low =
            _mm_cmpeq_epi8(_mm_min_epu8(bytes, last_low), bytes);  // unsigned ≤ 0x1F
        const int hits = _mm_movemask_epi8(_mm_or_si128(low, _mm_cmpeq_epi8(bytes, del)));
        if (hits != 0) return i + static_cast<size_t>(__builtin_ctz(static_cast<unsigned>(hits)));
    }
#endif
    // Eight bytes at a step. A borrow may flag a byte above a real hit, never a word without one.
    constexpr uint64_t kOnes = ~uint64_t{0} / 255, kHighs = kOnes * 0x80;
    for (; size - i >= 8; i += 8) {
        uint64_t word;
        std::memcpy(&word, text + i, 8);
        const uint64_t del_is_zero = word ^ (kOnes * 0x7F);
        const uint64_t low = (word - kOnes * 0x20) & ~word;
        if (((low | ((del_is_zero - kOnes) & ~del_is_zero)) & kHighs) != 0) break;
    }
    while (i < size && !is_control(text[i]))
        ++i;
    return i;
}

/// True if `text` may stand as a field value (RFC 9110 §5.5): no control byte but HTAB.
[[nodiscard]] inline bool is_field_value(std::string_view text) {
    size_t at = find_control(text.data(), 0, text.size());
    while (at < text.size() && text[at] == '\t')
        at = find_control(text.data(), at + 1, text.size());
    return at == text.size();
}

}  // namespace gcorn
