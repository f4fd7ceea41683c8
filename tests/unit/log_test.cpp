#include "log/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "log/syslog.h"

namespace gcorn {
namespace {

namespace fs = std::filesystem;

constexpr int kDeadlineMs = 10'000;

std::string read_file(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

size_t count(std::string_view text, std::string_view part) {
    size_t n = 0;
    for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1))
        ++n;
    return n;
}

/// Repeats `attempt` until it is true; false at the deadline.
template <typename Attempt>
bool soon(Attempt attempt) {
    const int64_t deadline_ms = monotonic_ms() + kDeadlineMs;
    while (!attempt()) {
        if (monotonic_ms() > deadline_ms) return false;
        ::usleep(2000);
    }
    return true;
}

/// Everything that can be read from a descriptor without waiting.
std::string drain(int fd) {
    std::string out;
    char bytes[65536];
    struct pollfd item {};
    item.fd = fd;
    item.events = POLLIN;
    while (::poll(&item, 1, 0) == 1) {
        const ssize_t size = ::read(fd, bytes, sizeof bytes);
        if (size <= 0) break;
        out.append(bytes, static_cast<size_t>(size));
    }
    return out;
}

/// Replaces one of the descriptors 1 and 2 by a socket or pipe while the object lives.
class Redirected {
public:
    /// Each write becomes one message, so that a test sees the writes.
    static Redirected to_messages(int number) {
        int ends[2];
        GCORN_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
        return Redirected(number, ends[0], ends[1]);
    }
    static Redirected to_pipe(int number) {
        int ends[2];
        GCORN_CHECK(::pipe2(ends, O_CLOEXEC) == 0);
        return Redirected(number, ends[0], ends[1]);
    }
    ~Redirected() {
        if (saved_) ::dup2(saved_.get(), number_);
    }
    Redirected(Redirected&&) = default;

    [[nodiscard]] std::string text() const { return drain(read_end_.get()); }
    [[nodiscard]] int read_end() const { return read_end_.get(); }
    void close_reader() { read_end_.reset(); }
    /// The next single message, "" if there is none.
    [[nodiscard]] std::string message() const {
        char bytes[1 << 20];
        const ssize_t size = ::recv(read_end_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
        return size < 0 ? "" : std::string(bytes, static_cast<size_t>(size));
    }

private:
    Redirected(int number, int read_end, int write_end) : number_(number), read_end_(read_end) {
        saved_.reset(::fcntl(number, F_DUPFD_CLOEXEC, 3));
        GCORN_CHECK(::dup2(write_end, number) == number);
        ::close(write_end);
    }
    int number_;
    Fd saved_, read_end_;
};

/// RLIMIT_FSIZE as a disk that is full at `bytes`.
class FullDisk {
public:
    explicit FullDisk(rlim_t bytes) {
        GCORN_CHECK(::getrlimit(RLIMIT_FSIZE, &saved_) == 0);
        const struct rlimit small { bytes, saved_.rlim_max };
        GCORN_CHECK(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    }
    ~FullDisk() { ::setrlimit(RLIMIT_FSIZE, &saved_); }

private:
    struct rlimit saved_ {};
};

class LogTest : public ::testing::Test {
protected:
    void SetUp() override {
        ::signal(SIGPIPE, SIG_IGN);
        ::signal(SIGXFSZ, SIG_IGN);
        char path[] = "/tmp/gcorn-log-XXXXXX";
        ASSERT_NE(::mkdtemp(path), nullptr);
        directory_ = path;
        options_.errorlog = error_path();
        options_.process_name = "shop:app";
    }
    void TearDown() override { fs::remove_all(directory_); }

    [[nodiscard]] std::string error_path() const { return directory_ / "error.log"; }
    [[nodiscard]] std::string access_path() const { return directory_ / "access.log"; }
    [[nodiscard]] std::string error_text() const { return read_file(error_path()); }
    void open() {
        const Status status = logger_.open(options_);
        ASSERT_TRUE(status.is_ok()) << (status ? "" : status.message());
    }
    /// "[…] [PID] [LEVEL] " of a record written within one second; runs `write` until that holds.
    template <typename Write>
    std::string prefix_of(const char* level, Write write) {
        // time(2) may be some milliseconds behind clock_gettime(2): the second must be the same in
        // both.
        const auto now = [] {
            return std::pair(std::time(nullptr), std::chrono::system_clock::to_time_t(
                                                     std::chrono::system_clock::now()));
        };
        for (;;) {
            const std::time_t before = std::time(nullptr);
            EXPECT_EQ(::truncate(error_path().c_str(), 0), 0);
            write();
            if (now() == std::pair(before, before))
                return "[" + error_log_time(before) + "] [" + std::to_string(::getpid()) + "] [" +
                       level + "] ";
        }
    }

