#include "wsgi.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <optional>
#include <string_view>

#include "base/clock.h"
#include "base/text.h"
#include "net/exchange.h"
#include "python/call_watch.h"
#include "python/embedded.h"
#include "python/environ.h"
#include "python/forked_copy.h"
#include "python/header_list.h"
#include "python/interpreter.h"
#include "python/known_answer.h"
#include "python/send_turn.h"
#include "python/streams.h"

namespace gcorn {
namespace {

/// Blocks of a list of at most kJoinedBlockMax bytes are joined until one send has kJoinedBytesMax.
constexpr size_t kJoinedBlockMax = 16 * 1024;
constexpr size_t kJoinedBytesMax = 64 * 1024;

// --------------------------------------------- start_response, write and early_hints, as objects

/// start_response, which is also the write() that it returns: a call with one argument can only be
/// write().
struct StartResponse {
    RequestBound bound;
    vectorcallfunc call;
    KnownAnswers* known;
    PyObject* sort_arguments;  ///< of streams.py; borrowed
    bool is_started;           ///< status and fields are set
    bool is_ended;             ///< the last piece of the response is framed, or an error page sent
};

StartResponse* as_start_response(PyObject* object) {
    return reinterpret_cast<StartResponse*>(object);
}

/// The Exchange of a request that is still running. Raises.
Exchange* running(PyObject* callable, const char* name) {
    Exchange* exchange = as_bound(callable)->exchange;
    if (exchange == nullptr) PyErr_Format(PyExc_ValueError, "%s() after its request ended", name);
    return exchange;
}

/// Raises the application's own exception again: the head is out, so it is too late to replace it.
void raise_again(PyObject* exc_info) {
    if (!PyTuple_Check(exc_info) || PyTuple_GET_SIZE(exc_info) != 3 ||
        !PyExceptionInstance_Check(PyTuple_GET_ITEM(exc_info, 1))) {
        PyErr_SetString(PyExc_TypeError, "exc_info must be what sys.exc_info() returns");
        return;
    }
    PyObject* traceback = PyTuple_GET_ITEM(exc_info, 2);
    PyObject* exception = PyTuple_GET_ITEM(exc_info, 1);
    if (PyException_SetTraceback(exception, traceback) < 0) PyErr_Clear();  // no traceback: go on
    restore_exception(PyRef::borrow(exception));
}

/// All bytes of the Content-Length are framed: the last can join the next response (pipelining).
bool ends_here(const ResponseWriter& response) {
    return response.bytes_left() == 0;
}

PyObject* write(StartResponse* start, Exchange* exchange, PyObject* bytes) {
    if (!PyBytes_Check(bytes))
        return PyErr_Format(PyExc_TypeError, "write() takes one bytes object");
    const SendTurn turn(*exchange);
    if (running(reinterpret_cast<PyObject*>(start), "write") == nullptr) return nullptr;
    if (!start->is_started || start->is_ended)
        return PyErr_Format(PyExc_AssertionError, "write() outside of the response");
    const std::string_view block = bytes_view(bytes);
    const ResponseWriter::Pieces pieces = exchange->response.body(block.size());
    bool is_sent = false;
    {
        WithoutGil nogil;
        is_sent = exchange->send(pieces, block, ends_here(exchange->response));
    }
    if (!is_sent) {
        errno = EPIPE;
        return PyErr_SetFromErrno(PyExc_OSError);  // BrokenPipeError
    }
    Py_RETURN_NONE;
}

/// (status, headers, exc_info=None), by position or name.
PyObject* start_response_call(PyObject* self, PyObject* const* values, size_t flagged,
                              PyObject* names) {
    StartResponse* me = as_start_response(self);
    const bool is_write = PyVectorcall_NARGS(flagged) == 1 && names == nullptr &&
                          (me->is_started || PyBytes_Check(values[0]));
    Exchange* exchange = running(self, is_write ? "write" : "start_response");
    if (exchange != nullptr && is_write) return write(me, exchange, values[0]);
    if (exchange == nullptr) return nullptr;
    Py_ssize_t count = PyVectorcall_NARGS(flagged);
    PyRef sorted;
    if (names != nullptr || count < 2 || count > 3) {
        sorted.reset(PyObject_Vectorcall(me->sort_arguments, values, flagged, names));
        if (!sorted) return nullptr;
        values = PySequence_Fast_ITEMS(sorted.get());
        count = PyTuple_GET_SIZE(sorted.get());
    }
    PyObject* const status = values[0];
    PyObject* const exc_info = count == 3 && values[2] != Py_None ? values[2] : nullptr;
    const PyRef headers = plain_headers(values[1]);
    if (!headers || running(self, "start_response") == nullptr) return nullptr;
    ResponseWriter& response = exchange->response;
    if (exc_info != nullptr && response.head_sent()) {
        raise_again(exc_info);
        return nullptr;
    }
    if (me->is_ended || (exc_info == nullptr && me->is_started))
        return PyErr_Format(PyExc_AssertionError, "Response headers already set!");
    me->is_started = false;  // stays so if anything below is refused
    KnownAnswer& known = (*me->known)[KnownAnswer::place(headers.get(), me->known->size())];
    if (!known.repeat(status, headers.get(), response)) {
        std::string_view text;
        if (!field_text(status, "status", false, text)) return nullptr;
        if (const Status accepted = response.set_status(text); !accepted)
            return PyErr_Format(PyExc_ValueError, "%s", accepted.message().c_str());
        if (!add_headers(response, headers.get(), false)) return nullptr;
        known.keep(status, headers.get(), response);
    }
    me->is_started = true;
    return PyRef::borrow(self).release();
}

/// 103 Early Hints (RFC 8297), sent at once; silently ignored where the client cannot take it.
PyObject* early_hints_call(PyObject* self, PyObject* arguments, PyObject* names) {
    if (PyTuple_GET_SIZE(arguments) != 1 || names != nullptr)
        return PyErr_Format(PyExc_TypeError, "early_hints() takes one list of headers");
    Exchange* exchange = running(self, "early_hints");
    if (exchange == nullptr) return nullptr;
    const PyRef headers = plain_headers(PyTuple_GET_ITEM(arguments, 0));
    if (!headers || running(self, "early_hints") == nullptr) return nullptr;
    const SendTurn turn(*exchange);
    if (running(self, "early_hints") == nullptr) return nullptr;
    if (!exchange->head.is_http_11() || exchange->response.head_sent()) Py_RETURN_NONE;
    ResponseWriter hints;  // checks and renders the fields by the rules of a response
    const ResponseOptions options;
    hints.begin(exchange->head, false, options);
    // Like a 204 it has no Content-Length (RFC 9110 §8.6).
    const Status is_set = hints.set_status("204 No Content");
    GCORN_CHECK(is_set);
    if (!add_headers(hints, headers.get(), true)) return nullptr;
    std::string head = "HTTP/1.1 103 Early Hints\r\n";
    head += hints.fields_block();
    head += "\r\n";
    {
        WithoutGil nogil;
        (void)exchange->send(head, {}, {}, false);  // the response will show a lost client
    }
    Py_RETURN_NONE;
}

PyMemberDef start_response_members[] = {
    {"__vectorcalloffset__", kMemberSize, offsetof(StartResponse, call), kMemberReadOnly, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};
PyType_Slot start_response_slots[] = {
    {Py_tp_members, start_response_members},
    {Py_tp_call, slot(PyVectorcall_Call)},
    {Py_tp_dealloc, slot(plain_dealloc)},
    {0, nullptr},
};
PyType_Spec start_response_spec = {
    "gcorn.StartResponse", sizeof(StartResponse), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    start_response_slots};

PyType_Slot early_hints_slots[] = {
    {Py_tp_call, slot(early_hints_call)},
    {Py_tp_dealloc, slot(plain_dealloc)},
    {0, nullptr},
};
PyType_Spec early_hints_spec = {"gcorn.EarlyHints", sizeof(RequestBound), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                early_hints_slots};

}  // namespace

/// What load() makes once: types, shared objects, the environ's maker.
class RequestObjects {
public:
    explicit RequestObjects(Logger& log) : watch(log) {}

