#include "os/systemd.h"

#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "tests/support/notify_socket.h"

namespace gcorn::systemd {
namespace {

using gcorn::testing::NotifySocket;

class Systemd : public ::testing::Test {
protected:
    void SetUp() override { clear(); }
    void TearDown() override { clear(); }
    static void clear() {
        for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID",
                                 "LISTEN_FDS", "LISTEN_FDNAMES"})
            ::unsetenv(name);
    }
    static void set(const char* name, const std::string& value) {
        ::setenv(name, value.c_str(), 1);
    }
};

TEST_F(Systemd, SendsItsMessagesToPathAndAbstractSockets) {
    for (const bool is_abstract : {false, true}) {
        NotifySocket socket(is_abstract);
        set("NOTIFY_SOCKET", socket.name());
        const Notifier notifier;
        EXPECT_TRUE(notifier.is_active());
        EXPECT_TRUE(notifier.ready("all is well"));
        EXPECT_EQ(socket.receive(), "READY=1\nSTATUS=all is well");
        EXPECT_TRUE(notifier.stopping());
        EXPECT_EQ(socket.receive(), "STOPPING=1");
        EXPECT_TRUE(notifier.main_pid(77));
        EXPECT_EQ(socket.receive(), "MAINPID=77");
        EXPECT_TRUE(notifier.watchdog());
        EXPECT_EQ(socket.receive(), "WATCHDOG=1");
        EXPECT_EQ(socket.receive(), "");
    }
}

/// With NotifyAccess=main systemd listens only to the main process of the moment: each message must
/// come from that one.
TEST_F(Systemd, ReclaimsItsPlaceThroughAnotherProcess) {
    NotifySocket socket(true);
    set("NOTIFY_SOCKET", socket.name());
    std::vector<std::pair<pid_t, std::string>> messages;
    std::thread supervisor([&] {
        const int64_t deadline_ms = monotonic_ms() + 10'000;
        while (monotonic_ms() < deadline_ms) {
            const std::string message = socket.receive();
            if (!message.empty()) messages.emplace_back(socket.sender(), message);
            if (message == "BARRIER=1") return;
            ::usleep(1000);
        }
    });
    EXPECT_TRUE(Notifier().reclaim_main_pid());
    supervisor.join();
    ASSERT_EQ(messages.size(), 3U);
    const pid_t self = ::getpid();
    EXPECT_EQ(messages[0].first, self);
    const pid_t other = messages[1].first;
    EXPECT_NE(other, self);
    EXPECT_EQ(messages[0].second, "MAINPID=" + std::to_string(other));
    EXPECT_EQ(messages[1].second, "MAINPID=" + std::to_string(self));
    EXPECT_EQ(messages[2].first, self);
    EXPECT_EQ(::waitpid(other, nullptr, WNOHANG), -1);  // nothing is left of it
}

TEST_F(Systemd, ReclaimingWaitsForNoDeafSupervisor) {
    NotifySocket socket(true);
    set("NOTIFY_SOCKET", socket.name());
    const int64_t before_ms = monotonic_ms();
    EXPECT_TRUE(Notifier().reclaim_main_pid());
    EXPECT_LT(monotonic_ms() - before_ms, 3000);
}

TEST_F(Systemd, ReloadingCarriesTheMonotonicClock) {
    NotifySocket socket(true);
    set("NOTIFY_SOCKET", socket.name());
    const int64_t before_us = monotonic_us();
    EXPECT_TRUE(Notifier().reloading());
    const std::string message = socket.receive();
    const std::string start = "RELOADING=1\nMONOTONIC_USEC=";
    ASSERT_EQ(message.substr(0, start.size()), start);
    const int64_t told_us = std::stoll(message.substr(start.size()));
    EXPECT_GE(told_us, before_us);
    EXPECT_LE(told_us, monotonic_us());
}

TEST_F(Systemd, WithoutASocketEverythingIsSilentlyFine) {
    for (const char* name : {"", "relative", "/", "@", "vsock:2:1234"}) {
        if (*name != '\0') set("NOTIFY_SOCKET", name);
        const Notifier notifier;
        EXPECT_FALSE(notifier.is_active()) << name;
        EXPECT_TRUE(notifier.ready("x"));
        EXPECT_EQ(notifier.watchdog_interval_ms(), 0);
    }
}

TEST_F(Systemd, AnUnreachableSocketIsAnError) {
    set("NOTIFY_SOCKET", "/tmp/gcorn-no-such-socket");
    EXPECT_FALSE(Notifier().ready("x"));
    set("NOTIFY_SOCKET", "/" + std::string(sizeof(sockaddr_un::sun_path) - 1, 'x'));
    EXPECT_FALSE(Notifier().ready("x"));
}

