#include "net/listener.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <vector>

// The errno that the next accept fails with, 0 = accept for real. Some failures of accept (a
// connection lost before it was taken, a broken network) cannot be produced on a healthy machine.
namespace {
int next_accept_error = 0;
}

#ifdef __linux__
// Takes precedence over the C library's: the listener in the static library calls this one.
extern "C" int accept4(int fd, sockaddr* address, socklen_t* size, int flags) {
    if (next_accept_error != 0) {
        errno = std::exchange(next_accept_error, 0);
        return -1;
    }
    return static_cast<int>(::syscall(SYS_accept4, fd, address, size, flags));
}
#endif

namespace gcorn {
namespace {

constexpr int kLongMs = 10'000;

class TemporaryDirectory {
public:
    TemporaryDirectory() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
    ~TemporaryDirectory() {
        for (const std::string& name : names())
            ::unlink((path_ + "/" + name).c_str());
        EXPECT_EQ(::rmdir(path_.c_str()), 0);
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    [[nodiscard]] std::string operator/(const std::string& name) const {
        return path_ + "/" + name;
    }
    [[nodiscard]] std::vector<std::string> names() const {
        std::vector<std::string> names;
        DIR* directory = ::opendir(path_.c_str());
        while (const dirent* entry = ::readdir(directory))
            if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0)
                names.emplace_back(entry->d_name);
        ::closedir(directory);
        return names;
    }

private:
    std::string path_ = "/tmp/gcorn_listener_XXXXXX";  // short: sun_path is
};

Result<std::unique_ptr<Listener>> try_open(const std::string& bind,
                                           const ListenerOptions& options = {}) {
    const Result<BindSpec> spec = parse_bind(bind);
    EXPECT_TRUE(spec.is_ok()) << bind;
    return Listener::open(*spec, options);
}

std::unique_ptr<Listener> open(const std::string& bind, const ListenerOptions& options = {}) {
    Result<std::unique_ptr<Listener>> listener = try_open(bind, options);
    EXPECT_TRUE(listener.is_ok()) << (listener ? "" : listener.message());
    return listener ? std::move(*listener) : nullptr;
}

Fd connect_to(const Listener& listener) {
    const Address& address = listener.address();
    Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), address.raw(), address.size) != 0) fd.reset();
    return fd;
}

Accepted accept_one(const Listener& listener) {
    pollfd waiting{listener.fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&waiting, 1, kLongMs), 1);
    return listener.accept();
}

int option(int fd, int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    EXPECT_EQ(::getsockopt(fd, level, name, &value, &size), 0);
    return value;
}

