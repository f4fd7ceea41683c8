#include "os/pidfile.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gcorn {
namespace {

class PidfileRoom : public ::testing::Test {
protected:
    void SetUp() override {
        char pattern[] = "/tmp/gcorn-pidfile-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern), nullptr);
        directory_ = pattern;
        path_ = directory_ + "/server.pid";
    }
    void TearDown() override { std::filesystem::remove_all(directory_); }

    static void write(const std::string& path, const std::string& text) {
        std::ofstream(path) << text;
    }
    static std::string read(const std::string& path) {
        std::ostringstream text;
        text << std::ifstream(path).rdbuf();
        return text.str();
    }
    size_t count_files() const {
        size_t count = 0;
        for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory_)) {
            ++count;
        }
        return count;
    }
    /// The pid of a process that was just reaped.
    static pid_t dead_pid() {
        const pid_t pid = ::fork();
        if (pid == 0) ::_exit(0);
        EXPECT_EQ(::waitpid(pid, nullptr, 0), pid);
        return pid;
    }

    std::string directory_, path_;
};

TEST_F(PidfileRoom, WritesPidAndNewlineWithMode0644AndNothingElse) {
    const mode_t before = ::umask(077);
    const Result<Pidfile> file = Pidfile::create(path_, 1234567);
    ::umask(before);
    ASSERT_TRUE(file) << file.message();
    EXPECT_EQ(read(path_), "1234567\n");
    struct stat info {};
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0644u);
    EXPECT_EQ(count_files(), 1u);
}

TEST_F(PidfileRoom, RefusesTheFileOfALivingProcess) {
    write(path_, std::to_string(::getppid()) + "\n");
    const Result<Pidfile> file = Pidfile::create(path_, ::getpid());
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().code, EEXIST);
    EXPECT_EQ(file.message(), "Already running on PID " + std::to_string(::getppid()) +
                                  " (or pid file '" + path_ + "' is stale)");
    EXPECT_EQ(read_pidfile(path_), ::getppid());
}

TEST_F(PidfileRoom, RefusesTheFileOfAProcessThatIsSomebodyElses) {
    write(path_, "1\n");
    EXPECT_FALSE(Pidfile::create(path_, ::getpid()));
}

