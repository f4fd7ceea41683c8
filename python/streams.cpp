#include "python/streams.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "python/embedded.h"

namespace gcorn {
namespace {

constexpr uint64_t kEverything = UINT64_MAX;
constexpr size_t kCopyWithGilMax = 64 * 1024;
/// How much of a spooled body readline() reads at a time.
constexpr size_t kLineBlockBytes = 64 * 1024;

template <typename Function>
PyCFunction method(Function* function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

/// The optional size argument of the read methods, by position or as gunicorn names it: absent,
/// None and negative mean everything. Raises.
bool size_argument(const char* method, PyObject* const* arguments, Py_ssize_t count,
                   PyObject* keywords, uint64_t& size) {
    size = kEverything;
    const Py_ssize_t given = count + (keywords != nullptr ? PyTuple_GET_SIZE(keywords) : 0);
    if (given > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", method, given);
        return false;
    }
    if (given > count) {
        PyObject* keyword = PyTuple_GET_ITEM(keywords, 0);
        if (PyUnicode_CompareWithASCIIString(keyword, "size") != 0) {
            PyErr_Format(PyExc_TypeError, "%s() has no argument %R", method, keyword);
            return false;
        }
    }
    if (given == 0 || arguments[0] == Py_None) return true;
    const Py_ssize_t value = PyNumber_AsSsize_t(arguments[0], nullptr);  // clips huge ones
    if (value == -1 && PyErr_Occurred() != nullptr) return false;
    if (value >= 0) size = static_cast<uint64_t>(value);
    return true;
}

// ---------------------------------------------------------------------------------- wsgi.input

struct InputObject {
    PyObject_HEAD Exchange* exchange;  ///< null: there is no body, or the request is over
    PyObject* block;  ///< bytes of a spooled body at block_start, for readline(); owned
    uint64_t block_start;
    uint64_t position;
    int error;  ///< errno of the body's failure
    bool is_over;
};

InputObject* as_input(PyObject* object) {
    return reinterpret_cast<InputObject*>(object);
}

PyObject* empty_bytes() {
    return PyBytes_FromStringAndSize(nullptr, 0);
}

bool fail_os_error(InputObject* self, const Error& error) {
    self->error = error.code;
    PyRef arguments = PyRef::steal(Py_BuildValue("(is)", error.code, error.message.c_str()));
    if (arguments) PyErr_SetObject(PyExc_OSError, arguments.get());
    return false;
}

/// How many bytes of the body have arrived, after waiting until there are more than `position` or
/// it is complete. Only an early-dispatched body waits. Raises.
bool bytes_received(InputObject* self, uint64_t& received) {
    if (self->is_over) {
        PyErr_SetString(PyExc_ValueError, "wsgi.input used after its request ended");
        return false;
    }
    received = 0;
    if (self->exchange == nullptr) return true;
    if (self->exchange->body_complete()) {
        received = self->exchange->body.size();
        return true;
    }
    // Another thread of the application may end the request meanwhile: keep its Exchange alive.
    const std::shared_ptr<Exchange> exchange = self->exchange->weak_from_this().lock();
    const uint64_t position = self->position;
    Result<uint64_t> result = [&] {
        WithoutGil nogil;
        return exchange->wait_for_body(position);
    }();
    if (self->is_over) return bytes_received(self, received);  // raises
    if (!result) return fail_os_error(self, result.error());
    received = *result;
    return true;
}

/// A bytes object of `size` bytes at `position`, all of them received. Raises.
PyRef copy_body(InputObject* self, uint64_t position, size_t size) {
    PyRef bytes = PyRef::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size)));
    if (!bytes) return bytes;
    char* out = PyBytes_AS_STRING(bytes.get());
    const Spool& body = self->exchange->body;
    if (body.in_memory() && size <= kCopyWithGilMax) {
        std::memcpy(out, body.memory().data() + position, size);
        return bytes;
    }
    const std::shared_ptr<Exchange> exchange = self->exchange->weak_from_this().lock();
    Result<size_t> got = size_t{0};
    {
        WithoutGil nogil;
        for (size_t done = 0; done < size && got; done += got ? *got : 0) {
            got = body.read_at(position + done, out + done, size - done);
            if (got && *got == 0) got = errno_error(EIO, "read body: its file has been truncated");
        }
    }
    if (!got) {
        fail_os_error(self, got.error());
        bytes.reset();
    }
    return bytes;
}

void advance(InputObject* self, uint64_t position) {
    self->position = position;
    if (self->exchange != nullptr) self->exchange->body_consumed(position);
}

