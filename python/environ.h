// RequestHead → environ: the dictionary of PEP 3333 "environ Variables", and its lazy
// gunicorn.socket.
//
// Every value is a fact the parser or the connection has decided already; nothing is judged here.
// What is the same for all requests (keys, constant values, the dictionary's size, known field
// names) is made once; what is the same as in the last request with these field names is copied
// from there. Application side, GIL held.
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
    PyObject* no_input = nullptr;      ///< wsgi.input of requests without a body
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

class SortedFields;

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
    struct Names;    ///< interned keys and values that many requests share
    struct Pattern;  ///< what the last request of the same shape said

    PyRef copy_pattern(const Exchange& exchange, const SortedFields& fields);
    bool update_pattern(Pattern& pattern, const Exchange& exchange,
                        const SortedFields& fields) const;
    bool update_unix_server(Pattern& pattern, const Exchange& exchange) const;
    bool set_request_line(PyObject* environ, const RequestHead& head) const;
    bool set_other_fields(PyObject* environ, const RequestHead& head,
                          const SortedFields& fields) const;
    bool set_authority(PyObject* environ, const RequestHead& head) const;
    bool set_repeatable(PyObject* environ, PyObject* key, const Field& field) const;
    bool set_transport(PyObject* environ, const ConnectionFacts& facts) const;

    std::unique_ptr<Names> names_;
    PyObject* no_input_ = nullptr;  ///< in the template, which owns it
    PyRef template_;
    PyRef wide_template_;  ///< for many fields
    std::unique_ptr<Pattern[]> patterns_;
};

/// The type of gunicorn.socket: a stand-in that becomes the client's socket on first use. Until an
/// attribute is asked for (dunder names apart), the connection stays the server's. A TLS connection
/// is never given away, but tells getpeercert(), cipher(), version() … as an ssl.SSLSocket does.
class SocketProxy {
public:
    /// Makes the type. Once, before the first make(). Raises.
    [[nodiscard]] bool prepare();
    /// Raises (MemoryError only).
    [[nodiscard]] PyRef make(Exchange& exchange);
    /// The request is over: a socket not taken by now cannot be any more.
    void end(PyRef proxy);

private:
    PyRef type_;
    Spare spare_;
};

}  // namespace gcorn
