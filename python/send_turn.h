// SendTurn: threads of the application that answer one request take turns.
#pragma once

#include <memory>

#include "net/exchange.h"
#include "python/pyref.h"

namespace gcorn {

/// The right to frame and send, or to take the socket: framed output lies in the one buffer of the
/// ResponseWriter until it is sent, and the GIL is not held meanwhile. So threads (or greenlets) of
/// the application that answer one request take turns, and the request ends in a turn of its own.
/// No application code may run in a turn, as it could wait for one itself. GIL held.
class SendTurn {
public:
    /// Waits. The request may have ended meanwhile: check again what the turn is for.
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
