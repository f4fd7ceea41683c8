#include "python/pyref.h"

#include "python/tls.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "command_line.h"
#include "python/config_file.h"
#include "tests/support/python_fixture.h"

namespace gcorn {
namespace {

std::string to_hex(std::string_view bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const char byte : bytes) {
        const auto value = static_cast<unsigned char>(byte);
        text += kDigits[value >> 4];
        text += kDigits[value & 15];
    }
    return text;
}

std::string from_hex(std::string_view text) {
    const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
    std::string bytes;
    for (size_t i = 0; i + 1 < text.size(); i += 2)
        bytes += static_cast<char>(digit(text[i]) * 16 + digit(text[i + 1]));
    return bytes;
}

/// A server's transform, and Python's own client, connected by two memory buffers.
class Tls : public PythonTest {
protected:
    static void SetUpTestSuite() {
        PythonTest::SetUpTestSuite();
        std::string pattern = std::filesystem::temp_directory_path() / "gcorn-tls-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        certificates_ = pattern;
        // One CA that signs for server and client, an unrelated key, a key with a passphrase.
        // Clients of Python 3.13 insist on the extensions that RFC 5280 asks for.
        const std::string script =
            "cd " + certificates_ +
            " && exec >openssl.log 2>&1 && set -e\n"
            "new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'\n"
            "openssl req -x509 $new -subj /CN=authority "
            "-addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.pem\n"
            "openssl req -x509 $new -subj /CN=stranger -keyout stranger.key -out stranger.pem\n"
            "printf 'subjectKeyIdentifier=hash\\nauthorityKeyIdentifier=keyid\\n' >extensions\n"
            "for name in server client; do\n"
            "  openssl req $new -subj /CN=$name -keyout $name.key -out $name.csr\n"
            "  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
            " -extfile extensions -out $name.pem\n"
            "done\n"
            "cat server.key server.pem >both.pem\n"
            "openssl ec -in server.key -aes128 -passout pass:secret -out locked.key\n"
            "openssl pkcs8 -topk8 -in server.key -passout pass:secret -out locked8.key\n";
        ASSERT_EQ(std::system(script.c_str()), 0) << read_file(certificates_ + "/openssl.log");
    }
    static void TearDownTestSuite() { std::filesystem::remove_all(certificates_); }

    static std::string path(const std::string& name) { return certificates_ + "/" + name; }

    static Config config() {
        Config cfg;
        cfg.certfile = path("server.pem");
        cfg.keyfile = path("server.key");
        return cfg;
    }

    /// The configuration that a config file gives; PATH in the text stands for the certificates.
    Config config_from(std::string text) {
        for (size_t at = 0; (at = text.find("PATH", at)) != std::string::npos;)
            text.replace(at, 4, certificates_);
        write_file("conf.py", text);
        auto file = load_config_file("conf.py", directory_);
        const Surroundings surroundings = Surroundings::of_process();
        ConfigBuilder builder(surroundings);
        EXPECT_TRUE(file) << (file ? "" : file.message());
        if (!file) return {};
        EXPECT_TRUE(builder.apply_file("conf.py", file->values));
        auto line = parse_command_line({"site:app"});
        EXPECT_TRUE(builder.apply_arguments(*line, {}));
        auto resolved = builder.finish();
        EXPECT_TRUE(resolved) << (resolved ? "" : resolved.message());
        return resolved ? std::move(resolved->config) : Config();
    }

    static std::string failure(const Config& cfg) {
        auto context = make_tls_context(cfg);
        EXPECT_FALSE(context);
        if (context) return "";
        EXPECT_EQ(context.error().code, 1);
        EXPECT_EQ(context.message().find('\n'), std::string::npos) << context.message();
        return context.message();
    }

    void serve(const Config& cfg) {
        auto context = make_tls_context(cfg);
        ASSERT_TRUE(context) << context.message();
        make_transform_ = tls_transform_maker(std::move(*context));
        accept();
    }
    void accept() {
        auto made = make_transform_();
        ASSERT_TRUE(made) << made.message();
        server_ = std::move(*made);
        plain_.clear();
    }

    /// A new client; `set_up` may change its context `c`.
    static void connect(const std::string& set_up = "") {
        ASSERT_TRUE(
            run_python("import ssl\n"
                       "c = ssl.create_default_context(cafile='" +
                       path("ca.pem") +
                       "')\n"
                       "c.check_hostname = False\n" +
                       set_up +
                       "\n"
                       "i, o, session = ssl.MemoryBIO(), ssl.MemoryBIO(), None\n"
                       "t = c.wrap_bio(i, o, server_hostname='a.test')\n"
                       "def step(method, *a):\n"
                       "    try: return method(*a)\n"
                       "    except ssl.SSLWantReadError: return None\n"));
    }

