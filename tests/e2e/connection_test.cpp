// What a connection does between requests and with bad ones: keep-alive, pipelining, refusals,
// deadlines, Expect, clients that vanish.

#include <thread>

#include <set>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

class Connection : public PerEngine {
protected:
    /// Starts the server with these additional arguments.
    Server& start(const std::vector<std::string>& more = {}) {
        ServerOptions options = with(more);
        options.env["PROBE_LOG"] = scratch_ / "events";
        server_.emplace(options);
        return *server_;
    }
    void expect_alive() { EXPECT_EQ(server_->get("/").body, "Hello, world!\n"); }

    TempDir scratch_;
    std::optional<Server> server_;
};
FOR_EVERY_ENGINE(Connection);

TEST_P(Connection, StaysOpenBetweenRequests) {
    SKIP_ON_GUNICORN("its sync class closes after each answer");
    Client client = start().connect();
    for (int i = 0; i < 100; ++i) {
        const Response response = client.get(i % 2 == 0 ? "/" : "/generator");
        ASSERT_TRUE(response.ok()) << i << response;
        EXPECT_FALSE(response.says_close());
        EXPECT_EQ(response.body, i % 2 == 0 ? "Hello, world!\n" : "one two three");
    }
    const std::string body(50'000, 'b');
    EXPECT_EQ(client.request("POST", "/echo", {}, body).body, body);
    EXPECT_EQ(client.request("POST", "/ignore", {}, body).body, "not read");
    EXPECT_EQ(client.request("HEAD", "/").status, 200);
    EXPECT_EQ(client.get("/204").status, 204);
    EXPECT_EQ(client.get("/304").status, 304);
    EXPECT_EQ(client.get("/").body, "Hello, world!\n");
}

TEST_P(Connection, ClosesWhenEitherSideAsks) {
    start();
    Client asked = server_->connect();
    const Response response = asked.get("/", {{"Connection", "close"}});
    EXPECT_TRUE(response.says_close()) << response;
    EXPECT_TRUE(asked.closes_within(kDeadline));
    Client old = server_->connect();
    old.send("GET / HTTP/1.0\r\n\r\n");
    EXPECT_EQ(old.read_response().body, "Hello, world!\n");
    EXPECT_TRUE(old.closes_within(kDeadline));
}

TEST_P(Connection, UnderstandsConnectionAsAList) {
    SKIP_ON_GUNICORN("it compares the whole value");
    Client client = start().connect();
    EXPECT_TRUE(client.get("/", {{"Connection", "X-Other, close"}}).says_close());
    EXPECT_TRUE(client.closes_within(kDeadline));
}

TEST_P(Connection, NeverStaysOpenWithKeepAliveZero) {
    Client client = start({"--keep-alive", "0"}).connect();
    EXPECT_TRUE(client.get("/").says_close());
    EXPECT_TRUE(client.closes_within(kDeadline));
}

TEST_P(Connection, ClosesAnIdleConnectionAfterKeepAliveSeconds) {
    SKIP_ON_GUNICORN("its sync class closes after each answer");
    Client client = start({"--keep-alive", "1"}).connect();
    EXPECT_FALSE(client.get("/").says_close());
    const auto idle_since = std::chrono::steady_clock::now();
    EXPECT_TRUE(client.closes_within(Milliseconds(10'000)));
    const auto idle = std::chrono::steady_clock::now() - idle_since;
    EXPECT_GE(idle, Milliseconds(900));
    EXPECT_LE(idle, Milliseconds(5000));  // one second, and slack for a busy machine
}

// docker pause, or a suspended machine: clients that sent in the meantime what they owed are
// answered.
TEST_P(Connection, OutlivesAWorkerThatWasFrozen) {
    SKIP_ON_GUNICORN("it has one timeout for everything");
    using Clock = std::chrono::steady_clock;
    start({"--header-timeout", "2", "--body-timeout", "2", "--keep-alive", "2", "--write-timeout",
           "2", "--timeout", "60"});
    const auto begin = Clock::now();
    Client idle = server_->connect(), head = server_->connect(), body = server_->connect();
    EXPECT_EQ(idle.get("/").status, 200);
    ASSERT_TRUE(head.send("GET / HTTP/1.1\r\nHo"));
    ASSERT_TRUE(body.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n12"));
    expect_alive();
    const std::vector<pid_t> workers = server_->workers();
    for (const pid_t worker : workers)
        ASSERT_EQ(::kill(worker, SIGSTOP), 0);
    const bool was_in_time = Clock::now() - begin < Milliseconds(1500);
    std::this_thread::sleep_for(Milliseconds(3000));  // this very passing of time is what is tested
    idle.send(make_request("GET", "/"));
    head.send("st: x\r\n\r\n");
    body.send("34");
    for (const pid_t worker : workers)
        ASSERT_EQ(::kill(worker, SIGCONT), 0);
    if (!was_in_time) GTEST_SKIP() << "the machine was too slow";
    EXPECT_EQ(idle.read_response().status, 200);
    EXPECT_EQ(head.read_response().body, "Hello, world!\n");
    EXPECT_EQ(body.read_response("POST").body, "1234");
}

TEST_P(Connection, AnswersPipelinedRequestsInOrder) {
    SKIP_ON_GUNICORN("it does not in sync and gthread");
    Client client = start().connect();
    std::string requests;
    for (int i = 0; i < 50; ++i) {
        requests += make_request("GET", "/environ?" + std::to_string(i));
        requests += make_request("POST", "/echo", {}, "body " + std::to_string(i));
    }
    client.send(requests);
    for (int i = 0; i < 50; ++i) {
        const Response environ = client.read_response();
        ASSERT_TRUE(environ.ok()) << i << environ;
        EXPECT_NE(environ.body.find("QUERY_STRING\tstr\t" + std::to_string(i) + "\n"),
                  std::string::npos);
        EXPECT_EQ(client.read_response("POST").body, "body " + std::to_string(i));
    }
}

TEST_P(Connection, AnswersARequestThatArrivesByteByByte) {
    Client client = start().connect();
    const std::string request =
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        "3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Trailer: t\r\n\r\n";
    for (const char byte : request)
        ASSERT_TRUE(client.send(std::string_view(&byte, 1)));
    EXPECT_EQ(client.read_response("POST").body, "abcdefg");
}

TEST_P(Connection, AnswersAClientThatHalfCloses) {
    Client client = start().connect();
    client.send(make_request("GET", "/generator"));
    client.finish_sending();
    EXPECT_EQ(client.read_response().body, "one two three");
}

TEST_P(Connection, SendsContinueBeforeTheBody) {
    Client client = start().connect();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    EXPECT_EQ(client.read_some().substr(0, 12), "HTTP/1.1 100");
    client.send("body");
    const Response response = client.read_response("POST");
    EXPECT_EQ(response.body, "body") << response;
}

TEST_P(Connection, RefusesAnUnknownExpectation) {
    SKIP_ON_GUNICORN_BEFORE(26, "it ignores it");
    EXPECT_EQ(start().get("/", {{"Expect", "the-unexpected"}}).status, 417);
}

struct Refusal {
    const char* what;
    std::string bytes;
    int status;
    int since_gunicorn;  ///< first version that refuses it with this status; 99: none
};

std::vector<Refusal> refusals() {
    const std::string host = "Host: x\r\n";
    const std::string long_line(4095, 'a');
    std::string many_fields;
    for (int i = 0; i < 101; ++i)
        many_fields += "X-" + std::to_string(i) + ": 1\r\n";
    return {
        {"no version", "GET /\r\n" + host + "\r\n", 400, 20},
        {"HTTP/2.0", "GET / HTTP/2.0\r\n" + host + "\r\n", 505, 99},
        {"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", 400, 22},
        {"lower-case method", "get / HTTP/1.1\r\n" + host + "\r\n", 400, 22},
        {"over-long line", "GET /" + long_line + " HTTP/1.1\r\n" + host + "\r\n", 414, 99},
        {"control byte in target", "GET /\x01 HTTP/1.1\r\n" + host + "\r\n", 400, 99},
        {"no Host", "GET / HTTP/1.1\r\n\r\n", 400, 99},
        {"two Hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", 400, 26},
        {"blank before colon", "GET / HTTP/1.1\r\n" + host + "X : 1\r\n\r\n", 400, 20},
        {"folded field", "GET / HTTP/1.1\r\n" + host + "X: 1\r\n 2\r\n\r\n", 400, 22},
        {"NUL in value", "GET / HTTP/1.1\r\n" + host + std::string("X: a\0b\r\n\r\n", 10), 400, 22},
        {"bare CR", "GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n", 400, 22},
        {"too many fields", "GET / HTTP/1.1\r\n" + host + many_fields + "\r\n", 431, 22},
        {"too large a field",
         "GET / HTTP/1.1\r\n" + host + "X: " + std::string(8200, 'x') + "\r\n\r\n", 431, 22},
        {"signed length", "POST / HTTP/1.1\r\n" + host + "Content-Length: +3\r\n\r\nabc", 400, 22},
        {"two lengths",
         "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400,
         20},
        {"length and chunked",
         "POST / HTTP/1.1\r\n" + host +
             "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         400, 22},
        {"unknown coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: magic\r\n\r\n", 501,
         22},
        {"chunked twice",
         "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400,
         22},
        {"chunked in 1.0",
         "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 22},
        {"bad chunk size",
         "POST /echo HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n", 400,
         99},
    };
}

TEST_P(Connection, RefusesMalformedRequestsAndCloses) {
    start();
    for (const Refusal& refusal : refusals()) {
        if (is_gunicorn() && gunicorn_version() < refusal.since_gunicorn) continue;
        Client client = server_->connect();
        // What follows the bad request must never be taken for another request.
        client.send(refusal.bytes + make_request("GET", "/smuggled"));
        const Response response = client.read_response();
        EXPECT_TRUE(response.ok()) << refusal.what << response;
        EXPECT_EQ(response.status, refusal.status) << refusal.what;
        EXPECT_TRUE(response.says_close()) << refusal.what << response;
        EXPECT_TRUE(client.closes_within(kDeadline)) << refusal.what;
    }
    expect_alive();
    if (!is_gunicorn()) {
        EXPECT_TRUE(server_->logs("Invalid request from ip=127.0.0.1: ")) << server_->story();
    }
}

TEST_P(Connection, HoldsLimitsAtTheByte) {
    SKIP_ON_GUNICORN("it answers 400 to all of them before 22, and a long line always");
    start({"--limit-request-line", "100", "--limit-request-fields", "5",
           "--limit-request-field_size", "50"});
    const auto line = [](size_t length) {
        return "GET /" + std::string(length - std::string("GET / HTTP/1.1").size(), 'a') +
               " HTTP/1.1\r\nHost: x\r\n\r\n";
    };
    const auto status_of = [&](const std::string& bytes) {
        Client client = server_->connect();
        client.send(bytes);
        return client.read_response().status;
    };
    EXPECT_EQ(status_of(line(99)), 404);
    EXPECT_EQ(status_of(line(100)), 404);
    EXPECT_EQ(status_of(line(101)), 414);
    const auto fields = [](int count) {
        std::string text = "GET / HTTP/1.1\r\nHost: x\r\n";
        for (int i = 1; i < count; ++i)
            text += "A: 1\r\n";
        return text + "\r\n";
    };
    EXPECT_EQ(status_of(fields(4)), 200);
    EXPECT_EQ(status_of(fields(5)), 200);
    EXPECT_EQ(status_of(fields(6)), 431);
    // A field's size is that of its name, colon and value, plus two (gunicorn:
    // limit_request_field_size).
    const auto field = [](size_t size) {
        return "GET / HTTP/1.1\r\nHost: x\r\nX:" + std::string(size - 4, 'v') + "\r\n\r\n";
    };
    EXPECT_EQ(status_of(field(49)), 200);
    EXPECT_EQ(status_of(field(50)), 200);
    EXPECT_EQ(status_of(field(51)), 431);
}

TEST_P(Connection, DropsHeadersWithUnderscores) {
    SKIP_ON_GUNICORN_BEFORE(22, "it maps them");
    const Response response = start().get("/environ", {{"X_Forged", "1"}, {"X-Real", "2"}});
    EXPECT_EQ(response.body.find("HTTP_X_FORGED"), std::string::npos) << response;
    EXPECT_NE(response.body.find("HTTP_X_REAL"), std::string::npos) << response;
}

TEST_P(Connection, TakesABodyWhoseBytesComeSlowlyForLongerThanItsTimeout) {
    SKIP_ON_GUNICORN("it has no such deadlines");
    start({"--body-timeout", "1"});
    Client client = server_->connect();
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n");
    for (const char byte : std::string_view("8 bytes.")) {
        EXPECT_EQ(client.read_some(Milliseconds(200)), "");
        client.send(std::string_view(&byte, 1));
    }
    EXPECT_EQ(client.read_response("POST").body, "8 bytes.");
}

TEST_P(Connection, Answers408WhenAHeadOrBodyDoesNotArrive) {
    SKIP_ON_GUNICORN("it has no such deadlines");
    start({"--header-timeout", "1", "--body-timeout", "1"});
    Client head = server_->connect();
    head.send("GET / HTTP/1.1\r\nHost: x");
    EXPECT_EQ(head.read_response("GET").status, 408);
    Client body = server_->connect();
    body.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf");
    EXPECT_EQ(body.read_response("POST").status, 408);
    // The head's deadline is for the whole head: a trickle does not renew it.
    Client trickle = server_->connect();
    const auto start_time = std::chrono::steady_clock::now();
    std::string answer;
    const std::string request = "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " + std::string(200, 's');
    for (const char byte : request) {
        trickle.send(std::string_view(&byte, 1));
        answer = trickle.read_some(Milliseconds(50));
        if (!answer.empty()) break;
    }
    EXPECT_EQ(answer.substr(0, 12), "HTTP/1.1 408");
    EXPECT_LT(std::chrono::steady_clock::now() - start_time, Milliseconds(6000));
    expect_alive();
}

TEST_P(Connection, IgnoresClientsThatVanish) {
    start();
    for (const char* bytes : {"", "GET", "GET / HTTP/1.1\r\nHo",
                              "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"}) {
        Client closing = server_->connect();
        closing.send(bytes);
        closing.finish_sending();
        Client resetting = server_->connect();
        resetting.send(bytes);
        resetting.reset();
    }
    expect_alive();
    EXPECT_EQ(server_->err().find("Traceback"), std::string::npos) << server_->story();
}

TEST_P(Connection, DoesNotGiveATruncatedBodyToTheApplicationAsComplete) {
    SKIP_ON_GUNICORN("its applications see a short read");
    start();
    Client client = server_->connect();
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this");
    client.finish_sending();
    const Response response = client.read_response("POST");
    EXPECT_NE(response.status, 200) << response;
    expect_alive();
}

TEST_P(Connection, KeepsDescriptorsInBalance) {
    start();
    expect_alive();
    ASSERT_TRUE(server_->has_workers(GetParam().workers));
    const auto descriptors = [&] {
        size_t sum = open_descriptors(server_->pid());
        for (const pid_t worker : server_->workers())
            sum += open_descriptors(worker);
        return sum;
    };
    for (int i = 0; i < 20; ++i)
        expect_alive();  // whatever is opened once is open by now
    // A worker that still boots has fewer descriptors than one that serves.
    ASSERT_TRUE(eventually([&] {
        std::set<size_t> counts;
        for (const pid_t worker : server_->workers())
            counts.insert(open_descriptors(worker));
        return counts.size() == 1;
    })) << server_->story();
    const size_t before = descriptors();
    for (int i = 0; i < 100; ++i) {
        Client client = server_->connect();
        client.send(make_request("GET", i % 3 == 0 ? "/raise" : "/generator"));
        if (i % 2 == 0) {
            client.read_response();
        } else {
            client.reset();
        }
    }
    EXPECT_TRUE(eventually([&] { return descriptors() <= before; }))
        << before << " before, " << descriptors() << " after";
}

}  // namespace
}  // namespace gcorn::e2e
