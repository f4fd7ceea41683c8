// Which interpreter the build embeds and whether extension modules find it in the binary; what
// `make install` and `make deb` put in place, and what the installed binary needs to start.

#include <link.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>
#include <sstream>

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
        run({"/bin/sh", "-c", "umask 077; exec /bin/sh \"$@\"", "sh", script("install.sh"),
             binary(), "/usr/local", destination.path()});
    ASSERT_EQ(installed.code, 0) << installed;
    const std::set<std::string> expected = {"usr/local/bin/gcorn",
                                            "usr/local/share/man/man1/gcorn.1",
                                            "usr/local/share/bash-completion/completions/gcorn",
                                            "usr/local/share/zsh/site-functions/_gcorn",
                                            "usr/local/share/fish/vendor_completions.d/gcorn.fish"};
    EXPECT_EQ(files_below(destination.path()), expected);
    for (const std::string& file : expected) {
        constexpr fs::perms kReadable = fs::perms::others_read;
        EXPECT_EQ(fs::status(destination / file).permissions() & kReadable, kReadable) << file;
    }
    const Finished version = run({destination / "usr/local/bin/gcorn", "--version"});
    EXPECT_EQ(version.out, run_server({"--version"}).out) << version;
    const std::string share = destination / "usr/local/share/";
    if (!find_program("man").empty()) {
        const Finished page = run({find_program("man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8",
                                   share + "man/man1/gcorn.1"},
                                  {{"MANWIDTH", "80"}});
        EXPECT_EQ(page.code, 0) << page.err;
        EXPECT_EQ(page.err, "");
        // In a page for terminals bold text is overstruck: drop each character and its backspace.
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
    // Bash splits "--worker-class=ge" into three words.
    for (const std::string words : {"= ge) COMP_CWORD=3", "ge) COMP_CWORD=2"}) {
        const Finished choice = run({"/bin/bash", "-c",
                                     "source " + share +
                                         "bash-completion/completions/gcorn && "
                                         "COMP_WORDS=(gcorn --worker-class " +
                                         words + " && _gcorn && echo ${COMPREPLY[@]}"});
        EXPECT_EQ(choice.out, "gevent gevent_websocket\n") << words << choice;
    }
    for (const auto& [shell, file] : {std::pair("zsh", "zsh/site-functions/_gcorn"),
                                      {"fish", "fish/vendor_completions.d/gcorn.fish"}}) {
        if (find_program(shell).empty()) continue;
        const Finished checked = run({find_program(shell), "-n", share + file});
        EXPECT_EQ(checked.code, 0) << checked;
    }
}

/// Split into words, the rest of such a directory would be another argument, or nothing: with exit
/// code 0, everything would be in the wrong place.
TEST_F(Install, PutsEverythingBelowDirectoriesWithBlanksInTheirNames) {
    NEEDS_PROGRAM("make", "make");
    const TempDir directory;
    // -o all: installs what is there, builds nothing.
    const Finished installed =
        run({find_program("make"), "-C", apps_dir() + "/../..", "-o", "all", "install",
             "BUILD=" + fs::path(binary()).parent_path().string(), "PREFIX=/opt/the site",
             "DESTDIR=" + directory.path() + "/a b"});
    ASSERT_EQ(installed.code, 0) << installed;
    EXPECT_TRUE(fs::exists(directory / "a b/opt/the site/bin/gcorn"));
    EXPECT_TRUE(fs::exists(directory / "a b/opt/the site/share/man/man1/gcorn.1"));
    EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), {}), 1) << "elsewhere, too";
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

    // A root directory and package database of its own, without the package's dependencies.
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
          "share/doc/gcorn/settings.md", "share/doc/gcorn/examples/kubernetes.yaml",
          "share/bash-completion/completions/gcorn", "share/zsh/vendor-completions/_gcorn"}) {
        EXPECT_EQ(there.count(file), 1U) << file;
    }
    const std::string docs = root + "/usr/share/doc/gcorn";
    const std::string deploying = read_file(docs + "/deploying.md");
    EXPECT_NE(deploying.find("cp examples/gcorn.service "), std::string::npos) << "as installed";
    EXPECT_EQ(deploying.find("deploy/"), std::string::npos);
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
             "install -D '" + binary() + "' " + root.path() +
                 "/usr/bin/gcorn\n"
                 "cd " +
                 root.path() + "\nmkdir -p tmp dev ." + stdlib +
                 "\n"
                 // Shared libraries of the binary and of the extension modules, by name.
                 "for file in $(ldd usr/bin/gcorn " +
                 stdlib +
                 "/lib-dynload/*.so | "
                 "    sed -n 's/.*=> \\(\\/[^ ]*\\).*/\\1/p; s/^\\t\\(\\/lib[^ ]*\\).*/\\1/p' | "
                 "sort -u); do\n"
                 "  install -D $file .$file\ndone\n"
                 "cd " +
                 stdlib +
                 " && tar -cf - --exclude=test --exclude=idlelib --exclude='*-packages' "
                 "    --exclude=__pycache__ --exclude='config-*' . | tar -xf - -C " +
                 root.path() + stdlib +
                 "\n"
                 "cp '" +
                 apps_dir() + "/hello.py' " + root.path() +
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

