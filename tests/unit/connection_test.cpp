#include "net/connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tests/support/loop_fixture.h"

namespace gcorn {
namespace {

using testing::answer;
using testing::body_of;
using testing::Client;
using testing::Engine;
using testing::eventually;
using testing::kPatienceMs;

constexpr std::string_view kGet = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
constexpr std::string_view kPost = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n";
constexpr int kShortMs = 1000;  ///< a deadline that shall, or shall not, pass
constexpr int kStepMs = 200;    ///< well below it: a busy machine may take its time
constexpr int kStallMs = 3000;  ///< one for when hundreds of MiB go to the disk

/// Calls run inline, as in sync: what is tested here is the same for every class.
class ConnectionTest : public ::testing::Test {
protected:
    Engine engine{[this](Exchange& exchange) { app(exchange); }};
    std::function<void(Exchange&)> app = [](Exchange& exchange) {
        if (exchange.is_worker_stopping()) exchange.response.must_close();
        answer(exchange, body_of(exchange) + "!");
    };
    /// Sends byte by byte; eight bytes take longer than kShortMs.
    static void drip(Client& client, std::string_view bytes) {
        for (const char& byte : bytes) {
            if (!client.is_silent_for(kStepMs) || !client.send({&byte, 1})) return;
        }
    }
    bool has_no_connection() {
        return eventually([&] {
            engine.loop->wake();
            return engine.connections() == 0;
        });
    }
};

// ------------------------------------------------------------------------------------ pipelining

TEST_F(ConnectionTest, AnAnswerDoesNotWaitForTheBodyOfTheNextRequest) {
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(std::string(kGet) + std::string(kPost)));
    EXPECT_NE(client.read_until("\r\n\r\n!").find("200 OK"), std::string::npos);
    client.forget();
    ASSERT_TRUE(client.send("8 bytes."));
    EXPECT_NE(client.read_until("8 bytes.!").find("200 OK"), std::string::npos);
}

TEST_F(ConnectionTest, AnAnswerDoesNotWaitForASlowCallOfTheNextRequest) {
    std::atomic<bool> goes_on{false};
    int calls = 0;
    app = [&](Exchange& exchange) {
        const bool is_first = ++calls == 1;
        EXPECT_TRUE(is_first || eventually([&] { return goes_on.load(); }));
        answer(exchange, "!");
    };
    engine.start(1);
    Client client(engine.address());
    ASSERT_TRUE(client.send(std::string(kGet) + std::string(kGet)));
    EXPECT_NE(client.read_until("\r\n\r\n!").find("200 OK"), std::string::npos);
    client.forget();
    goes_on = true;
    EXPECT_NE(client.read_until("\r\n\r\n!").find("200 OK"), std::string::npos);
}

/// A stall of one deadline in each batch would add up to 25 seconds.
TEST_F(ConnectionTest, ManyPipelinedRequestsWaitForNothing) {
    app = [&](Exchange& exchange) { answer(exchange, exchange.head.target); };
    engine.start();
    Client client(engine.address());
    std::string batch;
    for (int i = 0; i < 40; ++i)
        batch += "GET /" + std::to_string(i) + "! HTTP/1.1\r\nHost: a\r\n\r\n";
    const int64_t start_ms = monotonic_ms();
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(client.send(batch));
        ASSERT_NE(client.read_until("/39!").find("/39!"), std::string::npos);
        client.forget();
    }
    EXPECT_LT(monotonic_ms() - start_ms, kPatienceMs);
}

// --------------------------------------------------------------------------------- what may wait

/// Each is followed by a byte of the next request.
TEST_F(ConnectionTest, LargeHeadsThatWaitForTheApplicationDoNotFillTheMemory) {
    engine.options.keepalive_ms = 60'000;
    std::atomic<bool> goes_on{false};
    app = [&](Exchange& exchange) {
        EXPECT_TRUE(exchange.head.target == "/x" || eventually([&] { return goes_on.load(); }));
        answer(exchange, "!");
    };
    engine.start(1);
    std::string head = "GET /large HTTP/1.1\r\nHost: a\r\n";
    for (int i = 0; i < 98; ++i)
        head += "A" + std::to_string(i) + ": " + std::string(8170, 'x') + "\r\n";
    head += "\r\nG";
    std::vector<Client> clients;
    for (size_t sent = 0; sent < size_t{40} << 20; sent += head.size()) {
        Client& client = clients.emplace_back(engine.address());
        ASSERT_TRUE(client.send(kGet));
        ASSERT_NE(client.read_until("\r\n\r\n!").find("200 OK"), std::string::npos);
        client.forget();
    }
    const auto is_answered = [](Client& client) { return !client.is_silent_for(0); };
    size_t waiting = 0;
    for (Client& client : clients) {  // one by one: what is incomplete is counted, too
        (void)client.send(head);
        EXPECT_TRUE(
            eventually([&] { return engine.loop->active() > waiting || is_answered(client); }));
        waiting += is_answered(client) ? 0 : 1;
    }
    EXPECT_TRUE(eventually([&] { return std::ranges::any_of(clients, is_answered); }));
    goes_on = true;
    size_t served = 0, refused = 0;
    for (Client& client : clients) {
        const std::string reply = client.read_until("!");
        served += reply.find("HTTP/1.1 200 ") != std::string::npos ? 1 : 0;
        refused += reply.find("HTTP/1.1 503 ") != std::string::npos ? 1 : 0;
    }
    EXPECT_GT(refused, 0u);
    EXPECT_LT(refused, served);
    EXPECT_EQ(refused + served, clients.size());
}