    fs::path directory_;
    LogOptions options_;
    Logger logger_;
};

// ------------------------------------------------------------------------------------------ form

TEST(Log, KnowsTheLevelsInAnyCase) {
    const std::pair<const char*, Level> cases[] = {
        {"debug", Level::Debug}, {"INFO", Level::Info},         {"Warning", Level::Warning},
        {"error", Level::Error}, {"CRITICAL", Level::Critical},
    };
    for (const auto& [text, expected] : cases) {
        Level level{};
        EXPECT_TRUE(parse_level(text, level)) << text;
        EXPECT_EQ(level, expected) << text;
    }
    Level level = Level::Error;
    for (const char* text : {"", "notice", "infos", "inf", "10", "warn"})
        EXPECT_FALSE(parse_level(text, level)) << text;
    EXPECT_EQ(level, Level::Error);
}

TEST_F(LogTest, WritesGunicornsLineFormat) {
    open();
    const std::string prefix =
        prefix_of("INFO", [&] { logger_.info("Booting worker with pid: %d", 42); });
    EXPECT_EQ(error_text(), prefix + "Booting worker with pid: 42\n");
}

TEST_F(LogTest, NamesEachLevel) {
    options_.level = Level::Debug;
    open();
    logger_.debug("a");
    logger_.info("b");
    logger_.warning("c");
    logger_.error("d");
    logger_.critical("e");
    const std::string text = error_text();
    for (const char* end :
         {"[DEBUG] a\n", "[INFO] b\n", "[WARNING] c\n", "[ERROR] d\n", "[CRITICAL] e\n"})
        EXPECT_EQ(count(text, end), 1u) << end;
}

TEST_F(LogTest, LeavesOutWhatIsBelowTheLevel) {
    options_.level = Level::Warning;
    open();
    logger_.debug("a");
    logger_.info("b");
    EXPECT_EQ(error_text(), "");
    EXPECT_FALSE(logger_.enabled(Level::Info));
    EXPECT_TRUE(logger_.enabled(Level::Warning));
    logger_.warning("c");
    logger_.critical("d");
    EXPECT_EQ(count(error_text(), "\n"), 2u);
}

TEST_F(LogTest, WritesLongFormattedRecordsWhole) {
    // The inner buffer has 1024 bytes: at, below and above it.
    open();
    for (const size_t size : {1022u, 1023u, 1024u, 100'000u}) {
        const std::string text(size, 'x');
        logger_.info("%s", text.c_str());
        EXPECT_EQ(count(error_text(), "[INFO] " + text + "\n"), 1u) << size;
    }
}

TEST_F(LogTest, WritesEachRecordWithOneWrite) {
    // Also a traceback of 60 lines and a record above PIPE_BUF.
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    options_.errorlog = "-";
    open();
    std::string traceback = "Exception in worker process\nTraceback (most recent call last):\n";
    for (int i = 0; i < 60; ++i)
        traceback += "  File \"app.py\", line " + std::to_string(i) + "\n";
    const std::string large(20'000, 'y');
    logger_.write(Level::Error, traceback);
    logger_.write(Level::Error, large);
    logger_.write_raw("from wsgi.errors");
    const std::string first = standard_error.message(), second = standard_error.message();
    EXPECT_TRUE(first.ends_with("] [ERROR] " + traceback)) << first;
    EXPECT_EQ(count(first, "[ERROR]"), 1u) << "further lines have no prefix";
    EXPECT_TRUE(second.ends_with("] [ERROR] " + large + "\n"));
    EXPECT_EQ(standard_error.message(), "from wsgi.errors\n");
    EXPECT_EQ(standard_error.message(), "");
}

TEST_F(LogTest, EndsRecordsWithOneNewline) {
    open();
    logger_.write(Level::Info, "a\n\n");
    logger_.write(Level::Info, "");
    logger_.write_raw("");
    logger_.write_raw("b\nc\n");
    EXPECT_EQ(count(error_text(), "] a\n"), 1u);
    EXPECT_TRUE(error_text().ends_with("[INFO] \nb\nc\n")) << error_text();
}

TEST_F(LogTest, WritesJsonOnePerLine) {
    options_.json = true;
    open();
    const auto write = [&] {
        logger_.write(
            Level::Error,
            "Error \"handling\"\nrequest /\nTraceback (most recent call last):\n  x\nE: 1\n");
    };
    const std::string prefix = prefix_of("x", write);
    const std::string text = error_text(), pid = std::to_string(::getpid());
    EXPECT_EQ(count(text, "\n"), 1u);
    EXPECT_EQ(text.substr(0, 20), "{\"time\":\"" + prefix.substr(1, 10) + "T");
    // After it the time of day, milliseconds and the zone: HH:MM:SS.mmm+HH:MM
    EXPECT_EQ(text.substr(20, 8), prefix.substr(12, 8));
    EXPECT_EQ(text[28], '.');
    EXPECT_EQ(text.substr(32, 6), prefix.substr(21, 3) + ":" + prefix.substr(24, 2));
    EXPECT_EQ(text.substr(38), "\",\"pid\":" + pid +
                                   ",\"level\":\"ERROR\",\"message\":\"Error \\\"handling\\\"\\n"
                                   "request /\",\"traceback\":\"Traceback (most recent call last):"
                                   "\\n  x\\nE: 1\"}\n");
    logger_.info("plain");
    EXPECT_TRUE(error_text().ends_with("\"level\":\"INFO\",\"message\":\"plain\"}\n"));
    logger_.write_raw("print\n");
    EXPECT_TRUE(error_text().ends_with("\"stream\":\"wsgi.errors\",\"message\":\"print\"}\n"));
}

TEST_F(LogTest, UsesTheChildsPidAfterFork) {
    open();
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        logger_.after_fork();
        logger_.info("child");
        ::_exit(0);
    }
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    EXPECT_NE(error_text().find("[" + std::to_string(child) + "] [INFO] child\n"),
              std::string::npos);
}

class Records : public LogObserver {
public:
    std::vector<std::string> seen;
    int reopened_count = 0;
    void error_record(Level level, std::string_view message) override {
        seen.push_back(std::to_string(static_cast<int>(level)) + std::string(message));
    }
    void reopened() override { ++reopened_count; }
};

TEST_F(LogTest, HandsRecordsAndAccessLogOverUntilItIsOpenedAgain) {
    Records observer;
    options_.accesslog = directory_ / "access.log";
    open();
    logger_.hand_over(observer);
    EXPECT_TRUE(logger_.is_handed_over());
    EXPECT_FALSE(logger_.has_access());
    logger_.error("a");
    logger_.write_raw("raw");
    logger_.write_access("GET /");
    EXPECT_EQ(observer.seen, (std::vector<std::string>{"3a"}));
    EXPECT_EQ(error_text(), "raw\n");
    EXPECT_EQ(read_file(directory_ / "access.log"), "GET /\n");
    logger_.set_observer(nullptr);
    open();
    EXPECT_FALSE(logger_.is_handed_over());
    EXPECT_TRUE(logger_.has_access());
    logger_.error("b");
    EXPECT_EQ(count(error_text(), "b\n"), 1u);
}

TEST_F(LogTest, TellsItsObserversAlsoWhatIsBelowTheLevel) {
    Records observer, counter;
    open();
    logger_.set_observer(&observer);
    logger_.set_counter(&counter);
    logger_.debug("a%d", 1);
    logger_.error("b");
    logger_.reopen();
    logger_.set_observer(nullptr);
    logger_.set_counter(nullptr);
    logger_.error("c");
    EXPECT_EQ(observer.seen, (std::vector<std::string>{"0a1", "3b"}));
    EXPECT_EQ(counter.seen, observer.seen);
    EXPECT_EQ(observer.reopened_count, 1);
    EXPECT_EQ(count(error_text(), "a1"), 0u);
}

// ----------------------------------------------------------------------------------------- sinks

TEST_F(LogTest, WritesToStderrBeforeItIsOpened) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    Logger fresh;
    fresh.info("early");
    EXPECT_TRUE(standard_error.message().ends_with("[INFO] early\n"));
    EXPECT_EQ(fresh.error_fd(), STDERR_FILENO);
    EXPECT_FALSE(fresh.has_access());
    fresh.write_access("nowhere");
}

TEST_F(LogTest, WritesAccessLinesToStdoutForADash) {
    Redirected standard_output = Redirected::to_messages(STDOUT_FILENO);
    options_.accesslog = "-";
    open();
    EXPECT_TRUE(logger_.has_access());
    logger_.write_access("line");
    const std::string large(5000, 'x');
    logger_.write_access(large);
    EXPECT_EQ(standard_output.message(), "line\n");
    EXPECT_EQ(standard_output.message(), large + "\n");
}

TEST_F(LogTest, AppendsToFilesThatExist) {
    std::ofstream(access_path()) << "old\n";
    options_.accesslog = access_path();
    open();
    // Around the size of the inner buffer, 2048 bytes with the newline.
    std::string expected = "old\n";
    for (const size_t size : {1u, 2046u, 2047u, 2048u, 2049u}) {
        logger_.write_access(std::string(size, 'x'));
        expected += std::string(size, 'x') + "\n";
    }
    EXPECT_EQ(read_file(access_path()), expected);
}

TEST_F(LogTest, GoesOnBeyond2GiB) {
    constexpr uintmax_t kSize = uintmax_t{3} << 30;
    std::ofstream(access_path()).close();
    std::filesystem::resize_file(access_path(), kSize);  // a hole: it takes no disk
    options_.accesslog = access_path();
    open();
    logger_.write_access("line");
    EXPECT_EQ(std::filesystem::file_size(access_path()), kSize + 5);
}

TEST_F(LogTest, RefusesAPathInAMissingDirectoryAndKeepsTheOldSinks) {
    options_.accesslog = access_path();
    open();
    LogOptions bad = options_;
    bad.errorlog = directory_ / "other.log";
    bad.accesslog = directory_ / "missing/access.log";
    const Status status = logger_.open(bad);
    ASSERT_FALSE(status.is_ok());
    EXPECT_EQ(status.message(),
              "'" + bad.accesslog + "' isn't writable [No such file or directory] (accesslog)");
    logger_.info("still here");
    logger_.write_access("still here");
    EXPECT_EQ(count(error_text(), "still here\n"), 1u);
    EXPECT_EQ(read_file(access_path()), "still here\n");
}

TEST_F(LogTest, RefusesADirectoryAndAFifoWithoutReader) {
    options_.errorlog = directory_;
    EXPECT_FALSE(logger_.open(options_).is_ok());
    options_.errorlog = directory_ / "fifo";
    ASSERT_EQ(::mkfifo(options_.errorlog.c_str(), 0600), 0);
    const Status status = logger_.open(options_);  // and does not wait for a reader
    ASSERT_FALSE(status.is_ok());
    EXPECT_EQ(status.message(),
              "'" + options_.errorlog +
                  "' isn't writable [No such device or address]: a socket, or a "
                  "FIFO without a reader; use - for the stream itself (errorlog)");
}

TEST_F(LogTest, FollowsARelativePathThroughAChangeOfDirectory) {
    const fs::path before = fs::current_path();
    fs::current_path(directory_);
    options_.errorlog = "relative.log";
    open();
    fs::current_path(before);
    logger_.info("a");
    fs::rename(directory_ / "relative.log", directory_ / "relative.log.1");
    logger_.reopen();
    logger_.info("b");
    EXPECT_EQ(count(read_file(directory_ / "relative.log.1"), "a\n"), 1u);
    EXPECT_EQ(count(read_file(directory_ / "relative.log"), "b\n"), 1u);
}

TEST_F(LogTest, KeepsTheNumberOfTheErrorDescriptor) {
    // faulthandler is given the number only once.
    open();
    const int number = logger_.error_fd();
    fs::rename(error_path(), directory_ / "error.log.1");
    logger_.reopen();
    EXPECT_EQ(logger_.error_fd(), number);
    options_.errorlog = directory_ / "other.log";
    open();
    EXPECT_EQ(logger_.error_fd(), number);
    EXPECT_TRUE(::fcntl(number, F_GETFD) & FD_CLOEXEC);
    logger_.info("x");
    EXPECT_EQ(count(read_file(directory_ / "other.log"), "x\n"), 1u);
}

TEST_F(LogTest, GivesItsFilesToTheWorkersUser) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    options_.owner_uid = 12345;
    options_.owner_gid = 12346;
    open();
    struct stat info {};
    ASSERT_EQ(::stat(error_path().c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, 12345u);
    EXPECT_EQ(info.st_gid, 12346u);
    fs::remove(error_path());
    logger_.reopen();
    ASSERT_EQ(::stat(error_path().c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, 12345u) << "after a rotation, too";
    ASSERT_EQ(::chown(error_path().c_str(), 12345, 0), 0);
    logger_.reopen();
    ASSERT_EQ(::stat(error_path().c_str(), &info), 0);
    EXPECT_EQ(info.st_gid, 12346u) << "the group counts, too";
}

TEST_F(LogTest, LeavesTheModeOfItsFilesToTheUmask) {
    struct stat info {};
    for (const mode_t mask : {0, 027}) {
        const mode_t before = ::umask(mask);
        open();
        ::umask(before);
        ASSERT_EQ(::stat(error_path().c_str(), &info), 0);
        EXPECT_EQ(info.st_mode & 0777, 0666u & ~mask);
        fs::remove(error_path());
    }
}

TEST_F(LogTest, GivesAwayNothingButFiles) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    const std::string path = directory_ / "fifo";
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    const Fd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    options_.errorlog = path;
    options_.owner_uid = 12345;
    open();
    struct stat info {};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, 0u);
}

TEST_F(LogTest, UsesAFileThatItMayNotGiveAway) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs a file of somebody else's";
    std::ofstream(error_path()) << "";
    ASSERT_EQ(::chmod(error_path().c_str(), 0666), 0);
    ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        if (::setuid(54'324) != 0) ::_exit(97);
        options_.errorlog = error_path();
        options_.owner_uid = 54'324;
        ::_exit(logger_.open(options_).is_ok() ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST_F(LogTest, WritesNoFileForAnEmptyErrorLog) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    options_.errorlog = "";
    open();
    logger_.error("only for the observer");
    EXPECT_EQ(logger_.error_fd(), -1);
    EXPECT_EQ(standard_error.message(), "");
    logger_.write_raw("application text is not lost");
    EXPECT_EQ(standard_error.message(), "application text is not lost\n");
}

// -------------------------------------------------------------------------------------- rotation

TEST_F(LogTest, LosesAndDoublesNoLineWhileFilesAreRotated) {
    // Three threads here and two other processes write numbered lines while the files are renamed
    // and everybody reopens, again and again.
    constexpr int kThreads = 3, kChildren = 2, kRotations = 30;
    options_.accesslog = access_path();
    open();
    int stop_pipe[2], ready_pipe[2];
    ASSERT_EQ(::pipe2(stop_pipe, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(ready_pipe, O_CLOEXEC), 0);
    const Fd stop_read(stop_pipe[0]), ready_read(ready_pipe[0]), ready_write(ready_pipe[1]);
    Fd stop_write(stop_pipe[1]);
    std::vector<pid_t> children;
    for (int child = 0; child < kChildren; ++child) {
        const pid_t pid = ::fork();
        ASSERT_GE(pid, 0);
        if (pid == 0) {
            stop_write.reset();
            logger_.after_fork();
            struct pollfd item {};
            item.fd = stop_read.get();
            item.events = POLLIN;
            int n = 0;
            for (; ::poll(&item, 1, 0) == 0; ++n) {
                logger_.write_access("c" + std::to_string(child) + " " + std::to_string(n));
                logger_.info("C%d %d", child, n);
                if (n % 20 == 19) logger_.reopen();
            }
            ::_exit(::write(ready_write.get(), &n, sizeof n) == sizeof n ? 0 : 1);
        }
        children.push_back(pid);
    }
    std::atomic<bool> is_over{false};
    std::vector<int> written(kThreads);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
            for (int n = 0; !is_over; written[static_cast<size_t>(t)] = ++n) {
                logger_.write_access("t" + std::to_string(t) + " " + std::to_string(n));
                logger_.info("T%d %d", t, n);
            }
        });
    }
    for (int i = 0; i < kRotations; ++i) {
        const std::string suffix = "." + std::to_string(i);
        fs::rename(access_path(), access_path() + suffix);
        fs::rename(error_path(), error_path() + suffix);
        logger_.reopen();
        ASSERT_TRUE(soon([&] { return fs::file_size(access_path()) > 2000; }));
    }
    is_over = true;
    for (std::thread& thread : threads)
        thread.join();
    stop_write.reset();
    size_t expected_lines = 0;
    for (const pid_t child : children) {
        int status = 0, n = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_EQ(status, 0);
        ASSERT_EQ(::read(ready_read.get(), &n, sizeof n), static_cast<ssize_t>(sizeof n));
        expected_lines += static_cast<size_t>(n);
    }
    for (const int n : written)
        expected_lines += static_cast<size_t>(n);

    std::map<std::string, int> seen;
    size_t access_lines = 0, error_lines = 0;
    for (const fs::directory_entry& file : fs::directory_iterator(directory_)) {
        std::istringstream text(read_file(file.path()));
        const bool is_error = file.path().filename().string().starts_with("error");
        for (std::string line; std::getline(text, line);) {
            if (is_error) line.erase(0, line.find("[INFO] ") + 7);
            ++(is_error ? error_lines : access_lines);
            EXPECT_EQ(++seen[line], 1) << line;
        }
    }
    EXPECT_EQ(access_lines, expected_lines);
    EXPECT_EQ(error_lines, expected_lines);
    EXPECT_EQ(logger_.lost_records(), 0u);
}

TEST_F(LogTest, KeepsTheOldFileIfReopeningFailsAndSaysSoOnce) {
    // The directory is renamed away: the old files still have names and get the lines.
    const fs::path logs = directory_ / "logs";
    fs::create_directory(logs);
    options_.accesslog = logs / "access.log";
    open();
    fs::rename(logs, directory_ / "away");
    logger_.reopen();
    logger_.reopen();
    logger_.write_access("line");
    EXPECT_EQ(read_file(directory_ / "away/access.log"), "line\n");
    EXPECT_EQ(count(error_text(), "[WARNING] Can't reopen '" + options_.accesslog +
                                      "' (No such file or directory): its old file stays in use\n"),
              1u);
    fs::create_directory(logs);
    logger_.reopen();
    logger_.write_access("new");
    EXPECT_EQ(read_file(logs / "access.log"), "new\n");
    fs::rename(logs, directory_ / "away2");
    logger_.reopen();
    EXPECT_EQ(count(error_text(), "Can't reopen"), 2u) << "a new failure is told again";
    fs::create_directory(logs);
    open();
    fs::rename(logs, directory_ / "away3");
    logger_.reopen();
    EXPECT_EQ(count(error_text(), "Can't reopen"), 3u) << "so is one after HUP";
}

TEST_F(LogTest, TellsStderrIfTheErrorLogCannotBeReopened) {
    const fs::path logs = directory_ / "logs";
    fs::create_directory(logs);
    options_.errorlog = logs / "error.log";
    open();
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    fs::rename(logs, directory_ / "away");
    logger_.reopen();
    EXPECT_NE(standard_error.message().find("Can't reopen '" + options_.errorlog),
              std::string::npos);
    logger_.info("x");
    EXPECT_EQ(count(read_file(directory_ / "away/error.log"), "x\n"), 1u);
}

// ------------------------------------------------------------------------------ failures of sinks

TEST_F(LogTest, SurvivesAFullDiskAndReportsWhatWasLost) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    options_.accesslog = access_path();
    open();
    const std::string line(99, 'x');
    {
        // Room for two and a half lines.
        const FullDisk disk(250);
        for (int i = 0; i < 10; ++i)
            logger_.write_access(line);
        EXPECT_EQ(logger_.lost_records(), 8u);
        EXPECT_EQ(read_file(access_path()).size(), 250u);
        const std::string warning = standard_error.message();
        EXPECT_NE(warning.find("[WARNING] Log records are lost: '" + access_path() +
                               "' can't be written (File too large)\n"),
                  std::string::npos)
            << warning;
        EXPECT_EQ(standard_error.message(), "") << "told once";
    }
    logger_.write_access("after");
    logger_.write_access("after");
    EXPECT_EQ(read_file(access_path()).substr(200), line.substr(0, 50) + "\nafter\nafter\n")
        << "the torn line ends before the next one";
    EXPECT_EQ(count(error_text(), "[WARNING] 8 log records were lost: '" + access_path() +
                                      "' could not be written (File too large)\n"),
              1u);
    EXPECT_EQ(logger_.lost_records(), 0u);
    EXPECT_EQ(standard_error.message(), "");
}

TEST_F(LogTest, TellsOfEachTimeThatTheDiskWasFull) {
    options_.accesslog = access_path();
    open();
    logger_.write_access(
        std::string(10'000, 'x'));  // so that the limit does not meet the error log
    for (size_t times = 1; times <= 2; ++times) {
        {
            const FullDisk disk(read_file(access_path()).size());
            logger_.write_access("lost");
        }
        open();  // HUP does not change what is left to be told
        logger_.write_access("after");
        EXPECT_EQ(count(error_text(), "[WARNING] Log records are lost"), times);
        EXPECT_EQ(count(error_text(), "[WARNING] 1 log records were lost"), times);
    }
}

TEST_F(LogTest, SurvivesAFullDiskUnderTheErrorLog) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    open();
    {
        const FullDisk disk(0);
        for (int i = 0; i < 3; ++i)
            logger_.error("lost %d", i);
        EXPECT_EQ(logger_.lost_records(), 3u);
        EXPECT_NE(standard_error.message().find("Log records are lost"), std::string::npos);
        EXPECT_EQ(standard_error.message(), "");
    }
    logger_.info("after");
    EXPECT_EQ(count(error_text(), "\n"), 2u);
    EXPECT_EQ(count(error_text(), "[INFO] after\n"), 1u);
    EXPECT_EQ(count(error_text(), "[WARNING] 3 log records were lost"), 1u);
    EXPECT_EQ(count(error_text(), "lost 1"), 0u);
}

TEST_F(LogTest, SurvivesADeviceWithoutSpace) {
    if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    options_.errorlog = "/dev/full";
    open();
    logger_.info("x");
    logger_.info("y");
    EXPECT_NE(
        standard_error.message().find("'/dev/full' can't be written (No space left on device)"),
        std::string::npos);
    EXPECT_EQ(standard_error.message(), "");
    EXPECT_EQ(logger_.lost_records(), 2u);
}

TEST_F(LogTest, TellsInTheErrorLogThatAnotherSinkIsFull) {
    if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
    options_.accesslog = "/dev/full";
    open();
    logger_.write_access("x");
    logger_.write_access("y");
    const std::string sentence = "[WARNING] Log records are lost: '/dev/full' can't be written";
    EXPECT_EQ(count(error_text(), sentence), 1u);

    Redirected standard_error = Redirected::to_pipe(STDERR_FILENO);
    Logger other;  // its error log is stderr
    options_.errorlog = "-";
    ASSERT_TRUE(other.open(options_).is_ok());
    other.write_access("x");
    EXPECT_EQ(count(standard_error.text(), sentence), 1u);
}

TEST_F(LogTest, SurvivesAVanishedDirectoryAndRecovers) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    const fs::path logs = directory_ / "logs";
    fs::create_directory(logs);
    options_.accesslog = logs / "access.log";
    open();
    fs::remove_all(logs);
    logger_.reopen();  // nothing to report yet: no line was lost
    EXPECT_EQ(error_text(), "");
    logger_.write_access("lost");
    logger_.write_access("lost");
    EXPECT_EQ(logger_.lost_records(), 2u);
    EXPECT_NE(standard_error.message().find("can't be written (No such file or directory)"),
              std::string::npos);
    EXPECT_EQ(standard_error.message(), "");
    fs::create_directory(logs);
    ASSERT_TRUE(soon([&] {
        logger_.write_access("back");
        return read_file(options_.accesslog).starts_with("back\n");
    })) << "without a signal, within a second or so";
    EXPECT_EQ(count(error_text(), " log records were lost: '" + options_.accesslog), 1u);
}

TEST_F(LogTest, AnotherPathHasLostNothing) {
    if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
    options_.accesslog = "/dev/full";
    open();
    logger_.write_access("lost");
    EXPECT_EQ(logger_.lost_records(), 1u);
    options_.accesslog = access_path();
    open();
    EXPECT_EQ(logger_.lost_records(), 0u);
    logger_.write_access("found");
    EXPECT_EQ(count(error_text(), "records were lost"), 0u);
}

TEST_F(LogTest, AnotherPathEndsTheLossesOfAVanishedOne) {
    const fs::path logs = directory_ / "logs";
    fs::create_directory(logs);
    options_.accesslog = logs / "access.log";
    open();
    fs::remove_all(logs);
    logger_.reopen();
    options_.accesslog = access_path();
    open();
    logger_.write_access("found");
    EXPECT_EQ(read_file(access_path()), "found\n");
}

TEST_F(LogTest, OpensAnUnlinkedFileAnew) {
    options_.accesslog = access_path();
    open();
    logger_.write_access("first");
    fs::remove(access_path());
    ASSERT_TRUE(soon([&] {
        logger_.write_access("second");
        return fs::exists(access_path());
    }));
    EXPECT_EQ(read_file(access_path()), "second\n");
    EXPECT_EQ(error_text(), "");
}

TEST_F(LogTest, HasTheLastWordsOfAProgramThatIsBroken) {
    open();
    EXPECT_DEATH(GCORN_CHECK(false), "broken invariant");
    EXPECT_EQ(count(error_text(), "broken invariant"), 1u);
    options_.errorlog = "-";
    open();
    EXPECT_EQ(last_words_fd, -1) << "they go to stderr anyhow";
}

TEST_F(LogTest, AnUnlinkedFifoKeepsItsReader) {
    const std::string path = directory_ / "fifo";
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    const Fd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    options_.accesslog = path;
    open();
    fs::remove(path);
    logger_.write_access("line");
    EXPECT_EQ(drain(reader.get()), "line\n");
    EXPECT_FALSE(fs::exists(path));
}

TEST_F(LogTest, DoesNotWaitLongForAStuckPipe) {
    // A blocking pipe whose reader does not read, like a container's log collector that hangs.
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    Redirected standard_output = Redirected::to_pipe(STDOUT_FILENO);
    options_.accesslog = "-";
    open();
    const std::string line(999, 'x');
    const int64_t start_ms = monotonic_ms();
    for (int i = 0; i < 500; ++i)
        logger_.write_access(line);
    EXPECT_LT(monotonic_ms() - start_ms, 5000) << "only the first stuck line waits";
    const uint64_t lost = logger_.lost_records();
    EXPECT_GT(lost, 300u);
    EXPECT_NE(standard_error.message().find("'-' can't be written (Resource temporarily"),
              std::string::npos);
    EXPECT_EQ(standard_output.text().size(), (500 - lost) * 1000) << "whole lines only";
    logger_.write_access("after");
    EXPECT_EQ(standard_output.text(), "after\n");
    EXPECT_EQ(count(error_text(), "[WARNING] " + std::to_string(lost) + " log records were lost"),
              1u);
}

TEST_F(LogTest, DoesNotWaitLongForAStuckPipeWithARecordOfManyPages) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    Redirected standard_output = Redirected::to_pipe(STDOUT_FILENO);
    options_.accesslog = "-";
    open();
    const std::string line(17'999, 'x');
    for (int i = 0; i < 10; ++i)
        logger_.write_access(line);  // would hang in a write(2) larger than the room left
    EXPECT_GT(logger_.lost_records(), 5u);
}

TEST_F(LogTest, DoesNotWaitLongForASocketThatNobodyReads) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const Fd reader(ends[0]), writer(ends[1]);
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    Redirected standard_output = Redirected::to_pipe(STDOUT_FILENO);
    ASSERT_GE(::dup2(writer.get(), STDOUT_FILENO), 0);
    options_.accesslog = "-";
    open();
    const std::string line(99'999, 'x');
    for (int i = 0; i < 10; ++i)
        logger_.write_access(line);
    EXPECT_GT(logger_.lost_records(), 5u);
}

TEST_F(LogTest, WaitsForAReaderThatIsOnlySlow) {
    // More than a pipe holds, read while it is written, to a FIFO (non-blocking on our side).
    const std::string path = directory_ / "fifo";
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    const Fd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    options_.accesslog = path;
    open();
    const std::string large(150'000, 'z');
    std::string received;
    std::thread slow([&] {
        static_cast<void>(soon([&] {
            received += drain(reader.get());
            return received.ends_with("\n");
        }));
    });
    logger_.write_access(large);
    slow.join();
    EXPECT_EQ(received, large + "\n");
    EXPECT_EQ(logger_.lost_records(), 0u);
}

TEST_F(LogTest, DoesNotWaitLongForAReaderThatIsVerySlow) {
    const std::string path = directory_ / "fifo";
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    const Fd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    options_.accesslog = path;
    open();
    std::atomic<bool> is_over{false};
    std::thread slow([&] {
        char page[4096];
        while (!is_over) {
            static_cast<void>(::read(reader.get(), page, sizeof page) < 0);
            ::usleep(10'000);
        }
    });
    logger_.write_access(std::string(4 << 20, 'z'));  // which would take it ten seconds
    is_over = true;
    slow.join();
    EXPECT_EQ(logger_.lost_records(), 1u);
}

TEST_F(LogTest, SurvivesAReaderThatWentAway) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    Redirected standard_output = Redirected::to_pipe(STDOUT_FILENO);
    standard_output.close_reader();
    options_.accesslog = "-";
    open();
    logger_.write_access("x");
    logger_.write_access("x");
    EXPECT_EQ(logger_.lost_records(), 2u);
    EXPECT_NE(standard_error.message().find("(Broken pipe)"), std::string::npos);
    EXPECT_EQ(standard_error.message(), "");
}

// -------------------------------------------------------------------------------- capture_output

TEST_F(LogTest, CapturesStdoutAndStderrIntoTheFileAndGivesThemBack) {
    Redirected standard_output = Redirected::to_pipe(STDOUT_FILENO);
    Redirected standard_error = Redirected::to_pipe(STDERR_FILENO);
    options_.capture_output = true;
    std::fputs("before", stdout);
    open();
    EXPECT_EQ(standard_output.text(), "before") << "what stdio held back was meant for it";
    const auto say = [](int fd, std::string text) {
        EXPECT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    };
    say(STDOUT_FILENO, "out\n");
    say(STDERR_FILENO, "err\n");
    logger_.info("record");
    fs::rename(error_path(), error_path() + ".1");
    logger_.reopen();
    say(STDOUT_FILENO, "out2\n");
    say(STDERR_FILENO, "err2\n");
    EXPECT_EQ(::system("echo from a child"), 0);
    {
        const FullDisk disk(0);
        logger_.info("lost");
    }
    options_.capture_output = false;
    open();
    say(STDOUT_FILENO, "out3\n");
    say(STDERR_FILENO, "err3\n");

    const std::string first = read_file(error_path() + ".1");
    EXPECT_TRUE(first.starts_with("out\nerr\n[") && first.ends_with("[INFO] record\n")) << first;
    EXPECT_EQ(error_text(), "out2\nerr2\nfrom a child\n");
    EXPECT_EQ(standard_output.text(), "out3\n");
    const std::string errors = standard_error.text();
    EXPECT_EQ(count(errors, "Log records are lost"), 1u) << "on the real stderr";
    EXPECT_TRUE(errors.ends_with("err3\n"));
}

TEST_F(LogTest, CapturesNothingWithoutAFile) {
    Redirected standard_output = Redirected::to_pipe(STDOUT_FILENO);
    Redirected standard_error = Redirected::to_pipe(STDERR_FILENO);
    options_.errorlog = "-";
    options_.capture_output = true;
    open();
    EXPECT_EQ(::write(STDOUT_FILENO, "out\n", 4), 4);
    EXPECT_EQ(standard_output.text(), "out\n");
    EXPECT_EQ(standard_error.text(), "");
}

// ---------------------------------------------------------------------------------------- syslog

/// A syslog server of any kind.
class SyslogServer {
public:
    void listen_on(int family, int type, const std::string& path, in_port_t port = 0) {
        socket_.reset(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        const int on = 1;
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        sockaddr_storage name{};
        socklen_t size = sizeof(sockaddr_in);
        if (family == AF_UNIX) {
            auto* local = reinterpret_cast<sockaddr_un*>(&name);
            local->sun_family = AF_UNIX;
            path.copy(local->sun_path, sizeof local->sun_path - 1);
            size = sizeof(sockaddr_un);
        } else {
            auto* inet = reinterpret_cast<sockaddr_in*>(&name);
            inet->sin_family = AF_INET;
            inet->sin_port = htons(port);
            inet->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        }
        ASSERT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&name), size), 0);
        if (type == SOCK_STREAM) {
            ASSERT_EQ(::listen(socket_.get(), 8), 0);
        }
        if (family == AF_UNIX) return;
        ASSERT_EQ(::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&name), &size), 0);
        port_ = ntohs(reinterpret_cast<sockaddr_in*>(&name)->sin_port);
    }
    [[nodiscard]] in_port_t port() const { return port_; }
    void close() {
        connection_.reset();
        socket_.reset();
    }
    void drop_connection() { connection_.reset(); }

    /// Waits for one datagram.
    std::string datagram() const {
        char bytes[65536];
        ssize_t size = -1;
        return soon([&] { return (size = ::recv(socket_.get(), bytes, sizeof bytes, 0)) >= 0; })
                   ? std::string(bytes, static_cast<size_t>(size))
                   : "(nothing)";
    }
    /// Waits for the bytes of the stream up to `end`.
    std::string stream_until(std::string_view end) {
        std::string out;
        const bool is_complete = soon([&] {
            if (!connection_) connection_.reset(::accept(socket_.get(), nullptr, nullptr));
            if (connection_) out += drain(connection_.get());
            return out.find(end) != std::string::npos;
        });
        return is_complete ? out : "(incomplete) " + out;
    }

