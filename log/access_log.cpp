#include "log/access_log.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <ctime>

#include "base/clock.h"
#include "base/text.h"

namespace gcorn {

namespace {

constexpr size_t kWidthMax = 1024;  ///< of a field width; more must be a typo

constexpr std::string_view kDefaultJsonAtoms = "t,h,u,m,U,q,H,s,B,f,a,D,A,Q,p";

/// Eight bytes at once: true if all are printable ASCII other than quote and backslash.
constexpr bool are_plain(uint64_t bytes) {
    constexpr uint64_t kOnes = 0x0101010101010101U, kHigh = kOnes << 7;
    const auto has_zero = [](uint64_t x) { return (x - kOnes) & ~x & kHigh; };
    const uint64_t below_space = (bytes - kOnes * 0x20) & ~bytes & kHigh;
    const uint64_t above_tilde = ((bytes + kOnes) | bytes) & kHigh;
    return (below_space | above_tilde | has_zero(bytes ^ kOnes * '"') |
            has_zero(bytes ^ kOnes * '\\')) == 0;
}

/// Copies `text` and checks it in the same pass; false if it is not plain, and then the copy is of
/// no use.
bool copy_plain(std::string_view text, char* to) {
    if (text.size() < sizeof(uint64_t)) {
        bool is_plain = true;
        for (const char c : text) {
            is_plain = is_plain && c >= ' ' && c <= '~' && c != '"' && c != '\\';
            *to++ = c;
        }
        return is_plain;
    }
    const auto copy_eight = [&](size_t i) {
        uint64_t bytes;
        std::memcpy(&bytes, text.data() + i, sizeof bytes);
        std::memcpy(to + i, &bytes, sizeof bytes);
        return are_plain(bytes);
    };
    for (size_t i = 0; i + sizeof(uint64_t) < text.size(); i += sizeof(uint64_t))
        if (!copy_eight(i)) return false;
    return copy_eight(text.size() - sizeof(uint64_t));  // overlaps the bytes before
}

/// A line being built; its memory is reused for the next one.
class Line {
public:
    void clear() { size_ = 0; }
    [[nodiscard]] std::string_view text() const { return {memory_.data(), size_}; }
    void put(std::string_view text) {
        std::memcpy(room(text.size()), text.data(), text.size());
        size_ += text.size();
    }
    void put_escaped(std::string_view text) {
        if (copy_plain(text, room(text.size())))
            size_ += text.size();
        else
            put(escape_for_log(text));
    }
    void put_quoted(std::string_view text) {
        char* const to = room(text.size() + 2);
        if (!copy_plain(text, to + 1)) return put(json_quote(text));
        to[0] = to[text.size() + 1] = '"';
        size_ += text.size() + 2;
    }
    /// Removes and returns the end of the line from `start` on.
    std::string take_from(size_t start) {
        std::string taken(text().substr(start));
        size_ = start;
        return taken;
    }

private:
    /// Room for the next `bytes` bytes.
    char* room(size_t bytes) {
        if (memory_.size() - size_ < bytes) memory_.resize(2 * (size_ + bytes) + kSize);
        return memory_.data() + size_;
    }
    static constexpr size_t kSize = 512;  ///< enough for most lines
    std::string memory_;
    size_t size_ = 0;
};

/// The current time, rendered once a second.
class TimeTexts {
public:
    void look_at_clock() {
        const std::time_t now_s = std::time(nullptr);
        if (now_s == rendered_s_) return;
        rendered_s_ = now_s;
        clf = "[" + access_log_time(now_s) + "]";
        const std::string& local = error_log_time(now_s);  // "2026-11-23 04:04:33 +0000"
        iso = local.substr(0, 10) + "T" + local.substr(11, 8) + local.substr(20, 3) + ":" +
              local.substr(23, 2);
    }
    std::string clf;  ///< "[23/Nov/2026:04:04:33 +0000]"
    std::string iso;  ///< "2026-11-23T04:04:33+00:00" (RFC 3339)

private:
    std::time_t rendered_s_ = 0;
};

/// The user-id of "Basic <base64 of user:password>" (RFC 7617); false if it is none. The password
/// is not even decoded.
bool basic_user(std::string_view authorization, std::string& user) {
    const std::string_view scheme = authorization.substr(0, authorization.find(' '));
    if (!iequals(scheme, "basic")) return false;
    std::string_view code = trim(authorization.substr(scheme.size()));
    while (code.ends_with('='))
        code.remove_suffix(1);
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    int bit_count = 0;
    user.clear();
    for (const char c : code) {
        const size_t value = kDigits.find(c);
        if (value == kDigits.npos) return false;
        bits = bits << 6 | static_cast<uint32_t>(value);
        bit_count += 6;
        if (bit_count < 8) continue;
        bit_count -= 8;
        const char byte = static_cast<char>(bits >> bit_count & 0xFF);
        if (byte == ':') break;
        user += byte;
    }
    return !user.empty();
}

Error format_error(size_t position, const std::string& what) {
    return Error{0, "access log format, position " + std::to_string(position + 1) + ": " + what};
}

/// Bytes of the parenthesised name that starts at `text`'s first byte, both parentheses included
/// (they may nest, as in Python); npos if it does not end.
size_t name_size(std::string_view text) {
    int depth = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '(') ++depth;
        if (text[i] == ')' && --depth == 0) return i + 1;
    }
    return std::string_view::npos;
}

