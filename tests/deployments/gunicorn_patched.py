"""gunicorn's configuration where gevent workers and --preload meet: patch before anything else."""

from gevent import monkey

monkey.patch_all()
