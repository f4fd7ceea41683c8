#include "os/signals.h"

#include <cerrno>
#include <csignal>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

namespace gcorn {
namespace {

std::vector<int> interrupted;

void interrupt(void* argument, int signal) {
    errno = EDOM;  // an interrupter may be careless
    static_cast<std::vector<int>*>(argument)->push_back(signal);
}

bool is_readable(int fd) {
    pollfd entry{fd, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
}

class Signals : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_TRUE(signals::open());
        interrupted.clear();
        interrupted.reserve(16);
    }
    void TearDown() override { signals::reset_to_defaults(); }
};

TEST_F(Signals, AreQueuedInOrderAndNoneIsLost) {
    signals::catch_for_arbiter();
    EXPECT_FALSE(is_readable(signals::fd()));
    const std::vector<int> sent = {SIGTTIN, SIGTTIN, SIGHUP,  SIGTTOU, SIGTTIN, SIGUSR1,
                                   SIGUSR2, SIGTERM, SIGQUIT, SIGINT,  SIGWINCH};
    for (const int signal : sent)
        ASSERT_EQ(::raise(signal), 0);
    EXPECT_TRUE(is_readable(signals::fd()));
    EXPECT_EQ(signals::take(), sent);
    EXPECT_TRUE(signals::take().empty());
    EXPECT_FALSE(is_readable(signals::fd()));
}

TEST_F(Signals, ReportsAllDeadChildrenAtOnce) {
    signals::catch_for_arbiter();
    for (const int signal : {SIGCHLD, SIGHUP, SIGCHLD})
        ::raise(signal);
    EXPECT_EQ(signals::take(), (std::vector<int>{SIGCHLD, SIGHUP}));
    ::raise(SIGCHLD);
    EXPECT_EQ(signals::take(), std::vector<int>{SIGCHLD});
}

TEST_F(Signals, RemembersWhatTheFullPipeCouldNotTake) {
    signals::catch_for_arbiter();
    // Fills the pipe through its other end: as many signals as it holds bytes would take too long.
    const int writer = signals::fd() + 1;
    const std::vector<char> bytes(4096, SIGTTIN);
    while (::write(writer, bytes.data(), bytes.size()) > 0) {
    }
    ASSERT_EQ(errno, EAGAIN);
    ::raise(SIGTERM);
    ::raise(SIGTERM);
    ::raise(SIGHUP);
    const std::vector<int> taken = signals::take();
    ASSERT_GE(taken.size(), 3u);
    EXPECT_EQ(std::vector<int>(taken.end() - 2, taken.end()), (std::vector<int>{SIGHUP, SIGTERM}));
    EXPECT_EQ(*(taken.end() - 3), SIGTTIN);
    EXPECT_TRUE(signals::take().empty());
}

TEST_F(Signals, LeaveErrnoAlone) {
    signals::catch_for_worker(interrupt, &interrupted);
    for (const int signal : {SIGTERM, SIGINT}) {
        errno = ENOENT;
        ::raise(signal);
        EXPECT_EQ(errno, ENOENT);
    }
}

TEST_F(Signals, InterruptAWorkerOnIntQuitAndAbrt) {
    signals::catch_for_worker(interrupt, &interrupted);
    for (const int signal : {SIGTERM, SIGINT, SIGUSR1, SIGQUIT, SIGABRT})
        ::raise(signal);
    EXPECT_EQ(signals::take(), (std::vector<int>{SIGTERM, SIGINT, SIGUSR1, SIGQUIT, SIGABRT}));
    EXPECT_EQ(interrupted, (std::vector<int>{SIGINT, SIGQUIT, SIGABRT}));
}

TEST_F(Signals, ForTheWholeFamilyHurtNoWorker) {
    signals::catch_for_worker(nullptr, nullptr);
    for (const int signal : {SIGHUP, SIGUSR2, SIGWINCH, SIGPIPE, SIGXFSZ})
        ::raise(signal);
    EXPECT_TRUE(signals::take().empty());
    ::raise(SIGINT);  // no interrupter: only queued
    EXPECT_EQ(signals::take(), std::vector<int>{SIGINT});
}

TEST_F(Signals, HupAndUsr2AreHarmlessFromResetOn) {
    signals::catch_for_arbiter();
    signals::reset_to_defaults();
    ::raise(SIGHUP);
    ::raise(SIGUSR2);
    EXPECT_TRUE(signals::take().empty());
}

TEST_F(Signals, AChildThatStillBootsIsEndedByTermAndQuitWithoutACoreFile) {
    signals::catch_for_arbiter();
    for (const int signal : {SIGTERM, SIGQUIT}) {
        const pid_t pid = ::fork();
        if (pid == 0) {
            signals::reset_to_defaults();
            ::raise(signal);
            ::_exit(0);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << signal;
    }
}

TEST_F(Signals, Usr1IsQueuedFromOpenOn) {
    signals::reset_to_defaults();
    ASSERT_TRUE(signals::open());
    ::raise(SIGUSR1);
    EXPECT_EQ(signals::take(), std::vector<int>{SIGUSR1});
}

TEST_F(Signals, SentToAChildBeforeItsOwnPipeNeverReachTheParent) {
    signals::catch_for_arbiter();
    pid_t pid;
    {
        signals::Hold hold;
        pid = ::fork();
        if (pid == 0) {
            ::raise(SIGHUP);  // stays pending: all are blocked
            if (!signals::open()) ::_exit(2);
            hold.release();
            ::_exit(signals::take() == std::vector<int>{SIGHUP} ? 0 : 1);
        }
    }
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(signals::take(), std::vector<int>{SIGCHLD});
}

/// The wait status of a child that inherits our handlers, as the application's would, and is sent
/// the signal.
int status_of_child_sent(int signal) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        const rlimit no_core_file{0, 0};
        ::setrlimit(RLIMIT_CORE, &no_core_file);
        ::raise(signal);
        ::_exit(0);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return status;
}

TEST_F(Signals, ThatAskAChildOfTheApplicationToEndDoSoAndDoNotReachItsParent) {
    signals::catch_for_worker(interrupt, &interrupted);
    for (const int signal : {SIGTERM, SIGINT, SIGABRT}) {
        const int status = status_of_child_sent(signal);
        EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << signal << " " << status;
    }
    const int status = status_of_child_sent(SIGQUIT);  // without a core file
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
    EXPECT_EQ(status_of_child_sent(SIGUSR1), 0);
    EXPECT_TRUE(signals::take().empty());
    EXPECT_TRUE(interrupted.empty());
}

TEST_F(Signals, ThatAskAChildOfAHookToEndDoSoAndDoNotReachTheArbiter) {
    signals::catch_for_arbiter();
    for (const int signal : {SIGTERM, SIGINT}) {
        const int status = status_of_child_sent(signal);
        EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << signal << " " << status;
    }
    for (const int signal : {SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGTTIN, SIGTTOU, SIGCHLD}) {
        EXPECT_EQ(status_of_child_sent(signal), 0) << signal;
    }
    EXPECT_EQ(signals::take(), std::vector<int>{SIGCHLD});
}

TEST_F(Signals, AreDeliveredWhenAHoldEnds) {
    signals::catch_for_arbiter();
    {
        signals::Hold hold;
        ::raise(SIGTERM);
        EXPECT_TRUE(signals::take().empty());
    }
    EXPECT_EQ(signals::take(), std::vector<int>{SIGTERM});
}

TEST_F(Signals, OfTheArbiterComeBackAfterCodeThatTookThem) {
    signals::catch_for_arbiter();
    {
        signals::ArbiterHandlers handlers;
        handlers.interrupt_with([](void*, int signal) { interrupted.push_back(signal); });
        for (const int signal : {SIGHUP, SIGTERM, SIGINT})
            ASSERT_EQ(::raise(signal), 0);
        EXPECT_EQ(interrupted, (std::vector<int>{SIGTERM, SIGINT}));
        ::signal(SIGHUP, SIG_IGN);
        ::signal(SIGTERM, SIG_IGN);
    }
    for (const int signal : {SIGTERM, SIGHUP})
        ASSERT_EQ(::raise(signal), 0);
    EXPECT_EQ(interrupted.size(), 2u);
    EXPECT_EQ(signals::take(), (std::vector<int>{SIGHUP, SIGTERM, SIGINT, SIGTERM, SIGHUP}));
}

TEST_F(Signals, DoNotReachAThreadThatBlocksThem) {
    std::thread([] {
        signals::block_all_in_this_thread();
        sigset_t blocked;
        sigemptyset(&blocked);
        pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
        for (const int signal : {SIGTERM, SIGINT, SIGQUIT, SIGABRT, SIGUSR1, SIGCHLD}) {
            EXPECT_EQ(sigismember(&blocked, signal), 1);
        }
    }).join();
}

TEST_F(Signals, PipeIsClosedOnExecAndNonBlocking) {
    for (const int fd : {signals::fd(), signals::fd() + 1}) {
        EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
        EXPECT_NE(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    }
}

TEST_F(Signals, HaveNames) {
    EXPECT_EQ(signals::name(SIGTERM), "SIGTERM");
    EXPECT_EQ(signals::name(SIGSEGV), "SIGSEGV");
    EXPECT_EQ(signals::name(SIGTTOU), "SIGTTOU");
    EXPECT_EQ(signals::name(42), "SIG42");
}

}  // namespace
}  // namespace gcorn
