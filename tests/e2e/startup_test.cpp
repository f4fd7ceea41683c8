// From the command line to the first request: application specifications, settings from every
// source, virtual environments, and every way in which a start fails, with its exit code and its
// one clear line.

#include <filesystem>

#include <netdb.h>
#include <unistd.h>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

/// A failed start: the code, and what stderr must say.
void expect_failure(const std::vector<std::string>& args, int code, std::string_view says,
                    const std::map<std::string, std::string>& env = {}) {
    std::vector<std::string> all = {"-b", "127.0.0.1:" + std::to_string(free_port())};
    all.insert(all.end(), args.begin(), args.end());
    const Finished finished = run_server(all, env);
    EXPECT_EQ(finished.code, code) << finished;
    EXPECT_TRUE(contains(finished.err, says)) << "expected: " << says << finished;
}

/// The body of GET / from a server with that application.
std::string answer_of(const std::string& app, const std::vector<std::string>& args = {}) {
    const Server server({.app = app, .args = args});
    return server.get("/").body;
}

/// Makes a virtual environment; returns the directory of its modules.
std::string make_venv(const std::string& venv) {
    const Finished made = run({python(), "-m", "venv", "--without-pip", venv});
    EXPECT_EQ(made.code, 0) << made;
    const std::string site = run({venv + "/bin/python", "-c",
                                  "import sysconfig; print(sysconfig.get_path('purelib'), end='')"})
                                 .out;
    EXPECT_TRUE(contains(site, venv)) << site;
    return site;
}

TEST(ApplicationSpec, DefaultsToTheNameApplication) {
    EXPECT_EQ(answer_of("probe"), "Hello, world!\n");
}

TEST(ApplicationSpec, CallsFactoriesWithLiterals) {
    EXPECT_EQ(answer_of("probe:make()"), "made");
    EXPECT_EQ(answer_of("probe:make('hi ', times=3)"), "hi hi hi ");
    EXPECT_EQ(answer_of("probe:make('x', 1, alpha=[1, {'a': 2}], beta=None)"), "xalphabeta");
}

TEST(ApplicationSpec, IsTakenFromTheConfigFile) {
    const TempDir scratch;
    const std::string config = scratch.write("conf.py", "wsgi_app = 'probe:app'\n");
    EXPECT_EQ(answer_of("", {"-c", config}), "Hello, world!\n");
}

TEST(ApplicationSpec, EndsWithFourWhenTheNameIsWrong) {
    for (const char* spec : {"probe:absent", "probe:make(1", "probe:", "probe:x y",
                             "probe:make(open('x'))", "probe:nothing", "probe:number"}) {
        const Finished finished =
            run_server({"-b", "127.0.0.1:" + std::to_string(free_port()), spec});
        EXPECT_EQ(finished.code, 4) << spec << finished;
        EXPECT_TRUE(contains(finished.err, "App failed to load")) << spec << finished;
    }
    expect_failure({"probe:absent"}, 4, "Failed to find attribute 'absent' in 'probe'.");
    expect_failure({"probe:nothing"}, 4, "Failed to find application object");
    expect_failure({"probe:number"}, 4, "Application object must be callable.");
}

TEST(ApplicationSpec, EndsWithThreeAndATracebackWhenTheModuleDoesNotImport) {
    const TempDir scratch;
    scratch.write("syntax.py", "def (\n");
    scratch.write("raising.py", "raise RuntimeError('import broken on purpose')\n");
    const auto fails = [&](const std::string& spec, std::string_view says) {
        expect_failure({"--chdir", scratch.path(), spec}, 3, says);
        expect_failure({"--chdir", scratch.path(), spec}, 3, "Worker failed to boot");
    };
    fails("absent_module:app", "No module named 'absent_module'");
    fails("syntax:app", "SyntaxError");
    fails("raising:app", "RuntimeError: import broken on purpose");
    expect_failure({"--chdir", scratch.path(), "raising:app"}, 3,
                   "Traceback (most recent call last)");
    expect_failure({"-w", "3", "--chdir", scratch.path(), "raising:app"}, 3, "failed to boot");
}