/// The next bytes of the `received` ones, at most `size`. Raises.
PyRef read_piece(InputObject* self, uint64_t received, uint64_t size) {
    const uint64_t start = self->position;
    size = std::min(size, received - std::min(received, start));
    if (size == 0) return PyRef::steal(empty_bytes());
    self->position = start + size;  // before the GIL is dropped: no other thread reads these
    PyRef bytes = copy_body(self, start, static_cast<size_t>(size));
    if (bytes && !self->is_over) advance(self, self->position);
    return bytes;
}

/// Reads up to `size` bytes in pieces while the client still sends them. Raises.
PyRef read_while_arriving(InputObject* self, uint64_t size) {
    PyRef pieces = PyRef::steal(PyList_New(0));
    while (pieces && size > 0) {
        uint64_t received = 0;
        if (!bytes_received(self, received)) return {};
        if (received <= self->position) break;
        PyRef piece = read_piece(self, received, size);
        if (!piece || PyList_Append(pieces.get(), piece.get()) < 0) return {};
        size -= static_cast<uint64_t>(PyBytes_GET_SIZE(piece.get()));
    }
    PyRef empty = pieces ? PyRef::steal(empty_bytes()) : PyRef();
    if (!empty) return {};
    return PyRef::steal(PyObject_CallMethod(empty.get(), "join", "O", pieces.get()));
}

PyObject* input_read(PyObject* object, PyObject* const* arguments, Py_ssize_t count,
                     PyObject* keywords) {
    InputObject* self = as_input(object);
    uint64_t size = 0;
    if (!size_argument("read", arguments, count, keywords, size)) return nullptr;
    if (self->exchange != nullptr && !self->exchange->body_complete())
        return read_while_arriving(self, size).release();
    uint64_t received = 0;
    if (!bytes_received(self, received)) return nullptr;
    return read_piece(self, received, size).release();
}

/// The bytes at the current position, as far as they are contiguous; empty at the end of the body.
/// The view is valid until the GIL is dropped. Raises.
bool peek(InputObject* self, std::string_view& bytes) {
    uint64_t received = 0;
    if (!bytes_received(self, received)) return false;
    bytes = {};
    if (received <= self->position) return true;
    if (self->exchange->body.in_memory()) {
        bytes = self->exchange->body.memory().substr(static_cast<size_t>(self->position));
        return true;
    }
    const auto offset = [self] { return self->position - self->block_start; };
    const bool has_block = self->block != nullptr && self->position >= self->block_start &&
                           offset() < static_cast<uint64_t>(PyBytes_GET_SIZE(self->block));
    if (!has_block) {
        const uint64_t start = self->position;
        const uint64_t size = std::min<uint64_t>(received - start, kLineBlockBytes);
        PyRef block = copy_body(self, start, static_cast<size_t>(size));
        if (!block) return false;
        Py_XSETREF(self->block, block.release());  // the object owns its block
        self->block_start = start;
        self->position = start;  // another reader may have moved it meanwhile
    }
    bytes = bytes_view(self->block).substr(static_cast<size_t>(offset()));
    return true;
}

/// One line with its newline, at most `size` bytes of it; empty at the end of the body. Raises.
PyRef read_line(InputObject* self, uint64_t size) {
    std::string line;
    for (;;) {
        std::string_view bytes;
        if (!peek(self, bytes)) return {};
        bytes = bytes.substr(0, static_cast<size_t>(std::min<uint64_t>(size, bytes.size())));
        const size_t newline = bytes.find('\n');
        const size_t taken = newline == std::string_view::npos ? bytes.size() : newline + 1;
        size -= taken;
        line.append(bytes.substr(0, taken));
        if (taken > 0) advance(self, self->position + taken);
        if (taken == 0 || size == 0 || newline != std::string_view::npos) break;
    }
    return PyRef::steal(
        PyBytes_FromStringAndSize(line.data(), static_cast<Py_ssize_t>(line.size())));
}

PyObject* input_readline(PyObject* object, PyObject* const* arguments, Py_ssize_t count,
                         PyObject* keywords) {
    uint64_t size = 0;
    if (!size_argument("readline", arguments, count, keywords, size)) return nullptr;
    return read_line(as_input(object), size).release();
}

PyObject* input_readlines(PyObject* object, PyObject* const* arguments, Py_ssize_t count,
                          PyObject* keywords) {
    uint64_t hint = 0;  // as in io: stop after the line that passes it; 0 is no hint
    if (!size_argument("readlines", arguments, count, keywords, hint)) return nullptr;
    if (hint == 0) hint = kEverything;
    PyRef lines = PyRef::steal(PyList_New(0));
    for (uint64_t total = 0; lines && total < hint;) {
        PyRef line = read_line(as_input(object), kEverything);
        if (!line) return nullptr;
        const auto size = static_cast<uint64_t>(PyBytes_GET_SIZE(line.get()));
        if (size == 0) break;
        if (PyList_Append(lines.get(), line.get()) < 0) return nullptr;
        total += size;
    }
    return lines.release();
}

