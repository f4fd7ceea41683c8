#include "net/buffer.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace gcorn {
namespace {

/// A fresh directory, removed at the end of the test; it must be empty by then.
class TemporaryDirectory {
public:
    TemporaryDirectory() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
    ~TemporaryDirectory() { EXPECT_EQ(::rmdir(path_.c_str()), 0) << "files left in " << path_; }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    std::string path_ = testing::TempDir() + "gcorn_buffer_XXXXXX";
};

std::string pattern(size_t bytes) {
    std::string text(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i)
        text[i] = static_cast<char>('a' + i * 7 % 26);
    return text;
}

std::string read_all(const Spool& spool, size_t step = 1000) {
    std::string out, piece(step, '\0');
    for (;;) {
        const Result<size_t> n = spool.read_at(out.size(), piece.data(), step);
        EXPECT_TRUE(n.is_ok());
        if (!n || *n == 0) return out;
        out.append(piece, 0, *n);
    }
}

TEST(Buffer, IsAQueueOfBytes) {
    Buffer buffer;
    EXPECT_TRUE(buffer.empty());
    buffer.append("hello ");
    buffer.append("world");
    buffer.consume(6);
    EXPECT_EQ(buffer.view(), "world");
    EXPECT_EQ(buffer.size(), 5u);
    buffer.append("!");
    EXPECT_EQ(buffer.view(), "world!");
    buffer.consume(6);
    EXPECT_TRUE(buffer.empty());
    buffer.consume(0);
    buffer.append("again");
    EXPECT_EQ(buffer.view(), "again");
    buffer.clear();
    EXPECT_EQ(buffer.view(), "");
}

TEST(Buffer, MemoryFollowsWhatWaitsNotWhatPassed) {
    // Never empty, so only compaction can keep it from growing for ever.
    Buffer buffer;
    const std::string piece = pattern(1000);
    std::string expected;
    buffer.append("x");
    for (int i = 0; i < 10'000; ++i) {
        buffer.append(piece);
        buffer.consume(1000);
    }
    EXPECT_EQ(buffer.size(), 1u);
    EXPECT_EQ(buffer.view(), piece.substr(999));
}

TEST(Buffer, WhatIsLeftOfMuchKeepsItsBytes) {
    const std::string bytes = pattern(300'000);
    Buffer buffer;
    buffer.append(bytes);
    for (const size_t used : {65'535, 65'536, 65'537, 150'000, 299'999}) {
        buffer.consume(used - (bytes.size() - buffer.size()));
        EXPECT_EQ(buffer.view(), bytes.substr(used));
    }
    buffer.append("more");
    EXPECT_EQ(buffer.view(), bytes.substr(299'999) + "more");
}

TEST(Buffer, ReleaseGivesMemoryBackAndTheBufferGoesOn) {
    Buffer buffer;
    buffer.append(pattern(100'000));
    buffer.consume(10);
    buffer.release();
    EXPECT_TRUE(buffer.empty());
    buffer.append("more");
    EXPECT_EQ(buffer.view(), "more");
}

TEST(BufferDeathTest, ConsumingMoreThanThereIsIsABug) {
    Buffer buffer;
    buffer.append("ab");
    EXPECT_DEATH(buffer.consume(3), "broken invariant");
}

TEST(Spool, StaysInMemoryUpToItsLimit) {
    const TemporaryDirectory directory;
    Spool spool;
    spool.configure(directory.path(), 1000);
    ASSERT_TRUE(spool.append(pattern(999)).is_ok());
    ASSERT_TRUE(spool.append("z").is_ok());
    EXPECT_TRUE(spool.in_memory());
    EXPECT_EQ(spool.size(), 1000u);
    EXPECT_EQ(spool.memory(), pattern(999) + "z");
    ASSERT_TRUE(spool.append("z").is_ok());
    EXPECT_FALSE(spool.in_memory());
    EXPECT_EQ(spool.size(), 1001u);
    EXPECT_EQ(read_all(spool), pattern(999) + "zz");
}

TEST(Spool, DefaultLimitIs112KiB) {
    Spool spool;
    ASSERT_TRUE(spool.append(std::string(kSpoolMemoryMax, 'x')).is_ok());
    EXPECT_TRUE(spool.in_memory());
    ASSERT_TRUE(spool.append("x").is_ok());
    EXPECT_FALSE(spool.in_memory()) << "and the default directory works";
}

TEST(Spool, OneLargePieceGoesStraightToTheFile) {
    const TemporaryDirectory directory;
    Spool spool;
    spool.configure(directory.path(), 10);
    ASSERT_TRUE(spool.append(pattern(5000)).is_ok());
    EXPECT_FALSE(spool.in_memory());
    EXPECT_EQ(read_all(spool, 7), pattern(5000));
}

TEST(Spool, ReadsAtAnyPositionInBothModes) {
    const TemporaryDirectory directory;
    for (const size_t memory_max : {size_t{10}, size_t{10'000}}) {
        Spool spool;
        spool.configure(directory.path(), memory_max);
        ASSERT_TRUE(spool.append(pattern(300)).is_ok());
        char out[50];
        ASSERT_EQ(*spool.read_at(290, out, sizeof out), 10u);
        EXPECT_EQ(std::string_view(out, 10), pattern(300).substr(290));
        ASSERT_EQ(*spool.read_at(100, out, sizeof out), 50u);
        EXPECT_EQ(std::string_view(out, 50), pattern(300).substr(100, 50));
        EXPECT_EQ(*spool.read_at(300, out, sizeof out), 0u);
        EXPECT_EQ(*spool.read_at(UINT64_MAX, out, sizeof out), 0u);
        EXPECT_EQ(*spool.read_at(0, out, 0), 0u);
    }
}

TEST(Spool, AdoptsABodyWhereItLiesAndGivesTheBlockBackForTheNext) {
    Spool spool;
    auto block = std::make_unique<char[]>(100);
    char* const first = block.get();
    std::memcpy(first, "head:body", 9);
    spool.adopt(block, {first + 5, 4});
    EXPECT_EQ(block, nullptr) << "there was no body before";
    EXPECT_TRUE(spool.in_memory());
    EXPECT_EQ(spool.size(), 4u);
    EXPECT_EQ(spool.memory().data(), first + 5);
    EXPECT_EQ(read_all(spool, 3), "body");
    EXPECT_DEATH(static_cast<void>(spool.append("more")), "broken invariant");

    spool.clear();
    EXPECT_EQ(spool.memory(), "");
    ASSERT_TRUE(spool.append("copied").is_ok());
    EXPECT_EQ(read_all(spool), "copied");
    EXPECT_DEATH(spool.adopt(block, {first, 1}), "broken invariant");

    spool.clear();
    block = std::make_unique<char[]>(100);
    block[0] = '2';
    spool.adopt(block, {block.get(), 1});
    EXPECT_EQ(block.get(), first);
    EXPECT_EQ(read_all(spool), "2");
}

TEST(Spool, FileHasNoNameAndIsCloseOnExec) {
    const TemporaryDirectory directory;
    Spool spool;
    spool.configure(directory.path(), 0);
    ASSERT_TRUE(spool.append("x").is_ok());
    struct stat info {};
    ASSERT_EQ(::fstat(spool.file(), &info), 0);
    EXPECT_EQ(info.st_nlink, 0u);
    EXPECT_EQ(info.st_mode & 0777u, 0600u);
    EXPECT_NE(::fcntl(spool.file(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Spool, ClearStartsTheNextBody) {
    const TemporaryDirectory directory;
    Spool spool;
    spool.configure(directory.path(), 10);
    ASSERT_TRUE(spool.append(pattern(100)).is_ok());
    spool.clear();
    EXPECT_TRUE(spool.in_memory());
    EXPECT_EQ(spool.size(), 0u);
    EXPECT_EQ(spool.memory(), "");
    ASSERT_TRUE(spool.append("next").is_ok());
    EXPECT_EQ(spool.memory(), "next");
    EXPECT_EQ(read_all(spool), "next");
}

TEST(Spool, FullDiskKeepsNothingOfThePieceThatDidNotFit) {
    // RLIMIT_FSIZE makes a full disk without root: a write takes what fits, the next one fails.
    const TemporaryDirectory directory;
    Spool spool;
    spool.configure(directory.path(), 100);
    ASSERT_TRUE(spool.append(pattern(3000)).is_ok());
    struct rlimit before {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit tight = {4096, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
    const Status too_much = spool.append(pattern(2000));
    Spool other;
    other.configure(directory.path(), 5000);
    const Status in_memory = other.append(pattern(5000));
    const Status while_moving = other.append("z");
    const Status fits = spool.append("1234");
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    ::signal(SIGXFSZ, old_handler);

    ASSERT_FALSE(too_much.is_ok());
    EXPECT_EQ(too_much.error().code, EFBIG);
    EXPECT_TRUE(fits.is_ok());
    EXPECT_EQ(spool.size(), 3004u);
    EXPECT_EQ(read_all(spool), pattern(3000) + "1234");
    ASSERT_TRUE(in_memory.is_ok());
    ASSERT_FALSE(while_moving.is_ok());
    EXPECT_TRUE(other.in_memory()) << "a failed move leaves everything where it was";
    EXPECT_EQ(other.memory(), pattern(5000));
}

TEST(Spool, MissingDirectoryIsAnErrorThatNamesIt) {
    Spool spool;
    spool.configure("/nonexistent/gcorn", 0);
    const Status status = spool.append("x");
    ASSERT_FALSE(status.is_ok());
    EXPECT_EQ(status.error().code, ENOENT);
    EXPECT_NE(status.message().find("/nonexistent/gcorn"), std::string::npos) << status.message();
    EXPECT_EQ(spool.size(), 0u);
}

TEST(Spool, LiesInTheDirectoryThatIsWishedFor) {
    const TemporaryDirectory directory;
    EXPECT_EQ(*find_spool_directory(directory.path()), directory.path());
    const Result<std::string> missing = find_spool_directory("/nonexistent/gcorn");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, ENOENT);
    EXPECT_NE(missing.message().find("/nonexistent/gcorn"), std::string::npos);
}

TEST(Spool, LiesInTheFirstDirectoryThatTakesAFile) {
    const TemporaryDirectory directory;
    const char* before = std::getenv("TMPDIR");
    const std::string saved = before != nullptr ? before : "";
    ::setenv("TMPDIR", directory.path().c_str(), 1);
    EXPECT_EQ(*find_spool_directory(""), directory.path());
    ::setenv("TMPDIR", "/proc/self", 1);
    EXPECT_EQ(*find_spool_directory(""), "/tmp");
    ::unsetenv("TMPDIR");
    EXPECT_EQ(*find_spool_directory(""), "/tmp");
    ::setenv("TMPDIR", "/nonexistent/gcorn", 1);
    struct rlimit files {};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
    const struct rlimit none = {0, files.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    const Result<std::string> nowhere = find_spool_directory("");
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
    ASSERT_FALSE(nowhere);
    EXPECT_NE(nowhere.message().find("/nonexistent/gcorn"), std::string::npos)
        << "the reason for the first: " << nowhere.message();
    before != nullptr ? ::setenv("TMPDIR", saved.c_str(), 1) : ::unsetenv("TMPDIR");
}

TEST(Spool, DiscardFreesDiskButKeepsPositions) {
    const TemporaryDirectory directory;
    Spool spool;
    spool.configure(directory.path(), 0);
    const std::string mib = pattern(1 << 20);
    for (int i = 0; i < 4; ++i)
        ASSERT_TRUE(spool.append(mib).is_ok());
    struct stat before {
    }, after{};
    ASSERT_EQ(::fstat(spool.file(), &before), 0);
    spool.discard_before((3u << 20) - 1);
    spool.discard_before(1);
    ASSERT_EQ(::fstat(spool.file(), &after), 0);
    EXPECT_EQ(spool.size(), uint64_t{4} << 20);
    EXPECT_LE(after.st_blocks, before.st_blocks);
#ifdef __linux__
    // Two whole MiB lie before the position; not every file system can punch holes.
    EXPECT_LE((before.st_blocks - after.st_blocks) / 2048, 2);
#endif
    std::string rest(1 << 20, '\0');
    ASSERT_EQ(*spool.read_at(2u << 20, rest.data(), rest.size()), rest.size());
    EXPECT_EQ(rest, mib);
    spool.discard_before(UINT64_MAX);
    ASSERT_TRUE(spool.append("tail").is_ok());
    char out[8];
    ASSERT_EQ(*spool.read_at(uint64_t{4} << 20, out, sizeof out), 4u);
    EXPECT_EQ(std::string_view(out, 4), "tail");
}

TEST(Spool, DiscardGoesOnAfterTheEndAndWithTheNextBody) {
    const TemporaryDirectory directory;
    Spool spool;
    spool.configure(directory.path(), 0);
    const std::string mib = pattern(1 << 20);
    const auto blocks = [&] {
        struct stat info {};
        EXPECT_EQ(::fstat(spool.file(), &info), 0);
        return info.st_blocks;
    };
    ASSERT_TRUE(spool.append(mib).is_ok());
    spool.discard_before(3u << 20);
    if (blocks() != 0) GTEST_SKIP() << "this file system cannot punch holes";
    ASSERT_TRUE(spool.append(mib).is_ok());
    spool.discard_before(2u << 20);
    EXPECT_EQ(blocks(), 0);
    spool.clear();
    ASSERT_TRUE(spool.append(mib).is_ok());
    spool.discard_before(1u << 20);
    EXPECT_EQ(blocks(), 0);
}

TEST(Spool, DiscardInMemoryChangesNothing) {
    Spool spool;
    ASSERT_TRUE(spool.append("abc").is_ok());
    spool.discard_before(2);
    EXPECT_EQ(spool.memory(), "abc");
}

}  // namespace
}  // namespace gcorn