/// The number at `position`, which moves past it; kWidthMax + 1 for any larger one.
size_t take_number(std::string_view text, size_t& position) {
    size_t value = 0;
    for (; position < text.size() && is_digit(text[position]); ++position)
        value = std::min(value * 10 + static_cast<size_t>(text[position] - '0'), kWidthMax + 1);
    return value;
}

}  // namespace

/// A thread's memory for its lines, and for values that have to be rendered.
struct AccessLog::Scratch {
    Line line;
    TimeTexts time;
    std::string text;
    char digits[40];
};

/// `value`, cut and padded as the step says.
std::string AccessLog::padded(const Step& step, std::string value) {
    value.resize(std::min<size_t>(value.size(), step.precision));
    const size_t missing = step.width - std::min<size_t>(value.size(), step.width);
    value.insert(step.is_left ? value.size() : 0, missing, step.is_zero ? '0' : ' ');
    return value;
}

/// The step for an atom's name: a letter, or {name} with i, o or e, in any case. An unknown one
/// gives that of %(l)s, which is always absent. Error: a string asked for as a number.
Result<AccessLog::Step> AccessLog::find_atom(std::string_view name, bool is_number_wanted) {
    static constexpr std::pair<char, const char*> kAtoms[] = {
        {'h', "remote_addr"}, {'l', "ident"},      {'u', "user"},       {'t', "time"},
        {'r', "request"},     {'s', "status"},     {'m', "method"},     {'U', "path"},
        {'q', "query"},       {'H', "protocol"},   {'b', "bytes"},      {'B', "bytes"},
        {'f', "referer"},     {'a', "user_agent"}, {'T', "duration_s"}, {'M', "duration_ms"},
        {'D', "duration_us"}, {'L', "duration"},   {'p', "pid"},        {'A', "app_us"},
        {'Q', "queue_us"},
    };
    constexpr std::string_view kIntegers = "sbBTMDAQ";
    if (is_number_wanted && (name.size() != 1 || kIntegers.find(name) == std::string_view::npos))
        return Error{0, "'" + std::string(name) + "' is not a number"};
    constexpr std::string_view kDurations = "TMDLAQ";
    for (const auto& [letter, json_key] : kAtoms) {
        if (name.size() != 1 || name[0] != letter) continue;
        measures_time_ = measures_time_ || kDurations.find(letter) != kDurations.npos;
        if (letter == 'f') return Step{'i', "referer", json_key};
        if (letter == 'a') return Step{'i', "user-agent", json_key};
        return Step{letter, "", json_key};
    }

    const size_t brace = name.size() < 3 ? 0 : name.size() - 2;
    if (brace == 0 || name.front() != '{' || name[brace] != '}') return Step{'l', ""};
    const std::string field = lower(name.substr(1, brace - 1));
    switch (to_lower(name.back())) {
        case 'i': return Step{'i', field, "request_header." + field};
        case 'o': return Step{'o', field, "response_header." + field};
        case 'e': break;
        default: return Step{'l', ""};
    }
    const auto known = std::find(environ_names_.begin(), environ_names_.end(), field);
    if (known == environ_names_.end()) environ_names_.push_back(field);
    return Step{'e', field, "environ." + field};
}

