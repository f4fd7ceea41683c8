// Worker: the life of one worker process, and the core's two ways to schedule calls: inline on the
// main thread with a guard (sync), or on N threads (gthread). python/greenlet adds its own.
//
// The arbiter makes the object just before the fork, so it must be light: no descriptors, no
// threads. In the child the arbiter calls run() and exits with its result.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <vector>

#include "app.h"
#include "base/result.h"
#include "config.h"
#include "log/access_log.h"
#include "log/log.h"
#include "log/statsd.h"
#include "net/event_loop.h"
#include "net/listener.h"
#include "os/reload.h"
#include "os/scoreboard.h"

namespace gcorn {

class Arbiter;

/// Everything a worker borrows. It outlives the worker, because it belongs to the arbiter's process
/// image, which the child inherits.
struct WorkerContext {
    Arbiter& arbiter;  ///< for the hooks only
    const Config& cfg;
    Logger& log;
    const AccessLog& access_log;
    Statsd& statsd;
    Runtime& runtime;
    Hooks& hooks;
    App& app;
    Scoreboard& scoreboard;
    size_t slot = 0;                   ///< this worker's scoreboard slot
    std::vector<Listener*> listeners;  ///< inherited; with reuse_port the worker opens its own
    const Relay* relay = nullptr;      ///< moves connections between siblings, if it is open
    int life_fd = -1;            ///< read end of a pipe whose write end only the arbiter holds:
                                 ///< readable (EOF) when the arbiter is gone
    int age = 0;                 ///< how many workers had been made, including this one
    ResponseOptions response{};  ///< the Server field
    bool has_relative = false;   ///< a predecessor or successor serves, too (USR2)
    /// Interpreter-side set-up in the new process (monkey patching, …); may be empty.
    std::function<Status(const Config&)> starting = {};
    TransformMaker make_tls = {};  ///< empty: plain HTTP
};

/// The options for the listeners of `cfg`, which the arbiter opens or, with reuse_port, each
/// worker. Error: unknown user or group.
Result<ListenerOptions> listener_options(const Config& cfg);

/// How many connections a worker of `cfg` accepts: worker_connections, or fewer if there are not
/// enough descriptors (ulimit -n). A sixteenth of those, and a few more, are not for clients.
[[nodiscard]] size_t connection_places(const Config& cfg);

class Worker {
public:
    explicit Worker(WorkerContext context);
    virtual ~Worker() = default;
    Worker(Worker&&) = delete;

    /// The child's life, from after-fork to worker_exit; returns the exit code (0, 1, 3, 4). The
    /// caller has closed the arbiter's descriptors, told Runtime and Logger about the fork, opened
    /// and reset the signals, and set the process title.
    int run();

    [[nodiscard]] int age() const { return context_.age; }
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] size_t slot() const { return context_.slot; }
    [[nodiscard]] const WorkerContext& context() const { return context_; }
    /// Requests begun so far.
    [[nodiscard]] uint64_t nr() const { return board().requests.load(std::memory_order_relaxed); }
    [[nodiscard]] bool alive() const { return stop_.load() == Stop::None; }  ///< not told to stop
    /// A quick stop has ended the running calls. Ctrl-C arrives twice, from the terminal to the
    /// whole group and from the arbiter; the second must not interrupt worker_exit or an exit
    /// function. Main thread.
    [[nodiscard]] bool has_obeyed() const { return has_obeyed_; }
    [[nodiscard]] bool booted() const { return board().state.load() >= WorkerState::Ready; }
    [[nodiscard]] bool aborted() const { return aborted_; }
    /// max_requests with its jitter; 0 = never.
    [[nodiscard]] uint64_t requests_max() const { return requests_max_; }
    /// Leaves gracefully, as on TERM. Any thread of the worker.
    void leave();

    // Arbiter's bookkeeping.
    void set_pid(pid_t pid) { pid_ = pid; }
    void set_aborted() { aborted_ = true; }

protected:
    /// Why the worker leaves: gracefully (TERM, reload), quickly (INT, QUIT), or at once (ABRT).
    enum class Stop : uint8_t { None, Graceful, Quick, Abort };

