// Bind strings and network lists: whatever the text, no over-read; a network contains its first
// address.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "net/address.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // A copy of exactly this size, so that the sanitizer sees a read of one byte too many.
    const auto copy = std::make_unique<char[]>(size);
    for (size_t i = 0; i < size; ++i)
        copy[i] = static_cast<char>(data[i]);
    const std::string_view text(copy.get(), size);

    static_cast<void>(gcorn::parse_bind(text));
    const auto networks = gcorn::NetworkList::parse(text);
    // The first address of a network lies in it.
    const size_t from = text.find_first_not_of(" \t");
    if (networks && from != text.npos && text.find(',') == text.npos) {
        const size_t to = text.find_first_of("/% \t", from);  // a scope is not compared
        const auto first = gcorn::Address::from_ip(text.substr(from, to - from), 0);
        GCORN_CHECK(networks->contains(first.value_or(gcorn::Address{})));
    }
    static_cast<void>(gcorn::is_ipv6_literal(text));
    return 0;
}
