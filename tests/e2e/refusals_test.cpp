// What a refused request leaves behind: one answer, one warning, one access line, and nothing of
// what follows it on the connection. Which requests are refused is tests/requests' business.

#include <sstream>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

struct Refusal {
    std::string bytes;
    std::string status;   ///< "400"
    std::string warning;  ///< rule, and the offending bytes as they go to the log
    std::string line;     ///< the request in the access log
};

const std::string kHost = "Host: x\r\n";

std::vector<Refusal> refusals() {
    const std::string get = "GET /a HTTP/1.1\r\n" + kHost;
    const std::string post = "POST /a HTTP/1.1\r\n" + kHost;
    const std::string chunked = post + "Transfer-Encoding: chunked\r\n\r\n";
    std::string many_fields;
    for (int i = 0; i < 5; ++i)
        many_fields += "A: 1\r\n";
    return {
        {"GET /a\r\n" + kHost + "\r\n", "400", "request line needs method, target and version",
         "GET /a"},
        {"GET /a\x1b[2J\" HTTP/1.1\r\n" + kHost + "\r\n", "400", "control byte in head",
         R"(GET /a\x1b[2J\" HTTP/1.1)"},
        {"GET http://\xC3\xBC/a HTTP/1.1\r\n" + kHost + "\r\n", "400",
         "invalid authority in request target: \\xc3\\xbc", R"(GET http://\xc3\xbc/a HTTP/1.1)"},
        {"GET /" + std::string(200, 'a') + " HTTP/1.1\r\n" + kHost + "\r\n", "414",
         "request line too long", ""},
        {"GET /a HTTP/3.0\r\n" + kHost + "\r\n", "505", "unsupported HTTP version",
         "GET /a HTTP/3.0"},
        {"GET /a HTTP/1.1\r\n\r\n", "400", "missing Host", "GET /a HTTP/1.1"},
        {get + kHost + "\r\n", "400", "more than one Host", "GET /a HTTP/1.1"},
        {get + "X : 1\r\n\r\n", "400", "invalid header name", "GET /a HTTP/1.1"},
        {get + "X: a\x1b[31mb\r\n\r\n", "400", "control byte in head", "GET /a HTTP/1.1"},
        {get + "X: a\nGET /smuggled HTTP/1.1\r\n" + kHost + "\r\n", "400", "bare LF in head",
         "GET /a HTTP/1.1"},
        {get + many_fields + "\r\n", "431", "too many header fields", "GET /a HTTP/1.1"},
        {get + "X: " + std::string(100, 'x') + "\r\n\r\n", "431", "header field too long",
         "GET /a HTTP/1.1"},
        {post + "Content-Length: 1_0\r\n\r\n", "400", "invalid Content-Length: 1_0",
         "POST /a HTTP/1.1"},
        {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400",
         "Content-Length with Transfer-Encoding", "POST /a HTTP/1.1"},
        {post + "Transfer-Encoding: magic\r\n\r\n", "501", "unknown transfer coding: magic",
         "POST /a HTTP/1.1"},
        {post + "Content-Length: 21\r\n\r\n", "413", "request body too large", "POST /a HTTP/1.1"},
        {post + "Content-Length: 1\r\nExpect: 200-ok\r\n\r\n", "417", "unknown expectation: 200-ok",
         "POST /a HTTP/1.1"},
        {chunked + "0x3\r\nabc\r\n", "400", "invalid chunk size: x", "POST /a HTTP/1.1"},
        {"POST http://x HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\n\r\nZ\r\n", "400",
         "invalid chunk size: Z", "POST http://x HTTP/1.1"},
        {chunked + "1;\x01\r\na\r\n", "400", "control byte in chunk extension: \\x01",
         "POST /a HTTP/1.1"},
        {chunked + "14\r\n" + std::string(20, 'x') + "\r\n1\r\n", "413", "request body too large",
         "POST /a HTTP/1.1"},
        {chunked + "0\r\nHost: y\r\n\r\n", "400", "forbidden trailer field: Host",
         "POST /a HTTP/1.1"},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505", "unsupported HTTP version", "PRI * HTTP/2.0"},
        {std::string("\x16\x03\x01\x02\x00\x01", 6), "400", "control byte in head", R"(\x16\x03)"},
    };
}

std::vector<std::string> lines_with(const std::string& text, std::string_view part) {
    std::vector<std::string> found;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) {
        if (line.find(part) != std::string::npos) found.push_back(line);
    }
    return found;
}

