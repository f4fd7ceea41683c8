// The access log: gunicorn's atoms, compiled once into steps; JSON lines as an alternative.
//
// Fed with an AccessRecord by whoever completes a response (leader or application side); the caller
// writes the line with Logger::write_access. Any thread after compile(); no locks.
//
// Text. Atoms are Python's %(name)s; the integers T M D B b s A Q take %d, too, and a field width
// with the flags - and 0 and, for %s, a precision are understood. "%%" is a percent sign; an
// unknown atom and an absent value are "-". Deviation: gunicorn escapes only quotes; here strings
// from client and application come out as printable ASCII (escape_for_log), so that no line can be
// forged and no terminal controlled. Deviation: a format that can't work is an Error at the start,
// not at each line.
//
// JSON. "json" stands for "json:t,h,u,m,U,q,H,s,B,f,a,D,A,Q,p". One object per line; an absent
// value is null:
//   t "time" (RFC 3339)      h "remote_addr"  l "ident"     u "user"        r "request"
//   m "method"  U "path"     q "query"        H "protocol"  f "referer"     a "user_agent"
//   s "status"  b B "bytes"  T "duration_s"   M "duration_ms"  D "duration_us"
//   L "duration" (seconds with six decimals)  p "pid"       A "app_us"      Q "queue_us"
//   {x}i "request_header.x"  {x}o "response_header.x"       {x}e "environ.x"
// Durations, status, bytes and pid are numbers, the rest strings.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "log/log.h"

namespace gcorn {

inline constexpr const char* kDefaultAccessFormat =
    R"(%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s")";

/// Looks up a field of the request ('i') or of its response ('o') by its lower-case name: the last
/// one wins, nullopt if it is absent.
using FieldFinder =
    std::function<std::optional<std::string_view>(char kind, std::string_view lower_name)>;

/// What one line is made of. Views are valid for the call only.
struct AccessRecord {
    std::string_view remote_addr;  ///< REMOTE_ADDR; "" on a unix socket prints as ""
    std::string_view request;  ///< the request line; if refused: what is known of it, maybe empty
    std::string_view method;
    std::string_view path;  ///< undecoded path; the %(U)s step decodes it
    std::string_view query;
    std::string_view protocol;
    std::string_view status;  ///< "200 OK" or "400"
    uint64_t body_bytes = 0;
    int64_t duration_us = 0;  ///< first byte of the head → last byte handed to the kernel
    int64_t app_us = 0;       ///< inside the application, %(A)s
    int64_t queue_us = 0;     ///< complete → taken by the application side, %(Q)s
    int pid = 0;              ///< 0: found out if the format needs it (one system call)
    const FieldFinder* find_field = nullptr;  ///< null: there are none
    /// Values of %({name}e)s captured on the application side, by lower-case name.
    const std::vector<std::pair<std::string, std::string>>* environ = nullptr;
};

class AccessLog {
public:
    /// format: gunicorn's atoms, "json", or "json:" and a comma list of atoms. Error: names the
    /// position and the atom that is wrong.
    static Result<AccessLog> compile(std::string_view format);

    /// One line without its newline. The view is valid until this thread's next call.
    [[nodiscard]] std::string_view format(const AccessRecord& record) const;

    /// Lower-case environ names that the format asks for; the application side captures their
    /// values.
    [[nodiscard]] const std::vector<std::string>& environ_names() const { return environ_names_; }

    /// The format has a duration, so requests have to be timed.
    [[nodiscard]] bool measures_time() const { return measures_time_; }

private:
    struct Step {
        char kind;                        ///< the atom's letter; for {x}i, {x}o and {x}e the last
        std::string name;                 ///< of a field or environ value, in lower case
        std::string json_key{};           ///< "status"; "" for atoms that JSON lacks
        std::string before{};             ///< literal text in front of the value
        uint16_t width = 0;               ///< 0: as long as the value is
        uint16_t precision = UINT16_MAX;  ///< at most this many bytes of the value
        bool is_padded = false;           ///< it has a width or a precision
        bool is_left = false;             ///< padded on the right
        bool is_zero = false;             ///< a number padded with zeros
    };
    enum class Form : uint8_t { Absent, Number, Text };  ///< digits (and a point), or any bytes
    struct Value {
        Form form = Form::Absent;
        std::string_view text;  ///< in the record or in the Scratch
    };
    struct Scratch;
    AccessLog() = default;
    Status compile_text(std::string_view format);
    Status compile_json(std::string_view atoms);
    Result<Step> find_atom(std::string_view name, bool is_number_wanted);
    static std::string padded(const Step& step, std::string value);
    Value value_of(const Step& step, const AccessRecord& record, Scratch& scratch) const;
    std::vector<Step> steps_;
    std::string tail_;  ///< literal text after the last value
    std::vector<std::string> environ_names_;
    bool json_ = false;
    bool measures_time_ = false;
};

}  // namespace gcorn
