#include "net/event_loop.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "os/process.h"
#include "tests/support/loop_fixture.h"

namespace gcorn {
namespace {

using testing::answer;
using testing::body_of;
using testing::Client;
using testing::Engine;
using testing::eventually;

constexpr std::string_view kGet = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
constexpr std::string_view kGetClose = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

size_t count(const std::string& text, std::string_view part) {
    size_t found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
        ++found;
    return found;
}

/// Every test runs with calls inline (sync) and on four threads (gthread).
class EventLoopTest : public ::testing::TestWithParam<size_t> {
protected:
    Engine engine{[this](Exchange& exchange) { app(exchange); }};
    std::function<void(Exchange&)> app = [](Exchange& exchange) { answer(exchange, "hello"); };
    void start() { engine.start(GetParam()); }
};

TEST_P(EventLoopTest, AnswersAndKeepsTheConnection) {
    start();
    Client client(engine.address());
    for (int i = 0; i < 3; ++i) {
        client.forget();
        ASSERT_TRUE(client.send(kGet));
        const std::string reply = client.read_until("hello");
        EXPECT_EQ(reply.substr(0, 17), "HTTP/1.1 200 OK\r\n");
        EXPECT_NE(reply.find("Connection: keep-alive\r\n"), std::string::npos);
    }
}

TEST_P(EventLoopTest, ClosesWhenAsked) {
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGetClose));
    EXPECT_NE(client.read_all().find("Connection: close\r\n"), std::string::npos);
    EXPECT_TRUE(client.is_closed());
}

TEST_P(EventLoopTest, ClosesBeforeItWaitsForOthers) {
    start();
    int64_t fastest_ms = INT64_MAX;  // a busy machine may spoil some of them
    for (int i = 0; i < 10; ++i) {
        Client client(engine.address());
        const int64_t start_ms = monotonic_ms();
        ASSERT_TRUE(client.send("GET / HTTP/1.0\r\n\r\n"));
        EXPECT_TRUE(client.is_closed());
        fastest_ms = std::min(fastest_ms, monotonic_ms() - start_ms);
    }
    EXPECT_LT(fastest_ms, 100);
}

TEST_P(EventLoopTest, AnswersPipelinedRequestsInOrder) {
    app = [](Exchange& exchange) { answer(exchange, std::string(exchange.head.target) + ";"); };
    start();
    Client client(engine.address());
    std::string requests, expected;
    for (int i = 0; i < 500; ++i) {
        const std::string target = "/" + std::to_string(i);
        requests += "GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n";
        expected += target + ";";
    }
    ASSERT_TRUE(client.send(requests));
    const std::string reply = client.read_until("/499;");
    std::string bodies;
    for (size_t at = reply.find("\r\n\r\n"); at != std::string::npos;
         at = reply.find("\r\n\r\n", at + 1))
        bodies += reply.substr(at + 4, reply.find(';', at) - at - 3);
    EXPECT_EQ(bodies, expected);
}

TEST_P(EventLoopTest, HeadArrivingByteByByteIsOneRequest) {
    start();
    Client client(engine.address());
    for (const char byte : kGet)
        ASSERT_TRUE(client.send({&byte, 1}));
    EXPECT_NE(client.read_until("hello").find("200 OK"), std::string::npos);
}

TEST_P(EventLoopTest, BodyIsCompleteBeforeTheApplicationRuns) {
    app = [](Exchange& exchange) { answer(exchange, body_of(exchange)); };
    start();
    Client client(engine.address());
    const std::string body(300'000, 'b');  // larger than Spool memory: goes through the file
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"));
    ASSERT_TRUE(client.send(body.substr(0, 1000)));
    EXPECT_TRUE(client.is_silent_for(20));
    ASSERT_TRUE(client.send(body.substr(1000)));
    const std::string reply = client.read_until(body);
    EXPECT_EQ(reply.size() - reply.find("\r\n\r\n") - 4, body.size());
}

TEST_P(EventLoopTest, ChunkedBodyIsDecodedAndTheNextRequestFollows) {
    app = [](Exchange& exchange) { answer(exchange, "<" + body_of(exchange) + ">"); };
    start();
    Client client(engine.address());
    ASSERT_TRUE(
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                    "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n" +
                    std::string(kGet)));
    const std::string reply = client.read_until("<>");
    EXPECT_NE(reply.find("<hello world>"), std::string::npos);
}

TEST_P(EventLoopTest, ContinueIsSentBeforeTheBodyIsRead) {
    app = [](Exchange& exchange) { answer(exchange, body_of(exchange)); };
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(
        "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
    EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    ASSERT_TRUE(client.send("ok"));
    EXPECT_NE(client.read_until("\r\n\r\nok").find("200 OK"), std::string::npos);
}

TEST_P(EventLoopTest, RefusesBadRequestAndParsesNothingBehindIt) {
    std::atomic<int> calls{0};
    app = [&](Exchange& exchange) {
        ++calls;
        answer(exchange, "hello");
    };
    start();
    Client client(engine.address());
    ASSERT_TRUE(
        client.send("GET / HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n" + std::string(kGet)));
    client.shut();
    const std::string reply = client.read_all();
    EXPECT_EQ(reply.substr(0, 13), "HTTP/1.1 400 ");
    EXPECT_EQ(count(reply, "HTTP/1.1 "), 1u);
    EXPECT_EQ(calls, 0);
    EXPECT_EQ(count(engine.log_text(), "Invalid request from ip=127.0.0.1"), 1u);
}

TEST_P(EventLoopTest, TruncatedBodyNeverReachesTheApplication) {
    std::atomic<int> calls{0};
    app = [&](Exchange& exchange) {
        ++calls;
        answer(exchange, "hello");
    };
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"));
    client.shut();
    EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 400 ");
    EXPECT_EQ(calls, 0);
}

TEST_P(EventLoopTest, LengthOfZeroIsACompleteBody) {
    app = [](Exchange& exchange) { answer(exchange, std::string(exchange.head.method) + "ed"); };
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
    EXPECT_NE(client.read_until("POSTed").find("POSTed"), std::string::npos);
}

TEST_P(EventLoopTest, RefusalBehindAnAnswerThatStillWaits) {
    // The refusal throws the input away while the answer before it fills the socket.
    const std::string big(8 << 20, 'z');
    app = [&](Exchange& exchange) { answer(exchange, big); };
    start();
    for (const std::string_view bad :
         {"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
          "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX"}) {
        Client client(engine.address(), 4096);
        ASSERT_TRUE(client.send(std::string(kGet).append(bad).append(kGet)));
        client.shut();
        const std::string reply = client.read_all();
        EXPECT_GT(reply.size(), big.size());
        EXPECT_EQ(count(reply, "HTTP/1.1 200 "), 1u);
        EXPECT_EQ(count(reply, "HTTP/1.1 400 "), 1u);
    }
}

TEST_P(EventLoopTest, RefusedHeadRequestGetsNoBody) {
    app = [](Exchange& exchange) { answer(exchange, "never"); };
    start();
    for (const std::string_view bad :
         {"HEAD / HTTP/1.1\r\nHost : a\r\n\r\n", "HEAD / HTTP/7.1\r\nHost: a\r\n\r\n",
          "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab"}) {
        Client client(engine.address());
        ASSERT_TRUE(client.send(bad));
        client.shut();
        const std::string reply = client.read_all();
        EXPECT_EQ(count(reply, "\r\nContent-Length: "), 1u) << reply;
        EXPECT_EQ(reply.find("\r\n\r\n"), reply.size() - 4) << reply;
    }
}

TEST_P(EventLoopTest, PartOfAHeadBehindAnAnswerDoesNotCutIt) {
    const std::string big(8 << 20, 'z');
    app = [&](Exchange& exchange) { answer(exchange, big); };
    start();
    Client client(engine.address(), 4096);
    ASSERT_TRUE(client.send(std::string(kGet) + "GET /x HT"));
    client.shut();
    const std::string reply = client.read_all();
    EXPECT_EQ(reply.size() - reply.find("\r\n\r\n") - 4, big.size());
}

TEST_P(EventLoopTest, CutAnswerDoesNotTakeEarlierOnesAlong) {
    app = [](Exchange& exchange) {
        if (exchange.head.target == "/x") {
            answer(exchange, "first");
            return;
        }
        ASSERT_TRUE(exchange.response.set_status("200 OK").is_ok());
        exchange.send(exchange.response.body(6), "second", false);
        exchange.abort();
        exchange.finish();
    };
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(std::string(kGet) + "GET /y HTTP/1.1\r\nHost: a\r\n\r\n"));
    const std::string reply = client.read_all();
    EXPECT_NE(reply.find("first"), std::string::npos);
    EXPECT_TRUE(client.is_closed());
}

