// Fuzz target: a body, chunked or with a length, in pieces. The first byte chooses which of the
// two, and a limit.
//
// Invariants: the same result however the input is cut; never more bytes used than given; an
// accepted chunked body is what a second, simple-minded decoder below makes of it.
#include <string>

#include "base/text.h"
#include "http_parse.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace gcorn;
using fuzz::require;

struct Decoded {
    Parse outcome = Parse::NeedMore;
    int status = 0;
    std::string rule, body;
    size_t used = 0;
    bool operator==(const Decoded&) const = default;
};

struct Wanted {
    Framing framing;
    uint64_t length;
    HttpPolicy policy;
};

Decoded decode(std::string_view input, const std::vector<size_t>& cuts, const Wanted& wanted) {
    Decoded decoded;
    BodyReader reader;
    reader.begin(wanted.framing, wanted.length, wanted.policy);
    for (size_t piece = 0; piece <= cuts.size(); ++piece) {
        const size_t end = piece < cuts.size() ? cuts[piece] : input.size();
        for (;;) {
            const std::string_view in = input.substr(decoded.used, end - decoded.used);
            size_t used = 0;
            std::string_view data;
            HttpError error;
            decoded.outcome = reader.next(in, used, data, error);
            require(used <= in.size(), "used lies inside the input");
            require(data.empty() ||
                        (data.data() >= in.data() && data.data() + data.size() <= in.data() + used),
                    "data lies inside what was used");
            decoded.used += used;
            decoded.body += data;
            require(reader.received() == decoded.body.size(), "received counts the data");
            if (decoded.outcome == Parse::Bad) {
                decoded.status = error.status;
                decoded.rule = error.rule;
                decoded.used = 0;  // no longer means anything
                return decoded;
            }
            if (decoded.outcome == Parse::Done) return decoded;
            if (used == 0) break;
        }
    }
    return decoded;
}

/// Decodes chunks by the book, regardless of speed, pieces or limits; false if malformed.
bool decode_simply(std::string_view wire, std::string& body, size_t& used) {
    for (used = 0;;) {
        const size_t line_end = wire.find("\r\n", used);
        if (line_end == std::string_view::npos) return false;
        std::string_view line = wire.substr(used, line_end - used);
        line = trim(line.substr(0, line.find(';')));
        while (line.size() > 1 && line.front() == '0')
            line.remove_prefix(1);
        const std::optional<uint64_t> size = fuzz::parse_hex(line);
        used = line_end + 2;
        if (!size) return false;
        if (*size == 0) break;
        if (*size > wire.size() - used) return false;
        const std::string_view data = wire.substr(used, static_cast<size_t>(*size));
        used += data.size();
        if (wire.substr(used, 2) != "\r\n") return false;
        body += data;
        used += 2;
    }
    for (;;) {
        const size_t line_end = wire.find("\r\n", used);
        if (line_end == std::string_view::npos) return false;
        const bool is_last = line_end == used;
        used = line_end + 2;
        if (is_last) return true;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const uint8_t choice = data[0];
    const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
    Wanted wanted{Framing::Chunked, 0, {}};
    if (choice & 1) wanted.policy.limit_request_body = choice >> 3;
    if (choice & 2) {
        wanted.framing = Framing::Length;
        wanted.length = choice >> 2;
    }
    if (choice & 4) {
        wanted.policy.limit_request_fields = 2;
        wanted.policy.limit_request_field_size = 20;
        wanted.policy.permit_obsolete_folding = true;
    }
    const Decoded whole = decode(input, {}, wanted);
    std::vector<size_t> every;
    for (size_t i = 1; i < input.size(); ++i)
        every.push_back(i);
    require(decode(input, every, wanted) == whole, "byte by byte gives the same answer");
    for (size_t salt = 1; salt <= 4; ++salt) {
        require(decode(input, fuzz::cuts_for(input, salt, salt), wanted) == whole,
                "cut in pieces gives the same answer");
    }
    if (whole.outcome != Parse::Done) return 0;
    if (wanted.framing == Framing::Length) {
        require(whole.body.size() == wanted.length && input.starts_with(whole.body),
                "a length takes so many bytes");
        return 0;
    }
    std::string body;
    size_t used = 0;
    require(decode_simply(input, body, used), "what is accepted is well-formed");
    require(body == whole.body && used == whole.used, "both decoders agree");
    return 0;
}