bool has_ipv6() {
    const Fd fd(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto address = Address::from_ip("::1", 0);
    return fd && ::bind(fd.get(), address->raw(), address->size) == 0;
}

TEST(Listener, TcpAcceptsAndKnowsItsOwnName) {
    const auto listener = open("127.0.0.1:0");
    ASSERT_TRUE(listener);
    EXPECT_FALSE(listener->is_unix());
    EXPECT_EQ(listener->server_name(), "127.0.0.1");
    EXPECT_NE(listener->server_port(), "0") << "the port the kernel chose";
    EXPECT_EQ(listener->name(), "http://127.0.0.1:" + listener->server_port());
    EXPECT_EQ(listener->spec(), *parse_bind("127.0.0.1:0"));

    EXPECT_EQ(listener->accept().status, AcceptStatus::Nothing);
    const Fd client = connect_to(*listener);
    ASSERT_TRUE(client);
    const Accepted accepted = accept_one(*listener);
    ASSERT_EQ(accepted.status, AcceptStatus::Connection);
    Address client_address;
    client_address.size = sizeof client_address.storage;
    ASSERT_EQ(::getsockname(client.get(), client_address.raw(), &client_address.size), 0);
    EXPECT_EQ(accepted.peer.text(), client_address.text());
    EXPECT_EQ(listener->accept().status, AcceptStatus::Nothing);
}

TEST(Listener, AcceptedSocketsAreNonBlockingCloseOnExecAndWithoutNagle) {
    const auto listener = open("127.0.0.1:0");
    ASSERT_TRUE(listener);
    const Fd client = connect_to(*listener);
    const Accepted accepted = accept_one(*listener);
    ASSERT_EQ(accepted.status, AcceptStatus::Connection);
    for (const int fd : {listener->fd(), accepted.fd.get()}) {
        EXPECT_NE(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
        EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
        EXPECT_NE(option(fd, IPPROTO_TCP, TCP_NODELAY), 0);
    }
}

TEST(Listener, NamesFollowFamilyAndTls) {
    EXPECT_EQ(open(":0")->server_name(), "0.0.0.0");
    const auto tls = open("127.0.0.1:0", {.is_tls = true});
    EXPECT_EQ(tls->name(), "https://127.0.0.1:" + tls->server_port());
    EXPECT_EQ(open("localhost:0")->server_name(), "127.0.0.1") << "a name means IPv4";
    if (!has_ipv6()) GTEST_SKIP() << "no IPv6 here";
    const auto v6 = open("[::1]:0");
    EXPECT_EQ(v6->name(), "http://[::1]:" + v6->server_port());
    EXPECT_EQ(v6->server_name(), "::1");
}

TEST(Listener, AddressInUseIsToldWithItsErrno) {
    const auto first = open("127.0.0.1:0");
    const auto second = try_open("127.0.0.1:" + first->server_port());
    ASSERT_FALSE(second.is_ok());
    EXPECT_EQ(second.error().code, EADDRINUSE);
    EXPECT_EQ(second.message(),
              "bind 127.0.0.1:" + first->server_port() + ": " + std::strerror(EADDRINUSE));
}

TEST(Listener, ForeignAndUnknownAddressesAreNotAvailable) {
    const auto foreign = try_open("192.0.2.1:0");  // TEST-NET-1
    ASSERT_FALSE(foreign.is_ok());
    EXPECT_EQ(foreign.error().code, EADDRNOTAVAIL);
    const auto unknown = try_open("no such host:80");
    ASSERT_FALSE(unknown.is_ok());
    EXPECT_EQ(unknown.error().code, EADDRNOTAVAIL);
    EXPECT_EQ(unknown.message().find("resolve no such host: "), 0u) << unknown.message();
}

TEST(Listener, PortIsFreeAgainAtOnce) {
    auto listener = open("127.0.0.1:0");
    const std::string port = listener->server_port();
    Fd client = connect_to(*listener);
    // The server closes first, so that the connection would hold the port in TIME_WAIT.
    { const Accepted accepted = accept_one(*listener); }
    listener.reset();
    EXPECT_TRUE(open("127.0.0.1:" + port)) << "SO_REUSEADDR";
}

TEST(Listener, ReusePortLetsWorkersShareAnAddress) {
    const ListenerOptions shared{.reuse_port = true};
    const auto first = open("127.0.0.1:0", shared);
    ASSERT_TRUE(first);
    EXPECT_TRUE(open("127.0.0.1:" + first->server_port(), shared));
    EXPECT_FALSE(try_open("127.0.0.1:" + first->server_port()).is_ok()) << "only if both agree";
}

#ifdef TCP_DEFER_ACCEPT
TEST(Listener, DeferAcceptIsPassedOn) {
    EXPECT_GT(
        option(open("127.0.0.1:0", {.defer_accept_s = 5})->fd(), IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
    EXPECT_EQ(option(open("127.0.0.1:0")->fd(), IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
}
#endif

TEST(Listener, RunningOutOfDescriptorsKeepsTheConnectionWaiting) {
    const auto listener = open("127.0.0.1:0");
    const Fd client = connect_to(*listener);
    ASSERT_TRUE(client);
    pollfd waiting{listener->fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&waiting, 1, kLongMs), 1);
    struct rlimit before {};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const Fd highest(::dup(client.get()));  // every lower number is taken
    const struct rlimit full = {static_cast<rlim_t>(highest.get()), before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &full), 0);
    const Accepted refused = listener->accept();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_EQ(refused.status, AcceptStatus::OutOfResources);
    EXPECT_EQ(refused.error, EMFILE);
    EXPECT_EQ(listener->accept().status, AcceptStatus::Connection);
}

#ifdef __linux__
TEST(Listener, AcceptTellsLostConnectionsFromBrokenListeners) {
    const auto listener = open("127.0.0.1:0");
    const auto status_of = [&](int error) {
        next_accept_error = error;
        const Accepted accepted = listener->accept();
        EXPECT_FALSE(accepted.fd.is_open());
        EXPECT_EQ(accepted.error, error);
        EXPECT_EQ(accepted.peer.host(), "");
        return accepted.status;
    };
    for (const int error : {ECONNABORTED, EINTR, EPROTO, ENETDOWN, EHOSTUNREACH, ENONET,
                            ENOPROTOOPT, EHOSTDOWN, ENETUNREACH, EOPNOTSUPP, ETIMEDOUT})
        EXPECT_EQ(status_of(error), AcceptStatus::Aborted) << std::strerror(error);
    for (const int error : {EMFILE, ENFILE, ENOBUFS, ENOMEM})
        EXPECT_EQ(status_of(error), AcceptStatus::OutOfResources) << std::strerror(error);
    for (const int error : {EBADF, EINVAL, ENOTSOCK, EPERM})
        EXPECT_EQ(status_of(error), AcceptStatus::Failed) << std::strerror(error);
    EXPECT_EQ(status_of(EAGAIN), AcceptStatus::Nothing);
}
#endif

mode_t mode_of(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(::lstat(path.c_str(), &info), 0) << path;
    return info.st_mode & 0777u;
}

TEST(Listener, UnixSocketServesItsPathAndLeavesNothingElse) {
    const TemporaryDirectory directory;
    const std::string path = directory / "app.sock";
    const auto listener = open("unix:" + path);
    ASSERT_TRUE(listener);
    EXPECT_TRUE(listener->is_unix());
    EXPECT_EQ(listener->name(), "unix:" + path);
    EXPECT_EQ(listener->server_name(), path);
    EXPECT_EQ(listener->server_port(), "");
    EXPECT_EQ(directory.names(), std::vector<std::string>{"app.sock"});
    const Fd client = connect_to(*listener);
    ASSERT_TRUE(client);
    const Accepted accepted = accept_one(*listener);
    ASSERT_EQ(accepted.status, AcceptStatus::Connection);
    EXPECT_TRUE(accepted.peer.is_unix());
    EXPECT_EQ(accepted.peer.host(), "");
    EXPECT_EQ(accepted.peer.port(), "");
}

TEST(Listener, UnixSocketModeComesFromUmaskOrSpec) {
    const TemporaryDirectory directory;
    const std::string path = directory / "s";
    const mode_t process_umask = ::umask(077);  // must not matter
    const auto open_listener = open("unix:" + path);
    EXPECT_EQ(mode_of(path), 0777u);
    open("unix:" + path, {.umask = 0027});
    EXPECT_EQ(mode_of(path), 0750u);
    open("unix:" + path + "?mode=0660", {.umask = 0027});
    EXPECT_EQ(mode_of(path), 0660u);
    ::umask(process_umask);
}

TEST(Listener, UnixSocketOwnerComesFromOptionsOrSpec) {
    // Setting the owner that it already has needs no privilege; setting another needs root.
    const TemporaryDirectory directory;
    const std::string path = directory / "s";
    const std::string uid = std::to_string(::geteuid()), gid = std::to_string(::getegid());
    EXPECT_TRUE(open("unix:" + path, {.owner = {::geteuid(), ::getegid()}}));
    EXPECT_TRUE(open("unix:" + path + "?user=" + uid + "&group=" + gid));
    if (const passwd* me = ::getpwuid(::geteuid())) {
        EXPECT_TRUE(open("unix:" + path + "?user=" + me->pw_name));
    }
    if (const group* mine = ::getgrgid(::getegid())) {
        EXPECT_TRUE(open("unix:" + path + "?group=" + mine->gr_name));
    }
    const auto other = try_open("unix:" + path + "?user=65534&group=65534");
    struct stat info {};
    if (::geteuid() == 0) {
        ASSERT_TRUE(other.is_ok()) << other.message();
        ASSERT_EQ(::lstat(path.c_str(), &info), 0);
        EXPECT_EQ(info.st_uid, 65534u);
        EXPECT_EQ(info.st_gid, 65534u);
        EXPECT_TRUE(open("unix:" + path, {.owner = {std::nullopt, 65534}}));
        ASSERT_EQ(::lstat(path.c_str(), &info), 0);
        EXPECT_EQ(info.st_uid, 0u);
        EXPECT_EQ(info.st_gid, 65534u);
    } else if (::geteuid() != 65534) {
        ASSERT_FALSE(other.is_ok());
        EXPECT_EQ(other.error().code, EPERM);
        EXPECT_EQ(directory.names(), std::vector<std::string>{"s"}) << "nothing is left aside";
    }
}

TEST(Listener, UnknownOwnersAreNamed) {
    const TemporaryDirectory directory;
    const std::string bind = "unix:" + directory / "s";
    const auto user = try_open(bind + "?user=no-such-user");
    ASSERT_FALSE(user.is_ok());
    EXPECT_EQ(user.message(), "No such user: 'no-such-user'");
    const auto group = try_open(bind + "?group=no-such-group");
    ASSERT_FALSE(group.is_ok());
    EXPECT_EQ(group.message(), "No such group: 'no-such-group'");
    EXPECT_TRUE(directory.names().empty());
}

TEST(Listener, UnixSocketReplacesAnotherSocketWithoutAGap) {
    const TemporaryDirectory directory;
    const std::string path = directory / "s";
    const auto first = open("unix:" + path);
    const auto second = open("unix:" + path);
    ASSERT_TRUE(first && second);
    const Fd client = connect_to(*second);
    ASSERT_TRUE(client);
    EXPECT_EQ(accept_one(*second).status, AcceptStatus::Connection);
    EXPECT_EQ(first->accept().status, AcceptStatus::Nothing);
}

TEST(Listener, UnixSocketClearsWhatACrashLeftAside) {
    const TemporaryDirectory directory;
    const std::string path = directory / "s";
    auto crashed = open("unix:" + path);
    ASSERT_EQ(::rename(path.c_str(), (directory / ".s~").c_str()), 0);
    EXPECT_TRUE(open("unix:" + path));
    EXPECT_EQ(directory.names(), std::vector<std::string>{"s"});
}

TEST(Listener, UnixSocketNeverReplacesAnythingButASocket) {
    const TemporaryDirectory directory;
    for (const std::string name : {"file", "link"}) {
        const std::string path = directory / name;
        if (name == "file")
            std::ofstream(path) << "precious";
        else
            ASSERT_EQ(::symlink("file", path.c_str()), 0);
        const auto listener = try_open("unix:" + path);
        ASSERT_FALSE(listener.is_ok());
        EXPECT_EQ(listener.error().code, ENOTSOCK);
        EXPECT_EQ(listener.message(), "bind unix:" + path + ": exists and is not a socket");
        EXPECT_EQ(::access(path.c_str(), F_OK), 0);
    }
    EXPECT_EQ(directory.names().size(), 2u);
}

TEST(Listener, MissingDirectoryIsAnErrorThatNamesThePath) {
    const auto listener = try_open("unix:/nonexistent/gcorn/s");
    ASSERT_FALSE(listener.is_ok());
    EXPECT_EQ(listener.error().code, ENOENT);
    EXPECT_NE(listener.message().find("unix:/nonexistent/gcorn/s"), std::string::npos);
}

TEST(Listener, LongestUnixPathsWork) {
    const TemporaryDirectory directory;
    const size_t name_bytes = sizeof(sockaddr_un::sun_path) - 1 - (directory / "").size();
    for (const size_t shorter : {0u, 1u, 2u, 3u}) {  // without and with room for the aside name
        const std::string path = directory / std::string(name_bytes - shorter, 'x');
        for (int round = 0; round < 2; ++round) {
            const auto listener = open("unix:" + path);
            ASSERT_TRUE(listener) << shorter;
            EXPECT_TRUE(connect_to(*listener)) << shorter;
        }
    }
}

TEST(Listener, RelativeUnixPathsWork) {
    const TemporaryDirectory directory;
    char before[4096];
    ASSERT_NE(::getcwd(before, sizeof before), nullptr);
    ASSERT_EQ(::chdir((directory / "").c_str()), 0);
    {
        const auto listener = open("unix:s");
        EXPECT_TRUE(connect_to(*listener));
        EXPECT_TRUE(listener->unlink_path().is_ok());
        EXPECT_TRUE(directory.names().empty());
    }
    ASSERT_EQ(::chdir(before), 0);
}

TEST(Listener, UnlinkRemovesOnlyOurOwnSocketFile) {
    const TemporaryDirectory directory;
    const std::string path = directory / "s";
    const auto first = open("unix:" + path);
    const auto second = open("unix:" + path);
    EXPECT_TRUE(first->unlink_path().is_ok());
    EXPECT_EQ(directory.names(), std::vector<std::string>{"s"}) << "it is the second one's now";
    EXPECT_TRUE(second->unlink_path().is_ok());
    EXPECT_TRUE(directory.names().empty());
    EXPECT_TRUE(second->unlink_path().is_ok()) << "twice does no harm";
    EXPECT_TRUE(open("127.0.0.1:0")->unlink_path().is_ok());
}

/// The descriptor of another process that has the same socket.
TEST(Listener, APathWhereOthersStillListenStays) {
    const TemporaryDirectory directory;
    const auto listener = open("unix:" + directory / "s", {.backlog = 0});
    Fd other(::dup(listener->fd()));
    listener->close();
    std::vector<Fd> clients;
    do {  // also when its queue is full
        EXPECT_TRUE(listener->unlink_if_deserted().is_ok());
        ASSERT_EQ(directory.names().size(), 1u);
        clients.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        ASSERT_LT(clients.size(), 100u);
    } while (::connect(clients.back().get(), listener->address().raw(), listener->address().size) ==
             0);
    EXPECT_TRUE(listener->unlink_if_deserted().is_ok());
    EXPECT_EQ(directory.names().size(), 1u);
    other.reset();
    EXPECT_TRUE(listener->unlink_if_deserted().is_ok());
    EXPECT_TRUE(directory.names().empty());
}

TEST(Listener, AFileInPlaceOfAPredecessorsSocketStays) {
    const TemporaryDirectory directory;
    const std::string path = directory / "s";
    const auto original = open("unix:" + path);
    ASSERT_EQ(::unlink(path.c_str()), 0);
    std::ofstream(path) << "precious";
    const auto adopted = Listener::adopt(::dup(original->fd()), Listener::Origin::Predecessor, {});
    ASSERT_TRUE(adopted.is_ok());
    EXPECT_TRUE((*adopted)->unlink_path().is_ok());
    EXPECT_EQ(directory.names().size(), 1u);
}

TEST(Listener, AdoptsASocketWithAnyName) {
    const TemporaryDirectory directory;
    // One looks like a name of ours before it is published; the other is abstract.
    for (const std::string& path : {directory / ".s~", "@gcorn-test" + directory / "s"}) {
        const SocketAddress address = *unix_socket_address(path, path[0] == '@');
        Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        ASSERT_EQ(::bind(fd.get(), address.raw(), address.size), 0) << path;
        const auto adopted = Listener::adopt(fd.release(), Listener::Origin::Supervisor, {});
        ASSERT_TRUE(adopted.is_ok());
        EXPECT_EQ((*adopted)->name(), "unix:" + path);
        EXPECT_TRUE(connect_to(**adopted)) << path;
    }
}

TEST(Listener, ListensLaterIfTold) {
    const auto listener = open("127.0.0.1:0", {.listens = false});
    EXPECT_FALSE(connect_to(*listener));
    EXPECT_TRUE(listener->listen(5).is_ok());
    EXPECT_TRUE(connect_to(*listener));
}

TEST(Listener, AdoptsWhatASupervisorOpened) {
    const auto original = open("127.0.0.1:0");
    const int fd = ::dup(original->fd());
    ::fcntl(fd, F_SETFL, 0);
    const auto adopted = open("fd://" + std::to_string(fd), {.is_tls = true});
    ASSERT_TRUE(adopted);
    EXPECT_EQ(adopted->fd(), fd);
    EXPECT_EQ(adopted->name(), "https://127.0.0.1:" + original->server_port());
    EXPECT_EQ(adopted->spec().fd, fd);
    EXPECT_NE(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    const Fd client = connect_to(*original);
    EXPECT_EQ(accept_one(*adopted).status, AcceptStatus::Connection);
}

TEST(Listener, AdoptedTcpSocketKnowsHowToBeOpenedAgain) {
    const auto original = open("127.0.0.1:0");
    const auto adopted = Listener::adopt(::dup(original->fd()), Listener::Origin::Predecessor, {});
    ASSERT_TRUE(adopted.is_ok());
    EXPECT_EQ((*adopted)->spec(), *parse_bind("127.0.0.1:" + original->server_port()));
}

TEST(Listener, UnixPathOfAPredecessorIsOursThatOfASupervisorIsNot) {
    const TemporaryDirectory directory;
    for (const std::string name : {"s", ".s~", "..~~", ".~"}) {
        const std::string path = directory / name;
        const auto original = open("unix:" + path);
        const auto from_supervisor =
            Listener::adopt(::dup(original->fd()), Listener::Origin::Supervisor, {});
        ASSERT_TRUE(from_supervisor.is_ok());
        EXPECT_EQ((*from_supervisor)->name(), "unix:" + path);
        EXPECT_TRUE((*from_supervisor)->unlink_path().is_ok());
        EXPECT_EQ(directory.names(), std::vector<std::string>{name});

        const auto from_predecessor =
            Listener::adopt(::dup(original->fd()), Listener::Origin::Predecessor, {});
        ASSERT_TRUE(from_predecessor.is_ok());
        EXPECT_EQ((*from_predecessor)->spec().path, path) << "not the name it was made under";
        EXPECT_EQ((*from_predecessor)->server_name(), path);
        EXPECT_TRUE((*from_predecessor)->unlink_path().is_ok());
        EXPECT_TRUE(directory.names().empty());
    }
}

TEST(Listener, AdoptListensOnASocketThatWasOnlyBound) {
    Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
    const auto any = Address::from_ip("127.0.0.1", 0);
    ASSERT_EQ(::bind(fd.get(), any->raw(), any->size), 0);
    const auto adopted = Listener::adopt(fd.release(), Listener::Origin::Supervisor, {});
    ASSERT_TRUE(adopted.is_ok());
    EXPECT_EQ(option((*adopted)->fd(), IPPROTO_TCP, TCP_NODELAY), 1);
    EXPECT_TRUE(connect_to(**adopted));
}

TEST(Listener, AdoptRefusesWhatIsNoListeningSocketAndLeavesItOpen) {
    const Fd datagram(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const Fd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
    const auto original = open("127.0.0.1:0");
    ASSERT_TRUE(original);
    const Fd client = connect_to(*original);
    ASSERT_TRUE(client);
    std::vector<std::pair<int, int>> cases = {
        {datagram.get(), EPROTOTYPE}, {file.get(), ENOTSOCK}, {client.get(), EISCONN}};
#ifdef AF_VSOCK
    const Fd vsock(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (vsock) cases.emplace_back(vsock.get(), EAFNOSUPPORT);  // not every kernel has it
#endif
    for (const auto& [fd, code] : cases) {
        const auto adopted = Listener::adopt(fd, Listener::Origin::Supervisor, {});
        ASSERT_FALSE(adopted.is_ok());
        EXPECT_EQ(adopted.error().code, code);
        EXPECT_EQ(adopted.message().find("adopt fd://" + std::to_string(fd) + ": "), 0u);
        EXPECT_NE(::fcntl(fd, F_GETFD), -1);
    }
    const auto closed = Listener::adopt(1'000'000, Listener::Origin::Supervisor, {});
    ASSERT_FALSE(closed.is_ok());
    EXPECT_EQ(closed.error().code, EBADF);
}

}  // namespace
}  // namespace gcorn
