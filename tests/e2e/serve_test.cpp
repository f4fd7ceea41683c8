// The first thing a user sees: an application answers, on every kind of socket, with the environ
// that gunicorn's applications know.

#include <fstream>
#include <map>
#include <sstream>

#include <unistd.h>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

class Serve : public PerEngine {};
FOR_EVERY_ENGINE(Serve);

struct Typed {
    std::string type;
    std::string value;
};

/// What probe.py's /environ says: key, type and value of everything.
std::map<std::string, Typed> environ_of(const Response& response) {
    std::map<std::string, Typed> environ;
    std::istringstream lines(response.body);
    for (std::string line; std::getline(lines, line);) {
        const size_t one = line.find('\t');
        const size_t two = line.find('\t', one + 1);
        if (two == std::string::npos) continue;
        environ[line.substr(0, one)] = {line.substr(one + 1, two - one - 1), line.substr(two + 1)};
    }
    return environ;
}

TEST_P(Serve, AnswersHello) {
    const Server server({.app = "hello:app", .args = GetParam().args});
    const Response response = server.get("/");
    EXPECT_TRUE(response.ok()) << response;
    EXPECT_EQ(response.version, "HTTP/1.1");
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.reason, "OK");
    EXPECT_EQ(response.body, "Hello, world!\n");
    EXPECT_EQ(response.field("Content-Type"), "text/plain");
    EXPECT_EQ(response.field("Content-Length"), "14");
    EXPECT_EQ(response.count("Date"), 1U);
    EXPECT_EQ(response.count("Server"), 1U);
    EXPECT_EQ(response.count("Connection"), 1U);
}

TEST_P(Serve, StartsTheConfiguredNumberOfWorkers) {
    const Server server(with());
    EXPECT_TRUE(server.has_workers(GetParam().workers));
    EXPECT_TRUE(server.logs("Booting worker with pid: ")) << server.story();
}

TEST_P(Serve, GivesTheWholeEnviron) {
    const Server server(with());
    const std::string port = std::to_string(server.at().port);
    const Response response = server.request("POST", "/environ?a=1&b=%20c",
                                             {{"Host", "example.org:81"},
                                              {"Content-Type", "text/x-test; a=b"},
                                              {"X-Twice", "one"},
                                              {"X-Twice", "two"},
                                              {"X-Blank", " \t padded \t"},
                                              {"Accept", "*/*"}},
                                             "body!");
    ASSERT_EQ(response.status, 200) << response;
    auto environ = environ_of(response);
    const auto expect = [&](const std::string& key, const std::string& type,
                            const std::string& value) {
        EXPECT_EQ(environ[key].type, type) << key;
        EXPECT_EQ(environ[key].value, value) << key;
    };
    expect("REQUEST_METHOD", "str", "POST");
    expect("RAW_URI", "str", "/environ?a=1&b=%20c");
    expect("QUERY_STRING", "str", "a=1&b=%20c");
    expect("PATH_INFO", "str", "/environ");
    expect("SCRIPT_NAME", "str", "");
    expect("SERVER_PROTOCOL", "str", "HTTP/1.1");
    expect("SERVER_NAME", "str", "127.0.0.1");
    expect("SERVER_PORT", "str", port);
    expect("REMOTE_ADDR", "str", "127.0.0.1");
    expect("CONTENT_TYPE", "str", "text/x-test; a=b");
    expect("CONTENT_LENGTH", "str", "5");
    expect("HTTP_HOST", "str", "example.org:81");
    expect("HTTP_X_TWICE", "str", "one,two");
    expect("HTTP_X_BLANK", "str", gunicorn_version() == 20 ? "padded \t" : "padded");
    expect("HTTP_ACCEPT", "str", "*/*");
    expect("wsgi.version", "tuple", "(1, 0)");
    expect("wsgi.url_scheme", "str", "http");
    expect("wsgi.input_terminated", "bool", "True");
    expect("wsgi.multithread", "bool", GetParam().is_threaded ? "True" : "False");
    expect("wsgi.multiprocess", "bool", GetParam().workers > 1 ? "True" : "False");
    expect("wsgi.run_once", "bool", "False");
    EXPECT_EQ(environ["REMOTE_PORT"].type, "str");
    EXPECT_GT(std::atoi(environ["REMOTE_PORT"].value.c_str()), 0);
    EXPECT_EQ(environ["wsgi.file_wrapper"].type, "type");
    EXPECT_EQ(environ["SERVER_SOFTWARE"].type, "str");
    EXPECT_EQ(environ.count("wsgi.input"), 1U);
    EXPECT_EQ(environ.count("wsgi.errors"), 1U);
    EXPECT_EQ(environ.count("gunicorn.socket"), 1U);
    for (const char* absent : {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "PATH_TRANSLATED",
                               "REMOTE_HOST", "REMOTE_USER", "AUTH_TYPE", "HTTPS", "PROXY_ADDR"}) {
        EXPECT_EQ(environ.count(absent), 0U) << absent;
    }
}

