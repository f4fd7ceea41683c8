#include "config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "command_line.h"
#include "tests/support/apply.h"

namespace gcorn {
namespace {

/// Applies one value to fresh settings: how it reads back, or "error: <sentence>".
std::string applied(std::string_view name, const Value& value) {
    Config cfg;
    const Status status = testing::apply(cfg, name, value);
    return status ? value_text(field_value(cfg, *find_setting(name)))
                  : "error: " + status.message();
}

HookRef hook(std::string name) {
    return HookRef{std::make_shared<int>(1), std::move(name)};
}

// ------------------------------------------------------------------------------------ values

TEST(Values, PrintAsPythonPrintsThem) {
    EXPECT_EQ(value_text(Value{}), "None");
    EXPECT_EQ(value_text(true), "True");
    EXPECT_EQ(value_text(int64_t{-4}), "-4");
    EXPECT_EQ(value_text(std::string("it's")), "it's");
    EXPECT_EQ(value_text(StringList{"a", "it's", "\"it's\"", "back\\", "two\nlines"}),
              R"(['a', "it's", '"it\'s"', 'back\\', 'two\nlines'])");
    EXPECT_EQ(value_text(StringList{}), "[]");
    EXPECT_EQ(value_text(StringMap{{"A", "1"}, {"B", "2"}}), "{'A': '1', 'B': '2'}");
    EXPECT_EQ(value_text(hook("post_fork()")), "<post_fork()>");
    EXPECT_EQ(value_text(HookRef{nullptr, "pkg.Logger"}), "pkg.Logger");
    EXPECT_EQ(value_text(OtherValue{"module", "<module 'syslog'>"}), "<module 'syslog'>");
}

TEST(Values, ReadIntegersAsPythonDoes) {
    EXPECT_EQ(parse_python_int(" 42 ", 0), 42);
    EXPECT_EQ(parse_python_int("-0x1F", 0), -31);
    EXPECT_EQ(parse_python_int("0o17", 0), 15);
    EXPECT_EQ(parse_python_int("0B101", 0), 5);
    EXPECT_EQ(parse_python_int("00", 0), 0);
    EXPECT_EQ(parse_python_int("022", 8), 18);
    EXPECT_EQ(parse_python_int("9223372036854775807", 0), INT64_MAX);
    for (const char* bad : {"", "-", "022", "0x", "1.0", "1 2", "--1", "9223372036854775808"})
        EXPECT_FALSE(parse_python_int(bad, 0)) << bad;
    EXPECT_FALSE(parse_python_int("08", 8));
}

// -------------------------------------------------------------------------------------- casts

TEST(ConfigCasts, IntegersTakeIntegersBoolsAndTexts) {
    EXPECT_EQ(applied("workers", int64_t{0}), "0") << "no workers at all is allowed";
    EXPECT_EQ(applied("workers", int64_t{7}), "7");
    EXPECT_EQ(applied("workers", true), "1");
    EXPECT_EQ(applied("workers", std::string("0x4")), "4");
}

TEST(ConfigCasts, IntegersRefuseEverythingElse) {
    const std::string tail = " (workers; allowed: an integer from 0 to 2147483647)";
    EXPECT_EQ(applied("workers", int64_t{-1}), "error: Value must be positive: -1" + tail);
    EXPECT_EQ(applied("workers", OtherValue{"float", "2.0"}), "error: Not an integer: 2.0" + tail);
    EXPECT_EQ(applied("workers", Value{}), "error: Not an integer: None" + tail);
    EXPECT_EQ(applied("workers", std::string("four")), "error: Not an integer: four" + tail);
    EXPECT_EQ(applied("workers", StringList{"4"}), "error: Not an integer: ['4']" + tail);
}

TEST(ConfigCasts, ATimeoutOfTwoAndAHalfIsAnError) {
    EXPECT_EQ(applied("timeout", OtherValue{"float", "2.5"}).substr(0, 26),
              "error: Not an integer: 2.5");
}

TEST(ConfigCasts, IntegersHaveAnUpperLimit) {
    EXPECT_EQ(applied("backlog", int64_t{INT32_MAX}), "2147483647");
    EXPECT_EQ(applied("backlog", int64_t{INT32_MAX} + 1).substr(0, 42),
              "error: Value must be at most 2147483647: 2");
    EXPECT_EQ(applied("limit_request_body", int64_t{INT64_MAX}), "9223372036854775807");
    EXPECT_EQ(applied("umask", int64_t{0777}), "511");
    EXPECT_EQ(applied("umask", int64_t{01000}),
              "error: Value must be at most 0777: 01000 (umask; allowed: 0 to 0777)");
    EXPECT_EQ(applied("umask", std::string("022")), "18");
    EXPECT_EQ(applied("cert_reqs", int64_t{2}), "2");
    EXPECT_EQ(applied("cert_reqs", int64_t{3}),
              "error: Value must be at most 2: 3 (cert_reqs; allowed: 0, 1 or 2)");
}

TEST(ConfigCasts, BoolsTakeBoolsNoneAndTheirNames) {
    EXPECT_EQ(applied("reload", true), "True");
    EXPECT_EQ(applied("reload", std::string("TRUE ")), "True");
    EXPECT_EQ(applied("suppress_ragged_eofs", std::string("false")), "False");
    EXPECT_EQ(applied("suppress_ragged_eofs", Value{}), "False");
}

TEST(ConfigCasts, BoolsRefuseEverythingElse) {
    const std::string tail = " (reload; allowed: True or False)";
    EXPECT_EQ(applied("reload", int64_t{1}), "error: Invalid type for casting: 1" + tail);
    EXPECT_EQ(applied("reload", std::string("yes")), "error: Invalid boolean: yes" + tail);
    EXPECT_EQ(applied("reload", OtherValue{"module", "<module>"}),
              "error: Invalid type for casting: <module>" + tail);
}

TEST(ConfigCasts, SendfileHasThreeStatesAndTrueMeansOn) {
    Config cfg;
    EXPECT_FALSE(cfg.sendfile.has_value());
    ASSERT_TRUE(testing::apply(cfg, "sendfile", true));
    EXPECT_EQ(cfg.sendfile, true);
    ASSERT_TRUE(testing::apply(cfg, "sendfile", false));
    EXPECT_EQ(cfg.sendfile, false);
    ASSERT_TRUE(testing::apply(cfg, "sendfile", Value{}));
    EXPECT_FALSE(cfg.sendfile.has_value());
}

TEST(ConfigCasts, TextsAreTrimmedAndMayBeNone) {
    EXPECT_EQ(applied("proc_name", std::string("  shop\n")), "shop");
    EXPECT_EQ(applied("pidfile", Value{}), "None");
    EXPECT_EQ(applied("pidfile", int64_t{5}),
              "error: Not a string: 5 (pidfile; allowed: a string)");
    EXPECT_EQ(applied("pidfile", hook("pidfile()")),
              "error: Not a string: <pidfile()> (pidfile; allowed: a string)");
    EXPECT_EQ(applied("proxy_protocol", int64_t{1}), "auto");
    EXPECT_EQ(applied("statsd_host", std::string()), "None");
    EXPECT_EQ(applied("paste", std::string()), "None");
    EXPECT_EQ(applied("paste", std::string("/")).substr(0, 20), "error: '/' not found");
    EXPECT_EQ(applied("logger_class", std::string("gunicorn.instrument.statsd.Statsd")), "None");
    EXPECT_EQ(applied("worker_class", std::string("my.uvicorn.Worker")).substr(0, 60),
              "error: worker class 'my.uvicorn.Worker' is for ASGI applicat");
    EXPECT_EQ(applied("errorlog", Value{}), "") << "no error log at all";
    EXPECT_EQ(applied("errorlog", Value(" ")),
              "error: '' isn't writable (errorlog; allowed: a file, or - for stderr)");
    EXPECT_EQ(applied("accesslog", Value("")),
              "error: '' isn't writable (accesslog; allowed: a file, or - for stdout)");
}

TEST(ConfigCasts, ListsTakeListsAndOneText) {
    EXPECT_EQ(applied("bind", StringList{" :1", ":2"}), "[':1', ':2']");
    EXPECT_EQ(applied("bind", std::string(":1")), "[':1']");
    EXPECT_EQ(applied("bind", StringList{}), "[]");
    for (const Value& falsy :
         {Value{}, Value{false}, Value{int64_t{0}}, Value{std::string()}, Value{StringMap{}}})
        EXPECT_EQ(applied("raw_env", falsy), "[]");
    EXPECT_EQ(applied("raw_env", OtherValue{"list", "['A=1', 2]"}),
              "error: Not a string: ['A=1', 2] (raw_env; allowed: KEY=VALUE)");
    EXPECT_EQ(applied("raw_env", int64_t{1}),
              "error: Not a string: 1 (raw_env; allowed: KEY=VALUE)");
}

TEST(ConfigCasts, CommaTextsAreSplitAndCapitalised) {
    EXPECT_EQ(applied("forwarder_headers", std::string(" script_name, ,Remote_User ")),
              "['SCRIPT_NAME', 'REMOTE_USER']");
    EXPECT_EQ(applied("forwarder_headers", Value{}), "[]");
    EXPECT_EQ(applied("forwarder_headers", StringList{"A", "B"}),
              "error: Not a string: ['A', 'B'] (forwarder_headers; allowed: a string)");
}

TEST(ConfigCasts, DictionariesTakeDictionaries) {
    EXPECT_EQ(applied("secure_scheme_headers", StringMap{{"X-SSL", "1"}}), "{'X-SSL': '1'}");
    EXPECT_EQ(
        applied("secure_scheme_headers", StringMap{{"X-SSL", std::string(1, '\0')}}),
        "error: NUL byte in '\\x00' (secure_scheme_headers; allowed: a dictionary of strings)");
    EXPECT_EQ(
        applied("secure_scheme_headers", std::string("X")),
        "error: Value is not a dictionary: X (secure_scheme_headers; allowed: a dictionary of "
        "strings)");
}

TEST(ConfigCasts, HooksTakeFunctionsAndDottedNames) {
    EXPECT_EQ(applied("post_fork", hook("post_fork()")), "<post_fork()>");
    EXPECT_EQ(applied("post_fork", std::string(" pkg.hooks.post_fork ")), "pkg.hooks.post_fork");
    EXPECT_EQ(
        applied("post_fork", int64_t{1}),
        "error: Value is not callable: 1 (post_fork; allowed: a function, or its dotted name)");
    EXPECT_EQ(applied("post_fork", Value{}).substr(0, 35), "error: Value is not callable: None ");
}

TEST(ConfigCasts, LogConfigDictTakesAnObjectOnly) {
    EXPECT_EQ(applied("logconfig_dict", hook("dict")), "<dict>");
    EXPECT_EQ(applied("logconfig_dict", Value{}), "None");
    EXPECT_EQ(applied("logconfig_dict", StringMap{}), "None");
    EXPECT_EQ(applied("logconfig_dict", std::string("x")),
              "error: Value is not a dictionary: x (logconfig_dict; allowed: a dictionary)");
}

TEST(ConfigCasts, ARefusedValueChangesNothingAndNamesItsSource) {
    Config cfg;
    const Status status = testing::apply(cfg, "workers", int64_t{-1}, "app.conf.py");
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, kExitConfigError);
    EXPECT_EQ(
        status.message(),
        "Value must be positive: -1 (workers, from app.conf.py; allowed: an integer from 0 to "
        "2147483647)");
    EXPECT_EQ(cfg.workers, 1);
}

TEST(ConfigCasts, OutOfScopeSettingsMayHaveTheDefaultThatAsksForNothing) {
    EXPECT_EQ(applied("asgi_loop", std::string("auto")), "None");
    EXPECT_EQ(applied("http_protocols", std::string("h1")), "None");
    EXPECT_EQ(applied("http2_cleartext", false), "None");
    EXPECT_EQ(applied("http2_max_frame_size", int64_t{16384}), "None");
    EXPECT_EQ(applied("dirty_workers", int64_t{0}), "None");
    EXPECT_EQ(applied("dirty_apps", StringList{}), "None");
    EXPECT_EQ(applied("root_path", std::string()), "None");
    EXPECT_EQ(applied("http_parser", std::string("fast")), "None");
}

TEST(ConfigCasts, ATlsVersionMayBeNamed) {
    EXPECT_EQ(applied("ssl_version", std::string("TLSv1_2")), "TLSv1_2");
    EXPECT_EQ(applied("ssl_version", int64_t{17}), "17");
}

TEST(ConfigCasts, OutOfScopeSettingsAreRefusedWithTheirReason) {
    EXPECT_EQ(applied("dirty_apps", StringList{"x"}),
              "error: dirty_apps cannot be set: gcorn has no dirty workers; use a task queue");
    EXPECT_EQ(applied("asgi_loop", Value{}),
              "error: asgi_loop cannot be set: gcorn serves WSGI applications, not ASGI");
    EXPECT_EQ(applied("asgi_loop", std::string("uvloop")),
              "error: asgi_loop cannot be set: gcorn serves WSGI applications, not ASGI");
    EXPECT_EQ(applied("dirty_workers", int64_t{1}),
              "error: dirty_workers cannot be set: gcorn has no dirty workers; use a task queue");
    EXPECT_EQ(applied("control_socket_disable", true), "None") << "accepted, nothing to remember";
    EXPECT_EQ(applied("control_socket_disable", false),
              "error: Value is False: gcorn has no control socket; it is controlled by signals "
              "(control_socket_disable; allowed: True)");
    EXPECT_EQ(applied("protocol", std::string("http")), "None");
    EXPECT_EQ(
        applied("protocol", std::string("uwsgi")),
        "error: gcorn does not speak the uwsgi protocol: use proxy_pass instead of uwsgi_pass "
        "(protocol; allowed: http)");
}

TEST(ConfigCasts, NearestSettingIsOneEditAway) {
    EXPECT_EQ(nearest_setting("worker"), "workers");
    EXPECT_EQ(nearest_setting("time_out"), "timeout");
    EXPECT_EQ(nearest_setting("post_frok"), "post_fork");
    EXPECT_EQ(nearest_setting("preload"), "preload_app") << "its option, not reload";
    EXPECT_EQ(nearest_setting("asgi_lop"), "") << "that is refused, too";
    EXPECT_EQ(nearest_setting("WORKERS"), "");
    EXPECT_EQ(nearest_setting("bin"), "") << "too short to tell";
    EXPECT_EQ(nearest_setting("wrkr"), "");
}

// ------------------------------------------------------------------------------------ sources

/// A machine without surprises: only these variables.
struct FakeMachine {
    std::map<std::string, std::string> variables;

