#include "net/poller.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"

namespace gcorn {
namespace {

/// Long enough never to pass in a test that works.
constexpr int kLongMs = 10'000;

struct Pair : EventTarget {
    Pair() {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
        mine.reset(ends[0]);
        theirs.reset(ends[1]);
    }
    void on_event(const PollEvent&) override {}
    void make_readable() const { EXPECT_EQ(::write(theirs.get(), "x", 1), 1); }
    void read_one() const {
        char byte = 0;
        EXPECT_EQ(::read(mine.get(), &byte, 1), 1);
    }
    Fd mine, theirs;
};

class PollerTest : public testing::Test {
protected:
    void SetUp() override { ASSERT_TRUE(poller.open().is_ok()); }
    void add(Pair& pair, Interest interest) {
        const Status status = poller.add(pair.mine.get(), interest, &pair);
        ASSERT_TRUE(status.is_ok()) << status.message();
    }
    Poller poller;
};

TEST_F(PollerTest, NothingWatchedIsATimer) {
    const int64_t start = monotonic_ms();
    EXPECT_TRUE(poller.wait(0).empty());
    EXPECT_TRUE(poller.wait(20).empty());
    EXPECT_GE(monotonic_ms() - start, 19);
}

TEST_F(PollerTest, ReportsReadableWithItsTargetAsLongAsBytesWait) {
    Pair pair;
    add(pair, Interest::Read);
    EXPECT_TRUE(poller.wait(0).empty());
    pair.make_readable();
    for (int round = 0; round < 2; ++round) {
        const auto events = poller.wait(kLongMs);
        ASSERT_EQ(events.size(), 1u);
        EXPECT_EQ(events[0].target, &pair);
        EXPECT_TRUE(events[0].readable);
        EXPECT_FALSE(events[0].writable);
        EXPECT_FALSE(events[0].hangup);
    }
    pair.read_one();
    EXPECT_TRUE(poller.wait(0).empty());
}

TEST_F(PollerTest, SetChangesInterestAndTarget) {
    Pair pair;
    Pair other;
    add(pair, Interest::None);
    pair.make_readable();
    EXPECT_TRUE(poller.wait(0).empty());
    poller.set(pair.mine.get(), Interest::Write, &other);
    auto events = poller.wait(kLongMs);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].target, &other);
    EXPECT_TRUE(events[0].writable);
    EXPECT_FALSE(events[0].readable);
    poller.set(pair.mine.get(), Interest::ReadWrite, &pair);
    events = poller.wait(kLongMs);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].target, &pair);
    EXPECT_TRUE(events[0].readable && events[0].writable);
}

TEST_F(PollerTest, EndOfStreamIsReadableAndHangup) {
    Pair pair;
    add(pair, Interest::Read);
    pair.theirs.reset();
    const auto events = poller.wait(kLongMs);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_TRUE(events[0].readable);
    EXPECT_TRUE(events[0].hangup);
}

TEST_F(PollerTest, HalfCloseIsReadableButNoHangup) {
    Pair pair;
    add(pair, Interest::Read);
    ASSERT_EQ(::shutdown(pair.theirs.get(), SHUT_WR), 0);
    const auto events = poller.wait(kLongMs);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_TRUE(events[0].readable);
    EXPECT_FALSE(events[0].hangup);
}

TEST_F(PollerTest, HangupIsReportedWithoutInterest) {
    Pair pair;
    add(pair, Interest::None);
    pair.theirs.reset();
    const auto events = poller.wait(kLongMs);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_TRUE(events[0].hangup);
}

TEST_F(PollerTest, AnErrorIsAHangup) {
    // A pipe without a reader has an error (POLLERR) but no hang-up (POLLHUP).
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    Pair pipe;
    pipe.mine.reset(ends[1]);
    add(pipe, Interest::None);
    ::close(ends[0]);
    const auto events = poller.wait(kLongMs);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_TRUE(events[0].hangup);
}

TEST_F(PollerTest, RemovedDescriptorsAreSilent) {
    Pair pair;
    add(pair, Interest::Read);
    pair.make_readable();
    poller.remove(pair.mine.get(), &pair);
    EXPECT_TRUE(poller.wait(0).empty());
    add(pair, Interest::Read);
    EXPECT_EQ(poller.wait(kLongMs).size(), 1u) << "and may come back";
}

TEST_F(PollerTest, RemovingDropsAnEventNotYetLookedAt) {
    Pair first, second;
    add(first, Interest::Read);
    add(second, Interest::Read);
    first.make_readable();
    second.make_readable();
    const auto events = poller.wait(kLongMs);
    ASSERT_EQ(events.size(), 2u);
    Pair& doomed = events[0].target == &first ? second : first;
    poller.remove(doomed.mine.get(), &doomed);
    EXPECT_NE(events[0].target, nullptr);
    EXPECT_EQ(events[1].target, nullptr);
}