    /// Raises.
    [[nodiscard]] bool prepare(Logger& log, const WsgiOptions& options) {
        if (options.watches_calls && !watch.prepare()) return false;
        start_response_type.reset(PyType_FromSpec(&start_response_spec));
        PyRef early_hints_type = PyRef::steal(PyType_FromSpec(&early_hints_spec));
        close_name.reset(PyUnicode_InternFromString("close"));
        if (!start_response_type || !early_hints_type || !close_name || !streams.prepare(log))
            return false;
        return environ.prepare({.no_input = streams.no_input(),
                                .errors = streams.errors(),
                                .file_wrapper = streams.file_wrapper(),
                                .early_hints_type = early_hints_type.get(),
                                .is_multithread = options.is_multithread,
                                .is_multiprocess = options.is_multiprocess});
    }
    /// Raises (MemoryError only).
    [[nodiscard]] PyRef make_start_response(Exchange& exchange) {
        PyRef object = start_response.take();
        if (!object) object = new_object(start_response_type);
        if (!object) return {};
        StartResponse* self = as_start_response(object.get());
        self->bound.exchange = &exchange;
        self->call = start_response_call;
        self->known = &known_answers;
        self->sort_arguments = streams.sort_arguments();
        self->is_started = self->is_ended = false;
        return object;
    }