// The config file patches Python, or gevent did so in the arbiter before HUP asked for gthread.
TEST(Threads, ThatAreReplacedByGreenletsAreRefused) {
    SKIP_ON_GUNICORN("it never answers");
    const TempDir scratch;
    for (const auto& [library, patch] :
         {std::pair("gevent", "from gevent import monkey; monkey.patch_all()\n"),
          std::pair("eventlet", "import eventlet; eventlet.monkey_patch()\n")})
        expect_failure(
            {"-c", scratch.write("conf.py", patch), "--threads", "2", "-b", "127.0.0.1:0",
             "probe:app"},
            3, std::string("worker class gthread needs Python's own threads, but ") + library);
}

TEST(ApplicationSpec, ExplainsAFileName) {
    expect_failure({"probe.py"}, 3, "did you mean 'probe:application'?");
}

TEST(ApplicationSpec, MustBeThere) {
    expect_failure({}, 1, "No application module specified.");
}

TEST(CommandLine, AnswersHelpAndVersion) {
    const Finished help = run_server({"--help"});
    EXPECT_EQ(help.code, 0) << help;
    for (const char* option : {"--bind", "--workers", "--worker-class", "--access-logfile",
                               "--graceful-timeout", "--check-config"}) {
        EXPECT_TRUE(contains(help.out, option)) << option;
    }
    const Finished version = run_server({"--version"});
    EXPECT_EQ(version.code, 0) << version;
    EXPECT_TRUE(contains(version.out, is_gunicorn() ? "gunicorn (version " : "gcorn (version "))
        << version;
    EXPECT_EQ(run_server({"-h"}).out, help.out);
    EXPECT_EQ(run_server({"-v"}).out, version.out);
    for (const auto& [words, out] : {std::pair{"--help", help.out}, {"-w 2 -v", version.out}}) {
        const Finished finished = run_server({"absent:app"}, {{"GUNICORN_CMD_ARGS", words}});
        EXPECT_EQ(finished.code, 0) << words << finished;
        EXPECT_EQ(finished.out, out) << words;
    }
}

TEST(CommandLine, EndsWithTwoOnUsageErrors) {
    expect_failure({"--no-such-option", "probe:app"}, 2, "--no-such-option");
    expect_failure({"-w", "many", "probe:app"}, 2, "many");
    expect_failure({"probe:app", "-w"}, 2, "-w");
    expect_failure({"probe:app"}, 2, "--no-such-option",
                   {{"GUNICORN_CMD_ARGS", "--no-such-option"}});
}

TEST(CommandLine, EndsWithOneOnRefusedValues) {
    expect_failure({"-w", "-1", "probe:app"}, 1, "-1");
    expect_failure({"-c", "/nonexistent/conf.py", "probe:app"}, 1, "'/nonexistent/conf.py'");
    expect_failure({"--chdir", "/nonexistent", "probe:app"}, 1, "/nonexistent");
    expect_failure({"-k", "nonsense", "probe:app"}, 1, "nonsense");
    expect_failure({"-b", "127.0.0.1:port", "probe:app"}, 1, "port");
    expect_failure({"--access-logfile", "/nonexistent/log", "probe:app"}, 1, "/nonexistent/log");
    expect_failure({"-e", "NO_EQUALS", "probe:app"}, 1, "NO_EQUALS");
    expect_failure(
        {"probe:app"}, 1,
        is_gunicorn() ? "No closing quotation" : "GUNICORN_CMD_ARGS: No closing quotation",
        {{"GUNICORN_CMD_ARGS", "--name 'two words"}});
}

TEST(CommandLine, TakesEveryFormOfAnOption) {
    for (const std::vector<std::string>& args :
         {std::vector<std::string>{"-w2"}, {"-w", "2"}, {"--workers=2"}, {"--workers", "2"}}) {
        const Server server({.args = args});
        EXPECT_TRUE(server.has_workers(2)) << args[0] << server.story();
    }
    const Server server({.args = {"--thread", "1", "-w", "2", "--"}});  // a unique prefix
    EXPECT_TRUE(server.has_workers(2)) << server.story();
}

