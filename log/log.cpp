#include "log/log.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <utility>

#include "base/clock.h"
#include "base/fd.h"
#include "base/text.h"
#include "log/sink.h"
#include "log/syslog.h"

namespace gcorn {

namespace {

// How long one record waits for a pipe or terminal: while nothing is read, and in total.
constexpr int kStuckPipeWaitMs = 200;
constexpr int kSlowPipeWaitMs = 1000;

struct LevelName {
    const char* text;     ///< in records
    int syslog_severity;  ///< RFC 3164 §4.1.1
};
constexpr LevelName kLevels[] = {
    {"DEBUG", 7}, {"INFO", 6}, {"WARNING", 4}, {"ERROR", 3}, {"CRITICAL", 2}};

const LevelName& level_name(Level level) {
    return kLevels[static_cast<size_t>(level)];
}

/// The records that one sink could not take, and whether the operator knows of them.
class Losses {
public:
    /// Counts one; true for the first since the sink last worked.
    bool add(int reason) {
        reason_.store(reason, std::memory_order_relaxed);
        count_.fetch_add(1, std::memory_order_relaxed);
        return !is_failing_.exchange(true);
    }
    /// The sink works: returns the number to report, once; usually 0.
    uint64_t take() {
        if (!is_failing() || !is_failing_.exchange(false)) return 0;
        return count_.exchange(0);
    }
    void forget() {
        is_failing_ = false;
        count_ = 0;
    }
    [[nodiscard]] bool is_failing() const { return is_failing_.load(std::memory_order_relaxed); }
    [[nodiscard]] uint64_t count() const { return count_.load(std::memory_order_relaxed); }
    [[nodiscard]] const char* reason() const { return std::strerror(reason_.load()); }

private:
    std::atomic<uint64_t> count_{0};
    std::atomic<bool> is_failing_{false};
    std::atomic<int> reason_{0};
};

/// Opens a log file for appending and gives it to the workers' user.
Result<Fd> open_log(const std::string& path, const LogOptions& options) {
    // O_NONBLOCK: a FIFO without a reader must not stop the start. Regular files ignore it.
    Fd fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
                 0666));
    struct stat info {};
    if (!fd || ::fstat(fd.get(), &info) < 0) {
        const int saved_errno = errno;
        // /dev/stderr under journald, which open(2) cannot open again by its name.
        const char* const hint =
            saved_errno == ENXIO
                ? ": a socket, or a FIFO without a reader; use - for the stream itself"
                : "";
        return Error{saved_errno,
                     "'" + path + "' isn't writable [" + std::strerror(saved_errno) + "]" + hint};
    }
    const bool is_owners = (options.owner_uid < 0 || info.st_uid == options.owner_uid) &&
                           (options.owner_gid < 0 || info.st_gid == options.owner_gid);
    if (is_owners || !S_ISREG(info.st_mode)) return fd;
    // Only root can give files away; for others the file is writable, which is what counts.
    const bool is_given = ::fchown(fd.get(), static_cast<uid_t>(options.owner_uid),
                                   static_cast<gid_t>(options.owner_gid)) == 0;
    if (!is_given && errno != EPERM) return errno_error(errno, "chown '" + path + "'");
    return fd;
}

/// A log file, or one of the standard streams.
class FileSink {
public:
    std::string path;                         ///< absolute; "-" = standard stream, "" = none
    int fd = -1;                              ///< the same number as long as the path is a file
    std::atomic<bool> is_reopen_told{false};  ///< the operator knows that reopening failed
    Losses losses;

    void use(const std::string& new_path, Fd file, int standard_fd);
    int write(std::string_view record, const LogOptions& options);
    int reopen(const LogOptions& options);
    /// True if records reach nobody: the file was unlinked and its path can't be opened.
    [[nodiscard]] bool is_vanished() const { return vanished_.load() != 0; }
    [[nodiscard]] bool may_wait() const { return fd >= 0 && !is_regular_; }

private:
    bool has_name() const;
    int write_all(std::string_view record);
    ssize_t write_some(std::string_view bytes) const;