    PyRef start_response_type;
    PyRef close_name;
    Spare start_response;
    KnownAnswers known_answers;
    Streams streams;
    EnvironMaker environ;
    CallWatch watch;  ///< unused unless watches_calls
};

/// One request inside Python. Lives on the stack of the thread or greenlet that runs it: nothing
/// may keep a pointer to it; what others need is in the Exchange and in the Python objects.
class Call {
public:
    Call(WsgiApp& app, Exchange& exchange)
        : app_(app), objects_(*app.objects_), exchange_(exchange), response_(exchange.response) {}

    void run(CallPlace place);

private:
    bool make_environ();
    bool call_application();
    bool send_result();
    bool send_list();
    /// Frames a piece of the body. A stopping worker closes the connection after each answer whose
    /// head can still say so.
    ResponseWriter::Pieces frame(uint64_t size, bool is_last) {
        if (is_last) set_ended();
        if (!response_.head_sent() && exchange_.is_worker_stopping()) response_.must_close();
        return response_.body(size, is_last);
    }
    bool send_iterable();
    bool send_wrapped_file(bool& is_sent);
    bool check_block(PyObject* block);
    bool send_block(PyObject* block, bool is_last);
    void send(const ResponseWriter::Pieces& pieces, std::string_view block, bool is_last);
    bool end_response();
    bool is_left_to_others();
    void warn_about_length();
    void fail();
    bool is_overdue();
    bool is_worker_ending();
    bool is_clients_fault();
    void answer(int status);
    void answer_broken_app();
    void tell_hooks(PyObject* environ_or_null);
    void close_result();
    void capture_environ();
    void leave();

    /// Nobody takes bytes any more: stop iterating.
    [[nodiscard]] bool is_over() const { return exchange_.is_aborted() || exchange_.is_detached(); }
    // Both flags live in the start_response object, where write() sees them, too.
    [[nodiscard]] bool is_started() const {
        return as_start_response(start_response_.get())->is_started;
    }
    [[nodiscard]] bool is_ended() const {
        return as_start_response(start_response_.get())->is_ended;
    }
    void set_ended() const {
        if (start_response_) as_start_response(start_response_.get())->is_ended = true;
    }

