// Micro-benchmark of one request inside the process: environ, call, start_response, iteration and
// rendering, without parsing, sockets or loop.
//
// Prints nanoseconds for each, the best of several rounds (noise only ever adds). Compare figures
// of one machine and one build only; build with -O2.
//
//   micro_wsgi              every case
//   micro_wsgi CASE COUNT   one case, parsed and called COUNT times, untimed: for
//                           bench/instructions
//   micro_wsgi python 0     version of the embedded Python, and how it is linked
#include "python/interpreter.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "bench/heads.h"
#include "net/exchange.h"
#include "wsgi.h"

namespace gcorn {

constexpr int kRounds = 15;
constexpr int kRequestsPerRound = 20'000;

const std::string kPostHead =
    "POST / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
    "Content-Length: 16384\r\n\r\n";

constexpr const char* kApplications = R"(
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "13")]
def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]
def empty(environ, start_response):
    start_response("200 OK", HEADERS)
    return BODY
BODY = [b"Hello, world!"]
def generator(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    yield b"Hello, world!"
def read(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return BODY
)";

/// Stands in for the loop; it has this name because Exchange declares it a friend.
class ExchangeTest : public ExchangeOwner {
public:
    void exchange_needs_leader(Exchange&) override {}
    void beat_while_waiting() override {}
    void exchange_completed(Exchange&) override {}

    /// Nanoseconds per request.
    double measure(WsgiApp& app, const std::string& head, std::string_view body) {
        double best_ns = 1e18;
        for (int round = 0; round < kRounds; ++round) {
            const auto exchange = std::make_shared<Exchange>(*this);
            parse(*exchange, head);
            exchange->prepare(&facts_, -1, {});
            exchange->corked_ = true;  // the answer stays here: no socket is measured
            if (!exchange->body.append(body)) std::abort();
            exchange->body_arrived(true, 0);
            const auto start = std::chrono::steady_clock::now();
            for (int i = 0; i < kRequestsPerRound; ++i) {
                answer(app, *exchange);
                forget_output(*exchange);
            }
            const std::chrono::duration<double, std::nano> spent =
                std::chrono::steady_clock::now() - start;
            best_ns = std::min(best_ns, spent.count() / kRequestsPerRound);
        }
        return best_ns;
    }

    /// Does as a connection does: also parses every request, and sends the answer (by UDP, which
    /// always accepts it, to a socket that nobody reads).
    void repeat(WsgiApp& app, const std::string& head, std::string_view body, int count) {
        const auto exchange = std::make_shared<Exchange>(*this);
        const Fd nowhere = open_sink();
        for (int i = 0; i < count; ++i) {
            exchange->reset_for_reuse();
            parse(*exchange, head);
            exchange->prepare(&facts_, nowhere.get(), {});
            if (!exchange->body.append(body)) std::abort();
            exchange->body_arrived(true, 0);
            answer(app, *exchange);
            exchange->clear_output();
        }
    }

private:
    void answer(WsgiApp& app, Exchange& exchange) {
        exchange.response.begin(exchange.head, true, options_);
        app.call(exchange);
        exchange.finished_ = false;
    }

    /// Drops answers that wait for the next one, but keeps their memory, as a connection does.
    static void forget_output(Exchange& exchange) {
        if (!exchange.segments_.empty()) exchange.segments_.front().bytes.clear();
        exchange.queued_bytes_ = exchange.queued_memory_ = 0;
    }

    static Fd open_sink() {
        sockaddr_in address = {};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        Fd sink(::socket(AF_INET, SOCK_DGRAM, 0));
        auto* const generic = reinterpret_cast<sockaddr*>(&address);
        if (::bind(sink.get(), generic, size) != 0 ||
            ::getsockname(sink.get(), generic, &size) != 0 ||
            ::connect(sink.get(), generic, size) != 0)
            std::abort();
        return sink;
    }

    void parse(Exchange& exchange, const std::string& head) {
        HttpError error;
        size_t used = 0;
        parser_.reset();
        if (parser_.parse(head, policy_, {}, exchange.head, used, error) != Parse::Done)
            std::abort();
    }

    HeadParser parser_;
    HttpPolicy policy_;
    ResponseOptions options_;
    ConnectionFacts facts_ = [] {
        ConnectionFacts facts;
        facts.remote_addr = "127.0.0.1";
        facts.remote_port = "40000";
        facts.server_name = "0.0.0.0";
        facts.server_port = "8000";
        return facts;
    }();
};

int run(const char* only, int count) {
    InterpreterOptions options;
    if (Result<PythonChoice> choice = choose_python("", ""); choice.is_ok())
        options.python = *choice;
    Result<std::unique_ptr<Interpreter>> interpreter = Interpreter::start(std::move(options));
    if (!interpreter) return 1;
    {
        WithGil gil;
        PyObject* globals = PyModule_GetDict(PyImport_AddModule("bench"));
        PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins());
        if (!PyRef::steal(PyRun_String(kApplications, Py_file_input, globals, globals))) return 1;
    }
    Logger log;
    const std::string body(16384, 'x');
    const struct {
        const char* what;
        const char* app;
        const std::string* head;
        const std::string* body;
    } cases[] = {
        {"hello, 4 fields", "bench:hello", &kSmallHead, nullptr},
        {"hello, 21 fields", "bench:hello", &kBrowserHead, nullptr},
        {"constant answer, 4 fields", "bench:empty", &kSmallHead, nullptr},
        {"generator, 4 fields", "bench:generator", &kSmallHead, nullptr},
        {"read 16 KiB, 5 fields", "bench:read", &kPostHead, &body},
    };
    for (const auto& row : cases) {
        if (only != nullptr && std::strcmp(only, row.what) != 0) continue;
        WsgiOptions wsgi;
        wsgi.app = row.app;
        wsgi.measures_time = false;
        WsgiApp app(log, wsgi);
        if (!app.load()) return 1;
        ExchangeTest loop;
        const std::string_view sent = row.body != nullptr ? std::string_view(*row.body) : "";
        if (only != nullptr) {
            loop.repeat(app, *row.head, sent, count);
            return 0;
        }
        const double ns = loop.measure(app, *row.head, sent);
        std::printf("%-28s %8.0f ns\n", row.what, ns);
    }
    return only != nullptr ? 2 : 0;  // 2: no such case
}

}  // namespace gcorn

int main(int argc, char** argv) {
    const bool one_case = argc == 3;
    if (one_case && std::strcmp(argv[1], "python") == 0)
        return std::puts(PY_VERSION " " GCORN_LINK), 0;
    return gcorn::run(one_case ? argv[1] : nullptr, one_case ? std::atoi(argv[2]) : 0);
}