// ---------------------------------------------------------------------------------------- bodies

/// A body that arrived whole stays where recv(2) put it: the next one must go elsewhere, even when
/// memory is reused.
TEST_F(ConnectionTest, ABodyThatCameAsAWholeStaysWhenOthersArrive) {
    engine.options.slots = 8;
    engine.open();
    std::vector<std::unique_ptr<Client>> clients;
    const std::vector<size_t> sizes = {4095, 4096, 4097, 16'384, 64'000, 70'000, 8192, 1};
    for (size_t i = 0; i < sizes.size(); ++i)
        clients.push_back(std::make_unique<Client>(engine.address()));
    for (size_t round = 0; round < 3; ++round) {
        const auto body = [&](size_t i) {
            return std::string(sizes[i], static_cast<char>('a' + i + round * sizes.size()));
        };
        for (size_t i = 0; i < sizes.size(); ++i) {
            ASSERT_TRUE(clients[i]->send("POST /" + std::to_string(i) +
                                         " HTTP/1.1\r\nHost: a\r\nContent-Length: " +
                                         std::to_string(sizes[i]) + "\r\n\r\n" + body(i)));
        }
        std::vector<std::shared_ptr<Exchange>> exchanges;
        ASSERT_TRUE(eventually([&] {
            engine.loop->turn(0);
            while (std::shared_ptr<Exchange> exchange = engine.ready.try_pop())
                exchanges.push_back(std::move(exchange));
            return exchanges.size() == sizes.size();
        }));
        for (const std::shared_ptr<Exchange>& exchange : exchanges) {
            const auto i = static_cast<size_t>(exchange->head.target[1] - '0');
            EXPECT_TRUE(body_of(*exchange) == body(i)) << sizes[i] << " bytes, round " << round;
            answer(*exchange, "!");
        }
        exchanges.clear();
        for (size_t i = 0; i < sizes.size(); ++i) {
            EXPECT_NE(clients[i]->read_until("\r\n\r\n!").find(" 200 "), std::string::npos);
            clients[i]->forget();
        }
    }
}

// ------------------------------------------------------------------------------------- deadlines

TEST_F(ConnectionTest, ABodyMayTakeLongerThanItsTimeoutWhileBytesCome) {
    engine.options.body_timeout_ms = kShortMs;
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kPost));
    drip(client, "8 bytes.");
    EXPECT_NE(client.read_until("8 bytes.!").find("200 OK"), std::string::npos);
}

TEST_F(ConnectionTest, AHeadMayNotTakeLongerAlthoughBytesCome) {
    engine.options.header_timeout_ms = kShortMs;
    engine.start();
    Client client(engine.address());
    drip(client, kGet);
    EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 408 ");
}

TEST_F(ConnectionTest, AProxyHeaderGainsNoTimeForTheHead) {
    engine.options.proxy_mode = ProxyMode::Auto;
    engine.options.header_timeout_ms = kShortMs;
    engine.start();
    // A busy machine may be late, but not every time.
    EXPECT_TRUE(eventually([&] {
        Client client(engine.address());
        const int64_t start_ms = monotonic_ms();
        drip(client, "PROX");
        EXPECT_TRUE(client.send("Y TCP4 192.0.2.1 192.0.2.2 1234 80\r\nG"));
        EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 408 ");
        return monotonic_ms() - start_ms < kShortMs + 3 * kStepMs;
    }));
}

TEST_F(ConnectionTest, TheNextHeadHasADeadlineOfItsOwn) {
    engine.options.header_timeout_ms = kShortMs;
    engine.start();
    Client client(engine.address());
    for (int i = 0; i < 2; ++i) {
        client.forget();
        drip(client, kGet.substr(0, 3));
        ASSERT_TRUE(client.send(kGet.substr(3)));
        EXPECT_NE(client.read_until("!").find("200 OK"), std::string::npos) << i;
    }
    ASSERT_TRUE(client.send("G"));
    client.forget();
    EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 408 ");
}

/// RFC 9112 §2.2 says to ignore it, so it gets no answer: a client could take one for the answer to
/// its next request.
TEST_F(ConnectionTest, AnEmptyLineIsNoRequest) {
    engine.options.header_timeout_ms = kShortMs;
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("\r\n"));
    EXPECT_EQ(client.read_all(), "");
    EXPECT_TRUE(client.is_closed());
}

/// Some clients send one. It neither keeps the connection open nor takes time off the next head.
TEST_F(ConnectionTest, AnEmptyLineBehindABodyLeavesTheConnectionIdle) {
    engine.options.keepalive_ms = kShortMs;
    engine.start();
    Client client(engine.address());
    for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(client.send(std::string(kPost) + "8 bytes.\r\n"));
        EXPECT_TRUE(client.read_until("!").ends_with("\r\n\r\n8 bytes.!"));
        client.forget();
        EXPECT_TRUE(client.is_silent_for(kStepMs));
    }
    EXPECT_EQ(client.read_all(), "");
    EXPECT_TRUE(client.is_closed());
}