TEST(CommandLine, WinsOverTheEnvironmentAndThatOverTheConfigFile) {
    const TempDir scratch;
    const std::string config =
        scratch.write("conf.py", "workers = 3\nraw_env = ['WHO=config file']\n");
    const auto options = [&](const std::vector<std::string>& args, const std::string& cmd_args) {
        ServerOptions result{.args = {"-c", config}};
        result.args.insert(result.args.end(), args.begin(), args.end());
        if (!cmd_args.empty()) result.env["GUNICORN_CMD_ARGS"] = cmd_args;
        return result;
    };
    {
        const Server file(options({}, ""));
        EXPECT_TRUE(file.has_workers(3)) << file.story();
        EXPECT_EQ(file.get("/variable?name=WHO").body, "config file");
    }
    {
        const Server environment(options({}, "-w 2 -e 'WHO=the environment'"));
        EXPECT_TRUE(environment.has_workers(2)) << environment.story();
        EXPECT_EQ(environment.get("/variable?name=WHO").body, "the environment");
    }
    const Server line(options({"-w", "1", "-e", "WHO=command line"}, "-w 2 -e WHO=x"));
    EXPECT_TRUE(line.has_workers(1)) << line.story();
    EXPECT_EQ(line.get("/variable?name=WHO").body, "command line");
}

TEST(CommandLine, TakesTheNumberOfWorkersFromTheEnvironment) {
    ServerOptions options;
    options.env["WEB_CONCURRENCY"] = "2";
    const Server server(options);
    EXPECT_TRUE(server.has_workers(2)) << server.story();
}

TEST(ConfigFile, IsFoundInTheDirectoryOfTheStart) {
    const TempDir scratch;
    scratch.write("gunicorn.conf.py", "raw_env = ['FOUND=yes']\nchdir = '" + apps_dir() + "'\n");
    ServerOptions options;
    options.directory = scratch.path();
    const Server server(options);
    EXPECT_EQ(server.get("/variable?name=FOUND").body, "yes") << server.story();
}

TEST(ConfigFile, EndsTheStartWithATracebackWhenItIsBroken) {
    const TempDir scratch;
    const std::string config = scratch.write("conf.py", "workers = 1\nraise ValueError('conf')\n");
    expect_failure({"-c", config, "probe:app"}, 1, "Failed to read config file: " + config);
    expect_failure({"-c", config, "probe:app"}, 1, "ValueError: conf");
    const std::string wrong = scratch.write("wrong.py", "workers = 'several'\n");
    expect_failure({"-c", wrong, "probe:app"}, 1, "several");
}

TEST(CheckConfig, SaysNothingWhenAllIsWell) {
    const Finished finished = run_server({"--check-config", "probe:app"});
    EXPECT_EQ(finished.code, 0) << finished;
    EXPECT_EQ(finished.out, "") << finished;
}

TEST(CheckConfig, TellsWhatHasNoEffect) {
    SKIP_ON_GUNICORN("it says nothing");
    const Finished finished =
        run_server({"--statsd-prefix", "mine", "--check-config", "probe:app"});
    EXPECT_EQ(finished.code, 0) << finished;
    EXPECT_TRUE(contains(finished.err, "statsd_prefix has no effect while statsd_host is None"))
        << finished;
}

TEST(CheckConfig, LooksForTheLibraryOfTheWorkerClass) {
    SKIP_ON_GUNICORN("it looks at the start only");
    const TempDir scratch;
    scratch.write("gevent.py", "__version__ = '1.4.0'\n");
    expect_failure({"--check-config", "-k", "gevent", "probe:app"}, 1,
                   "worker class gevent needs gevent 20.9 or newer, found 1.4",
                   {{"PYTHONPATH", scratch.path()}});
}

TEST(CheckConfig, LoadsTheApplication) {
    const Finished finished = run_server({"--check-config", "absent_module:app"});
    EXPECT_EQ(finished.code, 1) << finished;
    EXPECT_TRUE(contains(finished.err, "absent_module")) << finished;
}

