"""Bottle: routes, forms, cookies, static files, templates, generators."""

import os

from bottle import Bottle, request, response, static_file, template

app = Bottle()


@app.get("/hello/<name>")
def hello(name):
    return template("<b>Hello {{name}}</b>!", name=name)


@app.post("/form")
def form():
    return {"name": request.forms.get("name"), "file": len(request.files["f"].file.read())
            if "f" in request.files else None}


@app.get("/cookie")
def cookie():
    visits = int(request.get_cookie("visits", "0")) + 1
    response.set_cookie("visits", str(visits))
    return str(visits)


@app.get("/source")
def source():
    return static_file(os.path.basename(__file__), os.path.dirname(os.path.abspath(__file__)))


@app.get("/generate")
def generate():
    for number in range(3):
        yield "line %d\n" % number
