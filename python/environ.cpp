#include "python/environ.h"

#include <array>
#include <cstdint>
#include <iterator>

#include "app.h"
#include "base/text.h"

namespace gcorn {
namespace {

// X(identifier, "key"): all keys a request always has. They are more than 21 on purpose: a
// dictionary of that size has room for 42, so a copy of the template takes twenty fields without
// growing.
#define GCORN_ENVIRON_KEYS(X)                         \
    X(request_method, "REQUEST_METHOD")               \
    X(raw_uri, "RAW_URI")                             \
    X(script_name, "SCRIPT_NAME")                     \
    X(path_info, "PATH_INFO")                         \
    X(query_string, "QUERY_STRING")                   \
    X(server_protocol, "SERVER_PROTOCOL")             \
    X(server_name, "SERVER_NAME")                     \
    X(server_port, "SERVER_PORT")                     \
    X(server_software, "SERVER_SOFTWARE")             \
    X(remote_addr, "REMOTE_ADDR")                     \
    X(remote_port, "REMOTE_PORT")                     \
    X(wsgi_version, "wsgi.version")                   \
    X(wsgi_url_scheme, "wsgi.url_scheme")             \
    X(wsgi_input, "wsgi.input")                       \
    X(wsgi_input_terminated, "wsgi.input_terminated") \
    X(wsgi_errors, "wsgi.errors")                     \
    X(wsgi_multithread, "wsgi.multithread")           \
    X(wsgi_multiprocess, "wsgi.multiprocess")         \
    X(wsgi_run_once, "wsgi.run_once")                 \
    X(wsgi_file_wrapper, "wsgi.file_wrapper")         \
    X(wsgi_early_hints, "wsgi.early_hints")           \
    X(gunicorn_socket, "gunicorn.socket")

#define GCORN_KEY_COUNT(identifier, key) +1  // NOLINT(bugprone-macro-parentheses): a sum's terms
constexpr size_t kAlwaysThere = 0 GCORN_ENVIRON_KEYS(GCORN_KEY_COUNT);
#undef GCORN_KEY_COUNT

constexpr std::string_view kMethods[] = {"HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
/// Keys that a copy of the template takes without growing.
constexpr Py_ssize_t kKeysThatFit = 42;
constexpr size_t kFieldIds = static_cast<size_t>(FieldId::Count);
constexpr size_t kCachedBytesMax = 512;  // of one value

/// An interned str of the process's own; null with an exception set. Raises.
PyRef interned(std::string_view text) {
    PyRef str = latin1_str(text);
    if (!str) return str;
    PyObject* object = str.release();
    PyUnicode_InternInPlace(&object);  // takes the reference and gives one back
    return PyRef::steal(object);
}

/// "user-agent" → "HTTP_USER_AGENT"; the two fields of RFC 3875 §4.1.2-3 have no prefix.
std::string environ_key(std::string_view field_name) {
    const FieldId id = find_field(field_name);
    const bool is_bare = id == FieldId::ContentType || id == FieldId::ContentLength;
    std::string key = is_bare ? "" : "HTTP_";
    for (const char c : field_name)
        key += c == '-' ? '_' : to_upper(c);
    return key;
}

bool set(PyObject* environ, const PyRef& key, const PyRef& value) {
    return value && PyDict_SetItem(environ, key.get(), value.get()) == 0;
}

/// A copy with room for some forty keys more. A dictionary gets larger when a key finds no room,
/// and popitem() takes the key back but leaves the size. Raises.
PyRef widened(PyObject* environ) {
    PyRef copy = PyRef::steal(PyDict_Copy(environ));
    if (!copy) return copy;
    const Py_ssize_t size = PyDict_Size(environ);
    for (Py_ssize_t i = size; i <= kKeysThatFit; ++i)
        if (!set(copy.get(), latin1_str(std::to_string(i)), PyRef::borrow(Py_None))) return {};
    while (PyDict_Size(copy.get()) > size)
        if (!PyRef::steal(PyObject_CallMethod(copy.get(), "popitem", nullptr))) return {};
    return copy;
}

bool set_text(PyObject* environ, const char* key, std::string_view text) {
    PyRef value = latin1_str(text);
    return value && PyDict_SetItemString(environ, key, value.get()) == 0;
}

}  // namespace

PyRef StrCache::get(std::string_view text) {
#ifndef Py_GIL_DISABLED
    if (str_) {  // made by latin1_str(): none of latin1_view()'s questions is open
        const std::string_view last(reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(str_.get())),
                                    static_cast<size_t>(PyUnicode_GET_LENGTH(str_.get())));
        if (last == text) return PyRef::borrow(str_.get());
    }
    if (text.size() > kCachedBytesMax) return latin1_str(text);
    str_ = latin1_str(text);
    return PyRef::borrow(str_.get());
#else
    return latin1_str(text);
#endif
}

struct EnvironMaker::Names {
#define GCORN_KEY_MEMBER(identifier, key) PyRef identifier;
    GCORN_ENVIRON_KEYS(GCORN_KEY_MEMBER)
#undef GCORN_KEY_MEMBER
    std::array<PyRef, kFieldIds> fields;  ///< HTTP_… keys by FieldId
    std::array<PyRef, std::size(kMethods)> methods;
    PyRef get, http, https, http_10, http_11, slash, empty;

