// Fuzz target: the lives of connections and Exchanges. The input is a program: its first byte
// configures an engine, every two that follow are a step of one of its clients, of the application,
// or of the clock, which otherwise stands still.
//
// Invariants: each queued Exchange is given back once; a client is answered in order, and never
// twice; a client that stays gets every answer whole, provided that no time passes; no client
// causes an error; once clients and application are done nothing is left: no connection, output or
// descriptor.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/text.h"
#include "log/access_log.h"
#include "log/log.h"
#include "log/statsd.h"
#include "net/event_loop.h"
#include "net/listener.h"
#include "tests/fuzz/lifecycle_client.h"
#include "tests/fuzz/lifecycle_job.h"

namespace {

int64_t now_us = 0;
int64_t tick_us = 0;  ///< how far each reading moves the clock

int stepped_clock(clockid_t clock, timespec* time) {
    if (clock != CLOCK_MONOTONIC) return ::clock_gettime(clock, time);
    now_us += tick_us;
    time->tv_sec = now_us / 1'000'000;
    time->tv_nsec = static_cast<long>(now_us % 1'000'000 * 1000);
    return 0;
}

}  // namespace

// Replaces the library's: the engine's clock moves when a program says so.
#define clock_gettime stepped_clock
#include "base/clock.cpp"
#undef clock_gettime

namespace {

using namespace gcorn;
using fuzz::Client;
using fuzz::Job;
using fuzz::kLarge;
using fuzz::require;

constexpr size_t kStepsMax = 150;
constexpr int kQuietTurns = 60;  ///< of 2 ms, after which nothing more will happen
constexpr int kLastTurns = 300;  ///< of 100 ms, until all have come to an end
class Errors final : public LogObserver {
public:
    void error_record(Level level, std::string_view) override {
        require(level < Level::Error || are_expected, "a client causes no errors");
    }
    bool are_expected = false;  ///< descriptors ran out
};

class Run {
public:
    Run(uint8_t config, int file) : is_tls_((config & 1) != 0), file_(file) {
        LogOptions quiet;
        quiet.errorlog = "";
        quiet.accesslog = "/dev/null";
        require(log_.open(quiet).is_ok(), "a log");
        log_.set_observer(&errors_);
        LoopOptions options;
        if (is_tls_) options.make_tls = fuzz::ControlBytes::make;
        options.worker_connections = (config & 2) != 0 ? 2 : 100;
        if ((config & 4) != 0)
            options.header_timeout_ms = options.body_timeout_ms = options.write_timeout_ms = 1000;
        options.slots = (config & 8) != 0 ? 1 : 8;
        if ((config & 32) != 0) options.proxy_mode = ProxyMode::Auto;
        if ((config & 64) != 0) options.policy.limit_request_body = 1000;
        if ((config & 128) != 0) options.keepalive_ms = 0;
        // While its worker's only slot stays taken, a kept connection with a new request is passed
        // to a sibling, and comes back.
        require(relay_.open().is_ok(), "a relay");
        if (options.slots == 1 && !is_tls_) options.relay = &relay_;
        options.has_sibling = [](Sibling kind, size_t) { return kind == Sibling::Any; };
        options.pause = [this] { nobody_stays(), turn(100); };
        loop_ = std::make_unique<EventLoop>(std::move(options), ready_, log_, access_log_, statsd_);
        std::vector<Listener*> listeners;
        const std::string path = "/tmp/gcorn-lifecycle-" + std::to_string(::getpid()) + ".sock";
        for (const std::string& bind : {"unix:" + path, std::string("127.0.0.1:0")}) {
            listeners_.push_back(std::move(*Listener::open(*parse_bind(bind), {})));
            listeners.push_back(listeners_.back().get());
        }
        require(loop_->open(listeners).is_ok(), "a loop");
    }

    void step(uint8_t what, uint8_t how) {
        Client& client = clients_[how % clients_.size()];
        const int kind = how / static_cast<int>(clients_.size());
        switch (what % 12) {
            case 0: connect(client, kind); break;
            case 1:
            case 2: client.say(kind, last_id_); break;
            case 3: client.read(kind % 2 == 0 ? SIZE_MAX : 1000); break;
            case 4: leave(client, kind); break;
            case 5: turn(0); break;
            case 6: take(); break;
            case 7: pass_time(kind); break;
            case 8: change(kind); break;
            default:
                if (!jobs_.empty()) serve(how % jobs_.size(), kind);
        }
        require(loop_->active() == jobs_.size() + ready_.look(), "each Exchange is given back");
    }

