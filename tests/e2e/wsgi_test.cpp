// PEP 3333 seen from the client: every kind of result, every framing, every mistake an application
// can make. Whatever it does, no answer is malformed and the next request is served.

#include <algorithm>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

class Wsgi : public PerEngine {
protected:
    Wsgi() {
        ServerOptions options = with();
        options.env["PROBE_LOG"] = scratch_ / "events";
        options.env["PROBE_FILE"] = scratch_.write("file", pattern_.bytes(0, kFileBytes));
        server_.emplace(options);
    }

    /// How often the application noted that event.
    [[nodiscard]] size_t noted(std::string_view event) const {
        const std::string events = "\n" + read_file(scratch_ / "events");
        const std::string line = "\n" + std::string(event) + "\n";
        size_t count = 0;
        for (size_t at = events.find(line); at != std::string::npos;
             at = events.find(line, at + 1)) {
            ++count;
        }
        return count;
    }
    /// Waits for that count: the application may go on after the client has its answer.
    [[nodiscard]] bool noted_times(std::string_view event, size_t count) const {
        return eventually([&] { return noted(event) == count; });
    }
    /// The error page of a faulty application: a 500 that closes, and a traceback in the log.
    void expect_failure(std::string_view target, std::string_view logged) {
        const Response response = server_->get(target);
        EXPECT_TRUE(response.ok()) << target << response;
        EXPECT_EQ(response.status, 500) << target;
        EXPECT_TRUE(response.says_close()) << target << response;
        EXPECT_TRUE(server_->logs(logged)) << target << server_->story();
        expect_alive();
    }
    /// The answer is that part of the file.
    void expect_file(const std::string& target, size_t offset, size_t count) {
        const Response response = server_->get(target);
        EXPECT_TRUE(response.ok()) << target << response.error;
        EXPECT_EQ(response.body_bytes, count) << target;
        EXPECT_TRUE(pattern_.matches(offset, response.body)) << target;
    }
    void expect_alive() { EXPECT_EQ(server_->get("/").body, "Hello, world!\n"); }

    static constexpr size_t kFileBytes = 200'000;
    Pattern pattern_;
    TempDir scratch_;
    std::optional<Server> server_;
};
FOR_EVERY_ENGINE(Wsgi);

TEST_P(Wsgi, TakesEveryKindOfIterable) {
    for (const char* path : {"/list", "/tuple", "/generator", "/iterable"}) {
        const Response response = server_->get(path);
        EXPECT_TRUE(response.ok()) << path << response;
        EXPECT_EQ(response.body, "one two three") << path;
        EXPECT_TRUE(response.is_chunked) << path;
        EXPECT_EQ(response.count("Content-Length"), 0U) << path;
    }
}

TEST_P(Wsgi, TakesStartResponseFromInsideTheIteration) {
    EXPECT_EQ(server_->get("/late_start").body, "late");
}

TEST_P(Wsgi, SendsEmptyResults) {
    for (const char* path : {"/empty_list", "/empty_generator"}) {
        const Response response = server_->get(path);
        EXPECT_TRUE(response.ok()) << path << response;
        EXPECT_EQ(response.status, 200) << path;
        EXPECT_EQ(response.body, "") << path;
    }
    EXPECT_EQ(server_->get("/first_empty").body, "then some");
}

TEST_P(Wsgi, SendsWhatIsWrittenBeforeWhatIsReturned) {
    EXPECT_EQ(server_->get("/write").body, "written twice and returned");
    const Response response = server_->get("/write_length");
    EXPECT_EQ(response.body, "written four");
    EXPECT_EQ(response.field("Content-Length"), "12");
}

TEST_P(Wsgi, DelimitsHttp10ByLengthOrClose) {
    Client plain = server_->connect();
    plain.send("GET /list HTTP/1.0\r\n\r\n");
    const Response closed = plain.read_response();
    EXPECT_TRUE(closed.ok()) << closed;
    EXPECT_TRUE(closed.until_close);
    EXPECT_EQ(closed.body, "one two three");
    EXPECT_EQ(closed.count("Transfer-Encoding"), 0U);
    Client kept = server_->connect();
    kept.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_EQ(kept.read_response().field("Content-Length"), "14");
}

TEST_P(Wsgi, SendsNoBodyToHead) {
    SKIP_ON_GUNICORN_BEFORE(26, "it sends the body");
    for (const char* path : {"/", "/list", "/teapot"}) {
        Client client = server_->connect();
        client.send(make_request("HEAD", path, {{"Connection", "close"}}));
        const Response response = client.read_response("HEAD");
        EXPECT_TRUE(response.ok()) << path << response;
        EXPECT_EQ(client.read_to_end(), "") << path;
        EXPECT_EQ(response.count("Transfer-Encoding"), 0U) << path;
    }
    EXPECT_EQ(server_->request("HEAD", "/").field("Content-Length"), "14");
    EXPECT_EQ(server_->request("HEAD", "/teapot").status, 418);
}

