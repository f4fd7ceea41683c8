"""Flask: routing, forms, sessions, uploads, streams, files, errors."""

import hashlib
import io

from flask import (Flask, Response, abort, jsonify, redirect, request, send_file, session,
                   stream_with_context, url_for)

app = Flask(__name__)
app.secret_key = "test"


@app.get("/")
def index():
    return "<h1>index</h1>"


@app.get("/greet/<name>")
def greet(name):
    return jsonify(hello=name, query=request.args.get("q"))


@app.post("/form")
def form():
    return jsonify(sorted(request.form.items()))


@app.post("/json")
def take_json():
    return jsonify(got=request.get_json())


@app.post("/upload")
def upload():
    data = request.files["file"].read()
    return jsonify(name=request.files["file"].filename, size=len(data),
                   sha256=hashlib.sha256(data).hexdigest())


@app.get("/count")
def count():
    session["count"] = session.get("count", 0) + 1
    return str(session["count"])


@app.get("/stream")
def stream():
    def lines():
        for number in range(5):
            yield "%s line %d\n" % (request.path, number)
    return Response(stream_with_context(lines()), mimetype="text/plain")


@app.get("/file")
def file():
    return send_file(io.BytesIO(b"0123456789" * 1000), mimetype="application/octet-stream",
                     download_name="digits.bin", as_attachment=True)


@app.get("/source")
def source():
    return send_file(__file__, mimetype="text/x-python", conditional=True)


@app.get("/old")
def old():
    return redirect(url_for("index"))


@app.get("/forbidden")
def forbidden():
    abort(403)


@app.get("/broken")
def broken():
    raise ValueError("broken on purpose")
