// Above 800 lines: head and body are one trust boundary. What counts as a line, a field or a body
// is decided here and nowhere else, and an auditor reads it top to bottom: tools, fields, the
// head's meaning, the scanner, the body.
#include "http_parse.h"

#include <algorithm>
#include <array>

#include <arpa/inet.h>

#include "base/result.h"
#include "base/text.h"

namespace gcorn {

static_assert(FieldId::Expect == static_cast<FieldId>(6), "the deciding fields come first");
static_assert(static_cast<size_t>(FieldId::Count) <= 64, "sets of FieldIds are 64-bit masks");

/// If a head took more memory than this, the memory is freed rather than kept for the next.
constexpr size_t kKeptBytesMax = 16 * 1024;

const Field* RequestHead::find(FieldId id) const {
    const auto found = std::ranges::find(fields, id, &Field::id);
    return found == fields.end() ? nullptr : &*found;
}

SchemeHeaders::SchemeHeaders(std::vector<Entry> entries) : entries_(std::move(entries)) {
    for (const Entry& entry : entries_)
        ids_ |= uint64_t{1} << static_cast<unsigned>(find_field(entry.first));
}

void RequestHead::clear() {
    method = target = raw_path = query = fragment = script_name = protocol = authority = {};
    version_major = version_minor = 1;
    fields.clear();
    dropped_names.clear();
    framing = Framing::None;
    content_length = 0;
    is_https = keep_alive = expects_continue = is_upgrade = false;
    block_.clear();
    line_ends_.clear();
    if (block_.capacity() > kKeptBytesMax) {
        std::string().swap(block_);
        std::vector<Field>().swap(fields);
        std::vector<uint32_t>().swap(line_ends_);
    }
}

std::string_view RequestHead::request_line() const {
    const std::string_view last = !protocol.empty() ? protocol : !target.empty() ? target : method;
    if (method.empty()) return {};
    return {method.data(), static_cast<size_t>(last.data() + last.size() - method.data())};
}

void RequestHead::name_refused(std::string_view in) {
    clear();
    if (in.substr(0, 2) == "\r\n") in.remove_prefix(2);
    block_ = in.substr(0, std::min(in.find_first_of("\r\n"), size_t{8190}));
    std::string_view line = block_;
    const size_t first = line.find(' ');
    method = line.substr(0, first);
    if (first == line.npos) return;
    line.remove_prefix(first + 1);
    const size_t last = line.rfind(' ');
    target = line.substr(0, last);
    if (last != line.npos) protocol = line.substr(last + 1);
    const size_t question = std::min(target.find('?'), target.size());
    raw_path = target.substr(0, question);
    query = target.substr(std::min(question + 1, target.size()));
}

namespace {

// ------------------------------------------------------------------------------- small helpers

constexpr size_t kDetailBytesMax = 64;

/// Always false, so that a check can end with `return refuse(…)`.
bool refuse(HttpError& error, int status, const char* rule, std::string_view detail) {
    error.status = status;
    error.rule = rule;
    error.detail = detail.substr(0, kDetailBytesMax);
    return false;
}

constexpr bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

inline std::string_view trim_blanks(const char* begin, const char* end) {
    while (begin != end && is_blank(*begin))
        ++begin;
    while (begin != end && is_blank(end[-1]))
        --end;
    return {begin, static_cast<size_t>(end - begin)};
}

/// Calls visit(item) for every item of a comma list, empty ones included, outer blanks removed.
template <typename Visit>
void for_each_item(std::string_view list, Visit visit) {
    for (size_t start = 0; start <= list.size();) {
        const size_t comma = std::min(list.find(',', start), list.size());
        visit(trim_blanks(list.data() + start, list.data() + comma));
        start = comma + 1;
    }
}

/// Position of the first colon, or line.size(). Most names are shorter than one step.
inline size_t find_colon(std::string_view line) {
    size_t i = 0;
#if defined(__SSE2__) && !defined(GCORN_PORTABLE_SCAN)
    const __m128i colon = _mm_set1_epi8(':');
    for (; line.size() - i >= 16; i += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(line.data() + i));
        const int hits = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, colon));
        if (hits != 0) return i + static_cast<size_t>(__builtin_ctz(static_cast<unsigned>(hits)));
    }
#endif
    while (i < line.size() && line[i] != ':')
        ++i;
    return i;
}

