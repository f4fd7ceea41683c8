#include "python/greenlet.h"

#include <algorithm>
#include <array>
#include <thread>

#include "net/event_loop.h"
#include "net/exchange.h"
#include "os/signals.h"
#include "python/embedded.h"
#include "python/forked_copy.h"
#include "python/interpreter.h"

namespace gcorn {

namespace {

/// How long the hub sleeps between two looks of a worker that was told to stop.
constexpr double kStoppingWaitS = 0.02;
/// A greenlet that waits for a client looks again after this.
constexpr double kPauseS = 0.02;

/// The Python text of a worker class of this room; null for the others.
const char* hub_of(const Config& cfg) {
    if (cfg.worker_class.starts_with("gevent")) return "gevent_hub";
    return cfg.worker_class == "eventlet" ? "eventlet_hub" : nullptr;
}

/// Keeps the memory of greenlets' Python frames for new greenlets.
///
/// CPython gives every stack of frames its own block straight from the kernel (16 KiB, since 3.11),
/// so a greenlet that answers one request costs mmap, page faults and munmap: more than all the
/// rest of a short request. Wraps the allocator in front of them. What other threads ask for passes
/// through, because their interpreter may have a GIL of its own (concurrent.interpreters), and so
/// do sizes other than the frames'.
class FrameMemory {
public:
    static void keep() {
        // Until the process ends: the interpreter uses it to its very end.
        static FrameMemory memory;
        memory.owner_ = ::pthread_self();
        PyObjectArenaAllocator current{};
        PyObject_GetArenaAllocator(&current);
        if (current.ctx == &memory) return;
        memory.below_ = current;
        PyObjectArenaAllocator own{&memory, allocate, free};
        PyObject_SetArenaAllocator(&own);
    }

private:
    static constexpr size_t kBlockBytes = 16 * 1024;
    static constexpr size_t kBlocksMax = 128;

    static void* allocate(void* context, size_t bytes) {
        auto& self = *static_cast<FrameMemory*>(context);
        if (self.is_for(bytes) && self.count_ > 0) return self.blocks_[--self.count_];
        return self.below_.alloc(self.below_.ctx, bytes);
    }
    static void free(void* context, void* block, size_t bytes) {
        auto& self = *static_cast<FrameMemory*>(context);
        if (self.is_for(bytes) && self.count_ < kBlocksMax)
            self.blocks_[self.count_++] = block;
        else
            self.below_.free(self.below_.ctx, block, bytes);
    }

    [[nodiscard]] bool is_for(size_t bytes) const {
        return bytes == kBlockBytes && ::pthread_equal(owner_, ::pthread_self()) != 0;
    }

