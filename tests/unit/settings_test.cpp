#include "settings.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "base/text.h"
#include "command_line.h"
#include "tests/support/apply.h"

namespace gcorn {
namespace {

/// "ok", how the accepted value reads back if it changed, or "refused: <reason>".
std::string verdict(std::string_view name, std::string text) {
    Config cfg;
    const Status status = testing::apply(cfg, name, text);
    if (!status) return "refused: " + status.message().substr(0, status.message().rfind(" ("));
    const std::string value = value_text(field_value(cfg, *find_setting(name)));
    return value == text || value == "['" + text + "']" ? "ok" : value;
}

// -------------------------------------------------------------------------------------- table

TEST(SettingsTable, HasEachNameFlagAndFieldOnce) {
    std::set<std::string_view> names, flags;
    std::set<size_t> fields;
    for (const Setting& setting : settings()) {
        EXPECT_TRUE(names.insert(setting.name).second) << setting.name;
        if (setting.flags.empty()) continue;
        for (const std::string_view flag : split(setting.flags, ' ')) {
            EXPECT_TRUE(flags.insert(flag).second) << flag;
            EXPECT_TRUE(flag.size() == 2 ? flag[0] == '-' : flag.starts_with("--")) << flag;
        }
    }
    for (const Setting& one : settings())
        for (const Setting& other : settings())
            if (&one != &other && one.field.index() != 0) {
                EXPECT_FALSE(one.field == other.field) << one.name << ' ' << other.name;
            }
}

TEST(SettingsTable, RowsAreComplete) {
    for (const Setting& setting : settings()) {
        const bool has_field = setting.field.index() != 0;
        EXPECT_EQ(has_field, setting.section != kOutOfScope) << setting.name;
        EXPECT_EQ(setting.is_hook(), setting.arity > 0) << setting.name;
        EXPECT_NE(setting.help.empty(), setting.refused.empty()) << setting.name;
        if (!setting.help.empty()) {
            EXPECT_EQ(setting.help.back(), '.') << setting.name;
        }
        // An option takes a value on the command line if and only if its type needs one.
        const bool is_bool = std::holds_alternative<bool Config::*>(setting.field) ||
                             std::holds_alternative<std::optional<bool> Config::*>(setting.field);
        if (has_field && !setting.flags.empty()) {
            EXPECT_EQ(is_bool, setting.is_switch()) << setting.name;
        }
        if (is_bool && setting.name != "sendfile") {
            EXPECT_TRUE(setting.fallback) << setting.name;
        }
    }
}

TEST(SettingsTable, StandsInTheOrderOfItsSections) {
    StringList sections;
    for (const Setting& setting : settings())
        if (sections.empty() || sections.back() != setting.section)
            sections.emplace_back(setting.section);
    const StringList expected = {"Config file",  "Server socket",  "Worker processes",
                                 "Security",     "Debugging",      "Server mechanics",
                                 "Logging",      "Process naming", "TLS",
                                 "Server hooks", "Out of scope"};
    EXPECT_EQ(sections, expected);
}

TEST(SettingsTable, IsFoundByExactName) {
    ASSERT_NE(find_setting("workers"), nullptr);
    EXPECT_EQ(find_setting("workers")->flags, "-w --workers");
    for (const char* other : {"", "worker", "Workers", "--workers"})
        EXPECT_EQ(find_setting(other), nullptr) << other;
}

TEST(SettingsTable, KnowsTheNamesThatDifferFromTheirFlags) {
    const std::pair<const char*, const char*> pairs[] = {
        {"keepalive", "--keep-alive"},
        {"loglevel", "--log-level"},
        {"preload_app", "--preload"},
        {"pidfile", "-p --pid"},
        {"raw_env", "-e --env"},
        {"accesslog", "--access-logfile"},
        {"errorlog", "--error-logfile --log-file"},
        {"proc_name", "-n --name"},
        {"logconfig", "--log-config"},
        {"syslog", "--log-syslog"},
        {"syslog_addr", "--log-syslog-to"},
        {"proxy_allow_ips", "--proxy-allow-from"},
        {"raw_paste_global_conf", "--paste-global"},
        {"reload_extra_files", "--reload-extra-file"},
        {"error_log_format", "--error-logformat"},
    };
    for (const auto& [name, flags] : pairs)
        EXPECT_EQ(find_setting(name)->flags, flags);
}

TEST(SettingsTable, HasGunicornsDefaults) {
    const Config cfg;
    EXPECT_EQ(cfg.bind, StringList{"127.0.0.1:8000"});
    EXPECT_EQ(cfg.backlog, 2048);
    EXPECT_EQ(cfg.workers, 1);
    EXPECT_EQ(cfg.worker_class, "sync");
    EXPECT_EQ(cfg.threads, 1);
    EXPECT_EQ(cfg.worker_connections, 1000);
    EXPECT_EQ(cfg.timeout, 30);
    EXPECT_EQ(cfg.graceful_timeout, 30);
    EXPECT_EQ(cfg.keepalive, 2);
    EXPECT_EQ(cfg.header_timeout, 15);
    EXPECT_EQ(cfg.body_timeout, 30);
    EXPECT_EQ(cfg.write_timeout, 30);
    EXPECT_EQ(cfg.request_timeout, 0);
    EXPECT_EQ(cfg.boot_timeout, 0);
    EXPECT_EQ(cfg.limit_request_line, 4094);
    EXPECT_EQ(cfg.limit_request_fields, 100);
    EXPECT_EQ(cfg.limit_request_field_size, 8190);
    EXPECT_EQ(cfg.limit_request_body, 0);
    EXPECT_EQ(cfg.umask, 0) << "unix sockets are 0777";
    EXPECT_EQ(cfg.forwarded_allow_ips, "127.0.0.1,::1");
    EXPECT_EQ(cfg.proxy_allow_ips, "127.0.0.1,::1");
    EXPECT_EQ(cfg.forwarder_headers, (StringList{"SCRIPT_NAME", "PATH_INFO"}));
    EXPECT_EQ(cfg.secure_scheme_headers, (StringMap{{"X-FORWARDED-PROTOCOL", "ssl"},
                                                    {"X-FORWARDED-PROTO", "https"},
                                                    {"X-FORWARDED-SSL", "on"}}));
    EXPECT_EQ(cfg.errorlog, "-");
    EXPECT_EQ(cfg.accesslog, "");
    EXPECT_EQ(cfg.loglevel, "info");
    EXPECT_EQ(cfg.default_proc_name, "gunicorn");
    EXPECT_TRUE(cfg.suppress_ragged_eofs);
    EXPECT_FALSE(cfg.reload || cfg.daemon || cfg.spew || cfg.preload_app || cfg.syslog);
    EXPECT_FALSE(cfg.is_tls());
}

TEST(SettingsTable, HooksHaveGunicornsArities) {
    const std::pair<const char*, int> arities[] = {
        {"on_starting", 1}, {"on_reload", 1},        {"when_ready", 1},   {"pre_fork", 2},
        {"post_fork", 2},   {"post_worker_init", 1}, {"worker_int", 1},   {"worker_abort", 1},
        {"pre_exec", 1},    {"pre_request", 2},      {"post_request", 4}, {"child_exit", 2},
        {"worker_exit", 2}, {"nworkers_changed", 3}, {"on_exit", 1},      {"ssl_context", 2},
    };
    for (const auto& [name, arity] : arities)
        EXPECT_EQ(find_setting(name)->arity, arity) << name;
    EXPECT_EQ(find_setting("post_request")->arity_min, 2);
}

TEST(SettingsTable, DefaultsPassTheirOwnChecks) {
    const Config cfg;
    for (const Setting& setting : settings()) {
        if (setting.field.index() == 0 || setting.is_hook()) continue;
        const Value value = field_value(cfg, setting);
        Config copy;
        if (std::holds_alternative<std::monostate>(value)) continue;
        const bool is_csv = setting.form == Form::Csv;  // read as a list, written as a text
        EXPECT_TRUE(
            testing::apply(copy, setting.name, is_csv ? std::string(*setting.fallback) : value))
            << setting.name;
        EXPECT_EQ(field_value(copy, setting), value) << setting.name;
    }
}

// ------------------------------------------------------------------------------------- checks

TEST(SettingsChecks, Bind) {
    for (const char* good : {"", ":80", "h", "h:80", "[::1]:80", "unix:/s", "fd://3"}) {
        Config cfg;
        EXPECT_TRUE(testing::apply(cfg, "bind", StringList{good})) << good;
    }
    for (const char* bad : {"::1:80", "foo:bar", "h:65536", "fd://x", "a:1,b:2"})
        EXPECT_EQ(verdict("bind", bad).substr(0, 7), "refused") << bad;
}

TEST(SettingsChecks, Networks) {
    for (const char* name : {"forwarded_allow_ips", "proxy_allow_ips"}) {
        for (const char* good : {"*", "1.2.3.4", "10.0.0.0/8, ::1", ""})
            EXPECT_EQ(verdict(name, good), "ok") << good;
        EXPECT_EQ(verdict(name, "1.2.3.4/8"), "refused: 1.2.3.4/8 has host bits set");
        EXPECT_EQ(verdict(name, "localhost").substr(0, 7), "refused");
    }
}

TEST(SettingsChecks, WorkerClassNames) {
    for (const char* own : {"sync", "gthread", "gevent", "gevent_websocket", "eventlet"})
        EXPECT_EQ(verdict("worker_class", own), "ok");
    EXPECT_EQ(verdict("worker_class", "gevent_wsgi"), "gevent");
    EXPECT_EQ(verdict("worker_class", "gunicorn.workers.sync.SyncWorker"), "sync");
    EXPECT_EQ(verdict("worker_class", "meinheld.gmeinheld.MeinheldWorker"), "sync");
    EXPECT_EQ(verdict("worker_class", "egg:meinheld#gunicorn_worker"), "sync");
    EXPECT_EQ(verdict("worker_class", "gunicorn.workers.gthread.ThreadWorker"), "gthread");
    EXPECT_EQ(verdict("worker_class", "gunicorn.workers.ggevent.GeventWorker"), "gevent");
    EXPECT_EQ(verdict("worker_class", "gunicorn.workers.geventlet.EventletWorker"), "eventlet");
    EXPECT_EQ(verdict("worker_class", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"),
              "gevent_websocket");
    EXPECT_EQ(verdict("worker_class", "egg:gunicorn#gthread"), "gthread");
    EXPECT_EQ(
        verdict("worker_class", "uvicorn.workers.UvicornWorker"),
        "refused: worker class 'uvicorn.workers.UvicornWorker' is for ASGI applications: gcorn "
        "serves WSGI");
    EXPECT_EQ(verdict("worker_class", "tornado"),
              "refused: worker class 'tornado' is not supported: run Tornado with its own server");
    EXPECT_EQ(
        verdict("worker_class", "my.Worker"),
        "refused: worker class 'my.Worker' is unknown: gcorn has its own worker classes and cannot "
        "run others. What a subclass does when it starts, a post_fork or post_worker_init hook can "
        "do");
    EXPECT_EQ(verdict("worker_class", "").substr(0, 7), "refused");
}

TEST(SettingsChecks, WorkerClassTakesAPythonClass) {
    Config cfg;
    const HookRef type{std::make_shared<int>(1), "gunicorn.workers.gthread.ThreadWorker"};
    ASSERT_TRUE(testing::apply(cfg, "worker_class", type));
    EXPECT_EQ(cfg.worker_class, "gthread");
}

TEST(SettingsChecks, ChoicesAreCaseBlind) {
    EXPECT_EQ(verdict("loglevel", "DEBUG"), "debug");
    EXPECT_EQ(verdict("loglevel", "warn"), "warning");
    EXPECT_EQ(verdict("loglevel", "fatal"), "critical");
    EXPECT_EQ(verdict("loglevel", "verbose"), "refused: Invalid loglevel: 'verbose'");
    EXPECT_EQ(verdict("header_map", "Refuse"), "refuse");
    EXPECT_EQ(verdict("header_map", "keep"), "refused: Invalid header_map: 'keep'");
    EXPECT_EQ(verdict("reload_engine", "inotify"), "ok");
    EXPECT_EQ(verdict("error_log_format", "json"), "ok");
    EXPECT_EQ(verdict("error_log_format", "xml"), "refused: Invalid error_log_format: 'xml'");
}

TEST(SettingsChecks, ProxyProtocolModes) {
    for (const char* mode : {"off", "v1", "v2", "auto"})
        EXPECT_EQ(verdict("proxy_protocol", mode), "ok");
    for (const char* off : {"false", "0", "None", ""})
        EXPECT_EQ(verdict("proxy_protocol", off), "off");
    for (const char* on : {"True", "1"})
        EXPECT_EQ(verdict("proxy_protocol", on), "auto");
    EXPECT_EQ(verdict("proxy_protocol", "v3"), "refused: Invalid proxy_protocol: 'v3'");
    Config cfg;
    ASSERT_TRUE(testing::apply(cfg, "proxy_protocol", true));
    EXPECT_EQ(cfg.proxy_protocol, "auto");
    ASSERT_TRUE(testing::apply(cfg, "proxy_protocol", Value{}));
    EXPECT_EQ(cfg.proxy_protocol, "off");
}

TEST(SettingsChecks, UsersAndGroups) {
    EXPECT_EQ(verdict("user", "root"), "ok");
    EXPECT_EQ(verdict("user", "65534"), "ok");
    EXPECT_EQ(verdict("user", "no-such-user"), "refused: No such user: 'no-such-user'");
    // Perhaps a shell variable that is not set: the workers must not stay root.
    EXPECT_EQ(verdict("user", ""), "refused: No such user: ''");
    EXPECT_EQ(verdict("group", " "), "refused: No such group: ''");
    EXPECT_EQ(verdict("bind", "unix:/s?user=root&group=65534"), "ok");
    EXPECT_EQ(verdict("bind", "unix:/s?user=no-such-user"),
              "refused: No such user: 'no-such-user'");
    EXPECT_EQ(verdict("bind", "unix:/s?group=no-such-group"),
              "refused: No such group: 'no-such-group'");
    EXPECT_EQ(verdict("group", "no-such-group"), "refused: No such group: 'no-such-group'");
    Config cfg;
    ASSERT_TRUE(testing::apply(cfg, "user", int64_t{33}));
    EXPECT_EQ(cfg.user, "33");
    ASSERT_TRUE(testing::apply(cfg, "user", Value{}));
    EXPECT_EQ(cfg.user, "");
    EXPECT_FALSE(testing::apply(cfg, "user", OtherValue{"float", "1.5"}));
    EXPECT_FALSE(testing::apply(cfg, "user", int64_t{-1}));
}

TEST(SettingsChecks, EnvironmentPairs) {
    EXPECT_EQ(verdict("raw_env", "K=V"), "ok");
    EXPECT_EQ(verdict("raw_env", "K="), "ok");
    EXPECT_EQ(verdict("raw_env", "K=a=b"), "ok");
    for (const char* nameless : {"K", "=V"})
        EXPECT_EQ(verdict("raw_env", nameless),
                  "refused: environment setting '" + std::string(nameless) + "' invalid");
}

TEST(SettingsChecks, WatchedFiles) {
    EXPECT_EQ(verdict("reload_extra_files", "/etc/passwd"), "ok");
    EXPECT_EQ(verdict("reload_extra_files", "/no/*.html"), "ok") << "a pattern may match nothing";
    EXPECT_EQ(verdict("reload_extra_files", "/no/file"), "refused: File /no/file does not exist.");
    EXPECT_EQ(verdict("reload_extra_files", "/"), "ok") << "a directory tells what appears in it";
}

TEST(SettingsChecks, PasteFiles) {
    EXPECT_EQ(verdict("paste", "/etc/passwd#main"), "ok");
    EXPECT_EQ(verdict("paste", "/no/file.ini#main"), "refused: '/no/file.ini' not found");
}

TEST(SettingsChecks, LogTargets) {
    EXPECT_EQ(verdict("statsd_host", "localhost:8125"), "ok");
    EXPECT_EQ(verdict("statsd_host", "unix:///run/statsd"), "ok");
    EXPECT_EQ(verdict("statsd_host", "h:port").substr(0, 7), "refused");
    EXPECT_EQ(verdict("syslog_addr", "udp://h:514"), "ok");
    EXPECT_EQ(verdict("syslog_addr", "http://h").substr(0, 7), "refused");
    EXPECT_EQ(verdict("syslog_facility", "local0"), "ok");
    EXPECT_EQ(verdict("syslog_facility", "nowhere").substr(0, 7), "refused");
}

TEST(SettingsChecks, AccessFormat) {
    EXPECT_EQ(verdict("access_log_format", "%(h)s %({x-request-id}i)s"), "ok");
    EXPECT_EQ(verdict("access_log_format", "json"), "ok");
    EXPECT_EQ(verdict("access_log_format", "%(h").substr(0, 7), "refused");
}

TEST(SettingsChecks, LoggerClassOfGunicornIsOurs) {
    for (const char* own : {"simple", "gunicorn.glogging.Logger"})
        EXPECT_EQ(verdict("logger_class", own), "None") << own;
    EXPECT_EQ(verdict("logger_class", "pkg.Logger"), "ok");
}

// -------------------------------------------------------------------------------------- texts

TEST(SettingsTexts, HelpNamesEveryOptionAndFitsTheWidth) {
    for (const size_t width : {size_t{60}, size_t{80}, size_t{120}}) {
        const std::string help = help_text(width);
        std::istringstream lines(help);
        for (std::string line; std::getline(lines, line);) {
            const bool is_one_word = line.find(' ', line.find_first_not_of(' ')) == line.npos;
            if (!line.starts_with("  -") && !line.starts_with("  gcorn")) {
                EXPECT_TRUE(line.size() <= width || is_one_word) << line;
            }
        }
        for (const Setting& setting : settings())
            if (!setting.flags.empty() && setting.section != kOutOfScope) {
                EXPECT_NE(help.find(split(setting.flags, ' ').back()), help.npos) << setting.name;
            }
    }
    EXPECT_EQ(help_text(1), help_text(60));
    EXPECT_EQ(help_text(500), help_text(120));
}

TEST(SettingsTexts, HelpStartsWithUsageAndAnExample) {
    const std::string help = help_text(80);
    EXPECT_TRUE(help.starts_with(kUsageLine));
    EXPECT_NE(help.find("\n  gcorn -w 2 -b :8000 app:app "), help.npos);
    EXPECT_NE(help.find("[default: 127.0.0.1:8000, or $PORT]"), help.npos);
    EXPECT_EQ(help.find("asgi"), help.npos);
}

}  // namespace
}  // namespace gcorn