// The limits in effect (see HttpPolicy): 0 means the largest possible. For the request line,
// that leaves room for its CRLF and for the one that ends the head.
uint32_t at_most(uint32_t limit, uint32_t most) {
    return limit == 0 ? most : std::min(limit, most);
}
uint32_t line_bytes_max(const HttpPolicy& policy) {
    const uint32_t limit = policy.limit_request_line;
    return limit == 0 ? uint32_t{kHeadBytesMax} - 4 : std::min(limit, 8190u);
}
uint32_t fields_max(const HttpPolicy& policy) {
    return at_most(policy.limit_request_fields, 32768);
}
uint32_t field_bytes_max(const HttpPolicy& policy) {
    return at_most(policy.limit_request_field_size, kHeadBytesMax);
}
/// Size limit of the header section, final CRLF included. Only dropped fields can reach it: they do
/// not count towards fields_max() (gunicorn: max_buffer_headers).
uint64_t section_bytes_max(const HttpPolicy& policy) {
    return uint64_t{fields_max(policy)} * (uint64_t{field_bytes_max(policy)} + 2) + 4;
}

// ------------------------------------------------------------------------------- host and port

constexpr std::array<bool, 256> kRegName = alnum_table("-._~!$&'()*+,;=");

/// Length of the reg-name (RFC 3986 §3.2.2) that `text` starts with; an IPv4 address is one, too.
size_t reg_name_size(std::string_view text) {
    size_t i = 0;
    while (i < text.size()) {
        if (kRegName[static_cast<unsigned char>(text[i])]) {
            ++i;
        } else if (text.size() - i > 2 && text[i] == '%' && hex_value(text[i + 1]) >= 0 &&
                   hex_value(text[i + 2]) >= 0) {
            i += 3;
        } else {
            break;
        }
    }
    return i;
}

/// Length of "[" IPv6address "]" at the start of `text`, or 0.
/// Limit: IPvFuture and zone identifiers are refused; a Host that names a real host contains
/// neither.
size_t ip_literal_size(std::string_view text) {
    const size_t end = text.find(']');
    char address[INET6_ADDRSTRLEN] = {};
    if (end == std::string_view::npos || end - 1 >= sizeof address) return 0;
    text.copy(address, end - 1, 1);
    struct in6_addr parsed {};
    return ::inet_pton(AF_INET6, address, &parsed) == 1 ? end + 1 : 0;
}

/// A TCP port in decimal. Empty is legal after the colon of a Host (RFC 3986 §3.2.3).
bool is_port(std::string_view text) {
    const std::optional<uint64_t> port = parse_decimal(text);
    return text.empty() || (port && *port <= 65535);
}

/// uri-host [ ":" port ] (RFC 9110 §7.2) with a host that is not empty. No userinfo: RFC 9110
/// §4.2.4 has a recipient treat it as an error.
bool is_authority(std::string_view text, bool needs_port) {
    const bool is_literal = !text.empty() && text.front() == '[';
    const size_t host_size = is_literal ? ip_literal_size(text) : reg_name_size(text);
    if (host_size == 0) return false;
    if (host_size == text.size()) return !needs_port;
    const std::string_view port = text.substr(host_size + 1);
    return text[host_size] == ':' && is_port(port) && !(needs_port && port.empty());
}

// ------------------------------------------------------------------------------- fields

/// An unknown name must be a token. RFC 9112 §5.1: no blank before the colon, which was a way to
/// hide a field from a front end.
const char* check_unknown_name(const HttpPolicy& policy, Field& field) {
    if (policy.strip_header_spaces && !field.name.empty() && is_blank(field.name.back())) {
        field.name = trim(field.name);
        field.id = find_field(field.name);
    }
    return is_token(field.name) ? nullptr : "invalid header name";
}

/// "Name: value" → its parts. Returns the rule it breaks, or nullptr. The line holds no control
/// byte but HTAB: the scan for its end has made sure of that.
[[gnu::always_inline]] inline const char* split_field(std::string_view line,
                                                      const HttpPolicy& policy, Field& field) {
    const size_t colon = find_colon(line);
    if (colon == line.size()) return "header line without colon";
    field.name = line.substr(0, colon);
    field.value = trim_blanks(line.data() + colon + 1, line.data() + line.size());
    field.id = find_field(field.name);
    return field.id != FieldId::Unknown ? nullptr : check_unknown_name(policy, field);
}

enum class Fate : uint8_t { Keep, Drop, Refuse };

bool is_forwarder_name(std::string_view name, const HttpPolicy& policy, const PeerFacts& peer) {
    const auto matches = [&](const std::string& listed) {
        return listed == "*" || iequals(listed, name);
    };
    return peer.is_trusted &&
           std::any_of(policy.forwarder_headers.begin(), policy.forwarder_headers.end(), matches);
}

/// What header_map and forwarder_headers say about a name. X_Y and X-Y become the same environ key,
/// so a client could forge with one what its front end strips from the other.
Fate fate_of(std::string_view name, const HttpPolicy& policy, const PeerFacts& peer) {
    if (name.find('_') == std::string_view::npos) return Fate::Keep;
    if (is_forwarder_name(name, policy, peer)) return Fate::Keep;
    switch (policy.header_map) {
        case HeaderMap::Drop: return Fate::Drop;
        case HeaderMap::Refuse: return Fate::Refuse;
        case HeaderMap::Dangerous: return Fate::Keep;
    }
    return Fate::Refuse;
}

