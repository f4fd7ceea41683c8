#include "os/scoreboard.h"

#include <atomic>
#include <csignal>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/support/guard_page.h"

namespace gcorn {
namespace {

Scoreboard make_board(size_t slots) {
    Result<Scoreboard> board = Scoreboard::create(slots);
    EXPECT_TRUE(board);
    return std::move(*board);
}

bool is_readable(int fd) {
    pollfd entry{fd, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
}

/// Runs `body` in a child of fork; its exit code.
template <typename Body>
int in_child(Body body) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(body());
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(ScoreboardRoom, GivesOutEverySlotOnceAndThenNone) {
    Scoreboard board = make_board(3);
    for (size_t i = 0; i < 3; ++i)
        EXPECT_EQ(board.claim(), i);
    EXPECT_EQ(board.claim(), board.size());
    board.free(1);
    EXPECT_EQ(board.claim(), 1u);
    EXPECT_EQ(board.claim(), 3u);
}

TEST(ScoreboardRoom, ClaimResetsWhatTheLastOwnerLeft) {
    Scoreboard board = make_board(1);
    WorkerSlot& slot = board.slot(board.claim());
    slot.beat();
    slot.state.store(WorkerState::Stopping);
    slot.requests.store(5);
    slot.wants_replacement.store(true);
    slot.begin(63, "GET", "/", "p");
    board.free(0);
    EXPECT_EQ(slot.state.load(), WorkerState::Free);
    ASSERT_EQ(board.claim(), 0u);
    EXPECT_EQ(slot.state.load(), WorkerState::Booting);
    EXPECT_EQ(slot.heartbeat_ms.load(), 0);
    EXPECT_EQ(slot.requests.load(), 0u);
    EXPECT_EQ(slot.capacity.load(), 1u);
    EXPECT_FALSE(slot.wants_replacement.load());
    ActivityView view;
    EXPECT_FALSE(slot.read(63, view));
}

TEST(ScoreboardRoom, IsSharedWithChildren) {
    Scoreboard board = make_board(2);
    const size_t index = board.claim();
    EXPECT_EQ(in_child([&] {
                  WorkerSlot& slot = board.slot(index);
                  slot.beat();
                  slot.state.store(WorkerState::Ready);
                  slot.begin(2, "POST", "/form?x=1", "10.0.0.1:5");
                  board.notify();
                  return 0;
              }),
              0);
    const WorkerSlot& slot = board.slot(index);
    EXPECT_EQ(slot.state.load(), WorkerState::Ready);
    EXPECT_GT(slot.heartbeat_ms.load(), 0);
    EXPECT_LE(slot.heartbeat_ms.load(), monotonic_ms());
    ActivityView view;
    ASSERT_TRUE(slot.read(2, view));
    EXPECT_EQ(view.method, "POST");
    EXPECT_EQ(view.target, "/form?x=1");
    EXPECT_EQ(view.peer, "10.0.0.1:5");
    EXPECT_GE(view.since_ms, slot.heartbeat_ms.load());
    EXPECT_LE(view.since_ms, monotonic_ms());
    EXPECT_TRUE(is_readable(board.notify_fd()));
    board.drain();
    EXPECT_FALSE(is_readable(board.notify_fd()));
}

TEST(ScoreboardRoom, NotifyNeverBlocks) {
    Scoreboard board = make_board(1);
    for (int i = 0; i < 70'000; ++i)
        board.notify();  // more than a pipe holds
    EXPECT_TRUE(is_readable(board.notify_fd()));
    board.drain();
    EXPECT_FALSE(is_readable(board.notify_fd()));
}

TEST(ScoreboardRoom, CutsLongTextsAtTheirCell) {
    Scoreboard board = make_board(1);
    WorkerSlot& slot = board.slot(board.claim());
    const size_t method_max = sizeof(Activity::method), target_max = sizeof(Activity::target),
                 peer_max = sizeof(Activity::peer);
    ActivityView view;
    for (const size_t excess : {size_t{0}, size_t{1}, size_t{100}}) {
        slot.begin(0, std::string(method_max + excess, 'M'), std::string(target_max + excess, 't'),
                   std::string(peer_max + excess, 'p'));
        ASSERT_TRUE(slot.read(0, view));
        EXPECT_EQ(view.method, std::string(method_max, 'M'));
        EXPECT_EQ(view.target, std::string(target_max, 't'));
        EXPECT_EQ(view.peer, std::string(peer_max, 'p'));
    }
    slot.begin(0, std::string(method_max - 1, 'M'), "", "x");
    ASSERT_TRUE(slot.read(0, view));
    EXPECT_EQ(view.method, std::string(method_max - 1, 'M'));
    EXPECT_EQ(view.target, "");
    EXPECT_EQ(view.peer, "x");
}

TEST(ScoreboardRoom, FollowsTheLifeOfARequest) {
    Scoreboard board = make_board(1);
    WorkerSlot& slot = board.slot(board.claim());
    ActivityView view;
    EXPECT_FALSE(slot.read(0, view));
    slot.begin(0, "GET", "/", "peer");
    ASSERT_TRUE(slot.read(0, view));
    slot.end(0);
    EXPECT_FALSE(slot.read(0, view));
}

TEST(ScoreboardRoom, DescribesARequestInOneSafeLine) {
    ActivityView view{.since_ms = 1000, .method = "GET", .target = "/a\nb", .peer = "10.0.0.1:5"};
    EXPECT_EQ(view.text(4140), "GET /a\\nb for 3.1 s, in the application, from 10.0.0.1:5");
    view.peer = "";
    EXPECT_EQ(view.text(1000), "GET /a\\nb for 0.0 s, in the application, from a unix socket");
}

TEST(ScoreboardRoom, SharesActivitiesBeyondTheLast) {
    Scoreboard board = make_board(1);
    WorkerSlot& slot = board.slot(board.claim());
    slot.begin(kActivitiesMax + 3, "GET", "/x", "");
    ActivityView view;
    EXPECT_TRUE(slot.read(3, view));
    slot.end(kActivitiesMax * 5 + 3);
    EXPECT_FALSE(slot.read(3, view));
}

TEST(ScoreboardRoom, AWriterThatDiedHalfWayIsNotReadAndNotWaitedFor) {
    Scoreboard board = make_board(1);
    WorkerSlot& slot = board.slot(board.claim());
    slot.begin(0, "GET", "/", "");
    EXPECT_EQ(in_child([&] {
                  ::signal(SIGSEGV, [](int) { ::_exit(9); });
                  test::GuardPage page(1);
                  const char* last = page.place("P").data();
                  slot.begin(0, "PUT", {last, 2}, "");  // dies at the second byte
                  return 0;
              }),
              9);
    ActivityView view;
    EXPECT_FALSE(slot.read(0, view));
    slot.begin(0, "PUT", "/again", "");  // the next owner repairs it
    ASSERT_TRUE(slot.read(0, view));
    EXPECT_EQ(view.method, "PUT");
}

TEST(ScoreboardRoom, ReadsOfAChangingRequestAreConsistent) {
    // The writer is another process, as in production; each record consists of one letter.
    Scoreboard board = make_board(2);
    WorkerSlot& slot = board.slot(board.claim());
    WorkerSlot& control = board.slot(board.claim());
    const pid_t pid = ::fork();
    if (pid == 0) {
        for (unsigned i = 0; control.busy.load() == 0; ++i) {
            const char letter = static_cast<char>('a' + i % 26);
            slot.begin(0, std::string(16, letter), std::string(160, letter),
                       std::string(64, letter));
            control.requests.store(i);
        }
        ::_exit(0);
    }
    int consistent = 0;
    const int64_t end_ms = monotonic_ms() + 10'000;
    while (consistent < 20'000 && monotonic_ms() < end_ms) {
        ActivityView view;
        if (!slot.read(0, view)) continue;
        const std::string all = view.method + view.target + view.peer;
        ASSERT_EQ(all, std::string(240, all[0]));
        ++consistent;
    }
    control.busy.store(1);
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(consistent, 20'000);
    EXPECT_GT(control.requests.load(), 1u);
}

TEST(ScoreboardRoom, FindsASiblingThatServes) {
    Scoreboard board = make_board(8);
    const size_t self = board.claim(), sibling = board.claim();
    board.slot(self).state.store(WorkerState::Ready);
    EXPECT_FALSE(board.has_sibling(self, Sibling::Any));  // it is booting
    board.slot(sibling).state.store(WorkerState::Ready);
    board.slot(sibling).busy.store(1);
    EXPECT_TRUE(board.has_sibling(self, Sibling::Any));
    board.slot(sibling).is_retired.store(true);
    EXPECT_FALSE(board.has_sibling(self, Sibling::Any));
    EXPECT_TRUE(board.has_sibling(sibling, Sibling::Any));
}

TEST(ScoreboardRoom, FindsAnIdleSibling) {
    Scoreboard board = make_board(8);
    const size_t self = board.claim(), sibling = board.claim();
    board.slot(self).state.store(WorkerState::Ready);
    EXPECT_FALSE(board.has_sibling(self, Sibling::Idle));  // it is booting
    board.slot(sibling).state.store(WorkerState::Ready);
    EXPECT_TRUE(board.has_sibling(self, Sibling::Idle));
    board.slot(sibling).busy.store(1);
    EXPECT_FALSE(board.has_sibling(self, Sibling::Idle));
    EXPECT_TRUE(board.has_sibling(sibling, Sibling::Idle));
    board.slot(sibling).capacity.store(2);
    EXPECT_TRUE(board.has_sibling(self, Sibling::Idle));
    board.slot(sibling).connections.store(3);
    EXPECT_FALSE(board.has_sibling(self, Sibling::Idle, 3));
    EXPECT_TRUE(board.has_sibling(self, Sibling::Idle, 4));
    board.slot(sibling).state.store(WorkerState::Stopping);
    EXPECT_FALSE(board.has_sibling(self, Sibling::Idle));
    board.free(sibling);
    EXPECT_FALSE(board.has_sibling(self, Sibling::Idle));
}

TEST(ScoreboardRoom, FindsASiblingBeyondASlotThatWasTakenAgain) {
    Scoreboard board = make_board(8);
    const size_t left = board.claim(), self = board.claim(), sibling = board.claim();
    board.slot(sibling).state.store(WorkerState::Ready);
    board.free(left);
    EXPECT_EQ(board.claim(), left);
    EXPECT_TRUE(board.has_sibling(self, Sibling::Any));
}

TEST(ScoreboardRoom, MovesWithItsMapping) {
    Scoreboard first = make_board(1);
    first.slot(first.claim()).requests.store(9);
    const Scoreboard second = std::move(first);
    EXPECT_EQ(second.slot(0).requests.load(), 9u);
    EXPECT_EQ(second.size(), 1u);
}

}  // namespace
}  // namespace gcorn
