# A logger class that keeps health checks out of the access log, and no version in Server.
import logging

import gunicorn
from gunicorn import glogging

gunicorn.SERVER_SOFTWARE = "web"
gunicorn.SERVER = "web"


class HealthCheckFilter(logging.Filter):
    def filter(self, record):
        return "GET /health" not in record.getMessage()


class CustomLogger(glogging.Logger):
    """Filters requests of the load balancer."""

    def setup(self, cfg):
        super().setup(cfg)
        logging.getLogger("gunicorn.access").addFilter(HealthCheckFilter())


accesslog = "-"
logger_class = CustomLogger
