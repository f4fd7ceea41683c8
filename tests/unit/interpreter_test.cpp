#include "python/interpreter.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/clock.h"
#include "config.h"
#include "python/embedded.h"
#include "tests/support/wsgi_harness.h"

namespace gcorn {
namespace {

#define GCORN_TEXT2(x) #x
#define GCORN_TEXT(x) GCORN_TEXT2(x)
const std::string kOurVersion = GCORN_TEXT(PY_MAJOR_VERSION) "." GCORN_TEXT(PY_MINOR_VERSION);
const std::string kOurLibrary = "/lib/python" + kOurVersion + (kHasGil ? "" : "t");

// ------------------------------------------------------------------------------ choose_python

/// Directories that look like virtual environments.
class ChoosePython : public ::testing::Test {
protected:
    void SetUp() override { ASSERT_NE(::mkdtemp(root_), nullptr); }
    void TearDown() override { EXPECT_EQ(std::system(("rm -r " + std::string(root_)).c_str()), 0); }
    std::string make_venv(const std::string& name, const std::string& settings) {
        const std::string directory = std::string(root_) + "/" + name;
        EXPECT_EQ(::mkdir(directory.c_str(), 0700), 0);
        EXPECT_EQ(::mkdir((directory + "/bin").c_str(), 0700), 0);
        EXPECT_EQ(::symlink(GCORN_PYTHON, (directory + "/bin/python3").c_str()), 0);
        if (!settings.empty()) std::ofstream(directory + "/pyvenv.cfg") << settings;
        return directory;
    }
    char root_[32] = "/tmp/gcorn-venv-XXXXXX";
};

TEST_F(ChoosePython, FallsBackToTheInterpreterItWasBuiltFor) {
    const Result<PythonChoice> choice = choose_python("", "/nonexistent");
    ASSERT_TRUE(choice.is_ok());
    EXPECT_EQ(choice.value().executable, GCORN_PYTHON);
    EXPECT_EQ(choice.value().venv, "");
}

TEST_F(ChoosePython, TakesTheEnvironmentThatVirtualEnvNames) {
    const std::string venv = make_venv("a", "home = /usr/bin\nversion = " + kOurVersion + ".7\n");
    const Result<PythonChoice> choice = choose_python(venv, "");
    ASSERT_TRUE(choice.is_ok());
    EXPECT_EQ(choice.value().venv, venv);
    EXPECT_EQ(choice.value().executable, venv + "/bin/python3");
}

// The standard library of another patch version may need what the embedded interpreter lacks.
TEST_F(ChoosePython, WarnsOfALibraryOfAnotherPatchVersionElsewhere) {
    const auto warning = [&](const std::string& name, const std::string& settings) {
        return choose_python(make_venv(name, settings), "").value().warning;
    };
    const std::string patch = kOurVersion + "." GCORN_TEXT(PY_MICRO_VERSION);
    const std::string home =
        "home = " + std::filesystem::path(GCORN_PYTHON).parent_path().string() + "\n";
    EXPECT_EQ(warning("same", "home = /else\nversion_info = " + patch + ".final.0\n"), "");
    EXPECT_EQ(warning("short", "home = /else\nversion = " + kOurVersion + "\n"), "");
    EXPECT_EQ(warning("unsaid", home + "version = " + kOurVersion + "\n"), "");
    // The distribution's Python has been upgraded since.
    EXPECT_EQ(warning("upgraded", home + "version = " + kOurVersion + ".99\n"), "");
    const std::string other = kOurVersion + ".99";
    const std::string text =
        warning("other", "home = /else\nversion_info = " + other + ".final.0\n");
    EXPECT_NE(text.find("Python " + other + " in /else, but this gcorn embeds Python " + patch),
              std::string::npos)
        << text;
}

TEST_F(ChoosePython, TakesTheEnvironmentOfTheFirstPythonOnPath) {
    const std::string plain = make_venv("plain", "");
    const std::string venv =
        make_venv("v", "home = /usr/bin\r\nVersion_Info=" + kOurVersion + ".2.final.0\r\n");
    EXPECT_EQ(choose_python("", "/nonexistent:" + venv + "/bin:/usr/bin").value().venv, venv);
    EXPECT_EQ(choose_python("", plain + "/bin:" + venv + "/bin").value().venv, "");
}

TEST_F(ChoosePython, VirtualEnvGoesBeforePath) {
    const std::string settings = "version = " + kOurVersion + "\n";
    const std::string first = make_venv("first", settings), second = make_venv("second", settings);
    EXPECT_EQ(choose_python(first, second + "/bin").value().venv, first);
}

TEST_F(ChoosePython, TheEnvironmentThatTheBinaryLiesInGoesFirst) {
    const std::string settings = "version = " + kOurVersion + "\n";
    const std::string own = make_venv("own", settings), active = make_venv("active", settings);
    EXPECT_EQ(choose_python(active, active + "/bin", own + "/bin/gcorn").value().venv, own);
    EXPECT_EQ(choose_python("", "", own + "/bin/./gcorn").value().venv, own);
    EXPECT_EQ(choose_python("", "", own + "/gcorn").value().venv, "");
}

TEST_F(ChoosePython, IgnoresAVirtualEnvThatIsGone) {
    EXPECT_EQ(choose_python(std::string(root_) + "/gone", "").value().executable, GCORN_PYTHON);
}

TEST_F(ChoosePython, RefusesAnotherVersionNamingBoth) {
    for (const char* settings : {"version = 3.1.4\n", "version_info = 3.1\n"}) {
        const std::string venv = make_venv(settings[7] == ' ' ? "x" : "y", settings);
        const Result<PythonChoice> choice = choose_python(venv, "");
        ASSERT_FALSE(choice.is_ok());
        EXPECT_EQ(choice.message(), "virtual environment " + venv +
                                        " is for Python 3.1, but this gcorn embeds Python " +
                                        kOurVersion +
                                        ": create the environment with that Python, or build "
                                        "gcorn with yours");
        EXPECT_FALSE(choose_python("", venv + "/bin").is_ok());
    }
}

TEST_F(ChoosePython, WithoutAVersionTheLibraryDirectoryDecides) {
    const std::string venv = make_venv("w", "home = /usr/bin\n");
    EXPECT_FALSE(choose_python(venv, "").is_ok());
    ASSERT_EQ(::mkdir((venv + "/lib").c_str(), 0700), 0);
    ASSERT_EQ(::mkdir((venv + kOurLibrary).c_str(), 0700), 0);
    EXPECT_TRUE(choose_python(venv, "").is_ok());
}

// ------------------------------------------------------------------- one process of its own

/// Runs `body` in a child without an interpreter and returns its exit status (128 + signal if
/// killed). The child is given ten seconds.
int in_child(const std::function<int()>& body) {
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(10);
        const int code = body();
        std::fflush(nullptr);
        ::_exit(code);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::unique_ptr<Interpreter> start_here(PythonChoice choice) {
    InterpreterOptions options;
    options.argv = {"gcorn", "--flag", "\xff"};
    options.python = std::move(choice);
    Result<std::unique_ptr<Interpreter>> started = Interpreter::start(std::move(options));
    return started ? std::move(*started) : nullptr;
}

TEST_F(ChoosePython, AStartedEnvironmentIsTheProgramsOwn) {
    const std::string venv = std::string(root_) + "/real";
    ASSERT_EQ(std::system((GCORN_PYTHON " -m venv --without-pip " + venv).c_str()), 0);
    const std::string site = venv + kOurLibrary + "/site-packages";
    std::ofstream(site + "/only_here.py") << "value = 42\n";
    std::ofstream(site + "/extra.pth") << root_ << "\n";
    std::ofstream(std::string(root_) + "/by_pth.py") << "value = 43\n";
    EXPECT_EQ(
        in_child([&] {
            const auto python = start_here(choose_python(venv, "").value());
            if (!python) return 1;
            const std::string prefix = eval_python("__import__('sys').prefix");
            const std::string executable = eval_python("__import__('sys').executable");
            if (prefix != venv || executable != venv + "/bin/python3") return 2;
            return eval_python("__import__('only_here').value + __import__('by_pth').value") == "85"
                       ? 0
                       : 3;
        }),
        0);
}

TEST(Interpreter, LooksLikeTheInterpreterItStandsFor) {
    EXPECT_EQ(
        in_child([] {
            const auto python = start_here(choose_python("", "").value());
            if (!python) return 1;
            run_python("import sys, os, json, ctypes, sqlite3, ssl, threading, signal");
            if (eval_python("sys.argv[:2]") != "['gcorn', '--flag']") return 2;
            if (eval_python("os.fsencode(sys.argv[2])") != "b'\\xff'") return 3;
            if (eval_python("sys.executable") != GCORN_PYTHON) return 4;
            if (eval_python("sys.path[0] == os.getcwd()") != "True") return 5;
            if (eval_python("threading.current_thread() is threading.main_thread()") != "True")
                return 6;
            // The signals are the server's: Python has touched none.
            if (eval_python("signal.getsignal(signal.SIGTERM) == signal.SIG_DFL") != "True")
                return 7;
            return PyGILState_Check() == 0 ? 0 : 8;
        }),
        0);
}

TEST(Interpreter, FinalizeRunsAtexitOnce) {
    EXPECT_EQ(in_child([] {
                  const auto python = start_here(choose_python("", "").value());
                  int ends[2];
                  if (::pipe(ends) != 0) return 1;
                  run_python("import atexit, os\natexit.register(os.write, " +
                             std::to_string(ends[1]) + ", b'x')");
                  python->finalize();
                  python->finalize();
                  char bytes[8];
                  ::close(ends[1]);
                  return ::read(ends[0], bytes, sizeof bytes) == 1 ? 0 : 2;
              }),
              0);
}

/// 0, or the step that went wrong.
int finalize_beside_a_stuck_thread(Interpreter& python) {
    static const std::atomic<bool> never{false};
    if (!python.start_threads(1, [](size_t) {
            while (!never)
                std::this_thread::yield();
        }))
        return 1;
    if (python.join_threads(10)) return 2;
    python.finalize();
    return 0;
}

TEST(Interpreter, FinalizeDoesNotWaitForAStuckThread) {
    EXPECT_EQ(in_child([] {
                  const auto python = start_here(choose_python("", "").value());
                  run_python("import atexit, os\natexit.register(lambda: os._exit(77))");
                  return finalize_beside_a_stuck_thread(*python);
              }),
              77);
}

TEST(Interpreter, AStuckThreadDoesNotCostTheLineThatStandardOutputHoldsBack) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    EXPECT_EQ(in_child([&] {
                  ::dup2(ends[1], STDOUT_FILENO);
                  const auto python = start_here(choose_python("", "").value());
                  run_python("import sys\nsys.stdout.write('half a line')");
                  return finalize_beside_a_stuck_thread(*python);
              }),
              0);
    ::close(ends[1]);
    char bytes[64];
    const ssize_t got = ::read(ends[0], bytes, sizeof bytes);
    ::close(ends[0]);
    EXPECT_EQ(std::string(bytes, static_cast<size_t>(std::max<ssize_t>(got, 0))), "half a line");
}

TEST(Interpreter, ForksWithItsHandlersRun) {
    EXPECT_EQ(in_child([] {
                  const auto python = start_here(choose_python("", "").value());
                  run_python(
                      "import os, random\nran = []\n"
                      "os.register_at_fork(before=lambda: ran.append('before'),\n"
                      "    after_in_parent=lambda: ran.append('parent'),\n"
                      "    after_in_child=lambda: ran.append('child'))\n"
                      "random.seed(1)\nstate = random.getstate()");
                  python->before_fork();
                  const pid_t child = ::fork();
                  if (child == 0) {
                      python->after_fork_child();
                      const bool is_good = eval_python("ran") == "['before', 'child']" &&
                                           eval_python("random.getstate() == state") == "False";
                      python->finalize();
                      ::_exit(is_good ? 5 : 6);
                  }
                  python->after_fork_parent();
                  int status = 0;
                  if (::waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 5) return 1;
                  return eval_python("ran") == "['before', 'parent']" ? 0 : 2;
              }),
              0);
}

/// The core's side of an interrupt: the C handler that calls interrupt(), installed after Python's.
Interpreter* g_interrupted = nullptr;
void interrupt_handler(int signal) {
    g_interrupted->interrupt(signal);
}

void catch_with_core_handler(Interpreter& python, int signal) {
    g_interrupted = &python;
    struct sigaction action = {};
    action.sa_handler = interrupt_handler;
    ::sigaction(signal, &action, nullptr);
}

TEST(Interpreter, AnInterruptEndsABusyCallWithSystemExit) {
    for (const auto& [signal, code] : {std::pair{SIGQUIT, "0"}, {SIGINT, "0"}, {SIGABRT, "1"}}) {
        EXPECT_EQ(in_child([&, sent = signal, expected = std::string(code)] {
                      const auto python = start_here(choose_python("", "").value());
                      int hook_saw = 0;
                      if (!python->install_interrupts([&](int s) {
                              hook_saw = s;
                              return true;
                          }))
                          return 1;
                      catch_with_core_handler(*python, sent);
                      run_python(
                          "import os, threading\n"
                          "threading.Timer(0.05, os.kill, (os.getpid(), " +
                          std::to_string(sent) +
                          ")).start()\n"
                          "def busy():\n    while True: pass\n"
                          "try: busy()\n"
                          "except SystemExit as error: code = error.code\n");
                      if (hook_saw != sent) return 2;
                      return eval_python("code") == expected ? 0 : 3;
                  }),
                  0)
            << signal;
    }
}

TEST(Interpreter, AnIdleInterpreterRunsItsHandlersWhenAsked) {
    EXPECT_EQ(in_child([] {
                  const auto python = start_here(choose_python("", "").value());
                  int calls = 0;
                  if (!python->install_interrupts([&](int) { return ++calls != 0; })) return 1;
                  catch_with_core_handler(*python, SIGQUIT);
                  ::raise(SIGQUIT);
                  if (calls != 0) return 2;
                  python->run_signal_handlers();
                  if (calls != 1) return 3;
                  python->run_signal_handlers();
                  return calls == 1 ? 0 : 4;
              }),
              0);
}

TEST(Interpreter, AnInterruptWhileThreadsStartLeavesNoneBehind) {
    LogFile log;
    for (const bool is_inside : {false, true}) {
        EXPECT_EQ(in_child([&] {
                      const auto python = start_here(choose_python("", "").value());
                      python->set_logger(&log.log);
                      if (!python->install_interrupts([](int) { return true; })) return 1;
                      catch_with_core_handler(*python, SIGINT);
                      run_python(
                          "import signal, threading\n"
                          "start = threading.Thread.start\n"
                          "def interrupted(thread):\n"
                          "    start(thread)\n"
                          "    signal.raise_signal(2)\n"
                          "threading.Thread.start = interrupted\n");
                      if (!is_inside) ::raise(SIGINT);
                      std::atomic<bool> closed{false};
                      const Status started = python->start_threads(2, [&](size_t) {
                          while (!closed)
                              std::this_thread::yield();
                      });
                      if (started) return 2;
                      closed = true;
                      python->join_threads(0);
                      python->finalize();  // would wait for a forgotten thread
                      return 0;
                  }),
                  0)
            << is_inside;
    }
    EXPECT_EQ(log.text(), "");
}

TEST(Interpreter, AFailingHandlerOfTheApplicationIsLogged) {
    LogFile log;
    EXPECT_EQ(in_child([&] {
                  const auto python = start_here(choose_python("", "").value());
                  python->set_logger(&log.log);
                  run_python(
                      "import signal\n"
                      "signal.signal(signal.SIGUSR2, lambda *_: 1/0)\n"
                      "signal.pthread_sigmask(signal.SIG_UNBLOCK, [])");
                  ::raise(SIGUSR2);
                  python->run_signal_handlers();
                  return 0;
              }),
              0);
    EXPECT_EQ(log.count("[ERROR] Exception in a signal handler\nTraceback"), 1u);
    EXPECT_EQ(log.count("ZeroDivisionError"), 1u);
}

TEST(Interpreter, AnAbortDumpsTheStacksOfAllThreadsFirst) {
    LogFile log;
    EXPECT_EQ(in_child([&] {
                  const auto python = start_here(choose_python("", "").value());
                  if (!python->install_interrupts([](int) { return true; })) return 1;
                  if (!python->enable_traceback_dump(log.log.error_fd())) return 2;
                  catch_with_core_handler(*python, SIGABRT);
                  run_python(
                      "import os, threading, time\n"
                      "def sleeper(): time.sleep(5)\n"
                      "threading.Thread(target=sleeper, daemon=True).start()\n"
                      "def busy():\n    os.kill(os.getpid(), 6)\n    while True: pass\n"
                      "try: busy()\nexcept SystemExit: pass\n");
                  ::_exit(0);
              }),
              0);
    EXPECT_EQ(log.count(" in sleeper"), 1u) << log.text();
    EXPECT_EQ(log.count(" in busy"), 1u) << log.text();
}

TEST(Interpreter, SpewPrintsEveryLine) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    EXPECT_EQ(in_child([&] {
                  ::dup2(ends[1], STDOUT_FILENO);
                  const auto python = start_here(choose_python("", "").value());
                  if (!python->set_spew(true)) return 1;
                  run_python(
                      "def traced():\n    x = 1\n    return x\ntraced()\n"
                      "class Loader:\n    def get_source(self, name): return 1 / 0\n"
                      "text = compile('y = 1', '<made>', 'exec')\n"
                      "exec(text, {})\n"
                      "exec(text.replace(co_filename='m.py'), {'__name__': 'm\\ud800', "
                      "'__loader__': Loader()})\n"
                      "exec(text.replace(co_linetable=b'', co_filename='l.py'), {})\n");
                  if (!python->set_spew(false)) return 1;
                  run_python("def untraced():\n    z = 1\nuntraced()");
                  python->finalize();
                  return 0;
              }),
              0);
    ::close(ends[1]);
    std::string text;
    char bytes[4096];
    for (ssize_t n = 0; (n = ::read(ends[0], bytes, sizeof bytes)) > 0;)
        text.append(bytes, static_cast<size_t>(n));
    ::close(ends[0]);
    for (const char* line : {"__main__:2: unknown code named [traced]",
                             "[unknown]:1: unknown code named [<module>], instruction #",
                             "m\\ud800:1: unknown code named [<module>], instruction #"})
        EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
    EXPECT_EQ(text.find("[untraced]"), std::string::npos) << text;
}

TEST(Interpreter, ReportsAnExecutableWithoutALibrary) {
    EXPECT_EQ(in_child([] {
                  ::setenv("PYTHONHOME", "/nonexistent", 1);
                  InterpreterOptions options;
                  ::close(STDERR_FILENO);  // Python explains itself there at length
                  const auto started = Interpreter::start(std::move(options));
                  return !started && started.message().starts_with("start Python: ") ? 0 : 1;
              }),
              0);
}

// ------------------------------------------------------------------------ the shared interpreter

TEST(InterpreterShared, EnvironmentChangesShowInBothWorlds) {
    Interpreter& python = interpreter();
    run_python("import os");
    const std::string value = "caf\xc3\xa9 \xff";
    python.set_environment("GCORN_TEST_VALUE", &value);
    EXPECT_EQ(std::getenv("GCORN_TEST_VALUE"), value);
    EXPECT_EQ(eval_python("os.environb[b'GCORN_TEST_VALUE']"), "b'caf\\xc3\\xa9 \\xff'");
    python.set_environment("GCORN_TEST_VALUE", nullptr);
    python.set_environment("GCORN_TEST_VALUE", nullptr);
    EXPECT_EQ(std::getenv("GCORN_TEST_VALUE"), nullptr);
    EXPECT_EQ(eval_python("'GCORN_TEST_VALUE' in os.environ"), "False");
}

TEST(InterpreterShared, PathEntriesGoFirstAndOnce) {
    Interpreter& python = interpreter();
    run_python("import sys; before = sys.path[:]; sys.path.append('/there')");
    ASSERT_TRUE(python.use_path({"/one", "/two", "/one", "/there"}));
    EXPECT_EQ(eval_python("sys.path[:2], sys.path[2:-1] == before, sys.path[-1]"),
              "(['/two', '/one'], True, '/there')");
    run_python("sys.path.remove('/two')");
    ASSERT_TRUE(python.use_path({"/three", "/one"}));
    EXPECT_EQ(eval_python("sys.path[:2], sys.path[2:-1] == before, sys.path[-1]"),
              "(['/one', '/three'], True, '/there')");
    ASSERT_TRUE(python.use_path({}));
    run_python("sys.path.remove('/there')");
    EXPECT_EQ(eval_python("sys.path == before"), "True");
}

TEST(InterpreterShared, ThreadsAreThreadingThreadsWithoutTheGil) {
    Interpreter& python = interpreter();
    std::atomic<int> running{0};
    std::atomic<bool> go_on{false};
    std::atomic<int> without_gil{0};
    std::atomic<uint32_t> indices{0};
    ASSERT_TRUE(python.start_threads(3, [&](size_t index) {
        without_gil += PyGILState_Check() == 0 ? 1 : 0;
        indices |= 1u << index;
        ++running;
        while (!go_on)
            std::this_thread::yield();
    }));
    while (running < 3)
        std::this_thread::yield();
    run_python("import threading");
    EXPECT_EQ(eval_python("sorted(t.name for t in threading.enumerate() if not t.daemon "
                          "and t is not threading.main_thread())"),
              "['gthread-1', 'gthread-2', 'gthread-3']");
    EXPECT_FALSE(python.join_threads(0)) << "they are still running";
    go_on = true;
    EXPECT_TRUE(python.join_threads(5000));
    EXPECT_EQ(without_gil, 3);
    EXPECT_EQ(indices, 7u);
}

TEST(InterpreterShared, LinesOfAnEmbeddedTextAreThoseOfItsFile) {
    interpreter();
    {
        WithGil gil;
        const PyRef serve = name_in(run_embedded("hub"), "serve");
        ASSERT_TRUE(serve);
        PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")), "serve",
                             serve.get());
    }
    EXPECT_EQ(eval_python("serve.__code__.co_filename"), "<gcorn hub>");
    EXPECT_EQ(eval_python("open('" GCORN_SOURCE_DIR "/python/hub.py').readlines()"
                          "[serve.__code__.co_firstlineno - 1].partition('(')[0]"),
              "def serve");
}

