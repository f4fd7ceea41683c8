#include "python/pyref.h"

#include "python/logging.h"

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <thread>

#include "python/config_file.h"
#include "python/embedded.h"
#include "tests/support/apply.h"
#include "tests/support/python_fixture.h"

namespace gcorn {
namespace {

class LoggingTest : public PythonTest {
protected:
    void SetUp() override {
        PythonTest::SetUp();
        open("error.log", "access.log");
    }

    void open(const std::string& errorlog, const std::string& accesslog) {
        LogOptions options;
        options.errorlog = errorlog;
        options.accesslog = accesslog;
        ASSERT_TRUE(log_.open(options));
    }

    /// The Config that the config file `text` makes.
    Config config(const std::string& text) {
        write_file("conf.py", "errorlog = 'error.log'\naccesslog = 'access.log'\n" + text);
        auto file = load_config_file("conf.py", directory_);
        EXPECT_TRUE(file) << (file ? "" : file.message());
        Config cfg;
        if (!file) return cfg;
        for (const auto& [name, value] : file->values) {
            Status applied = testing::apply(cfg, name, value);
            EXPECT_TRUE(applied) << (applied ? "" : applied.message());
        }
        return cfg;
    }

    /// configure(), with the process's Logger opened as the server would.
    Status configure(const std::string& text) {
        const Config cfg = config(text);
        if (logging_takes_over(cfg)) open("", "");
        return logging_.configure(cfg);
    }

    [[nodiscard]] std::string errors() const { return read_file("error.log"); }
    [[nodiscard]] std::string accesses() const { return read_file("access.log"); }

