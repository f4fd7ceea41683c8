// Arbiter: the process tree. Forks workers, keeps the wanted number of them alive, replaces,
// reloads, re-executes and stops them; it does nothing else and serves no client itself.
//
// One thread, one loop: handle the queued signals one at a time, reap, check every worker, spawn
// missing workers and retire surplus ones, then sleep until a signal, a word on the scoreboard or
// the next deadline. Nothing waits inside a handler: a reload or a stop is a state, so children are
// reaped and timeouts watched all the time. The arbiter speaks to workers by signals only; they
// speak by the scoreboard and their exit status.
//
// Replace before retire: a worker is told to leave only after its successor has reported Ready. A
// Generation is one configuration with its listeners; a reload boots the next one beside the
// current one and switches when all its workers are ready, or drops it when one of them cannot
// boot.
//
// Hooks that fail: nworkers_changed (its first call), on_starting, when_ready and, before any
// worker has ever been ready, pre_fork end the start with exit code 1, or with the one that they
// asked for by sys.exit() or HaltServer. Later, a failing pre_fork counts as a worker that could
// not boot (back-off), on_reload refuses the reload, pre_exec the upgrade, on_exit turns exit code
// 0 into 1; failures of nworkers_changed and child_exit are only logged.
//
// Deviations from gunicorn: all of the above; addresses that will not become free (EACCES …) are
// not tried five times; a reload whose new address overlaps an old one (0.0.0.0:80 for
// 127.0.0.1:80) is refused, because it would need a gap.
//
// Made by server.cpp, run on the main thread without the GIL. Source: gunicorn: arbiter.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app.h"
#include "base/result.h"
#include "config.h"
#include "log/access_log.h"
#include "log/log.h"
#include "log/statsd.h"
#include "net/address.h"
#include "net/listener.h"
#include "net/relay.h"
#include "os/pidfile.h"
#include "os/process.h"
#include "os/scoreboard.h"
#include "os/signals.h"
#include "os/systemd.h"
#include "worker.h"

namespace gcorn {

/// What server.cpp hands over. References outlive the arbiter.
struct ArbiterOptions {
    std::vector<std::string> argv;         ///< as given to this process, for USR2
    std::vector<std::string> environment;  ///< "K=V" as at the start, for USR2 and raw_env
    std::string executable;                ///< absolute path of this binary, for USR2
    std::string start_directory;           ///< where the operator started us, for USR2
    /// Resolves all settings again from the same sources (HUP). Error: one sentence; nothing
    /// changed.
    std::function<Result<Config>()> reload_config;
    /// Makes what server.cpp owns follow a configuration: log sinks, statsd, application spec.
    /// Called on reload with the new one, and with the old one again if the reload fails. Error:
    /// nothing changed. Null: nothing to do.
    std::function<Status(const Config&)> use_config;
    /// Makes the worker for cfg.worker_class (core: sync and gthread, python: gevent and eventlet).
    std::function<std::unique_ptr<Worker>(WorkerContext)> make_worker;
    Logger& log;
    Statsd& statsd;
    Runtime& runtime;
    Hooks& hooks;
    App& app;
    Starter& starter;
};

class Arbiter {
public:
    Arbiter(Config config, ArbiterOptions options);
    Arbiter(Arbiter&&) = delete;

    /// The arbiter's life, from "Starting gcorn" to "Shutting down"; once. Returns the exit code: 0
    /// after an orderly stop, 1 if the start failed, 3 (kExitBootFailed) or 4 (kExitAppFailed) if
    /// no worker was ever ready and one could not boot. Workers never return from it: they end
    /// inside.
    int run();

    // For the hooks' views.
    /// The configuration in force; while a reload boots its workers, the new one.
    [[nodiscard]] const Config& cfg() const { return target().cfg; }
    [[nodiscard]] Logger& log() const { return options_.log; }
    [[nodiscard]] pid_t pid() const { return pid_; }
    /// How many workers are wanted.
    [[nodiscard]] int num_workers() const { return num_workers_; }
    /// The age of the youngest worker: how many there have been so far.
    [[nodiscard]] int worker_age() const { return age_; }
    /// All that run, including those that were told to leave. Borrowed for the call.
    [[nodiscard]] std::map<pid_t, Worker*> workers() const;
    /// The shared ones: no TCP listeners with reuse_port, where each worker opens its own.
    [[nodiscard]] const std::vector<Listener*>& listeners() const { return target().listeners; }
    /// "http://127.0.0.1:8000", … as "Listening at" shows them, with reuse_port too.
    [[nodiscard]] const std::vector<std::string>& addresses() const { return target().addresses; }
    /// As in process titles; ends with ".2" while our predecessor lives.
    [[nodiscard]] std::string proc_name() const;
    /// The master that we are to replace, and the one that is to replace us (USR2); 0 = none.
    [[nodiscard]] pid_t predecessor() const { return predecessor_; }
    [[nodiscard]] pid_t successor() const { return successor_; }
    [[nodiscard]] bool has_given_listeners() const { return has_given_listeners_; }
    [[nodiscard]] const ArbiterOptions& options() const { return options_; }
    /// Sets how the successor is started; called in its own process, before the exec.
    void set_start(std::string directory, std::string executable, std::vector<std::string> argv) {
        options_.start_directory = std::move(directory);
        options_.executable = std::move(executable);
        options_.argv = std::move(argv);
    }

private:
    /// One configuration and what was opened for it. Lives until its last worker is gone, because
    /// the Worker objects refer to it.
    struct Generation {
        Config cfg;
        std::optional<AccessLog> access_log;  // set by prepare()
        std::vector<BindSpec> specs;
        std::vector<Listener*> listeners;  // owned by listeners_
        std::vector<std::string> addresses;
        Relay relay;
    };

