#include "os/process.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gcorn {
namespace {

namespace fs = std::filesystem;

/// Runs `body` in a child of fork; its exit code.
template <typename Body>
int in_child(Body body) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(body());
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Everything up to the end of the file.
std::string read_all(int fd) {
    std::string text;
    char bytes[4096];
    for (ssize_t count; (count = ::read(fd, bytes, sizeof(bytes))) > 0;)
        text.append(bytes, static_cast<size_t>(count));
    return text;
}

std::string read_file(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

class TemporaryDirectory : public ::testing::Test {
protected:
    void SetUp() override {
        char pattern[] = "/tmp/gcorn-process-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern), nullptr);
        directory_ = fs::canonical(pattern);
    }
    void TearDown() override { fs::remove_all(directory_); }
    void write(const std::string& path, const std::string& text) const {
        fs::create_directories(fs::path(directory_ + path).parent_path());
        std::ofstream(directory_ + path) << text;
    }
    std::string directory_;
};

// --- daemon ---

struct DaemonReport {
    std::string text;       // "pid sid ppid umask stdin cwd"
    std::string to_stdout;  // what it wrote to file descriptor 1
};

/// Daemonises a child whose stdout is a pipe, as under `nohup server | logger`.
DaemonReport run_daemon(bool enable_stdio_inheritance) {
    int report[2], output[2];
    EXPECT_EQ(::pipe(report), 0);
    EXPECT_EQ(::pipe(output), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::close(report[0]);
        ::close(output[0]);
        ::dup2(output[1], 1);
        ::dup2(output[1], 2);
        ::close(output[1]);
        ::dup2(report[1], 0);
        ::umask(077);
        const pid_t session = ::getsid(0);
        Starter starter;
        if (!starter.detach(enable_stdio_inheritance)) ::_exit(9);
        starter.let_go(0);
        if (::write(1, "hello", 5) != 5) ::_exit(8);
        struct stat input {};
        ::fstat(0, &input);
        const mode_t mask = ::umask(0);
        std::ostringstream text;
        const char* place = ::getsid(0) == ::getpid() ? "leads"
                            : ::getsid(0) == session  ? "stays"
                                                      : "follows";
        text << place << ' ' << std::oct << mask << ' '
             << (S_ISCHR(input.st_mode) ? "null" : "other") << ' ' << ::getpid();
        const std::string line = text.str();
        ::_exit(::write(report[1], line.data(), line.size()) > 0 ? 0 : 7);
    }
    ::close(report[1]);
    ::close(output[1]);
    int status = -1;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);  // what the shell sees
    DaemonReport result{read_all(report[0]), read_all(output[0])};
    EXPECT_EQ(result.text.find(" " + std::to_string(pid)), std::string::npos);
    ::close(report[0]);
    ::close(output[0]);
    return result;
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/// Bytes of this process that are in memory (statm, proc(5)).
size_t resident_bytes() {
    size_t size = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> size >> resident;
    return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(Process, FreeMemoryBehindABlockInUseIsGivenBack) {
    constexpr size_t kBlocks = 1000, kSize = 64 * 1024;
    std::vector<std::string> blocks;
    for (size_t i = 0; i < kBlocks; ++i)
        blocks.emplace_back(kSize, 'x');
    const std::string last(1000, 'x');  // stays in use at the end of the heap
    blocks.clear();
    const size_t before = resident_bytes();
    release_free_memory();
    EXPECT_LT(resident_bytes() + kBlocks * kSize / 2, before);
}
#endif

TEST(Process, DaemonGivesUpTerminalSessionAndStreams) {
    const DaemonReport daemon = run_daemon(false);
    EXPECT_EQ(daemon.text.substr(0, 16), "follows 22 null ");
    EXPECT_EQ(daemon.to_stdout, "");
}

TEST(Process, DaemonKeepsRedirectedStreamsIfAsked) {
    const DaemonReport daemon = run_daemon(true);
    EXPECT_EQ(daemon.text.substr(0, 16), "follows 22 null ");
    EXPECT_EQ(daemon.to_stdout, "hello");
}

// --- title ---

#ifdef __linux__

/// argv as the kernel laid it out, from arg_start in proc(5), /proc/pid/stat.
std::vector<char*> kernel_argv() {
    std::string stat = read_file("/proc/self/stat");
    std::istringstream fields(stat.substr(stat.rfind(')') + 2));
    std::string field;
    for (int number = 3; number <= 48; ++number)
        fields >> field;
    auto* next = reinterpret_cast<char*>(std::stoull(field));
    const std::string command_line = read_file("/proc/self/cmdline");
    std::vector<char*> argv;
    for (size_t at = 0; at < command_line.size(); at = command_line.find('\0', at) + 1)
        argv.push_back(next + at);
    return argv;
}

TEST(Process, TitleReplacesTheCommandLineAndKeepsTheEnvironment) {
    EXPECT_EQ(in_child([] {
                  ::setenv("GCORN_TITLE_TEST", "kept", 1);
                  std::vector<char*> argv = kernel_argv();
                  const std::string path = std::getenv("PATH");
                  title_init(static_cast<int>(argv.size()), argv.data());
                  for (const char* title :
                       {"gcorn: master [a rather long name of an app]", "gcorn: worker [x]"}) {
                      set_title(title);
                      const std::string shown = read_file("/proc/self/cmdline");
                      if (shown.substr(0, shown.find('\0')) != title) return 1;
                      if (shown.find_first_not_of('\0', shown.find('\0')) != std::string::npos)
                          return 2;
                  }
                  if (path != std::getenv("PATH")) return 3;
                  if (std::string("kept") != std::getenv("GCORN_TITLE_TEST")) return 4;
                  set_title(std::string(1 << 20, 'x'));  // truncated, not written past the area
                  const std::string shown = read_file("/proc/self/cmdline");
                  return shown.size() > 16 && path == std::getenv("PATH") ? 0 : 5;
              }),
              0);
}

TEST(Process, TitleKeepsTheFirstOfTwoVariablesAndNoneWithoutAName) {
    EXPECT_EQ(in_child([] {
                  char program[] = "gcorn", first[] = "TWICE=first", second[] = "TWICE=second",
                       nameless[] = "=C:", valueless[] = "VALUELESS", last[] = "LAST=";
                  char* argv[] = {program, nullptr};
                  char* variables[] = {first, second, nameless, valueless, last, nullptr};
                  environ = variables;
                  title_init(1, argv);
                  if (std::string("first") != std::getenv("TWICE")) return 1;
                  if (std::string() != std::getenv("LAST")) return 2;
                  int count = 0;
                  for (char** entry = environ; *entry != nullptr; ++entry)
                      ++count;
                  return count == 2 ? 0 : 3;
              }),
              0);
}

TEST(Process, TitleWithoutAnAreaDoesNothing) {
    EXPECT_EQ(in_child([] {
                  const std::string before = read_file("/proc/self/cmdline");
                  set_title("ignored");
                  return read_file("/proc/self/cmdline") == before ? 0 : 1;
              }),
              0);
}

#endif

// --- users ---

TEST(Process, FindsUsersAndGroupsByNameAndNumber) {
    EXPECT_EQ(find_owner("root", "")->user, 0u);
    EXPECT_EQ(find_owner("0", "")->user, 0u);
    EXPECT_EQ(find_owner("4294967294", "")->user, 4294967294u);  // the last one before "no change"
    EXPECT_EQ(find_owner("", "0")->group, 0u);
    EXPECT_EQ(find_owner("", "0")->user, std::nullopt);
    const group* own = ::getgrgid(::getgid());
    const std::string name = own != nullptr ? own->gr_name : std::to_string(::getgid());
    EXPECT_EQ(find_owner("", name)->group, ::getgid());
}

TEST(Process, NamesTheUserThatDoesNotExist) {
    for (const char* name : {"no-such-user", "4294967295", "-1", "1x"}) {
        const Result<Owner> user = find_owner(name, "");
        ASSERT_FALSE(user) << name;
        EXPECT_EQ(user.message(), std::string("No such user: '") + name + "'");
    }
    EXPECT_EQ(find_owner("", "no-such-group").message(), "No such group: 'no-such-group'");
}

TEST(Process, DroppingToNobodyInParticularChangesNothing) {
    EXPECT_EQ(in_child([] {
                  if (!drop_privileges(0, 0, true)) return 1;
                  if (!drop_privileges(::geteuid(), ::getegid(), false)) return 2;
                  return 0;
              }),
              0);
}

TEST(Process, DropsPrivilegesForGood) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    EXPECT_EQ(in_child([] {
                  if (!drop_privileges(65534, 65533, false)) return 1;
                  if (::getuid() != 65534 || ::geteuid() != 65534) return 2;
                  if (::getgid() != 65533 || ::getegid() != 65533) return 3;
                  return ::setuid(0) != 0 && ::setgid(0) != 0 ? 0 : 4;
              }),
              0);
}

/// Drops privileges in a child whose only supplementary group is a marker. The groups it then has:
/// 0 the marker, 1 others, 2 none; more if something failed.
int groups_after(uid_t uid, gid_t gid, bool with_initgroups) {
    return in_child([&] {
        const gid_t marker = 54321;
        if (::setgroups(1, &marker) != 0) return 3;
        if (!drop_privileges(uid, gid, with_initgroups)) return 4;
        if (gid != 0 && ::getgid() != gid) return 5;
        gid_t groups[64];
        const int count = ::getgroups(64, groups);
        for (int i = 0; i < count; ++i)
            if (uid != 0 && gid != 0 && groups[i] == 0) return 6;  // root's own would stay
        for (int i = 0; i < count; ++i)
            if (groups[i] == marker) return 0;
        return count > 0 ? 1 : 2;
    });
}

TEST(Process, RootsGroupsGoWithItsIds) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    const Result<Owner> found = find_owner("nobody", "");
    if (!found) GTEST_SKIP() << "needs a user nobody";
    const uid_t nobody = *found->user;
    constexpr uid_t kNoUser = 4294967290;
    for (const bool with_initgroups : {false, true}) {
        EXPECT_EQ(groups_after(0, 0, with_initgroups), 0) << "nothing is asked for";
        EXPECT_EQ(groups_after(nobody, 0, with_initgroups), 1);
        EXPECT_EQ(groups_after(nobody, 65533, with_initgroups), 1);
        EXPECT_EQ(groups_after(kNoUser, 65533, with_initgroups), 2);
        EXPECT_EQ(groups_after(kNoUser, 0, with_initgroups), 2);
    }
    EXPECT_EQ(groups_after(0, 65533, false), 2);
    EXPECT_EQ(groups_after(0, 65533, true), 1) << "root's own";
}

TEST(Process, WhoMayNotChangeItsGroupsKeepsThem) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    EXPECT_EQ(in_child([] {
                  if (!drop_privileges(65534, 65533, false)) return 1;
                  return drop_privileges(65534, 65533, true) ? 0 : 2;
              }),
              0);
}

