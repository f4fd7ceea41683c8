// The floor of our own engine: the same loop, parser and writer as gcorn, but the application is a
// few lines of C++ that answer fixed bytes. What a request costs here, Python cannot make cheaper.
//
//   bench_floor 127.0.0.1:8000
#include <csignal>
#include <cstdio>

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

}  // namespace

int main(int argc, char** argv) {
    using namespace gcorn;
    if (argc != 2) return std::fprintf(stderr, "usage: bench_floor HOST:PORT\n"), 2;
    ::signal(SIGPIPE, SIG_IGN);
    Result<BindSpec> spec = parse_bind(argv[1]);
    if (!spec) return std::fprintf(stderr, "%s\n", spec.message().c_str()), 1;
    ListenerOptions listener_options;
    listener_options.defer_accept_s = 1;
    Result<std::unique_ptr<Listener>> listener = Listener::open(*spec, listener_options);
    if (!listener) return std::fprintf(stderr, "%s\n", listener.message().c_str()), 1;
    Result<AccessLog> access_log = AccessLog::compile(kDefaultAccessFormat);
    GCORN_CHECK(access_log.is_ok());
    Logger log;
    GCORN_CHECK(log.open({}).is_ok());
    Statsd statsd;
    ReadyQueue ready;
    LoopOptions options;
    options.reads_at_once = true;
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
