// SendTurn: threads of the application that answer one request take turns.
#pragma once

#include <memory>

#include "net/exchange.h"
#include "python/pyref.h"

namespace gcorn {

/// The right to frame and send, or to take the socket: what is framed lies in the one buffer of the
/// ResponseWriter until it is sent, and the GIL is not held meanwhile. So threads (or greenlets) of
/// the application that answer one request take turns, and the request ends in a turn of its own.
/// No code of the application may run in a turn: it could want one itself. GIL held.
class SendTurn {
public:
    /// Waits. The request may have ended then: ask for what it is about once more.
    explicit SendTurn(Exchange& exchange) : exchange_(exchange) {
        while (exchange.has_sender.exchange(true, std::memory_order_acquire)) {
            kept_ = exchange.shared_from_this();
            WithoutGil nogil;
            exchange.pause();
        }
    }
    ~SendTurn() { exchange_.has_sender.store(false, std::memory_order_release); }
    SendTurn(SendTurn&&) = delete;

private:
    Exchange& exchange_;
    std::shared_ptr<Exchange> kept_;
};

}  // namespace gcorn
