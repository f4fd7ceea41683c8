// The error log: levels, gunicorn's line format, sinks, reopening.
//
// "[2026-11-23 03:55:14 +0000] [PID] [LEVEL] message", one write(2) a record to an O_APPEND
// descriptor, so lines of many workers never interleave. Any thread; no call blocks for long or
// fails: a full disk is told once on stderr and counted. Made once in server.cpp, passed by reference.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace gcorn {

enum class Level : uint8_t { Debug, Info, Warning, Error, Critical };

/// "debug" … "critical" in any case ("warn" and "fatal" too); false if unknown.
[[nodiscard]] bool parse_level(std::string_view text, Level& level);

struct LogOptions {
    std::string errorlog = "-";   ///< path, "-" = stderr
    std::string accesslog;        ///< path, "-" = stdout, "" = off
    Level level = Level::Info;
    bool json = false;            ///< --error-logformat json
    bool capture_output = false;  ///< dup the error log over stdout and stderr (files only)
    bool syslog = false;
    bool access_to_syslog = true; ///< !disable_redirect_access_to_syslog
    std::string syslog_addr = "udp://localhost:514";
    std::string syslog_prefix;    ///< "" = the process name
    std::string syslog_facility = "user";
    int64_t owner_uid = -1;       ///< log files are chowned to the workers' user
    int64_t owner_gid = -1;
};

/// Gets every record after the file sinks; python/logging and statsd hang on here. The core's only
/// way to reach Python's logging: called on the thread that logs, never with a lock held.
class LogObserver {
public:
    virtual ~LogObserver() = default;
    virtual void error_record(Level level, std::string_view message) = 0;
};

class Logger {
public:
    Logger();
    ~Logger();
    Logger(const Logger&) = delete;
    Logger& operator=(const Logger&) = delete;

    /// Opens what `options` name. On an error (the sentence names path and reason) the sinks that
    /// were open before stay in use, so a reload can refuse a bad value.
    Status open(const LogOptions& options);

    /// Opens all files again by path (USR1, after a log rotation). A path that cannot be opened keeps
    /// its old descriptor and is told once.
    void reopen();

    void debug(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void info(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void warning(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void error(const char* format, ...) __attribute__((format(printf, 2, 3)));
    void critical(const char* format, ...) __attribute__((format(printf, 2, 3)));

    /// One record; further lines (a traceback) follow unprefixed in the same write.
    void write(Level level, std::string_view message);
    [[nodiscard]] bool enabled(Level level) const;

    /// Unformatted text into the error log (wsgi.errors): whole lines, one write each.
    void write_raw(std::string_view text);

    /// One finished access line without its newline. Cheap when no access log is open.
    void write_access(std::string_view line);
    [[nodiscard]] bool has_access() const;

    /// Descriptor of the error log for faulthandler's dump; -1 if there is none.
    [[nodiscard]] int error_fd() const;

    void set_observer(LogObserver* observer);  ///< borrowed; null removes it

    /// A child of fork: its own pid in the prefix.
    void after_fork();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace gcorn
