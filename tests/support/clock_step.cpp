// For LD_PRELOAD: a wall clock that steps. The file CLOCK_STEP holds the seconds it is off by; the
// monotonic clock stays the kernel's. Linux, glibc.
#include <cstdlib>
#include <ctime>

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

namespace {

long seconds_off() {
    const char* const path = std::getenv("CLOCK_STEP");
    const int fd = path != nullptr ? ::open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    char text[32] = {};
    const ssize_t size = ::read(fd, text, sizeof text - 1);
    ::close(fd);
    return size > 0 ? std::atol(text) : 0;
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
#ifdef SYS_clock_gettime64  // on a 32-bit system, where the older call knows no time after 2038
    const long failed = ::syscall(SYS_clock_gettime64, clock, now);
#else
    const long failed = ::syscall(SYS_clock_gettime, clock, now);
#endif
    if (failed == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += seconds_off();
    return static_cast<int>(failed);
}

extern "C" int gettimeofday(timeval* __restrict now, void* __restrict) noexcept {
    timespec exact{};
    ::clock_gettime(CLOCK_REALTIME, &exact);
    *now = {exact.tv_sec, exact.tv_nsec / 1000};
    return 0;
}

extern "C" time_t time(time_t* copy) noexcept {
    timespec exact{};
    ::clock_gettime(CLOCK_REALTIME, &exact);
    if (copy != nullptr) *copy = exact.tv_sec;
    return exact.tv_sec;
}
