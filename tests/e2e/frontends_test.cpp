// Behind real front ends, with the very files of deploy/.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

#include "tests/support/front_end.h"

namespace gcorn::e2e {
namespace {

int local_port(const Client& client) {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    ::getsockname(client.fd(), reinterpret_cast<sockaddr*>(&address), &size);
    return ntohs(address.sin_port);
}

bool has_line(const Response& response, const std::string& line) {
    return ("\n" + response.body).find("\n" + line + "\n") != std::string::npos;
}

/// Reloads, and waits until the new workers are the only ones.
void reload(const Server& server) {
    const std::vector<pid_t> before = server.workers();
    server.signal(SIGHUP);
    EXPECT_TRUE(eventually([&] {
        const std::vector<pid_t> now = server.workers();
        for (const pid_t pid : now) {
            if (std::find(before.begin(), before.end(), pid) != before.end()) return false;
        }
        return now.size() == before.size();
    })) << server.story();
}

/// GETs, and now and then a POST, which nobody may repeat.
Response some_request(Client& client, size_t number) {
    if (number % 10 == 9) return client.request("POST", "/echo", {}, "some body");
    return client.get(number % 10 == 5 ? "/slow" : "/");
}

TEST(Frontends, NginxSeesNo502InTenThousandRequestsWithReloads) {
    SKIP_ON_GUNICORN("its reloads lose requests");
    NEEDS_PROGRAM("nginx", "nginx-light");
    for (const std::vector<std::string>& engine :
         {std::vector<std::string>{"-w", "2"}, {"-k", "gthread", "--threads", "4"}}) {
        std::vector<std::string> args = engine;
        args.insert(args.end(), {"--keep-alive", "75"});
        const Server server({.app = "edge:app", .args = args, .on_unix_socket = true});
        const Nginx nginx(server.at().path);
        Load load(nginx.at(), 8, some_request);
        for (int reloads = 0; reloads < 3; ++reloads) {
            EXPECT_TRUE(load.more(1250));
            reload(server);
        }
        EXPECT_TRUE(load.more(1250));
        EXPECT_TRUE(eventually([&] { return load.done() >= 5000; }));
        load.stop();
        EXPECT_EQ(load.failures(), "") << server.story() << nginx.output();
    }
}

TEST(Frontends, NginxTellsTheApplicationWhoAsked) {
    NEEDS_PROGRAM("nginx", "nginx-light");
    const Server server({.app = "edge:app", .args = {}, .on_unix_socket = true});
    const Nginx nginx(server.at().path);
    const Response got = fetch(nginx.at(), "GET", "/", {{"Host", "site.test:81"}});
    EXPECT_EQ(got.status, 200) << got;
    EXPECT_TRUE(has_line(got, "HTTP_X_FORWARDED_FOR=127.0.0.1")) << got;
    EXPECT_TRUE(has_line(got, "HTTP_HOST=site.test:81")) << got;
    EXPECT_TRUE(has_line(got, "SERVER_NAME=site.test")) << got;
    EXPECT_TRUE(has_line(got, "wsgi.url_scheme=http")) << got;
    const Response big = fetch(nginx.at(), "POST", "/echo", {}, std::string(3'000'000, 'x'));
    EXPECT_EQ(big.body, "bytes=3000000\n") << big;
}

/// nginx speaks HTTP/1.1 to gcorn, where a request without Host is invalid.
TEST(Frontends, NginxNamesAHostForClientsThatDoNot) {
    NEEDS_PROGRAM("nginx", "nginx-light");
    const Server server({.app = "edge:app", .args = {}, .on_unix_socket = true});
    const Nginx nginx(server.at().path);
    Client client(nginx.at());
    client.send("GET / HTTP/1.0\r\n\r\n");
    const Response got = client.read_response();
    EXPECT_EQ(got.status, 200) << got;
}

class FrontendsProxy : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Headers, FrontendsProxy, ::testing::Values("v1", "v2"),
                         [](const auto& version) { return version.param; });

TEST_P(FrontendsProxy, HaproxyTellsTheClientsAddressOnEveryRequest) {
    SKIP_ON_GUNICORN_BEFORE(26, "no PROXY protocol of version 2");
    NEEDS_PROGRAM("haproxy", "haproxy");
    const Server server(
        {.app = "edge:app",
         .args = {"-w", "2", "--keep-alive", "75", "--proxy-protocol", GetParam()}});
    const Haproxy haproxy({"127.0.0.1:" + std::to_string(server.at().port)},
                          [](const std::string& text) {
                              if (GetParam() == "v2") return text;
                              return replaced(text, "send-proxy-v2", "send-proxy");
                          });
    // HAProxy's checks are connections with a PROXY header, too, of the kind without addresses.
    EXPECT_TRUE(haproxy.becomes("app1", "UP")) << haproxy.output() << server.story();
    for (int connection = 0; connection < 3; ++connection) {
        Client client(haproxy.at());
        const std::string port = std::to_string(local_port(client));
        for (int request = 0; request < 10; ++request) {
            const Response got = client.get("/");
            EXPECT_EQ(got.status, 200) << got;
            EXPECT_TRUE(has_line(got, "REMOTE_ADDR=127.0.0.1")) << got;
            EXPECT_TRUE(has_line(got, "REMOTE_PORT=" + port)) << got << port;
            EXPECT_TRUE(has_line(got, "PROXY_PROTOCOL=TCP4")) << got;
            EXPECT_TRUE(has_line(got, "PROXY_PORT=" + std::to_string(haproxy.at().port))) << got;
        }
    }
    EXPECT_EQ(server.err().find("WARNING"), std::string::npos) << server.err();
    EXPECT_EQ(haproxy.status("app1"), "UP");
}

TEST_P(FrontendsProxy, HaproxySeesNo502WithReloads) {
    SKIP_ON_GUNICORN_BEFORE(26, "no PROXY protocol of version 2");
    NEEDS_PROGRAM("haproxy", "haproxy");
    const Server server(
        {.app = "edge:app",
         .args = {"-w", "2", "--keep-alive", "75", "--proxy-protocol", GetParam()}});
    const Haproxy haproxy({"127.0.0.1:" + std::to_string(server.at().port)},
                          [](const std::string& text) {
                              if (GetParam() == "v2") return text;
                              return replaced(text, "send-proxy-v2", "send-proxy");
                          });
    EXPECT_TRUE(haproxy.becomes("app1", "UP")) << haproxy.output() << server.story();
    Load load(haproxy.at(), 4, [](Client& client, size_t number) {
        Response got = some_request(client, number);
        // A POST is answered with a count, everything else with the addresses.
        const std::string port = "REMOTE_PORT=" + std::to_string(local_port(client));
        if (got.ok() && number % 10 != 9 && !has_line(got, port)) got.error = "not from " + port;
        return got;
    });
    for (int reloads = 0; reloads < 2; ++reloads) {
        EXPECT_TRUE(load.more(300));
        reload(server);
    }
    EXPECT_TRUE(load.more(300));
    load.stop();
    EXPECT_EQ(load.failures(), "") << server.story() << haproxy.output();
}

TEST(Frontends, HaproxyBalancesOnlyToHostsThatAnswerItsChecks) {
    SKIP_ON_GUNICORN_BEFORE(26, "no PROXY protocol of version 2");
    NEEDS_PROGRAM("haproxy", "haproxy");
    const Server server({.app = "edge:app", .args = {"--proxy-protocol", "v2"}});
    const Haproxy haproxy({"127.0.0.1:" + std::to_string(free_port()),
                           "127.0.0.1:" + std::to_string(server.at().port)});
    EXPECT_TRUE(haproxy.becomes("app1", "DOWN"));
    EXPECT_TRUE(haproxy.becomes("app2", "UP"));
    for (int i = 0; i < 10; ++i)
        EXPECT_EQ(fetch(haproxy.at(), "GET", "/").status, 200);
}

}  // namespace
}  // namespace gcorn::e2e
