// For the tests of the Python rooms: one interpreter for the program, applications written in
// place, and a real Exchange over a socket pair whose other end plays the client.
#pragma once

#include "python/interpreter.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "base/clock.h"
#include "log/log.h"
#include "net/exchange.h"

namespace gcorn {

/// The program's interpreter, started on first use.
inline Interpreter& interpreter() {
    static const std::unique_ptr<Interpreter> started = [] {
        InterpreterOptions options;
        options.argv = {"gcorn", "-w", "1"};
        Result<PythonChoice> choice = choose_python("", "");
        EXPECT_TRUE(choice.is_ok());
        options.python = *choice;
        Result<std::unique_ptr<Interpreter>> result = Interpreter::start(std::move(options));
        EXPECT_TRUE(result.is_ok());
        return std::move(*result);
    }();
    return *started;
}

/// Runs Python source in the module `module`, created if missing. Fails the test if it raises.
inline void run_python(const std::string& source, const char* module = "__main__") {
    WithGil gil;
    PyObject* globals = PyModule_GetDict(PyImport_AddModule(module));  // both borrowed
    if (PyDict_GetItemString(globals, "__builtins__") == nullptr)
        PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins());
    PyRef done = PyRef::steal(PyRun_String(source.c_str(), Py_file_input, globals, globals));
    if (!done) ADD_FAILURE() << take_error_text();
}

/// str() of an expression in that module.
inline std::string eval_python(const std::string& expression, const char* module = "__main__") {
    WithGil gil;
    PyObject* globals = PyModule_GetDict(PyImport_AddModule(module));
    PyRef value = PyRef::steal(PyRun_String(expression.c_str(), Py_eval_input, globals, globals));
    PyRef text = value ? PyRef::steal(PyObject_Str(value.get())) : PyRef();
    std::string_view view;
    if (!text || !utf8_view(text.get(), view)) return "raised " + take_error_text(false);
    return std::string(view);
}

/// A Logger into a file of its own, whose text can be read back.
class LogFile {
public:
    explicit LogFile(Level level = Level::Info) {
        std::string path = "/tmp/gcorn-test-log-XXXXXX";
        const Fd file(::mkstemp(path.data()));
        EXPECT_TRUE(file.is_open());
        path_ = path;
        LogOptions options;
        options.errorlog = path;
        options.level = level;
        EXPECT_TRUE(log.open(options).is_ok());
    }
    ~LogFile() { ::unlink(path_.c_str()); }

    [[nodiscard]] std::string text() const {
        const Fd file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
        std::string all;
        char bytes[4096];
        for (ssize_t n = 0; (n = ::read(file.get(), bytes, sizeof bytes)) > 0;)
            all.append(bytes, static_cast<size_t>(n));
        return all;
    }
    [[nodiscard]] size_t count(std::string_view needle) const {
        const std::string all = text();
        size_t found = 0;
        for (size_t at = 0; (at = all.find(needle, at)) != std::string::npos; at += needle.size())
            ++found;
        return found;
    }

    Logger log;

private:
    std::string path_;
};

/// One request as the loop would hand it over. It has this name because Exchange declares it a
/// friend.
class ExchangeTest : public ExchangeOwner {
public:
    explicit ExchangeTest(std::string_view head, std::string_view body = {},
                          bool body_is_complete = true) {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        EXPECT_EQ(::fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);  // as accepted sockets are
        server_ = Fd(ends[0]);
        client_ = Fd(ends[1]);
        facts.remote_addr = "127.0.0.1";
        facts.remote_port = "50123";
        facts.server_name = "0.0.0.0";
        facts.server_port = "8000";
        exchange = std::make_shared<Exchange>(*this);
        HeadParser parser;
        HttpError error;
        size_t used = 0;
        const Parse parsed = parser.parse(head, policy, facts.peer, exchange->head, used, error);
        EXPECT_EQ(parsed, Parse::Done) << error.rule;
        exchange->prepare(&facts, server_.get(), {});
        EXPECT_TRUE(exchange->body.append(body).is_ok());
        exchange->body_arrived(body_is_complete, 0);
        exchange->response.begin(exchange->head, true, options);
    }

    /// More of the body, from the loop's side.
    void body_goes_on(std::string_view bytes, bool is_complete, int error = 0) {
        EXPECT_TRUE(exchange->body.append(bytes).is_ok());
        exchange->body_arrived(is_complete, error);
    }
    /// Output that the socket does not take stays in memory; beyond its limit the application
    /// waits.
    void take_the_disk() { exchange->prepare(&facts, server_.get(), "/nonexistent-directory"); }
    /// The client closes its end; the next sender finds out.
    void client_leaves() { client_.reset(); }
    void client_says(std::string_view bytes) {
        EXPECT_EQ(::write(client_.get(), bytes.data(), bytes.size()),
                  static_cast<ssize_t>(bytes.size()));
    }
    /// The loop is the first to find out.
    void mark_aborted() { exchange->mark_aborted(); }

    /// Everything that the client gets, up to the end of the connection.
    [[nodiscard]] std::string received() {
        std::string all;
        char bytes[65536];
        bool is_drained = false;
        while (!is_drained) {
            size_t moved = 0;
            is_drained = exchange->flush(moved) != Exchange::Flush::Blocked;
            for (ssize_t n = 0; (n = ::recv(client_.get(), bytes, sizeof bytes, MSG_DONTWAIT)) > 0;)
                all.append(bytes, static_cast<size_t>(n));
        }
        return all;
    }
    [[nodiscard]] static std::string body_of(const std::string& response) {
        const size_t end = response.find("\r\n\r\n");
        return end == std::string::npos ? std::string() : response.substr(end + 4);
    }

    void exchange_needs_leader(Exchange&) override {}
    void beat_while_waiting() override { ++beats; }
    void exchange_completed(Exchange&) override {}

    HttpPolicy policy;
    ResponseOptions options;
    ConnectionFacts facts;
    std::atomic<int> beats{0};
    std::shared_ptr<Exchange> exchange;
    [[nodiscard]] int client() const { return client_.get(); }

private:
    Fd server_, client_;
};

/// Waits until `condition` holds; false if it does not in time.
inline bool eventually(const std::function<bool()>& condition, int64_t patience_ms = 10'000) {
    const int64_t end_ms = monotonic_ms() + patience_ms;
    while (!condition()) {
        if (monotonic_ms() > end_ms) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

constexpr const char* kGet = "GET /a?b=c HTTP/1.1\r\nHost: example.org\r\n\r\n";

}  // namespace gcorn
