// Listener: one bound, listening socket, and the file of a unix socket.
//
// Opens what a BindSpec says or adopts a descriptor that systemd, a supervisor or our own
// predecessor (USR2) left open. Retrying, and the log lines about it, belong to the arbiter: this
// room tries once and returns an Error whose code is the errno. Listeners are non-blocking and
// close-on-exec; code that hands one on uses set_close_on_exec(). Used on the thread of its owner;
// accept() on the leader's. Sources: ip(7), tcp(7), unix(7), accept(2), gunicorn: sock.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "net/address.h"
#include "os/process.h"

namespace gcorn {

struct ListenerOptions {
    int backlog = 2048;       ///< the kernel caps it at somaxconn
    bool reuse_port = false;  ///< SO_REUSEPORT: each worker opens a socket of its own
    bool listens = true;      ///< false, for TCP: listen() comes later, or never
    int defer_accept_s = 0;   ///< > 0: wake up only when data arrived (TCP_DEFER_ACCEPT, Linux)
    bool is_tls = false;      ///< only for name()
    mode_t umask = 0;         ///< unix: mode is 0777 & ~umask unless the spec names one
    Owner owner{};            ///< unix: unless the spec names a user or group
};

enum class AcceptStatus : uint8_t {
    Connection,      ///< fd and peer are set
    Nothing,         ///< nobody waits (any more)
    Aborted,         ///< this connection was lost before we took it: try again
    OutOfResources,  ///< EMFILE, ENFILE, ENOBUFS, ENOMEM: back off, the connection keeps waiting
    Failed,          ///< the listener itself is broken
};

struct Accepted {
    AcceptStatus status = AcceptStatus::Nothing;
    int error = 0;  ///< errno, for all but Connection and Nothing
    Fd fd;          ///< non-blocking, close-on-exec, TCP_NODELAY
    Address peer;
};

class Listener {
public:
    /// Whose descriptor adopt() gets. Decides who removes a unix socket's file: systemd and other
    /// supervisors keep theirs; one that our predecessor made is ours now.
    enum class Origin : uint8_t { Supervisor, Predecessor };

    /// Creates, binds and listens. A unix socket is made aside and renamed into place, so that the
    /// path never names a socket with wrong permissions or without a listener; a socket file that
    /// was there is replaced, any other file is an Error. BindSpec::Fd adopts (Supervisor).
    /// Error: errno in code (EADDRINUSE, EACCES, EADDRNOTAVAIL also for a name that does not
    /// resolve, 0 for an unknown user or group), the address in the sentence.
    static Result<std::unique_ptr<Listener>> open(const BindSpec& spec,
                                                  const ListenerOptions& options);
    /// Takes over an inherited stream socket and listens on it. Error: the descriptor stays open
    /// and stays the caller's.
    static Result<std::unique_ptr<Listener>> adopt(int fd, Origin origin,
                                                   const ListenerOptions& options);

    Listener(Listener&&) = delete;
    ~Listener() = default;  ///< closes; the unix path stays, see unlink_path()

    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] bool is_unix() const { return address_.is_unix(); }
    /// Where it can be reached: for a unix socket the published path.
    [[nodiscard]] const Address& address() const { return address_; }
    /// What was asked for; for an adopted socket what open() would need to make the same.
    [[nodiscard]] const BindSpec& spec() const { return spec_; }
    /// "http://127.0.0.1:8000", "https://[::1]:8443", "unix:/run/app.sock".
    [[nodiscard]] const std::string& name() const { return name_; }
    /// The listener's own address, for SERVER_NAME and SERVER_PORT; path and "" for a unix socket.
    [[nodiscard]] const std::string& server_name() const { return server_name_; }
    [[nodiscard]] const std::string& server_port() const { return server_port_; }

    /// Does what `listens = false` left out; harmless if repeated.
    [[nodiscard]] Status listen(int backlog) const;

    /// One connection. Never blocks.
    [[nodiscard]] Accepted accept() const;

    /// Closes the socket now; the object stays for those who refer to it. Idempotent. One that is
    /// this worker's own (reuse_port) ends, even if a child that the application has forked holds
    /// it: the kernel would go on giving it a share of the connections.
    void close();

    /// False for a unix socket whose file, which is ours, has been removed.
    [[nodiscard]] bool is_reachable() const;
    /// Gives the file of a unix socket that is ours the mode and the owner of `spec`; no-op for
    /// everything else.
    [[nodiscard]] Status change_permissions(const BindSpec& spec,
                                            const ListenerOptions& options) const;

    /// Removes the file of a unix socket that is ours and still there; no-op for everything else,
    /// even if somebody has put another socket at the path. Error: errno in code.
    Status unlink_path();
    /// The same, unless another process listens on it.
    Status unlink_if_deserted();

private:
    Listener(Fd fd, BindSpec spec, Address address, bool is_tls);
    void remember_file();
    [[nodiscard]] bool has_file() const;

    Fd fd_;
    BindSpec spec_;
    Address address_;
    std::string name_, server_name_, server_port_;
    bool is_shared_ = true;  ///< with other processes
    // The socket file that unlink_path() may remove; 0 if none is ours.
    dev_t file_device_ = 0;
    ino_t file_inode_ = 0;
};

}  // namespace gcorn