    Logger log_;
    PythonLogging logging_{log_};
};

const char* const kErrorToFile =
    "logconfig_dict = {'version': 1,\n"
    "  'formatters': {'f': {'format': '%(name)s %(levelname)s %(message)s'}},\n"
    "  'handlers': {'h': {'class': 'logging.FileHandler', 'formatter': 'f',\n"
    "                     'filename': 'python.log'}},\n"
    "  'root': {'handlers': ['h'], 'level': 'INFO'},\n"
    "  'loggers': {'gunicorn.error': {'handlers': ['h'], 'level': 'INFO', 'propagate': False},\n"
    "              'gunicorn.access': {'handlers': ['h'], 'propagate': False}}}\n";

// --- C++ writes the logs ---

TEST_F(LoggingTest, CostsNothingUntilLoggingIsImported) {
    ASSERT_TRUE(
        run_python("for name in [n for n in sys.modules if n.partition('.')[0] == 'logging' "
                   "or n.startswith('_gcorn_l')]: del sys.modules[name]"));
    ASSERT_TRUE(logging_.configure(config("")));
    EXPECT_EQ(eval_python("'logging' in sys.modules"), "False");
    ASSERT_TRUE(run_python("import logging\nlogging.getLogger('gunicorn.error').info('late')"));
    EXPECT_NE(errors().find("late"), std::string::npos);
    EXPECT_EQ(eval_python("type(logging.__spec__.loader).__name__"), "SourceFileLoader");
}

TEST_F(LoggingTest, LeadsBothLoggersToTheFilesOfTheServer) {
    ASSERT_TRUE(configure("loglevel = 'warning'"));
    ASSERT_TRUE(
        run_python("import logging\n"
                   "logging.getLogger('gunicorn.error').warning('disk %d%%', 90)\n"
                   "logging.getLogger('gunicorn.error').info('not this')\n"
                   "logging.getLogger('gunicorn.access').info('GET /')\n"));
    const std::string prefix = "] [" + std::to_string(::getpid()) + "] [WARNING] disk 90%\n";
    EXPECT_NE(errors().find(prefix), std::string::npos) << errors();
    EXPECT_EQ(errors().find("not this"), std::string::npos);
    EXPECT_EQ(accesses(), "GET /\n");
    EXPECT_EQ(eval_python("logging.getLogger('gunicorn.error').level"), "30");
    EXPECT_EQ(eval_python("logging.getLogger('gunicorn.error').propagate"), "False");
    EXPECT_EQ(eval_python("logging.getLogger('gunicorn.access').propagate"), "False");
    EXPECT_FALSE(logging_.takes_over());
}

TEST_F(LoggingTest, LendsItsHandlersToApplications) {
    ASSERT_TRUE(configure(""));
    ASSERT_TRUE(
        run_python("import logging\n"
                   "app = logging.getLogger('shop')\n"
                   "app.handlers = logging.getLogger('gunicorn.error').handlers\n"
                   "app.setLevel(logging.DEBUG)\n"
                   "app.debug('cart of %s', 'ann')\n"
                   "app.error('sold out')\n"));
    EXPECT_NE(errors().find("] [DEBUG] cart of ann\n"), std::string::npos) << errors();
    EXPECT_NE(errors().find("] [ERROR] sold out\n"), std::string::npos) << errors();
}

TEST_F(LoggingTest, WritesTracebacksInOneRecord) {
    ASSERT_TRUE(configure(""));
    ASSERT_TRUE(
        run_python("import logging\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n"
                   "    logging.getLogger('gunicorn.error').exception('sum failed')\n"));
    EXPECT_NE(errors().find("[ERROR] sum failed\nTraceback (most recent call last):\n"),
              std::string::npos)
        << errors();
    EXPECT_TRUE(errors().ends_with("ZeroDivisionError: division by zero\n"));
}

TEST_F(LoggingTest, HonoursAFormatterSetByTheApplication) {
    ASSERT_TRUE(configure(""));
    ASSERT_TRUE(
        run_python("import logging\nhandler = logging.getLogger('gunicorn.error').handlers[0]\n"
                   "handler.setFormatter(logging.Formatter('%(name)s: %(message)s'))\n"
                   "logging.getLogger('gunicorn.error').error('mine')\n"
                   "handler.stream.write('raw text')\n"
                   "handler.flush()\n"
                   "handler.setFormatter(None)\n"));
    EXPECT_EQ(errors(), "gunicorn.error: mine\nraw text\n");
}

TEST_F(LoggingTest, FollowsALoggerThatTheApplicationHasChanged) {
    EXPECT_FALSE(logging_.follow_loggers()) << "nobody has imported logging";
    for (const char* change :
         {"error.addHandler(logging.NullHandler())", "access.handlers = [logging.NullHandler()]",
          "access.handlers = []", "access.addFilter(lambda record: True)",
          "error.handlers[0].addFilter(lambda record: True)", "error.setLevel('DEBUG')",
          "access.setLevel('ERROR')", "access.handlers[0].setLevel('ERROR')",
          "error.handlers[0].setFormatter(logging.Formatter('%(message)s'))",
          "access.propagate = True"}) {
        open("error.log", "access.log");
        ASSERT_TRUE(configure(""));
        run_python(
            "import logging\n"
            "error, access = map(logging.getLogger, ('gunicorn.error', 'gunicorn.access'))\n"
            "logging.getLogger('site').handlers = error.handlers\n"
            "made = [(log, log.handlers[0]) for log in (error, access)]\n");
        EXPECT_FALSE(logging_.follow_loggers()) << change;
        EXPECT_TRUE(log_.has_access()) << change;
        run_python(change);
        EXPECT_TRUE(logging_.follow_loggers()) << change;
        EXPECT_TRUE(logging_.takes_over()) << change;
        EXPECT_FALSE(log_.has_access()) << change << ": Python makes the lines";
        run_python(
            "for log, handler in made:\n"
            "    log.handlers, log.filters, log.propagate = [handler], [], False\n"
            "    log.setLevel('INFO')\n"
            "    handler.filters, handler.formatter, handler.level = [], None, 0\n");
    }
    ASSERT_TRUE(configure(""));
    EXPECT_FALSE(logging_.takes_over()) << "a reload begins anew";
}

TEST_F(LoggingTest, MakesNoAccessRecordsWithoutAnAccessLog) {
    open("error.log", "");
    ASSERT_TRUE(configure("accesslog = None"));
    run_python("import logging\nlogging.getLogger('gunicorn.error').setLevel('WARNING')\n");
    EXPECT_FALSE(logging_.follow_loggers());
    EXPECT_TRUE(logging_.takes_over());
    log_.info("not wanted");
    log_.warning("wanted");
    EXPECT_EQ(errors().find("not wanted"), std::string::npos) << errors();
    EXPECT_NE(errors().find("wanted"), std::string::npos) << errors();
}

TEST_F(LoggingTest, LeavesAChangedLoggerAsItIsOnReload) {
    ASSERT_TRUE(configure(""));
    run_python(
        "import logging\n"
        "error, access = map(logging.getLogger, ('gunicorn.error', 'gunicorn.access'))\n"
        "access.handlers, access.propagate = [logging.NullHandler()], True\n"
        "access.setLevel('WARNING')\n"
        "was = access.handlers[0]\n");
    ASSERT_TRUE(configure("loglevel = 'warning'"));
    EXPECT_EQ(eval_python("access.handlers == [was], access.propagate, access.level, error.level"),
              "(True, True, 30, 30)");
    ASSERT_TRUE(configure(kErrorToFile));
    EXPECT_EQ(eval_python("was in access.handlers, access.propagate"), "(False, False)");
}

TEST_F(LoggingTest, SendsItsRecordsThroughAChangedLoggerOnce) {
    ASSERT_TRUE(configure(""));
    run_python(
        "import logging\n"
        "error, access = map(logging.getLogger, ('gunicorn.error', 'gunicorn.access'))\n"
        "error.addFilter(lambda record: 'noise' not in record.getMessage())\n");
    ASSERT_TRUE(logging_.follow_loggers());
    log_.info("noise");
    log_.debug("below the level");
    log_.warning("a record of the server");
    run_python("error.info('one of the application')\naccess.info('a line of access')\n");
    log_.write_raw("of wsgi.errors\n");
    EXPECT_TRUE(std::regex_match(
        errors(), std::regex("\\[20[^\n]+\\] \\[\\d+\\] \\[WARNING\\] a record of the server\n"
                             "\\[20[^\n]+\\] \\[\\d+\\] \\[INFO\\] one of the application\n"
                             "of wsgi.errors\n")))
        << errors();
    EXPECT_EQ(accesses(), "a line of access\n");
    run_python("error.removeFilter(error.filters[0])\n");
}

TEST_F(LoggingTest, WritesJsonWhateverTheApplicationDoesToTheLoggers) {
    ASSERT_TRUE(configure("error_log_format = 'json'"));
    run_python("import logging\nlogging.getLogger('gunicorn.access').setLevel('ERROR')\n");
    EXPECT_FALSE(logging_.follow_loggers());
}

TEST_F(LoggingTest, WritesTextThatIsNoUtf8) {
    ASSERT_TRUE(configure(""));
    ASSERT_TRUE(
        run_python("import logging\n"
                   "logging.getLogger('gunicorn.error').error('a\\udcffb')\n"));
    EXPECT_NE(errors().find("a\\udcffb"), std::string::npos) << errors();
}

TEST_F(LoggingTest, GivesHooksALogWithTheMethodsOfGunicorns) {
    ASSERT_TRUE(configure("loglevel = 'debug'"));
    open("error.log", "access.log");
    ASSERT_TRUE(
        run_python("import _gcorn_logging\nlog = _gcorn_logging.current()\n"
                   "for level in 'debug info warning error critical'.split():\n"
                   "    getattr(log, level)('%s now', level)\n"
                   "log.log('warning', 'by name')\nlog.log(40, 'by number')\n"
                   "try:\n    raise KeyError('k')\nexcept KeyError:\n"
                   "    log.exception('caught')\n"));
    for (const char* line :
         {"[INFO] info now\n", "[CRITICAL] critical now\n", "[WARNING] by name\n",
          "[ERROR] by number\n", "[ERROR] caught\nTraceback"})
        EXPECT_NE(errors().find(line), std::string::npos) << line << errors();
    EXPECT_EQ(eval_python("log.error_log.name + ' ' + log.access_log.name"),
              "gunicorn.error gunicorn.access");
}

// --- Python's logging takes over ---

TEST_F(LoggingTest, KnowsWhenPythonTakesOver) {
    EXPECT_FALSE(logging_takes_over(config("")));
    EXPECT_FALSE(logging_takes_over(config("logger_class = 'gunicorn.glogging.Logger'")));
    const Config same = config("import gunicorn\nlogger_class = gunicorn.glogging.Logger");
    EXPECT_FALSE(logging_takes_over(same));
    EXPECT_EQ(same.logger_class, HookRef{}) << "Python code is told the same";
    EXPECT_FALSE(logging_takes_over(config("logconfig_dict = {}")));
    EXPECT_TRUE(logging_takes_over(config("logger_class = 'site.Logger'")));
    EXPECT_TRUE(logging_takes_over(config(kErrorToFile)));
    EXPECT_TRUE(logging_takes_over(config("logconfig = 'log.ini'")));
    EXPECT_TRUE(logging_takes_over(config("logconfig_json = 'log.json'")));
}

TEST_F(LoggingTest, TakesAPatchedLoggerClassForOneOfTheUsers) {
    EXPECT_FALSE(logging_takes_over(config("from gunicorn.glogging import Logger")));
    for (const char* patch : {"error_fmt = 'x'", "datefmt = ''", "access = lambda *_: None",
                              "access_fmt = 'gu.acc ' + Logger.access_fmt"}) {
        const std::string name(patch, std::string_view(patch).find(' '));
        ASSERT_TRUE(
            run_python("from gunicorn.glogging import Logger\nbefore = Logger." + name + "\n"));
        EXPECT_TRUE(logging_takes_over(
            config("from gunicorn.glogging import Logger\nLogger." + std::string(patch) + "\n")))
            << patch;
        ASSERT_TRUE(run_python("Logger." + name + " = before\n"));
    }
    EXPECT_FALSE(logging_takes_over(config("from gunicorn.glogging import Logger")));
}

TEST_F(LoggingTest, RefusesJsonThatPythonWouldNotWrite) {
    for (const char* format : {"access_log_format = 'json'", "access_log_format = 'json:s,D'",
                               "error_log_format = 'json'"}) {
        const Status refused = configure(std::string(kErrorToFile) + format + "\n");
        ASSERT_FALSE(refused) << format;
        EXPECT_EQ(refused.error().code, 1);
        EXPECT_EQ(refused.message().rfind("json is a format of the built-in logger", 0), 0U);
        EXPECT_TRUE(configure(format)) << format;
    }
}

TEST_F(LoggingTest, SendsTheServersRecordsThroughADictionary) {
    ASSERT_TRUE(configure(kErrorToFile));
    EXPECT_TRUE(logging_.takes_over());
    log_.warning("worker %d hangs, 100%% busy", 7);
    log_.debug("below the level");
    std::thread([this] { log_.info("from a native thread"); }).join();
    EXPECT_EQ(read_file("python.log"),
              "gunicorn.error WARNING worker 7 hangs, 100% busy\n"
              "gunicorn.error INFO from a native thread\n");
    EXPECT_EQ(errors(), "");
}

TEST_F(LoggingTest, GivesPythonsFormattersTheExceptionItself) {
    ASSERT_TRUE(
        configure("import logging\n"
                  "class Keys(logging.Formatter):\n"
                  "    def format(self, record):\n"
                  "        error = record.exc_info and record.exc_info[1]\n"
                  "        return f'{record.levelname} {record.getMessage()} {error!r}'\n"
                  "logconfig_dict = {'version': 1, 'formatters': {'f': {'()': Keys}},\n"
                  "  'handlers': {'h': {'class': 'logging.FileHandler', 'formatter': 'f',\n"
                  "                     'filename': 'python.log'}},\n"
                  "  'root': {}, 'loggers': {'gunicorn.error': {'handlers': ['h']}}}\n"));
    WithGil gil;
    PyErr_SetString(PyExc_KeyError, "first");
    log_python_error(log_, Level::Error, "Error handling request GET /%s");
    PyErr_SetString(PyExc_KeyError, "second");
    log_python_error(log_, Level::Warning, "A hook failed");
    log_.error("no exception");
    EXPECT_EQ(read_file("python.log"),
              "ERROR Error handling request GET /%s KeyError('first')\n"
              "WARNING A hook failed KeyError('second')\n"
              "ERROR no exception None\n");
}

TEST_F(LoggingTest, KeepsAPendingExceptionOfWhoeverLogs) {
    ASSERT_TRUE(configure(kErrorToFile));
    WithGil gil;
    PyErr_SetString(PyExc_KeyError, "pending");
    log_.error("during");
    ASSERT_NE(PyErr_ExceptionMatches(PyExc_KeyError), 0);
    PyErr_Clear();
    EXPECT_EQ(read_file("python.log"), "gunicorn.error ERROR during\n");
}

TEST_F(LoggingTest, ReadsAnIniFileThatKnowsWhereItIs) {
    write_file("log.ini",
               "[loggers]\nkeys=root,gunicorn.error\n[handlers]\nkeys=file\n[formatters]\nkeys=f\n"
               "[logger_root]\nlevel=INFO\nhandlers=file\n"
               "[logger_gunicorn.error]\nlevel=INFO\nhandlers=file\npropagate=0\n"
               "qualname=gunicorn.error\n"
               "[handler_file]\nclass=FileHandler\nformatter=f\nargs=('%(here)s/ini.log', 'a')\n"
               "[formatter_f]\nformat=%(levelname)s:%(message)s\n");
    ASSERT_TRUE(configure("logconfig = '" + directory_ + "/log.ini'"));
    log_.info("hello");
    EXPECT_EQ(read_file("ini.log"), "INFO:hello\n");
}

TEST_F(LoggingTest, MergesJsonOverItsDefaults) {
    write_file("log.json",
               R"({"formatters": {"generic": {"format": "json %(message)s"}}, "handlers": {
                   "console": {"class": "logging.FileHandler", "filename": "c.log"},
                   "error_console": {"class": "logging.FileHandler", "filename": "e.log",
                                     "formatter": "generic"}}})");
    ASSERT_TRUE(configure("logconfig_json = 'log.json'"));
    log_.info("hello");
    EXPECT_EQ(read_file("e.log"), "json hello\n");
    EXPECT_EQ(read_file("c.log"), "");
}