TEST_F(ConnectionTest, ZeroTurnsADeadlineOff) {
    engine.options.header_timeout_ms = engine.options.body_timeout_ms = 0;
    engine.start();
    Client silent(engine.address()), in_head(engine.address()), in_body(engine.address());
    ASSERT_TRUE(in_head.send(kGet.substr(0, 3)));
    ASSERT_TRUE(in_body.send(kPost));
    for (Client* client : {&silent, &in_head, &in_body})
        EXPECT_TRUE(client->is_silent_for(kStepMs));
    ASSERT_TRUE(silent.send(kGet) && in_head.send(kGet.substr(3)) && in_body.send("8 bytes."));
    for (Client* client : {&silent, &in_head, &in_body})
        EXPECT_NE(client->read_until("!").find("200 OK"), std::string::npos);
}

TEST_F(ConnectionTest, KeepaliveZeroClosesAfterEachAnswer) {
    engine.options.keepalive_ms = 0;
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    EXPECT_NE(client.read_all().find("Connection: close\r\n"), std::string::npos);
    EXPECT_TRUE(client.is_closed());
}

// ---------------------------------------------------------------------------------------- bodies

TEST_F(ConnectionTest, ABodyThatCameWithItsHeadNeedsNoPermission) {
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                    "Content-Length: 2\r\n\r\nok"));
    EXPECT_EQ(client.read_until("ok!").substr(0, 13), "HTTP/1.1 200 ");
}

TEST_F(ConnectionTest, ABodyEndsAtItsLastByteAndNotBefore) {
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kPost) && client.send("7 bytes"));
    EXPECT_TRUE(client.is_silent_for(kStepMs));
    ASSERT_TRUE(client.send(".GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    const std::string replies = client.read_all();
    EXPECT_NE(replies.find("\r\n\r\n7 bytes.!HTTP/1.1 200 OK\r\n"), std::string::npos) << replies;
}

TEST_F(ConnectionTest, ARefusedUploadGetsItsAnswerAlthoughItGoesOn) {
    engine.options.policy.limit_request_body = 1000;
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n"));
    const std::string block(64 * 1024, 'x');
    for (int i = 0; i < 100; ++i)
        ASSERT_TRUE(client.send(block)) << i;
    EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 413 ");
    client.close();
    EXPECT_TRUE(has_no_connection());
}

TEST_F(ConnectionTest, ARefusedUploadMayBeSlow) {
    engine.options.policy.limit_request_body = 1000;
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n"));
    for (const int64_t end_ms = monotonic_ms() + kLingerMs + 1000; monotonic_ms() < end_ms;) {
        ASSERT_TRUE(client.send("x"));
        std::this_thread::sleep_for(std::chrono::milliseconds(kStepMs));
    }
    EXPECT_EQ(client.read_all().substr(0, 13), "HTTP/1.1 413 ");
    client.close();
    EXPECT_TRUE(has_no_connection());
}

TEST_F(ConnectionTest, ARefusedUploadIsNotListenedToForEver) {
    engine.options.policy.limit_request_body = 1000;
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n"));
    const std::string block(64 * 1024, 'x');
    size_t sent = 0;
    while (sent < 4 * kLingerBytesMax && client.send(block))
        sent += block.size();
    EXPECT_GE(sent, kLingerBytesMax);
    EXPECT_LT(sent, 2 * kLingerBytesMax);
}

TEST_F(ConnectionTest, ChunksOfAllSizesMakeOneBody) {
    std::string body, in = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (int i = 0; i < 60; ++i) {
        // Sizes around the limit for storing chunks together (1 KiB); soon they need a file.
        for (const size_t size : {1, 1, 1023, 1024, 1025, 2, 7000, 1}) {
            const std::string data(size, static_cast<char>('a' + body.size() % 26));
            char head[32];
            std::snprintf(head, sizeof head, "%zx\r\n", size);
            in += head + data + "\r\n";
            body += data;
        }
    }
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(in + "0\r\n\r\n" + std::string(kGet)));
    const std::string reply = client.read_until(body + "!");
    EXPECT_NE(reply.find("\r\n\r\n" + body + "!"), std::string::npos);
    EXPECT_NE(client.read_until("\r\n\r\n!").find("\r\n\r\n!"), std::string::npos);
}

// ------------------------------------------------------------------ bodies too large to be stored

/// The application, on a thread of its own, is called while its request's body still arrives.
class StreamedBody : public ConnectionTest {
protected:
    static constexpr uint64_t kStored = kBodyBytesInFlightMax + (1 << 20);

    static std::string head(const std::string& framing) {
        return "POST /x HTTP/1.1\r\nHost: a\r\n" + framing + "\r\n\r\n";
    }
    static bool send_stored(Client& client, uint64_t size = kStored) {
        std::string block;
        while (block.size() < 1 << 20)
            block += kGet;  // a server that took it for requests would answer them
        block.resize(1 << 20);
        for (uint64_t sent = 0; sent < size; sent += block.size())
            if (!client.send(block)) return false;
        return true;
    }
    /// Takes all of the body, and says how it ended.
    static std::string take_all(Exchange& exchange, uint64_t at = 0) {
        for (;;) {
            const Result<uint64_t> got = exchange.wait_for_body(at);
            if (!got) return std::string("error ") + std::strerror(got.error().code);
            if (*got == at) return std::to_string(at) + " bytes";
            at = *got;
            exchange.body_consumed(at);
        }
    }
};

