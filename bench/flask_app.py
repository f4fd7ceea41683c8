"""Flask's hello, as bench/run measures it."""
import flask

app = flask.Flask(__name__)
app.add_url_rule("/", "hello", lambda: "Hello, World!")
