#include "http_response.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include "base/clock.h"
#include "base/text.h"

namespace gcorn {

namespace {

constexpr std::string_view kCrLf = "\r\n";
constexpr std::string_view kLastChunk = "0\r\n\r\n";
constexpr std::string_view kCrLfLastChunk = "\r\n0\r\n\r\n";

/// A field that an application may not set: it belongs to the connection or to the server (PEP 3333
/// "Other HTTP Features"; Server and Date as in gunicorn). "Trailers" is what older lists call
/// Trailer. 101 and 426 must name a protocol (RFC 9110 §15.2.2, §15.5.22).
bool is_dropped(int code, FieldId id, std::string_view name, std::string_view value) {
    switch (id) {
        case FieldId::Connection:
        case FieldId::KeepAlive:
        case FieldId::ProxyAuthorization:
        case FieldId::Te:
        case FieldId::Trailer:
        case FieldId::TransferEncoding:
        case FieldId::Date: return true;
        case FieldId::Upgrade: return code != 101 && code != 426 && !iequals(value, "websocket");
        case FieldId::Unknown:
            return iequals(name, "server") || iequals(name, "proxy-authenticate") ||
                   iequals(name, "trailers");
        default: return false;
    }
}

void append_upper_hex(std::string& out, uint64_t value) {
    char digits[16];
    char* const end = std::to_chars(digits, std::end(digits), value, 16).ptr;
    std::transform(digits, end, digits, to_upper);
    out.append(digits, end);
}

}  // namespace

ResponseOptions::ResponseOptions(std::string_view server) {
    if (!server.empty() && is_field_value(server))
        server_line_.append("Server: ").append(server).append(kCrLf);
}

void ResponseWriter::Answer::clear() {
    status.clear();
    fields.clear();
    length = 0;
    code = 0;
    has_length = wants_close = is_upgrade = false;
}

void ResponseWriter::begin(const RequestHead& head, bool may_keep_alive,
                           const ResponseOptions& options) {
    head_ = &head;
    options_ = &options;
    answer_.clear();
    body_bytes_ = 0;
    body_kind_ = BodyKind::None;
    head_sent_ = cut_ = finished_ = false;
    keep_alive_.store(may_keep_alive && head.keep_alive, std::memory_order_relaxed);
}

Status ResponseWriter::set_status(std::string_view status) {
    const bool has_code = status.size() >= 3 && is_digit(status[0]) && is_digit(status[1]) &&
                          is_digit(status[2]) && (status.size() == 3 || status[3] == ' ');
    const auto invalid = [status](const char* why) {
        return Error{0, "invalid status \"" + escape_for_log(status, 64) + "\": " + why};
    };
    if (!has_code || !is_field_value(status))
        return invalid("expected three digits, a blank and a reason");
    const int code = (status[0] - '0') * 100 + (status[1] - '0') * 10 + (status[2] - '0');
    if (code < 200 && !(code == 101 && head_->is_upgrade))
        return invalid("an interim status cannot be the answer");
    answer_.clear();
    answer_.status = status;
    answer_.code = code;
    return {};
}

bool ResponseWriter::repeat(const Answer& answer) {
    if (is_judged_by_request(answer.code)) return false;
    answer_ = answer;
    return true;
}

const ResponseWriter::Answer* ResponseWriter::answer() const {
    return is_judged_by_request(answer_.code) ? nullptr : &answer_;
}

/// Interim statuses (see set_status()), and CONNECT, whose answer has no length.
bool ResponseWriter::is_judged_by_request(int code) const {
    return code < 200 || head_->method == "CONNECT";
}

Status ResponseWriter::add_field(std::string_view name, std::string_view value) {
    GCORN_CHECK(has_status());
    const FieldId id = find_field(name);
    if (id == FieldId::Unknown && !is_token(name)) {
        return Error{0, "invalid header name \"" + escape_for_log(name, 64) + '"'};
    }
    if (!is_field_value(value)) {
        return Error{0, "invalid value of header " + std::string(name) + ": \"" +
                            escape_for_log(value, 64) + '"'};
    }
    if (!value.empty() && (value.front() <= ' ' || value.back() <= ' ')) value = trim(value);
    if (id == FieldId::ContentLength) return add_content_length(name, value);
    if (id == FieldId::Connection) note_connection(value);
    if (is_dropped(answer_.code, id, name, value)) return {};
    if (id == FieldId::Upgrade) answer_.is_upgrade = true;  // RFC 9110 §7.8
    append_field(name, value);
    return {};
}

Status ResponseWriter::add_content_length(std::string_view name, std::string_view value) {
    const std::optional<uint64_t> length = parse_decimal(value);
    if (!length || *length > INT64_MAX) {
        return Error{0, "invalid Content-Length \"" + escape_for_log(value, 64) + '"'};
    }
    if (answer_.has_length) {
        if (*length == answer_.length) return {};
        return Error{0, "two different Content-Length headers"};
    }
    // RFC 9110 §8.6: not in a 204 or an unframed answer; in a 304 it is what the answer to a GET
    // would have.
    if (answer_.code == 204 || is_unframed()) return {};
    answer_.has_length = true;
    answer_.length = *length;
    append_field(name, value);
    return {};
}

void ResponseWriter::note_connection(std::string_view value) {
    for (const std::string_view option : split_list(value)) {
        if (iequals(option, "close")) answer_.wants_close = true;
        if (iequals(option, "upgrade")) answer_.is_upgrade = true;
    }
}

void ResponseWriter::append_field(std::string_view name, std::string_view value) {
    answer_.fields.append(name).append(": ").append(value).append(kCrLf);
}

bool ResponseWriter::has_no_body() const {
    return answer_.code == 204 || answer_.code == 304 || head_->is_head();
}

/// After 101, and after success of CONNECT (RFC 9110 §9.3.6), the connection no longer speaks HTTP.
bool ResponseWriter::is_unframed() const {
    return answer_.code == 101 || (answer_.code < 300 && head_->method == "CONNECT");
}

/// RFC 9112 §6.3 and gunicorn's habits: a length if there is one, chunks for HTTP/1.1, else the end
/// of the connection.
ResponseWriter::BodyKind ResponseWriter::body_kind() const {
    if (has_no_body()) return BodyKind::None;
    if (is_unframed()) return BodyKind::UntilClose;
    if (answer_.has_length) return BodyKind::Length;
    return head_->is_http_11() ? BodyKind::Chunked : BodyKind::UntilClose;
}

void ResponseWriter::render_head() {
    GCORN_CHECK(has_status());
    body_kind_ = body_kind();
    if (body_kind_ == BodyKind::UntilClose) must_close();
    const bool is_kept = keeps_alive();
    // An HTTP/1.0 client has to be told that the connection stays open (RFC 9112 §9.3).
    const bool says_upgrade =
        answer_.is_upgrade && head_->is_http_11() && (is_kept || answer_.code == 101);

    out_.assign(head_->is_http_11() ? "HTTP/1.1 " : "HTTP/1.0 ").append(answer_.status);
    if (answer_.status.size() == 3)
        out_ += ' ';  // RFC 9112 §4 wants the blank even without a reason
    out_.append(kCrLf).append(options_->server_line_).append("Date: ").append(http_date_now());
    out_.append(says_upgrade ? "\r\nConnection: upgrade\r\n"
                : is_kept    ? "\r\nConnection: keep-alive\r\n"
                             : "\r\nConnection: close\r\n");
    if (is_chunked()) out_.append("Transfer-Encoding: chunked\r\n");
    out_.append(answer_.fields).append(kCrLf);
    head_sent_ = true;
}

ResponseWriter::Pieces ResponseWriter::body(uint64_t size, bool is_last) {
    GCORN_CHECK(!finished_);
    if (head_sent_) {
        out_.clear();
    } else {
        // A body known to miss its length ends the connection: say so while we still can.
        const bool misses_length = size > answer_.length || (is_last && size < answer_.length);
        if (answer_.has_length && misses_length && !has_no_body()) must_close();
        render_head();
    }
    finished_ = is_last;
    Pieces pieces;
    switch (body_kind_) {
        case BodyKind::None: break;
        case BodyKind::UntilClose: pieces.take = size; break;
        case BodyKind::Length:
            pieces.take = std::min(size, bytes_left());
            if (pieces.take < size) cut_ = true;
            break;
        case BodyKind::Chunked:
            pieces.take = size;
            if (size > 0) {
                append_upper_hex(out_, size);
                out_ += kCrLf;
                pieces.after = is_last ? kCrLfLastChunk : kCrLf;
            } else if (is_last) {
                pieces.after = kLastChunk;
            }
            break;
    }
    body_bytes_ += pieces.take;
    if (is_last && is_short()) must_close();
    pieces.before = out_;
    return pieces;
}

ResponseWriter::Pieces ResponseWriter::finish() {
    return finished_ ? Pieces{} : body(0, true);
}

bool ResponseWriter::is_short() const {
    return body_kind_ == BodyKind::Length && body_bytes_ < answer_.length;
}

std::optional<std::string_view> ResponseWriter::field(std::string_view name) const {
    std::optional<std::string_view> last;
    for (std::string_view rest = answer_.fields; !rest.empty();) {
        const size_t colon = rest.find(": ");
        const size_t end = rest.find(kCrLf);
        if (iequals(rest.substr(0, colon), name)) last = rest.substr(colon + 2, end - colon - 2);
        rest.remove_prefix(end + kCrLf.size());
    }
    return last;
}

std::string_view ResponseWriter::error_page(int status) {
    GCORN_CHECK(!head_sent_);
    const std::string reason = reason_phrase(status);
    const std::string page = "<!DOCTYPE html>\n<html>\n  <head>\n    <title>" + reason +
                             "</title>\n  </head>\n  <body>\n    <h1>" + reason +
                             "</h1>\n  </body>\n</html>\n";
    answer_.clear();
    answer_.status = std::to_string(status) + ' ' + reason;
    answer_.code = status;
    append_field("Content-Type", "text/html");
    append_field("Content-Length", std::to_string(page.size()));
    answer_.has_length = true;
    answer_.length = page.size();
    must_close();
    const Pieces pieces = body(page.size(), true);
    out_.append(pieces.part_of(page));
    return out_;
}

const char* reason_phrase(int status) {
    switch (status) {
        case 400: return "Bad Request";
        case 403: return "Forbidden";
        case 408: return "Request Timeout";
        case 413: return "Content Too Large";
        case 414: return "URI Too Long";
        case 417: return "Expectation Failed";
        case 431: return "Request Header Fields Too Large";
        case 500: return "Internal Server Error";
        case 501: return "Not Implemented";
        case 503: return "Service Unavailable";
        case 504: return "Gateway Timeout";
        case 505: return "HTTP Version Not Supported";
        default: return "Error";
    }
}

}  // namespace gcorn
