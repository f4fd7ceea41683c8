# Logs as one JSON-like line a record, access lines on a logger of their own.
workers = 1
accesslog = "-"
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(levelname)s|%(name)s|%(message)s", "class": "logging.Formatter"},
    },
    "handlers": {
        "error_file": {
            "class": "logging.FileHandler",
            "formatter": "line",
            "filename": "error.log",
        },
        "access_file": {
            "class": "logging.FileHandler",
            "formatter": "line",
            "filename": "access.log",
        },
    },
    "root": {"level": "WARNING", "handlers": ["error_file"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["error_file"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["access_file"], "propagate": False},
    },
}
