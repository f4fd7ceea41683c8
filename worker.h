// Worker: the life of one worker process, and the two ways the core knows to schedule calls: inline
// on the main thread with a guard (sync), or on N threads (gthread). python/greenlet adds its own.
//
// The object is made by the arbiter just before fork, so it must stay light: no descriptor, no thread.
// In the child the arbiter calls run() and exits with what it returns.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "app.h"
#include "base/result.h"
#include "config.h"
#include "log/access_log.h"
#include "log/log.h"
#include "log/statsd.h"
#include "net/listener.h"
#include "os/scoreboard.h"

namespace gcorn {

class Arbiter;
class EventLoop;
class ReadyQueue;

/// Everything a worker borrows. All of it outlives the worker: it belongs to the arbiter's process
/// image, which the child inherits.
struct WorkerContext {
    Arbiter& arbiter;                 ///< for the hooks only
    const Config& cfg;
    Logger& log;
    const AccessLog& access_log;
    Statsd& statsd;
    Runtime& runtime;
    Hooks& hooks;
    App& app;
    Scoreboard& scoreboard;
    size_t slot = 0;                  ///< this worker's scoreboard slot
    std::vector<Listener*> listeners; ///< inherited; with reuse_port the worker opens its own
    int life_fd = -1;                 ///< read end of a pipe whose write end only the arbiter holds:
                                      ///< readable (EOF) when the arbiter is gone
    int age = 0;                      ///< counts all workers ever made
    bool app_is_loaded = false;       ///< preload_app
};

class Worker {
public:
    explicit Worker(WorkerContext context);
    virtual ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// The child's life, from after-fork to worker_exit; returns the exit code (0, 1, 3, 4). The
    /// caller has closed the arbiter's descriptors, told Runtime and Logger about the fork, reset
    /// the signals, and set the process title.
    int run();

    [[nodiscard]] int age() const { return context_.age; }
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] pid_t ppid() const { return ppid_; }
    [[nodiscard]] size_t slot() const { return context_.slot; }
    [[nodiscard]] const WorkerContext& context() const { return context_; }
    [[nodiscard]] uint64_t nr() const;         ///< requests taken so far
    [[nodiscard]] bool alive() const;          ///< not told to stop
    [[nodiscard]] bool booted() const;
    [[nodiscard]] bool aborted() const { return aborted_; }

    // Arbiter's bookkeeping.
    void set_pid(pid_t pid) { pid_ = pid; }
    void set_ppid(pid_t ppid) { ppid_ = ppid; }
    void set_aborted() { aborted_ = true; }

protected:
    /// Serves until told to stop; returns when every request is answered or graceful_timeout is over.
    virtual void serve(EventLoop& loop, ReadyQueue& ready) = 0;

    WorkerContext context_;
    pid_t pid_ = 0;
    pid_t ppid_ = 0;
    bool aborted_ = false;
};

/// Makes the worker for cfg.worker_class; server.cpp fills it in (core: sync and gthread, python:
/// gevent and eventlet).
using WorkerFactory = std::function<std::unique_ptr<Worker>(WorkerContext)>;

}  // namespace gcorn