/// Python and OpenSSL run in the program's own threads. musl reads from the program's header how
/// much stack those get, as its default of 128 KiB is too little; glibc takes it from elsewhere.
TEST_F(Install, AsksForAsMuchStackAsPythonNeeds) {
    const std::string program = read_file(binary());
    ElfW(Ehdr) header{};
    ASSERT_GE(program.size(), sizeof header);
    std::memcpy(&header, program.data(), sizeof header);
    uint64_t stack_bytes = 0;
    for (size_t i = 0; i < header.e_phnum; ++i) {
        ElfW(Phdr) part{};
        const size_t at = header.e_phoff + i * sizeof part;
        ASSERT_GE(program.size(), at + sizeof part);
        std::memcpy(&part, program.data() + at, sizeof part);
        if (part.p_type == PT_GNU_STACK) stack_bytes = part.p_memsz;
    }
    EXPECT_GE(stack_bytes, 1U << 20);
}

/// The archive has every function of CPython, the shared library only those that it exports, which
/// its headers do not always tell.
TEST_F(Install, CallsOnlyWhatTheSharedLibraryExports) {
    NEEDS_PROGRAM("nm", "binutils");
    const std::string archive = fs::path(binary()).parent_path() / "libgcorn_python.a";
    if (!fs::exists(archive)) GTEST_SKIP() << "NOT TESTED: no " << archive;
    const Finished found = run({python(), "-c",
                                "import os, sysconfig\n"
                                "var = sysconfig.get_config_var\n"
                                "print(end=os.path.join(var('LIBDIR'), var('LDLIBRARY')))"});
    if (!found.out.ends_with(".so") || !fs::exists(found.out))
        GTEST_SKIP() << "NOT TESTED: there is no shared library, but " << found;
    const auto symbols = [](const std::vector<std::string>& arguments) {
        std::vector<std::string> command = {find_program("nm"), "-P"};
        command.insert(command.end(), arguments.begin(), arguments.end());
        std::set<std::string> names;
        std::istringstream lines(run(command).out);
        for (std::string line; std::getline(lines, line);) {
            const std::string name = line.substr(0, line.find_first_of(" @"));
            if (name.starts_with("Py") || name.starts_with("_Py")) names.insert(name);
        }
        return names;
    };
    const std::set<std::string> exported = symbols({"-D", "--defined-only", found.out});
    EXPECT_EQ(exported.count("Py_InitializeFromConfig"), 1U);
    for (const std::string& name : symbols({"-u", archive}))
        EXPECT_EQ(exported.count(name), 1U) << name << " is not in " << found.out;
}

/// Modules in shared objects resolve Python's symbols in the program (static) or in libpython.
TEST_F(Install, ExtensionModulesImport) {
    const Server server({.app = "extensions:app"});
    const Response got = server.get("/");
    EXPECT_EQ(got.status, 200) << got << server.story();
    EXPECT_NE(got.body.find("ctypes works\n"), std::string::npos) << got;
    EXPECT_NE(got.body.find("hashlib works\n"), std::string::npos) << got;
    EXPECT_NE(got.body.find("sqlite3 works\n"), std::string::npos) << got;
    EXPECT_NE(got.body.find("ssl works\n"), std::string::npos) << got;
    if (got.body.find(" is not installed\n") != std::string::npos)
        std::fprintf(stderr, "NOT TESTED:\n%s", got.body.c_str());
}

