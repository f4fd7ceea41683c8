// Answers made of constant objects, recognised by the identity of those.
//
// Private to wsgi.cpp. The GIL is held; without one (free-threaded builds) nothing is kept.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "http_response.h"
#include "python/pyref.h"

namespace gcorn {

/// An answer that was made of constants. An application that passes the same objects again gets the
/// same answer, without a check of each name and value.
class KnownAnswer {
public:
    /// Sets the answer on `response`, if these are the objects it was made of.
    [[nodiscard]] bool repeat(PyObject* status, PyObject* headers, ResponseWriter& response) {
        if (status != status_.get() || !PyList_CheckExact(headers) ||
            static_cast<size_t>(PyList_GET_SIZE(headers)) != pairs_.size())
            return false;
        for (size_t i = 0; i < pairs_.size(); ++i)
            if (PyList_GET_ITEM(headers, static_cast<Py_ssize_t>(i)) != pairs_[i].get())
                return false;
        pause_ = 0;
        return response.repeat(answer_);
    }
    /// Keeps what `response` was made of, if that may come again: tuples, which cannot change, and
    /// which somebody else holds, too. Each one kept in vain doubles the pause before the next.
    void keep(PyObject* status, PyObject* headers, const ResponseWriter& response) {
        const ResponseWriter::Answer* answer = response.answer();
        if (!kHasGil || answer == nullptr || !PyList_CheckExact(headers) ||
            PyList_GET_SIZE(headers) > kPairsMax)
            return;
        if (++passed_ <= pause_) return;
        std::vector<PyRef> pairs;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); ++i) {
            PyObject* pair = PyList_GET_ITEM(headers, i);
            if (!PyTuple_CheckExact(pair) || Py_REFCNT(pair) == 1) return;
            pairs.push_back(PyRef::borrow(pair));
        }
        answer_ = *answer;
        pairs_.swap(pairs);
        status_ = PyRef::borrow(status);
        passed_ = 0;
        pause_ = std::min(2 * pause_ + 1, kPauseMax);
    }
    /// Which of the `places` belongs to these headers.
    static size_t place(PyObject* headers, size_t places) {
        if (!PyList_CheckExact(headers) || PyList_GET_SIZE(headers) == 0) return 0;
        const auto address = reinterpret_cast<uintptr_t>(PyList_GET_ITEM(headers, 0));
        return address / alignof(std::max_align_t) % places;
    }

private:
    static constexpr Py_ssize_t kPairsMax = 16;
    static constexpr int kPauseMax = 1000;
    PyRef status_;
    std::vector<PyRef> pairs_;
    ResponseWriter::Answer answer_;
    int pause_ = 0;   ///< answers to let pass before one is kept
    int passed_ = 0;  ///< answers since the last one kept
};
using KnownAnswers = std::array<KnownAnswer, 7>;  // a prime, because addresses come in steps

}  // namespace gcorn
