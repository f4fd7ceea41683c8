#include "python/call_watch.h"

#include <gtest/gtest.h>

#include <csignal>
#include <string>
#include <thread>

#include "tests/support/wsgi_harness.h"

namespace gcorn {
namespace {

/// Python ends before the main thread does: after that, greenlet's pending calls would crash.
class PythonsEnd : public ::testing::Environment {
    void TearDown() override { interpreter().finalize(); }
};
[[maybe_unused]] const auto* const kPythonsEnd =
    ::testing::AddGlobalTestEnvironment(new PythonsEnd);

/// Calls of one request, on this thread, which is Python's main thread, unless a test says
/// otherwise. All are overdue as soon as they are looked at.
class CallWatchTest : public ::testing::Test {
protected:
    CallWatchTest() {
        interpreter();
        const WithGil gil;
        watch_ = std::make_unique<CallWatch>(log_.log);
        EXPECT_TRUE(watch_->prepare());
        static PyMethodDef method = {"begin", begin_call, METH_NOARGS, nullptr};
        PyDict_SetItemString(names(), "begin", native_function(method, this).get());
        watch_->end(begin(CallPlace::MainThread));  // which catches the signal
    }
    ~CallWatchTest() override {
        const WithGil gil;
        watch_.reset();
    }
    CallWatch::Token begin(CallPlace place) {
        const CallWatch::Token call = watch_->begin(*request_.exchange, place);
        EXPECT_EQ(PyErr_Occurred(), nullptr);
        EXPECT_TRUE(eventually([&] { return monotonic_ms() > call->began_ms; }));
        return call;
    }
    /// For Python: begins call_ in place_.
    static PyObject* begin_call(PyObject* self, PyObject*) {
        auto& test = native_self<CallWatchTest>(self);
        test.call_ = test.begin(test.place_);
        test.has_begun_ = true;
        return PyRef::borrow(Py_None).release();
    }
    /// The name of what the Python code raises, or "". Leaves it set.
    static std::string raised_by(const char* code) {
        const PyRef done = PyRef::steal(PyRun_String(code, Py_file_input, names(), names()));
        return done ? "" : reinterpret_cast<PyTypeObject*>(PyErr_Occurred())->tp_name;
    }
    static PyObject* names() { return PyModule_GetDict(PyImport_AddModule("__main__")); }
    [[nodiscard]] size_t told() const {
        return log_.count("Request timeout: GET /a?b=c has run for ");
    }

