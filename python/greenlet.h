// Worker classes gevent and eventlet: a greenlet for each request that waits for something, the
// loop led by a native thread.
//
// The hub of the greenlet library owns the main thread. It watches ReadyQueue::fd() and, in that
// watcher's callback, switches to a new greenlet that runs the complete requests; as soon as one of
// them waits, another greenlet runs the rest. The main greenlet only beats once a second. A guard
// thread leads the EventLoop all the time, so neither a blocked hub nor a slow client stops the
// other. There is no pool: a worker never takes more requests than it has slots. What the two
// libraries do differently is in two short Python texts. greenlet moves slices of the C stack away
// while it switches: nothing here stores the address of a stack object where another thread or
// greenlet could find it.
#pragma once

#include "python/pyref.h"

#include <atomic>

#include "base/result.h"
#include "config.h"
#include "worker.h"
#include "wsgi.h"

namespace gcorn {

/// True for the worker classes of this room.
[[nodiscard]] bool is_greenlet_class(const Config& cfg);

/// Arbiter, before anything is opened: loads the library, whose memory all workers then share, and
/// refuses one that is too old. Error: one line that says what to install. Takes the GIL.
[[nodiscard]] Status load_greenlet_library(const Config& cfg);

/// Monkey-patches the standard library: in a worker before its application loads, in the arbiter
/// before it preloads one. Idempotent in the arbiter. Takes the GIL.
[[nodiscard]] Status patch_for_greenlets(const Config& cfg, bool is_worker);

/// True if a hub runs, but on another thread than this one (the guard's, say). Locks and sleep() of
/// the standard library are patched: here they would wait in a hub of their own, perhaps for ever.
/// Any thread.
[[nodiscard]] bool is_beside_hub();

class GreenletWorker final : public Worker {
public:
    /// `app` is the context's own, by its full type: greenlets call it with the GIL held.
    GreenletWorker(WorkerContext context, WsgiApp& app) : Worker(std::move(context)), app_(app) {}

protected:
    [[nodiscard]] size_t slots() const override;
    void serve(EventLoop& loop, ReadyQueue& ready) override;
    void call_app(Exchange& exchange) override { app_.call_with_gil(exchange); }
    void on_stop() override { wake_hub(); }
    void wake_hub() override;
    [[nodiscard]] std::function<void()> pause() override;

private:
    // What the Python texts call; self is a capsule with the worker.
    static PyObject* on_ready(PyObject* self, PyObject* unused);
    static PyObject* run(PyObject* self, PyObject* unused);
    static PyObject* tend_hub(PyObject* self, PyObject* unused);
    [[nodiscard]] bool start_batch();
    PyRef serve_arguments(const PyRef& names);
    [[nodiscard]] bool end_calls(const PyRef& names);

    WsgiApp& app_;
    std::atomic<ReadyQueue*> ready_{nullptr};  ///< while serving
    // The library's, while serving: sleep(), start(), and the release() that wakes tend_hub().
    PyRef sleep_, start_, look_around_;
    PyRef run_;                       ///< run(), as a Python function, while serving
    size_t left_ = 0;                 ///< requests of the batch that are not begun yet
    size_t next_index_ = 0;           ///< places on the scoreboard, in turn
    std::atomic<bool> poked_{false};  ///< the hub should look around
    /// The hub has ended. Not a local variable of serve(): while a greenlet runs that was made
    /// further up the stack (a config file that sleeps makes the hub), its stack overlies that of
    /// serve().
    std::atomic<bool> is_over_{false};
};

}  // namespace gcorn
