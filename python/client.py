R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""gunicorn.socket while it is still the server's (client_socket.py): the module `_gcorn_client`.

An application may look at its client's socket and have its response sent all the same: ask for
addresses and options, set a timeout, or watch by select() and MSG_PEEK whether the client is there.
"""

import select
import socket
from _socket import socket as Socket  # not gevent's or eventlet's: nothing here waits but recv()

LOOKS = frozenset((  # what is no use of the socket; recv is none with MSG_PEEK
    "family", "fileno", "getblocking", "getpeername", "getsockname", "getsockopt", "gettimeout",
    "proto", "recv", "setblocking", "setsockopt", "settimeout", "timeout", "type"))


class Watched(Socket):
    """A copy of the descriptor that ends with the request.

    The file behind it is the server's and must not block: a timeout is only remembered.
    """

    def __init__(self, fileno, take):
        super().__init__(fileno=fileno)
        self.take, self.wanted = take, None

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
    """A method that takes the socket when it is called: to have it, as hasattr() does, is no use yet.

    None for what a socket has besides. Raises AttributeError for the rest: asking for that, such as an
    SSL socket's method, is no use, either.
    """
    if callable(getattr(socket.socket if hasattr(socket.socket, name) else Socket, name)):
        return lambda *args, **kwargs: getattr(stand_in.__take__(), name)(*args, **kwargs)


def taken(fileno, watched=None):
    """The socket that the application takes: blocking, as libraries made for gunicorn expect.

    If it was looked at it keeps the number and the timeout that the application knows.
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
