#include "python/forked_copy.h"

#include <pthread.h>
#include <unistd.h>

#include <cstdio>

#include "python/pyref.h"

namespace gcorn {

namespace {

/// The status that sys.exit() was given: None means 0, anything else but a number is printed and
/// means 1 (as in Python).
int status_of_exit() {
    const PyRef exit = take_exception();
    const PyRef code = attribute(exit.get(), "code");
    if (code.get() == Py_None) return 0;
    if (code && PyLong_Check(code.get())) return static_cast<int>(PyLong_AsLong(code.get()));
    if (code) PySys_FormatStderr("%S\n", code.get());
    return 1;
}

}  // namespace

void count_forks() {
    static const int registered =
        ::pthread_atfork(nullptr, nullptr, [] { forks_seen = forks_seen + 1; });
    static_cast<void>(registered);
}

void end_forked_copy() {
    int status = 0;
    if (PyErr_ExceptionMatches(PyExc_SystemExit) != 0) {
        status = status_of_exit();
    } else if (PyErr_Occurred() != nullptr) {
        PyErr_Print();
        status = 1;
    }
    PyErr_Clear();
    if (!call_object(import("atexit", "_run_exitfuncs"))) PyErr_Clear();
    flush_standard_streams();
    std::fflush(nullptr);
    ::_exit(status);
}

}  // namespace gcorn
