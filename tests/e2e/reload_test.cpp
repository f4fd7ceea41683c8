// --reload: a saved file restarts the workers, however the editor saved it, and no mistake in the
// code ends the server. --spew: every line of Python that runs.

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <regex>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

/// An application in two modules that answers with the text of the second.
class Reload : public PerEngine {
protected:
    void SetUp() override { SKIP_ON_GUNICORN("it reloads otherwise"); }

    static std::string module(const std::string& text) { return "text = '" + text + "'\n"; }

    Server& start(const std::string& engine = "auto", const std::vector<std::string>& more = {}) {
        site_.write("part.py", module("one"));
        site_.write("site_app.py",
                    "import part\n"
                    "def app(environ, start_response):\n"
                    "    start_response('200 OK', [('Content-Length', str(len(part.text)))])\n"
                    "    return [part.text.encode()]\n");
        std::vector<std::string> args = {"--reload", "--reload-engine", engine, "--log-level",
                                         "debug"};
        args.insert(args.end(), more.begin(), more.end());
        ServerOptions options = with(args);
        options.app = "site_app:app";
        options.directory = site_.path();
        server_.emplace(options);
        EXPECT_TRUE(answers("one")) << server_->story();
        return *server_;
    }
    /// Waits until the server answers this and only new workers are left: every worker was replaced
    /// since the last settle(), and the older ones are gone.
    [[nodiscard]] bool answers(const std::string& text) {
        if (!eventually([&] { return server_->get("/").body == text; })) return false;
        settle();
        return server_->get("/").body == text;
    }
    void settle() {
        EXPECT_TRUE(eventually([&] { return count(kReady) >= ready_ + GetParam().workers; }))
            << server_->story();
        EXPECT_TRUE(server_->has_workers(GetParam().workers)) << server_->story();
        ready_ = count(kReady);
    }
    [[nodiscard]] size_t count(std::string_view part) const {
        const std::string log = server_->err();
        size_t found = 0;
        for (size_t at = log.find(part); at != std::string::npos; at = log.find(part, at + 1))
            ++found;
        return found;
    }
    /// The three ways in which editors save.
    void save_in_place(const std::string& name, const std::string& text) const {
        site_.write(name, text);
    }
    void rename_over(const std::string& name, const std::string& text) const {
        const std::string fresh = site_.write(name + ".swp", text);
        ASSERT_EQ(std::rename(fresh.c_str(), (site_ / name).c_str()), 0);
    }
    void delete_and_recreate(const std::string& name, const std::string& text) const {
        ASSERT_EQ(::unlink((site_ / name).c_str()), 0);
        site_.write(name, text);
    }
    void expect_every_way_of_saving() {
        using Clock = std::chrono::steady_clock;
        using Save = void (Reload::*)(const std::string&, const std::string&) const;
        auto fastest = Clock::duration::max();  // of three: a busy machine only adds time
        for (const Save save :
             {&Reload::save_in_place, &Reload::rename_over, &Reload::delete_and_recreate}) {
            const size_t before = count("part.py modified");
            const std::string text = "text" + std::to_string(before);
            const auto begin = Clock::now();
            (this->*save)("part.py", module(text));
            EXPECT_TRUE(eventually([&] { return count("part.py modified") > before; }))
                << server_->story();
            fastest = std::min(fastest, Clock::now() - begin);
            EXPECT_TRUE(answers(text)) << server_->story();
        }
        EXPECT_LT(fastest, Milliseconds(1000)) << server_->story();
    }

    TempDir site_;
    std::optional<Server> server_;
    static constexpr const char* kReady = "is ready after";
    size_t ready_ = 0;  ///< workers so far, at the last settle()
};
FOR_EVERY_ENGINE(Reload);

TEST_P(Reload, FollowsEveryWayOfSavingWithInotify) {
    start("inotify");
    expect_every_way_of_saving();
}

TEST_P(Reload, FollowsEveryWayOfSavingByPolling) {
    start("poll");
    expect_every_way_of_saving();
}

TEST_P(Reload, SeesAChangeWithinASecondWhileNobodyAsks) {
    start("inotify");
    EXPECT_EQ(count("Reloader is on. Use in development only!"), GetParam().workers);
    auto fastest = std::chrono::steady_clock::duration::max();  // of three, see above
    for (int i = 0; i < 3; ++i) {
        const size_t before = count("part.py modified");
        const auto begin = std::chrono::steady_clock::now();
        save_in_place("part.py", module("quiet" + std::to_string(i)));
        EXPECT_TRUE(eventually([&] { return count("part.py modified") > before; }))
            << server_->story();
        fastest = std::min(fastest, std::chrono::steady_clock::now() - begin);
        settle();
    }
    EXPECT_LT(fastest, Milliseconds(1000)) << server_->story();
}

