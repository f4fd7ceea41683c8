// What every file that touches Python includes first: <Python.h>, owned references, GIL scopes, and
// the shims that let one source build against CPython 3.10 to 3.15.
//
// Rules of the bridge: an owned reference is a PyRef, a PyObject* in a signature is borrowed; the
// GIL is held only inside scopes; only documented API is called. A function that can fail with a
// Python exception says "Raises." and returns a null PyRef or false with the exception set.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace gcorn {

/// One owned reference, or none. Destroying or resetting a non-null one needs the GIL (or the
/// thread state, on a free-threaded build). Never with static storage: it would outlive the
/// interpreter.
class PyRef {
public:
    PyRef() = default;
    PyRef(PyRef&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    PyRef& operator=(PyRef&& other) noexcept {
        if (this != &other) reset(std::exchange(other.object_, nullptr));
        return *this;
    }
    PyRef(const PyRef&) = delete;
    PyRef& operator=(const PyRef&) = delete;
    ~PyRef() { Py_XDECREF(object_); }

    /// Owns a new reference (what most API calls return); null stays null.
    [[nodiscard]] static PyRef steal(PyObject* new_reference) { return PyRef(new_reference); }
    /// Takes one more reference to a borrowed object; null stays null.
    [[nodiscard]] static PyRef borrow(PyObject* borrowed) {
        Py_XINCREF(borrowed);
        return PyRef(borrowed);
    }

    [[nodiscard]] PyObject* get() const { return object_; }
    explicit operator bool() const { return object_ != nullptr; }
    /// Gives the reference away, to an API that steals it or as a function's new reference.
    [[nodiscard]] PyObject* release() { return std::exchange(object_, nullptr); }
    /// Drops what is held and owns `new_reference` instead.
    void reset(PyObject* new_reference = nullptr) {
        PyObject* old = std::exchange(object_, new_reference);  // first: a finaliser may look here
        Py_XDECREF(old);
    }

private:
    explicit PyRef(PyObject* object) : object_(object) {}
    PyObject* object_ = nullptr;
};

#ifdef Py_GIL_DISABLED
inline constexpr bool kHasGil = false;  ///< state that several threads may change needs a lock
#else
inline constexpr bool kHasGil = true;
#endif

/// An object of the last request, kept for the next, which reuses it unless somebody else still has
/// it. Always empty on a free-threaded build.
class Spare {
public:
    /// The object, if this was the only reference to it; else null.
    [[nodiscard]] PyRef take() {
        if (object_ && Py_REFCNT(object_.get()) == 1) return std::move(object_);
        return {};
    }
    void give(PyRef object) {
        if (kHasGil) object_ = std::move(object);
    }

private:
    PyRef object_;
};

/// Holds the GIL while it lives. Nests; any native thread. Not after Interpreter::finalize().
/// Leaving the scope with an exception set is a bug, checked in debug builds.
class WithGil {
public:
    WithGil() : state_(PyGILState_Ensure()) {}
    ~WithGil() {
#ifndef NDEBUG
        if (state_ == PyGILState_UNLOCKED && PyErr_Occurred() != nullptr) {
            PyErr_Print();
            Py_FatalError("exception left behind in a WithGil scope");
        }
#endif
        PyGILState_Release(state_);
    }
    WithGil(WithGil&&) = delete;

private:
    PyGILState_STATE state_;
};

/// Drops the GIL while it lives; the thread must hold it. An exception that is set stays set.
class WithoutGil {
public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() { PyEval_RestoreThread(state_); }
    WithoutGil(WithoutGil&&) = delete;

private:
    PyThreadState* state_;
};

/// For owners whose destructor may run without the GIL or after the interpreter has ended: drops
/// the reference if that is still possible, else leaks it.
inline void drop_reference(PyRef reference) {
    if (!reference) return;
    if (Py_IsInitialized() == 0) {
        (void)reference.release();  // Python is no longer there to free it
        return;
    }
    WithGil gil;
    reference.reset();
}

// --- text ---

/// str from bytes, one code point each (PEP 3333 "native strings"). Raises (MemoryError only).
[[nodiscard]] inline PyRef latin1_str(std::string_view text) {
    return PyRef::steal(
        PyUnicode_DecodeLatin1(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr));
}

/// str from a path, a setting or an environment value; undecodable bytes survive (PEP 383). Raises.
[[nodiscard]] inline PyRef path_str(std::string_view text) {
    return PyRef::steal(
        PyUnicode_DecodeFSDefaultAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

/// str from text of the program itself or of a log: UTF-8, bad bytes replaced. Raises.
[[nodiscard]] inline PyRef utf8_str(std::string_view text) {
    return PyRef::steal(
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

/// The UTF-8 bytes of a str; the view lives as long as the object. Raises (not a str, surrogates).
[[nodiscard]] inline bool utf8_view(PyObject* text, std::string_view& out) {
    Py_ssize_t size = 0;
    const char* bytes = PyUnicode_AsUTF8AndSize(text, &size);
    if (bytes == nullptr) return false;
    out = std::string_view(bytes, static_cast<size_t>(size));
    return true;
}

/// The bytes of a str whose characters are all below U+0100, in place; the view lives as long as
/// the object. False without an exception if it is no str or has other characters.
[[nodiscard]] inline bool latin1_view(PyObject* text, std::string_view& out) {
    if (!PyUnicode_Check(text)) return false;
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0) {
        PyErr_Clear();
        return false;
    }
#endif
    if (PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND) return false;
    out = std::string_view(reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(text)),
                           static_cast<size_t>(PyUnicode_GET_LENGTH(text)));
    return true;
}

/// The bytes of a bytes object (PyBytes_Check must hold), in place.
[[nodiscard]] inline std::string_view bytes_view(PyObject* bytes) {
    return std::string_view(PyBytes_AS_STRING(bytes), static_cast<size_t>(PyBytes_GET_SIZE(bytes)));
}

// --- attributes ---

/// getattr(object, name); null if `object` is null. Raises.
[[nodiscard]] inline PyRef attribute(PyObject* object, const char* name) {
    return object != nullptr ? PyRef::steal(PyObject_GetAttrString(object, name)) : PyRef();
}

/// getattr(object, name, None) as a null PyRef: false only if something other than AttributeError
/// was raised. Raises.
[[nodiscard]] inline bool optional_attribute(PyObject* object, PyObject* name, PyRef& out) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* value = nullptr;
    const int found = PyObject_GetOptionalAttr(object, name, &value);
    out.reset(value);
    return found >= 0;
#else
    out.reset(PyObject_GetAttr(object, name));
    if (out) return true;
    if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) return false;
    PyErr_Clear();
    return true;
#endif
}

/// import name (without a dot), and an attribute of it unless `attribute_name` is null; null if an
/// earlier step has raised, because importing would clear that. Raises.
/// PyImport_ImportModule would look for __import__ in the builtins of the running frame, which are
/// empty when a signal interrupts the creation of a namedtuple.
[[nodiscard]] inline PyRef import(const char* module, const char* attribute_name = nullptr) {
    if (PyErr_Occurred() != nullptr) return {};
    PyRef imported = PyRef::steal(PyImport_ImportModuleLevel(module, nullptr, nullptr, nullptr, 0));
    if (!imported || attribute_name == nullptr) return imported;
    return attribute(imported.get(), attribute_name);
}

// --- calls ---

/// callable(arguments…); null if one of them is null, so that of several steps only the last needs
/// a check. Raises.
template <typename... Arguments>
[[nodiscard]] PyRef call_object(const PyRef& callable, const Arguments&... arguments) {
    if (!callable || !(arguments && ...)) return {};
    PyObject* const list[] = {arguments.get()..., nullptr};
    return PyRef::steal(PyObject_Vectorcall(callable.get(), list, sizeof...(arguments), nullptr));
}

/// callable(**names), where names is a dict; null if one of them is null. Raises.
[[nodiscard]] inline PyRef call_with_names(const PyRef& callable, const PyRef& names) {
    if (!callable || !names) return {};
    return PyRef::steal(PyObject_VectorcallDict(callable.get(), nullptr, 0, names.get()));
}

/// A Python function in C++. definition: static storage. self: what native_self() gives back inside
/// the function; outlives its use. Raises.
[[nodiscard]] inline PyRef native_function(PyMethodDef& definition, void* self) {
    const PyRef capsule = PyRef::steal(PyCapsule_New(self, nullptr, nullptr));
    return capsule ? PyRef::steal(PyCFunction_New(&definition, capsule.get())) : PyRef();
}

/// The `self` that native_function() was given. Never raises.
template <typename T>
[[nodiscard]] T& native_self(PyObject* capsule) {
    return *static_cast<T*>(PyCapsule_GetPointer(capsule, nullptr));
}

// --- dicts and lists ---

/// A dict under construction; a value that could not be made voids it, with the exception still
/// set.
class Facts {
public:
    Facts() : dict_(PyRef::steal(PyDict_New())) {}
    Facts& add(const char* name, PyRef value) {
        if (dict_ && (!value || PyDict_SetItemString(dict_.get(), name, value.get()) < 0))
            dict_.reset();
        return *this;
    }
    /// The dict. Raises, if a value did.
    PyRef take() { return std::move(dict_); }

private:
    PyRef dict_;
};

/// A list under construction, likewise.
class Items {
public:
    Items() : list_(PyRef::steal(PyList_New(0))) {}
    void add(PyRef item) {
        if (list_ && (!item || PyList_Append(list_.get(), item.get()) < 0)) list_.reset();
    }
    PyRef take() { return std::move(list_); }

private:
    PyRef list_;
};

// --- standard output ---

/// Calls `call`, which may raise, for sys.stdout and sys.stderr; they may be None or whatever an
/// application put there.
template <typename Call>
void for_standard_streams(Call call) {
    for (const char* name : {"stdout", "stderr"}) {
        PyObject* stream = PySys_GetObject(name);  // borrowed
        if (stream != nullptr && stream != Py_None && !call(stream)) PyErr_Clear();
    }
}

/// Flushes both.
inline void flush_standard_streams() {
    for_standard_streams([](PyObject* stream) {
        return static_cast<bool>(PyRef::steal(PyObject_CallMethod(stream, "flush", nullptr)));
    });
}

// --- exceptions ---

/// The exception that is set, cleared from the thread; null if there is none. Its traceback is
/// attached.
[[nodiscard]] inline PyRef take_exception() {
#if PY_VERSION_HEX >= 0x030C0000
    return PyRef::steal(PyErr_GetRaisedException());
#else
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == nullptr) return {};
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != nullptr && traceback != nullptr) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return PyRef::steal(value);
#endif
}

