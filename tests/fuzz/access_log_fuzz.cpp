// Access log formats and the strings in a record: whatever they contain, no over-read; and as long
// as the operator's format is printable, so is the line. Input: the format, a NUL, then the
// client's bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "log/access_log.h"

namespace {

bool is_printable(std::string_view text, bool is_ascii_only) {
    return std::all_of(text.begin(), text.end(), [&](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte >= 0x20 && byte != 0x7F && (byte < 0x80 || !is_ascii_only);
    });
}

void check_line(std::string_view format, std::string_view client) {
    const gcorn::Result<gcorn::AccessLog> log = gcorn::AccessLog::compile(format);
    if (!log) {
        GCORN_CHECK(!log.message().empty());
        return;
    }
    std::vector<std::pair<std::string, std::string>> environ;
    for (const std::string& name : log->environ_names())
        environ.emplace_back(name, client);
    gcorn::AccessRecord record;
    record.remote_addr = record.method = record.request = record.path = record.query =
        record.protocol = record.status = client;
    record.body_bytes = client.size();
    record.duration_us = static_cast<int64_t>(client.size()) * 1'000'003 - 7;
    const gcorn::FieldFinder same_for_all = [client](char, std::string_view) { return client; };
    record.find_field = &same_for_all;
    record.environ = &environ;
    const std::string_view line = log->format(record);
    const bool is_json = format == "json" || format.starts_with("json:");
    if (is_json) {
        GCORN_CHECK(is_printable(line, false) && line.ends_with('}'));
        GCORN_CHECK(line.find("\xC2\x9B") == std::string::npos);
    } else if (is_printable(format, true)) {
        GCORN_CHECK(is_printable(line, true));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // A copy of exactly this size, so that the sanitizer sees a read of one byte too many.
    const auto copy = std::make_unique<char[]>(size);
    for (size_t i = 0; i < size; ++i)
        copy[i] = static_cast<char>(data[i]);
    const std::string_view text(copy.get(), size);
    const std::string_view format = text.substr(0, text.find('\0'));
    const std::string_view client = text.substr(std::min(format.size() + 1, size));
    check_line(format, client);
    check_line(gcorn::kDefaultAccessFormat, client);
    check_line("json", client);
    return 0;
}