TEST(CheckConfig, LoadsTheApplicationAsServingDoes) {
    SKIP_ON_GUNICORN("it knows neither pythonpath nor raw_env then");
    const TempDir scratch;
    const std::string venv = scratch / "venv";
    make_venv(venv);  // which has no real gunicorn package
    scratch.write("lib/in_lib.py", "");
    for (const char* needs : {"from gunicorn.glogging import Logger", "import in_lib",
                              "import os; os.environ['GIVEN']"}) {
        scratch.write("needy.py", std::string(needs) + "\nfrom probe import app\n");
        const std::vector<std::string> args = {"--check-config", "--chdir",  scratch.path(),
                                               "--pythonpath",   "lib",      "-e",
                                               "GIVEN=yes",      "needy:app"};
        const Finished finished = run_server(args, {{"VIRTUAL_ENV", venv}});
        EXPECT_EQ(finished.code, 0) << needs << finished;
    }
}

TEST(CheckConfig, FindsTheFilesOfAStartWithoutMakingAny) {
    SKIP_ON_GUNICORN("it does not look");
    const TempDir scratch;
    for (const auto& [option, setting] : std::vector<std::pair<std::string, std::string>>{
             {"--error-logfile", "errorlog"},
             {"--access-logfile", "accesslog"},
             {"--pid", "pidfile"},
             {"--log-config", "logconfig"},
             {"--log-config-json", "logconfig_json"}}) {
        const std::string path = scratch / "absent/file";
        expect_failure({"--check-config", option, path, "probe:app"}, 1,
                       "'" + path + "' No such file or directory (" + setting + ")");
        if (setting.starts_with("logconfig")) continue;
        expect_failure({"--check-config", option, scratch.path(), "probe:app"}, 1,
                       "'" + scratch.path() + "' Is a directory (" + setting + ")");
        const Finished good = run_server({"--check-config", option, scratch / "file", "probe:app"});
        EXPECT_EQ(good.code, 0) << good;
        EXPECT_FALSE(std::filesystem::exists(scratch / "file")) << option;
    }
    expect_failure({"--check-config", "-b", "unix:" + (scratch / "absent/socket"), "probe:app"}, 1,
                   "'" + (scratch / "absent/socket") + "' No such file or directory (bind)");
    for (const auto& [logger, why] : std::vector<std::pair<std::string, std::string>>{
             {"absent.Logger", "Cannot import 'absent.Logger': No module named 'absent'"},
             {"collections.OrderedDict",
              "<class 'collections.OrderedDict'> is not a subclass of "
              "gunicorn.glogging.Logger"}})
        expect_failure({"--check-config", "--logger-class", logger, "probe:app"}, 1,
                       "logger_class: " + why);
}

TEST(Python, ThatDoesNotStartSaysWhy) {
    SKIP_ON_GUNICORN("its words are Python's");
    const Finished missing = run_server({"probe:app"}, {{"PYTHONHOME", "/nonexistent"}});
    EXPECT_EQ(missing.code, 1) << missing;
    EXPECT_TRUE(contains(missing.err, "No module named 'encodings' (is the standard library of "))
        << missing;
    const TempDir scratch;
    const std::string file = scratch.write("usercustomize.py", "raise SystemExit(5)\n");
    const Finished ended = run_server({"probe:app"}, {{"PYTHONPATH", scratch.path()}});
    EXPECT_EQ(ended.code, 1) << ended;
    EXPECT_TRUE(contains(ended.err, "\nError: start Python: ")) << ended;
    EXPECT_TRUE(contains(ended.err, file)) << ended;
    EXPECT_TRUE(contains(ended.err, "SystemExit: 5")) << ended;
}

TEST(Output, ThatCannotBeWrittenIsAnError) {
    SKIP_ON_GUNICORN("its words are others");
    for (const std::string option : {"--help", "--version", "--print-config probe:app"}) {
        const Finished full =
            run({"/bin/sh", "-c", "'" + server_command().at(0) + "' " + option + " >/dev/full"}, {},
                apps_dir());
        EXPECT_EQ(full.code, 1) << option << full;
        EXPECT_TRUE(contains(full.err, "No space left on device")) << option << full;
    }
}

