"""The smallest WSGI application: ./gcorn -w 2 -b :8000 --chdir examples hello:app"""


def app(environ, start_response):
    body = b"Hello from gcorn!\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
