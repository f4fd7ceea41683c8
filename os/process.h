// Process: what this process is to its host: daemon, title, user, working directory, its cgroup.
//
// Mechanics only; when to call what is decided by server, arbiter and worker. Main thread unless
// noted. Sources: daemon(7), credentials(7), cgroups(7), gunicorn: util.daemonize,
// util.set_owner_process, util.getcwd.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace gcorn {

/// Opens /dev/null as each of stdin, stdout and stderr that we were started without: else the next
/// socket or log file would get that number, and with it what is printed. First thing in main().
void fill_standard_streams();

/// If there is no /dev/null (a bare chroot), gives their numbers to a socket that takes nothing.
/// Not before Python has started: its print() does nothing without a stream, but would fail on this
/// one.
void occupy_standard_streams();

/// Whoever typed the command that starts us. That of a daemon sees a first process, which waits
/// (for ten seconds at most) until it is known whether the start succeeds, and passes on why not.
/// Main thread.
class Starter {
public:
    /// Detaches: fork, setsid, fork again, umask 022; returns only in the grandchild. stdin becomes
    /// /dev/null; stdout and stderr, too, unless enable_stdio_inheritance is set and they are not
    /// terminals. Other descriptors and the working directory stay. Call before there are other
    /// threads. Error: errno in code, still attached.
    Status detach(bool enable_stdio_inheritance);
    /// Whether we have detached, and the first process still waits.
    [[nodiscard]] bool is_waiting() const { return first_process_.is_open(); }
    /// Writes `text` (up to PIPE_BUF bytes, no zeros) to the stderr of before we detached.
    void tell(std::string_view text) const;
    /// Lets the first process end with `status` (0 to 255), if it waits. Without this it ends with
    /// 1 when we do. Returns `status`.
    int let_go(int status);

private:
    Fd first_process_;
};

/// Makes the memory of argv and environ available for titles; moves environ elsewhere. Once, first
/// thing in main(); argv's strings are not to be read afterwards. Without it set_title() does
/// nothing where titles live in that memory (Linux).
void title_init(int argc, char** argv);

/// What ps(1) shows: "gcorn: worker [app]". Cut to the room that argv and environ left.
void set_title(const std::string& title);

/// The ids of a user and a group, if they are set.
struct Owner {
    std::optional<uid_t> user;
    std::optional<gid_t> group;
};
/// Each by name, or by decimal number, which need not exist in the databases; "" = not set. Error:
/// "No such user: 'x'" (code 0) or the failing lookup (errno).
Result<Owner> find_owner(const std::string& user, const std::string& group);

/// Becomes group `gid`, then user `uid`, for good (real, effective and saved). 0 leaves that one
/// alone, as gunicorn does, and so does the id that we already have. The supplementary groups go,
/// too: a process that becomes another user gets that user's, one that only becomes another group
/// has none, or those of its user (with_initgroups). Error: errno in code; the process may then be
/// half-way and must not go on.
Status drop_privileges(uid_t uid, gid_t gid, bool with_initgroups);

/// Sets whether `fd` is closed by the next exec. Any thread.
Status set_close_on_exec(int fd, bool is_closed);

struct Pipe {
    Fd read, write;
};
/// A close-on-exec, non-blocking pipe. Any thread.
Result<Pipe> make_pipe();

/// Gives the allocator's free memory back to the system. glibc by itself returns only the end of
/// its heap; what lies before a block in use stays. Takes some milliseconds for 100 MiB. Any
/// thread.
void release_free_memory();

/// The working directory: $PWD if that is the same directory (it keeps the symlinks an operator
/// typed, so a deployed "current" link is followed again after USR2), else what the kernel says.
/// Error: errno in code, e.g. the directory was removed.
Result<std::string> current_directory();

/// chdir(2). Error: "can't chdir to 'x'" with the reason, errno in code.
Status change_directory(const std::string& path);

/// Returns, when destroyed, to the working directory of its construction, unless stay() was called.
/// Main thread.
class ReturnTrip {
public:
    ReturnTrip();
    ~ReturnTrip();
    ReturnTrip(ReturnTrip&&) = delete;
    void stay() { here_.reset(); }

private:
    Fd here_;  ///< open, so that a removed or renamed directory is found, too
};

/// An environment for exec: "K=V" each.
using Environment = std::vector<std::string>;

/// The value of `name`; nullopt if it is not set.
std::optional<std::string> find_variable(const Environment& environment, std::string_view name);

[[nodiscard]] bool is_executable(const std::string& path);
/// Where the first program called `name` is in the directories of PATH; "" if there is none.
[[nodiscard]] std::string find_on_path(std::string_view path, const std::string& name);

/// Becomes the program at `path`. Returns only if that fails: errno_error.
Error execute(const std::string& path, std::vector<std::string> argv, Environment environment);

/// The text of a file, up to 64 KiB; nullopt if it cannot be read. Does not wait for a FIFO. Any
/// thread.
std::optional<std::string> read_small_file(const std::string& path);

/// How much of a process is in memory (RSS), in MiB; -1 if /proc does not tell. Any thread.
[[nodiscard]] int64_t resident_mib(pid_t pid);

/// How many processes of our cgroup (v2: and those below it) the out-of-memory killer has killed so
/// far: "oom_kill" in memory.events, or in cgroup v1's memory.oom_control; -1 where that cannot be
/// known. `root` is put before the absolute paths, for tests. Any thread.
[[nodiscard]] int64_t cgroup_oom_kills(const std::string& root = "");

/// Which deaths the out-of-memory killer explains. The kernel counts a kill before its victim is
/// gone, and others may be reaped in between: a kill waits here for its victim. One thread.
class OutOfMemoryKills {
public:
    /// How long a victim may take to die. A kill that found none by then was of another process in
    /// the cgroup, say one that the application started.
    static constexpr int64_t kVictimMs = 10'000;

    explicit OutOfMemoryKills(std::string root = "");
    /// Reads the counter; call it before deaths are judged.
    void look(int64_t now_ms);
    /// False where the kernel does not tell; then nothing is explained.
    [[nodiscard]] bool is_known() const { return count_ >= 0; }
    /// The counter as last read.
    [[nodiscard]] int64_t count() const { return count_; }
    /// Whether a kill waits for its victim; if so, this death uses it up.
    [[nodiscard]] bool explains_a_death();

private:
    std::string root_;
    int64_t count_;
    int64_t waiting_ = 0;
    int64_t risen_ms_ = 0;  // when the counter was last seen to rise
};

}  // namespace gcorn
