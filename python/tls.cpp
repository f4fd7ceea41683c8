#include "python/tls.h"

#include <utility>

#include "python/config_file.h"
#include "python/embedded.h"
#include "python/interpreter.h"

namespace gcorn {

struct TlsContext {
    PyRef connect;  ///< makes a Connection of tls.py
    ~TlsContext() { drop_reference(std::move(connect)); }
};

namespace {

constexpr size_t kRecordBytes = 16 * 1024;  // RECORD_BYTES of tls.py

/// A Connection of tls.py, and what of it is known without the GIL.
class TlsTransform final : public ByteTransform {
public:
    explicit TlsTransform(PyRef connection) : connection_(std::move(connection)) {}
    ~TlsTransform() override {
        drop_reference(std::move(connection_));
        drop_reference(std::move(info_));
    }

    Status feed(std::string_view wire, bool is_eof, std::string& plain) override {
        const WithGil gil;
        Status fed;
        for (bool goes_on = true; goes_on && fed;) {
            const bool was_open = is_open_;
            fed = take(next_record(wire), is_eof, plain);
            // What follows the handshake may have come with it.
            goes_on = !wire.empty() || was_open != is_open_;
        }
        collect();  // answers of the handshake, or the alert that says what was wrong
        return fed;
    }

    Status write(std::string_view plain) override {
        const WithGil gil;
        while (!plain.empty()) {
            if (!call("write", next_record(plain))) return python_error("TLS");
            collect();
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
        // Nobody waits for the peer's goodbye, which is what SSLWantReadError asks for.
        if (!call("close")) PyErr_Clear();
        collect();
    }

private:
    template <typename... Arguments>
    PyRef call(const char* method, const Arguments&... arguments) const {
        return call_object(attribute(connection_.get(), method), arguments...);
    }

    /// Takes as many bytes as fit a record off the front.
    static PyRef next_record(std::string_view& bytes) {
        const std::string_view piece = bytes.substr(0, kRecordBytes);
        bytes.remove_prefix(piece.size());
        return PyRef::steal(
            PyBytes_FromStringAndSize(piece.data(), static_cast<Py_ssize_t>(piece.size())));
    }

    Status take(const PyRef& wire, bool is_eof, std::string& plain) {
        const PyRef result = call("feed", wire, boolean(is_eof));
        PyObject *data = nullptr, *peer = nullptr;  // borrowed
        int is_ended = 0;
        if (!result || !PyArg_ParseTuple(result.get(), "SOp", &data, &peer, &is_ended))
            return python_error(is_open_ ? "TLS" : "TLS handshake");
        plain += bytes_view(data);
        is_ended_ = is_ended != 0;
        if (peer == Py_None || is_open_) return {};
        info_ = PyRef::borrow(peer);
        is_open_ = true;
        return {};
    }

    /// Keeps what goes on the wire where drain() finds it without the GIL.
    void collect() {
        const PyRef data = call("drain");
        if (data)
            wire_ += bytes_view(data.get());
        else
            PyErr_Clear();  // fails only without memory
    }

    PyRef connection_;
    PyRef info_;        ///< PeerInfo of tls.py, once open
    std::string wire_;  ///< not drained yet
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
    if (refusal) tls->connect = make_ssl_context(cfg, name_in(names, "make_context"));
    if (refusal && !tls->connect && PyErr_ExceptionMatches(refusal.get()) != 0)
        return Error{1, take_error_sentence()};
    if (!tls->connect) return python_error(files_of(cfg));
    return tls;
}

TransformMaker tls_transform_maker(std::shared_ptr<TlsContext> context) {
    if (context == nullptr) return {};
    return [tls = std::move(context)]() -> Result<std::unique_ptr<ByteTransform>> {
        const WithGil gil;
        PyRef connection = call_object(tls->connect);
        if (!connection) return python_error("cannot make a TLS connection");
        return std::unique_ptr<ByteTransform>(
            std::make_unique<TlsTransform>(std::move(connection)));
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
        log.error("%s; the certificates read before stay in use", made.message().c_str());
        wanted.context = before_.context;
    }
    before_ = std::exchange(in_force_, std::move(wanted));
    return {};
}

}  // namespace gcorn
