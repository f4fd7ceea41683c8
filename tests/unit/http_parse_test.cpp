// http_parse: the corpus in every way of cutting it up, the limits at their edges, and what needs
// C++.
#include "http_parse.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "base/text.h"
#include "http_fields.h"
#include "tests/support/guard_page.h"
#include "tests/support/request_corpus.h"

namespace gcorn {
namespace {

using test::CorpusCase;
using test::Outcome;
using Lines = std::vector<std::pair<std::string, std::string>>;

std::vector<std::string> values_of(const Lines& lines, std::string_view key) {
    std::vector<std::string> values;
    for (const auto& [name, value] : lines) {
        if (name == key) values.push_back(value);
    }
    return values;
}

/// Compares an outcome with what the case says about it.
void check(const CorpusCase& test, const Outcome& outcome) {
    using Kind = Outcome::Kind;
    const std::vector<std::string> refused = values_of(test.expected, "refused");
    if (!refused.empty()) {
        ASSERT_EQ(outcome.kind, Kind::Refused);
        EXPECT_EQ(std::to_string(outcome.status) + " " + outcome.rule, refused.front());
    } else if (!values_of(test.expected, "waits").empty()) {
        ASSERT_EQ(outcome.kind, Kind::Waits);
    } else {
        ASSERT_EQ(outcome.kind, Kind::Complete) << outcome.status << " " << outcome.rule;
        const std::vector<std::string> rest = values_of(test.expected, "rest");
        EXPECT_EQ(test.input.substr(outcome.used), rest.empty() ? "" : rest.front());
        const std::vector<std::string> body = values_of(test.expected, "body");
        EXPECT_EQ(outcome.body, body.empty() ? "" : body.front());
    }
    const std::set<std::string> handled = {"refused", "waits",     "rest",   "body",
                                           "field",   "no-fields", "dropped"};
    for (const auto& [key, value] : test.expected) {
        if (handled.count(key) > 0) continue;
        EXPECT_EQ(values_of(outcome.head, key), std::vector<std::string>{value}) << key;
    }
    for (const char* key : {"field", "dropped"}) {
        const std::vector<std::string> wanted = values_of(test.expected, key);
        if (!wanted.empty()) {
            EXPECT_EQ(values_of(outcome.head, key), wanted) << key;
        }
    }
    if (!values_of(test.expected, "no-fields").empty()) {
        EXPECT_TRUE(values_of(outcome.head, "field").empty());
    }
}

class HttpParseCorpus : public testing::Test {
protected:
    static void SetUpTestSuite() {
        cases_ = new std::vector<CorpusCase>(test::read_corpus(test::corpus_directory()));
    }
    static void TearDownTestSuite() { delete cases_; }

    /// Runs `work(case)` for all, stopping at the first case that fails.
    template <typename Work>
    static void for_each_case(Work work) {
        for (const CorpusCase& test : *cases_) {
            SCOPED_TRACE(test.file + ": " + test.name);
            work(test);
            if (HasFailure() && std::getenv("GCORN_TEST_ALL") == nullptr) return;
        }
    }