    [[nodiscard]] Surroundings surroundings() const {
        Environment environment;
        for (const auto& [name, value] : variables)
            environment.push_back(name + "=" + value);
        return {environment, "/"};
    }
};

using Names = std::vector<std::pair<std::string, Value>>;

struct Sources {
    FakeMachine machine;
    Names file;
    StringList environment_arguments;
    StringList arguments = {"app:app"};
};

/// Runs the resolver over all four sources, as the server does.
Result<ResolvedConfig> resolve(const Sources& sources) {
    const auto environment = parse_command_line(sources.environment_arguments);
    if (!environment) return environment.error();
    const auto line = parse_command_line(sources.arguments);
    if (!line) return line.error();
    ConfigBuilder builder(sources.machine.surroundings());
    builder.apply_environment();
    if (Status status = builder.apply_file("./gunicorn.conf.py", sources.file); !status)
        return status.error();
    if (Status status = builder.apply_arguments(*line, *environment); !status)
        return status.error();
    return builder.finish();
}

ResolvedConfig resolved(const Sources& sources) {
    Result<ResolvedConfig> result = resolve(sources);
    EXPECT_TRUE(result.is_ok()) << (result ? "" : result.message());
    return result ? std::move(*result) : ResolvedConfig{};
}

std::string error_of(const Sources& sources) {
    const Result<ResolvedConfig> result = resolve(sources);
    return result ? "accepted" : std::to_string(result.error().code) + " " + result.message();
}

bool has_notice(const ResolvedConfig& result, std::string_view part) {
    return std::ranges::any_of(result.notices, [&](const std::string& notice) {
        return notice.find(part) != std::string::npos;
    });
}

TEST(ConfigSources, MustNameAnAddressUnlessSocketsAreGiven) {
    Sources sources;
    sources.file = {{"bind", StringList{}}};
    EXPECT_EQ(error_of(sources),
              "1 there is no address to listen on (bind, from ./gunicorn.conf.py; allowed: HOST, "
              "HOST:PORT, :PORT, [IPV6]:PORT, unix:PATH or fd://N)");
    sources.machine.variables["LISTEN_FDS"] = "1";
    EXPECT_EQ(error_of(sources), "accepted");
    sources.machine.variables.clear();
    sources.arguments = {"app:app", "-b", ":8001"};
    EXPECT_EQ(error_of(sources), "accepted");
}

TEST(ConfigSources, EachReplacesTheOneBelow) {
    Sources sources;
    const auto workers = [&] { return resolved(sources).config.workers; };
    EXPECT_EQ(workers(), 1);
    sources.machine.variables["WEB_CONCURRENCY"] = "2";
    EXPECT_EQ(workers(), 2);
    sources.file = {{"workers", int64_t{3}}};
    EXPECT_EQ(workers(), 3);
    sources.environment_arguments = {"-w", "4"};
    EXPECT_EQ(workers(), 4);
    sources.arguments = {"-w5", "app:app"};
    EXPECT_EQ(workers(), 5);
}

TEST(ConfigSources, AHigherListReplacesTheWholeLowerOne) {
    Sources sources;
    sources.file = {{"bind", StringList{":1", ":2"}}};
    sources.environment_arguments = {"-b", ":3", "-b", ":4"};
    EXPECT_EQ(resolved(sources).config.bind, (StringList{":3", ":4"}));
    sources.arguments = {"app:app", "-b", ":5"};
    EXPECT_EQ(resolved(sources).config.bind, StringList{":5"});
}

TEST(ConfigSources, AreRememberedForEachSetting) {
    Sources sources;
    sources.machine.variables["PORT"] = "80";
    sources.file = {{"workers", int64_t{3}}};
    sources.environment_arguments = {"--threads", "4"};
    sources.arguments = {"-t5", "app:app"};
    const ResolvedConfig result = resolved(sources);
    EXPECT_EQ(result.sources.at("bind"), "environment PORT");
    EXPECT_EQ(result.sources.at("workers"), "./gunicorn.conf.py");
    EXPECT_EQ(result.sources.at("wsgi_app"), "command line");
    EXPECT_EQ(result.config.config, "./gunicorn.conf.py");
    EXPECT_EQ(result.sources.at("threads"), "GUNICORN_CMD_ARGS");
    EXPECT_EQ(result.sources.at("timeout"), "command line");
    EXPECT_EQ(result.sources.at("config"), "found in the start directory");
    EXPECT_FALSE(result.sources.contains("backlog"));
}

TEST(ConfigSources, PortSetsTheDefaultBind) {
    Sources sources;
    sources.machine.variables["PORT"] = "9000";
    EXPECT_EQ(resolved(sources).config.bind, StringList{"0.0.0.0:9000"});
    sources.machine.variables["PORT"] = "";
    EXPECT_EQ(error_of(sources).substr(0, 2), "1 ") << "an empty PORT counts as set";
}

TEST(ConfigSources, ABadVariableMattersOnlyIfNothingReplacesIt) {
    Sources sources;
    sources.machine.variables = {{"PORT", "tcp://10.0.0.1:80"}, {"WEB_CONCURRENCY", "-3"}};
    sources.arguments = {"app:app", "-b", ":80"};
    EXPECT_EQ(
        error_of(sources),
        "1 Value must be positive: -3 (workers, from environment WEB_CONCURRENCY; allowed: an "
        "integer from 0 to 2147483647)");
    sources.arguments = {"app:app", "-b", ":80", "-w2"};
    EXPECT_EQ(resolved(sources).config.workers, 2);
}

TEST(ConfigSources, ForwardedAllowIpsAndSendfileHaveVariables) {
    Sources sources;
    sources.machine.variables = {{"FORWARDED_ALLOW_IPS", "*"}, {"SENDFILE", "Yes"}};
    EXPECT_EQ(resolved(sources).config.forwarded_allow_ips, "*");
    EXPECT_EQ(resolved(sources).config.sendfile, true);
    sources.machine.variables["SENDFILE"] = "1";
    EXPECT_EQ(resolved(sources).config.sendfile, true);
    sources.machine.variables["SENDFILE"] = "off";
    EXPECT_EQ(resolved(sources).config.sendfile, false);
}

TEST(ConfigSources, FileErrorsNameTheFile) {
    Sources sources;
    sources.file = {{"reload_engine", std::string("fast")}};
    EXPECT_EQ(error_of(sources),
              "1 Invalid reload_engine: 'fast' (reload_engine, from ./gunicorn.conf.py; allowed: "
              "auto, poll, inotify)");
}

TEST(ConfigSources, ImportsNamedLikeASettingAreTakenForIt) {
    Sources sources;
    sources.file = {{"syslog", OtherValue{"module", "<module 'syslog'>"}}};
    EXPECT_EQ(error_of(sources).substr(0, 52),
              "1 Invalid type for casting: <module 'syslog'> (syslo");
}

TEST(ConfigSources, UnknownNamesInAFileAreIgnoredNearMissesTold) {
    Sources sources;
    sources.file = {{"helper", hook("helper()")},
                    {"worker", int64_t{4}},
                    {"bindd", OtherValue{"module", "<module 'bindd'>"}},
                    {"Config", hook("decouple.Config")},
                    {"threadss", int64_t{2}},
                    {"threads", int64_t{3}}};
    const ResolvedConfig result = resolved(sources);
    EXPECT_EQ(result.config.workers, 1);
    EXPECT_EQ(result.notices,
              StringList{
                  "./gunicorn.conf.py sets worker, which is not a setting; did you mean workers?"});
    sources.file = {{"on_exitt", hook("on_exitt()")}};
    EXPECT_EQ(
        resolved(sources).notices,
        StringList{
            "./gunicorn.conf.py sets on_exitt, which is not a setting; did you mean on_exit?"});
}

TEST(ConfigSources, PositionalWordWinsOverTheApplicationOfTheFile) {
    Sources sources;
    sources.file = {{"wsgi_app", std::string("file:app")}};
    EXPECT_EQ(resolved(sources).config.wsgi_app, "app:app");
    EXPECT_EQ(resolved(sources).config.default_proc_name, "app:app");
    sources.arguments.clear();
    EXPECT_EQ(resolved(sources).config.wsgi_app, "file:app");
    sources.file.clear();
    EXPECT_EQ(error_of(sources), "1 No application module specified.");
}

TEST(ConfigSources, APasteFileIsAnApplication) {
    Sources sources;
    sources.arguments = {"--paste", "/etc/passwd"};
    EXPECT_EQ(resolved(sources).config.default_proc_name, "/etc/passwd");
    EXPECT_TRUE(resolved(sources).notices.empty());
    sources.file = {{"default_proc_name", std::string("shop")}};
    EXPECT_EQ(resolved(sources).config.default_proc_name, "shop");
}

TEST(ConfigSources, LoggersOfAPasteFileServeIfThereAreNoOthers) {
    const std::string ini = ::testing::TempDir() + "gcorn-loggers-" + std::to_string(::getpid());
    std::ofstream(ini) << "[app:main]\n[loggers] \r\n";
    Sources sources;
    sources.arguments = {"--paste", ini + "#main"};
    const ResolvedConfig found = resolved(sources);
    sources.file = {{"logconfig", std::string("other.ini")}};
    const ResolvedConfig given = resolved(sources);
    ::unlink(ini.c_str());
    EXPECT_EQ(found.config.logconfig, ini);
    EXPECT_EQ(found.sources.at("logconfig"), "[loggers] of the paste file");
    EXPECT_EQ(given.config.logconfig, "other.ini");
}

TEST(ConfigSources, PositionalWordsOfTheVariableAreIgnored) {
    Sources sources;
    sources.environment_arguments = {"env:app"};
    sources.arguments.clear();
    EXPECT_EQ(error_of(sources), "1 No application module specified.");
}

TEST(ConfigSources, ExtraWordsAreIgnoredWithANotice) {
    Sources sources;
    sources.arguments = {"app:app", "x", "y"};
    EXPECT_TRUE(has_notice(resolved(sources), "ignored: x y"));
}

TEST(ConfigSources, SeveralThreadsTurnSyncIntoGthread) {
    Sources sources;
    sources.arguments = {"app:app", "--threads", "1"};
    EXPECT_EQ(resolved(sources).config.worker_class, "sync");
    sources.arguments = {"app:app", "--threads", "2"};
    EXPECT_EQ(resolved(sources).config.worker_class, "gthread");
    EXPECT_EQ(resolved(sources).sources.at("worker_class"), "threads is above 1");
    sources.arguments = {"app:app", "--threads", "2", "-k", "gevent"};
    EXPECT_EQ(resolved(sources).config.worker_class, "gevent");
}

TEST(ConfigSources, OutOfScopeOptionsMayAskForNothing) {
    Sources sources;
    sources.arguments = {"app:app", "--http-protocols", "h1", "--dirty-workers",
                         "0",       "--asgi-loop=auto"};
    EXPECT_TRUE(resolve(sources).is_ok());
    sources.arguments = {"app:app", "--http-protocols", "h2,h1"};
    EXPECT_EQ(error_of(sources),
              "1 http_protocols cannot be set, from command line: gcorn speaks HTTP/1.1; HTTP/2 "
              "belongs to the proxy in front");
}

TEST(ConfigSources, OtherNamesForAChoiceAreTold) {
    Sources sources;
    sources.arguments = {"app:app", "-k", "gevent_pywsgi"};
    EXPECT_EQ(resolved(sources).config.worker_class, "gevent");
    EXPECT_TRUE(
        has_notice(resolved(sources), "worker_class 'gevent_pywsgi' is treated as 'gevent'"));
    sources.arguments = {"app:app", "--log-level", "DEBUG"};
    EXPECT_TRUE(resolved(sources).notices.empty()) << "only the case differs";
    sources.arguments = {"app:app", "--logger-class", "simple"};
    EXPECT_TRUE(resolved(sources).notices.empty()) << "not a choice";
}

TEST(ConfigSources, SettingsWithoutEffectSaySo) {
    Sources sources;
    sources.arguments = {"app:app", "--worker-tmp-dir", "/dev/shm"};
    EXPECT_EQ(resolved(sources).notices,
              StringList{"worker_tmp_dir has no effect: heartbeats are kept in shared memory and "
                         "need no directory"});
    sources.arguments = {"app:app", "--no-control-socket"};
    EXPECT_TRUE(resolved(sources).notices.empty());
}

TEST(ConfigSources, SettingsWithoutThoseTheyNeedSaySo) {
    Sources sources;
    const auto told = [&](std::vector<std::string> words, const std::string& sentence) {
        words.insert(words.begin(), "app:app");
        sources.arguments = words;
        return resolved(sources).notices == StringList{sentence};
    };
    EXPECT_TRUE(told({"--max-requests-jitter", "5"},
                     "max_requests_jitter has no effect while max_requests is 0"));
    EXPECT_TRUE(told({"--initgroups"}, "initgroups has no effect while user is None"));
    EXPECT_TRUE(told({"--casefold-http-method"},
                     "casefold_http_method has no effect while permit_unconventional_http_method "
                     "is False"));
    EXPECT_TRUE(told({"--capture-output"}, "capture_output has no effect while errorlog is -"));
    EXPECT_TRUE(told({"--worker-connections", "0"},
                     "worker_connections is 0: no worker accepts connections"));
    EXPECT_TRUE(told({"--threads", "3", "-k", "gevent"},
                     "threads has no effect while worker_class is gevent"));
    EXPECT_TRUE(
        told({"--paste", "/etc/passwd"}, "wsgi_app has no effect: paste names the application"));
    EXPECT_TRUE(told({"--reload", "--preload"},
                     "reload has no effect: code loaded by preload_app stays until a restart"));
    for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
             {"--max-requests-jitter", "5", "--max-requests", "9"},
             {"--max-requests-jitter", "0"},
             {"--capture-output", "--error-logfile", "log"},
             {"--reload"},
             {"--threads", "3"},
             {"--threads", "3", "-k", "gthread"}}) {
        sources.arguments = words;
        sources.arguments.insert(sources.arguments.begin(), "app:app");
        EXPECT_TRUE(resolved(sources).notices.empty()) << words[0];
    }
}

