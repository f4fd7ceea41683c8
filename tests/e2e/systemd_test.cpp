// Under a supervisor: a real notify socket, sockets that systemd-socket-activate or the test
// opened, and the unit files of deploy/.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <iterator>
#include <sstream>

#include "tests/support/front_end.h"
#include "tests/support/notify_socket.h"

namespace gcorn::e2e {
namespace {

using gcorn::testing::NotifySocket;

/// The next datagram, waited for.
std::string next(NotifySocket& socket) {
    std::string message;
    eventually([&] {
        message = socket.receive();
        return !message.empty();
    });
    return message;
}

/// Whether a datagram with this line comes, possibly after others.
bool tells(NotifySocket& socket, const std::string& line) {
    return eventually(
        [&] { return ("\n" + socket.receive()).find("\n" + line) != std::string::npos; });
}

/// A listening socket on 127.0.0.1 for a server to inherit, with a number so high that dup2 to 3,
/// 4, … never overwrites it.
class Listening {
public:
    explicit Listening(int port) {
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const int on = 1;
        ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<uint16_t>(port));
        EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        EXPECT_EQ(::listen(fd, 64), 0);
        fd_ = Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 100));
        ::close(fd);
    }
    [[nodiscard]] int fd() const { return fd_.get(); }

private:
    Fd fd_;
};

std::vector<std::string> gcorn_with(const std::vector<std::string>& args) {
    std::vector<std::string> command = server_command();
    command.insert(command.end(), args.begin(), args.end());
    command.push_back("edge:app");
    return command;
}

class Systemd : public ::testing::Test {
protected:
    void SetUp() override {
        if (is_gunicorn()) GTEST_SKIP() << "gunicorn tells READY and no more";
    }
};

TEST_F(Systemd, HearsReadyReloadingAndStopping) {
    for (const bool is_abstract : {false, true}) {
        NotifySocket socket(is_abstract);
        Server server({.app = "edge:app", .args = {}, .env = {{"NOTIFY_SOCKET", socket.name()}}});
        EXPECT_TRUE(tells(socket, "READY=1"));
        EXPECT_EQ(server.get("/").status, 200);
        server.signal(SIGHUP);
        const std::string reloading = next(socket);
        EXPECT_EQ(reloading.rfind("RELOADING=1\n", 0), 0U) << reloading;
        EXPECT_NE(reloading.find("\nMONOTONIC_USEC="), std::string::npos) << reloading;
        EXPECT_TRUE(tells(socket, "READY=1"));
        server.signal(SIGTERM);
        EXPECT_TRUE(tells(socket, "STOPPING=1"));
        EXPECT_EQ(server.exit_code(), 0);
    }
}

TEST_F(Systemd, HearsNothingBeforeAWorkerServes) {
    const TempDir directory;
    const std::string gate = directory / "gate";
    directory.write("slow.py",
                    "import os, time\n"
                    "while not os.path.exists(" +
                        ("'" + gate + "'") +
                        "): time.sleep(0.01)\n"
                        "from edge import app\n");
    NotifySocket socket(false);
    const Server server({.app = "slow:app",
                         .args = {"--pythonpath", directory.path()},
                         .env = {{"NOTIFY_SOCKET", socket.name()}}});
    EXPECT_TRUE(server.logs("Booting worker with pid"));
    EXPECT_EQ(socket.receive().find("READY=1"), std::string::npos);
    directory.write("gate", "");
    EXPECT_TRUE(tells(socket, "READY=1")) << server.story();
}

