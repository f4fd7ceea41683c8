#include "base/clock.h"

#include <cstdio>
#include <cstring>

namespace gcorn {

namespace {

constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                   "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

struct timespec now(clockid_t clock) {
    struct timespec t {};
    ::clock_gettime(clock, &t);
    return t;
}

/// Minutes east of UTC, with the sign and the digits of strftime's %z.
void format_zone(const struct tm& local, char (&out)[8]) {
    long minutes = local.tm_gmtoff / 60;
    const char sign = minutes < 0 ? '-' : '+';
    if (minutes < 0) minutes = -minutes;
    std::snprintf(out, sizeof out, "%c%02d%02d", sign, static_cast<int>(minutes / 60 % 100),
                  static_cast<int>(minutes % 60));
}

}  // namespace

int64_t monotonic_ms() {
    const struct timespec t = now(CLOCK_MONOTONIC);
    return int64_t{t.tv_sec} * 1000 + t.tv_nsec / 1'000'000;
}

int64_t monotonic_us() {
    const struct timespec t = now(CLOCK_MONOTONIC);
    return int64_t{t.tv_sec} * 1'000'000 + t.tv_nsec / 1000;
}

void format_http_date(std::time_t when, char* out) {
    struct tm utc {};
    ::gmtime_r(&when, &utc);
    char text[64];
    std::snprintf(text, sizeof text, "%s, %02d %s %04d %02d:%02d:%02d GMT", kDays[utc.tm_wday],
                  utc.tm_mday, kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min,
                  utc.tm_sec);
    std::memcpy(out, text, kHttpDateSize);
}

std::string_view http_date_now() {
    thread_local std::time_t rendered = 0;
    thread_local char text[kHttpDateSize];
    // The coarse clock costs 5 ns and is at most a tick behind: right for a header in seconds.
#ifdef CLOCK_REALTIME_COARSE
    const std::time_t seconds = now(CLOCK_REALTIME_COARSE).tv_sec;
#else
    const std::time_t seconds = now(CLOCK_REALTIME).tv_sec;
#endif
    if (seconds != rendered) {
        format_http_date(seconds, text);
        rendered = seconds;
    }
    return {text, kHttpDateSize};
}

std::string access_log_time(std::time_t when) {
    struct tm local {};
    ::localtime_r(&when, &local);
    char zone[8];
    format_zone(local, zone);
    char text[64];
    std::snprintf(text, sizeof text, "%02d/%s/%04d:%02d:%02d:%02d %s", local.tm_mday,
                  kMonths[local.tm_mon], local.tm_year + 1900, local.tm_hour, local.tm_min,
                  local.tm_sec, zone);
    return text;
}

std::string error_log_time(std::time_t when) {
    struct tm local {};
    ::localtime_r(&when, &local);
    char zone[8];
    format_zone(local, zone);
    char text[64];
    std::snprintf(text, sizeof text, "%04d-%02d-%02d %02d:%02d:%02d %s", local.tm_year + 1900,
                  local.tm_mon + 1, local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec, zone);
    return text;
}

}  // namespace gcorn
