// RequestHead → environ: the dictionary of PEP 3333 "environ Variables", and its lazy
// gunicorn.socket.
//
// Every value is a fact the parser or the connection has decided already; nothing is judged here.
// What is the same for all requests (keys, constant values, the dictionary's size, known field
// names) is made once; what is the same as in the last request with these field names is copied
// from there. Application side, GIL held.
#pragma once

#include "python/pyref.h"

#include <memory>

#include "net/exchange.h"

namespace gcorn {

/// What is the same for all requests. Borrowed for the call of prepare().
struct EnvironConstants {
    PyObject* no_input = nullptr;          ///< wsgi.input of requests without a body
    PyObject* errors = nullptr;            ///< wsgi.errors
    PyObject* file_wrapper = nullptr;      ///< wsgi.file_wrapper
    PyObject* early_hints_type = nullptr;  ///< of wsgi.early_hints: instances are RequestBound
    bool is_multithread = false;
    bool is_multiprocess = false;
};

/// The beginning of all Python objects that serve one request at a time.
struct RequestBound {
    PyObject_HEAD Exchange* exchange;  ///< null once the request is over
};

inline RequestBound* as_bound(PyObject* object) {
    return reinterpret_cast<RequestBound*>(object);
}

/// The environ of one request, and the objects in it that are bound to the request.
struct RequestEnviron {
    PyRef dict;
    PyRef early_hints;
    PyRef socket;
    // For EnvironMaker, which may hand out all three again:
    size_t place = 0;      ///< index of the pattern that the dict is a copy of
    uint64_t edition = 0;  ///< of that pattern; 0: for this request only
    uint64_t version = 0;  ///< DictWatch's, when the application got the dict
    // Values of this request alone, which the pattern does not know:
    unsigned own = 0;         ///< 1 << Key
    uint64_t own_fields = 0;  ///< 1 << FieldId
};

/// The type of gunicorn.socket. Raises.
[[nodiscard]] PyRef client_socket_type();

class SortedFields;

class EnvironMaker {
public:
    EnvironMaker();
    ~EnvironMaker();
    EnvironMaker(EnvironMaker&&) = delete;

    /// Makes the keys and the template. Once, before the first make(). Raises.
    [[nodiscard]] bool prepare(const EnvironConstants& constants);

    /// The environ for this request; the application may keep it. Raises: its dict is null then.
    [[nodiscard]] RequestEnviron make(Exchange& exchange, PyObject* input);

    /// Takes the client's socket for an application that asked for its descriptor and then sent
    /// nothing: the application, or whatever it gave that to, answers by itself. False: it did not
    /// ask.
    static bool take_lent_socket(const RequestEnviron& environ);

    /// The request is over: cuts the ties between Python objects and the Exchange. What the
    /// application neither kept nor changed serves the next request.
    void end(RequestEnviron environ);

private:
    struct Names;    ///< interned keys and values that many requests share
    struct Pattern;  ///< values of the last request of the same shape

    bool start(RequestEnviron& environ, Exchange& exchange, const SortedFields& fields);
    bool prepare_pattern(Pattern& pattern) const;
    bool update_pattern(Pattern& pattern, const Exchange& exchange,
                        const SortedFields& fields) const;
    bool add_bound(RequestEnviron& environ);
    [[nodiscard]] bool is_reusable(const RequestEnviron& environ) const;
    bool restore(const RequestEnviron& environ) const;
    bool update_unix_server(Pattern& pattern, const Exchange& exchange) const;
    bool set_own(RequestEnviron& environ, const Exchange& exchange, PyObject* input) const;
    bool set_other_fields(PyObject* environ, const RequestHead& head,
                          const SortedFields& fields) const;
    bool set_repeatable(PyObject* environ, PyObject* key, const Field& field) const;
    bool set_transport(PyObject* environ, const ConnectionFacts& facts) const;

    std::unique_ptr<Names> names_;
    PyRef template_;
    PyRef wide_template_;  ///< for many fields
    PyRef early_hints_type_, socket_type_;
    Spare early_hints_, socket_;
    std::unique_ptr<Pattern[]> patterns_;
    uint64_t editions_ = 0;
};

}  // namespace gcorn
