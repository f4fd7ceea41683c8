#include "base/clock.h"

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

struct tm local_time(std::time_t when) {
    struct tm local {};
    ::localtime_r(&when, &local);
    return local;
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
    // Numbers are the same in every locale, names are not.
    std::strftime(text, sizeof text, "DDD, %d MMM %Y %H:%M:%S GMT", &utc);
    std::memcpy(text, kDays[utc.tm_wday], 3);
    std::memcpy(text + 8, kMonths[utc.tm_mon], 3);
    std::memcpy(out, text, kHttpDateSize);
}

std::string_view http_date_now() {
    thread_local std::time_t rendered = 0;
    thread_local char text[kHttpDateSize];
    // The coarse clock costs 5 ns and is at most a tick behind: good enough for whole seconds.
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
    const struct tm local = local_time(when);
    char text[64];
    std::strftime(text, sizeof text, "%d/MMM/%Y:%H:%M:%S %z", &local);
    std::memcpy(text + 3, kMonths[local.tm_mon], 3);
    return text;
}

const std::string& error_log_time(std::time_t when) {
    thread_local std::time_t rendered = -1;
    thread_local std::string text;
    if (when != rendered) {
        const struct tm local = local_time(when);
        char fresh[64];
        text.assign(fresh, std::strftime(fresh, sizeof fresh, "%Y-%m-%d %H:%M:%S %z", &local));
        rendered = when;
    }
    return text;
}

}  // namespace gcorn
