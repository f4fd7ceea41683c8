#include "net/relay.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/support/loop_fixture.h"

namespace gcorn {
namespace {

using testing::Client;

class RelayTest : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_TRUE(relay_.open());
        auto opened = Listener::open(*parse_bind("127.0.0.1:0"), {});
        ASSERT_TRUE(opened) << opened.message();
        listener_ = std::move(*opened);
    }
    /// The server's side of a new connection.
    Accepted accept() {
        pollfd entry{listener_->fd(), POLLIN, 0};
        EXPECT_EQ(::poll(&entry, 1, 10'000), 1);
        return listener_->accept();
    }
    const Fd& accept_once(const Client&) {
        if (!accepted_) accepted_ = accept().fd;
        return accepted_;
    }
    bool is_waiting() {
        pollfd entry{relay_.fd(), POLLIN, 0};
        return ::poll(&entry, 1, 0) == 1;
    }
    static std::string peek(const Fd& fd) {
        char bytes[100];
        const ssize_t got = ::recv(fd.get(), bytes, sizeof bytes, MSG_DONTWAIT);
        return got > 0 ? std::string(bytes, static_cast<size_t>(got)) : "";
    }

    Relay relay_;
    std::unique_ptr<Listener> listener_;
    size_t index_ = 0;
    std::string preamble_;
    Fd accepted_;
};

TEST_F(RelayTest, GivesAConnectionWithWhatWaitsInIt) {
    EXPECT_TRUE(::fcntl(relay_.fd(), F_GETFD) & FD_CLOEXEC);
    EXPECT_EQ(relay_.take(index_, preamble_).status, AcceptStatus::Nothing);
    Client client(listener_->address());
    ASSERT_TRUE(client.send("request"));
    Accepted connection = accept();
    const Address peer = connection.peer;
    ASSERT_TRUE(relay_.give(connection.fd.get(), 7, "PROXY"));
    connection.fd.reset();
    EXPECT_TRUE(is_waiting());
    Accepted taken = relay_.take(index_, preamble_);
    ASSERT_EQ(taken.status, AcceptStatus::Connection);
    EXPECT_EQ(index_, 7u);
    EXPECT_EQ(preamble_, "PROXY");
    EXPECT_TRUE(taken.peer == peer);
    EXPECT_TRUE(::fcntl(taken.fd.get(), F_GETFD) & FD_CLOEXEC);
    EXPECT_EQ(peek(taken.fd), "request");
    EXPECT_EQ(::send(taken.fd.get(), "answer", 6, 0), 6);
    EXPECT_EQ(client.read_until("answer"), "answer");
    EXPECT_FALSE(is_waiting());
    EXPECT_EQ(relay_.take(index_, preamble_).status, AcceptStatus::Nothing);
}

/// Else a program that the application starts could keep connections of clients that are gone.
TEST_F(RelayTest, LeavesNoEndToOtherPrograms) {
    int ends = 0;
    for (int fd = STDERR_FILENO + 1; fd <= relay_.fd() + 1; ++fd) {
        Address own;
        own.size = sizeof own.storage;
        if (::getsockname(fd, own.raw(), &own.size) != 0 || !own.is_unix()) continue;
        EXPECT_TRUE(::fcntl(fd, F_GETFD) & FD_CLOEXEC);
        ++ends;
    }
    EXPECT_GE(ends, 2);
}

TEST_F(RelayTest, IsFullAtSomeTimeAndLosesNone) {
    std::vector<Client> clients;
    std::vector<Fd> refused;
    while (refused.empty()) {
        ASSERT_LT(clients.size(), 10'000u);
        ASSERT_TRUE(
            clients.emplace_back(listener_->address()).send(std::to_string(clients.size())));
        Accepted connection = accept();
        if (!relay_.give(connection.fd.get(), clients.size(), ""))
            refused.push_back(std::move(connection.fd));
    }
    ASSERT_GT(clients.size(), 1u);
    for (size_t i = 1; i < clients.size(); ++i) {
        const Accepted taken = relay_.take(index_, preamble_);
        ASSERT_EQ(taken.status, AcceptStatus::Connection);
        EXPECT_EQ(index_, i);
        EXPECT_EQ(peek(taken.fd), std::to_string(i));
    }
    EXPECT_TRUE(relay_.give(refused[0].get(), 0, ""));
}

TEST_F(RelayTest, AClientThatResetMeanwhileIsNoConnection) {
    Client client(listener_->address());
    Accepted connection = accept();
    ASSERT_TRUE(relay_.give(connection.fd.get(), 0, ""));
    connection.fd.reset();
    client.reset();
    const Accepted taken = relay_.take(index_, preamble_);
    EXPECT_EQ(taken.status, AcceptStatus::Aborted);
    EXPECT_FALSE(taken.fd);
    EXPECT_EQ(relay_.take(index_, preamble_).status, AcceptStatus::Nothing);
}

TEST_F(RelayTest, WithoutADescriptorItWaits) {
    Client client(listener_->address());
    Accepted connection = accept();
    ASSERT_TRUE(relay_.give(connection.fd.get(), 3, ""));
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit none = {static_cast<rlim_t>(Fd(::dup(relay_.fd())).get()), before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    const Accepted taken = relay_.take(index_, preamble_);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_EQ(taken.status, AcceptStatus::OutOfResources);
    EXPECT_EQ(taken.error, EMFILE);
    EXPECT_EQ(relay_.take(index_, preamble_).status, AcceptStatus::Connection);
    EXPECT_EQ(index_, 3u);
}

TEST_F(RelayTest, AClosedOneTakesNothing) {
    EXPECT_EQ(Relay().fd(), -1);
    EXPECT_FALSE(Relay().give(0, 0, ""));
    relay_.close();
    EXPECT_FALSE(relay_.give(0, 0, ""));
    EXPECT_EQ(relay_.fd(), -1);
}

TEST_F(RelayTest, SendsALongPreamble) {
    Client client(listener_->address());
    for (const size_t size : {Relay::kPreambleMax, size_t{0}, size_t{1}}) {
        ASSERT_TRUE(relay_.give(accept_once(client).get(), 0, std::string(size, 'p')));
        EXPECT_EQ(relay_.take(index_, preamble_).status, AcceptStatus::Connection);
        EXPECT_EQ(preamble_, std::string(size, 'p'));
    }
}

TEST_F(RelayTest, KnowsAPeerWithoutAName) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    const Fd client(ends[0]);
    Fd server(ends[1]);
    ASSERT_TRUE(relay_.give(server.get(), 0, ""));
    const Accepted taken = relay_.take(index_, preamble_);
    EXPECT_EQ(taken.status, AcceptStatus::Connection);
    EXPECT_TRUE(taken.peer.is_unix());
}

}  // namespace
}  // namespace gcorn
