// systemd: socket activation and service notifications, without libsystemd.
//
// The two protocols are environment variables, descriptors from 3 on, and one datagram for each
// message; other supervisors speak them, too. Failures are never fatal: a service that cannot be
// heard still serves. Arbiter's thread. Sources: sd_listen_fds(3), sd_notify(3),
// sd_watchdog_enabled(3).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace gcorn::systemd {

/// The first descriptor that a supervisor passes (SD_LISTEN_FDS_START).
constexpr int kListenFdsStart = 3;

/// Descriptors passed to this very process (LISTEN_PID is ours), now close-on-exec; else none. The
/// variables are removed from the C environment when they were for us; the caller tells the
/// interpreter. Descriptors that are not open are left out.
[[nodiscard]] std::vector<int> take_listen_fds();

/// The sender's side, between fork and exec: moves `fds` to 3, 4, … in their order, over whatever
/// is there, and appends LISTEN_PID (ours) and LISTEN_FDS to the next program's environment. Error:
/// errno in code.
Status pass_listen_fds(const std::vector<int>& fds, std::vector<std::string>& environment);

/// Sends state changes to the supervisor that NOTIFY_SOCKET names.
class Notifier {
public:
    /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and leaves them set. Later changes of
    /// the environment are not seen.
    Notifier();

    [[nodiscard]] bool is_active() const { return !socket_path_.empty(); }

    /// "READY=1" and a STATUS line; also ends a reload.
    Status ready(std::string_view status) const;
    /// "RELOADING=1" with the MONOTONIC_USEC that Type=notify-reload asks for.
    Status reloading() const;
    Status stopping() const { return send("STOPPING=1"); }
    /// Names the process to watch from now on (after USR2).
    Status main_pid(pid_t pid) const { return send("MAINPID=" + std::to_string(pid)); }
    /// Names this process again, by way of another one, once our predecessor, which named it first,
    /// is gone. Only when the main process changes does systemd check whether that is its child,
    /// and we were not while our predecessor lived; it does not wait for the end of a process that
    /// is not its child, so `systemctl stop` would kill us together with our requests. Forks; takes
    /// up to three seconds if the supervisor does not listen. No other thread may run.
    Status reclaim_main_pid() const;
    Status watchdog() const;

    /// How often watchdog() is due: half of WATCHDOG_USEC, in milliseconds; 0 if there is none.
    [[nodiscard]] int64_t watchdog_interval_ms() const { return watchdog_interval_ms_; }

    /// Sends one datagram as it is. Ok if there is no supervisor to hear it. Error: errno in code.
    /// Waits up to a second for a supervisor whose queue is full, unless `flags` of send(2) say
    /// otherwise. The descriptor `passed` goes with it, if there is one.
    Status send(std::string_view message, int flags = 0, int passed = -1) const;

private:
    /// Waits up to a second until the supervisor has read what was sent so far.
    void wait_until_read() const;

    std::string socket_path_;  ///< a leading '@' = abstract
    int64_t watchdog_interval_ms_ = 0;
};

}  // namespace gcorn::systemd