    /// Clients that stay are served, then everybody leaves.
    void finish() {
        tick_us = 0;
        limit_descriptors(false);
        size_t moved = 0;
        for (int since = 0; since < kQuietTurns; ++since) {
            turn(2);
            serve_all();
            size_t moves = whole_.size();
            for (Client& client : clients_)
                client.send(0), client.read(SIZE_MAX), moves += client.moved();
            if (std::exchange(moved, moves) != moves) since = 0;
        }
        for (Client& client : clients_)
            client.leave(true, whole_);
        come_to([&] { return loop_->connection_count() == 0; }, "every connection ends");
        loop_->stop();
        come_to([&] { return loop_->is_drained(); }, "a stop comes to its end");
        for (const Job& job : kept_)
            require(job.exchange->head.target == job.target, "what is held stays as it was");
        kept_.clear();
        require(loop_->active() == 0 && loop_->output_memory() == 0, "nothing is left");
        for (const auto& listener : listeners_)
            require(listener->unlink_path().is_ok(), "the socket's file goes away");
    }

private:
    template <typename Condition>
    void come_to(const Condition& is_done, const char* what) {
        for (int i = 0; !is_done(); ++i) {
            require(i < kLastTurns, what);
            turn(100);
            serve_all();
        }
    }

    void turn(int64_t pass_ms) {
        now_us += pass_ms * 1000;
        loop_->turn(0);
    }

    void pass_time(int kind) {
        constexpr std::array<int, 8> kSteps = {1, 2, 60, 110, 600, 1100, 2100, 16'000};
        now_us += kSteps[static_cast<size_t>(kind % 8)] * 1000;
        if (kind % 8 > 1) nobody_stays();
    }

    void change(int kind) {
        if (kind % 4 == 0) loop_->stop(kind < 32);
        if (kind % 4 == 1) limit_descriptors(kind < 32);
        tick_us = kind % 4 == 2 ? 3000 : 0;
        if (tick_us > 0) nobody_stays();
    }

    void limit_descriptors(bool is_limited) {
        errors_.are_expected |= is_limited;
        if (is_limited) nobody_stays();
        rlimit limit{};
        ::getrlimit(RLIMIT_NOFILE, &limit);
        const Fd free(is_limited ? ::fcntl(0, F_DUPFD_CLOEXEC, 0) : -1);
        limit.rlim_cur = free ? static_cast<rlim_t>(free.get()) : limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }

    void nobody_stays() {
        for (Client& client : clients_)
            client.stays = false;
    }

    void connect(Client& client, int kind) {
        leave(client, 1);
        client.connect(listeners_[static_cast<size_t>(kind % 2)]->address(), kind / 2, is_tls_);
        if (errors_.are_expected) client.stays = false;
    }

    void leave(Client& client, int kind) {
        if (kind % 3 == 0) return client.shut();
        client.stays = false;
        client.leave(kind % 3 == 2, whole_);
    }

    // -------------------------------------------------------------------------------- application

    void take() {
        while (std::shared_ptr<Exchange> exchange = ready_.try_pop()) {
            std::string target(exchange->head.target);
            const auto id = static_cast<size_t>(parse_decimal(target.substr(1)).value_or(0));
            require(!exchange->is_finished() && id > 0 && id <= last_id_, "a request");
            jobs_.push_back({std::move(exchange), std::move(target), id});
        }
    }

    void serve_all() {
        for (take(); !jobs_.empty();)
            serve(0, 0);
    }

    void serve(size_t index, int kind) {
        Job& job = jobs_[index];
        bool is_done = false;
        if (kind < 32)
            is_done = job.act(kind % 16, file_);
        else
            std::thread([&] { is_done = job.act(kind % 16, file_); }).join();
        for (Client& client : clients_)
            client.stays = client.stays && (job.is_sent || !client.has_sent(job.id));
        if (!is_done) return;
        if (job.is_over && job.is_sent) whole_.push_back(job.id);
        if (kind % 32 >= 16) kept_.push_back(std::move(job));
        jobs_.erase(jobs_.begin() + static_cast<ptrdiff_t>(index));
    }

    const bool is_tls_;
    const int file_;  ///< has kLarge
    Logger log_;
    Errors errors_;
    AccessLog access_log_ = std::move(*AccessLog::compile(kDefaultAccessFormat));
    Statsd statsd_;
    ReadyQueue ready_;
    Relay relay_;
    std::vector<std::unique_ptr<Listener>> listeners_;
    std::unique_ptr<EventLoop> loop_;
    std::array<Client, 4> clients_;
    std::vector<Job> jobs_, kept_;  ///< kept: used after their end
    std::vector<size_t> whole_;     ///< answered to the last byte
    size_t last_id_ = 0;
};

size_t open_descriptors() {
    size_t count = 0;
    for (int fd = 0; fd < 100; ++fd)
        count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    return count;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const Fd file = std::move(*open_unlinked_file("/tmp"));
    if (size == 0) return 0;
    require(::pwrite(file.get(), kLarge.data(), kLarge.size(), 0) > 0, "a file");
    ::signal(SIGPIPE, SIG_IGN);  // as the server does
    now_us = 1'000'000'000;
    const size_t before = open_descriptors();
    {
        Run run(data[0], file.get());
        for (size_t i = 0; i < kStepsMax && 2 * i + 2 < size; ++i)
            run.step(data[2 * i + 1], data[2 * i + 2]);
        run.finish();
    }
    require(open_descriptors() == before, "no descriptor is left");
    return 0;
}
