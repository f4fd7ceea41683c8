// ByteTransform: what sits between socket and buffers when they do not carry the same bytes (TLS).
//
// Null means identity and costs nothing. Called by the leader only; python/tls implements it, and
// is the one place where a turn of the loop takes the GIL.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace gcorn {

class ByteTransform {
public:
    virtual ~ByteTransform() = default;

    /// Takes bytes from the socket; appends to `plain` what they decrypt to. is_eof: the peer
    /// closed. An Error ends the connection (a failed handshake, a broken record); drain() may
    /// still hold an alert to send.
    virtual Status feed(std::string_view wire, bool is_eof, std::string& plain) = 0;

    /// Takes plain bytes to be sent; their wire form comes out of drain().
    virtual Status write(std::string_view plain) = 0;

    /// Moves what must go on the wire (handshake, records, alerts) to the end of `wire`.
    virtual void drain(std::string& wire) = 0;

    /// The handshake is done: requests may be read.
    [[nodiscard]] virtual bool is_open() const = 0;

    /// The peer announced that it sends no more (close_notify): an end of stream before TCP's.
    [[nodiscard]] virtual bool is_ended() const = 0;

    /// What an application may ask about the connection (gunicorn.socket): a Python object,
    /// borrowed; null before the handshake is done. Read by the application side while the
    /// connection lives.
    [[nodiscard]] virtual void* peer_info() const { return nullptr; }

    /// Ends our side of the session (close_notify); the alert comes out of drain().
    virtual void close() = 0;
};

/// Makes the transform of an accepted TLS connection. Empty: plain HTTP.
using TransformMaker = std::function<Result<std::unique_ptr<ByteTransform>>()>;

}  // namespace gcorn
