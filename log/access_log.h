// The access log: gunicorn's atoms, compiled once into steps; JSON lines as an alternative.
//
// Fed with an AccessRecord by whoever completes a response (leader or application side); writes one
// line through Logger::write_access. Strings from the client are escaped so that no line can be
// forged. Any thread after construction.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "log/log.h"

namespace gcorn {

inline constexpr const char* kDefaultAccessFormat =
    R"(%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s")";

/// Looks up a request or response field by lower-case name: the last one wins, false if absent.
class FieldLookup {
public:
    virtual ~FieldLookup() = default;
    virtual bool request_field(std::string_view lower_name, std::string_view& value) const = 0;
    virtual bool response_field(std::string_view lower_name, std::string_view& value) const = 0;
};

/// What one line is made of. Views are valid for the call only.
struct AccessRecord {
    std::string_view remote_addr;
    std::string_view method;
    std::string_view target;     ///< RAW_URI; of a refused request: what is known, may be empty
    std::string_view path;       ///< undecoded path; the %(U)s step decodes it
    std::string_view query;
    std::string_view protocol;
    std::string_view status;     ///< "200 OK" or "400"
    uint64_t body_bytes = 0;
    int64_t duration_us = 0;     ///< first byte of the head → last byte handed to the kernel
    int64_t app_us = 0;          ///< inside the application, %(A)s
    int64_t queue_us = 0;        ///< complete → taken by the application side, %(Q)s
    const FieldLookup* fields = nullptr;  ///< null: none (a refused request)
    /// Values of %({name}e)s captured on the application side, by lower-case name.
    const std::vector<std::pair<std::string, std::string>>* environ = nullptr;
};

class AccessLog {
public:
    /// format: gunicorn's atoms, "json", or "json:" and a comma list of atoms. Error: names the
    /// position and the atom that is wrong.
    static Result<AccessLog> compile(std::string_view format);

    /// Appends one line (no newline) to `out`.
    void format(const AccessRecord& record, std::string& out) const;

    /// Lower-case environ names that the format asks for; the application side captures their values.
    [[nodiscard]] const std::vector<std::string>& environ_names() const { return environ_names_; }

private:
    struct Step {
        enum class Kind : uint8_t;
        Kind kind;
        std::string text;  ///< literal, or the field's lower-case name
    };
    AccessLog() = default;
    std::vector<Step> steps_;
    std::vector<std::string> environ_names_;
    bool json_ = false;
};

}  // namespace gcorn