    WsgiApp& app_;
    RequestObjects& objects_;
    Exchange& exchange_;
    ResponseWriter& response_;
    PyRef input_, start_response_, result_;
    RequestEnviron environ_;
    ForkWatch fork_;
    bool is_file_wrapper_ = false;             ///< the result is our wsgi.file_wrapper
    std::optional<CallWatch::Token> watched_;  ///< request_timeout is set
};

void Call::run(CallPlace place) {
    if (!app_.callable_) {
        answer_broken_app();
        tell_hooks(nullptr);
        return;
    }
    const bool is_timed = app_.options_.measures_time;
    const int64_t start_us = is_timed ? monotonic_us() : 0;
    if (app_.options_.watches_calls) watched_ = objects_.watch.begin(exchange_, place);
    const bool is_good = make_environ() && call_application() && send_result() && end_response();
    if (fork_.is_copy()) end_forked_copy();
    if (!is_good) fail();
    if (is_timed) {
        exchange_.done_us = monotonic_us();
        exchange_.app_us = exchange_.done_us - start_us;
    }
    close_result();
    if (watched_) objects_.watch.end(*watched_);
    tell_hooks(environ_.dict.get());
    leave();
}

void Call::tell_hooks(PyObject* environ_or_null) {
    const bool is_good =
        app_.hooks_ == nullptr || app_.hooks_->post_request(exchange_, environ_or_null);
    if (fork_.is_copy()) end_forked_copy();
    if (!is_good) log_python_error(app_.log_, Level::Error, "Exception in post_request hook");
}

bool Call::make_environ() {
    if (app_.hooks_ != nullptr && !app_.hooks_->pre_request(exchange_)) return false;
    input_ = objects_.streams.make_input(exchange_);
    start_response_ = objects_.make_start_response(exchange_);
    if (!input_ || !start_response_) return false;
    environ_ = objects_.environ.make(exchange_, input_.get());
    return environ_.dict &&
           (app_.hooks_ == nullptr || app_.hooks_->environ_made(exchange_, environ_.dict.get()));
}

bool Call::call_application() {
    PyObject* arguments[] = {environ_.dict.get(), start_response_.get()};
    result_.reset(PyObject_Vectorcall(app_.callable_.get(), arguments, 2, nullptr));
    if (fork_.is_copy()) end_forked_copy();  // before it sends its parent's answer
    return static_cast<bool>(result_);
}

// --------------------------------------------------------------------------- sending the result

bool Call::send_result() {
    if (PyList_CheckExact(result_.get()) || PyTuple_CheckExact(result_.get())) return send_list();
    bool is_sent = false;
    is_file_wrapper_ = objects_.streams.is_file_wrapper(result_.get());
    if (is_file_wrapper_ && !send_wrapped_file(is_sent)) return false;
    return is_sent || send_iterable();
}

/// A list or tuple: all blocks exist already, so small ones leave together (PEP 3333 forbids
/// delaying a block until the application makes the next one; here it has made them all).
bool Call::send_list() {
    PyObject* list = result_.get();
    const auto size = [list] { return PySequence_Fast_GET_SIZE(list); };
    if (size() == 1) return send_block(PySequence_Fast_GET_ITEM(list, 0), true);
    // As long as nothing has been sent, a bad block can still be answered with an error page.
    for (Py_ssize_t i = 0; i < size(); ++i)
        if (!check_block(PySequence_Fast_GET_ITEM(list, i))) return false;
    const SendTurn turn(exchange_);
    std::string joined;
    // The list may change while the GIL is dropped, so each step checks its size again.
    for (Py_ssize_t i = 0; i < size() && !is_ended() && !is_over(); ++i) {
        PyRef block = PyRef::borrow(PySequence_Fast_GET_ITEM(list, i));
        if (!check_block(block.get())) return false;
        const std::string_view bytes = bytes_view(block.get());
        if (bytes.empty()) continue;
        const bool is_small = bytes.size() <= kJoinedBlockMax;
        if (!joined.empty() && (!is_small || joined.size() >= kJoinedBytesMax)) {
            send({joined, 0, {}}, {}, false);
            joined.clear();
        }
        const bool is_last = i + 1 == size();
        const ResponseWriter::Pieces pieces = frame(bytes.size(), is_last);
        if (is_small)
            joined.append(pieces.before).append(pieces.part_of(bytes)).append(pieces.after);
        else
            send(pieces, bytes, is_last || ends_here(response_));
    }
    if (!joined.empty()) send({joined, 0, {}}, {}, is_ended() || ends_here(response_));
    return true;
}

bool Call::send_iterable() {
    PyRef iterator = PyRef::steal(PyObject_GetIter(result_.get()));
    if (!iterator) return is_left_to_others();  // gunicorn's ALREADY_HANDLED is not iterable
    // What a wrapped file holds beyond Content-Length is not needed; another iterable is left once
    // it has passed it (PEP 3333 "Handling the Content-Length Header").
    while (!is_over() && !response_.is_cut() && !(is_file_wrapper_ && ends_here(response_))) {
        PyRef block = PyRef::steal(PyIter_Next(iterator.get()));
        if (!block) return PyErr_Occurred() == nullptr;
        if (!send_block(block.get(), false)) return false;
    }
    return true;
}

/// is_sent stays false if the wrapped object is no real file: it is iterated then.
bool Call::send_wrapped_file(bool& is_sent) {
    FileRange file;
    if (!app_.options_.uses_sendfile || !is_started() ||
        !objects_.streams.real_file(result_.get(), file))
        return true;
    is_sent = true;
    const SendTurn turn(exchange_);
    // A Content-Length smaller than the file asks for a part of it.
    file.size = std::min(file.size, response_.bytes_left());
    if (file.size == 0 || is_over()) return true;
    const ResponseWriter::Pieces pieces = frame(file.size, true);
    if (pieces.take == 0) {
        send(pieces, {}, true);
        return true;
    }
    WithoutGil nogil;
    (void)exchange_.send_file(pieces.before, file.fd, file.offset, pieces.take, pieces.after, true);
    return true;
}

/// Is this a block of the body, and was start_response() called before it, unless it is empty?
/// Raises.
bool Call::check_block(PyObject* block) {
    if (!PyBytes_Check(block)) {
        PyErr_Format(PyExc_TypeError, "the application's iterable must yield bytes, not %.100s",
                     Py_TYPE(block)->tp_name);
        return false;
    }
    if (!is_started() && PyBytes_GET_SIZE(block) > 0) {
        PyErr_SetString(PyExc_AssertionError,
                        "start_response() was not called before the first block of the body");
        return false;
    }
    return true;
}

/// Raises; a client that is gone is no error, see is_over(). An empty block sends nothing, not even
/// the head (PEP 3333 "The start_response() Callable").
bool Call::send_block(PyObject* block, bool is_last) {
    if (!check_block(block)) return false;
    std::string_view bytes = bytes_view(block);
    if (bytes.empty()) return true;
    const PyRef kept = PyRef::borrow(block);  // a list may lose it while the GIL is released
    const SendTurn turn(exchange_);
    if (is_over()) return true;
    // Only the part of a file that was asked for; a block of an iterable that is too long is an
    // error.
    if (is_file_wrapper_ && response_.bytes_left() < bytes.size())
        bytes = bytes.substr(0, static_cast<size_t>(response_.bytes_left()));
    const ResponseWriter::Pieces pieces = frame(bytes.size(), is_last);
    send(pieces, bytes, is_last || ends_here(response_));
    return true;
}

/// A client that is gone is seen by is_over().
void Call::send(const ResponseWriter::Pieces& pieces, std::string_view block, bool is_last) {
    if (is_last && exchange_.join_successor(pieces.before, pieces.part_of(block), pieces.after))
        return;
    WithoutGil nogil;
    (void)exchange_.send(pieces, block, is_last);
}

bool Call::end_response() {
    if (is_over()) return true;
    if (!is_started()) {
        PyErr_SetString(PyExc_AssertionError, "the application never called start_response()");
        return is_left_to_others();
    }
    if (!is_ended()) {
        const SendTurn turn(exchange_);
        set_ended();
        send(response_.finish(), {}, true);
    }
    warn_about_length();
    return true;
}

/// True, with the exception cleared, if the application took the socket, or has its descriptor and
/// did not begin a response: answering is then left to others.
bool Call::is_left_to_others() {
    PyRef error = take_exception();
    if (exchange_.is_detached()) return true;
    if (!is_started() && EnvironMaker::take_lent_socket(environ_)) return true;
    restore_exception(std::move(error));
    return false;
}

/// Both ends count by Content-Length: a body of another length must not run into the next response.
void Call::warn_about_length() {
    if (is_over() || !(response_.is_short() || response_.is_cut())) return;
    response_.must_close();
    WithoutGil nogil;
    app_.log_.warning(
        "Response to %s has %s bytes than its Content-Length: %llu; closing the connection",
        request_label(exchange_).c_str(), response_.is_short() ? "fewer" : "more",
        static_cast<unsigned long long>(response_.content_length()));
}

// -------------------------------------------------------------------------------------- failing

/// The exception that is set ends the request: logged with its traceback, and answered if that is
/// still possible. SystemExit and KeyboardInterrupt are no different here: an application cannot
/// stop its server, and if our own interrupt raised them, the core knows and stops after this call.
void Call::fail() {
    if (is_overdue()) {
        answer(504);
        return;
    }
    if (is_clients_fault()) return;
    if (is_worker_ending()) {
        answer(500);
        return;
    }
    // Libraries written for gunicorn's workers raise StopIteration once they have taken the socket.
    if (PyErr_ExceptionMatches(PyExc_StopIteration) != 0 && is_left_to_others()) return;
    log_python_error(app_.log_, Level::Error, "Error handling request " + request_label(exchange_));
    answer(500);
}

/// Is it our own interruption (request_timeout), which was logged when it was sent? If so, clears
/// it.
bool Call::is_overdue() {
    if (!watched_ || !objects_.watch.is_interruption(*watched_)) return false;
    PyErr_Clear();
    return true;
}

/// Did the worker end this call (WsgiApp::expect_end())? If so, clears the exception.
bool Call::is_worker_ending() {
    if (!app_.expects_end_ || PyErr_ExceptionMatches(PyExc_Exception) != 0) return false;
    PyErr_Clear();
    return true;
}

/// A client that left or sent a broken body makes reading and writing raise OSError; if the
/// application lets that through, it is not the application's error. True: the exception is
/// cleared, and the request is answered or cut.
bool Call::is_clients_fault() {
    if (PyErr_ExceptionMatches(PyExc_OSError) == 0) return false;
    const int body_error = input_ ? objects_.streams.input_error(input_.get()) : 0;
    const bool is_gone = exchange_.is_aborted() || body_error == ECONNRESET;
    if (!is_gone && body_error != EPROTO && body_error != ETIMEDOUT) return false;
    const std::string reason = take_error_text(false);
    {
        WithoutGil nogil;
        if (is_gone)
            app_.log_.debug("Client left during %s: %s", request_label(exchange_).c_str(),
                            reason.c_str());
        else
            app_.log_.warning("Invalid request from ip=%s: %s",
                              exchange_.facts->remote_addr.c_str(), reason.c_str());
    }
    if (is_gone)
        exchange_.abort();
    else
        answer(body_error == ETIMEDOUT ? 408 : 400);
    return true;
}

/// An error page if the head is not out; else the connection is cut, unless the response is
/// complete.
void Call::answer(int status) {
    const SendTurn turn(exchange_);
    if (is_over()) return;
    set_ended();
    if (!response_.head_sent()) {
        const std::string_view page = response_.error_page(status);
        WithoutGil nogil;
        (void)exchange_.send(page, {}, {}, true);
    } else if (ends_here(response_)) {
        response_.must_close();
    } else {
        exchange_.abort();
    }
}

/// reload: the application does not import, and the developer sees why in the browser.
void Call::answer_broken_app() {
    const std::string& text = app_.broken_app_text_;
    const Status set = response_.set_status("500 Internal Server Error");
    const Status typed = response_.add_field("Content-Type", "text/plain; charset=utf-8");
    const Status sized = response_.add_field("Content-Length", std::to_string(text.size()));
    GCORN_CHECK(set && typed && sized);
    send(frame(text.size(), true), text, true);
}

// --------------------------------------------------------------------------------------- leaving

/// Calls close() of the result, exactly once whatever happened (PEP 3333 "Buffering and
/// Streaming").
void Call::close_result() {
    if (!result_ || PyList_CheckExact(result_.get()) || PyTuple_CheckExact(result_.get())) return;
    PyRef close;
    const bool is_closed = optional_attribute(result_.get(), objects_.close_name.get(), close) &&
                           (!close || PyRef::steal(PyObject_CallNoArgs(close.get())));
    if (fork_.is_copy()) end_forked_copy();
    if (is_closed) return;
    response_.must_close();
    if (is_overdue() || is_worker_ending()) return;
    log_python_error(app_.log_, Level::Error, "Error handling request " + request_label(exchange_));
}

/// Values of the access format's %({name}e)s: names are lower case there, as in gunicorn.
void Call::capture_environ() {
    PyObject *key = nullptr, *value = nullptr;
    Py_ssize_t position = 0;
    while (PyDict_Next(environ_.dict.get(), &position, &key, &value) != 0) {
        std::string_view name;
        if (!latin1_view(key, name)) continue;
        const std::string lower_name = lower(name);
        const auto& wanted = app_.options_.logged_environ;
        if (std::find(wanted.begin(), wanted.end(), lower_name) == wanted.end()) continue;
        PyRef text = PyRef::steal(PyObject_Str(value));
        std::string_view bytes;
        if (text && utf8_view(text.get(), bytes))
            exchange_.logged_environ.emplace_back(lower_name, bytes);
        PyErr_Clear();
    }
}

/// Cuts every tie between Python objects the application may have kept and this Exchange.
void Call::leave() {
    if (environ_.dict && !app_.options_.logged_environ.empty()) capture_environ();
    objects_.streams.flush_errors();
    const SendTurn turn(exchange_);  // nobody sends any more, nor can begin to
    if (input_) objects_.streams.end_input(input_.get());
    if (start_response_) {
        as_bound(start_response_.get())->exchange = nullptr;
        objects_.start_response.give(std::move(start_response_));
    }
    objects_.environ.end(std::move(environ_));
}

// -------------------------------------------------------------------------------------- WsgiApp

WsgiApp::WsgiApp(Logger& log, WsgiOptions options, RequestHooks* hooks)
    : log_(log), options_(std::move(options)), hooks_(hooks) {
    count_forks();
    WithGil gil;
    loader_ = run_embedded("loader");
    if (!loader_) PyErr_Clear();  // load() tries again, and reports the failure
}

WsgiApp::~WsgiApp() {
    drop_reference(std::move(callable_));
    drop_reference(std::move(loader_));
    if (Py_IsInitialized() == 0) {  // Python has ended and can no longer free its objects
        (void)objects_.release();
        return;
    }
    WithGil gil;
    objects_.reset();
}

void WsgiApp::configure(WsgiOptions options, RequestHooks* hooks) {
    options_ = std::move(options);
    hooks_ = hooks;
}

Status WsgiApp::load() {
    WithGil gil;
    broken_app_text_.clear();
    broken_app_files_.clear();
    callable_ = ending_copies([this] { return find_callable(); });
    if (!callable_) {
        // PyType_FromSpec() may run out of memory without saying so.
        if (PyErr_Occurred() == nullptr) PyErr_NoMemory();
        return load_failed(take_exception());
    }
    if (options_.is_preload && !call_object(name_in(loader_, "freeze")))
        log_python_error(log_, Level::Warning, "Freezing the preloaded objects failed");
    return {};
}

/// Makes what requests share, then imports. Raises.
PyRef WsgiApp::find_callable() {
    objects_ = std::make_unique<RequestObjects>(log_);
    if (!loader_) loader_ = run_embedded("loader");
    if (!loader_ || !objects_->prepare(log_, options_)) return {};
    PyRef callable = call_object(name_in(loader_, "find"), path_str(options_.app));
    if (!callable || !options_.offers_websockets) return callable;
    return call_object(name_in(run_embedded("websocket"), "wrap"), callable);
}

Status WsgiApp::load_failed(PyRef exception) {
    if (Interpreter::has_interrupted()) return Error{0, "interrupted"};
    const auto raise = [&exception] { restore_exception(PyRef::borrow(exception.get())); };
    if (options_.survives_broken_app) {
        raise();
        broken_app_text_ = take_error_text();
        broken_app_files_ = paths_of(call_object(name_in(loader_, "files_of"), exception));
        log_.write(Level::Error, "The application cannot be loaded\n" + broken_app_text_);
        return {};
    }
    const PyRef unusable = name_in(loader_, "Unusable");
    raise();
    // The loader's message says it all, without the exception's name.
    if (unusable && PyErr_ExceptionMatches(unusable.get()) != 0)
        return Error{kExitAppFailed, take_error_sentence()};
    Error error{kExitBootFailed, take_error_text(false)};
    raise();
    log_python_error(log_, Level::Error, "Exception in worker process");
    return error;
}

std::vector<std::string> WsgiApp::source_files() {
    WithGil gil;
    std::vector<std::string> files = paths_of(call_object(name_in(loader_, "source_files")));
    files.insert(files.end(), broken_app_files_.begin(), broken_app_files_.end());
    return files;
}

void WsgiApp::call(Exchange& exchange) {
    {
        WithGil gil;
        Call(*this, exchange)
            .run(options_.is_multithread ? CallPlace::Thread : CallPlace::MainThread);
    }
    // Inside Runtime::together() the GIL is still held, and an access log may be a pipe that is
    // full.
    std::optional<WithoutGil> nogil;
    if (log_.access_may_wait() && PyGILState_Check() != 0) nogil.emplace();
    exchange.finish();
}

void WsgiApp::call_with_gil(Exchange& exchange) {
    Call(*this, exchange).run(CallPlace::Greenlet);
    WithoutGil nogil;
    exchange.finish();
}

OverdueCalls WsgiApp::interrupt_overdue(int64_t limit_ms) {
    const WithGil gil;
    if (!callable_ || !options_.watches_calls) return {.next_look_ms = limit_ms};
    return objects_->watch.interrupt(limit_ms);
}

}  // namespace gcorn
