# gevent workers with a database driver that has to be told about greenlets.
worker_class = "gevent"
worker_connections = 500
workers = 4
bind = ":9000"


def do_post_fork(server, worker):
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()
    worker.log.info("Made Psycopg2 green")


post_fork = do_post_fork
