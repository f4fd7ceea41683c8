// What the fuzz targets share: a check that ends the run, and cuts that depend on the input only.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <vector>

namespace gcorn::fuzz {

inline void require(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "broken invariant: %s\n", what);
    std::abort();
}

/// Up to `count` ascending places inside the input, the same for the same input.
inline std::vector<size_t> cuts_for(std::string_view input, size_t count, uint64_t salt) {
    uint64_t state = 0xCBF29CE484222325 ^ salt;
    for (const char c : input)
        state = (state ^ static_cast<unsigned char>(c)) * 0x100000001B3;
    std::vector<size_t> cuts;
    for (size_t i = 0; i < count && input.size() > 1; ++i) {
        state = state * 6364136223846793005 + 1442695040888963407;
        cuts.push_back(1 + static_cast<size_t>(state >> 33) % (input.size() - 1));
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    return cuts;
}

/// The whole text as a hexadecimal number; the oracles' own, so that they share nothing with the
/// parser.
inline std::optional<uint64_t> parse_hex(std::string_view text) {
    uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value, 16);
    if (error != std::errc{} || stop != end || text.empty()) return std::nullopt;
    return value;
}

}  // namespace gcorn::fuzz