// ------------------------------------------------------------------------------- meaning

/// Turns the lines of one head into a RequestHead. Lines come without CRLF, free of control bytes
/// (except HTAB in header lines), and outlive the head's views. Every method returns false after
/// refusing.
class HeadBuilder {
public:
    HeadBuilder(const HttpPolicy& policy, const PeerFacts& peer, RequestHead& head,
                HttpError& error)
        : policy_(policy), peer_(peer), head_(head), error_(error) {
        head_.is_https = peer.is_tls;
    }

    [[nodiscard]] bool add_request_line(char* bytes, size_t size);
    [[nodiscard]] bool add_field(std::string_view line);
    /// Judges what only the complete head reveals.
    [[nodiscard]] bool complete();

private:
    bool fail(int status, const char* rule, std::string_view detail) {
        return refuse(error_, status, rule, detail);
    }
    bool take_method(char* bytes, size_t size);
    bool take_version(std::string_view word);
    bool take_target();
    void split_path(std::string_view rest);
    bool add_unknown(Field& field);
    bool note(const Field& field);
    void note_connection(std::string_view value);
    void note_expect(std::string_view value);
    bool note_transfer_encoding(std::string_view value);
    bool note_scheme(const Field& field);
    bool complete_host();
    bool complete_framing();
    bool complete_mount();

    const HttpPolicy& policy_;
    const PeerFacts& peer_;
    RequestHead& head_;
    HttpError& error_;

    static constexpr size_t kNone = SIZE_MAX;
    size_t host_ = kNone;  ///< its index in head_.fields
    bool has_content_type_ = false;
    bool has_length_ = false, has_transfer_encoding_ = false;
    bool is_chunked_ = false, has_other_coding_ = false;
    bool has_close_ = false, has_keep_alive_ = false;
    bool has_expect_ = false, has_other_expectation_ = false;
    bool has_scheme_ = false;
    bool has_script_name_ = false;
};

/// method SP request-target SP HTTP-version (RFC 9112 §3), with exactly one blank between the
/// parts. The RFC lets a server be lenient here, but lenient servers differ in where they split.
bool HeadBuilder::add_request_line(char* bytes, size_t size) {
    const std::string_view line(bytes, size);
    const size_t first = line.find(' ');
    const size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
    if (second == std::string_view::npos)
        return fail(400, "request line needs method, target and version", line);
    if (!take_method(bytes, first)) return false;
    head_.target = line.substr(first + 1, second - first - 1);
    return take_version(line.substr(second + 1)) && take_target();
}

/// A token (RFC 9110 §9.1), and one that gunicorn accepts unless permit_unconventional_http_method.
bool HeadBuilder::take_method(char* bytes, size_t size) {
    const std::string_view method(bytes, size);
    const auto is_unusual = [](char c) { return c == '#' || (c >= 'a' && c <= 'z'); };
    const bool is_conventional =
        size >= 3 && size <= 20 && std::none_of(method.begin(), method.end(), is_unusual);
    if (!is_token(method) || !(is_conventional || policy_.permit_unconventional_http_method))
        return fail(400, "invalid method", method);
    if (policy_.casefold_http_method) std::transform(bytes, bytes + size, bytes, to_upper);
    head_.method = method;
    return true;
}

/// HTTP-version (RFC 9112 §2.3). 505 is for a well-formed version that we do not speak, such as the
/// one in HTTP/2's connection preface.
bool HeadBuilder::take_version(std::string_view word) {
    if (word.size() != 8 || word.substr(0, 5) != "HTTP/" || !is_digit(word[5]) || word[6] != '.' ||
        !is_digit(word[7])) {
        return fail(400, "invalid HTTP version", word);
    }
    if (word[5] != '1' && !policy_.permit_unconventional_http_version)
        return fail(505, "unsupported HTTP version", word);
    head_.protocol = word;
    head_.version_major = static_cast<uint8_t>(word[5] - '0');
    head_.version_minor = static_cast<uint8_t>(word[7] - '0');
    return true;
}

/// The four forms of a request target (RFC 9112 §3.2).
bool HeadBuilder::take_target() {
    const std::string_view target = head_.target;
    if (target.empty()) return fail(400, "empty request target", target);
    if (head_.method == "CONNECT") {
        head_.authority = target;
        return is_authority(target, true) || fail(400, "CONNECT needs host and port", target);
    }
    if (target.front() == '/') {
        split_path(target);
        return true;
    }
    if (target == "*") {
        head_.raw_path = target;
        return head_.method == "OPTIONS" || fail(400, "'*' is for OPTIONS only", head_.method);
    }
    const size_t scheme_size = iequals(target.substr(0, 7), "http://")    ? 7
                               : iequals(target.substr(0, 8), "https://") ? 8
                                                                          : 0;
    if (scheme_size == 0) return fail(400, "invalid request target", target);
    const size_t end = std::min(target.find_first_of("/?#", scheme_size), target.size());
    head_.authority = target.substr(scheme_size, end - scheme_size);
    split_path(target.substr(end));
    return is_authority(head_.authority, false) ||
           fail(400, "invalid authority in request target", head_.authority);
}