TEST(ConfigSources, ADirectoryForBodiesMustBeThere) {
    Sources sources;
    sources.file = {{"tmp_upload_dir", std::string("/no/such")}};
    EXPECT_EQ(
        error_of(sources),
        "1 '/no/such' is not a directory (tmp_upload_dir, from ./gunicorn.conf.py; allowed: an "
        "existing directory)");
    sources.file = {{"tmp_upload_dir", std::string("tmp")}};
    EXPECT_EQ(resolved(sources).config.tmp_upload_dir, "tmp") << "from / it is there";
}

TEST(ConfigSources, ChdirIsSeenFromTheStartDirectory) {
    Sources sources;
    EXPECT_EQ(resolved(sources).config.chdir, "/");
    sources.arguments = {"app:app", "--chdir", "usr/../tmp/"};
    EXPECT_EQ(resolved(sources).config.chdir, "/tmp");
    sources.arguments = {"app:app", "--chdir", "no-such-place"};
    EXPECT_EQ(error_of(sources),
              "1 can't chdir to '/no-such-place' (chdir, from command line; allowed: an existing "
              "directory)");
}

TEST(ConfigSources, SpewAndDaemonExcludeEachOther) {
    Sources sources;
    sources.arguments = {"app:app", "--spew", "-D"};
    EXPECT_EQ(error_of(sources),
              "1 spew prints to the terminal, which daemon detaches from: set only one of them");
    sources.arguments = {"app:app", "--spew"};
    EXPECT_TRUE(resolved(sources).config.spew);
}