    Fd owned_;                 ///< closed for a standard stream
    bool is_regular_ = false;  ///< only other kinds can be full for a while (EAGAIN)
    bool is_socket_ = false;
    std::atomic<bool> is_torn_{false};  ///< the last write stopped inside a line
    std::atomic<int> vanished_{0};      ///< errno of the failure to replace an unlinked file
    std::atomic<int64_t> link_checked_s_{0};
};

void FileSink::use(const std::string& new_path, Fd file, int standard_fd) {
    if (path != new_path) losses.forget();  // they were told, under the old name
    path = new_path;
    if (!file || !owned_ || !replace_descriptor(file, owned_.get())) owned_ = std::move(file);
    fd = owned_ ? owned_.get() : path == "-" ? standard_fd : -1;
    struct stat info {};
    const bool is_known = fd >= 0 && ::fstat(fd, &info) == 0;
    is_regular_ = is_known && S_ISREG(info.st_mode);
    is_socket_ = is_known && S_ISSOCK(info.st_mode);
    vanished_ = 0;
    is_reopen_told = false;
}

/// Writes one record; 0, or the errno with which it (or its tail) was lost.
int FileSink::write(std::string_view record, const LogOptions& options) {
    const bool is_checked = owned_ && is_regular_ && is_first_this_second(link_checked_s_);
    if (is_checked && !has_name()) reopen(options);
    if (const int reason = vanished_.load(std::memory_order_relaxed)) return reason;
    if (!is_torn_.load(std::memory_order_relaxed)) return write_all(record);
    std::string on_a_fresh_line = "\n";
    const int reason = write_all(on_a_fresh_line += record);
    if (reason == 0) is_torn_ = false;
    return reason;
}

/// A descriptor that poll() calls writable has room for PIPE_BUF bytes; for more, a blocking one
/// would wait as long as nobody reads. A socket (journald) can be told not to block, and an empty
/// pipe takes a record in one piece.
ssize_t FileSink::write_some(std::string_view bytes) const {
    if (is_regular_) return ::write(fd, bytes.data(), bytes.size());
    if (is_socket_) return ::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    size_t room = PIPE_BUF;
#ifdef F_GETPIPE_SZ
    int queued = 0;
    const int capacity = bytes.size() > room ? ::fcntl(fd, F_GETPIPE_SZ) : -1;
    if (capacity > PIPE_BUF && ::ioctl(fd, FIONREAD, &queued) == 0 && queued == 0)
        room = static_cast<size_t>(capacity);
#endif
    return ::write(fd, bytes.data(), std::min(bytes.size(), room));
}

int FileSink::write_all(std::string_view record) {
    // A sink that is known to be stuck is not waited for.
    const int64_t patience_ms = losses.is_failing() ? 0 : kSlowPipeWaitMs;
    int64_t deadline_ms = 0;
    for (size_t done = 0; done < record.size();) {
        const bool has_room = is_regular_ || is_writable(fd, 0);
        const ssize_t sent = has_room ? write_some(record.substr(done)) : 0;
        const int reason = !has_room ? EAGAIN : sent == 0 ? ENOSPC : errno;
        if (sent > 0) {
            done += static_cast<size_t>(sent);
            continue;
        }
        if (reason == EINTR) continue;
        if (reason == EAGAIN) {
            const int64_t now_ms = monotonic_ms();
            if (deadline_ms == 0) deadline_ms = now_ms + patience_ms;
            const int64_t left_ms = std::min<int64_t>(deadline_ms - now_ms, kStuckPipeWaitMs);
            if (left_ms > 0 && is_writable(fd, static_cast<int>(left_ms))) continue;
        }
        if (done > 0) is_torn_ = true;
        return reason;
    }
    return 0;
}

/// Opens the path again behind the same descriptor number; 0 or errno.
int FileSink::reopen(const LogOptions& options) {
    if (!owned_) return 0;
    const Result<Fd> fresh = open_log(path, options);
    int failure = fresh ? 0 : fresh.error().code;
    if (fresh && !replace_descriptor(*fresh, fd)) failure = errno;
    vanished_ = has_name() ? 0 : failure;
    return failure;
}