TEST_P(Wsgi, SendsNoBodyWith204And304) {
    SKIP_ON_GUNICORN_BEFORE(26, "it sends the body");
    for (const char* path : {"/204", "/304"}) {
        Client client = server_->connect();
        client.send(make_request("GET", path, {{"Connection", "close"}}));
        const Response response = client.read_response();
        EXPECT_TRUE(response.ok()) << path << response;
        EXPECT_EQ(response.status, std::atoi(path + 1));
        EXPECT_EQ(client.read_to_end(), "") << path;
        EXPECT_EQ(response.count("Transfer-Encoding"), 0U) << path;
    }
    EXPECT_EQ(server_->get("/304").field("ETag"), "\"x\"");
}

TEST_P(Wsgi, Sends204WithoutContentLength) {
    // RFC 9110 section 8.6.
    EXPECT_EQ(server_->get("/204").count("Content-Length"), 0U);
}

TEST_P(Wsgi, KeepsHeadersInOrderAndSpelling) {
    const Response response = server_->get("/headers");
    ASSERT_TRUE(response.ok()) << response;
    EXPECT_EQ(response.field("Set-Cookie"), "a=1|b=2");
    EXPECT_EQ(response.field("X-Latin"), "caf\xe9");
    EXPECT_EQ(response.count("X-Empty"), 1U);
    const bool is_spelt = std::any_of(response.fields.begin(), response.fields.end(),
                                      [](auto& f) { return f.first == "X-Spelling-LIKE-this"; });
    EXPECT_TRUE(is_spelt) << response;
}

TEST_P(Wsgi, DropsHopByHopHeaders) {
    const Response response = server_->get("/hop");
    EXPECT_TRUE(response.ok()) << response;
    EXPECT_EQ(response.body, "hop");
    EXPECT_EQ(response.field("X-Kept"), "yes");
    for (const char* name : {"Keep-Alive", "Transfer-Encoding", "TE", "Proxy-Authenticate"}) {
        EXPECT_EQ(response.count(name), 0U) << name;
    }
    EXPECT_EQ(response.count("Connection"), 1U);
}

TEST_P(Wsgi, ReadsTheInputInEveryWay) {
    const std::string body = "first line\nsecond\nthird line\nfourth\nlast";
    const std::string said =
        "[b'fir', b'st line\\n', b'se', b'cond\\n', b'', [b'third line\\n', b'fourth\\n', "
        "b'last'], "
        "b'', b'', b'', []]";
    EXPECT_EQ(server_->request("POST", "/input", {}, body).body, said);
    Client client = server_->connect();
    client.send(
        "POST /input HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        "1\r\nf\r\nA;ext=1\r\nirst line\n\r\n10\r\nsecond\nthird "
        "lin\r\n8\r\ne\nfourth\r\n5\r\n\nlast"
        "\r\n0\r\nX-Trailer: dropped\r\n\r\n");
    EXPECT_EQ(client.read_response().body, said);
}

