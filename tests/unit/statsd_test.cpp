#include "log/statsd.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace gcorn {
namespace {

constexpr int kDeadlineMs = 5000;

/// A statsd server: a bound datagram socket.
class Receiver {
public:
    void bind_udp(in_port_t port = 0) {
        socket_.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        sockaddr_in name{};
        name.sin_family = AF_INET;
        name.sin_port = htons(port);
        name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        ASSERT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
        socklen_t size = sizeof name;
        ASSERT_EQ(::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&name), &size), 0);
        port_ = ntohs(name.sin_port);
    }
    void bind_unix(const std::string& path) {
        socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        sockaddr_un name{};
        name.sun_family = AF_UNIX;
        path.copy(name.sun_path, sizeof name.sun_path - 1);
        ASSERT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    }
    void close() { socket_.reset(); }
    [[nodiscard]] in_port_t port() const { return port_; }
    [[nodiscard]] std::string host() const { return "127.0.0.1:" + std::to_string(port_); }

    /// The next datagram, or "(nothing)" at the deadline.
    std::string next(int deadline_ms = kDeadlineMs) {
        struct pollfd item {};
        item.fd = socket_.get();
        item.events = POLLIN;
        char bytes[4096];
        if (::poll(&item, 1, deadline_ms) != 1) return "(nothing)";
        const ssize_t size = ::recv(socket_.get(), bytes, sizeof bytes, 0);
        return size < 0 ? "(error)" : std::string(bytes, static_cast<size_t>(size));
    }

private:
    Fd socket_;
    in_port_t port_ = 0;
};

class StatsdTest : public ::testing::Test {
protected:
    void SetUp() override {
        char path[] = "/tmp/gcorn-statsd-XXXXXX";
        ASSERT_NE(::mkdtemp(path), nullptr);
        directory_ = path;
    }
    void TearDown() override {
        ::unlink(socket_path().c_str());
        ::rmdir(directory_.c_str());
    }
    [[nodiscard]] std::string socket_path() const { return directory_ + "/statsd.sock"; }

    Receiver receiver_;
    Statsd statsd_;
    std::string directory_;
};

TEST(Statsd, AcceptsTheDocumentedAddresses) {
    for (const char* host : {"localhost", "localhost:8125", "127.0.0.1:1", "[::1]:65535", "[::1]",
                             "unix:8125", ":8125", "unix:///run/statsd.sock", "unix://x"})
        EXPECT_TRUE(validate_statsd_host(host).is_ok()) << host;
}

TEST(Statsd, RefusesOtherAddressesWithGunicornsSentence) {
    for (const char* host : {"host:", "host:port", "host:0", "host:65536", "host:-1", "host:80:90",
                             "unix://", "[::1", "[]:80", "[::1]80", "host:+80"}) {
        const Status status = validate_statsd_host(host);
        ASSERT_FALSE(status.is_ok()) << host;
        EXPECT_EQ(status.message(), "Value must be one of ('host:port', 'unix://PATH')") << host;
    }
}

