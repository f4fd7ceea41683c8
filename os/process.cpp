#include "os/process.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/clock.h"
#include "base/text.h"

namespace gcorn {

// --- daemon ---

namespace {

constexpr int kStartPatienceMs = 10'000;

// Passes on what a daemon tells until it sends a zero and its status, and returns that; 1 if it
// ends before, 0 if it takes too long.
int hear_status(int pipe) {
    const int64_t until_ms = monotonic_ms() + kStartPatienceMs;
    for (;;) {
        pollfd waiting{pipe, POLLIN, 0};
        const int left_ms = static_cast<int>(std::max<int64_t>(until_ms - monotonic_ms(), 0));
        if (retry_on_eintr([&] { return ::poll(&waiting, 1, left_ms); }) <= 0) return 0;
        char text[PIPE_BUF + 2];  // a text and the end behind it
        const ssize_t size = ::read(pipe, text, sizeof text);
        if (size <= 0) return 1;
        const std::string_view said(text, static_cast<size_t>(size));
        const std::string_view told = said.substr(0, said.find('\0'));
        (void)retry_on_eintr([&] { return ::write(STDERR_FILENO, told.data(), told.size()); });
        if (told.size() + 1 < said.size()) return static_cast<unsigned char>(said[told.size() + 1]);
    }
}

Status redirect_to_null(int target) {
    Fd null(::open("/dev/null", O_RDWR));  // without O_CLOEXEC: it replaces a standard stream
    if (!null) return errno_error(errno, "open /dev/null");
    if (null.get() == target)
        (void)null.release();
    else if (::dup2(null.get(), target) < 0)
        return errno_error(errno, "dup2 /dev/null");
    return {};
}

}  // namespace

void fill_standard_streams() {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (::fcntl(fd, F_GETFD) >= 0) continue;
        static_cast<void>(redirect_to_null(fd).is_ok());  // occupy_standard_streams() is next
    }
}

void occupy_standard_streams() {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        // The lowest free number is this one: those below are taken.
        if (::fcntl(fd, F_GETFD) < 0)
            static_cast<void>(Fd(::socket(AF_UNIX, SOCK_STREAM, 0)).release());
    }
}

Status Starter::detach(bool enable_stdio_inheritance) {
    Result<Pipe> pipe = make_pipe();
    if (!pipe) return pipe.error();
    const pid_t pid = ::fork();
    if (pid < 0) return errno_error(errno, "fork");
    if (pid > 0) {  // _exit: buffers and atexit handlers belong to the process that stays
        pipe->write.reset();
        ::_exit(hear_status(pipe->read.get()));
    }
    if (::setsid() < 0) return errno_error(errno, "setsid");
    // After the second fork we do not lead the session, so no terminal can become ours any more.
    const pid_t leader = ::fork();
    if (leader < 0) return errno_error(errno, "fork");
    if (leader > 0) ::_exit(0);
    first_process_ = std::move(pipe->write);
    ::umask(022);
    if (Status status = redirect_to_null(STDIN_FILENO); !status) return status;
    for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
        if (enable_stdio_inheritance && ::isatty(fd) == 0) continue;
        if (Status status = redirect_to_null(fd); !status) return status;
    }
    return {};
}

void Starter::tell(std::string_view text) const {
    const int fd = first_process_ ? first_process_.get() : STDERR_FILENO;
    (void)retry_on_eintr([&] { return ::write(fd, text.data(), text.size()); });
}

int Starter::let_go(int status) {
    const char end[] = {'\0', static_cast<char>(status)};
    if (first_process_) tell({end, sizeof end});
    first_process_.reset();
    return status;
}

// --- title ---

#if defined(__linux__)

namespace {

// Linux shows the bytes between the first argument and the last environment string, up to the first
// zero (proc(5), /proc/pid/cmdline). They are the kernel's layout, hence process-wide; written
// once.
char* title_area = nullptr;
size_t title_area_size = 0;

}  // namespace

void title_init(int argc, char** argv) {
    if (argc < 1 || title_area != nullptr) return;
    char* const begin = argv[0];
    char* end = begin;
    // Take only what is contiguous: an embedding program may have moved some already.
    for (int i = 0; i < argc && argv[i] == end; ++i)
        end += std::strlen(argv[i]) + 1;
    std::vector<std::string> entries;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        if (*entry == end) end += std::strlen(*entry) + 1;
        entries.emplace_back(*entry);
    }
    // setenv() copies, and getenv()'s pointers into the copies stay valid as long as they must.
    if (::clearenv() != 0) return;
    for (const std::string& entry : entries) {
        const size_t equals = entry.find('=');
        if (equals == 0 || equals == std::string::npos) continue;  // no program could look it up
        const std::string name = entry.substr(0, equals);
        constexpr int kKeepFirst = 0;  // as getenv() does with duplicate names
        if (::setenv(name.c_str(), entry.c_str() + equals + 1, kKeepFirst) != 0)
            check_failed(__FILE__, __LINE__, "setenv: out of memory");
    }
    title_area = begin;
    title_area_size = static_cast<size_t>(end - begin);
}

