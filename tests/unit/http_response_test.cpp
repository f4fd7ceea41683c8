// http_response: what is written for which request, and what an application may not write.
#include "http_response.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace gcorn {
namespace {

/// A parsed request and a writer that answers it, with the bytes a client would get.
class Answer {
public:
    explicit Answer(const std::string& request_start = "GET / HTTP/1.1",
                    const std::string& fields = "", bool may_keep_alive = true) {
        const std::string bytes = request_start + "\r\nHost: a:1\r\n" + fields + "\r\n";
        HttpPolicy policy;
        policy.permit_unconventional_http_version = true;
        HeadParser parser;
        HttpError error;
        size_t used = 0;
        EXPECT_EQ(parser.parse(bytes, policy, {}, head_, used, error), Parse::Done) << error.rule;
        writer.begin(head_, may_keep_alive, options);
    }

    Answer& status(const std::string& text) {
        EXPECT_TRUE(writer.set_status(text).is_ok()) << text;
        return *this;
    }
    Answer& field(const std::string& name, const std::string& value) {
        EXPECT_TRUE(writer.add_field(name, value).is_ok()) << name;
        return *this;
    }
    Answer& block(const std::string& bytes, bool is_last = false) {
        const ResponseWriter::Pieces pieces = writer.body(bytes.size(), is_last);
        wire.append(pieces.before).append(pieces.part_of(bytes)).append(pieces.after);
        return *this;
    }
    Answer& finish() {
        const ResponseWriter::Pieces pieces = writer.finish();
        EXPECT_EQ(pieces.take, 0u);
        wire.append(pieces.before).append(pieces.after);
        return *this;
    }

    [[nodiscard]] std::string head() const { return wire.substr(0, wire.find("\r\n\r\n") + 2); }
    [[nodiscard]] std::string body() const { return wire.substr(wire.find("\r\n\r\n") + 4); }
    [[nodiscard]] std::string status_line() const { return wire.substr(0, wire.find("\r\n")); }
    [[nodiscard]] bool has(const std::string& line) const {
        return head().find("\r\n" + line + "\r\n") != std::string::npos;
    }
    [[nodiscard]] bool names(const std::string& name) const {
        return head().find("\r\n" + name + ": ") != std::string::npos;
    }

