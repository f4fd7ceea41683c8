#include "command_line.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "settings.h"

namespace gcorn {
namespace {

/// Parses a line that must be valid.
CommandLine parsed(const StringList& args) {
    Result<CommandLine> line = parse_command_line(args);
    EXPECT_TRUE(line.is_ok()) << (line ? "" : line.message());
    return line ? std::move(*line) : CommandLine{};
}

/// The value that one line gives to one setting, as Python prints it; "absent" if it gives none.
std::string value_in(const StringList& args, std::string_view name) {
    for (const Assignment& assignment : parsed(args).assignments)
        if (assignment.setting->name == name) return value_text(assignment.value);
    return "absent";
}

/// The error message of a line that must be invalid, after its code.
std::string error_of(const StringList& args) {
    const Result<CommandLine> line = parse_command_line(args);
    if (line) return "accepted";
    return std::to_string(line.error().code) + " " + line.message();
}

TEST(CommandLine, ReadsEveryFormOfAValue) {
    for (const StringList& args : {StringList{"-w4"}, StringList{"-w", "4"}, StringList{"-w=4"},
                                   StringList{"--workers", "4"}, StringList{"--workers=4"}})
        EXPECT_EQ(value_in(args, "workers"), "4") << args[0];
    EXPECT_EQ(value_in({"-b=:80"}, "bind"), "[':80']");
    EXPECT_EQ(value_in({"-b", ""}, "bind"), "['']") << "an empty word is a value";
    EXPECT_EQ(value_in({"--access-logfile", "-"}, "accesslog"), "-");
    EXPECT_EQ(value_in({"--name=a=b"}, "proc_name"), "a=b");
}

TEST(CommandLine, ReadsClustersOfShortSwitches) {
    EXPECT_EQ(value_in({"-DR"}, "daemon"), "True");
    EXPECT_EQ(value_in({"-DR"}, "enable_stdio_inheritance"), "True");
    EXPECT_EQ(value_in({"-Dw4"}, "workers"), "4");
    EXPECT_EQ(value_in({"-Dw=4"}, "workers"), "4");
    EXPECT_EQ(value_in({"-DRw", "4"}, "workers"), "4");
    EXPECT_EQ(error_of({"-Dx"}), "2 argument -D/--daemon: ignored explicit argument 'x'");
}

TEST(CommandLine, RefusesAValueGivenToASwitch) {
    EXPECT_EQ(error_of({"--reload=1"}), "2 argument --reload: ignored explicit argument '1'");
    EXPECT_EQ(error_of({"--reload="}), "2 argument --reload: ignored explicit argument ''");
}

TEST(CommandLine, TakesUniquePrefixes) {
    EXPECT_EQ(value_in({"--thread", "2"}, "threads"), "2");
    EXPECT_EQ(value_in({"--thread=2"}, "threads"), "2");
    EXPECT_EQ(value_in({"--preloa"}, "preload_app"), "True");
}

TEST(CommandLine, ExactNamesWinOverLongerOnes) {
    EXPECT_EQ(value_in({"--reload"}, "reload"), "True");
    EXPECT_EQ(value_in({"--log-config", "x"}, "logconfig"), "x");
}

TEST(CommandLine, ListsTheCandidatesOfAnAmbiguousPrefix) {
    EXPECT_EQ(error_of({"--worker", "2"}),
              "2 ambiguous option: --worker could match --workers, --worker-class, "
              "--worker-connections, --worker-tmp-dir");
    EXPECT_EQ(error_of({"--limit-request-f=1"}),
              "2 ambiguous option: --limit-request-f could match --limit-request-fields, "
              "--limit-request-field_size, --limit-request-field-size");
}

TEST(CommandLine, TakesBothSpellingsOfTheFieldSizeLimit) {
    for (const char* flag : {"--limit-request-field_size", "--limit-request-field-size"})
        EXPECT_EQ(value_in({flag, "100"}, "limit_request_field_size"), "100") << flag;
}

TEST(CommandLine, FindsTheApplicationAnywhere) {
    for (const StringList& args :
         {StringList{"app:app", "-w", "2"}, StringList{"-w", "2", "app:app"},
          StringList{"-w", "2", "app:app", "--reload"}, StringList{"-w2", "--", "app:app"}}) {
        const CommandLine line = parsed(args);
        EXPECT_EQ(line.app, "app:app");
        EXPECT_TRUE(line.extra_words.empty());
    }
}

TEST(CommandLine, KeepsFurtherWordsApart) {
    const CommandLine line = parsed({"app:app", "more", "-w2", "words"});
    EXPECT_EQ(line.app, "app:app");
    EXPECT_EQ(line.extra_words, (StringList{"more", "words"}));
}

TEST(CommandLine, EndsOptionsAtDoubleDash) {
    const CommandLine line = parsed({"--", "-w", "--help"});
    EXPECT_EQ(line.app, "-w");
    EXPECT_FALSE(line.help);
    EXPECT_EQ(parsed({"--", "--"}).app, "--");
    EXPECT_EQ(error_of({"-w", "--", "4"}), "2 argument -w/--workers: expected one argument");
}

TEST(CommandLine, TakesNegativeNumbersForValues) {
    EXPECT_EQ(value_in({"-w", "-1"}, "workers"), "-1");
    EXPECT_EQ(error_of({"-w", "-1.5"}),
              "2 argument -w/--workers: invalid int value: '-1.5' (allowed: an integer from 0 to "
              "2147483647)");
    EXPECT_EQ(parsed({"-5"}).app, "-5");
    EXPECT_EQ(parsed({"-.5"}).app, "-.5");
    for (const char* none : {"-5.", "-1.2.3", "-."})
        EXPECT_EQ(error_of({none}), "2 unrecognized arguments: " + std::string(none));
    EXPECT_EQ(error_of({"-w", "-x"}), "2 argument -w/--workers: expected one argument");
    EXPECT_EQ(error_of({"-w", "--work"}), "2 argument -w/--workers: expected one argument");
}

TEST(CommandLine, TakesIntegersInDecimalOnly) {
    EXPECT_EQ(value_in({"-w", "007"}, "workers"), "7");
    EXPECT_EQ(value_in({"-w", " +7 "}, "workers"), "7");
    for (const char* bad : {"0x4", "4.0", "four", "", "4 2", "+-4", "9223372036854775808"})
        EXPECT_EQ(error_of({"-w", bad}), "2 argument -w/--workers: invalid int value: '" +
                                             std::string(bad) +
                                             "' (allowed: an integer from 0 to 2147483647)");
}

TEST(CommandLine, TakesTheUmaskInOctalToo) {
    for (const char* same : {"18", "022", "0o22", "0x12", "0b10010"})
        EXPECT_EQ(value_in({"-m", same}, "umask"), "18") << same;
    EXPECT_EQ(value_in({"-m", "0"}, "umask"), "0");
    EXPECT_EQ(error_of({"-m", "09"}),
              "2 argument -m/--umask: invalid int value: '09' (allowed: 0 to 0777)");
}

TEST(CommandLine, AddsUpRepeatableOptionsOnly) {
    EXPECT_EQ(value_in({"-b", ":1", "--bind=:2", "-b:3"}, "bind"), "[':1', ':2', ':3']");
    EXPECT_EQ(value_in({"-e", "A=1", "-e", "B=2"}, "raw_env"), "['A=1', 'B=2']");
    EXPECT_EQ(value_in({"-w1", "-w2"}, "workers"), "2") << "the last one wins";
    EXPECT_EQ(value_in({"--forwarder-headers", "A,B"}, "forwarder_headers"), "A,B");
}

TEST(CommandLine, DoesNotSplitBindAtCommas) {
    EXPECT_EQ(value_in({"-b", "a:1,b:2"}, "bind"), "['a:1,b:2']");
}

TEST(CommandLine, LetsProxyProtocolStandAlone) {
    EXPECT_EQ(value_in({"--proxy-protocol"}, "proxy_protocol"), "auto");
    EXPECT_EQ(value_in({"--proxy-protocol", "-w2"}, "proxy_protocol"), "auto");
    EXPECT_EQ(value_in({"--proxy-protocol", "v1"}, "proxy_protocol"), "v1");
    EXPECT_EQ(value_in({"--proxy-protocol=off"}, "proxy_protocol"), "off");
    EXPECT_EQ(value_in({"--proxy-protocol", "app:app"}, "proxy_protocol"), "app:app")
        << "as in gunicorn: the application is refused later as a mode";
}

TEST(CommandLine, TurnsSendfileOff) {
    EXPECT_EQ(value_in({"--no-sendfile"}, "sendfile"), "False");
}

TEST(CommandLine, StopsAtHelpAndVersion) {
    EXPECT_TRUE(parsed({"-h", "--nonsense"}).help);
    EXPECT_TRUE(parsed({"--nonsense", "-h"}).help);
    EXPECT_TRUE(parsed({"--nonsense", "-v"}).version);
    EXPECT_TRUE(parsed({"--help"}).help);
    EXPECT_TRUE(parsed({"-v"}).version);
    EXPECT_TRUE(parsed({"app:app", "-Dv", "-w"}).version);
    EXPECT_FALSE(parsed({"-v"}).help);
}

TEST(CommandLine, KnowsTheFormsOfHelp) {
    EXPECT_EQ(parsed({"--help=markdown"}).help_form, "markdown");
    EXPECT_EQ(parsed({"-h"}).help_form, "");
    EXPECT_EQ(
        error_of({"--help=csv"}),
        "2 argument --help: invalid choice: 'csv' (choose from markdown, man, bash, zsh, fish)");
}

TEST(CommandLine, SuggestsTheOptionThatWasMeant) {
    EXPECT_EQ(error_of({"--wrokers", "4"}),
              "2 unrecognized arguments: --wrokers (did you mean --workers?)");
    EXPECT_EQ(error_of({"--binds=:80"}),
              "2 unrecognized arguments: --binds=:80 (did you mean --bind?)");
    EXPECT_EQ(error_of({"--backlgx"}),
              "2 unrecognized arguments: --backlgx (did you mean --backlog?)");
    EXPECT_EQ(error_of({"--zzz", "-X"}), "2 unrecognized arguments: --zzz -X");
    EXPECT_EQ(error_of({"-X"}), "2 unrecognized arguments: -X");
}

TEST(CommandLine, TakesAWordWithABlankForAWord) {
    EXPECT_EQ(value_in({"-n", "-xy server"}, "proc_name"), "-xy server");
    EXPECT_EQ(parsed({"--no such option"}).app, "--no such option");
}

TEST(CommandLine, AcceptsTheSwitchThatContainerImagesPass) {
    EXPECT_EQ(parsed({"--no-control-socket", "app:app"}).app, "app:app");
}

TEST(CommandLine, ReadsEveryFlagOfTheTable) {
    for (const Setting& setting : settings()) {
        if (setting.flags.empty() || !setting.refused.empty()) continue;
        std::string_view flags = setting.flags;
        while (!flags.empty()) {
            const std::string flag(flags.substr(0, flags.find(' ')));
            flags.remove_prefix(std::min(flags.size(), flag.size() + 1));
            const StringList args = setting.is_switch() ? StringList{flag} : StringList{flag, "1"};
            EXPECT_NE(value_in(args, setting.name), "absent") << flag;
        }
    }
}

TEST(CommandLine, FindsTheTextOfOneSetting) {
    const CommandLine line = parsed({"-c", "conf.py", "-w2"});
    ASSERT_NE(line.text_of("config"), nullptr);
    EXPECT_EQ(*line.text_of("config"), "conf.py");
    EXPECT_EQ(line.text_of("chdir"), nullptr);
    EXPECT_EQ(line.text_of("workers"), nullptr) << "not a text";
}

TEST(CommandLine, PrintsErrorsAsGunicornDoes) {
    EXPECT_EQ(startup_error_text(Error{kExitUsageError, "bad"}),
              "usage: gcorn [OPTIONS] [APP_MODULE]\ngcorn: error: bad\n");
    EXPECT_EQ(startup_error_text(Error{kExitConfigError, "bad"}), "\nError: bad\n");
}

StringList words_of(std::string_view text) {
    const Result<StringList> words = split_shell_words(text);
    return words ? *words : StringList{"error: " + words.message()};
}

TEST(ShellWords, SplitAtBlanks) {
    EXPECT_EQ(words_of(""), StringList{});
    EXPECT_EQ(words_of(" \t\r\n"), StringList{});
    EXPECT_EQ(words_of("-w 4\t--reload\n"), (StringList{"-w", "4", "--reload"}));
}

TEST(ShellWords, KeepQuotedTextTogether) {
    EXPECT_EQ(words_of("'a b' \"c d\"e"), (StringList{"a b", "c de"}));
    EXPECT_EQ(words_of("'' \"\""), (StringList{"", ""}));
    EXPECT_EQ(words_of(R"(--name='it"s' "it's")"), (StringList{"--name=it\"s", "it's"}));
    EXPECT_EQ(words_of("# no comment"), (StringList{"#", "no", "comment"}));
}

TEST(ShellWords, ResolveBackslashes) {
    EXPECT_EQ(words_of(R"(a\ b \\ \'c)"), (StringList{"a b", "\\", "'c"}));
    EXPECT_EQ(words_of(R"("a\"b\\c\d")"), (StringList{R"(a"b\c\d)"}));
    EXPECT_EQ(words_of(R"('a\')"), (StringList{"a\\"}));
    EXPECT_EQ(words_of(R"('a\\b\"c')"), (StringList{R"(a\\b\"c)"}));
}

TEST(ShellWords, RefuseUnfinishedText) {
    EXPECT_EQ(words_of("a 'b"), StringList{"error: No closing quotation"});
    EXPECT_EQ(words_of("\"a\\\""), StringList{"error: No closing quotation"});
    EXPECT_EQ(words_of("a\\"), StringList{"error: No escaped character"});
}

}  // namespace
}  // namespace gcorn
