// For unit tests of Python rooms: one interpreter per test program, small helpers to query it, and
// a directory of its own for each test.
//
// The interpreter sees the standard library only (no site-packages), so an installed gunicorn is
// not found, but the stand-in is.
#pragma once

#include "python/pyref.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "python/interpreter.h"

namespace gcorn {

/// Runs statements in __main__; false after printing the traceback.
inline bool run_python(const std::string& code) {
    WithGil gil;
    return PyRun_SimpleString(code.c_str()) == 0;
}

/// str(expression), evaluated in __main__; "! Type: text" if it raised.
inline std::string eval_python(const std::string& expression) {
    WithGil gil;
    PyObject* names = PyModule_GetDict(PyImport_AddModule("__main__"));
    const PyRef value = PyRef::steal(PyRun_String(expression.c_str(), Py_eval_input, names, names));
    const PyRef text = value ? PyRef::steal(PyObject_Str(value.get())) : PyRef();
    std::string_view view;
    if (!text || !utf8_view(text.get(), view)) return "! " + take_error_text(false);
    return std::string(view);
}

class PythonTest : public ::testing::Test {
protected:
    static void SetUpTestSuite() {
        if (Py_IsInitialized() != 0) return;
        auto started = Interpreter::start({});
        ASSERT_TRUE(started) << started.message();
        // Never finalised: other suites of this program may follow, and after them it simply exits.
        static Interpreter* interpreter = started->release();
        ASSERT_NE(interpreter, nullptr);
        ASSERT_TRUE(
            run_python("import sys\nsys.dont_write_bytecode = True\n"
                       "sys.path[:] = [p for p in sys.path if '-packages' not in p]\n"));
    }

    void SetUp() override {
        start_ = std::filesystem::current_path();
        std::string pattern = std::filesystem::temp_directory_path() / "gcorn-test-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        directory_ = pattern;
        std::filesystem::current_path(directory_);
    }

    void TearDown() override {
        std::filesystem::current_path(start_);
        std::filesystem::remove_all(directory_);
    }

    /// Writes a file of the test's directory; returns its path.
    std::string write_file(const std::string& name, const std::string& text) const {
        std::ofstream(directory_ + "/" + name) << text;
        return directory_ + "/" + name;
    }

    static std::string read_file(const std::string& path) {
        std::ostringstream text;
        text << std::ifstream(path).rdbuf();
        return text.str();
    }

    /// tests/configs
    static std::string configs_directory() { return GCORN_SOURCE_DIR "/tests/configs"; }

    std::string directory_;  ///< the current directory during the test

private:
    std::filesystem::path start_;
};

/// While it lives, the n-th block of memory that Python asks for is refused, and no other. GIL
/// held.
class OneFailure {
public:
    explicit OneFailure(int n) : left_(n) {
        for (Domain& domain : domains_) {
            domain.owner = this;
            PyMem_GetAllocator(domain.kind, &domain.below);
            PyMemAllocatorEx failing = {&domain, allocate, allocate_zeros, reallocate, free};
            PyMem_SetAllocator(domain.kind, &failing);
        }
    }
    ~OneFailure() {
        for (Domain& domain : domains_)
            PyMem_SetAllocator(domain.kind, &domain.below);
    }
    OneFailure(OneFailure&&) = delete;
    [[nodiscard]] bool has_happened() const { return left_ <= 0; }

private:
    struct Domain {
        PyMemAllocatorDomain kind;
        PyMemAllocatorEx below = {};
        OneFailure* owner = nullptr;
        [[nodiscard]] bool fails() const { return --owner->left_ == 0; }
    };
    static Domain& of(void* context) { return *static_cast<Domain*>(context); }
    static void* allocate(void* context, size_t size) {
        const Domain& me = of(context);
        return me.fails() ? nullptr : me.below.malloc(me.below.ctx, size);
    }
    static void* allocate_zeros(void* context, size_t count, size_t size) {
        const Domain& me = of(context);
        return me.fails() ? nullptr : me.below.calloc(me.below.ctx, count, size);
    }
    static void* reallocate(void* context, void* block, size_t size) {
        const Domain& me = of(context);
        return me.fails() ? nullptr : me.below.realloc(me.below.ctx, block, size);
    }
    static void free(void* context, void* block) {
        of(context).below.free(of(context).below.ctx, block);
    }

    Domain domains_[2] = {{.kind = PYMEM_DOMAIN_MEM}, {.kind = PYMEM_DOMAIN_OBJ}};
    int left_;
};

}  // namespace gcorn
