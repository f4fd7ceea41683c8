#include "python/tls.h"

#include <utility>

#include "python/config_file.h"
#include "python/embedded.h"
#include "python/interpreter.h"

namespace gcorn {

/// Freed under the GIL.
struct TlsContext {
    PyRef context;      ///< ssl.SSLContext
    PyRef memory_bio;   ///< ssl.MemoryBIO
    PyRef want_read;    ///< ssl.SSLWantReadError
    PyRef zero_return;  ///< ssl.SSLZeroReturnError: the peer sent close_notify
    PyRef peer_info;    ///< PeerInfo of tls.py
    bool suppresses_ragged_eofs = true;

    ~TlsContext() {
        for (PyRef* reference : {&context, &memory_bio, &want_read, &zero_return, &peer_info})
            drop_reference(std::move(*reference));
    }
};

namespace {

/// A TLS record carries at most this many bytes (RFC 8446 §5.1). Everything goes in and out in
/// pieces of this size, because a MemoryBIO never frees memory that it once needed.
constexpr size_t kRecordBytes = 16 * 1024;
/// Its overhead: less than 30 bytes today, 85 with the block ciphers of TLS 1.2.
constexpr size_t kRecordOverheadMax = 96;

PyRef as_bytes(std::string_view bytes) {
    return PyRef::steal(
        PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

class TlsTransform final : public ByteTransform {
public:
    TlsTransform(std::shared_ptr<const TlsContext> tls, PyRef incoming, PyRef outgoing,
                 PyRef object)
        : tls_(std::move(tls)),
          incoming_(std::move(incoming)),
          outgoing_(std::move(outgoing)),
          object_(std::move(object)) {}

    ~TlsTransform() override {
        for (PyRef* reference : {&object_, &incoming_, &outgoing_, &info_})
            drop_reference(std::move(*reference));
    }

    Status feed(std::string_view wire, bool is_eof, std::string& plain) override {
        const WithGil gil;
        Status fed;
        do {
            const std::string_view piece = wire.substr(0, kRecordBytes);
            wire.remove_prefix(piece.size());
            fed = take(piece, is_eof, plain);
        } while (fed && !wire.empty());
        // Answers of the handshake, or the alert that says what was wrong.
        if (Status collected = collect(); fed && !collected) return collected;
        return fed;
    }

    Status write(std::string_view plain) override {
        const WithGil gil;
        const size_t records = plain.size() / kRecordBytes + 1;
        wire_.reserve(wire_.size() + plain.size() + records * kRecordOverheadMax);
        // It is written to memory, so all of it is accepted.
        while (!plain.empty()) {
            const PyRef bytes = as_bytes(plain.substr(0, kRecordBytes));
            const PyRef taken = bytes ? call(object_.get(), "write", bytes.get()) : PyRef();
            if (!taken) return python_error("TLS");
            plain.remove_prefix(PyLong_AsSize_t(taken.get()));
            if (Status collected = collect(); !collected) return collected;
        }
        return {};
    }

    void drain(std::string& wire) override {
        if (wire.empty())
            wire.swap(wire_);
        else
            wire += wire_;
        wire_.clear();
    }

    [[nodiscard]] bool is_open() const override { return is_open_; }
    [[nodiscard]] bool is_ended() const override { return is_ended_; }
    [[nodiscard]] void* peer_info() const override { return info_.get(); }

    void close() override {
        if (!is_open_) return;
        const WithGil gil;
        // Sends our close_notify. SSLWantReadError asks to wait for the peer's, which we do not.
        if (!call(object_.get(), "unwrap")) PyErr_Clear();
        (void)collect();
    }

private:
    static PyRef call(PyObject* object, const char* method, PyObject* argument = nullptr) {
        const PyRef name = PyRef::steal(PyUnicode_InternFromString(method));
        if (!name) return {};
        return PyRef::steal(argument == nullptr
                                ? PyObject_CallMethodNoArgs(object, name.get())
                                : PyObject_CallMethodOneArg(object, name.get(), argument));
    }

    Status take(std::string_view wire, bool is_eof, std::string& plain) {
        const PyRef bytes = as_bytes(wire);
        if (!bytes || !call(incoming_.get(), "write", bytes.get())) return python_error("TLS");
        if (is_eof && !call(incoming_.get(), "write_eof")) return python_error("TLS");
        if (!is_open_) {
            if (!call(object_.get(), "do_handshake")) return wants_more("TLS handshake", false);
            is_open_ = true;
            info_ = PyRef::steal(PyObject_CallOneArg(tls_->peer_info.get(), object_.get()));
            if (!info_) return python_error("TLS handshake");
        }
        const PyRef size = number(kRecordBytes);
        while (!is_ended_) {
            const PyRef data = size ? call(object_.get(), "read", size.get()) : PyRef();
            if (!data) return wants_more("TLS", is_eof);
            plain += bytes_view(data.get());
            is_ended_ = PyBytes_GET_SIZE(data.get()) == 0;
        }
        return {};
    }

    /// Judges an exception of handshake or read: ok if it is no failure. Versions of ssl name an
    /// end without close_notify differently; once TCP has ended it can be nothing else.
    Status wants_more(const char* what, bool is_eof) {
        const auto is = [](const PyRef& type) { return PyErr_ExceptionMatches(type.get()) != 0; };
        const bool is_end = is(tls_->zero_return) || (is_eof && tls_->suppresses_ragged_eofs);
        if (!is(tls_->want_read) && !is_end) return python_error(what);
        is_ended_ = is_ended_ || is_end;
        PyErr_Clear();
        return {};
    }

    /// Moves output for the wire to where drain() finds it without the GIL.
    /// Fails only when out of memory; a peer that never gets these bytes would wait for them.
    Status collect() {
        const PyRef data = call(outgoing_.get(), "read");
        if (!data) return python_error("TLS");
        wire_ += bytes_view(data.get());
        return {};
    }

    std::shared_ptr<const TlsContext> tls_;
    PyRef incoming_, outgoing_;  ///< ssl.MemoryBIO
    PyRef object_;               ///< ssl.SSLObject
    PyRef info_;                 ///< PeerInfo, once open
    std::string wire_;           ///< not drained yet
    bool is_open_ = false;
    bool is_ended_ = false;
};

/// Raises.
PyRef make_ssl_context(const Config& cfg, const PyRef& make) {
    const PyRef hook = object_of(cfg.ssl_context);
    const auto none = PyRef::borrow(Py_None);
    const auto text = [](const std::string& value) {
        return value.empty() ? PyRef::borrow(Py_None) : path_str(value);
    };
    const PyRef view = hook ? make_config_view(cfg) : PyRef::borrow(Py_None);
    return call_object(make, view, hook ? hook : none, boolean(cfg.suppress_ragged_eofs),
                       text(cfg.certfile), text(cfg.keyfile), text(cfg.ca_certs),
                       number(cfg.cert_reqs), text(cfg.ciphers));
}

std::string files_of(const Config& cfg) {
    std::string text = "cannot set up TLS with certfile '" + cfg.certfile + "'";
    if (!cfg.keyfile.empty()) text += ", keyfile '" + cfg.keyfile + "'";
    if (!cfg.ca_certs.empty()) text += ", ca_certs '" + cfg.ca_certs + "'";
    if (!cfg.ciphers.empty()) text += ", ciphers '" + cfg.ciphers + "'";
    return text;
}

}  // namespace

Result<std::shared_ptr<TlsContext>> make_tls_context(const Config& cfg) {
    if (!cfg.is_tls()) return std::shared_ptr<TlsContext>();
    const WithGil gil;
    const PyRef names = run_embedded("tls");
    if (!names) return python_error("cannot set up TLS");
    auto tls = std::make_shared<TlsContext>();
    const PyRef refusal = name_in(names, "Refusal");
    if (refusal) tls->context = make_ssl_context(cfg, name_in(names, "make_context"));
    if (refusal && !tls->context && PyErr_ExceptionMatches(refusal.get()) != 0)
        return Error{1, take_error_sentence()};
    if (!tls->context) return python_error(files_of(cfg));
    tls->peer_info = name_in(names, "PeerInfo");
    tls->memory_bio = import("ssl", "MemoryBIO");
    tls->want_read = import("ssl", "SSLWantReadError");
    tls->zero_return = import("ssl", "SSLZeroReturnError");
    tls->suppresses_ragged_eofs = cfg.suppress_ragged_eofs;
    if (!tls->memory_bio || !tls->want_read || !tls->zero_return)
        return python_error("cannot set up TLS");
    return tls;
}

TransformMaker tls_transform_maker(std::shared_ptr<TlsContext> context) {
    if (context == nullptr) return {};
    return [tls = std::move(context)]() -> Result<std::unique_ptr<ByteTransform>> {
        const WithGil gil;
        PyRef incoming = PyRef::steal(PyObject_CallNoArgs(tls->memory_bio.get()));
        PyRef outgoing = PyRef::steal(PyObject_CallNoArgs(tls->memory_bio.get()));
        if (!incoming || !outgoing) return python_error("cannot make a TLS connection");
        PyRef object = PyRef::steal(PyObject_CallMethod(tls->context.get(), "wrap_bio", "OOi",
                                                        incoming.get(), outgoing.get(), 1));
        if (!object) return python_error("cannot make a TLS connection");
        return std::unique_ptr<ByteTransform>(std::make_unique<TlsTransform>(
            tls, std::move(incoming), std::move(outgoing), std::move(object)));
    };
}

Status TlsContexts::use(const Config& cfg, Logger& log) {
    Entry wanted{.settings = {cfg.certfile, cfg.keyfile, cfg.ca_certs, cfg.ciphers,
                              std::to_string(cfg.cert_reqs),
                              std::to_string(static_cast<int>(cfg.suppress_ragged_eofs))},
                 .hook = cfg.ssl_context.object.get(),
                 .context = nullptr};
    Result<std::shared_ptr<TlsContext>> made = make_tls_context(cfg);
    if (made) {
        wanted.context = std::move(*made);
    } else {
        const bool was_good = before_.context != nullptr && before_ == wanted;
        if (!was_good || in_force_ == wanted) return made.error();
        log.error("%s; the previous certificates stay in use", made.message().c_str());
        wanted.context = before_.context;
    }
    before_ = std::exchange(in_force_, std::move(wanted));
    return {};
}

}  // namespace gcorn