TEST_F(LoggingTest, PrefersTheDictionaryToTheFiles) {
    ASSERT_TRUE(configure(std::string(kErrorToFile) + "logconfig = 'absent.ini'\n"));
    log_.info("hello");
    EXPECT_EQ(read_file("python.log"), "gunicorn.error INFO hello\n");
}

TEST_F(LoggingTest, KeepsTheLoggersOfBeforeWhenAConfigurationIsBroken) {
    ASSERT_TRUE(configure(kErrorToFile));
    for (const char* broken :
         {"logconfig_dict = {'version': 1, 'handlers': {'h': {'class': 'no.Such'}}}",
          "logconfig = 'absent.ini'", "logconfig = 'broken.json'", "logconfig_json = 'broken.json'",
          "logger_class = 'no.such.Logger'", "logger_class = 'os.path'"}) {
        write_file("broken.json", "{");
        Status status = configure(broken);
        ASSERT_FALSE(status) << broken;
        const std::string setting(broken, std::string_view(broken).find(' '));
        EXPECT_TRUE(status.message().starts_with(setting + ": ")) << status.message();
        EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
        EXPECT_EQ(status.error().code, 1);
    }
    EXPECT_TRUE(logging_.takes_over());
    log_.info("still here");
    EXPECT_EQ(read_file("python.log"), "gunicorn.error INFO still here\n");
    EXPECT_EQ(eval_python("__import__('_gcorn').config().logconfig"), "None");
}