PyObject* input_next(PyObject* object) {
    PyRef line = read_line(as_input(object), kEverything);
    if (line && PyBytes_GET_SIZE(line.get()) == 0) return nullptr;  // ends the iteration
    return line.release();
}

void input_dealloc(PyObject* object) {
    Py_XDECREF(as_input(object)->block);
    plain_dealloc(object);
}

PyMethodDef input_methods[] = {
    {"read", method(input_read), METH_FASTCALL | METH_KEYWORDS,
     "read([size]): up to size bytes, or all"},
    {"readline", method(input_readline), METH_FASTCALL | METH_KEYWORDS,
     "readline([size]): one line"},
    {"readlines", method(input_readlines), METH_FASTCALL | METH_KEYWORDS,
     "readlines([hint]): list of lines"},
    {nullptr, nullptr, 0, nullptr},
};
PyType_Slot input_slots[] = {
    {Py_tp_methods, input_methods},
    {Py_tp_iter, slot(PyObject_SelfIter)},
    {Py_tp_iternext, slot(input_next)},
    {Py_tp_dealloc, slot(input_dealloc)},
    {0, nullptr},
};
PyType_Spec input_spec = {"gcorn.Input", sizeof(InputObject), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, input_slots};

PyRef new_input(const PyRef& type, Exchange* exchange) {
    PyRef input = new_object(type);
    if (input) as_input(input.get())->exchange = exchange;
    return input;
}

/// For streams.py: writes bytes to the error log as they are.
PyObject* write_raw(PyObject* log, PyObject* bytes) {
    {
        const WithoutGil nogil;
        native_self<Logger>(log).write_raw(bytes_view(bytes));
    }
    Py_RETURN_NONE;
}

}  // namespace

// ------------------------------------------------------------------------------------- Streams

Streams::~Streams() {
    if (errors_ && !PyRef::steal(PyObject_CallMethod(errors_.get(), "_end", nullptr)))
        PyErr_Clear();
}

bool Streams::prepare(Logger& log) {
    static PyMethodDef write = {"write_raw", write_raw, METH_O, nullptr};
    input_type_.reset(PyType_FromSpec(&input_spec));
    const PyRef module = input_type_ ? embedded_module("_gcorn_streams") : PyRef();
    if (!module) return false;
    file_wrapper_ = attribute(module.get(), "FileWrapper");
    real_file_ = attribute(module.get(), "real_file");
    sort_arguments_ = attribute(module.get(), "start_response");
    no_input_ = new_input(input_type_, nullptr);
    unfinished_lines_ = PyRef::steal(PyDict_New());
    errors_ = call_object(attribute(module.get(), "Errors"), native_function(write, &log),
                          unfinished_lines_);
    return file_wrapper_ && real_file_ && sort_arguments_ && no_input_ && errors_;
}

PyRef Streams::make_input(Exchange& exchange) const {
    if (exchange.head.framing == Framing::None) return PyRef::borrow(no_input_.get());
    return new_input(input_type_, &exchange);
}

void Streams::end_input(PyObject* input) const {
    if (input == no_input_.get()) return;
    as_input(input)->exchange = nullptr;
    as_input(input)->is_over = true;
    Py_CLEAR(as_input(input)->block);
}

int Streams::input_error(PyObject* input) const {
    return as_input(input)->error;
}

void Streams::flush_errors() const {
    if (PyDict_GET_SIZE(unfinished_lines_.get()) == 0) return;
    if (!PyRef::steal(PyObject_CallMethod(errors_.get(), "flush", nullptr))) PyErr_Clear();
}

bool Streams::real_file(PyObject* wrapper, FileRange& range) const {
    const PyRef found = call_object(real_file_, PyRef::borrow(wrapper));
    long long offset = 0;
    if (!found || found.get() == Py_None ||
        !PyArg_ParseTuple(found.get(), "iL", &range.fd, &offset)) {
        PyErr_Clear();
        return false;
    }
    struct stat status;
    if (::fstat(range.fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
    if (status.st_size == 0) return false;  // a file of /proc is longer than it says
    range.offset = static_cast<off_t>(offset);
    range.size = static_cast<uint64_t>(std::max<long long>(status.st_size - offset, 0));
    return true;
}

}  // namespace gcorn
