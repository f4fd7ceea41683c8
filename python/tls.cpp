#include "python/tls.h"

#include <unistd.h>

#include <utility>

#include "python/config_file.h"
#include "python/interpreter.h"

namespace gcorn {

namespace {

/// Plain bytes of one SSLObject.read(): a TLS record carries at most 16 KiB (RFC 8446 §5.1).
constexpr Py_ssize_t kReadBytes = 16 * 1024;

/// What one context shares with all its connections. Freed under the GIL.
struct Tls {
    PyRef context;          ///< ssl.SSLContext
    PyRef memory_bio;       ///< ssl.MemoryBIO
    PyRef want_read;        ///< ssl.SSLWantReadError
    PyRef zero_return;      ///< ssl.SSLZeroReturnError: the peer said goodbye
    PyRef eof_error;        ///< ssl.SSLEOFError: the peer closed without saying goodbye
    bool suppresses_ragged_eofs = true;

    ~Tls() {
        for (PyRef* reference : {&context, &memory_bio, &want_read, &zero_return, &eof_error})
            drop_reference(std::move(*reference));
    }
};

/// The exception that is set, as a sentence; clears it.
Error python_error(const std::string& what) {
    const std::string text = take_error_text(/*with_traceback=*/false);
    return Error{0, what.empty() ? text : what + ": " + text};
}

PyRef as_bytes(std::string_view bytes) {
    return PyRef::steal(
        PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

class TlsTransform final : public ByteTransform {
public:
    TlsTransform(std::shared_ptr<const Tls> tls, PyRef incoming, PyRef outgoing, PyRef object)
        : tls_(std::move(tls)),
          incoming_(std::move(incoming)),
          outgoing_(std::move(outgoing)),
          object_(std::move(object)) {}

    ~TlsTransform() override {
        for (PyRef* reference : {&object_, &incoming_, &outgoing_})
            drop_reference(std::move(*reference));
    }

    Status feed(std::string_view wire, bool is_eof, std::string& plain) override {
        const WithGil gil;
        const PyRef bytes = as_bytes(wire);
        if (!bytes || !call(incoming_.get(), "write", bytes.get())) return python_error("TLS");
        if (is_eof && !call(incoming_.get(), "write_eof")) return python_error("TLS");
        if (!is_open_) {
            if (!call(object_.get(), "do_handshake")) return wants_more("TLS handshake");
            is_open_ = true;
        }
        for (;;) {
            const PyRef size = PyRef::steal(PyLong_FromSsize_t(kReadBytes));
            const PyRef data = size ? call(object_.get(), "read", size.get()) : PyRef();
            if (!data) return wants_more("TLS");
            const std::string_view got = bytes_view(data.get());
            if (got.empty()) return {};
            plain += got;
        }
    }

    Status write(std::string_view plain) override {
        const WithGil gil;
        // Into memory, so all of it is taken; SSLObject.write may still take a record at a time.
        while (!plain.empty()) {
            const PyRef bytes = as_bytes(plain);
            const PyRef taken = bytes ? call(object_.get(), "write", bytes.get()) : PyRef();
            if (!taken) return python_error("TLS");
            plain.remove_prefix(static_cast<size_t>(PyLong_AsSize_t(taken.get())));
        }
        return {};
    }

    void drain(std::string& wire) override {
        const WithGil gil;
        const PyRef data = call(outgoing_.get(), "read");
        if (data) wire += bytes_view(data.get());
        else PyErr_Clear();  // MemoryBIO.read fails only without memory
    }

    [[nodiscard]] bool is_open() const override { return is_open_; }

    void close() override {
        if (!is_open_) return;
        const WithGil gil;
        // Sends our close_notify; waiting for the peer's is what SSLWantReadError asks for.
        if (!call(object_.get(), "unwrap")) PyErr_Clear();
    }

private:
    static PyRef call(PyObject* object, const char* method, PyObject* argument = nullptr) {
        const PyRef name = PyRef::steal(PyUnicode_InternFromString(method));
        if (!name) return {};
        return PyRef::steal(argument == nullptr
                                ? PyObject_CallMethodNoArgs(object, name.get())
                                : PyObject_CallMethodOneArg(object, name.get(), argument));
    }

    /// An exception of handshake or read: only those that are no failure give ok.
    Status wants_more(const char* what) {
        const auto is = [](const PyRef& type) { return PyErr_ExceptionMatches(type.get()) != 0; };
        const bool is_ragged_eof = is(tls_->eof_error) && tls_->suppresses_ragged_eofs && is_open_;
        if (is(tls_->want_read) || is(tls_->zero_return) || is_ragged_eof) {
            PyErr_Clear();
            return {};
        }
        return python_error(what);
    }

    std::shared_ptr<const Tls> tls_;
    PyRef incoming_, outgoing_;  ///< ssl.MemoryBIO
    PyRef object_;               ///< ssl.SSLObject
    bool is_open_ = false;
};

class TlsFactory final : public TransformFactory {
public:
    explicit TlsFactory(std::shared_ptr<Tls> tls) : tls_(std::move(tls)) {}

    Result<std::unique_ptr<ByteTransform>> make() override {
        const WithGil gil;
        PyRef incoming = PyRef::steal(PyObject_CallNoArgs(tls_->memory_bio.get()));
        PyRef outgoing = PyRef::steal(PyObject_CallNoArgs(tls_->memory_bio.get()));
        if (!incoming || !outgoing) return python_error("cannot make a TLS connection");
        PyRef object = PyRef::steal(PyObject_CallMethod(
            tls_->context.get(), "wrap_bio", "OOi", incoming.get(), outgoing.get(), 1));
        if (!object) return python_error("cannot make a TLS connection");
        return std::unique_ptr<ByteTransform>(std::make_unique<TlsTransform>(
            tls_, std::move(incoming), std::move(outgoing), std::move(object)));
    }

private:
    std::shared_ptr<Tls> tls_;
};

// The default context, and the factory that the ssl_context hook may call. An empty password keeps
// OpenSSL from asking for one on the terminal: a server that waits for a passphrase serves nobody.
constexpr const char kContextSource[] = R"(
import ssl

def default_context(certfile, keyfile, ca_certs, cert_reqs, ciphers):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_certs)
    context.load_cert_chain(certfile=certfile, keyfile=keyfile, password="")
    context.verify_mode = cert_reqs
    if ciphers:
        context.set_ciphers(ciphers)
    context.set_alpn_protocols(["http/1.1"])
    return context

def make_context(config, hook, *settings):
    if hook is None:
        return default_context(*settings)
    context = hook(config, lambda: default_context(*settings))
    if not isinstance(context, ssl.SSLContext):
        raise TypeError("ssl_context hook must return an ssl.SSLContext, not %r" % (context,))
    return context
)";

PyRef text_or_none(const std::string& text) {
    if (text.empty()) return PyRef::borrow(Py_None);
    return path_str(text);
}

/// Raises.
PyRef make_context(const Config& cfg) {
    const PyRef names = PyRef::steal(PyDict_New());
    if (!names || PyDict_SetItemString(names.get(), "__builtins__", PyEval_GetBuiltins()) < 0)
        return {};
    const PyRef done = PyRef::steal(
        PyRun_String(kContextSource, Py_file_input, names.get(), names.get()));
    if (!done) return {};
    PyObject* function = PyDict_GetItemString(names.get(), "make_context");  // borrowed
    const PyRef view = cfg.ssl_context ? make_config_view(cfg) : PyRef::borrow(Py_None);
    const PyRef certfile = text_or_none(cfg.certfile);
    const PyRef keyfile = text_or_none(cfg.keyfile);
    const PyRef ca_certs = text_or_none(cfg.ca_certs);
    const PyRef ciphers = text_or_none(cfg.ciphers);
    if (!view || !certfile || !keyfile || !ca_certs || !ciphers) return {};
    PyObject* hook =
        cfg.ssl_context ? static_cast<PyObject*>(cfg.ssl_context.object.get()) : Py_None;
    return PyRef::steal(PyObject_CallFunction(function, "OOOOOiO", view.get(), hook,
                                              certfile.get(), keyfile.get(), ca_certs.get(),
                                              static_cast<int>(cfg.cert_reqs), ciphers.get()));
}

/// The commonest mistakes, before OpenSSL words them ("[SSL] PEM lib").
Status check_files(const Config& cfg) {
    if (cfg.certfile.empty() && !cfg.ssl_context)
        return Error{1, "keyfile is set, but certfile is not"};
    const std::pair<const char*, const std::string*> files[] = {
        {"certfile", &cfg.certfile}, {"keyfile", &cfg.keyfile}, {"ca_certs", &cfg.ca_certs}};
    for (const auto& [setting, path] : files) {
        if (path->empty()) continue;
        if (::access(path->c_str(), R_OK) != 0)
            return errno_error(errno, std::string(setting) + " '" + *path + "'");
    }
    return {};
}

std::string files_of(const Config& cfg) {
    std::string text = "cannot set up TLS with certfile '" + cfg.certfile + "'";
    if (!cfg.keyfile.empty()) text += ", keyfile '" + cfg.keyfile + "'";
    if (!cfg.ca_certs.empty()) text += ", ca_certs '" + cfg.ca_certs + "'";
    if (!cfg.ciphers.empty()) text += ", ciphers '" + cfg.ciphers + "'";
    return text;
}

}  // namespace

Result<std::unique_ptr<TransformFactory>> make_tls_factory(const Config& cfg) {
    if (!cfg.is_tls()) return std::unique_ptr<TransformFactory>();
    if (Status files = check_files(cfg); !files) return files.error();
    const WithGil gil;
    auto tls = std::make_shared<Tls>();
    tls->context = make_context(cfg);
    if (!tls->context) return python_error(files_of(cfg));
    tls->memory_bio = import("ssl", "MemoryBIO");
    tls->want_read = import("ssl", "SSLWantReadError");
    tls->zero_return = import("ssl", "SSLZeroReturnError");
    tls->eof_error = import("ssl", "SSLEOFError");
    tls->suppresses_ragged_eofs = cfg.suppress_ragged_eofs;
    if (!tls->memory_bio || !tls->want_read || !tls->zero_return || !tls->eof_error)
        return python_error("cannot set up TLS");
    return std::unique_ptr<TransformFactory>(std::make_unique<TlsFactory>(std::move(tls)));
}

}  // namespace gcorn
