#include "worker.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <random>
#include <stop_token>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "net/exchange.h"
#include "os/process.h"
#include "os/signals.h"

namespace gcorn {

namespace {

/// The longest time that the main thread sleeps, so that the arbiter hears from it (see
/// sleep_ms()).
constexpr int64_t kHeartbeatMaxMs = 5000;
/// How often gthread's main thread takes the GIL, to prove that the interpreter is alive.
constexpr int kInterpreterBeatMs = 1000;
/// How long a worker whose arbiter has died may take for its running requests; the rest of the two
/// seconds (signals::end_soon_after_parent) is for leaving in order.
constexpr int64_t kOrphanMs = 1500;
/// A new connection to a sibling would cost a client more than a wait up to this.
constexpr int64_t kBehindMs = 5;
/// How often a quick stop interrupts a call that it waits for.
constexpr int kInterruptAgainMs = 250;
/// How often sys.modules is listed for the reloader.
constexpr int64_t kReloadLookMs = 1000;

ProxyMode proxy_mode(const Config& cfg) {
    if (cfg.proxy_protocol == "v1") return ProxyMode::V1;
    if (cfg.proxy_protocol == "v2") return ProxyMode::V2;
    return cfg.proxy_protocol == "auto" ? ProxyMode::Auto : ProxyMode::Off;
}

/// For a native thread. False: it was told to stop, before or during the sleep.
bool sleep_unless_told(const std::stop_token& quit, int64_t ms) {
    std::mutex mutex;
    std::condition_variable_any told;
    // cppcheck-suppress localMutex ; nobody else takes it, a condition cannot do without
    std::unique_lock lock(mutex);
    told.wait_for(lock, quit, std::chrono::milliseconds(ms), [] { return false; });
    return !quit.stop_requested();
}

/// Leads the loop while the main thread is inside an application call that outlasts a tick.
///
/// Every kTickMs it checks whether a turn is overdue; then it takes the lead, if that is free, and
/// turns until the main thread asks for it back. Without calls for a while it parks and costs
/// nothing; the next call wakes it. A native thread: no Python, all signals blocked. Never allocate
/// it on a stack: greenlets of the application move the main thread's stack away and run in its
/// place.
class Guard {
public:
    /// While it leads, it calls nudge() after each turn, which returns how long the next one may
    /// sleep, in ms (-1: no limit).
    Guard(EventLoop& loop, std::function<int()> nudge)
        : loop_(loop), nudge_(std::move(nudge)), thread_([this](auto quit) { run(quit); }) {}
    ~Guard() {
        thread_.request_stop();
        loop_.wake();
    }
    Guard(Guard&&) = delete;

    /// Main thread: a call begins.
    void call_begins() {
        calls_.fetch_add(1, std::memory_order_seq_cst);
        if (!parked_.load(std::memory_order_seq_cst)) return;
        const std::lock_guard lock(mutex_);
        unparked_.notify_one();
    }

    /// Main thread: takes the lead, if necessary back from the guard.
    std::unique_lock<std::mutex> lead() {
        std::unique_lock lead(loop_.lead(), std::try_to_lock);
        if (!lead.owns_lock()) {
            wanted_back_.store(true);
            loop_.wake();
            lead.lock();
            wanted_back_.store(false);
        }
        return lead;
    }

private:
    static constexpr int64_t kTickMs = 5;
    static constexpr int kQuietTicksMax = 40;

    void run(const std::stop_token& quit) {
        signals::block_all_in_this_thread();
        uint64_t seen_calls = 0;
        int quiet_ticks = 0;
        while (!quit.stop_requested()) {
            sleep_unless_told(quit, kTickMs);
            if (try_to_lead(quit)) continue;
            const uint64_t calls = calls_.load(std::memory_order_seq_cst);
            quiet_ticks = calls == seen_calls ? quiet_ticks + 1 : 0;
            seen_calls = calls;
            if (quiet_ticks >= kQuietTicksMax) {
                park(quit, seen_calls);
                quiet_ticks = 0;
            }
        }
    }

