// A whole engine without Python: listener, EventLoop and an application in C++, driven by a thread
// of the test the way SyncWorker or ThreadWorker would; and a blocking client with deadlines.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "log/access_log.h"
#include "log/log.h"
#include "log/statsd.h"
#include "net/event_loop.h"
#include "net/exchange.h"
#include "net/listener.h"

namespace gcorn::testing {

constexpr int kPatienceMs = 10'000;  ///< how long a test waits for what must happen

/// Waits until `condition` holds; false after kPatienceMs.
inline bool eventually(const std::function<bool()>& condition) {
    const int64_t end = monotonic_ms() + kPatienceMs;
    while (!condition()) {
        if (monotonic_ms() > end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

/// One client connection. Reads never block longer than kPatienceMs.
class Client {
public:
    explicit Client(const Address& address, int receive_buffer = 0, bool connects = true) {
        fd_ = Fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (receive_buffer > 0)
            ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
        if (connects) (void)connect(address);
    }
    [[nodiscard]] bool connect(const Address& address) {
        return connected_ = ::connect(fd_.get(), address.raw(), address.size) == 0;
    }
    [[nodiscard]] bool is_connected() const { return connected_; }
    [[nodiscard]] int fd() const { return fd_.get(); }

    bool send(std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent <= 0) return false;
            bytes.remove_prefix(static_cast<size_t>(sent));
        }
        return true;
    }
    void shut() { ::shutdown(fd_.get(), SHUT_WR); }
    /// Closes so that the peer sees a reset instead of EOF.
    void reset() {
        const linger abort{1, 0};
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
        fd_.reset();
    }
    void close() { fd_.reset(); }

    /// Reads until `end` was received or the peer closed; everything received so far.
    std::string read_until(std::string_view end) {
        while (received_.find(end) == std::string::npos && fill()) {
        }
        return received_;
    }
    std::string read_size(size_t size) {
        while (received_.size() < size && fill()) {
        }
        return received_;
    }
    std::string read_all() {
        while (fill()) {
        }
        return received_;
    }
    /// The peer closed (after the bytes that read_all() returns).
    bool is_closed() {
        while (fill()) {
        }
        return closed_;
    }
    /// Nothing arrives for `ms` milliseconds.
    bool is_silent_for(int ms) {
        pollfd entry{fd_.get(), POLLIN, 0};
        return ::poll(&entry, 1, ms) == 0;
    }
    void forget() { received_.clear(); }

private:
    bool fill() {
        pollfd entry{fd_.get(), POLLIN, 0};
        if (::poll(&entry, 1, kPatienceMs) <= 0) return false;
        char bytes[65536];
        const ssize_t got = ::recv(fd_.get(), bytes, sizeof bytes, 0);
        if (got <= 0) {
            closed_ = true;
            return false;
        }
        received_.append(bytes, static_cast<size_t>(got));
        return true;
    }

    Fd fd_;
    std::string received_;
    bool connected_ = false;
    bool closed_ = false;
};

/// Answers 200 with `body` and its length.
inline void answer(Exchange& exchange, std::string_view body, const char* status = "200 OK") {
    ResponseWriter& response = exchange.response;
    EXPECT_TRUE(response.set_status(status).is_ok());
    EXPECT_TRUE(response.add_field("Content-Length", std::to_string(body.size())).is_ok());
    exchange.send(response.body(body.size(), true), body, true);
    exchange.finish();
}

inline std::string body_of(Exchange& exchange) {
    std::string body(static_cast<size_t>(exchange.body.size()), '\0');
    size_t got = 0;
    while (got < body.size()) {
        const Result<size_t> n = exchange.body.read_at(got, body.data() + got, body.size() - got);
        if (!n || *n == 0) break;
        got += *n;
    }
    return body;
}

/// The engine. Configure `options`, set `app`, start(); stops in the destructor.
class Engine {
public:
    using Application = std::function<void(Exchange&)>;

    explicit Engine(Application application) : app(std::move(application)) {
        auto compiled = AccessLog::compile(kDefaultAccessFormat);
        EXPECT_TRUE(compiled.is_ok());
        access_log_ = std::make_unique<AccessLog>(std::move(*compiled));
        LogOptions log_options;
        char path[] = "/tmp/gcorn-engine-XXXXXX";
        Fd(::mkstemp(path)).reset();
        error_path = path;
        log_options.errorlog = error_path;
        log_options.level = Level::Debug;
        EXPECT_TRUE(log.open(log_options).is_ok());
        auto list = NetworkList::parse("127.0.0.1");
        options.proxy_allow = *list;
        options.forwarded_allow = *list;
    }
    ~Engine() {
        stop();
        ::unlink(error_path.c_str());
    }

    /// Listens. A test that does not call start() turns the loop and answers by itself.
    void open() {
        auto spec = parse_bind(bind);
        auto opened = Listener::open(*spec, listener_options);
        ASSERT_TRUE(opened.is_ok()) << opened.message();
        listener_ = std::move(*opened);
        loop = std::make_unique<EventLoop>(options, ready, log, *access_log_, statsd_);
        ASSERT_TRUE(loop->open({listener_.get()}).is_ok());
    }

    /// threads 0: calls run on the loop's thread, as in sync; else on that many threads.
    void start(size_t threads = 0) {
        if (threads > 0) options.slots = threads;
        ASSERT_NO_FATAL_FAILURE(open());
        for (size_t i = 0; i < threads; ++i) {
            threads_.emplace_back([this] {
                int64_t call_began_us = 0;
                while (std::shared_ptr<Exchange> exchange = ready.pop(call_began_us))
                    app(*exchange);
            });
        }
        loop_thread_ = std::thread([this, threads] { run(threads == 0); });
    }

    void stop() {
        if (!loop) return;
        quits_ = true;
        loop->wake();
        if (loop_thread_.joinable()) loop_thread_.join();
        ready.close();
        for (std::thread& thread : threads_)
            thread.join();
        threads_.clear();
        loop.reset();
    }

    [[nodiscard]] const Address& address() const { return listener_->address(); }
    [[nodiscard]] int listener_fd() const { return listener_->fd(); }
    [[nodiscard]] std::string log_text() const {
        std::string text;
        if (FILE* file = std::fopen(error_path.c_str(), "r")) {
            char bytes[65536];
            while (size_t n = std::fread(bytes, 1, sizeof bytes, file))
                text.append(bytes, n);
            std::fclose(file);
        }
        return text;
    }
    [[nodiscard]] size_t connections() const { return connections_.load(); }

    Application app;
    std::string bind = "127.0.0.1:0";
    LoopOptions options;
    ListenerOptions listener_options;
    Logger log;
    ReadyQueue ready;
    std::unique_ptr<EventLoop> loop;
    std::string error_path;

private:
    void run(bool calls_inline) {
        while (!quits_) {
            {
                const std::lock_guard lead(loop->lead());
                loop->turn(-1);
                connections_ = loop->connection_count();
            }
            if (!calls_inline) continue;
            while (std::shared_ptr<Exchange> exchange = ready.try_pop())
                app(*exchange);
        }
    }

    std::unique_ptr<Listener> listener_;
    std::unique_ptr<AccessLog> access_log_;
    Statsd statsd_;
    std::vector<std::thread> threads_;
    std::thread loop_thread_;
    std::atomic<bool> quits_{false};
    std::atomic<size_t> connections_{0};
};

}  // namespace gcorn::testing
