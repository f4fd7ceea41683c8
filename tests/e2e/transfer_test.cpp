// Large bodies both ways: every byte in its place, and the server's memory does not grow with their
// size.

#include <filesystem>

#include "tests/support/e2e.h"

namespace gcorn::e2e {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;
constexpr size_t kGrowthMax = 32 * kMiB;
/// For transfers of this size, on a small machine shared with other tests.
constexpr Milliseconds kTransfer{60'000};

class Transfer : public PerEngine {
protected:
    Transfer() : server_(with()) {
        // Runs every path once, so that one-time costs are not counted as growth.
        EXPECT_EQ(server_.request("POST", "/check", {}, pattern_.bytes(0, 100)).status, 200);
        EXPECT_TRUE(server_.get("/pattern?n=200000").ok());
        EXPECT_TRUE(server_.has_workers(GetParam().workers));
        before_ = server_.peak_bytes();
    }
    /// Sends `count` bytes of the pattern as the body of a head that was already sent.
    bool send_pattern(Client& client, uint64_t count, bool in_chunks) {
        constexpr size_t kPiece = 1'000'003;
        for (uint64_t at = 0; at < count;) {
            const auto size = static_cast<size_t>(std::min<uint64_t>(kPiece, count - at));
            std::string piece = pattern_.bytes(at, size);
            if (in_chunks) {
                char head[32];
                std::snprintf(head, sizeof head, "%zx\r\n", size);
                piece = head + piece + "\r\n";
            }
            if (!client.send(piece, kTransfer)) return false;
            at += size;
        }
        return !in_chunks || client.send("0\r\n\r\n");
    }
    /// Fetches the target and compares its body with the pattern.
    void expect_pattern(Client& client, const std::string& target, uint64_t count) {
        client.send(make_request("GET", target));
        read_pattern(client, target, count);
    }
    void read_pattern(Client& client, const std::string& target, uint64_t count) {
        uint64_t at = 0;
        bool matches = true;
        const Response response =
            client.read_response("GET", kTransfer, [&](std::string_view bytes) {
                matches = matches && pattern_.matches(at, bytes);
                at += bytes.size();
            });
        EXPECT_TRUE(response.ok()) << response;
        EXPECT_EQ(at, count) << target;
        EXPECT_TRUE(matches) << "bytes are not the ones sent: " << target;
    }
    void expect_small_growth() {
        const size_t after = server_.peak_bytes();
        EXPECT_LT(after, before_ + kGrowthMax)
            << "from " << before_ / 1024 << " KiB to " << after / 1024 << " KiB";
    }

    Pattern pattern_;
    Server server_;
    size_t before_ = 0;
};
FOR_EVERY_ENGINE(Transfer);

TEST_P(Transfer, Uploads50MiBWithoutKeepingThemInMemory) {
    constexpr uint64_t kSize = 50 * kMiB;
    Client client = server_.connect();
    client.send("POST /check HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(kSize) +
                "\r\n\r\n");
    EXPECT_TRUE(send_pattern(client, kSize, false));
    EXPECT_EQ(client.read_response("POST", kTransfer).body,
              std::to_string(kSize) + " bytes as expected");
    expect_small_growth();
}

TEST_P(Transfer, Uploads50MiBInChunks) {
    constexpr uint64_t kSize = 50 * kMiB;
    Client client = server_.connect();
    client.send("POST /check HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    EXPECT_TRUE(send_pattern(client, kSize, true));
    EXPECT_EQ(client.read_response("POST", kTransfer).body,
              std::to_string(kSize) + " bytes as expected");
    expect_small_growth();
}

TEST_P(Transfer, StoresBodiesWhereTheStartFoundRoom) {
    SKIP_ON_GUNICORN("it stores no bodies");
    const TempDir scratch;
    std::filesystem::create_directory(scratch / "spool");
    scratch.write("away.py", "import os\nfrom probe import app\nos.chdir('/')\n");
    const std::string body = pattern_.bytes(0, 500'000);
    const auto upload = [&](const std::string& conf, const std::string& tmpdir) {
        ServerOptions options = with({"-c", scratch.write("conf.py", conf)});
        options.app = "away:app";
        options.directory = scratch.path();
        options.env = {{"PYTHONPATH", apps_dir()}, {"TMPDIR", tmpdir}};
        const Server server(options);
        return server.request("POST", "/check", {}, body).status;
    };
    EXPECT_EQ(upload("tmp_upload_dir = 'spool'", "/proc/self"), 200) << "relative to the start";
    EXPECT_EQ(upload("", "/proc/self"), 200) << "no file can be made in TMPDIR, but in /tmp";
    EXPECT_EQ(upload("tmp_upload_dir = '/proc/self'", "/tmp"), 503);
}

TEST_P(Transfer, Downloads200MiBWithoutKeepingThemInMemory) {
    constexpr uint64_t kSize = 200 * kMiB;
    Client client = server_.connect();
    expect_pattern(client, "/pattern?length=1&n=" + std::to_string(kSize), kSize);
    expect_small_growth();
}

TEST_P(Transfer, Downloads200MiBInChunks) {
    constexpr uint64_t kSize = 200 * kMiB;
    Client client = server_.connect();
    expect_pattern(client, "/pattern?n=" + std::to_string(kSize), kSize);
    expect_small_growth();
}

TEST_P(Transfer, SmallBlocksReachAClientThatReadsLate) {
    const TempDir scratch;
    ServerOptions options = with();
    options.env["PROBE_LOG"] = scratch / "events";
    const Server server(options);
    for (const std::string size : {"1000", "100"}) {
        const std::string target = "/pattern?n=6000000&block=" + size;
        Client client = server.connect();
        client.send(make_request("GET", target));
        // By now all of it is stored for the client; the application no longer waits.
        EXPECT_TRUE(eventually([&] {
            return read_file(scratch / "events").find("send_pattern closed") != std::string::npos;
        })) << server.story();
        read_pattern(client, target, 6'000'000);
        scratch.write("events", "");
    }
}

TEST_P(Transfer, StopsProducingForAVanishedClient) {
    const TempDir scratch;
    ServerOptions options = with();
    options.env["PROBE_LOG"] = scratch / "events";
    const Server server(options);
    Client client = server.connect();
    client.send(make_request("GET", "/pattern?n=4000000000000"));
    EXPECT_FALSE(client.read_some().empty());
    client.reset();
    EXPECT_TRUE(eventually([&] {
        return read_file(scratch / "events").find("send_pattern closed") != std::string::npos;
    })) << "the application's generator was not closed"
        << server.story();
    EXPECT_EQ(server.get("/").body, "Hello, world!\n") << server.story();
}

TEST_P(Transfer, ServesSizesAroundEveryBuffersLimit) {
    for (const uint64_t limit :
         {uint64_t{4096}, uint64_t{16384}, uint64_t{65536}, uint64_t{112 * 1024}, uint64_t{kMiB}}) {
        for (const uint64_t size : {limit - 1, limit, limit + 1}) {
            const std::string body = pattern_.bytes(0, static_cast<size_t>(size));
            const Response up = server_.request("POST", "/check", {}, body);
            EXPECT_EQ(up.body, std::to_string(size) + " bytes as expected") << up;
            Client down = server_.connect();
            expect_pattern(down, "/block?n=" + std::to_string(size), size);
        }
    }
}

}  // namespace
}  // namespace gcorn::e2e