TEST(Process, CannotDropToAStrangerWithoutPrivileges) {
    EXPECT_EQ(in_child([] {
                  if (::geteuid() == 0 && !drop_privileges(65534, 65534, false)) return 1;
                  const uid_t other = ::geteuid() + 1;
                  const Status status = drop_privileges(other, 0, false);
                  if (status || status.error().code != EPERM) return 2;
                  return status.message() == "change to user " + std::to_string(other) +
                                                 " (setting user): Operation not permitted"
                             ? 0
                             : 3;
              }),
              0);
}

// --- descriptors ---

TEST(Process, SetsAndClearsCloseOnExec) {
    Result<Pipe> pipe = make_pipe();
    ASSERT_TRUE(pipe);
    const int fd = pipe->read.get();
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_NE(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(::fcntl(pipe->write.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_TRUE(set_close_on_exec(fd, false));
    EXPECT_EQ(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_TRUE(set_close_on_exec(fd, true));
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_FALSE(set_close_on_exec(-1, true));
}

// --- working directory ---

TEST_F(TemporaryDirectory, CurrentDirectoryKeepsTheOperatorsSymlink) {
    fs::create_directory(directory_ + "/release-1");
    fs::create_directory_symlink(directory_ + "/release-1", directory_ + "/current");
    EXPECT_EQ(in_child([&] {
                  if (!change_directory(directory_ + "/current")) return 1;
                  ::setenv("PWD", (directory_ + "/current").c_str(), 1);
                  if (*current_directory() != directory_ + "/current") return 2;
                  for (const std::string wrong :
                       {directory_, std::string("."), std::string("/no"), std::string("")}) {
                      ::setenv("PWD", wrong.c_str(), 1);
                      if (*current_directory() != directory_ + "/release-1") return 3;
                  }
                  ::unsetenv("PWD");
                  return *current_directory() == directory_ + "/release-1" ? 0 : 4;
              }),
              0);
}

TEST_F(TemporaryDirectory, SaysWhereItCannotGo) {
    const std::string missing = directory_ + "/missing";
    const Status status = change_directory(missing);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.message(), "can't chdir to '" + missing + "': No such file or directory");
    EXPECT_EQ(in_child([&] {
                  fs::create_directory(missing);
                  if (!change_directory(missing)) return 1;
                  fs::remove(missing);
                  ::unsetenv("PWD");
                  return current_directory() ? 2 : 0;
              }),
              0);
}

// --- exec ---

TEST(Process, FindsVariablesByTheirWholeName) {
    const Environment environment = {"A=1", "AB=2", "EMPTY=", "A=later", "C=x=y", "BARE"};
    EXPECT_EQ(find_variable(environment, "A"), "1");
    EXPECT_EQ(find_variable(environment, "AB"), "2");
    EXPECT_EQ(find_variable(environment, "EMPTY"), "");
    EXPECT_EQ(find_variable(environment, "C"), "x=y");
    EXPECT_FALSE(find_variable(environment, "B"));
    EXPECT_FALSE(find_variable(environment, "BARE"));
}

TEST_F(TemporaryDirectory, ExecutesWithTheGivenArgumentsAndEnvironment) {
    EXPECT_EQ(
        in_child([] {
            execute("/bin/sh", {"sh", "-c", "test \"$1 $X\" = 'one two'", "-", "one"}, {"X=two"});
            return 99;
        }),
        0);
    const Error error = execute(directory_ + "/missing", {"missing"}, {});
    EXPECT_EQ(error.code, ENOENT);
}

// --- cgroup ---

TEST_F(TemporaryDirectory, ReadsOutOfMemoryKillsOfItsCgroup) {
    EXPECT_EQ(cgroup_oom_kills(directory_), -1);
    write("/proc/self/cgroup", "12:cpu:/elsewhere\n0::/app.slice/web\n");
    EXPECT_EQ(cgroup_oom_kills(directory_), -1);
    write("/sys/fs/cgroup/app.slice/web/memory.events",
          "low 0\nhigh 4\nmax 17\noom 9\noom_kill 3\noom_group_kill 8\n");
    EXPECT_EQ(cgroup_oom_kills(directory_), 3);
    write("/sys/fs/cgroup/app.slice/web/memory.events", "oom_kill x\n");
    EXPECT_EQ(cgroup_oom_kills(directory_), -1);
}

TEST_F(TemporaryDirectory, ReadsOutOfMemoryKillsOfCgroupVersionOne) {
    write("/proc/self/cgroup", "9:name=systemd:/x\n4:memory:/one/more\n3:cpu,cpuacct:/y\n0::/\n");
    EXPECT_EQ(cgroup_oom_kills(directory_), -1);
    write("/sys/fs/cgroup/memory/one/more/memory.oom_control",
          "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n");
    EXPECT_EQ(cgroup_oom_kills(directory_), 5);
}

TEST_F(TemporaryDirectory, ReadsTheRootCgroupOfAContainer) {
    write("/proc/self/cgroup", "0::/\n");
    write("/sys/fs/cgroup/memory.events", "oom_kill 0\n");
    EXPECT_EQ(cgroup_oom_kills(directory_), 0);
}

/// The counter rises before the victim can be reaped: other deaths may be seen first.
TEST_F(TemporaryDirectory, AnOutOfMemoryKillWaitsForItsVictim) {
    const auto counter = [&](int count) {
        write("/sys/fs/cgroup/memory.events", "oom_kill " + std::to_string(count) + "\n");
    };
    write("/proc/self/cgroup", "0::/\n");
    counter(3);
    OutOfMemoryKills kills(directory_);
    kills.look(1000);
    EXPECT_FALSE(kills.explains_a_death());  // those before we started are not ours
    counter(5);
    kills.look(2000);  // another process died, of another cause
    kills.look(3000);
    EXPECT_TRUE(kills.explains_a_death());
    kills.look(4000);
    EXPECT_TRUE(kills.explains_a_death());
    EXPECT_FALSE(kills.explains_a_death());
    EXPECT_EQ(kills.count(), 5);
}

TEST_F(TemporaryDirectory, AnOutOfMemoryKillOfAnotherProcessIsForgotten) {
    write("/proc/self/cgroup", "0::/\n");
    write("/sys/fs/cgroup/memory.events", "oom_kill 0\n");
    OutOfMemoryKills kills(directory_);
    write("/sys/fs/cgroup/memory.events", "oom_kill 1\n");
    kills.look(100'000);
    kills.look(100'000 + OutOfMemoryKills::kVictimMs - 1);
    OutOfMemoryKills copy = kills;
    EXPECT_TRUE(copy.explains_a_death());
    kills.look(100'000 + OutOfMemoryKills::kVictimMs);
    EXPECT_FALSE(kills.explains_a_death());
}

TEST_F(TemporaryDirectory, ACounterThatIsUnknownOrFallsExplainsNothing) {
    write("/proc/self/cgroup", "0::/\n");
    OutOfMemoryKills kills(directory_);
    EXPECT_FALSE(kills.is_known());
    write("/sys/fs/cgroup/memory.events", "oom_kill 7\n");
    kills.look(1000);
    EXPECT_TRUE(kills.is_known());
    EXPECT_FALSE(kills.explains_a_death());
    write("/sys/fs/cgroup/memory.events", "oom_kill 2\n");
    kills.look(2000);
    EXPECT_FALSE(kills.explains_a_death());
    write("/sys/fs/cgroup/memory.events", "oom_kill 3\n");
    kills.look(3000);
    EXPECT_TRUE(kills.explains_a_death());
}

#ifdef __linux__
TEST(Process, KnowsWhatIsInMemory) {
    const int64_t before = resident_mib(::getpid());
    EXPECT_GT(before, 0);
    const std::vector<char> block(100 << 20, 'x');
    EXPECT_NEAR(static_cast<double>(resident_mib(::getpid()) - before), 100, 20) << block[1];
}
#endif

TEST(Process, KnowsNoMemoryOfNobody) {
    EXPECT_EQ(resident_mib(-1), -1);
}

}  // namespace
}  // namespace gcorn
