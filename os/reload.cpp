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

/// Directories that one expansion of the globs lists at most: "**" above a large tree.
constexpr size_t kListingsMax = 10'000;

bool is_compiled(std::string_view name) {
    return name.ends_with(".pyc") || name.ends_with(".pyo") || name == "__pycache__";
}

bool is_glob(std::string_view path) {
    return path.find_first_of("*?[") != std::string_view::npos;
}

std::string join(const std::string& directory, std::string_view name) {
    std::string out = directory;
    if (!out.ends_with('/')) out += '/';
    return out += name;
}

/// "/a/b.py" → "/a", "b.py".
std::pair<std::string, std::string> split_path(const std::string& path) {
    const size_t slash = path.rfind('/');
    return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

bool matches_name(const std::string& pattern, const std::string& name) {
    return ::fnmatch(pattern.c_str(), name.c_str(), FNM_PERIOD | FNM_NOESCAPE) == 0;
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
    std::filesystem::directory_iterator item(path, error);
    for (; !error && item != std::filesystem::directory_iterator(); item.increment(error)) {
        std::string name = item->path().filename().string();
        if (name.starts_with('.') || is_compiled(name)) continue;
        out.push_back({std::move(name), item->is_directory(vanished), item->is_symlink(vanished)});
    }
    return out;
}

#ifdef __linux__
// Attributes too, because touch(1) may change nothing else. Reading never wakes us.
constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE |
                             IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE_SELF | IN_MOVE_SELF |
                             IN_ONLYDIR;
#endif

}  // namespace

Status Reloader::start(std::string_view engine) {
    char directory[PATH_MAX];
    start_directory_ = ::getcwd(directory, sizeof directory) ? directory : "/";
    if (engine == "poll") return {};
#ifdef __linux__
    inotify_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!inotify_ && engine == "inotify") return errno_error(errno, "reloader: inotify_init1");
#else
    if (engine == "inotify") return Error{0, "reload_engine 'inotify' needs Linux; use 'poll'"};
#endif
    return {};
}

std::string Reloader::absolute(std::string_view path) const {
    return path.starts_with('/') ? std::string(path) : join(start_directory_, path);
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
            if (!path.empty()) add_file(absolute(path));
        }
        given_files_ = std::move(files);
    }
    if (extra != given_extra_) {
        globs_.clear();
        for (const std::string& path : extra) {
            if (is_glob(path))
                globs_.push_back(components(absolute(path)));
            else if (!path.empty())
                add_file(absolute(path));
        }
        given_extra_ = std::move(extra);
        is_first_expansion_ = true;
        expand_globs();
        is_first_expansion_ = false;
    }
}

void Reloader::add_file(const std::string& path) {
    const auto [directory, name] = split_path(path);
    watch_directory(directory);
    if (!directories_[directory].files.try_emplace(name, look(path)).second) return;
    struct stat info {};
    if (::lstat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) always_polled_.insert(path);
}

/// Knows the directory from now on. One that lost its inotify watch gets a new one in poll_files
/// only, which then looks at all its files.
void Reloader::watch_directory(const std::string& path) {
    const auto [place, is_new] = directories_.try_emplace(path);
    if (is_new) attach(path, place->second);
}

/// True if the directory has an inotify watch that it did not have before.
bool Reloader::attach([[maybe_unused]] const std::string& path,
                      [[maybe_unused]] Directory& directory) {
#ifdef __linux__
    if (!inotify_) return false;
    const int watch = ::inotify_add_watch(inotify_.get(), path.c_str(), kEvents);
    if (std::exchange(directory.watch, watch) == watch || watch < 0) return false;
    by_watch_[watch].push_back(path);
    char real[PATH_MAX];
    directory.is_linked = ::realpath(path.c_str(), real) != nullptr && path != real;
    return true;
#else
    return false;
#endif
}

// ------------------------------------------------------------------------------------------- globs

void Reloader::expand_globs() {
    are_globs_stale_ = false;
    listings_left_ = kListingsMax;
    for (const Pattern& pattern : globs_)
        expand("/", pattern, 1);
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
        if (!is_last)
            expand(join(directory, part), pattern, component + 1);
        else if (look(join(directory, part)).size >= 0)
            found(directory, part);
        return;
    }
    if (listings_left_ == 0) return;
    --listings_left_;
    watch_directory(directory);  // before it is listed, so that nothing can appear unseen
    const bool is_any_depth = part == "**";
    if (is_any_depth && !is_last) expand(directory, pattern, component + 1);
    for (const Entry& entry : list_directory(directory)) {
        const std::string path = join(directory, entry.name);
        if (is_any_depth && entry.is_directory) {
            if (!entry.is_link) expand(path, pattern, component);
        } else if (entry.is_directory != is_last &&
                   (is_any_depth || matches_name(part, entry.name))) {
            if (is_last)
                found(directory, entry.name);
            else if (!is_any_depth)
                expand(path, pattern, component + 1);
        }
    }
}