    bool prepare();
    [[nodiscard]] PyRef method(std::string_view text) const;
    [[nodiscard]] PyRef protocol(const RequestHead& head) const;
    [[nodiscard]] PyRef path(std::string_view text) const;
};

bool EnvironMaker::Names::prepare() {
// NOLINTBEGIN(bugprone-macro-parentheses): a name
#define GCORN_KEY_INTERN(identifier, key) \
    if (!(identifier = interned(key))) return false;
    GCORN_ENVIRON_KEYS(GCORN_KEY_INTERN)
#undef GCORN_KEY_INTERN
    // NOLINTEND(bugprone-macro-parentheses)
    for (size_t id = 1; id < kFieldIds; ++id)
        if (!(fields[id] = interned(environ_key(kFieldNames[id])))) return false;
    for (size_t i = 0; i < methods.size(); ++i)
        if (!(methods[i] = interned(kMethods[i]))) return false;
    get = interned("GET");
    http = interned("http");
    https = interned("https");
    http_10 = interned("HTTP/1.0");
    http_11 = interned("HTTP/1.1");
    slash = interned("/");
    empty = interned("");
    return get && http && https && http_10 && http_11 && slash && empty;
}

PyRef EnvironMaker::Names::method(std::string_view text) const {
    for (size_t i = 0; i < std::size(kMethods); ++i)
        if (text == kMethods[i]) return PyRef::borrow(methods[i].get());
    return latin1_str(text);
}

PyRef EnvironMaker::Names::protocol(const RequestHead& head) const {
    if (head.protocol == "HTTP/1.0") return PyRef::borrow(http_10.get());
    return latin1_str(head.protocol);
}

PyRef EnvironMaker::Names::path(std::string_view text) const {
    if (text == "/") return PyRef::borrow(slash.get());
    if (text.empty()) return PyRef::borrow(empty.get());
    if (text.find('%') == std::string_view::npos) return latin1_str(text);
    return latin1_str(percent_decode(text));
}

EnvironMaker::EnvironMaker() = default;
EnvironMaker::~EnvironMaker() = default;

bool EnvironMaker::prepare(const EnvironConstants& constants) {
    names_ = std::make_unique<Names>();
    if (!names_->prepare()) return false;
    const Names& n = *names_;
    template_ = PyRef::steal(PyDict_New());
    if (!template_) return false;
    PyObject* t = template_.get();
    // Placeholders for what every request sets: a key that is there already is replaced in place.
#define GCORN_KEY_PLACE(identifier, key) \
    if (!set(t, n.identifier, n.empty)) return false;
    GCORN_ENVIRON_KEYS(GCORN_KEY_PLACE)
#undef GCORN_KEY_PLACE
    const auto boolean = [](bool value) { return PyRef::steal(PyBool_FromLong(value ? 1 : 0)); };
    const bool is_set =
        set(t, n.request_method, n.get) && set(t, n.server_protocol, n.http_11) &&
        set(t, n.wsgi_url_scheme, n.http) &&
        set(t, n.server_software, latin1_str(kCompatibleSoftware + std::string(GCORN_VERSION))) &&
        set(t, n.wsgi_version, PyRef::steal(Py_BuildValue("(ii)", 1, 0))) &&
        set(t, n.wsgi_input_terminated, boolean(true)) &&
        set(t, n.wsgi_errors, PyRef::borrow(constants.errors)) &&
        set(t, n.wsgi_multithread, boolean(constants.is_multithread)) &&
        set(t, n.wsgi_multiprocess, boolean(constants.is_multiprocess)) &&
        set(t, n.wsgi_run_once, boolean(false)) &&
        set(t, n.wsgi_file_wrapper, PyRef::borrow(constants.file_wrapper));
    if (is_set) wide_template_ = widened(t);
    return static_cast<bool>(wide_template_);
}

PyRef EnvironMaker::make(const Exchange& exchange, const EnvironObjects& objects) {
    const Names& n = *names_;
    const auto keys = static_cast<Py_ssize_t>(kAlwaysThere + exchange.head.fields.size());
    const PyRef& pattern = keys > kKeysThatFit ? wide_template_ : template_;
    PyRef environ = PyRef::steal(PyDict_Copy(pattern.get()));
    if (!environ) return environ;
    PyObject* e = environ.get();
    const bool is_made = set_request_line(e, exchange.head) && set_addresses(e, exchange) &&
                         PyDict_SetItem(e, n.wsgi_input.get(), objects.input) == 0 &&
                         PyDict_SetItem(e, n.wsgi_early_hints.get(), objects.early_hints) == 0 &&
                         PyDict_SetItem(e, n.gunicorn_socket.get(), objects.socket) == 0 &&
                         set_fields(e, exchange.head) && set_transport(e, *exchange.facts);
    if (!is_made) return {};
    return environ;
}

bool EnvironMaker::set_request_line(PyObject* environ, const RequestHead& head) {
    const Names& n = *names_;
    PyRef path = n.path(head.raw_path);
    // Most targets are nothing but a plain path: one str serves both keys.
    const bool is_plain =
        head.target == head.raw_path && head.target.find('%') == std::string_view::npos;
    PyRef target = is_plain ? PyRef::borrow(path.get()) : latin1_str(head.target);
    bool is_set = set(environ, n.raw_uri, target) && set(environ, n.path_info, path);
    // The template holds what most requests say: GET, HTTP/1.1, http, no query, no mount point.
    if (is_set && head.method != "GET")
        is_set = set(environ, n.request_method, n.method(head.method));
    if (is_set && head.protocol != "HTTP/1.1")
        is_set = set(environ, n.server_protocol, n.protocol(head));
    if (is_set && head.is_https) is_set = set(environ, n.wsgi_url_scheme, n.https);
    if (is_set && !head.query.empty())
        is_set = set(environ, n.query_string, latin1_str(head.query));
    if (is_set && !head.script_name.empty())
        is_set = set(environ, n.script_name, latin1_str(head.script_name));
    return is_set;
}

bool EnvironMaker::set_addresses(PyObject* environ, const Exchange& exchange) {
    const Names& n = *names_;
    const ConnectionFacts& facts = *exchange.facts;
    // A unix socket's peer has a name only if a PROXY header gave it one.
    const bool has_peer = !facts.remote_port.empty();
    const bool is_set = has_peer
                            ? set(environ, n.remote_addr, remote_addr_.get(facts.remote_addr)) &&
                                  set(environ, n.remote_port, latin1_str(facts.remote_port))
                            : PyDict_DelItem(environ, n.remote_port.get()) == 0;
    if (!is_set) return false;
    if (facts.is_unix) return set_unix_server(environ, exchange);
    return set(environ, n.server_name, server_name_.get(facts.server_name)) &&
           set(environ, n.server_port, server_port_.get(facts.server_port));
}

/// A unix socket has neither name nor port, so the client's Host is the best there is.
bool EnvironMaker::set_unix_server(PyObject* environ, const Exchange& exchange) {
    const Names& n = *names_;
    const RequestHead& head = exchange.head;
    const Field* host = head.find(FieldId::Host);
    std::string_view name = head.authority;
    if (name.empty() && host != nullptr) name = host->value;
    if (name.empty())
        return set(environ, n.server_name, server_name_.get(exchange.facts->server_name));
    std::string_view port = head.is_https ? "443" : "80";
    const size_t colon = name.rfind(':');
    const bool has_port =
        colon != std::string_view::npos && name.find(']', colon) == std::string_view::npos;
    if (has_port) {
        if (colon + 1 < name.size()) port = name.substr(colon + 1);
        name = name.substr(0, colon);
    }
    return set(environ, n.server_name, server_name_.get(name)) &&
           set(environ, n.server_port, server_port_.get(port));
}

/// A client tends to send the same values again. Secrets are not kept beyond their request.
PyRef EnvironMaker::value_of(const Field& field) {
    const bool is_secret = field.id == FieldId::Authorization || field.id == FieldId::Cookie ||
                           field.id == FieldId::ProxyAuthorization;
    if (is_secret) return latin1_str(field.value);
    return values_[static_cast<size_t>(field.id)].get(field.value);
}

bool EnvironMaker::set_fields(PyObject* environ, const RequestHead& head) {
    uint64_t seen = 0;
    static_assert(kFieldIds <= 64);
    constexpr uint64_t kAnything = ~uint64_t{0};
    for (const Field& field : head.fields) {
        if (field.id == FieldId::Unknown) {
            PyRef key = latin1_str(environ_key(field.name));
            if (!key || !set_repeatable(environ, key.get(), field)) return false;
            // "X_Request_Id" may share its key with the known X-Request-Id that follows.
            if (field.name.find('_') != std::string_view::npos) seen = kAnything;
            continue;
        }
        const PyRef& key = names_->fields[static_cast<size_t>(field.id)];
        const uint64_t bit = uint64_t{1} << static_cast<unsigned>(field.id);
        const bool is_first = (seen & bit) == 0;
        seen |= bit;
        if (!is_first) {
            if (!set_repeatable(environ, key.get(), field)) return false;
        } else if (!set(environ, key, value_of(field))) {
            return false;
        }
    }
    // The target's authority replaces Host (RFC 9112 §3.2.2).
    const PyRef& host = names_->fields[static_cast<size_t>(FieldId::Host)];
    return head.authority.empty() || set(environ, host, latin1_str(head.authority));
}

/// Sets a field, or appends to its earlier value: gunicorn joins with a bare comma. Deviation:
/// Cookie with "; " (RFC 6265 §5.4), for a comma would spoil both cookies.
bool EnvironMaker::set_repeatable(PyObject* environ, PyObject* key, const Field& field) {
    PyObject* earlier = PyDict_GetItemWithError(environ, key);  // borrowed
    PyRef value;
    if (earlier == nullptr) {
        if (PyErr_Occurred() != nullptr) return false;
        value = latin1_str(field.value);
    } else {
        PyRef addition = latin1_str(field.value);
        const char* separator = field.id == FieldId::Cookie ? "; " : ",";
        if (addition)
            value.reset(PyUnicode_FromFormat("%U%s%U", earlier, separator, addition.get()));
    }
    return value && PyDict_SetItem(environ, key, value.get()) == 0;
}

bool EnvironMaker::set_transport(PyObject* environ, const ConnectionFacts& facts) {
    return !facts.has_proxy_header || (set_text(environ, "PROXY_PROTOCOL", facts.proxy_protocol) &&
                                       set_text(environ, "PROXY_ADDR", facts.proxy_addr) &&
                                       set_text(environ, "PROXY_PORT", facts.proxy_port));
}

// ------------------------------------------------------------------------------ gunicorn.socket

namespace {

struct SocketObject {
    PyObject_HEAD Exchange* exchange;  ///< null once the request is over
    PyObject* socket;                  ///< socket.socket after the first use; owned
};

SocketObject* as_socket(PyObject* object) {
    return reinterpret_cast<SocketObject*>(object);
}

/// The real socket, taken from the server now if it was not yet. Borrowed. Raises.
PyObject* real_socket(SocketObject* self) {
    if (self->socket != nullptr) return self->socket;
    if (self->exchange == nullptr) {
        PyErr_SetString(PyExc_ValueError, "gunicorn.socket was not taken before its request ended");
        return nullptr;
    }
    Result<Fd> fd = self->exchange->detach();
    if (!fd) {
        PyErr_SetString(PyExc_OSError, fd.message().c_str());
        return nullptr;
    }
    PyRef type = import("socket", "socket");
    PyRef arguments = type ? PyRef::steal(PyTuple_New(0)) : PyRef();
    PyRef keywords =
        arguments ? PyRef::steal(Py_BuildValue("{s:i}", "fileno", fd->get())) : PyRef();
    if (!keywords) return nullptr;
    self->socket = PyObject_Call(type.get(), arguments.get(), keywords.get());
    if (self->socket == nullptr) return nullptr;
    (void)fd->release();  // the socket object closes it
    // Libraries made for gunicorn expect the blocking socket that its workers hand out.
    PyRef done = PyRef::steal(PyObject_CallMethod(self->socket, "setblocking", "i", 1));
    return done ? self->socket : nullptr;
}

/// Looking at an object (repr, copy, isinstance) is no use of the socket: dunder names stay ours.
bool is_dunder(PyObject* name) {
    std::string_view text;
    return latin1_view(name, text) && text.starts_with("__");
}

/// What a TLS connection tells about its peer, as an ssl.SSLSocket does; null without an exception
/// if there is nothing of that name. Raises.
bool peer_attribute(const Exchange* exchange, PyObject* name, PyRef& value) {
    if (exchange == nullptr || exchange->facts->tls_peer == nullptr) return true;
    return optional_attribute(static_cast<PyObject*>(exchange->facts->tls_peer), name, value);
}

PyObject* socket_getattr(PyObject* self, PyObject* name) {
    if (is_dunder(name)) return PyObject_GenericGetAttr(self, name);
    PyRef value;
    if (!peer_attribute(as_socket(self)->exchange, name, value)) return nullptr;
    if (value) return value.release();
    PyObject* socket = real_socket(as_socket(self));
    return socket == nullptr ? nullptr : PyObject_GetAttr(socket, name);
}

PyObject* socket_repr(PyObject* self) {
    SocketObject* me = as_socket(self);
    if (me->socket != nullptr) return PyObject_Repr(me->socket);
    return PyUnicode_FromString("<gunicorn.socket, not taken>");
}

void socket_dealloc(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    Py_XDECREF(as_socket(self)->socket);
    PyObject_Free(self);
    Py_DECREF(type);
}

PyType_Slot socket_slots[] = {
    {Py_tp_getattro, reinterpret_cast<void*>(socket_getattr)},
    {Py_tp_repr, reinterpret_cast<void*>(socket_repr)},
    {Py_tp_dealloc, reinterpret_cast<void*>(socket_dealloc)},
    {0, nullptr},
};
PyType_Spec socket_spec = {"gcorn.ClientSocket", sizeof(SocketObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, socket_slots};

}  // namespace

bool SocketProxy::prepare() {
    type_.reset(PyType_FromSpec(&socket_spec));
    return static_cast<bool>(type_);
}

PyRef SocketProxy::make(Exchange& exchange) const {
    auto* self = PyObject_New(SocketObject, reinterpret_cast<PyTypeObject*>(type_.get()));
    if (self == nullptr) return {};
    self->exchange = &exchange;
    self->socket = nullptr;
    return PyRef::steal(reinterpret_cast<PyObject*>(self));
}

void SocketProxy::end(PyObject* proxy) {
    as_socket(proxy)->exchange = nullptr;
}

}  // namespace gcorn
