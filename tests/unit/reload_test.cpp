#include "os/reload.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"

namespace gcorn {
namespace {

namespace fs = std::filesystem;

constexpr int kDeadlineMs = 10'000;
constexpr int kPollMs = 60;  // the real one would make the tests slow

class ReloadTest : public ::testing::TestWithParam<const char*> {
protected:
    void SetUp() override {
        char path[] = "/tmp/gcorn-reload-XXXXXX";
        ASSERT_NE(::mkdtemp(path), nullptr);
        root_ = path;
        const Status status = reloader_.start(GetParam());
        if (!status && std::string(GetParam()) == "inotify") GTEST_SKIP() << status.message();
        ASSERT_TRUE(status.is_ok()) << status.message();
        app_ = save("app.py", "one");
        sentinel_ = save("zz_sentinel.py", "one");
    }
    void TearDown() override { fs::remove_all(root_); }

    /// Writes a file in place; returns its path.
    std::string save(const std::string& name, const std::string& text) {
        const fs::path path = root_ / name;
        fs::create_directories(path.parent_path());
        std::ofstream(path) << text;
        return path;
    }
    void watch(std::vector<std::string> extra = {}) { reloader_.watch({app_, sentinel_}, extra); }

    /// Runs the reloader as an event loop does, until it reports or the time is over ("").
    std::string change(int limit_ms = kDeadlineMs) {
        const int64_t deadline_ms = monotonic_ms() + limit_ms;
        for (;;) {
            std::string path = reloader_.changed();
            const auto left_ms = static_cast<int>(deadline_ms - monotonic_ms());
            if (!path.empty() || left_ms <= 0) return path;
            struct pollfd item {};
            item.fd = reloader_.fd();
            item.events = POLLIN;
            const int next_ms = reloader_.next_check_ms();
            ::poll(&item, 1, next_ms < 0 ? left_ms : std::min(left_ms, next_ms));
        }
    }
    /// True if there is nothing to report: once the sentinel is saved, the next report names the
    /// sentinel (a report names the first path in order, and the sentinel's is the last).
    bool is_quiet() {
        save("zz_sentinel.py", std::to_string(++sentinel_count_));
        const std::string path = change();
        if (path != sentinel_) ADD_FAILURE() << "reported: " << path;
        return path == sentinel_;
    }