    static std::vector<CorpusCase>* cases_;
};
std::vector<CorpusCase>* HttpParseCorpus::cases_ = nullptr;

TEST(RequestHead, KeepsNoMemoryOfALargeHead) {
    std::string bytes = "GET / HTTP/1.1\r\nHost: a\r\n";
    const size_t small = bytes.size() + 2;
    for (int i = 0; i < 98; ++i)
        bytes += "A" + std::to_string(i) + ": " + std::string(8000, 'x') + "\r\n";
    RequestHead head;
    for (const std::string& in : {bytes + "\r\n", bytes.substr(0, small - 2) + "\r\n"}) {
        HeadParser parser;
        HttpError error;
        size_t used = 0;
        ASSERT_EQ(parser.parse(in, {}, {}, head, used, error), Parse::Done);
        head.clear();
        EXPECT_EQ(head.fields.capacity() == 0, in.size() > small);
    }
}

TEST_F(HttpParseCorpus, IsThere) {
    EXPECT_GE(cases_->size(), 150u);
}

TEST_F(HttpParseCorpus, NamesAreUnique) {
    std::set<std::string> names;
    for (const CorpusCase& test : *cases_) {
        EXPECT_TRUE(names.insert(test.file + test.name).second) << test.file << ": " << test.name;
    }
}

TEST_F(HttpParseCorpus, GivesTheExpectedAnswerWhole) {
    for_each_case([](const CorpusCase& test) {
        check(test, test::run(test.input, {}, test.policy, test.peer));
    });
}

TEST_F(HttpParseCorpus, GivesTheSameAnswerByteByByte) {
    for_each_case([](const CorpusCase& test) {
        const Outcome whole = test::run(test.input, {}, test.policy, test.peer);
        const std::vector<size_t> cuts = test::every_byte(test.input.size());
        EXPECT_TRUE(test::run(test.input, cuts, test.policy, test.peer) == whole);
    });
}

TEST_F(HttpParseCorpus, GivesTheSameAnswerForEveryCutInTwo) {
    for_each_case([](const CorpusCase& test) {
        const Outcome whole = test::run(test.input, {}, test.policy, test.peer);
        const size_t step = test.input.size() / 2000 + 1;  // every position, except in giant inputs
        for (size_t cut = 1; cut < test.input.size(); cut += step) {
            ASSERT_TRUE(test::run(test.input, {cut}, test.policy, test.peer) == whole) << cut;
        }
    });
}

TEST_F(HttpParseCorpus, ReadsNothingBehindTheInput) {
    for_each_case([](const CorpusCase& test) {
        test::GuardPage guard(test.input.size());
        const size_t step = test.input.size() / 500 + 1;
        for (size_t size = 0; size <= test.input.size(); size += step) {
            const std::string_view start = std::string_view(test.input).substr(0, size);
            (void)test::run(guard.place(start), {}, test.policy, test.peer);
        }
        check(test, test::run(guard.place(test.input), {}, test.policy, test.peer));
    });
}

// ------------------------------------------------------------------------- without the corpus

Outcome parse(std::string_view input, const HttpPolicy& policy = {}, const PeerFacts& peer = {}) {
    const Outcome whole = test::run(input, {}, policy, peer);
    if (input.size() < 20000) {
        EXPECT_TRUE(test::run(input, test::every_byte(input.size()), policy, peer) == whole);
    }
    return whole;
}

/// "complete", "waits", or "431 rule".
std::string verdict(const Outcome& outcome) {
    switch (outcome.kind) {
        case Outcome::Kind::Complete: return "complete";
        case Outcome::Kind::Waits: return "waits";
        case Outcome::Kind::Refused: return std::to_string(outcome.status) + " " + outcome.rule;
    }
    return "";
}

TEST(HttpParse, FindsEveryKnownFieldInAnyCase) {
    for (size_t id = 1; id < static_cast<size_t>(FieldId::Count); ++id) {
        const std::string name(kFieldNames[id]);
        EXPECT_EQ(find_field(name), static_cast<FieldId>(id)) << name;
        EXPECT_EQ(find_field(upper(name)), static_cast<FieldId>(id)) << name;
        std::string mixed = name;
        for (size_t i = 0; i < mixed.size(); i += 2)
            mixed[i] = to_upper(mixed[i]);
        EXPECT_EQ(find_field(mixed), static_cast<FieldId>(id)) << name;
    }
}

TEST(HttpParse, TakesNoOtherNameForAKnownField) {
    for (size_t id = 1; id < static_cast<size_t>(FieldId::Count); ++id) {
        const std::string name(kFieldNames[id]);
        // Each byte is replaced by every other; only the same letter in the other case may still
        // match.
        for (size_t i = 0; i < name.size(); ++i) {
            for (int c = 0; c < 256; ++c) {
                std::string other = name;
                other[i] = static_cast<char>(c);
                const FieldId found = find_field(other);
                if (found == FieldId::Unknown) continue;
                EXPECT_TRUE(iequals(other, kFieldNames[static_cast<size_t>(found)])) << other;
            }
        }
        EXPECT_NE(find_field(name + "x"), static_cast<FieldId>(id));
        EXPECT_NE(find_field(name.substr(1)), static_cast<FieldId>(id));
    }
    EXPECT_EQ(find_field(""), FieldId::Unknown);
    EXPECT_EQ(find_field(std::string(100000, 'x')), FieldId::Unknown);
}

TEST(HttpParse, ReadsNoByteOutsideAName) {
    test::GuardPage guard(100);
    for (size_t size = 0; size < 60; ++size) {
        EXPECT_EQ(find_field(guard.place(std::string(size, 'x'))), FieldId::Unknown);
    }
    for (const std::string_view name : kFieldNames) {
        EXPECT_EQ(kFieldNames[static_cast<size_t>(find_field(guard.place(name)))], name);
    }
}

TEST(HttpParse, ComparesWordsWithoutCase) {
    EXPECT_TRUE(is_word("KEEP-alive", "keep-alive"));
    EXPECT_TRUE(is_word("100-Continue", "100-continue"));
    EXPECT_FALSE(is_word("keep\ralive", "keep-alive"));  // '\r' | 0x20 is '-'
    EXPECT_FALSE(
        is_word("\x11"
                "00-continue",
                "100-continue"));
    EXPECT_FALSE(is_word("keep-aliv", "keep-alive"));
    EXPECT_FALSE(is_word("keep-alive ", "keep-alive"));
    EXPECT_FALSE(is_word("", "close"));
}

TEST(HttpParse, FindsControlBytesAtEveryPlace) {
    test::GuardPage guard(70);
    for (size_t size = 0; size < 70; ++size) {
        const std::string clean(size, '\xFF');
        EXPECT_EQ(find_control(guard.place(clean).data(), 0, size), size);
        for (size_t at = 0; at < size; ++at) {
            for (const char byte : {'\0', '\t', '\n', '\x1F', '\x7F'}) {
                std::string text(size, ' ');
                text[at] = byte;
                if (at + 1 < size) text[at + 1] = '\x80';
                const char* bytes = guard.place(text).data();
                EXPECT_EQ(find_control(bytes, 0, size), at);
                EXPECT_EQ(find_control(bytes, at, size), at);
                EXPECT_EQ(find_control(bytes, at + 1, size), size);
            }
        }
    }
}

TEST(HttpParse, CallsExactlyTheControlBytesSo) {
    for (int c = 0; c < 256; ++c) {
        const bool wanted = c < 0x20 || c == 0x7F;
        EXPECT_EQ(is_control(static_cast<char>(c)), wanted) << c;
        for (const size_t size : {1u, 8u, 16u, 40u}) {  // the three steps of the search
            const std::string text(size, static_cast<char>(c));
            EXPECT_EQ(find_control(text.data(), 0, size), wanted ? 0 : size) << c << " x " << size;
        }
    }
}

TEST(HttpParse, HoldsTheRequestLineLimitExactly) {
    const auto line_of = [](size_t size) {
        const std::string rest = "GET / HTTP/1.1";
        return "GET /" + std::string(size - rest.size(), 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n";
    };
    const struct {
        uint32_t setting;
        size_t acts_as;
    } rows[] = {{4094, 4094}, {20, 20}, {8189, 8189}, {8190, 8190}, {8191, 8190}, {100000, 8190}};
    for (const auto& row : rows) {
        HttpPolicy policy;
        policy.limit_request_line = row.setting;
        EXPECT_EQ(verdict(parse(line_of(row.acts_as - 1), policy)), "complete");
        EXPECT_EQ(verdict(parse(line_of(row.acts_as), policy)), "complete");
        EXPECT_EQ(verdict(parse(line_of(row.acts_as + 1), policy)), "414 request line too long");
        // Without an end of line: refused at the byte that leaves no room for it.
        const std::string open = "GET /" + std::string(row.acts_as + 2 - 5, 'a');
        EXPECT_EQ(verdict(parse(open, policy)), "414 request line too long");
        EXPECT_EQ(verdict(parse(open.substr(0, open.size() - 1), policy)), "waits");
    }
}

TEST(HttpParse, WithoutRequestLineLimitHoldsTheHeadLimit) {
    HttpPolicy policy;
    policy.limit_request_line = 0;
    const std::string end = " HTTP/1.0\r\n";
    for (const std::string start : {"GET /", "\r\nGET /"}) {
        const size_t room = kHeadBytesMax - start.size() - end.size() - 2;
        const std::string line = start + std::string(room, 'a') + end;
        EXPECT_EQ(verdict(parse(line + "\r\n", policy)), "complete");
        EXPECT_EQ(verdict(parse(line + "X", policy)), "waits");
        EXPECT_EQ(verdict(parse(line + "X:", policy)), "431 header section too long");
    }
    const std::string open = "GET /" + std::string(kHeadBytesMax - 5 - 3, 'a');
    EXPECT_EQ(verdict(parse(open, policy)), "waits");
    EXPECT_EQ(verdict(parse(open + "a", policy)), "414 request line too long");
}

TEST(HttpParse, HoldsTheFieldSizeLimitExactly) {
    const auto head_of = [](size_t size) {  // of a field, including name, colon, blanks and CRLF
        return "GET / HTTP/1.1\r\nHost: a\r\nX:" + std::string(size - 4, 'v') + "\r\n\r\n";
    };
    for (const uint32_t setting : {8190u, 9u, 100u, 20000u}) {
        HttpPolicy policy;
        policy.limit_request_field_size = setting;
        EXPECT_EQ(verdict(parse(head_of(setting - 1), policy)), "complete");
        EXPECT_EQ(verdict(parse(head_of(setting), policy)), "complete");
        EXPECT_EQ(verdict(parse(head_of(setting + 1), policy)), "431 header field too long");
        const std::string open = "GET / HTTP/1.1\r\nHost: a\r\nX:" + std::string(setting - 2, 'v');
        EXPECT_EQ(verdict(parse(open, policy)), "431 header field too long");
        EXPECT_EQ(verdict(parse(open.substr(0, open.size() - 1), policy)), "waits");
    }
}

TEST(HttpParse, TheEmptyLineIsNoFieldThatCouldBeTooLong) {
    HttpPolicy policy;
    policy.limit_request_field_size = 1;
    EXPECT_EQ(verdict(parse("GET / HTTP/1.0\r\n\r\n", policy)), "complete");
    EXPECT_EQ(verdict(parse("GET / HTTP/1.0\r\nX:\r\n\r\n", policy)), "431 header field too long");
}

TEST(HttpParse, APortThatWrapsAroundIsNone) {
    const auto get = [](const std::string& host) {
        return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n";
    };
    EXPECT_EQ(verdict(parse(get("a:65535"))), "complete");
    EXPECT_EQ(verdict(parse(get("a:65536"))), "400 invalid Host");
    EXPECT_EQ(verdict(parse(get("a:4294967376"))), "400 invalid Host") << "80 in 32 bits";
    EXPECT_EQ(verdict(parse(get("[::1]:18446744073709551696"))), "400 invalid Host");
}

TEST(HttpParse, CountsBlanksAndFoldedLinesInTheFieldSize) {
    HttpPolicy policy;
    policy.limit_request_field_size = 20;
    policy.permit_obsolete_folding = true;
    const std::string start = "GET / HTTP/1.1\r\nHost: a\r\n";
    EXPECT_EQ(verdict(parse(start + "X:  a\t\t\t          \r\n\r\n", policy)), "complete");
    EXPECT_EQ(verdict(parse(start + "X:  a\t\t\t           \r\n\r\n", policy)),
              "431 header field too long");
    EXPECT_EQ(verdict(parse(start + "X: 345678\r\n 23456789\r\n\r\n", policy)),
              "431 header field too long");
    EXPECT_EQ(verdict(parse(start + "X: 345678\r\n 234567\r\n\r\n", policy)), "complete");
    EXPECT_EQ(verdict(parse(start + "X: 345\r\n 234\r\n 234\r\n\r\n", policy)), "complete");
    EXPECT_EQ(verdict(parse(start + "X: 345\r\n 234\r\n 2345\r\n\r\n", policy)),
              "431 header field too long");
    EXPECT_EQ(verdict(parse(start + "X: 34567890123456\r\n \r\n\r\n", policy)),
              "431 header field too long");
}

TEST(HttpParse, WithoutFieldSizeLimitHoldsTheHeadLimit) {
    HttpPolicy policy;
    policy.limit_request_field_size = 0;
    const std::string start = "GET / HTTP/1.1\r\nHost: a\r\nX:";
    const std::string room(kHeadBytesMax - start.size() - 4, 'v');
    EXPECT_EQ(verdict(parse(start + room + "\r\n\r\n", policy)), "complete");
    EXPECT_EQ(verdict(parse(start + room + "v\r\n\r\n", policy)), "431 header section too long");
    EXPECT_EQ(verdict(parse(start + room + "vvvv", policy)), "431 header section too long");
    EXPECT_EQ(verdict(parse(start + room + "vvv", policy)), "waits");
    // The empty line is the one that does not fit.
    EXPECT_EQ(verdict(parse(start + room + "v\r\n\r", policy)), "431 header section too long");
}

TEST(HttpParse, HoldsTheFieldCountExactly) {
    const auto head_of = [](size_t count) {
        std::string head = "GET / HTTP/1.1\r\nHost: a\r\n";
        for (size_t i = 1; i < count; ++i)
            head += "X: v\r\n";
        return head + "\r\n";
    };
    const struct {
        uint32_t setting;
        size_t acts_as;
    } rows[] = {{100, 100}, {1, 1}, {10, 10}, {0, 32768}, {32768, 32768}, {32769, 32768}};
    for (const auto& row : rows) {
        HttpPolicy policy;
        policy.limit_request_fields = row.setting;
        if (row.acts_as > 1) {
            EXPECT_EQ(verdict(parse(head_of(row.acts_as - 1), policy)), "complete");
        }
        EXPECT_EQ(verdict(parse(head_of(row.acts_as), policy)), "complete");
        EXPECT_EQ(verdict(parse(head_of(row.acts_as + 1), policy)), "431 too many header fields");
    }
}

TEST(HttpParse, DroppedAndFoldedLinesAreNoFields) {
    HttpPolicy policy;
    policy.limit_request_fields = 2;
    policy.permit_obsolete_folding = true;
    const std::string head =
        "GET / HTTP/1.1\r\nA_B: x\r\nHost: a\r\n\t\r\nC_D: y\r\nX: 1\r\n 2\r\n 3\r\nE_F: z\r\n";
    EXPECT_EQ(verdict(parse(head + "\r\n", policy)), "complete");
    EXPECT_EQ(verdict(parse(head + "Y: 1\r\n\r\n", policy)), "431 too many header fields");
    policy.header_map = HeaderMap::Dangerous;
    EXPECT_EQ(verdict(parse(head + "\r\n", policy)), "431 too many header fields");
}

TEST(HttpParse, DroppedFieldsCannotFillTheHeadWithoutEnd) {
    HttpPolicy policy;
    policy.limit_request_fields = 2;
    policy.limit_request_field_size = 30;  // so a section may have 2 * (30 + 2) + 4 = 68 bytes
    const std::string line = "GET / HTTP/1.1\r\n";
    const std::string section = "Host: a\r\nA_B: xxxxxxxxxxxxxx\r\nC_D: xxxxxxxxxxxxxx\r\n";
    EXPECT_EQ(section.size(), 51u);
    EXPECT_EQ(verdict(parse(line + section + "E_F: xxxxxxxx\r\n\r\n", policy)), "complete");
    EXPECT_EQ(verdict(parse(line + section + "E_F: xxxxxxxxx\r\n\r\n", policy)),
              "431 header section too long");
}

TEST(HttpParse, RemembersOnlyTheFirstDroppedNames) {
    std::string head = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (size_t i = 0; i < kDroppedNamesMax + 5; ++i)
        head += "X_" + std::to_string(i) + ": v\r\n";
    const Outcome outcome = parse(head + "\r\n");
    EXPECT_EQ(values_of(outcome.head, "dropped").size(), kDroppedNamesMax);
}

TEST(HttpParse, RefusesABodyAboveTheLimitBeforeItArrives) {
    HttpPolicy policy;
    policy.limit_request_body = 10;
    const auto post = [](const std::string& length) {
        return "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + "\r\n\r\n";
    };
    EXPECT_EQ(verdict(parse(post("9") + "123456789", policy)), "complete");
    EXPECT_EQ(verdict(parse(post("10") + "1234567890", policy)), "complete");
    EXPECT_EQ(verdict(parse(post("11"), policy)), "413 request body too large");
    const std::string chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    EXPECT_EQ(verdict(parse(chunked + "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", policy)),
              "complete");
    EXPECT_EQ(verdict(parse(chunked + "b\r\n", policy)), "413 request body too large");
    EXPECT_EQ(verdict(parse(chunked + "5\r\nhello\r\n6\r\n", policy)),
              "413 request body too large");
    EXPECT_EQ(verdict(parse(chunked + "7fffffffffffffff\r\n", policy)),
              "413 request body too large");
}

TEST(HttpParse, BoundsTheOverheadOfChunks) {
    const std::string start = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    const std::string half(kChunkExtensionBytesMax / 2 - 1, 'x');  // and the semicolon
    const std::string two = "1;" + half + "\r\na\r\n" + "1;" + half + "\r\nb\r\n";
    EXPECT_EQ(verdict(parse(start + two + "0\r\n\r\n")), "complete");
    EXPECT_EQ(verdict(parse(start + two + "0;\r\n\r\n")), "400 chunk extensions too large");
    // Needless zeros count as overhead, too.
    const std::string zeros(16 + kChunkExtensionBytesMax - 1, '0');
    EXPECT_EQ(verdict(parse(start + zeros + "1\r\na\r\n0\r\n\r\n")), "complete");
    EXPECT_EQ(verdict(parse(start + zeros + "01\r\na\r\n0\r\n\r\n")),
              "400 chunk extensions too large");
}

TEST(HttpParse, HoldsTheHeaderLimitsInTheTrailerSection) {
    HttpPolicy policy;
    policy.limit_request_field_size = 30;
    policy.limit_request_fields = 3;  // so the section may have 3 * 32 + 4 = 100 bytes
    const std::string start =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    const std::string most = "X:" + std::string(26, 'v') + "\r\n";
    EXPECT_EQ(verdict(parse(start + most + most + most + "\r\n", policy)), "complete");
    EXPECT_EQ(verdict(parse(start + "v" + most, policy)), "431 trailer section too long");
    EXPECT_EQ(verdict(parse(start + "X:" + std::string(27, 'v'), policy)),
              "431 trailer section too long");
    EXPECT_EQ(verdict(parse(start + most + most + most + "X:\r\n", policy)),
              "431 too many trailer fields");
    policy.permit_obsolete_folding = true;
    const std::string fold(9, ' ');
    EXPECT_EQ(verdict(parse(start + most + most + most + fold.substr(1) + "\r\n\r\n", policy)),
              "complete");
    EXPECT_EQ(verdict(parse(start + most + most + most + fold + "\r\n\r\n", policy)),
              "431 trailer section too long");
}

TEST(HttpParse, AReusedHeadRemembersNothing) {
    const HttpPolicy policy;
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    const std::string first =
        "POST http://b/x?q#f HTTP/1.1\r\nHost: a\r\nX_Y: 1\r\nContent-Length: 5\r\n"
        "Expect: 100-continue\r\nConnection: upgrade\r\n\r\n";
    ASSERT_EQ(parser.parse(first, policy, {true, true}, head, used, error), Parse::Done);
    EXPECT_TRUE(head.expects_continue && head.is_upgrade && head.is_https);
    parser.reset();
    const std::string second = "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n";
    ASSERT_EQ(parser.parse(second, policy, {}, head, used, error), Parse::Done);
    EXPECT_FALSE(head.expects_continue || head.is_upgrade || head.is_https);
    const Outcome fresh = parse(second);
    EXPECT_EQ(test::describe(head), fresh.head);
    EXPECT_EQ(used, second.size());
}

TEST(HttpParse, AClearedHeadIsEmpty) {
    RequestHead head, empty;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    ASSERT_EQ(
        parser.parse("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", HttpPolicy(), {}, head, used, error),
        Parse::Done);
    head.clear();
    EXPECT_EQ(test::describe(head), test::describe(empty));
}

TEST(HttpParse, AConnectIsBelowNoMountPoint) {
    HttpPolicy policy;
    policy.script_name = "/app";
    EXPECT_EQ(verdict(parse("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", policy)), "complete");
}

TEST(HttpParse, FindsTheFirstFieldWithAnId) {
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    const std::string bytes = "GET / HTTP/1.1\r\nHost: a\r\nVia: 1\r\nvia: 2\r\n\r\n";
    ASSERT_EQ(parser.parse(bytes, HttpPolicy(), {}, head, used, error), Parse::Done);
    ASSERT_NE(head.find(FieldId::Host), nullptr);
    EXPECT_EQ(head.find(FieldId::Host)->value, "a");
    ASSERT_NE(head.find(FieldId::Via), nullptr);
    EXPECT_EQ(head.find(FieldId::Via)->value, "1");
    EXPECT_EQ(head.find(FieldId::Cookie), nullptr);
}

TEST(HttpParse, OwnsTheBytesItsViewsShow) {
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    std::string bytes = "GET /path?q HTTP/1.1\r\nHost: a\r\nX: value\r\n\r\n";
    ASSERT_EQ(parser.parse(bytes, HttpPolicy(), {}, head, used, error), Parse::Done);
    std::fill(bytes.begin(), bytes.end(), '!');
    EXPECT_EQ(head.raw_path, "/path");
    EXPECT_EQ(head.fields[1].value, "value");
}

TEST(HttpParse, KeepsWhatItUnderstoodOfARefusedRequest) {
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    const std::string bytes = "HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n";
    ASSERT_EQ(parser.parse(bytes, HttpPolicy(), {}, head, used, error), Parse::Bad);
    EXPECT_TRUE(head.is_head());
    EXPECT_EQ(error.status, 400);
    EXPECT_STREQ(error.rule, "invalid Content-Length");
    EXPECT_EQ(error.detail, "x");
}

TEST(HttpParse, RefusesABadRequestLineBeforeTheHeadIsComplete) {
    EXPECT_EQ(verdict(parse("GET /\r\n")), "400 request line needs method, target and version");
    EXPECT_EQ(verdict(parse("GET / HTTP/2.0\r\nHo")), "505 unsupported HTTP version");
    EXPECT_EQ(verdict(parse("get / HTTP/1.1\r\n\x01")), "400 invalid method");
}

TEST(HttpParse, QuotesAtMostSixtyFourBytes) {
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    const std::string bytes =
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::string(500, 'x') + "\r\n\r\n";
    ASSERT_EQ(parser.parse(bytes, HttpPolicy(), {}, head, used, error), Parse::Bad);
    EXPECT_EQ(error.detail, std::string(64, 'x'));
}

TEST(HttpParse, NamesWhatIsKnownOfARefusedRequest) {
    using Parts = std::array<std::string_view, 5>;  // method, target, path, query, protocol
    RequestHead head;
    const auto named = [&](std::string_view in) {
        head.name_refused(in);
        return Parts{head.method, head.target, head.raw_path, head.query, head.protocol};
    };
    EXPECT_EQ(head.request_line(), "");
    EXPECT_EQ(named("GET /a?b=c?d HTTP/1.1\r\nHost"),
              (Parts{"GET", "/a?b=c?d", "/a", "b=c?d", "HTTP/1.1"}));
    EXPECT_EQ(head.request_line(), "GET /a?b=c?d HTTP/1.1");
    EXPECT_EQ(named("\r\nGET / HTTP/1.1\n"), (Parts{"GET", "/", "/", "", "HTTP/1.1"}));
    EXPECT_EQ(named("GET a b HTTP/9"), (Parts{"GET", "a b", "a b", "", "HTTP/9"}));
    EXPECT_EQ(named("GET /a"), (Parts{"GET", "/a", "/a", "", ""}));
    EXPECT_EQ(head.request_line(), "GET /a");
    EXPECT_EQ(named("GET"), (Parts{"GET", "", "", "", ""}));
    EXPECT_EQ(head.request_line(), "GET");
    EXPECT_EQ(named(""), Parts());
    EXPECT_EQ(head.request_line(), "");
    EXPECT_EQ(named(std::string(10000, 'x'))[0].size(), 8190u);
}

TEST(HttpParse, AHeadByteByByteCostsLinearTime) {
    // Measured in bytes examined, not in time: the scanner must not examine a byte twice, so a
    // prefix that was already searched can be overwritten with anything without being noticed.
    const HttpPolicy policy;
    RequestHead head;
    HeadParser parser;
    HttpError error;
    size_t used = 0;
    std::string bytes = "GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(5000, 'v');
    ASSERT_EQ(parser.parse(bytes, policy, {}, head, used, error), Parse::NeedMore);
    bytes[bytes.size() - 10] = '\x01';
    bytes += "\r\n\r\n";
    EXPECT_EQ(parser.parse(bytes, policy, {}, head, used, error), Parse::Done);
}

TEST(HttpParse, BodyReaderEndsWhereTheBodyEnds) {
    const HttpPolicy policy;
    BodyReader reader;
    HttpError error;
    size_t used = 0;
    std::string_view data;
    reader.begin(Framing::None, 0, policy);
    EXPECT_EQ(reader.next("GET", used, data, error), Parse::Done);
    EXPECT_EQ(used, 0u);

    reader.begin(Framing::Length, 10, policy);
    EXPECT_EQ(reader.next("1234", used, data, error), Parse::NeedMore);
    EXPECT_EQ(data, "1234");
    EXPECT_EQ(reader.next("567890GET", used, data, error), Parse::Done);
    EXPECT_EQ(used, 6u);
    EXPECT_EQ(reader.received(), 10u);

    reader.begin(Framing::Chunked, 0, policy);
    EXPECT_EQ(reader.next("0\r\n\r\nX", used, data, error), Parse::Done);
    EXPECT_EQ(used, 5u);

    reader.begin(Framing::Length, 0, policy);
    EXPECT_EQ(reader.next("", used, data, error), Parse::Done);
}

TEST(HttpParse, AReusedBodyReaderCountsEachBodyByItself) {
    HttpPolicy policy;
    policy.limit_request_fields = 2;
    policy.limit_request_field_size = 30;  // so the trailer section may have 2 * 32 + 4 = 68 bytes
    const std::string field = "X:" + std::string(26, 'v') + "\r\n";
    const std::string wire = "1;" + std::string(kChunkExtensionBytesMax - 1, 'x') +
                             "\r\na\r\n0\r\n" + field + field + "\r\n";
    BodyReader reader;
    for (int body = 0; body < 3; ++body) {  // as on a connection that is kept alive
        reader.begin(Framing::Chunked, 0, policy);
        HttpError error;
        Parse outcome = Parse::NeedMore;
        for (std::string_view rest = wire; outcome == Parse::NeedMore && !rest.empty();) {
            size_t used = 0;
            std::string_view data;
            outcome = reader.next(rest, used, data, error);
            rest.remove_prefix(used);
        }
        ASSERT_EQ(outcome, Parse::Done) << body << ": " << error.status << " " << error.rule;
        EXPECT_EQ(reader.received(), 1u);
    }
}

TEST(HttpParse, BodyReaderGivesViewsIntoItsInput) {
    const HttpPolicy policy;
    BodyReader reader;
    reader.begin(Framing::Chunked, 0, policy);
    const std::string wire = "5\r\nhello\r\n0\r\n\r\n";
    HttpError error;
    size_t used = 0;
    std::string_view data;
    EXPECT_EQ(reader.next(wire, used, data, error), Parse::NeedMore);
    EXPECT_EQ(data.data(), wire.data() + 3);
    EXPECT_EQ(data, "hello");
}

}  // namespace
}  // namespace gcorn
