#include "python/call_watch.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <vector>

#include "base/clock.h"
#include "python/interpreter.h"

namespace gcorn {
namespace {

/// A signal may arrive just before the system call that it should end, so it is sent again.
constexpr int64_t kRetryMs = 250;

/// No program is known to use it (see dump_signal() in python/interpreter.cpp).
int wake_signal() {
#ifdef SIGRTMIN
    return SIGRTMIN + 6;
#else
    return 0;
#endif
}

/// The stack of the thread, or of the waiting greenlet. Empty if it cannot be had.
std::string stack_of(unsigned long thread_id, PyObject* greenlet_or_null) {
    PyRef frame;
    if (greenlet_or_null != nullptr) frame = attribute(greenlet_or_null, "gr_frame");
    if (!frame || frame.get() == Py_None) {
        PyErr_Clear();
        const PyRef frames = call_object(import("sys", "_current_frames"));
        const PyRef key = PyRef::steal(PyLong_FromUnsignedLong(thread_id));
        if (frames && key) frame = PyRef::borrow(PyDict_GetItemWithError(frames.get(), key.get()));
    }
    const PyRef format = frame ? import("traceback", "format_stack") : PyRef();
    return joined_lines(call_object(format, frame));
}

bool is_waiting(PyObject* greenlet) {
    const PyRef frame = attribute(greenlet, "gr_frame");
    PyErr_Clear();
    return frame && frame.get() != Py_None;
}

}  // namespace

bool CallWatch::prepare() {
    exception_type_.reset(PyErr_NewExceptionWithDoc(
        "gcorn.RequestTimeout", "The request ran longer than the setting request_timeout allows.",
        PyExc_SystemExit, nullptr));
    return static_cast<bool>(exception_type_);
}

// ---------------------------------------------------------------------------------- application

CallWatch::Token CallWatch::begin(const Exchange& exchange, CallPlace place) {
    Running call{};
    call.exchange = &exchange;
    call.began_ms = monotonic_ms();
    call.thread_id = PyThread_get_thread_ident();
    call.native_thread = ::pthread_self();
    call.is_main_thread = place != CallPlace::Thread;
    if (place == CallPlace::Greenlet) {
        if (!current_greenlet_) current_greenlet_ = import("greenlet", "getcurrent");
        if (current_greenlet_) call.greenlet.reset(PyObject_CallNoArgs(current_greenlet_.get()));
    }
    if (call.is_main_thread && !catches_signal_) catches_signal_ = catch_wake_signal();
    PyErr_Clear();  // without a greenlet or a signal the call is only harder to reach
    Token token;
    GCORN_BEGIN_CRITICAL_SECTION(exception_type_.get());
    call.serial = next_serial_++;
    token = calls_.insert(calls_.end(), std::move(call));
    GCORN_END_CRITICAL_SECTION();
    return token;
}

void CallWatch::end(Token call) {
    PyRef greenlet;  // dropped last, outside the critical section
    GCORN_BEGIN_CRITICAL_SECTION(exception_type_.get());
    if (call->has_raised && !call->is_main_thread)
        PyThreadState_SetAsyncExc(call->thread_id, nullptr);
    greenlet = std::move(call->greenlet);
    calls_.erase(call);
    GCORN_END_CRITICAL_SECTION();
}

bool CallWatch::is_interruption(Token call) const {
    return call->has_raised && PyErr_ExceptionMatches(exception_type_.get()) != 0;
}

// --------------------------------------------------------------------------------- interruption

OverdueCalls CallWatch::interrupt(int64_t limit_ms) {
    OverdueCalls found;
    found.next_look_ms = limit_ms;
    const int64_t now_ms = monotonic_ms();
    const auto look_again_in = [&found](int64_t ms) {
        found.next_look_ms = std::clamp<int64_t>(ms, 1, found.next_look_ms);
    };
    // Interrupting runs Python code, during which other calls may end: so one at a time, by serial.
    std::vector<uint64_t> due;
    std::vector<std::string> stuck;
    GCORN_BEGIN_CRITICAL_SECTION(exception_type_.get());
    for (Running& call : calls_) {
        const int64_t left_ms = call.began_ms + limit_ms - now_ms;
        if (left_ms > 0) {
            look_again_in(left_ms);
            break;
        }
        if (!call.has_raised) {
            due.push_back(call.serial);
            look_again_in(kRetryMs);
        }
        if (call.interrupted_ms == 0 || call.is_stuck) continue;
        if (now_ms - call.interrupted_ms < kStuckCallMs) {
            look_again_in(call.interrupted_ms + kStuckCallMs - now_ms);
        } else {
            call.is_stuck = true;
            stuck.push_back(request_label(*call.exchange));
        }
    }
    GCORN_END_CRITICAL_SECTION();
    for (const uint64_t serial : due)
        if (!interrupt_one(serial, now_ms)) found.needs_hub = true;
    found.stuck = stuck.size();
    WithoutGil nogil;
    for (const std::string& name : stuck)
        log_.error("Request does not end, although request_timeout interrupted it: %s",
                   name.c_str());
    return found;
}

CallWatch::Token CallWatch::find(uint64_t serial) {
    return std::find_if(calls_.begin(), calls_.end(),
                        [serial](const Running& call) { return call.serial == serial; });
}

/// Logs the call's stack if this is the first attempt, then tries to raise in it. False: only the
/// hub can reach it.
bool CallWatch::interrupt_one(uint64_t serial, int64_t now_ms) {
    Token call = find(serial);
    if (call == calls_.end()) return true;
    std::string report;
    if (call->interrupted_ms == 0) {
        call->interrupted_ms = now_ms;
        char age[32];
        std::snprintf(age, sizeof age, "%.1f",
                      static_cast<double>(now_ms - call->began_ms) / 1000.0);
        report =
            "Request timeout: " + request_label(*call->exchange) + " has run for " + age + " s";
        const PyRef greenlet = PyRef::borrow(call->greenlet.get());
        const std::string stack = stack_of(call->thread_id, greenlet.get());
        if (!stack.empty()) report += "; it is here:\n" + stack;
        call = find(serial);
    }
    const bool is_reached = call == calls_.end() || reach(*call);
    if (!report.empty()) {
        WithoutGil nogil;
        log_.write(Level::Error, report);
    }
    return is_reached;
}

bool CallWatch::reach(Running& call) {
    if (call.greenlet && is_waiting(call.greenlet.get())) {
        if (PyThread_get_thread_ident() != call.thread_id) return false;
        call.has_raised = true;
        const PyRef greenlet = PyRef::borrow(call.greenlet.get());
        // Runs the greenlet until it ends or waits again. `call` may be gone afterwards.
        const PyRef thrown =
            PyRef::steal(PyObject_CallMethod(greenlet.get(), "throw", "O", exception_type_.get()));
        if (!thrown) log_python_error(log_, Level::Error, "Interrupting a greenlet failed");
        return true;
    }
    if (call.is_main_thread && catches_signal_) {
        // Fails only for a thread that is gone, which the main thread of a running worker is not.
        (void)::pthread_kill(call.native_thread, wake_signal());
        return true;
    }
    call.has_raised = PyThreadState_SetAsyncExc(call.thread_id, exception_type_.get()) == 1;
    return true;
}

/// On the main thread, in a worker. Raises.
bool CallWatch::catch_wake_signal() {
    static PyMethodDef method = {"gcorn_request_timeout", on_wake_signal, METH_VARARGS, nullptr};
    if (wake_signal() == 0) return false;
    return static_cast<bool>(call_object(import("_signal", "signal"), number(wake_signal()),
                                         native_function(method, this)));
}

/// Raises in the call that this signal was for, if it is the one that runs.
PyObject* CallWatch::on_wake_signal(PyObject* capsule, PyObject*) {
    auto& self = native_self<CallWatch>(capsule);
    const PyRef current = call_object(self.current_greenlet_);
    PyErr_Clear();
    for (Running& call : self.calls_) {
        if (call.interrupted_ms == 0 || call.has_raised || !call.is_main_thread) continue;
        if (call.greenlet && call.greenlet.get() != current.get()) continue;
        call.has_raised = true;
        PyErr_SetNone(self.exception_type_.get());
        return nullptr;
    }
    Py_RETURN_NONE;
}

}  // namespace gcorn