TEST_P(Reload, IgnoresCompiledAndUnrelatedFilesAndTakesABurstForOne) {
    start();
    site_.write("__pycache__/part.cpython-311.pyc", "not a module");
    site_.write("part.pyc", "not a module");
    site_.write("notes.txt", "nothing");
    site_.write("unused.py", "x = 1");
    // A burst that a busy machine interrupts becomes two: of ten, one has to stay whole.
    size_t restarts = 0;
    for (int burst = 0; burst < 10 && restarts != GetParam().workers; ++burst) {
        const size_t before = count("modified");
        std::string text;
        for (int i = 0; i < 20; ++i) {
            text = "burst" + std::to_string(20 * burst + i);
            save_in_place("part.py", module(text));
            std::this_thread::sleep_for(Milliseconds(5));  // an editor that saves, formats, saves
        }
        EXPECT_TRUE(answers(text)) << server_->story();
        restarts = count("modified") - before;
    }
    EXPECT_EQ(restarts, GetParam().workers) << server_->story();
    // A later change is reported: had the others counted, they would have been reported before it.
    const size_t before = count("modified");
    save_in_place("part.py", module("end"));
    EXPECT_TRUE(answers("end")) << server_->story();
    EXPECT_EQ(count("modified"), before + GetParam().workers) << server_->story();
    EXPECT_EQ(count("modified"), count("part.py modified")) << server_->story();
}

TEST_P(Reload, AnswersAnyImportErrorWithItsTracebackAndRecovers) {
    start();
    const std::vector<std::pair<std::string, std::string>> mistakes = {
        {"text = (\n", "SyntaxError"},
        {"import no_such_module_anywhere\n", "ModuleNotFoundError"},
        {"text = undefined\n", "NameError"},
        {"raise SystemExit(3)\n", "SystemExit"},
        {"del __import__('sys').modules['part']; import os; os.nothing\n", "AttributeError"}};
    int good = 0;
    for (const auto& [text, exception] : mistakes) {
        save_in_place("part.py", text);
        Response got;
        EXPECT_TRUE(eventually([&] {
            got = server_->get("/");
            return got.status == 500;
        })) << exception
            << server_->story();
        EXPECT_EQ(got.field("Content-Type").rfind("text/plain", 0), 0U) << got;
        EXPECT_NE(got.body.find("Traceback (most recent call last)"), std::string::npos) << got;
        EXPECT_NE(got.body.find(exception), std::string::npos) << got;
        EXPECT_NE(got.body.find("part.py"), std::string::npos) << got;
        settle();
        const std::string mended = "good" + std::to_string(++good);
        save_in_place("part.py", module(mended));
        EXPECT_TRUE(answers(mended)) << exception << server_->story();
    }
    EXPECT_FALSE(server_->exit_code(Milliseconds(0)).has_value());
}

TEST_P(Reload, RecoversWhenAModuleThatWasMissingAppears) {
    start();
    const auto expect_recovery = [&](const std::string& file, const std::string& text) {
        EXPECT_TRUE(eventually([&] { return server_->get("/").status == 500; }))
            << file << server_->story();
        settle();
        save_in_place(file, module(text));
        ASSERT_TRUE(answers(text)) << file << server_->story();
    };
    ASSERT_EQ(::unlink((site_ / "part.py").c_str()), 0);
    expect_recovery("part.py", "back");
    save_in_place("part.py", "from fresh import text\n");
    expect_recovery("fresh.py", "module");
    save_in_place("part.py", "try: from parcel import text\nexcept ImportError: raise KeyError\n");
    expect_recovery("parcel/__init__.py", "package");
    save_in_place("part.py", "from parcel.inner import text\n");
    expect_recovery("parcel/inner.py", "inner");
    save_in_place("part.py", std::string("text = '\0'\n", 11));  // no frame of a traceback names it
    expect_recovery("part.py", "compiles");
}

TEST_P(Reload, RecoversFromAFileThatNamesItselfNowhere) {
    start();
    const std::string good = read_file(site_ / "site_app.py");
    save_in_place("site_app.py", std::string(200, '\0'));  // as a crash leaves a file just saved
    EXPECT_TRUE(eventually([&] { return server_->get("/").status == 500; })) << server_->story();
    settle();
    save_in_place("site_app.py", good);
    EXPECT_TRUE(answers("one")) << server_->story();
}

