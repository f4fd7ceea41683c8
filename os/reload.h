// The reloader's eyes: tells when a watched source file was saved.
//
// Two engines with one meaning. inotify (Linux) watches the directories of the files and says when
// to look; polling looks about once a second. What counts is always the same: a watched file, or a
// file matching a watched glob, differs from what was recorded (mtime in ns, inode, size),
// appeared, or stayed away. Compiled files (.pyc, .pyo, __pycache__) never count. Saves that follow
// each other closely are one change: it is reported after kQuietMs without an event, kBurstMs at
// the latest. Where inotify can't help (no watches left, a directory that does not exist, a file
// that is a symbolic link) the same files are polled. Runs in the worker's event loop (leader's
// thread), no Python, nothing blocks: the caller polls fd() if there is one, and calls changed()
// when it is readable or next_check_ms() has passed. Deviation: gunicorn's inotify engine reports
// any event in those directories, ours only the files. Limit: re-pointing a symbolic link to a
// directory is not seen. "**" follows no such links and, like all wildcards, no hidden names.
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
    static constexpr int kPollMs = 900;  ///< so that a save is seen within a second
    static constexpr int kQuietMs = 50;  ///< an editor's rename or delete-and-recreate fits in
    static constexpr int kBurstMs =
        500;  ///< longest wait of a burst; also until a file counts as gone

    /// poll_ms: time between two looks when polling (tests shorten it).
    explicit Reloader(int poll_ms = kPollMs) : poll_ms_(poll_ms) {}
    Reloader(Reloader&&) = delete;

    /// engine: "auto" (inotify where it works, else polling), "inotify" or "poll". Error: inotify
    /// was asked for and is not available.
    Status start(std::string_view engine);

    /// Adds to what is watched. files: of imported modules ("x.pyc" means "x.py"). extra: paths and
    /// globs with *, ?, [] and ** (directories at any depth), looked up afresh all the time.
    /// Relative paths start where the process was at start(). What is new is recorded, not
    /// reported. Cheap when both lists are the same as before, so it may be called once a second.
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
        int64_t size = -1;  ///< -1: there is no such file
        bool operator==(const Signature&) const = default;
    };
    struct Directory {
        int watch = -1;                          ///< inotify's number; -1: polled
        bool is_linked = false;                  ///< a symbolic link leads there: may change
        std::map<std::string, Signature> files;  ///< by name, as last seen
    };
    using Pattern =
        std::vector<std::string>;  ///< a glob's components; the first is "" (from the root)

    static Signature look(const std::string& path);
    [[nodiscard]] std::string absolute(std::string_view path) const;
    void add_file(const std::string& path);
    void expand_globs();
    void expand(const std::string& directory, const Pattern& pattern, size_t component);
    void found(const std::string& directory, const std::string& name);
    void watch_directory(const std::string& path);
    bool attach(const std::string& path, Directory& directory);
    void unwatch(int watch);
    void drain_events();
    void handle_event(int watch, uint32_t mask, std::string_view name);
    void suspect(const std::string& path);
    void poll_files();
    std::string judge();
    [[nodiscard]] bool is_polling() const;
    [[nodiscard]] int64_t judgement_ms() const;

    const int poll_ms_;
    Fd inotify_;
    std::string start_directory_;
    std::vector<std::string> given_files_, given_extra_;  ///< as last given to watch()
    std::vector<Pattern> globs_;
    std::map<std::string, Directory> directories_;      ///< by absolute path
    std::map<int, std::vector<std::string>> by_watch_;  ///< paths of a watch: several with links
    std::set<std::string> always_polled_;  ///< symbolic links, directories given as files
    std::set<std::string> suspects_;       ///< paths with an event, to be judged
    bool are_globs_stale_ = false;         ///< something appeared that one may match
    bool is_first_expansion_ = false;      ///< what it finds is recorded, not suspected
    size_t listings_left_ = 0;             ///< of one expansion
    int64_t first_event_ms_ = 0, last_event_ms_ = 0;  ///< of the suspects
    int64_t next_poll_ms_ = 0;
};

}  // namespace gcorn