TEST(InterpreterShared, ANameThatAnEmbeddedTextLacksRaises) {
    interpreter();
    const WithGil gil;
    EXPECT_FALSE(name_in(run_embedded("spew"), "missing"));
    EXPECT_EQ(take_error_text(false), "KeyError: 'missing'");
}

TEST(InterpreterShared, AStepAfterOneThatFailedKeepsItsError) {
    interpreter();
    const WithGil gil;
    PyErr_NoMemory();
    EXPECT_FALSE(attribute(import("sys", "path").get(), "append"));
    EXPECT_EQ(take_error_text(false), "MemoryError");
}

TEST(InterpreterShared, TracebacksAreOneRecord) {
    LogFile log;
    interpreter();
    {
        WithGil gil;
        PyErr_SetString(PyExc_ValueError, "odd \xe2\x82\xac text");
        EXPECT_EQ(take_error_text(false), "ValueError: odd \xe2\x82\xac text");
        EXPECT_EQ(PyErr_Occurred(), nullptr);
        PyErr_SetString(PyExc_KeyError, "key");
        log_python_error(log.log, Level::Warning, "context GET /");
        EXPECT_EQ(PyErr_Occurred(), nullptr);
        EXPECT_EQ(PyGILState_Check(), 1);
        EXPECT_EQ(take_error_text(), "unknown error");
    }
    EXPECT_TRUE(log.text().ends_with("[WARNING] context GET /\nKeyError: 'key'\n")) << log.text();
    EXPECT_EQ(log.count("WARNING"), 1u);
}