    /// False: the main thread leads, or led a moment ago.
    bool try_to_lead(const std::stop_token& quit) {
        if (monotonic_ms() - loop_.last_turn_ms() < kTickMs) return false;
        const std::unique_lock lead(loop_.lead(), std::try_to_lock);
        if (!lead.owns_lock()) return false;
        int sleep_ms = -1;
        while (!wanted_back_.load() && !quit.stop_requested()) {
            loop_.turn(sleep_ms);
            sleep_ms = nudge_();
        }
        return true;
    }

    void park(const std::stop_token& quit, uint64_t seen_calls) {
        std::unique_lock lock(mutex_);
        parked_.store(true, std::memory_order_seq_cst);
        // A call that began before it could see parked_ must not be missed.
        unparked_.wait(lock, quit,
                       [&] { return calls_.load(std::memory_order_seq_cst) != seen_calls; });
        parked_.store(false, std::memory_order_seq_cst);
    }

    EventLoop& loop_;
    const std::function<int()> nudge_;
    std::atomic<uint64_t> calls_{0};
    std::atomic<bool> parked_{false};
    std::atomic<bool> wanted_back_{false};
    std::mutex mutex_;  ///< only for parking
    std::condition_variable_any unparked_;
    std::jthread thread_;  ///< last: it uses everything above
};

}  // namespace

Result<ListenerOptions> listener_options(const Config& cfg) {
    ListenerOptions options;
    Result<Owner> owner = find_owner(cfg.user, cfg.group);
    if (!owner) return owner.error();
    options.owner = *owner;
    options.reuse_port = cfg.reuse_port;
    options.backlog = static_cast<int>(cfg.backlog);
    options.umask = static_cast<mode_t>(cfg.umask);
    options.is_tls = cfg.is_tls();
    // The kernel keeps a connection back until its first bytes arrive, or for about this long. Not
    // where the server may have to act before.
    if (!cfg.is_tls() && proxy_mode(cfg) == ProxyMode::Off) options.defer_accept_s = 1;
    return options;
}

size_t connection_places(const Config& cfg) {
    // For everything else that is open, the application's files, and bodies in files.
    constexpr rlim_t kKeptPart = 16, kKept = 16;
    const auto wanted = static_cast<size_t>(cfg.worker_connections);
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
    const rlim_t kept = limit.rlim_cur / kKeptPart + kKept;
    const rlim_t left = limit.rlim_cur > kept ? limit.rlim_cur - kept : 1;
    return static_cast<size_t>(std::min<rlim_t>(wanted, left));
}

Worker::Worker(WorkerContext context) : context_(std::move(context)) {
    const Config& cfg = context_.cfg;
    if (cfg.max_requests > 0)
        requests_max_ =
            static_cast<uint64_t>(cfg.max_requests) +
            std::random_device()() % (static_cast<uint64_t>(cfg.max_requests_jitter) + 1);
}

// ------------------------------------------------------------------------------------------ life

int Worker::run() {
    pid_ = ::getpid();
    int code = boot();
    if (code == 0) code = serve_until_told();
    context_.log.info("Worker exiting (pid: %d)", pid_);
    (void)context_.hooks.run(&Config::worker_exit, &context_.arbiter, this);
    context_.runtime.finalize();
    return code;
}

/// From after-fork to the loaded application, in the order that the operator's hooks rely on
/// (gunicorn: Worker.init_process). Returns 0, or the exit code.
int Worker::boot() {
    const Config& cfg = context_.cfg;
    Logger& log = context_.log;
    const auto failed = [&](const Status& status) {
        log.error("%s", status.message().c_str());
        return kExitBootFailed;
    };
    if (Status status = open_own_listeners(); !status) return failed(status);
    if (!context_.hooks.run(&Config::post_fork, &context_.arbiter, this)) return kExitBootFailed;
    const Result<Owner> owner = find_owner(cfg.user, cfg.group);
    if (!owner) return failed(owner.error());
    if (Status status =
            drop_privileges(owner->user.value_or(0), owner->group.value_or(0), cfg.initgroups);
        !status)
        return failed(status);
    signals::end_soon_after_parent();
    if (context_.starting) {
        if (Status status = context_.starting(cfg); !status) return failed(status);
    }
    signals::catch_for_worker(
        [](void* runtime, int signal) { static_cast<Runtime*>(runtime)->interrupt(signal); },
        &context_.runtime);

    if (cfg.reload) start_reloader();
    if (!context_.app.is_loaded()) {
        if (Status status = context_.app.load(); !status) {
            if (status.error().code == 0) return 0;  // the signal is obeyed next
            // The traceback was logged where it was caught; a missing application has none.
            if (status.error().code == kExitAppFailed) log.error("%s", status.message().c_str());
            return status.error().code == kExitAppFailed ? kExitAppFailed : kExitBootFailed;
        }
    }
    if (!context_.hooks.run(&Config::post_worker_init, nullptr, this)) return kExitBootFailed;
    return 0;
}

Status Worker::open_own_listeners() {
    if (!context_.cfg.reuse_port) return {};
    Result<ListenerOptions> options = listener_options(context_.cfg);
    if (!options) return options.error();
    // Clients that connect here wait while the application loads, and are reset if it cannot be
    // loaded. That is better than being refused only if nobody else serves.
    options->listens =
        !context_.scoreboard.has_sibling(context_.slot, Sibling::Any) && !context_.has_relative;
    for (const std::string& text : context_.cfg.bind) {
        Result<BindSpec> spec = parse_bind(text);
        if (!spec) return spec.error();
        // Unix sockets and inherited descriptors have no ports to share: the arbiter's serve all.
        if (spec->kind != BindSpec::Kind::Tcp) continue;
        Result<std::unique_ptr<Listener>> listener = Listener::open(*spec, *options);
        if (!listener) return listener.error();
        context_.listeners.push_back(listener->get());
        own_listeners_.push_back(std::move(*listener));
    }
    return {};
}

/// Absolute, for the application may have changed its directory.
std::string Worker::spool_directory() const {
    const Config& cfg = context_.cfg;
    std::string wish =
        cfg.tmp_upload_dir.empty() ? "" : std::filesystem::path(cfg.chdir) / cfg.tmp_upload_dir;
    Result<std::string> found = find_spool_directory(wish);
    if (found) return std::move(*found);
    context_.log.warning(
        "Request bodies over %zu KiB will be answered with 503, and large responses to slow "
        "clients will block their threads: %s (set TMPDIR or tmp_upload_dir)",
        kSpoolMemoryMax / 1024, found.message().c_str());
    return wish.empty() ? "/tmp" : std::move(wish);
}

LoopOptions Worker::loop_options() {
    const Config& cfg = context_.cfg;
    const char* script_name = std::getenv("SCRIPT_NAME");
    LoopOptions options;
    options.policy = http_policy(cfg, script_name != nullptr ? script_name : "");
    options.response = context_.response;
    options.header_timeout_ms = milliseconds(cfg.header_timeout);
    options.body_timeout_ms = milliseconds(cfg.body_timeout);
    options.write_timeout_ms = milliseconds(cfg.write_timeout);
    options.keepalive_ms = milliseconds(cfg.keepalive);
    options.worker_connections = connection_places(cfg);
    options.slots = slots();
    options.proxy_mode = proxy_mode(cfg);
    // Both lists were checked when the settings were applied.
    if (auto list = NetworkList::parse(cfg.forwarded_allow_ips)) options.forwarded_allow = *list;
    if (auto list = NetworkList::parse(cfg.proxy_allow_ips)) options.proxy_allow = *list;
    options.spool_directory = spool_directory();
    options.make_tls = context_.make_tls;
    const bool logs_requests = context_.hooks.logs_requests();
    options.measures_time = (context_.log.has_access() && context_.access_log.measures_time()) ||
                            context_.statsd.is_enabled() || logs_requests;
    if (!cfg.reuse_port) {  // with it, nobody else can take connections that wait for us
        options.has_sibling = [this](Sibling kind, size_t with_fewer_than) {
            return context_.scoreboard.has_sibling(context_.slot, kind, with_fewer_than);
        };
    }
    if (context_.relay != nullptr && context_.relay->fd() >= 0) options.relay = context_.relay;
    options.connections = &board().connections;
    if (logs_requests)
        options.on_refused = [this](Exchange& refused) { context_.hooks.request_refused(refused); };
    options.on_starved = [this] {
        if (want_replacement())
            context_.log.error(
                "Replacing worker (pid:%d): it has no file descriptors left, and no "
                "connection holds one (does the application leak them? see ulimit -n)",
                pid_);
    };
    options.beat = [this] { board().beat(); };
    options.pause = pause();
    return options;
}

int Worker::serve_until_told() {
    const Config& cfg = context_.cfg;
    ready_ = std::make_unique<ReadyQueue>();
    loop_ = std::make_unique<EventLoop>(loop_options(), *ready_, context_.log, context_.access_log,
                                        context_.statsd);
    ReadyQueue& ready = *ready_;
    EventLoop& loop = *loop_;
    // Any of them may fail with ENOSPC (max_user_watches, epoll(7)); deaf to signals, the worker
    // would never leave.
    Status opened;
    for (const auto& listener : own_listeners_)
        if (opened) opened = listener->listen(static_cast<int>(cfg.backlog));
    if (opened) opened = loop.open(context_.listeners);
    if (opened) opened = loop.watch(signals::fd(), [this] { handle_signals(); });
    if (opened && context_.life_fd >= 0)
        opened = loop.watch(context_.life_fd, [this] { arbiter_gone(); });
    if (opened && reloader_ && reloader_->fd() >= 0)
        opened =
            loop.watch(reloader_->fd(), [this] { wake_hub(); });  // others look after each turn
    if (!opened) {
        context_.log.error("%s", opened.message().c_str());
        return kExitBootFailed;
    }
    look_for_changes();

    heartbeat_ms_ = kHeartbeatMaxMs;
    if (cfg.timeout > 0)
        heartbeat_ms_ = std::clamp<int64_t>(milliseconds(cfg.timeout) / 3, 250, kHeartbeatMaxMs);
    board().capacity.store(static_cast<uint32_t>(slots()));
    board().beat();
    handle_signals();  // those that came while booting

    {
        std::jthread watch;  // it must use nothing on this stack, which greenlets move away
        if (request_timeout_ms() > 0)
            watch = std::jthread([this](const std::stop_token& quit) { watch_calls(quit); });
        serve(loop, ready);
    }

    handle_signals();  // an interrupt may have been faster than whoever leads the loop
    // It was not told to leave: its threads or its hub could not start, or have ended.
    if (alive()) return booted() ? 1 : kExitBootFailed;
    // Lets worker_int or worker_abort run if the signal met no running Python.
    if (stop_.load() != Stop::Graceful) context_.runtime.run_signal_handlers();
    has_obeyed_ = stop_.load() != Stop::Graceful;
    return stop_.load() == Stop::Abort ? 1 : 0;
}

/// Not before the class's threads run, because the arbiter then lets the predecessor go.
void Worker::report_ready() {
    WorkerState booting = WorkerState::Booting;  // it may have been told to leave meanwhile
    board().state.compare_exchange_strong(booting, WorkerState::Ready);
    context_.scoreboard.notify();
}

// --------------------------------------------------------------------------------------- stopping

void Worker::handle_signals() {
    has_signals_.store(true);
    for (const int signal : signals::take()) {
        switch (signal) {
            case SIGTERM: leave(); break;
            case SIGINT:
            case SIGQUIT: set_stop(Stop::Quick, 0); break;
            case SIGABRT: set_stop(Stop::Abort, 0); break;
            case SIGUSR1: context_.log.reopen(); break;
            default: break;
        }
    }
}

bool Worker::was_signalled() {
    if (!has_signals_.load(std::memory_order_relaxed)) return loop_->was_interrupted();
    has_signals_.store(false);
    return true;
}

void Worker::leave() {
    set_stop(Stop::Graceful, milliseconds(context_.cfg.graceful_timeout));
}

void Worker::arbiter_gone() {
    if (!alive()) return;
    context_.log.info("Parent changed, shutting down: <Worker %d>", pid_);
    set_stop(Stop::Graceful, std::min(kOrphanMs, milliseconds(context_.cfg.graceful_timeout)));
}

void Worker::set_stop(Stop stop, int64_t patience_ms) {
    if (stop <= stop_.load()) return;
    stop_by_ms_.store(monotonic_ms() + patience_ms);
    stop_.store(stop);
    board().state.store(WorkerState::Stopping);
    context_.scoreboard.notify();  // a successor need not wait for our last requests
    if (loop_ == nullptr) return;
    loop_->stop(stop == Stop::Graceful);
    on_stop();
}

bool Worker::is_finished() {
    if (stop_.load() == Stop::None) return false;
    if (stop_.load() != Stop::Graceful) return true;
    if (loop_->is_drained() && loop_->active() == 0) return true;
    if (monotonic_ms() < stop_by_ms_.load()) return false;
    if (loop_->active() > 0) context_.log.warning("Worker graceful timeout (pid:%d)", pid_);
    return true;
}

int Worker::sleep_ms() const {
    int64_t sleep = heartbeat_ms_;
    if (reloader_) {
        const int next = reloader_->next_check_ms();
        if (next >= 0) sleep = std::min<int64_t>(sleep, next);
        sleep = std::min(sleep, kReloadLookMs);
    }
    if (!alive()) sleep = std::clamp<int64_t>(stop_by_ms_.load() - monotonic_ms(), 0, sleep);
    return static_cast<int>(sleep);
}

void Worker::tend() {
    board().beat();
    // The signal itself can be lost: the application ignores or blocks it, or a library that
    // handles it tells nobody else (asyncio, libev).
    if (alive() && board().is_retired.load(std::memory_order_relaxed)) leave();
    look_for_changes();
}

// --------------------------------------------------------------------------------------- requests

void Worker::run_exchange(Exchange& exchange, size_t index) {
    WorkerSlot& slot = board();
    slot.begin(index, exchange.head.method, exchange.head.target, exchange.facts->remote_addr);
    slot.busy.fetch_add(1, std::memory_order_relaxed);
    if (loop_->options().measures_time) exchange.taken_us = monotonic_us();
    // If requests wait here behind slow calls while a sibling has nothing to do, send this client
    // there. The siblings come last: with many of them that costs more than the rest.
    const int64_t oldest_ms = ready_->oldest_ms();
    const bool is_behind = oldest_ms != INT64_MAX && oldest_ms < monotonic_ms() - kBehindMs &&
                           context_.scoreboard.has_sibling(context_.slot, Sibling::Idle);
    if (loop_->is_stopping() || is_behind) exchange.response.must_close();
    // Before the call, so that worker.nr includes it (gunicorn's does).
    const uint64_t taken = slot.requests.fetch_add(1, std::memory_order_relaxed) + 1;
    if (requests_max_ != 0 && taken >= requests_max_ && want_replacement())
        context_.log.info("Autorestarting worker after current request.");
    call_app(exchange);
    slot.busy.fetch_sub(1, std::memory_order_relaxed);
    slot.end(index);
}

/// Asks the arbiter to boot a successor and then to send TERM, so that no request finds a closed
/// door. False: it was asked before.
bool Worker::want_replacement() {
    if (board().wants_replacement.exchange(true)) return false;
    context_.scoreboard.notify();
    return true;
}

/// request_timeout: lets the application look for overdue calls, whenever there may be some. On a
/// native thread of its own, and only with the setting: looking needs the GIL, which may take long,
/// and neither the loop's leader nor the main thread may wait for it.
void Worker::watch_calls(const std::stop_token& quit) {
    signals::block_all_in_this_thread();
    for (int64_t next_ms = request_timeout_ms(); sleep_unless_told(quit, next_ms);) {
        const OverdueCalls found = context_.app.interrupt_overdue(request_timeout_ms());
        handle_overdue(found);
        next_ms = found.next_look_ms;
    }
}

void Worker::handle_overdue(const OverdueCalls& found) {
    if (found.needs_hub) wake_hub();
    if (found.stuck > 0 && want_replacement())
        context_.log.warning("Replacing worker (pid:%d): it has requests that do not end", pid_);
}

void SyncWorker::serve(EventLoop& loop, ReadyQueue& ready) {
    // For a quick stop that the running call did not heed: it swallowed the exception, or CPython
    // lost the note (3.11 recomputes its eval_breaker while the handler sets it). Python notes
    // signals only on its main thread, so this one goes there. On the guard's thread.
    const auto interrupt_again = [this, main_thread = ::pthread_self(),
                                  is_interrupted = false]() mutable {
        if (stop_reason() != Stop::Quick) return -1;
        // The first interrupt was the signal itself.
        if (std::exchange(is_interrupted, true)) ::pthread_kill(main_thread, SIGQUIT);
        return kInterruptAgainMs;
    };
    const auto guard = std::make_unique<Guard>(loop, interrupt_again);
    report_ready();
    while (!is_finished()) {
        {
            const std::unique_lock lead = guard->lead();
            // The guard may have queued requests while we waited for the lead; then do not sleep.
            loop.turn(ready.is_empty() ? sleep_ms() : 0);
        }
        // The application's own signal handlers run promptly although no Python runs.
        if (was_signalled()) context_.runtime.run_signal_handlers();
        tend();
        if (ready.is_empty()) continue;
        context_.runtime.together([&] {
            while (std::shared_ptr<Exchange> exchange = ready.try_pop()) {
                guard->call_begins();
                run_exchange(*exchange, 0);
                if (!alive() && is_finished()) break;
            }
        });
    }
}

size_t ThreadWorker::slots() const {
    return static_cast<size_t>(std::max<int64_t>(context_.cfg.threads, 1));
}

void ThreadWorker::serve(EventLoop& loop, ReadyQueue& ready) {
    const Status started = context_.runtime.start_threads(slots(), [&](size_t index) {
        int64_t call_began_us = 0;
        while (std::shared_ptr<Exchange> exchange = ready.pop(call_began_us))
            run_exchange(*exchange, index);
    });
    if (!started) {
        handle_signals();  // an interrupt may be the reason
        if (alive()) context_.log.error("%s", started.message().c_str());
        ready.close();
        context_.runtime.join_threads(0);
        return;
    }
    report_ready();
    const std::unique_lock lead(loop.lead());
    int64_t next_beat_ms = 0;
    while (!is_finished()) {
        const int beat_ms = std::min(sleep_ms(), kInterpreterBeatMs);
        loop.turn(beat_ms);
        look_for_changes();
        if (monotonic_ms() < next_beat_ms && alive() && !was_signalled()) continue;
        // To take the GIL proves that the interpreter is alive; a beat without it would prove
        // nothing.
        context_.runtime.run_signal_handlers();
        tend();
        next_beat_ms = monotonic_ms() + beat_ms;
    }
    ready.close();
    context_.runtime.join_threads(sleep_ms());
}

// --------------------------------------------------------------------------------------- reloader

/// Before the application is loaded: a file may be changed while it is being imported.
void Worker::start_reloader() {
    context_.log.warning("Reloader is on. Use in development only!");
    reloader_ = std::make_unique<Reloader>();
    if (Status status = reloader_->start(context_.cfg.reload_engine); !status) {
        context_.log.error("%s", status.message().c_str());
        reloader_.reset();
        return;
    }
    reloader_->watch({}, context_.cfg.reload_extra_files);
    if (!reloader_->unmatched().empty())
        context_.log.warning("reload_extra_files: no file matches %s yet",
                             reloader_->unmatched().c_str());
}

void Worker::look_for_changes() {
    if (!reloader_) return;
    std::string path;
    if (monotonic_ms() >= next_look_ms_) {
        reloader_->watch(context_.app.source_files(), context_.cfg.reload_extra_files);
        path =
            context_.runtime.changed_since_import();  // changes from before watch() knew the file
        next_look_ms_ = monotonic_ms() + kReloadLookMs;
        if (!reloader_->trouble().empty() && !std::exchange(reloader_trouble_is_told_, true))
            context_.log.warning("%s; polling once a second instead", reloader_->trouble().c_str());
    }
    if (path.empty()) path = reloader_->changed();
    if (path.empty() || !alive() || board().wants_replacement.exchange(true)) return;
    context_.log.info("Worker reloading: %s modified", path.c_str());
    (void)context_.hooks.run(&Config::worker_int, nullptr, this);
    // As after max_requests: the successor with the new code boots first, then TERM comes.
    context_.scoreboard.notify();
}

}  // namespace gcorn
