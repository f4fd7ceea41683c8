#include "python/environ.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>

#include "app.h"
#include "base/text.h"
#include "python/dict_watch.h"
#include "python/embedded.h"
#include "python/send_turn.h"

namespace gcorn {
namespace {

/// All keys that every request has. There are more than 21 on purpose: a dictionary of that size
/// has room for 42, so a copy of the template takes twenty fields without growing.
constexpr const char* kKeyTexts[] = {
    // In the order of Key.
    "REQUEST_METHOD",   "RAW_URI",           "SCRIPT_NAME",           "PATH_INFO",
    "QUERY_STRING",     "SERVER_PROTOCOL",   "SERVER_NAME",           "SERVER_PORT",
    "SERVER_SOFTWARE",  "REMOTE_ADDR",       "REMOTE_PORT",           "wsgi.version",
    "wsgi.url_scheme",  "wsgi.input",        "wsgi.input_terminated", "wsgi.errors",
    "wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once",         "wsgi.file_wrapper",
    "wsgi.early_hints", "gunicorn.socket"};
enum Key : uint8_t {
    kRequestMethod,
    kRawUri,
    kScriptName,
    kPathInfo,
    kQueryString,
    kServerProtocol,
    kServerName,
    kServerPort,
    kServerSoftware,
    kRemoteAddr,
    kRemotePort,
    kVersion,
    kUrlScheme,
    kInput,
    kInputTerminated,
    kErrors,
    kMultithread,
    kMultiprocess,
    kRunOnce,
    kFileWrapper,
    kEarlyHints,
    kSocket,
    kKeys
};
static_assert(std::size(kKeyTexts) == kKeys);

constexpr std::string_view kMethods[] = {"HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
/// How many keys a copy of the template holds without growing.
constexpr Py_ssize_t kKeysThatFit = 42;
constexpr size_t kFieldIds = static_cast<size_t>(FieldId::Count);
// How many shapes of requests are remembered, and the shift from a 64-bit hash to the index of one.
constexpr size_t kPatterns = 8;
constexpr unsigned kPlaceShift = 64 - 3;
constexpr size_t kKeptBytesMax = 512;  // of one value

/// An interned str. Raises.
PyRef interned(const char* ascii) {
    return PyRef::steal(PyUnicode_InternFromString(ascii));
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
    return key && value && PyDict_SetItem(environ, key.get(), value.get()) == 0;
}

bool set_text(PyObject* environ, const char* key, std::string_view text) {
    PyRef value = latin1_str(text);
    return value && PyDict_SetItemString(environ, key, value.get()) == 0;
}

/// A copy with room for some forty more keys. A dictionary grows when a key does not fit, and
/// popitem() removes the key again but keeps the size. Raises.
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

constexpr uint64_t bit_of(FieldId id) {
    return uint64_t{1} << static_cast<unsigned>(id);
}
static_assert(kFieldIds <= 64);
constexpr uint64_t kSecrets =
    bit_of(FieldId::Authorization) | bit_of(FieldId::Cookie) | bit_of(FieldId::ProxyAuthorization);

/// How a field enters the environ.
enum class FieldKind : uint8_t {
    Joined,  ///< any but those below: unknown, or its key may be set already
    Shared,  ///< a known field that a client tends to send again with the same value
    Own      ///< a known field of this request alone: secrets and long values are not kept
};

}  // namespace

/// The fields of a head, each with its kind.
class SortedFields {
public:
    explicit SortedFields(const RequestHead& head) {
        const size_t count = std::min(head.fields.size(), kinds_.size());
        for (size_t i = 0; i < count && !is_mixed_; ++i)
            kinds_[i] = sort(head.fields[i]);
        has_joined_ = static_cast<size_t>(std::popcount(known_)) < head.fields.size();
    }
    /// Of the field at this index. Fields that come late in a long head are Joined, whatever they
    /// are.
    [[nodiscard]] FieldKind kind(size_t at) const {
        return at < kinds_.size() ? kinds_[at] : FieldKind::Joined;
    }
    /// Those that are Shared or Own, one bit per FieldId.
    [[nodiscard]] uint64_t known() const { return known_; }
    /// Those that are Own.
    [[nodiscard]] uint64_t own() const { return own_; }
    [[nodiscard]] bool has_joined() const { return has_joined_; }

private:
    FieldKind sort(const Field& field) {
        if (field.id == FieldId::Unknown) {
            // "X_Request_Id" shares its key with the known X-Request-Id that may follow.
            is_mixed_ = field.name.find('_') != std::string_view::npos;
            return FieldKind::Joined;
        }
        const uint64_t bit = bit_of(field.id);
        if ((known_ & bit) != 0) return FieldKind::Joined;
        known_ |= bit;
        if ((bit & kSecrets) == 0 && field.value.size() <= kKeptBytesMax) return FieldKind::Shared;
        own_ |= bit;
        return FieldKind::Own;
    }

