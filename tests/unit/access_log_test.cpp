#include "log/access_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <string>

#include "base/clock.h"
#include "base/text.h"

namespace gcorn {
namespace {

struct MapFields {
    std::map<std::string, std::string, std::less<>> request, response;
    [[nodiscard]] std::optional<std::string_view> find(char kind, std::string_view name) const {
        const auto& from = kind == 'i' ? request : response;
        const auto it = from.find(name);
        if (it == from.end()) return std::nullopt;
        return it->second;
    }
};

struct Request {
    MapFields fields;
    FieldFinder find_field = [this](char kind, std::string_view name) {
        return fields.find(kind, name);
    };
    std::vector<std::pair<std::string, std::string>> environ;
    AccessRecord record;
    Request(Request&&) = delete;  // the record points into it
    Request() {
        fields.request = {{"referer", "http://before.example/"},
                          {"user-agent", "curl/8.5.0"},
                          {"x-request-id", "abc-1"}};
        fields.response = {{"content-type", "text/html"}};
        environ = {{"request_method", "GET"}, {"my.object", "<Thing 7>"}};
        record.remote_addr = "192.0.2.17";
        record.method = "GET";
        record.request = "GET /caf%C3%A9%20x?a=b&c HTTP/1.1";
        record.path = "/caf%C3%A9%20x";
        record.query = "a=b&c";
        record.protocol = "HTTP/1.1";
        record.status = "200 OK";
        record.body_bytes = 1234;
        record.duration_us = 12'345'678;
        record.app_us = 432;
        record.queue_us = 21;
        record.find_field = &find_field;
        record.environ = &environ;
    }
    std::string line(std::string_view format) const {
        const Result<AccessLog> log = AccessLog::compile(format);
        EXPECT_TRUE(log.is_ok()) << (log ? "" : log.message());
        return log ? std::string(log->format(record)) : "";
    }
};

std::string compile_error(std::string_view format) {
    const Result<AccessLog> log = AccessLog::compile(format);
    return log ? "" : log.message();
}

/// Runs `line` until the clock shows the same second before and after, and returns both.
template <typename Line>
std::pair<std::string, std::time_t> line_in_one_second(Line line) {
    for (;;) {
        const std::time_t before = std::time(nullptr);
        std::string text = line();
        if (std::time(nullptr) == before) return {text, before};
    }
}

struct AtomCase {
    const char* format;
    const char* expected;
};

TEST(AccessLog, WritesEachAtomWithGunicornsValue) {
    const AtomCase cases[] = {
        {"%(h)s", "192.0.2.17"},
        {"%(l)s", "-"},
        {"%(u)s", "-"},
        {"%(r)s", "GET /caf%C3%A9%20x?a=b&c HTTP/1.1"},
        {"%(s)s", "200"},
        {"%(m)s", "GET"},
        {"%(U)s", "/caf\\xc3\\xa9 x"},
        {"%(q)s", "a=b&c"},
        {"%(H)s", "HTTP/1.1"},
        {"%(b)s", "1234"},
        {"%(B)s", "1234"},
        {"%(f)s", "http://before.example/"},
        {"%(a)s", "curl/8.5.0"},
        {"%(T)s", "12"},
        {"%(M)s", "12345"},
        {"%(D)s", "12345678"},
        {"%(L)s", "12.345678"},
        {"%(A)s", "432"},
        {"%(Q)s", "21"},
        {"%({X-Request-Id}i)s", "abc-1"},
        {"%({content-type}o)s", "text/html"},
        {"%({REQUEST_METHOD}e)s", "GET"},
        {"%({my.object}E)s", "<Thing 7>"},
    };
    const Request request;
    for (const AtomCase& c : cases)
        EXPECT_EQ(request.line(c.format), c.expected) << c.format;
    EXPECT_EQ(request.line("%(p)s"), "<" + std::to_string(::getpid()) + ">");
}

TEST(AccessLog, TakesThePidFromTheRecordIfItIsThere) {
    Request request;
    request.record.pid = 4711;
    EXPECT_EQ(request.line("%(p)s"), "<4711>");
}

TEST(AccessLog, WritesTheDefaultFormatByteForByte) {
    const Request request;
    const auto [text, second] =
        line_in_one_second([&] { return request.line(kDefaultAccessFormat); });
    EXPECT_EQ(text, "192.0.2.17 - - [" + access_log_time(second) +
                        "] \"GET /caf%C3%A9%20x?a=b&c HTTP/1.1\" 200 1234 "
                        "\"http://before.example/\" \"curl/8.5.0\"");
}

TEST(AccessLog, WritesADashForWhatIsAbsent) {
    Request request;
    request.fields.request.clear();
    request.fields.response.clear();
    EXPECT_EQ(request.line("%(f)s %(a)s %({x}i)s %({x}o)s %({x}e)s %(u)s"), "- - - - - -");
    request.record.find_field = nullptr;
    request.record.environ = nullptr;
    request.record.status = {};
    EXPECT_EQ(request.line("%(s)s"), "-");
    EXPECT_EQ(request.line("%(f)s %(a)s %({x}i)s %({x}o)s %({x}e)s %(u)s"), "- - - - - -");
}

TEST(AccessLog, WritesADashForAtomsNobodyKnows) {
    EXPECT_EQ(Request().line("%(z)s|%(host)s|%({x}y)s|%({})s|%()s|%({x)s"), "-|-|-|-|-|-");
    EXPECT_EQ(Request().line("%([referer}i)s|%({referer]i)s"), "-|-");
}

TEST(AccessLog, WritesAnEmptyFieldAsEmpty) {
    Request request;
    request.fields.request = {{"referer", ""}, {"user-agent", ""}};
    EXPECT_EQ(request.line("\"%(f)s\" \"%(a)s\""), "\"\" \"\"");
}

TEST(AccessLog, WritesZeroBytesAsZero) {
    Request request;
    request.record.body_bytes = 0;
    EXPECT_EQ(request.line("%(b)s %(B)s"), "0 0");
}

TEST(AccessLog, KeepsTheZerosOfShortDurations) {
    Request request;
    request.record.duration_us = 993;
    EXPECT_EQ(request.line("%(L)s %(D)s %(M)s %(T)s"), "0.000993 993 0 0");
    request.record.duration_us = 1'000'000;
    EXPECT_EQ(request.line("%(L)s %(M)s %(T)s"), "1.000000 1000 1");
    request.record.duration_us = 999'999;
    EXPECT_EQ(request.line("%(L)s %(M)s %(T)s"), "0.999999 999 0");
    request.record.duration_us = -5;
    EXPECT_EQ(request.line("%(L)s %(D)s"), "0.000000 0") << "a clock cannot run backwards";
}

TEST(AccessLog, PutsPiecesOfAnyLengthTogether) {
    Request request;
    for (const size_t size : {0U, 1U, 504U, 505U, 506U, 511U, 512U, 513U, 5000U}) {
        const std::string query(size, 'q'), literal(size, 'l');
        request.record.query = query;
        EXPECT_EQ(request.line("a%(q)sb%(q)s"), "a" + query + "b" + query) << size;
        EXPECT_EQ(request.line("%(q)s" + literal + "%(m)s"), query + literal + "GET") << size;
    }
}

TEST(AccessLog, WritesARefusedRequestWithWhatIsKnown) {
    Request request;
    request.record = AccessRecord();
    request.record.remote_addr = "192.0.2.1";
    request.record.status = "400";
    EXPECT_EQ(request.line("%(h)s \"%(r)s\" %(s)s %(b)s %(m)s %(H)s"), "192.0.2.1 \"-\" 400 0 - -");
    request.record.request = "GET /x";
    EXPECT_EQ(request.line("\"%(r)s\""), "\"GET /x\"");
}

TEST(AccessLog, TakesTheUserFromBasicAuthorizationOnly) {
    const std::pair<const char*, const char*> cases[] = {
        {"Basic YnJ5YW46c2VjcmV0", "bryan"},  // bryan:secret
        {"bAsIc   YnJ5YW46c2VjcmV0  ", "bryan"},
        {"Basic YnJ5YW4=", "bryan"},  // no colon
        {"Basic YTpiOmM=", "a"},      // a:b:c
        {"Basic OnNlY3JldA==", "-"},  // empty user
        {"Basic", "-"},
        {"Basic ", "-"},
        {"Basic !!!!", "-"},
        {"Basic YnJ5YW4!", "-"},
        {"Basicly YnJ5YW46c2VjcmV0", "-"},
        {"Bearer YnJ5YW46c2VjcmV0", "-"},
        {"Basic YSIKYjp4", "a\\\"\\nb"},  // a, quote, newline, b
        {"Basic /+vg", "\\xff\\xeb\\xe0"},
    };
    Request request;
    for (const auto& [field, user] : cases) {
        request.fields.request["authorization"] = field;
        EXPECT_EQ(request.line("%(u)s"), user) << field;
    }
}

TEST(AccessLog, NeverWritesThePassword) {
    Request request;
    request.fields.request["authorization"] = "Basic YnJ5YW46c2VjcmV0";
    const std::string all = request.line(kDefaultAccessFormat) + request.line("json");
    EXPECT_EQ(all.find("secret"), std::string::npos);
    EXPECT_EQ(all.find("YnJ5"), std::string::npos);
}

TEST(AccessLog, LetsNoClientForgeALineOrReachATerminal) {
    // Each string atom in turn carries an injected line, an escape sequence and 8-bit bytes.
    const std::string evil =
        "x\r\n192.0.2.66 - - \"forged\"\x1b]0;title\x07\x9b"
        "31m\xc2\x9b\\\x7f\0z";
    Request request;
    request.record.remote_addr = request.record.method = request.record.request =
        request.record.path = request.record.query = request.record.protocol =
            request.record.status = evil;
    request.fields.request = {{"referer", evil}, {"user-agent", evil}, {"x", evil}};
    request.fields.response = {{"x", evil}};
    request.environ = {{"x", evil}};
    for (const char* format :
         {"%(h)s", "%(r)s", "%(m)s", "%(U)s", "%(q)s", "%(H)s", "%(s)s", "%(f)s", "%(a)s",
          "%({x}i)s", "%({x}o)s", "%({x}e)s", "json", "json:r,s,{x}i,{x}o,{x}e"}) {
        const std::string line = request.line(format);
        EXPECT_TRUE(
            std::none_of(line.begin(), line.end(),
                         [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
            << format << ": " << line;
        EXPECT_EQ(line.find("\xc2\x9b"), std::string::npos) << format << ": C1 control";
    }
    EXPECT_EQ(request.line("\"%(a)s\"").find("\"", 1), request.line("\"%(a)s\"").find("\\\"") + 1)
        << "the first quote inside is an escaped one";
}

TEST(AccessLog, DecodesAPathBeforeItEscapesIt) {
    Request request;
    request.record.path = "/a%0d%0aforged%22";
    EXPECT_EQ(request.line("\"%(U)s\""), "\"/a\\r\\nforged\\\"\"");
}

TEST(AccessLog, EscapesAtEveryPositionOfAWord) {
    // The plain check looks at eight bytes at once: a bad byte must be found at each offset, also
    // next to bytes with the high bit set.
    Request request;
    for (size_t size = 1; size <= 25; ++size) {
        for (size_t at = 0; at < size; ++at) {
            std::string agent(size, 'a');
            for (const char bad : {'"', '\\', '\x1f', '\x7f', '\x80', '\xff'}) {
                agent[at] = bad;
                request.fields.request["user-agent"] = agent;
                EXPECT_NE(request.line("%(a)s"), agent) << size << " " << at;
            }
            for (const char good : {' ', '~', '!', '#', '[', ']'}) {
                agent[at] = good;
                request.fields.request["user-agent"] = agent;
                EXPECT_EQ(request.line("%(a)s"), agent) << size << " " << at;
            }
        }
    }
}

TEST(AccessLog, KeepsLiteralsAndPercentSigns) {
    EXPECT_EQ(Request().line("100%% of \"%(m)s\"\ttab"), "100% of \"GET\"\ttab");
    EXPECT_EQ(Request().line("plain"), "plain");
    EXPECT_EQ(Request().line(""), "");
    EXPECT_EQ(Request().line("%%(h)s"), "%(h)s");
}

TEST(AccessLog, ConvertsNumbersWithD) {
    EXPECT_EQ(Request().line("%(D)d %(T)i %(M)u %(B)d %(b)d %(s)d %(A)d %(Q)d"),
              "12345678 12 12345 1234 1234 200 432 21");
}

TEST(AccessLog, PadsAndCuts) {
    const AtomCase cases[] = {
        {"[%(m)6s]", "[   GET]"},  {"[%(m)-6s]", "[GET   ]"}, {"[%(m)2s]", "[GET]"},
        {"[%(m).2s]", "[GE]"},     {"[%(m)-4.1s]", "[G   ]"}, {"[%(T)05d]", "[00012]"},
        {"[%(T)-05d]", "[12   ]"}, {"[%(z)3s]", "[  -]"},     {"[%(m).0s]", "[]"},
        {"[%(m)05s]", "[  GET]"},
    };
    for (const AtomCase& c : cases)
        EXPECT_EQ(Request().line(c.format), c.expected) << c.format;
}

TEST(AccessLog, LimitsWidths) {
    EXPECT_EQ(Request().line("%(m)1024s").size(), 1024u);
    EXPECT_EQ(compile_error("%(m)1023s"), "");
    EXPECT_NE(compile_error("%(m)1025s"), "");
    EXPECT_NE(compile_error("%(m)99999999999999999999999s"), "");
    EXPECT_EQ(compile_error("%(m).1024s"), "");
    EXPECT_NE(compile_error("%(m).1025s"), "");
}

TEST(AccessLog, RefusesFormatsThatCannotWorkAndNamesThePlace) {
    EXPECT_EQ(compile_error("ab %(h"), "access log format, position 4: '%(' without its ')'");
    EXPECT_EQ(compile_error("%(h)d"),
              "access log format, position 1: '%(h)d': 'h' is not a number");
    EXPECT_EQ(compile_error("%(h)"),
              "access log format, position 1: '%(h)' does not end with s or d");
    EXPECT_EQ(compile_error("%(h)x"),
              "access log format, position 1: '%(h)x' does not end with s or d");
    EXPECT_EQ(compile_error("a%"),
              "access log format, position 2: '%' is followed by neither '(' nor '%'");
    for (const char* format : {"%h", "%s", "%(", "%(h)-", "%(h).", "%(h)5", "%(D).2d", "%({x}i)d",
                               "%(L)d", "%(p)d", "%(z)d", "%(t)i", "%(h)*s", "%(h)+s", "%(h))d"})
        EXPECT_NE(compile_error(format), "") << format;
}

TEST(AccessLog, MatchesNestedParenthesesInNames) {
    Request request;
    request.fields.request["a(b)c"] = "v";
    EXPECT_EQ(request.line("%({a(b)c}i)s"), "v");
}

TEST(AccessLog, CollectsEnvironNamesOnce) {
    const Result<AccessLog> log = AccessLog::compile("%({B.x}e)s %({a}e)s %({b.X}E)s %({other}i)s");
    ASSERT_TRUE(log.is_ok());
    EXPECT_EQ(log->environ_names(), (std::vector<std::string>{"b.x", "a"}));
    const Result<AccessLog> json = AccessLog::compile("json:{Q}e,h");
    ASSERT_TRUE(json.is_ok());
    EXPECT_EQ(json->environ_names(), std::vector<std::string>{"q"});
}

TEST(AccessLog, KnowsWhetherSomebodyMustLookAtTheClock) {
    for (const char* format : {kDefaultAccessFormat, "%(p)s %(x)s", "json:t,h,s", "%({d}i)s"}) {
        const Result<AccessLog> log = AccessLog::compile(format);
        EXPECT_TRUE(log && !log->measures_time()) << format;
    }
    for (const char* format : {"%(T)s", "%(M)d", "%(D)s", "%(L)s", "%(A)s", "%(Q)s", "json"}) {
        const Result<AccessLog> log = AccessLog::compile(format);
        EXPECT_TRUE(log && log->measures_time()) << format;
    }
}

TEST(AccessLog, WritesJsonWithTypedFields) {
    Request request;
    request.record.pid = 7;
    const auto [text, second] = line_in_one_second([&] { return request.line("json"); });
    const std::string local = error_log_time(second);
    const std::string time = local.substr(0, 10) + "T" + local.substr(11, 8) + local.substr(20, 3) +
                             ":" + local.substr(23, 2);
    EXPECT_EQ(text, "{\"time\":\"" + time +
                        "\",\"remote_addr\":\"192.0.2.17\",\"user\":null,\"method\":\"GET\","
                        "\"path\":\"/caf\xc3\xa9 x\",\"query\":\"a=b&c\",\"protocol\":\"HTTP/1.1\","
                        "\"status\":200,\"bytes\":1234,\"referer\":\"http://before.example/\","
                        "\"user_agent\":\"curl/8.5.0\",\"duration_us\":12345678,\"app_us\":432,"
                        "\"queue_us\":21,\"pid\":7}");
}

TEST(AccessLog, WritesTheJsonFieldsAskedFor) {
    EXPECT_EQ(
        Request().line("json:L,s, m ,{X-Request-Id}i,{x}i,{Content-Type}o,{request_method}e,l"),
        "{\"duration\":12.345678,\"status\":200,\"method\":\"GET\","
        "\"request_header.x-request-id\":\"abc-1\",\"request_header.x\":null,"
        "\"response_header.content-type\":\"text/html\",\"environ.request_method\":\"GET\","
        "\"ident\":null}");
}

TEST(AccessLog, QuotesAStatusThatIsNoNumber) {
    Request request;
    request.record.status = "007 Bond";
    EXPECT_EQ(request.line("json:s"), "{\"status\":\"007\"}");
    EXPECT_EQ(request.line("%(s)s"), "007");
}

TEST(AccessLog, RefusesJsonListsWithUnknownOrRepeatedAtoms) {
    EXPECT_EQ(compile_error("json:h,zz"), "access log format, position 8: unknown atom 'zz'");
    EXPECT_EQ(compile_error("json:b,B"), "access log format, position 8: 'B' repeats \"bytes\":");
    EXPECT_NE(compile_error("json:"), "");
    EXPECT_NE(compile_error("json:h,"), "");
    EXPECT_NE(compile_error("json:{x}y"), "");
}

TEST(AccessLog, TakesJsonOnlyAsAWholeWord) {
    EXPECT_EQ(Request().line("jsonx %(m)s"), "jsonx GET");
}

TEST(AccessLog, TheClockGoesOn) {
    const Request request;
    const std::string before = request.line("%(t)s");
    const int64_t end_ms = monotonic_ms() + 10'000;
    while (request.line("%(t)s") == before)
        ASSERT_LT(monotonic_ms(), end_ms);
}

TEST(AccessLog, ALineOwesNothingToTheOneBefore) {
    const Result<AccessLog> log = AccessLog::compile("<%(m)5s %(r)s>");
    ASSERT_TRUE(log.is_ok());
    Request request;
    for (size_t size = 1; size < 5000; size = size * 3 / 2 + 1) {
        const std::string text(size, 'r');
        request.record.request = text;
        EXPECT_EQ(log->format(request.record), "<  GET " + text + ">");
        request.record.request = "short";
        EXPECT_EQ(log->format(request.record), "<  GET short>");
    }
}

TEST(AccessLog, EscapesOneByteAtAnyPlaceInAnyLength) {
    const Result<AccessLog> text = AccessLog::compile("%(q)s");
    const Result<AccessLog> json = AccessLog::compile("json:q");
    ASSERT_TRUE(text.is_ok() && json.is_ok());
    Request request;
    for (size_t size = 0; size < 30; ++size) {
        for (size_t place = 0; place <= size; ++place) {
            for (const char bad :
                 {'"', '\\', '\n', '\x1b', '\x7f', '\x80', '\xff', '\0', ' ', '~'}) {
                std::string value(size, 'q');
                if (place < size) value[place] = bad;
                request.record.query = value;
                EXPECT_EQ(text->format(request.record), escape_for_log(value));
                EXPECT_EQ(json->format(request.record), "{\"query\":" + json_quote(value) + "}");
            }
        }
    }
}

}  // namespace
}  // namespace gcorn