TEST_F(LoggingTest, ReturnsToTheServersFilesWhenTheConfigurationIsGone) {
    ASSERT_TRUE(configure(kErrorToFile));
    ASSERT_TRUE(configure(""));
    open("error.log", "access.log");
    EXPECT_FALSE(logging_.takes_over());
    log_.info("native again");
    ASSERT_TRUE(
        run_python("import logging\n"
                   "logging.getLogger('gunicorn.error').info('python, too')"));
    EXPECT_NE(errors().find("native again\n"), std::string::npos);
    EXPECT_NE(errors().find("python, too\n"), std::string::npos);
    EXPECT_EQ(read_file("python.log"), "");
}

TEST_F(LoggingTest, OpensThePythonHandlersFilesAgain) {
    ASSERT_TRUE(configure(kErrorToFile));
    log_.info("before");
    std::filesystem::rename("python.log", "python.log.1");
    log_.info("moved along");
    log_.reopen();
    log_.info("after");
    EXPECT_EQ(read_file("python.log.1"),
              "gunicorn.error INFO before\ngunicorn.error INFO moved along\n");
    EXPECT_EQ(read_file("python.log"), "gunicorn.error INFO after\n");
}

TEST_F(LoggingTest, SurvivesAHandlerThatRaises) {
    ASSERT_TRUE(
        configure("from gunicorn.glogging import Logger\n"
                  "class Broken(Logger):\n"
                  "    def error(self, *a): raise ValueError('cannot log')\n"
                  "logger_class = Broken\n"));
    ::testing::internal::CaptureStderr();
    log_.error("important");
    const std::string text = ::testing::internal::GetCapturedStderr();
    EXPECT_NE(text.find("important"), std::string::npos) << text;
    EXPECT_NE(text.find("ValueError: cannot log"), std::string::npos) << text;
}

