// Whether a dictionary was changed while somebody else had it.
//
// CPython up to 3.11 numbers every change (PEP 509); later versions call a watcher instead
// (PyDict_Watch). The GIL is held; a free-threaded build does not ask.
#pragma once

#include <cstdint>
#include <unordered_set>

#include "python/pyref.h"

namespace gcorn {

#if PY_VERSION_HEX < 0x030C0000

class DictWatch {
public:
    /// Starts watching; returns what is_unchanged() needs.
    static uint64_t begin(PyObject* dict) {
        return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
    }
    /// Also ends the watching.
    static bool is_unchanged(PyObject* dict, uint64_t version) { return begin(dict) == version; }
};

#else

class DictWatch {
public:
    static uint64_t begin(PyObject* dict) {
        changed().erase(dict);  // left by a dict that died here while watched
        const bool is_watched = PyDict_Watch(id(), dict) == 0;
        if (!is_watched) PyErr_Clear();
        return is_watched ? 1 : 0;
    }
    static bool is_unchanged(PyObject* dict, uint64_t is_watched) {
        if (is_watched == 0) return false;
        if (PyDict_Unwatch(id(), dict) < 0) PyErr_Clear();
        return changed().erase(dict) == 0;
    }

private:
    /// -1, which PyDict_Watch() refuses, if all eight watchers of the interpreter are taken.
    static int id() {
        static const int id =
            PyDict_AddWatcher([](PyDict_WatchEvent, PyObject* dict, PyObject*, PyObject*) {
                changed().insert(dict);
                return 0;
            });
        return id;
    }
    /// Never destroyed: dicts may die after static objects.
    static std::unordered_set<PyObject*>& changed() {
        static auto& dicts = *new std::unordered_set<PyObject*>;
        return dicts;
    }
};

#endif

}  // namespace gcorn