void set_title(const std::string& title) {
    if (title_area_size < 2) return;
    // The last byte stays zero: otherwise the kernel believes that the title goes on after it.
    const size_t size = std::min(title.size(), title_area_size - 1);
    std::copy_n(title.data(), size, title_area);
    std::memset(title_area + size, 0, title_area_size - size);
}

#elif defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__) || defined(__DragonFly__)

void title_init(int, char**) {}
void set_title(const std::string& title) {
    ::setproctitle("-%s", title.c_str());
}

#else

// macOS and others have no supported way.
void title_init(int, char**) {}
void set_title(const std::string&) {}

#endif

// --- users ---

namespace {

/// An id by decimal number, or by the name of a record; none for "". (uid_t)-1 means "no change" to
/// the system calls, so nobody has this id.
template <typename Record, typename Id>
Result<std::optional<Id>> find_id(const char* kind, const std::string& name_or_id,
                                  Record* (*look_up)(const char*), Id Record::*id) {
    if (name_or_id.empty()) return std::optional<Id>();
    const std::optional<uint64_t> number = parse_decimal(name_or_id);
    if (number && *number < static_cast<Id>(-1)) return std::optional(static_cast<Id>(*number));
    errno = 0;
    if (const Record* record = look_up(name_or_id.c_str())) return std::optional(record->*id);
    const int error = errno;
    // POSIX lets a lookup that finds nothing leave errno at 0 or one of these.
    for (const int absent : {0, ENOENT, ESRCH, EBADF, EPERM})
        if (error == absent)
            return Error{0, "No such " + std::string(kind) + ": '" + name_or_id + "'"};
    return errno_error(error, "look up " + std::string(kind) + " '" + name_or_id + "'");
}

}  // namespace

Result<Owner> find_owner(const std::string& user, const std::string& group) {
    const auto uid = find_id("user", user, ::getpwnam, &passwd::pw_uid);
    if (!uid) return uid.error();
    const auto gid = find_id("group", group, ::getgrnam, &::group::gr_gid);
    if (!gid) return gid.error();
    return Owner{*uid, *gid};
}

namespace {

/// Replaces the supplementary groups by those of `user`, or by none if it is null. A process that
/// may not change them (EPERM) keeps them: it was started as that user already.
Status replace_groups(const passwd* user, gid_t gid) {
    const std::string name = user != nullptr ? user->pw_name : "";
    const int result = user != nullptr ? ::initgroups(name.c_str(), gid) : ::setgroups(0, nullptr);
    if (result == 0 || errno == EPERM) return {};
    return errno_error(errno, user != nullptr ? "initgroups " + name : "setgroups");
}

}  // namespace

Status drop_privileges(uid_t uid, gid_t gid, bool with_initgroups) {
    const bool changes_user = uid != 0 && uid != ::geteuid();
    if (changes_user || gid != 0) {
        // The groups first: changing them takes the privileges that setuid gives up. A user without
        // a passwd entry has no groups of its own to take.
        const passwd* record = changes_user || with_initgroups ? ::getpwuid(uid) : nullptr;
        if (Status status = replace_groups(record, gid != 0 ? gid : ::getegid()); !status)
            return status;
        if (gid != 0 && gid != ::getegid() && ::setgid(gid) < 0)
            return errno_error(errno,
                               "change to group " + std::to_string(gid) + " (setting group)");
    }
    if (changes_user) {
        if (::setuid(uid) < 0)
            return errno_error(errno, "change to user " + std::to_string(uid) + " (setting user)");
        // A set-user-ID binary would keep a way back in its saved id.
        if (::setuid(0) == 0) return Error{EPERM, "setting user: root could be regained"};
    }
    return {};
}

// --- descriptors ---

Status set_close_on_exec(int fd, bool is_closed) {
    const int flags = ::fcntl(fd, F_GETFD);
    if (flags < 0) return errno_error(errno, "fcntl fd " + std::to_string(fd));
    const int wanted = is_closed ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC;
    if (::fcntl(fd, F_SETFD, wanted) < 0)
        return errno_error(errno, "fcntl fd " + std::to_string(fd));
    return {};
}

Result<Pipe> make_pipe() {
    int fds[2];
#if defined(__APPLE__)
    if (::pipe(fds) < 0) return errno_error(errno, "pipe");
    Pipe pipe{Fd(fds[0]), Fd(fds[1])};
    for (const int fd : fds) {
        if (Status status = set_close_on_exec(fd, true); !status) return status.error();
        if (::fcntl(fd, F_SETFL, O_NONBLOCK) < 0) return errno_error(errno, "fcntl pipe");
    }
    return pipe;
#else
    if (::pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) return errno_error(errno, "pipe");
    return Pipe{Fd(fds[0]), Fd(fds[1])};
#endif
}

