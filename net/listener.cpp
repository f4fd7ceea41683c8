#include "net/listener.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/text.h"

namespace gcorn {

namespace {

constexpr mode_t kSocketMode = 0777;
constexpr size_t kUnixPathMax = sizeof(sockaddr_un::sun_path) - 1;

/// "<what> <where>: <strerror>".
Error failed(int saved_errno, const char* what, const std::string& where) {
    return errno_error(saved_errno, std::string(what) + " " + where);
}

bool set_option(int fd, int level, int option, int value) {
    return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
}

Status add_descriptor_flags(int fd, const std::string& where) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        ::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        return failed(errno, "fcntl", where);
    }
    return {};
}

// --- TCP ---

/// Options of TCP listeners. TCP_NODELAY matters to the accepted sockets, which inherit it
/// everywhere we know of. Without TCP_DEFER_ACCEPT we only wake up more often, so its failure is
/// not reported; nor is that of TCP_NODELAY.
Status set_tcp_options(int fd, const ListenerOptions& options, const std::string& where) {
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
#ifdef TCP_DEFER_ACCEPT
    set_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, options.defer_accept_s);
#endif
    if (!options.reuse_port) return {};
#ifdef SO_REUSEPORT
    if (set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1)) return {};
    return failed(errno, "reuse_port", where);
#else
    return Error{ENOPROTOOPT, "reuse_port " + where + ": not available on this system"};
#endif
}

Result<Fd> open_tcp(const BindSpec& spec, const ListenerOptions& options) {
    // gunicorn's rule: IPv6 only if the host is a literal, otherwise IPv4, names included.
    const int family = is_ipv6_literal(spec.host) ? AF_INET6 : AF_INET;
    Result<SocketAddress> found =
        resolve(spec.host, std::to_string(spec.port), family, SOCK_STREAM);
    if (!found) return found.error();
    const Address address{*found};
    const std::string where = address.text();
    Fd fd = open_socket(family, SOCK_STREAM);
    if (!fd) return failed(errno, "socket", where);
    if (!set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1))
        return failed(errno, "SO_REUSEADDR", where);
    if (Status status = set_tcp_options(fd.get(), options, where); !status) return status.error();
    if (::bind(fd.get(), address.raw(), address.size) != 0) return failed(errno, "bind", where);
    if (options.listens && ::listen(fd.get(), options.backlog) != 0)
        return failed(errno, "listen", where);
    return fd;
}

// --- unix sockets ---

/// Where the socket of `path` is made before it is renamed: ".name~" in the same directory. The
/// kernel keeps reporting the name a socket was bound to, so a successor that inherits the
/// descriptor must be able to tell the real path from this one (see published_path()).
/// Limit: a path whose aside name exceeds sun_path is bound in place.
std::string aside_path(const std::string& path) {
    const size_t base = path.rfind('/') + 1;  // npos + 1 is 0: no slash
    std::string aside = path.substr(0, base) + "." + path.substr(base) + "~";
    return aside.size() <= kUnixPathMax ? aside : path;
}

/// The inverse of aside_path(), for the name of an inherited socket. A name that still exists was
/// not renamed by us.
std::string published_path(const std::string& bound) {
    struct stat info {};
    const size_t base = bound.rfind('/') + 1;
    const bool looks_aside = bound.size() > base + 2 && bound[base] == '.' && bound.back() == '~';
    if (!looks_aside || ::lstat(bound.c_str(), &info) == 0) return bound;
    return bound.substr(0, base) + bound.substr(base + 1, bound.size() - base - 2);
}

/// True if a socket is at `path`, false if nothing is, or nobody can tell: then bind(2) says why.
/// Error: something else is there.
Result<bool> socket_exists(const std::string& path, const std::string& where) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) return false;
    if (S_ISSOCK(info.st_mode)) return true;
    return Error{ENOTSOCK, "bind " + where + ": exists and is not a socket"};
}

/// Mode and owner of the socket file. Until listen() nobody can connect, whatever the mode is.
Status set_permissions(const std::string& path, const BindSpec& spec,
                       const ListenerOptions& options, const std::string& where) {
    Result<Owner> named = find_owner(spec.user.value_or(""), spec.group.value_or(""));
    if (!named) return named.error();
    const auto owner = named->user ? named->user : options.owner.user;
    const auto group = named->group ? named->group : options.owner.group;
    // -1 leaves an id as it is (chown(2)).
    if ((owner || group) && ::chown(path.c_str(), owner.value_or(static_cast<uid_t>(-1)),
                                    group.value_or(static_cast<gid_t>(-1))) != 0) {
        return failed(errno, "chown", where);
    }
    const mode_t mode = spec.mode.value_or(kSocketMode & ~options.umask);
    if (::chmod(path.c_str(), mode) != 0) return failed(errno, "chmod", where);
    return {};
}