TEST_P(Reload, StartsWithABrokenApplicationToo) {
    for (const bool is_preload : {false, true}) {
        const TempDir site;
        site.write("late.py", "def app(\n");
        ServerOptions options = with({"--reload"});
        if (is_preload) options.args.push_back("--preload");
        options.app = "late:app";
        options.directory = site.path();
        const Server server(options);
        EXPECT_TRUE(eventually([&] { return server.get("/").status == 500; })) << server.story();
        site.write("late.py",
                   "def app(environ, start_response):\n"
                   "    start_response('200 OK', [('Content-Length', '4')])\n"
                   "    return [b'late']\n");
        EXPECT_TRUE(eventually([&] { return server.get("/").body == "late"; })) << server.story();
    }
}

TEST_P(Reload, WatchesExtraFilesWithGlobsOfAnyDepth) {
    site_.write("settings.ini", "a");
    site_.write("templates/deep/er/page.html", "a");
    Server& server =
        start("auto", {"--reload-extra-file", site_ / "settings.ini", "--reload-extra-file",
                       site_ / "templates/**/*.html", "--reload-extra-file", site_ / "*.htm"});
    EXPECT_TRUE(server.logs("no file matches " + std::string(site_ / "*.htm") + " yet\n"))
        << server.story();
    save_in_place("settings.ini", "b");
    EXPECT_TRUE(server.logs("settings.ini modified")) << server.story();
    settle();
    save_in_place("templates/deep/er/page.html", "b");
    EXPECT_TRUE(server.logs("page.html modified")) << server.story();
    settle();
    save_in_place("templates/new/one.html", "b");
    EXPECT_TRUE(server.logs("one.html modified")) << server.story();
}

TEST_P(Reload, WatchesFilesThatAHookAdds) {
    site_.write("page.html", "a");
    const std::string config = site_.write(
        "conf.py", "def post_worker_init(worker): worker.reloader.add_extra_file('page.html')\n");
    Server& server = start("auto", {"-c", config});
    save_in_place("page.html", "b");
    EXPECT_TRUE(server.logs("page.html modified")) << server.story();
}

TEST_P(Reload, WatchesAnArchiveThatModulesCameFrom) {
    const std::string config = site_.write("conf.py",
                                           "import sys, zipfile\n"
                                           "with zipfile.ZipFile('parts.zip', 'w') as archive:\n"
                                           "    archive.writestr('zipped.py', 'text = 1')\n"
                                           "def post_worker_init(worker):\n"
                                           "    sys.path.append('parts.zip')\n"
                                           "    import zipped\n");
    Server& server = start("auto", {"-c", config});
    rename_over("parts.zip", read_file(site_ / "parts.zip"));
    EXPECT_TRUE(server.logs("parts.zip modified")) << server.story();
}

TEST_P(Reload, WatchesAnExtraDirectory) {
    site_.write("locale/en.mo", "a");
    Server& server = start("auto", {"--reload-extra-file", site_ / "locale"});
    save_in_place("locale/de.mo", "new");
    EXPECT_TRUE(server.logs("locale modified")) << server.story();
}

TEST_P(Reload, AnswersMeanwhile) {
    Server& server = start();
    std::atomic<bool> stops{false};
    std::atomic<size_t> good{0}, bad{0};
    std::thread client([&] {
        while (!stops)
            ++(server.get("/").status == 200 ? good : bad);
    });
    for (int i = 0; i < 3; ++i) {
        save_in_place("part.py", module("text" + std::to_string(i)));
        EXPECT_TRUE(answers("text" + std::to_string(i))) << server.story();
    }
    stops = true;
    client.join();
    EXPECT_EQ(bad, 0U) << server.story();
    EXPECT_GT(good, 0U);
}

TEST(ReloadStart, RefusesAnUnknownEngineAndAMissingExtraFile) {
    const Finished engine = run_server({"--reload-engine", "guess", "probe:app"});
    EXPECT_EQ(engine.code, 1) << engine;
    EXPECT_NE(engine.err.find("guess"), std::string::npos) << engine;
    const Finished file = run_server({"--reload-extra-file", "/nonexistent/x", "probe:app"});
    EXPECT_EQ(file.code, 1) << file;
    EXPECT_NE(file.err.find("/nonexistent/x"), std::string::npos) << file;
}

// -------------------------------------------------------------------------------------------- spew

class Spew : public PerEngine {};
FOR_EVERY_ENGINE(Spew);

constexpr const char* kTraced =
    "import threading\n"
    "def helper():\n"
    "    in_a_thread = 1   \n"
    "    return in_a_thread\n"
    "def app(environ, start_response):\n"
    "    thread = threading.Thread(target=helper)\n"
    "    thread.start()\n"
    "    thread.join()\n"
    "    exec('made = 1')\n"
    "    start_response('200 OK', [('Content-Length', '2')])\n"
    "    return [b'ok']\n";