    /// Moves bytes both ways, `step` bytes at a time, until neither side has more to say. Returns
    /// the server's verdict on the last of them.
    Status pump(size_t step = SIZE_MAX) {
        for (;;) {
            const std::string wire = from_hex(eval_python("o.read().hex()"));
            Status fed;
            for (size_t at = 0; at < wire.size() && fed; at += std::min(step, wire.size() - at))
                fed = server_->feed(std::string_view(wire).substr(at, step), false, plain_);
            std::string answer;
            server_->drain(answer);
            if (!answer.empty()) run_python("_ = i.write(bytes.fromhex('" + to_hex(answer) + "'))");
            if (!fed || (wire.empty() && answer.empty())) return fed;
        }
    }
    Status handshake(size_t step = SIZE_MAX) {
        Status moved;
        for (int flight = 0; flight < 4 && moved; ++flight) {
            run_python(
                "failed = None\n"
                "try: step(t.do_handshake)\n"
                "except ssl.SSLError as e: failed = e\n");
            moved = pump(step);
        }
        return moved;
    }
    void open(const std::string& client_set_up = "") {
        connect(client_set_up);
        const Status done = handshake();
        ASSERT_TRUE(done) << done.message();
        ASSERT_TRUE(server_->is_open());
    }
    /// Evaluates an attribute expression of the connection's peer_info, p.
    [[nodiscard]] std::string peer(const std::string& expression) const {
        WithGil gil;
        PyObject* names = PyModule_GetDict(PyImport_AddModule("__main__"));
        PyDict_SetItemString(names, "p", static_cast<PyObject*>(server_->peer_info()));
        return eval_python(expression);
    }