TEST(Directory, ThatIsGoneIsNamedAsSuch) {
    SKIP_ON_GUNICORN("its words are others");
    const TempDir scratch;
    const Finished gone = run({"/bin/sh", "-c",
                               "mkdir d && cd d && rmdir ../d && exec '" + server_command().at(0) +
                                   "' --check-config probe:app"},
                              {}, scratch.path());
    EXPECT_EQ(gone.code, 1) << gone;
    EXPECT_TRUE(contains(gone.err, "the current directory is gone (chdir; ")) << gone;
}

TEST(Listening, EndsWithOneWhenTheAddressIsTaken) {
    const Server first;
    const Finished second =
        run_server({"-b", "127.0.0.1:" + std::to_string(first.at().port), "probe:app"});
    EXPECT_EQ(second.code, 1) << second;
    EXPECT_TRUE(contains(second.err, "Connection in use: ")) << second;
    EXPECT_TRUE(contains(second.err, "Can't connect to ")) << second;
    EXPECT_EQ(first.get("/").status, 200);
}

TEST(Listening, NamesWhyAHostIsNoAddress) {
    const Finished finished = run_server({"-b", "no such host:1", "probe:app"});
    EXPECT_EQ(finished.code, 1) << finished;
    EXPECT_TRUE(contains(finished.err, "connection to ('no such host', 1) failed: ")) << finished;
    EXPECT_TRUE(contains(finished.err, ::gai_strerror(EAI_NONAME))) << finished;
}

TEST(Listening, ReplacesAStaleSocketFileButNoOtherFile) {
    const TempDir scratch;
    const std::string path = scratch.write("file", "precious");
    const Finished finished = run_server({"-b", "unix:" + path, "probe:app"});
    EXPECT_EQ(finished.code, 1) << finished;
    EXPECT_EQ(read_file(path), "precious");
    const std::string stale = scratch / "stale";
    run({python(), "-c", "import socket; socket.socket(socket.AF_UNIX).bind('" + stale + "')"});
    ServerOptions options;
    options.args = {"-b", "unix:" + stale};
    const Server server(options);
    EXPECT_EQ(fetch({.path = stale}, "GET", "/").status, 200) << server.story();
}

TEST(PidFile, IsWrittenAndRemoved) {
    const TempDir scratch;
    const std::string path = scratch / "pid";
    Server server({.args = {"-p", path}});
    ASSERT_EQ(server.get("/").status, 200);
    EXPECT_EQ(read_file(path), std::to_string(server.pid()) + "\n");
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Daemon, DetachesAndWritesItsPidFile) {
    const TempDir scratch;
    const int port = free_port();
    const Finished started =
        run_server({"-D", "-p", scratch / "pid", "-b", "127.0.0.1:" + std::to_string(port),
                    "--log-file", scratch / "log", "probe:app"});
    EXPECT_EQ(started.code, 0) << started;
    ASSERT_TRUE(eventually([&] { return Client(Endpoint{.port = port}).connected(); }))
        << started << read_file(scratch / "log");
    const pid_t pid = std::atoi(read_file(scratch / "pid").c_str());
    ASSERT_GT(pid, 1) << read_file(scratch / "log");
    EXPECT_EQ(fetch({.port = port}, "GET", "/").status, 200);
    EXPECT_NE(::getsid(pid), ::getsid(0)) << "still in our session";
    ::kill(pid, SIGTERM);
    EXPECT_TRUE(eventually([&] { return !is_alive(pid); })) << read_file(scratch / "log");
}