TEST_F(PidfileRoom, ProcessesThatMayNotBeSignalledAreAliveToo) {
    if (::geteuid() != 0) GTEST_SKIP() << "the test above is this one for others than root";
    write(path_, std::to_string(::getpid()));
    ASSERT_EQ(::chmod(std::filesystem::path(path_).parent_path().c_str(), 0755), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        if (::setuid(54'323) != 0) ::_exit(97);
        const Result<Pidfile> file = Pidfile::create(path_, ::getpid());
        ::_exit(!file && file.error().code == EEXIST ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST_F(PidfileRoom, OverwritesAStaleFile) {
    write(path_, std::to_string(dead_pid()));
    ASSERT_TRUE(Pidfile::create(path_, ::getpid()));
    EXPECT_EQ(read_pidfile(path_), ::getpid());
}

TEST_F(PidfileRoom, OverwritesItsOwnFile) {
    write(path_, std::to_string(::getpid()));
    EXPECT_TRUE(Pidfile::create(path_, ::getpid()));
}

TEST_F(PidfileRoom, OverwritesWhatIsNoPid) {
    for (const char* text : {"", "\n", "abc", "12x", "-5", "+5", "0", "1 1", "99999999999999999999",
                             "4294967297", "2147483648"}) {
        write(path_, text);
        EXPECT_EQ(read_pidfile(path_), 0) << text;
        ASSERT_TRUE(Pidfile::create(path_, ::getpid())) << text;
        EXPECT_EQ(read_pidfile(path_), ::getpid());
    }
}

TEST_F(PidfileRoom, ReadsNumbersWithBlanksAround) {
    write(path_, " 2147483647 \r\n");
    EXPECT_EQ(read_pidfile(path_), 2147483647);
    EXPECT_EQ(read_pidfile(directory_ + "/missing"), 0);
    EXPECT_EQ(read_pidfile(directory_), 0);
    write(path_, "1" + std::string(100, ' '));
    EXPECT_EQ(read_pidfile(path_), 0);
}

TEST_F(PidfileRoom, ReadingAFifoDoesNotHang) {
    ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
    EXPECT_EQ(read_pidfile(path_), 0);
}

TEST_F(PidfileRoom, NamesTheMissingDirectory) {
    const Result<Pidfile> file = Pidfile::create(directory_ + "/no/server.pid", 1);
    ASSERT_FALSE(file);
    EXPECT_EQ(file.message(), directory_ +
                                  "/no doesn't exist. Can't create pidfile. (pidfile; allowed: a "
                                  "path in an existing directory)");
}

TEST_F(PidfileRoom, AcceptsAPathWithoutADirectory) {
    const std::string before = std::filesystem::current_path();
    std::filesystem::current_path(directory_);
    Result<Pidfile> file = Pidfile::create("plain.pid", ::getpid());
    EXPECT_TRUE(file);
    if (file) file->unlink();
    std::filesystem::current_path(before);
    EXPECT_EQ(count_files(), 0u);
}

TEST_F(PidfileRoom, LeavesNothingBehindWhenItCannotWrite) {
    if (::geteuid() == 0) {
        // Root may write everywhere, but a directory in the way stops even root.
        ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
        EXPECT_FALSE(Pidfile::create(path_, ::getpid()));
        EXPECT_EQ(count_files(), 1u);
        return;
    }
    ASSERT_EQ(::chmod(directory_.c_str(), 0500), 0);
    const Result<Pidfile> file = Pidfile::create(path_, ::getpid());
    EXPECT_FALSE(file);
    ASSERT_EQ(::chmod(directory_.c_str(), 0700), 0);
    EXPECT_EQ(count_files(), 0u);
}

TEST_F(PidfileRoom, RenamesOverThePredecessorsFile) {
    write(path_, std::to_string(::getppid()) + "\n");
    Result<Pidfile> file = Pidfile::create(path_ + ".2", ::getpid());
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->rename(path_));
    EXPECT_EQ(file->path(), path_);
    EXPECT_EQ(read_pidfile(path_), ::getpid());
    EXPECT_EQ(count_files(), 1u);
}

TEST_F(PidfileRoom, RenameWritesAFileThatHasVanished) {
    Result<Pidfile> file = Pidfile::create(path_ + ".2", ::getpid());
    ASSERT_TRUE(file);
    ASSERT_EQ(::unlink((path_ + ".2").c_str()), 0);
    ASSERT_TRUE(file->rename(path_));
    EXPECT_EQ(read_pidfile(path_), ::getpid());
}

TEST_F(PidfileRoom, RenameToAnotherFileSystemMovesTheFile) {
    struct stat here {
    }, there{};
    ASSERT_EQ(::stat(directory_.c_str(), &here), 0);
    if (::stat("/dev/shm", &there) != 0 || here.st_dev == there.st_dev)
        GTEST_SKIP() << "needs a second file system at /dev/shm";
    Result<Pidfile> file = Pidfile::create(path_, ::getpid());
    ASSERT_TRUE(file);
    const std::string path = "/dev/shm/gcorn-pidfile-" + std::to_string(::getpid());
    const Status status = file->rename(path);
    EXPECT_TRUE(status) << status.message();
    EXPECT_EQ(file->path(), path);
    EXPECT_EQ(read_pidfile(path), ::getpid());
    EXPECT_EQ(count_files(), 0u);
    file->unlink();
    EXPECT_EQ(read_pidfile(path), 0);
}

TEST_F(PidfileRoom, FailedRenameKeepsTheOldPath) {
    Result<Pidfile> file = Pidfile::create(path_, ::getpid());
    ASSERT_TRUE(file);
    EXPECT_FALSE(file->rename(directory_ + "/no/server.pid"));
    EXPECT_EQ(file->path(), path_);
    EXPECT_EQ(read_pidfile(path_), ::getpid());
}

TEST_F(PidfileRoom, UnlinksOnlyItsOwnFile) {
    Result<Pidfile> file = Pidfile::create(path_, ::getpid());
    ASSERT_TRUE(file);
    EXPECT_EQ(count_files(), 1u);
    file->unlink();
    EXPECT_EQ(count_files(), 0u);
    file->unlink();

    Result<Pidfile> other = Pidfile::create(path_, ::getpid());
    ASSERT_TRUE(other);
    write(path_, "1\n");
    other->unlink();
    EXPECT_EQ(read(path_), "1\n");
}

}  // namespace
}  // namespace gcorn