TEST_F(StreamedBody, IsTakenWhileItArrives) {
    app = [](Exchange& exchange) { answer(exchange, take_all(exchange)); };
    engine.options.body_timeout_ms = kShortMs;
    engine.start(1);
    Client client(engine.address());
    const std::string block(4 * kBytesPerSecondMin * kStepMs / 1000, 'x');  // for a busy machine
    ASSERT_TRUE(client.send(head("Content-Length: " + std::to_string(kStored + 8 * block.size()))));
    ASSERT_TRUE(send_stored(client));
    for (int i = 0; i < 8 && client.is_silent_for(kStepMs); ++i)
        ASSERT_TRUE(client.send(block));
    const std::string reply = client.read_until(" bytes");
    EXPECT_NE(reply.find("\r\n\r\n" + std::to_string(kStored + 8 * block.size()) + " bytes"),
              std::string::npos)
        << reply;
    EXPECT_NE(reply.find("Connection: keep-alive\r\n"), std::string::npos);
}

TEST_F(StreamedBody, ThatEndsBadlyEndsItsConnection) {
    const struct {
        const char *framing, *start, *end;
        int error;
    } rows[] = {
        {"Content-Length: 999999999", "", "", ECONNRESET},
        {"Transfer-Encoding: chunked", "10100000\r\n", "no CRLF", EPROTO},
        {"Content-Length: 999999999", "", nullptr, ETIMEDOUT},
    };
    static_assert(kStored == 0x10100000);
    app = [](Exchange& exchange) { answer(exchange, take_all(exchange)); };
    engine.options.body_timeout_ms = kStallMs;
    engine.start(1);
    for (const auto& row : rows) {
        Client client(engine.address());
        ASSERT_TRUE(client.send(head(row.framing) + row.start) && send_stored(client));
        if (row.end != nullptr) {
            ASSERT_TRUE(client.send(row.end));
            client.shut();
        }
        const std::string reply = client.read_all();
        EXPECT_TRUE(reply.ends_with(std::string("error ") + std::strerror(row.error))) << reply;
        EXPECT_TRUE(client.is_closed());
        EXPECT_NE(reply.find("Connection: close\r\n"), std::string::npos) << reply;
    }
}

/// Otherwise a byte now and then would hold the worker for as long as the client likes.
TEST_F(StreamedBody, ThatComesByDropsEnds) {
    app = [](Exchange& exchange) { answer(exchange, take_all(exchange)); };
    engine.options.body_timeout_ms = kStallMs;
    engine.start(1);
    Client client(engine.address());
    ASSERT_TRUE(client.send(head("Content-Length: 999999999")) && send_stored(client));
    const int64_t end_ms = monotonic_ms() + gcorn::testing::kPatienceMs;
    while (client.is_silent_for(kStepMs) && monotonic_ms() < end_ms)
        (void)client.send("x");
    const std::string reply = client.read_all();
    EXPECT_NE(reply.find("error Connection timed out"), std::string::npos) << reply;
}

/// The application waits for a client that neither sends nor takes anything.
TEST_F(StreamedBody, ThatEndsEarlyLeavesTheAnswerItsDeadline) {
    std::atomic<bool> is_over{false};
    app = [&](Exchange& exchange) {
        const std::string big(16 << 20, 'z');
        EXPECT_NE(take_all(exchange), std::to_string(kStored) + " bytes");
        EXPECT_TRUE(exchange.response.set_status("200 OK").is_ok());
        exchange.send(exchange.response.body(big.size()), big, false);
        EXPECT_FALSE(exchange.detach().is_ok());  // waits until all is sent
        exchange.finish();
        is_over = true;
    };
    engine.options.body_timeout_ms = kStallMs;
    engine.options.write_timeout_ms = kShortMs;
    engine.start(1);
    Client client(engine.address());
    ASSERT_TRUE(client.send(head("Content-Length: 999999999")) && send_stored(client));
    EXPECT_TRUE(eventually([&] { return is_over.load(); }));
    client.close();
    engine.stop();
}

TEST_F(StreamedBody, WhoseRestNobodyTakesIsNoFurtherRequest) {
    std::atomic<int> calls{0};
    app = [&](Exchange& exchange) {
        ++calls;
        answer(exchange, "early");
    };
    engine.start(1);
    Client client(engine.address());
    ASSERT_TRUE(client.send(head("Content-Length: " + std::to_string(kStored + (2 << 20)))));
    ASSERT_TRUE(send_stored(client));
    client.read_until("early");
    (void)send_stored(client, 2 << 20);  // no matter if the connection is closed by now
    (void)client.send(kGet);
    const std::string reply = client.read_all();
    EXPECT_EQ(reply.find("HTTP/1.1 ", 1), std::string::npos) << reply;
    EXPECT_TRUE(client.is_closed());
    EXPECT_EQ(calls, 1);
}

