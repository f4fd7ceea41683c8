// Arbiter: the process tree. Forks workers, keeps as many as asked alive, replaces, reloads,
// re-executes and stops them; it does nothing else and serves nothing itself.
//
// One thread, one loop: sleep until a signal, a word on the scoreboard or the next deadline; handle
// the queued signals one at a time; look at every worker; spawn or retire what is missing or too
// many. Nothing here waits inside a handler: a reload or a stop is a state, so children are reaped and
// timeouts watched all the time. Workers are told things by signals only and tell theirs by the
// scoreboard and their exit status.
//
// Replace before retire: whoever serves is told to leave only after its successor reported Ready. A
// `Generation` is one configuration with its listeners; a reload boots the next one beside the
// current one and changes over when all its workers are ready, or drops it when one of them fails.
//
// Hooks that fail: nworkers_changed (first call), on_starting, when_ready and, before any worker was
// ever ready, pre_fork end the start with exit code 1. Later a failing pre_fork counts as a worker
// that could not boot (back-off), on_reload refuses the reload, pre_exec the upgrade, on_exit turns
// exit code 0 into 1; nworkers_changed and child_exit are logged and survived.
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
#include "os/pidfile.h"
#include "os/process.h"
#include "os/scoreboard.h"
#include "os/systemd.h"
#include "worker.h"

namespace gcorn {

/// What server.cpp hands over. References outlive the arbiter.
struct ArbiterOptions {
    std::string version;                   ///< "0.1.0", for the log and SERVER_SOFTWARE
    std::vector<std::string> argv;         ///< as given to this process, for USR2
    std::vector<std::string> environment;  ///< "K=V" as it was at the start, for USR2
    std::string executable;                ///< absolute path of this binary, for USR2
    std::string start_directory;           ///< where the operator started us, for USR2
    /// Resolves all settings again from the same sources (HUP). Error: one sentence; nothing changed.
    std::function<Result<Config>()> reload_config;
    /// Makes what server.cpp owns follow a configuration: log sinks, statsd, application spec. Called
    /// on reload with the new one, and with the old one again if the reload fails. Error: nothing
    /// changed. Null: nothing to do.
    std::function<Status(const Config&)> use_config;
    WorkerFactory make_worker;
    Logger& log;
    Statsd& statsd;
    Runtime& runtime;
    Hooks& hooks;
    App& app;
};

class Arbiter {
public:
    Arbiter(Config config, ArbiterOptions options);
    Arbiter(const Arbiter&) = delete;
    Arbiter& operator=(const Arbiter&) = delete;
    ~Arbiter();

    /// The arbiter's life, from "Starting gcorn" to "Shutting down"; once. Returns the exit code: 0
    /// after an orderly stop, 1 if the start failed, 3 (kExitBootFailed) or 4 (kExitAppFailed) if no
    /// worker was ever ready and one could not boot. Workers never return from it: they end inside.
    int run();

    // For the hooks' views.
    /// The configuration in force; during a reload, the new one.
    [[nodiscard]] const Config& cfg() const;
    [[nodiscard]] Logger& log() const { return options_.log; }
    [[nodiscard]] pid_t pid() const { return pid_; }
    /// How many workers are wanted.
    [[nodiscard]] int num_workers() const { return num_workers_; }
    /// Those that run, told to stop or not; valid for the call.
    [[nodiscard]] std::map<pid_t, Worker*> workers() const;
    /// Shared ones; empty with reuse_port, where each worker opens its own TCP sockets.
    [[nodiscard]] std::vector<Listener*> listeners() const;
    /// "http://127.0.0.1:8000", … as "Listening at" shows them, with reuse_port too.
    [[nodiscard]] std::vector<std::string> addresses() const;
    /// In process titles; with ".2" while our predecessor lives.
    [[nodiscard]] std::string proc_name() const;

private:
    enum class State : uint8_t { Running, Reloading, Stopping };

    /// One configuration and what was opened for it. Kept until its last worker is gone, because the
    /// workers' objects refer to it.
    struct Generation {
        Config cfg;
        AccessLog access_log;
        std::vector<BindSpec> specs;  ///< cfg.bind, parsed
        std::vector<std::shared_ptr<Listener>> listeners;
        std::vector<std::string> addresses;
    };
    /// One living worker.
    struct Child {
        std::unique_ptr<Worker> worker;
        Generation* generation = nullptr;
        bool was_ready = false;
        bool is_retiring = false;      ///< was told to leave
        bool was_killed = false;       ///< by us, with SIGKILL
        int64_t spawned_ms = 0;
        int64_t aborted_ms = 0;        ///< SIGABRT sent; 0 = no
        int64_t kill_at_ms = INT64_MAX;
    };

    ArbiterOptions options_;
    pid_t pid_ = 0;
    int num_workers_ = 0;
    State state_ = State::Running;
};

}  // namespace gcorn
