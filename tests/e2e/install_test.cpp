// What `make install` and `make deb` put in place, and what the installed binary needs to start.

#include <unistd.h>

#include <filesystem>
#include <set>

#include "tests/support/front_end.h"

namespace gcorn::e2e {
namespace {

namespace fs = std::filesystem;

std::string script(const std::string& name) {
    return apps_dir() + "/../../deploy/" + name;
}

/// All files below a directory, relative to it.
std::set<std::string> files_below(const std::string& directory) {
    std::set<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
        if (!entry.is_directory()) files.insert(fs::relative(entry.path(), directory).string());
    }
    return files;
}

class Install : public ::testing::Test {
protected:
    void SetUp() override {
        if (is_gunicorn()) GTEST_SKIP() << "about gcorn's own package";
    }
    static std::string binary() { return server_command().at(0); }
};

TEST_F(Install, PutsBinaryManPageAndCompletionsInPlace) {
    const TempDir destination;
    const Finished installed =
        run({"/bin/sh", script("install.sh"), binary(), "/usr/local", destination.path()});
    ASSERT_EQ(installed.code, 0) << installed;
    const std::set<std::string> expected = {"usr/local/bin/gcorn",
                                            "usr/local/share/man/man1/gcorn.1",
                                            "usr/local/share/bash-completion/completions/gcorn",
                                            "usr/local/share/zsh/site-functions/_gcorn",
                                            "usr/local/share/fish/vendor_completions.d/gcorn.fish"};
    EXPECT_EQ(files_below(destination.path()), expected);
    const Finished version = run({destination / "usr/local/bin/gcorn", "--version"});
    EXPECT_EQ(version.out, run_server({"--version"}).out) << version;
    const std::string share = destination / "usr/local/share/";
    if (!find_program("man").empty()) {
        const Finished page = run({find_program("man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8",
                                   share + "man/man1/gcorn.1"},
                                  {{"MANWIDTH", "80"}});
        EXPECT_EQ(page.code, 0) << page.err;
        EXPECT_EQ(page.err, "");
        // A terminal page overstrikes what is bold: drop each character and its backspace.
        std::string text;
        for (const char c : page.out) {
            if (c == '\b' && !text.empty())
                text.pop_back();
            else
                text += c;
        }
        EXPECT_NE(text.find("SYNOPSIS"), std::string::npos);
        EXPECT_NE(text.find("graceful-timeout"), std::string::npos);
    }
    const Finished completed =
        run({"/bin/bash", "-c",
             "source " + share +
                 "bash-completion/completions/gcorn && "
                 "COMP_WORDS=(gcorn --grace) COMP_CWORD=1 && _gcorn && echo ${COMPREPLY[@]}"});
    EXPECT_EQ(completed.out, "--graceful-timeout\n") << completed;
    for (const auto& [shell, file] : {std::pair("zsh", "zsh/site-functions/_gcorn"),
                                      {"fish", "fish/vendor_completions.d/gcorn.fish"}}) {
        if (find_program(shell).empty()) continue;
        const Finished checked = run({find_program(shell), "-n", share + file});
        EXPECT_EQ(checked.code, 0) << checked;
    }
}

TEST_F(Install, MakesADebianPackageThatComesAndGoes) {
    NEEDS_PROGRAM("dpkg-shlibdeps", "dpkg-dev");
    NEEDS_PROGRAM("fakeroot", "fakeroot");
    const TempDir directory;
    const Finished built = run({"/bin/sh", script("make-deb.sh"), binary(), directory.path()}, {},
                               "", Milliseconds(60'000));
    if (built.err.find("Debian's own Python") != std::string::npos)
        GTEST_SKIP() << "NOT TESTED: this build embeds another Python than Debian's";
    ASSERT_EQ(built.code, 0) << built;
    const std::string package = built.out.substr(0, built.out.find('\n'));

    // A root directory and package database of its own; what it depends on is not there.
    const std::string root = directory / "root";
    fs::create_directories(root + "/var/lib/dpkg/info");
    fs::create_directories(root + "/var/lib/dpkg/updates");
    directory.write("root/var/lib/dpkg/status", "");
    const auto dpkg = [&](const std::vector<std::string>& more) {
        std::vector<std::string> command = {"/usr/bin/fakeroot", "/usr/bin/dpkg",
                                            "--root=" + root,    "--force-depends",
                                            "--force-not-root",  "--log=/dev/null"};
        command.insert(command.end(), more.begin(), more.end());
        return run(command);
    };
    const Finished installed = dpkg({"-i", package});
    EXPECT_EQ(installed.code, 0) << installed;
    const std::set<std::string> there = files_below(root + "/usr");
    for (const char* file :
         {"bin/gcorn", "share/man/man1/gcorn.1.gz", "share/doc/gcorn/copyright",
          "share/bash-completion/completions/gcorn", "share/zsh/vendor-completions/_gcorn"}) {
        EXPECT_EQ(there.count(file), 1U) << file;
    }
    EXPECT_EQ(run({root + "/usr/bin/gcorn", "--version"}).out, run_server({"--version"}).out);
    const Finished removed = dpkg({"-r", "gcorn"});
    EXPECT_EQ(removed.code, 0) << removed;
    EXPECT_FALSE(fs::exists(root + "/usr")) << "something is left";
}

/// The machine with nothing but the shared libraries of the binary and the standard library: a
/// directory that becomes the root of the file system.
TEST_F(Install, StartsWithNothingButTheStandardLibrary) {
    if (::geteuid() != 0) GTEST_SKIP() << "NOT TESTED: chroot(8) needs root";
    NEEDS_PROGRAM("chroot", "coreutils");
    const std::string facts =
        run({python(), "-c",
             "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_path('stdlib'))"})
            .out;
    const std::string prefix = facts.substr(0, facts.find(' '));
    const std::string stdlib =
        facts.substr(prefix.size() + 1, facts.find('\n') - prefix.size() - 1);
    const TempDir root;
    const Finished filled =
        run({"/bin/sh", "-ec",
             "install -D " + binary() + " " + root.path() +
                 "/usr/bin/gcorn\n"
                 "cd " +
                 root.path() + "\nmkdir -p tmp dev ." + stdlib +
                 "\n"
                 // Shared libraries of the binary and of the extension modules, by name.
                 "for file in $(ldd usr/bin/gcorn " +
                 stdlib +
                 "/lib-dynload/*.so | "
                 "    sed -n 's/.*=> \\(\\/[^ ]*\\).*/\\1/p; s/^\\t\\(\\/lib64[^ ]*\\).*/\\1/p' | "
                 "sort -u); do\n"
                 "  install -D $file .$file\ndone\n"
                 "cd " +
                 stdlib +
                 " && tar -cf - --exclude=test --exclude=idlelib --exclude='*-packages' "
                 "    --exclude=__pycache__ --exclude='config-*' . | tar -xf - -C " +
                 root.path() + stdlib +
                 "\n"
                 "cp " +
                 apps_dir() + "/hello.py " + root.path() +
                 "/\n"
                 ": >" +
                 root.path() + "/dev/null\n"},
            {}, "", Milliseconds(60'000));
    ASSERT_EQ(filled.code, 0) << filled;
    EXPECT_FALSE(fs::exists(root.path() + prefix + "/bin/python3"));
    const int port = free_port();
    const Daemon gcorn({find_program("chroot"), root.path(), "/usr/bin/gcorn", "-w", "1", "-k",
                        "gthread", "-b", "127.0.0.1:" + std::to_string(port), "hello:app"});
    EXPECT_TRUE(eventually([&] { return Client({.port = port}).connected(); })) << gcorn.output();
    const Response got = fetch({.port = port}, "GET", "/");
    EXPECT_EQ(got.body, "Hello, world!\n") << got << gcorn.output();
}

}  // namespace
}  // namespace gcorn::e2e
