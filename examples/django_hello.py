"""A whole Django project in one file: ./gcorn -w 2 -b :8000 --chdir examples django_hello:app"""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for this example: nothing here is signed",
)


def index(request):
    return HttpResponse("Hello from Django on gcorn!\n", content_type="text/plain")


urlpatterns = [path("", index)]
app = get_wsgi_application()
