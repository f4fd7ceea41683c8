R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""gunicorn.socket while it is still the server's (client_socket.py): the module `_gcorn_client`.

An application may look at its client's socket and still have its response sent by the server: ask
for addresses and options, set a timeout, or watch by select() and MSG_PEEK whether the client is
there.
"""

import select
import socket
from _socket import socket as Socket  # not gevent's or eventlet's: only recv() waits here

LOOKS = frozenset((  # names that do not count as use; neither does recv with MSG_PEEK
    "family", "fileno", "getblocking", "getpeername", "getsockname", "getsockopt", "gettimeout",
    "proto", "recv", "setblocking", "setsockopt", "settimeout", "timeout", "type"))


class Watched(Socket):
    """A copy of the descriptor that ends with the request.

    The open file behind it is the server's and must not block, so a timeout is only remembered.
    """

    def __init__(self, copy, take):
        self.take, self.wanted = take, None
        super().__init__(-1, -1, -1, copy())  # the last step: what fails before it has no descriptor

    family = property(lambda self: socket.AddressFamily(Socket.family.__get__(self)))
    type = property(lambda self: socket.SocketKind(Socket.type.__get__(self)))
    timeout = property(lambda self: self.wanted)

    def gettimeout(self):
        return self.wanted

    def getblocking(self):
        return self.wanted != 0

    def settimeout(self, value):
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self.wanted = value

    def setblocking(self, flag):
        self.wanted = None if flag else 0.0

    def recv(self, size, flags=0):
        if not flags & socket.MSG_PEEK:
            return self.take().recv(size, flags)
        while True:
            try:
                return super().recv(size, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self.wanted == 0 or flags & socket.MSG_DONTWAIT:
                    raise
            if not select.select([self.fileno()], [], [], self.wanted)[0]:
                raise TimeoutError("timed out")


def method(stand_in, name):
    """A method that takes the socket when called: merely getting it, as hasattr() does, is not use.

    None for a socket's other attributes. Raises AttributeError for anything else: asking for that,
    such as an SSL socket's method, is not use, either.
    """
    if callable(getattr(socket.socket if hasattr(socket.socket, name) else Socket, name)):
        return lambda *args, **kwargs: getattr(stand_in.__take__(), name)(*args, **kwargs)


def taken(fileno, watched=None):
    """The socket that the application takes: blocking, as libraries written for gunicorn expect.

    If the application has looked at it, it keeps the descriptor and the timeout that the
    application knows.
    """
    wanted = None
    if watched is not None:
        fileno, wanted = watched.detach(), watched.wanted
    result = socket.socket(fileno=fileno)
    result.setblocking(True)
    if wanted is not None:
        result.settimeout(wanted)
    return result
# )PY"