TEST(InterpreterShared, AnErrorThatCannotBePrintedIsNamed) {
    interpreter();
    WithGil gil;
    PyRef type = PyRef::steal(PyErr_NewException("t.Odd", nullptr, nullptr));
    PyErr_SetObject(type.get(), Py_None);
    EXPECT_EQ(take_error_text(false), "t.Odd");
    PyRef lone = PyRef::steal(PyUnicode_DecodeFSDefault("\xff"));
    PyErr_SetObject(PyExc_ValueError, lone.get());
    EXPECT_EQ(take_error_text(false), "ValueError: \\udcff");
}

// The module is imported at the first error, which may be that no descriptor is left.
TEST(InterpreterShared, AnErrorSaysWhatItCanWithoutTheModuleThatPrintsIt) {
    interpreter();
    WithGil gil;
    PyObject* const modules = PyImport_GetModuleDict();
    const PyRef before = import("traceback");
    ASSERT_TRUE(before);
    PyDict_SetItemString(modules, "traceback", Py_None);  // the import fails
    errno = EMFILE;
    PyErr_SetFromErrno(PyExc_OSError);
    EXPECT_EQ(take_error_text(), "OSError: [Errno 24] Too many open files");
    PyErr_SetString(PyExc_ValueError, "two\nlines");
    EXPECT_EQ(take_error_text(false), "ValueError: two lines");
    PyErr_SetNone(PyExc_MemoryError);
    EXPECT_EQ(take_error_text(), "MemoryError");
    EXPECT_EQ(PyErr_Occurred(), nullptr);
    PyDict_SetItemString(modules, "traceback", before.get());
}