private:
    Fd socket_, connection_;
    in_port_t port_ = 0;
};

class SyslogTest : public LogTest {
protected:
    void SetUp() override {
        LogTest::SetUp();
        options_.syslog = true;
        pid_ = "[" + std::to_string(::getpid()) + "] ";
    }
    [[nodiscard]] std::string socket_path() const { return directory_ / "log.sock"; }
    void open_udp() {
        server_.listen_on(AF_INET, SOCK_DGRAM, "");
        options_.syslog_addr = "udp://127.0.0.1:" + std::to_string(server_.port());
        open();
    }
    SyslogServer server_;
    std::string pid_;
};

TEST(Log, AcceptsTheDocumentedSyslogAddresses) {
    for (const char* address : {"udp://localhost:514", "udp://localhost", "udp://",
                                "tcp://127.0.0.1:601", "tcp://[::1]:1", "unix:///dev/log",
                                "unix:///dev/log#dgram", "unix:///dev/log#stream", "udp://h:65535"})
        EXPECT_TRUE(validate_syslog_address(address).is_ok()) << address;
    for (const char* address :
         {"", "localhost:514", "http://localhost", "unix://", "unix://#dgram",
          "unix:///dev/log#raw", "udp://h:0", "udp://h:65536", "tcp://h:x", "udp:/h", "/dev/log"}) {
        const Status status = validate_syslog_address(address);
        ASSERT_FALSE(status.is_ok()) << address;
        EXPECT_EQ(status.message().find("invalid syslog address"), 0u);
    }
}

