#include "python/environ.h"

#include <array>
#include <random>

#include <gtest/gtest.h>

#include "tests/support/wsgi_harness.h"

namespace gcorn {
namespace {

/// Makes environs and looks into them.
class Environ : public ::testing::Test {
protected:
    Environ() {
        interpreter();
        WithGil gil;
        errors_ = utf8_str("errors");
        no_input_ = utf8_str("no input");
        maker_ = new_maker();
    }
    ~Environ() override {
        WithGil gil;
        environ_ = {};
        maker_.reset();
        errors_.reset();
        no_input_.reset();
    }
    [[nodiscard]] std::unique_ptr<EnvironMaker> new_maker() const {
        auto maker = std::make_unique<EnvironMaker>();
        EXPECT_TRUE(maker->prepare({.no_input = no_input_.get(),
                                    .errors = errors_.get(),
                                    .file_wrapper = reinterpret_cast<PyObject*>(&PyList_Type),
                                    .early_hints_type = hints_type(),
                                    .is_multithread = true,
                                    .is_multiprocess = false}));
        return maker;
    }
    static PyObject* hints_type() {
        static PyType_Slot slots[] = {{0, nullptr}};
        static PyType_Spec spec = {"test.Hints", sizeof(RequestBound), 0, Py_TPFLAGS_DEFAULT,
                                   slots};
        static PyObject* type = PyType_FromSpec(&spec);
        return type;
    }
    void make(std::string_view head) {
        request_ = std::make_unique<ExchangeTest>(head);
        make_again();
    }
    void make_again(PyObject* input = nullptr) {
        WithGil gil;
        environ_ = maker_->make(*request_->exchange, input != nullptr ? input : no_input_.get());
        ASSERT_TRUE(environ_.dict);
        name("e", environ_.dict.get());
    }
    /// The application drops its references, and the request ends.
    void end() {
        run_python("del e");
        WithGil gil;
        maker_->end(std::move(environ_));
        run_python("hold = [{} for _ in range(100)]");  // reuses the memory of freed dicts
    }
    static void name(const char* name, PyObject* object) {
        PyDict_SetItemString(PyModule_GetDict(PyImport_AddModule("__main__")), name, object);
    }
    [[nodiscard]] static std::string value(const std::string& key) {
        return eval_python("repr(e.get('" + key + "', None))");
    }
    ConnectionFacts& facts() { return request_->facts; }

