// TLS as clients of three kinds see it: curl, openssl s_client and Python's own.

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

#include "tests/support/certificates.h"
#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

const Engine kSync{.name = "sync", .args = {"-k", "sync"}};

/// sync and gthread, plus the greenlet classes that GCORN_E2E_CLASSES names: their libraries load
/// slowly.
std::vector<Engine> tls_engines() {
    std::vector<Engine> all = {
        kSync,
        {.name = "gthread", .args = {"-k", "gthread", "--threads", "4"}, .is_threaded = true}};
    for (Engine& engine : engines()) {
        if (engine.name == "gevent" || engine.name == "eventlet") all.push_back(engine);
    }
    return all;
}

/// Server and certificates of a test; helpers around the clients.
class TlsTest : public ::testing::TestWithParam<Engine> {
protected:
    static void SetUpTestSuite() { certificates_ = std::make_unique<Certificates>(); }
    static void TearDownTestSuite() { certificates_.reset(); }
    void SetUp() override {
        if (is_gunicorn()) GTEST_SKIP() << "these are gcorn's own promises";
    }
    static const Certificates& certificates() { return *certificates_; }
    static std::vector<std::string> tls_args() {
        return {"--certfile", certificates() / "server.pem", "--keyfile",
                certificates() / "server.key"};
    }
    static ServerOptions options(const Engine& engine, const std::vector<std::string>& more = {}) {
        std::vector<std::string> args = engine + tls_args();
        args.insert(args.end(), more.begin(), more.end());
        return {.app = "edge:app", .args = args};
    }
    static std::string url(const Server& server, const std::string& path,
                           const std::string& host = "localhost") {
        return "https://" + host + ":" + std::to_string(server.at().port) + path;
    }
    static Finished curl(const Server& server, const std::string& path,
                         const std::vector<std::string>& more = {},
                         const std::string& host = "localhost") {
        std::vector<std::string> command = {
            "/usr/bin/curl", "-sS",
            "--noproxy",     "*",
            "--cacert",      certificates() / "ca.pem",
            "--resolve",     host + ":" + std::to_string(server.at().port) + ":127.0.0.1"};
        command.insert(command.end(), more.begin(), more.end());
        command.push_back(url(server, path, host));
        return run(command);
    }
    static Finished s_client(const Server& server, const std::string& options,
                             const std::string& request) {
        const std::string at = "127.0.0.1:" + std::to_string(server.at().port);
        return run({"/bin/sh", "-c",
                    "printf '" + request + "' | openssl s_client -connect " + at + " -CAfile " +
                        (certificates() / "ca.pem") + " -verify_return_error -ign_eof " + options});
    }
    /// Runs a script in which connect() gives a TLS connection to the server, and raw() a plain
    /// one.
    static Finished python_client(const Server& server, const std::string& script) {
        const std::string prelude =
            "import http.client, socket, ssl, sys\n"
            "port = " +
            std::to_string(server.at().port) +
            "\n"
            "context = ssl.create_default_context(cafile='" +
            (certificates() / "ca.pem") +
            "')\n"
            "context.options &= ~getattr(ssl, 'OP_IGNORE_UNEXPECTED_EOF', 0)\n"
            "def raw(): return socket.create_connection(('127.0.0.1', port), 20)\n"
            "def connect(s=None): return context.wrap_socket(s or raw(), "
            "server_hostname='localhost',"
            " suppress_ragged_eofs=False)\n"
            "def read_all(s):\n"
            "    got = b''\n"
            "    while (data := s.recv(65536)): got += data\n"
            "    return got\n";
        return run({python(), "-c", prelude + script});
    }
    /// The line of an answer of edge.py that starts with `key`=.
    static std::string line(const std::string& body, const std::string& key) {
        const std::string all = "\n" + body;
        const size_t at = all.find("\n" + key + "=");
        if (at == std::string::npos) return "(none)";
        const size_t start = at + key.size() + 2;
        return all.substr(start, all.find('\n', start) - start);
    }
    static std::string serial(const Server& server) {
        return python_client(server, "print(connect().getpeercert()['serialNumber'])").out;
    }

    static inline std::unique_ptr<Certificates> certificates_;
};

class TlsEngine : public TlsTest {};
INSTANTIATE_TEST_SUITE_P(Engines, TlsEngine, ::testing::ValuesIn(tls_engines()),
                         [](const auto& engine) { return engine.param.name; });

