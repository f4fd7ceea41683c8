// Relay: how a worker with long calls gives a connection to a sibling.
//
// Keep-alive ties a client to one worker. Without this, its next request would wait there for a
// call that takes seconds, or for one that hangs until the worker is killed, while siblings are
// idle. The descriptor goes through a pair of sockets that all workers of one configuration share
// (SCM_RIGHTS, unix(7)), before a byte of the request is read: what waits in the socket moves with
// it, and a PROXY header, which has been read already, is sent along. Whoever is free first takes
// it, as from a listener. Not for TLS, whose state would stay behind.
//
// Made by the arbiter before the fork. Any process, any thread; nothing blocks.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "net/listener.h"

namespace gcorn {

class Relay {
public:
    /// The longest PROXY header that can be sent along; longer ones are rare.
    static constexpr size_t kPreambleMax = 256;

    /// Error: errno in code.
    [[nodiscard]] Status open();
    void close() { in_.reset(), out_.reset(); }

    /// Polls readable while a connection waits to be taken; -1 before open().
    [[nodiscard]] int fd() const { return out_.get(); }

    /// Gives away a connection that came from the listener with this index and began with these
    /// bytes; the caller closes its own descriptor. False: too many wait already, or it is not
    /// open.
    [[nodiscard]] bool give(int connection, size_t listener, std::string_view preamble) const;

    /// As Listener::accept(). Both arguments are set to what give() was given.
    [[nodiscard]] Accepted take(size_t& listener, std::string& preamble) const;

private:
    Fd in_, out_;
};

}  // namespace gcorn