Result<AccessLog> AccessLog::compile(std::string_view format) {
    AccessLog log;
    log.json_ = format == "json" || format.starts_with("json:");
    const Status status = format == "json" ? log.compile_json(kDefaultJsonAtoms)
                          : log.json_      ? log.compile_json(format.substr(5))
                                           : log.compile_text(format);
    if (!status) return status.error();
    return log;
}

Status AccessLog::compile_text(std::string_view format) {
    std::string literal;
    for (size_t at = 0; at < format.size();) {
        const size_t percent = std::min(format.find('%', at), format.size());
        literal += format.substr(at, percent - at);
        at = percent;
        if (at == format.size()) break;
        if (format.substr(at).starts_with("%%")) {
            literal += '%';
            at += 2;
            continue;
        }
        const std::string_view rest = format.substr(at + 1);
        if (!rest.starts_with('('))
            return format_error(at, "'%' is followed by neither '(' nor '%'");
        const size_t size = name_size(rest);
        if (size == std::string_view::npos) return format_error(at, "'%(' without its ')'");
        const std::string_view name = rest.substr(1, size - 2);

        size_t end = at + 1 + size;
        bool is_left = false, is_zero = false;
        for (; end < format.size() && (format[end] == '-' || format[end] == '0'); ++end)
            (format[end] == '-' ? is_left : is_zero) = true;
        const size_t width = take_number(format, end);
        size_t precision = UINT16_MAX;
        const bool has_precision = end < format.size() && format[end] == '.';
        if (has_precision) precision = take_number(format, ++end);
        const std::string atom(format.substr(at, std::min(end + 1, format.size()) - at));
        const char conversion = end < format.size() ? format[end] : '\0';
        const bool is_number = conversion == 'd' || conversion == 'i' || conversion == 'u';
        if (conversion != 's' && !is_number)
            return format_error(at, "'" + atom + "' does not end with s or d");
        if (width > kWidthMax || (has_precision && (precision > kWidthMax || is_number)))
            return format_error(at, "'" + atom + "' has a width or precision that can't be used");

        Result<Step> step = find_atom(name, is_number);
        if (!step) return format_error(at, "'" + atom + "': " + step.message());
        step->width = static_cast<uint16_t>(width);
        step->precision = static_cast<uint16_t>(precision);
        step->is_padded = width > 0 || has_precision;
        step->is_left = is_left;
        step->is_zero = is_zero && is_number && !is_left;
        if (step->kind == 'l' && !step->is_padded) {
            literal += '-';
        } else {
            step->before = std::exchange(literal, {});
            steps_.push_back(std::move(*step));
        }
        at = end + 1;
    }
    tail_ = literal;
    return {};
}

Status AccessLog::compile_json(std::string_view atoms) {
    for (const std::string_view name : split(atoms, ',')) {
        Result<Step> step = find_atom(trim(name), false);
        const auto position = static_cast<size_t>(name.data() - atoms.data()) + 5;
        if (!step || step->json_key.empty())
            return format_error(position, "unknown atom '" + std::string(name) + "'");
        const std::string key = json_quote(step->json_key) + ":";
        for (const Step& other : steps_)
            if (std::string_view(other.before).substr(1) == key)
                return format_error(position, "'" + std::string(name) + "' repeats " + key);
        step->before = (steps_.empty() ? "{" : ",") + key;
        steps_.push_back(std::move(*step));
    }
    tail_ = "}";
    return {};
}

