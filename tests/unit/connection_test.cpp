#include "net/connection.h"

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
constexpr int kShortMs = 400;  ///< a deadline that shall, or shall not, pass
constexpr int kStepMs = 80;    ///< well below it: a busy machine may take its time

/// Calls run inline, as in sync: what is tested here is the same for every class.
class ConnectionTest : public ::testing::Test {
protected:
    Engine engine{[this](Exchange& exchange) { app(exchange); }};
    std::function<void(Exchange&)> app = [](Exchange& exchange) {
        if (exchange.is_worker_stopping()) exchange.response.must_close();
        answer(exchange, body_of(exchange) + "!");
    };
    /// Sends byte by byte, which takes longer than kShortMs for eight of them.
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

// -------------------------------------------------------------------------------------- stopping

TEST_F(ConnectionTest, AStopWaitsForWhatIsArriving) {
    engine.start();
    Client in_head(engine.address()), in_body(engine.address()), idle(engine.address());
    ASSERT_TRUE(in_head.send(kGet.substr(0, 3)) && in_body.send(kPost) && idle.send(kGet));
    idle.read_until("!");
    // Each of them was seen: an answer on a younger connection came after all three.
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
