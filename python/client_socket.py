R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""gunicorn.socket: the module `_gcorn_client_socket`.

Client (environ.cpp) knows the request: _copy(), _detach() and _peer().
"""

from _gcorn_native import Client


class ClientSocket(Client):
    """A stand-in that becomes the client's socket when the application reads or writes it, or hands it on.

    Until then the connection stays the server's, even while it is looked at (client.py). A TLS
    connection is never given away, but offers getpeercert(), cipher(), version() and others like an
    ssl.SSLSocket.
    """

    __module__ = "gcorn"
    __slots__ = "_socket", "_watched", "_is_lent"

    def __getattr__(self, name):
        if name in ClientSocket.__slots__:  # not set yet
            return None
        if name.startswith("__"):  # repr, copy, isinstance and the like do not use the socket
            raise AttributeError(f"'gcorn.ClientSocket' object has no attribute '{name}'")
        peer = self._peer()
        if peer is not None and hasattr(peer, name):
            return getattr(peer, name)
        if self._socket is None:
            import _gcorn_client as client
            # Over TLS, peeking would only show ciphertext.
            if name in client.LOOKS and (name != "recv" or peer is None):
                watched = self._look(client)  # raises once the request is over
                self._is_lent = self._is_lent or name == "fileno"
                return getattr(watched, name)
            method = client.method(self, name)
            if method is not None:
                return method
        return getattr(self.__take__(), name)

    def __repr__(self):
        return "<gunicorn.socket, not taken>" if self._socket is None else repr(self._socket)

    def __take__(self):
        """The real socket, taken from the server."""
        if self._socket is None:
            self._detach(self._own)
        return self._socket

    def _own(self, fileno):
        """True: the descriptor is ours now."""
        import _gcorn_client as client
        watched, self._watched = self._watched, None
        self._socket = client.taken(fileno, watched)
        return watched is None

    def _look(self, client):
        """An object that shows the socket without taking it."""
        if self._watched is None:
            watched = client.Watched(self._copy, self.__take__)
            if self._watched is None:  # else another thread was faster
                self._watched = watched
        return self._watched

    def _take_lent(self):
        return bool(self._is_lent) and self.__take__() is not None

    def _end(self):
        """The request is over: closes the copy."""
        watched, self._watched, self._is_lent = self._watched, None, False
        if watched is not None:
            watched.close()
# )PY"
