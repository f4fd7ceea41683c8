// CallWatch: which calls of the application run, since when and where; interrupts those that run
// too long (request_timeout).
//
// How a call is reached depends on where it runs, and nothing reaches into a C function that never
// returns to Python; a call that cannot be interrupted is reported as stuck.
//
//   thread of gthread          PyThreadState_SetAsyncExc: between two of its bytecodes
//   main thread (sync), or     a real-time signal whose Python handler raises: ends a sleep and a
//   a greenlet that runs        blocking system call, too (PEP 475)
//   a greenlet that waits      greenlet.throw(), from the hub
//
// The exception is gcorn.RequestTimeout, a SystemExit, so that "except Exception" lets it pass.
// All members need the GIL, which guards everything here; on a free-threaded build a critical
// section on the exception type does.
#pragma once

#include "python/pyref.h"

#include <pthread.h>

#include <cstdint>
#include <list>

#include "app.h"
#include "log/log.h"
#include "net/exchange.h"

namespace gcorn {

/// What runs the application's calls (the worker class).
enum class CallPlace : uint8_t { MainThread, Thread, Greenlet };

/// A call that still runs this long after its interruption is stuck.
constexpr int64_t kStuckCallMs = 5000;

class CallWatch {
public:
    /// One running call. Never on a stack: greenlets move their stacks away.
    struct Running;
    using Token = std::list<Running>::iterator;

    explicit CallWatch(Logger& log) : log_(log) {}
    CallWatch(CallWatch&&) = delete;

    /// Makes the exception type. Once, before any call. Raises.
    [[nodiscard]] bool prepare();

    /// A call begins on this thread, in this greenlet.
    [[nodiscard]] Token begin(const Exchange& exchange, CallPlace place);
    /// The call ended. An interruption that has not arrived by then never will.
    void end(Token call);
    /// Is the exception that is set our interruption of this call?
    [[nodiscard]] bool is_interruption(Token call) const;

    /// See App::interrupt_overdue().
    OverdueCalls interrupt(int64_t limit_ms);

private:
    Token find(uint64_t serial);
    bool interrupt_one(uint64_t serial, int64_t now_ms);
    [[nodiscard]] bool reach(Running& call);
    [[nodiscard]] bool catch_wake_signal();
    static PyObject* on_wake_signal(PyObject* capsule, PyObject* arguments);

    Logger& log_;
    PyRef exception_type_;
    PyRef current_greenlet_;    ///< greenlet.getcurrent; set by the first call in one
    std::list<Running> calls_;  ///< oldest first
    uint64_t next_serial_ = 1;
    bool catches_signal_ = false;
};

struct CallWatch::Running {
    const Exchange* exchange;  ///< valid until end()
    uint64_t serial;
    int64_t began_ms;         ///< monotonic
    unsigned long thread_id;  ///< Python's
    pthread_t native_thread;
    bool is_main_thread;
    PyRef greenlet;              ///< null: none
    int64_t interrupted_ms = 0;  ///< first attempt; 0 = none
    bool has_raised = false;     ///< the interruption was delivered, or is sure to be
    bool is_stuck = false;       ///< reported
};

}  // namespace gcorn