    ResponseOptions options;
    ResponseWriter writer;
    std::string wire;

private:
    RequestHead head_;
};

TEST(HttpResponse, WritesTheHeadInGunicornsOrder) {
    Answer answer;
    answer.status("200 OK").field("X-b", "1").field("Content-Length", "5").field("a", "2");
    const std::string before(http_date_now());
    answer.block("hello", true);
    const std::string after(http_date_now());
    const auto expected = [](const std::string& date) {
        return "HTTP/1.1 200 OK\r\nServer: gcorn\r\nDate: " + date +
               "\r\nConnection: keep-alive\r\nX-b: 1\r\nContent-Length: 5\r\na: 2\r\n\r\nhello";
    };
    EXPECT_TRUE(answer.wire == expected(before) || answer.wire == expected(after)) << answer.wire;
}

// -------------------------------------------------------------------------- the decision table

struct Row {
    const char* request;
    const char* connection;  ///< the request's Connection, "" for none
    const char* status;
    bool gives_length;
    const char* framing;  ///< "length", "chunked", "none"
    const char* body;     ///< of the application's "hello"
    bool keeps_alive;
};

TEST(HttpResponse, FollowsTheDecisionTable) {
    const char* chunked = "5\r\nhello\r\n0\r\n\r\n";
    const Row rows[] = {
        {"GET / HTTP/1.1", "", "200 OK", true, "length", "hello", true},
        {"GET / HTTP/1.1", "", "200 OK", false, "chunked", chunked, true},
        {"GET / HTTP/1.9", "", "200 OK", false, "chunked", chunked, true},
        {"GET / HTTP/1.1", "close", "200 OK", true, "length", "hello", false},
        {"GET / HTTP/1.1", "close", "200 OK", false, "chunked", chunked, false},
        {"GET / HTTP/1.0", "", "200 OK", true, "length", "hello", false},
        {"GET / HTTP/1.0", "keep-alive", "200 OK", true, "length", "hello", true},
        {"GET / HTTP/1.0", "keep-alive", "200 OK", false, "none", "hello", false},
        {"HEAD / HTTP/1.1", "", "200 OK", true, "length", "", true},
        {"HEAD / HTTP/1.1", "", "200 OK", false, "none", "", true},
        {"HEAD / HTTP/1.0", "keep-alive", "200 OK", false, "none", "", true},
        {"GET / HTTP/1.1", "", "204 No Content", true, "none", "", true},
        {"GET / HTTP/1.1", "", "204 No Content", false, "none", "", true},
        {"GET / HTTP/1.0", "keep-alive", "204 No Content", false, "none", "", true},
        {"GET / HTTP/1.1", "", "304 Not Modified", true, "length", "", true},
        {"GET / HTTP/1.1", "", "304 Not Modified", false, "none", "", true},
        {"CONNECT a:1 HTTP/1.1", "", "200 OK", true, "none", "hello", false},
        {"CONNECT a:1 HTTP/1.1", "", "403 Forbidden", true, "length", "hello", false},
        {"GET / HTTP/3.0", "", "200 OK", false, "chunked", chunked, true},
        {"GET / HTTP/0.9", "", "200 OK", false, "none", "hello", false},
    };
    for (const Row& row : rows) {
        SCOPED_TRACE(std::string(row.request) + ", " + row.connection + ", " + row.status +
                     (row.gives_length ? ", length" : ""));
        const std::string connection = row.connection;
        Answer answer(row.request, connection.empty() ? "" : "Connection: " + connection + "\r\n");
        answer.status(row.status);
        if (row.gives_length) answer.field("Content-Length", "5");
        answer.block("hello").finish();
        const std::string framing = row.framing;
        EXPECT_EQ(answer.has("Content-Length: 5"), framing == "length");
        EXPECT_EQ(answer.has("Transfer-Encoding: chunked"), framing == "chunked");
        EXPECT_EQ(answer.body(), row.body);
        EXPECT_EQ(answer.writer.keeps_alive(), row.keeps_alive);
        EXPECT_TRUE(answer.has(row.keeps_alive ? "Connection: keep-alive" : "Connection: close"));
        EXPECT_FALSE(answer.writer.is_short());
        EXPECT_FALSE(answer.writer.is_cut());
    }
}

TEST(HttpResponse, NeverClaimsAVersionItDoesNotSpeak) {
    const std::pair<const char*, const char*> rows[] = {
        {"HTTP/1.1", "HTTP/1.1"}, {"HTTP/1.2", "HTTP/1.1"}, {"HTTP/1.9", "HTTP/1.1"},
        {"HTTP/2.0", "HTTP/1.1"}, {"HTTP/1.0", "HTTP/1.0"}, {"HTTP/0.9", "HTTP/1.0"}};
    for (const auto& [asked, answered] : rows) {
        Answer answer(std::string("GET / ") + asked);
        answer.status("200 OK").finish();
        EXPECT_EQ(answer.status_line(), std::string(answered) + " 200 OK");
    }
}

TEST(HttpResponse, AClosingWorkerSaysSo) {
    Answer answer("GET / HTTP/1.1", "", false);
    answer.status("200 OK").field("Content-Length", "0").finish();
    EXPECT_TRUE(answer.has("Connection: close"));
    EXPECT_FALSE(answer.writer.keeps_alive());
}

TEST(HttpResponse, MustCloseActsUntilTheHeadIsOut) {
    Answer answer;
    answer.status("200 OK").field("Content-Length", "5");
    answer.writer.must_close();
    answer.block("hello");
    EXPECT_TRUE(answer.has("Connection: close"));
    Answer late;
    late.status("200 OK").field("Content-Length", "5").block("hello");
    EXPECT_TRUE(late.has("Connection: keep-alive"));
    late.writer.must_close();
    EXPECT_FALSE(late.writer.keeps_alive());
}

// ------------------------------------------------------------------------------- bodies

TEST(HttpResponse, WritesOneChunkForEachBlockInUpperCaseHex) {
    Answer answer;
    answer.status("200 OK").block("a").block("").block(std::string(0xABCD, 'x')).finish();
    EXPECT_EQ(answer.body(), "1\r\na\r\nABCD\r\n" + std::string(0xABCD, 'x') + "\r\n0\r\n\r\n");
    EXPECT_EQ(answer.writer.body_bytes(), 1u + 0xABCDu);
}

TEST(HttpResponse, FramesChunksOfAnySize) {
    for (const auto& [size, hex] : std::vector<std::pair<uint64_t, std::string>>{
             {1, "1"}, {15, "F"}, {16, "10"}, {0xFFFFFFFFFFFFFFFF, "FFFFFFFFFFFFFFFF"}}) {
        Answer answer;
        answer.status("200 OK").block("");
        const ResponseWriter::Pieces pieces = answer.writer.body(size);
        EXPECT_EQ(pieces.before, hex + "\r\n");
        EXPECT_EQ(pieces.take, size);
        EXPECT_EQ(pieces.after, "\r\n");
    }
}

TEST(HttpResponse, EndsTheLastChunkTogetherWithItsBlock) {
    Answer answer;
    answer.status("200 OK").block("hello", true);
    EXPECT_EQ(answer.body(), "5\r\nhello\r\n0\r\n\r\n");
    answer.finish();  // does nothing more
    EXPECT_EQ(answer.body(), "5\r\nhello\r\n0\r\n\r\n");
}

TEST(HttpResponse, AnEmptyLastBlockIsTheEnd) {
    Answer answer;
    answer.status("200 OK").block("", true);
    EXPECT_EQ(answer.body(), "0\r\n\r\n");
}

TEST(HttpResponse, AnEmptyBlockSendsTheHead) {
    Answer answer;
    answer.status("200 OK");
    EXPECT_FALSE(answer.writer.head_sent());
    answer.block("");
    EXPECT_TRUE(answer.writer.head_sent());
    EXPECT_EQ(answer.body(), "");
    answer.block("");
    EXPECT_EQ(answer.body(), "");
}

TEST(HttpResponse, FinishAloneSendsHeadAndEnd) {
    Answer answer;
    answer.status("200 OK").finish();
    EXPECT_EQ(answer.body(), "0\r\n\r\n");
}

TEST(HttpResponse, CutsWhatIsLongerThanItsLength) {
    Answer answer;
    answer.status("200 OK").field("Content-Length", "5");
    answer.block("he").block("llo wor").block("ld").finish();
    EXPECT_EQ(answer.body(), "hello");
    EXPECT_TRUE(answer.writer.is_cut());
    EXPECT_FALSE(answer.writer.is_short());
    EXPECT_EQ(answer.writer.body_bytes(), 5u);
}

TEST(HttpResponse, ALengthOfZeroTakesNothing) {
    Answer answer;
    answer.status("200 OK").field("Content-Length", "0").block("surprise").finish();
    EXPECT_EQ(answer.body(), "");
    EXPECT_TRUE(answer.has("Content-Length: 0"));
    EXPECT_TRUE(answer.writer.is_cut());
    EXPECT_FALSE(answer.writer.keeps_alive())
        << "a body that misses its length ends the connection";
}

TEST(HttpResponse, ABodyOfExactlyItsLengthIsNotCut) {
    Answer answer;
    answer.status("200 OK").field("Content-Length", "5").block("hel").block("lo").finish();
    EXPECT_FALSE(answer.writer.is_cut());
    EXPECT_FALSE(answer.writer.is_short());
    EXPECT_TRUE(answer.writer.keeps_alive());
}

TEST(HttpResponse, AShortBodyEndsTheConnection) {
    Answer answer;
    answer.status("200 OK").field("Content-Length", "6").block("hello").finish();
    EXPECT_TRUE(answer.writer.is_short());
    EXPECT_FALSE(answer.writer.keeps_alive());
    Answer head("HEAD / HTTP/1.1");
    head.status("200 OK").field("Content-Length", "10").finish();
    EXPECT_FALSE(head.writer.is_short());
    EXPECT_TRUE(head.writer.keeps_alive());
}

TEST(HttpResponse, CountsNoBytesThatAreNotSent) {
    Answer answer("HEAD / HTTP/1.1");
    answer.status("200 OK").block("hello").finish();
    EXPECT_EQ(answer.writer.body_bytes(), 0u);
    EXPECT_FALSE(answer.writer.is_cut());
}

// ------------------------------------------------------------------------------- what is refused

TEST(HttpResponse, TakesThreeDigitsWithOrWithoutAReason) {
    for (const char* status :
         {"200 OK", "200", "200 ", "299 Some Thing", "404 Not\tFound", "999 X", "200 caf\xE9"}) {
        Answer answer;
        EXPECT_TRUE(answer.writer.set_status(status).is_ok()) << status;
        answer.finish();
        const std::string text = status;
        EXPECT_EQ(answer.status_line(), "HTTP/1.1 " + text + (text.size() == 3 ? " " : ""));
        EXPECT_EQ(answer.writer.status(), text);
        EXPECT_EQ(answer.writer.status_code(), std::stoi(text.substr(0, 3)));
    }
}

TEST(HttpResponse, RefusesOtherStatuses) {
    for (const std::string status : {"",
                                     "OK",
                                     "20",
                                     "2000 OK",
                                     "200OK",
                                     " 200 OK",
                                     "-20 OK",
                                     "+20 OK",
                                     "2 0 OK",
                                     "0x2 OK",
                                     "200 OK\r\nX-Injected: 1",
                                     "200 OK\nX",
                                     "200 OK\r",
                                     "200 O\x7FK",
                                     "100 Continue",
                                     "103 Early Hints",
                                     "000 X",
                                     "099 X",
                                     "101 Switching Protocols",
                                     "\xB2"
                                     "00 OK"}) {
        Answer answer;
        EXPECT_FALSE(answer.writer.set_status(status).is_ok()) << status;
        EXPECT_FALSE(answer.writer.has_status());
    }
    Answer answer;
    EXPECT_FALSE(answer.writer.set_status(std::string_view("200 O\0K", 7)).is_ok());
    const Status status = answer.writer.set_status("200 OK\r\nX: 1");
    EXPECT_EQ(status.message(),
              "invalid status \"200 OK\\r\\nX: 1\": expected three digits, a blank and a reason");
}

TEST(HttpResponse, RefusesControlBytesInValues) {
    Answer answer;
    answer.status("200 OK");
    for (int c = 0; c < 256; ++c) {
        const std::string value = std::string("a") + static_cast<char>(c) + "b";
        const bool is_legal = c == '\t' || (c >= 0x20 && c != 0x7F);
        EXPECT_EQ(answer.writer.add_field("X", value).is_ok(), is_legal) << c;
        // At either end, too: trimming must not hide a line break.
        const std::string last = std::string("a") + static_cast<char>(c);
        EXPECT_EQ(answer.writer.add_field("X", last).is_ok(), is_legal) << c;
    }
}

TEST(HttpResponse, RefusesNamesThatAreNoTokens) {
    Answer answer;
    answer.status("200 OK");
    for (const std::string name :
         {"", "X Y", "X:", "X: v\r\nX-Injected", "X\r\n", "X\n", " X", "X ", "X\t", "(X)",
          "caf\xE9", "Content-Length:", "Content-Length "}) {
        EXPECT_FALSE(answer.writer.add_field(name, "1").is_ok()) << name;
    }
    EXPECT_FALSE(answer.writer.add_field(std::string_view("X\0Y", 3), "1").is_ok());
    EXPECT_EQ(answer.writer.fields_block(), "");
    answer.field("!#$%&'*+-.^_`|~09azAZ", "1");
}

TEST(HttpResponse, TrimsBlanksAroundValues) {
    Answer answer;
    answer.status("200 OK").field("A", " \tx y\t ").field("B", "").field("C", " \t ");
    answer.field("D", "z ");
    EXPECT_EQ(answer.writer.fields_block(), "A: x y\r\nB: \r\nC: \r\nD: z\r\n");
}

TEST(HttpResponse, KeepsLatin1AndRepeatedFields) {
    Answer answer;
    answer.status("200 OK").field("X", "caf\xE9").field("Set-Cookie", "a=1");
    answer.field("Set-Cookie", "b=2").finish();
    EXPECT_TRUE(answer.has("X: caf\xE9"));
    EXPECT_TRUE(answer.has("Set-Cookie: a=1\r\nSet-Cookie: b=2"));
}

TEST(HttpResponse, DropsHopByHopFieldsServerAndDate) {
    Answer answer;
    answer.status("200 OK").field("Content-Length", "0");
    for (const char* name :
         {"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer",
          "Trailers", "Transfer-Encoding", "Upgrade", "Server", "Date", "transfer-encoding",
          "SERVER", "dATE"}) {
        answer.field(name, "chunked");
    }
    EXPECT_EQ(answer.writer.fields_block(), "Content-Length: 0\r\n");
    answer.finish();
    EXPECT_FALSE(answer.names("Transfer-Encoding"));
    EXPECT_TRUE(answer.has("Server: gcorn"));
}

TEST(HttpResponse, ChecksDroppedFieldsToo) {
    Answer answer;
    answer.status("200 OK");
    EXPECT_FALSE(answer.writer.add_field("Server", "x\r\ny").is_ok());
}

TEST(HttpResponse, HonoursCloseFromTheApplication) {
    Answer answer;
    answer.status("200 OK").field("connection", "foo, Close").field("Content-Length", "0");
    EXPECT_FALSE(answer.writer.keeps_alive());
    answer.finish();
    EXPECT_TRUE(answer.has("Connection: close"));
    EXPECT_FALSE(answer.writer.keeps_alive());
}

TEST(HttpResponse, TakesOnlyPlainContentLengths) {
    for (const char* length : {"0", "5", "005", " 5\t", "9223372036854775807"}) {
        Answer answer;
        answer.status("200 OK").field("Content-Length", length);
        EXPECT_TRUE(answer.writer.has_content_length());
    }
    for (const char* length : {"", " ", "-5", "+5", "five", "5.0", "5,5", "5 5", "0x5", "1_0",
                               "9223372036854775808", "18446744073709551616"}) {
        Answer answer;
        answer.status("200 OK");
        EXPECT_FALSE(answer.writer.add_field("Content-Length", length).is_ok()) << length;
        EXPECT_FALSE(answer.writer.has_content_length());
    }
}

TEST(HttpResponse, WritesEqualContentLengthsOnce) {
    Answer answer;
    answer.status("200 OK").field("Content-Length", "5").field("content-length", "5");
    EXPECT_EQ(answer.writer.fields_block(), "Content-Length: 5\r\n");
    EXPECT_EQ(answer.writer.content_length(), 5u);
    const Status status = answer.writer.add_field("Content-Length", "3");
    ASSERT_FALSE(status.is_ok());
    EXPECT_EQ(status.message(), "two different Content-Length headers");
}

// ------------------------------------------------------------------------------- upgrades

TEST(HttpResponse, AnswersAnUpgradeWith101) {
    Answer answer("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    answer.status("101 Switching Protocols").field("Upgrade", "WebSocket");
    answer.field("Connection", "Upgrade").field("Content-Length", "5");
    answer.block("").block("frame").finish();
    EXPECT_TRUE(answer.has("Connection: upgrade"));
    EXPECT_TRUE(answer.has("Upgrade: WebSocket"));
    EXPECT_FALSE(answer.names("Content-Length"));
    EXPECT_FALSE(answer.names("Transfer-Encoding"));
    EXPECT_EQ(answer.body(), "frame");
    EXPECT_FALSE(answer.writer.keeps_alive());
}

TEST(HttpResponse, OtherProtocolsAreNotOfferedInUpgrade) {
    Answer answer("GET / HTTP/1.1", "Connection: Upgrade\r\n");
    answer.status("200 OK").field("Upgrade", "h2c");
    EXPECT_EQ(answer.writer.fields_block(), "");
}

/// RFC 9110 §15.2.2 and §15.5.22: these two have to name the protocol; §7.8: and the option.
TEST(HttpResponse, SwitchingAndDemandingAnUpgradeNameTheProtocol) {
    for (const char* status : {"101 Switching Protocols", "426 Upgrade Required"}) {
        Answer answer("GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: tcp\r\n");
        answer.status(status).field("Upgrade", "tcp").field("Content-Length", "0").finish();
        EXPECT_TRUE(answer.has("Connection: upgrade")) << status;
        EXPECT_TRUE(answer.has("Upgrade: tcp")) << status;
    }
}

TEST(HttpResponse, SaysUpgradeOnAnOrdinaryAnswerOnlyIfItStaysOpen) {
    Answer open;
    open.status("426 Upgrade Required")
        .field("Connection", "upgrade")
        .field("Upgrade", "websocket");
    open.field("Content-Length", "0").finish();
    EXPECT_TRUE(open.has("Connection: upgrade"));
    Answer closing("GET / HTTP/1.1", "Connection: close\r\n");
    closing.status("426 Upgrade Required").field("Connection", "upgrade");
    closing.field("Content-Length", "0").finish();
    EXPECT_TRUE(closing.has("Connection: close"));
}

/// Without "keep-alive" the client would wait for the end of the connection (RFC 9112 §9.3).
TEST(HttpResponse, SaysNothingOfUpgradeToHttp10) {
    Answer answer("GET / HTTP/1.0", "Connection: keep-alive\r\n");
    answer.status("200 OK").field("Connection", "upgrade");
    answer.field("Content-Length", "0").finish();
    EXPECT_TRUE(answer.has("Connection: keep-alive"));
    EXPECT_TRUE(answer.writer.keeps_alive());
}

// ------------------------------------------------------------------------------- replacing

TEST(HttpResponse, ASecondStatusForgetsStatusFieldsAndClose) {
    Answer answer;
    answer.status("200 OK")
        .field("X", "1")
        .field("Content-Length", "5")
        .field("Connection", "close");
    answer.status("500 Oops").field("Y", "2").block("abc", true);
    EXPECT_EQ(answer.status_line(), "HTTP/1.1 500 Oops");
    EXPECT_EQ(answer.writer.fields_block(), "Y: 2\r\n");
    EXPECT_EQ(answer.body(), "3\r\nabc\r\n0\r\n\r\n");
    EXPECT_TRUE(answer.writer.keeps_alive());
}

TEST(HttpResponse, ARefusedStatusLeavesTheFirst) {
    Answer answer;
    answer.status("200 OK").field("X", "1");
    EXPECT_FALSE(answer.writer.set_status("bad").is_ok());
    answer.finish();
    EXPECT_EQ(answer.status_line(), "HTTP/1.1 200 OK");
    EXPECT_TRUE(answer.has("X: 1"));
}

TEST(HttpResponse, AReusedWriterRemembersNothing) {
    Answer answer;
    answer.status("200 OK").field("Content-Length", "1").field("Connection", "close, upgrade");
    answer.block("abc").finish();
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    ASSERT_EQ(
        parser.parse("GET / HTTP/1.1\r\nHost: a\r\n\r\n", HttpPolicy(), {}, head, used, error),
        Parse::Done);
    answer.writer.begin(head, true, answer.options);
    EXPECT_FALSE(answer.writer.has_status() || answer.writer.head_sent() ||
                 answer.writer.is_cut() || answer.writer.is_short() ||
                 answer.writer.has_content_length() || answer.writer.is_chunked());
    EXPECT_EQ(answer.writer.status_code(), 0);
    EXPECT_EQ(answer.writer.body_bytes(), 0u);
    EXPECT_EQ(answer.writer.fields_block(), "");
    EXPECT_TRUE(answer.writer.keeps_alive());
    answer.wire.clear();
    answer.status("204 No Content").finish();
    EXPECT_TRUE(answer.has("Connection: keep-alive"));
}

TEST(HttpResponse, OnlyAnswersThatSuitAnyRequestAreRepeated) {
    Answer first, upgrade("GET / HTTP/1.1", "Connection: upgrade\r\n"),
        tunnel("CONNECT a:1 HTTP/1.1"), second;
    first.status("200 OK").field("A", "b");
    ASSERT_NE(first.writer.answer(), nullptr);
    ASSERT_TRUE(second.writer.repeat(*first.writer.answer()));
    EXPECT_EQ(second.writer.status(), "200 OK");
    EXPECT_EQ(second.writer.fields_block(), "A: b\r\n");
    EXPECT_FALSE(tunnel.writer.repeat(*first.writer.answer()));
    EXPECT_FALSE(tunnel.writer.has_status());
    EXPECT_EQ(tunnel.status("200 OK").writer.answer(), nullptr);
    EXPECT_EQ(upgrade.status("101 Switching Protocols").writer.answer(), nullptr);
}

TEST(HttpResponse, FindsItsFieldsByName) {
    Answer answer;
    answer.status("200 OK").field("X-A", "1: 2").field("x-a", "3").field("Empty", "");
    EXPECT_EQ(answer.writer.field("X-a"), "3");
    EXPECT_EQ(answer.writer.field("empty"), "");
    EXPECT_EQ(answer.writer.field("1"), std::nullopt);
}

TEST(HttpResponse, LeavesServerOutIfEmptyOrIllegal) {
    for (const std::string server : {"", "x\r\nX-Injected: 1", "a\nb"}) {
        Answer answer;
        answer.options = ResponseOptions(server);
        answer.status("200 OK").finish();
        EXPECT_FALSE(answer.names("Server"));
        EXPECT_FALSE(answer.names("X-Injected"));
    }
    Answer answer;
    answer.options = ResponseOptions("other/1.0");
    answer.status("200 OK").finish();
    EXPECT_TRUE(answer.has("Server: other/1.0"));
}

// ------------------------------------------------------------------------------- error pages

TEST(HttpResponse, ErrorPagesAreCompleteAndClose) {
    Answer answer;
    answer.status("200 OK").field("X-Secret", "1").field("Content-Length", "100");
    answer.wire = answer.writer.error_page(500);
    EXPECT_EQ(answer.status_line(), "HTTP/1.1 500 Internal Server Error");
    EXPECT_TRUE(answer.has("Connection: close"));
    EXPECT_TRUE(answer.has("Content-Type: text/html"));
    EXPECT_TRUE(answer.has("Content-Length: " + std::to_string(answer.body().size())));
    EXPECT_TRUE(answer.names("Date"));
    EXPECT_FALSE(answer.names("X-Secret"));
    EXPECT_NE(answer.body().find("<h1>Internal Server Error</h1>"), std::string::npos);
    EXPECT_TRUE(answer.writer.head_sent());
    EXPECT_FALSE(answer.writer.keeps_alive());
    EXPECT_FALSE(answer.writer.is_short());
    EXPECT_EQ(answer.writer.status(), "500 Internal Server Error");
    EXPECT_EQ(answer.writer.body_bytes(), answer.body().size());
    answer.finish();  // nothing follows
}

TEST(HttpResponse, TheErrorPageForHeadHasNoBody) {
    Answer page, answer("HEAD / HTTP/1.1");
    page.wire = page.writer.error_page(400);
    answer.wire = answer.writer.error_page(400);
    EXPECT_EQ(answer.head(), page.head());
    EXPECT_EQ(answer.body(), "");
    EXPECT_EQ(answer.writer.body_bytes(), 0u);
}

TEST(HttpResponse, AnswersARequestNobodyUnderstood) {
    const RequestHead head;
    const ResponseOptions options;
    ResponseWriter writer;
    writer.begin(head, false, options);
    const std::string page(writer.error_page(400));
    EXPECT_EQ(page.substr(0, page.find("\r\n")), "HTTP/1.1 400 Bad Request");
    EXPECT_EQ(page.substr(page.size() - 8), "</html>\n");
}

TEST(HttpResponse, KnowsTheReasonOfEveryStatusTheServerSends) {
    for (const int status : {400, 403, 408, 413, 414, 417, 431, 500, 501, 503, 504, 505}) {
        EXPECT_STRNE(reason_phrase(status), "Error") << status;
    }
    EXPECT_STREQ(reason_phrase(431), "Request Header Fields Too Large");
    EXPECT_STREQ(reason_phrase(299), "Error");
}

}  // namespace
}  // namespace gcorn
