// Reads the request corpus (tests/requests, notation in its README.md) and runs one input through
// parser and body reader the way a connection does. Shared by unit tests and fuzz targets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.h"
#include "http_parse.h"

namespace gcorn::test {

/// One case: its input, the policy it runs under, and what it expects, as (key, value) lines.
struct CorpusCase {
    std::string file, name;
    std::string input;
    HttpPolicy policy;
    PeerFacts peer;
    std::vector<std::pair<std::string, std::string>> expected;
};

/// What became of an input: everything a connection could observe, in comparable form.
struct Outcome {
    enum class Kind { Waits, Complete, Refused } kind = Kind::Waits;
    int status = 0;    ///< Refused
    std::string rule;  ///< Refused
    bool has_head = false;
    std::vector<std::pair<std::string, std::string>> head;  ///< keys as in the corpus
    std::string body;
    size_t used = 0;  ///< Complete: bytes of head and body

    bool operator==(const Outcome&) const = default;
};

inline std::string unescape(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\\' || i + 1 == text.size()) {
            out += text[i];
            continue;
        }
        const char kind = text[++i];
        if (kind == 'r')
            out += '\r';
        else if (kind == 'n')
            out += '\n';
        else if (kind == 't')
            out += '\t';
        else if (kind == '0')
            out += '\0';
        else if (kind == 's')
            out += ' ';
        else if (kind == 'x') {
            out += static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
            i += 2;
        } else if (kind == '{') {  // \{count:text}
            const size_t colon = text.find(':', i);
            const size_t close = text.find('}', colon);
            const std::string repeated = unescape(text.substr(colon + 1, close - colon - 1));
            const uint64_t count = parse_decimal(text.substr(i + 1, colon - i - 1)).value_or(0);
            for (uint64_t n = 0; n < count; ++n)
                out += repeated;
            i = close;
        } else {
            out += kind;  // "\\" and every byte that stands for itself
        }
    }
    return out;
}

inline std::vector<std::string> comma_list(std::string_view text) {
    const std::vector<std::string_view> items = split_list(text);
    return {items.begin(), items.end()};
}

/// Applies one "set" line. False if the name is unknown.
inline bool apply_setting(CorpusCase& test, std::string_view name, std::string_view value) {
    HttpPolicy& policy = test.policy;
    const auto number = static_cast<uint32_t>(parse_decimal(value).value_or(0));
    if (name == "limit_request_line")
        policy.limit_request_line = number;
    else if (name == "limit_request_fields")
        policy.limit_request_fields = number;
    else if (name == "limit_request_field_size")
        policy.limit_request_field_size = number;
    else if (name == "limit_request_body")
        policy.limit_request_body = number;
    else if (name == "header_map")
        policy.header_map = value == "drop"     ? HeaderMap::Drop
                            : value == "refuse" ? HeaderMap::Refuse
                                                : HeaderMap::Dangerous;
    else if (name == "forwarder_headers")
        policy.forwarder_headers = comma_list(value);
    else if (name == "secure_scheme_header") {
        const size_t equals = value.find('=');
        std::vector<SchemeHeaders::Entry> entries = policy.secure_scheme_headers.entries();
        entries.emplace_back(value.substr(0, equals), value.substr(equals + 1));
        policy.secure_scheme_headers = SchemeHeaders(std::move(entries));
    } else if (name == "script_name")
        policy.script_name = value;
    else if (name == "permit_obsolete_folding")
        policy.permit_obsolete_folding = true;
    else if (name == "strip_header_spaces")
        policy.strip_header_spaces = true;
    else if (name == "permit_unconventional_http_method")
        policy.permit_unconventional_http_method = true;
    else if (name == "permit_unconventional_http_version")
        policy.permit_unconventional_http_version = true;
    else if (name == "casefold_http_method")
        policy.casefold_http_method = true;
    else if (name == "trusted")
        test.peer.is_trusted = true;
    else if (name == "tls")
        test.peer.is_tls = true;
    else
        return false;
    return true;
}

