R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""TLS: the context of the settings or of the ssl_context hook, and what gunicorn.socket shows of a
connection."""

import ssl


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
    if hook is None:
        context = default_context(*settings)
    else:
        context = hook(config, lambda: default_context(*settings))
        if not isinstance(context, ssl.SSLContext):
            raise TypeError("ssl_context hook must return an ssl.SSLContext, not %r" % (context,))
        # What create_default_context() makes without a purpose would fail at each connection. Some versions
        # of Python say so below, others that they miss a server_hostname.
        if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise TypeError("ssl_context hook must return a context for servers "
                            "(ssl.Purpose.CLIENT_AUTH), not one of PROTOCOL_TLS_CLIENT")
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    if not suppress_ragged_eofs:
        # Some versions of Python set this by themselves where OpenSSL 3 has it.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return context


class PeerInfo:
    """What an ssl.SSLSocket tells about its peer; taken once, for the SSLObject belongs to the loop."""

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