/// path [ "?" query ] [ "#" fragment ]. A fragment does not belong in a target; like gunicorn, we
/// strip it.
void HeadBuilder::split_path(std::string_view rest) {
    const size_t hash = rest.find('#');
    if (hash != std::string_view::npos) {
        head_.fragment = rest.substr(hash + 1);
        rest = rest.substr(0, hash);
    }
    const size_t mark = rest.find('?');
    if (mark != std::string_view::npos) {
        head_.query = rest.substr(mark + 1);
        rest = rest.substr(0, mark);
    }
    head_.raw_path = rest;
}

inline bool HeadBuilder::add_field(std::string_view line) {
    Field& field = head_.fields.emplace_back();
    if (const char* rule = split_field(line, policy_, field)) return fail(400, rule, line);
    if (peer_.is_trusted && policy_.secure_scheme_headers.may_have(field.id) && !note_scheme(field))
        return false;
    if (field.id == FieldId::Unknown) return add_unknown(field);
    return field.id > FieldId::Expect || note(field);
}

/// A name that is not in kFieldNames; `field` is the last one in head_.fields.
bool HeadBuilder::add_unknown(Field& field) {
    switch (fate_of(field.name, policy_, peer_)) {
        case Fate::Keep: break;
        case Fate::Refuse: return fail(400, "underscore in header name", field.name);
        case Fate::Drop:
            if (head_.dropped_names.size() < kDroppedNamesMax)
                head_.dropped_names.push_back(field.name);
            head_.fields.pop_back();
            return true;
    }
    if (iequals(field.name, "SCRIPT_NAME") && is_forwarder_name(field.name, policy_, peer_)) {
        if (has_script_name_) return fail(400, "more than one SCRIPT_NAME", field.value);
        has_script_name_ = true;
        head_.script_name = field.value;
    }
    return true;
}

/// The fields that decide what a request is. None of them may be ambiguous.
bool HeadBuilder::note(const Field& field) {
    switch (field.id) {
        case FieldId::Host:
            if (host_ != kNone) return fail(400, "more than one Host", field.value);
            host_ = head_.fields.size() - 1;
            // Empty is legal: a target URI without authority (RFC 9112 §3.2).
            return field.value.empty() || is_authority(field.value, false) ||
                   fail(400, "invalid Host", field.value);
        case FieldId::ContentType:
            if (has_content_type_) return fail(400, "more than one Content-Type", field.value);
            has_content_type_ = true;
            return true;
        case FieldId::ContentLength: {
            // RFC 9112 §6.3 would allow equal repetitions; gunicorn refuses them, and so do we.
            if (has_length_) return fail(400, "more than one Content-Length", field.value);
            const std::optional<uint64_t> length = parse_decimal(field.value);
            if (!length || *length > INT64_MAX)
                return fail(400, "invalid Content-Length", field.value);
            has_length_ = true;
            head_.content_length = *length;
            return true;
        }
        case FieldId::TransferEncoding: return note_transfer_encoding(field.value);
        case FieldId::Connection: note_connection(field.value); return true;
        case FieldId::Expect: note_expect(field.value); return true;
        default: return true;
    }
}

/// All Connection lines together are one list of options (RFC 9110 §7.6.1).
void HeadBuilder::note_connection(std::string_view value) {
    for_each_item(value, [&](std::string_view option) {
        if (is_word(option, "close")) has_close_ = true;
        if (is_word(option, "keep-alive")) has_keep_alive_ = true;
        if (is_word(option, "upgrade")) head_.is_upgrade = true;
    });
}

/// A list, too, whose empty items count for nothing (RFC 9110 §10.1.1, §5.6.1.2).
void HeadBuilder::note_expect(std::string_view value) {
    for_each_item(value, [&](std::string_view expectation) {
        if (is_word(expectation, "100-continue"))
            has_expect_ = true;
        else if (!expectation.empty())
            has_other_expectation_ = true;
    });
}

/// Collects the codings of all lines. Only blanks and commas separate them. Some parsers take 0x85
/// and 0xA0 for blanks; here they make a coding an unknown one.
bool HeadBuilder::note_transfer_encoding(std::string_view value) {
    has_transfer_encoding_ = true;
    bool follows_chunked = false;
    for_each_item(value, [&](std::string_view coding) {
        const bool is_chunked = is_word(coding, "chunked");
        if (is_chunked_ && !coding.empty()) follows_chunked = true;
        (is_chunked ? is_chunked_ : has_other_coding_) = true;
    });
    // RFC 9112 §6.1: chunked is never applied twice, and never followed by another coding.
    return !follows_chunked || fail(400, "transfer coding after chunked", value);
}

