// Bind strings and network lists: whatever the text, no over-read; an accepted spec reads back
// equal.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "net/address.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // A copy of exactly this size: the sanitizer sees one byte too many.
    const auto copy = std::make_unique<char[]>(size);
    for (size_t i = 0; i < size; ++i)
        copy[i] = static_cast<char>(data[i]);
    const std::string_view text(copy.get(), size);

    if (const auto spec = gcorn::parse_bind(text)) {
        const auto again = gcorn::parse_bind(spec->text());
        GCORN_CHECK(again.is_ok() && *again == *spec);
    }
    const auto networks = gcorn::NetworkList::parse(text);
    if (networks && !networks->empty() && text.find(',') == std::string_view::npos &&
        !networks->contains("")) {
        // The first address of a network lies in it.
        const size_t from = text.find_first_not_of(" \t");
        const size_t to = text.find_first_of("/ \t", from);
        GCORN_CHECK(networks->contains(text.substr(from, to - from)));
    }
    static_cast<void>(gcorn::is_ipv6_literal(text));
    return 0;
}