TEST_F(StatsdTest, SendsCounterDurationAndStatusOfARequest) {
    receiver_.bind_udp();
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    statsd_.request(404, 12'345);
    EXPECT_EQ(receiver_.next(), "gunicorn.request.duration:12.345|ms");
    EXPECT_EQ(receiver_.next(), "gunicorn.requests:1|c|@1.0");
    EXPECT_EQ(receiver_.next(), "gunicorn.request.status.404:1|c|@1.0");
}

TEST_F(StatsdTest, WritesDurationsAsPythonWritesFloats) {
    receiver_.bind_udp();
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    const std::pair<int64_t, const char*> cases[] = {
        {0, "0.0"},    {1, "0.001"},       {10, "0.01"},     {993, "0.993"},
        {1000, "1.0"}, {1100, "1.1"},      {12'000, "12.0"}, {60'000'010, "60000.01"},
        {-3, "0.0"},   {100'000, "100.0"},
    };
    for (const auto& [us, text] : cases) {
        statsd_.request(200, us);
        EXPECT_EQ(receiver_.next(), std::string("gunicorn.request.duration:") + text + "|ms");
        receiver_.next();
        receiver_.next();
    }
}

TEST_F(StatsdTest, SendsTheGauges) {
    receiver_.bind_udp();
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    statsd_.workers(4);
    EXPECT_EQ(receiver_.next(), "gunicorn.workers:4|g");
    statsd_.backlog(17);
    EXPECT_EQ(receiver_.next(), "gunicorn.backlog:17|h");
}

TEST_F(StatsdTest, PutsOneDotBehindThePrefix) {
    receiver_.bind_udp();
    const std::pair<const char*, const char*> cases[] = {
        {"shop", "shop.gunicorn.workers:1|g"},    {"shop.", "shop.gunicorn.workers:1|g"},
        {"shop...", "shop.gunicorn.workers:1|g"}, {"a.b.", "a.b.gunicorn.workers:1|g"},
        {"x", "x.gunicorn.workers:1|g"},          {"..", "gunicorn.workers:1|g"},
    };
    for (const auto& [prefix, datagram] : cases) {
        ASSERT_TRUE(statsd_.open({receiver_.host(), prefix, ""}).is_ok());
        statsd_.workers(1);
        EXPECT_EQ(receiver_.next(), datagram) << prefix;
    }
}

TEST_F(StatsdTest, AppendsDogstatsdTags) {
    receiver_.bind_udp();
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", "env:prod,app:shop"}).is_ok());
    statsd_.request(200, 1000);
    EXPECT_EQ(receiver_.next(), "gunicorn.request.duration:1.0|ms|#env:prod,app:shop");
    EXPECT_EQ(receiver_.next(), "gunicorn.requests:1|c|@1.0|#env:prod,app:shop");
    EXPECT_EQ(receiver_.next(), "gunicorn.request.status.200:1|c|@1.0|#env:prod,app:shop");
}

TEST_F(StatsdTest, CountsLogRecordsFromWarningUp) {
    receiver_.bind_udp();
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    Logger logger;
    LogOptions options;
    options.errorlog = "";
    options.level = Level::Critical;  // counting does not depend on the log level
    ASSERT_TRUE(logger.open(options).is_ok());
    logger.set_counter(&statsd_);
    logger.debug("d");
    logger.info("i");
    logger.warning("w");
    logger.error("e");
    logger.error("Error handling request /\nTraceback (most recent call last):\n  x");
    logger.critical("c");
    EXPECT_EQ(receiver_.next(), "gunicorn.log.warning:1|c|@1.0");
    EXPECT_EQ(receiver_.next(), "gunicorn.log.error:1|c|@1.0");
    EXPECT_EQ(receiver_.next(), "gunicorn.log.exception:1|c|@1.0");
    EXPECT_EQ(receiver_.next(), "gunicorn.log.critical:1|c|@1.0");
}

TEST_F(StatsdTest, SendsNothingBeforeItIsOpened) {
    EXPECT_FALSE(statsd_.is_enabled());
    statsd_.request(200, 5);
    statsd_.workers(1);
    statsd_.error_record(Level::Error, "x");
    statsd_.reopen();
    EXPECT_FALSE(statsd_.is_enabled());
}

TEST_F(StatsdTest, CanBeTurnedOffAndOnAgain) {
    receiver_.bind_udp();
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    ASSERT_TRUE(statsd_.open({}).is_ok());
    EXPECT_FALSE(statsd_.is_enabled());
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    EXPECT_TRUE(statsd_.is_enabled()) << "the address is known, but its socket was closed";
}

TEST_F(StatsdTest, SpeaksToAUnixSocket) {
    receiver_.bind_unix(socket_path());
    ASSERT_TRUE(statsd_.open({"unix://" + socket_path(), "", ""}).is_ok());
    statsd_.workers(2);
    EXPECT_EQ(receiver_.next(), "gunicorn.workers:2|g");
}

TEST_F(StatsdTest, FindsAUnixServerThatComesLaterAndOneThatWasRestarted) {
    ASSERT_TRUE(statsd_.open({"unix://" + socket_path(), "", ""}).is_ok());
    statsd_.workers(1);  // dropped
    for (int64_t count : {2, 3}) {
        receiver_.bind_unix(socket_path());
        statsd_.workers(count);
        EXPECT_EQ(receiver_.next(), "gunicorn.workers:" + std::to_string(count) + "|g");
        receiver_.close();
        ::unlink(socket_path().c_str());
        statsd_.workers(1);  // dropped
    }
}

TEST_F(StatsdTest, FindsAUdpServerThatWasRestarted) {
    receiver_.bind_udp();
    const in_port_t port = receiver_.port();
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    receiver_.close();
    for (int i = 0; i < 10; ++i)
        statsd_.workers(i);  // the kernel reports each refusal once
    receiver_.bind_udp(port);
    statsd_.workers(42);
    EXPECT_EQ(receiver_.next(), "gunicorn.workers:42|g");
}

TEST_F(StatsdTest, DropsWhenTheServerDoesNotKeepUp) {
    receiver_.bind_unix(socket_path());
    ASSERT_TRUE(statsd_.open({"unix://" + socket_path(), "", ""}).is_ok());
    for (int i = 0; i < 100'000; ++i)
        statsd_.workers(i);  // would hang here if it waited
    EXPECT_EQ(receiver_.next(), "gunicorn.workers:0|g");
}

TEST_F(StatsdTest, LeavesTheOldTargetWhenANewOneIsRefused) {
    receiver_.bind_udp();
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    EXPECT_FALSE(statsd_.open({"host:0", "other", ""}).is_ok());
    EXPECT_FALSE(statsd_.open({"no such host", "other", ""}).is_ok());
    EXPECT_FALSE(statsd_.open({"unix://" + std::string(200, 'x'), "other", ""}).is_ok());
    statsd_.workers(5);
    EXPECT_EQ(receiver_.next(), "gunicorn.workers:5|g");
}

TEST_F(StatsdTest, MovesToAnotherTargetBehindTheSameDescriptor) {
    Receiver second;
    receiver_.bind_udp();
    second.bind_unix(socket_path());
    ASSERT_TRUE(statsd_.open({receiver_.host(), "", ""}).is_ok());
    ASSERT_TRUE(statsd_.open({"unix://" + socket_path(), "p", ""}).is_ok());
    statsd_.reopen();
    statsd_.workers(5);
    EXPECT_EQ(second.next(), "p.gunicorn.workers:5|g");
    EXPECT_EQ(receiver_.next(0), "(nothing)");
}

}  // namespace
}  // namespace gcorn