TEST_F(Systemd, AWatchdogMessageWaitsForNobody) {
    NotifySocket socket(true);
    set("NOTIFY_SOCKET", socket.name());
    const Notifier notifier;
    Status status;
    for (int i = 0; i < 10'000 && status; ++i)
        status = notifier.watchdog();
    ASSERT_FALSE(status);  // nobody reads: the queue is full
    const int64_t before_ms = monotonic_ms();
    EXPECT_EQ(notifier.watchdog().error().code, EAGAIN);
    EXPECT_LT(monotonic_ms() - before_ms, 500);
    EXPECT_FALSE(notifier.ready("x"));
    EXPECT_GE(monotonic_ms() - before_ms, 900);  // this message is worth a second of waiting
}

TEST_F(Systemd, WatchdogIsDueAfterHalfOfItsTime) {
    set("NOTIFY_SOCKET", "@gcorn");
    set("WATCHDOG_USEC", "30000000");
    EXPECT_EQ(Notifier().watchdog_interval_ms(), 15'000);
    set("WATCHDOG_PID", std::to_string(::getpid()));
    EXPECT_EQ(Notifier().watchdog_interval_ms(), 15'000);
    set("WATCHDOG_PID", std::to_string(::getppid()));
    EXPECT_EQ(Notifier().watchdog_interval_ms(), 0);
    ::unsetenv("WATCHDOG_PID");
    set("WATCHDOG_USEC", "1");  // never a busy loop
    EXPECT_EQ(Notifier().watchdog_interval_ms(), 1);
    for (const char* bad : {"0", "", "x", "-1", "99999999999999999999"}) {
        set("WATCHDOG_USEC", bad);
        EXPECT_EQ(Notifier().watchdog_interval_ms(), 0) << bad;
    }
}

TEST_F(Systemd, TakesNoDescriptorsThatAreForAnotherProcess) {
    set("LISTEN_FDS", "1");
    EXPECT_TRUE(take_listen_fds().empty());
    set("LISTEN_PID", std::to_string(::getppid()));
    EXPECT_TRUE(take_listen_fds().empty());
    EXPECT_NE(std::getenv("LISTEN_FDS"), nullptr);
    set("LISTEN_PID", "nonsense");
    EXPECT_TRUE(take_listen_fds().empty());
}

/// Runs `body` in a child, which may rearrange its descriptors from 3 on.
template <typename Body>
int in_child(Body body) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(body());
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(Systemd, TakesOpenDescriptorsAndRemovesTheVariables) {
    EXPECT_EQ(in_child([] {
                  if (::dup2(0, 3) != 3 || ::dup2(0, 4) != 4) return 1;
                  ::close(5);
                  set("LISTEN_PID", std::to_string(::getpid()));
                  set("LISTEN_FDS", "3");  // one more than there are
                  set("LISTEN_FDNAMES", "a:b:c");
                  if (take_listen_fds() != std::vector<int>{3, 4}) return 2;
                  if ((::fcntl(4, F_GETFD) & FD_CLOEXEC) == 0) return 3;
                  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})
                      if (std::getenv(name) != nullptr) return 4;
                  return take_listen_fds().empty() ? 0 : 5;
              }),
              0);
}

TEST_F(Systemd, SurvivesANonsensicalCount) {
    set("LISTEN_PID", std::to_string(::getpid()));
    set("LISTEN_FDS", "18446744073709551615");
    const int status = in_child([] {
        set("LISTEN_PID", std::to_string(::getpid()));
        for (int fd = 3; fd < 2000; ++fd)
            ::close(fd);
        return static_cast<int>(take_listen_fds().size());
    });
    EXPECT_EQ(status, 0);
}

TEST_F(Systemd, DescriptorsSurviveAnExecWhicheverNumbersWereFree) {
    EXPECT_EQ(in_child([] {
                  if (::dup2(0, 10) != 10) return 1;
                  ::close(3);
                  std::vector<std::string> environment;
                  if (!pass_listen_fds({10}, environment)) return 2;
                  return ::fcntl(3, F_GETFD) == 0 ? 0 : 3;
              }),
              0);
}

TEST_F(Systemd, PassesDescriptorsOnInOrder) {
    EXPECT_EQ(in_child([] {
                  // The source descriptors overlap the numbers that they must get.
                  int ends[2];
                  if (::pipe(ends) != 0) return 1;
                  if (::dup2(ends[0], 10) != 10 || ::dup2(ends[1], 3) != 3) return 2;
                  std::vector<std::string> environment;
                  if (!pass_listen_fds({10, 3}, environment)) return 3;
                  const std::vector<std::string> expected = {
                      "LISTEN_PID=" + std::to_string(::getpid()), "LISTEN_FDS=2"};
                  if (environment != expected) return 4;
                  // 3 is the read end now, 4 the write end, and both survive an exec.
                  char byte = 0;
                  if (::write(4, "x", 1) != 1 || ::read(3, &byte, 1) != 1 || byte != 'x') return 5;
                  return (::fcntl(3, F_GETFD) & FD_CLOEXEC) == 0 ? 0 : 6;
              }),
              0);
}

}  // namespace
}  // namespace gcorn::systemd
