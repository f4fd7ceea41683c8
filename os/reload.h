// The reloader's eyes: tells when a watched source file was saved.
//
// Two engines with one meaning. inotify (Linux) watches the directories of the files and says when to
// look; polling looks about once a second. What counts is always the same: a watched file, or a file
// matching a watched glob, differs from what was recorded (mtime in ns, inode, size), appeared, or
// stayed away. Compiled files (.pyc, .pyo, __pycache__) never count. Saves that follow each other
// closely are one change: it is reported after kQuietMs without an event, kBurstMs at the latest.
// Runs in the worker's event loop (leader's thread), no Python, nothing blocks: the caller polls fd()
// if there is one, and calls changed() when it is readable or next_check_ms() has passed.
// Deviation: gunicorn's inotify engine reports any event in those directories, ours only the files.
// Limit: re-pointing a symbolic link to a directory is not seen; links to files are (they are polled).
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace gcorn {

class Reloader {
public:
    static constexpr int kPollMs = 900;   ///< so that a save is seen within a second
    static constexpr int kQuietMs = 50;   ///< an editor's rename or delete-and-recreate fits in
    static constexpr int kBurstMs = 500;  ///< longest wait of a burst; also until a file counts as gone

    Reloader() = default;
    Reloader(const Reloader&) = delete;
    Reloader& operator=(const Reloader&) = delete;

    /// engine: "auto" (inotify where it works, else polling), "inotify" or "poll". Error: unknown
    /// engine, or inotify asked for and not available.
    Status start(std::string_view engine);

    /// Replaces the list. files: of imported modules ("x.pyc" means "x.py"). extra: paths and globs
    /// with *, ?, [] and ** (any depth). What is new in the list is recorded, not reported. Cheap when
    /// both lists are the same as before, so it may be called once a second.
    void watch(std::vector<std::string> files, std::vector<std::string> extra);

    /// Descriptor that polls readable when there is something to look at; -1 when polling.
    [[nodiscard]] int fd() const { return inotify_.get(); }

    /// Milliseconds until changed() wants to be called; -1: not before fd() is readable.
    [[nodiscard]] int next_check_ms() const;

    /// The path of a changed file, or "". After a report everything counts as seen.
    [[nodiscard]] std::string changed();

private:
    struct Signature {
        int64_t mtime_ns = 0;
        uint64_t inode = 0;
        int64_t size = -1;  ///< -1: the file does not exist
        bool operator==(const Signature&) const = default;
    };
    struct Watched {
        Signature seen;
        bool is_polled = false;  ///< no inotify watch covers it
    };

    static Signature look(const std::string& path);
    void add_file(const std::string& path);
    void expand_globs(bool report_new);
    bool watch_directory(const std::string& path);
    void drain_events();
    void suspect(const std::string& path);
    void poll_files();
    std::string judge();

    Fd inotify_;
    bool is_started_ = false;
    std::vector<std::string> files_, extra_;       ///< as given to watch()
    std::map<std::string, Watched> watched_;       ///< by path
    std::map<std::string, int> directories_;       ///< path → inotify watch, -1: could not be watched
    std::map<int, std::vector<std::string>> by_watch_;  ///< the other way; several names, one directory
    std::set<std::string> suspects_;               ///< paths with an event, not judged yet
    bool globs_are_stale_ = false;                 ///< a directory or an unknown file appeared
    int64_t first_event_ms_ = 0, last_event_ms_ = 0;
    int64_t next_poll_ms_ = 0;
    bool has_polled_ = false;                      ///< some file needs polling
};

}  // namespace gcorn