TEST_F(Systemd, HearsTheWatchdogAndTheNewMasterAfterAnUpgrade) {
    NotifySocket socket(false);
    const TempDir directory;
    const std::string pidfile = directory / "pid";
    Server server({.app = "edge:app",
                   .args = {"-p", pidfile},
                   .env = {{"NOTIFY_SOCKET", socket.name()}, {"WATCHDOG_USEC", "300000"}}});
    for (int i = 0; i < 3; ++i)
        EXPECT_TRUE(tells(socket, "WATCHDOG=1"));
    server.signal(SIGUSR2);
    pid_t fresh = 0;
    EXPECT_TRUE(eventually([&] {
        fresh = std::atoi(read_file(pidfile + ".2").c_str());
        return fresh > 0 && !children_of(fresh).empty();
    })) << server.story();
    server.signal(SIGTERM);
    const std::string names_it = "MAINPID=" + std::to_string(fresh);
    EXPECT_TRUE(tells(socket, names_it)) << server.story();
    EXPECT_EQ(socket.sender(), server.pid());
    // Named again when it is the supervisor's child, but by another process: see
    // reclaim_main_pid().
    EXPECT_TRUE(tells(socket, names_it)) << server.story();
    EXPECT_NE(socket.sender(), server.pid());
    EXPECT_NE(socket.sender(), fresh);
    EXPECT_TRUE(tells(socket, "WATCHDOG=1"));
    EXPECT_EQ(server.get("/").status, 200);
}

TEST_F(Systemd, ServesTheSocketsItIsGivenAndNoOthers) {
    const int ports[] = {free_port(), free_port(), free_port()};
    const Listening first(ports[0]);
    const Listening second(ports[1]);
    Daemon gcorn(gcorn_with({"-b", "127.0.0.1:" + std::to_string(ports[2])}), {},
                 {first.fd(), second.fd()});
    for (const int port : {ports[0], ports[1]}) {
        const Response got = fetch({.port = port}, "GET", "/");
        EXPECT_EQ(got.status, 200) << got << gcorn.output();
        EXPECT_NE(got.body.find("SERVER_PORT=" + std::to_string(port)), std::string::npos) << got;
    }
    EXPECT_FALSE(Client({.port = ports[2]}).connected());
    gcorn.signal(SIGTERM);
    EXPECT_TRUE(gcorn.ended(kDeadline));
    EXPECT_EQ(gcorn.exit_code(), 0) << gcorn.output();
}