// --- logger_class ---

/// What access() of the logger class gets, as Python source.
const char* const kAccessCall =
    "import _gcorn, _gcorn_logging\n"
    "environ = {'REQUEST_METHOD': 'GET', 'RAW_URI': PATH, 'SERVER_PROTOCOL': 'HTTP/1.1',\n"
    "           'REMOTE_ADDR': '10.0.0.9', 'HTTP_AUTHORIZATION': 'Basic YW5uOnB3',\n"
    "           'QUERY_STRING': 'a=1', 'PATH_INFO': PATH, 'shop.user': 'ann'}\n"
    "req = _gcorn.request({'headers': [('X-ID', '7'), ('REFERER', 'x\"y')], 'path': PATH})\n"
    "resp = _gcorn.response({'status': '200 OK', 'headers': 'Content-Type: text/plain\\r\\n',\n"
    "                        'sent': 12})\n"
    "_gcorn_logging.access(resp, req, environ, 2345678)\n";

TEST_F(LoggingTest, WritesAccessRecordsWithAllAtoms) {
    ASSERT_TRUE(configure(
        "access_log_format = '%(h)s %(u)s \"%(r)s\" %(s)s %(b)s %(B)s %(m)s %(U)s %(q)s %(H)s "
        "%(T)s %(M)s %(D)s %(L)s %({x-id}i)s %({Referer}i)s %({content-type}o)s "
        "%({shop.user}e)s %({none}i)s %(nonsense)s'\n"
        "import gunicorn\nclass Own(gunicorn.glogging.Logger): pass\nlogger_class = Own\n"));
    ASSERT_TRUE(run_python(std::string("PATH = '/a\\r\\nb'\n") + kAccessCall));
    EXPECT_EQ(accesses(),
              "10.0.0.9 ann \"GET /a\\r\\nb HTTP/1.1\" 200 12 12 GET /a\\r\\nb a=1 HTTP/1.1 "
              "2 2345 2345678 2.345678 7 x\\\"y text/plain ann - -\n");
}

