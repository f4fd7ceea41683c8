# Every GUNICORN_… variable becomes a setting: numbers arrive as text.
import os

for key, value in os.environ.items():
    if key.startswith("GUNICORN_") and key != "GUNICORN_CMD_ARGS":
        globals()[key.split("_", 1)[1].lower()] = value