/// A glob matches this file, which exists.
void Reloader::found(const std::string& directory, const std::string& name) {
    if (is_compiled(name)) return;
    const std::string path = join(directory, name);
    if (is_first_expansion_)
        add_file(path);
    else if (!directories_[directory].files.contains(name))
        suspect(path);
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
    if (mask & IN_Q_OVERFLOW) {
        // Anything may have happened.
        are_globs_stale_ = !globs_.empty();
        for (const auto& [path, directory] : directories_)
            for (const auto& [file, seen] : directory.files)
                suspect(join(path, file));
        return;
    }
    if (mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) return unwatch(watch);
    const auto known = by_watch_.find(watch);
    if (known == by_watch_.end() || is_compiled(name)) return;
    // What appeared may be a file of a glob, or a directory of some; one that went away tells
    // itself.
    const bool has_appeared = (mask & (IN_CREATE | IN_MOVED_TO)) != 0;
    if (has_appeared && !globs_.empty()) are_globs_stale_ = true;
    for (const std::string& directory : known->second) {
        const std::string path = join(directory, name);
        const bool is_known = directories_[directory].files.contains(std::string(name));
        if (is_known || suspects_.contains(path)) suspect(path);
    }
}

/// The directory behind a watch is gone or has another name: from now on the path is polled, until
/// a directory is there again.
void Reloader::unwatch(int watch) {
    const auto known = by_watch_.find(watch);
    if (known == by_watch_.end()) return;
    for (const std::string& path : known->second)
        directories_[path].watch = -1;
    by_watch_.erase(known);
    // Of a directory that was only renamed; the watch of a deleted one is gone already (EINVAL).
    static_cast<void>(::inotify_rm_watch(inotify_.get(), watch));
    next_poll_ms_ = monotonic_ms() + kQuietMs;
}
#else
void Reloader::drain_events() {}
#endif

void Reloader::suspect(const std::string& path) {
    last_event_ms_ = monotonic_ms();
    if (suspects_.empty()) first_event_ms_ = last_event_ms_;
    suspects_.insert(path);
}

// ----------------------------------------------------------------------------------------- looking

bool Reloader::is_polling() const {
    return !inotify_ || !always_polled_.empty() ||
           std::any_of(directories_.begin(), directories_.end(), [](const auto& item) {
               return item.second.watch < 0 || item.second.is_linked;
           });
}

void Reloader::poll_files() {
    std::vector<std::string> polled(always_polled_.begin(), always_polled_.end());
    for (auto& [path, directory] : directories_) {
        if (directory.watch >= 0 && !directory.is_linked) continue;
        // First the watch, then the look at the files, so that no change falls in between. A link
        // that still leads where it did gives the same watch, which tells of every change itself.
        const bool is_new = attach(path, directory);
        if (is_new) are_globs_stale_ = !globs_.empty();
        if (!is_new && directory.watch >= 0) continue;
        for (const auto& [name, seen] : directory.files)
            polled.push_back(join(path, name));
    }
    for (const std::string& path : polled) {
        const auto [directory, name] = split_path(path);
        if (!suspects_.contains(path) && look(path) != directories_[directory].files[name])
            suspect(path);
    }
    if (!inotify_) expand_globs();
}

/// When the suspects are judged.
int64_t Reloader::judgement_ms() const {
    return std::min(last_event_ms_ + kQuietMs, first_event_ms_ + kBurstMs);
}

/// Compares the suspects with what was seen last; the path of one that really changed, or "".
std::string Reloader::judge() {
    const int64_t now_ms = monotonic_ms();
    const bool is_patient = now_ms < first_event_ms_ + kBurstMs;
    std::set<std::string> missing;
    std::string report;
    for (const std::string& path : suspects_) {
        const auto [directory, name] = split_path(path);
        const Signature now = look(path);
        auto& files = directories_[directory].files;
        const auto known = files.find(name);
        const bool is_known = known != files.end();
        if (is_known ? now == known->second : now.size < 0) continue;
        if (now.size < 0 && is_patient) {
            missing.insert(path);  // an editor may be about to put it back
            continue;
        }
        if (is_known)
            known->second = now;
        else
            add_file(path);
        if (report.empty()) report = path;
    }
    suspects_ = std::move(missing);
    last_event_ms_ = now_ms;
    return report;
}

int Reloader::next_check_ms() const {
    int64_t due_ms = INT64_MAX;
    if (!suspects_.empty()) due_ms = judgement_ms();
    if (are_globs_stale_) due_ms = 0;
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
    if (are_globs_stale_) expand_globs();
    if (suspects_.empty() || monotonic_ms() < judgement_ms()) return "";
    return judge();
}

}  // namespace gcorn