TEST(Log, KnowsTheSyslogFacilities) {
    for (const char* name :
         {"user", "USER", "daemon", "auth", "authpriv", "cron", "ftp", "kern", "lpr", "mail",
          "news", "security", "syslog", "uucp", "local0", "Local7"})
        EXPECT_TRUE(validate_syslog_facility(name).is_ok()) << name;
    for (const char* name : {"", "local8", "users", "1"}) {
        const Status status = validate_syslog_facility(name);
        ASSERT_FALSE(status.is_ok()) << name;
        EXPECT_EQ(status.message().find("unknown facility name"), 0u);
    }
}

TEST_F(SyslogTest, SendsGunicornsDatagramsOverUdp) {
    options_.level = Level::Debug;
    open_udp();
    // user is facility 1: PRI = 8 + severity.
    const std::string tag = ">gunicorn.shop.app.error: " + pid_;
    logger_.debug("d");
    logger_.info("i");
    logger_.warning("w");
    logger_.error("e");
    logger_.critical("c");
    for (const char* expected : {"15d", "14i", "12w", "11e", "10c"})
        EXPECT_EQ(server_.datagram(),
                  "<" + std::string(expected, 2) + tag + std::string(expected + 2) + '\0');
    EXPECT_EQ(count(error_text(), "\n"), 5u) << "the file gets them, too";
}

