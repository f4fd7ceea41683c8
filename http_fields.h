// The field names the program knows, in one list, and the bytes no head may contain.
//
// Parser, response writer and environ all need to recognise names fast: the parser decides framing
// by them, the environ turns each into a ready-made HTTP_… key. A known name is an index into this
// list. Pure. Any thread.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>
#if defined(__SSE2__) && !defined(GCORN_PORTABLE_SCAN)
#include <emmintrin.h>
#endif

#include "base/text.h"

namespace gcorn {

/// Names in lower case, indexed by FieldId; that of Unknown is empty.
inline constexpr std::string_view kFieldNames[] = {
    "",
    // In the order of FieldId.
    "host", "connection", "content-length", "content-type", "transfer-encoding", "expect",
    "authorization", "cookie", "date", "dnt", "keep-alive", "proxy-authorization", "te", "trailer",
    "upgrade", "via",
    // Known, but not used by id: what browsers, proxies and load balancers send with each request.
    "accept", "accept-encoding", "accept-language", "cache-control", "content-encoding",
    "forwarded", "if-match", "if-modified-since", "if-none-match", "if-range",
    "if-unmodified-since", "origin", "pragma", "priority", "proxy-connection", "range", "referer",
    "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode",
    "sec-fetch-site", "sec-fetch-user", "sec-gpc", "sec-websocket-extensions", "sec-websocket-key",
    "sec-websocket-protocol", "sec-websocket-version", "traceparent", "tracestate",
    "upgrade-insecure-requests", "user-agent", "x-amzn-trace-id", "x-csrftoken", "x-forwarded-for",
    "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-protocol",
    "x-forwarded-scheme", "x-forwarded-server", "x-forwarded-ssl", "x-real-ip", "x-request-id",
    "x-requested-with", "x-scheme"};

/// The first six after Unknown decide what a request is; the parser relies on their order. Ids
/// between Via and Count belong to names that no code asks for.
enum class FieldId : uint8_t {
    Unknown,
    Host,
    Connection,
    ContentLength,
    ContentType,
    TransferEncoding,
    Expect,
    Authorization,
    Cookie,
    Date,
    Dnt,
    KeepAlive,
    ProxyAuthorization,
    Te,
    Trailer,
    Upgrade,
    Via,
    Count = std::size(kFieldNames)
};
static_assert(kFieldNames[static_cast<size_t>(FieldId::Via)] == "via", "in the same order");

namespace field_table {

/// The four bytes at `text`, letters in lower case. It does not matter which other bytes `| 0x20`
/// conflates, because a hit is compared in full.
constexpr uint32_t folded_word(const char* text) {
    const std::array<char, 4> bytes = {text[0], text[1], text[2], text[3]};
    return std::bit_cast<uint32_t>(bytes) | 0x20202020u;
}

/// First four bytes, last four and the length distinguish all known names of four or more bytes.
constexpr uint32_t key_of(std::string_view name) {
    const uint32_t size = static_cast<uint32_t>(name.size());
    return folded_word(name.data()) * 31 + folded_word(name.data() + size - 4) + size;
}

/// A multiplicative hash into 512 slots without collisions, found at compile time.
struct Table {
    uint32_t multiplier = 0;
    std::array<uint8_t, 512> ids{};

    [[nodiscard]] constexpr size_t slot(uint32_t key) const { return (key * multiplier) >> 23; }
};

constexpr Table make_table() {
    for (uint32_t seed = 1;; ++seed) {
        Table table;
        table.multiplier = seed * 0x9E3779B1u | 1u;
        bool collides = false;
        for (size_t id = 1; id < static_cast<size_t>(FieldId::Count) && !collides; ++id) {
            if (kFieldNames[id].size() < 4) continue;  // find_short() knows these
            uint8_t& entry = table.ids[table.slot(key_of(kFieldNames[id]))];
            collides = entry != 0;
            entry = static_cast<uint8_t>(id);
        }
        if (!collides) return table;
    }
}
inline constexpr Table kTable = make_table();

/// Eight (or four) bytes of `name` equal those of `known`, which are lower-case letters, digits and
/// '-'. Letters have bit 0x40, and only there may the case bit 0x20 differ.
template <typename Word>
bool same_word(const char* name, const char* known) {
    Word a, b;
    std::memcpy(&a, name, sizeof a);
    std::memcpy(&b, known, sizeof b);
    constexpr Word kLetterBits = static_cast<Word>(~Word{0} / 255 * 0x40);
    return ((a ^ b) & ~((b & kLetterBits) >> 1)) == 0;
}

/// Case-insensitive equality with a known name of the same length ≥ 4, in words that may overlap.
inline bool same_name(const char* name, const char* known, size_t size) {
    if (size < 8) {
        return same_word<uint32_t>(name, known) &&
               same_word<uint32_t>(name + size - 4, known + size - 4);
    }
    bool same =
        same_word<uint64_t>(name, known) && same_word<uint64_t>(name + size - 8, known + size - 8);
    for (size_t i = 8; i + 8 < size; i += 8)
        same &= same_word<uint64_t>(name + i, known + i);
    return same;
}

/// Names of fewer than four bytes. Out of line, to keep find_field() small.
[[nodiscard, gnu::noinline]] inline FieldId find_short(std::string_view name) {
    for (const FieldId id : {FieldId::Te, FieldId::Dnt, FieldId::Via}) {
        if (iequals(name, kFieldNames[static_cast<size_t>(id)])) return id;
    }
    return FieldId::Unknown;
}

}  // namespace field_table

/// The id of a field name in any case, or Unknown. Reads nothing outside of `name`.
[[nodiscard, gnu::always_inline]] inline FieldId find_field(std::string_view name) {
    using namespace field_table;
    if (name.size() < 4) return find_short(name);
    const uint8_t id = kTable.ids[kTable.slot(key_of(name))];
    const std::string_view known = kFieldNames[id];
    const bool same =
        known.size() == name.size() && same_name(name.data(), known.data(), known.size());
    return same ? static_cast<FieldId>(id) : FieldId::Unknown;
}

/// Case-insensitive equality with a word of four or more lower-case letters, digits and dashes.
[[nodiscard]] inline bool is_word(std::string_view text, std::string_view word) {
    return text.size() == word.size() &&
           field_table::same_name(text.data(), word.data(), word.size());
}

/// True for the bytes 0x00–0x1F and 0x7F. HTAB is one of them: where it is allowed, the caller
/// skips it.
[[nodiscard]] constexpr bool is_control(char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
}

/// Position of the first control byte in text[from, size), or `size`. `from` ≤ `size`. Reads
/// nothing outside. Only control bytes can end a line or corrupt a log, so this one search finds
/// both line ends and illegal bytes, 16 bytes at a step.
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

/// Continues from `at`, a result of find_control(), to the first control byte other than HTAB.
[[nodiscard]] inline size_t skip_tabs(const char* text, size_t at, size_t size) {
    while (at < size && text[at] == '\t')
        at = find_control(text, at + 1, size);
    return at;
}

/// True if `text` is legal as a field value (RFC 9110 §5.5): no control byte but HTAB.
[[nodiscard]] inline bool is_field_value(std::string_view text) {
    const size_t at = find_control(text.data(), 0, text.size());
    return skip_tabs(text.data(), at, text.size()) == text.size();
}

}  // namespace gcorn