/// Sets `exception` (with the traceback attached to it) again. No exception may be set then.
inline void restore_exception(PyRef exception) {
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exception.release());  // steals
#else
    PyObject* value = exception.release();
    PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(value));
    Py_INCREF(type);
    PyErr_Restore(type, value, PyException_GetTraceback(value));  // steals all three
#endif
}

// --- numbers ---

/// Raises (MemoryError only).
[[nodiscard]] inline PyRef number(int64_t value) {
    return PyRef::steal(PyLong_FromLongLong(value));
}

[[nodiscard]] inline PyRef boolean(bool value) {
    return PyRef::borrow(value ? Py_True : Py_False);
}

// --- types made with PyType_FromSpec ---

/// A function as a PyType_Slot holds it.
template <typename Function>
[[nodiscard]] void* slot(Function* function) {
    return reinterpret_cast<void*>(function);
}

/// An instance, all zero. Raises (MemoryError only).
[[nodiscard]] inline PyRef new_object(const PyRef& type) {
    return PyRef::steal(PyType_GenericAlloc(reinterpret_cast<PyTypeObject*>(type.get()), 0));
}

/// Py_tp_dealloc of objects that own nothing any more.
inline void plain_dealloc(PyObject* object) {
    PyTypeObject* type = Py_TYPE(object);
    type->tp_free(object);  // a class derived in Python has its own tp_free
    Py_DECREF(type);
}

#if PY_VERSION_HEX >= 0x030C0000
constexpr int kMemberSize = Py_T_PYSSIZET;
constexpr int kMemberReadOnly = Py_READONLY;
#else
constexpr int kMemberSize = T_PYSSIZET;
constexpr int kMemberReadOnly = READONLY;
#endif

}  // namespace gcorn

/// Guards one object's C++ side on a free-threaded build; the GIL does it elsewhere.
#ifdef Py_GIL_DISABLED
#define GCORN_BEGIN_CRITICAL_SECTION(object) Py_BEGIN_CRITICAL_SECTION(object)
#define GCORN_END_CRITICAL_SECTION() Py_END_CRITICAL_SECTION()
#else
#define GCORN_BEGIN_CRITICAL_SECTION(object) {
#define GCORN_END_CRITICAL_SECTION() }
#endif