// -------------------------------------------------------------------------------- config file

class ConfigFileChoice : public ::testing::Test {
protected:
    ~ConfigFileChoice() override { std::filesystem::remove_all(directory_); }

    std::string chosen(const StringList& arguments, const StringList& environment) {
        const auto path = choose_config_file(*parse_command_line(arguments),
                                             *parse_command_line(environment), {{}, directory_});
        return path ? *path : std::to_string(path.error().code) + " " + path.message();
    }

    void write(const std::string& name) { std::ofstream(directory_ + "/" + name) << ""; }

    std::string directory_ = [] {
        std::string path = ::testing::TempDir() + "gcorn-config-XXXXXX";
        return std::string(::mkdtemp(path.data()));
    }();
};

TEST_F(ConfigFileChoice, PrefersTheCommandLine) {
    for (const char* name : {"a.py", "b.py", "gunicorn.conf.py", "gcorn.conf.py"})
        write(name);
    EXPECT_EQ(chosen({"-c", "a.py"}, {"-c", "b.py"}), "a.py");
    EXPECT_EQ(chosen({}, {"-c", "b.py"}), "b.py");
    EXPECT_EQ(chosen({"-c", ""}, {"-c", "b.py"}), "b.py");
    EXPECT_EQ(chosen({}, {}), "./gcorn.conf.py");
    std::filesystem::remove(directory_ + "/gcorn.conf.py");
    EXPECT_EQ(chosen({}, {}), "./gunicorn.conf.py");
    std::filesystem::remove(directory_ + "/gunicorn.conf.py");
    EXPECT_EQ(chosen({}, {}), "");
}