/// A name that secure_scheme_headers may list: the exact value means https, any other http.
bool HeadBuilder::note_scheme(const Field& field) {
    for (const auto& [name, secure_value] : policy_.secure_scheme_headers.entries()) {
        const bool same =
            field.id == FieldId::Unknown ? iequals(name, field.name) : find_field(name) == field.id;
        if (!same) continue;
        const bool is_https = field.value == secure_value;
        if (has_scheme_ && is_https != head_.is_https)
            return fail(400, "contradictory scheme headers", field.name);
        has_scheme_ = true;
        head_.is_https = is_https;
    }
    return true;
}

bool HeadBuilder::complete() {
    if (!complete_host() || !complete_framing() || !complete_mount()) return false;
    const bool is_http_11 = head_.is_http_11();
    // RFC 9110 §10.1.1: Expect is ignored in an HTTP/1.0 request.
    if (is_http_11 && has_other_expectation_)
        return fail(417, "unknown expectation", head_.find(FieldId::Expect)->value);
    const bool has_body = head_.framing == Framing::Chunked || head_.content_length > 0;
    head_.expects_continue = is_http_11 && has_expect_ && has_body;
    head_.is_upgrade = head_.is_upgrade && is_http_11;  // RFC 9110 §7.8
    // RFC 9112 §9.3. What follows a CONNECT may already belong to the tunnel.
    head_.keep_alive = !has_close_ && (is_http_11 || has_keep_alive_) && head_.method != "CONNECT";
    return true;
}

/// RFC 9112 §3.2: an HTTP/1.1 request has one Host; §3.2.2: the target's authority replaces it.
bool HeadBuilder::complete_host() {
    if (host_ == kNone && head_.is_http_11()) return fail(400, "missing Host", {});
    if (head_.authority.empty()) return true;
    if (host_ == kNone) {
        head_.fields.push_back({"Host", head_.authority, FieldId::Host});
    } else {
        head_.fields[host_].value = head_.authority;
    }
    return true;
}

/// RFC 9112 §6.3. Where the RFC lets a server choose between two readings, the answer is 400: the
/// front end may have chosen the other one.
bool HeadBuilder::complete_framing() {
    if (has_transfer_encoding_) {
        const std::string_view value = head_.find(FieldId::TransferEncoding)->value;
        if (!head_.is_http_11()) return fail(400, "Transfer-Encoding in HTTP/1.0", value);
        if (has_length_) return fail(400, "Content-Length with Transfer-Encoding", value);
        // We decode no other coding, so the application would get bytes it cannot read (§6.1: 501).
        if (!is_chunked_ || has_other_coding_) return fail(501, "unknown transfer coding", value);
        head_.framing = Framing::Chunked;
        return true;
    }
    if (!has_length_) return true;
    head_.framing = Framing::Length;
    const uint64_t most = policy_.limit_request_body;
    return most == 0 || head_.content_length <= most ||
           fail(413, "request body too large", head_.find(FieldId::ContentLength)->value);
}

/// Strips the mount point from the path. A mismatch means that proxy and server are misconfigured:
/// 500.
bool HeadBuilder::complete_mount() {
    if (!has_script_name_) head_.script_name = policy_.script_name;
    if (head_.script_name.empty() || head_.raw_path == "*" || head_.method == "CONNECT")
        return true;
    if (head_.raw_path.substr(0, head_.script_name.size()) != head_.script_name)
        return fail(500, "path does not start with SCRIPT_NAME", head_.raw_path);
    head_.raw_path.remove_prefix(head_.script_name.size());
    return true;
}

}  // namespace

// ------------------------------------------------------------------------------- HeadParser

Parse HeadParser::parse(std::string_view in, const HttpPolicy& policy, const PeerFacts& peer,
                        RequestHead& head, size_t& used, HttpError& error) {
    GCORN_CHECK(in.size() >= scanned_);
    if (scanned_ == 0) head.clear();
    const Parse outcome = scan(in, policy, peer, head, error);
    if (outcome == Parse::Done) {
        used = scanned_;
        return build(in, policy, peer, head, error) ? Parse::Done : Parse::Bad;
    }
    // Not complete: judge the request line now. An error in it is reported before any in a later
    // line, so that the answer does not depend on how the head was cut into pieces.
    if (lines_ > 0 && !line_checked_) {
        line_checked_ = true;
        head.block_.assign(in.substr(skipped_, head.line_ends_[0] - skipped_));
        HttpError line_error;
        HeadBuilder builder(policy, peer, head, line_error);
        if (!builder.add_request_line(head.block_.data(), head.block_.size())) {
            error = std::move(line_error);
            return Parse::Bad;
        }
    }
    return outcome;
}

