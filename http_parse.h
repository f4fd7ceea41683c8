// Bytes from a client → RequestHead, framing, body. Pure: no sockets, no Python, no clock.
//
// This room decides what a request *is*: request line, fields, every documented limit, the trust
// policy for forwarding fields, and how the body is framed (RFC 9112, RFC 9110). In any doubt it
// refuses: nothing that passes here may be read differently by a front end (request smuggling). It
// never logs and never answers; it returns the status and the rule, and the caller does both.
// Called by net/connection on the leader's thread; any thread may call it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http_fields.h"

namespace gcorn {

/// What to do with field names that contain an underscore (gunicorn: header_map).
enum class HeaderMap : uint8_t { Drop, Refuse, Dangerous };

/// Field names by which a trusted proxy announces the scheme, each with the value that means https.
class SchemeHeaders {
public:
    using Entry = std::pair<std::string, std::string>;  ///< ("X-FORWARDED-PROTO", "https")
    explicit SchemeHeaders(std::vector<Entry> entries);
    [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }
    /// False: no field with this id is among them.
    [[nodiscard]] bool may_have(FieldId id) const {
        return (ids_ >> static_cast<unsigned>(id) & 1) != 0;
    }

private:
    std::vector<Entry> entries_;
    uint64_t ids_ = 0;  ///< a bit for each id
};

/// Limits and policy, taken from the settings once per worker. Sizes in bytes.
struct HttpPolicy {
    uint32_t limit_request_line = 4094;        ///< without CRLF, ≤ 8190; 0: only kHeadBytesMax
    uint32_t limit_request_fields = 100;       ///< 0 or > 32768 act as 32768
    uint32_t limit_request_field_size = 8190;  ///< name + ':' + value + CRLF; 0: only kHeadBytesMax
    uint64_t limit_request_body = 0;           ///< 0: unlimited
    HeaderMap header_map = HeaderMap::Drop;
    std::vector<std::string> forwarder_headers = {"SCRIPT_NAME", "PATH_INFO"};  ///< "*": all
    SchemeHeaders secure_scheme_headers{{{"X-FORWARDED-PROTOCOL", "ssl"},
                                         {"X-FORWARDED-PROTO", "https"},
                                         {"X-FORWARDED-SSL", "on"}}};
    bool permit_obsolete_folding = false;
    bool strip_header_spaces = false;
    bool permit_unconventional_http_method = false;
    bool permit_unconventional_http_version = false;
    bool casefold_http_method = false;
    std::string script_name;  ///< mount point from the environment, "" for none
};

/// No head may be larger, whatever the limits above say.
constexpr size_t kHeadBytesMax = 1 << 20;
/// Chunk extensions of one body, in total (RFC 9112 §7.1.1 lets a recipient limit them).
constexpr size_t kChunkExtensionBytesMax = 4096;

/// At most this many of the names dropped from one head are remembered for the log.
constexpr size_t kDroppedNamesMax = 16;

/// What the connection knows about its peer; decided before the first byte is parsed.
struct PeerFacts {
    bool is_trusted = false;  ///< forwarded_allow_ips says so, or a unix socket
    bool is_tls = false;      ///< default of wsgi.url_scheme
};

/// One field, in wire order. Views into the RequestHead that holds it.
struct Field {
    std::string_view name;   ///< as received (any case)
    std::string_view value;  ///< outer blanks removed, folds replaced by a blank
    FieldId id = FieldId::Unknown;
};

enum class Framing : uint8_t { None, Length, Chunked };

/// One parsed request head. Owns its bytes; all views point into it and live as long as it does.
/// Read-only once made. Neither copyable nor movable (the views would dangle).
class RequestHead {
public:
    RequestHead() = default;
    RequestHead(RequestHead&&) = delete;

    std::string_view method;       ///< "GET"; upper-cased with casefold_http_method
    std::string_view target;       ///< exactly as received (RAW_URI)
    std::string_view raw_path;     ///< path part of the target, undecoded, without mount point
    std::string_view query;        ///< after '?', without fragment; "" for none
    std::string_view fragment;     ///< after '#'; "" for none
    std::string_view script_name;  ///< mount point, undecoded; "" for none
    std::string_view protocol;     ///< "HTTP/1.1" as received
    std::string_view authority;    ///< of these target forms; replaces Host (RFC 9112 §3.2.2)
    uint8_t version_major = 1;
    uint8_t version_minor = 1;
    std::vector<Field> fields;                    ///< kept fields only (header_map may drop some)
    std::vector<std::string_view> dropped_names;  ///< names header_map dropped (the first
                                                  ///< kDroppedNamesMax), to be logged once

    Framing framing = Framing::None;
    uint64_t content_length = 0;    ///< valid with Framing::Length
    bool is_https = false;          ///< wsgi.url_scheme, after secure_scheme_headers
    bool keep_alive = false;        ///< what the request asks for: version and Connection tokens
    bool expects_continue = false;  ///< Expect: 100-continue on HTTP/1.1 with a body to come
    bool is_upgrade = false;        ///< Connection has the token "upgrade"

    [[nodiscard]] bool is_head() const { return method == "HEAD"; }
    /// The request line as far as it is known: method, target and protocol.
    [[nodiscard]] std::string_view request_line() const;
    /// HTTP/1.1 or later.
    [[nodiscard]] bool is_http_11() const {
        return version_major > 1 || (version_major == 1 && version_minor >= 1);
    }

    /// The first field with this id; nullptr if there is none.
    [[nodiscard]] const Field* find(FieldId id) const;