TEST_P(Spew, PrintsEveryLineOfEveryThreadInGunicornsFormat) {
    SKIP_ON_GUNICORN("it traces one thread");
    const TempDir site;
    site.write("traced.py", kTraced);
    ServerOptions options = with({"--spew"});
    options.app = "traced:app";
    options.directory = site.path();
    Server server(options);
    for (int i = 0; i < 3; ++i)
        EXPECT_EQ(server.get("/").status, 200) << server.story();
    EXPECT_TRUE(eventually([&] {
        return server.out().find("traced:11:     return [b'ok']\n") != std::string::npos;
    })) << server.err();
    // Nothing appears twice: each worker imports the module once.
    const auto imports = [&] {
        const std::string out = server.out();
        size_t found = 0;
        for (size_t at = out.find("traced:1: import"); at != std::string::npos;
             at = out.find("traced:1: import", at + 1))
            ++found;
        return found;
    };
    EXPECT_TRUE(eventually([&] { return imports() == GetParam().workers; })) << server.err();
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.err();
    const std::string out = server.out();
    for (const char* line : {"traced:1: import threading\n", "traced:3:     in_a_thread = 1\n",
                             "traced:8:     thread.join()\n"}) {
        EXPECT_NE(out.find(line), std::string::npos) << line;
    }
    // Whole lines only, however many processes write them.
    const std::regex format(R"([A-Za-z_<\[][\w.<>\[\] ]*:(\d+|None): .*)");
    std::istringstream text(out);
    size_t bad = 0;
    for (std::string line; std::getline(text, line);) {
        if (std::regex_match(line, format)) continue;
        if (++bad < 5) ADD_FAILURE() << line;
    }
    EXPECT_EQ(imports(), GetParam().workers);
}

// Since Python 3.11, os and other modules are frozen into the interpreter.
TEST_P(Spew, ShowsTheSourceOfFrozenModules) {
    const TempDir site;
    site.write("reads.py",
               "import os\n"
               "def app(environ, start_response):\n"
               "    os.environ.get('PATH')\n"
               "    start_response('200 OK', [('Content-Length', '2')])\n"
               "    return [b'ok']\n");
    ServerOptions options = with({"--spew"});
    options.app = "reads:app";
    options.directory = site.path();
    Server server(options);
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    EXPECT_TRUE(eventually([&] {
        return server.out().find("reads:5:     return [b'ok']\n") != std::string::npos;
    })) << server.err();
    const std::string out = server.out();
    EXPECT_TRUE(std::regex_search(out, std::regex("os:\\d+:  +return ")));
    EXPECT_FALSE(std::regex_search(out, std::regex("os:\\d+: unknown code")));
}

TEST_P(Spew, FollowsGreenletsOfTheApplication) {
    SKIP_ON_GUNICORN("not what this test is about");
    const std::string library = GetParam().args[1];
    if (library != "gevent" && library != "eventlet") GTEST_SKIP() << "no greenlets here";
    const TempDir site;
    site.write("green.py", "import " + library +
                               "\n"
                               "def helper():\n" +
                               "    " + library +
                               ".sleep(0.01)\n"
                               "    in_a_greenlet = 1\n"
                               "    return in_a_greenlet\n"
                               "def app(environ, start_response):\n"
                               "    greenlet = " +
                               library +
                               ".spawn(helper)\n"
                               "    assert greenlet." +
                               (library == "gevent" ? "get" : "wait") +
                               "() == 1\n"
                               "    start_response('200 OK', [('Content-Length', '2')])\n"
                               "    return [b'ok']\n");
    ServerOptions options = with({"--spew"});
    options.app = "green:app";
    options.directory = site.path();
    const Server server(options);
    EXPECT_EQ(server.get("/").status, 200) << server.err();
    for (const char* line : {"green:4:     in_a_greenlet = 1\n", "green:10:     return [b'ok']\n"})
        EXPECT_TRUE(eventually([&] { return server.out().find(line) != std::string::npos; }))
            << line;
    EXPECT_EQ(server.out().find(library + ".patcher:"), std::string::npos)
        << "patching is not traced";
}

TEST(SpewStart, IsRefusedTogetherWithDaemon) {
    SKIP_ON_GUNICORN("it spews into nothing");
    const Finished finished = run_server({"--spew", "--daemon", "probe:app"});
    EXPECT_EQ(finished.code, 1) << finished;
    EXPECT_NE(finished.err.find("Error: spew prints to the terminal, which daemon detaches from"),
              std::string::npos)
        << finished;
}

}  // namespace
}  // namespace gcorn::e2e