class Refusals : public PerEngine {
protected:
    Refusals() {
        if (is_gunicorn()) return;
        server_.emplace(with({"--access-logfile", scratch_ / "access", "--access-logformat",
                              R"(<%(r)s> %(s)s)", "--limit-request-line", "100",
                              "--limit-request-fields", "5", "--limit-request-field_size", "60",
                              "--limit-request-body", "20", "--body-timeout", "2"}));
    }
    [[nodiscard]] std::string access() const { return read_file(scratch_ / "access"); }
    [[nodiscard]] std::vector<std::string> warnings() const {
        return lines_with(server_->err(), "Invalid request from ip=");
    }

    TempDir scratch_;
    std::optional<Server> server_;
};
FOR_EVERY_ENGINE(Refusals);

TEST_P(Refusals, ReachAClientThatSendsItsWholeBodyFirst) {
    SKIP_ON_GUNICORN("it has no limit");
    const std::string body(8 << 20, 'x');
    Client client = server_->connect();
    EXPECT_TRUE(client.send(make_request("POST", "/", {}, body)));
    EXPECT_EQ(client.read_response("POST").status, 413) << server_->story();
}

TEST_P(Refusals, LeaveOneAnswerOneWarningAndOneAccessLine) {
    SKIP_ON_GUNICORN("it has other words");
    size_t told = 0;
    for (const Refusal& refusal : refusals()) {
        Client client = server_->connect();
        client.send(refusal.bytes + make_request("GET", "/smuggled"));
        client.finish_sending();
        const std::string answer = client.read_to_end();
        EXPECT_EQ(answer.substr(0, 13), "HTTP/1.1 " + refusal.status + " ") << refusal.warning;
        EXPECT_EQ(lines_with(answer, "HTTP/1.").size(), 1U) << answer;

        ++told;
        ASSERT_TRUE(eventually([&] {
            return warnings().size() >= told && lines_with(access(), "<").size() >= told;
        })) << refusal.warning
            << server_->story();
        const std::string warning = warnings().back();
        EXPECT_NE(warning.find("[WARNING] Invalid request from ip=127.0.0.1: " + refusal.warning),
                  std::string::npos)
            << warning;
        EXPECT_EQ(warning.find('\x1b'), std::string::npos) << warning;
        const std::string line = lines_with(access(), "<").back();
        EXPECT_EQ(line.substr(0, refusal.line.size() + 1), "<" + refusal.line);
        EXPECT_EQ(line.substr(line.size() - 5), "> " + refusal.status);
    }
    // Some time after the last one, there are still no more of them.
    EXPECT_EQ(server_->get("/").status, 200);
    EXPECT_EQ(warnings().size(), told);
    EXPECT_TRUE(lines_with(access(), "<GET /smuggled").empty()) << access();
    EXPECT_TRUE(lines_with(server_->err(), "[ERROR]").empty()) << server_->story();
}

TEST_P(Refusals, FollowAnswersGivenBefore) {
    SKIP_ON_GUNICORN("it does not read ahead");
    Client client = server_->connect();
    client.send(make_request("GET", "/") + "GET / HTTP/1.1\r\nHost : x\r\n\r\n" +
                make_request("GET", "/smuggled"));
    EXPECT_EQ(client.read_response().body, "Hello, world!\n");
    const Response refused = client.read_response();
    EXPECT_EQ(refused.status, 400);
    EXPECT_TRUE(refused.says_close()) << refused;
    EXPECT_EQ(client.read_to_end(), "");
    EXPECT_TRUE(eventually([&] { return lines_with(access(), "<").size() == 2; })) << access();
    EXPECT_EQ(warnings().size(), 1U);
}

TEST_P(Refusals, TellOfBodiesThatDoNotArrive) {
    SKIP_ON_GUNICORN("its applications see a short read");
    const std::string head = "POST /echo HTTP/1.1\r\n" + kHost + "Content-Length: 10\r\n\r\n";
    Client ended = server_->connect();
    ended.send(head + "half");
    ended.finish_sending();
    EXPECT_EQ(ended.read_response("POST").status, 400);
    EXPECT_TRUE(server_->logs("ip=127.0.0.1: the request body ended early")) << server_->story();
    Client stalled = server_->connect();
    stalled.send(head + "half");
    EXPECT_EQ(stalled.read_response("POST").status, 408);
    EXPECT_TRUE(server_->logs("ip=127.0.0.1: timeout while receiving the request body"));
    EXPECT_TRUE(eventually([&] {
        return access() == "<POST /echo HTTP/1.1> 400\n<POST /echo HTTP/1.1> 408\n";
    })) << access();
    EXPECT_EQ(warnings().size(), 2U);
}

}  // namespace
}  // namespace gcorn::e2e
