"""A Flask application: ./gcorn -w 2 -b :8000 --chdir examples flask_hello:app"""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return "Hello from Flask on gcorn!\n"


@app.get("/greet/<name>")
def greet(name):
    return {"hello": name}