TEST_F(LoggingTest, TellsTheUserWhateverTheCredentialsLackElse) {
    ASSERT_TRUE(
        configure("access_log_format = '%(u)s'\nimport gunicorn\n"
                  "class Own(gunicorn.glogging.Logger): pass\nlogger_class = Own\n"));
    const auto log_user = [&](const std::string& credentials) {
        std::string call = kAccessCall;
        const std::string given = "Basic YW5uOnB3";
        call.replace(call.find(given), given.size(), credentials);
        ASSERT_TRUE(run_python("PATH = '/'\n" + call));
    };
    log_user("basic YW5u");  // "ann"
    log_user("Basic OnB3");  // ":pw"
    log_user("Basic !");
    log_user("Basic");
    log_user("Bearer YW5uOnB3");
    EXPECT_EQ(accesses(), "ann\n-\n-\n-\n-\n");
}

TEST_F(LoggingTest, LetsASubclassFilterInSetup) {
    std::filesystem::copy_file(configs_directory() + "/custom_logger.py", "site_logger.py");
    ASSERT_TRUE(configure("logger_class = 'site_logger.CustomLogger'"));
    ASSERT_TRUE(run_python(std::string("PATH = '/health'\n") + kAccessCall));
    ASSERT_TRUE(run_python(std::string("PATH = '/'\n") + kAccessCall));
    EXPECT_EQ(accesses().find("/health"), std::string::npos);
    EXPECT_NE(accesses().find("GET / "), std::string::npos);
    ASSERT_TRUE(configure(""));
    EXPECT_EQ(eval_python("__import__('logging').getLogger('gunicorn.access').filters"), "[]");
}