bool FileSink::has_name() const {
    struct stat info {};
    return ::fstat(fd, &info) < 0 || info.st_nlink > 0;
}

std::string format_text(const char* format, va_list arguments) {
    char* text = nullptr;
    const int size = ::vasprintf(&text, format, arguments);
    if (size < 0) return {};
    std::string out(text, static_cast<size_t>(size));
    std::free(text);
    return out;
}

/// Opens one file sink's descriptor; a closed one for "-" and "".
Result<Fd> open_path(std::string& path, const LogOptions& options) {
    if (path.empty() || path == "-") return Fd();
    std::error_code error;
    const std::string absolute = std::filesystem::absolute(path, error).string();
    if (error) return errno_error(error.value(), "working directory of log file '" + path + "'");
    path = absolute;
    return open_log(path, options);
}

}  // namespace

bool parse_level(std::string_view text, Level& level) {
    for (size_t i = 0; i < std::size(kLevels); ++i) {
        if (!iequals(text, kLevels[i].text)) continue;
        level = static_cast<Level>(i);
        return true;
    }
    return false;
}

struct Logger::Impl {
    LogOptions options;
    FileSink error, access;
    std::unique_ptr<SyslogSink> syslog;
    Losses syslog_losses;
    Fd saved_stdout, saved_stderr;  ///< the real ones while capture_output has replaced them
    std::atomic<int> pid{::getpid()};
    std::atomic<LogObserver*> observer{nullptr}, counter{nullptr};
    bool is_handed_over = false;

    std::string record(Level level, std::string_view message) const;
    std::string json_record(std::string_view kind, std::string_view value,
                            std::string_view message) const;
    void put(FileSink& sink, std::string_view text);
    void put_syslog(std::string_view kind, Level level, std::string_view message);
    void note(Losses& losses, int reason, const std::string& name, const FileSink* file);
    void tell_stderr(std::string_view text) const;
    void tell_failure(const std::string& name, int reason, bool in_error_log);
    void capture();
    void reopen(FileSink& sink);
};

std::string Logger::Impl::record(Level level, std::string_view message) const {
    while (message.ends_with('\n'))
        message.remove_suffix(1);
    if (options.json) return json_record("level", level_name(level).text, message);
    std::string out;
    out.reserve(message.size() + 64);
    ((out += '[') += error_log_time(std::time(nullptr))) += "] [";
    ((out += std::to_string(pid.load())) += "] [") += level_name(level).text;
    return ((out += "] ") += message) += '\n';
}