TEST_P(EventLoopTest, HalfClosedClientStillGetsItsAnswer) {
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    client.shut();
    EXPECT_NE(client.read_all().find("hello"), std::string::npos);
    EXPECT_TRUE(client.is_closed());
}

TEST_P(EventLoopTest, LargeAnswerReachesAReaderThatTakesItsTime) {
    const std::string big(8 << 20, 'z');
    app = [&](Exchange& exchange) { answer(exchange, big); };
    start();
    Client slow(engine.address(), 4096);
    ASSERT_TRUE(slow.send(kGetClose));
    // The slow reader holds up nobody: others are answered meanwhile.
    Client other(engine.address());
    ASSERT_TRUE(other.send(kGetClose));
    EXPECT_GT(other.read_all().size(), big.size());
    const std::string reply = slow.read_all();
    EXPECT_EQ(reply.size() - reply.find("\r\n\r\n") - 4, big.size());
}

TEST_P(EventLoopTest, FileRangeIsSentFromItsOffset) {
    FILE* file = std::tmpfile();
    const std::string content = "0123456789" + std::string(2 << 20, 'f');
    ASSERT_EQ(std::fwrite(content.data(), 1, content.size(), file), content.size());
    std::fflush(file);
    app = [&](Exchange& exchange) {
        ResponseWriter& response = exchange.response;
        const uint64_t size = content.size() - 4;
        EXPECT_TRUE(response.set_status("200 OK").is_ok());
        EXPECT_TRUE(response.add_field("Content-Length", std::to_string(size)).is_ok());
        const auto pieces = response.body(size, true);
        EXPECT_TRUE(exchange.send_file(pieces.before, ::fileno(file), 4, size, pieces.after, true));
        exchange.finish();
    };
    start();
    Client client(engine.address(), 4096);
    ASSERT_TRUE(client.send(kGetClose));
    const std::string reply = client.read_all();
    EXPECT_EQ(reply.substr(reply.find("\r\n\r\n") + 4), content.substr(4));
    std::fclose(file);
}

TEST_P(EventLoopTest, ResponseThatAFileCutsIsNamed) {
    const Fd directory(::open("/", O_RDONLY | O_CLOEXEC));
    app = [&](Exchange& exchange) {
        EXPECT_TRUE(exchange.response.set_status("200 OK").is_ok());
        const auto pieces = exchange.response.body(10, true);
        EXPECT_FALSE(exchange.send_file(pieces.before, directory.get(), 0, 10, pieces.after, true));
        exchange.finish();
    };
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    EXPECT_FALSE(client.read_all().ends_with("0\r\n\r\n"));
    EXPECT_NE(engine.log_text().find(
                  "Cutting short the response to GET /x: its file can't be read: Is a directory"),
              std::string::npos)
        << engine.log_text();
    engine.stop();  // before the directory is closed
}

TEST_P(EventLoopTest, WhatCannotBeWatchedIsAnError) {
    engine.open();
    const Status watched = engine.loop->watch(-1, [] {});
    EXPECT_FALSE(watched);
    EXPECT_EQ(watched.error().code, EBADF);
}

TEST_P(EventLoopTest, VanishedClientAbortsItsRunningRequest) {
    if (GetParam() == 0) GTEST_SKIP() << "nobody leads during a call: the guard is the worker's";
    std::atomic<bool> was_aborted{false};
    app = [&](Exchange& exchange) {
        EXPECT_TRUE(exchange.response.set_status("200 OK").is_ok());
        const std::string block(65536, 's');
        was_aborted = !eventually(
            [&] { return !exchange.send(exchange.response.body(block.size()), block, false); });
        was_aborted = !was_aborted;
        exchange.finish();
    };
    start();
    Client client(engine.address(), 4096);
    ASSERT_TRUE(client.send(kGet));
    client.read_until("\r\n\r\n");
    client.reset();
    EXPECT_TRUE(eventually([&] { return was_aborted.load(); }));
    EXPECT_TRUE(eventually([&] {
        engine.loop->wake();
        return engine.connections() == 0;
    }));
}

TEST_P(EventLoopTest, PartialHeadTimesOutWith408) {
    engine.options.header_timeout_ms = 60;
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("GET / HT"));
    EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 408 ");
}

TEST_P(EventLoopTest, SilentConnectionTimesOutWithoutAnAnswer) {
    engine.options.header_timeout_ms = 60;
    start();
    Client client(engine.address());
    EXPECT_EQ(client.read_all(), "");
    EXPECT_TRUE(client.is_closed());
}

TEST_P(EventLoopTest, StalledBodyTimesOutWith408) {
    engine.options.body_timeout_ms = 60;
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc"));
    EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 408 ");
}

TEST_P(EventLoopTest, IdleConnectionClosesAfterKeepalive) {
    engine.options.keepalive_ms = 80;
    start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    EXPECT_NE(client.read_all().find("hello"), std::string::npos);
    EXPECT_TRUE(client.is_closed());
}

TEST_P(EventLoopTest, ReaderThatTakesNothingIsDropped) {
    engine.options.write_timeout_ms = 80;
    const std::string big(32 << 20, 'z');
    std::atomic<bool> finished{false};
    app = [&](Exchange& exchange) {
        answer(exchange, big);
        finished = true;
    };
    const std::string path = engine.error_path + ".access";
    LogOptions log_options;
    log_options.errorlog = engine.error_path;
    log_options.accesslog = path;
    ASSERT_TRUE(engine.log.open(log_options).is_ok());
    start();
    Client client(engine.address(), 4096);
    ASSERT_TRUE(client.send(kGet));
    EXPECT_TRUE(eventually([&] { return finished.load(); }));
    EXPECT_TRUE(eventually([&] {
        engine.loop->wake();
        return engine.connections() == 0;
    }));
    std::ostringstream lines;
    lines << std::ifstream(path).rdbuf();
    EXPECT_EQ(count(lines.str(), "\"GET "), 1u) << lines.str();
    ::unlink(path.c_str());
}

