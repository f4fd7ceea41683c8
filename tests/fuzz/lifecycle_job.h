// What the application of lifecycle_fuzz does with a request, step by step.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/fd.h"
#include "net/exchange.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/lifecycle_client.h"

namespace gcorn::fuzz {

inline const std::string kLarge(300'000, 'l');  ///< more than a unix socket takes at once

struct Job {
    std::shared_ptr<Exchange> exchange;
    std::string target;
    size_t id = 0;
    Fd raw{};              ///< of a detached one
    bool is_over = false;  ///< nothing more is sent
    bool is_sent = true;   ///< everything so far was sent

    /// One step; `file` contains kLarge. True: it was the last.
    bool act(int kind, int file) {
        const bool is_done = go_on(kind, file);
        if (!is_done) return false;
        if (exchange->response.has_status() && !is_over) cut();
        exchange->finish();
        return true;
    }

private:
    bool go_on(int kind, int file) {
        const std::string end = Client::end_of(id);
        switch (kind) {
            case 0: send(end, true); return true;
            case 1: send("block", false); return false;
            case 2: send(kLarge, false); return false;
            case 3: send(kLarge + kLarge + end, true); return true;
            case 4:  // enough to spill to a file
                for (int i = 0; i < 5; ++i)
                    send(kLarge, false);
                return false;
            case 5:  // fast enough to be held back
                for (int i = 0; i < 3; ++i)
                    send("small", false);
                return false;
            case 6: send_file(file); return false;
            case 7: send(end, true); return false;
            case 8: exchange->response.must_close(); return false;
            case 9: cut(); return true;
            case 10: return true;
            case 11: detach(); return false;
            case 12: return !exchange->copy_socket().is_ok();
            case 13: read_body(); return false;
            case 14:
                if (is_over || exchange->response.head_sent()) return false;
                is_over = true;
                is_sent = false;
                exchange->send(exchange->response.error_page(500), {}, {}, true);
                return true;
            default: exchange->pause(); return false;
        }
    }

    bool begin(size_t length) {
        ResponseWriter& response = exchange->response;
        if (is_over || response.has_status()) return !is_over;
        if (exchange->is_worker_stopping()) response.must_close();
        bool is_fine = response.set_status("200 OK").is_ok() &&
                       response.add_field(Client::kIdField, std::to_string(id)).is_ok();
        if (length > 0)
            is_fine &= response.add_field("Content-Length", std::to_string(length)).is_ok();
        require(is_fine, "the answer is valid");
        return true;
    }

    void send(std::string_view block, bool is_last) {
        if (!begin(is_last ? block.size() : 0)) return;
        is_over = is_last;
        is_sent &= exchange->send(exchange->response.body(block.size(), is_last), block, is_last);
    }

    void send_file(int file) {
        if (!begin(0)) return;
        const auto pieces = exchange->response.body(kLarge.size(), false);
        is_sent &= exchange->send_file(pieces.before, file, 0, kLarge.size(), pieces.after, false);
    }

    void detach() {
        Result<Fd> copy = exchange->detach();
        if (!copy) return;
        raw = std::move(*copy);
        is_over = true;
        is_sent = false;
    }

    void read_body() const {
        const Result<uint64_t> size = exchange->wait_for_body(0);
        if (!size) return;
        char bytes[64];
        (void)exchange->body.read_at(*size / 2, bytes, sizeof bytes);
        exchange->body_consumed(*size);
    }

    void cut() {
        is_over = true;
        is_sent = false;
        exchange->abort();
    }
};

}  // namespace gcorn::fuzz