/// Searches for the CRLF of the line at line_start_, which must end before `limit`. Done: scanned_
/// is just past it. Looks at every byte once, however the input arrives, and only at those before
/// the limit, so that the first error in the bytes is the one reported.
inline Parse HeadParser::scan_line(std::string_view in, const Limit& limit, HttpError& error) {
    const size_t end = std::min(in.size(), limit.end);
    const size_t at = find_control(in.data(), scanned_, end);
    if (end - at >= 2 && in[at] == '\r' && in[at + 1] == '\n') [[likely]] {
        scanned_ = static_cast<uint32_t>(at + 2);
        return Parse::Done;
    }
    return scan_oddity(in, at, limit, error);
}

/// The rare case of scan_line(): the first control byte, at `at`, does not begin a CRLF within the
/// limit, or there is none.
Parse HeadParser::scan_oddity(std::string_view in, size_t at, const Limit& limit,
                              HttpError& error) {
    const size_t end = std::min(in.size(), limit.end);
    // HTAB is legal in header lines.
    if (lines_ > 0) at = skip_tabs(in.data(), at, end);
    scanned_ = static_cast<uint32_t>(at);
    const bool is_cr = at < end && in[at] == '\r';
    // A CR whose LF would lie beyond the limit does not end the line in time.
    if (at == limit.end || (is_cr && at + 1 == limit.end))
        return bad_line(in, limit.end, limit.status, limit.rule, error);
    if (at == in.size() || (is_cr && at + 1 == in.size())) return Parse::NeedMore;
    if (!is_cr) {
        const char* rule = in[at] == '\n' ? "bare LF in head" : "control byte in head";
        return bad_line(in, at + 1, 400, rule, error);
    }
    if (in[at + 1] != '\n') return bad_line(in, at + 1, 400, "bare CR in head", error);
    scanned_ = static_cast<uint32_t>(at + 2);
    return Parse::Done;
}

/// Refuses the line at line_start_, quoting it up to `end`.
Parse HeadParser::bad_line(std::string_view in, size_t end, int status, const char* rule,
                           HttpError& error) const {
    refuse(error, status, rule, in.substr(line_start_, end - line_start_));
    return Parse::Bad;
}

/// The request line, after at most one empty line (RFC 9112 §2.2).
Parse HeadParser::scan_request_line(std::string_view in, const HttpPolicy& policy,
                                    RequestHead& head, HttpError& error) {
    for (;;) {
        const Limit limit = {size_t{line_start_} + line_bytes_max(policy) + 2, 414,
                             "request line too long"};
        const Parse outcome = scan_line(in, limit, error);
        if (outcome != Parse::Done) return outcome;
        if (scanned_ - line_start_ > 2) break;
        if (skipped_ > 0) return bad_line(in, scanned_, 400, "empty request line", error);
        skipped_ = line_start_ = scanned_;
    }
    head.line_ends_.push_back(scanned_ - 2);
    line_start_ = section_start_ = scanned_;
    lines_ = 1;
    return Parse::Done;
}

/// Finds the end of the head, line by line, and refuses on the way what no line may contain.
Parse HeadParser::scan(std::string_view in, const HttpPolicy& policy, const PeerFacts& peer,
                       RequestHead& head, HttpError& error) {
    if (lines_ == 0) {
        const Parse outcome = scan_request_line(in, policy, head, error);
        if (outcome != Parse::Done) return outcome;
    }
    const size_t field_max = std::max<size_t>(field_bytes_max(policy), 2);  // the empty line passes
    const size_t section_end = static_cast<size_t>(
        std::min<uint64_t>(section_start_ + section_bytes_max(policy), kHeadBytesMax));
    const uint32_t lines_max = fields_max(policy) + 1;
    for (size_t start = line_start_;; start = line_start_) {
        const bool continues = start < in.size() && is_blank(in[start]);
        if (continues && (lines_ == 1 || !policy.permit_obsolete_folding)) {
            const char* rule =
                lines_ == 1 ? "blank before the first header" : "obsolete line folding";
            return bad_line(in, start + 1, 400, rule, error);
        }
        const size_t field_end = (continues ? field_start_ : start) + field_max;
        const Limit limit = field_end <= section_end
                                ? Limit{field_end, 431, "header field too long"}
                                : Limit{section_end, 431, "header section too long"};
        const Parse outcome = scan_line(in, limit, error);
        if (outcome != Parse::Done) return outcome;
        const size_t end = scanned_ - 2;
        if (end == start) return Parse::Done;
        head.line_ends_.push_back(static_cast<uint32_t>(end));
        if (!continues) field_start_ = static_cast<uint32_t>(start);
        if (++lines_ > lines_max && too_many_fields(in, policy, peer, head))
            return bad_line(in, end, 431, "too many header fields", error);
        line_start_ = scanned_;
    }
}