/// Configures the project and returns CMake's output, with a python3 that reports these facts (see
/// the probe in CMakeLists.txt) first on PATH or, if `only`, as the only candidate.
class Probe : public Install {
protected:
    void SetUp() override {
        Install::SetUp();
        NEEDS_PROGRAM("cmake", "cmake");
    }
    std::string says(const std::string& facts, bool only = true) {
        const std::string python3 =
            directory_.write("bin/python3", "#!/bin/sh\necho '" + facts + "'\n");
        fs::permissions(python3, fs::perms::owner_all);
        const std::string path = directory_ / "bin:/usr/bin:/bin";
        const Finished configured = run({find_program("cmake"), "-S", apps_dir() + "/../..", "-B",
                                         directory_ / "build", "-DPYTHON=" + (only ? python3 : "")},
                                        {{"PATH", path}}, "", Milliseconds(60'000));
        is_configured_ = configured.code == 0;
        return configured.out + configured.err;
    }
    /// Makes an empty file, a header or a library; returns its path.
    std::string some(const std::string& file) { return directory_.write(file, ""); }

    TempDir directory_;
    bool is_configured_ = false;
};

TEST_F(Probe, SaysInOneLineWhatIsMissing) {
    const std::string headers = directory_ / "include";
    for (const auto& [facts, why] :
         {std::pair(std::string("hello"), std::string("does not run as Python 3")),
          {"3.9.2|309|" + headers + "||||/x", "is 3.9.2, not 3.10 to 3.15"},
          {"3.16.0|316|" + headers + "||||/x", "is 3.16.0, not 3.10 to 3.15"},
          {"3.12.1|312|" + headers + "||||/x", "has no headers"}}) {
        const std::string line = "gcorn: no Python 3.10 to 3.15 with headers and embed library (" +
                                 (directory_ / "bin/python3") + " " + why +
                                 "). Install python3-dev (Debian, Ubuntu), ";
        const std::string text = says(facts);
        EXPECT_NE(text.find(line), std::string::npos) << line << "\n--- not in\n" << text;
        EXPECT_FALSE(is_configured_);
    }
    some("include/Python.h");
    EXPECT_NE(says("3.12.1|312|" + headers + "||||/x").find("has no shared embed library"),
              std::string::npos);
}

TEST_F(Probe, PassesOverAPythonThatCannotBeEmbedded) {
    const std::string text = says("3.12.1|312|/nonexistent||||/x", false);
    if (!fs::exists("/usr/bin/python3-config"))
        GTEST_SKIP()
            << "NOT TESTED: the system's Python has no embed library (package python3-dev)";
    EXPECT_TRUE(is_configured_) << text;
    EXPECT_NE(text.find("gcorn: embeds /usr/bin/python3 ("), std::string::npos) << text;
    EXPECT_NE(text.find(", not " + (directory_ / "bin/python3") + " (PYTHON= to choose)"),
              std::string::npos)
        << text;
}

/// Libraries in CPython's own build directory do not exist here: those whose code is in the archive
/// are dropped, any other makes the archive useless.
TEST_F(Probe, TakesTheSharedLibraryWhenTheArchiveIsIncomplete) {
    some("include/Python.h");
    const std::string facts = "3.14.1|314|" + (directory_ / "include") + "|" + some("l.a") + "|" +
                              some("l.so") + "|-lm Modules/_hacl/Hacl_Hash_MD5.o";
    EXPECT_NE(says(facts + "|/x").find("gcorn: embeds /x (3.14.1, static)"), std::string::npos);
    EXPECT_NE(
        says(facts + " Modules/expat/libexpat.a|/x").find("gcorn: embeds /x (3.14.1, shared)"),
        std::string::npos);
    const auto link_line = [&] {
        return read_file(directory_ / "build/CMakeFiles/gcorn.dir/link.txt");
    };
    EXPECT_EQ(link_line().find("-lm"), std::string::npos) << link_line();
    (void)says(facts + "|/x");
    EXPECT_NE(link_line().find("-lm"), std::string::npos) << link_line();
}

}  // namespace
}  // namespace gcorn::e2e