// --- working directory ---

void release_free_memory() {
#ifdef __GLIBC__
    ::malloc_trim(0);
#endif
}

Result<std::string> current_directory() {
    std::error_code error;
    const char* variable = std::getenv("PWD");
    if (variable != nullptr && *variable == '/' &&
        std::filesystem::equivalent(variable, ".", error))
        return std::string(variable);
    std::string directory = std::filesystem::current_path(error).string();
    if (error) return errno_error(error.value(), "current directory");
    return directory;
}

Status change_directory(const std::string& path) {
    if (::chdir(path.c_str()) < 0) return errno_error(errno, "can't chdir to '" + path + "'");
    return {};
}

ReturnTrip::ReturnTrip() : here_(::open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

ReturnTrip::~ReturnTrip() {
    // A directory that may be searched, but not read, could not be opened: then we stay here.
    if (here_) (void)!::fchdir(here_.get());
}

// --- exec ---

std::optional<std::string> find_variable(const Environment& environment, std::string_view name) {
    for (const std::string_view entry : environment)
        if (entry.substr(0, entry.find('=')) == name && entry.size() > name.size())
            return std::string(entry.substr(name.size() + 1));
    return std::nullopt;
}

bool is_executable(const std::string& path) {
    return ::access(path.c_str(), X_OK) == 0;
}

std::string find_on_path(std::string_view path, const std::string& name) {
    for (const std::string_view directory : split(path, ':')) {
        std::string candidate = std::string(directory) + "/" + name;
        if (!directory.empty() && is_executable(candidate)) return candidate;
    }
    return {};
}

Error execute(const std::string& path, std::vector<std::string> argv, Environment environment) {
    const auto pointers = [](std::vector<std::string>& strings) {
        std::vector<char*> list;
        list.reserve(strings.size() + 1);
        for (std::string& string : strings)
            list.push_back(string.data());
        list.push_back(nullptr);
        return list;
    };
    ::execve(path.c_str(), pointers(argv).data(), pointers(environment).data());
    return errno_error(errno, "execute " + path);
}

// --- small files ---

std::optional<std::string> read_small_file(const std::string& path) {
    const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd) return std::nullopt;
    std::string text;
    char chunk[4096];
    while (text.size() < 64 * 1024) {
        const auto count = retry_on_eintr([&] { return ::read(fd.get(), chunk, sizeof(chunk)); });
        if (count < 0) return std::nullopt;
        if (count == 0) break;
        text.append(chunk, static_cast<size_t>(count));
    }
    return text;
}

int64_t resident_mib(pid_t pid) {
    // proc(5): size, resident, … in pages.
    const std::string text =
        read_small_file("/proc/" + std::to_string(pid) + "/statm").value_or("");
    const auto numbers = split(text, ' ');
    const auto pages = numbers.size() > 1 ? parse_decimal(numbers[1]) : std::nullopt;
    return pages ? static_cast<int64_t>(*pages) * ::sysconf(_SC_PAGESIZE) >> 20 : -1;
}

int64_t cgroup_oom_kills(const std::string& root) {
    const std::string membership = read_small_file(root + "/proc/self/cgroup").value_or("");
    for (const std::string_view line : split(membership, '\n')) {
        // "ID:controllers:group"; the unified hierarchy has no controllers there.
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == line.npos || second == line.npos) continue;
        const std::string_view controllers = line.substr(first + 1, second - first - 1);
        if (!controllers.empty() && controllers != "memory") continue;
        const std::string group(line.substr(second + 1));
        const std::string file = controllers.empty()
                                     ? "/sys/fs/cgroup" + group + "/memory.events"
                                     : "/sys/fs/cgroup/memory" + group + "/memory.oom_control";
        const std::string events = read_small_file(root + file).value_or("");
        for (const std::string_view event : split(events, '\n')) {
            constexpr std::string_view kKey = "oom_kill ";
            if (event.substr(0, kKey.size()) != kKey) continue;
            const auto count = parse_decimal(event.substr(kKey.size()));
            return count ? static_cast<int64_t>(*count) : -1;
        }
    }
    return -1;
}

OutOfMemoryKills::OutOfMemoryKills(std::string root)
    : root_(std::move(root)), count_(cgroup_oom_kills(root_)) {}

void OutOfMemoryKills::look(int64_t now_ms) {
    const int64_t count = cgroup_oom_kills(root_);
    if (now_ms - risen_ms_ >= kVictimMs) waiting_ = 0;
    // Less than before, or unknown before: another cgroup, of whose past we know nothing.
    if (count_ >= 0 && count > count_) {
        waiting_ += count - count_;
        risen_ms_ = now_ms;
    }
    count_ = count;
}

bool OutOfMemoryKills::explains_a_death() {
    if (waiting_ == 0) return false;
    --waiting_;
    return true;
}

}  // namespace gcorn