TEST_F(ConfigFileChoice, KnowsThreeForms) {
    write("a.py");
    const std::string path = directory_ + "/a.py";
    EXPECT_EQ(chosen({"-c", "file:" + path}, {}), "file:" + path);
    EXPECT_EQ(chosen({"-c", "python:pkg.conf"}, {}), "python:pkg.conf");
    EXPECT_EQ(chosen({"-c", "./a.py"}, {}), "./a.py");
}

TEST_F(ConfigFileChoice, ANamedFileMustExist) {
    const auto gone = [](const std::string& source) {
        return "1 'gone.py' doesn't exist (config, from " + source +
               "; allowed: an existing file, file:FILE or python:MODULE)";
    };
    write("gunicorn.conf.py");
    EXPECT_EQ(chosen({"-c", "gone.py"}, {}), gone("command line"));
    EXPECT_EQ(chosen({"-c", "file:gone.py"}, {}), gone("command line"));
    EXPECT_EQ(chosen({}, {"-c", "gone.py"}), gone("GUNICORN_CMD_ARGS"));
    EXPECT_EQ(chosen({"-c", "gunicorn.conf.py/x"}, {}),
              "1 'gunicorn.conf.py/x' Not a directory (config, from command line; allowed: an "
              "existing file, file:FILE or python:MODULE)");
}