    pthread_t owner_{};  ///< the hub's thread
    PyObjectArenaAllocator below_{};
    std::array<void*, kBlocksMax> blocks_{};
    size_t count_ = 0;
};

std::atomic<unsigned long> hub_thread{0};  ///< as Python numbers threads; 0 without a hub

}  // namespace

bool is_greenlet_class(const Config& cfg) {
    return hub_of(cfg) != nullptr;
}

Status load_greenlet_library(const Config& cfg) {
    const char* const hub = hub_of(cfg);
    if (hub == nullptr) return {};
    const std::string name = "worker class " + cfg.worker_class;
    const WithGil gil;
    const PyRef refusal =
        call_object(name_in(run_embedded("hub"), "refusal"), utf8_str(cfg.worker_class));
    std::string_view sentence;
    if (refusal && refusal.get() != Py_None && utf8_view(refusal.get(), sentence))
        return Error{kExitConfigError, name + " " + std::string(sentence)};
    if (!refusal || !run_embedded(hub)) return python_error(name, kExitBootFailed);
    return {};
}

Status patch_for_greenlets(const Config& cfg, bool is_worker) {
    const char* const hub = hub_of(cfg);
    if (hub == nullptr) return {};
    const WithGil gil;
    if (!call_object(name_in(run_embedded(hub), "patch"), boolean(is_worker)))
        return python_error("monkey patching for " + cfg.worker_class, kExitBootFailed);
    return {};
}

bool is_beside_hub() {
    const unsigned long hub = hub_thread.load(std::memory_order_relaxed);
    return hub != 0 && hub != PyThread_get_thread_ident();
}

size_t GreenletWorker::slots() const {
    return static_cast<size_t>(std::max<int64_t>(context_.cfg.worker_connections, 1));
}

void GreenletWorker::serve(EventLoop& loop, ReadyQueue& ready) {
    std::thread guard([this, &loop] {
        signals::block_all_in_this_thread();
        const std::unique_lock lead(loop.lead());
        while (!is_over_.load())
            loop.turn(-1);
    });
    ready_ = &ready;
    PyRef failure;
    {
        const WithGil gil;
        FrameMemory::keep();
        const PyRef names = run_embedded(hub_of(context_.cfg), run_embedded("hub"));
        const PyRef function = name_in(names, "serve");
        sleep_ = name_in(names, "sleep");
        const PyRef arguments = function ? serve_arguments(names) : PyRef();
        hub_thread = PyThread_get_thread_ident();
        if (arguments) report_ready();
        const PyRef done = ending_copies([&] { return call_with_names(function, arguments); });
        if (!done || (loop.active() > 0 && !end_calls(names))) failure = take_exception();
        hub_thread = 0;
        for (PyRef* reference : {&sleep_, &start_, &look_around_, &run_})
            reference->reset();
    }
    ready_ = nullptr;
    is_over_.store(true);
    loop.wake();
    guard.join();
    if (!failure) return;
    handle_signals();  // an interrupt may have been faster than the leader
    const WithGil gil;
    restore_exception(std::move(failure));
    // SystemExit may be our own interrupt (INT, QUIT, ABRT). Else it comes from a greenlet that the
    // application started: gevent passes it on to its hub's parent.
    if (!alive() && PyErr_ExceptionMatches(PyExc_SystemExit) != 0)
        PyErr_Clear();
    else
        log_python_error(context_.log, Level::Error, "The hub failed");
}

/// Lets the calls that still run at the end clean up. Raises.
bool GreenletWorker::end_calls(const PyRef& names) {
    app_.expect_end();
    return static_cast<bool>(call_object(name_in(names, "end_calls")));
}

void GreenletWorker::wake_hub() {
    poked_.store(true);
    if (ReadyQueue* queue = ready_.load()) queue->poke();
}

/// Makes the calling greenlet sleep a moment, so that the hub can go on. Called without the GIL.
std::function<void()> GreenletWorker::pause() {
    return [this] {
        const WithGil gil;
        if (!call_object(sleep_, PyRef::steal(PyFloat_FromDouble(kPauseS))))
            PyErr_Clear();  // whoever kills a waiting greenlet does not end the wait for its client
    };
}

/// The keyword arguments of serve(). Raises.
PyRef GreenletWorker::serve_arguments(const PyRef& names) {
    static PyMethodDef ready = {"on_ready", on_ready, METH_VARARGS, nullptr};
    static PyMethodDef body = {"run", run, METH_NOARGS, nullptr};
    static PyMethodDef tend = {"tend", tend_hub, METH_NOARGS, nullptr};
    const int fd = ready_.load()->fd();
    if (fd < 0) return PyErr_SetFromErrno(PyExc_OSError), PyRef();
    start_ = name_in(names, "start");
    run_ = native_function(body, this);
    PyRef look = call_object(name_in(names, "Semaphore"), number(0));
    if (look) look_around_ = attribute(look.get(), "release");
    if (!start_ || !run_ || !look_around_) return {};
    return Facts()
        .add("fd", number(fd))
        .add("on_ready", native_function(ready, this))
        .add("look", std::move(look))
        .add("tend", native_function(tend, this))
        .take();
}

/// What the hub calls when requests wait. Both libraries stop watching a descriptor whose callback
/// raises: the worker would never serve again. So only what ends the worker leaves here.
PyObject* GreenletWorker::on_ready(PyObject* self, PyObject*) {
    auto& worker = native_self<GreenletWorker>(self);
    if (!worker.start_batch()) {
        if (PyErr_ExceptionMatches(PyExc_Exception) == 0) return nullptr;
        log_python_error(worker.context_.log, Level::Error, "Starting a greenlet failed");
    }
    Py_RETURN_NONE;
}

/// Starts the requests that wait now. Those that come meanwhile are for the next batch, or the
/// hub's timers and sockets might never get their turn. Runs in the hub, from which exceptions may
/// be thrown into greenlets. Raises.
bool GreenletWorker::start_batch() {
    ReadyQueue* queue = ready_.load();
    if (queue == nullptr) return true;  // an interrupt ended serve() before its watching
    left_ = queue->look();
    while (left_ > 0)
        if (!call_object(start_, run_)) return false;
    if (!poked_.load(std::memory_order_relaxed) || !poked_.exchange(false)) return true;
    const int64_t limit_ms = request_timeout_ms();
    if (limit_ms > 0) handle_overdue(app_.interrupt_overdue(limit_ms));
    return static_cast<bool>(call_object(look_around_));
}

/// The body of a greenlet. It runs the rest of the batch, one request after the other: a greenlet
/// for each would cost as much as a short request, and more where the application keeps objects per
/// thread, as Django does. As soon as a request waits for something, the hub goes on and starts
/// another greenlet with the rest, so that this one comes back to an empty batch.
PyObject* GreenletWorker::run(PyObject* self, PyObject*) {
    auto& worker = native_self<GreenletWorker>(self);
    while (worker.left_ > 0) {
        --worker.left_;
        const std::shared_ptr<Exchange> exchange = worker.ready_.load()->try_pop();
        if (exchange) worker.run_exchange(*exchange, worker.next_index_++);
    }
    Py_RETURN_NONE;
}

PyObject* GreenletWorker::tend_hub(PyObject* self, PyObject*) {
    auto& worker = native_self<GreenletWorker>(self);
    worker.tend();
    if (worker.is_finished()) return PyFloat_FromDouble(-1);
    // A second at most, because the hub proves by it that it is alive.
    return PyFloat_FromDouble(worker.alive()
                                  ? std::min(1.0, static_cast<double>(worker.sleep_ms()) / 1000)
                                  : kStoppingWaitS);
}

}  // namespace gcorn