/// {"time":"2026-11-23T03:55:14.123+00:00","pid":7,"level":"ERROR","message":"…","traceback":"…"}
std::string Logger::Impl::json_record(std::string_view kind, std::string_view value,
                                      std::string_view message) const {
    struct timespec now {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const std::string& text = error_log_time(now.tv_sec);  // "2026-11-23 03:55:14 +0000"
    char time[64];
    std::snprintf(time, sizeof time, "%.10sT%.8s.%03d%.3s:%.2s", text.c_str(), text.c_str() + 11,
                  static_cast<int>(now.tv_nsec / 1'000'000), text.c_str() + 20, text.c_str() + 23);
    const size_t traceback = message.find(kTracebackStart);
    std::string out =
        std::string("{\"time\":\"") + time + "\",\"pid\":" + std::to_string(pid.load()) + ",";
    ((out += json_quote(kind)) += ":") += json_quote(value);
    (out += ",\"message\":") += json_quote(message.substr(0, traceback));
    if (traceback != std::string_view::npos)
        (out += ",\"traceback\":") += json_quote(message.substr(traceback + 1));
    return out += "}\n";
}

void Logger::Impl::put(FileSink& sink, std::string_view text) {
    if (sink.fd < 0) return;
    note(sink.losses, sink.write(text, options), sink.path, &sink);
}

void Logger::Impl::put_syslog(std::string_view kind, Level level, std::string_view message) {
    const int severity = level_name(level).syslog_severity;
    note(syslog_losses, syslog->write(kind, severity, pid, message), options.syslog_addr, nullptr);
}

/// Notes what became of one record: 0, or the errno with which it was lost. file: null for syslog.
void Logger::Impl::note(Losses& losses, int reason, const std::string& name, const FileSink* file) {
    if (reason != 0) {
        const bool is_stderr = file != nullptr && file->fd == STDERR_FILENO;
        if (losses.add(reason) && !is_stderr) tell_failure(name, reason, file != &error);
    } else if (const uint64_t count = losses.take()) {
        put(error,
            record(Level::Warning, std::to_string(count) + " log records were lost: '" + name +
                                       "' could not be written (" + losses.reason() + ")"));
    }
}

/// The last resort; never waits.
void Logger::Impl::tell_stderr(std::string_view text) const {
    const int fd = saved_stderr ? saved_stderr.get() : STDERR_FILENO;
    if (is_writable(fd, 0) && ::write(fd, text.data(), text.size()) < 0) return;
}

/// in_error_log: write it there, too, because another sink fails. A daemon's stderr reaches nobody.
void Logger::Impl::tell_failure(const std::string& name, int reason, bool in_error_log) {
    const std::string text =
        record(Level::Warning, "Log records are lost: '" + name + "' can't be written (" +
                                   std::strerror(reason) + ")");
    if (in_error_log && error.fd >= 0 && error.fd != STDERR_FILENO) put(error, text);
    tell_stderr(text);
}

/// capture_output: stdout and stderr become the error log's file, or are restored.
void Logger::Impl::capture() {
    const bool is_wanted = options.capture_output && error.fd > STDERR_FILENO;
    if (!is_wanted && !saved_stderr) return;
    std::fflush(stdout);
    if (is_wanted && !saved_stderr) {
        saved_stdout.reset(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
        saved_stderr.reset(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    }
    // Not close-on-exec: programs that the application starts write to the log, too.
    const auto point = [](int from, int to) {
        while (from >= 0 && ::dup2(from, to) < 0 && (errno == EINTR || errno == EBUSY)) {
        }
    };
    point(is_wanted ? error.fd : saved_stdout.get(), STDOUT_FILENO);
    point(is_wanted ? error.fd : saved_stderr.get(), STDERR_FILENO);
    if (is_wanted) return;
    saved_stdout.reset();
    saved_stderr.reset();
}

void Logger::Impl::reopen(FileSink& sink) {
    const int failure = sink.reopen(options);
    if (failure == 0) sink.is_reopen_told = false;
    // A vanished file is reported with the first record that is lost.
    if (failure == 0 || sink.is_vanished() || sink.is_reopen_told.exchange(true)) return;
    const std::string text =
        record(Level::Warning, "Can't reopen '" + sink.path + "' (" + std::strerror(failure) +
                                   "): its old file stays in use");
    &sink == &error ? tell_stderr(text) : put(error, text);
}

Logger::Logger() : impl_(std::make_unique<Impl>()) {
    impl_->error.use("-", Fd(), STDERR_FILENO);
}

Logger::~Logger() = default;

Status Logger::open(const LogOptions& options) {
    LogOptions next = options;
    Result<Fd> error = open_path(next.errorlog, next);
    if (!error) return Error{error.error().code, error.message() + " (errorlog)"};
    Result<Fd> access = open_path(next.accesslog, next);
    if (!access) return Error{access.error().code, access.message() + " (accesslog)"};
    std::unique_ptr<SyslogSink> syslog;
    if (next.syslog) {
        Result<std::unique_ptr<SyslogSink>> opened = SyslogSink::open(next);
        if (!opened) return opened.error();
        syslog = std::move(*opened);
    }
    Impl& d = *impl_;
    d.options = next;
    d.is_handed_over = false;
    d.error.use(next.errorlog, std::move(*error), STDERR_FILENO);
    d.access.use(next.accesslog, std::move(*access), STDOUT_FILENO);
    d.syslog = std::move(syslog);
    d.syslog_losses.forget();
    d.capture();
    last_words_fd = d.error.fd > STDERR_FILENO ? d.error.fd : -1;
    return {};
}

void Logger::reopen() {
    impl_->reopen(impl_->error);
    impl_->reopen(impl_->access);
    impl_->capture();
    if (LogObserver* observer = impl_->observer.load()) observer->reopened();
}

bool Logger::enabled(Level level) const {
    return level >= impl_->options.level;
}

void Logger::write(Level level, std::string_view message) {
    Impl& d = *impl_;
    if (enabled(level)) {
        if (!d.options.is_for_output) d.put(d.error, d.record(level, message));
        if (d.syslog) d.put_syslog("error", level, message);
    }
    if (LogObserver* counter = d.counter.load()) counter->error_record(level, message);
    if (LogObserver* observer = d.observer.load()) observer->error_record(level, message);
}

void Logger::write_raw(std::string_view text) {
    if (text.empty()) return;
    Impl& d = *impl_;
    std::string out;
    if (d.options.json) {
        while (text.ends_with('\n'))
            text.remove_suffix(1);
        out = d.json_record("stream", "wsgi.errors", text);
    } else {
        out = text;
        if (!text.ends_with('\n')) out += '\n';
    }
    d.error.fd < 0 ? d.tell_stderr(out) : d.put(d.error, out);
}

void Logger::write_access(std::string_view line) {
    Impl& d = *impl_;
    if (d.access.fd >= 0) {
        char short_line[2048];
        if (line.size() < sizeof short_line) {
            std::memcpy(short_line, line.data(), line.size());
            short_line[line.size()] = '\n';
            d.put(d.access, {short_line, line.size() + 1});
        } else {
            d.put(d.access, std::string(line) += '\n');
        }
    }
    if (d.syslog && d.options.access_to_syslog) d.put_syslog("access", Level::Info, line);
}

bool Logger::has_access() const {
    if (impl_->access.fd >= 0) return !impl_->is_handed_over;
    return impl_->syslog && impl_->options.access_to_syslog;
}

bool Logger::access_may_wait() const {
    return impl_->access.may_wait() || (impl_->syslog && impl_->options.access_to_syslog);
}

int Logger::error_fd() const {
    return impl_->error.fd;
}

void Logger::set_observer(LogObserver* observer) {
    impl_->observer = observer;
}

void Logger::hand_over(LogObserver& observer) {
    impl_->is_handed_over = impl_->options.is_for_output = true;
    set_observer(&observer);
}

bool Logger::is_handed_over() const {
    return impl_->is_handed_over;
}

void Logger::set_counter(LogObserver* counter) {
    impl_->counter = counter;
}

uint64_t Logger::lost_records() const {
    const Impl& d = *impl_;
    return d.error.losses.count() + d.access.losses.count() + d.syslog_losses.count();
}

void Logger::after_fork() {
    Impl& d = *impl_;
    d.pid = ::getpid();
    d.error.losses.forget();  // the arbiter reports its own
    d.access.losses.forget();
    d.syslog_losses.forget();
}

// The five levels: formatted only if somebody wants the record.
#define GCORN_LOG_LEVEL(name, level)                                                      \
    void Logger::name(const char* format, ...) {                                          \
        if (!enabled(level) && !impl_->counter.load() && !impl_->observer.load()) return; \
        va_list arguments;                                                                \
        va_start(arguments, format);                                                      \
        write(level, format_text(format, arguments));                                     \
        va_end(arguments);                                                                \
    }
GCORN_LOG_LEVEL(debug, Level::Debug)
GCORN_LOG_LEVEL(info, Level::Info)
GCORN_LOG_LEVEL(warning, Level::Warning)
GCORN_LOG_LEVEL(error, Level::Error)
GCORN_LOG_LEVEL(critical, Level::Critical)
#undef GCORN_LOG_LEVEL

}  // namespace gcorn
