// Fuzz target: one message as it comes from a client, under a strict, a lenient and a tight policy.
//
// Invariants: the same result however the input is cut; nothing ambiguous is accepted (framing,
// Host, stray line breaks); a parsed head that is written out again parses the same way.
#include <string>

#include "tests/fuzz/fuzz.h"
#include "tests/support/request_corpus.h"

namespace {

using namespace gcorn;
using fuzz::require;
using test::Outcome;

struct Setting {
    HttpPolicy policy;
    PeerFacts peer;
};

Setting lenient() {
    Setting setting;
    setting.peer = {true, true};
    HttpPolicy& policy = setting.policy;
    policy.header_map = HeaderMap::Dangerous;
    policy.forwarder_headers = {"*"};
    policy.permit_obsolete_folding = policy.strip_header_spaces = true;
    policy.permit_unconventional_http_method = policy.permit_unconventional_http_version = true;
    policy.casefold_http_method = true;
    policy.limit_request_line = policy.limit_request_fields = policy.limit_request_field_size = 0;
    return setting;
}

Setting tight() {
    Setting setting;
    setting.policy.limit_request_line = 30;
    setting.policy.limit_request_fields = 3;
    setting.policy.limit_request_field_size = 40;
    setting.policy.limit_request_body = 20;
    setting.policy.permit_obsolete_folding = true;
    setting.policy.header_map = HeaderMap::Refuse;
    setting.policy.script_name = "/a";
    return setting;
}

size_t count_fields(const RequestHead& head, std::string_view name) {
    return static_cast<size_t>(
        std::count_if(head.fields.begin(), head.fields.end(),
                      [&](const Field& field) { return iequals(field.name, name); }));
}

std::string write_out(const RequestHead& head) {
    std::string text;
    text.append(head.method).append(" ").append(head.target).append(" ").append(head.protocol);
    for (const Field& field : head.fields) {
        text.append("\r\n").append(field.name).append(": ").append(field.value);
    }
    return text + "\r\n\r\n";
}

void check_accepted(std::string_view input, const Setting& setting) {
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    if (parser.parse(input, setting.policy, setting.peer, head, used, error) != Parse::Done) return;
    require(used >= 4 && used <= input.size(), "used lies inside the input");
    const std::string_view wire = input.substr(0, used);
    require(wire.substr(used - 4) == "\r\n\r\n", "a head ends with an empty line");
    for (size_t i = 0; i < wire.size(); ++i) {
        require(wire[i] != '\n' || (i > 0 && wire[i - 1] == '\r'), "no bare LF");
        require(wire[i] != '\r' || wire[i + 1] == '\n', "no bare CR");
        require(!is_control(wire[i]) || wire[i] == '\r' || wire[i] == '\n' || wire[i] == '\t',
                "no control byte");
    }
    for (const char c : head.target)
        require(c != ' ' && !is_control(c), "no blank or control byte in a target");
    for (const Field& field : head.fields) {
        require(is_token(field.name) && is_field_value(field.value), "fields are clean");
        require(field.value == trim(field.value), "values are trimmed");
        require(field.id == find_field(field.name), "ids are right");
    }

    // One framing, and only one (RFC 9112 §6.3).
    const size_t lengths = count_fields(head, "Content-Length");
    const size_t codings = count_fields(head, "Transfer-Encoding");
    switch (head.framing) {
        case Framing::None: require(lengths == 0 && codings == 0, "no framing field"); break;
        case Framing::Length:
            require(lengths == 1 && codings == 0, "one Content-Length and nothing else");
            require(parse_decimal(head.find(FieldId::ContentLength)->value) == head.content_length,
                    "the length that was sent");
            break;
        case Framing::Chunked:
            require(lengths == 0 && codings == 1 && head.is_http_11(), "chunked and nothing else");
            require(iequals(head.find(FieldId::TransferEncoding)->value, "chunked"),
                    "exactly chunked");
            break;
    }
    require(count_fields(head, "Host") == (head.is_http_11() || !head.authority.empty() ? 1 : 0) ||
                (!head.is_http_11() && count_fields(head, "Host") == 1),
            "one Host");
    if (!head.authority.empty())
        require(head.find(FieldId::Host)->value == head.authority, "one authority");

    // Parsed, written out, parsed to the same; without the field size limit, which a blank that we
    // add may exceed.
    Setting roomy = setting;
    roomy.policy.limit_request_field_size = 0;
    const std::string again = write_out(head);
    RequestHead copy;
    HeadParser second;
    size_t used_again = 0;
    require(second.parse(again, roomy.policy, roomy.peer, copy, used_again, error) == Parse::Done,
            "a head written out again is accepted");
    require(used_again == again.size(), "… as a whole");
    auto was = test::describe(head), is = test::describe(copy);
    const auto is_dropped = [](const auto& line) { return line.first == "dropped"; };
    was.erase(std::remove_if(was.begin(), was.end(), is_dropped), was.end());
    if (setting.policy.secure_scheme_headers.entries().empty() || head.dropped_names.empty()) {
        require(was == is, "… and means the same");
    }
}

void check(std::string_view input, const Setting& setting) {
    const Outcome whole = test::run(input, {}, setting.policy, setting.peer);
    if (input.size() <= 2048) {
        require(
            test::run(input, test::every_byte(input.size()), setting.policy, setting.peer) == whole,
            "byte by byte gives the same answer");
    }
    for (size_t salt = 1; salt <= 4; ++salt) {
        const std::vector<size_t> cuts = fuzz::cuts_for(input, salt, salt);
        require(test::run(input, cuts, setting.policy, setting.peer) == whole,
                "cut in pieces gives the same answer");
    }
    check_accepted(input, setting);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const Setting settings[] = {Setting{}, lenient(), tight()};
    for (const Setting& setting : settings) {
        check({reinterpret_cast<const char*>(data), size}, setting);
    }
    return 0;
}