TEST_P(TlsEngine, ServesCurlWithBothVersions) {
    const Server server(options(GetParam()));
    for (const std::string version : {"1.2", "1.3"}) {
        const Finished got =
            curl(server, "/peer",
                 {"--tlsv" + version, "--tls-max", version, "-w",
                  "http_version=%{http_version}\\nverified=%{ssl_verify_result}\\n"});
        EXPECT_EQ(got.code, 0) << got << server.story();
        EXPECT_EQ(line(got.out, "version"), "TLSv" + version);
        EXPECT_EQ(line(got.out, "wsgi.url_scheme"), "https");
        EXPECT_EQ(line(got.out, "REMOTE_ADDR"), "127.0.0.1");
        EXPECT_EQ(line(got.out, "alpn"), "http/1.1") << "curl offers h2, too";
        EXPECT_EQ(line(got.out, "http_version"), "1.1");
        EXPECT_EQ(line(got.out, "client"), "None");
    }
    EXPECT_TRUE(server.logs("Listening at: https://127.0.0.1:" + std::to_string(server.at().port)));
}

TEST_P(TlsEngine, KeepsPythonsClientConnectedThroughBigBodies) {
    ServerOptions with = options(GetParam());
    with.app = "probe:app";
    const Server server(with);
    const Finished got = python_client(server, R"(
sys.path.insert(0, '.')
import probe
c = http.client.HTTPSConnection('localhost', port, context=context, timeout=20)
for i in range(5):
    c.request('GET', '/'); r = c.getresponse(); assert r.read() == b'Hello, world!\n', r.status
first = c.sock
body = probe.PATTERN * 40
c.request('POST', '/check', body); r = c.getresponse(); print(r.read().decode())
for path in '/pattern?n=3000000', '/pattern?n=3000000&length=1', '/block?n=3000000':
    c.request('GET', path); r = c.getresponse(); got = r.read()
    assert got == (probe.PATTERN * 46)[:3000000], (path, len(got))
assert c.sock is first, 'the connection did not stay'
)");
    EXPECT_EQ(got.code, 0) << got << server.story();
    EXPECT_EQ(got.out, "2620840 bytes as expected\n");
}

