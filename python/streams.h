// The file-like objects of PEP 3333: wsgi.input, wsgi.errors, wsgi.file_wrapper.
//
// wsgi.input reads the Exchange's body where it lies, memory or file, and waits for bytes only if
// the body is so large that its request was dispatched early. It raises ValueError once its request
// is over, and OSError if the body ended early: a short body never looks complete. Application
// side, GIL held; it is dropped for files, waits and copies of more than 64 KiB.
#pragma once

#include "python/pyref.h"

#include <sys/types.h>

#include <cstdint>

#include "log/log.h"
#include "net/exchange.h"

namespace gcorn {

/// A stretch of a real file that the kernel can send. The descriptor is borrowed.
struct FileRange {
    int fd = -1;
    off_t offset = 0;
    uint64_t size = 0;
};

/// The types and shared objects of this room. One per WsgiApp.
class Streams {
public:
    Streams() = default;
    /// Writes what wsgi.errors still holds; the object itself may live on, and then discards what
    /// it is given.
    ~Streams();
    Streams(Streams&&) = delete;

    /// Makes everything. log is borrowed and outlives this. Once. Raises.
    [[nodiscard]] bool prepare(Logger& log);

    /// wsgi.input for this request; one shared object where there is no body. Raises (MemoryError).
    [[nodiscard]] PyRef make_input(Exchange& exchange) const;
    /// The shared one. Borrowed.
    [[nodiscard]] PyObject* no_input() const { return no_input_.get(); }
    /// The request is over: the object never touches the Exchange again.
    void end_input(PyObject* input) const;
    /// errno of the failure that `input` has raised (see Exchange::wait_for_body), 0 = none.
    [[nodiscard]] int input_error(PyObject* input) const;

    /// wsgi.errors. Borrowed.
    [[nodiscard]] PyObject* errors() const { return errors_.get(); }
    /// Writes a line that this thread left unfinished.
    void flush_errors() const;

    /// wsgi.file_wrapper, the class. Borrowed.
    [[nodiscard]] PyObject* file_wrapper() const { return file_wrapper_.get(); }
    [[nodiscard]] bool is_file_wrapper(PyObject* object) const {
        return reinterpret_cast<PyObject*>(Py_TYPE(object)) == file_wrapper_.get();
    }
    /// The function that puts arguments of start_response() in order, or raises. Borrowed.
    [[nodiscard]] PyObject* sort_arguments() const { return sort_arguments_.get(); }

    /// True if the wrapped object is a plain binary file of the io module, open on a regular file:
    /// `range` is then what reading it to its end would give. Anything else (a subclass or another
    /// object with fileno(), such as a GzipFile, whose descriptor holds other bytes) is false.
    /// Never leaves an exception set.
    [[nodiscard]] bool real_file(PyObject* wrapper, FileRange& range) const;

private:
    PyRef input_type_;
    PyRef no_input_;  ///< wsgi.input of every request without a body
    PyRef file_wrapper_, real_file_, errors_, sort_arguments_;  ///< of streams.py
    PyRef unfinished_lines_;                                    ///< of errors_, by thread
};

}  // namespace gcorn