TEST_F(StreamedBody, WaitsForAnApplicationThatIsSlow) {
    constexpr uint64_t kSize = kBodyBytesInFlightMax + (64 << 20);
    std::atomic<bool> goes_on{false};
    app = [&](Exchange& exchange) {
        EXPECT_TRUE(eventually([&] { return goes_on.load(); }));
        answer(exchange, take_all(exchange));
    };
    engine.options.body_timeout_ms = kStallMs;
    engine.start(1);
    Client client(engine.address());
    ASSERT_TRUE(client.send(head("Content-Length: " + std::to_string(kSize))));
    std::atomic<uint64_t> sent{0};
    std::thread sender([&] {
        const std::string block(1 << 20, 'x');
        while (sent < kSize && client.send(block))
            sent += block.size();
    });
    EXPECT_TRUE(eventually([&] { return sent > kBodyBytesInFlightMax; }));
    // Longer than body_timeout: it is not the client that is silent.
    std::this_thread::sleep_for(std::chrono::milliseconds(kStallMs + 500));
    EXPECT_LT(sent, kBodyBytesInFlightMax + (32 << 20)) << "the rest waits in the client";
    goes_on = true;
    const std::string reply = client.read_until(" bytes");
    EXPECT_NE(reply.find("\r\n\r\n" + std::to_string(kSize) + " bytes"), std::string::npos)
        << reply;
    sender.join();
}

// ---------------------------------------------------------------------------------- slow readers

TEST_F(ConnectionTest, AnAnswerMayTakeLongerThanItsTimeoutWhileTheClientReads) {
    const std::string big(64 << 20, 'z');
    app = [&](Exchange& exchange) { answer(exchange, big); };
    engine.options.write_timeout_ms = kStallMs;
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    for (size_t i = 1; i <= 8; ++i) {
        client.read_size(i * (4 << 20));
        std::this_thread::sleep_for(std::chrono::milliseconds(2 * kStepMs));
    }
    EXPECT_GT(client.read_size(big.size() + 1).size(), big.size());
}

TEST_F(ConnectionTest, AnEndThatOnlyTheServerWantsWaitsForTheClientsBytes) {
    app = [](Exchange& exchange) {
        exchange.response.must_close();
        answer(exchange, "!");
    };
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(kGet));
    ASSERT_NE(client.read_all().find("Connection: close\r\n"), std::string::npos);
    for (int i = 0; i < 3; ++i) {  // a reset, which destroys answers, would fail the second
        EXPECT_TRUE(client.send(kGet)) << i;
        std::this_thread::sleep_for(std::chrono::milliseconds(kStepMs));
    }
}

TEST_F(ConnectionTest, ABodyGoesWhileItsAnswerIsReadSlowly) {
    engine.open();
    Client client(engine.address(), 4096);
    const std::string body(2 * kSpoolMemoryMax, 'b'), big(8 << 20, 'z');
    ASSERT_TRUE(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " +
                            std::to_string(body.size()) + "\r\n\r\n"));
    std::thread sender([&] { EXPECT_TRUE(client.send(body)); });
    std::shared_ptr<Exchange> taken;
    EXPECT_TRUE(eventually([&] {
        engine.loop->turn(0);
        return (taken = engine.ready.try_pop()) != nullptr;
    }));
    sender.join();
    ASSERT_TRUE(taken);
    answer(*taken, big);
    const Exchange* const exchange = std::exchange(taken, nullptr).get();  // still the connection's
    size_t read = 0;
    EXPECT_TRUE(eventually([&] {
        client.read_size(read += 64 * 1024);
        engine.loop->turn(0);
        return exchange->body.size() == 0;
    }));
    EXPECT_LT(read, big.size() / 2);
}

// ----------------------------------------------------------------------------------- transformed

/// Stands in for TLS, without cryptography: one byte opens it, kAsk asks for an answer of the
/// protocol itself.
class OpenTransform final : public ByteTransform {
public:
    explicit OpenTransform(size_t& taken) : taken_(taken) {}
    Status feed(std::string_view wire, bool is_end, std::string& plain) override {
        if (is_end) return Error{0, is_open_ ? "cut" : "cut inside the handshake"};
        if (!std::exchange(is_open_, true)) wire.remove_prefix(1);
        for (const char byte : wire) {
            if (byte == kAsk)
                wire_.append(1024, 'k');
            else if (byte == kNothing)
                continue;
            else if (byte == kEnd)
                is_ended_ = true;
            else if (byte == kWork)
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
            else
                plain += byte;
        }
        return {};
    }
    Status write(std::string_view plain) override {
        taken_ += plain.size();
        wire_ += plain;
        return {};
    }
    void drain(std::string& wire) override { wire += std::exchange(wire_, {}); }
    [[nodiscard]] bool is_open() const override { return is_open_; }
    [[nodiscard]] bool is_ended() const override { return is_ended_; }
    void close() override {
        if (!std::exchange(is_closed_, true)) wire_ += kGoodbye;
    }
    static constexpr char kAsk = '\x02';
    static constexpr char kWork = '\x03';  ///< takes a while
    static constexpr char kNothing = '\x04';
    static constexpr char kEnd = '\x05';  ///< the peer's goodbye
    static constexpr std::string_view kGoodbye = "goodbye";

private:
    size_t& taken_;  ///< plain bytes written
    std::string wire_;
    bool is_open_ = false, is_ended_ = false, is_closed_ = false;
};