    std::unique_ptr<EnvironMaker> maker_;
    RequestEnviron environ_;
    PyRef errors_, no_input_;
    std::unique_ptr<ExchangeTest> request_;
};

TEST_F(Environ, HoldsWhatEveryRequestHas) {
    make("GET /a%20b?x=%20y HTTP/1.1\r\nHost: example.org\r\n\r\n");
    EXPECT_EQ(value("REQUEST_METHOD"), "'GET'");
    EXPECT_EQ(value("RAW_URI"), "'/a%20b?x=%20y'");
    EXPECT_EQ(value("PATH_INFO"), "'/a b'");
    EXPECT_EQ(value("QUERY_STRING"), "'x=%20y'");
    EXPECT_EQ(value("SCRIPT_NAME"), "''");
    EXPECT_EQ(value("SERVER_PROTOCOL"), "'HTTP/1.1'");
    EXPECT_EQ(value("SERVER_NAME"), "'0.0.0.0'");
    EXPECT_EQ(value("SERVER_PORT"), "'8000'");
    EXPECT_EQ(value("SERVER_SOFTWARE"), "'gunicorn/26.1.0 gcorn/" GCORN_VERSION "'");
    EXPECT_EQ(value("REMOTE_ADDR"), "'127.0.0.1'");
    EXPECT_EQ(value("REMOTE_PORT"), "'50123'");
    EXPECT_EQ(value("HTTP_HOST"), "'example.org'");
    EXPECT_EQ(value("wsgi.version"), "(1, 0)");
    EXPECT_EQ(value("wsgi.url_scheme"), "'http'");
    EXPECT_EQ(value("wsgi.input_terminated"), "True");
    EXPECT_EQ(value("wsgi.multithread"), "True");
    EXPECT_EQ(value("wsgi.multiprocess"), "False");
    EXPECT_EQ(value("wsgi.run_once"), "False");
    EXPECT_EQ(value("wsgi.errors"), "'errors'");
    EXPECT_EQ(value("wsgi.file_wrapper"), "<class 'list'>");
    EXPECT_EQ(eval_python("type(e) is dict"), "True");
    EXPECT_EQ(eval_python("sorted(k for k in e if k.startswith(('HTTP_', 'CONTENT_')))"),
              "['HTTP_HOST']");
}

TEST_F(Environ, OneRequestLeavesNothingInTheNext) {
    make(
        "POST /a?q HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nContent-Type: t\r\nContent-Length: "
        "0\r\n\r\n");
    run_python("e['mine'] = 1");
    make("GET / HTTP/1.0\r\n\r\n");
    EXPECT_EQ(eval_python("[k for k in e if k in ('mine', 'HTTP_HOST', 'HTTP_X_ONE', "
                          "'CONTENT_TYPE', 'CONTENT_LENGTH')]"),
              "[]");
    EXPECT_EQ(value("QUERY_STRING"), "''");
    EXPECT_EQ(value("PATH_INFO"), "'/'");
    EXPECT_EQ(value("SERVER_PROTOCOL"), "'HTTP/1.0'");
}

TEST_F(Environ, DecodesThePathAndNothingElse) {
    make("GET /%41%2F%ff%zz%2?a%41 HTTP/1.1\r\nHost: a\r\n\r\n");
    EXPECT_EQ(value("PATH_INFO"), "'/A/\xc3\xbf%zz%2'");
    EXPECT_EQ(value("QUERY_STRING"), "'a%41'");
    EXPECT_EQ(value("RAW_URI"), "'/%41%2F%ff%zz%2?a%41'");
    make("GET /%41 HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_EQ(eval_python("e['RAW_URI'], e['PATH_INFO']"), "('/%41', '/A')");
    make("GET /?a HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_EQ(eval_python("e['RAW_URI'], e['PATH_INFO']"), "('/?a', '/')");
    for (const char* path : {"/\xC3\xA9", "/%C3%A9", "/%C3\xA9"}) {
        make(std::string("GET ") + path + "?\xFF HTTP/1.1\r\nHost: h\r\n\r\n");
        EXPECT_EQ(eval_python("e['PATH_INFO'].encode('latin-1'), ascii(e['QUERY_STRING'])"),
                  R"((b'/\xc3\xa9', "'\\xff'"))");
    }
}

TEST_F(Environ, ContentFieldsHaveNoPrefix) {
    make("POST / HTTP/1.1\r\nHost: a\r\ncontent-type:  text/x \r\nCONTENT-LENGTH: 0\r\n\r\n");
    EXPECT_EQ(value("CONTENT_TYPE"), "'text/x'");
    EXPECT_EQ(value("CONTENT_LENGTH"), "'0'");
    EXPECT_EQ(eval_python("[k for k in e if k.startswith('HTTP_CONTENT')]"), "[]");
}

TEST_F(Environ, MapsKnownAndUnknownNames) {
    make("GET / HTTP/1.1\r\nHost: a\r\nuser-AGENT: u\r\nX-My-thing: \xe4\r\nX-Empty:\r\n\r\n");
    EXPECT_EQ(value("HTTP_USER_AGENT"), "'u'");
    EXPECT_EQ(value("HTTP_X_MY_THING"), "'\xc3\xa4'");
    EXPECT_EQ(value("HTTP_X_EMPTY"), "''");
}

TEST_F(Environ, JoinsRepeatedFieldsInOrder) {
    make(
        "GET / HTTP/1.1\r\nHost: a\r\nAccept: a\r\nX-A: 1\r\nCookie: a=1\r\nAccept: b\r\n"
        "x-a: 2\r\nCookie: b=2\r\nX-A: 3\r\n\r\n");
    EXPECT_EQ(value("HTTP_ACCEPT"), "'a,b'");
    EXPECT_EQ(value("HTTP_X_A"), "'1,2,3'");
    EXPECT_EQ(value("HTTP_COOKIE"), "'a=1; b=2'");
}

TEST_F(Environ, JoiningManyFieldsDoesNotCopyThemEachTime) {
    if (!kHasGil) GTEST_SKIP() << "objects have another allocator there";
    std::string head = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (int i = 0; i < 98; ++i)
        head += "Accept: " + std::string(8000, 'x') + "\r\n";
    // Counts the bytes of new objects, but not of those that grow.
    static size_t bytes;
    static PyMemAllocatorEx before;
    bytes = 0;
    {
        const WithGil gil;
        PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &before);
        PyMemAllocatorEx counting = before;
        counting.malloc = [](void* context, size_t size) {
            bytes += size;
            return before.malloc(context, size);
        };
        PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &counting);
    }
    make(head + "\r\n");
    {
        const WithGil gil;
        PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &before);
    }
    EXPECT_GT(bytes, head.size() / 2);
    EXPECT_LT(bytes, 3 * head.size());
    EXPECT_EQ(eval_python("len(e['HTTP_ACCEPT'])"), std::to_string(98 * 8001 - 1));
}

TEST_F(Environ, NamesThatMeetInOneKeyAreJoinedInOrder) {
    request_ = std::make_unique<ExchangeTest>("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    auto& fields = request_->exchange->head.fields;  // as header_map = dangerous lets them pass
    fields.push_back({"X_Request_Id", "forged", FieldId::Unknown});
    fields.push_back({"X-Request-Id", "real", find_field("x-request-id")});
    make_again();
    EXPECT_EQ(value("HTTP_X_REQUEST_ID"), "'forged,real'");
}

TEST_F(Environ, TheTargetsAuthorityReplacesHost) {
    make("GET http://other.example:81/x HTTP/1.1\r\nHost: other.example:81\r\n\r\n");
    EXPECT_EQ(value("HTTP_HOST"), "'other.example:81'");
    make("GET http://other.example/x HTTP/1.0\r\n\r\n");
    EXPECT_EQ(value("HTTP_HOST"), "'other.example'");
    EXPECT_EQ(value("PATH_INFO"), "'/x'");
}

TEST_F(Environ, AUnixSocketTakesItsNameFromHost) {
    const std::pair<const char*, std::pair<const char*, const char*>> cases[] = {
        {"example.org", {"'example.org'", "'80'"}},  {"example.org:81", {"'example.org'", "'81'"}},
        {"[::1]:81", {"'[::1]'", "'81'"}},           {"[::1]", {"'[::1]'", "'80'"}},
        {"example.org:", {"'example.org'", "'80'"}},
    };
    for (const auto& [host, expected] : cases) {
        request_ = std::make_unique<ExchangeTest>("GET / HTTP/1.1\r\nHost: " + std::string(host) +
                                                  "\r\n\r\n");
        facts().is_unix = true;
        facts().remote_addr = facts().remote_port = "";
        facts().server_name = "/run/gcorn.sock";
        facts().server_port = "";
        make_again();
        EXPECT_EQ(value("SERVER_NAME"), expected.first) << host;
        EXPECT_EQ(value("SERVER_PORT"), expected.second) << host;
        EXPECT_EQ(value("REMOTE_ADDR"), "''");
        EXPECT_EQ(eval_python("'REMOTE_PORT' in e"), "False");
        request_->exchange->head.is_https = true;
        make_again();
        const std::string port = expected.second;
        EXPECT_EQ(value("SERVER_PORT"), port == "'80'" ? "'443'" : port);
    }
    request_ = std::make_unique<ExchangeTest>("GET / HTTP/1.0\r\n\r\n");
    facts().is_unix = true;
    facts().server_name = "/run/gcorn.sock";
    make_again();
    EXPECT_EQ(value("SERVER_NAME"), "'/run/gcorn.sock'");
    EXPECT_EQ(value("SERVER_PORT"), "''");
}

TEST_F(Environ, PassesOnProxyHeaderAndScheme) {
    request_ = std::make_unique<ExchangeTest>("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    facts().has_proxy_header = true;
    facts().proxy_protocol = "TCP4";
    facts().proxy_addr = "192.0.2.1";
    facts().proxy_port = "443";
    request_->exchange->head.is_https = true;
    make_again();
    EXPECT_EQ(value("PROXY_PROTOCOL") + value("PROXY_ADDR") + value("PROXY_PORT"),
              "'TCP4''192.0.2.1''443'");
    EXPECT_EQ(value("wsgi.url_scheme"), "'https'");
}

TEST_F(Environ, ARepeatedAddressIsOneObject) {
    if (!kHasGil) GTEST_SKIP() << "without a GIL nothing is kept for the next request";
    make(kGet);
    run_python("first = e");
    make(kGet);
    EXPECT_EQ(eval_python("first['REMOTE_ADDR'] is e['REMOTE_ADDR']"), "True");
    request_->facts.remote_addr = "127.0.0.2";
    make_again();
    EXPECT_EQ(value("REMOTE_ADDR"), "'127.0.0.2'");
}

TEST_F(Environ, ARepeatedFieldValueIsOneObjectButNoSecretIs) {
    if (!kHasGil) GTEST_SKIP() << "without a GIL nothing is kept for the next request";
    const auto head = [](const std::string& agent) {
        return "GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: " + agent +
               "\r\nCookie: a secret\r\nAuthorization: a secret\r\n\r\n";
    };
    const auto same = [] {
        return eval_python(
            "[first[k] is e[k] for k in ('HTTP_USER_AGENT', 'HTTP_COOKIE', 'HTTP_AUTHORIZATION')]");
    };
    for (const auto& [bytes, is_kept] :
         std::vector<std::pair<size_t, std::string>>{{512, "True"}, {513, "False"}}) {
        make(head(std::string(bytes, '\xE4')));
        run_python("first = e");
        make(head(std::string(bytes, '\xE4')));
        EXPECT_EQ(same(), "[" + is_kept + ", False, False]") << bytes;
        EXPECT_EQ(eval_python("e['HTTP_USER_AGENT'] == '\\xe4' * " + std::to_string(bytes)),
                  "True");
    }
    make(head("another"));
    EXPECT_EQ(value("HTTP_USER_AGENT"), "'another'");
    EXPECT_EQ(value("HTTP_COOKIE"), "'a secret'");
}

TEST_F(Environ, WhatARequestSaysStaysOutOfTheNextOfItsShape) {
    const std::string large(513, 'x');
    const std::string agents[] = {"one", large, "two", "two", "", large, "one"};
    for (const std::string& agent : agents) {
        make("GET /p?" + agent.substr(0, 3) + " HTTP/1.1\r\nHost: h\r\nUser-Agent: " + agent +
             "\r\nCookie: " + agent + "\r\nX-Mine: " + agent + "\r\nAccept: a\r\nAccept: " + agent +
             "\r\n\r\n");
        EXPECT_EQ(value("HTTP_USER_AGENT"), "'" + agent + "'");
        EXPECT_EQ(value("HTTP_COOKIE"), "'" + agent + "'");
        EXPECT_EQ(value("HTTP_X_MINE"), "'" + agent + "'");
        EXPECT_EQ(value("HTTP_ACCEPT"), "'a," + agent + "'");
        EXPECT_EQ(value("QUERY_STRING"), "'" + agent.substr(0, 3) + "'");
        EXPECT_EQ(value("RAW_URI"), "'/p?" + agent.substr(0, 3) + "'");
        run_python("e.clear()");  // the dict is the application's own
        make("GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: three\r\nAccept: b\r\n\r\n");
        EXPECT_EQ(eval_python("sorted(v for k, v in e.items() if k.startswith('HTTP_'))"),
                  "['b', 'h', 'three']");
        EXPECT_EQ(eval_python("e['RAW_URI'], e['PATH_INFO'], e['QUERY_STRING']"), "('/', '/', '')");
    }
}

TEST_F(Environ, WhatTheApplicationLeftAsItWasServesTheNextRequest) {
    if (!kHasGil) GTEST_SKIP() << "without a GIL nothing is kept for the next request";
    make("POST /a?b HTTP/1.0\r\nHost: h\r\nCookie: c\r\n\r\n");
    const PyObject* first = environ_.dict.get();
    end();
    make("GET / HTTP/1.1\r\nHost: i\r\nCookie: d\r\n\r\n");
    EXPECT_EQ(environ_.dict.get(), first);
    EXPECT_EQ(eval_python("[e[k] for k in ('REQUEST_METHOD', 'RAW_URI', 'PATH_INFO', "
                          "'QUERY_STRING', 'SERVER_PROTOCOL', 'HTTP_HOST', 'HTTP_COOKIE')]"),
              "['GET', '/', '/', '', 'HTTP/1.1', 'i', 'd']");
}

TEST_F(Environ, WhatTheApplicationKeptOrChangedDoesNot) {
    for (const char* deed :
         {"kept = e", "kept = e['wsgi.early_hints']", "kept = e['gunicorn.socket']",
          "e['gunicorn.socket'].dup()", "e['mine'] = 1", "del e['SERVER_NAME']", "e.clear()",
          "e['HTTP_HOST'] = 'mine'", "e['REMOTE_ADDR'] = e.pop('REMOTE_ADDR')", "e.popitem()",
          "e.update(REQUEST_METHOD='PUT')", "e |= {'x': 1}", "e.setdefault('x', 1)",
          "e['wsgi.input'] = 1"}) {
        run_python("kept = None");
        make(kGet);
        const PyObject* first = environ_.dict.get();
        run_python(deed);
        end();
        make(kGet);
        EXPECT_NE(environ_.dict.get(), first) << deed;
        EXPECT_EQ(value("REQUEST_METHOD"), "'GET'") << deed;
        end();
    }
}

TEST_F(Environ, WhatTheApplicationKeptStaysAsItWas) {
    make("POST /a?b HTTP/1.0\r\nHost: h\r\nCookie: c\r\n\r\n");
    run_python("kept, before = e, dict(e)");
    end();
    EXPECT_EQ(eval_python("kept == before"), "True");
}

TEST_F(Environ, WhatALeakHunterFindsDoesNotEither) {
    make("GET /first HTTP/1.1\r\nHost: h\r\n\r\n");
    end();
    run_python(
        "import gc\n"
        "found = [o for o in gc.get_objects() if type(o) is dict and 'wsgi.input' in o]\n"
        "before = list(map(dict, found))");
    make("GET /second HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_EQ(eval_python("len(found) > 0, any(e is o for o in found)"), "(True, False)");
    EXPECT_EQ(eval_python("found == before"), "True");
    run_python("del found");
}

/// Requests of all kinds, up to three at a time, whose application may keep or change the environ:
/// each environ says what it would say for a first request.
TEST_F(Environ, AnyOrderOfRequestsTellsEachItsOwn) {
    struct Running {
        std::unique_ptr<ExchangeTest> request;
        RequestEnviron environ;
    };
    run_python(
        "def told(e): return {k: v for k, v in e.items() "
        "if k not in ('wsgi.early_hints', 'gunicorn.socket')}\n");
    std::minstd_rand random(7);
    const auto one_of = [&random](std::initializer_list<const char*> texts) {
        return std::string(texts.begin()[random() % texts.size()]);
    };
    std::array<Running, 3> running;
    for (int i = 0; i < 5000; ++i) {
        const std::string number = std::to_string(random() % 4);
        const std::string head =
            one_of({"GET", "GET", "GET", "POST", "BREW"}) +
            one_of({" / ", " / ", " /p ", " /%41?q ", " /?q=1 ", " http://there/ "}) +
            one_of({"HTTP/1.1", "HTTP/1.1", "HTTP/1.0"}) + "\r\nHost: " + number + "\r\n" +
            one_of({"", "", "Cookie: a\r\n", "Cookie: b\r\n", "Cookie: a\r\nCookie: b\r\n"}) +
            one_of({"", "Accept: a\r\n", "Accept: a\r\nAccept: b\r\n", "X-None: n\r\n"}) +
            one_of({"", "User-Agent: u\r\n"}) +
            (random() % 8 == 0 ? "Referer: " + std::string(600, 'x') + "\r\n"
                               : one_of({"", "Referer: r\r\n"})) +
            "\r\n";
        Running& now = running[random() % running.size()];
        WithGil gil;
        maker_->end(std::move(now.environ));
        now.request = std::make_unique<ExchangeTest>(head);
        now.request->facts.remote_port = std::to_string(50000 + random() % 3);
        now.request->facts.has_proxy_header = random() % 16 == 0;
        const PyRef own_input = utf8_str("own input");
        PyObject* input = random() % 4 == 0 ? own_input.get() : no_input_.get();
        now.environ = maker_->make(*now.request->exchange, input);
        RequestEnviron alone = new_maker()->make(*now.request->exchange, input);
        ASSERT_TRUE(now.environ.dict && alone.dict);
        name("e", now.environ.dict.get());
        name("alone", alone.dict.get());
        ASSERT_EQ(eval_python("(told(e), told(alone)) if told(e) != told(alone) else 0"), "0")
            << i << ": " << head;
        EXPECT_EQ(as_bound(now.environ.early_hints.get())->exchange, now.request->exchange.get());
        EXPECT_EQ(as_bound(now.environ.socket.get())->exchange, now.request->exchange.get());
        if (random() % 8 == 0) run_python("e[alone['RAW_URI']] = alone.pop('HTTP_HOST', 0)");
        if (random() % 8 == 0) run_python("kept = e");
        run_python("del e, alone");
    }
    WithGil gil;
    running = {};
}

TEST_F(Environ, MoreShapesThanArePlacesForThem) {
    const std::string names[] = {"Accept", "Dnt",     "Origin", "Pragma",
                                 "Range",  "Referer", "Te",     "Via"};
    for (unsigned round = 0; round < 2; ++round) {
        for (unsigned set = 0; set < 256; ++set) {
            std::string head = "GET / HTTP/1.1\r\nHost: h\r\n";
            std::string expected = "[";
            const std::string text = std::to_string(round) + std::to_string(set);
            for (unsigned i = 0; i < 8; ++i) {
                if ((set >> i & 1) == 0) continue;
                head += names[i] + ": " + text + "\r\n";
                expected += (expected.size() > 1 ? ", ('" : "('") + names[i] + "', '" + text + "')";
            }
            make(head + "\r\n");
            EXPECT_EQ(eval_python("sorted((k[5:].capitalize(), v) for k, v in e.items() "
                                  "if k.startswith('HTTP_') and k != 'HTTP_HOST')"),
                      expected + "]");
        }
    }
}

TEST_F(Environ, OneProcessServesUnixAndTcpSockets) {
    request_ = std::make_unique<ExchangeTest>(kGet);
    for (int i = 0; i < 3; ++i) {
        facts().is_unix = false;
        facts().remote_addr = "127.0.0.1";
        facts().remote_port = "50123";
        make_again();
        EXPECT_EQ(eval_python("e['REMOTE_PORT'], e['SERVER_PORT']"), "('50123', '8000')");
        facts().is_unix = true;
        facts().remote_addr = facts().remote_port = "";
        make_again();
        EXPECT_EQ(eval_python("'REMOTE_PORT' in e, e['REMOTE_ADDR']"), "(False, '')");
        facts().remote_addr = "192.0.2.1";  // from a PROXY header
        facts().remote_port = "1";
        make_again();
        EXPECT_EQ(eval_python("e['REMOTE_PORT'], e['REMOTE_ADDR']"), "('1', '192.0.2.1')");
    }
}

TEST_F(Environ, LookingAtTheSocketDoesNotTakeIt) {
    make(kGet);
    run_python("import os, select, socket\ns = e['gunicorn.socket']");
    WithGil gil;
    EXPECT_EQ(eval_python("repr(s), isinstance(s, int), hasattr(s, '__await__')"),
              "('<gunicorn.socket, not taken>', False, False)");
    EXPECT_EQ(eval_python("hasattr(s, 'getpeercert'), hasattr(s, 'version')"), "(False, False)");
    EXPECT_TRUE(eval_python("s.nothing").starts_with("raised AttributeError"));
    EXPECT_EQ(eval_python("[hasattr(s, n) for n in ('close', 'detach', 'makefile', 'send')]"),
              "[True, True, True, True]");
    EXPECT_EQ(eval_python("s.getpeername(), s.getsockname(), s.family, s.type"),
              "('', '', <AddressFamily.AF_UNIX: 1>, <SocketKind.SOCK_STREAM: 1>)");
    run_python("s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)");
    EXPECT_EQ(eval_python("s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)"), "1");
    EXPECT_EQ(eval_python("s.fileno() == s.fileno() > 2, select.select([s], [], [], 0)"),
              "(True, ([], [], []))");
    EXPECT_FALSE(request_->exchange->is_detached());
}

TEST_F(Environ, ATimeoutOfTheSocketIsKeptForWhenItIsTaken) {
    make(kGet);
    run_python("import os\ns = e['gunicorn.socket']");
    WithGil gil;
    EXPECT_EQ(eval_python("s.timeout, s.gettimeout(), s.getblocking()"), "(None, None, True)");
    run_python("blocks = os.get_blocking(s.fileno()); s.setblocking(True)");
    EXPECT_EQ(eval_python("blocks == os.get_blocking(s.fileno())"), "True") << "it is the loop's";
    run_python("s.setblocking(False)");
    EXPECT_EQ(eval_python("s.timeout, s.getblocking()"), "(0.0, False)");
    EXPECT_EQ(eval_python("s.settimeout(-1)"), "raised ValueError: Timeout value out of range");
    run_python("s.settimeout(2.5); number = s.fileno()");
    EXPECT_FALSE(request_->exchange->is_detached());
    EXPECT_EQ(eval_python("s.send(b'x'), s.timeout, s.fileno() == number"), "(1, 2.5, True)");
    EXPECT_TRUE(request_->exchange->is_detached());
    run_python("s.close(); del s");
}

TEST_F(Environ, PeekingAtTheSocketDoesNotTakeIt) {
    make(kGet);
    run_python("from socket import *\ns = e['gunicorn.socket']; s.settimeout(0)");
    WithGil gil;
    const std::string look = "s.recv(1, MSG_PEEK)";
    EXPECT_TRUE(eval_python(look).starts_with("raised BlockingIOError"));
    run_python("s.settimeout(0.01)");
    EXPECT_EQ(eval_python(look), "raised TimeoutError: timed out");
    EXPECT_TRUE(eval_python("s.recv(1, MSG_PEEK | MSG_DONTWAIT)").starts_with("raised Blocking"));
    request_->client_says("more");
    run_python("s.settimeout(None)");
    EXPECT_EQ(eval_python(look), "b'm'");
    EXPECT_FALSE(request_->exchange->is_detached());
    EXPECT_EQ(eval_python("s.recv(9)"), "b'more'");
    EXPECT_TRUE(request_->exchange->is_detached());
    run_python("s.close(); del s");
}

TEST_F(Environ, WhoTakesTheSocketMayKeepIt) {
    make(kGet);
    run_python("s = e['gunicorn.socket']");
    WithGil gil;
    run_python("dup = s.dup");
    EXPECT_EQ(eval_python("dup().close() or s.getblocking()"), "True");
    EXPECT_TRUE(request_->exchange->is_detached());
    maker_->end(std::move(environ_));
    EXPECT_EQ(eval_python("s.send(b'still works')"), "11");
    run_python("s.close(); del s");
}

TEST_F(Environ, WhatWasAskedTooLateDoesNotConcernTheNextRequest) {
    make(kGet);
    {
        WithGil gil;
        run_python("s = e.pop('gunicorn.socket')");
        maker_->end(std::move(environ_));
        EXPECT_TRUE(eval_python("s.fileno()").starts_with("raised ValueError"));
        run_python("del s");
    }
    make(kGet);
    WithGil gil;
    run_python("e['gunicorn.socket'].getpeername()");
    EXPECT_FALSE(EnvironMaker::take_lent_socket(environ_)) << "its number is not known";
    maker_->end(std::move(environ_));
}

TEST_F(Environ, LookingAtTheSocketLeavesNoCopyBehindIfThereIsNoMemoryForIt) {
    make(kGet);
    const WithGil gil;
    run_python(
        "import os, _gcorn_client as client\n"
        "s = e['gunicorn.socket']; original = client.Watched\n"
        "def fail(*_):\n"
        "    raise MemoryError\n"
        "def next_number():\n"
        "    number = os.dup(0); os.close(number); return number\n"
        "client.Watched = fail; before = next_number()");
    EXPECT_TRUE(eval_python("s.getpeername()").starts_with("raised MemoryError"));
    run_python("client.Watched = original");
    EXPECT_EQ(eval_python("next_number() - before"), "0");
    maker_->end(std::move(environ_));
}

TEST_F(Environ, LookingAtTheSocketEndsWithTheRequest) {
    make(kGet);
    run_python("s = e['gunicorn.socket']; number = s.fileno(); peek = s.recv");
    WithGil gil;
    maker_->end(std::move(environ_));
    EXPECT_EQ(eval_python("s.getpeername()"),
              "raised ValueError: gunicorn.socket used for the first time after its request ended");
    EXPECT_TRUE(eval_python("peek(1, 2)").starts_with("raised OSError"));
    EXPECT_TRUE(eval_python("__import__('os').fstat(number)").starts_with("raised OSError"));
    EXPECT_FALSE(request_->exchange->is_detached());
}

}  // namespace
}  // namespace gcorn
