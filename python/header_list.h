// The headers that an application hands to start_response() and early_hints().
#pragma once

#include <string_view>

#include "http_response.h"
#include "python/pyref.h"

namespace gcorn {

/// The bytes of a str below U+0100 (PEP 3333 "native strings"), or of bytes if allowed. `what` is
/// for the message. GIL held. Raises.
bool field_text(PyObject* object, const char* what, bool takes_bytes, std::string_view& text);

/// Headers in any form that gunicorn accepts (PEP 3333 demands a list of tuples), as a list of
/// exact tuples; the same list if it is one already. May run application code, which may take long
/// and end the request; looking at the result runs none. GIL held. Raises.
[[nodiscard]] PyRef plain_headers(PyObject* headers);

/// Adds the (name, value) pairs of a list that plain_headers() gave. GIL held. Raises.
bool add_headers(ResponseWriter& response, PyObject* headers, bool takes_bytes);

}  // namespace gcorn