class TransformedConnection : public ConnectionTest {
protected:
    void SetUp() override {
        engine.options.make_tls = [this]() -> Result<std::unique_ptr<ByteTransform>> {
            return std::unique_ptr<ByteTransform>(std::make_unique<OpenTransform>(taken));
        };
    }
    /// Sends a client's request, which then waits for the test to answer it.
    std::shared_ptr<Exchange> request(Client& client) {
        EXPECT_TRUE(client.send("\x01" + std::string(kGet)));
        std::shared_ptr<Exchange> exchange;
        EXPECT_TRUE(eventually([&] {
            engine.loop->turn(0);
            return (exchange = engine.ready.try_pop()) != nullptr;
        }));
        return exchange;
    }
    static void begin(Exchange& exchange) {
        exchange.response.must_close();
        EXPECT_TRUE(exchange.response.set_status("200 OK").is_ok());
        EXPECT_TRUE(exchange.send(exchange.response.body(0, false), {}, false));
    }
    /// Sends blocks until the socket is full, at most `blocks`; returns how many the transform
    /// took.
    size_t fill(Exchange& exchange, size_t blocks) {
        const std::string block(kBlockBytes, 'b');
        for (size_t i = 0; i < blocks; ++i) {
            const size_t before = taken;
            EXPECT_TRUE(exchange.send({}, block, {}, false));
            engine.loop->turn(0);
            if (taken == before) return i;
        }
        return blocks;
    }
    std::string read_all(Client& client) {
        std::thread reader([&] {
            client.read_all();
            client.shut();
        });
        EXPECT_TRUE(eventually([&] {
            engine.loop->turn(1);
            return engine.loop->connection_count() == 0;
        }));
        reader.join();
        return client.read_all();
    }
    /// The number of the block that finds no room on its way to a client that reads nothing.
    size_t room() {
        Client client(engine.address(), kTinyBytes);
        const std::shared_ptr<Exchange> exchange = request(client);
        const size_t blocks = fill(*exchange, SIZE_MAX);
        exchange->abort();
        exchange->finish();
        (void)read_all(client);
        return blocks;
    }
    static constexpr size_t kBlockBytes = 16 * 1024;
    static constexpr int kTinyBytes = 4096;
    size_t taken = 0;
};

TEST_F(TransformedConnection, AFastReaderDoesNotHoldTheLeader) {
    engine.open();
    Client client(engine.address());
    const std::shared_ptr<Exchange> exchange = request(client);
    const std::string big(16 << 20, 'z');
    begin(*exchange);
    ASSERT_TRUE(exchange->send({}, big, {}, true));
    exchange->finish();
    std::thread reader([&] { client.read_all(); });
    size_t most = 0;
    EXPECT_TRUE(eventually([&] {
        const size_t before = taken;
        engine.loop->turn(1);
        most = std::max(most, taken - before);
        return engine.loop->connection_count() == 0 || taken > big.size();
    }));
    EXPECT_LE(most, size_t{1} << 20);
    client.shut();
    EXPECT_TRUE(eventually([&] {
        engine.loop->turn(1);
        return engine.loop->connection_count() == 0;
    }));
    reader.join();
    EXPECT_GT(client.read_all().size(), big.size());
}

/// This once ended the worker.
TEST_F(TransformedConnection, AResetMeetsTheGoodbyeToAPeerThatSaidItsOwn) {
    engine.open();
    Client client(engine.address());
    ASSERT_TRUE(client.send("\x01" + std::string(kGet) + OpenTransform::kEnd));
    std::shared_ptr<Exchange> exchange;
    ASSERT_TRUE(eventually([&] {
        engine.loop->turn(0);
        return (exchange = engine.ready.try_pop()) != nullptr;
    }));
    ASSERT_TRUE(exchange->response.set_status("200 OK").is_ok());
    ASSERT_TRUE(exchange->response.add_field("Content-Length", "1").is_ok());
    ASSERT_TRUE(exchange->send(exchange->response.body(1, true), "!", true));
    engine.loop->turn(0);
    ASSERT_NE(client.read_until("\r\n\r\n!").find("200 OK"), std::string::npos);
    client.reset();
    exchange->finish();
    EXPECT_TRUE(eventually([&] {
        engine.loop->turn(0);
        return engine.loop->connection_count() == 0;
    }));
}

/// A client that says goodbye right behind its requests has not given up, however long they wait.
TEST_F(TransformedConnection, AGoodbyeBehindRequestsIsNoGivingUp) {
    engine.open();
    Client client(engine.address());
    ASSERT_TRUE(client.send("\x01" + std::string(kGet) + std::string(kGet) + OpenTransform::kEnd));
    const auto turn_until = [&](const std::function<bool()>& condition) {
        ASSERT_TRUE(eventually([&] {
            engine.loop->turn(0);
            return condition();
        }));
    };
    turn_until([&] { return engine.ready.look() == 1; });
    answer(*engine.ready.try_pop(), "!");
    turn_until([&] { return engine.ready.look() == 1; });
    const int64_t start_ms = monotonic_ms();
    turn_until([&] { return monotonic_ms() - start_ms > 2 * kHalfCloseMs; });
    client.shut();
    engine.loop->turn(0);
    engine.loop->turn(0);
    const std::shared_ptr<Exchange> exchange = engine.ready.try_pop();
    ASSERT_TRUE(exchange);
    answer(*exchange, "last");
    EXPECT_NE(read_all(client).find("last"), std::string::npos);
}

