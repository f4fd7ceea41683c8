// The floor of our own engine: the same loop, parser and writer as gcorn, but the application is a
// few lines of C++ that answer fixed bytes. A request that runs Python cannot cost less than it
// does here.
//
//   bench_floor 127.0.0.1:8000          the floor
//   bench_floor 127.0.0.1:8000 plain    a loop of epoll, recv and send that parses nothing: the
//                                       kernel's share of the floor. It accepts as most servers
//                                       do, before the first byte has arrived (without
//                                       TCP_DEFER_ACCEPT), and sends its FIN separately.
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>

#include "log/access_log.h"
#include "log/log.h"
#include "log/statsd.h"
#include "net/event_loop.h"
#include "net/exchange.h"
#include "net/listener.h"

namespace {

void answer(gcorn::Exchange& exchange) {
    gcorn::ResponseWriter& response = exchange.response;
    const bool is_fine = response.set_status("200 OK").is_ok() &&
                         response.add_field("Content-Type", "text/plain").is_ok() &&
                         response.add_field("Content-Length", "13").is_ok();
    GCORN_CHECK(is_fine);
    exchange.send(response.body(13, true), "Hello, World!", true);
    exchange.finish();
}

/// One answer for each empty line, all in one send.
void plain_loop(int listener) {
    const std::string_view one =
        "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: keep-alive\r\n"
        "Content-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
    const int poller = ::epoll_create1(EPOLL_CLOEXEC);
    const auto watch = [poller](int fd) {
        epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
        GCORN_CHECK(::epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0);
    };
    watch(listener);
    static char in[64 * 1024];
    std::string answers;
    for (;;) {
        epoll_event events[256];
        const int count = ::epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; ++i) {
            const int fd = events[i].data.fd;
            if (fd == listener) {
                const int client = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
                if (client >= 0) watch(client);
                continue;
            }
            const ssize_t got = ::recv(fd, in, sizeof in, 0);
            const std::string_view request(in, got > 0 ? static_cast<size_t>(got) : 0);
            answers.clear();
            for (size_t at = 0; (at = request.find("\r\n\r\n", at)) != request.npos; at += 4)
                answers += one;
            const bool is_sent =
                !answers.empty() && ::send(fd, answers.data(), answers.size(), MSG_NOSIGNAL) > 0;
            if (!is_sent || request.find("Connection: close") != request.npos) ::close(fd);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    using namespace gcorn;
    const bool is_plain = argc == 3 && std::string_view(argv[2]) == "plain";
    if (argc != 2 && !is_plain)
        return std::fprintf(stderr, "usage: bench_floor HOST:PORT [plain]\n"), 2;
    ::signal(SIGPIPE, SIG_IGN);
    Result<BindSpec> spec = parse_bind(argv[1]);
    if (!spec) return std::fprintf(stderr, "%s\n", spec.message().c_str()), 1;
    ListenerOptions listener_options;
    listener_options.defer_accept_s = is_plain ? 0 : 1;
    Result<std::unique_ptr<Listener>> listener = Listener::open(*spec, listener_options);
    if (!listener) return std::fprintf(stderr, "%s\n", listener.message().c_str()), 1;
    if (is_plain) plain_loop((*listener)->fd());
    Result<AccessLog> access_log = AccessLog::compile(kDefaultAccessFormat);
    GCORN_CHECK(access_log.is_ok());
    Logger log;
    GCORN_CHECK(log.open({}).is_ok());
    Statsd statsd;
    ReadyQueue ready;
    LoopOptions options;
    options.keepalive_ms = 75'000;
    EventLoop loop(options, ready, log, *access_log, statsd);
    GCORN_CHECK(loop.open({listener->get()}).is_ok());
    const std::unique_lock lead(loop.lead());
    for (;;) {
        loop.turn(-1);
        while (const std::shared_ptr<Exchange> exchange = ready.try_pop())
            answer(*exchange);
    }
}
