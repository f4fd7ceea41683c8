#include "os/reload.h"

#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/inotify.h>
#endif

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>

#include "base/clock.h"
#include "base/text.h"

namespace gcorn {

namespace {

namespace fs = std::filesystem;

/// The most directories that one expansion of the globs lists, in case "**" is above a large tree.
constexpr size_t kListingsMax = 10'000;

bool is_compiled(std::string_view name) {
    return name.ends_with(".pyc") || name.ends_with(".pyo") || name == "__pycache__";
}

bool is_glob(std::string_view path) {
    return path.find_first_of("*?[") != std::string_view::npos;
}

bool matches_name(const std::string& pattern, const std::string& name) {
    return ::fnmatch(pattern.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

/// Components of an absolute path without empty ones: "/a//b" → "", "a", "b".
std::vector<std::string> components(std::string_view path) {
    std::vector<std::string> out{""};
    for (const std::string_view part : split(path, '/'))
        if (!part.empty()) out.emplace_back(part);
    return out;
}

struct Entry {
    std::string name;
    bool is_directory = false;
    bool is_link = false;
};

/// What a directory holds, without hidden and compiled names; nothing if it can't be read.
std::vector<Entry> list_directory(const std::string& path) {
    std::vector<Entry> out;
    std::error_code error, vanished;
    fs::directory_iterator item(path, error);
    for (; !error && item != fs::directory_iterator(); item.increment(error)) {
        std::string name = item->path().filename().string();
        if (name.starts_with('.') || is_compiled(name)) continue;
        out.push_back({std::move(name), item->is_directory(vanished), item->is_symlink(vanished)});
    }
    return out;
}

#ifdef __linux__
// Attributes too, because touch(1) may change nothing else. Reading never wakes us.
constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE |
                             IN_MOVED_TO | IN_MOVED_FROM | IN_MOVE_SELF | IN_ONLYDIR;
#endif

}  // namespace

Status Reloader::start(std::string_view engine) {
    char directory[PATH_MAX];
    start_directory_ = ::getcwd(directory, sizeof directory) ? directory : "/";
    if (engine == "poll") return {};
#ifdef __linux__
    inotify_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (inotify_) return {};
    const Error error = errno_error(errno, "reloader: inotify_init1");
    if (engine == "inotify") return error;
    trouble_ = error.message;
#else
    if (engine == "inotify") return Error{0, "reload_engine 'inotify' needs Linux; use 'poll'"};
#endif
    return {};
}

std::string Reloader::absolute(std::string_view path) const {
    return fs::path(start_directory_) / path;
}

Reloader::Signature Reloader::look(const std::string& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) < 0) return {};
#ifdef __APPLE__
    const struct timespec& time = info.st_mtimespec;
#else
    const struct timespec& time = info.st_mtim;
#endif
    return {int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec, info.st_ino, info.st_size};
}

void Reloader::watch(std::vector<std::string> files, std::vector<std::string> extra) {
    if (files != given_files_) {
        for (std::string path : files) {
            if (path.ends_with(".pyc") || path.ends_with(".pyo")) path.pop_back();
            if (!path.empty()) add_file(absolute(path), false);
        }
        given_files_ = std::move(files);
    }
    if (extra != given_extra_) {
        for (const std::string& path : extra) {
            if (is_glob(path))
                globs_.push_back(components(absolute(path)));
            else if (!path.empty())
                add_file(absolute(path), false);
        }
        given_extra_ = std::move(extra);
        expand_globs(true);
    }
}

/// is_new: it has to be reported, so nothing of it counts as seen.
void Reloader::add_file(const std::string& path, bool is_new) {
    ++matches_;
    const size_t slash = path.rfind('/');
    watch_directory(slash == 0 ? "/" : path.substr(0, slash));
    if (!files_.try_emplace(path, is_new ? Signature() : look(path)).second) return;
    struct stat info {};
    if (::lstat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) has_links_ = true;
}

void Reloader::watch_directory(const std::string& path) {
    const auto [place, is_new] = directories_.try_emplace(path, -1);
    if (is_new) attach(path, place->second);
}

/// True if the directory has an inotify watch that it did not have before.
bool Reloader::attach([[maybe_unused]] const std::string& path, [[maybe_unused]] int& watch) {
#ifdef __linux__
    char real[PATH_MAX];
    // Through a link, events would come from where it led when it was watched.
    if (!inotify_ || ::realpath(path.c_str(), real) == nullptr || path != real) return false;
    watch = ::inotify_add_watch(inotify_.get(), path.c_str(), kEvents);
    if (watch >= 0) return true;
    if (errno != ENOENT && errno != ENOTDIR && trouble_.empty())
        trouble_ = errno == ENOSPC
                       ? "reloader: the limit fs.inotify.max_user_watches (sysctl) is reached"
                       : errno_error(errno, "reloader: inotify_add_watch " + path).message;
#endif
    return false;
}

// ------------------------------------------------------------------------------------------- globs

/// is_first: files found are only recorded; otherwise they have to be reported.
void Reloader::expand_globs(bool is_first) {
    is_first_expansion_ = is_first;
    are_globs_stale_ = false;
    listings_left_ = kListingsMax;
    if (is_first) unmatched_.clear();
    for (const Pattern& pattern : globs_) {
        matches_ = 0;
        expand("/", pattern, 1);
        if (is_first && matches_ == 0)
            unmatched_ += (unmatched_.empty() ? "/" : ", /") + join(pattern, "/");
    }
}

/// Finds the files below `directory` that the pattern's components from `component` on match.
void Reloader::expand(const std::string& directory, const Pattern& pattern, size_t component) {
    const std::string& part = pattern[component];
    const bool is_last = component + 1 == pattern.size();
    if (!is_glob(part)) {
        const bool is_below_glob = std::any_of(
            pattern.begin(), pattern.begin() + static_cast<ptrdiff_t>(component), is_glob);
        if (is_below_glob && look(directory).size < 0) return;
        if (is_below_glob) watch_directory(directory);  // the name may appear in it later
        const std::string path = fs::path(directory) / part;
        if (!is_last)
            expand(path, pattern, component + 1);
        else if (look(path).size >= 0)
            add_file(path, !is_first_expansion_);
        return;
    }
    if (listings_left_ == 0) return;
    --listings_left_;
    watch_directory(directory);  // before it is listed, so that nothing can appear unseen
    const bool is_any_depth = part == "**";
    if (is_any_depth && !is_last) expand(directory, pattern, component + 1);
    for (const Entry& entry : list_directory(directory)) {
        const std::string path = fs::path(directory) / entry.name;
        if (is_any_depth && entry.is_directory) {
            if (!entry.is_link) expand(path, pattern, component);
        } else if (entry.is_directory != is_last && matches_name(part, entry.name)) {
            if (is_last)
                add_file(path, !is_first_expansion_);
            else
                expand(path, pattern, component + 1);
        }
    }
}

// ------------------------------------------------------------------------------------------ events

#ifdef __linux__
void Reloader::drain_events() {
    alignas(struct inotify_event) char buffer[16384];
    for (;;) {
        const ssize_t size =
            retry_on_eintr([&] { return ::read(inotify_.get(), buffer, sizeof buffer); });
        if (size <= 0) return;
        for (ssize_t at = 0; at < size;) {
            struct inotify_event event {};
            std::memcpy(&event, buffer + at, sizeof event);
            const char* name = buffer + at + sizeof event;  // padded with NULs, none if empty
            handle_event(event.wd, event.mask, event.len ? std::string_view(name) : "");
            at += static_cast<ssize_t>(sizeof event + event.len);
        }
    }
}

void Reloader::handle_event(int watch, uint32_t mask, std::string_view name) {
    if (is_compiled(name)) return;
    // What appeared may match a glob, and so may what an overflow lost.
    if (mask & (IN_CREATE | IN_MOVED_TO | IN_Q_OVERFLOW)) are_globs_stale_ = true;
    if (mask & (IN_IGNORED | IN_MOVE_SELF)) {
        // The directory is gone (deleted, unmounted) or has another name: its path is polled until
        // there is one again. If it was only renamed, the old watch still exists.
        static_cast<void>(::inotify_rm_watch(inotify_.get(), watch));
        for (auto& [path, number] : directories_)
            if (number == watch) number = -1;
        next_poll_ms_ = monotonic_ms() + kQuietMs;
    }
    note_event();
}
#else
void Reloader::drain_events() {}
#endif

void Reloader::note_event() {
    last_event_ms_ = monotonic_ms();
    if (first_event_ms_ == 0) first_event_ms_ = last_event_ms_;
}

// ----------------------------------------------------------------------------------------- looking

bool Reloader::is_polling() const {
    return !inotify_ || has_links_ ||
           std::ranges::any_of(directories_, [](const auto& item) { return item.second < 0; });
}

void Reloader::poll_files() {
    // First the watch, then the look at the files, so that no change falls in between.
    if (!inotify_) are_globs_stale_ = true;
    for (auto& [path, watch] : directories_)
        if (watch < 0 && attach(path, watch)) are_globs_stale_ = true;
    const auto differs = [](const auto& file) { return look(file.first) != file.second; };
    if (are_globs_stale_) expand_globs(false);
    if (std::ranges::any_of(files_, differs)) note_event();
}

/// When the files have to be looked at after events.
int64_t Reloader::judgement_ms() const {
    return std::min(last_event_ms_ + kQuietMs, first_event_ms_ + kBurstMs);
}

/// Looks at all files; the path of one that changed, or "".
std::string Reloader::judge() {
    if (are_globs_stale_) expand_globs(false);
    const bool is_patient = monotonic_ms() < first_event_ms_ + kBurstMs;
    std::map<std::string, Signature> changes;
    for (const auto& [path, seen] : files_) {
        const Signature now = look(path);
        if (now == seen) continue;
        if (now.size < 0 && is_patient) {  // an editor may be about to put it back
            note_event();
            return "";
        }
        changes[path] = now;
    }
    first_event_ms_ = 0;
    for (const auto& [path, now] : changes)
        files_[path] = now;
    return changes.empty() ? "" : changes.begin()->first;
}

int Reloader::next_check_ms() const {
    int64_t due_ms = first_event_ms_ != 0 ? judgement_ms() : INT64_MAX;
    if (is_polling()) due_ms = std::min(due_ms, next_poll_ms_);
    if (due_ms == INT64_MAX) return -1;
    return static_cast<int>(std::clamp<int64_t>(due_ms - monotonic_ms(), 0, poll_ms_));
}

std::string Reloader::changed() {
    if (inotify_) drain_events();
    const int64_t now_ms = monotonic_ms();
    if (now_ms >= next_poll_ms_ && is_polling()) {
        poll_files();
        next_poll_ms_ = now_ms + poll_ms_;
    }
    return first_event_ms_ != 0 && monotonic_ms() >= judgement_ms() ? judge() : "";
}

}  // namespace gcorn
