#include "python/pyref.h"

#include "python/config_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "base/text.h"
#include "command_line.h"
#include "python/embedded.h"
#include "settings.h"
#include "tests/support/apply.h"
#include "tests/support/python_fixture.h"

namespace gcorn {
namespace {

class ConfigFileTest : public PythonTest {
protected:
    /// Loads `text` as conf.py of the test's directory.
    Result<ConfigFile> load(const std::string& text) {
        write_file("conf.py", text);
        return load_config_file("conf.py", directory_);
    }

    /// The value that `text` gives to `name`; monostate if it gives none.
    Value value(const std::string& text, const std::string& name) {
        auto file = load(text);
        EXPECT_TRUE(file) << (file ? "" : file.message());
        if (!file) return {};
        for (auto& [key, held] : file->values)
            if (key == name) return held;
        return {};
    }

    std::string failure(const std::string& text) {
        auto file = load(text);
        EXPECT_FALSE(file);
        return file ? "" : file.message();
    }

    /// The end of the message that refuses a value for a hook with one parameter.
    static std::string allowed(const std::string& name) {
        return " (" + name + "; allowed: a function of arity 1, or its dotted name)";
    }

    /// What the server makes of a file of tests/configs.
    ResolvedConfig resolve(const std::string& name) {
        auto file = load_config_file(name, configs_directory());
        EXPECT_TRUE(file) << (file ? "" : file.message());
        Surroundings surroundings = Surroundings::of_process();
        ConfigBuilder builder(surroundings);
        if (file) {
            Status applied = builder.apply_file(name, file->values);
            EXPECT_TRUE(applied) << (applied ? "" : applied.message());
        }
        auto line = parse_command_line({"site:app"});
        EXPECT_TRUE(line);
        EXPECT_TRUE(builder.apply_arguments(*line, {}));
        auto resolved = builder.finish();
        EXPECT_TRUE(resolved) << (resolved ? "" : resolved.message());
        return resolved ? std::move(*resolved) : ResolvedConfig();
    }
};

// --- values ---

TEST_F(ConfigFileTest, ConvertsEachTypeASettingTakes) {
    EXPECT_EQ(value("workers = 4", "workers"), Value(int64_t{4}));
    EXPECT_EQ(value("daemon = True", "daemon"), Value(true));
    EXPECT_EQ(value("pidfile = None", "pidfile"), Value());
    EXPECT_EQ(value("bind = 'h:1'", "bind"), Value(std::string("h:1")));
    EXPECT_EQ(value("timeout = 2.5", "timeout"), Value(OtherValue{"float", "2.5"}));
    const StringList both = {"h:1", "h:2"};
    EXPECT_EQ(value("bind = ['h:1', 'h:2']", "bind"), Value(both));
    EXPECT_EQ(value("bind = ('h:1', 'h:2')", "bind"), Value(both));
    for (const char* list : {"{'h:1'}", "('h:1',)", "{'h:1': 2}.keys()", "map(str, ['h:1'])",
                             "(host + ':1' for host in 'h')"})
        EXPECT_EQ(value(std::string("bind = ") + list, "bind"), Value(StringList{"h:1"})) << list;
    for (const char* list : {"itertools.count()", "itertools.cycle(['h:1'])", "(1/0 for i in 'h')"})
        EXPECT_TRUE(std::holds_alternative<OtherValue>(
            value(std::string("import itertools\nbind = ") + list, "bind")))
            << list;
    EXPECT_EQ(value("secure_scheme_headers = {'X': 'on'}", "secure_scheme_headers"),
              Value(StringMap{{"X", "on"}}));
}

TEST_F(ConfigFileTest, TellsBoolFromInt) {
    EXPECT_TRUE(std::holds_alternative<bool>(value("reload = True", "reload")));
    EXPECT_TRUE(std::holds_alternative<int64_t>(value("reload = 1", "reload")));
}

TEST_F(ConfigFileTest, DescribesValuesThatNoSettingTakes) {
    const Value module = value("import syslog", "syslog");
    ASSERT_TRUE(std::holds_alternative<OtherValue>(module));
    EXPECT_EQ(std::get<OtherValue>(module).type_name, "module");
    const Value mixed = value("bind = ['h:1', 2]", "bind");
    EXPECT_EQ(std::get<OtherValue>(mixed).repr, "['h:1', 2]");
    EXPECT_EQ(std::get<OtherValue>(value("workers = 10**30", "workers")).type_name, "int");
}

TEST_F(ConfigFileTest, KeepsBytesOfTheEnvironmentThatAreNoUtf8) {
    ::setenv("GCORN_TEST_PATH", "/tmp/\xff.pid", 1);
    EXPECT_EQ(value("import os\npidfile = os.fsdecode(b'/tmp/\\xff.pid')", "pidfile"),
              Value(std::string("/tmp/\xff.pid")));
}

TEST_F(ConfigFileTest, HandsOverOnlySettingsAndNearMissesInTheirOrder) {
    auto file = load("import os\nWORKERS = 3\nthreads = 2\nhelper = 1\nworker = 9\nbacklog = 5\n");
    ASSERT_TRUE(file);
    ASSERT_EQ(file->values.size(), 3u);
    EXPECT_EQ(file->values[0].first, "threads");
    EXPECT_EQ(file->values[1].first, "worker");
    EXPECT_EQ(file->values[2].first, "backlog");
    EXPECT_TRUE(file->warnings.empty());
}

// Goal: whatever Python object a config file assigns, the start is refused with a sentence that
// names the setting, or goes on; nothing aborts.
TEST_F(ConfigFileTest, NoOddValueOfAnySettingDoesMoreThanBeRefused) {
    ASSERT_TRUE(
        run_python("import builtins\n"
                   "class Bad:\n"
                   "    def __repr__(self): return 1 / 0\n"
                   "    def __getattr__(self, name): return 1 / 0\n"
                   "class Text(str):\n"
                   "    __str__ = __repr__ = Bad.__repr__\n"
                   "builtins.Bad, builtins.Text = Bad, Text\n"));
    constexpr const char* kOdd[] = {"None",
                                    "True",
                                    "-1",
                                    "10**30",
                                    "2.5",
                                    "'x' * 100000",
                                    "b'bytes'",
                                    "'\\udcff\\ud800'",
                                    "'a\\0b'",
                                    "['a\\0b']",
                                    "{'a\\0b': 'c'}",
                                    "['a', 1]",
                                    "(x for x in [1])",
                                    "__import__('sys')",
                                    "lambda: 1 / 0",
                                    "Bad()",
                                    "Bad",
                                    "Text('a.b')",
                                    "'%s%n{}'"};
    write_file("conf.py", "globals().update(assigned)\n");
    size_t refusals = 0, nuls = 0;
    for (const Setting& setting : settings()) {
        const std::string name(setting.name);
        for (const std::string odd : kOdd) {
            ASSERT_TRUE(run_python("builtins.assigned = {'" + name + "': " + odd + "}\n"));
            const auto file = load_config_file("conf.py", directory_);
            Status status = file ? Status{} : Status{file.error()};
            ConfigBuilder builder(Surroundings::of_process());
            if (file) status = builder.apply_file("conf.py", file->values);
            ASSERT_TRUE(builder.apply_arguments(*parse_command_line({"site:app"}), {}));
            if (const auto resolved = builder.finish(); status && !resolved)
                status = resolved.error();
            if (status) continue;
            ++refusals;
            EXPECT_EQ(status.error().code, 1) << name << " = " << odd;
            EXPECT_NE(status.message().find(name), std::string::npos) << odd << status.message();
            EXPECT_EQ(status.message().find('\0'), std::string::npos) << name << " = " << odd;
            if (odd.find("\\0") != odd.npos) ++nuls;
        }
    }
    EXPECT_GT(refusals, settings().size() * 10);
    EXPECT_GT(nuls, settings().size() * 2) << "no setting takes a NUL";
}

TEST_F(ConfigFileTest, RefusesANulByteWithWordsThatShowIt) {
    for (const char* value : {"'/tmp/a\\0b'", "['/tmp/a\\0b']"}) {
        auto file = load(std::string("reload_extra_files = ") + value);
        ASSERT_TRUE(file);
        ConfigBuilder builder(Surroundings::of_process());
        EXPECT_EQ(builder.apply_file("conf.py", file->values).message(),
                  "NUL byte in '/tmp/a\\x00b' (reload_extra_files, from conf.py; allowed: existing "
                  "files, or patterns with * ? [ ])");
    }
}

TEST_F(ConfigFileTest, ReportsAMisspeltSettingOnce) {
    auto file = load("worker = 9\n");
    ASSERT_TRUE(file);
    ConfigBuilder builder(Surroundings::of_process());
    ASSERT_TRUE(builder.apply_file("conf.py", file->values));
    auto line = parse_command_line({"site:app"});
    ASSERT_TRUE(builder.apply_arguments(*line, {}));
    auto resolved = builder.finish();
    ASSERT_TRUE(resolved);
    ASSERT_EQ(resolved->notices.size(), 1u);
    EXPECT_NE(resolved->notices[0].find("workers"), std::string::npos);
}

// --- hooks ---

TEST_F(ConfigFileTest, HandsOverHooksAsReferencesWithAName) {
    const Value hook = value("def post_fork(server, worker):\n    pass\n", "post_fork");
    ASSERT_TRUE(std::holds_alternative<HookRef>(hook));
    EXPECT_EQ(std::get<HookRef>(hook).name, "post_fork()");
    EXPECT_TRUE(std::get<HookRef>(hook));
}

TEST_F(ConfigFileTest, DropsTheLastReferenceOfAHookUnderTheGil) {
    ASSERT_TRUE(
        run_python("import weakref\nclass Hook:\n    def __call__(self, server): pass\n"
                   "hook = Hook()\nalive = weakref.ref(hook)\n"));
    {
        HookRef reference;
        {
            WithGil gil;
            const PyRef hook = import("__main__", "hook");
            reference = make_hook_ref(hook.get(), "hook()");
        }
        ASSERT_TRUE(run_python("del hook"));
        EXPECT_EQ(eval_python("alive() is not None"), "True");
        std::thread([&reference] { reference = HookRef(); }).join();  // a thread without the GIL
    }
    EXPECT_EQ(eval_python("alive()"), "None");
}

TEST_F(ConfigFileTest, ChecksTheArityOfFunctions) {
    EXPECT_TRUE(load("def on_exit(server): pass"));
    EXPECT_TRUE(load("def on_exit(server, more=1): pass"));
    EXPECT_TRUE(load("def on_exit(*everything): pass"));
    EXPECT_TRUE(load("on_exit = lambda server: None"));
    EXPECT_TRUE(load("def on_exit(server, *, flag=1): pass"));
    EXPECT_EQ(failure("def on_exit(): pass"),
              "Value must have an arity of: 1" + allowed("on_exit"));
    EXPECT_EQ(failure("def on_exit(server, worker): pass"),
              "Value must have an arity of: 1" + allowed("on_exit"));
    EXPECT_EQ(failure("def on_exit(server, *, flag): pass"),
              "Value must have an arity of: 1" + allowed("on_exit"));
    EXPECT_EQ(failure("def post_request(worker): pass"),
              "Value must have an arity of: 4 (post_request; allowed: a function of arity 2 to 4, "
              "or its dotted name)");
}

TEST_F(ConfigFileTest, ChecksTheArityOfOtherCallables) {
    const std::string helper =
        "import functools\n"
        "class Hooks:\n"
        "    def method(self, server, worker): pass\n"
        "    def __call__(self, server, worker): pass\n"
        "    @staticmethod\n"
        "    def plain(server, worker): pass\n"
        "def three(a, b, c): pass\n"
        "def decorate(f):\n"
        "    @functools.wraps(f)\n"
        "    def inner(*a): return f(*a)\n"
        "    return inner\n";
    EXPECT_TRUE(load(helper + "pre_fork = Hooks().method"));
    EXPECT_TRUE(load(helper + "pre_fork = Hooks()"));
    EXPECT_TRUE(load(helper + "pre_fork = Hooks.plain"));
    EXPECT_TRUE(load(helper + "pre_fork = functools.partial(three, 1)"));
    EXPECT_TRUE(load(helper + "pre_fork = decorate(Hooks.plain)"));
    EXPECT_TRUE(load(helper + "pre_fork = print"));
    EXPECT_FALSE(load(helper + "post_worker_init = Hooks().method"));
    EXPECT_FALSE(load(helper + "pre_fork = functools.partial(three, 1, 2)"));
}

TEST_F(ConfigFileTest, EvaluatesNoAnnotationOfAHook) {
    // Since 3.14 Python evaluates annotations only on demand; before that, a file had to ask for
    // it.
    const std::string helper =
        std::string(PY_VERSION_HEX < 0x030E0000 ? "from __future__ import annotations\n" : "") +
        "import functools\n"
        "def three(a: A, b: B, c: C): pass\n"
        "def decorate(f):\n"
        "    @functools.wraps(f)\n"
        "    def inner(*a): return f(*a)\n"
        "    return inner\n"
        "class Hook:\n"
        "    def __call__(self, server: Arbiter, worker: Worker): pass\n";
    EXPECT_TRUE(load(helper + "def pre_fork(server: Arbiter, worker: Worker): pass"));
    for (const char* hook : {"decorate(three)", "functools.partial(three, 1)", "Hook()"})
        EXPECT_TRUE(load(helper + "pre_fork = " + hook)) << hook;
    EXPECT_FALSE(load(helper + "post_worker_init = Hook()"));
}

TEST_F(ConfigFileTest, ImportsWhatASettingIsAndLeavesOtherLazyImportsAlone) {
#if PY_VERSION_HEX < 0x030F0000
    GTEST_SKIP() << "NOT TESTED: this Python has no lazy imports";
#endif
    // From modules that nobody has imported yet.
    EXPECT_EQ(failure("lazy from colorsys import rgb_to_yiq as on_exit"),
              "Value must have an arity of: 1" + allowed("on_exit"));
    EXPECT_EQ(value("lazy from graphlib import __name__ as proc_name\n"
                    "lazy import no_such_module\n",
                    "proc_name"),
              Value(std::string("graphlib")));
    EXPECT_NE(failure("lazy from no_such_module import on_exit").find("ModuleNotFoundError"),
              std::string::npos);
}

TEST_F(ConfigFileTest, AcceptsPostRequestWithTwoThreeOrFourParameters) {
    for (const char* parameters : {"w, r", "w, r, e", "w, r, e, p"}) {
        const Value hook = value(
            "def post_request(" + std::string(parameters) + "): return 'called'\n", "post_request");
        ASSERT_TRUE(std::holds_alternative<HookRef>(hook)) << parameters;
        WithGil gil;
        const PyRef result = PyRef::steal(PyObject_CallFunction(
            static_cast<PyObject*>(std::get<HookRef>(hook).object.get()), "iiii", 1, 2, 3, 4));
        EXPECT_TRUE(result) << take_error_text();
    }
    EXPECT_FALSE(load("def post_request(w): pass"));
    EXPECT_FALSE(load("def post_request(a, b, c, d, e): pass"));
}

TEST_F(ConfigFileTest, ImportsHooksNamedByText) {
    write_file("my_hooks.py", "def ready(server): pass\n");
    EXPECT_TRUE(load("when_ready = 'my_hooks.ready'"));
    EXPECT_NE(failure("when_ready = 'my_hooks.missing'").find("Cannot import 'my_hooks.missing'"),
              std::string::npos);
    EXPECT_NE(failure("when_ready = 'ready'").find("is not a dotted name"), std::string::npos);
    EXPECT_EQ(failure("when_ready = 3"), "Value is not callable: 3" + allowed("when_ready"));
    ASSERT_TRUE(run_python("del sys.modules['my_hooks']"));
}

// --- execution ---

TEST_F(ConfigFileTest, ExecutesTheFileAsAModuleOfItsOwn) {
    EXPECT_EQ(value("proc_name = __name__", "proc_name"), Value(std::string("__config__")));
    EXPECT_EQ(value("proc_name = __file__", "proc_name"), Value(directory_ + "/conf.py"));
    EXPECT_EQ(value("import sys\nproc_name = str(sys.modules[__name__].__dict__ is globals())",
                    "proc_name"),
              Value(std::string("True")));
}

TEST_F(ConfigFileTest, FindsTheFileByPathByFileUrlAndByModuleName) {
    write_file("other_conf.py", "workers = 7\n");
    for (const std::string& location :
         {std::string("other_conf.py"), std::string("./other_conf.py"),
          std::string("file:other_conf.py"), directory_ + "/other_conf.py",
          std::string("python:other_conf")}) {
        auto file = load_config_file(location, directory_);
        ASSERT_TRUE(file) << file.message();
        ASSERT_EQ(file->values.size(), 1u) << location;
        EXPECT_EQ(file->values[0].second, Value(int64_t{7}));
    }
}

TEST_F(ConfigFileTest, SaysWhichFileDoesNotExist) {
    auto file = load_config_file("absent.py", directory_);
    ASSERT_FALSE(file);
    EXPECT_EQ(file.message(), "'absent.py' doesn't exist");
    EXPECT_EQ(file.error().code, 1);
    file = load_config_file(directory_, directory_);
    ASSERT_FALSE(file);
    EXPECT_EQ(file.message(), "'" + directory_ + "' is a directory");
}

TEST_F(ConfigFileTest, ReadsTheFileAfreshEachTimeAndLeavesNothingBeside) {
    EXPECT_EQ(value("workers = 1", "workers"), Value(int64_t{1}));
    EXPECT_EQ(value("workers = 2", "workers"), Value(int64_t{2}));  // same size, same second
    EXPECT_FALSE(std::filesystem::exists(directory_ + "/__pycache__"));
}

TEST_F(ConfigFileTest, ReadsAModuleAfreshAndKeepsTheOldOneIfThatFails) {
    ASSERT_TRUE(run_python("sys.modules.pop('changing', None)"));
    write_file("changing.py", "workers = 1\n");
    ASSERT_TRUE(load_config_file("python:changing", directory_));
    write_file("changing.py", "workers = 22\n");
    ASSERT_TRUE(run_python("import importlib\nimportlib.invalidate_caches()"));
    auto file = load_config_file("python:changing", directory_);
    ASSERT_TRUE(file);
    EXPECT_EQ(file->values[0].second, Value(int64_t{22}));
    write_file("changing.py", "workers = \n");
    EXPECT_FALSE(load_config_file("python:changing", directory_));
    EXPECT_EQ(eval_python("sys.modules['changing'].workers"), "22");
}

TEST_F(ConfigFileTest, RunsCompiledFiles) {
    write_file("source.py", "workers = 6\n");
    ASSERT_TRUE(run_python("import py_compile\npy_compile.compile('source.py', 'conf.pyc')"));
    auto file = load_config_file("conf.pyc", directory_);
    ASSERT_TRUE(file) << file.message();
    EXPECT_EQ(file->values[0].second, Value(int64_t{6}));
}

TEST_F(ConfigFileTest, WarnsOfAFileThatIsNotNamedPy) {
    write_file("gunicorn.ini", "workers = 6\n");
    auto file = load_config_file("gunicorn.ini", directory_);
    ASSERT_TRUE(file);
    ASSERT_EQ(file->warnings.size(), 1u);
    EXPECT_NE(file->warnings[0].find("gunicorn.ini"), std::string::npos);
}

TEST_F(ConfigFileTest, ShowsTheUsersTracebackWithoutOurFrames) {
    const std::string text = failure("def f():\n    return 1 / 0\nworkers = f()\n");
    EXPECT_TRUE(text.starts_with("Failed to read config file: conf.py\nTraceback")) << text;
    EXPECT_NE(text.find("line 2, in f"), std::string::npos) << text;
    EXPECT_TRUE(text.ends_with("ZeroDivisionError: division by zero")) << text;
    EXPECT_EQ(text.find("<gcorn"), std::string::npos) << text;
}

TEST_F(ConfigFileTest, ShowsATracebackWithLoneSurrogates) {
    const std::string text = failure("raise ValueError('\\ud800')\n");
    EXPECT_TRUE(text.ends_with("ValueError: \\ud800")) << text;
}

TEST_F(ConfigFileTest, ShowsWhereASyntaxErrorIs) {
    const std::string text = failure("workers = 1\nbind = = 2\n");
    EXPECT_NE(text.find("conf.py\", line 2"), std::string::npos) << text;
    EXPECT_NE(text.find("SyntaxError"), std::string::npos) << text;
}

TEST_F(ConfigFileTest, SurvivesAFileThatExits) {
    auto status = load("import sys\nsys.exit(7)\n");
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, 7);
    for (const auto& [given, code] : std::vector<std::pair<std::string, int>>{
             {"0", 1}, {"", 1}, {"None", 1}, {"255", 255}, {"-1", 255}, {"10**30 + 7", 7}}) {
        const auto other = load("import sys\nsys.exit(" + given + ")\n");
        EXPECT_EQ(other ? -1 : other.error().code, code) << given;
    }
    auto text = load("raise SystemExit('DATABASE_URL is missing')\n");
    ASSERT_FALSE(text);
    EXPECT_EQ(text.error().code, 1);
    EXPECT_NE(text.message().find("DATABASE_URL is missing"), std::string::npos);
    EXPECT_FALSE(load("raise KeyboardInterrupt\n"));
}

// --- the cfg view ---

/// Binds the view of `cfg` to the name cfg in __main__.
void show(const Config& cfg) {
    WithGil gil;
    const PyRef view = make_config_view(cfg);
    ASSERT_TRUE(view) << take_error_text();
    ASSERT_EQ(PyObject_SetAttrString(PyImport_AddModule("__main__"), "cfg", view.get()), 0);
}

TEST_F(ConfigFileTest, ShowsSettingsWithTheirPythonTypes) {
    Config cfg;
    ASSERT_TRUE(testing::apply(cfg, "workers", int64_t{3}));
    ASSERT_TRUE(testing::apply(cfg, "bind", StringList{"127.0.0.1:80", "unix:/x.sock", "[::1]:8"}));
    ASSERT_TRUE(testing::apply(cfg, "raw_env", StringList{"A=b=c"}));
    ASSERT_TRUE(testing::apply(cfg, "user", std::string("1")));
    show(cfg);
    EXPECT_EQ(eval_python("cfg.workers + 1"), "4");
    EXPECT_EQ(eval_python("cfg.bind"), "['127.0.0.1:80', 'unix:/x.sock', '[::1]:8']");
    EXPECT_EQ(eval_python("cfg.address"), "[('127.0.0.1', 80), '/x.sock', ('::1', 8)]");
    EXPECT_EQ(eval_python("cfg.daemon is False and cfg.pidfile is None"), "True");
    EXPECT_EQ(eval_python("cfg.secure_scheme_headers['X-FORWARDED-SSL']"), "on");
    EXPECT_EQ(eval_python("cfg.forwarded_allow_ips"), "['127.0.0.1', '::1']");
    EXPECT_EQ(eval_python("cfg.env"), "{'A': 'b=c'}");
    EXPECT_EQ(eval_python("cfg.user"), "1");
    EXPECT_EQ(eval_python("isinstance(cfg.group, int)"), "True");
    EXPECT_EQ(eval_python("cfg.settings['workers'].get()"), "3");
    EXPECT_EQ(eval_python("cfg.is_ssl"), "False");
    EXPECT_EQ(eval_python("cfg.post_fork"), "None");
}

TEST_F(ConfigFileTest, ShowsSettingsReadOnlyAndNamesThoseThatExist) {
    show(Config());
    const std::string change = eval_python("setattr(cfg, 'workers', 5)");
    EXPECT_TRUE(change.starts_with("! AttributeError: 'workers'")) << change;
    EXPECT_TRUE(eval_python("cfg.set('workers', 5)").starts_with("! AttributeError")) << change;
    const std::string missing = eval_python("cfg.worker");
    EXPECT_TRUE(missing.starts_with("! AttributeError: gcorn's config object has no 'worker'"));
    EXPECT_NE(missing.find("workers"), std::string::npos);
}

// --- the gunicorn stand-in ---

TEST_F(ConfigFileTest, OffersWhatConfigFilesImport) {
    EXPECT_EQ(value("import gunicorn\nproc_name = gunicorn.__version__", "proc_name"),
              Value(std::string("26.1.0")));
    EXPECT_TRUE(
        load("from gunicorn.glogging import Logger\n"
             "from gunicorn import config, util\n"
             "from gunicorn.config import Config\n"
             "from gunicorn.workers.base import Worker\n"
             "from gunicorn.workers.base_async import ALREADY_HANDLED\n"
             "from gunicorn.workers.ggevent import GeventPyWSGIWorker, GeventWorker\n"
             "from gunicorn.app.base import BaseApplication\n"
             "from gunicorn.errors import HaltServer\n"
             "import gunicorn.http.wsgi\n"
             "class Mine(Worker): pass\n"
             "class App(BaseApplication): pass\n"));
    EXPECT_TRUE(load("import gunicorn\nclass Mine(gunicorn.glogging.Logger): pass\n"));
}

TEST_F(ConfigFileTest, SaysWhatTheStandInDoesNotHave) {
    std::string text = failure("import gunicorn.util\ngunicorn.util.daemonize(True)");
    EXPECT_NE(text.find("stand-in for the gunicorn package"), std::string::npos) << text;
    EXPECT_NE(text.find("gunicorn.util.daemonize"), std::string::npos) << text;
    text = failure("from gunicorn.util import daemonize");
    EXPECT_NE(text.find("stand-in for the gunicorn package"), std::string::npos) << text;
    text = failure("import gunicorn.pidfile");
    EXPECT_NE(text.find("has no module gunicorn.pidfile"), std::string::npos) << text;
    EXPECT_EQ(value("import gunicorn\nreload = hasattr(gunicorn, 'nothing')", "reload"),
              Value(false));
}

TEST_F(ConfigFileTest, WarnsOfAPatchWithoutEffect) {
    auto file = load(
        "from gunicorn.http import wsgi\n"
        "class Response(wsgi.Response): pass\n"
        "original, wsgi.Response = wsgi.Response, Response\n"
        "wsgi.Response = original\n");
    ASSERT_TRUE(file) << file.message();
    ASSERT_EQ(file->warnings.size(), 2u);
    EXPECT_EQ(file->warnings[0], "replacing gunicorn.http.wsgi.Response has no effect in gcorn");
}

TEST_F(ConfigFileTest, TellsTheServerNameThatTheFileChose) {
    ASSERT_TRUE(load("import gunicorn\n"));
    EXPECT_EQ(patched_server_name(), std::nullopt);
    ASSERT_TRUE(load("import gunicorn\ngunicorn.SERVER_SOFTWARE = 'web/1'\n"));
    EXPECT_EQ(patched_server_name(), "web/1");
    ASSERT_TRUE(load("import gunicorn\ngunicorn.SERVER = ''\n"));
    EXPECT_EQ(patched_server_name(), "");
    ASSERT_TRUE(load("import gunicorn\ngunicorn.SERVER = 'a\\r\\nSet-Cookie: b'\n"));
    EXPECT_EQ(patched_server_name(), "web/1");
    ASSERT_TRUE(
        load("import gunicorn\ngunicorn.SERVER = None\n"
             "gunicorn.SERVER_SOFTWARE = 'gunicorn/26.1.0'\n"));
    EXPECT_EQ(patched_server_name(), std::nullopt);
    ASSERT_TRUE(load("from gunicorn.http import wsgi\nold, wsgi.SERVER = wsgi.SERVER, 'web/2'\n"));
    EXPECT_EQ(patched_server_name(), "web/2");
    ASSERT_TRUE(load("from gunicorn.http import wsgi\nwsgi.SERVER = 'gunicorn'\n"));
    EXPECT_EQ(patched_server_name(), std::nullopt);
}

TEST_F(ConfigFileTest, PrefersTheRealPackage) {
    std::filesystem::create_directories(directory_ + "/site/gunicorn");
    write_file("site/gunicorn/__init__.py", "__version__ = '20.1.0'\nSERVER = 'gunicorn'\n");
    ASSERT_TRUE(
        run_python("old = {n: sys.modules.pop(n) for n in list(sys.modules) "
                   "if n.partition('.')[0] == 'gunicorn'}\nsys.path.append('site')\n"));
    EXPECT_EQ(value("import gunicorn\nproc_name = gunicorn.__version__", "proc_name"),
              Value(std::string("20.1.0")));
    EXPECT_NE(failure("import gunicorn.glogging").find("ModuleNotFoundError"), std::string::npos);
    ASSERT_TRUE(
        run_python("sys.path.remove('site')\ndel sys.modules['gunicorn']\n"
                   "sys.modules.update(old)\n"));
}

// --- files in the shapes of the real world ---

TEST_F(ConfigFileTest, ReadsWorkersFromTheCpuCount) {
    const ResolvedConfig resolved = resolve("cpu_count.py");
    EXPECT_EQ(resolved.config.workers, int64_t{std::thread::hardware_concurrency()} * 2 + 1);
    EXPECT_EQ(resolved.config.worker_class, "gthread");
    EXPECT_EQ(resolved.config.threads, 4);
    EXPECT_EQ(resolved.config.max_requests_jitter, 50);
}

TEST_F(ConfigFileTest, ReadsHooksThatLog) {
    const Config cfg = resolve("logging_hooks.py").config;
    EXPECT_EQ(cfg.bind, (StringList{"0.0.0.0:8000", "unix:/tmp/example.sock"}));
    EXPECT_EQ(cfg.raw_env.size(), 2u);
    EXPECT_EQ(cfg.user, "");
    EXPECT_TRUE(cfg.on_starting && cfg.when_ready && cfg.pre_fork && cfg.post_fork);
    EXPECT_TRUE(cfg.pre_exec && cfg.worker_int && cfg.worker_abort && cfg.child_exit);
    EXPECT_TRUE(cfg.nworkers_changed);
    EXPECT_FALSE(cfg.on_exit);
}

TEST_F(ConfigFileTest, ReadsSettingsFromEnvironmentVariables) {
    ASSERT_TRUE(
        run_python("import os\nos.environ.update(GUNICORN_WORKERS='5', "
                   "GUNICORN_BIND='0.0.0.0:8001', GUNICORN_PRELOAD_APP='true')"));
    const Config cfg = resolve("environment.py").config;
    EXPECT_EQ(cfg.workers, 5);
    EXPECT_EQ(cfg.bind, StringList{"0.0.0.0:8001"});
    EXPECT_TRUE(cfg.preload_app);
    ASSERT_TRUE(
        run_python("for n in 'WORKERS', 'BIND', 'PRELOAD_APP':\n"
                   "    del os.environ['GUNICORN_' + n]"));
}

TEST_F(ConfigFileTest, ReadsTheConfigurationOfContainerImages) {
    ASSERT_TRUE(run_python("import os\nos.environ.update(WEB_CONCURRENCY='3', PORT='8080')"));
    const Config cfg = resolve("container.py").config;
    EXPECT_EQ(cfg.workers, 3);
    EXPECT_EQ(cfg.bind, StringList{"0.0.0.0:8080"});
    EXPECT_EQ(cfg.worker_tmp_dir, "/dev/shm");
    EXPECT_EQ(cfg.graceful_timeout, 120);
    EXPECT_EQ(cfg.keepalive, 5);
    EXPECT_EQ(cfg.accesslog, "-");
    ASSERT_TRUE(run_python("del os.environ['WEB_CONCURRENCY'], os.environ['PORT']"));
}

TEST_F(ConfigFileTest, ReadsADjangoSite) {
    const Config cfg = resolve("django.py").config;
    EXPECT_EQ(cfg.pythonpath, configs_directory());
    EXPECT_EQ(cfg.chdir, configs_directory());
    EXPECT_EQ(cfg.umask, 7);
    EXPECT_TRUE(cfg.preload_app);
    EXPECT_EQ(cfg.secure_scheme_headers, (StringMap{{"X-FORWARDED-PROTO", "https"}}));
    EXPECT_EQ(cfg.forwarded_allow_ips, "10.0.0.0/8");
}

TEST_F(ConfigFileTest, ReadsAFileThatImportsItsNeighbour) {
    const Config cfg = resolve("airflow_style.py").config;
    EXPECT_EQ(cfg.timeout, 120);
    EXPECT_TRUE(cfg.post_worker_init && cfg.on_starting && cfg.worker_exit);
}

TEST_F(ConfigFileTest, ReadsALoggingDictionary) {
    const Config cfg = resolve("logconfig_dict.py").config;
    ASSERT_TRUE(cfg.logconfig_dict);
    WithGil gil;
    EXPECT_EQ(PyDict_Check(static_cast<PyObject*>(cfg.logconfig_dict.object.get())), 1);
}

TEST_F(ConfigFileTest, ReadsGeventWithAPatchedDriver) {
    const Config cfg = resolve("gevent_psycogreen.py").config;
    EXPECT_EQ(cfg.worker_class, "gevent");
    EXPECT_EQ(cfg.worker_connections, 500);
    EXPECT_EQ(cfg.bind, StringList{":9000"});
    EXPECT_EQ(cfg.post_fork.name, "do_post_fork()");
}

TEST_F(ConfigFileTest, ReadsPrometheusOverSeveralProcesses) {
    const Config cfg = resolve("prometheus_multiprocess.py").config;
    EXPECT_TRUE(cfg.on_starting && cfg.child_exit);
    EXPECT_EQ(cfg.threads, 4);
}

TEST_F(ConfigFileTest, CallsAFunctionThatReturnsAClass) {
    const std::string helper =
        "class Custom: pass\n"
        "class Maker:\n"
        "    def make(self): return Custom\n";
    for (const char* function :
         {"lambda: Custom", "Maker().make", "lambda: __name__ + '.Custom'", "Custom"}) {
        Config cfg;
        const Status status = testing::apply(
            cfg, "logger_class", value(helper + "logger_class = " + function, "logger_class"));
        EXPECT_TRUE(status) << function;
        EXPECT_EQ(cfg.logger_class.name, "__config__.Custom") << function;
    }
    Config cfg;
    ASSERT_TRUE(testing::apply(cfg, "worker_class",
                               value("def worker_class(): return 'gthread'", "worker_class")));
    EXPECT_EQ(cfg.worker_class, "gthread");
    EXPECT_EQ(failure("def logger_class(): 1 / 0"),
              "logger_class: ZeroDivisionError: division by zero");
}

TEST_F(ConfigFileTest, ReadsALoggerClassAndAServerName) {
    const Config cfg = resolve("custom_logger.py").config;
    EXPECT_EQ(cfg.logger_class.name, "__config__.CustomLogger");
    EXPECT_TRUE(cfg.logger_class);
    EXPECT_EQ(patched_server_name(), "web");
    ASSERT_TRUE(
        run_python("import gunicorn\ngunicorn.SERVER = 'gunicorn'\n"
                   "gunicorn.SERVER_SOFTWARE = 'gunicorn/26.1.0'\n"));
}

TEST_F(ConfigFileTest, ReadsRequestHooks) {
    const Config cfg = resolve("memory_limit.py").config;
    EXPECT_TRUE(cfg.pre_request && cfg.post_request);
    EXPECT_EQ(cfg.max_requests, 10000);
}

TEST_F(ConfigFileTest, ReadsAnnotatedHooksAndAWorkerClassObject) {
    const Config cfg = resolve("typed.py").config;
    EXPECT_EQ(cfg.worker_class, "gthread");
    EXPECT_EQ(cfg.threads, 8);
    EXPECT_TRUE(cfg.when_ready && cfg.pre_fork && cfg.post_request);
}

// ------------------------------------------------------------------------------ forms of the help

using HelpForms = PythonTest;

TEST_F(HelpForms, EachNamesTheOptions) {
    for (const std::string_view form : split_list(kHelpForms)) {
        const Result<std::string> text = help_in_form(std::string(form));
        ASSERT_TRUE(text) << text.message();
        EXPECT_NE(text->find("workers"), std::string::npos) << form;
    }
}

/// docs/settings.md is generated: `make docs`, or this test with GCORN_UPDATE_DOCS=1, updates it.
TEST_F(HelpForms, TheReferenceInDocsIsUpToDate) {
    const std::string path = GCORN_SOURCE_DIR "/docs/settings.md";
    if (std::getenv("GCORN_UPDATE_DOCS") != nullptr)
        std::ofstream(path) << *help_in_form("markdown");
    EXPECT_EQ(read_file(path), *help_in_form("markdown")) << "run: make docs";
}

TEST_F(HelpForms, ManualPageEscapesWhatRoffWouldRead) {
    const std::string page = *help_in_form("man");
    EXPECT_NE(page.find("\\fB\\-w\\fR, \\fB\\-\\-workers\\fR \\fIINT\\fR\n"), page.npos);
    EXPECT_NE(page.find(".SH EXIT STATUS\n"), page.npos);
    EXPECT_NE(page.find("\\fBpost_fork\\fR\n"), page.npos);
    std::istringstream lines(page);
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with('.')) {
            EXPECT_TRUE(line.starts_with(".T") || line.starts_with(".S") ||
                        line.starts_with(".B") || line.starts_with(".\\\""))
                << line;
        }
}

TEST_F(HelpForms, CompletionsKnowEveryOfferedOption) {
    for (const char* shell : {"bash", "zsh", "fish"}) {
        const std::string script = *help_in_form(shell);
        for (const Setting& setting : settings()) {
            if (setting.flags.empty()) continue;
            const std::string name(split(setting.flags, ' ').back().substr(2));
            const std::string flag = (script.starts_with("complete") ? "-l " : "--") + name;
            EXPECT_EQ(script.find(flag) != script.npos, setting.section != kOutOfScope)
                << shell << ' ' << flag;
        }
        EXPECT_NE(script.find("drop refuse dangerous"), script.npos);
    }
}

}  // namespace
}  // namespace gcorn