/// Everything between bind and the published path; the caller removes `aside` on an Error.
Status publish(int fd, const std::string& aside, const BindSpec& spec,
               const ListenerOptions& options, const std::string& where) {
    if (Status status = set_permissions(aside, spec, options, where); !status) return status;
    if (::listen(fd, options.backlog) != 0) return failed(errno, "listen", where);
    if (aside != spec.path && ::rename(aside.c_str(), spec.path.c_str()) != 0)
        return failed(errno, "rename", where);
    return {};
}

Result<Fd> open_unix(const BindSpec& spec, const ListenerOptions& options) {
    const std::string where = "unix:" + spec.path;
    if (spec.path.size() > kUnixPathMax) return failed(ENAMETOOLONG, "bind", where);
    const std::string aside = aside_path(spec.path);
    if (Result<bool> exists = socket_exists(spec.path, where); !exists) return exists.error();
    // Left behind by a server that died between bind and rename.
    const Result<bool> is_stale = socket_exists(aside, where);
    if (!is_stale) return is_stale.error();
    if (*is_stale && ::unlink(aside.c_str()) != 0) return failed(errno, "unlink", where);
    Fd fd = open_socket(AF_UNIX, SOCK_STREAM);
    if (!fd) return failed(errno, "socket", where);
    const SocketAddress address = *unix_socket_address(aside);
    if (::bind(fd.get(), address.raw(), address.size) != 0) return failed(errno, "bind", where);
    if (Status status = publish(fd.get(), aside, spec, options, where); !status) {
        ::unlink(aside.c_str());
        return status.error();
    }
    return fd;
}

// --- common ---

/// The kernel's idea of a socket's own address; for a unix one the name it was bound to.
Result<Address> own_address(int fd, const std::string& where) {
    Address address;
    address.size = sizeof address.storage;
    if (::getsockname(fd, address.raw(), &address.size) != 0)
        return failed(errno, "getsockname", where);
    return address;
}

/// What open() would need to make the socket at `address`.
BindSpec spec_of(const Address& address) {
    BindSpec spec;
    if (address.is_unix()) {
        spec.kind = BindSpec::Kind::Unix;
        spec.path = published_path(address.host());
    } else {
        spec.host = address.host();
        spec.port = static_cast<uint16_t>(parse_decimal(address.port()).value_or(0));
    }
    return spec;
}

/// Errors of accept(2) that concern the one connection, not the listener: accept(2) "Error
/// handling" wants those of the network layer retried. EPERM is not among them: what forbids the
/// call (seccomp, a security module) leaves the connection in the queue.
AcceptStatus classify(int error) {
    switch (error) {
        case EAGAIN:
#if EWOULDBLOCK != EAGAIN
        case EWOULDBLOCK:
#endif
            return AcceptStatus::Nothing;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM: return AcceptStatus::OutOfResources;
        case EINTR:
        case ECONNABORTED:
        case EPROTO:
        case ENOPROTOOPT:
        case ENETDOWN:
        case ENETUNREACH:
        case EHOSTDOWN:
        case EHOSTUNREACH:
#ifdef ENONET
        case ENONET:
#endif
        case ETIMEDOUT:
        case EOPNOTSUPP: return AcceptStatus::Aborted;
        default: return AcceptStatus::Failed;
    }
}

}  // namespace

Listener::Listener(Fd fd, BindSpec spec, Address address, bool is_tls)
    : fd_(std::move(fd)), spec_(std::move(spec)), address_(address) {
    if (is_unix()) {
        // The kernel may report the aside name; abstract names are kept as they are.
        if (spec_.path != address_.host()) address_ = Address{*unix_socket_address(spec_.path)};
        server_name_ = spec_.path;
        name_ = "unix:" + spec_.path;
        return;
    }
    server_name_ = address_.host();
    server_port_ = address_.port();
    name_ = (is_tls ? "https://" : "http://") + address_.text();
}