std::string_view AccessLog::format(const AccessRecord& record) const {
    thread_local Scratch scratch;
    Line& line = scratch.line;
    line.clear();
    for (const Step& step : steps_) {
        line.put(step.before);
        const size_t start = line.text().size();
        const Value value = value_of(step, record, scratch);
        if (value.form == Form::Number)
            line.put(value.text);
        else if (value.form == Form::Absent)
            line.put(json_ ? "null" : "-");
        else if (json_)
            line.put_quoted(value.text);
        else
            line.put_escaped(value.text);
        if (step.is_padded) line.put(padded(step, line.take_from(start)));
    }
    line.put(tail_);
    return line.text();
}

/// In JSON a Form::Text is quoted, in text escaped.
AccessLog::Value AccessLog::value_of(const Step& step, const AccessRecord& record,
                                     Scratch& scratch) const {
    const auto number = [&](int64_t integer) {
        const auto [end, error] = std::to_chars(scratch.digits, std::end(scratch.digits), integer);
        return Value{Form::Number, {scratch.digits, end}};
    };
    const auto text = [](std::string_view bytes) { return Value{Form::Text, bytes}; };
    const auto known = [&](std::string_view bytes) {
        return bytes.empty() ? Value{} : text(bytes);
    };
    const auto field = [&](char kind, std::string_view name) {
        const auto bytes = record.find_field ? (*record.find_field)(kind, name) : std::nullopt;
        return bytes ? text(*bytes) : Value{};
    };
    const int64_t us = std::max<int64_t>(record.duration_us, 0);
    switch (step.kind) {
        case 'h': return text(record.remote_addr);
        case 'u': {
            const Value authorization = field('i', "authorization");
            return basic_user(authorization.text, scratch.text) ? text(scratch.text) : Value{};
        }
        case 'r': return known(record.request);
        case 's': {
            const std::string_view code = record.status.substr(0, record.status.find(' '));
            // JSON has no numbers with a leading zero.
            const bool is_number =
                !code.starts_with('0') && std::all_of(code.begin(), code.end(), is_digit);
            return is_number && !code.empty() ? Value{Form::Number, code} : known(code);
        }
        case 'm': return known(record.method);
        case 'U': scratch.text = percent_decode(record.path); return text(scratch.text);
        case 'q': return text(record.query);
        case 'H': return known(record.protocol);
        case 'b':
        case 'B': return number(static_cast<int64_t>(record.body_bytes));
        case 'T': return number(us / 1'000'000);
        case 'M': return number(us / 1000);
        case 'D': return number(us);
        case 'L': {
            const size_t point = number(us / 1'000'000).text.size();
            char* const begin = scratch.digits + point;
            const auto [end, error] =
                std::to_chars(begin, std::end(scratch.digits), 1'000'000 + us % 1'000'000);
            *begin = '.';  // it was the 1 that kept the leading zeros
            return {Form::Number, {scratch.digits, end}};
        }
        case 'p': {
            const Value pid = number(record.pid ? record.pid : ::getpid());
            if (json_) return pid;
            ((scratch.text = '<') += pid.text) += '>';
            return text(scratch.text);
        }
        case 'A': return number(record.app_us);
        case 'Q': return number(record.queue_us);
        case 'i':
        case 'o': return field(step.kind, step.name);
        case 'e':
            if (!record.environ) return {};
            for (const auto& [name, bytes] : *record.environ)
                if (name == step.name) return text(bytes);
            return {};
        case 't':
            scratch.time.look_at_clock();
            return text(json_ ? scratch.time.iso : scratch.time.clf);
        default: return {};
    }
}

}  // namespace gcorn
