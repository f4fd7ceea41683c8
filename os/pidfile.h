// Pidfile: the file that names the running arbiter.
//
// Refuses to take over a file that names another living process; a stale, empty or non-numeric one
// is overwritten. Written under another name and renamed into place, so a reader never sees half a
// number. Owned by the arbiter, its thread only. Destroying the object leaves the file alone: a
// forked child must be able to forget it. Source: gunicorn: pidfile.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"

namespace gcorn {

class Pidfile {
public:
    /// Writes `pid` and a newline to `path`, mode 0644. Error, with nothing changed: "Already
    /// running on PID N (or pid file 'PATH' is stale)" (code EEXIST), "DIR doesn't exist. Can't
    /// create pidfile." (ENOENT), or what failed (errno).
    static Result<Pidfile> create(const std::string& path, pid_t pid);

    /// Moves the file to `path`, whatever is there: a promoted arbiter takes its predecessor's
    /// place. If our file has vanished, a new one is written. Error: errno in code, the old path
    /// stays ours.
    Status rename(const std::string& path);

    /// Removes the file if it still names our pid; somebody else's stays. Idempotent.
    void unlink();

    [[nodiscard]] const std::string& path() const { return path_; }

private:
    Pidfile(std::string path, pid_t pid) : path_(std::move(path)), pid_(pid) {}

    std::string path_;
    pid_t pid_ = 0;
};

/// The pid in a pid file; 0 if the file is missing, empty or holds anything but one positive
/// number.
[[nodiscard]] pid_t read_pidfile(const std::string& path);

}  // namespace gcorn