TEST(Surroundings, OfTheProcessAreTrue) {
    const Surroundings real = Surroundings::of_process();
    EXPECT_EQ(real.start_dir[0], '/');
    EXPECT_EQ(real.variable("GCORN_NO_SUCH_VARIABLE"), std::nullopt);
    EXPECT_EQ(real.variable("PATH").value_or(""), std::getenv("PATH") ? std::getenv("PATH") : "");
}

TEST(Surroundings, OfTheProcessAreThoseOfTheStart) {
    ::setenv("GCORN_TEST_VARIABLE", "start", 1);
    const Surroundings real = Surroundings::of_process();
    ::setenv("GCORN_TEST_VARIABLE", "later", 1);
    ::setenv("GCORN_TEST_LATER", "set", 1);
    EXPECT_EQ(real.variable("GCORN_TEST_VARIABLE"), "start");
    EXPECT_EQ(real.variable("GCORN_TEST_LATER"), std::nullopt);
    ::unsetenv("GCORN_TEST_VARIABLE");
    ::unsetenv("GCORN_TEST_LATER");
}

// ------------------------------------------------------------------------------ reload, options

TEST(ConfigReload, NamesChangesThatNeedARestart) {
    const Config running;
    Config fresh;
    EXPECT_TRUE(undo_restart_only_changes(running, fresh).empty());
    fresh.workers = 9;
    fresh.timeout = 9;
    EXPECT_TRUE(undo_restart_only_changes(running, fresh).empty());
    fresh.daemon = true;
    fresh.preload_app = true;
    EXPECT_EQ(undo_restart_only_changes(running, fresh),
              (std::vector<std::string_view>{"preload_app", "daemon"}));
    EXPECT_FALSE(fresh.daemon || fresh.preload_app);  // the running values stay in force
    EXPECT_EQ(fresh.workers, 9);
}