    /// One living worker process.
    struct Child {
        std::unique_ptr<Worker> worker;
        Generation* generation = nullptr;
        int64_t spawned_ms = 0;
        int64_t ready_ms = 0;                  // 0 = still booting
        int64_t retired_ms = 0;                // told to leave; 0 = not
        int64_t leave_by_ms = 0;               // when it must be gone
        int64_t excused_beat_ms = 0;           // its last heartbeat when we checked too late
        int64_t excused_until_ms = 0;          // until when its silence is excused for that
        int64_t aborted_ms = 0;                // SIGABRT sent; 0 = not
        const char* killed_because = nullptr;  // SIGKILL sent; null = not
        int64_t killed_ms = 0;

        [[nodiscard]] bool was_ready() const { return ready_ms != 0; }
    };
    using Children = std::map<pid_t, Child>;

    // Start and end.
    Status start();
    int fail_start(const Error& error);
    int finish();
    Status prepare(Generation& generation);
    [[nodiscard]] std::string pidfile_path() const;  // "" = none
    void announce_ready();
    void note_notice(const Status& status);
    void note_error(const char* what, const Status& status);

    // Listeners.
    Status open_listeners(Generation& generation, const Generation* before);
    Status open_listener(const BindSpec& spec, Generation& generation, bool is_patient);
    Status adopt_listeners(Generation& generation);
    static bool uses(const Generation& generation, const Listener& listener);
    void close_unused_listeners();

    // The loop.
    int64_t turn();
    void sleep_until(int64_t deadline_ms);
    void handle_signal(int signal);
    void send(const Child& child, int signal);
    void change_num_workers(int count);
    void note_readiness();
    int64_t manage_workers();
    int64_t watch_child(Child& child);
    int64_t watch_host();
    int64_t watch_memory();
    void prune();

    // One worker.
    Status spawn_worker();
    [[noreturn]] void run_child(Child& child, signals::Hold& hold);
    void back_off(const std::string& why);
    void retire(Child& child, int signal);
    void abort_worker(Child& child, const char* sentence);
    void kill_worker(Child& child, const char* because);

    // Deaths.
    void reap();
    void bury(Child child, int status);
    void report_death(const Child& child, int status);
    void report_activities(const Child& child);
    void successor_ended(int status);

    // Reload, stop, upgrade.
    void reload();
    Status begin_reload();
    void commit_reload();
    void change_permissions(const Generation& before);
    void abandon_reload(const std::string& why);
    Status write_pidfile();
    void apply_environment(const Config& cfg);
    void undo_environment();
    void stop(int signal, int code, std::string reason);
    void hurry();
    void upgrade();
    [[noreturn]] void run_successor(signals::Hold& hold);
    Status pass_listeners(Environment& environment);
    void promote();

    [[nodiscard]] const Generation& target() const { return pending_ ? *pending_ : *current_; }
    [[nodiscard]] Generation& target() { return pending_ ? *pending_ : *current_; }
    [[nodiscard]] WorkerSlot& slot(const Child& child) const;
    [[nodiscard]] bool is_active(const Child& child) const;
    [[nodiscard]] bool is_stopping() const { return stopping_since_ms_ != 0; }
    [[nodiscard]] bool has_relative() const { return predecessor_ != 0 || successor_ != 0; }
    [[nodiscard]] const char* name() const { return predecessor_ != 0 ? "Master.2" : "Master"; }

    ArbiterOptions options_;
    pid_t pid_ = 0;
    int64_t stopping_since_ms_ = 0;  // 0 = not stopping

    std::vector<std::unique_ptr<Generation>> generations_;  // oldest first
    Generation* current_ = nullptr;
    Generation* pending_ = nullptr;  // of a reload whose workers are booting
    std::vector<std::unique_ptr<Listener>> listeners_;
    bool has_given_listeners_ = false;  // from a supervisor: cfg.bind does not matter
    std::map<std::string, std::optional<std::string>> environment_before_;  // before raw_env

    std::optional<Scoreboard> scoreboard_;
    std::optional<Pidfile> pidfile_;
    std::optional<systemd::Notifier> notifier_;
    OutOfMemoryKills oom_kills_;
    Pipe life_;

    Children children_;
    int num_workers_ = 0;
    int num_workers_before_ = 0;  // before the reload
    int age_ = 0;
    size_t workers_told_ = 0;  // to statsd
    bool has_been_ready_ = false;

    int64_t backoff_ms_ = 0;     // of the next failure
    int64_t next_spawn_ms_ = 0;  // no fork before this
    int64_t next_watchdog_ms_ = 0;
    int64_t next_backlog_ms_ = 0;
    int64_t next_memory_ms_ = 0;

    int exit_code_ = 0;
    std::string reason_;

    pid_t predecessor_ = 0;  // the master that we are to replace (USR2), while it lives
    pid_t successor_ = 0;    // the one that is to replace us
};

}  // namespace gcorn