Result<std::unique_ptr<Listener>> Listener::open(const BindSpec& spec,
                                                 const ListenerOptions& options) {
    if (spec.kind == BindSpec::Kind::Fd) {
        Result<std::unique_ptr<Listener>> adopted = adopt(spec.fd, Origin::Supervisor, options);
        if (adopted) (*adopted)->spec_ = spec;
        return adopted;
    }
    const bool is_unix = spec.kind == BindSpec::Kind::Unix;
    Result<Fd> fd = is_unix ? open_unix(spec, options) : open_tcp(spec, options);
    if (!fd) return fd.error();
    Result<Address> address = own_address(fd->get(), spec.log_text());
    if (!address) return address.error();
    std::unique_ptr<Listener> listener(new Listener(  // lint: its constructor is private
        std::move(*fd), spec, *address, options.is_tls));
    if (is_unix) listener->remember_file();
    listener->is_shared_ = is_unix || !options.reuse_port;
    return listener;
}

void Listener::close() {
    if (!is_shared_) ::shutdown(fd_.get(), SHUT_RDWR);
    fd_.reset();
}

Result<std::unique_ptr<Listener>> Listener::adopt(int fd, Origin origin,
                                                  const ListenerOptions& options) {
    const std::string where = "fd://" + std::to_string(fd);
    int type = 0;
    socklen_t size = sizeof type;
    if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0)
        return failed(errno, "adopt", where);
    if (type != SOCK_STREAM) return failed(EPROTOTYPE, "adopt", where);
    Result<Address> address = own_address(fd, where);
    if (!address) return address.error();
    // vsock(7), say: its peers have no address that could be trusted, logged, or shown to anybody.
    if (!address->is_unix() && address->family() != AF_INET && address->family() != AF_INET6)
        return failed(EAFNOSUPPORT, "adopt", where);
    // From a unit with Accept=yes. listen(2) would only say "Invalid argument".
    Address peer;
    peer.size = sizeof peer.storage;
    if (::getpeername(fd, peer.raw(), &peer.size) == 0) return failed(EISCONN, "adopt", where);
    if (Status status = add_descriptor_flags(fd, where); !status) return status.error();
    if (!address->is_unix()) set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (::listen(fd, options.backlog) != 0) return failed(errno, "listen", where);
    std::unique_ptr<Listener> listener(new Listener(  // lint: its constructor is private
        Fd(fd), spec_of(*address), *address, options.is_tls));
    if (origin == Origin::Predecessor && listener->is_unix()) listener->remember_file();
    return listener;
}

Status Listener::listen(int backlog) const {
    if (::listen(fd(), backlog) != 0) return failed(errno, "listen", name_);
    return {};
}

Accepted Listener::accept() const {
    Accepted result;
    result.peer.size = sizeof result.peer.storage;
#ifdef __linux__
    result.fd.reset(
        ::accept4(fd(), result.peer.raw(), &result.peer.size, SOCK_CLOEXEC | SOCK_NONBLOCK));
#else
    result.fd.reset(::accept(fd(), result.peer.raw(), &result.peer.size));
#endif
    if (!result.fd) {
        result.error = errno;
        result.status = classify(result.error);
        return result;
    }
    result.status = AcceptStatus::Connection;
#ifndef __linux__
    if (Status status = add_descriptor_flags(result.fd.get(), name_); !status) {
        result.status = AcceptStatus::Aborted;
        result.error = status.error().code;
        result.fd.reset();
    } else if (!is_unix()) {
        set_option(result.fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    }
#endif
    return result;
}

void Listener::remember_file() {
    struct stat info {};
    if (::lstat(spec_.path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
    file_device_ = info.st_dev;
    file_inode_ = info.st_ino;
}

/// Whether the socket file that is ours is still at its path.
bool Listener::has_file() const {
    struct stat info {};
    return file_inode_ != 0 && ::lstat(spec_.path.c_str(), &info) == 0 &&
           info.st_dev == file_device_ && info.st_ino == file_inode_;
}

bool Listener::is_reachable() const {
    struct stat info {};
    return file_inode_ == 0 || ::lstat(spec_.path.c_str(), &info) == 0 || errno != ENOENT;
}

Status Listener::change_permissions(const BindSpec& spec, const ListenerOptions& options) const {
    return has_file() ? set_permissions(spec_.path, spec, options, name_) : Status();
}

Status Listener::unlink_if_deserted() {
    if (file_inode_ == 0) return {};
    const Fd probe = open_socket(AF_UNIX, SOCK_STREAM);
    const SocketAddress address = *unix_socket_address(spec_.path);
    const bool is_deserted =
        probe && ::connect(probe.get(), address.raw(), address.size) != 0 && errno == ECONNREFUSED;
    return is_deserted ? unlink_path() : Status();
}

Status Listener::unlink_path() {
    const bool is_ours = has_file();
    file_inode_ = 0;
    if (is_ours && ::unlink(spec_.path.c_str()) != 0 && errno != ENOENT)
        return failed(errno, "unlink", name_);
    return {};
}

}  // namespace gcorn