TEST_P(TlsEngine, KeepsLittleForAnIdleConnection) {
    ServerOptions with = options(GetParam(), {"--keep-alive", "60"});
    with.app = "probe:app";
    const Server server(with);
    ASSERT_TRUE(server.has_workers(1));
    const std::string status = "/proc/" + std::to_string(server.workers().at(0)) + "/status";
    const Finished got = python_client(server, "status = '" + status + R"('
def kib(): return int(open(status).read().split('VmRSS:')[1].split()[0])
def ask(head, body=b''):
    s.sendall(head + b' HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
    answer = http.client.HTTPResponse(s); answer.begin(); return len(answer.read())
kept = [connect() for _ in range(100)]
for s in kept: ask(b'GET /')
before = kib()
for s in kept:
    assert ask(b'GET /block?n=300000') == 300000
    ask(b'POST /', b'x' * 300000)
each = (kib() - before) / len(kept)
assert each < 150, each
)");
    EXPECT_EQ(got.code, 0) << got << server.story();
}

/// More than may be in flight of a generated answer: a file just waits where it is.
TEST_P(TlsEngine, AFileThatNobodyTakesHoldsNoWorker) {
    const TempDir directory;
    std::filesystem::resize_file(directory.write("big", ""), uint64_t{400} << 20);
    directory.write("app.py",
                    "def app(environ, start_response):\n"
                    "    start_response('200 OK', [])\n"
                    "    if environ['PATH_INFO'] != '/big': return [b'small']\n"
                    "    return environ['wsgi.file_wrapper'](open('big', 'rb'))\n");
    ServerOptions with = options(GetParam());
    with.app = "app:app";
    with.directory = directory.path();
    const Server server(with);
    const Finished got = python_client(server, R"(
def ask(path): s = connect(); s.sendall(b'GET ' + path + b' HTTP/1.0\r\n\r\n'); return s
idle = [ask(b'/big') for _ in range(6)]
assert [s.recv(5) for s in idle] == [b'HTTP/'] * len(idle)
assert read_all(ask(b'/')).endswith(b'small')
left = 400 << 20
while data := idle[0].recv(65536): left -= len(data)
assert left < 0, left  # the head, too
)");
    EXPECT_EQ(got.code, 0) << got << server.story();
}

TEST_P(TlsEngine, SendsContinueBeforeTheBody) {
    const Server server(options(GetParam()));
    const Finished got = python_client(server, R"(
s = connect()
for body in b'four', b'fives':
    s.sendall(b'POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n' % len(body))
    answer = s.recv(65536)
    assert answer == b'HTTP/1.1 100 Continue\r\n\r\n', answer
    s.sendall(body)
    answer = b''
    end = b'bytes=%d\n' % len(body)
    while not answer.endswith(end): answer += s.recv(65536) or sys.exit(answer)
    assert answer.startswith(b'HTTP/1.1 200 '), answer
)");
    EXPECT_EQ(got.code, 0) << got << server.story();
}

TEST_P(TlsEngine, SaysGoodbyeWhenItCloses) {
    const Server server(options(GetParam(), {"--keep-alive", "1"}));
    // Connection: close, the end of an idle connection, and the client's own goodbye.
    const Finished got = python_client(server, R"(
s = connect(); s.sendall(b'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
assert b'200 OK' in read_all(s)
s = connect(); s.sendall(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
assert b'200 OK' in read_all(s)
s = connect(); s.sendall(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'); assert b'200 OK' in s.recv(65536)
s.unwrap()
)");
    EXPECT_EQ(got.code, 0) << got << server.story();
    EXPECT_EQ(server.err().find("WARNING"), std::string::npos) << server.err();
}

TEST_P(TlsEngine, SaysNoGoodbyeAfterAnAnswerThatWasCut) {
    ServerOptions with = options(GetParam());
    with.app = "probe:app";
    const Server server(with);
    const Finished got = python_client(server, R"(
s = connect(); s.sendall(b'GET /raise_later_with_length HTTP/1.1\r\nHost: a\r\n\r\n')
try: read_all(s); print('complete')
except (ssl.SSLError, ConnectionResetError): print('cut')
)");
    EXPECT_EQ(got.out, "cut\n") << got << server.story();
}

TEST_P(TlsEngine, AnswersPlainHttpWithAReadable400) {
    const Server server(options(GetParam()));
    const Response answer = server.get("/");
    EXPECT_TRUE(answer.ok()) << answer;
    EXPECT_EQ(answer.status, 400) << answer;
    EXPECT_TRUE(answer.says_close());
    EXPECT_TRUE(server.logs("plain HTTP request to a TLS port"));
    EXPECT_EQ(curl(server, "/").code, 0);
}

TEST_P(TlsEngine, AStalledHandshakeCostsNoWorker) {
    const Server server(options(GetParam(), {"--header-timeout", "1"}));
    std::vector<Client> stalled;
    for (int i = 0; i < 40; ++i) {
        stalled.push_back(server.connect());
        // Half of them say nothing, half begin a record and stop.
        if (i % 2 == 1) {
            ASSERT_TRUE(stalled.back().send(std::string("\x16\x03\x01\x02\x00\x01", 6)));
        }
    }
    const Finished got = curl(server, "/");
    EXPECT_EQ(got.code, 0) << got << server.story();
    for (Client& client : stalled)
        EXPECT_TRUE(client.closes_within(kDeadline));
}

TEST_P(TlsEngine, SurvivesGarbageInEveryState) {
    const Server server(options(GetParam()));
    ASSERT_TRUE(server.has_workers(1));
    const pid_t worker = server.workers().at(0);
    for (const std::string& bytes :
         {std::string("\x16\x03\x01\x00\x05hello"), std::string(600, '\xff'),
          std::string("\x15\x03\x03\x00\x02\x02\x28", 7)}) {
        Client client = server.connect();
        ASSERT_TRUE(client.send(bytes));
        EXPECT_NE(client.read_to_end(), Client::kStillOpen);
    }
    // After the handshake: instead of a request, and in the middle of a body.
    const Finished got = python_client(server, R"(
for first in b'', b'POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc':
    s = connect()
    if first: s.sendall(first)
    socket.socket(fileno=s.detach()).sendall(b'garbage' * 1000)
)");
    EXPECT_EQ(got.code, 0) << got;
    EXPECT_EQ(curl(server, "/").code, 0);
    EXPECT_EQ(server.workers(), std::vector<pid_t>{worker}) << server.story();
}

TEST_P(TlsEngine, SurvivesAGoodbyeAndAResetInsideAHead) {
    TempDir scratch;
    const Server server(options(GetParam(), {"--access-logfile", scratch / "access.log"}));
    ASSERT_TRUE(server.has_workers(1));
    const pid_t worker = server.workers().at(0);
    EXPECT_EQ(curl(server, "/").code, 0);  // its Exchange is reused
    const Finished got = python_client(server, R"(
import struct
for _ in range(20):
    s, into, out = raw(), ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out, server_hostname='localhost')
    while True:
        try: tls.do_handshake(); break
        except ssl.SSLWantReadError: s.sendall(out.read()); into.write(s.recv(65536))
    tls.write(b'GET /x HTTP/1.1\r\nHost: b')
    try: tls.unwrap()
    except ssl.SSLError: pass
    s.sendall(out.read())
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
)");
    EXPECT_EQ(got.code, 0) << got;
    EXPECT_EQ(curl(server, "/").code, 0);
    EXPECT_EQ(server.workers(), std::vector<pid_t>{worker}) << server.story();
    EXPECT_EQ(count(read_file(scratch / "access.log"), "\n"), 2U);
}

TEST_P(TlsEngine, GivesTheClientsCertificateToTheApplication) {
    const std::vector<std::string> with_certificate = {"--cert", certificates() / "client.pem",
                                                       "--key", certificates() / "client.key"};
    for (const std::string required : {"0", "1", "2"}) {
        std::vector<std::string> args = {"--cert-reqs", required};
        if (required != "0") args.insert(args.end(), {"--ca-certs", certificates() / "ca.pem"});
        const Server server(options(GetParam(), args));
        const Finished known = curl(server, "/peer", with_certificate);
        EXPECT_EQ(known.code, 0) << known << server.story();
        EXPECT_EQ(line(known.out, "client"), required == "0" ? "None" : "client");
        EXPECT_EQ(line(known.out, "peer"), "127.0.0.1:" + line(known.out, "REMOTE_PORT"));
        EXPECT_EQ(line(known.out, "timeout") + line(known.out, "number"), "NoneTrue");
        const Finished unknown = curl(server, "/peer");
        EXPECT_EQ(unknown.code == 0, required != "2") << unknown;
    }
}

TEST_F(TlsTest, ServesInGreenlets) {
    for (const char* library : {"gevent", "eventlet"}) {
        if (run({python(), "-c", std::string("import ") + library}, {}, "", 2 * kDeadline).code !=
            0) {
            std::fprintf(stderr, "NOT TESTED: python3-%s is not installed\n", library);
            continue;
        }
        const Server server(options({.name = "", .args = {"-k", library}}));
        const Finished got = curl(server, "/peer");
        EXPECT_EQ(line(got.out, "version"), "TLSv1.3") << got << server.story();
        EXPECT_EQ(server.err().find("MonkeyPatchWarning"), std::string::npos) << server.err();
    }
}

// --- what does not depend on the worker class ---

TEST_F(TlsTest, ResumesSessionsWithWhicheverWorker) {
    const Server server(options({.name = "", .args = {"-w", "3"}}));
    ASSERT_TRUE(server.has_workers(3));
    const TempDir directory;
    const std::string session = directory / "session";
    const std::string request = "GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";
    for (const std::string version : {"-tls1_2", "-tls1_3"}) {
        const Finished first = s_client(server, version + " -sess_out " + session, request);
        EXPECT_NE(first.out.find("\nNew, TLSv"), std::string::npos) << first;
        EXPECT_NE(first.out.find("wsgi.url_scheme=https"), std::string::npos) << first;
        for (int i = 0; i < 4; ++i) {
            const Finished again = s_client(server, version + " -sess_in " + session, request);
            EXPECT_NE(again.out.find("\nReused, TLSv"), std::string::npos) << again;
        }
    }
}

TEST_F(TlsTest, ChoosesTheCertificateByNameWithTheHook) {
    const TempDir directory;
    const std::string conf = directory.write(
        "conf.py",
        "import ssl\n"
        "def ssl_context(config, default):\n"
        "    context = default()\n"
        "    other = ssl.SSLContext(config.ssl_version)\n"
        "    other.load_cert_chain('" +
            (certificates() / "other.pem") + "', '" + (certificates() / "other.key") +
            "')\n"
            "    def choose(connection, name, context):\n"
            "        if name == 'other.test': connection.context = other\n"
            "    context.sni_callback = choose\n"
            "    return context\n");
    for (const char* engine : {"sync", "gthread"}) {
        const Server server(options({.name = "", .args = {"-c", conf, "-k", engine}}));
        for (const char* name : {"localhost", "other.test"}) {
            const Finished got = curl(server, "/", {}, name);
            EXPECT_EQ(got.code, 0) << got << server.story();
            EXPECT_EQ(line(got.out, "HTTP_HOST"),
                      std::string(name) + ":" + std::to_string(server.at().port));
        }
    }
}

TEST_F(TlsTest, DoesNotGiveTheRawSocketAway) {
    const Server server(options(kSync));
    const Finished got = curl(server, "/steal");
    EXPECT_NE(line(got.out, "refused"), "(none)") << got << server.story();
}

TEST_F(TlsTest, TakesNewCertificatesOnHupAndKeepsTheOldOnesWhenTheyAreBad) {
    const TempDir directory;
    const std::string cert = directory / "cert.pem";
    const std::string key = directory / "key.pem";
    const auto put = [&](const std::string& name) {
        directory.write("cert.pem", read_file(certificates() / (name + ".pem")));
        directory.write("key.pem", read_file(certificates() / (name + ".key")));
    };
    put("server");
    const Server server({.app = "edge:app", .args = {"--certfile", cert, "--keyfile", key}});
    const std::string old_serial = serial(server);
    ASSERT_FALSE(old_serial.empty()) << server.story();
    ASSERT_TRUE(server.has_workers(1));
    const pid_t old_worker = server.workers().at(0);

    // Certificate and key of different pairs: refused, everything stays, one line says why.
    directory.write("cert.pem", read_file(certificates() / "other.pem"));
    server.signal(SIGHUP);
    EXPECT_TRUE(server.logs("Reload failed")) << server.story();
    EXPECT_TRUE(server.logs("key values mismatch")) << server.story();
    EXPECT_EQ(serial(server), old_serial);
    EXPECT_EQ(server.workers(), std::vector<pid_t>{old_worker});
    // A worker that dies now is replaced by one with the good certificate.
    ::kill(old_worker, SIGKILL);
    EXPECT_TRUE(eventually([&] {
        const auto workers = server.workers();
        return workers.size() == 1 && workers[0] != old_worker;
    }));
    EXPECT_EQ(serial(server), old_serial) << server.story();

    certificates().issue("renewed", "DNS:localhost,IP:127.0.0.1");
    put("renewed");
    server.signal(SIGHUP);
    EXPECT_TRUE(eventually([&] {
        const std::string now = serial(server);
        return !now.empty() && now != old_serial;
    })) << server.story();
}

TEST_F(TlsTest, StaysOnWhenAReloadWithoutItIsRefused) {
    const TempDir directory;
    const std::string config =
        directory.write("conf.py", "certfile = '" + (certificates() / "server.pem") +
                                       "'\nkeyfile = '" + (certificates() / "server.key") + "'\n");
    const Server server({.app = "edge:app", .args = {"-c", config}});
    const std::string old_serial = serial(server);
    ASSERT_FALSE(old_serial.empty()) << server.story();
    directory.write("conf.py", "logger_class = 'nosuch.Logger'\n");
    server.signal(SIGHUP);
    ASSERT_TRUE(server.logs("Reload failed")) << server.story();
    const pid_t old_worker = server.workers().at(0);
    ::kill(old_worker, SIGKILL);
    EXPECT_TRUE(eventually([&] {
        const auto workers = server.workers();
        return workers.size() == 1 && workers[0] != old_worker;
    }));
    EXPECT_EQ(serial(server), old_serial) << server.story();
}

TEST_F(TlsTest, ServesWithAKeyThatOnlyRootMayRead) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to have a user to change to";
    for (std::filesystem::path above = apps_dir(); above != above.root_path();
         above = above.parent_path()) {
        if ((std::filesystem::status(above).permissions() & std::filesystem::perms::others_exec) ==
            std::filesystem::perms::none)
            GTEST_SKIP() << "NOT TESTED: other users may not read below " << above;
    }
    const Server server(options({.name = "", .args = {"-u", "nobody"}}));
    EXPECT_EQ(curl(server, "/").code, 0) << server.story();
    ::kill(server.workers().at(0), SIGKILL);
    EXPECT_TRUE(eventually([&] { return curl(server, "/").code == 0; })) << server.story();
}

TEST_F(TlsTest, KeepsTheAddressOfAProxyHeaderInFrontOfTls) {
    const Server server(options(kSync, {"--proxy-protocol", "auto"}));
    const Finished got = python_client(server, R"(
line = b'PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n'
for pieces in [line], [line[:10], line[10:]]:
    s = raw()
    for piece in pieces: s.sendall(piece)
    s = connect(s)
    for i in range(3):
        s.sendall(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
        answer = s.recv(65536)
        assert b'REMOTE_ADDR=192.0.2.7\n' in answer and b'PROXY_PORT=443\n' in answer, answer
        assert b'wsgi.url_scheme=https\n' in answer, answer
s = raw()
s.sendall(line + b'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
answer = read_all(s)
assert answer.startswith(b'HTTP/1.1 400 '), answer
)");
    EXPECT_EQ(got.code, 0) << got << server.story();
}

TEST_F(TlsTest, RefusesAProxyHeaderInPlainTextBecauseNoHandshakeCameBefore) {
    const Server trusting(options(kSync, {"--proxy-protocol", "auto"}));
    const Server wary(
        options(kSync, {"--proxy-protocol", "auto", "--proxy-allow-from", "10.0.0.1"}));
    const auto client = [](const std::string& line, int status) {
        return "s = raw()\ns.sendall(b'" + line + "\\r\\n')\nanswer = read_all(s)\n" +
               "assert answer.startswith(b'HTTP/1.1 " + std::to_string(status) + " '), answer\n";
    };
    const Finished bad = python_client(trusting, client("PROXY TCP4 192.0.2.7", 400));
    EXPECT_EQ(bad.code, 0) << bad << trusting.story();
    const Finished stranger =
        python_client(wary, client("PROXY TCP4 192.0.2.7 192.0.2.8 1234 443", 403));
    EXPECT_EQ(stranger.code, 0) << stranger << wary.story();
}

TEST_F(TlsTest, OneClearLineStopsTheStart) {
    const auto failure = [](const std::vector<std::string>& args, const std::string& expected) {
        std::vector<std::string> all = args;
        all.insert(all.end(), {"-b", "127.0.0.1:" + std::to_string(free_port()), "edge:app"});
        const Finished ended = run_server(all);
        EXPECT_EQ(ended.code, 1) << ended;
        EXPECT_NE(ended.err.find(expected), std::string::npos) << ended;
        EXPECT_EQ(ended.err.find("Traceback"), std::string::npos) << ended;
        const std::string text = ended.err.substr(ended.err.find_first_not_of('\n'));
        EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << ended;
    };
    const std::string cert = certificates() / "server.pem";
    const std::string key = certificates() / "server.key";
    failure({"--certfile", "/nonexistent", "--keyfile", key},
            "certfile '/nonexistent': No such file or directory");
    failure({"--certfile", cert, "--keyfile", "/nonexistent"},
            "keyfile '/nonexistent': No such file or directory");
    failure({"--certfile", cert, "--keyfile", certificates() / "client.key"},
            "key values mismatch");
    failure({"--certfile", cert, "--keyfile", certificates() / "locked.key"}, "needs a passphrase");
    failure({"--certfile", key, "--keyfile", key}, "certfile '" + key + "' holds no certificate");
    failure({"--certfile", cert, "--keyfile", cert}, "keyfile '" + cert + "' holds no private key");
    failure({"--certfile", cert}, "holds no private key, and keyfile is not set");
    failure({"--keyfile", key}, "keyfile is set, but certfile is not");
    failure({"--certfile", cert, "--keyfile", key, "--ciphers", "NO-SUCH"}, "ciphers 'NO-SUCH'");
    failure({"--certfile", cert, "--keyfile", key, "--cert-reqs", "2"}, "set ca_certs");
    const TempDir directory;
    const std::string conf = directory.write("conf.py",
                                             "def ssl_context(config, default):\n"
                                             "    raise ValueError('no such vault')\n");
    failure({"-c", conf, "--certfile", cert, "--keyfile", key}, "ValueError: no such vault");
    const std::string clients = directory.write("clients.py",
                                                "import ssl\n"
                                                "def ssl_context(config, default):\n"
                                                "    return ssl.create_default_context()\n");
    failure({"-c", clients, "--certfile", cert, "--keyfile", key}, "PROTOCOL_TLS_CLIENT");
}

}  // namespace
}  // namespace gcorn::e2e