/// Port scanners and health checks come and go: that is worth no warning.
TEST_F(TransformedConnection, OnlyAnEndAfterTheHandshakeNeedsAGoodbye) {
    engine.start();
    for (const std::string sent : {"", "\x01"}) {
        Client client(engine.address());
        ASSERT_TRUE(client.send(sent));
        client.shut();
        EXPECT_TRUE(client.is_closed());
    }
    const std::string log = engine.log_text();
    EXPECT_NE(log.find("ended without close_notify: cut\n"), std::string::npos) << log;
    EXPECT_EQ(log.find("inside the handshake"), std::string::npos) << log;
}

TEST_F(TransformedConnection, AGoodbyeInsideAHeadEndsTheConnection) {
    engine.options.header_timeout_ms = 2 * kPatienceMs;
    engine.open();
    Client client(engine.address());
    ASSERT_TRUE(client.send("\x01" + std::string(kGet) + "GET /" + OpenTransform::kEnd));
    std::shared_ptr<Exchange> exchange;
    EXPECT_TRUE(eventually([&] {
        engine.loop->turn(0);
        return (exchange = engine.ready.try_pop()) != nullptr;
    }));
    ASSERT_TRUE(exchange);
    answer(*std::exchange(exchange, nullptr), "!");
    EXPECT_TRUE(eventually([&] {
        engine.loop->turn(0);
        return engine.loop->connection_count() == 0;
    }));
    EXPECT_TRUE(client.read_all().ends_with(OpenTransform::kGoodbye));
}

/// Like TLS's KeyUpdate: a client could send any number of them, each as expensive as a request.
TEST_F(TransformedConnection, AClientMayNotSendRecordsWithoutContentForEver) {
    engine.start();
    Client client(engine.address());
    const std::string much(30'000, OpenTransform::kNothing), little(9000, OpenTransform::kNothing);
    ASSERT_TRUE(client.send("\x01" + std::string(kPost)));
    for (int i = 0; i < 8; ++i)  // together with content they are harmless
        ASSERT_TRUE(client.send("x" + little.substr(0, 95)));
    EXPECT_NE(client.read_until("xxxxxxxx!").find("200 OK"), std::string::npos);
    client.forget();
    ASSERT_TRUE(client.send(much + std::string(kGet)));
    EXPECT_NE(client.read_until("\r\n\r\n!").find("200 OK"), std::string::npos);
    client.forget();
    ASSERT_TRUE(client.send(little.substr(0, 4000)));
    EXPECT_TRUE(client.is_silent_for(kStepMs));
    (void)client.send(little);
    EXPECT_TRUE(client.is_closed());
    EXPECT_NE(engine.log_text().find("TLS: too many empty records"), std::string::npos);
}

/// Else such work for 256 clients would make one single turn.
TEST_F(TransformedConnection, LongWorkForOneClientPutsOthersOffUntilTheNextTurn) {
    engine.options.slots = 8;
    engine.open();
    std::vector<Client> clients;
    for (int i = 0; i < 8; ++i)
        EXPECT_TRUE(clients.emplace_back(engine.address()).send("\x01" + std::string(kPost)));
    Client small(engine.address());
    ASSERT_TRUE(small.send("\x01"));
    ASSERT_TRUE(eventually([&] {
        engine.loop->turn(0);
        return engine.loop->connection_count() == 9;
    }));
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);  // so that all of them are read, too
    for (Client& client : clients)
        EXPECT_TRUE(client.send(OpenTransform::kWork + std::string(8, 'x')));
    ASSERT_TRUE(small.send(kGet));
    const auto take = [&] {
        engine.loop->turn(0);
        size_t taken_now = 0;
        for (; const std::shared_ptr<Exchange> exchange = engine.ready.try_pop(); ++taken_now)
            answer(*exchange, "hello");
        return taken_now;
    };
    size_t answered = take();
    EXPECT_LE(answered, 2u);  // the small one, and one of the long ones
    EXPECT_TRUE(eventually([&] {
        const size_t taken_now = take();
        EXPECT_LE(taken_now, 1u);
        EXPECT_FALSE(small.is_silent_for(0));
        return (answered += taken_now) == 9;
    }));
}

TEST_F(TransformedConnection, NobodyIsPutOffForEver) {
    engine.open();
    std::vector<Client> clients;
    const std::string head = "\x01POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n";
    for (int i = 0; i < 3; ++i)
        EXPECT_TRUE(clients.emplace_back(engine.address()).send(head));
    ASSERT_TRUE(eventually([&] {
        engine.loop->turn(0);
        return engine.loop->connection_count() == 3;
    }));
    for (int i = 0; i < 5; ++i)
        engine.loop->turn(0);  // so that all heads are read
    for (int i = 0; i < 6 && engine.ready.is_empty(); ++i) {
        for (Client* busy : {&clients[0], &clients[1]})
            EXPECT_TRUE(busy->send(OpenTransform::kWork + std::string(1, 'x')));
        EXPECT_TRUE(i > 0 || clients.back().send(std::string(99, 'x')));
        engine.loop->turn(0);
    }
    EXPECT_FALSE(engine.ready.is_empty());
}

