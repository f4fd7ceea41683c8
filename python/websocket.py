R"PY("  # Python to an editor, a raw string to C++, which includes this file and skips this line.
"""environ["wsgi.websocket"], for gevent-websocket's worker class.

The package judges the request and speaks the protocol. It was written for gevent's own server; what
it uses of that is here.
"""

from logging import getLogger
from types import SimpleNamespace

from geventwebsocket.handler import WebSocketHandler


class Upgrade(WebSocketHandler):
    """A request that may become a WebSocket. Applications find it as `websocket.handler`."""

    def __init__(self, application, environ, server):  # without gevent's, which is for a connection
        self.application, self.environ, self.server = application, environ, server
        self.request_version = environ["SERVER_PROTOCOL"]
        self.socket = environ["gunicorn.socket"]  # not taken before it is used
        # Identifies the client in server.clients; on a unix socket it has no address.
        self.client_address = environ["REMOTE_ADDR"], environ.get("REMOTE_PORT", id(self))
        self.refusal = None

    @property
    def rfile(self):
        return self.socket.makefile("rb")

    def start_response(self, status, headers, exc_info=None):
        if status[:3] != "101":
            self.refusal = status, headers
            return
        lines = ["HTTP/1.1 " + status, *map(": ".join, headers), "\r\n"]
        self.socket.sendall("\r\n".join(lines).encode("latin-1"))


def wrap(application):
    """The application, called with a WebSocket where the client asks for one."""
    server = SimpleNamespace(application=application, clients={},
                             logger=getLogger("geventwebsocket.handler"))

    def with_websockets(environ, start_response):
        upgrade = Upgrade(application, environ, server)
        why = upgrade.upgrade_websocket()
        if hasattr(upgrade, "websocket"):
            try:
                upgrade.run_websocket()
            finally:
                upgrade.socket.close()
            return ()
        if upgrade.refusal:
            start_response(*upgrade.refusal)
            return [text.encode() for text in why]
        return application(environ, start_response)
    return with_websockets
# )PY"
