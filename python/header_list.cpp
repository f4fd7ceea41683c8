#include "python/header_list.h"

namespace gcorn {

namespace {

constexpr const char* kNotAPair = "a header must be a (name, value) tuple";

/// One (name, value) pair. Raises.
bool add_pair(ResponseWriter& response, PyObject* pair, bool takes_bytes) {
    // While the GIL was dropped another thread may have changed the application's own list.
    if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
        PyErr_SetString(PyExc_TypeError, kNotAPair);
        return false;
    }
    std::string_view name, value;
    if (!field_text(PyTuple_GET_ITEM(pair, 0), "header name", takes_bytes, name) ||
        !field_text(PyTuple_GET_ITEM(pair, 1), "header value", takes_bytes, value))
        return false;
    const Status added = response.add_field(name, value);
    if (!added) PyErr_SetString(PyExc_ValueError, added.message().c_str());
    return added.is_ok();
}

}  // namespace

bool field_text(PyObject* object, const char* what, bool takes_bytes, std::string_view& text) {
    if (latin1_view(object, text)) return true;
    if (takes_bytes && PyBytes_Check(object)) {
        text = bytes_view(object);
        return true;
    }
    if (PyUnicode_Check(object))
        PyErr_Format(PyExc_ValueError, "%s %R has characters outside latin-1", what, object);
    else
        PyErr_Format(PyExc_TypeError, "%s must be str, not %.100s", what, Py_TYPE(object)->tp_name);
    return false;
}

PyRef plain_headers(PyObject* headers) {
    bool is_plain = PyList_CheckExact(headers);
    for (Py_ssize_t i = 0; is_plain && i < PyList_GET_SIZE(headers); ++i)
        is_plain = PyTuple_CheckExact(PyList_GET_ITEM(headers, i));
    if (is_plain) return PyRef::borrow(headers);
    const PyRef items = PyRef::steal(PySequence_Fast(headers, "headers must be a list of tuples"));
    PyRef list = items ? PyRef::steal(PySequence_List(items.get())) : PyRef();
    for (Py_ssize_t i = 0; list && i < PyList_GET_SIZE(list.get()); ++i) {
        const PyRef pair = PyRef::steal(PySequence_Fast(PyList_GET_ITEM(list.get(), i), kNotAPair));
        PyObject* tuple = pair ? PySequence_Tuple(pair.get()) : nullptr;
        if (tuple == nullptr) return {};
        PyList_SetItem(list.get(), i, tuple);
    }
    return list;
}

bool add_headers(ResponseWriter& response, PyObject* headers, bool takes_bytes) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); ++i)
        if (!add_pair(response, PyList_GET_ITEM(headers, i), takes_bytes)) return false;
    return true;
}

}  // namespace gcorn
