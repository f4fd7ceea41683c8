#include "os/pidfile.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/text.h"
#include "os/process.h"

namespace gcorn {

namespace {

Status write_pidfile(const std::string& path, pid_t pid) {
    std::string pattern = path + ".XXXXXX";
    const int raw = ::mkstemp(pattern.data());  // 0600 until it is complete
    if (raw < 0) return errno_error(errno, "create pid file '" + path + "'");
    Fd fd(raw);
    Status status;
    if (::dprintf(fd.get(), "%d\n", pid) < 0)
        status = errno_error(errno, "write pid file '" + path + "'");
    if (status && ::fchmod(fd.get(), 0644) < 0)
        status = errno_error(errno, "chmod pid file '" + path + "'");
    if (status && ::rename(pattern.c_str(), path.c_str()) < 0)
        status = errno_error(errno, "rename to pid file '" + path + "'");
    if (!status) ::unlink(pattern.c_str());  // best effort: the first failure is the one to report
    return status;
}

// EPERM means that it is alive and belongs to another user.
bool is_alive(pid_t pid) {
    return ::kill(pid, 0) == 0 || errno == EPERM;
}

}  // namespace

pid_t read_pidfile(const std::string& path) {
    const std::string text = read_small_file(path).value_or("");
    const std::optional<uint64_t> number = parse_decimal(trim(text, " \t\r\n"));
    const bool is_pid =
        number && *number <= INT32_MAX && text.size() < 64;  // a longer text is no pid
    return is_pid ? static_cast<pid_t>(*number) : 0;
}

Result<Pidfile> Pidfile::create(const std::string& path, pid_t pid) {
    std::string directory = std::filesystem::path(path).parent_path().string();
    if (directory.empty()) directory = ".";
    std::error_code error;
    if (!std::filesystem::is_directory(directory, error))
        return Error{
            ENOENT,
            directory +
                " doesn't exist. Can't create pidfile. (pidfile; allowed: a path in an existing "
                "directory)"};
    const pid_t other = read_pidfile(path);
    if (other != 0 && other != pid && is_alive(other)) {
        return Error{EEXIST, "Already running on PID " + std::to_string(other) + " (or pid file '" +
                                 path + "' is stale)"};
    }
    if (Status status = write_pidfile(path, pid); !status) return status.error();
    return Pidfile(path, pid);
}

Status Pidfile::rename(const std::string& path) {
    if (path == path_) return {};
    if (::rename(path_.c_str(), path.c_str()) < 0) {
        const int saved_errno = errno;
        // EXDEV: the setting names another file system now. ENOENT: somebody removed the file.
        if (saved_errno != ENOENT && saved_errno != EXDEV)
            return errno_error(saved_errno, "rename pid file to '" + path + "'");
        if (Status status = write_pidfile(path, pid_); !status) return status;
        unlink();
    }
    path_ = path;
    return {};
}

void Pidfile::unlink() {
    // Best effort: on the way out nobody is left to act on a failure.
    if (read_pidfile(path_) == pid_) ::unlink(path_.c_str());
}

}  // namespace gcorn