    static inline std::string certificates_;
    TransformMaker make_transform_;
    std::unique_ptr<ByteTransform> server_;
    std::string plain_;
};

TEST_F(Tls, IsOffWithoutCertificate) {
    auto context = make_tls_context(Config());
    ASSERT_TRUE(context);
    EXPECT_FALSE(tls_transform_maker(*context));
}

TEST_F(Tls, CarriesBytesBothWays) {
    serve(config());
    open();
    run_python("t.write(b'question')");
    ASSERT_TRUE(pump());
    EXPECT_EQ(plain_, "question");
    ASSERT_TRUE(server_->write("answer"));
    ASSERT_TRUE(pump());
    EXPECT_EQ(eval_python("t.read(100)"), "b'answer'");
    EXPECT_FALSE(server_->is_ended());
}

TEST_F(Tls, WithoutMemoryForItABlockIsAnErrorAndNoSilence) {
    serve(config());
    bool is_hit = true;
    for (int n = 1; is_hit; ++n) {
        accept();
        open();
        Status written;
        std::string wire;
        {
            const WithGil gil;
            const OneFailure failure(n);
            written = server_->write("answer");
            is_hit = failure.has_happened();
        }
        server_->drain(wire);
        EXPECT_TRUE(!written || !wire.empty()) << n;
        ASSERT_LT(n, 1000);
    }
}

TEST_F(Tls, GivesTheSameForEverySplitOfTheWire) {
    serve(config());
    connect();
    ASSERT_TRUE(handshake(1));
    ASSERT_TRUE(server_->is_open());
    run_python("t.write(b'question')");
    ASSERT_TRUE(pump(1));
    EXPECT_EQ(plain_, "question");
}

TEST_F(Tls, IsNotOpenAndSaysNothingBeforeTheHandshakeIsDone) {
    serve(config());
    EXPECT_FALSE(server_->is_open());
    EXPECT_EQ(server_->peer_info(), nullptr);
    std::string wire;
    server_->close();
    server_->drain(wire);
    EXPECT_EQ(wire, "");
}

TEST_F(Tls, CarriesManyRecords) {
    serve(config());
    open();
    std::string big;
    for (int i = 0; i < 300'000; ++i)
        big += static_cast<char>('a' + i * 7 % 26);
    ASSERT_TRUE(server_->write(big));
    ASSERT_TRUE(pump());
    run_python("got = b''\nwhile (data := step(t.read, 65536)): got += data\n");
    EXPECT_TRUE(eval_python("got.decode()") == big);
    run_python("big = got\nwhile big: big = big[t.write(big):]\n");
    ASSERT_TRUE(pump());
    EXPECT_TRUE(plain_ == big);
}

// The connection still holds what its socket did not take.
TEST_F(Tls, BytesForTheWireComeOnceAndBehindThoseThatWait) {
    serve(config());
    open();
    std::string wire;
    for (const char* part : {"one ", "two ", "three"}) {
        ASSERT_TRUE(server_->write(part));
        server_->drain(wire);
    }
    server_->drain(wire);
    run_python("_ = i.write(bytes.fromhex('" + to_hex(wire) + "'))");
    EXPECT_EQ(eval_python("b''.join(t.read(100) for _ in range(3))"), "b'one two three'");
    EXPECT_EQ(eval_python("step(t.read, 100)"), "None");
}

TEST_F(Tls, SpeaksTls12And13) {
    serve(config());
    for (const std::string version : {"TLSv1_2", "TLSv1_3"}) {
        accept();
        open("c.minimum_version = c.maximum_version = ssl.TLSVersion." + version);
        EXPECT_EQ(peer("p.version()"), version == "TLSv1_2" ? "TLSv1.2" : "TLSv1.3");
    }
}

TEST_F(Tls, NegotiatesHttp11AndNothingElse) {
    serve(config());
    open("c.set_alpn_protocols(['h2', 'http/1.1'])");
    EXPECT_EQ(eval_python("t.selected_alpn_protocol()"), "http/1.1");
    EXPECT_EQ(peer("p.selected_alpn_protocol()"), "http/1.1");
    accept();
    open("c.set_alpn_protocols(['h2'])");
    EXPECT_EQ(eval_python("t.selected_alpn_protocol()"), "None");
}

TEST_F(Tls, SaysGoodbye) {
    serve(config());
    open();
    ASSERT_TRUE(server_->write("last words"));
    server_->close();
    ASSERT_TRUE(pump());
    EXPECT_EQ(eval_python("t.read(100)"), "b'last words'");
    EXPECT_EQ(eval_python("t.read(100)"), "b''") << "close_notify, so no ragged end";
}

TEST_F(Tls, HearsGoodbye) {
    serve(config());
    open();
    run_python("t.write(b'last words')\nstep(t.unwrap)\n");
    ASSERT_TRUE(pump());
    EXPECT_EQ(plain_, "last words");
    EXPECT_TRUE(server_->is_ended());
    // Half-closed: the answer still goes out (RFC 8446 §6.1).
    EXPECT_TRUE(server_->write("answer"));
}

TEST_F(Tls, ForgivesAnEndWithoutGoodbyeUnlessToldNotTo) {
    Config cfg = config();
    serve(cfg);
    open();
    EXPECT_TRUE(server_->feed("", true, plain_));
    EXPECT_TRUE(server_->is_ended());
    cfg.suppress_ragged_eofs = false;
    serve(cfg);
    open();
    const Status ended = server_->feed("", true, plain_);
    ASSERT_FALSE(ended);
    EXPECT_NE(ended.message().find("TLS: ssl.SSL"), std::string::npos) << ended.message();
}

TEST_F(Tls, RefusesWhatIsNoTls) {
    serve(config());
    const Status fed = server_->feed(std::string("\x16\x03\x01\0\x05hello", 10), false, plain_);
    ASSERT_FALSE(fed);
    EXPECT_EQ(fed.message().rfind("TLS handshake: ssl.SSLError: ", 0), 0U) << fed.message();
    EXPECT_EQ(fed.message().find('\n'), std::string::npos);
    EXPECT_EQ(plain_, "");
    std::string alert;
    server_->drain(alert);
    EXPECT_EQ(alert.substr(0, 1), "\x15") << "an alert record (RFC 8446 §5.1)";
}

TEST_F(Tls, RefusesABrokenRecord) {
    serve(config());
    open();
    const std::string record = "\x17\x03\x03" + std::string("\0\x20", 2) + std::string(32, 'x');
    const Status fed = server_->feed(record, false, plain_);
    ASSERT_FALSE(fed);
    EXPECT_EQ(plain_, "");
    std::string alert;
    server_->drain(alert);
    EXPECT_FALSE(alert.empty());
}

TEST_F(Tls, AsksForAClientCertificateAsConfigured) {
    const std::string with_certificate =
        "c.load_cert_chain('" + path("client.pem") + "', '" + path("client.key") + "')";
    Config cfg = config();
    serve(cfg);
    open(with_certificate);
    EXPECT_EQ(peer("p.getpeercert()"), "None") << "nobody asked";
    cfg.ca_certs = path("ca.pem");
    for (const int64_t required : {1, 2}) {
        cfg.cert_reqs = required;
        serve(cfg);
        open(with_certificate);
        EXPECT_EQ(peer("p.getpeercert()['subject']"), "((('commonName', 'client'),),)");
        EXPECT_EQ(peer("ssl.DER_cert_to_PEM_cert(p.getpeercert(True)).split()[1]"),
                  "CERTIFICATE-----");
        accept();
        connect();
        EXPECT_EQ(handshake().is_ok(), required == 1);
        EXPECT_EQ(server_->is_open(), required == 1);
    }
}

TEST_F(Tls, RefusesAClientCertificateOfAnotherAuthority) {
    Config cfg = config();
    cfg.ca_certs = path("stranger.pem");
    cfg.cert_reqs = 1;
    serve(cfg);
    connect("c.load_cert_chain('" + path("client.pem") + "', '" + path("client.key") + "')");
    const Status done = handshake();
    EXPECT_FALSE(done.is_ok() && server_->is_open());
}

TEST_F(Tls, ResumesSessions) {
    serve(config());
    for (const std::string version : {"TLSv1_2", "TLSv1_3"}) {
        accept();
        open("c.minimum_version = c.maximum_version = ssl.TLSVersion." + version);
        run_python("step(t.read, 1)\nsession = t.session\nold = t\n");
        EXPECT_EQ(peer("p.session_reused"), "False");
        accept();
        run_python(
            "i, o = ssl.MemoryBIO(), ssl.MemoryBIO()\n"
            "t = c.wrap_bio(i, o, server_hostname='a.test', session=session)\n");
        ASSERT_TRUE(handshake());
        EXPECT_EQ(peer("p.session_reused"), "True") << version;
    }
}

TEST_F(Tls, UsesTheCiphersOfTheSettings) {
    Config cfg = config();
    cfg.ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384";
    serve(cfg);
    open("c.maximum_version = ssl.TLSVersion.TLSv1_2");
    EXPECT_EQ(peer("p.cipher()[0]"), "ECDHE-ECDSA-AES256-GCM-SHA384");
}

TEST_F(Tls, TakesTheContextOfTheHook) {
    const Config cfg = config_from(
        "certfile, keyfile = 'PATH/server.pem', 'PATH/server.key'\n"
        "def ssl_context(config, default):\n"
        "    import ssl\n"
        "    context = default()\n"
        "    assert config.certfile == certfile\n"
        "    context.maximum_version = ssl.TLSVersion.TLSv1_2\n"
        "    return context\n");
    serve(cfg);
    open();
    EXPECT_EQ(peer("p.version()"), "TLSv1.2");
}

TEST_F(Tls, LetsTheHookOpenAKeyWithAPassphrase) {
    const Config cfg = config_from(
        "certfile, keyfile = 'PATH/server.pem', 'PATH/locked.key'\n"
        "def ssl_context(config, default):\n"
        "    import ssl\n"
        "    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)\n"
        "    context.load_cert_chain(config.certfile, config.keyfile, 'secret')\n"
        "    return context\n");
    serve(cfg);
    open();
}

TEST_F(Tls, TakesKeyAndCertificateFromOneFile) {
    Config cfg = config();
    cfg.certfile = path("both.pem");
    cfg.keyfile = "";
    serve(cfg);
    open();
}

// --- what stops the start: one clear line each ---

TEST_F(Tls, NamesTheFileThatCannotBeRead) {
    Config cfg = config();
    cfg.certfile = "/nonexistent/cert.pem";
    EXPECT_EQ(failure(cfg), "certfile '/nonexistent/cert.pem': No such file or directory");
    cfg = config();
    cfg.keyfile = "/nonexistent/key.pem";
    EXPECT_EQ(failure(cfg), "keyfile '/nonexistent/key.pem': No such file or directory");
    cfg = config();
    cfg.ca_certs = directory_;
    EXPECT_EQ(failure(cfg), "ca_certs '" + directory_ + "': Is a directory");
}

TEST_F(Tls, DoesNotWaitForAPipe) {
    Config cfg = config();
    cfg.keyfile = path("pipe");
    ASSERT_EQ(::mkfifo(cfg.keyfile.c_str(), 0600), 0);
    EXPECT_EQ(failure(cfg), "keyfile '" + cfg.keyfile +
                                "' is a pipe, but is read more than once: store it in a file");
}

TEST_F(Tls, NamesTheFileThatIsNoPem) {
    Config cfg = config();
    cfg.certfile = write_file("empty.pem", "");
    EXPECT_EQ(failure(cfg), "certfile '" + cfg.certfile + "' is not in PEM format");
    cfg.certfile = write_file("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    EXPECT_NE(failure(cfg).find("cannot set up TLS with certfile '" + cfg.certfile + "'"),
              std::string::npos);
}

TEST_F(Tls, SaysThatAFileHoldsSomethingElse) {
    Config cfg = config();
    cfg.certfile = cfg.keyfile;
    EXPECT_EQ(failure(cfg), "certfile '" + cfg.certfile + "' holds no certificate");
    cfg = config();
    cfg.keyfile = cfg.certfile;
    EXPECT_EQ(failure(cfg), "keyfile '" + cfg.keyfile + "' holds no private key");
    cfg = config();
    cfg.ca_certs = cfg.keyfile;
    EXPECT_EQ(failure(cfg), "ca_certs '" + cfg.ca_certs + "' holds no certificate");
}

TEST_F(Tls, SaysThatKeyAndCertificateDoNotMatch) {
    Config cfg = config();
    cfg.keyfile = path("client.key");
    EXPECT_NE(failure(cfg).find("key values mismatch"), std::string::npos) << failure(cfg);
}

TEST_F(Tls, RefusesAKeyWithAPassphraseInsteadOfAskingForIt) {
    Config cfg = config();
    for (const char* name : {"locked.key", "locked8.key"}) {
        cfg.keyfile = path(name);
        EXPECT_NE(failure(cfg).find("needs a passphrase"), std::string::npos) << failure(cfg);
    }
}

TEST_F(Tls, SaysWhatIsMissing) {
    Config cfg = config();
    cfg.certfile = "";
    EXPECT_EQ(failure(cfg), "keyfile is set, but certfile is not");
    cfg = config();
    cfg.keyfile = "";
    EXPECT_EQ(failure(cfg),
              "certfile '" + cfg.certfile + "' holds no private key, and keyfile is not set");
    cfg = config();
    cfg.cert_reqs = 2;
    EXPECT_NE(failure(cfg).find("set ca_certs"), std::string::npos);
}

TEST_F(Tls, NamesUnknownCiphers) {
    Config cfg = config();
    cfg.ciphers = "NO-SUCH-CIPHER";
    EXPECT_NE(failure(cfg).find("ciphers 'NO-SUCH-CIPHER'"), std::string::npos) << failure(cfg);
}

TEST_F(Tls, TellsWhatTheHookDidWrong) {
    const std::string files = "certfile, keyfile = 'PATH/server.pem', 'PATH/server.key'\n";
    EXPECT_NE(failure(config_from(files + "def ssl_context(c, d): return None\n"))
                  .find("TypeError: ssl_context hook must return an ssl.SSLContext, not None"),
              std::string::npos);
    EXPECT_NE(failure(config_from(files + "def ssl_context(c, d): raise ValueError('mine')\n"))
                  .find("ValueError: mine"),
              std::string::npos);
}

// --- the contexts of a server over its reloads ---

TEST_F(Tls, KeepsTheContextInForceWhenTheNewOneIsBad) {
    Logger log;
    TlsContexts contexts;
    EXPECT_FALSE(contexts.transform_maker());
    Config cfg = config();
    cfg.certfile = write_file("cert.pem", read_file(path("server.pem")));
    ASSERT_TRUE(contexts.use(cfg, log));
    write_file("cert.pem", "gone bad");
    EXPECT_FALSE(contexts.use(cfg, log));
    EXPECT_TRUE(contexts.transform_maker());
}

TEST_F(Tls, ReturnsToTheFormerContextThoughItsFilesWentBad) {
    Logger log;
    TlsContexts contexts;
    Config old_cfg = config();
    old_cfg.certfile = write_file("cert.pem", read_file(path("server.pem")));
    ASSERT_TRUE(contexts.use(old_cfg, log));
    ASSERT_TRUE(contexts.use(Config(), log));
    EXPECT_FALSE(contexts.transform_maker());
    write_file("cert.pem", "gone bad");
    ASSERT_TRUE(contexts.use(old_cfg, log));
    EXPECT_TRUE(contexts.transform_maker());
}

}  // namespace
}  // namespace gcorn
