#include "python/greenlet.h"

#include <gtest/gtest.h>

#include <string>

#include "app.h"
#include "tests/support/python_fixture.h"

namespace gcorn {
namespace {

/// Loads what stands in for a package, from the test's directory.
class GreenletLibrary : public PythonTest {
protected:
    void SetUp() override {
        PythonTest::SetUp();
        cfg_.worker_class = "eventlet";
        ASSERT_TRUE(run_python("sys.path.insert(0, '" + directory_ + "')"));
    }
    void TearDown() override {
        EXPECT_TRUE(run_python("sys.path.pop(0)\nsys.modules.pop('eventlet', None)"));
        PythonTest::TearDown();
    }
    Status load(const std::string& text) {
        write_file("eventlet.py", text);
        return load_greenlet_library(cfg_);
    }
    Config cfg_;
};

TEST_F(GreenletLibrary, IsNeededByItsClassesOnly) {
    cfg_.worker_class = "gthread";
    EXPECT_TRUE(load_greenlet_library(cfg_));
    EXPECT_TRUE(patch_for_greenlets(cfg_, true));
    EXPECT_FALSE(is_greenlet_class(cfg_));
}

TEST_F(GreenletLibrary, IsAMatterOfConfigurationIfItIsMissingOrTooOld) {
    const Status missing = load_greenlet_library(cfg_);
    EXPECT_EQ(missing.error().code, 1);
    EXPECT_EQ(missing.message(),
              "worker class eventlet needs the package eventlet 0.30 or newer: install "
              "python3-eventlet (Debian, Ubuntu), or run 'pip install eventlet'");
    const Status old = load("__version__ = '0.29.9'\n");
    EXPECT_EQ(old.error().code, 1);
    EXPECT_NE(old.message().find(" 0.30 or newer, found 0.29: "), std::string::npos);
}

TEST_F(GreenletLibrary, FailsTheBootIfItCannotBeImported) {
    const Status broken = load("import not_there\n");
    EXPECT_EQ(broken.error().code, kExitBootFailed);
    EXPECT_EQ(broken.message(),
              "worker class eventlet: ModuleNotFoundError: No module named 'not_there'");
    EXPECT_TRUE(run_python("import importlib; importlib.invalidate_caches()"));
    // Our own text for it uses more of it than this one has.
    const Status other = load("__version__ = '0.30.0'\n");
    EXPECT_EQ(other.error().code, kExitBootFailed);
    EXPECT_TRUE(other.message().starts_with("worker class eventlet: "));
    EXPECT_EQ(patch_for_greenlets(cfg_, true).error().code, kExitBootFailed);
}

}  // namespace
}  // namespace gcorn