    std::array<FieldKind, 64> kinds_{};  // Joined
    uint64_t known_ = 0, own_ = 0;
    bool is_mixed_ = false;
    bool has_joined_ = false;
};

struct EnvironMaker::Names {
    std::array<PyRef, kKeys> keys;
    std::array<PyRef, kFieldIds> fields;  ///< HTTP_… keys by FieldId
    std::array<PyRef, std::size(kMethods)> methods;
    PyRef get, http, https, http_10, http_11, slash, empty;
    /// The usual value of each key whose value may be the request's own: GET, /, HTTP/1.1, empty.
    /// Borrowed from the members above, except for the input; null for the other keys.
    std::array<PyObject*, kKeys> common{};

    bool prepare(PyObject* no_input);
    [[nodiscard]] PyRef method(std::string_view text) const;
    [[nodiscard]] PyRef path(std::string_view text) const;
};

bool EnvironMaker::Names::prepare(PyObject* no_input) {
    for (size_t i = 0; i < kKeys; ++i)
        if (!(keys[i] = interned(kKeyTexts[i]))) return false;
    for (size_t id = 1; id < kFieldIds; ++id)
        if (!(fields[id] = interned(environ_key(kFieldNames[id]).c_str()))) return false;
    for (size_t i = 0; i < methods.size(); ++i)
        if (!(methods[i] = interned(kMethods[i].data()))) return false;
    get = interned("GET");
    http = interned("http");
    https = interned("https");
    http_10 = interned("HTTP/1.0");
    http_11 = interned("HTTP/1.1");
    slash = interned("/");
    empty = interned("");
    common[kRequestMethod] = get.get();
    common[kRawUri] = slash.get();
    common[kScriptName] = empty.get();
    common[kPathInfo] = slash.get();
    common[kQueryString] = empty.get();
    common[kServerProtocol] = http_11.get();
    common[kInput] = no_input;
    return get && http && https && http_10 && http_11 && slash && empty;
}

PyRef EnvironMaker::Names::method(std::string_view text) const {
    for (size_t i = 0; i < std::size(kMethods); ++i)
        if (text == kMethods[i]) return PyRef::borrow(methods[i].get());
    return latin1_str(text);
}

PyRef EnvironMaker::Names::path(std::string_view text) const {
    if (text == "/") return PyRef::borrow(slash.get());
    if (text.empty()) return PyRef::borrow(empty.get());
    if (text.find('%') == std::string_view::npos) return latin1_str(text);
    return latin1_str(percent_decode(text));
}

namespace {

// ------------------------------------------------------------------------------ gunicorn.socket

/// The base class of ClientSocket (client_socket.py).
struct Client {
    RequestBound bound;
    bool is_used;   ///< one of its methods was called: it serves this request only
    bool is_taken;  ///< from the server
};

Client* as_client(PyObject* object) {
    return reinterpret_cast<Client*>(object);
}

/// The Exchange, shared, because another thread of the application may end it meanwhile. Raises.
std::shared_ptr<Exchange> exchange_of(PyObject* client) {
    if (Exchange* exchange = as_bound(client)->exchange) return exchange->shared_from_this();
    PyErr_SetString(PyExc_ValueError,
                    "gunicorn.socket used for the first time after its request ended");
    return nullptr;
}

PyObject* raise_os_error(const Error& error) {
    return PyErr_Format(PyExc_OSError, "%s", error.message.c_str());
}

/// _detach(own): own(descriptor) makes the socket, and tells whether it took the descriptor.
PyObject* client_detach(PyObject* self, PyObject* own) {
    const std::shared_ptr<Exchange> exchange = exchange_of(self);
    if (!exchange) return nullptr;
    const SendTurn turn(*exchange);
    if (as_client(self)->is_taken) Py_RETURN_NONE;  // another thread was faster
    if (!exchange_of(self)) return nullptr;
    Result<Fd> fd = [&] {
        WithoutGil nogil;
        return exchange->detach();
    }();
    if (!fd) return raise_os_error(fd.error());
    as_client(self)->is_used = true;
    const PyRef is_owned = call_object(PyRef::borrow(own), number(fd->get()));
    if (!is_owned) return nullptr;
    as_client(self)->is_taken = true;
    if (is_owned.get() == Py_True) (void)fd->release();  // the socket object closes it
    Py_RETURN_NONE;
}

/// _copy(): a new descriptor, for code that only looks at the socket.
PyObject* client_copy(PyObject* self, PyObject*) {
    const std::shared_ptr<Exchange> exchange = exchange_of(self);
    if (!exchange) return nullptr;
    as_client(self)->is_used = true;
    Result<Fd> fd = exchange->copy_socket();
    if (!fd) return raise_os_error(fd.error());
    PyRef copy = number(fd->get());
    if (copy) (void)fd->release();
    return copy.release();
}

/// _peer(): what a TLS connection tells about its peer, or None.
PyObject* client_peer(PyObject* self, PyObject*) {
    const Exchange* exchange = as_bound(self)->exchange;
    void* peer = exchange != nullptr ? exchange->facts->tls_peer : nullptr;
    return PyRef::borrow(peer != nullptr ? static_cast<PyObject*>(peer) : Py_None).release();
}

PyMethodDef client_methods[] = {
    {"_detach", client_detach, METH_O, nullptr},
    {"_copy", client_copy, METH_NOARGS, nullptr},
    {"_peer", client_peer, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyType_Slot client_slots[] = {
    {Py_tp_methods, client_methods},
    {Py_tp_dealloc, slot(plain_dealloc)},
    {0, nullptr},
};
PyType_Spec client_spec = {
    "gcorn.Client", sizeof(Client), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, client_slots};

// ------------------------------------------------------------------------------------- patterns

/// What decides which keys an environ has, unknown fields aside.
struct Shape {
    uint64_t fields = 0;  ///< the known ones, by FieldId
    bool has_peer = false;
    bool is_https = false;
    bool is_wide = false;
    bool operator==(const Shape&) const = default;
    [[nodiscard]] size_t place() const {
        return static_cast<size_t>((fields * 0x9E3779B97F4A7C15u) >> kPlaceShift);
    }
};

/// Nobody else holds the dict or the bound objects in it.
bool is_unshared(const RequestEnviron& environ) {
    return Py_REFCNT(environ.dict.get()) == 1 && Py_REFCNT(environ.early_hints.get()) == 2 &&
           Py_REFCNT(environ.socket.get()) == 2;
}

}  // namespace

/// The environ of the last request of a shape, without its secrets and objects: the next request
/// updates what differs, and copies it. So most values are compared instead of made, and few keys
/// are set.
struct EnvironMaker::Pattern {
    Shape shape;
    PyRef environ;
    // Values in `environ`, borrowed; all made by latin1_str().
    std::array<PyObject*, kFieldIds> values{};
    PyObject *remote_addr = nullptr, *remote_port = nullptr;
    PyObject *server_name = nullptr, *server_port = nullptr;
    RequestEnviron spare;  ///< a copy that served a request and can serve the next, or none
    uint64_t edition = 0;  ///< of the copies that are equal to it; 0: there are none

    /// If somebody has found the spare copy (gc.get_objects() lists it), it must not change any
    /// more.
    void drop_found_spare() {
        if (spare.dict && !is_unshared(spare)) spare = {};
    }
    /// Raises (MemoryError only).
    bool keep(const PyRef& key, PyObject*& value, std::string_view text) {
        return (value != nullptr && text_of(value) == text) || replace(key, value, text);
    }

private:
    static std::string_view text_of(PyObject* str) {
        return {reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(str)),
                static_cast<size_t>(PyUnicode_GET_LENGTH(str))};
    }
    bool replace(const PyRef& key, PyObject*& value, std::string_view text) {
        const PyRef str = latin1_str(text);
        edition = 0;
        if ((spare.dict && !set(spare.dict.get(), key, str)) || !set(environ.get(), key, str))
            return false;
        value = str.get();
        return true;
    }
};

PyRef client_socket_type() {
    if (!is_imported("_gcorn_client_socket")) {
        const PyRef type = PyRef::steal(PyType_FromSpec(&client_spec));
        if (!type || !add_to_natives("Client", type)) return {};
    }
    const PyRef module = embedded_module("_gcorn_client_socket");
    return module ? attribute(module.get(), "ClientSocket") : PyRef();
}

EnvironMaker::EnvironMaker() = default;
EnvironMaker::~EnvironMaker() = default;

bool EnvironMaker::prepare(const EnvironConstants& constants) {
    names_ = std::make_unique<Names>();
    if (!names_->prepare(constants.no_input)) return false;
    const Names& n = *names_;
    template_ = PyRef::steal(PyDict_New());
    if (!template_) return false;
    PyObject* t = template_.get();
    // Placeholders for what every request sets: the value of an existing key is replaced in place.
    for (size_t i = 0; i < kKeys; ++i) {
        PyObject* const common = n.common[i] != nullptr ? n.common[i] : n.empty.get();
        if (PyDict_SetItem(t, n.keys[i].get(), common) < 0) return false;
    }
    const bool is_set = set(t, n.keys[kUrlScheme], n.http) &&
                        set(t, n.keys[kServerSoftware], latin1_str(kSoftware)) &&
                        set(t, n.keys[kVersion], PyRef::steal(Py_BuildValue("(ii)", 1, 0))) &&
                        set(t, n.keys[kInputTerminated], boolean(true)) &&
                        set(t, n.keys[kErrors], PyRef::borrow(constants.errors)) &&
                        set(t, n.keys[kMultithread], boolean(constants.is_multithread)) &&
                        set(t, n.keys[kMultiprocess], boolean(constants.is_multiprocess)) &&
                        set(t, n.keys[kRunOnce], boolean(false)) &&
                        set(t, n.keys[kFileWrapper], PyRef::borrow(constants.file_wrapper));
    if (!is_set || !(wide_template_ = widened(t))) return false;
    early_hints_type_ = PyRef::borrow(constants.early_hints_type);
    socket_type_ = client_socket_type();
    patterns_ = std::make_unique<Pattern[]>(kPatterns);
    return static_cast<bool>(socket_type_);
}

RequestEnviron EnvironMaker::make(Exchange& exchange, PyObject* input) {
    const RequestHead& head = exchange.head;
    const SortedFields fields(head);
    RequestEnviron environ;
    if (!start(environ, exchange, fields)) return {};
    PyObject* e = environ.dict.get();
    const bool is_made =
        set_own(environ, exchange, input) &&
        ((fields.own() == 0 && !fields.has_joined()) || set_other_fields(e, head, fields)) &&
        set_transport(e, *exchange.facts);
    if (!is_made) return {};
    if (environ.edition != 0) environ.version = DictWatch::begin(e);
    return environ;
}

/// A copy of what this request shares with the last one of its shape, and the objects that are
/// bound to this one. Raises.
bool EnvironMaker::start(RequestEnviron& environ, Exchange& exchange, const SortedFields& fields) {
    const auto keys = static_cast<Py_ssize_t>(kKeys + exchange.head.fields.size());
    const Shape shape = {.fields = fields.known(),
                         .has_peer = !exchange.facts->remote_port.empty(),
                         .is_https = exchange.head.is_https,
                         .is_wide = keys > kKeysThatFit};
    std::optional<Pattern> passing;  // a free-threaded build would need a lock for a kept one
    Pattern& pattern = kHasGil ? patterns_[shape.place()] : passing.emplace();
    if (!pattern.environ || pattern.shape != shape) {
        pattern = {};
        pattern.shape = shape;
        if (!prepare_pattern(pattern)) return false;
    }
    pattern.drop_found_spare();
    if (!update_pattern(pattern, exchange, fields)) return false;
    const bool has_more_keys = fields.has_joined() || exchange.facts->has_proxy_header;
    uint64_t edition = 0;
    if (kHasGil && !has_more_keys) {
        // Before the copy, which may collect garbage, whose finalizers may let other threads in.
        if (pattern.edition == 0) pattern.edition = ++editions_;
        edition = pattern.edition;
    }
    if (!has_more_keys && pattern.spare.dict) {
        environ = std::move(pattern.spare);
    } else {
        environ.dict = PyRef::steal(PyDict_Copy(pattern.environ.get()));
        if (!environ.dict || !add_bound(environ)) return false;
    }
    environ.place = shape.place();
    environ.edition = edition;
    environ.own = 0;
    environ.own_fields = fields.own();
    as_bound(environ.early_hints.get())->exchange = &exchange;
    as_bound(environ.socket.get())->exchange = &exchange;
    return true;
}

bool EnvironMaker::prepare_pattern(Pattern& pattern) const {
    const Names& n = *names_;
    const Shape& shape = pattern.shape;
    PyRef environ = PyRef::steal(PyDict_Copy((shape.is_wide ? wide_template_ : template_).get()));
    // A unix socket's peer has a port only if a PROXY header named one.
    if (!environ ||
        (!shape.has_peer && PyDict_DelItem(environ.get(), n.keys[kRemotePort].get()) < 0) ||
        (shape.is_https && !set(environ.get(), n.keys[kUrlScheme], n.https)))
        return false;
    pattern.environ = std::move(environ);
    return true;
}

/// wsgi.early_hints and gunicorn.socket. Raises.
bool EnvironMaker::add_bound(RequestEnviron& environ) {
    environ.early_hints = early_hints_.take();
    environ.socket = socket_.take();
    if (!environ.early_hints) environ.early_hints = new_object(early_hints_type_);
    if (!environ.socket) environ.socket = new_object(socket_type_);
    return set(environ.dict.get(), names_->keys[kEarlyHints], environ.early_hints) &&
           set(environ.dict.get(), names_->keys[kSocket], environ.socket);
}

bool EnvironMaker::take_lent_socket(const RequestEnviron& environ) {
    if (!environ.socket || !as_client(environ.socket.get())->is_used) return false;
    const PyRef is_taken =
        PyRef::steal(PyObject_CallMethod(environ.socket.get(), "_take_lent", nullptr));
    PyErr_Clear();
    return is_taken.get() == Py_True;
}

void EnvironMaker::end(RequestEnviron environ) {
    if (!environ.dict) return;
    PyObject* client = environ.socket.get();
    as_bound(environ.early_hints.get())->exchange = nullptr;
    as_bound(client)->exchange = nullptr;
    const bool is_used = as_client(client)->is_used;
    if (is_used && !PyRef::steal(PyObject_CallMethod(client, "_end", nullptr))) PyErr_Clear();
    if (!is_used && is_reusable(environ)) {
        patterns_[environ.place].spare = std::move(environ);
        return;
    }
    environ.dict.reset();
    early_hints_.give(std::move(environ.early_hints));
    if (!is_used) socket_.give(std::move(environ.socket));
}

/// The dict is unchanged since it was made, and nobody else holds it or the bound objects in it. If
/// true, it equals its pattern again.
bool EnvironMaker::is_reusable(const RequestEnviron& environ) const {
    PyObject* e = environ.dict.get();
    return environ.edition != 0 && DictWatch::is_unchanged(e, environ.version) &&
           environ.edition == patterns_[environ.place].edition && is_unshared(environ) &&
           restore(environ);
}

/// Makes the dict equal to its pattern again.
bool EnvironMaker::restore(const RequestEnviron& environ) const {
    const Pattern& pattern = patterns_[environ.place];
    const auto put = [&environ](PyObject* key, PyObject* value) {
        const bool is_set = PyDict_SetItem(environ.dict.get(), key, value) == 0;
        if (!is_set) PyErr_Clear();
        return is_set;
    };
    for (unsigned left = environ.own; left != 0; left &= left - 1) {
        const auto key = static_cast<size_t>(std::countr_zero(left));
        if (!put(names_->keys[key].get(), names_->common[key])) return false;
    }
    for (uint64_t left = environ.own_fields; left != 0; left &= left - 1) {
        const auto id = static_cast<size_t>(std::countr_zero(left));
        if (!put(names_->fields[id].get(), pattern.values[id])) return false;
    }
    return true;
}

bool EnvironMaker::update_pattern(Pattern& pattern, const Exchange& exchange,
                                  const SortedFields& fields) const {
    const Names& n = *names_;
    const ConnectionFacts& facts = *exchange.facts;
    for (size_t i = 0; i < exchange.head.fields.size(); ++i) {
        const FieldKind kind = fields.kind(i);
        if (kind == FieldKind::Joined) continue;
        const Field& field = exchange.head.fields[i];
        PyObject*& value = pattern.values[static_cast<size_t>(field.id)];
        if (kind == FieldKind::Own && value != nullptr) continue;
        const std::string_view text = kind == FieldKind::Own ? "" : field.value;  // a placeholder
        if (!pattern.keep(n.fields[static_cast<size_t>(field.id)], value, text)) return false;
    }
    if (!pattern.keep(n.keys[kRemoteAddr], pattern.remote_addr, facts.remote_addr)) return false;
    if (pattern.shape.has_peer &&
        !pattern.keep(n.keys[kRemotePort], pattern.remote_port, facts.remote_port))
        return false;
    if (facts.is_unix) return update_unix_server(pattern, exchange);
    return pattern.keep(n.keys[kServerName], pattern.server_name, facts.server_name) &&
           pattern.keep(n.keys[kServerPort], pattern.server_port, facts.server_port);
}

/// Sets the request line and wsgi.input, where they differ from the template. Raises.
bool EnvironMaker::set_own(RequestEnviron& environ, const Exchange& exchange,
                           PyObject* input) const {
    const Names& n = *names_;
    const RequestHead& head = exchange.head;
    const auto put = [&](Key key, const PyRef& value) {
        environ.own |= 1U << key;
        return set(environ.dict.get(), n.keys[key], value);
    };
    if (head.target != "/" || head.raw_path != "/") {
        PyRef path = n.path(head.raw_path);
        // Most targets are nothing but a plain path: one str serves both keys.
        const bool is_plain =
            head.target == head.raw_path && head.target.find('%') == std::string_view::npos;
        PyRef target = is_plain ? PyRef::borrow(path.get()) : latin1_str(head.target);
        if (!put(kRawUri, target) || !put(kPathInfo, path)) return false;
    }
    return (head.method == "GET" || put(kRequestMethod, n.method(head.method))) &&
           (head.protocol == "HTTP/1.1" ||
            put(kServerProtocol, head.protocol == "HTTP/1.0" ? PyRef::borrow(n.http_10.get())
                                                             : latin1_str(head.protocol))) &&
           (head.query.empty() || put(kQueryString, latin1_str(head.query))) &&
           (head.script_name.empty() || put(kScriptName, latin1_str(head.script_name))) &&
           (input == n.common[kInput] || put(kInput, PyRef::borrow(input)));
}

/// A unix socket has neither name nor port, so the client's Host is the best there is.
bool EnvironMaker::update_unix_server(Pattern& pattern, const Exchange& exchange) const {
    const Names& n = *names_;
    const RequestHead& head = exchange.head;
    const Field* host = head.find(FieldId::Host);
    std::string_view name = host != nullptr ? host->value : "";
    std::string_view port = head.is_https ? "443" : "80";
    if (name.empty()) {
        name = exchange.facts->server_name;
        port = "";
    } else if (const size_t colon = name.rfind(':');
               colon != std::string_view::npos && name.find(']', colon) == std::string_view::npos) {
        if (colon + 1 < name.size()) port = name.substr(colon + 1);
        name = name.substr(0, colon);
    }
    return pattern.keep(n.keys[kServerName], pattern.server_name, name) &&
           pattern.keep(n.keys[kServerPort], pattern.server_port, port);
}

/// Sets the fields that the pattern does not hold.
bool EnvironMaker::set_other_fields(PyObject* environ, const RequestHead& head,
                                    const SortedFields& fields) const {
    const Names& n = *names_;
    for (size_t i = 0; i < head.fields.size(); ++i) {
        const FieldKind kind = fields.kind(i);
        if (kind == FieldKind::Shared) continue;
        const Field& field = head.fields[i];
        const PyRef key = field.id == FieldId::Unknown
                              ? latin1_str(environ_key(field.name))
                              : PyRef::borrow(n.fields[static_cast<size_t>(field.id)].get());
        if (!key) return false;
        const bool is_set = kind == FieldKind::Own ? set(environ, key, latin1_str(field.value))
                                                   : set_repeatable(environ, key.get(), field);
        if (!is_set) return false;
    }
    return true;
}

/// Sets a field, or appends to its earlier value: gunicorn joins with a bare comma. Deviation:
/// Cookie with "; " (RFC 6265 §5.4), because a comma would corrupt both cookies.
bool EnvironMaker::set_repeatable(PyObject* environ, PyObject* key, const Field& field) const {
    PyObject* earlier = PyDict_GetItemWithError(environ, key);  // borrowed
    PyRef value;
    if (earlier == nullptr) {
        if (PyErr_Occurred() != nullptr) return false;
        value = latin1_str(field.value);
    } else {
        const char* separator = field.id == FieldId::Cookie ? "; " : ",";
        const PyRef addition = latin1_str(separator + std::string(field.value));
        // A str without other owners grows in place: thousands of fields do not cost a copy each.
        earlier = PyRef::borrow(earlier).release();
        const bool is_ours = PyDict_SetItem(environ, key, Py_None) == 0;
        if (is_ours && addition) PyUnicode_Append(&earlier, addition.get());
        value.reset(earlier);
        if (!is_ours || !addition) return false;
    }
    return value && PyDict_SetItem(environ, key, value.get()) == 0;
}

bool EnvironMaker::set_transport(PyObject* environ, const ConnectionFacts& facts) const {
    return !facts.has_proxy_header || (set_text(environ, "PROXY_PROTOCOL", facts.proxy_protocol) &&
                                       set_text(environ, "PROXY_ADDR", facts.proxy_addr) &&
                                       set_text(environ, "PROXY_PORT", facts.proxy_port));
}

}  // namespace gcorn
