# Request timing and a worker that leaves when it has grown too large.
import resource
import time

MAX_KILOBYTES = 512 * 1024
max_requests = 10_000


def pre_request(worker, req):
    req.started = time.monotonic()
    worker.log.debug("%s %s", req.method, req.path)


def post_request(worker, req, environ, resp):
    took = time.monotonic() - req.started
    if took > 5:
        worker.log.warning("%s took %.1f s (%s)", req.uri, took, resp.status)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MAX_KILOBYTES:
        worker.alive = False
