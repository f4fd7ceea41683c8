// One Exchange over a socket pair, with the test as the loop's leader and threads of its own as the
// application side; and the queue between the two.

#include "net/exchange.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

// Not netinet/tcp.h, whose tcp_info ends before the counters of segments.
#include <linux/tcp.h>

#include <csignal>
#include <functional>
#include <future>
#include <thread>

#include "base/clock.h"
#include "net/address.h"

namespace gcorn {

/// Bytes that reveal loss, doubling and displacement of any size below their period.
std::string pattern(size_t size) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i)
        bytes[i] = static_cast<char>(i * 31 / 7 % 251);
    return bytes;
}

bool eventually(const std::function<bool()>& condition) {
    const int64_t end_ms = monotonic_ms() + 10'000;
    while (!condition()) {
        if (monotonic_ms() > end_ms) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

/// Plays the leader's part. It has this name because Exchange declares it a friend.
class ExchangeTest : public ::testing::Test, public ExchangeOwner {
public:
    void exchange_needs_leader(Exchange&) override { ++leader_calls; }
    void beat_while_waiting() override { ++beats; }
    void exchange_completed(Exchange&) override { ++completed; }
    void file_failed(const Exchange&, int error) override { file_errors.push_back(error); }

protected:
    void SetUp() override {
        int ends[2] = {-1, -1};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
        server_ = Fd(ends[0]);
        client_ = Fd(ends[1]);
        const int tiny = 4096;
        ::setsockopt(server_.get(), SOL_SOCKET, SO_SNDBUF, &tiny, sizeof tiny);
        prepare();
    }
    void prepare(bool is_plain = true) {
        facts_.is_unix = true;
        facts_.peer.is_tls = !is_plain;
        exchange->prepare(&facts_, server_.get(), spool_directory);
        active_.store(1);
    }
    Exchange::Flush flush() {
        size_t moved = 0;
        return exchange->flush(moved);
    }
    void mark_aborted() { exchange->mark_aborted(); }
    void body_arrived(std::string_view bytes, bool is_complete, int error = 0) {
        ASSERT_TRUE(exchange->body.append(bytes).is_ok());
        exchange->body_arrived(is_complete, error);
    }
    uint64_t backlog() { return exchange->body_backlog(); }
    bool has_output() { return exchange->has_output(); }
    Exchange::Flush take_for_transform(std::string& plain, size_t max) {
        return exchange->take_for_transform(plain, max);
    }
    off_t spill_blocks() {
        struct stat file {};
        EXPECT_EQ(::fstat(exchange->spill_.file(), &file), 0);
        return file.st_blocks;
    }
    void cork() { exchange->corked_ = true; }
    void reuse() { exchange->reset_for_reuse(); }
    void body_begins(bool is_complete) { exchange->body_begins(is_complete); }

    /// What the client gets until it has `size` bytes; the leader flushes meanwhile.
    std::string receive(size_t size) {
        std::string all;
        const int64_t end_ms = monotonic_ms() + 10'000;
        while (all.size() < size && monotonic_ms() < end_ms) {
            flush();
            char bytes[65536];
            const ssize_t got = ::recv(client_.get(), bytes, sizeof bytes, MSG_DONTWAIT);
            if (got > 0) all.append(bytes, static_cast<size_t>(got));
        }
        return all;
    }
    /// Uses a TCP connection instead of the unix socket, and answers a peer that asked to close it
    /// or, with keep_alive, to keep it.
    void use_tcp(bool keep_alive) {
        const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        Address address = *Address::from_ip("127.0.0.1", 0);
        ASSERT_EQ(::bind(listener.get(), address.raw(), address.size), 0);
        ASSERT_EQ(::listen(listener.get(), 1), 0);
        ASSERT_EQ(::getsockname(listener.get(), address.raw(), &address.size), 0);
        client_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        ASSERT_EQ(::connect(client_.get(), address.raw(), address.size), 0);
        server_ = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        prepare();
        facts_.is_unix = false;
        exchange->head.keep_alive = keep_alive;
        exchange->response.begin(exchange->head, true, {});
    }
    /// Segments that the client has received.
    unsigned segments() {
        tcp_info info{};
        socklen_t size = sizeof info;
        EXPECT_EQ(::getsockopt(client_.get(), IPPROTO_TCP, TCP_INFO, &info, &size), 0);
        return info.tcpi_segs_in;
    }
    bool client_sees_the_end() {
        pollfd item{.fd = client_.get(), .events = POLLRDHUP, .revents = 0};
        return ::poll(&item, 1, 0) == 1 && (item.revents & POLLRDHUP) != 0;
    }
    /// Threads that sleep in pop() and have not been told to wake up.
    static size_t idle_threads(ReadyQueue& queue) {
        const std::lock_guard lock(queue.mutex_);
        return queue.waiting_ - queue.woken_;
    }
    /// What the client could read now.
    size_t waiting_bytes() {
        int bytes = 0;
        EXPECT_EQ(::ioctl(client_.get(), FIONREAD, &bytes), 0);
        return static_cast<size_t>(bytes);
    }
    bool client_has_nothing() { return waiting_bytes() == 0; }

    std::string spool_directory;
    std::shared_ptr<Exchange> exchange = std::make_shared<Exchange>(*this);
    std::atomic<int> leader_calls{0}, beats{0}, completed{0};
    std::vector<int> file_errors;
    Fd server_, client_;

private:
    ConnectionFacts facts_;
};

namespace {

constexpr size_t kMiB = 1 << 20;

// ------------------------------------------------------------------------------------- sending

TEST_F(ExchangeTest, SmallBlockGoesStraightToTheSocket) {
    EXPECT_TRUE(exchange->send("head;", "block;", "after", true));
    EXPECT_EQ(receive(16), "head;block;after");
    EXPECT_EQ(leader_calls, 0);
    EXPECT_FALSE(has_output());
}

TEST_F(ExchangeTest, LastBytesOfAConnectionBringItsEndInTheSameSegment) {
    for (const size_t size : {5U, 10'000U}) {  // gathered, and as a vector
        use_tcp(false);
        const unsigned before = segments();
        EXPECT_TRUE(exchange->send("head;", pattern(size), "after", true));
        EXPECT_TRUE(eventually([&] { return client_sees_the_end(); }));
        EXPECT_EQ(segments(), before + 1) << size;
        EXPECT_EQ(receive(10 + size), "head;" + pattern(size) + "after");
        EXPECT_EQ(leader_calls, 0);
        char byte = 0;
        EXPECT_EQ(::recv(client_.get(), &byte, 1, MSG_DONTWAIT), 0);
    }
}

TEST_F(ExchangeTest, ConnectionsThatGoOnAreNotEndedByTheirLastBytes) {
    use_tcp(true);
    EXPECT_TRUE(exchange->send("kept", {}, {}, true));
    EXPECT_EQ(receive(4), "kept");
    EXPECT_FALSE(client_sees_the_end());

    use_tcp(false);
    EXPECT_TRUE(exchange->send("block", {}, {}, false));
    EXPECT_EQ(receive(5), "block");
    EXPECT_FALSE(client_sees_the_end());

    const Result<Fd> socket = exchange->detach();
    ASSERT_TRUE(socket.is_ok());
    EXPECT_TRUE(exchange->send("last", {}, {}, true));
    EXPECT_EQ(::send(socket->get(), ", raw", 5, 0), 5);
    EXPECT_EQ(receive(9), "last, raw");
    EXPECT_FALSE(client_sees_the_end());
}

TEST_F(ExchangeTest, WhatTheSocketDoesNotTakeIsSentByTheLeaderInOrder) {
    const std::string big = pattern(300'000);
    EXPECT_TRUE(exchange->send("head", big, "after", false));
    EXPECT_TRUE(has_output());
    EXPECT_GT(leader_calls, 0);
    EXPECT_TRUE(exchange->send({}, "last", {}, true));  // must not overtake
    const std::string all = "head" + big + "after" + "last";
    EXPECT_TRUE(receive(all.size()) == all);
    EXPECT_EQ(flush(), Exchange::Flush::Drained);
}

TEST_F(ExchangeTest, OutputPastTheMemoryLimitContinuesInAFileAndInOrder) {
    // At the limit in memory, above it in the file, and small pieces after that.
    std::string all;
    for (const size_t size : {kOutboxMemoryMax - 1, size_t{1}, size_t{1}, 3 * kMiB, size_t{7}}) {
        const std::string block = pattern(size);
        ASSERT_TRUE(exchange->send({}, block, {}, false));
        all += block;
    }
    EXPECT_TRUE(receive(all.size()) == all);
    EXPECT_EQ(flush(), Exchange::Flush::Drained);
    // The file is empty now: what follows goes straight to the socket again.
    EXPECT_TRUE(exchange->send({}, "next", {}, false));
    EXPECT_EQ(receive(4), "next");
}

TEST_F(ExchangeTest, ResponsesTogetherKeepLittleInMemory) {
    output_memory_ = kOutboxMemoryOfAllMax - 1;
    const std::string first = pattern(300'000), second = pattern(kOutboxMemoryLeast + 1);
    ASSERT_TRUE(exchange->send({}, first, {}, false));
    EXPECT_GT(output_memory(), kOutboxMemoryOfAllMax);  // there was still room when it came
    const size_t before = output_memory();
    ASSERT_TRUE(exchange->send({}, second, {}, false));
    ASSERT_TRUE(exchange->send({}, "last", {}, true));
    EXPECT_EQ(output_memory(), before);
    EXPECT_TRUE(receive(first.size() + second.size() + 4) == first + second + "last");
    EXPECT_EQ(flush(), Exchange::Flush::Drained);
    EXPECT_EQ(output_memory(), kOutboxMemoryOfAllMax - 1);
}

TEST_F(ExchangeTest, TheNextAnswersFileLosesNothingToThatOfTheOneBefore) {
    const std::string first = pattern(kMiB / 2), rest = pattern(4 * kMiB);
    for (int i = 0; i < 2; ++i) {
        ASSERT_TRUE(exchange->send({}, first, {}, false));  // in memory
        ASSERT_TRUE(exchange->send({}, rest, {}, false));
        EXPECT_TRUE(receive(first.size() + rest.size()) == first + rest) << i;
        EXPECT_EQ(flush(), Exchange::Flush::Drained);
        exchange->finish();
        reuse();
    }
}

TEST_F(ExchangeTest, OutputOfWhoIsGoneIsNotCounted) {
    ASSERT_TRUE(exchange->send({}, pattern(300'000), {}, false));
    EXPECT_GT(output_memory(), 0u);
    mark_aborted();
    EXPECT_EQ(output_memory(), 0u);
}

/// Otherwise a long download to a slow client would stop for ever at kBodyBytesInFlightMax.
TEST_F(ExchangeTest, OutputThatWasSentFromTheFileIsNoLongerCounted) {
    const std::string all = pattern(3 * kMiB);
    ASSERT_TRUE(exchange->send({}, all, {}, false));
    EXPECT_TRUE(receive(all.size()) == all);
    EXPECT_EQ(flush(), Exchange::Flush::Drained);
    cork();
    EXPECT_TRUE(exchange->join_successor("no more than this", {}, {}));
}

TEST_F(ExchangeTest, ManySmallBlocksLeaveWithoutTheLeader) {
    use_tcp(true);  // it takes them all
    const std::string all = pattern(50'000);
    for (size_t at = 0; at < all.size(); at += 1000)
        ASSERT_TRUE(exchange->send({}, std::string_view(all).substr(at, 1000), {}, false)) << at;
    // No more than kHeldBytesMax waits for the next block.
    EXPECT_TRUE(eventually([&] { return waiting_bytes() >= all.size() - kHeldBytesMax; }));
}

TEST_F(ExchangeTest, BlocksBeforeACutLeaveBeforeIt) {
    for (int i = 0; i < 5; ++i)
        ASSERT_TRUE(exchange->send({}, "block", {}, false));
    exchange->abort();
    EXPECT_EQ(waiting_bytes(), 25u);
}

TEST_F(ExchangeTest, SmallBlocksThatFollowFastOutliveAFullSocket) {
    const std::string all = pattern(600 * 1000);
    for (size_t at = 0; at < all.size(); at += 1000)
        ASSERT_TRUE(exchange->send({}, std::string_view(all).substr(at, 1000), {}, false)) << at;
    exchange->finish();
    EXPECT_EQ(receive(all.size()), all);
}

TEST_F(ExchangeTest, LeaderSendsWhileTheApplicationProduces) {
    const std::string block = pattern(100'000);
    constexpr size_t kBlocks = 100;
    std::thread application([&] {
        for (size_t i = 0; i < kBlocks; ++i)
            ASSERT_TRUE(exchange->send({}, block, {}, false));
        exchange->finish();
    });
    std::string expected;
    for (size_t i = 0; i < kBlocks; ++i)
        expected += block;
    EXPECT_TRUE(receive(expected.size()) == expected);
    application.join();
    EXPECT_EQ(active(), 0u);
}

TEST_F(ExchangeTest, WithoutDiskTheProducerWaitsForTheClientAndLosesNothing) {
    spool_directory = "/nonexistent-directory";
    prepare();
    const std::string block = pattern(kMiB / 2);
    std::atomic<int> sent{0};
    std::thread application([&] {
        for (int i = 0; i < 8; ++i) {
            ASSERT_TRUE(exchange->send({}, block, {}, false));
            ++sent;
        }
    });
    EXPECT_TRUE(eventually([&] { return beats > 0; })) << "it does not wait";
    EXPECT_LT(sent, 8);
    std::string expected;
    for (int i = 0; i < 8; ++i)
        expected += block;
    EXPECT_TRUE(receive(expected.size()) == expected);
    application.join();
}

TEST_F(ExchangeTest, AbortEndsTheWaitOfAProducer) {
    spool_directory = "/nonexistent-directory";
    prepare();
    const std::string block = pattern(2 * kMiB);
    std::future<bool> sent = std::async(std::launch::async, [&] {
        return exchange->send({}, block, {}, false) && exchange->send({}, block, {}, false);
    });
    EXPECT_TRUE(eventually([&] { return beats > 0; }));
    mark_aborted();
    EXPECT_FALSE(sent.get());
    EXPECT_FALSE(exchange->send({}, "more", {}, true));
    exchange->finish();
    EXPECT_EQ(completed, 1);
}

TEST_F(ExchangeTest, ClientThatIsGoneAbortsTheExchange) {
    client_.reset();
    EXPECT_FALSE(exchange->send("head", {}, {}, false));
    EXPECT_TRUE(exchange->is_aborted());
    EXPECT_FALSE(exchange->response.keeps_alive());
}

TEST_F(ExchangeTest, EndOfAnAnswerWaitsForItsPipelinedSuccessor) {
    cork();
    EXPECT_TRUE(exchange->send("complete", {}, {}, true));
    EXPECT_TRUE(client_has_nothing());
    EXPECT_TRUE(has_output());
    exchange->finish();
    EXPECT_EQ(completed, 1);
    EXPECT_EQ(receive(8), "complete");
}

TEST_F(ExchangeTest, OnlyASmallEndWaitsForAPipelinedSuccessor) {
    const std::string most = pattern(kCorkBytesMax);
    EXPECT_FALSE(exchange->join_successor("there is none", {}, {}));
    cork();
    EXPECT_FALSE(exchange->join_successor("1", most, {}));
    EXPECT_FALSE(has_output());
    EXPECT_TRUE(exchange->join_successor({}, most, {}));
    EXPECT_FALSE(exchange->join_successor("1", {}, {}));
    mark_aborted();
    EXPECT_FALSE(exchange->join_successor("nobody reads this", {}, {}));
    EXPECT_FALSE(has_output());
}

TEST_F(ExchangeTest, TheLeaderHearsOfAnEndThatConcernsIt) {
    const std::string big = pattern(16 * kMiB);  // more than a socket takes
    for (const std::string_view end : {"kept", "closed", "cut", "joining", "unsent"}) {
        reuse();
        use_tcp(end != "closed");
        if (end == "cut") mark_aborted();
        if (end == "joining") cork();
        if (end == "joining" || end == "unsent") {
            ASSERT_TRUE(exchange->send({}, end == "unsent" ? big : "last", {}, true));
        }
        leader_calls = completed = 0;
        exchange->finish();
        EXPECT_EQ(leader_calls, end == "kept" ? 0 : 1) << end;
        EXPECT_EQ(completed, end == "unsent" ? 0 : 1) << end;
        mark_aborted();  // drops what is left
    }
}

// --------------------------------------------------------------------------------------- files

class File {
public:
    explicit File(const std::string& bytes) {
        char path[] = "/tmp/gcorn-exchange-XXXXXX";
        fd = Fd(::mkstemp(path));
        ::unlink(path);
        EXPECT_EQ(::write(fd.get(), bytes.data(), bytes.size()),
                  static_cast<ssize_t>(bytes.size()));
    }
    Fd fd;
};

TEST_F(ExchangeTest, FileRangeKeepsItsPlaceBetweenBlocks) {
    const std::string bytes = pattern(2 * kMiB);
    const File file(bytes);
    EXPECT_TRUE(
        exchange->send_file("before", file.fd.get(), 10, bytes.size() - 20, "after", false));
    EXPECT_TRUE(exchange->send({}, "end", {}, true));
    const std::string all = "before" + bytes.substr(10, bytes.size() - 20) + "after" + "end";
    EXPECT_TRUE(receive(all.size()) == all);
}

TEST_F(ExchangeTest, FileThatEndsEarlyCutsTheConnection) {
    const File file("short");
    EXPECT_FALSE(exchange->send_file({}, file.fd.get(), 0, 6, {}, true));
    EXPECT_TRUE(exchange->is_aborted());
    EXPECT_EQ(file_errors, std::vector<int>{ENODATA});
}

TEST_F(ExchangeTest, FileGoesOutWholeWhenNoDescriptorIsLeft) {
    const std::string bytes = pattern(3 * kMiB);
    const File file(bytes);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    rlimit none = before;
    none.rlim_cur = 0;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    auto sent = std::async(std::launch::async, [&] {
        return exchange->send_file("before", file.fd.get(), 0, bytes.size(), "after", true);
    });
    const std::string all = "before" + bytes + "after";
    EXPECT_TRUE(receive(all.size()) == all);
    EXPECT_TRUE(sent.get());
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_TRUE(file_errors.empty());
}

TEST_F(ExchangeTest, FileThatCannotBeReadIsTold) {
    const Fd directory(::open("/", O_RDONLY | O_CLOEXEC));
    EXPECT_FALSE(exchange->send_file({}, directory.get(), 0, 6, {}, true));
    EXPECT_EQ(file_errors, std::vector<int>{EISDIR});
}

TEST_F(ExchangeTest, FileThatTheLeaderCannotReadIsTold) {
    const File file(pattern(kMiB));
    EXPECT_TRUE(exchange->send_file({}, file.fd.get(), 0, 2 * kMiB, {}, true));
    EXPECT_GT(leader_calls, 0);
    receive(kMiB);
    EXPECT_EQ(flush(), Exchange::Flush::Failed);
    ASSERT_FALSE(file_errors.empty());
    EXPECT_EQ(file_errors.front(), ENODATA);
}

TEST_F(ExchangeTest, FileForAClientThatIsGoneIsNoNews) {
    const File file(pattern(kMiB));
    std::signal(SIGPIPE, SIG_IGN);  // as the program does: sendfile(2) has no MSG_NOSIGNAL
    client_.reset();
    EXPECT_FALSE(exchange->send_file({}, file.fd.get(), 0, kMiB, {}, true));
    EXPECT_TRUE(file_errors.empty());
}

TEST_F(ExchangeTest, TransformTakesBytesAndRangesInOrder) {
    prepare(false);  // as with TLS: nothing goes to the socket directly
    const std::string bytes = pattern(200'000);
    const File file(bytes);
    EXPECT_TRUE(exchange->send("head", {}, {}, false));
    EXPECT_TRUE(exchange->send_file({}, file.fd.get(), 0, bytes.size(), "after", true));
    std::string plain, all;
    while (take_for_transform(plain, 5000) == Exchange::Flush::Blocked) {
        EXPECT_LE(plain.size(), 5000u);
        all += std::exchange(plain, {});
    }
    EXPECT_TRUE(all + plain == "head" + bytes + "after");
}

/// A stream to a slow client may be larger than the disk.
TEST_F(ExchangeTest, TransformGivesTheDiskBackWhatItTook) {
    prepare(false);
    const std::string mib = pattern(kMiB);
    for (int i = 0; i < 8; ++i)
        ASSERT_TRUE(exchange->send({}, mib, {}, false));
    const off_t before = spill_blocks();
    std::string plain;
    ASSERT_EQ(take_for_transform(plain, 6 * kMiB), Exchange::Flush::Blocked);
    EXPECT_LT(spill_blocks(), before);
    ASSERT_EQ(take_for_transform(plain, 9 * kMiB), Exchange::Flush::Drained);
    for (size_t i = 0; i < 8; ++i)
        EXPECT_TRUE(std::string_view(plain).substr(i * kMiB, kMiB) == mib) << i;
}

// ---------------------------------------------------------------------------------------- body

TEST_F(ExchangeTest, BodyThatStillArrivesIsWaitedFor) {
    body_arrived("abc", false);
    EXPECT_EQ(*exchange->wait_for_body(0), 3u);
    EXPECT_EQ(*exchange->wait_for_body(2), 3u);
    std::future<uint64_t> more = std::async(std::launch::async, [&] {
        Result<uint64_t> received = exchange->wait_for_body(3);
        return received ? *received : 0;
    });
    EXPECT_TRUE(eventually([&] { return beats > 0; }));
    exchange->body_consumed(3);
    EXPECT_EQ(backlog(), 0u);
    EXPECT_GT(leader_calls, 0);
    body_arrived("defg", true);
    EXPECT_EQ(more.get(), 7u);
    EXPECT_TRUE(exchange->body_complete());
    EXPECT_EQ(*exchange->wait_for_body(7), 7u);  // complete: nothing to wait for
}

TEST_F(ExchangeTest, BodyThatEndsEarlyIsAnErrorBehindItsLastByteOnly) {
    for (const int error : {ECONNRESET, EPROTO, ETIMEDOUT}) {
        body_arrived("abc", false, error);
        const uint64_t size = exchange->body.size();
        EXPECT_EQ(*exchange->wait_for_body(size - 1), size);
        EXPECT_EQ(exchange->wait_for_body(size).error().code, error);
    }
}

TEST_F(ExchangeTest, AReusedOneRemembersNothingOfTheRequestBefore) {
    exchange->logged_environ = {{"user", "alice"}};
    exchange->received_us = exchange->queued_us = exchange->taken_us = exchange->done_us =
        exchange->app_us = 1;
    body_arrived("abc", false, EPROTO);
    exchange->body_consumed(3);
    reuse();
    EXPECT_TRUE(exchange->logged_environ.empty());
    EXPECT_EQ(exchange->received_us + exchange->queued_us + exchange->taken_us + exchange->done_us +
                  exchange->app_us,
              0);
    EXPECT_EQ(backlog(), 0u);
    ASSERT_TRUE(exchange->body.append("de").is_ok());
    body_begins(false);
    EXPECT_EQ(backlog(), 2u);
    std::future<uint64_t> more = std::async(std::launch::async, [&] {
        Result<uint64_t> received = exchange->wait_for_body(2);
        return received ? *received : 0;
    });
    EXPECT_TRUE(eventually([&] { return beats > 0; })) << "it waits, the old error is forgotten";
    body_arrived("f", true);
    EXPECT_EQ(more.get(), 3u);
}

TEST_F(ExchangeTest, WhatWasConsumedStaysSo) {
    body_arrived("abc", false);
    exchange->body_consumed(3);
    exchange->body_consumed(1);  // reads of two threads may be reported in any order
    EXPECT_EQ(backlog(), 0u);
}

TEST_F(ExchangeTest, TheEndOfTheRequestEndsTheWaitForItsBody) {
    body_arrived("abc", false);
    std::future<Error> reader =
        std::async(std::launch::async, [&] { return exchange->wait_for_body(3).error(); });
    EXPECT_TRUE(eventually([&] { return beats > 0; }));
    exchange->finish();
    EXPECT_EQ(reader.get().code, ECONNRESET);
}

TEST_F(ExchangeTest, AbortEndsTheWaitForABody) {
    body_arrived("", false);
    std::future<int> code = std::async(std::launch::async, [&] {
        const Result<uint64_t> received = exchange->wait_for_body(0);
        return received ? 0 : received.error().code;
    });
    EXPECT_TRUE(eventually([&] { return beats > 0; }));
    mark_aborted();
    EXPECT_EQ(code.get(), ECONNRESET);
}

TEST_F(ExchangeTest, DetachedSocketIsADescriptorOfItsOwn) {
    Result<Fd> socket = exchange->detach();
    ASSERT_TRUE(socket.is_ok());
    EXPECT_TRUE(exchange->is_detached());
    EXPECT_NE(socket->get(), server_.get());
    EXPECT_EQ(::send(socket->get(), "raw", 3, 0), 3);
    EXPECT_EQ(receive(3), "raw");
}

TEST_F(ExchangeTest, WhatIsQueuedLeavesBeforeTheSocketIsHandedOut) {
    const std::string before = pattern(kMiB);
    ASSERT_TRUE(exchange->send({}, before, {}, false));
    std::future<void> application = std::async(std::launch::async, [&] {
        Result<Fd> socket = exchange->detach();
        ASSERT_TRUE(socket.is_ok());
        ::fcntl(socket->get(), F_SETFL, 0);
        EXPECT_EQ(::send(socket->get(), "raw", 3, 0), 3);
    });
    EXPECT_TRUE(receive(before.size() + 3) == before + "raw");
    application.get();
}

TEST_F(ExchangeTest, WithoutADescriptorForItTheSocketIsNotTaken) {
    struct rlimit before {};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const Fd highest(::dup(client_.get()));  // every lower number is taken
    const struct rlimit full = {static_cast<rlim_t>(highest.get()), before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &full), 0);
    const Result<Fd> socket = exchange->detach();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_EQ(socket.error().code, EMFILE);
    EXPECT_FALSE(exchange->is_detached()) << "the failure is answered";
    ASSERT_TRUE(exchange->send("answer", {}, {}, true));
    EXPECT_EQ(receive(6), "answer");
}

TEST_F(ExchangeTest, ADetachedOneIsFreshForItsNextConnection) {
    EXPECT_TRUE(exchange->detach().is_ok());
    exchange->finish();
    reuse();
    EXPECT_FALSE(exchange->is_detached());
    EXPECT_FALSE(exchange->is_finished());
}

TEST_F(ExchangeTest, AReusedOneHasAnsweredNobody) {
    ASSERT_TRUE(exchange->response.set_status("200 OK").is_ok());
    exchange->finish();
    reuse();
    EXPECT_FALSE(exchange->response.has_status());
}

TEST_F(ExchangeTest, TlsAndVanishedClientsGiveNoRawSocketAway) {
    prepare(false);
    EXPECT_EQ(exchange->detach().error().code, EOPNOTSUPP);
    EXPECT_TRUE(exchange->copy_socket().is_ok());  // just to look at
    prepare(true);
    mark_aborted();
    EXPECT_EQ(exchange->detach().error().code, ECONNRESET);
}

// --------------------------------------------------------------------------------- ready queue

class ReadyQueueTest : public ExchangeTest {
protected:
    std::shared_ptr<Exchange> make() {
        ++active_;
        return std::make_shared<Exchange>(*this);
    }
    bool is_readable() {
        pollfd entry{queue.fd(), POLLIN, 0};
        return ::poll(&entry, 1, 0) == 1;
    }
    /// Starts that many threads, which count the calls they take and make each last until
    /// `release`.
    void start_threads(size_t count) {
        for (size_t i = 0; i < count; ++i) {
            threads_.emplace_back([this] {
                int64_t call_began_us = 0;
                ++waiting;
                while (const std::shared_ptr<Exchange> taken = queue.pop(call_began_us)) {
                    ++calls;
                    while (!release)
                        std::this_thread::sleep_for(std::chrono::milliseconds(1));
                    taken->finish();
                }
            });
        }
        ASSERT_TRUE(eventually([&] { return waiting == count; }));
        // They are counted just before they sleep; one that is late finds requests in the queue,
        // which is just as good.
    }
    void TearDown() override {
        release = true;
        queue.close();
        for (std::thread& thread : threads_)
            thread.join();
    }

    ReadyQueue queue;
    std::atomic<size_t> waiting{0};
    std::atomic<int> calls{0};
    std::atomic<bool> release{false};

private:
    std::vector<std::thread> threads_;
};

TEST_F(ReadyQueueTest, HandsOutInTheOrderOfArrival) {
    std::vector<std::shared_ptr<Exchange>> made;
    for (int i = 0; i < 3; ++i) {
        made.push_back(make());
        queue.push(made.back(), 0);
    }
    EXPECT_EQ(queue.look(), 3u);
    for (const auto& expected : made)
        EXPECT_EQ(queue.try_pop(), expected);
    EXPECT_EQ(queue.try_pop(), nullptr);
}

TEST_F(ReadyQueueTest, DropsAbortedRequestsUnrunButFinished) {
    const auto gone = make(), here = make(), gone_too = make();
    for (const auto& each : {gone, here, gone_too})
        queue.push(each, 0);
    gone->abort();
    gone_too->abort();
    EXPECT_EQ(queue.try_pop(), here);
    EXPECT_TRUE(gone->is_finished());
    EXPECT_EQ(queue.try_pop(), nullptr);
    EXPECT_TRUE(gone_too->is_finished());
    int64_t call_began_us = 0;
    queue.push(make(), 0);
    const auto last = make();
    queue.push(last, 0);
    queue.close();
    EXPECT_NE(queue.pop(call_began_us), nullptr);
    last->abort();
    EXPECT_EQ(queue.pop(call_began_us), nullptr);
    EXPECT_TRUE(last->is_finished());
}

TEST_F(ReadyQueueTest, DescriptorIsReadableWhileSomethingWaits) {
    EXPECT_FALSE(is_readable());
    for (int round = 0; round < 2; ++round) {
        queue.push(make(), 0);
        queue.push(make(), 0);
        EXPECT_FALSE(is_readable()) << "before announce()";
        queue.announce(0);
        EXPECT_TRUE(is_readable());
        EXPECT_EQ(queue.look(), 2u);
        EXPECT_NE(queue.try_pop(), nullptr);
        EXPECT_TRUE(is_readable());
        EXPECT_NE(queue.try_pop(), nullptr);
        EXPECT_FALSE(is_readable());
    }
}

TEST_F(ReadyQueueTest, DescriptorOpenedLateKnowsWhatWaits) {
    queue.push(make(), 0);
    EXPECT_TRUE(is_readable());
}

TEST_F(ReadyQueueTest, PokeMakesTheDescriptorReadableOnce) {
    EXPECT_FALSE(is_readable());
    queue.poke();
    EXPECT_TRUE(is_readable());
    EXPECT_EQ(queue.look(), 0u);
    EXPECT_FALSE(is_readable());
}

TEST_F(ReadyQueueTest, CloseServesWhatIsQueuedAndEndsTheWaitOfAll) {
    start_threads(3);
    release = true;
    for (int i = 0; i < 5; ++i)
        queue.push(make(), monotonic_ms());
    queue.close();
    EXPECT_TRUE(eventually([&] { return calls == 5; }));
}

TEST_F(ReadyQueueTest, ARequestThatWaitedItsPatienceGetsAThreadOfItsOwn) {
    // How many threads take the batch earlier is unspecified: one that was late to sleep needs no
    // waking.
    start_threads(4);
    const int64_t now_ms = monotonic_ms() + 1000;  // all popped long ago
    for (int i = 0; i < 4; ++i)
        queue.push(make(), now_ms);
    queue.announce(now_ms);
    EXPECT_TRUE(eventually([&] { return calls >= 1; }));
    EXPECT_TRUE(eventually([&] {
        queue.announce(now_ms + ReadyQueue::kPatienceMs + 1);
        return calls == 4;
    })) << "a late request has no thread";
}

TEST_F(ReadyQueueTest, ARequestThatNoThreadCouldTakeSoonIsAnnouncedAtOnce) {
    start_threads(1);
    release = true;
    for (int i = 1; i <= 3; ++i) {
        // The thread popped a moment ago, but has come back and sleeps: nothing would wake it
        // later.
        ASSERT_TRUE(eventually([&] { return idle_threads(queue) == 1; }));
        const int64_t now_ms = monotonic_ms();
        queue.push(make(), now_ms);
        queue.announce(now_ms);
        ASSERT_TRUE(eventually([&] { return calls == i; })) << "request " << i << " waits";
    }
}

TEST_F(ReadyQueueTest, LongCallsWinAThreadForEachRequest) {
    // Votes: calls that lasted longer than kLongCallUs.
    int64_t call_began_us = 0;
    for (int i = 0; i < 20; ++i) {
        queue.push(make(), 0);
        ASSERT_NE(queue.pop(call_began_us), nullptr);
        call_began_us -= ReadyQueue::kLongCallUs + 1;
    }
    start_threads(4);
    const int64_t now_ms = monotonic_ms();
    for (int i = 0; i < 4; ++i)
        queue.push(make(), now_ms);
    EXPECT_TRUE(eventually([&] {
        queue.announce(now_ms);  // again for a thread that was late to sleep
        return calls == 4;
    }));
}

TEST_F(ReadyQueueTest, StressLosesNothing) {
    start_threads(4);
    release = true;
    constexpr int kRequests = 20'000;
    for (int i = 0; i < kRequests; ++i) {
        queue.push(make(), monotonic_ms());
        if (i % 7 == 0) queue.announce(monotonic_ms());
    }
    EXPECT_TRUE(eventually([&] {
        queue.announce(monotonic_ms());
        return calls == kRequests;
    })) << calls;
}

}  // namespace
}  // namespace gcorn
