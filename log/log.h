// The error log: levels, gunicorn's line format, sinks, reopening.
//
// "[2026-11-23 03:55:14 +0000] [PID] [LEVEL] message", one write(2) per record to an O_APPEND
// descriptor, so lines of many workers never interleave. No call blocks for long or fails: records
// lost to a full disk, a vanished directory or a stuck pipe are announced once on stderr, counted,
// and reported in one line when the sink works again. A log file that was unlinked is created again
// within a second. Made once in server.cpp, passed by reference. open() runs while no other thread
// logs; all else is for any thread, without locks: a sink keeps its descriptor number, and
// reopening replaces what the number stands for in one system call. The process must ignore SIGPIPE
// and SIGXFSZ. Limit: a record above PIPE_BUF can wait on a blocking pipe whose reader has stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace gcorn {

enum class Level : uint8_t { Debug, Info, Warning, Error, Critical };

/// "debug" … "critical" in any case; false if unknown.
[[nodiscard]] bool parse_level(std::string_view text, Level& level);

/// A Python traceback in a record's text starts with this, on a line of its own.
inline constexpr std::string_view kTracebackStart = "\nTraceback (most recent call last):";

struct LogOptions {
    std::string errorlog = "-";  ///< path, "-" = stderr, "" = none
    std::string accesslog;       ///< path, "-" = stdout, "" = off
    Level level = Level::Info;
    bool json = false;            ///< --error-logformat json
    bool capture_output = false;  ///< dup the error log over stdout and stderr (files only)
    bool is_for_output = false;   ///< errorlog takes only captured output, the observer the records
    bool syslog = false;
    bool access_to_syslog = true;  ///< !disable_redirect_access_to_syslog
    std::string syslog_addr = "udp://localhost:514";
    std::string syslog_prefix;  ///< of "gunicorn.PREFIX.error"; "" = process_name, '.' for ':'
    std::string process_name;
    std::string syslog_facility = "user";
    int64_t owner_uid = -1;  ///< log files are chowned to the workers' user
    int64_t owner_gid = -1;
};

/// Gets every record after the file sinks, including those below the level (it has its own idea of
/// levels); python/logging and statsd attach here. The core's only way to reach Python's logging:
/// called on the thread that logs, never with a lock held.
class LogObserver {
public:
    virtual ~LogObserver() = default;
    virtual void error_record(Level level, std::string_view message) = 0;
    /// After Logger::reopen(): reopens the observer's own files, too.
    virtual void reopened() {}
};

class Logger {
public:
    Logger();
    ~Logger();
    Logger(Logger&&) = delete;

    /// Opens what `options` name. On an error ("'/x/y' isn't writable [No such file or directory]")
    /// the sinks that were open before stay in use, so a reload can refuse a bad value. Paths are
    /// made absolute here. May wait for DNS and up to a second for a TCP syslog server; an absent
    /// syslog receiver is no error: it is tried again once a second.
    Status open(const LogOptions& options);

    /// Opens all files again by path (USR1, after a log rotation). A path that cannot be opened
    /// keeps its old descriptor and is reported once.
    void reopen();

    void debug(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void info(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void warning(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void error(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void critical(const char* format, ...) __attribute__((format(printf, 2, 3)));

    /// One record; further lines (a traceback) follow unprefixed in the same write.
    void write(Level level, std::string_view message);
    [[nodiscard]] bool enabled(Level level) const;

    /// Writes unformatted text to the error log (wsgi.errors): one or more whole lines in one
    /// write, nothing if it is empty; a missing last newline is added. With json, one object with
    /// the text as "message" and "stream":"wsgi.errors" instead of "level".
    void write_raw(std::string_view text);

    /// One finished access line without its newline. Cheap when no access log is open.
    void write_access(std::string_view line);
    [[nodiscard]] bool has_access() const;
    /// An access line may have to wait for its reader: it goes to a pipe, a terminal or syslog.
    [[nodiscard]] bool access_may_wait() const;

    /// Descriptor of the error log for faulthandler's dump; -1 if there is none.
    [[nodiscard]] int error_fd() const;

    void set_observer(LogObserver* observer);  ///< borrowed; null removes it
    /// Until the next open() records are only the observer's, and so is an access log: write_raw()
    /// and write_access() still write to the files, but has_access() is false.
    void hand_over(LogObserver& observer);
    [[nodiscard]] bool is_handed_over() const;
    void set_counter(LogObserver* counter);  ///< a second observer, meant for statsd

    /// Records that a sink could not take and that no later line has reported yet.
    [[nodiscard]] uint64_t lost_records() const;

    /// In a forked child: puts its own pid into the prefix.
    void after_fork();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace gcorn