    /// How many requests the class can run at once.
    [[nodiscard]] virtual size_t slots() const = 0;
    /// Calls report_ready() once it can serve, then serves until is_finished().
    virtual void serve(EventLoop& loop, ReadyQueue& ready) = 0;
    /// Runs the application; classes that already hold the GIL do it in their own way.
    virtual void call_app(Exchange& exchange) { context_.app.call(exchange); }
    /// The worker was told to stop, on whichever thread leads the loop.
    virtual void on_stop() {}
    /// Overdue calls wait in greenlets, which only their hub can interrupt: it must call
    /// interrupt_overdue(), too. On the watch's thread.
    virtual void wake_hub() {}
    /// How a call that waits for its client lets other greenlets run; empty: it blocks its thread.
    [[nodiscard]] virtual std::function<void()> pause() { return {}; }

    // --- for serve() ---
    void report_ready();
    [[nodiscard]] Stop stop_reason() const { return stop_.load(); }
    /// Runs one request on the calling thread; `index` is its place on the scoreboard.
    void run_exchange(Exchange& exchange, size_t index);
    /// Told to stop, and every request is answered or the time for that is over.
    [[nodiscard]] bool is_finished();
    /// Acts on the result of App::interrupt_overdue(): asks for a successor if calls are stuck,
    /// wakes the hub.
    void handle_overdue(const OverdueCalls& found);
    [[nodiscard]] int64_t request_timeout_ms() const { return context_.cfg.request_timeout * 1000; }
    /// Between two turns on the main thread: heartbeat, reloader, the end of a stop.
    void tend();
    /// The reloader's part of it, for turns after which the rest is not due.
    void look_for_changes();
    /// Obeys the queued signals.
    void handle_signals();
    bool was_signalled();  ///< since the last call, so Python may have handlers to run
    /// How long a turn may sleep, in ms, so that heartbeat and stop are in time.
    [[nodiscard]] int sleep_ms() const;

    WorkerContext context_;
    pid_t pid_ = 0;
    bool aborted_ = false;

private:
    int boot();
    int serve_until_told();
    Status open_own_listeners();
    void arbiter_gone();
    void set_stop(Stop stop, int64_t patience_ms);
    bool want_replacement();
    void start_reloader();
    void watch_calls(const std::stop_token& quit);
    [[nodiscard]] LoopOptions loop_options();
    [[nodiscard]] std::string spool_directory() const;
    [[nodiscard]] WorkerSlot& board() const { return context_.scoreboard.slot(context_.slot); }

    std::vector<std::unique_ptr<Listener>> own_listeners_;
    std::unique_ptr<Reloader> reloader_;
    bool reloader_trouble_is_told_ = false;
    // Made when it begins to serve. Calls that do not end in time use both until the process ends.
    std::unique_ptr<ReadyQueue> ready_;
    std::unique_ptr<EventLoop> loop_;
    std::atomic<Stop> stop_{Stop::None};
    bool has_obeyed_ = false;
    std::atomic<bool> has_signals_{false};  ///< of was_signalled()
    std::atomic<int64_t> stop_by_ms_{0};    ///< when a stop ends, whether all is answered or not
    uint64_t requests_max_ = 0;
    int64_t heartbeat_ms_ = 0;  ///< the longest sleep that does not alarm the arbiter
    int64_t next_look_ms_ = 0;  ///< the reloader's next look at sys.modules
};

/// Calls the application inline on the main thread, one request at a time; while a call lasts
/// longer than a tick, a guard thread leads the loop, so that no socket waits for the application
/// (PEP 3333).
class SyncWorker : public Worker {
public:
    using Worker::Worker;

protected:
    [[nodiscard]] size_t slots() const override { return 1; }
    void serve(EventLoop& loop, ReadyQueue& ready) override;
};

/// The main thread leads the loop; cfg.threads threading.Threads take requests from the queue.
class ThreadWorker : public Worker {
public:
    using Worker::Worker;

protected:
    [[nodiscard]] size_t slots() const override;
    void serve(EventLoop& loop, ReadyQueue& ready) override;
};

}  // namespace gcorn
