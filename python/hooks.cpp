#include "python/hooks.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "arbiter.h"
#include "base/clock.h"
#include "base/text.h"
#include "net/exchange.h"
#include "python/config_file.h"
#include "python/embedded.h"
#include "python/forked_copy.h"
#include "python/greenlet.h"
#include "python/interpreter.h"
#include "python/logging.h"
#include "settings.h"
#include "worker.h"

namespace gcorn {
namespace {

constexpr const char* kAccessFailed = "Exception in the logger class's access()";

/// How much of a body Python gets at a time (req.body).
constexpr size_t kBodyPieceMax = 1 << 20;

PyRef pair(PyRef first, PyRef second) {
    if (!first || !second) return {};
    return PyRef::steal(PyTuple_Pack(2, first.get(), second.get()));
}

PyRef listener_facts(const std::vector<Listener*>& listeners) {
    Items items;
    for (const Listener* listener : listeners)
        items.add(pair(number(listener->fd()), path_str(listener->name())));
    return items.take();
}

PyRef worker_facts(const Worker& worker, bool is_alive) {
    // gunicorn's word for a worker that is not forked yet.
    PyRef pid = worker.pid() == 0 ? utf8_str("[booting]") : number(worker.pid());
    return Facts()
        .add("pid", std::move(pid))
        .add("ppid", number(worker.context().arbiter.pid()))
        .add("age", number(worker.age()))
        .add("nr", number(static_cast<int64_t>(worker.nr())))
        .add("_alive", boolean(is_alive))
        .add("booted", boolean(worker.booted()))
        .add("aborted", boolean(worker.aborted()))
        .add("max_requests",
             number(worker.requests_max() == 0 ? PY_SSIZE_T_MAX  // gunicorn's "never"
                                               : static_cast<int64_t>(worker.requests_max())))
        .add("listeners", listener_facts(worker.context().listeners))
        .take();
}

PyRef server_facts(const Arbiter& arbiter) {
    Items workers;
    for (const auto& [pid, worker] : arbiter.workers())
        workers.add(worker_facts(*worker, worker->alive()));
    Items arguments;
    for (const std::string& argument : arbiter.options().argv)
        arguments.add(path_str(argument));
    return Facts()
        .add("pid", number(arbiter.pid()))
        .add("master_pid", number(arbiter.predecessor()))
        .add("reexec_pid", number(arbiter.successor()))
        .add("systemd", boolean(arbiter.has_given_listeners()))
        .add("args", arguments.take())
        .add("cwd", path_str(arbiter.options().start_directory))
        .add("executable", path_str(arbiter.options().executable))
        .add("num_workers", number(arbiter.num_workers()))
        .add("worker_age", number(arbiter.worker_age()))
        .add("proc_name", path_str(arbiter.proc_name()))
        .add("workers", workers.take())
        .add("listeners", listener_facts(arbiter.listeners()))
        .take();
}

/// (server, worker), each None if its argument is null. Raises.
/// is_told: the worker was told to leave, but itself learns of that only after the hook.
PyRef make_views(const Arbiter* arbiter, const Worker* worker, bool is_told = false) {
    const PyRef server = arbiter != nullptr ? server_facts(*arbiter) : PyRef::borrow(Py_None);
    if (!server) return {};
    const PyRef own = worker != nullptr ? worker_facts(*worker, worker->alive() && !is_told)
                                        : PyRef::borrow(Py_None);
    return call_embedded("_gcorn", "views", server, own);
}

/// How a pre_exec hook wants the successor to be started. Raises.
PyRef read_start_context(Arbiter& arbiter) {
    PyRef list = call_embedded("_gcorn", "start_context");
    const std::vector<std::string> texts = list ? paths_of(list) : std::vector<std::string>();
    if (texts.size() > 2) arbiter.set_start(texts[0], texts[1], {texts.begin() + 2, texts.end()});
    return list;
}

// --- req and resp ---

constexpr char kExchangeCapsule[] = "gcorn.Exchange";

/// A share of the Exchange, so that a kept `req.body` stays readable.
PyRef exchange_capsule(Exchange& exchange) {
    auto share = std::make_unique<std::shared_ptr<Exchange>>(exchange.shared_from_this());
    const auto drop = [](PyObject* capsule) {
        std::unique_ptr<std::shared_ptr<Exchange>> dropped(static_cast<std::shared_ptr<Exchange>*>(
            PyCapsule_GetPointer(capsule, kExchangeCapsule)));
    };
    PyRef capsule = PyRef::steal(PyCapsule_New(share.get(), kExchangeCapsule, drop));
    if (capsule) (void)share.release();  // the capsule owns it now
    return capsule;
}

PyRef request_headers(const RequestHead& head) {
    Items items;
    for (const Field& field : head.fields)
        items.add(pair(latin1_str(upper(field.name)), latin1_str(field.value)));
    return items.take();
}

PyRef peer_address(const ConnectionFacts& facts) {
    if (facts.is_unix) return latin1_str("");
    const auto port = parse_decimal(facts.remote_port);
    return pair(latin1_str(facts.remote_addr), number(static_cast<int64_t>(port.value_or(0))));
}

PyRef proxy_facts(const ConnectionFacts& facts) {
    if (!facts.has_proxy_header) return PyRef::borrow(Py_None);
    return Facts()
        .add("proxy_protocol", latin1_str(facts.proxy_protocol))
        .add("client_addr", latin1_str(facts.remote_addr))
        .add("client_port", latin1_str(facts.remote_port))
        .add("proxy_addr", latin1_str(facts.proxy_addr))
        .add("proxy_port", latin1_str(facts.proxy_port))
        .take();
}

/// What gunicorn calls the path of a request.
std::string path_of(const RequestHead& head) {
    return std::string(head.script_name) + std::string(head.raw_path);
}

PyRef make_request(Exchange& exchange) {
    const RequestHead& head = exchange.head;
    const PyRef facts =
        Facts()
            .add("method", latin1_str(head.method))
            .add("uri", latin1_str(head.target))
            .add("path", latin1_str(path_of(head)))
            .add("query", latin1_str(head.query))
            .add("fragment", latin1_str(head.fragment))
            .add("version", pair(number(head.version_major), number(head.version_minor)))
            .add("headers", request_headers(head))
            .add("trailers", PyRef::steal(PyList_New(0)))
            .add("scheme", latin1_str(head.is_https ? "https" : "http"))
            .add("peer_addr", peer_address(*exchange.facts))
            .add("proxy_protocol_info", proxy_facts(*exchange.facts))
            .add("_should_close", boolean(!head.keep_alive))
            .add("_exchange", exchange_capsule(exchange))
            .take();
    return call_embedded("_gcorn", "request", facts);
}

/// None before start_response was called. Raises.
PyRef make_response(const Exchange& exchange, const PyRef& request) {
    const ResponseWriter& response = exchange.response;
    if (!response.has_status()) return PyRef::borrow(Py_None);
    const int64_t queue_us = exchange.taken_us - exchange.queued_us;
    const PyRef facts =
        Facts()
            .add("req", PyRef::borrow(request.get()))
            .add("status", latin1_str(response.status()))
            .add("status_code", number(response.status_code()))
            .add("headers", latin1_str(response.fields_block()))
            .add("response_length", response.has_content_length()
                                        ? number(static_cast<int64_t>(response.content_length()))
                                        : PyRef::borrow(Py_None))
            .add("sent", number(static_cast<int64_t>(response.body_bytes())))
            .add("headers_sent", boolean(response.head_sent()))
            .add("chunked", boolean(response.is_chunked()))
            .add("must_close", boolean(!response.keeps_alive()))
            .add("app_us", number(exchange.app_us))
            .add("queue_us", number(exchange.taken_us != 0 ? queue_us : 0))
            .take();
    return call_embedded("_gcorn", "response", facts);
}

/// read_body(capsule, position, n) → bytes, b"" at the end. Raises OSError as wsgi.input would.
PyObject* read_body(PyObject*, PyObject* arguments) {
    PyObject* capsule = nullptr;  // borrowed
    unsigned long long position = 0;
    Py_ssize_t size = 0;
    if (!PyArg_ParseTuple(arguments, "OKn", &capsule, &position, &size)) return nullptr;
    auto* exchange =
        static_cast<std::shared_ptr<Exchange>*>(PyCapsule_GetPointer(capsule, kExchangeCapsule));
    if (exchange == nullptr) return nullptr;
    std::string piece(std::min(static_cast<size_t>(std::max(size, Py_ssize_t{0})), kBodyPieceMax),
                      '\0');
    Result<size_t> taken = size_t{0};
    {
        WithoutGil nogil;
        const auto received = (*exchange)->wait_for_body(position);
        taken = received ? (*exchange)->body.read_at(position, piece.data(), piece.size())
                         : Result<size_t>(received.error());
    }
    if (!taken) {
        errno = taken.error().code;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBytes_FromStringAndSize(piece.data(), static_cast<Py_ssize_t>(*taken));
}

/// The exit status a hook asked for by sys.exit() or HaltServer; else 0.
int exit_status(PyObject* exception) {
    const bool is_exit = PyErr_GivenExceptionMatches(exception, PyExc_SystemExit) != 0;
    const PyRef status = attribute(exception, is_exit ? "code" : "exit_status");
    const long code = status && PyLong_Check(status.get()) ? PyLong_AsLong(status.get()) : is_exit;
    PyErr_Clear();
    return static_cast<int>(code & 0xff);
}

}  // namespace

/// Functions of _gcorn_native; `self` is a capsule of the PythonHooks.
struct HookNatives {
    static PyObject* wsgi(PyObject* self, PyObject*) {
        const WsgiApp* app = native_self<PythonHooks>(self).app_;
        PyObject* callable = app != nullptr ? app->callable() : nullptr;
        return PyRef::borrow(callable != nullptr ? callable : Py_None).release();
    }
    static PyObject* load(PyObject* self, PyObject*) {
        WsgiApp* app = native_self<PythonHooks>(self).app_;
        if (app != nullptr && !app->is_loaded()) {
            if (Status loaded = app->load(); !loaded)
                return PyErr_Format(PyExc_RuntimeError, "%s", loaded.message().c_str());
        }
        return wsgi(self, nullptr);
    }
    static PyObject* notify(PyObject* self, PyObject*) {
        if (Worker* worker = native_self<PythonHooks>(self).worker_) {
            worker->context().scoreboard.slot(worker->slot()).beat();
        }
        return PyRef::borrow(Py_None).release();
    }
    static PyObject* leave(PyObject* self, PyObject*) {
        if (Worker* worker = native_self<PythonHooks>(self).worker_) worker->leave();
        return PyRef::borrow(Py_None).release();
    }
    static inline PyMethodDef definitions[] = {
        {"wsgi", wsgi, METH_NOARGS, nullptr},
        {"load", load, METH_NOARGS, nullptr},
        {"notify", notify, METH_NOARGS, nullptr},
        {"leave", leave, METH_NOARGS, nullptr},
        {"read_body", read_body, METH_VARARGS, nullptr},
    };
};

PythonHooks::PythonHooks(Logger& log, PythonLogging& logging, WsgiApp* app)
    : log_(log), logging_(logging), app_(app) {
    count_forks();
    const WithGil gil;
    for (PyMethodDef& definition : HookNatives::definitions)
        if (!add_native(definition, this)) PyErr_Clear();  // the view that misses it will say so
}

PythonHooks::~PythonHooks() {
    for (auto& [exchange, view] : requests_)
        drop_reference(std::move(view));
    drop_reference(std::move(own_view_));
}

Status PythonHooks::prepare_for_interrupts(const Config& cfg) {
    if (!cfg.worker_int && !cfg.worker_abort) return {};
    WithGil gil;
    if (embedded_module("_gcorn_logging")) return {};
    return python_error("prepare the worker_int and worker_abort hooks");
}

Status PythonHooks::run(Hook hook, Arbiter* arbiter, Worker* worker,
                        std::initializer_list<int> numbers) {
    if (hook == &Config::post_fork) worker_ = worker;
    GCORN_CHECK(worker != nullptr || arbiter != nullptr);
    // A worker's hooks are those of the configuration it was made with, even after a reload.
    // cppcheck-suppress nullPointerRedundantCheck ; one of the two is there
    const HookRef& reference = (worker != nullptr ? worker->context().cfg : arbiter->cfg()).*hook;
    if (!reference) return {};
    WithGil gil;
    has_shown_server_ = has_shown_server_ || arbiter != nullptr;
    const bool is_told = hook == &Config::worker_int || hook == &Config::worker_abort;
    const PyRef views = make_views(arbiter, worker, is_told);
    Items items;
    if (views && arbiter != nullptr) items.add(PyRef::borrow(PyTuple_GET_ITEM(views.get(), 0)));
    if (views && worker != nullptr) items.add(PyRef::borrow(PyTuple_GET_ITEM(views.get(), 1)));
    for (const int value : numbers)
        if (views) items.add(value < 0 ? PyRef::borrow(Py_None) : number(value));
    const PyRef list = items.take();
    const PyRef arguments = views && list ? PyRef::steal(PyList_AsTuple(list.get())) : PyRef();
    const bool was_interrupted = Interpreter::has_interrupted();
    PyRef done = ending_copies([&] {  // before they take down what belongs to their parent
        return PyRef::steal(
            arguments ? PyObject_CallObject(object_of(reference).get(), arguments.get()) : nullptr);
    });
    if (done && hook == &Config::pre_exec) done = read_start_context(*arbiter);
    if (done) return {};
    if (Interpreter::has_interrupted() != was_interrupted) {
        PyErr_Clear();  // no failure of the hook; what the signal asks for comes next
        return {};
    }

    const std::string name(
        std::ranges::find(settings(), MemberPointer(hook), &Setting::field)->name);
    PyRef exception = take_exception();
    Error error{exit_status(exception.get()), name + " hook: "};
    restore_exception(PyRef::borrow(exception.get()));
    error.message += take_error_text(false);
    restore_exception(std::move(exception));
    const bool is_exit_hook = hook == &Config::worker_exit;
    log_python_error(
        log_, is_exit_hook ? Level::Warning : Level::Error,
        is_exit_hook ? "Exception during worker exit" : "Exception in " + name + " hook");
    return error;
}

/// A thread that a hook started may look at the server view that the hook was given.
void PythonHooks::workers_changed(Arbiter& arbiter) {
    if (!has_shown_server_) return;
    WithGil gil;
    if (!make_views(&arbiter, nullptr)) PyErr_Clear();
}

bool PythonHooks::has_request_hooks(const Config& cfg) const {
    return cfg.pre_request || cfg.post_request || logging_takes_over(cfg) ||
           log_.enabled(Level::Debug);
}

/// The view holds the Exchange, so it is the caller who drops it: without the lock.
PyRef PythonHooks::take_request(const Exchange& exchange) {
    const std::lock_guard lock(mutex_);
    auto ended = requests_.extract(&exchange);
    return ended ? std::move(ended.mapped()) : PyRef();
}

/// The Worker view; if it exists already, only what requests change is refreshed. Raises.
PyRef PythonHooks::worker_view() {
    PyRef view = [this] {
        const std::lock_guard lock(mutex_);
        return PyRef::borrow(own_view_.get());
    }();
    if (view) {
        const PyRef facts = attribute(view.get(), "__dict__");
        const PyRef nr = number(static_cast<int64_t>(worker_->nr()));
        if (!facts || !nr || PyDict_SetItemString(facts.get(), "nr", nr.get()) < 0 ||
            PyDict_SetItemString(facts.get(), "_alive", boolean(worker_->alive()).get()) < 0)
            return {};
    } else if (const PyRef views = make_views(nullptr, worker_)) {
        view = PyRef::borrow(PyTuple_GET_ITEM(views.get(), 1));
        const std::lock_guard lock(mutex_);
        if (!own_view_) own_view_ = PyRef::borrow(view.get());
    }
    return view;
}

bool PythonHooks::pre_request(Exchange& exchange) {
    (void)take_request(exchange);  // of an earlier request that never came to its end
    const HookRef hook = worker_->context().cfg.pre_request;
    if (!hook) {
        const RequestHead& head = exchange.head;
        if (log_.enabled(Level::Debug))
            log_.debug("%s %s", escape_for_log(head.method).c_str(),
                       escape_for_log(path_of(head)).c_str());
        return true;
    }
    const PyRef worker = worker_view();
    const PyRef request = worker ? make_request(exchange) : PyRef();
    if (request) {
        const std::lock_guard lock(mutex_);
        requests_[&exchange] = PyRef::borrow(request.get());
    }
    return static_cast<bool>(call_object(object_of(hook), worker, request));
}

bool PythonHooks::environ_made(Exchange& exchange, PyObject* environ) {
    const PyRef request = [&] {  // null: there is no pre_request hook
        const std::lock_guard lock(mutex_);
        const auto found = requests_.find(&exchange);
        return PyRef::borrow(found != requests_.end() ? found->second.get() : nullptr);
    }();
    return !request || call_embedded("_gcorn", "adjust", request, PyRef::borrow(environ));
}

bool PythonHooks::post_request(Exchange& exchange, PyObject* environ_or_null) {
    const HookRef hook = worker_->context().cfg.post_request;
    PyRef request = take_request(exchange);
    if (!hook && !logging_.takes_over()) return true;
    if (!request) request = make_request(exchange);
    const PyRef environ =
        environ_or_null != nullptr ? PyRef::borrow(environ_or_null) : PyRef::steal(PyDict_New());
    const PyRef response = request && environ ? make_response(exchange, request) : PyRef();
    if (!response) return false;
    if (logging_.takes_over() && response.get() != Py_None) {
        const int64_t end_us = exchange.done_us != 0 ? exchange.done_us : monotonic_us();
        if (environ_or_null == nullptr)
            write_refused(exchange, request, response);  // pre_request failed
        else if (!call_embedded("_gcorn_logging", "access", response, request, environ,
                                number(end_us - exchange.received_us)))
            log_python_error(log_, Level::Error, kAccessFailed);
    }
    return !hook || call_object(object_of(hook), worker_view(), request, environ, response);
}

bool PythonHooks::logs_requests() {
    const bool took_over = logging_.takes_over();
    if (!logging_.follow_loggers()) return false;
    if (!took_over && app_ != nullptr) app_->log_requests(*this);
    return true;
}

void PythonHooks::request_refused(Exchange& exchange) {
    WithGil gil;
    const PyRef request = make_request(exchange);
    write_refused(exchange, request, request ? make_response(exchange, request) : PyRef());
}

/// The access record of a request that has no environ.
void PythonHooks::write_refused(const Exchange& exchange, const PyRef& request,
                                const PyRef& response) {
    if (!response ||
        !call_embedded("_gcorn_logging", is_beside_hub() ? "refused_in_hub" : "refused", response,
                       request, latin1_str(exchange.facts->remote_addr),
                       latin1_str(exchange.head.protocol),
                       number(monotonic_us() - exchange.received_us))) {
        log_python_error(log_, Level::Error, kAccessFailed);
    }
}

}  // namespace gcorn
