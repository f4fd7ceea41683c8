R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""TLS: the context from the settings or the ssl_context hook, and what gunicorn.socket shows of a
connection."""

import os
import ssl
import stat


class Refusal(Exception):
    """A whole sentence about a setting or its file. Raised for the commonest mistakes before
    OpenSSL words them ("[SSL] PEM lib")."""


def check_pem(setting, path, has_certificate, has_key):
    what = "%s '%s'" % (setting, path)
    try:
        # OpenSSL reads it after us, and again on HUP; a FIFO without a writer would block us.
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise Refusal(what + " is a pipe, but is read more than once: store it in a file")
        with open(path, "rb") as file:
            text = file.read(1 << 20)  # the rest is left to OpenSSL to judge
    except OSError as error:
        raise Refusal("%s: %s" % (what, error.strerror)) from None
    if b"-----BEGIN " not in text:
        raise Refusal(what + " is not in PEM format")
    # "CERTIFICATE-----" and "TRUSTED CERTIFICATE-----"; every kind of key has these words.
    if has_certificate and b"CERTIFICATE-----" not in text:
        raise Refusal(what + " holds no certificate")
    if has_key and b"PRIVATE KEY-----" not in text:
        raise Refusal(what + " holds no private key"
                      + (", and keyfile is not set" if has_certificate else ""))
    # "BEGIN ENCRYPTED PRIVATE KEY" (RFC 7468 §11), or the older "Proc-Type: 4,ENCRYPTED".
    if has_key and b"ENCRYPTED" in text:
        raise Refusal(what + " needs a passphrase, which a server cannot ask for: store the key "
                             "without one, or load it in an ssl_context hook")


def check_files(certfile, keyfile, ca_certs, cert_reqs, ciphers):
    if not certfile:
        raise Refusal("keyfile is set, but certfile is not")
    if cert_reqs and not ca_certs:
        raise Refusal("cert_reqs asks for client certificates: set ca_certs to verify them")
    check_pem("certfile", certfile, True, not keyfile)
    if keyfile:
        check_pem("keyfile", keyfile, False, True)
    if ca_certs:
        check_pem("ca_certs", ca_certs, True, False)


def default_context(certfile, keyfile, ca_certs, cert_reqs, ciphers):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_certs)
    # The empty password keeps OpenSSL from asking for one on the terminal: a server that waits for a
    # passphrase serves nobody.
    context.load_cert_chain(certfile=certfile, keyfile=keyfile, password="")
    context.verify_mode = cert_reqs
    context.options |= ssl.OP_NO_RENEGOTIATION
    if ciphers:
        context.set_ciphers(ciphers)
    context.set_alpn_protocols(["http/1.1"])
    return context


def make_context(config, hook, suppress_ragged_eofs, *settings):
    if hook is None:  # else it is up to the hook whether to use the settings
        check_files(*settings)
        context = default_context(*settings)
    else:
        context = hook(config, lambda: default_context(*settings))
        if not isinstance(context, ssl.SSLContext):
            raise TypeError("ssl_context hook must return an ssl.SSLContext, not %r" % (context,))
        # A context made by create_default_context() without a purpose would fail at each
        # connection. Some versions of Python say so below, others complain about a missing
        # server_hostname.
        if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise TypeError("ssl_context hook must return a context for servers "
                            "(ssl.Purpose.CLIENT_AUTH), not one of PROTOCOL_TLS_CLIENT")
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    if not suppress_ragged_eofs:
        # Some versions of Python set this by default if OpenSSL 3 has it.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return context


class PeerInfo:
    """What an ssl.SSLSocket tells about its peer; read once: the SSLObject belongs to the loop."""

    def __init__(self, connection):
        self._der = connection.getpeercert(True)
        self._certificate = connection.getpeercert() if self._der else None
        self._cipher = connection.cipher()
        self._version = connection.version()
        self._alpn = connection.selected_alpn_protocol()
        self.session_reused = connection.session_reused
        self.server_side = True

    def getpeercert(self, binary_form=False):
        return self._der if binary_form else self._certificate

    def cipher(self):
        return self._cipher

    def version(self):
        return self._version

    def selected_alpn_protocol(self):
        return self._alpn
# )PY"