TEST_P(Wsgi, ServesRequestsWhoseBodyNobodyReads) {
    Client client = server_->connect();
    EXPECT_EQ(client.request("POST", "/ignore", {}, std::string(100'000, 'x')).body, "not read");
    expect_alive();
}

TEST_P(Wsgi, AnswersAFailingCallWith500AndATraceback) {
    expect_failure("/raise?1", "ValueError: broken on purpose");
    EXPECT_TRUE(server_->logs("Error handling request")) << server_->story();
    EXPECT_TRUE(server_->logs("Traceback (most recent call last)")) << server_->story();
    EXPECT_TRUE(server_->logs("/raise?1")) << server_->story();
}

TEST_P(Wsgi, AnswersFailuresBeforeTheHeadIsOutWith500) {
    expect_failure("/raise_after_start", "ValueError: broken on purpose");
    expect_failure("/raise_first", "ValueError: broken on purpose");
    expect_failure("/twice", "AssertionError");
    const bool is_silent = is_gunicorn() && GetParam().name == "eventlet";  // for a result of None
    if (!is_silent) expect_failure("/none", "TypeError");
    EXPECT_TRUE(noted_times("closed", 1)) << "close() of /raise_first";
}

TEST_P(Wsgi, AnswersAnEscapingOsErrorWith500) {
    SKIP_ON_GUNICORN("it closes without an answer");
    expect_failure("/oserror", "FileNotFoundError");
}

TEST_P(Wsgi, AnswersAResultWithoutStatusWith500) {
    SKIP_ON_GUNICORN("it sends the status line 'HTTP/1.1 None'");
    expect_failure("/never_start", "Error handling request");
}

TEST_P(Wsgi, AnswersItemsThatAreNotBytesWith500) {
    SKIP_ON_GUNICORN("the head is out before it looks at the item");
    expect_failure("/str_items", "TypeError");
    expect_failure("/late_str_item", "TypeError");
}

TEST_P(Wsgi, CutsTheConnectionWhenTheHeadIsOut) {
    for (const char* path : {"/raise_later", "/raise_later_with_length", "/raise_after_write"}) {
        const Response response = server_->get(path);
        EXPECT_EQ(response.status, 200) << path;
        EXPECT_FALSE(response.ok()) << path << " looks complete" << response;
    }
    EXPECT_TRUE(noted_times("closed", 2));
    EXPECT_TRUE(server_->logs("ValueError: broken on purpose")) << server_->story();
    expect_alive();
}

TEST_P(Wsgi, ClosesTheResultOnceWhateverHappens) {
    EXPECT_EQ(server_->get("/noted").body, "body");
    EXPECT_TRUE(noted_times("closed", 1));
    EXPECT_TRUE(server_->get("/noted_empty").ok());
    EXPECT_TRUE(noted_times("closed", 2));
    EXPECT_TRUE(server_->request("HEAD", "/noted").ok());
    EXPECT_TRUE(noted_times("closed", 3));
}

TEST_P(Wsgi, SurvivesAFailingClose) {
    const Response response = server_->get("/raise_in_close");
    EXPECT_TRUE(response.ok()) << response;
    EXPECT_EQ(response.body, "body");
    EXPECT_TRUE(server_->logs("close broken on purpose")) << server_->story();
    EXPECT_TRUE(noted_times("closed", 1));
    expect_alive();
}

TEST_P(Wsgi, ReplacesTheHeadWithExcInfoBeforeItIsOut) {
    const Response response = server_->get("/exc_info_before");
    EXPECT_EQ(response.status, 503) << response;
    EXPECT_EQ(response.reason, "Sorry");
    EXPECT_EQ(response.body, "sorry");
    EXPECT_EQ(response.field("X-Second"), "2");
    if (!is_gunicorn()) {
        EXPECT_EQ(response.count("X-First"), 0U);  // gunicorn keeps the fields of both
    }
}

TEST_P(Wsgi, RaisesAgainWithExcInfoOnceTheHeadIsOut) {
    const Response response = server_->get("/exc_info_after");
    EXPECT_EQ(response.status, 200);
    EXPECT_FALSE(response.ok()) << "the answer looks complete" << response;
    EXPECT_TRUE(noted_times("raised again", 1)) << server_->story();
}

TEST_P(Wsgi, RefusesFaultyStartResponseArguments) {
    SKIP_ON_GUNICORN("it lets control characters out and answers some with 400");
    for (const char* kind :
         {"status_type", "status_bytes", "status_empty", "status_newline", "status_control",
          "headers_type", "header_shape", "name_type", "name_space", "name_empty", "name_newline",
          "value_type", "value_newline", "value_bare_cr", "value_nul", "value_unicode",
          "length_text", "length_negative"}) {
        const Response response = server_->get("/bad_start?kind=" + std::string(kind));
        if (std::string(kind) == "headers_type" && response.status == 500) continue;
        EXPECT_TRUE(response.ok()) << kind << response;
        EXPECT_EQ(response.status, 500) << kind;
        EXPECT_EQ(response.count("X-Injected"), 0U) << kind;
    }
    expect_alive();
}

TEST_P(Wsgi, NeverLetsTooManyBytesIntoTheNextAnswer) {
    Client client = server_->connect();
    const Response response = client.get("/long");
    EXPECT_TRUE(response.ok()) << response;
    EXPECT_EQ(response.body, "ten bytes!");
    // Either the connection is closed now, or what follows is a proper answer.
    client.send(make_request("GET", "/"));
    const std::string rest = client.read_some();
    EXPECT_TRUE(rest.empty() || rest.substr(0, 9) == "HTTP/1.1 ") << rest;
}

TEST_P(Wsgi, CutsAnAnswerThatIsShorterThanAnnounced) {
    Client client = server_->connect();
    client.send(make_request("GET", "/short"));
    const Response response = client.read_response("GET", Milliseconds(5000));
    EXPECT_EQ(response.status, 200);
    EXPECT_NE(response.error.find("closed inside the body"), std::string::npos) << response;
}

TEST_P(Wsgi, SurvivesSystemExitAndKeyboardInterrupt) {
    SKIP_ON_GUNICORN("depending on version and class the worker exits");
    ASSERT_TRUE(server_->has_workers(GetParam().workers));
    const std::vector<pid_t> before = server_->workers();
    for (const char* path : {"/exit", "/interrupt"}) {
        EXPECT_EQ(server_->get(path).status, 500) << path;
        expect_alive();
    }
    EXPECT_EQ(server_->workers(), before) << "a worker was replaced" << server_->story();
}

TEST_P(Wsgi, SendsRealFiles) {
    expect_file("/file", 0, kFileBytes);
    expect_file("/file?length=200000", 0, kFileBytes);
    expect_file("/file?length=5000", 0, 5000);
    expect_file("/file?block=100", 0, kFileBytes);
    EXPECT_TRUE(noted_times("file closed", 4)) << noted("file closed");
}

TEST_P(Wsgi, SendsRealFilesFromTheirCurrentOffset) {
    SKIP_ON_GUNICORN_BEFORE(26, "it always sends from the start");
    expect_file("/file?offset=1234", 1234, kFileBytes - 1234);
    expect_file("/file?offset=1234&length=5000", 1234, 5000);
    expect_file("/file?offset=200000", 0, 0);
}

TEST_P(Wsgi, SendsNoFileToHead) {
    SKIP_ON_GUNICORN_BEFORE(26, "it sends the body");
    Client client = server_->connect();
    client.send(make_request("HEAD", "/file?length=200000", {{"Connection", "close"}}));
    const Response response = client.read_response("HEAD");
    EXPECT_EQ(response.field("Content-Length"), "200000") << response;
    EXPECT_EQ(client.read_to_end(), "");
    EXPECT_TRUE(noted_times("file closed", 1));
}

TEST_P(Wsgi, SendsFileLikeObjectsWithoutADescriptor) {
    std::string expected;
    for (int i = 0; i < 1000; ++i)
        expected += "no descriptor here";
    EXPECT_EQ(server_->get("/file_without_fileno").body, expected);
    EXPECT_EQ(server_->get("/file_with_bad_fileno").body_bytes, 14'000U);
    EXPECT_TRUE(noted_times("file closed", 2)) << noted("file closed");
}

TEST_P(Wsgi, SendsFilesThatAreLongerThanTheySay) {
    SKIP_ON_GUNICORN("it believes the size");
    EXPECT_TRUE(contains(server_->get("/proc_file").body, "VmRSS:"));
}

TEST_P(Wsgi, IteratesAFileWrapperInsideAMiddleware) {
    const Response response = server_->get("/wrapped_wrapper");
    EXPECT_EQ(response.body_bytes, 1100U);
    EXPECT_EQ(response.body.substr(0, 22), "LOWER CASE LOWER CASE ");
}

TEST_P(Wsgi, RunsExtensionModulesInCpp) {
    const Server server(with({"--pythonpath", GCORN_CPP_EXTENSION}));
    EXPECT_EQ(server.get("/cpp_extension").body, "caught 3.5 true in a thread") << server.story();
}

TEST_P(Wsgi, LeadsWsgiErrorsToTheErrorLog) {
    EXPECT_EQ(server_->get("/errors").body, "told");
    EXPECT_TRUE(server_->logs("written to wsgi.errors\n")) << server_->story();
    EXPECT_TRUE(server_->logs("second of two lines\n")) << server_->story();
    EXPECT_NE(server_->out().find("printed to stdout"), std::string::npos) << server_->story();
}

class Validated : public PerEngine {};
FOR_EVERY_ENGINE(Validated);

TEST_P(Validated, PassesTheValidatorInEveryPartOfTheProtocol) {
    ServerOptions options = with();
    options.app = "validated:app";
    const Server server(options);
    const std::string body = "line one\nline two\nline three\n";
    const struct {
        const char* method;
        const char* target;
        int status;
        std::string body;
    } cases[] = {{"POST", "/plain?q=1", 200, body},     {"GET", "/plain", 200, ""},
                 {"GET", "/generated", 200, "ab"},      {"GET", "/written", 200, "wr"},
                 {"GET", "/replaced", 500, "replaced"}, {"GET", "/nothing", 204, ""},
                 {"HEAD", "/generated", 200, ""}};
    for (const auto& [method, target, status, expected] : cases) {
        const Response response = server.request(
            method, target, {}, std::string(method) == "POST" ? body : std::string());
        EXPECT_TRUE(response.ok()) << target << response;
        EXPECT_EQ(response.status, status) << target;
        EXPECT_EQ(response.body, expected) << target;
    }
    EXPECT_EQ(server.get("/wrapped").body, read_file(apps_dir() + "/validated.py"));
    EXPECT_EQ(server.err().find("AssertionError"), std::string::npos) << server.story();
    EXPECT_EQ(server.err().find("WSGIWarning"), std::string::npos) << server.story();
}

}  // namespace
}  // namespace gcorn::e2e