TEST_F(SyslogTest, SendsAccessLinesUnlessToldNotTo) {
    open_udp();
    EXPECT_TRUE(logger_.has_access());
    logger_.write_access("GET /");
    EXPECT_EQ(server_.datagram(), "<14>gunicorn.shop.app.access: " + pid_ + "GET /" + '\0');
    Records observer;
    logger_.hand_over(observer);
    EXPECT_TRUE(logger_.has_access()) << "there is no file whose lines another would make";
    logger_.set_observer(nullptr);
    options_.access_to_syslog = false;
    open();
    EXPECT_FALSE(logger_.has_access());
    logger_.write_access("no");
    logger_.info("yes");
    EXPECT_NE(server_.datagram().find("yes"), std::string::npos);
}

TEST_F(SyslogTest, UsesPrefixAndFacility) {
    options_.syslog_prefix = "a:b";
    options_.syslog_facility = "LOCAL7";
    open_udp();
    logger_.info("x");
    EXPECT_EQ(server_.datagram(), "<190>gunicorn.a:b.error: " + pid_ + "x" + '\0');
}

TEST_F(SyslogTest, LimitsDatagramsTo8192Bytes) {
    open_udp();
    const std::string head = "<14>gunicorn.shop.app.error: " + pid_;
    const size_t room = 8191 - head.size();
    for (const size_t size : {room - 1, room, room + 1, size_t{200'000}}) {
        logger_.write(Level::Info, std::string(size, 'x'));
        EXPECT_EQ(server_.datagram(), head + std::string(std::min(size, room), 'x') + '\0') << size;
    }
    EXPECT_EQ(logger_.lost_records(), 0u);
}

TEST_F(SyslogTest, FindsOutWhichKindOfUnixSocketItIs) {
    server_.listen_on(AF_UNIX, SOCK_DGRAM, socket_path());
    options_.syslog_addr = "unix://" + socket_path();
    open();
    logger_.info("dgram");
    EXPECT_EQ(server_.datagram(), "<14>gunicorn.shop.app.error: " + pid_ + "dgram" + '\0');
    server_.close();
    fs::remove(socket_path());

    server_.listen_on(AF_UNIX, SOCK_STREAM, socket_path());
    open();
    logger_.info("stream");
    EXPECT_EQ(server_.stream_until("\n"), "<14>gunicorn.shop.app.error: " + pid_ + "stream\n");

    options_.syslog_addr += "#dgram";
    open();
    Redirected standard_error = Redirected::to_pipe(STDERR_FILENO);
    logger_.info("dgram");
    EXPECT_EQ(logger_.lost_records(), 1u) << "which it has been told not to find out";
}

TEST_F(SyslogTest, NeedsADescriptor) {
    server_.listen_on(AF_UNIX, SOCK_DGRAM, socket_path());
    options_.syslog_addr = "unix://" + socket_path();
    options_.errorlog = "";
    struct rlimit files {};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
    const struct rlimit none { 0, files.rlim_max };
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    const Status opened = logger_.open(options_);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, EMFILE);
}

TEST_F(SyslogTest, EndsStreamRecordsWithANewlineAndHasNoneInside) {
    server_.listen_on(AF_INET, SOCK_STREAM, "");
    options_.syslog_addr = "tcp://127.0.0.1:" + std::to_string(server_.port());
    open();
    logger_.info("a\nTraceback\n  b");
    logger_.write_access("line");
    const std::string head = "<14>gunicorn.shop.app.";
    EXPECT_EQ(server_.stream_until("line\n"), head + "error: " + pid_ + "a#012Traceback#012  b\n" +
                                                  head + "access: " + pid_ + "line\n");
}

TEST_F(SyslogTest, ConnectsAgainWhenATcpServerWasRestarted) {
    server_.listen_on(AF_INET, SOCK_STREAM, "");
    options_.syslog_addr = "tcp://127.0.0.1:" + std::to_string(server_.port());
    open();
    logger_.info("first");
    EXPECT_NE(server_.stream_until("\n").find("first"), std::string::npos);
    const in_port_t port = server_.port();
    server_.close();
    ASSERT_TRUE(soon([&] {
        logger_.info("nobody");
        return logger_.lost_records() > 0;
    }));
    server_.listen_on(AF_INET, SOCK_STREAM, "", port);
    ASSERT_TRUE(soon([&] {
        logger_.info("again");
        return logger_.lost_records() == 0;
    }));
    EXPECT_NE(server_.stream_until("again\n").find("gunicorn.shop.app.error"), std::string::npos);
    EXPECT_EQ(count(error_text(), " log records were lost: 'tcp://"), 1u);
}

TEST_F(SyslogTest, DropsAndCountsWhenATcpServerDoesNotRead) {
    server_.listen_on(AF_INET, SOCK_STREAM, "");
    options_.syslog_addr = "tcp://127.0.0.1:" + std::to_string(server_.port());
    options_.errorlog = "";
    open();
    const std::string line(8000, 'x');
    ASSERT_TRUE(soon([&] {
        logger_.write_access(line);
        return logger_.lost_records() > 100;
    }));
}

TEST_F(SyslogTest, StartsWithoutAServerAndFindsItLater) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    options_.syslog_addr = "unix://" + socket_path();
    open();
    logger_.info("lost");
    logger_.info("lost");
    EXPECT_EQ(logger_.lost_records(), 2u);
    EXPECT_NE(standard_error.message().find("Log records are lost: 'unix://"), std::string::npos);
    EXPECT_EQ(standard_error.message(), "");
    server_.listen_on(AF_UNIX, SOCK_DGRAM, socket_path());
    logger_.info("found");
    EXPECT_NE(server_.datagram().find("found"), std::string::npos);
    EXPECT_EQ(count(error_text(), "2 log records were lost: 'unix://"), 1u);
}

