// The two logs as files and streams: format of the server's lines, one access line an answer.

#include <cstdio>
#include <regex>
#include <sstream>

#include <unistd.h>

#include "tests/support/e2e.h"

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
        for (std::string line; std::getline(in, line);)
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
    server.get("/generator");
    server.get("/teapot");
    server.get("/nowhere");
    const std::vector<std::string> lines = lines_of(scratch / "access", 3);
    EXPECT_EQ(lines,
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

}  // namespace
}  // namespace gcorn::e2e