TEST(InterpreterShared, AnErrorInOneLineSaysAllThatTheExceptionSays) {
    interpreter();
    WithGil gil;
    PyErr_SetString(PyExc_ValueError, "two\nlines");
    EXPECT_EQ(take_error_text(false), "ValueError: two lines");
    (void)PyRef::steal(Py_CompileString("1 +", "f.py", Py_eval_input));
    EXPECT_EQ(take_error_text(false), "SyntaxError: invalid syntax");
    PyErr_SetNone(PyExc_MemoryError);
    EXPECT_EQ(take_error_sentence(), "MemoryError");
    PyErr_SetString(PyExc_ValueError, "bad value");
    EXPECT_EQ(take_error_sentence(), "bad value");
    PyErr_SetString(PyExc_ValueError, "bad value");
    const PyRef exception = take_exception();
    const PyRef noted =
        PyRef::steal(PyObject_CallMethod(exception.get(), "add_note", "s", "of a library"));
    PyErr_Clear();  // Python 3.10 has no notes
    restore_exception(PyRef::borrow(exception.get()));
    EXPECT_EQ(take_error_text(false), "ValueError: bad value");
}

TEST(InterpreterShared, ReferencesAreCountedExactly) {
    interpreter();
    WithGil gil;
    PyRef list = PyRef::steal(PyList_New(0));
    const Py_ssize_t before = Py_REFCNT(list.get());
    {
        PyRef second = PyRef::borrow(list.get());
        EXPECT_EQ(Py_REFCNT(list.get()), before + 1);
        PyRef moved = std::move(second);
        EXPECT_FALSE(second);
        EXPECT_EQ(Py_REFCNT(list.get()), before + 1);
        moved = PyRef::borrow(list.get());
        EXPECT_EQ(Py_REFCNT(list.get()), before + 1);
        PyObject* raw = moved.release();
        EXPECT_EQ(Py_REFCNT(list.get()), before + 1);
        drop_reference(PyRef::steal(raw));
    }
    EXPECT_EQ(Py_REFCNT(list.get()), before);
}

}  // namespace
}  // namespace gcorn
