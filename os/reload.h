// The reloader's eyes: tells when a watched source file was saved.
//
// A look compares every watched file with what was recorded of it (mtime in ns, inode, size). A
// file that differs, has appeared, or stays away is a change; so is a new file that a watched glob
// matches. Compiled files (.pyc, .pyo, __pycache__) never count. Two engines say when to look:
// inotify (Linux), which watches the directories of the files, and the clock, about once a second.
// The clock also helps where inotify cannot: no watches left, a directory that does not exist,
// anything that a symbolic link leads to. Saves that follow each other closely are one change: the
// look waits for kQuietMs without an event, kBurstMs at the latest.
//
// Runs in the worker's event loop (leader's thread), no Python, nothing blocks: the caller polls
// fd() if there is one, and calls changed() when it is readable or next_check_ms() has passed.
// Deviation: gunicorn's inotify engine reports any event in those directories, ours only the files.
// "**" follows no symbolic links and, like all wildcards, no hidden names.
#pragma once

#include <cstdint>
#include <map>
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
    /// Longest wait in a burst; also until a file counts as gone.
    static constexpr int kBurstMs = 500;

    /// poll_ms: time between two looks when polling (tests shorten it).
    explicit Reloader(int poll_ms = kPollMs) : poll_ms_(poll_ms) {}
    Reloader(Reloader&&) = delete;

    /// engine: "auto" (inotify where it works, else polling), "inotify" or "poll". Error: inotify
    /// was asked for and is not available.
    Status start(std::string_view engine);

    /// Adds to what is watched. files: of imported modules ("x.pyc" means "x.py"). extra: paths and
    /// globs with *, ?, [] and ** (directories at any depth), matched again at every look. Relative
    /// paths are relative to the working directory at start(). What is new is recorded, not
    /// reported. Cheap when both lists are the same as before, so it may be called once a second.
    void watch(std::vector<std::string> files, std::vector<std::string> extra);

    /// Descriptor that polls readable when there is something to look at; -1 when polling.
    [[nodiscard]] int fd() const { return inotify_.get(); }

    /// Milliseconds until changed() has to be called; -1: not before fd() is readable.
    [[nodiscard]] int next_check_ms() const;

    /// The path of a changed file, or "". After a report everything counts as seen.
    [[nodiscard]] std::string changed();

    /// Why inotify cannot watch something that it should, in one sentence; "" = it can.
    [[nodiscard]] const std::string& trouble() const { return trouble_; }
    /// The globs that matched no file when watch() got them, joined by ", "; "" = there is none.
    [[nodiscard]] const std::string& unmatched() const { return unmatched_; }

private:
    struct Signature {
        int64_t mtime_ns = 0;
        uint64_t inode = 0;
        int64_t size = -1;  ///< -1: there is no such file
        bool operator==(const Signature&) const = default;
    };
    using Pattern =
        std::vector<std::string>;  ///< a glob's components; the first is "" (from the root)

    static Signature look(const std::string& path);
    [[nodiscard]] std::string absolute(std::string_view path) const;
    void add_file(const std::string& path, bool is_new);
    void expand_globs(bool is_first);
    void expand(const std::string& directory, const Pattern& pattern, size_t component);
    void watch_directory(const std::string& path);
    bool attach(const std::string& path, int& watch);
    void drain_events();
    void handle_event(int watch, uint32_t mask, std::string_view name);
    void note_event();
    void poll_files();
    std::string judge();
    [[nodiscard]] bool is_polling() const;
    [[nodiscard]] int64_t judgement_ms() const;

    const int poll_ms_;
    Fd inotify_;
    std::string trouble_, unmatched_;
    std::string start_directory_;
    std::vector<std::string> given_files_, given_extra_;  ///< as last given to watch()
    std::vector<Pattern> globs_;
    std::map<std::string, Signature> files_;  ///< by absolute path, as last seen
    std::map<std::string, int> directories_;  ///< inotify's number by absolute path; -1: polled
    bool has_links_ = false;                  ///< where a link leads may change without an event
    bool are_globs_stale_ = false;            ///< something appeared that one may match
    bool is_first_expansion_ = false;         ///< what it finds is recorded, not reported
    size_t listings_left_ = 0;                ///< of one expansion
    size_t matches_ = 0;                      ///< of one glob
    int64_t first_event_ms_ = 0, last_event_ms_ = 0;  ///< since the last look; 0: none
    int64_t next_poll_ms_ = 0;
};

}  // namespace gcorn
