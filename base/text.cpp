#include "base/text.h"

#include <algorithm>
#include <charconv>

namespace gcorn {

namespace {

constexpr std::array<bool, 256> kToken = alnum_table("!#$%&'*+-.^_`|~");

void append_hex(std::string& out, unsigned char byte) {
    constexpr char kDigits[] = "0123456789abcdef";
    (out += kDigits[byte >> 4]) += kDigits[byte & 15];
}

/// Appends `c` if it needs one of the escapes that C and JSON share; false if it does not.
bool append_escaped(std::string& out, char c) {
    switch (c) {
        case '"': out += "\\\""; return true;
        case '\\': out += "\\\\"; return true;
        case '\n': out += "\\n"; return true;
        case '\r': out += "\\r"; return true;
        case '\t': out += "\\t"; return true;
        default: return false;
    }
}

/// Length of the well-formed UTF-8 sequence that `text`, not empty, starts with, or 0. (The Unicode
/// Standard, table 3-7: the first byte narrows what the second may be.)
size_t utf8_sequence(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return 1;
    const size_t size = lead < 0xC2 || lead > 0xF4 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (size == 0 || text.size() < size) return 0;
    const int least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const int most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte(1) < least || byte(1) > most) return 0;
    for (size_t i = 2; i < size; ++i)
        if ((byte(i) & 0xC0) != 0x80) return 0;
    return size;
}

}  // namespace

bool is_token(std::string_view text) {
    const auto is_tchar = [](char c) { return kToken[static_cast<unsigned char>(c)]; };
    return !text.empty() && std::ranges::all_of(text, is_tchar);
}

std::string lower(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(), to_lower);
    return out;
}

std::string upper(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(), to_upper);
    return out;
}

bool iequals(std::string_view a, std::string_view b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) {
               return to_lower(x) == to_lower(y);
           });
}

std::string_view trim(std::string_view text, std::string_view blanks) {
    const size_t first = text.find_first_not_of(blanks);
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    size_t start = 0;
    for (;;) {
        const size_t end = text.find(separator, start);
        parts.push_back(text.substr(start, end - start));
        if (end == std::string_view::npos) return parts;
        start = end + 1;
    }
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
    std::string out;
    for (const std::string& part : parts)
        (out += out.empty() ? "" : separator) += part;
    return out;
}

std::vector<std::string_view> split_list(std::string_view text) {
    std::vector<std::string_view> items;
    for (std::string_view part : split(text, ',')) {
        part = trim(part);
        if (!part.empty()) items.push_back(part);
    }
    return items;
}

std::optional<uint64_t> parse_decimal(std::string_view text) {
    uint64_t value = 0;
    const char* end = text.data() + text.size();
    // from_chars for unsigned types takes neither sign nor blank nor prefix, nor nothing at all.
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc{} || stop != end) return std::nullopt;
    return value;
}

std::string percent_decode(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && text.size() - i > 2) {
            const int high = hex_value(text[i + 1]);
            const int low = hex_value(text[i + 2]);
            if (high >= 0 && low >= 0) {
                out += static_cast<char>(high * 16 + low);
                i += 2;
                continue;
            }
        }
        out += text[i];
    }
    return out;
}

std::string escape_for_log(std::string_view text, size_t bytes_max) {
    std::string out;
    out.reserve(std::min(text.size(), bytes_max) + 8);
    for (size_t i = 0; i < text.size(); ++i) {
        if (i == bytes_max) return out + "...";
        const char c = text[i];
        const auto byte = static_cast<unsigned char>(c);
        if (append_escaped(out, c)) continue;
        if (byte < 0x20 || byte >= 0x7F)
            append_hex(out += "\\x", byte);
        else
            out += c;
    }
    return out;
}

std::string json_quote(std::string_view text) {
    std::string out = "\"";
    while (!text.empty()) {
        const size_t size = utf8_sequence(text);
        const std::string_view piece = text.substr(0, std::max<size_t>(size, 1));
        text.remove_prefix(piece.size());
        const auto last = static_cast<unsigned char>(piece.back());
        const bool is_control =
            last < 0x20 || last == 0x7F || (piece.size() == 2 && piece[0] == '\xC2' && last < 0xA0);
        if (append_escaped(out, piece[0])) continue;
        if (is_control || size == 0)
            append_hex(out += "\\u00", last);
        else
            out += piece;
    }
    return out += '"';
}

size_t edit_distance(std::string_view a, std::string_view b) {
    // Optimal string alignment over three rows: the one being filled and the two before it.
    std::vector<size_t> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
    for (size_t j = 0; j <= b.size(); ++j)
        previous[j] = j;
    for (size_t i = 1; i <= a.size(); ++i) {
        current[0] = i;
        for (size_t j = 1; j <= b.size(); ++j) {
            const size_t replace = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            current[j] = std::min({previous[j] + 1, current[j - 1] + 1, replace});
            const bool is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (is_swap) current[j] = std::min(current[j], before[j - 2] + 1);
        }
        std::swap(before, previous);
        std::swap(previous, current);
    }
    return previous[b.size()];
}

}  // namespace gcorn