TEST_P(EventLoopTest, LongestIdleConnectionYieldsToANewcomer) {
    engine.options.worker_connections = 2;
    engine.options.keepalive_ms = 60'000;
    start();
    Client first(engine.address()), second(engine.address());
    for (Client* client : {&first, &second}) {
        ASSERT_TRUE(client->send(kGet));
        client->read_until("hello");
    }
    Client third(engine.address());
    ASSERT_TRUE(third.send(kGet));
    EXPECT_NE(third.read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_TRUE(first.is_closed());
    EXPECT_TRUE(second.is_silent_for(20));
}

TEST_P(EventLoopTest, IdleConnectionWhoseRequestHasComeKeepsItsPlace) {
    engine.options.worker_connections = 2;
    engine.options.keepalive_ms = 60'000;
    std::unique_ptr<Client> idle, newcomer;
    std::atomic<int> calls{0};
    app = [&](Exchange& exchange) {
        if (++calls == 2) {
            // Inline, the loop learns of both in one turn, and of the new connection first.
            const bool is_last = GetParam() == 0;
            EXPECT_TRUE(is_last || idle->send(kGet));
            newcomer = std::make_unique<Client>(engine.address());
            EXPECT_TRUE(newcomer->send(kGet));
            EXPECT_TRUE(!is_last || idle->send(kGet));
        }
        answer(exchange, "hello");
    };
    start();
    idle = std::make_unique<Client>(engine.address());
    ASSERT_TRUE(idle->send(kGet));
    idle->read_until("hello");
    idle->forget();
    Client busy(engine.address());
    ASSERT_TRUE(busy.send(kGet));
    busy.read_until("hello");
    EXPECT_NE(idle->read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_NE(newcomer->read_until("hello").find("200 OK"), std::string::npos);
}

TEST_P(EventLoopTest, SlowestHeadYieldsToANewcomer) {
    engine.options.worker_connections = 2;
    start();
    Client first(engine.address());
    ASSERT_TRUE(first.send("GET / HTTP/1.1\r\n"));
    ASSERT_TRUE(eventually([&] { return engine.connections() == 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // one step of the clock
    Client second(engine.address());
    ASSERT_TRUE(second.send("GET / HTTP/1.1\r\n"));
    Client third(engine.address());
    ASSERT_TRUE(third.send(kGet));
    EXPECT_NE(third.read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_EQ(first.read_all().substr(0, 13), "HTTP/1.1 408 ");
    ASSERT_TRUE(second.send("Host: a\r\n\r\n"));
    EXPECT_NE(second.read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_EQ(count(engine.log_text(), "too slow, while others wait for a connection"), 1u);
}

TEST_P(EventLoopTest, WhoAsksNothingYieldsToANewcomerWithoutAnAnswer) {
    engine.options.worker_connections = 1;
    start();
    Client silent(engine.address());
    ASSERT_TRUE(eventually([&] {
        engine.loop->wake();
        return engine.connections() == 1;
    }));
    Client newcomer(engine.address());
    ASSERT_TRUE(newcomer.send(kGet));
    EXPECT_NE(newcomer.read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_EQ(silent.read_all(), "");
    EXPECT_EQ(count(engine.log_text(), "Invalid request"), 0u);
}

TEST_P(EventLoopTest, BodyThatComesByDropsYieldsButNotOneThatFlows) {
    engine.options.worker_connections = 2;
    start();
    Client flowing(engine.address()), dropping(engine.address());
    const std::string head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    ASSERT_TRUE(flowing.send(head + std::string(99'999, 'x')));  // enough for 200 s
    ASSERT_TRUE(dropping.send(head));
    Client newcomer(engine.address());
    ASSERT_TRUE(newcomer.send(kGet));
    for (int i = 0; newcomer.is_silent_for(100) && i < gcorn::testing::kPatienceMs / 100; ++i)
        (void)dropping.send("x");
    EXPECT_NE(newcomer.read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_EQ(dropping.read_all().substr(0, 13), "HTTP/1.1 408 ");
    ASSERT_TRUE(flowing.send("x"));
    EXPECT_NE(flowing.read_until("hello").find("200 OK"), std::string::npos);
}

TEST_P(EventLoopTest, RefusedClientThatDoesNotCloseYieldsSoon) {
    engine.options.worker_connections = 1;
    start();
    int64_t fastest_ms = INT64_MAX;  // a busy machine may spoil some of them
    for (int i = 0; i < 3; ++i) {
        Client refused(engine.address()), newcomer(engine.address());
        ASSERT_TRUE(refused.send("GET\r\n\r\n"));
        EXPECT_EQ(refused.read_until("\r\n\r\n").substr(0, 13), "HTTP/1.1 400 ");
        const int64_t start_ms = monotonic_ms();
        ASSERT_TRUE(newcomer.send(kGetClose));
        EXPECT_NE(newcomer.read_all().find("200 OK"), std::string::npos);
        fastest_ms = std::min(fastest_ms, monotonic_ms() - start_ms);
    }
    EXPECT_LT(fastest_ms, kLingerMs / 2);
}

TEST_P(EventLoopTest, NewcomerWaitsForWhoIsInTime) {
    engine.options.worker_connections = 1;
    if (GetParam() == 0) engine.options.body_timeout_ms = 0;  // no deadline to count from
    start();
    Client flowing(engine.address());
    ASSERT_TRUE(flowing.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" +
                             std::string(99'999, 'x')));
    ASSERT_TRUE(eventually([&] { return engine.connections() == 1; }));
    Client newcomer(engine.address());
    ASSERT_TRUE(newcomer.send(kGet));
    EXPECT_TRUE(newcomer.is_silent_for(kRequestPatienceMs + 500)) << "its bytes bought more";
    ASSERT_TRUE(flowing.send("x"));
    EXPECT_NE(flowing.read_until("hello").find("200 OK"), std::string::npos);
    EXPECT_NE(newcomer.read_until("hello").find("200 OK"), std::string::npos);
}

TEST_P(EventLoopTest, LargeHeadsDoNotFillTheMemory) {
    start();
    std::string head = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (int i = 0; i < 98; ++i)
        head += "A" + std::to_string(i) + ": " + std::string(8170, 'x') + "\r\n";
    std::vector<Client> clients;
    for (size_t sent = 0; sent < size_t{40} << 20; sent += head.size())
        EXPECT_TRUE(clients.emplace_back(engine.address()).send(head));
    const auto is_answered = [](Client& client) { return !client.is_silent_for(0); };
    EXPECT_TRUE(eventually([&] { return std::ranges::any_of(clients, is_answered); }));
    size_t served = 0, refused = 0;
    for (Client& client : clients) {
        (void)client.send("\r\n");
        const std::string reply = client.read_until("hello");
        served += count(reply, "HTTP/1.1 200 ");
        refused += count(reply, "HTTP/1.1 503 ");
    }
    EXPECT_GT(refused, 0u);
    EXPECT_LT(refused, served);
    EXPECT_EQ(refused + served, clients.size());
    Client small(engine.address());
    ASSERT_TRUE(small.send(kGet));
    EXPECT_NE(small.read_until("hello").find("200 OK"), std::string::npos);
}

TEST_P(EventLoopTest, StopAnswersWhatWaitsAndClosesTheIdle) {
    engine.options.keepalive_ms = 60'000;
    start();
    Client idle(engine.address());
    ASSERT_TRUE(idle.send(kGet));
    idle.read_until("hello");
    engine.loop->stop();
    EXPECT_TRUE(idle.is_closed());
    EXPECT_TRUE(eventually([&] { return engine.connections() == 0; }));
}

TEST_P(EventLoopTest, TheLongestIdleConnectionGivesItsDescriptorToANewcomer) {
    engine.options.keepalive_ms = 60'000;
    start();
    Client idle(engine.address());
    ASSERT_TRUE(idle.send(kGet));
    idle.read_until("hello");
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    rlimit few = before;
    few.rlim_cur = 200;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    std::vector<Fd> hoard;
    for (int fd = 0; (fd = ::dup(idle.fd())) >= 0;)
        hoard.emplace_back(fd);
    hoard.pop_back();  // leaves one, for the client's end
    Client newcomer(engine.address());
    const bool is_sent = newcomer.send(kGet);
    const std::string reply = newcomer.read_until("hello");
    hoard.clear();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_TRUE(is_sent);
    EXPECT_NE(reply.find("200 OK"), std::string::npos);
    const std::string warning = std::string("Cannot accept connections: ") + std::strerror(EMFILE);
    EXPECT_GE(count(engine.log_text(), warning + " (ulimit -n is 200)"), 1u);
}

TEST_P(EventLoopTest, IdleConnectionsGiveTheirDescriptorsAtOnce) {
    engine.options.keepalive_ms = 60'000;
    start();
    std::vector<Client> idle;
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(idle.emplace_back(engine.address()).send(kGet));
        idle.back().read_until("hello");
    }
    std::vector<Client> newcomers;
    for (int i = 0; i < 10; ++i)
        newcomers.emplace_back(engine.address(), 0, false);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    rlimit few = before;
    few.rlim_cur = 200;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    std::vector<Fd> hoard;
    for (int fd = 0; (fd = ::dup(idle[0].fd())) >= 0;)
        hoard.emplace_back(fd);
    const int64_t start_ms = monotonic_ms();
    size_t served = 0;
    for (Client& newcomer : newcomers)
        if (newcomer.connect(engine.address()) && newcomer.send(kGet))
            served += count(newcomer.read_until("hello"), "200 OK");
    const int64_t took_ms = monotonic_ms() - start_ms;
    hoard.clear();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_EQ(served, newcomers.size());
    EXPECT_LT(took_ms, 2000);
    EXPECT_EQ(count(engine.log_text(), "Cannot accept connections"), 1u);
}

TEST_P(EventLoopTest, TheLastOfRepeatedFieldsIsLogged) {
    const std::string path = engine.error_path + ".access";
    LogOptions log_options;
    log_options.errorlog = engine.error_path;
    log_options.accesslog = path;
    ASSERT_TRUE(engine.log.open(log_options).is_ok());
    start();
    Client client(engine.address());
    ASSERT_TRUE(
        client.send("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: one\r\nuser-agent: two\r\n\r\n"));
    client.read_until("hello");
    std::string line;
    EXPECT_TRUE(eventually([&] {
        std::ifstream file(path);
        return static_cast<bool>(std::getline(file, line));
    }));
    EXPECT_TRUE(line.ends_with("\"two\"")) << line;
    ::unlink(path.c_str());
}

TEST_P(EventLoopTest, FieldsWithUnderscoresCannotFillTheLog) {
    start();
    Client client(engine.address());
    for (int i = 0; i < 10; ++i) {
        std::string head = "GET / HTTP/1.1\r\nHost: a\r\n";
        for (int j = 0; j < 15; ++j)
            head += "X_" + std::to_string(i * 100 + j) + ": 1\r\n";
        client.forget();
        ASSERT_TRUE(client.send(head + "\r\n"));
        client.read_until("hello");
    }
    EXPECT_EQ(count(engine.log_text(), "Dropped the header field"), 100u);
}

TEST_P(EventLoopTest, FieldWithUnderscoreIsReportedOnce) {
    start();
    Client client(engine.address());
    for (int i = 0; i < 2; ++i) {
        client.forget();
        ASSERT_TRUE(client.send("GET / HTTP/1.1\r\nHost: a\r\nX_Under: 1\r\n\r\n"));
        client.read_until("hello");
    }
    EXPECT_EQ(count(engine.log_text(), "X_Under"), 1u);
}

/// Applications that send small blocks fast, so that all but the first are held back for a moment.
class EventLoopStream : public ::testing::TestWithParam<size_t> {
protected:
    /// Sends the head and `blocks` small blocks; the answer is open-ended.
    static void stream(Exchange& exchange, int blocks) {
        ResponseWriter& response = exchange.response;
        ASSERT_TRUE(response.set_status("200 OK").is_ok());
        for (int i = 0; i < blocks; ++i) {
            const std::string block = std::to_string(i) + ";";
            ASSERT_TRUE(exchange.send(response.body(block.size(), false), block, false));
        }
    }
    static std::string expected(int blocks) {
        std::string all;
        for (int i = 0; i < blocks; ++i) {
            const std::string block = std::to_string(i) + ";";
            char size[16];
            std::snprintf(size, sizeof size, "%zx\r\n", block.size());
            all += size + block + "\r\n";
        }
        return all;
    }
    static void end(Exchange& exchange) {
        exchange.send(exchange.response.finish(), {}, true);
        exchange.finish();
    }

    std::function<void(Exchange&)> app;
    Engine engine{[this](Exchange& exchange) { app(exchange); }};
};

TEST_P(EventLoopStream, ArrivesCompleteAndInOrder) {
    constexpr int kBlocks = 20'000;  // several times what is held at most
    app = [](Exchange& exchange) {
        stream(exchange, kBlocks);
        end(exchange);
    };
    engine.start(GetParam());
    Client client(engine.address());
    for (int round = 0; round < 3; ++round) {
        client.forget();
        ASSERT_TRUE(client.send(kGet));
        const std::string reply = client.read_until("\r\n0\r\n\r\n");
        const size_t head = reply.find("\r\n\r\n");
        ASSERT_NE(head, std::string::npos);
        EXPECT_EQ(reply.substr(head + 4), expected(kBlocks) + "0\r\n\r\n");
    }
}

TEST_P(EventLoopStream, WhatWasSentBeforeACutArrives) {
    app = [](Exchange& exchange) {
        stream(exchange, 100);
        exchange.abort();
        exchange.finish();
    };
    engine.start(GetParam());
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    EXPECT_TRUE(client.read_all().ends_with(expected(100))) << "and no last chunk";
}

TEST_P(EventLoopStream, AFileFollowsWhatWasHeld) {
    app = [](Exchange& exchange) {
        stream(exchange, 50);
        FILE* file = std::tmpfile();
        ASSERT_NE(file, nullptr);
        ASSERT_EQ(std::fwrite(std::string(200'000, 'f').data(), 1, 200'000, file), 200'000u);
        std::fflush(file);
        const ResponseWriter::Pieces pieces = exchange.response.body(200'000, false);
        exchange.send_file(pieces.before, ::fileno(file), 0, 200'000, pieces.after, false);
        std::fclose(file);
        end(exchange);
    };
    engine.start(GetParam());
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    EXPECT_TRUE(
        client.read_until("\r\n0\r\n\r\n")
            .ends_with(expected(50) + "30D40\r\n" + std::string(200'000, 'f') + "\r\n0\r\n\r\n"));
}

TEST_P(EventLoopStream, ABlockIsNotHeldWhileTheApplicationIsBusy) {
    std::atomic<bool> has_arrived{false};
    app = [&](Exchange& exchange) {
        stream(exchange, 3);
        EXPECT_TRUE(eventually([&] { return has_arrived.load(); }));
        end(exchange);
    };
    // Somebody has to lead meanwhile; in sync that is the guard.
    engine.start(std::max<size_t>(GetParam(), 1));
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    EXPECT_TRUE(client.read_until("2;").ends_with(expected(3)));
    has_arrived = true;
    client.read_until("\r\n0\r\n\r\n");
}

TEST_P(EventLoopStream, WhatIsHeldIsHeldForAMoment) {
    std::atomic<bool> has_arrived{false};
    app = [&](Exchange& exchange) {
        stream(exchange, 3);
        EXPECT_TRUE(eventually([&] { return has_arrived.load(); }));
        end(exchange);
    };
    engine.start(std::max<size_t>(GetParam(), 1));
    Client client(engine.address());
    int64_t fastest_ms = INT64_MAX;  // a slow machine may spoil some of them
    for (int i = 0; i < 10; ++i) {
        has_arrived = false;
        client.forget();
        const int64_t start_ms = monotonic_ms();
        ASSERT_TRUE(client.send(kGet));
        EXPECT_TRUE(client.read_until("2;").ends_with(expected(3)));
        fastest_ms = std::min(fastest_ms, monotonic_ms() - start_ms);
        has_arrived = true;
        client.read_until("\r\n0\r\n\r\n");
    }
    EXPECT_LT(fastest_ms, 100) << "a look every 250 ms is for other things";
}

INSTANTIATE_TEST_SUITE_P(InlineAndThreads, EventLoopStream, ::testing::Values(0, 4),
                         [](const auto& parameter) {
                             return parameter.param == 0 ? std::string("Inline")
                                                         : std::string("Threads");
                         });

/// One worker with one slot, turned by the test itself.
class EventLoopAccept : public ::testing::Test {
protected:
    void connect(size_t count, bool sends) {
        for (size_t i = 0; i < count; ++i) {
            clients_.push_back(std::make_unique<Client>(engine.address()));
            ASSERT_TRUE(clients_.back()->is_connected());
            if (sends) {
                ASSERT_TRUE(clients_.back()->send(kGet));
            }
        }
    }
    void turn_until(const std::function<bool()>& condition) {
        ASSERT_TRUE(eventually([&] {
            engine.loop->turn(0);
            return condition();
        }));
    }
    /// Four connections whose requests wait in the queue.
    void fill() {
        engine.open();
        connect(4, false);
        turn_until([&] { return engine.loop->connection_count() == 4; });
        for (const auto& client : clients_)
            ASSERT_TRUE(client->send(kGet));
        turn_until([&] { return engine.ready.look() == 4; });
    }
    /// Takes what is queued, as threads and greenlets do at once.
    void begin_all() {
        while (std::shared_ptr<Exchange> exchange = engine.ready.try_pop())
            begun_.push_back(std::move(exchange));
    }
    void answer_all() {
        begin_all();
        for (const auto& exchange : std::exchange(begun_, {}))
            answer(*exchange, "hello");
    }

    Engine engine{[](Exchange&) {}};
    std::vector<std::unique_ptr<Client>> clients_;
    std::vector<std::shared_ptr<Exchange>> begun_;
};

TEST_F(EventLoopAccept, LeavesNewcomersInTheBacklogWhileNothingIsAnswered) {
    fill();
    connect(2, true);
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    EXPECT_EQ(engine.loop->connection_count(), 4u);
}

TEST_F(EventLoopAccept, LetsANewcomerInForEveryAnswer) {
    fill();
    connect(6, true);
    answer_all();
    engine.loop->turn(0);
    EXPECT_EQ(engine.loop->connection_count(), 4u + 4u);
    EXPECT_EQ(engine.ready.look(), 4u);
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    EXPECT_EQ(engine.loop->connection_count(), 4u + 4u);
    answer_all();
    turn_until([&] { return engine.loop->connection_count() == 10; });
}

TEST_F(EventLoopAccept, ReadsWhatCameDuringTheCallOnceThatHasEnded) {
    engine.options.keepalive_ms = 3'600'000;
    engine.open();
    connect(1, true);
    turn_until([&] { return engine.ready.look() == 1; });
    begin_all();
    ASSERT_TRUE(clients_[0]->send(kGet));
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    EXPECT_EQ(engine.ready.look(), 0u);
    answer_all();
    turn_until([&] { return engine.ready.look() == 1; });
}

/// Of 20 slots one is busy, and the queue's other request waits: a greenlet blocks its hub.
TEST_F(EventLoopAccept, LeavesNewcomersInTheBacklogWhileTheHubIsBlocked) {
    engine.options.slots = 20;
    engine.open();
    connect(2, true);
    turn_until([&] { return engine.ready.look() == 2; });
    begun_.push_back(engine.ready.try_pop());
    std::this_thread::sleep_for(std::chrono::milliseconds(Admission::kStuckMs + 1));
    connect(2, true);
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    EXPECT_EQ(engine.loop->connection_count(), 2u);
    begin_all();
    std::atomic<bool> is_over{false};
    std::jthread leader([&] {
        while (engine.loop->connection_count() < 4 && !is_over)
            engine.loop->turn(-1);  // it hears of no answer
        is_over = true;
    });
    EXPECT_TRUE(eventually([&] { return is_over.load(); }));
    is_over = true;
    engine.loop->wake();
    leader.join();
    turn_until([&] { return engine.ready.look() == 2; });
    answer_all();
}

/// Health checks, or a flood: if each took the turn that an answer gives, they would keep everybody
/// else out. Their turns go to others, at the latest with the next answers if calls last meanwhile.
TEST_F(EventLoopAccept, WhoAsksNothingTakesNoNewcomersTurn) {
    fill();
    connect(25, false);
    for (size_t i = 4; i < 9; ++i)
        clients_[i]->close();
    for (size_t i = 9; i < 14; ++i)
        ASSERT_TRUE(clients_[i]->send("GET\r\n\r\n"));
    for (size_t i = 14; i < 19; ++i)
        ASSERT_TRUE(clients_[i]->send("GET / HTTP/1.1\r\n"));
    connect(1, false);
    ASSERT_TRUE(clients_.back()->send("GET /newcomer HTTP/1.1\r\nHost: a\r\n\r\n"));
    // The first four send again as soon as they are answered.
    for (size_t answers = 0; answers < 12; ++answers) {
        turn_until([&] { return engine.ready.look() > 0; });
        const auto exchange = engine.ready.try_pop();
        const bool is_newcomer = exchange->head.target == "/newcomer";
        answer(*exchange, "hello");
        if (is_newcomer) return;
        ASSERT_TRUE(clients_[answers % 4]->send(kGet));
    }
    FAIL() << "the newcomer waits";
}

TEST_F(EventLoopAccept, ABodyThatStallsYieldsHoweverMuchCame) {
    engine.options.worker_connections = 1;
    engine.open();
    connect(1, false);
    ASSERT_TRUE(clients_[0]->send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" +
                                  std::string(99'999, 'x')));  // enough for 200 s
    turn_until([&] { return engine.loop->connection_count() == 1; });
    connect(1, true);
    const int64_t start_ms = monotonic_ms();
    while (engine.ready.look() == 0 && monotonic_ms() < start_ms + 6 * kStallPatienceMs)
        engine.loop->turn(50);
    EXPECT_EQ(engine.ready.look(), 1u);
    EXPECT_EQ(clients_[0]->read_all().substr(0, 13), "HTTP/1.1 408 ");
    answer_all();
}

TEST_F(EventLoopAccept, WithoutDescriptorsItSaysSoAndIsReplacedAfterAWhile) {
    int starved = 0;
    engine.options.on_starved = [&] { ++starved; };
    engine.open();
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const auto told = [&](std::string_view text) { return count(engine.log_text(), text); };
    std::vector<Fd> hoard;
    const auto run_out = [&] {
        clients_.push_back(std::make_unique<Client>(engine.address(), 0, false));
        rlimit few = before;
        few.rlim_cur = 200;
        ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
        for (int fd = 0; (fd = ::dup(STDERR_FILENO)) >= 0;)
            hoard.emplace_back(fd);
        ASSERT_TRUE(clients_.back()->connect(engine.address()));
    };
    const auto get_some = [&] {
        hoard.clear();
        ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    };
    const auto leave = [&] {
        clients_.clear();
        turn_until([&] { return engine.loop->connection_count() == 0; });
    };
    run_out();
    const int64_t start_ms = monotonic_ms();
    engine.loop->turn(0);
    get_some();
    EXPECT_EQ(told("Cannot accept connections"), 1u);
    turn_until([&] { return engine.loop->connection_count() == 1; });
    leave();
    turn_until([&] { return monotonic_ms() - start_ms > 4000; });
    connect(2, false);
    turn_until([&] { return engine.loop->connection_count() == 2; });
    EXPECT_EQ(told("Accepting connections again"), 1u);
    leave();
    run_out();
    engine.loop->turn(0);
    EXPECT_EQ(starved, 0) << "it began just now";
    turn_until([&] { return starved > 0; });
    get_some();
    EXPECT_EQ(told("Cannot accept connections"), 2u);
}

TEST_F(EventLoopAccept, OutputOfWhoIsGoneIsNotCounted) {
    engine.open();
    clients_.push_back(std::make_unique<Client>(engine.address(), 4096));
    ASSERT_TRUE(clients_[0]->send(kGet));
    turn_until([&] { return engine.ready.look() == 1; });
    const auto exchange = engine.ready.try_pop();
    ASSERT_TRUE(exchange->response.set_status("200 OK").is_ok());
    const std::string block(100'000, 'z');
    while (engine.loop->output_memory() == 0)
        ASSERT_TRUE(exchange->send(exchange->response.body(block.size()), block, false));
    exchange->finish();
    engine.loop->turn(0);
    clients_[0]->reset();
    turn_until([&] { return engine.loop->connection_count() == 0; });
    EXPECT_EQ(engine.loop->output_memory(), 0u) << "although the application's thread is not done";
}

/// As a thread may that has just finished: its Exchange is not reused, and takes nothing along.
TEST_F(EventLoopAccept, AnAnswerThatSomebodyHoldsDoesNotWaitForItsSuccessor) {
    engine.open();
    connect(1, false);
    ASSERT_TRUE(clients_[0]->send(std::string(kGet) + std::string(kGet)));
    turn_until([&] { return engine.ready.look() == 1; });
    const std::shared_ptr<Exchange> held = engine.ready.try_pop();
    answer(*held, "first");
    turn_until([&] { return engine.ready.look() == 1; });
    answer_all();
    EXPECT_EQ(count(clients_[0]->read_until("hello"), "first"), 1u);
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_F(EventLoopAccept, FreeMemoryIsGivenBackOnceAWhileAfterMuchWasNeeded) {
    engine.options.release_ms = 1000;
    engine.options.slots = 20;
    engine.open();
    for (int i = 0; i < 20; ++i) {
        clients_.push_back(std::make_unique<Client>(engine.address(), 4096));
        ASSERT_TRUE(clients_.back()->send(kGet));
    }
    turn_until([&] { return engine.ready.look() == 20; });
    std::vector<std::shared_ptr<Exchange>> exchanges;
    while (std::shared_ptr<Exchange> exchange = engine.ready.try_pop()) {
        ASSERT_TRUE(exchange->response.set_status("200 OK").is_ok());
        const std::string block(64 * 1024, 'z');
        for (const size_t before = engine.loop->output_memory();
             engine.loop->output_memory() < before + 800'000;)
            ASSERT_TRUE(exchange->send(exchange->response.body(block.size()), block, false));
        exchanges.push_back(std::move(exchange));
    }
    std::vector<std::string> blocks(1000, std::string(64 * 1024, 'x'));
    blocks.erase(blocks.begin(), blocks.end() - 1);  // the end of the heap stays in use
    engine.loop->turn(0);
    for (const auto& exchange : exchanges) {
        exchange->abort();
        exchange->finish();
    }
    clients_.clear();
    exchanges.clear();
    turn_until([&] { return engine.loop->connection_count() == 0; });
    const int64_t resident = resident_mib(::getpid()), start_ms = monotonic_ms();
    while (resident_mib(::getpid()) > resident - 30 && monotonic_ms() - start_ms < 10'000)
        engine.loop->turn(10'000);
    EXPECT_LT(monotonic_ms() - start_ms, 10'000);
    // After that there is nothing to do.
    EXPECT_TRUE(eventually([&] {
        const int64_t turn_ms = monotonic_ms();
        engine.loop->turn(100);
        return monotonic_ms() - turn_ms >= 100;
    }));
}
#endif

TEST_F(EventLoopAccept, AStopTakesInWhoIsInTheBacklog) {
    engine.options.has_sibling = [](Sibling, size_t) { return true; };  // it may stop, too
    engine.open();
    connect(3, true);
    engine.loop->stop();
    turn_until([&] { return engine.ready.look() == 3; });
    answer_all();
    turn_until([&] { return engine.loop->connection_count() == 0; });
    for (const auto& client : clients_)
        EXPECT_TRUE(client->read_all().ends_with("hello"));
}

TEST_F(EventLoopAccept, AStopTakesInWhoFoundNoDescriptorBefore) {
    engine.open();
    clients_.push_back(std::make_unique<Client>(engine.address(), 0, false));
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    rlimit few = before;
    few.rlim_cur = 200;  // poll(2) takes no more entries than that
    ASSERT_TRUE(clients_[0]->connect(engine.address()));
    ASSERT_TRUE(clients_[0]->send(kGet));
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    std::vector<Fd> hoard;
    for (int fd = 0; (fd = ::dup(STDERR_FILENO)) >= 0;)
        hoard.emplace_back(fd);
    engine.loop->turn(0);
    hoard.clear();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_EQ(count(engine.log_text(), "Cannot accept connections"), 1u);
    engine.loop->turn(0);  // it does not try again yet
    engine.loop->stop();
    turn_until([&] { return engine.loop->is_drained() || engine.ready.look() == 1; });
    answer_all();
    turn_until([&] { return engine.loop->is_drained(); });
    EXPECT_TRUE(clients_[0]->read_all().ends_with("hello"));
}

TEST_F(EventLoopAccept, AQuickStopLeavesWhoIsInTheBacklogToOthers) {
    engine.open();
    connect(3, true);
    engine.loop->stop(false);
    turn_until([&] { return engine.loop->is_drained(); });
    EXPECT_EQ(engine.ready.look(), 0u);
}

TEST_F(EventLoopAccept, AStopRefusesWhoComesWhileTheLastOnesAreAnswered) {
    engine.open();
    connect(1, true);
    turn_until([&] { return engine.ready.look() == 1; });
    engine.loop->stop();
    engine.loop->turn(0);
    EXPECT_FALSE(Client(engine.address()).is_connected()) << "nobody would accept it";
    answer_all();
    turn_until([&] { return engine.loop->connection_count() == 0; });
    EXPECT_TRUE(clients_[0]->read_all().ends_with("hello"));
}

TEST_F(EventLoopAccept, LeavesThemToAnIdleSibling) {
    engine.options.has_sibling = [](Sibling, size_t with_fewer_than) {
        return with_fewer_than > 100;  // it has more than we do
    };
    fill();
    connect(6, true);
    answer_all();
    engine.loop->turn(0);
    EXPECT_EQ(engine.loop->connection_count(), 4u + 1u) << "one slot is free";
}

TEST_F(EventLoopAccept, LeavesThemToAnIdleSiblingWithFewerConnections) {
    std::atomic<uint32_t> shown{0};
    std::atomic<uint32_t> others{0};
    size_t left = 0;
    engine.options.connections = &shown;
    engine.options.has_sibling = [&](Sibling, size_t with_fewer_than) {
        const bool leaves = others < with_fewer_than;
        left += leaves ? 1 : 0;
        return leaves;
    };
    engine.options.slots = 4;
    engine.open();
    connect(2, true);
    turn_until([&] { return begin_all(), left > 0; });
    EXPECT_EQ(shown, 1u) << "the second one is for the sibling";
    others = 1;
    turn_until([&] { return begin_all(), shown == 2; });
    // A sibling that never comes gets a chance, but the wait for it is bounded.
    connect(1, true);
    turn_until([&] { return begin_all(), shown == 3; });
    answer_all();
    clients_.pop_back();
    turn_until([&] { return shown == 2; });
}

TEST_F(EventLoopAccept, WaitsForAnIdleSiblingNotWhileTurnsLast) {
    std::atomic<uint32_t> shown{0};
    engine.options.connections = &shown;
    engine.options.has_sibling = [&](Sibling, size_t with_fewer_than) {
        return with_fewer_than > 0;  // but it is stopped
    };
    engine.options.slots = 4;
    engine.open();
    connect(1, true);
    turn_until([&] { return begin_all(), shown == 1; });
    // Stands for uploads, handshakes, or other processes on the same CPU.
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const Fd in(ends[1]), out(ends[0]);
    ASSERT_EQ(::write(in.get(), "x", 1), 1);
    ASSERT_TRUE(engine.loop->watch(out.get(), [] {
        const int64_t start_ms = monotonic_ms();
        while (monotonic_ms() - start_ms < 3) {
        }
    }));
    connect(1, true);
    int turns = 0;
    turn_until([&] { return begin_all(), ++turns, shown == 2; });
    EXPECT_LT(turns, 20);
}

TEST_F(EventLoopAccept, ABusyWorkerLeavesThemToABusySiblingWithFewerConnections) {
    std::atomic<uint32_t> shown{0};
    std::atomic<size_t> asked_for_fewer_than{0};
    engine.options.connections = &shown;
    engine.options.has_sibling = [&](Sibling kind, size_t with_fewer_than) {
        if (kind == Sibling::Any) asked_for_fewer_than = with_fewer_than;
        return kind == Sibling::Any;
    };
    fill();
    EXPECT_EQ(asked_for_fewer_than, 0u) << "who is idle serves a newcomer itself";
    connect(1, true);
    answer(*engine.ready.try_pop(), "hello");
    engine.loop->turn(0);
    EXPECT_EQ(shown, 4u);
    EXPECT_EQ(asked_for_fewer_than, 4u);
    for (int answers = 1; answers < 4; ++answers)
        answer(*engine.ready.try_pop(), "hello");
    turn_until([&] { return shown == 5; });
}

TEST_F(EventLoopAccept, ABusyWorkerLeavesEachOfThem) {
    engine.options.has_sibling = [&](Sibling kind, size_t) { return kind == Sibling::Any; };
    fill();
    for (size_t i = 0; i < 3; ++i) {
        connect(1, true);
        answer(*engine.ready.try_pop(), "hello");
        engine.loop->turn(0);
        EXPECT_EQ(engine.loop->connection_count(), 4u);
        // The sibling takes it.
        EXPECT_TRUE(Fd(::accept(engine.listener_fd(), nullptr, nullptr)));
        answer(*engine.ready.try_pop(), "hello");
        engine.loop->turn(0);
        const int64_t start_ms = monotonic_ms();
        ASSERT_TRUE(eventually([&] { return monotonic_ms() - start_ms > 20; }));
        for (const size_t answered : {2 * i % 4, 2 * i % 4 + 1})
            ASSERT_TRUE(clients_[answered]->send(kGet));
        turn_until([&] { return engine.ready.look() == 4; });
    }
    answer_all();
}

/// Two kept connections; the application is called for one of them and does not come back.
class EventLoopRelay : public EventLoopAccept {
protected:
    void SetUp() override {
        ASSERT_TRUE(relay.open());
        engine.options.relay = &relay;
        engine.options.keepalive_ms = 60'000;
        engine.options.has_sibling = [this](Sibling kind, size_t with_fewer_than) {
            return with_fewer_than > 100 && (kind == Sibling::Any ? has_sibling : has_idle_sibling);
        };
        engine.open();
        connect(2, false);
        for (const auto& client : clients_)
            ASSERT_TRUE(client->send(proxy_header + std::string(kGet)));
        for (size_t answered = 0; answered < 2;) {
            turn_until([&] { return engine.ready.look() > 0; });
            answer(*engine.ready.try_pop(), "hello");
            ++answered;
        }
        call_for_one_of_them();
    }
    void call_for_one_of_them() {
        for (const size_t i : {0UL, 1UL}) {
            clients_[i]->read_until("hello");
            clients_[i]->forget();
        }
        ASSERT_TRUE(clients_[0]->send(kGet));
        turn_until([&] { return engine.ready.look() == 1; });
        taken = engine.ready.try_pop();
        const int64_t start_ms = monotonic_ms();
        ASSERT_TRUE(eventually([&] { return monotonic_ms() - start_ms > 20; }));
        engine.loop->turn(0);
        ASSERT_TRUE(clients_[1]->send(kGet));
    }

    std::string proxy_header;
    Relay relay;
    bool has_sibling = true, has_idle_sibling = false;
    std::shared_ptr<Exchange> taken;
};

TEST_F(EventLoopRelay, GivesAKeptConnectionToAnIdleSibling) {
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    has_sibling = false;  // so that it stays, however slow this machine is
    int64_t fastest_ms = INT64_MAX;
    for (int i = 0; i < 5; ++i) {
        const int64_t start_ms = monotonic_ms();
        engine.loop->turn(10'000);
        if (i > 0) fastest_ms = std::min(fastest_ms, monotonic_ms() - start_ms);
    }
    EXPECT_LT(fastest_ms, 100) << "it looks now and then";
    has_idle_sibling = true;
    turn_until([&] { return engine.loop->connection_count() == 1; });
    EXPECT_EQ(engine.ready.look(), 0u);
    answer(*std::exchange(taken, nullptr), "first");
}

TEST_F(EventLoopRelay, ReadsTheRequestItselfOnceACallEnds) {
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    EXPECT_EQ(engine.ready.look(), 0u);
    answer(*std::exchange(taken, nullptr), "first");
    turn_until([&] { return engine.ready.look() == 1; });
    answer_all();
    EXPECT_TRUE(clients_[1]->read_until("hello").ends_with("hello"));
}

TEST_F(EventLoopRelay, ReadsTheRequestWhenItStops) {
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    engine.loop->stop();
    turn_until([&] { return engine.ready.look() == 1; });
    answer_all();
    answer(*std::exchange(taken, nullptr), "first");
    turn_until([&] { return engine.loop->is_drained(); });
    EXPECT_TRUE(clients_[1]->read_all().ends_with("hello"));
    EXPECT_TRUE(clients_[0]->read_all().ends_with("first"));
}

TEST_F(EventLoopRelay, GivesAKeptConnectionToABusySiblingForACallThatLasts) {
    turn_until([&] { return engine.loop->connection_count() == 1; });
    EXPECT_EQ(engine.ready.look(), 0u);
    // The next worker with a free slot takes it, even if that is this one.
    answer(*std::exchange(taken, nullptr), "first");
    turn_until([&] { return engine.ready.look() == 1; });
    EXPECT_EQ(engine.loop->connection_count(), 2u);
    answer_all();
    EXPECT_TRUE(clients_[1]->read_until("hello").ends_with("hello"));
    EXPECT_TRUE(clients_[0]->read_until("first").ends_with("first"));
}

TEST_F(EventLoopRelay, TakesThePeersAddressAlong) {
    // What a sibling that reads PROXY headers sees.
    turn_until([&] { return engine.loop->connection_count() == 1; });
    size_t index = 1;
    std::string preamble;
    const Accepted moved = relay.take(index, preamble);
    ASSERT_EQ(moved.status, AcceptStatus::Connection);
    EXPECT_EQ(index, 0u);
    EXPECT_EQ(preamble, "");
    Engine other{[](Exchange&) {}};
    Relay back;
    ASSERT_TRUE(back.open());
    other.options.relay = &back;
    other.options.proxy_mode = ProxyMode::V1;
    other.open();
    ASSERT_TRUE(back.give(moved.fd.get(), 0, "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n"));
    std::shared_ptr<Exchange> request;
    ASSERT_TRUE(eventually([&] {
        other.loop->turn(0);
        return (request = other.ready.try_pop()) != nullptr;
    }));
    EXPECT_EQ(request->facts->remote_addr, "1.2.3.4");
    answer(*std::exchange(request, nullptr), "hello");
    EXPECT_TRUE(clients_[1]->read_until("hello").ends_with("hello"));
    answer(*std::exchange(taken, nullptr), "first");
}

TEST_F(EventLoopRelay, KeepsItWithoutASibling) {
    has_sibling = false;
    turn_until([&] { return engine.ready.look() == 1; });
    EXPECT_EQ(engine.loop->connection_count(), 2u);
    answer_all();
    EXPECT_TRUE(clients_[1]->read_until("hello").ends_with("hello"));
    answer(*std::exchange(taken, nullptr), "first");
}

TEST_F(EventLoopRelay, KeepsItWhileCallsEnd) {
    answer(*std::exchange(taken, nullptr), "first");
    turn_until([&] { return engine.ready.look() == 1; });
    EXPECT_EQ(engine.loop->connection_count(), 2u);
    answer_all();
    EXPECT_TRUE(clients_[1]->read_until("hello").ends_with("hello"));
}

TEST_F(EventLoopRelay, KeepsItWhileCallsEndAndOthersBegin) {
    answer(*std::exchange(taken, nullptr), "hello");
    turn_until([&] { return engine.ready.look() == 1; });
    answer_all();
    bool is_kept = false;
    for (int i = 0; i < 10 && !is_kept; ++i) {  // a slow machine may spoil some of them
        for (const auto& client : clients_) {
            client->read_until("hello");
            client->forget();
        }
        ASSERT_TRUE(clients_[0]->send("GET /0 HTTP/1.1\r\nHost: a\r\n\r\n"));
        ASSERT_TRUE(clients_[1]->send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"));
        turn_until([&] { return engine.ready.look() == 2; });
        const auto first = engine.ready.try_pop(), second = engine.ready.try_pop();
        const int64_t start_ms = monotonic_ms();
        ASSERT_TRUE(eventually([&] { return monotonic_ms() - start_ms > 20; }));
        Client& client = *clients_[first->head.target == "/0" ? 0 : 1];
        answer(*first, "hello");
        client.read_until("hello");
        client.forget();
        ASSERT_TRUE(client.send(kGet));
        engine.loop->turn(0);
        is_kept = engine.ready.look() == 1;
        answer(*second, "hello");
        turn_until([&] { return engine.ready.look() == 1; });
        answer_all();
    }
    EXPECT_TRUE(is_kept) << "a call ended just now";
}

TEST_F(EventLoopRelay, KeepsItWhileACallIsNew) {
    bool is_kept = false;
    for (int i = 0; i < 10 && !is_kept; ++i) {  // a slow machine may spoil some of them
        answer(*std::exchange(taken, nullptr), "hello");
        turn_until([&] { return engine.ready.look() == 1; });
        answer_all();
        for (const auto& client : clients_) {
            client->read_until("hello");
            client->forget();
        }
        const int64_t start_ms = monotonic_ms();
        turn_until([&] { return monotonic_ms() - start_ms > 20; });
        ASSERT_TRUE(clients_[0]->send(kGet));
        turn_until([&] { return engine.ready.look() == 1; });
        taken = engine.ready.try_pop();
        ASSERT_TRUE(clients_[1]->send(kGet));
        engine.loop->turn(0);
        is_kept = engine.ready.look() == 1;
    }
    EXPECT_TRUE(is_kept) << "it may be a short one";
    answer(*std::exchange(taken, nullptr), "first");
    answer_all();
}

TEST_F(EventLoopRelay, KeepsOneThatLeaves) {
    turn_until([&] { return engine.loop->connection_count() == 1; });
    connect(1, true);
    answer(*std::exchange(taken, nullptr), "first");
    for (int i = 0; i < 2; ++i) {  // the new connection, and the one given away
        turn_until([&] { return engine.ready.look() == 1; });
        answer_all();
    }
    turn_until([&] { return engine.loop->connection_count() == 3; });
    ASSERT_TRUE(clients_[0]->send(kGet));
    turn_until([&] { return engine.ready.look() == 1; });
    taken = engine.ready.try_pop();
    const int64_t start_ms = monotonic_ms();
    ASSERT_TRUE(eventually([&] { return monotonic_ms() - start_ms > 20; }));
    clients_[1]->shut();
    turn_until([&] { return engine.loop->connection_count() == 2; });
    size_t index = 0;
    std::string preamble;
    EXPECT_EQ(relay.take(index, preamble).status, AcceptStatus::Nothing);
    answer(*std::exchange(taken, nullptr), "first");
}

TEST_F(EventLoopRelay, ForgetsWhomNobodyReadAndWhoIsGone) {
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    has_sibling = false;  // so that it stays, however slow this machine is
    clients_[1]->reset();
    turn_until([&] { return engine.ready.look() == 1; });
    engine.loop->turn(0);
    EXPECT_EQ(engine.ready.try_pop(), nullptr) << "who is gone wants no answer";
    turn_until([&] { return engine.loop->connection_count() == 1; });
    answer(*std::exchange(taken, nullptr), "first");
    turn_until([&] { return !clients_[0]->is_silent_for(0); });
    engine.loop->turn(0);
    EXPECT_EQ(engine.ready.look(), 0u);
}

/// Each answer gives one turn: new connections from a full backlog would take all of them.
TEST_F(EventLoopRelay, NewcomersLeaveATurnToWhomNobodyTook) {
    turn_until([&] { return engine.loop->connection_count() == 1; });
    connect(20, true);
    answer(*std::exchange(taken, nullptr), "first");
    for (int answers = 0; answers < 10 && clients_[1]->is_silent_for(0); ++answers) {
        turn_until([&] { return engine.ready.look() > 0; });
        answer(*engine.ready.try_pop(), "hello");
    }
    EXPECT_FALSE(clients_[1]->is_silent_for(0)) << "it waits for the last newcomer";
    answer_all();
}

TEST_F(EventLoopRelay, ARefusalIsNoCallThatEnded) {
    answer(*std::exchange(taken, nullptr), "hello");
    turn_until([&] { return engine.ready.look() == 1; });
    answer_all();
    connect(1, false);
    ASSERT_TRUE(clients_[2]->send("GET / HTTP/1.1\r\n"));
    turn_until([&] { return engine.loop->connection_count() == 3; });
    call_for_one_of_them();
    connect(1, true);  // nor does its turn go to a newcomer yet
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    ASSERT_TRUE(clients_[2]->send("bad name: x\r\n\r\n"));
    turn_until([&] { return !clients_[2]->is_silent_for(0); });
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);
    EXPECT_EQ(engine.ready.look(), 0u) << "it would wait for the call that lasts";
    answer(*std::exchange(taken, nullptr), "first");
}

/// A PROXY header that is too long to be sent along, and has no addresses.
class EventLoopRelayHealthCheck : public EventLoopRelay {
protected:
    EventLoopRelayHealthCheck() {
        engine.options.proxy_mode = ProxyMode::V2;
        proxy_header = std::string("\r\n\r\n\0\r\nQUIT\n\x20\0\1\x2c", 16);
        proxy_header += std::string("\4\1\x29", 3) + std::string(0x129, 'n');
    }
};

TEST_F(EventLoopRelayHealthCheck, Stays) {
    const int64_t start_ms = monotonic_ms();
    turn_until([&] { return engine.ready.look() == 1 || monotonic_ms() - start_ms > 1000; });
    EXPECT_EQ(engine.loop->connection_count(), 2u);
    answer_all();
    EXPECT_TRUE(clients_[1]->read_until("hello").ends_with("hello"));
    answer(*std::exchange(taken, nullptr), "first");
}

TEST_F(EventLoopRelay, AStopTakesBackWhomNobodyTook) {
    turn_until([&] { return engine.loop->connection_count() == 1; });
    engine.loop->stop();
    turn_until([&] { return engine.ready.look() == 1; });
    answer(*std::exchange(taken, nullptr), "first");
    answer_all();
    turn_until([&] { return engine.loop->is_drained(); });
    EXPECT_TRUE(clients_[1]->read_all().ends_with("hello"));
}

INSTANTIATE_TEST_SUITE_P(InlineAndThreads, EventLoopTest, ::testing::Values(0, 4),
                         [](const auto& parameter) {
                             return parameter.param == 0 ? std::string("Inline")
                                                         : std::string("Threads");
                         });

}  // namespace
}  // namespace gcorn