TEST(ConfigOptions, HttpPolicyCarriesEveryRule) {
    const HttpPolicy defaults = http_policy(Config{}, "");
    EXPECT_EQ(defaults.limit_request_line, HttpPolicy{}.limit_request_line);
    EXPECT_EQ(defaults.limit_request_fields, HttpPolicy{}.limit_request_fields);
    EXPECT_EQ(defaults.limit_request_field_size, HttpPolicy{}.limit_request_field_size);
    EXPECT_EQ(defaults.header_map, HeaderMap::Drop);
    EXPECT_EQ(defaults.forwarder_headers, HttpPolicy{}.forwarder_headers);
    EXPECT_EQ(defaults.secure_scheme_headers.entries().size(), 3u);

    Config cfg;
    for (const auto& [mode, meant] : std::map<std::string, HeaderMap>{
             {"refuse", HeaderMap::Refuse}, {"dangerous", HeaderMap::Dangerous}}) {
        ASSERT_TRUE(testing::apply(cfg, "header_map", mode));
        EXPECT_EQ(http_policy(cfg, "").header_map, meant);
    }
    cfg.secure_scheme_headers = {{"x-ssl", "On"}};
    cfg.limit_request_line = 2;
    cfg.limit_request_fields = 3;
    cfg.limit_request_field_size = 4;
    cfg.limit_request_body = 5;
    cfg.forwarder_headers = {"A_B"};
    cfg.strip_header_spaces = cfg.casefold_http_method = true;
    HttpPolicy policy = http_policy(cfg, "/mount");
    EXPECT_EQ(policy.secure_scheme_headers.entries(),
              (std::vector<SchemeHeaders::Entry>{{"X-SSL", "On"}}));
    EXPECT_EQ(policy.limit_request_line, 2u);
    EXPECT_EQ(policy.limit_request_fields, 3u);
    EXPECT_EQ(policy.limit_request_field_size, 4u);
    EXPECT_EQ(policy.limit_request_body, 5u);
    EXPECT_EQ(policy.forwarder_headers, StringList{"A_B"});
    EXPECT_TRUE(policy.strip_header_spaces && policy.casefold_http_method);
    EXPECT_FALSE(policy.permit_obsolete_folding || policy.permit_unconventional_http_method ||
                 policy.permit_unconventional_http_version);
    EXPECT_EQ(policy.script_name, "/mount");
    cfg.permit_obsolete_folding = cfg.permit_unconventional_http_method =
        cfg.permit_unconventional_http_version = true;
    policy = http_policy(cfg, "");
    EXPECT_TRUE(policy.permit_obsolete_folding && policy.permit_unconventional_http_method &&
                policy.permit_unconventional_http_version);
}

