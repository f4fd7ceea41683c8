// The two logs as files, streams and sockets: format of the server's lines, one access line per
// answer, rotation and full disks under load, syslog and statsd receivers, Python's logging.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <regex>
#include <sstream>
#include <thread>

#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/support/daemon.h"
#include "tests/support/e2e.h"
#include "tests/support/receiver.h"

namespace gcorn::e2e {
namespace {

class Logs : public PerEngine {};
FOR_EVERY_ENGINE(Logs);

/// Lines of the file once there are that many; fewer if they do not come.
std::vector<std::string> lines_of(const std::string& path, size_t count) {
    std::vector<std::string> lines;
    eventually([&] {
        lines.clear();
        std::istringstream in(read_file(path));
        for (std::string line; std::getline(in, line) && !in.eof();)  // complete lines
            lines.push_back(line);
        return lines.size() >= count;
    });
    return lines;
}

TEST_P(Logs, WritesServerLinesInGunicornsFormat) {
    const Server server(with());
    EXPECT_EQ(server.get("/").status, 200);
    ASSERT_TRUE(server.logs("Booting worker with pid: ")) << server.story();
    const std::regex line(
        R"(\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[(INFO|WARNING)\] .+)");
    std::istringstream text(server.err());
    for (std::string one; std::getline(text, one);) {
        EXPECT_TRUE(std::regex_match(one, line)) << one;
    }
    EXPECT_TRUE(server.logs("Listening at: http://127.0.0.1:" + std::to_string(server.at().port) +
                            " (" + std::to_string(server.pid()) + ")"))
        << server.story();
    EXPECT_TRUE(server.logs("Using worker: ")) << server.story();
}

TEST_P(Logs, WritesTheDefaultAccessLine) {
    const TempDir scratch;
    const Server server(with({"--access-logfile", scratch / "access"}));
    server.get("/teapot?x=1", {{"User-Agent", "tester/1.0"}, {"Referer", "http://from.example/"}});
    const std::vector<std::string> lines = lines_of(scratch / "access", 1);
    ASSERT_EQ(lines.size(), 1U) << server.story();
    const std::regex line(
        R"(127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] )"
        R"("GET /teapot\?x=1 HTTP/1\.1" 418 15 "http://from\.example/" "tester/1\.0")");
    EXPECT_TRUE(std::regex_match(lines[0], line)) << lines[0];
}

TEST_P(Logs, WritesAtomsOfTheConfiguredFormat) {
    const TempDir scratch;
    const Server server(with({"--access-logfile", scratch / "access", "--access-logformat",
                              "%(m)s|%(U)s|%(q)s|%(H)s|%(s)s|%(B)s|%({x-in}i)s|%({X-One}o)s|%({"
                              "wsgi.url_scheme}e)s|%(p)s"}));
    server.request("POST", "/headers?a=b", {{"X-In", "sent"}}, "body");
    const std::vector<std::string> lines = lines_of(scratch / "access", 1);
    ASSERT_EQ(lines.size(), 1U) << server.story();
    const std::regex line(R"(POST\|/headers\|a=b\|HTTP/1\.1\|200\|7\|sent\|1\|http\|<\d+>)");
    EXPECT_TRUE(std::regex_match(lines[0], line)) << lines[0];
}

TEST_P(Logs, WritesOneLineForEachAnswerWhateverItsKind) {
    const TempDir scratch;
    const Server server(
        with({"--access-logfile", scratch / "access", "--access-logformat", "%(U)s %(s)s %(B)s"}));
    size_t count = 0;
    for (const char* path : {"/generator", "/teapot", "/nowhere"}) {
        server.get(path);  // a line may come after the answer, but not after the next one's
        lines_of(scratch / "access", ++count);
    }
    EXPECT_EQ(lines_of(scratch / "access", 3),
              (std::vector<std::string>{"/generator 200 13", "/teapot 418 15", "/nowhere 404 13"}))
        << server.story();
}

TEST_P(Logs, WritesALineForErrors) {
    SKIP_ON_GUNICORN_BEFORE(21, "it writes none");
    const TempDir scratch;
    const Server server(
        with({"--access-logfile", scratch / "access", "--access-logformat", "%(U)s %(s)s"}));
    server.get("/raise");
    EXPECT_EQ(lines_of(scratch / "access", 1), std::vector<std::string>{"/raise 500"})
        << server.story();
}

TEST_P(Logs, LetsNoClientForgeALine) {
    SKIP_ON_GUNICORN("it only escapes quotes");
    const TempDir scratch;
    const Server server(
        with({"--access-logfile", scratch / "access", "--access-logformat", R"("%(a)s" "%(f)s")"}));
    server.get("/", {{"User-Agent", "a\"b\\c\td\x80"}, {"Referer", "plain"}});
    const std::vector<std::string> lines = lines_of(scratch / "access", 1);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0].find('\t'), std::string::npos) << lines[0];
    EXPECT_NE(lines[0].find(R"(a\"b)"), std::string::npos) << lines[0];
}

TEST_P(Logs, WritesTheAccessLogToStdoutAndErrorsToAFile) {
    const TempDir scratch;
    const Server server(
        with({"--access-logfile", "-", "--log-file", scratch / "errors", "--log-level", "debug"}));
    server.get("/raise");
    server.get("/");
    EXPECT_TRUE(eventually([&] {
        return server.out().find("\"GET / HTTP/1.1\" 200 14") != std::string::npos;
    })) << server.story();
    const std::string errors = read_file(scratch / "errors");
    EXPECT_NE(errors.find("ValueError: broken on purpose"), std::string::npos) << errors;
    EXPECT_NE(errors.find("[DEBUG]"), std::string::npos) << errors;
    EXPECT_EQ(server.err(), "");
}

// As by gunicorn's own pre_request: without the query, which may hold secrets.
TEST_P(Logs, DebugLinesNameThePathOfEveryRequest) {
    const TempDir scratch;
    ServerOptions options = with({"--log-file", scratch / "errors", "--log-level", "debug"});
    options.env["SCRIPT_NAME"] = "/shop";
    const Server server(options);
    server.get("/shop/a%20b?secret=1#end");
    EXPECT_TRUE(eventually([&] {
        return read_file(scratch / "errors").find("[DEBUG] GET /shop/a%20b\n") != std::string::npos;
    })) << read_file(scratch / "errors");
}

TEST_P(Logs, ReopensFilesOnUsr1) {
    const TempDir scratch;
    const Server server(with({"--access-logfile", scratch / "access", "--log-file",
                              scratch / "errors", "--access-logformat", "%(U)s"}));
    server.get("/");
    EXPECT_EQ(lines_of(scratch / "access", 1).size(), 1U);
    ASSERT_EQ(std::rename((scratch / "access").c_str(), (scratch / "access.1").c_str()), 0);
    server.signal(SIGUSR1);
    ASSERT_TRUE(eventually([&] {
        return !read_file(scratch / "errors").empty() &&
               ::access((scratch / "access").c_str(), F_OK) == 0;
    })) << read_file(scratch / "errors");
    // Each worker reopens in its own time: until all have, a line may still go to the old file.
    EXPECT_TRUE(eventually([&] {
        server.get("/list");
        return read_file(scratch / "access").find("/list") != std::string::npos;
    }));
    EXPECT_EQ(server.get("/").status, 200);
}

/// Reads the file's lines as JSON objects; returns what Python prints for `expression`, evaluated
/// with `lines` (a list of dicts, in which numbers and strings are distinct).
std::string of_json_lines(const std::string& path, const std::string& expression) {
    const Finished finished = run({python(), "-c",
                                   "import json, sys\n"
                                   "lines = [json.loads(line) for line in open(sys.argv[1])]\n"
                                   "print(" +
                                       expression + ")\n",
                                   path});
    EXPECT_EQ(finished.code, 0) << finished << read_file(path);
    return finished.out.substr(0, finished.out.find_last_not_of('\n') + 1);
}

TEST_P(Logs, WritesJsonLinesWithTypedFields) {
    SKIP_ON_GUNICORN("it has no JSON");
    const TempDir scratch;
    const Server server(
        with({"--access-logfile", scratch / "access", "--access-logformat", "json"}));
    server.get("/teapot?a=%22b", {{"User-Agent", "x\"y\\z"}, {"Authorization", "Basic bWU6cHc="}});
    ASSERT_EQ(lines_of(scratch / "access", 1).size(), 1U) << server.story();
    EXPECT_EQ(
        of_json_lines(scratch / "access", "[(k, type(v).__name__) for k, v in lines[0].items()]"),
        "[('time', 'str'), ('remote_addr', 'str'), ('user', 'str'), ('method', 'str'), "
        "('path', 'str'), ('query', 'str'), ('protocol', 'str'), ('status', 'int'), "
        "('bytes', 'int'), ('referer', 'NoneType'), ('user_agent', 'str'), "
        "('duration_us', 'int'), ('app_us', 'int'), ('queue_us', 'int'), ('pid', 'int')]");
    EXPECT_EQ(of_json_lines(scratch / "access",
                            "*[lines[0][k] for k in ('user', 'method', 'path', 'query', 'status', "
                            "'bytes', 'user_agent')], sep=' | '"),
              R"(me | GET | /teapot | a=%22b | 418 | 15 | x"y\z)");
}

TEST_P(Logs, WritesTheJsonFieldsAskedFor) {
    SKIP_ON_GUNICORN("it has no JSON");
    const TempDir scratch;
    const Server server(with({"--access-logfile", scratch / "access", "--access-logformat",
                              "json:m,s,B,L,{x-in}i,{X-One}o,{wsgi.url_scheme}e"}));
    server.request("POST", "/headers", {{"X-In", "sent"}}, "body");
    ASSERT_EQ(lines_of(scratch / "access", 1).size(), 1U) << server.story();
    EXPECT_EQ(of_json_lines(scratch / "access",
                            "[(k, v if k != 'duration' else type(v).__name__) "
                            "for k, v in lines[0].items()]"),
              "[('method', 'POST'), ('status', 200), ('bytes', 7), ('duration', 'float'), "
              "('request_header.x-in', 'sent'), ('response_header.x-one', '1'), "
              "('environ.wsgi.url_scheme', 'http')]");
}

TEST_P(Logs, TellsTheApplicationsShareAndTheWaitInTheQueue) {
    SKIP_ON_GUNICORN("it has neither atom");
    const TempDir scratch;
    const Server server(
        with({"--access-logfile", scratch / "access", "--access-logformat", "%(D)s %(A)s %(Q)s"}));
    Client first = server.connect();
    Client second = server.connect();
    // Makes both known to the worker: nobody can time what waits in the kernel's queue.
    EXPECT_EQ(first.get("/sleep?s=0.3").body, "slept");
    EXPECT_EQ(second.get("/sleep?s=0.3").body, "slept");
    first.send(make_request("GET", "/sleep?s=0.3"));
    second.send(make_request("GET", "/sleep?s=0.3"));
    EXPECT_EQ(first.read_response().body, "slept");
    EXPECT_EQ(second.read_response().body, "slept");
    const std::vector<std::string> lines = lines_of(scratch / "access", 4);
    ASSERT_EQ(lines.size(), 4U) << server.story();
    long longest_wait = 0;
    for (const std::string& line : lines) {
        long duration = 0, app = 0, queue = 0;
        ASSERT_EQ(std::sscanf(line.c_str(), "%ld %ld %ld", &duration, &app, &queue), 3) << line;
        EXPECT_GE(app, 300'000) << line;
        EXPECT_GE(duration, app + queue) << line;
        longest_wait = std::max(longest_wait, queue);
    }
    // With one slot one of the two waited while the other slept.
    if (GetParam().name == "sync_1") {
        EXPECT_GE(longest_wait, 100'000) << lines[2] << " / " << lines[3];
    }
}

TEST_P(Logs, WritesALineForRefusedRequests) {
    SKIP_ON_GUNICORN("it writes some of them");
    const std::vector<std::pair<std::string, std::string>> refused = {
        {"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", "400"},
        {"GET / HTTP/9.1\r\nHost: x\r\n\r\n", "505"},
        {"GET /" + std::string(5000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", "414"},
        {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "501"},
        {"POST /big HTTP/1.1\r\nHost: x\r\nUser-Agent: curl\r\nContent-Length: 9\r\n\r\n", "413"}};
    const TempDir directory;
    directory.write("own.py",
                    "from gunicorn.glogging import Logger\nclass Own(Logger):\n    pass\n");
    const std::vector<std::vector<std::string>> writers = {
        {}, {"--pythonpath", directory.path(), "--logger-class", "own.Own"}};
    for (const std::vector<std::string>& writer : writers) {
        const TempDir scratch;
        std::vector<std::string> args = {
            "--limit-request-body", "8",
            "--access-logfile",     scratch / "access",
            "--access-logformat",   R"(%(h)s "%(r)s" %(s)s "%(a)s" %(U)s %(q)s %(A)s %(Q)s %(T)s)"};
        args.insert(args.end(), writer.begin(), writer.end());
        const Server server(with(args));
        for (size_t i = 0; i < refused.size(); ++i) {
            Client client = server.connect();
            client.send(refused[i].first);
            EXPECT_EQ(std::to_string(client.read_response().status), refused[i].second);
            const std::vector<std::string> lines = lines_of(scratch / "access", i + 1);
            ASSERT_EQ(lines.size(), i + 1) << refused[i].second << server.story();
            EXPECT_EQ(lines[i].rfind("127.0.0.1 \"", 0), 0U) << lines[i];
            EXPECT_NE(lines[i].find("\" " + refused[i].second + " \""), std::string::npos)
                << lines[i];
        }
        const std::vector<std::string> lines = lines_of(scratch / "access", 6);
        EXPECT_EQ(lines[0], R"(127.0.0.1 "GET /a%20b?c=d HTTP/1.1" 400 "-" /a b c=d 0 0 0)");
        EXPECT_EQ(lines[5], R"(127.0.0.1 "POST /big HTTP/1.1" 413 "curl" /big  0 0 0)");
        EXPECT_TRUE(server.logs("Invalid request from ip=127.0.0.1")) << server.story();
    }
}

TEST_P(Logs, TimesTheApplicationAndTheQueueWithALoggerClass) {
    SKIP_ON_GUNICORN("these atoms are gcorn's own");
    const TempDir scratch;
    scratch.write(
        "own.py",
        "import time\nfrom gunicorn.glogging import Logger\nclass Own(Logger):\n    pass\n"
        "def app(environ, start_response):\n"
        "    time.sleep(0.05)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'x']\n");
    ServerOptions options =
        with({"--chdir", scratch.path(), "--logger-class", "own.Own", "--access-logfile",
              scratch / "access", "--access-logformat", "%(A)s %(Q)s %(D)s"});
    options.app = "own:app";
    const Server server(options);
    EXPECT_EQ(server.get("/").status, 200);
    std::istringstream line(lines_of(scratch / "access", 1).at(0));
    int64_t app_us = 0, queue_us = -1, duration_us = 0;
    line >> app_us >> queue_us >> duration_us;
    EXPECT_GE(app_us, 50'000) << line.str();
    EXPECT_GE(queue_us, 0) << line.str();
    EXPECT_GE(duration_us, app_us + queue_us) << line.str();
}

// ---------------------------------------------------------------------------------------- rotation

/// An application that writes the query into the error log, and prints and dies on demand.
constexpr const char* kNoisy =
    "import os, sys, time\n"
    "def app(environ, start_response):\n"
    "    path, query = environ['PATH_INFO'], environ['QUERY_STRING']\n"
    "    if path == '/note': environ['wsgi.errors'].write('noted ' + query + '\\n')\n"
    "    if path == '/print': print('printed', query, flush=True)\n"
    "    if path == '/low':\n"
    "        os.write(1, b'low one\\n'); os.write(2, b'low two\\n')\n"
    "    if path == '/deep': deep(30, query)\n"
    "    start_response('200 OK', [('Content-Length', '2')])\n"
    "    return [b'ok']\n"
    "def deep(n, query):\n"
    "    if n == 0: raise ValueError('deep ' + query)\n"
    "    deep(n - 1, query) if n % 2 else deep(n - 1, query)\n";

/// Numbered requests from several clients without a pause; remembers which were answered.
class Numbered {
public:
    Numbered(const Endpoint& at, const std::string& path, size_t clients = 3) {
        for (size_t i = 0; i < clients; ++i) {
            threads_.emplace_back([this, at, path] {
                auto client = std::make_unique<Client>(at);
                while (!stops_) {
                    const size_t number = next_++;
                    const Response got = client->get(path + "?n" + std::to_string(number) + ";");
                    if (got.status != 200 || !got.ok()) ++failed_;
                    if (!got.ok() || got.says_close()) client = std::make_unique<Client>(at);
                }
            });
        }
    }
    ~Numbered() { stop(); }
    /// Stops the clients; returns how many numbers were used.
    size_t stop() {
        stops_ = true;
        for (std::thread& thread : threads_)
            if (thread.joinable()) thread.join();
        return next_;
    }
    [[nodiscard]] bool goes_on(size_t more = 100) const {
        const size_t before = next_;
        return eventually([&] { return next_ >= before + more; });
    }
    [[nodiscard]] size_t failed() const { return failed_; }

private:
    std::atomic<bool> stops_{false};
    std::atomic<size_t> next_{0}, failed_{0};
    std::vector<std::thread> threads_;
};

/// How often each "nNUMBER;" below count appears in the texts.
std::vector<size_t> occurrences(const std::string& text, size_t count) {
    std::vector<size_t> found(count);
    for (size_t at = text.find('n'); at != std::string::npos; at = text.find('n', at + 1)) {
        char* end = nullptr;
        const unsigned long number = std::strtoul(text.c_str() + at + 1, &end, 10);
        if (end > text.c_str() + at + 1 && *end == ';' && number < count) ++found[number];
    }
    return found;
}

class Rotation : public PerEngine {
protected:
    void SetUp() override { SKIP_ON_GUNICORN("not what these tests are about"); }

    /// Renames `log` and sends USR1, five times under load; then counts every numbered line.
    void rotate_under_load(const std::string& log_option, const std::string& path,
                           const std::vector<std::string>& more) {
        const TempDir directory;
        directory.write("noisy.py", kNoisy);
        std::vector<std::string> args = {"-w", "2", log_option, directory / "log"};
        args.insert(args.end(), more.begin(), more.end());
        ServerOptions options = with(args);
        options.app = "noisy:app";
        options.directory = directory.path();
        const Server server(options);
        ASSERT_TRUE(server.has_workers(2));
        Numbered load(server.at(), path);
        for (int i = 0; i < 5; ++i) {
            ASSERT_TRUE(load.goes_on()) << server.story();
            const std::string old = directory / ("log." + std::to_string(i));
            ASSERT_EQ(std::rename((directory / "log").c_str(), old.c_str()), 0);
            server.signal(SIGUSR1);
            ASSERT_TRUE(eventually([&] {
                return ::access((directory / "log").c_str(), F_OK) == 0;
            })) << server.story();
        }
        ASSERT_TRUE(load.goes_on());
        const size_t count = load.stop();
        EXPECT_EQ(load.failed(), 0U) << server.story();
        std::vector<size_t> found;
        const std::vector<size_t> once(count, 1);
        EXPECT_TRUE(eventually(
            [&] {
                std::string all = read_file(directory / "log");
                for (int i = 0; i < 5; ++i)
                    all += read_file(directory / ("log." + std::to_string(i)));
                found = occurrences(all, count);
                return found == once;
            },
            Milliseconds(5000)))
            << "lost: " << std::count(found.begin(), found.end(), 0U) << ", of " << count
            << server.story();
        // No process still writes to the last renamed file.
        const auto size = [&](const char* name) { return read_file(directory / name).size(); };
        const size_t before = size("log.4");
        for (int i = 0; i < 20; ++i)
            fetch(server.at(), "GET", path + "?later");
        EXPECT_TRUE(eventually(
            [&] { return read_file(directory / "log").find("later") != std::string::npos; }));
        EXPECT_EQ(size("log.4"), before);
    }
};
FOR_EVERY_ENGINE(Rotation);

TEST_P(Rotation, LosesAndDoublesNoAccessLine) {
    rotate_under_load("--access-logfile", "/", {"--access-logformat", "%(q)s"});
}

TEST_P(Rotation, LosesAndDoublesNoLineOfTheErrorLogWhichTheArbiterReopensToo) {
    rotate_under_load("--log-file", "/note", {});
}

TEST_P(Rotation, FollowsWithCapturedOutput) {
    rotate_under_load("--log-file", "/print", {"--capture-output"});
}

// ----------------------------------------------------------------------------------------- faults

class FullDisk : public PerEngine {
protected:
    void SetUp() override { SKIP_ON_GUNICORN("not what these tests are about"); }

    /// A server whose log already holds 100 kB, more than its other files will ever do.
    Server& start(const std::string& log_option, const std::vector<std::string>& more = {}) {
        directory_.write("noisy.py", kNoisy);
        directory_.write("log", std::string(99'999, 'x') + "\n");
        std::vector<std::string> args = {log_option, directory_ / "log"};
        args.insert(args.end(), more.begin(), more.end());
        ServerOptions options = with(args);
        options.app = "noisy:app";
        options.directory = directory_.path();
        server_.emplace(options);
        EXPECT_TRUE(server_->has_workers(GetParam().workers));
        EXPECT_EQ(server_->get("/").status, 200);
        return *server_;
    }
    /// Lets no file grow beyond that: to a program, this is a full disk.
    void limit_files(rlim_t bytes) const {
        const rlimit limit{bytes, RLIM_INFINITY};
        std::vector<pid_t> all = server_->workers();
        all.push_back(server_->pid());
        for (const pid_t pid : all)
            EXPECT_EQ(::prlimit(pid, RLIMIT_FSIZE, &limit, nullptr), 0);
    }
    [[nodiscard]] std::string log() const { return read_file(directory_ / "log"); }

    TempDir directory_;
    std::optional<Server> server_;
};
FOR_EVERY_ENGINE(FullDisk);

TEST_P(FullDisk, UnderTheAccessLogCostsLinesOnly) {
    const Server& server = start("--access-logfile", {"--access-logformat", "%(q)s"});
    limit_files(100'000 + 50);
    for (int i = 0; i < 30; ++i)
        EXPECT_EQ(server.get("/?during" + std::string(20, 'x')).status, 200) << server.story();
    ASSERT_TRUE(server.logs("Log records are lost: '" + (directory_ / "log"))) << server.story();
    limit_files(RLIM_INFINITY);
    EXPECT_TRUE(eventually([&] {
        EXPECT_EQ(server.get("/?after").status, 200);
        return count(server.err(), "log records were lost: ") > 0;
    })) << server.story();
    EXPECT_TRUE(eventually([&] { return log().find("after\n") != std::string::npos; }));
    // Once for each process that ran into it, not once for each line.
    EXPECT_LE(count(server.err(), "Log records are lost"), GetParam().workers) << server.story();
}

TEST_P(FullDisk, UnderTheErrorLogCostsLinesOnly) {
    Server& server = start("--log-file");
    limit_files(100'000);
    for (int i = 0; i < 30; ++i)
        EXPECT_EQ(server.get("/note?during").status, 200) << server.story();
    EXPECT_TRUE(server.logs("Log records are lost: '" + (directory_ / "log"))) << server.story();
    server.signal(SIGTTIN);  // the arbiter's lines, too
    ASSERT_TRUE(server.has_workers(GetParam().workers + 1)) << server.story();
    EXPECT_LE(count(server.err(), "Log records are lost"), GetParam().workers + 2)
        << server.story();
    limit_files(RLIM_INFINITY);
    EXPECT_TRUE(eventually([&] {
        EXPECT_EQ(server.get("/note?after").status, 200);
        return log().find("log records were lost: ") != std::string::npos;
    })) << log().substr(100'000);
    EXPECT_EQ(log().find("during"), std::string::npos);
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0);
    EXPECT_NE(log().find("Shutting down: Master"), std::string::npos) << log().substr(100'000);
}

TEST_P(FullDisk, IsSurvivedOnARealFileSystem) {
    const TempDir mounted;
    if (::mount("tmpfs", mounted.path().c_str(), "tmpfs", 0, "size=64k") != 0)
        GTEST_SKIP() << "mounting needs root";
    {
        Server server(
            with({"--access-logfile", mounted / "access", "--log-file", mounted / "error"}));
        const std::string query(1000, 'q');
        for (int i = 0; i < 100; ++i)
            EXPECT_EQ(server.get("/?" + query).status, 200) << server.story();
        EXPECT_TRUE(server.logs("can't be written (No space left on device)")) << server.story();
        EXPECT_EQ(::truncate((mounted / "access").c_str(), 0), 0);
        EXPECT_TRUE(eventually([&] {
            EXPECT_EQ(server.get("/").status, 200);
            return read_file(mounted / "access").find("\"GET / HTTP/1.1\" 200 14") !=
                   std::string::npos;
        })) << server.story();
    }
    EXPECT_EQ(::umount2(mounted.path().c_str(), MNT_DETACH), 0);
}

TEST_P(FullDisk, AVanishedDirectoryCostsLinesOnlyAndIsFoundAgain) {
    const TempDir directory;
    std::filesystem::create_directory(directory / "logs");
    const Server server(
        with({"--access-logfile", directory / "logs/access", "--access-logformat", "%(q)s"}));
    EXPECT_EQ(server.get("/?before").status, 200);
    ASSERT_EQ(lines_of(directory / "logs/access", 1).size(), 1U);
    std::filesystem::remove_all(directory / "logs");
    EXPECT_TRUE(eventually([&] {
        EXPECT_EQ(server.get("/").status, 200) << server.story();
        return server.err().find("Log records are lost") != std::string::npos;
    })) << server.story();
    server.signal(SIGUSR1);
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    std::filesystem::create_directory(directory / "logs");
    EXPECT_TRUE(eventually([&] {
        EXPECT_EQ(server.get("/?after").status, 200) << server.story();
        return read_file(directory / "logs/access").find("after") != std::string::npos;
    })) << server.story();
}

// ------------------------------------------------------------------------------- the error log

TEST_P(Logs, KeepsTracebacksOfManyWorkersInOnePiece) {
    SKIP_ON_GUNICORN("they interleave");
    const TempDir directory;
    directory.write("noisy.py", kNoisy);
    ServerOptions options = with({"-w", "4", "--log-file", directory / "log"});
    options.app = "noisy:app";
    options.directory = directory.path();
    const Server server(options);
    ASSERT_TRUE(server.has_workers(4));
    std::vector<std::thread> clients;
    for (int i = 0; i < 6; ++i)
        clients.emplace_back([&] {
            for (int j = 0; j < 25; ++j)
                EXPECT_EQ(fetch(server.at(), "GET", "/deep?q").status, 500);
        });
    for (std::thread& client : clients)
        client.join();
    // Every traceback: its prefixed line, its header, frames only, its exception.
    std::istringstream text(read_file(directory / "log"));
    size_t whole = 0;
    bool inside = false;
    for (std::string line; std::getline(text, line);) {
        if (line.find("[ERROR] Error handling request GET /deep?q") != std::string::npos) {
            EXPECT_FALSE(inside) << line;
            ASSERT_TRUE(std::getline(text, line));
            EXPECT_EQ(line, "Traceback (most recent call last):");
            inside = true;
        } else if (line == "ValueError: deep q") {
            EXPECT_TRUE(inside);
            inside = false;
            ++whole;
        } else if (inside) {
            EXPECT_EQ(line.rfind("  ", 0), 0U) << line;
        } else {
            EXPECT_EQ(line.rfind("[20", 0), 0U) << line;
        }
    }
    EXPECT_EQ(whole, 150U);
}

TEST_P(Logs, CapturesOutputInTheErrorLog) {
    const TempDir directory;
    directory.write("noisy.py", std::string("print('printed by the import')\n") + kNoisy);
    ServerOptions options = with({"--capture-output", "--log-file", directory / "log"});
    options.app = "noisy:app";
    options.directory = directory.path();
    const Server server(options);
    EXPECT_EQ(server.get("/print?x").status, 200);
    EXPECT_EQ(server.get("/low").status, 200);
    EXPECT_TRUE(eventually([&] {
        const std::string log = read_file(directory / "log");
        return log.find("printed x\n") != std::string::npos &&
               log.find("low one\nlow two\n") != std::string::npos &&
               log.find("printed by the import\n") != std::string::npos;
    })) << read_file(directory / "log")
        << server.story();
    EXPECT_EQ(server.out(), "");
}

TEST_P(Logs, CapturesOutputAlsoWhereALogconfigTakesOver) {
    const TempDir directory;
    directory.write("noisy.py", kNoisy);
    const std::string config = directory.write(
        "conf.py",
        "logconfig_dict = {'loggers': {'gunicorn.error': {'propagate': True}}, 'root': {'level': "
        "'INFO', 'handlers': ['out']}, "
        "'handlers': {'out': {'class': 'logging.StreamHandler', 'stream': 'ext://sys.stdout'}}}\n");
    ServerOptions options =
        with({"-c", config, "--capture-output", "--log-file", directory / "log"});
    options.app = "noisy:app";
    options.directory = directory.path();
    const Server server(options);
    EXPECT_EQ(server.get("/print?x").status, 200);
    EXPECT_TRUE(eventually([&] {
        const std::string log = read_file(directory / "log");
        return contains(log, "printed x\n") && count(log, "Using worker: ") == 1;
    })) << read_file(directory / "log")
        << server.story();
    EXPECT_EQ(server.out(), "");
}

std::vector<std::string> lines_of(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> lines;
    for (std::string line; std::getline(stream, line);)
        lines.push_back(line);
    return lines;
}

TEST_P(Logs, LosesAndDoublesNoPrintedLine) {
    SKIP_ON_GUNICORN("Python keeps lines back, and a fork copies them");
    const TempDir directory;
    directory.write("conf.py", "print('read the configuration')\nprint('begun, ', end='')\n");
    directory.write("prints.py",
                    "import os, signal\n"
                    "def app(environ, start_response):\n"
                    "    print('asked for', environ['PATH_INFO'])\n"
                    "    if environ['PATH_INFO'] == '/kill': os.kill(os.getpid(), signal.SIGKILL)\n"
                    "    start_response('200 OK', [('Content-Length', '2')])\n"
                    "    return [b'ok']\n");
    ServerOptions options = with({"-w", "2", "-c", directory / "conf.py"});
    options.app = "prints:app";
    options.directory = directory.path();
    options.env["PYTHONUNBUFFERED"] = "";
    Server server(options);
    ASSERT_TRUE(server.has_workers(2));
    const std::vector<pid_t> old = server.workers();
    fetch(server.at(), "GET", "/kill");
    EXPECT_TRUE(eventually([&] { return server.out().find("for /kill\n") != std::string::npos; }));
    ASSERT_TRUE(eventually([&] { return server.has_workers(2) && server.workers() != old; }));
    EXPECT_EQ(server.get("/last").status, 200);
    EXPECT_TRUE(eventually([&] { return server.out().find("for /last\n") != std::string::npos; }));
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0);
    EXPECT_EQ(lines_of(server.out()),
              (std::vector<std::string>{"read the configuration", "begun, asked for /kill",
                                        "asked for /last"}));
}

TEST_P(Logs, PrintsWholeLinesFromManyWorkersAlsoUnbuffered) {
    SKIP_ON_GUNICORN("Python writes the end of a line by itself");
    const TempDir directory;
    directory.write("prints.py",
                    "def app(environ, start_response):\n"
                    "    for i in range(50): print('from ' + environ['QUERY_STRING'] * 20)\n"
                    "    start_response('200 OK', [('Content-Length', '2')])\n"
                    "    return [b'ok']\n");
    ServerOptions options = with({"-w", "4"});
    options.app = "prints:app";
    options.directory = directory.path();
    options.env["PYTHONUNBUFFERED"] = "1";
    const Server server(options);
    ASSERT_TRUE(server.has_workers(4));
    std::vector<std::thread> clients;
    for (int i = 0; i < 6; ++i)
        clients.emplace_back([&] {
            for (int j = 0; j < 20; ++j)
                EXPECT_EQ(fetch(server.at(), "GET", "/?line").status, 200);
        });
    for (std::thread& client : clients)
        client.join();
    std::string line = "from ";
    for (int i = 0; i < 20; ++i)
        line += "line";
    EXPECT_EQ(lines_of(server.out()), std::vector<std::string>(6 * 20 * 50, line));
}

TEST(ErrorLog, SpeaksJson) {
    SKIP_ON_GUNICORN("it has no JSON");
    const TempDir directory;
    directory.write("noisy.py", kNoisy);
    ServerOptions options{.app = "noisy:app",
                          .args = {"--error-logformat", "json", "--log-file", directory / "log"},
                          .directory = directory.path()};
    Server server(options);
    EXPECT_EQ(server.get("/deep?x").status, 500);
    EXPECT_EQ(server.get("/note?x").status, 200);
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0);
    EXPECT_EQ(of_json_lines(directory / "log", "all(isinstance(l['pid'], int) for l in lines)"),
              "True");
    EXPECT_EQ(of_json_lines(directory / "log",
                            "[(l['level'], l['message'], l['traceback'].splitlines()[-1]) "
                            "for l in lines if 'traceback' in l]"),
              "[('ERROR', 'Error handling request GET /deep?x', 'ValueError: deep x')]");
    EXPECT_EQ(of_json_lines(directory / "log", "[l['message'] for l in lines if 'stream' in l]"),
              "['noted x']");
}

TEST(ErrorLog, LeavesRedirectedStreamsToADaemonWithR) {
    const TempDir directory;
    directory.write("noisy.py", kNoisy);
    for (const bool keeps : {false, true}) {
        const int port = free_port();
        const std::string out = directory / (keeps ? "kept" : "lost");
        // A shell redirects, because run() uses files of its own.
        std::string command = "exec '" + server_command().at(0) + (keeps ? "' -R" : "'") +
                              " -D -p pid --log-file log -b 127.0.0.1:" + std::to_string(port) +
                              " noisy:app >" + out;
        const Finished started = run({"/bin/sh", "-c", command}, {}, directory.path());
        ASSERT_EQ(started.code, 0) << started;
        ASSERT_TRUE(eventually([&] { return Client(Endpoint{.port = port}).connected(); }))
            << read_file(directory / "log");
        EXPECT_EQ(fetch({.port = port}, "GET", "/print?x").status, 200);
        const pid_t pid = std::atoi(read_file(directory / "pid").c_str());
        ASSERT_GT(pid, 1);
        ::kill(pid, SIGTERM);
        EXPECT_TRUE(eventually([&] { return !is_alive(pid); }));
        EXPECT_EQ(read_file(out), keeps ? "printed x\n" : "");
    }
}

TEST(ErrorLog, KeepsOutWhatIsPrintedWithoutStandardStreams) {
    SKIP_ON_GUNICORN("its log file becomes stdout");
    const TempDir directory;
    directory.write("noisy.py", kNoisy);
    const int port = free_port();
    const std::string log = directory / "log";
    Daemon server({"/bin/sh", "-c",
                   "exec '" + server_command().at(0) + "' --chdir " + directory.path() +
                       " --access-logfile - --log-file " + log +
                       " -b 127.0.0.1:" + std::to_string(port) + " noisy:app <&- >&- 2>&-"});
    ASSERT_TRUE(eventually([&] { return Client(Endpoint{.port = port}).connected(); }))
        << read_file(log);
    EXPECT_EQ(fetch({.port = port}, "GET", "/low").status, 200);
    EXPECT_EQ(fetch({.port = port}, "GET", "/print?x").status, 200);
    EXPECT_EQ(fetch({.port = port}, "GET", "/note?x").status, 200);
    const std::string text = read_file(log);
    EXPECT_NE(text.find("noted x\n"), std::string::npos) << text;
    for (const char* printed : {"low one", "low two", "printed x", "GET /low"})
        EXPECT_EQ(text.find(printed), std::string::npos) << text;
}

TEST(ErrorLog, GoesIntoNoSocketOfOursWithoutDevNull) {
    SKIP_ON_GUNICORN("its listener becomes stdin");
    if (run({"/usr/bin/unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev"}).code != 0)
        GTEST_SKIP() << "no mount namespace here";
    const TempDir directory;
    directory.write("streams.py",
                    "import os, socket\n"
                    "def state(fd):\n"
                    "    stream = socket.socket(fileno=os.dup(fd))\n"
                    "    try:\n"
                    "        return str(stream.getpeername())\n"
                    "    except OSError as error:\n"
                    "        return str(error.errno) + stream.getsockname()\n"
                    "def app(environ, start_response):\n"
                    "    print('to nobody')\n"
                    "    body = ' '.join(state(fd) for fd in range(3)).encode()\n"
                    "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
                    "    return [body]\n");
    const std::string path = directory / "socket";
    Daemon server({"/usr/bin/unshare", "-m", "/bin/sh", "-c",
                   "mount -t tmpfs none /dev && exec '" + server_command().at(0) + "' --chdir " +
                       directory.path() + " --access-logfile - -b unix:" + path +
                       " streams:app <&- >&- 2>&-"});
    ASSERT_TRUE(eventually([&] { return Client(Endpoint{.path = path}).connected(); }));
    const std::string unbound = std::to_string(ENOTCONN);
    EXPECT_EQ(fetch({.path = path}, "GET", "/").body, unbound + " " + unbound + " " + unbound);
}

// ------------------------------------------------------------------------------- syslog, statsd

class Remote : public ::testing::TestWithParam<Receiver::Kind> {};
std::string kind_name(const ::testing::TestParamInfo<Receiver::Kind>& kind) {
    constexpr const char* kNames[] = {"Udp", "UnixDatagram", "Tcp"};
    return kNames[static_cast<size_t>(kind.param)];
}
INSTANTIATE_TEST_SUITE_P(Kinds, Remote,
                         ::testing::Values(Receiver::Kind::Udp, Receiver::Kind::UnixDatagram,
                                           Receiver::Kind::Tcp),
                         kind_name);

TEST_P(Remote, SyslogGetsBothLogs) {
    const TempDir directory;
    directory.write("noisy.py", kNoisy);
    Receiver syslog(GetParam(), directory / "socket");
    const std::string address =
        GetParam() == Receiver::Kind::Udp   ? "udp://127.0.0.1:" + syslog.port()
        : GetParam() == Receiver::Kind::Tcp ? "tcp://127.0.0.1:" + syslog.port()
                                            : "unix://" + (directory / "socket") + "#dgram";
    Server server({.app = "noisy:app",
                   .args = {"--log-syslog", "--log-syslog-to", address, "--log-syslog-prefix",
                            "shop", "--log-syslog-facility", "local3", "--access-logfile",
                            directory / "access", "-w", "2"},
                   .directory = directory.path()});
    EXPECT_TRUE(syslog.gets("gunicorn.shop.error: [")) << server.story();
    EXPECT_TRUE(syslog.gets("Listening at: http://127.0.0.1:")) << server.story();
    EXPECT_EQ(server.get("/deep?x").status, 500);
    EXPECT_TRUE(syslog.gets("\"GET /deep?x HTTP/1.1\" 500 ")) << server.story();
    EXPECT_TRUE(syslog.gets("ValueError: deep x")) << server.story();
    const std::string& all = syslog.received();
    // local3 is 19; 19 * 8 + 6 (info), and + 3 (error). RFC 3164 §4.1.1
    EXPECT_NE(all.find("<158>gunicorn.shop.access: ["), std::string::npos) << all;
    EXPECT_NE(all.find("<155>gunicorn.shop.error: ["), std::string::npos) << all;
    EXPECT_NE(all.find("<158>gunicorn.shop.error: ["), std::string::npos) << all;
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_TRUE(syslog.gets("Shutting down: Master"));
}

TEST(Metrics, StatsdGetsGunicornsMetrics) {
    SKIP_ON_GUNICORN_BEFORE(26, "no backlog metric");
    const TempDir directory;
    directory.write("noisy.py", kNoisy);
    Receiver statsd(Receiver::Kind::Udp);
    Server server({.app = "noisy:app",
                   .args = {"--statsd-host", "127.0.0.1:" + statsd.port(), "--statsd-prefix",
                            "shop.", "--dogstatsd-tags", "env:test", "--enable-backlog-metric"},
                   .directory = directory.path()});
    EXPECT_TRUE(statsd.gets("shop.gunicorn.workers:1|g|#env:test\n")) << server.story();
    EXPECT_EQ(server.get("/").status, 200);
    EXPECT_TRUE(statsd.gets("shop.gunicorn.requests:1|c|@1.0|#env:test\n")) << server.story();
    EXPECT_TRUE(statsd.gets("shop.gunicorn.request.status.200:1|c|@1.0|#env:test\n"));
    EXPECT_TRUE(std::regex_search(
        statsd.received(),
        std::regex(R"(shop\.gunicorn\.request\.duration:\d+\.\d+\|ms\|#env:test\n)")))
        << statsd.received();
    EXPECT_EQ(server.get("/deep?x").status, 500);
    EXPECT_TRUE(statsd.gets("shop.gunicorn.request.status.500:1|c|@1.0"));
    EXPECT_TRUE(statsd.gets("shop.gunicorn.log.exception:1|c|@1.0"));
    EXPECT_TRUE(statsd.gets("shop.gunicorn.backlog:0|h"));
    server.signal(SIGTTIN);
    EXPECT_TRUE(statsd.gets("shop.gunicorn.workers:2|g"));
}

TEST(Metrics, StopNoStartAndNoReloadOfSomethingElse) {
    SKIP_ON_GUNICORN("it says nothing");
    const TempDir directory;
    const std::string config = directory.write("conf.py", "statsd_host = 'no such host'\n");
    Server server({.args = {"-c", config}});
    EXPECT_TRUE(server.logs("statsd: resolve no such host"));
    EXPECT_TRUE(contains(server.err(), "; no metrics are sent (HUP tries again)"));
    const std::vector<pid_t> before = server.workers();
    server.signal(SIGHUP);
    EXPECT_TRUE(eventually([&] {
        return server.workers().size() == 1 && server.workers() != before;
    })) << server.story();
    EXPECT_FALSE(contains(server.err(), "Reload failed")) << server.story();
    Receiver statsd(Receiver::Kind::Udp);
    directory.write("conf.py", "statsd_host = '127.0.0.1:" + statsd.port() + "'\n");
    server.signal(SIGHUP);
    EXPECT_TRUE(statsd.gets("gunicorn.workers:1|g\n")) << server.story();
}

TEST(Metrics, StatsdOnAUnixSocketGetsThemToo) {
    SKIP_ON_GUNICORN_BEFORE(21, "no unix sockets");
    const TempDir directory;
    Receiver statsd(Receiver::Kind::UnixDatagram, directory / "statsd");
    const Server server({.args = {"--statsd-host", "unix://" + (directory / "statsd")}});
    EXPECT_EQ(server.get("/").status, 200);
    EXPECT_TRUE(statsd.gets("gunicorn.requests:1|c|@1.0\n")) << server.story();
}

// ------------------------------------------------------------------------------- Python's logging

TEST_P(Logs, AreReachedByPythonsLoggers) {
    const TempDir directory;
    directory.write("shop.py",
                    "import logging\n"
                    "mine = logging.getLogger('shop')\n"
                    "mine.handlers = logging.getLogger('gunicorn.error').handlers\n"
                    "mine.setLevel('INFO')\n"
                    "def app(environ, start_response):\n"
                    "    mine.info('through the handlers %d', 1)\n"
                    "    logging.getLogger('gunicorn.error').warning('through the logger')\n"
                    "    logging.getLogger('gunicorn.access').info('an access line of mine')\n"
                    "    try: 1 / 0\n"
                    "    except ZeroDivisionError: mine.exception('caught')\n"
                    "    start_response('200 OK', [('Content-Length', '0')])\n"
                    "    return []\n");
    ServerOptions options =
        with({"--log-file", directory / "log", "--access-logfile", directory / "access"});
    options.app = "shop:app";
    options.directory = directory.path();
    const Server server(options);
    EXPECT_EQ(server.get("/").status, 200);
    EXPECT_EQ(lines_of(directory / "access", 2).size(), 2U);
    EXPECT_NE(read_file(directory / "access").find("an access line of mine\n"), std::string::npos);
    const std::string log = read_file(directory / "log");
    const std::string prefix = R"(\n\[20[^\n]+\] \[\d+\] )";
    EXPECT_TRUE(std::regex_search(log, std::regex(prefix + R"(\[INFO\] through the handlers 1\n)")))
        << log;
    EXPECT_TRUE(std::regex_search(log, std::regex(prefix + R"(\[WARNING\] through the logger\n)")))
        << log;
    EXPECT_TRUE(std::regex_search(
        log, std::regex(prefix + R"(\[ERROR\] caught\nTraceback \(most recent call last\):\n)")))
        << log;
}

/// A logging dictionary as JSON text: both loggers into one file, each line with `mark` before it.
std::string logging_json(const std::string& file, const std::string& mark) {
    return R"({"version": 1, "disable_existing_loggers": false, "root": {"level": "INFO",)"
           R"( "handlers": ["one"]}, "loggers": {"gunicorn.error": {"level": "INFO", "handlers":)"
           R"( ["one"], "propagate": false}, "gunicorn.access": {"level": "INFO", "handlers":)"
           R"( ["one"], "propagate": false}}, "handlers": {"one": {"class":)"
           R"( "logging.FileHandler", "formatter": "marked", "filename": ")" +
           file + R"("}}, "formatters": {"marked": {"format": ")" + mark +
           R"( %(name)s %(levelname)s %(message)s"}}})";
}

std::string logging_ini(const std::string& file, const std::string& mark) {
    return "[loggers]\nkeys=root, gunicorn.error, gunicorn.access\n[handlers]\nkeys=one\n"
           "[formatters]\nkeys=marked\n[logger_root]\nlevel=INFO\nhandlers=one\n"
           "[logger_gunicorn.error]\nlevel=INFO\nhandlers=one\npropagate=0\nqualname=gunicorn."
           "error\n"
           "[logger_gunicorn.access]\nlevel=INFO\nhandlers=one\npropagate=0\n"
           "qualname=gunicorn.access\n[handler_one]\nclass=FileHandler\nformatter=marked\nargs=('" +
           file + "',)\n[formatter_marked]\nformat=" + mark +
           " %(name)s %(levelname)s %(message)s\n";
}

TEST_P(Logs, GoWhereTheLoggingConfigurationSays) {
    const TempDir directory;
    const std::string file = directory / "both";
    directory.write("log.ini", logging_ini(file, "INI"));
    directory.write("log.json", logging_json(file, "JSON"));
    directory.write("conf.py", "import json\nlogconfig_dict = json.loads('''" +
                                   logging_json(file, "DICT") + "''')\n");
    directory.write("own.py",
                    "from gunicorn.glogging import Logger\n"
                    "class Own(Logger):\n"
                    "    def info(self, msg, *args, **kwargs):\n"
                    "        super().info('OWN gunicorn.error INFO ' + msg, *args, **kwargs)\n"
                    "    def access(self, resp, req, environ, request_time):\n"
                    "        super().info('OWN gunicorn.access INFO %s', environ['RAW_URI'])\n");
    directory.write("patch.py",
                    "from gunicorn.glogging import Logger\n"
                    "format = ' PATCH %(name)s %(levelname)s %(message)s'\n"
                    "Logger.access_fmt = Logger.access_fmt + format\n"
                    "Logger.error_fmt = Logger.error_fmt + format\n"
                    "errorlog = accesslog = '" +
                        file + "'\n");
    const std::vector<std::pair<std::string, std::vector<std::string>>> ways = {
        {"PATCH", {"-c", directory / "patch.py"}},
        {"INI", {"--log-config", directory / "log.ini"}},
        {"JSON", {"--log-config-json", directory / "log.json"}},
        {"DICT", {"-c", directory / "conf.py"}},
        {"OWN",
         {"--pythonpath", directory.path(), "--logger-class", "own.Own", "--log-file", file,
          "--access-logfile", "-"}}};
    for (const auto& [mark, args] : ways) {
        if (mark == "JSON" && is_gunicorn() && gunicorn_version() < 21) continue;
        std::filesystem::remove(file);
        const Server server(with(args));
        EXPECT_EQ(server.get("/?x").status, 200) << mark;
        EXPECT_TRUE(eventually([&] {
            const std::string text = read_file(file);
            return std::regex_search(text, std::regex(mark + " gunicorn.access INFO .*/\\?x")) &&
                   text.find(mark + " gunicorn.error INFO Booting worker") != std::string::npos;
        })) << mark
            << "\n"
            << read_file(file) << server.story();
    }
}

/// As in Django's settings, or in an application that wants no lines about health checks.
TEST_P(Logs, GoWhereTheApplicationsOwnLoggingConfigurationSays) {
    const TempDir directory;
    const std::string app =
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/bad': raise KeyError('so')\n"
        "    start_response('200 OK', [('Content-Length', '0')])\n"
        "    return []\n";
    directory.write("shop.py",
                    "import json, logging.config\nlogging.config.dictConfig(json.loads('''" +
                        logging_json(directory / "both", "OWN") + "'''))\n" + app);
    directory.write("quiet.py",
                    "import logging\n"
                    "def wanted(record): return '/health' not in record.getMessage()\n"
                    "logging.getLogger('gunicorn.access').addFilter(wanted)\n" +
                        app);
    ServerOptions options = with({"--access-logfile", directory / "access"});
    options.directory = directory.path();
    options.app = "shop:app";
    {
        const Server server(options);
        EXPECT_EQ(server.get("/bad").status, 500);
        EXPECT_EQ(server.get("/last?x").status, 200);
        EXPECT_TRUE(eventually([&] {
            return std::regex_search(read_file(directory / "both"),
                                     std::regex("OWN gunicorn.access INFO .*/last\\?x"));
        })) << read_file(directory / "both")
            << server.story();
        const std::string both = read_file(directory / "both");
        const size_t error = both.find("OWN gunicorn.error ERROR Error handling request ");
        ASSERT_NE(error, std::string::npos) << both;
        EXPECT_NE(both.find("/bad\nTraceback (most recent call last):\n", error), std::string::npos)
            << both;
        EXPECT_NE(both.find("\nKeyError: 'so'\n", error), std::string::npos) << both;
        EXPECT_EQ(server.err().find("KeyError"), std::string::npos) << server.story();
        EXPECT_EQ(read_file(directory / "access"), "");
    }
    options.app = "quiet:app";
    const Server server(options);
    for (const char* path : {"/first", "/health", "/bad", "/health", "/last"})
        (void)server.get(path);
    EXPECT_EQ(lines_of(directory / "access", 3).size(), 3U);
    const std::string access = read_file(directory / "access");
    for (const char* line :
         {"GET /first HTTP/1.1\" 200 ", "GET /bad HTTP/1.1\" 500 ", "GET /last "})
        EXPECT_NE(access.find(line), std::string::npos) << access << server.story();
    EXPECT_TRUE(server.logs("KeyError: 'so'")) << server.story();
}

TEST(PythonLogging, IsReadAgainOnHupAndABrokenOneKeepsTheOld) {
    SKIP_ON_GUNICORN_BEFORE(26, "it does not read it again");
    const TempDir directory;
    const std::string config =
        directory.write("log.json", logging_json(directory / "one", "FIRST"));
    Server server({.args = {"--log-config-json", config}});
    EXPECT_EQ(server.get("/").status, 200);
    ASSERT_TRUE(eventually([&] {
        return read_file(directory / "one").find("FIRST gunicorn.access") != std::string::npos;
    }));
    directory.write("log.json", logging_json(directory / "two", "SECOND"));
    std::vector<pid_t> old = server.workers();
    server.signal(SIGHUP);
    ASSERT_TRUE(eventually([&] { return server.workers().size() == 1 && server.workers() != old; }))
        << read_file(directory / "one") << read_file(directory / "two");
    EXPECT_EQ(server.get("/").status, 200);
    EXPECT_TRUE(eventually([&] {
        return read_file(directory / "two").find("SECOND gunicorn.access") != std::string::npos;
    })) << read_file(directory / "two")
        << server.story();
    directory.write("log.json",
                    "{\"version\": 1, \"handlers\": {\"x\": {\"class\": \"absent.H\"}}}");
    old = server.workers();
    server.signal(SIGHUP);
    EXPECT_TRUE(eventually([&] {
        return read_file(directory / "two").find("Reload failed") != std::string::npos ||
               read_file(directory / "two").find("logconfig") != std::string::npos;
    })) << read_file(directory / "two")
        << server.story();
    const size_t before = read_file(directory / "two").size();
    EXPECT_EQ(server.get("/?still").status, 200);
    EXPECT_TRUE(eventually([&] {
        return read_file(directory / "two").find("/?still", before) != std::string::npos;
    })) << read_file(directory / "two")
        << server.story();
}

TEST_P(Logs, PythonsLoggingRunsInNoThreadBesideAHub) {
    SKIP_ON_GUNICORN("it has no such threads");
    if (GetParam().name != "gevent" && GetParam().name != "eventlet") GTEST_SKIP() << "has no hub";
    const TempDir directory;
    // Its records say whether the thread that writes them is the process's main thread.
    const std::string config = directory.write("conf.py", R"(
import ctypes, logging, os
from gunicorn.glogging import Logger
class Handler(logging.Handler):
    def emit(self, record):
        is_first = ctypes.CDLL(None).gettid() == os.getpid()
        with open('records', 'a') as file: file.write(f'{is_first} {record.getMessage()}\n')
class logger_class(Logger):
    def setup(self, cfg):
        super().setup(cfg)
        self.error_log.handlers = self.access_log.handlers = [Handler()]
)");
    ServerOptions options = with({"-c", config, "--access-logfile", "-"});
    options.directory = directory.path();
    options.args.insert(options.args.end(), {"--pythonpath", apps_dir()});
    Server server(options);
    EXPECT_EQ(server.get("/").status, 200) << server.story();
    for (int i = 0; i < 20; ++i) {
        Client client = server.connect();
        client.send("GET /bad HTTP/1.1\r\nHost a\r\n\r\n");
        EXPECT_EQ(client.read_response().status, 400);
    }
    const auto records = [&] { return read_file(directory / "records"); };
    EXPECT_TRUE(eventually([&] {
        return count(records(), "True Invalid request from ip=") == 20 &&
               count(records(), "\" 400 ") == 20;
    })) << records()
        << server.story();
    EXPECT_EQ(count(records(), "False "), 0U) << records();
}

TEST(ErrorLog, StaysWhereItIsWhenAReloadWantsLogsThatCannotBe) {
    SKIP_ON_GUNICORN("it stops");
    const TempDir directory;
    const std::string logs = "errorlog = '" + (directory / "errors") + "'\naccesslog = '" +
                             (directory / "access") + "'\n";
    const std::string config = directory.write("conf.py", logs);
    Server server({.args = {"-c", config}});
    ASSERT_EQ(server.get("/").status, 200) << server.story();
    const auto errors = [&] { return read_file(directory / "errors"); };
    const std::string elsewhere =
        "errorlog = '" + (directory / "other") + "'\naccesslog = '" + (directory / "other") + "'\n";
    for (const std::string broken :
         {"logconfig = '/nonexistent.ini'\n", "logger_class = 'nosuch.Logger'\n",
          "statsd_host = 'no.such.host.invalid:8125'\n",
          "class logger_class:\n"
          "    def __init__(self, cfg): raise ValueError('not today')\n"
          "    def access(self, *rest): pass\n"}) {
        directory.write("conf.py", elsewhere + broken);
        const size_t failed = count(errors(), "Reload failed");
        server.signal(SIGHUP);
        EXPECT_TRUE(eventually([&] { return count(errors(), "Reload failed") > failed; },
                               Milliseconds(20'000)))
            << broken << errors() << server.story();
        EXPECT_EQ(server.get("/?still").status, 200);
        EXPECT_TRUE(eventually([&] {
            return count(read_file(directory / "access"), "/?still") == failed + 1;
        })) << broken
            << server.story();
        // Workers that are forked now have the old logs, too.
        const std::vector<pid_t> old = server.workers();
        ::kill(old.at(0), SIGKILL);
        EXPECT_TRUE(eventually([&] {
            return server.workers().size() == 1 && server.workers() != old &&
                   count(errors(), "Booting worker") == failed + 2;
        })) << broken
            << errors() << server.story();
    }
    EXPECT_TRUE(contains(errors(), "ValueError: not today")) << errors() << server.story();
}

}  // namespace
}  // namespace gcorn::e2e