    static constexpr const char* kRuns = "for i in range(1000): pass\n";
    LogFile log_;
    ExchangeTest request_{kGet};
    std::unique_ptr<CallWatch> watch_;
    CallPlace place_ = CallPlace::Thread;
    CallWatch::Token call_;
    std::atomic<bool> has_begun_{false};
};

TEST_F(CallWatchTest, LeavesACallAloneThatIsInTime) {
    const WithGil gil;
    const CallWatch::Token call = begin(CallPlace::Thread);
    const OverdueCalls found = watch_->interrupt(60'000);
    EXPECT_GT(found.next_look_ms, 0);
    EXPECT_LT(found.next_look_ms, 60'000);
    EXPECT_EQ(raised_by(kRuns), "");
    watch_->end(call);
    EXPECT_EQ(watch_->interrupt(60'000).next_look_ms, 60'000);
    EXPECT_EQ(log_.text(), "");
}

TEST_F(CallWatchTest, InterruptsAThreadWhereItIs) {
    std::string raised;
    bool is_ours = false;
    std::thread thread([&] {
        const WithGil gil;
        raised = raised_by(
            "try:\n"
            "    begin()\n"
            "    while True: pass\n"
            "except Exception: pass\n");
        is_ours = watch_->is_interruption(call_);
        PyErr_Clear();
        watch_->end(call_);
    });
    EXPECT_TRUE(eventually([&] { return has_begun_.load(); }));
    {
        const WithGil gil;
        const OverdueCalls found = watch_->interrupt(1);
        EXPECT_FALSE(found.needs_hub);
        EXPECT_EQ(found.stuck, 0u);
    }
    thread.join();
    EXPECT_EQ(raised, "RequestTimeout");
    EXPECT_TRUE(is_ours);
    EXPECT_EQ(told(), 1u);
    EXPECT_EQ(log_.count("; it is here:\n  File \"<string>\", line "), 1u) << log_.text();
}

TEST_F(CallWatchTest, EndsASleepOfTheMainThread) {
    for (const CallPlace place : {CallPlace::MainThread, CallPlace::Greenlet}) {
        std::atomic<bool> is_over{false};
        place_ = place;
        has_begun_ = false;
        std::thread other([&] {
            EXPECT_TRUE(eventually([&] { return has_begun_.load(); }));
            while (
                !is_over) {  // it hardly takes as long to fall asleep; if so, there is a next time
                std::this_thread::sleep_for(std::chrono::milliseconds(50));
                const WithGil gil;
                (void)watch_->interrupt(1);
            }
        });
        {
            const WithGil gil;
            const int64_t start_ms = monotonic_ms();
            EXPECT_EQ(raised_by("import time\nbegin()\ntime.sleep(20)\n"), "RequestTimeout");
            EXPECT_LT(monotonic_ms() - start_ms, 15'000);
            PyErr_Clear();
            is_over = true;
        }
        other.join();
        const WithGil gil;
        watch_->end(call_);
    }
    EXPECT_EQ(told(), 2u);
}

TEST_F(CallWatchTest, AnInterruptionThatComesTooLateMeetsNobody) {
    const WithGil gil;
    for (const CallPlace place : {CallPlace::Thread, CallPlace::MainThread, CallPlace::Greenlet}) {
        const CallWatch::Token call = begin(place);
        (void)watch_->interrupt(1);
        watch_->end(call);
        EXPECT_EQ(raised_by(kRuns), "");
    }
    EXPECT_EQ(told(), 3u);
}

TEST_F(CallWatchTest, InterruptsACallOnce) {
    const WithGil gil;
    const CallWatch::Token call = begin(CallPlace::MainThread);
    (void)watch_->interrupt(1);
    EXPECT_FALSE(watch_->is_interruption(call));
    EXPECT_EQ(raised_by(kRuns), "RequestTimeout");
    EXPECT_TRUE(watch_->is_interruption(call));
    PyObject* const raised = take_exception().release();
    PyDict_SetItemString(names(), "raised", raised);
    Py_DECREF(raised);
    (void)watch_->interrupt(1);
#ifdef SIGRTMIN
    ::raise(SIGRTMIN + 6);  // was on its way meanwhile
#endif
    EXPECT_EQ(raised_by(kRuns), "");  // it cleans up
    EXPECT_EQ(raised_by("raise SystemExit"), "SystemExit");
    EXPECT_FALSE(watch_->is_interruption(call));
    PyErr_Clear();
    watch_->end(call);
    EXPECT_EQ(told(), 1u);

    const CallWatch::Token later = begin(CallPlace::MainThread);
    EXPECT_EQ(raised_by("raise raised"), "RequestTimeout");
    EXPECT_FALSE(watch_->is_interruption(later));
    PyErr_Clear();
    watch_->end(later);
    EXPECT_EQ(raised_by("del raised"), "");
}

TEST_F(CallWatchTest, ReportsACallThatGoesOnOnce) {
    const WithGil gil;
    const CallWatch::Token call = begin(CallPlace::Thread);
    EXPECT_EQ(watch_->interrupt(1).stuck, 0u);
    EXPECT_EQ(raised_by(kRuns), "RequestTimeout");
    PyErr_Clear();
    call->interrupted_ms -= kStuckCallMs;
    EXPECT_EQ(watch_->interrupt(1).stuck, 1u);
    EXPECT_EQ(watch_->interrupt(1).stuck, 0u);
    EXPECT_EQ(raised_by(kRuns), "");
    watch_->end(call);
    EXPECT_EQ(log_.count("Request does not end, although request_timeout interrupted it: GET /a"),
              1u);
}

TEST_F(CallWatchTest, ReachesAGreenletThatWaitsFromItsHubOnly) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "greenlet copies parts of the stack, which AddressSanitizer takes for an error";
#endif
    std::thread other;
    {
        const WithGil gil;
        if (!import("greenlet", "greenlet")) {
            PyErr_Clear();
            GTEST_SKIP() << "needs greenlet";
        }
        place_ = CallPlace::Greenlet;
        ASSERT_EQ(raised_by("import greenlet\n"
                            "def body():\n"
                            "    begin()\n"
                            "    try: greenlet.getcurrent().parent.switch()\n"
                            "    except BaseException as e: seen.append(type(e).__name__)\n"
                            "seen = []\n"
                            "greenlet.greenlet(body).switch()\n"),
                  "");
        other = std::thread([&] {
            const WithGil its_gil;
            EXPECT_TRUE(watch_->interrupt(1).needs_hub);
        });
        const WithoutGil nogil;
        other.join();
    }
    EXPECT_EQ(eval_python("seen"), "[]");
    EXPECT_EQ(log_.count("line 4, in body"), 1u) << log_.text();
    const WithGil gil;
    EXPECT_FALSE(watch_->interrupt(1).needs_hub);
    EXPECT_EQ(eval_python("seen"), "['RequestTimeout']");
    EXPECT_TRUE(call_->has_raised);
    EXPECT_EQ(told(), 1u);
    watch_->end(call_);
}

TEST_F(CallWatchTest, NeedsNoGreenlet) {
    const WithGil gil;
    EXPECT_EQ(raised_by("import sys\n"
                        "before = sys.modules.get('greenlet')\n"
                        "sys.modules['greenlet'] = None\n"),
              "");
    const CallWatch::Token call = begin(CallPlace::Greenlet);
    (void)watch_->interrupt(1);
    EXPECT_EQ(raised_by(kRuns), "RequestTimeout");
    PyErr_Clear();
    watch_->end(call);
    EXPECT_EQ(raised_by("del sys.modules['greenlet']\n"
                        "if before: sys.modules['greenlet'] = before\n"),
              "");
}

}  // namespace
}  // namespace gcorn