/// There are more lines than fields allowed: are too many of them fields that header_map keeps?
/// Looks at every line once per head.
bool HeadParser::too_many_fields(std::string_view in, const HttpPolicy& policy,
                                 const PeerFacts& peer, const RequestHead& head) {
    for (; counted_ + 1 < lines_; ++counted_) {
        const size_t start = head.line_ends_[counted_] + 2;
        const std::string_view line = in.substr(start, head.line_ends_[counted_ + 1] - start);
        const std::string_view name = trim(line.substr(0, find_colon(line)));
        if (!is_blank(line.front()) && fate_of(name, policy, peer) != Fate::Drop) ++kept_;
    }
    return kept_ > fields_max(policy);
}

/// The head is complete and free of illegal bytes: copies and interprets it.
bool HeadParser::build(std::string_view in, const HttpPolicy& policy, const PeerFacts& peer,
                       RequestHead& head, HttpError& error) const {
    head.block_.assign(in.data(), scanned_);
    char* block = head.block_.data();
    const std::vector<uint32_t>& ends = head.line_ends_;
    HeadBuilder builder(policy, peer, head, error);
    if (!builder.add_request_line(block + skipped_, ends[0] - skipped_)) return false;

    head.fields.reserve(ends.size());
    for (size_t i = 1; i < ends.size(); ++i) {
        char* start = block + ends[i - 1] + 2;
        char* end = block + ends[i];
        // RFC 9112 §5.2: CRLF and the blanks around it become one blank, which fits in their place.
        // Only a value may be folded: a line without a colon is refused as it stands.
        while (policy.permit_obsolete_folding && i + 1 < ends.size() &&
               is_blank(block[ends[i] + 2]) && std::find(start, end, ':') != end) {
            const std::string_view rest = trim_blanks(block + ends[i] + 2, block + ends[i + 1]);
            while (end != start && is_blank(end[-1]))
                --end;
            *end++ = ' ';
            end = std::copy(rest.begin(), rest.end(), end);
            ++i;
        }
        if (!builder.add_field({start, static_cast<size_t>(end - start)})) return false;
    }
    return builder.complete();
}

void HeadParser::reset() {
    *this = HeadParser();
}

// ------------------------------------------------------------------------------- BodyReader

void BodyReader::begin(Framing framing, uint64_t content_length, const HttpPolicy& policy) {
    policy_ = &policy;
    framing_ = framing;
    left_ = framing == Framing::Length ? content_length : 0;
    received_ = 0;
    size_digits_ = overhead_bytes_ = trailer_bytes_ = trailer_fields_ = 0;
    trailer_.clear();
    state_ = framing == Framing::Chunked ? State::Size : left_ > 0 ? State::Data : State::Finished;
}

/// Chunked (RFC 9112 §7.1): one state for each place where the input may end.
Parse BodyReader::next(std::string_view in, size_t& used, std::string_view& data,
                       HttpError& error) {
    used = 0;
    data = {};
    const auto expect = [&](char byte, char wanted, State then, const char* rule) {
        state_ = then;
        return byte == wanted || refuse(error, 400, rule, in.substr(used));
    };
    while (state_ != State::Finished && used < in.size()) {
        const char byte = in[used];
        bool is_good = true;
        switch (state_) {
            case State::Data: {
                const uint64_t size = std::min<uint64_t>(left_, in.size() - used);
                data = in.substr(used, static_cast<size_t>(size));
                used += data.size();
                left_ -= data.size();
                received_ += data.size();
                if (left_ > 0) return Parse::NeedMore;
                state_ = framing_ == Framing::Length ? State::Finished : State::DataCr;
                return state_ == State::Finished ? Parse::Done : Parse::NeedMore;
            }
            case State::DataCr:
                is_good = expect(byte, '\r', State::DataLf, "no CRLF after chunk data");
                break;
            case State::DataLf:
                is_good = expect(byte, '\n', State::Size, "no CRLF after chunk data");
                break;
            case State::SizeLf:
                is_good = expect(byte, '\n', State::Data, "bare CR in chunk size line") &&
                          start_chunk(error);
                break;
            case State::Trailer:
            case State::TrailerLf:
                if (!take_trailer(in, used, error)) return Parse::Bad;
                continue;  // it moved `used` itself
            case State::Size:
            case State::Blank:
            case State::Extension:
            case State::Quoted:
            case State::QuotedPair: is_good = size_byte(byte, error); break;
            case State::Finished: break;
        }
        if (!is_good) return Parse::Bad;
        ++used;
    }
    return state_ == State::Finished ? Parse::Done : Parse::NeedMore;
}