TEST_P(Serve, DecodesThePathAsLatin1AndKeepsTheTargetRaw) {
    const Server server(with());
    const Response response = server.get("/environ?x");
    ASSERT_EQ(response.status, 200) << response;
    const Response not_found = server.get("/caf%C3%A9%2Fx%zz?q=%C3%A9");
    EXPECT_EQ(not_found.status, 404) << not_found;
    // PATH_INFO is decoded before the application sees it: /environ can be spelt with escapes.
    auto environ = environ_of(server.get("/%65nv%69ron?q=%C3%A9#cut"));
    EXPECT_EQ(environ["PATH_INFO"].value, "/environ");
    EXPECT_EQ(environ["RAW_URI"].value, "/%65nv%69ron?q=%C3%A9#cut");
    EXPECT_EQ(environ["QUERY_STRING"].value, "q=%C3%A9");
}

TEST_P(Serve, ListensOnAUnixSocketAndRemovesIt) {
    ServerOptions options = with();
    options.on_unix_socket = true;
    Server server(options);
    auto environ = environ_of(server.get("/environ", {{"Host", "site.example:8080"}}));
    EXPECT_EQ(environ["REMOTE_ADDR"].value, "");
    EXPECT_EQ(environ.count("REMOTE_PORT"), 0U);
    EXPECT_EQ(environ["SERVER_NAME"].value, "site.example");
    EXPECT_EQ(environ["SERVER_PORT"].value, "8080");
    server.signal(SIGTERM);
    EXPECT_EQ(server.exit_code(), 0) << server.story();
    EXPECT_NE(::access(server.at().path.c_str(), F_OK), 0) << "the socket's file is still there";
}

TEST_P(Serve, ListensOnSeveralAddresses) {
    const TempDir scratch;
    const int second = free_port();
    const Server server(
        with({"-b", "127.0.0.1:" + std::to_string(second), "-b", "unix:" + (scratch / "socket")}));
    ASSERT_TRUE(server.logs("Listening at: ")) << server.story();  // on all of them
    for (const Endpoint& endpoint :
         {server.at(), Endpoint{.port = second}, Endpoint{.path = scratch / "socket"}}) {
        EXPECT_EQ(fetch(endpoint, "GET", "/").body, "Hello, world!\n");
    }
}

TEST_P(Serve, ListensOnIpv6) {
    if (!std::ifstream("/proc/net/if_inet6").good()) GTEST_SKIP() << "no IPv6 here";
    ServerOptions options = with({"-b", "[::1]:" + std::to_string(free_port())});
    const int port =
        std::atoi(options.args.back().substr(options.args.back().rfind(':') + 1).c_str());
    const Server server(options);
    ASSERT_TRUE(server.logs("Listening at: ")) << server.story();  // on both
    auto environ = environ_of(fetch({.port = port, .is_v6 = true}, "GET", "/environ"));
    EXPECT_EQ(environ["REMOTE_ADDR"].value, "::1");
    EXPECT_EQ(environ["SERVER_NAME"].value, "::1");
    EXPECT_EQ(environ["SERVER_PORT"].value, std::to_string(port));
}

TEST_P(Serve, PutsTheSettingOfRawEnvIntoTheEnvironment) {
    const Server server(with({"-e", "GREETING=good day", "-e", "EMPTY="}));
    EXPECT_EQ(server.get("/variable?name=GREETING").body, "good day");
    EXPECT_EQ(server.get("/variable?name=EMPTY").body, "");
    EXPECT_EQ(server.get("/variable?name=NOT_SET").body, "(unset)");
}

TEST_P(Serve, ChangesTheDirectoryAndFindsTheApplicationThere) {
    const TempDir scratch;
    scratch.write("site/elsewhere.py",
                  "import os\n"
                  "def application(environ, start_response):\n"
                  "    start_response('200 OK', [])\n"
                  "    return [os.getcwd().encode()]\n");
    ServerOptions options = with({"--chdir", "site"});
    options.app = "elsewhere";
    options.directory = scratch.path();
    const Server server(options);
    EXPECT_EQ(server.get("/").body, scratch / "site") << server.story();
}

TEST_P(Serve, TakesItsPortFromTheEnvironment) {
    const int port = free_port();
    ServerOptions options = with();
    options.adds_bind = false;
    options.waits = false;
    options.env = {{"PORT", std::to_string(port)}};
    const Server server(options);
    ASSERT_TRUE(eventually([&] { return Client(Endpoint{.port = port}).connected(); }))
        << server.story();
    EXPECT_EQ(fetch({.port = port}, "GET", "/").status, 200);
}

}  // namespace
}  // namespace gcorn::e2e
