// RequestHead → environ: the dictionary of PEP 3333 "environ Variables", and its lazy
// gunicorn.socket.
//
// Every value is a fact the parser or the connection has decided already; nothing is judged here.
// What is the same for all requests (keys, constant values, the dictionary's size, known field
// names) is made once. Application side, GIL held.
#pragma once

#include "python/pyref.h"

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "http_fields.h"
#include "net/exchange.h"

namespace gcorn {

/// What is the same for all requests. Borrowed for the call of prepare().
struct EnvironConstants {
    PyObject* errors = nullptr;        ///< wsgi.errors
    PyObject* file_wrapper = nullptr;  ///< wsgi.file_wrapper
    bool is_multithread = false;
    bool is_multiprocess = false;
};

/// The objects made for one request. Borrowed for the call of make().
struct EnvironObjects {
    PyObject* input = nullptr;        ///< wsgi.input
    PyObject* early_hints = nullptr;  ///< wsgi.early_hints
    PyObject* socket = nullptr;       ///< gunicorn.socket
};

/// The last str made from bytes that tend to repeat from request to request. Without effect on a
/// free-threaded build, where it would need a lock.
class StrCache {
public:
    /// Raises (MemoryError only).
    [[nodiscard]] PyRef get(std::string_view text);

private:
    PyRef str_;
};

class EnvironMaker {
public:
    EnvironMaker();
    ~EnvironMaker();
    EnvironMaker(const EnvironMaker&) = delete;
    EnvironMaker& operator=(const EnvironMaker&) = delete;

    /// Makes the keys and the template. Once, before the first make(). Raises.
    [[nodiscard]] bool prepare(const EnvironConstants& constants);

    /// A fresh environ for this request; the caller may keep it beyond the Exchange. Raises.
    [[nodiscard]] PyRef make(const Exchange& exchange, const EnvironObjects& objects);

private:
    struct Names;  ///< interned keys and values that many requests share

    bool set_request_line(PyObject* environ, const RequestHead& head);
    bool set_addresses(PyObject* environ, const Exchange& exchange);
    bool set_unix_server(PyObject* environ, const Exchange& exchange);
    bool set_fields(PyObject* environ, const RequestHead& head);
    PyRef value_of(const Field& field);
    bool set_repeatable(PyObject* environ, PyObject* key, const Field& field);
    bool set_transport(PyObject* environ, const ConnectionFacts& facts);

    std::unique_ptr<Names> names_;
    PyRef template_;
    PyRef wide_template_;  ///< for many fields
    StrCache remote_addr_, server_name_, server_port_;
    std::array<StrCache, static_cast<size_t>(FieldId::Count)> values_;  ///< of known fields
};

/// The type of gunicorn.socket: a stand-in that becomes the client's socket on first use. Until an
/// attribute is asked for (dunder names apart), the connection stays the server's. A TLS connection
/// is never given away, but tells getpeercert(), cipher(), version() … as an ssl.SSLSocket does.
class SocketProxy {
public:
    /// Makes the type. Once, before the first make(). Raises.
    [[nodiscard]] bool prepare();
    /// Raises (MemoryError only).
    [[nodiscard]] PyRef make(Exchange& exchange) const;
    /// The request is over: a socket not taken by now cannot be any more.
    static void end(PyObject* proxy);

private:
    PyRef type_;
};

}  // namespace gcorn