/// As with ListenDatagram= or Accept=yes: whoever connects to the unit's address would wait for
/// ever, while the unit counts as ready.
TEST_F(Systemd, DoesNotStartWithSocketsThatNobodyCanConnectTo) {
    const int ports[] = {free_port(), free_port()};
    const Fd low(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const Fd datagram(::fcntl(low.get(), F_DUPFD_CLOEXEC, 100));
    {
        Daemon gcorn(gcorn_with({"-b", "127.0.0.1:" + std::to_string(ports[0])}), {},
                     {datagram.get()});
        EXPECT_TRUE(gcorn.ended(kDeadline)) << gcorn.output();
        EXPECT_EQ(gcorn.exit_code(), 1) << gcorn.output();
        EXPECT_NE(gcorn.output().find("adopt fd://3: "), std::string::npos) << gcorn.output();
        EXPECT_NE(gcorn.output().find("Error: LISTEN_FDS passes no socket"), std::string::npos)
            << gcorn.output();
    }
    const Listening listening(ports[1]);
    const Daemon gcorn(gcorn_with({}), {}, {datagram.get(), listening.fd()});
    EXPECT_EQ(fetch({.port = ports[1]}, "GET", "/").status, 200) << gcorn.output();
}

TEST_F(Systemd, KeepsRequestsWaitingWhileTheServiceRestarts) {
    const int port = free_port();
    const Listening listening(port);
    const Endpoint at{.port = port};
    {
        const Daemon gcorn(gcorn_with({}), {}, {listening.fd()});
        EXPECT_EQ(fetch(at, "GET", "/").status, 200) << gcorn.output();
    }
    // Nobody serves: the request waits in the accept queue of the socket that systemd keeps.
    Client client(at);
    ASSERT_TRUE(client.send(make_request("GET", "/")));
    const Daemon gcorn(gcorn_with({}), {}, {listening.fd()});
    EXPECT_EQ(client.read_response().status, 200) << gcorn.output();
}

TEST_F(Systemd, PassesItsSocketsToTheNextMaster) {
    const int port = free_port();
    const Listening listening(port);
    const Endpoint at{.port = port};
    const TempDir directory;
    const std::string pidfile = directory / "pid";
    Daemon gcorn(gcorn_with({"-p", pidfile}), {}, {listening.fd()});
    EXPECT_EQ(fetch(at, "GET", "/").status, 200);
    gcorn.signal(SIGUSR2);
    pid_t fresh = 0;
    EXPECT_TRUE(eventually([&] {
        fresh = std::atoi(read_file(pidfile + ".2").c_str());
        return fresh > 0 && !children_of(fresh).empty();
    })) << gcorn.output();
    gcorn.signal(SIGTERM);
    EXPECT_TRUE(gcorn.ended(kDeadline)) << gcorn.output();
    EXPECT_EQ(fetch(at, "GET", "/").status, 200) << gcorn.output();
    EXPECT_TRUE(is_alive(fresh));
}

TEST_F(Systemd, IsStartedBySocketActivate) {
    NEEDS_PROGRAM("systemd-socket-activate", "systemd");
    const int port = free_port();
    std::vector<std::string> command = {find_program("systemd-socket-activate"), "-l",
                                        "127.0.0.1:" + std::to_string(port)};
    for (const std::string& word : gcorn_with({"-w", "2"}))
        command.push_back(word);
    const Daemon activated(command);
    const Endpoint at{.port = port};
    EXPECT_TRUE(eventually([&] { return Client(at).connected(); })) << activated.output();
    const Response got = fetch(at, "GET", "/");
    EXPECT_EQ(got.status, 200) << got << activated.output();
}

/// The value of a setting in a unit file; "" if it has none.
std::string setting(const std::string& unit, const std::string& name) {
    const size_t at = unit.find("\n" + name + "=");
    if (at == std::string::npos) return "";
    const size_t start = at + name.size() + 2;
    return unit.substr(start, unit.find('\n', start) - start);
}

/// Serves an application under the name that the unit gives it: not every name can be imported, as
/// a module of the standard library takes precedence over the directory.
TEST_F(Systemd, ServesByTheCommandOfTheUnitFile) {
    const TempDir directory;
    const std::string command = setting(deploy_file("gcorn.service"), "ExecStart");
    std::istringstream words(replaced(command, "/srv/site", directory.path()));
    std::vector<std::string> argv{std::istream_iterator<std::string>(words), {}};
    ASSERT_EQ(argv[0], "/usr/bin/gcorn");
    argv[0] = server_command().at(0);
    const std::string& app = argv.back();
    directory.write(app.substr(0, app.find(':')) + ".py", read_file(apps_dir() + "/edge.py"));
    const int port = free_port();
    const Listening listening(port);
    const Daemon gcorn(argv, {}, {listening.fd()});
    EXPECT_EQ(fetch({.port = port}, "GET", "/").status, 200) << gcorn.output();
}

/// Only the settings: what they do shows only on a machine with systemd as its first process, see
/// tests/vm.
TEST_F(Systemd, LeavesOneDeadWorkerToTheArbiter) {
    const std::string unit = deploy_file("gcorn.service");
    EXPECT_EQ(setting(unit, "OOMPolicy"), "continue");
    EXPECT_EQ(setting(unit, "StartLimitIntervalSec"), "0");
}

TEST_F(Systemd, FindsNothingWrongWithTheUnitFiles) {
    NEEDS_PROGRAM("systemd-analyze", "systemd");
    const TempDir directory;
    directory.write("gcorn.socket", deploy_file("gcorn.socket"));
    // The program need not be installed here.
    const std::string service =
        directory.write("gcorn.service", replaced(deploy_file("gcorn.service"), "/usr/bin/gcorn",
                                                  '"' + server_command().at(0) + '"'));
    const Finished verified = run({find_program("systemd-analyze"), "verify", "--man=no", service});
    EXPECT_EQ(verified.code, 0) << verified;
    EXPECT_EQ(verified.err.find("gcorn."), std::string::npos) << verified;
    const Finished judged = run(
        {find_program("systemd-analyze"), "security", "--offline=true", "--threshold=25", service});
    EXPECT_EQ(judged.code, 0) << judged;  // exposure 0 to 100; 100 is an unprotected service
}

}  // namespace
}  // namespace gcorn::e2e