    /// Bytes of the head that are kept here; at most its request line before it is complete.
    [[nodiscard]] size_t size() const { return block_.size(); }
    /// Forgets everything but keeps the memory, unless it is large, for the next request.
    void clear();
    /// Sets what the log line of a refused request can name: method, target, path, query and
    /// protocol, as far as the first line of `in` has them. Sets nothing else, and checks nothing.
    void name_refused(std::string_view in);

private:
    friend class HeadParser;
    std::string block_;                ///< the head's bytes, which the views point into
    std::vector<uint32_t> line_ends_;  ///< of each line's CR in the head, while it is scanned
};

/// Why a request is refused. `rule` is a short constant phrase ("bare LF in head"); `detail` quotes
/// the offending bytes, unescaped and cut to a sensible length.
struct HttpError {
    int status = 400;
    const char* rule = "";
    std::string detail{};
};

enum class Parse : uint8_t { NeedMore, Done, Bad };

/// Parses one head; resumable, so that a head arriving a byte at a time costs linear time.
/// One leading CRLF is skipped (RFC 9112 §2.2).
class HeadParser {
public:
    /// in      everything received so far for this head, from its first byte; on a later call it
    ///         must start with the same bytes and may only have grown.
    /// used    with Done: bytes of `in` that belong to the head, its final CRLF CRLF included.
    /// error   with Bad: what to answer. The rest of `in` must not be parsed then.
    /// Limits are enforced, and bytes that no head may contain are refused, as soon as they arrive;
    /// so is a bad request line once it is complete. The rest is judged when the head is complete.
    /// After Bad, `head` holds what was understood before (method, target …) or is empty.
    [[nodiscard]] Parse parse(std::string_view in, const HttpPolicy& policy, const PeerFacts& peer,
                              RequestHead& head, size_t& used, HttpError& error);
    /// Makes it ready for the next head.
    void reset();

private:
    /// How far the line being scanned may extend, CRLF included, and the error if it goes further.
    struct Limit {
        size_t end;
        int status;
        const char* rule;
    };
    [[nodiscard]] Parse scan_line(std::string_view in, const Limit& limit, HttpError& error);
    [[nodiscard]] Parse scan_oddity(std::string_view in, size_t at, const Limit& limit,
                                    HttpError& error);
    [[nodiscard]] Parse bad_line(std::string_view in, size_t end, int status, const char* rule,
                                 HttpError& error) const;
    [[nodiscard]] Parse scan_request_line(std::string_view in, const HttpPolicy& policy,
                                          RequestHead& head, HttpError& error);
    [[nodiscard]] Parse scan(std::string_view in, const HttpPolicy& policy, const PeerFacts& peer,
                             RequestHead& head, HttpError& error);
    [[nodiscard]] bool too_many_fields(std::string_view in, const HttpPolicy& policy,
                                       const PeerFacts& peer, const RequestHead& head);
    [[nodiscard]] bool build(std::string_view in, const HttpPolicy& policy, const PeerFacts& peer,
                             RequestHead& head, HttpError& error) const;

    // Positions are 32 bits: no head is longer than kHeadBytesMax.
    uint32_t scanned_ = 0;        ///< bytes of `in` already searched for the end of the head
    uint32_t line_start_ = 0;     ///< where the line being scanned starts
    uint32_t field_start_ = 0;    ///< where the last field starts (folded lines belong to it)
    uint32_t section_start_ = 0;  ///< where the header section starts
    uint32_t lines_ = 0;          ///< complete lines seen, the request line included
    uint32_t counted_ = 0;        ///< header lines looked at by too_many_fields()
    uint32_t kept_ = 0;           ///< … how many of them begin a field that header_map keeps
    uint32_t skipped_ = 0;        ///< 2 after a leading CRLF
    bool line_checked_ = false;   ///< the request line was judged before the head was complete
};

/// Decodes one body; resumable. Framing::None is complete at once.
class BodyReader {
public:
    void begin(Framing framing, uint64_t content_length, const HttpPolicy& policy);

    /// Takes a prefix of `in`. NeedMore: consumed `used` bytes and returned `data` (maybe empty);
    /// call again with the rest (`used` may be smaller than `in.size()` when a piece ends: call
    /// again until it takes nothing). Done: the body ends after `used` bytes; `data` may hold its
    /// last piece. Bad: `error` says what to answer (400, 413, 431). `data` points into `in`:
    /// decoding never copies.
    [[nodiscard]] Parse next(std::string_view in, size_t& used, std::string_view& data,
                             HttpError& error);

    [[nodiscard]] uint64_t received() const { return received_; }  ///< body bytes decoded so far

private:
    enum class State : uint8_t {
        Data,
        Size,
        Blank,
        Extension,
        Quoted,
        QuotedPair,
        SizeLf,
        DataCr,
        DataLf,
        Trailer,
        TrailerLf,
        Finished
    };
    bool size_byte(char byte, HttpError& error);
    bool start_chunk(HttpError& error);
    bool take_trailer(std::string_view in, size_t& used, HttpError& error);
    bool end_trailer_line(HttpError& error);

    const HttpPolicy* policy_ = nullptr;  ///< borrowed from the loop, which outlives the connection
    Framing framing_ = Framing::None;
    State state_ = State::Finished;
    uint64_t left_ = 0;  ///< of the body (Length) or of the current chunk
    uint64_t received_ = 0;
    uint32_t size_digits_ = 0;     ///< of the chunk size being read
    uint32_t overhead_bytes_ = 0;  ///< extensions and needless zeros of all chunks so far
    uint32_t trailer_bytes_ = 0;   ///< of the trailer section so far
    uint32_t trailer_fields_ = 0;
    std::string trailer_;  ///< the trailer line being received, bounded by the limits
};

}  // namespace gcorn
