// Status and fields → response bytes. Pure: no sockets, no Python.
//
// The twin of http_parse: it checks everything an application passes, so that nothing can split or
// corrupt a response, decides the framing (Content-Length, chunked or close: RFC 9112 §6.3, PEP
// 3333), and counts the body against its length. It owns the head's bytes; body bytes do not pass
// through it. One writer per Exchange, used by whoever answers: application side or, for refusals,
// the leader.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "http_parse.h"

namespace gcorn {

/// What the server says about itself in every answer.
class ResponseOptions {
public:
    /// server: the value of Server, which the config file may change (gunicorn.SERVER). "" omits
    /// the field, and so does a value that no field may have.
    explicit ResponseOptions(std::string_view server);
    ResponseOptions() : ResponseOptions("gcorn") {}

private:
    friend class ResponseWriter;
    std::string server_line_;  ///< "Server: gcorn\r\n" or ""
};

class ResponseWriter {
public:
    /// What an application has set: status and fields, as set_status() and add_field() accepted
    /// them.
    struct Answer {
        std::string status;
        std::string fields;  ///< "Name: value\r\n"…
        uint64_t length = 0;
        int code = 0;
        bool has_length = false;
        bool wants_close = false;  ///< Connection has the token "close"
        bool is_upgrade = false;   ///< Connection has the token "upgrade", or Upgrade is kept
        void clear();
    };

    /// Starts the answer to `head`. may_keep_alive: whether worker and connection allow another
    /// request; the connection stays open only if the request asks for it and the response's
    /// framing permits it, too.
    void begin(const RequestHead& head, bool may_keep_alive, const ResponseOptions& options);

    /// "200 OK", in latin-1. Forgets earlier status and fields (start_response with exc_info
    /// replaces, PEP 3333), so it comes before the fields. Error: its message is the text of the
    /// exception that the application gets. Refused: anything but three digits, or three digits, a
    /// blank and a reason; control bytes; 1xx (an interim status is no answer), except 101 to a
    /// request with `Connection: upgrade`.
    Status set_status(std::string_view status);

    /// One field, in the application's order and spelling, in latin-1. Names must be tokens, values
    /// free of control bytes; outer blanks are trimmed. Hop-by-hop fields, Server and Date are
    /// dropped as gunicorn does (Connection: upgrade and Upgrade: websocket survive; Deviation: so
    /// does any Upgrade of a 101 or 426, and `Connection: close` is honoured). A Content-Length
    /// that is no number, or differs from an earlier one, is refused.
    Status add_field(std::string_view name, std::string_view value);

    /// Gives the same answer to another request, in place of set_status() and add_field(). False,
    /// with nothing done, if their verdict depends on the request.
    [[nodiscard]] bool repeat(const Answer& answer);
    /// What a later repeat() may be given; null if the verdict depended on this request.
    [[nodiscard]] const Answer* answer() const;

    /// What goes on the wire around one block of body.
    struct Pieces {
        std::string_view before;  ///< head and/or chunk size; in this writer, until the next call
        uint64_t take = 0;        ///< how many bytes of the block to send (cut to Content-Length)
        std::string_view after;   ///< CRLF of the chunk, and the last chunk when is_last
        /// The bytes to send of a block in memory (`take` of a file may exceed size_t).
        [[nodiscard]] std::string_view part_of(std::string_view block) const {
            return block.substr(0, static_cast<size_t>(take));
        }
    };

    /// Frames one block of `size` bytes. is_last: nothing follows (saves a call to finish()).
    /// An empty block sends the head if it is not out yet, else nothing. Never writes body bytes
    /// for HEAD, 204, 304.
    [[nodiscard]] Pieces body(uint64_t size, bool is_last = false);

    /// Ends the answer: the head if it is not out, the last chunk if chunked.
    [[nodiscard]] Pieces finish();

    /// A complete error answer, replacing whatever was set (the head must not be out). The page
    /// quotes nothing from the client. Always `Connection: close`. To HEAD only the head is sent.
    /// Deviation: gunicorn leaves out Server and Date; RFC 9110 §6.6.1 asks for a Date.
    [[nodiscard]] std::string_view error_page(int status);

    /// Forgets the answer, so that none seems to have begun while the next request is being parsed.
    void forget() { answer_.clear(); }
    [[nodiscard]] bool has_status() const { return !answer_.status.empty(); }
    [[nodiscard]] bool head_sent() const { return head_sent_; }
    /// Fewer bytes than Content-Length were framed: the connection must close.
    [[nodiscard]] bool is_short() const;
    /// More bytes than Content-Length were offered, and cut off.
    [[nodiscard]] bool is_cut() const { return cut_; }
    /// The connection may serve another request. Before the head is out this may still change.
    [[nodiscard]] bool keeps_alive() const {
        return keep_alive_.load(std::memory_order_relaxed) && !answer_.wants_close;
    }
    /// The connection cannot serve another request (an error cut the body, a refusal, a stop).
    /// Before the head is out this also makes it say `Connection: close`. Any thread: the leader
    /// may find the request body broken while the application answers.
    void must_close() { keep_alive_.store(false, std::memory_order_relaxed); }
    [[nodiscard]] bool has_content_length() const { return answer_.has_length; }
    [[nodiscard]] uint64_t content_length() const { return answer_.length; }
    /// How many body bytes Content-Length still allows; UINT64_MAX without one.
    [[nodiscard]] uint64_t bytes_left() const {
        return answer_.has_length ? answer_.length - body_bytes_ : UINT64_MAX;
    }
    [[nodiscard]] bool is_chunked() const { return body_kind_ == BodyKind::Chunked; }

    /// For logs and hooks: "200 OK", 200, body bytes framed so far, header block as rendered
    /// ("Name: value\r\n"…, the application's fields only).
    [[nodiscard]] std::string_view status() const { return answer_.status; }
    [[nodiscard]] int status_code() const { return answer_.code; }
    [[nodiscard]] uint64_t body_bytes() const { return body_bytes_; }
    [[nodiscard]] std::string_view fields_block() const { return answer_.fields; }
    /// The last value with this name (in any case) among the application's fields.
    [[nodiscard]] std::optional<std::string_view> field(std::string_view name) const;

private:
    enum class BodyKind : uint8_t { None, Length, Chunked, UntilClose };
    [[nodiscard]] BodyKind body_kind() const;
    [[nodiscard]] bool has_no_body() const;
    [[nodiscard]] bool is_unframed() const;
    [[nodiscard]] bool is_judged_by_request(int code) const;
    Status add_content_length(std::string_view name, std::string_view value);
    void note_connection(std::string_view value);
    void append_field(std::string_view name, std::string_view value);
    void render_head();

    const RequestHead* head_ = nullptr;         ///< borrowed from the Exchange that owns both
    const ResponseOptions* options_ = nullptr;  ///< borrowed from the worker
    Answer answer_;
    std::string out_;  ///< bytes of the last Pieces::before
    uint64_t body_bytes_ = 0;
    BodyKind body_kind_ = BodyKind::None;  ///< decided with the head
    std::atomic<bool> keep_alive_{false};
    bool head_sent_ = false;
    bool cut_ = false;
    bool finished_ = false;
};

/// The reason phrase for a status this server sends by itself ("Bad Request"); "Error" if unknown.
[[nodiscard]] const char* reason_phrase(int status);

}  // namespace gcorn