/// The last block is with the transform, not with the Exchange, when the answer is cut.
TEST_F(TransformedConnection, WhatWasSentBeforeACutGoesOut) {
    engine.open();
    const size_t blocks = room();
    for (size_t n = blocks - 1; n <= blocks + 1; ++n) {
        Client client(engine.address(), kTinyBytes);
        const std::shared_ptr<Exchange> exchange = request(client);
        fill(*exchange, n);
        exchange->abort();
        exchange->finish();
        EXPECT_EQ(read_all(client).size() % kBlockBytes, 0u) << n;
    }
}

/// Without the goodbye, an answer that is framed by the end of the connection looks cut. A unix
/// socket can be full at any byte.
TEST_F(TransformedConnection, TheGoodbyeWaitsForRoom) {
    char directory[] = "/tmp/gcorn-connection-XXXXXX";
    ASSERT_NE(::mkdtemp(directory), nullptr);
    engine.bind = "unix:" + std::string(directory) + "/sock";
    engine.open();
    const size_t blocks = room();
    const std::string block(kBlockBytes, 'c');
    for (size_t n = blocks - 4; n <= blocks; ++n) {
        Client client(engine.address(), kTinyBytes);
        const std::shared_ptr<Exchange> exchange = request(client);
        begin(*exchange);
        fill(*exchange, n);
        exchange->send({}, block, {}, true);
        exchange->finish();
        engine.loop->turn(0);
        EXPECT_TRUE(read_all(client).ends_with(OpenTransform::kGoodbye)) << n;
    }
    std::filesystem::remove_all(directory);
}

TEST_F(TransformedConnection, APeerThatTakesNothingIsNotAnsweredForEver) {
    engine.start();
    Client client(engine.address(), kTinyBytes);
    ASSERT_TRUE(client.send("\x01" + std::string(kPost)));
    EXPECT_TRUE(eventually([&] {
        engine.loop->wake();
        return engine.connections() == 1;
    }));
    // Without the limit, a thousand times as much would be stored.
    std::thread sender([&] { client.send(std::string(64 << 10, OpenTransform::kAsk)); });
    EXPECT_TRUE(has_no_connection());
    client.reset();
    sender.join();
}

// ---------------------------------------------------------------------------------- unix sockets

class UnixConnection : public ConnectionTest {
protected:
    void SetUp() override {
        char pattern[] = "/tmp/gcorn-connection-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern), nullptr);
        directory_ = pattern;
        engine.bind = "unix:" + directory_ + "/sock";
        engine.options.forwarded_allow = engine.options.proxy_allow = *NetworkList::parse("");
    }
    void TearDown() override {
        engine.stop();
        std::filesystem::remove_all(directory_);
    }
    std::string directory_;
};

TEST_F(UnixConnection, IsThatOfATrustedProxy) {
    app = [](Exchange& exchange) { answer(exchange, exchange.head.is_https ? "https!" : "http!"); };
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n"));
    EXPECT_TRUE(client.read_until("!").ends_with("\r\n\r\nhttps!"));
}

TEST_F(UnixConnection, MayBeginWithAProxyHeader) {
    app = [](Exchange& exchange) {
        answer(exchange, exchange.facts->remote_addr + " " + exchange.facts->remote_port + "!");
    };
    engine.options.proxy_mode = ProxyMode::Auto;
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n" + std::string(kGet)));
    EXPECT_TRUE(client.read_until("!").ends_with("\r\n\r\n192.0.2.1 1234!"));
}

// -------------------------------------------------------------------------------------- stopping

TEST_F(ConnectionTest, AStopDoesNotListenToARefusedClientForLong) {
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send("no request\r\n\r\n"));
    client.read_all();                 // and keeps its side open
    Client witness(engine.address());  // its answer comes in a later turn
    ASSERT_TRUE(witness.send(kGet));
    witness.read_until("!");
    witness.close();
    const int64_t start_ms = monotonic_ms();
    engine.loop->stop();
    EXPECT_TRUE(has_no_connection());
    EXPECT_LT(monotonic_ms() - start_ms, kLingerMs - 500);
}

TEST_F(ConnectionTest, AStopDoesNotWaitBehindAnEmptyLine) {
    engine.start();
    Client client(engine.address());
    ASSERT_TRUE(client.send(std::string(kGet) + "\r\n"));
    client.read_until("!");
    engine.loop->stop();
    EXPECT_TRUE(client.is_closed());
}

TEST_F(ConnectionTest, AStopWaitsForWhatIsArriving) {
    engine.start();
    Client in_head(engine.address()), in_body(engine.address()), idle(engine.address());
    ASSERT_TRUE(in_head.send(kGet.substr(0, 3)) && in_body.send(kPost) && idle.send(kGet));
    idle.read_until("!");
    // The loop has seen each of them: it has since answered a younger connection.
    Client witness(engine.address());
    ASSERT_TRUE(witness.send(kGet));
    witness.read_until("!");
    engine.loop->stop();
    EXPECT_TRUE(idle.is_closed());
    ASSERT_TRUE(in_head.send(kGet.substr(3)) && in_body.send("8 bytes."));
    for (Client* client : {&in_head, &in_body}) {
        EXPECT_NE(client->read_all().find("Connection: close\r\n"), std::string::npos);
        EXPECT_TRUE(client->is_closed());
    }
    EXPECT_TRUE(has_no_connection());
}

}  // namespace
}  // namespace gcorn