TEST_F(LoggingTest, LeavesSyslogToTheServer) {
    ASSERT_TRUE(
        configure("import logging, logging.handlers\nfrom gunicorn import glogging\n"
                  "class Own(glogging.Logger):\n"
                  "    def setup(self, cfg):\n"
                  "        super().setup(cfg)\n"
                  "        for log in self.error_log, self.access_log:\n"
                  "            handler = logging.handlers.SysLogHandler(('127.0.0.1', 9))\n"
                  "            handler._gunicorn = True  # as the real class marks it\n"
                  "            log.addHandler(handler)\n"
                  "logger_class = Own\nsyslog = True\n"));
    const std::string kinds =
        "[type(h).__name__ for h in __import__('logging').getLogger('gunicorn.%s').handlers]";
    for (const char* log : {"error", "access"}) {
        std::string expression = kinds;
        expression.replace(expression.find("%s"), 2, log);
        EXPECT_EQ(eval_python(expression), "['FileHandler']");
    }
}

TEST_F(LoggingTest, LetsASubclassOverrideAccessAndAtoms) {
    ASSERT_TRUE(
        configure("from gunicorn import glogging\n"
                  "access_log_format = '%(r)s %(x)s'\n"
                  "class Own(glogging.Logger):\n"
                  "    def atoms(self, resp, req, environ, request_time):\n"
                  "        return {**super().atoms(resp, req, environ, request_time),\n"
                  "                'x': 'extra'}\n"
                  "    def access(self, resp, req, environ, request_time):\n"
                  "        if req.path != '/quiet':\n"
                  "            super().access(resp, req, environ, request_time)\n"
                  "logger_class = Own\n"));
    ASSERT_TRUE(run_python(std::string("PATH = '/quiet'\n") + kAccessCall));
    ASSERT_TRUE(run_python(std::string("PATH = '/loud'\n") + kAccessCall));
    EXPECT_EQ(accesses(), "GET /loud HTTP/1.1 extra\n");
    log_.info("errors take the same road");
    EXPECT_NE(errors().find("[INFO] errors take the same road\n"), std::string::npos);
}

