// More than one machine: three gcorn hosts behind HAProxy, one of them dies, one is upgraded, one
// is reloaded, and no client sees a failed request.

#include "tests/support/front_end.h"

namespace gcorn::e2e {
namespace {

/// One "host": a server with a loopback address of its own.
class Host {
public:
    Host(int number, int port)
        : address_("127.0.0." + std::to_string(number) + ":" + std::to_string(port)),
          name_("host" + std::to_string(number)),
          pidfile_(directory_ / "pid") {
        start();
    }
    void start() {
        server_ = std::make_unique<Server>(
            ServerOptions{.app = "edge:app",
                          .args = {"-b", address_, "-w", "2", "--keep-alive", "75", "-p", pidfile_,
                                   "--proxy-protocol", "v2"},
                          .env = {{"EDGE_HOST", name_}},
                          .adds_bind = false,
                          .waits = false});
    }
    /// Like a power cut: ends arbiter and workers at once.
    void die() {
        ::kill(-server_->pid(), SIGKILL);
        server_.reset();
    }
    /// Starts another master from the same binary, then stops the old one.
    void upgrade() {
        server_->signal(SIGUSR2);
        pid_t fresh = 0;
        EXPECT_TRUE(eventually([&] {
            fresh = std::atoi(read_file(pidfile_ + ".2").c_str());
            return fresh > 0 && children_of(fresh).size() == 2;
        })) << server_->story();
        // Both serve now. While the old one leaves, connections can wait in the shared accept
        // queue.
        server_->signal(SIGTERM);
        EXPECT_TRUE(server_->exit_code().has_value()) << server_->story();
        EXPECT_TRUE(eventually([&] { return std::atoi(read_file(pidfile_).c_str()) == fresh; }));
    }
    [[nodiscard]] const std::string& address() const { return address_; }
    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] std::string story() const { return server_ ? server_->story() : ""; }
    void reload() const { server_->signal(SIGHUP); }

private:
    std::string address_, name_;
    TempDir directory_;
    std::string pidfile_;
    std::unique_ptr<Server> server_;
};

TEST(Cluster, LosesNoRequestWhenAHostDiesAndAnotherIsUpgraded) {
    NEEDS_PROGRAM("haproxy", "haproxy");
    if (is_gunicorn()) GTEST_SKIP() << "gunicorn knows no PROXY v2 before 24.1";
    const int port = free_port();
    Host one(1, port);
    Host two(2, port);
    Host three(3, port);
    const Haproxy haproxy({one.address(), two.address(), three.address()});
    for (const char* server : {"app1", "app2", "app3"})
        EXPECT_TRUE(haproxy.becomes(server, "UP")) << haproxy.output() << one.story();

    std::mutex mutex;
    std::map<std::string, size_t> answered;  // by host, since the last look
    Load load(haproxy.at(), 6, [&](Client& client, size_t number) {
        Response got = client.get(number % 4 == 0 ? "/slow" : "/");
        const size_t at = got.body.find("host=");
        const std::lock_guard lock(mutex);
        if (at != std::string::npos) ++answered[got.body.substr(at + 5, 5)];
        return got;
    });
    const auto hosts_that_answer = [&] {
        {
            const std::lock_guard lock(mutex);
            answered.clear();
        }
        EXPECT_TRUE(load.more(200));
        std::string names;
        const std::lock_guard lock(mutex);
        for (const auto& [name, count] : answered)
            names += name + " ";
        return names;
    };
    EXPECT_EQ(hosts_that_answer(), "host1 host2 host3 ");

    one.die();
    EXPECT_TRUE(haproxy.becomes("app1", "DOWN")) << haproxy.output();
    EXPECT_EQ(hosts_that_answer(), "host2 host3 ");

    two.upgrade();
    EXPECT_EQ(hosts_that_answer(), "host2 host3 ");
    three.reload();
    EXPECT_TRUE(load.more(200));

    one.start();
    EXPECT_TRUE(haproxy.becomes("app1", "UP")) << haproxy.output() << one.story();
    EXPECT_EQ(hosts_that_answer(), "host1 host2 host3 ");
    load.stop();
    EXPECT_EQ(load.failures(), "") << haproxy.output() << two.story() << three.story();
}

}  // namespace
}  // namespace gcorn::e2e
