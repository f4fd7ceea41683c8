"""python -m django_site.prepare: makes the tables and the user admin/secret in DJANGO_HOME."""

import os

import django
from django.core.management import call_command

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_site.settings")
django.setup()
call_command("migrate", run_syncdb=True, verbosity=0)
from django.contrib.auth.models import User  # noqa: E402  (needs the set-up above)

User.objects.create_superuser("admin", "admin@example.com", "secret")