TEST_F(PollerTest, WatchingTwiceOrNothingIsAnError) {
    Pair pair;
    add(pair, Interest::Read);
    const Status twice = poller.add(pair.mine.get(), Interest::Read, &pair);
    ASSERT_FALSE(twice.is_ok());
    EXPECT_EQ(twice.error().code, EEXIST);
    const Status nothing = poller.add(-1, Interest::Read, &pair);
    ASSERT_FALSE(nothing.is_ok());
    EXPECT_EQ(nothing.error().code, EBADF);
}

TEST_F(PollerTest, WakeEndsAWaitFromAnotherThread) {
    std::thread other([this] { poller.wake(); });
    const int64_t start = monotonic_ms();
    EXPECT_TRUE(poller.wait(kLongMs).empty());
    EXPECT_LT(monotonic_ms() - start, kLongMs / 2);
    other.join();
}

TEST_F(PollerTest, WakeBeforeAWaitEndsTheNextOneOnly) {
    for (int i = 0; i < 100; ++i)
        poller.wake();
    EXPECT_TRUE(poller.wait(kLongMs).empty());
    const int64_t start = monotonic_ms();
    EXPECT_TRUE(poller.wait(20).empty());
    EXPECT_GE(monotonic_ms() - start, 19) << "all wake-ups together are one";
}

TEST_F(PollerTest, WakeKeepsErrnoForSignalHandlers) {
    errno = ENOTTY;
    // More often than a pipe has room for.
    for (int i = 0; i < 20'000; ++i)
        poller.wake();
    EXPECT_EQ(errno, ENOTTY);
    EXPECT_TRUE(poller.wait(kLongMs).empty());
}

TEST_F(PollerTest, WakeComesTogetherWithEvents) {
    Pair pair;
    add(pair, Interest::Read);
    pair.make_readable();
    poller.wake();
    const auto events = poller.wait(kLongMs);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].target, &pair);
}

TEST_F(PollerTest, SignalEndsAWait) {
    struct sigaction action {
    }, before{};
    action.sa_handler = [](int) {};
    ASSERT_EQ(::sigaction(SIGALRM, &action, &before), 0);
    // Repeated, in case one comes before the wait.
    const itimerval every_10ms{{0, 10'000}, {0, 10'000}}, off{};
    ASSERT_EQ(::setitimer(ITIMER_REAL, &every_10ms, nullptr), 0);
    const int64_t start = monotonic_ms();
    EXPECT_TRUE(poller.wait(kLongMs).empty());
    EXPECT_LT(monotonic_ms() - start, kLongMs / 2);
    EXPECT_TRUE(poller.was_interrupted());
    ::setitimer(ITIMER_REAL, &off, nullptr);
    EXPECT_TRUE(poller.wait(0).empty());
    EXPECT_FALSE(poller.was_interrupted());
    ::sigaction(SIGALRM, &before, nullptr);
}

TEST_F(PollerTest, MoreReadyDescriptorsThanASpanHoldsAllGetTheirTurn) {
    std::vector<Pair> pairs(300);
    for (Pair& pair : pairs) {
        add(pair, Interest::Read);
        pair.make_readable();
    }
    std::set<void*> seen;
    for (int round = 0; round < 2; ++round) {
        const auto events = poller.wait(kLongMs);
        EXPECT_LE(events.size(), 256u);
        for (const PollEvent& event : events)
            seen.insert(event.target);
    }
    EXPECT_EQ(seen.size(), pairs.size()) << "nobody read a byte, and yet nobody starved";
}

TEST_F(PollerTest, TargetsStayRightWhileDescriptorsComeAndGo) {
    std::vector<Pair> pairs(20);
    for (Pair& pair : pairs)
        add(pair, Interest::Read);
    for (size_t i = 0; i < pairs.size(); i += 3)
        poller.remove(pairs[i].mine.get(), &pairs[i]);
    for (size_t i = 0; i < pairs.size(); i += 6)
        add(pairs[i], Interest::Read);
    for (Pair& pair : pairs)
        pair.make_readable();
    std::set<void*> seen, expected;
    for (size_t i = 0; i < pairs.size(); ++i)
        if (i % 3 != 0 || i % 6 == 0) expected.insert(&pairs[i]);
    for (const PollEvent& event : poller.wait(kLongMs))
        seen.insert(event.target);
    EXPECT_EQ(seen, expected);
}

TEST_F(PollerTest, OwnDescriptorsAreCloseOnExec) {
    // Checks the descriptors between the lowest free one before and after opening a second poller.
    const int low = ::dup(0);
    ::close(low);
    Poller second;
    ASSERT_TRUE(second.open().is_ok());
    const int high = ::dup(0);
    ::close(high);
    ASSERT_GT(high, low);
    for (int fd = low; fd < high; ++fd)
        EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << fd;
}

}  // namespace
}  // namespace gcorn
