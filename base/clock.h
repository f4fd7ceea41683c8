// Clocks: monotonic time for deadlines and durations, wall time for what people and caches read.
//
// All deadlines in the program are monotonic milliseconds, so a stepped wall clock disturbs
// nothing. Any thread.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>

namespace gcorn {

/// CLOCK_MONOTONIC in milliseconds or microseconds (about 20 ns a call through the vDSO).
[[nodiscard]] int64_t monotonic_ms();
[[nodiscard]] int64_t monotonic_us();

/// A setting in seconds as milliseconds.
constexpr int64_t milliseconds(int64_t seconds) {
    return seconds * 1000;
}

/// Length of an IMF-fixdate such as "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 §5.6.7).
constexpr size_t kHttpDateSize = 29;

/// Writes `when` as IMF-fixdate: exactly kHttpDateSize bytes, no terminator.
void format_http_date(std::time_t when, char* out);

/// The current IMF-fixdate, rendered at most once a second for each thread. The view is into a
/// thread-local buffer and valid until this thread's next call.
[[nodiscard]] std::string_view http_date_now();

/// "%d/%b/%Y:%H:%M:%S %z" in local time, with English month names whatever the locale
/// (the access log's %(t)s without its brackets).
[[nodiscard]] std::string access_log_time(std::time_t when);

/// "%Y-%m-%d %H:%M:%S %z" in local time (the error log's prefix); rendered and valid as above.
[[nodiscard]] const std::string& error_log_time(std::time_t when);

}  // namespace gcorn
