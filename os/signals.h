// Signals: handlers that only take a note, and the pipe that turns the notes into a queue.
//
// A handler writes the signal's number into a non-blocking pipe; the arbiter's or worker's loop
// polls fd() and handles what take() returns, one at a time, in the order of arrival. INT, QUIT and
// ABRT also call the worker's interrupter, because they must stop running Python code. A process
// that somebody else forks (the application's multiprocessing, a hook's helper) inherits the
// handlers, but never speaks for its parent: there TERM, INT, QUIT and ABRT end it, and the others
// that are queued here have no effect. The pipe and the flags beside it are process-wide by nature:
// they are the project's one mutable global outside python/. Unless noted, call from the main
// thread. Sources: signal-safety(7), sigaction(2), the self-pipe trick (D. J. Bernstein), gunicorn:
// arbiter.init_signals, workers/base.init_signals.
#pragma once

#include <csignal>
#include <string>
#include <vector>

#include "base/result.h"

namespace gcorn::signals {

/// Opens a fresh pipe and forgets what was queued. Call it at the start, and again in every forked
/// child, under a Hold: until then the child's handlers would write into the parent's queue. From
/// here on USR1 is queued: a log rotation must not end a worker that is still booting.
Status open();

/// Write end of the pipe, for other code that notes signals (Python, for those that the application
/// handles): the number as one byte, lost if the pipe is full; -1 before open().
[[nodiscard]] int note_fd();

/// What the queueing handlers do, for code that replaced one. Async-signal-safe.
void note(int signal);

/// Read end of the pipe, readable while take() has something to return; -1 before open().
[[nodiscard]] int fd();

/// The queued signals, oldest first. SIGCHLD appears once, since one reaping serves all children.
/// If the pipe was full (64 KiB on Linux), the signals that found no room follow at the end, one
/// each. Never blocks.
[[nodiscard]] std::vector<int> take();

/// Blocked signals survive fork and exec: those that our parent blocked would never reach us, not
/// even the one for the death of a worker.
void unblock_all();

/// HUP, INT, QUIT, TERM, USR1, USR2, WINCH, TTIN, TTOU and CHLD are queued; PIPE and XFSZ are
/// ignored, so that a lost reader or a file at its size limit is an errno.
void catch_for_arbiter();

/// TERM and USR1 are queued. INT, QUIT and ABRT are queued, then interrupter(argument, signal) runs
/// inside the handler, so it must be async-signal-safe (null: none); they also interrupt slow
/// system calls. `argument` is borrowed for the life of the process. HUP, USR2 and WINCH have a
/// handler that does nothing, PIPE and XFSZ are ignored: a signal for the whole family harms no
/// worker. CHLD, TTIN and TTOU get their default action: the application may have children.
void catch_for_worker(void (*interrupter)(void* argument, int signal), void* argument);

/// From here on this process outlives its parent, the thread that forked it, by two seconds at
/// most, whatever it is doing then: importing, or inside an extension that holds the GIL. Changing
/// its user undoes this (prctl(2)). Nothing happens where the kernel has no such signal, or refuses
/// it.
void end_soon_after_parent();

/// For a fresh child, before open(): resets every signal named above to its default action, except
/// HUP and USR2, which do nothing from here on (a signal for the whole family harms no booting
/// worker, either), PIPE and XFSZ, which stay as they are, and QUIT, which ends a booting child as
/// TERM does: its default action would leave a core file behind.
void reset_to_defaults();

/// Blocks all signals in the calling thread, for good unless the mask `before` is restored: for the
/// guard, so that they reach the main thread. Any thread.
void block_all_in_this_thread(sigset_t* before = nullptr);

/// Blocks all signals in this thread while it lives; those that arrive are delivered at its end.
/// Put around fork(2), so that no handler runs in the child before it has a queue of its own. Any
/// thread.
class Hold {
public:
    Hold() { block_all_in_this_thread(&before_); }
    ~Hold() { release(); }
    Hold(Hold&&) = delete;
    void release();  ///< ends it early; idempotent

private:
    sigset_t before_;
    bool is_held_ = true;
};

/// For code that the arbiter runs in between and that may never end: from interrupt_with() on,
/// TERM, INT and QUIT also call the interrupter, as in a worker. At the end every signal of
/// catch_for_arbiter() has the handler that it had at the beginning, whatever that code has set.
class ArbiterHandlers {
public:
    ArbiterHandlers();
    ~ArbiterHandlers();
    ArbiterHandlers(ArbiterHandlers&&) = delete;
    void interrupt_with(void (*interrupter)(void* argument, int signal));

private:
    std::vector<struct sigaction> before_;
};

/// "SIGTERM"; "SIG42" for a number without a name. Any thread.
[[nodiscard]] std::string name(int signal);

}  // namespace gcorn::signals