TEST(ConfigOptions, LogOptionsCarryTheLoggingSettings) {
    Config cfg;
    cfg.loglevel = "warning";
    cfg.error_log_format = "json";
    cfg.disable_redirect_access_to_syslog = true;
    cfg.default_proc_name = "app:app";
    cfg.user = "12";
    cfg.errorlog = "errors";
    cfg.accesslog = "accesses";
    cfg.capture_output = cfg.syslog = true;
    cfg.syslog_addr = "udp://log:514";
    cfg.syslog_prefix = "shop";
    cfg.syslog_facility = "local0";
    const Result<LogOptions> options = log_options(cfg);
    ASSERT_TRUE(options.is_ok());
    EXPECT_EQ(options->level, Level::Warning);
    EXPECT_TRUE(options->json);
    EXPECT_FALSE(options->access_to_syslog);
    EXPECT_EQ(options->errorlog, "errors");
    EXPECT_EQ(options->accesslog, "accesses");
    EXPECT_TRUE(options->capture_output && options->syslog);
    EXPECT_EQ(options->syslog_addr, "udp://log:514");
    EXPECT_EQ(options->syslog_prefix, "shop");
    EXPECT_EQ(options->syslog_facility, "local0");
    EXPECT_EQ(options->process_name, "app:app");
    EXPECT_EQ(options->owner_uid, 12);
    EXPECT_EQ(options->owner_gid, -1);
    cfg.group = "13";
    EXPECT_EQ(log_options(cfg)->owner_gid, 13);
    cfg.group = "no-such-group";
    EXPECT_EQ(log_options(cfg).message(), "No such group: 'no-such-group'");
}

TEST(ConfigTexts, PrintConfigAlignsSortsAndNamesSources) {
    Sources sources;
    sources.arguments = {"app:app", "-w2"};
    const std::string text = print_config_text(resolved(sources));
    EXPECT_EQ(text.substr(0, text.find('\n')),
              "access_log_format                  = %(h)s %(l)s %(u)s %(t)s \"%(r)s\" %(s)s %(b)s "
              "\"%(f)s\" \"%(a)s\"  # default");
    EXPECT_NE(text.find("\nworkers                            = 2  # command line\n"),
              std::string::npos);
    EXPECT_NE(text.find("\naccesslog                          = None  # default\n"),
              std::string::npos);
    EXPECT_EQ(text.find("control_socket"), std::string::npos);
}

TEST(ConfigTexts, DebugListingHasOneLineForEachSetting) {
    const std::string text = current_configuration(Config{});
    EXPECT_EQ(text.substr(0, 23), "Current configuration:\n");
    EXPECT_NE(text.find("\n  workers: 1\n"), std::string::npos);
    EXPECT_NE(text.find("\n  bind: ['127.0.0.1:8000']\n"), std::string::npos);
}

}  // namespace
}  // namespace gcorn