TEST_F(SyslogTest, AnotherAddressHasLostNothing) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    options_.syslog_addr = "unix://" + socket_path();
    open();
    logger_.info("lost");
    EXPECT_EQ(logger_.lost_records(), 1u);
    open_udp();
    EXPECT_EQ(logger_.lost_records(), 0u);
    logger_.info("found");
    EXPECT_NE(server_.datagram().find("found"), std::string::npos);
    EXPECT_EQ(count(error_text(), "records were lost"), 0u);
}

TEST_F(SyslogTest, AChildTellsItsOwnLossesOnly) {
    Redirected standard_error = Redirected::to_messages(STDERR_FILENO);
    options_.accesslog = access_path();
    options_.syslog_addr = "unix://" + socket_path();  // where nobody listens
    open();
    const FullDisk disk(0);
    const auto lose_one_each = [&] {
        logger_.error("lost");
        logger_.write_access("lost");
    };
    lose_one_each();
    while (!standard_error.message().empty()) {
    }
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        logger_.after_fork();
        const bool is_new = logger_.lost_records() == 0;
        lose_one_each();
        ::_exit(is_new ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "the parent tells its own";
    std::string told;
    for (std::string text; !(text = standard_error.message()).empty();)
        told += text;
    for (const std::string& name : {error_path(), access_path(), options_.syslog_addr})
        EXPECT_EQ(count(told, "Log records are lost: '" + name + "' can't"), 1u) << name;
}

TEST_F(SyslogTest, RefusesAHostThatDoesNotExistAndABadFacility) {
    LogOptions bad = options_;
    bad.syslog_addr = "udp://no such host";
    Status status = logger_.open(bad);
    ASSERT_FALSE(status.is_ok());
    EXPECT_EQ(status.message().find("syslog: resolve no such host: "), 0u) << status.message();
    bad = options_;
    bad.syslog_facility = "local9";
    status = logger_.open(bad);
    ASSERT_FALSE(status.is_ok());
    EXPECT_EQ(status.message(), "unknown facility name: 'local9'");
}

}  // namespace
}  // namespace gcorn
