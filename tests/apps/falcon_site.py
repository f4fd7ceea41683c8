"""Falcon: resources, media, streams, errors."""

import falcon


class Items:
    def on_get(self, req, resp, number):
        resp.media = {"number": number, "agent": req.user_agent}

    def on_put(self, req, resp, number):
        resp.status = falcon.HTTP_201
        resp.media = {"number": number, "put": req.media}

    def on_delete(self, req, resp, number):
        resp.status = falcon.HTTP_204


class Stream:
    def on_post(self, req, resp):
        data = req.bounded_stream.read()
        resp.content_type = "application/octet-stream"
        resp.stream = (data[i:i + 7] for i in range(0, len(data), 7))


class Refused:
    def on_get(self, req, resp):
        raise falcon.HTTPUnauthorized(title="no", challenges=["Basic"])


app = falcon.App()
app.add_route("/items/{number:int}", Items())
app.add_route("/stream", Stream())
app.add_route("/refused", Refused())
