#include <gtest/gtest.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/text.h"

namespace gcorn {
namespace {

TEST(Text, TokenIsRfc9110Tchar) {
    EXPECT_TRUE(is_token("X-Custom_Header.1~"));
    EXPECT_FALSE(is_token(""));
    EXPECT_FALSE(is_token("a b"));
    EXPECT_FALSE(is_token("a:b"));
    EXPECT_FALSE(is_token("caf\xe9"));
}

TEST(Text, DecimalIsStrict) {
    EXPECT_EQ(parse_decimal("0"), 0u);
    EXPECT_EQ(parse_decimal("007"), 7u);
    EXPECT_EQ(parse_decimal("18446744073709551615"), UINT64_MAX);
    for (const char* bad : {"", "+1", "-1", " 1", "1 ", "0x1", "1_0", "18446744073709551616"})
        EXPECT_FALSE(parse_decimal(bad)) << bad;
}

TEST(Text, PercentDecodeKeepsBrokenEscapes) {
    EXPECT_EQ(percent_decode("a%2Fb%zz%4"), "a/b%zz%4");
    EXPECT_EQ(percent_decode("%z4%4z%"), "%z4%4z%");
    EXPECT_EQ(percent_decode("%00%ff"), std::string_view("\0\xff", 2));
}

TEST(Text, SplitListDropsEmptyItems) {
    EXPECT_EQ(split_list(" a, ,b,"), (std::vector<std::string_view>{"a", "b"}));
    EXPECT_EQ(split("", ','), std::vector<std::string_view>{""});
}

TEST(Text, LogEscapingLeavesNoControlByte) {
    EXPECT_EQ(escape_for_log("a\"b\\\r\n\t\x1b[0m\xe9"), "a\\\"b\\\\\\r\\n\\t\\x1b[0m\\xe9");
    EXPECT_EQ(escape_for_log("abcdef", 3), "abc...");
    EXPECT_EQ(escape_for_log("abc", 3), "abc");
}

TEST(Text, JsonQuotesInvalidUtf8AsEscapes) {
    EXPECT_EQ(json_quote("a\"\n\xc3\xa9\xff\xc3"), "\"a\\\"\\n\xc3\xa9\\u00ff\\u00c3\"");
    EXPECT_EQ(json_quote("\xed\xa0\x80"), "\"\\u00ed\\u00a0\\u0080\"") << "a surrogate half";
    EXPECT_EQ(json_quote("\xc2\x80\xc2\x9b\xc2\x9f\xc2\xa0"), "\"\\u0080\\u009b\\u009f\xc2\xa0\"")
        << "control sequences of terminals";
}

// The Unicode Standard, table 3-7: the ends of each row, and what lies just beyond them.
TEST(Text, JsonTakesWellFormedUtf8Only) {
    for (const std::string good :
         {"\xc3\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xe2\x82\xac", "\xed\x9f\xbf", "\xee\x80\x80",
          "\xf0\x90\x80\x80", "\xf1\x80\x80\x80", "\xf4\x8f\xbf\xbf"})
        EXPECT_EQ(json_quote(good), '"' + good + '"');
    for (const std::string bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80",
                                  "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80"}) {
        std::string escaped;
        for (const char byte : bad) {
            char text[8];
            std::snprintf(text, sizeof text, "\\u%04x", static_cast<unsigned char>(byte));
            escaped += text;
        }
        EXPECT_EQ(json_quote(bad), '"' + escaped + '"');
    }
    // A byte is missing, and the one behind the text is not ours.
    EXPECT_EQ(json_quote(std::string_view("\xe2\x82\xac", 2)), "\"\\u00e2\\u0082\"");
    EXPECT_EQ(json_quote("\xe2\x82("), "\"\\u00e2\\u0082(\"");
    EXPECT_EQ(json_quote("\xf0\x9f\x98("), "\"\\u00f0\\u009f\\u0098(\"");
}

TEST(Text, EditDistanceCountsNeighbourSwapAsOne) {
    EXPECT_EQ(edit_distance("workers", "wrokers"), 1u);
    EXPECT_EQ(edit_distance("worker", "workers"), 1u);
    EXPECT_EQ(edit_distance("bind", "user"), 4u);
}

TEST(Clock, HttpDateIsImfFixdate) {
    char text[kHttpDateSize];
    format_http_date(784111777, text);
    EXPECT_EQ(std::string_view(text, kHttpDateSize), "Sun, 06 Nov 1994 08:49:37 GMT");
    EXPECT_EQ(http_date_now().size(), kHttpDateSize);
}

TEST(Clock, GoesOnAfter2038) {
    const auto time = static_cast<std::time_t>(int64_t{4102444800});
    char text[kHttpDateSize];
    format_http_date(time, text);
    EXPECT_EQ(std::string_view(text, kHttpDateSize), "Fri, 01 Jan 2100 00:00:00 GMT");
}

TEST(Result, CarriesValueOrError) {
    const Result<int> good(3);
    EXPECT_TRUE(good.is_ok());
    EXPECT_EQ(*good, 3);
    const Result<int> bad(errno_error(EACCES, "bind 0.0.0.0:80"));
    EXPECT_FALSE(bad.is_ok());
    EXPECT_EQ(bad.message(), "bind 0.0.0.0:80: Permission denied");
    EXPECT_EQ(bad.error().code, EACCES);
}

TEST(Result, ABrokenInvariantIsToldInTheErrorLogToo) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const Fd reader(ends[0]);
    Fd writer(ends[1]);
    last_words_fd = writer.get();
    EXPECT_DEATH(check_failed("file.cpp", 7, "x > 0"),
                 "gcorn .pid:[0-9]+.: file.cpp:7: broken invariant: x > 0");
    last_words_fd = -1;
    char text[100] = {};
    EXPECT_GT(::read(reader.get(), text, sizeof text - 1), 0);
    EXPECT_NE(std::string(text).find("file.cpp:7: broken invariant: x > 0\n"), std::string::npos);
}

TEST(Fd, MoveLeavesNothingBehind) {
    Fd a(::dup(0));
    const int number = a.get();
    Fd b(std::move(a));
    EXPECT_FALSE(a.is_open());
    EXPECT_EQ(b.get(), number);
    b.reset();
    EXPECT_FALSE(b.is_open());
}

}  // namespace
}  // namespace gcorn
