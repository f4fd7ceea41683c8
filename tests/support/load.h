// Clients that send requests continuously and count every failed or wrong answer.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/e2e.h"

namespace gcorn::e2e {

/// For what takes a while under load, such as booting a worker.
constexpr Milliseconds kLoadPatience{60'000};

/// Clients that send requests and check the answers until told to stop; every other one keeps its
/// connection.
class Load {
public:
    explicit Load(const Endpoint& endpoint, size_t clients = 6) {
        for (size_t i = 0; i < clients; ++i)
            threads_.emplace_back([this, endpoint, keeps = i % 2 == 0] { run(endpoint, keeps); });
    }
    ~Load() { stop(); }

    void stop() {
        stops_ = true;
        for (std::thread& thread : threads_)
            if (thread.joinable()) thread.join();
    }
    [[nodiscard]] size_t good() const { return good_; }
    [[nodiscard]] std::string bad() {
        const std::lock_guard lock(mutex_);
        return bad_;
    }
    [[nodiscard]] size_t bad_count() const { return bad_count_; }
    /// Whether at least that many more good answers arrive.
    bool goes_on(size_t more = 50) {
        const size_t before = good_;
        return eventually([&] { return good_ >= before + more; }, kLoadPatience);
    }

private:
    void run(const Endpoint& endpoint, bool keeps) {
        std::unique_ptr<Client> client;
        while (!stops_) {
            const bool is_fresh = client == nullptr;
            if (is_fresh) client = std::make_unique<Client>(endpoint);
            const Response answer =
                client->get("/", keeps ? Fields{} : Fields{{"Connection", "close"}});
            if (answer.ok() && answer.status == 200 && answer.body == "Hello, world!\n") {
                ++good_;
            } else {
                ++bad_count_;
                const std::lock_guard lock(mutex_);
                bad_ += (is_fresh ? "fresh: " : "kept: ") +
                        (answer.ok() ? std::to_string(answer.status) : answer.error) + "; ";
            }
            if (!keeps || !answer.ok() || answer.says_close()) client.reset();
            if (keeps) std::this_thread::sleep_for(Milliseconds(1));
        }
    }

    std::atomic<bool> stops_{false};
    std::atomic<size_t> good_{0}, bad_count_{0};
    std::mutex mutex_;
    std::string bad_;
    std::vector<std::thread> threads_;
};

}  // namespace gcorn::e2e
