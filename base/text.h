// Small text tools: ASCII case, splitting, strict numbers, percent-decoding, escaping for logs.
//
// Everything is ASCII and locale-free on purpose: HTTP is (RFC 9110 §5.6.2), and a server must not
// behave differently with LC_ALL. Pure. Any thread. Views returned point into the argument.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gcorn {

[[nodiscard]] constexpr char to_lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}
[[nodiscard]] constexpr char to_upper(char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
}
[[nodiscard]] constexpr bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
[[nodiscard]] constexpr bool is_alpha(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Value of a hexadecimal digit, or -1.
[[nodiscard]] constexpr int hex_value(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/// Which bytes are ASCII letters, digits or in `others`.
[[nodiscard]] constexpr std::array<bool, 256> alnum_table(std::string_view others) {
    std::array<bool, 256> table{};
    for (size_t i = 0; i < 128; ++i) {
        const char c = static_cast<char>(i);
        table[i] = is_digit(c) || is_alpha(c) || others.find(c) != others.npos;
    }
    return table;
}

/// True for one or more tchar (RFC 9110 §5.6.2), the bytes of methods and field names.
[[nodiscard]] bool is_token(std::string_view text);

[[nodiscard]] std::string lower(std::string_view text);
[[nodiscard]] std::string upper(std::string_view text);
[[nodiscard]] bool iequals(std::string_view a, std::string_view b);

/// Strips leading and trailing characters of `blanks` (OWS by default, RFC 9110 §5.6.3).
[[nodiscard]] std::string_view trim(std::string_view text, std::string_view blanks = " \t");

/// Parts between `separator`, untrimmed; "" gives one empty part.
[[nodiscard]] std::vector<std::string_view> split(std::string_view text, char separator);

/// The parts with `separator` between them.
[[nodiscard]] std::string join(const std::vector<std::string>& parts, std::string_view separator);

/// Parts between commas, trimmed, empty ones dropped (RFC 9110 §5.6.1).
[[nodiscard]] std::vector<std::string_view> split_list(std::string_view text);

/// Digits only, the whole text, no sign, no blank; nullopt also on overflow or an empty text.
[[nodiscard]] std::optional<uint64_t> parse_decimal(std::string_view text);

/// "%41" → "A"; an escape that is not two hexadecimal digits stays as it is.
[[nodiscard]] std::string percent_decode(std::string_view text);

/// Bytes from a client as they may appear in a log line: printable ASCII except quote and backslash
/// as is, the rest as \n, \r, \t, \", \\ or \xHH, so that no line can be forged and no terminal
/// controlled. At most `bytes_max` input bytes, then "...".
[[nodiscard]] std::string escape_for_log(std::string_view text, size_t bytes_max = SIZE_MAX);

/// `text` as a quoted JSON string (RFC 8259 §7); bytes that are not UTF-8, and U+0080 to U+009F,
/// which terminals take for control sequences, become U+00HH escapes.
[[nodiscard]] std::string json_quote(std::string_view text);

/// Edits (insert, delete, replace, swap neighbours) between the two; for "did you mean".
[[nodiscard]] size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace gcorn