    fs::path root_;
    std::string app_, sentinel_;
    int sentinel_count_ = 1000;
    Reloader reloader_{kPollMs};
};

INSTANTIATE_TEST_SUITE_P(Engine, ReloadTest, ::testing::Values("inotify", "poll"),
                         [](const auto& engine) { return std::string(engine.param); });

TEST(Reload, KnowsItsEngines) {
    Reloader reloader;
    EXPECT_TRUE(reloader.start("auto").is_ok());
    EXPECT_TRUE(Reloader().start("poll").is_ok());
}

#ifdef __linux__
TEST(Reload, TellsWhyItPolls) {
    Reloader inotify;
    ASSERT_TRUE(inotify.start("auto").is_ok());
    inotify.watch({"/etc/passwd", "/nonexistent/x.py"}, {});
    EXPECT_EQ(inotify.trouble(), "") << "a directory may come later";
    struct rlimit before {};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const struct rlimit none = {0, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    Reloader polling;
    const Status automatic = polling.start("auto"), asked = Reloader().start("inotify");
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_TRUE(automatic.is_ok());
    EXPECT_EQ(polling.trouble(), "reloader: inotify_init1: Too many open files");
    EXPECT_EQ(asked.message(), "reloader: inotify_init1: Too many open files");
}
#endif

TEST(Reload, HasADescriptorOnlyWithInotify) {
    Reloader polling;
    ASSERT_TRUE(polling.start("poll").is_ok());
    polling.watch({"/etc/passwd"}, {});
    EXPECT_EQ(polling.fd(), -1);
    EXPECT_EQ(polling.next_check_ms(), 0) << "the first look is due at once";
    EXPECT_EQ(polling.changed(), "");
    EXPECT_GT(polling.next_check_ms(), Reloader::kPollMs / 2);
    EXPECT_LE(polling.next_check_ms(), Reloader::kPollMs);
#ifdef __linux__
    Reloader inotify;
    ASSERT_TRUE(inotify.start("auto").is_ok());
    inotify.watch({"/etc/passwd", "/x.py"}, {});
    EXPECT_GE(inotify.fd(), 0);
    EXPECT_TRUE(::fcntl(inotify.fd(), F_GETFD) & FD_CLOEXEC);
    EXPECT_EQ(inotify.next_check_ms(), -1) << "no wake-ups while nothing happens";
    EXPECT_EQ(inotify.changed(), "");
#endif
}

TEST_P(ReloadTest, SeesAFileWrittenInPlaceWithinASecond) {
    watch();
    EXPECT_EQ(reloader_.changed(), "");
    const int64_t start_ms = monotonic_ms();
    save("app.py", "two, longer");
    EXPECT_EQ(change(), app_);
    // The real poll time promises a second; the rest is slack for a busy machine.
    static_assert(Reloader::kPollMs + Reloader::kQuietMs < 1000);
    EXPECT_LT(monotonic_ms() - start_ms, 2000);
    EXPECT_TRUE(is_quiet());
    if (reloader_.fd() >= 0) {
        EXPECT_EQ(reloader_.next_check_ms(), -1) << "all was looked at";
    }
}

TEST_P(ReloadTest, SeesAFileOfEqualSizeAndAnAppendingWriter) {
    watch();
    save("app.py", "two");
    EXPECT_EQ(change(), app_);
    std::ofstream writer(root_ / "app.py", std::ios::app);
    writer << "three" << std::flush;  // and stays open
    EXPECT_EQ(change(), app_);
}

TEST_P(ReloadTest, SeesAFileRenamedOverIt) {
    // How vim and most editors save: a temporary file beside it, then rename.
    watch();
    save(".app.py.swp", "two");
    fs::rename(root_ / ".app.py.swp", app_);
    EXPECT_EQ(change(), app_);
    EXPECT_TRUE(is_quiet());
}

TEST_P(ReloadTest, SeesARenamedCopyWithTheOldTime) {
    // A backup moved back: older, not newer.
    watch();
    const std::string copy = save("copy", "old");
    fs::last_write_time(copy, fs::last_write_time(app_) - std::chrono::hours(24));
    fs::rename(copy, app_);
    EXPECT_EQ(change(), app_);
}

TEST_P(ReloadTest, SeesAnotherFileOfEqualTimeAndSize) {
    watch();
    EXPECT_TRUE(is_quiet());
    const std::string other = save("other.txt", "two");
    fs::last_write_time(other, fs::last_write_time(app_));
    fs::rename(other, app_);
    EXPECT_EQ(change(), app_);
}

TEST_P(ReloadTest, SeesAFileMovedAway) {
    watch();
    save("elsewhere/x", "x");
    EXPECT_TRUE(is_quiet());
    fs::rename(app_, root_ / "elsewhere/app.py");
    EXPECT_EQ(change(), app_);
}

TEST_P(ReloadTest, SeesAFileWrittenThroughAMapping) {
    watch();
    {
        const Fd file(::open(app_.c_str(), O_RDWR | O_CLOEXEC));
        void* const bytes = ::mmap(nullptr, 3, PROT_WRITE, MAP_SHARED, file.get(), 0);
        ASSERT_NE(bytes, MAP_FAILED);
        std::memcpy(bytes, "two", 3);
        EXPECT_EQ(::munmap(bytes, 3), 0);
    }
    EXPECT_EQ(change(), app_);
}

TEST_P(ReloadTest, SeesAFileDeletedAndWrittenAnewOnce) {
    watch();
    EXPECT_EQ(reloader_.changed(), "");
    fs::remove(app_);
    EXPECT_EQ(change(Reloader::kQuietMs + 10), "") << "an editor may be about to put it back";
    save("app.py", "two");
    EXPECT_EQ(change(), app_);
    EXPECT_TRUE(is_quiet());
}

TEST_P(ReloadTest, SeesThatAFileStaysAway) {
    watch();
    fs::remove(app_);
    EXPECT_EQ(change(), app_);
    EXPECT_TRUE(is_quiet());
    save("app.py", "back");
    EXPECT_EQ(change(), app_);
}

TEST_P(ReloadTest, SeesAMissingFileAppear) {
    // The module whose import failed because it was not there yet.
    const std::string later = root_ / "later.py";
    reloader_.watch({app_, sentinel_, later}, {});
    EXPECT_TRUE(is_quiet());
    save("later.py", "x");
    EXPECT_EQ(change(), later);
}

TEST_P(ReloadTest, SeesATouchedFile) {
    watch();
    ASSERT_EQ(::utimensat(AT_FDCWD, app_.c_str(), nullptr, 0), 0);
    EXPECT_EQ(change(), app_);
}

TEST_P(ReloadTest, ReportsABurstOfSavesOnce) {
    watch();
    const std::string other = save("b.py", "x");
    reloader_.watch({app_, other, sentinel_}, {});
    const int64_t burst_end_ms = monotonic_ms() + Reloader::kBurstMs / 2;
    for (int i = 0; i < 30 && monotonic_ms() < burst_end_ms; ++i) {
        save("app.py", "version " + std::to_string(i));
        save("b.py", "version " + std::to_string(i));
        ASSERT_EQ(reloader_.changed(), "") << "the burst is not over";
        if (reloader_.fd() < 0) break;  // polling: one look sees it all
    }
    EXPECT_EQ(change(), app_);
    EXPECT_TRUE(is_quiet()) << "b.py belonged to the same burst";
}

TEST_P(ReloadTest, DoesNotWaitForEverForABurstToEnd) {
    watch();
    const int64_t start_ms = monotonic_ms();
    std::string path;
    for (int i = 0; path.empty() && monotonic_ms() - start_ms < kDeadlineMs; ++i) {
        save("app.py", "version " + std::to_string(i));
        path = change(5);
    }
    EXPECT_EQ(path, app_);
    EXPECT_LT(monotonic_ms() - start_ms, 4000) << "500 ms at most";
}

TEST_P(ReloadTest, IgnoresCompiledAndUnrelatedFiles) {
    watch({root_ / "*.py*"});
    save("app.pyc", "x");
    save("app.pyo", "x");
    save("__pycache__/app.cpython-311.pyc", "x");
    save("access.log", "x");
    save("unknown.txt", "x");
    EXPECT_TRUE(is_quiet());
}

TEST_P(ReloadTest, IgnoresReadingAndAttributes) {
    watch();
    { std::ifstream(app_).get(); }
    ASSERT_EQ(::chmod(app_.c_str(), 0600), 0);
    { std::ofstream open_only(app_, std::ios::app); }
    EXPECT_TRUE(is_quiet());
}

TEST_P(ReloadTest, WatchesTheSourceOfACompiledModule) {
    const std::string module = save("module.py", "x"), other = save("other.py", "x");
    reloader_.watch({module + "c", other + "o", sentinel_}, {});
    save("module.py", "changed");
    EXPECT_EQ(change(), module);
    save("other.py", "changed");
    EXPECT_EQ(change(), other);
}

TEST_P(ReloadTest, TakesNewModulesWithoutReportingThem) {
    watch();
    EXPECT_EQ(reloader_.changed(), "");
    const std::string late = save("package/late.py", "x");
    reloader_.watch({app_, late, sentinel_}, {});
    EXPECT_TRUE(is_quiet());
    save("package/late.py", "changed");
    EXPECT_EQ(change(), late);
}

TEST_P(ReloadTest, ForgetsNoChangeThatHappensBetweenTwoEqualLists) {
    watch();
    save("app.py", "changed");
    watch();
    EXPECT_EQ(change(), app_);
}

TEST_P(ReloadTest, WatchesExtraFilesOfAnyKind) {
    const std::string config = save("conf/site.yaml", "x");
    watch({config});
    save("conf/site.yaml", "changed");
    EXPECT_EQ(change(), config);
}

TEST_P(ReloadTest, ReportsChangedNewAndRemovedFilesOfAGlob) {
    const std::string first = save("templates/a.html", "x"), text = save("templates/a.txt", "x");
    watch({root_ / "templates/*.html"});
    EXPECT_TRUE(is_quiet());
    save("templates/a.txt", "not matched");
    save("templates/sub/c.html", "not matched");
    save("templates/.hidden.html", "not matched");
    EXPECT_TRUE(is_quiet());
    save("templates/a.html", "changed");
    EXPECT_EQ(change(), first);
    const std::string second = save("templates/b.html", "new");
    EXPECT_EQ(change(), second);
    fs::remove(second);
    EXPECT_EQ(change(), second);
    EXPECT_TRUE(is_quiet());
}

TEST_P(ReloadTest, NamesTheGlobsThatMatchNothingYet) {
    save("templates/page.html", "one");
    watch({root_ / "*.py", root_ / "templates/*", root_ / "templates/p*.html"});
    EXPECT_EQ(reloader_.unmatched(), "") << "app.py is watched already, page.html matches twice";
    watch({root_ / "*.txt", root_ / "*.py", root_ / "no/*.html"});
    EXPECT_EQ(reloader_.unmatched(),
              std::string(root_ / "*.txt, ") + std::string(root_ / "no/*.html"));
    save("notes.txt", "one");
    EXPECT_EQ(change(), root_ / "notes.txt");
}

TEST_P(ReloadTest, TakesFilesOfAnySizeAndNoDirectoriesForAGlob) {
    fs::create_directories(root_ / "templates/b.html");
    const std::string first = save("templates/a.html", "x");
    watch({root_ / "templates/[ab].html", root_ / "t*/empty"});
    EXPECT_TRUE(is_quiet());
    save("templates/c.html", "not matched");
    save("templates/b.html/inside", "not matched");
    EXPECT_TRUE(is_quiet());
    save("templates/a.html", "changed");
    EXPECT_EQ(change(), first);
    const std::string empty = save("templates/empty", "");
    EXPECT_EQ(change(), empty);
    EXPECT_TRUE(is_quiet());
}

TEST_P(ReloadTest, FollowsAGlobOfAnyDepthIntoNewDirectories) {
    save("tree/a/old.py", "x");
    watch({root_ / "tree/**/*.py"});
    EXPECT_TRUE(is_quiet());
    const std::string top = save("tree/top.py", "new");
    EXPECT_EQ(change(), top) << "no directory is a depth, too";
    const std::string deep = save("tree/b/c/d/new.py", "new");
    EXPECT_EQ(change(), deep);
    save("tree/b/c/d/new.py", "changed");
    EXPECT_EQ(change(), deep);
    save("tree/b/c/d/new.txt", "not matched");
    save("tree/.git/hook.py", "hidden");
    save("tree/__pycache__/x.py", "compiled");
    EXPECT_TRUE(is_quiet());
    // A whole directory moved in.
    save("elsewhere/moved.py", "x");
    fs::create_directory_symlink(root_ / "elsewhere", root_ / "tree/link");
    EXPECT_TRUE(is_quiet()) << "links are not followed";
    fs::rename(root_ / "elsewhere", root_ / "tree/moved");
    EXPECT_EQ(change(), std::string(root_ / "tree/moved/moved.py"));
}

TEST_P(ReloadTest, MatchesEverythingBelowForADoubleStarAtTheEnd) {
    save("tree/a/x", "x");
    watch({root_ / "tree/**"});
    save("tree/a/x", "changed");
    EXPECT_EQ(change(), std::string(root_ / "tree/a/x"));
    const std::string added = save("tree/a/b/y", "new");
    EXPECT_EQ(change(), added);
}

TEST_P(ReloadTest, MatchesNamesBelowWildcardDirectories) {
    save("apps/one/settings.py", "x");
    fs::create_directories(root_ / "apps/two");
    watch({root_ / "apps/*/settings.py", root_ / "apps/o?e/[m-z]*.cfg", root_ / "apps/\\*"});
    EXPECT_TRUE(is_quiet());
    const std::string second = save("apps/two/settings.py", "new");
    EXPECT_EQ(change(), second);
    save("apps/one/a.cfg", "not matched");
    EXPECT_TRUE(is_quiet());
    const std::string cfg = save("apps/one/site.cfg", "new");
    EXPECT_EQ(change(), cfg);
    const std::string third = save("apps/three/settings.py", "new");
    EXPECT_EQ(change(), third);
    const std::string odd = save("apps/\\odd", "a backslash is a byte like others");
    EXPECT_EQ(change(), odd);
}

TEST_P(ReloadTest, WaitsForAGlobsDirectoryToAppear) {
    watch({root_ / "later/*.html"});
    EXPECT_TRUE(is_quiet());
    const std::string page = save("later/page.html", "new");
    EXPECT_EQ(change(), page);
    save("later/page.html", "changed");
    EXPECT_EQ(change(), page);
}

TEST_P(ReloadTest, SurvivesADirectoryThatIsReplaced) {
    // Another checkout renamed into place, then the same once more.
    const std::string module = save("package/module.py", "x");
    reloader_.watch({module, sentinel_}, {});
    for (int i = 0; i < 2; ++i) {
        save("next/module.py", "version " + std::to_string(i));
        fs::rename(root_ / "package", root_ / ("old" + std::to_string(i)));
        fs::rename(root_ / "next", root_ / "package");
        EXPECT_EQ(change(), module);
        EXPECT_TRUE(is_quiet());
    }
    save("old1/module.py", "the renamed directory is no longer ours");
    EXPECT_TRUE(is_quiet());
    save("package/module.py", "in place again");
    EXPECT_EQ(change(), module);
    fs::remove_all(root_ / "package");
    EXPECT_EQ(change(), module);
    save("package/module.py", "and it came back");
    EXPECT_EQ(change(), module);
}

TEST_P(ReloadTest, SurvivesADirectoryThatIsDeletedAndMadeAnew) {
    const std::string inside = save("package/inside.py", "one");
    watch({inside});
    EXPECT_TRUE(is_quiet());
    fs::remove_all(root_ / "package");
    EXPECT_EQ(change(), inside);
    save("package/inside.py", "two");
    EXPECT_EQ(change(), inside);
    save("package/inside.py", "three!");
    EXPECT_EQ(change(), inside);
}

TEST_P(ReloadTest, SeesASymbolicLinkPointElsewhere) {
    // Also a change two links away, as in Kubernetes' mounted ConfigMaps.
    save("v1/site.yaml", "one");
    save("v2/site.yaml", "two");
    fs::create_symlink("v1", root_ / "..data");
    fs::create_symlink("..data/site.yaml", root_ / "site.yaml");
    watch({root_ / "site.yaml"});
    EXPECT_TRUE(is_quiet());
    fs::create_symlink("v2", root_ / "..tmp");
    fs::rename(root_ / "..tmp", root_ / "..data");
    EXPECT_EQ(change(), std::string(root_ / "site.yaml"));
}

TEST_P(ReloadTest, SeesChangesThroughALinkedDirectory) {
    save("real/module.py", "x");
    fs::create_directory_symlink("real", root_ / "link");
    const std::string module = root_ / "link/module.py";
    reloader_.watch({module, root_ / "real/module.py", sentinel_}, {});
    save("real/module.py", "changed");
    EXPECT_EQ(change(), module);
}

TEST_P(ReloadTest, SeesADirectoryLinkPointElsewhere) {
    save("v1/pkg/mod.py", "one");
    save("v2/pkg/mod.py", "two");
    fs::create_directory_symlink("v1", root_ / "current");
    const std::string module = root_ / "current/pkg/mod.py";
    reloader_.watch({module, sentinel_}, {});
    fs::create_directory_symlink("v2", root_ / "next");
    fs::rename(root_ / "next", root_ / "current");
    EXPECT_EQ(change(), module);
    save("v2/pkg/mod.py", "three");
    EXPECT_EQ(change(), module);
    save("v1/pkg/mod.py", "no longer ours");
    EXPECT_TRUE(is_quiet());
    fs::remove(root_ / "current");
    EXPECT_EQ(change(), module);
    fs::create_directory_symlink("v1", root_ / "current");
    EXPECT_EQ(change(), module);
    save("v1/pkg/mod.py", "ours again");
    EXPECT_EQ(change(), module);
}

TEST_P(ReloadTest, WatchesADirectoryGivenAsAFile) {
    fs::create_directory(root_ / "locale");
    watch({root_ / "locale"});
    EXPECT_TRUE(is_quiet());
    save("locale/de.mo", "new");
    EXPECT_EQ(change(), std::string(root_ / "locale"));
}

TEST_P(ReloadTest, ResolvesRelativePathsFromTheStartingDirectory) {
    const fs::path before = fs::current_path();
    fs::current_path(root_);
    Reloader reloader;
    ASSERT_TRUE(reloader.start(GetParam()).is_ok());
    fs::current_path(before);
    reloader.watch({"", "app.py"}, {"", "*.html"});  // empty ones are none
    save("unrelated", "x");
    save("app.py", "changed");
    std::string path;
    for (const int64_t deadline_ms = monotonic_ms() + kDeadlineMs;
         path.empty() && monotonic_ms() < deadline_ms; ::usleep(2000))
        path = reloader.changed();
    EXPECT_EQ(path, app_);
}

TEST_P(ReloadTest, TakesOddLists) {
    reloader_.watch({"", "/", "/nonexistent/x.py", "/etc/passwd/x.py", "x.pyc", app_, sentinel_},
                    {"", "/nonexistent/**/*.py", "[", "*/"});
    EXPECT_TRUE(is_quiet());
}

}  // namespace
}  // namespace gcorn