/// Applications that log their requests themselves, without addresses or query strings, disable
/// ours.
TEST_F(LoggingTest, WritesNoAccessLinesIfTheirLoggerIsDisabledByName) {
    ASSERT_TRUE(configure(""));
    run_python(
        "import logging.config\n"
        "error, access = map(logging.getLogger, ('gunicorn.error', 'gunicorn.access'))\n"
        "access.disabled = True\n");
    EXPECT_TRUE(logging_.follow_loggers());
    ASSERT_TRUE(run_python(std::string("PATH = '/'\n") + kAccessCall));
    log_.warning("goes on");
    EXPECT_EQ(accesses(), "");
    EXPECT_NE(errors().find("goes on"), std::string::npos) << errors();
    run_python("access.disabled = False\n");

    // By default, a logging configuration disables all that it does not name; nobody asked for
    // that.
    ASSERT_TRUE(configure(""));
    run_python(
        "logging.config.dictConfig({'version': 1, 'loggers': {'gunicorn.error': {\n"
        "    'handlers': ['null']}}, 'handlers': {'null': {'class': 'logging.NullHandler'}}})\n");
    EXPECT_TRUE(logging_.follow_loggers());
    ASSERT_TRUE(run_python(std::string("PATH = '/'\n") + kAccessCall));
    EXPECT_NE(accesses(), "");
    run_python("error.handlers[:] = []\n");
}

TEST_F(LoggingTest, LetsASubclassFindItsHandlers) {
    ASSERT_TRUE(
        configure("import logging\nfrom gunicorn.glogging import Logger\n"
                  "class Own(Logger):\n"
                  "    def setup(self, cfg):\n"
                  "        super().setup(cfg)\n"
                  "        handler = self._get_gunicorn_handler(self.error_log)\n"
                  "        handler.setFormatter(logging.Formatter('own %(message)s'))\n"
                  "logger_class = Own\n"));
    log_.info("format");
    EXPECT_EQ(errors(), "own format\n");
}

TEST_F(LoggingTest, NeedsNoErrorLogForALoggerClass) {
    ASSERT_TRUE(
        configure("from gunicorn.glogging import Logger\n"
                  "class Own(Logger): pass\n"
                  "logger_class = Own\nerrorlog = None\n"));
    EXPECT_EQ(eval_python("__import__('_gcorn').config().errorlog"), "None");
    EXPECT_EQ(eval_python("__import__('logging').getLogger('gunicorn.error').handlers"), "[]");
}

TEST_F(LoggingTest, AcceptsASubclassThatReplacesSetup) {
    ASSERT_TRUE(
        configure("import logging\nfrom gunicorn.glogging import Logger\n"
                  "class Stubbed(Logger):\n"
                  "    def setup(self, cfg):\n"
                  "        self.error_logger = logging.getLogger('gunicorn.error')\n"
                  "        self.error_logger.addHandler(logging.FileHandler('own.log'))\n"
                  "        self.error_logger.setLevel('INFO')\n"
                  "logger_class = Stubbed\n"));
    log_.info("only there");
    EXPECT_EQ(read_file("own.log"), "only there\n");
}

TEST_F(LoggingTest, ShowsTheTracebackOfALoggerClassThatRaises) {
    ASSERT_TRUE(configure(""));
    const Config cfg = config(
        "from gunicorn.glogging import Logger\n"
        "class Broken(Logger):\n"
        "    def setup(self, cfg):\n"
        "        return cfg.no_such_setting\n"
        "logger_class = Broken\n");
    open("error.log", "");
    Status status = logging_.configure(cfg);
    ASSERT_FALSE(status);
    EXPECT_NE(status.message().find("logger_class"), std::string::npos);
    EXPECT_NE(errors().find("no_such_setting"), std::string::npos) << errors();
    EXPECT_NE(errors().find("Traceback"), std::string::npos) << errors();
}

}  // namespace
}  // namespace gcorn