/// Every case of the files below `directory`, in order of their names. Ends the process on a line
/// it does not understand: a test nobody can read proves nothing.
inline std::vector<CorpusCase> read_corpus(const std::filesystem::path& directory) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
        if (entry.path().extension() == ".txt") paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    std::vector<CorpusCase> cases;
    for (const auto& path : paths) {
        std::ifstream stream(path);
        int line_number = 0;
        for (std::string line; std::getline(stream, line);) {
            ++line_number;
            const size_t blank = std::min(line.find(' '), line.size());
            const std::string key = line.substr(0, blank);
            const std::string value = blank < line.size() ? line.substr(blank + 1) : "";
            if (line.empty() || key == "#") continue;
            if (key == "==") {
                cases.emplace_back();
                cases.back().file = path.filename().string();
                cases.back().name = value;
            } else if (cases.empty()) {
                std::fprintf(stderr, "%s:%d: no case yet\n", path.c_str(), line_number);
                std::abort();
            } else if (key == "in") {
                cases.back().input += unescape(value);
            } else if (key == "set") {
                const size_t space = std::min(value.find(' '), value.size());
                const std::string setting = space < value.size() ? value.substr(space + 1) : "";
                if (!apply_setting(cases.back(), value.substr(0, space), setting)) {
                    std::fprintf(stderr, "%s:%d: unknown setting\n", path.c_str(), line_number);
                    std::abort();
                }
            } else {
                cases.back().expected.emplace_back(key, unescape(value));
            }
        }
    }
    return cases;
}

inline std::filesystem::path corpus_directory() {
    return GCORN_SOURCE_DIR "/tests/requests";
}

inline std::vector<std::pair<std::string, std::string>> describe(const RequestHead& head) {
    std::vector<std::pair<std::string, std::string>> lines;
    const auto add = [&](const char* key, std::string_view value) {
        lines.emplace_back(key, value);
    };
    add("method", head.method);
    add("target", head.target);
    add("path", head.raw_path);
    add("query", head.query);
    add("fragment", head.fragment);
    add("authority", head.authority);
    add("script_name", head.script_name);
    add("protocol", head.protocol);
    add("scheme", head.is_https ? "https" : "http");
    add("framing", head.framing == Framing::Chunked ? "chunked"
                   : head.framing == Framing::Length
                       ? "length " + std::to_string(head.content_length)
                       : "none");
    add("keep-alive", head.keep_alive ? "yes" : "no");
    add("continue", head.expects_continue ? "yes" : "no");
    add("upgrade", head.is_upgrade ? "yes" : "no");
    for (const Field& field : head.fields) {
        add("field", std::string(field.name) + ": " + std::string(field.value));
    }
    for (const std::string_view name : head.dropped_names)
        add("dropped", name);
    return lines;
}

/// Feeds the input in pieces that end at `cuts` (ascending) and at its end, like a connection: what
/// the head does not use is left in the buffer, and the body is decoded as it arrives.
inline Outcome run(std::string_view input, const std::vector<size_t>& cuts,
                   const HttpPolicy& policy, const PeerFacts& peer) {
    Outcome outcome;
    RequestHead head;
    HeadParser parser;
    BodyReader reader;
    HttpError error;
    size_t body_at = 0;
    const auto refused = [&] {
        outcome.kind = Outcome::Kind::Refused;
        outcome.status = error.status;
        outcome.rule = error.rule;
        return outcome;
    };
    for (size_t piece = 0; piece <= cuts.size(); ++piece) {
        const std::string_view in =
            input.substr(0, piece < cuts.size() ? cuts[piece] : input.size());
        if (!outcome.has_head) {
            size_t used = 0;
            const Parse parse = parser.parse(in, policy, peer, head, used, error);
            if (parse == Parse::Bad) return refused();
            if (parse == Parse::NeedMore) continue;
            if (used > in.size()) std::abort();
            outcome.has_head = true;
            outcome.head = describe(head);
            body_at = used;
            reader.begin(head.framing, head.content_length, policy);
        }
        for (;;) {
            size_t used = 0;
            std::string_view data;
            const std::string_view rest = in.substr(body_at);
            const Parse parse = reader.next(rest, used, data, error);
            if (used > rest.size()) std::abort();
            outcome.body += data;
            body_at += used;
            if (reader.received() != outcome.body.size()) std::abort();
            if (parse == Parse::Bad) return refused();
            if (parse == Parse::Done) {
                outcome.kind = Outcome::Kind::Complete;
                outcome.used = body_at;
                return outcome;
            }
            if (used == 0) break;
        }
    }
    return outcome;
}

inline std::vector<size_t> every_byte(size_t size) {
    std::vector<size_t> cuts;
    for (size_t i = 1; i < size; ++i)
        cuts.push_back(i);
    return cuts;
}

}  // namespace gcorn::test