/// One byte of chunk-size [ chunk-ext ] CR. Extensions are ignored, but their bytes and quotes are
/// tracked, so that no other parser sees the line end elsewhere (RFC 9112 §7.1.1).
bool BodyReader::size_byte(char byte, HttpError& error) {
    const std::string_view detail(&byte, 1);
    const int digit = hex_value(byte);
    if (state_ == State::Size && digit >= 0) {
        if (left_ > (uint64_t{INT64_MAX} - static_cast<uint64_t>(digit)) / 16)
            return refuse(error, 400, "chunk size too large", detail);
        left_ = left_ * 16 + static_cast<uint64_t>(digit);
        // Sixteen digits hold any size; with more, the first are zeros, and the excess is overhead.
        if (++size_digits_ <= 16) return true;
    } else if (byte == '\r' && size_digits_ > 0 &&
               (state_ == State::Size || state_ == State::Extension)) {
        state_ = State::SizeLf;
        return true;
    } else if (state_ == State::Size || state_ == State::Blank) {
        // Blanks are legal only between the size and a semicolon.
        const bool is_legal = size_digits_ > 0 && (byte == ';' || is_blank(byte));
        if (!is_legal) return refuse(error, 400, "invalid chunk size", detail);
        state_ = byte == ';' ? State::Extension : State::Blank;
    } else {
        if (is_control(byte) && byte != '\t')
            return refuse(error, 400, "control byte in chunk extension", detail);
        if (state_ == State::QuotedPair)
            state_ = State::Quoted;
        else if (state_ == State::Quoted && byte == '\\')
            state_ = State::QuotedPair;
        else if (byte == '"')
            state_ = state_ == State::Quoted ? State::Extension : State::Quoted;
    }
    return ++overhead_bytes_ <= kChunkExtensionBytesMax ||
           refuse(error, 400, "chunk extensions too large", {});
}

/// The size line is complete; left_ is the size.
bool BodyReader::start_chunk(HttpError& error) {
    size_digits_ = 0;
    state_ = left_ == 0 ? State::Trailer : State::Data;
    const uint64_t most = policy_->limit_request_body;
    return most == 0 || received_ + left_ <= most ||
           refuse(error, 413, "request body too large", {});
}

/// Takes a stretch of the trailer section, at most to the end of a line. Its lines must obey the
/// rules and limits of the header section; then they are discarded (RFC 9112 §7.1.2 allows this).
bool BodyReader::take_trailer(std::string_view in, size_t& used, HttpError& error) {
    if (state_ == State::TrailerLf) {
        if (in[used] != '\n') return refuse(error, 400, "bare CR in trailer section", trailer_);
        ++used;
        return end_trailer_line(error);
    }
    const size_t stop = skip_tabs(in.data(), find_control(in.data(), used, in.size()), in.size());
    const size_t size = stop - used;
    // Is there room for this stretch and a CRLF?
    const auto room = [](uint64_t most, uint64_t taken) {
        return most - std::min(most, taken + 2);
    };
    const uint64_t section_max = std::min<uint64_t>(section_bytes_max(*policy_), kHeadBytesMax);
    if (size > std::min(room(field_bytes_max(*policy_), trailer_.size()),
                        room(section_max, trailer_bytes_))) {
        return refuse(error, 431, "trailer section too long", trailer_);
    }
    trailer_ += in.substr(used, size);
    trailer_bytes_ += static_cast<uint32_t>(size);
    used = stop;
    if (stop == in.size()) return true;
    if (in[used++] == '\r') {
        state_ = State::TrailerLf;
        return true;
    }
    return refuse(
        error, 400,
        in[stop] == '\n' ? "bare LF in trailer section" : "control byte in trailer section",
        trailer_);
}

bool BodyReader::end_trailer_line(HttpError& error) {
    if (trailer_.empty()) {
        state_ = State::Finished;
        return true;
    }
    state_ = State::Trailer;
    const bool continues = is_blank(trailer_.front());
    if (continues && (trailer_fields_ == 0 || !policy_->permit_obsolete_folding))
        return refuse(error, 400, "obsolete line folding", trailer_);
    if (!continues) {
        Field field;
        if (const char* rule = split_field(trailer_, *policy_, field))
            return refuse(error, 400, rule, trailer_);
        // RFC 9110 §6.5.1: fields that frame, route or authenticate a message cannot come after it.
        constexpr FieldId kForbidden[] = {FieldId::Host,    FieldId::ContentLength,
                                          FieldId::Trailer, FieldId::TransferEncoding,
                                          FieldId::Te,      FieldId::Authorization};
        if (std::ranges::find(kForbidden, field.id) != std::end(kForbidden))
            return refuse(error, 400, "forbidden trailer field", field.name);
        if (++trailer_fields_ > fields_max(*policy_))
            return refuse(error, 431, "too many trailer fields", field.name);
    }
    trailer_bytes_ += 2;
    trailer_.clear();
    return true;
}

}  // namespace gcorn