TEST(Daemon, ThatCannotStartTellsTheTerminalOrItsLog) {
    SKIP_ON_GUNICORN("it says nothing, and ends with 0");
    const TempDir scratch;
    const std::string log = scratch / "log";
    const int port = free_port();
    const Server other({.args = {"-b", "127.0.0.1:" + std::to_string(port)}});
    const auto expect_daemon_to_fail = [&](std::vector<std::string> args, int code,
                                           const std::string& why) {
        args.insert(args.begin(), {"-D", "--log-file", log});
        expect_failure(args, code, why);
    };
    expect_daemon_to_fail({"--access-logfile", scratch / "absent/log", "probe:app"}, 1,
                          "'" + (scratch / "absent/log") + "' isn't writable");
    expect_daemon_to_fail({"--certfile", scratch / "absent.pem", "probe:app"}, 1,
                          "certfile '" + (scratch / "absent.pem") + "': No such file");
    expect_daemon_to_fail({"-b", "127.0.0.1:" + std::to_string(port), "probe:app"}, 1,
                          "Error: the daemon has ended with 1; " + log + " says why\n");
    EXPECT_TRUE(contains(read_file(log), "Address already in use")) << read_file(log);
    const std::string bind = "unix:" + (scratch / "socket");
    expect_daemon_to_fail({"-b", bind, "no_such_module:app"}, 3,
                          "Error: the daemon has ended with 3; " + log + " says why\n");
    expect_failure({"-D", "no_such_module:app"}, 3, "set errorlog to a file to see why");
    EXPECT_TRUE(contains(read_file(log), "No module named 'no_such_module'")) << read_file(log);
    scratch.write("ends.py", "import os\nos.kill(os.getpid(), 9)\n");
    expect_daemon_to_fail({"-b", bind, "--preload", "--chdir", scratch.path(), "ends:app"}, 1, "");
}

TEST(Daemon, ThatStartsSlowlyIsNotWaitedFor) {
    SKIP_ON_GUNICORN("it never waits");
    const TempDir scratch;
    scratch.write("slow.py", "import signal\nsignal.pause()\n");
    const Finished started = run_server({"-D", "-b", "unix:" + (scratch / "socket"), "-p",
                                         scratch / "pid", "--chdir", scratch.path(), "slow:app"});
    EXPECT_EQ(started.code, 0) << started;
    const pid_t pid = std::atoi(read_file(scratch / "pid").c_str());
    ASSERT_GT(pid, 1);
    ::kill(pid, SIGTERM);
    EXPECT_TRUE(eventually([&] { return !is_alive(pid); }));
}

TEST(Daemon, ThatCannotForkEndsWithOne) {
    SKIP_ON_GUNICORN("a traceback there");
    const TempDir scratch;
    const std::string config =
        scratch.write("conf.py",
                      "import os, resource\n"
                      "if os.geteuid() == 0: os.setuid(54321)\n"  // root has no limit
                      "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n");
    // "/", because that user may not enter the directory of the tests.
    expect_failure({"-D", "-c", config, "--chdir", "/", "wsgiref.simple_server:demo_app"}, 1,
                   "Error: fork: Resource temporarily unavailable\n");
}

TEST(VirtualEnvironment, IsHonoured) {
    SKIP_ON_GUNICORN("it runs in the interpreter that was started");
    const TempDir scratch;
    const std::string venv = scratch / "venv";
    const std::string relative = make_venv(venv).substr(scratch.path().size() + 1);
    scratch.write(relative + "/only_in_venv.py", "from probe import app\n");
    for (const std::map<std::string, std::string>& env :
         {std::map<std::string, std::string>{{"VIRTUAL_ENV", venv}},
          std::map<std::string, std::string>{{"PATH", venv + "/bin:/usr/bin:/bin"}}}) {
        const Server server({.app = "only_in_venv:app", .env = env});
        EXPECT_TRUE(contains(server.get("/interpreter").body, venv)) << server.story();
    }
    // As a unit file names it: no environment is activated.
    const std::string linked = venv + "/bin/gcorn";
    ASSERT_EQ(::symlink(server_command().at(0).c_str(), linked.c_str()), 0);
    const Finished checked =
        run({linked, "--check-config", "--pythonpath", apps_dir(), "only_in_venv:app"});
    EXPECT_EQ(checked.code, 0) << checked;
    expect_failure({"only_in_venv:app"}, 3, "No module named 'only_in_venv'");
}

}  // namespace
}  // namespace gcorn::e2e
