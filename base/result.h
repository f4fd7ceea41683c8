// Errors as values, and the check that stays on in release builds.
//
// Product code is compiled without exceptions: what can fail returns a Status or a Result<T>, and
// an Error carries one sentence a tired operator understands: what was tried, on which object, and
// why it failed ("bind 0.0.0.0:80: Permission denied"). Any thread; plain values.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace gcorn {

/// A failure. `code` is an errno value, an HTTP status or an exit code, as the function that
/// returns it documents; 0 if no number adds to what the sentence says.
struct Error {
    int code = 0;
    std::string message;
};

/// Builds "<what>: <strerror(saved_errno)>". Save errno on the line after the failing call and pass
/// it here, so that nothing in between can overwrite it.
inline Error errno_error(int saved_errno, std::string what) {
    what += ": ";
    what += std::strerror(saved_errno);
    return Error{saved_errno, std::move(what)};
}

/// Success, or an Error.
class [[nodiscard]] Status {
public:
    Status() = default;
    Status(Error error) : error_(std::move(error)) {}  // implicit: `return Error{...};`

    [[nodiscard]] bool is_ok() const { return !error_; }
    explicit operator bool() const { return is_ok(); }
    [[nodiscard]] const Error& error() const { return *error_; }
    [[nodiscard]] const std::string& message() const { return error_->message; }

private:
    std::optional<Error> error_;
};

/// A T, or an Error.
template <typename T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    [[nodiscard]] bool is_ok() const { return state_.index() == 0; }
    explicit operator bool() const { return is_ok(); }

    /// The value; only after is_ok().
    [[nodiscard]] T& value() { return *std::get_if<0>(&state_); }
    [[nodiscard]] const T& value() const { return *std::get_if<0>(&state_); }
    T& operator*() { return value(); }
    const T& operator*() const { return value(); }
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }

    [[nodiscard]] const Error& error() const { return *std::get_if<1>(&state_); }
    [[nodiscard]] const std::string& message() const { return error().message; }

private:
    std::variant<T, Error> state_;
};

/// The error log's descriptor, for what a dying process still has to say; -1 = stderr is enough.
inline std::atomic<int> last_words_fd{-1};

[[noreturn]] inline void die(const char* text) {
    char line[1024];
    const int size = std::snprintf(line, sizeof line, "gcorn (pid:%d): %s\n",
                                   static_cast<int>(::getpid()), text);
    const size_t bytes = std::min(static_cast<size_t>(std::max(size, 0)), sizeof line - 1);
    for (const int fd : {STDERR_FILENO, last_words_fd.load()})
        if (fd >= 0 && ::write(fd, line, bytes) < 0) continue;
    std::abort();
}

[[noreturn]] inline void check_failed(const char* file, int line, const char* condition) {
    char text[512];
    std::snprintf(text, sizeof text, "%s:%d: broken invariant: %s", file, line, condition);
    die(text);
}

}  // namespace gcorn

/// Stays on in release builds: a broken invariant ends the process (the arbiter replaces a worker).
/// For programmer errors only; what a peer or an operator can cause is a Status.
#define GCORN_CHECK(condition) \
    ((condition) ? static_cast<void>(0) : ::gcorn::check_failed(__FILE__, __LINE__, #condition))
