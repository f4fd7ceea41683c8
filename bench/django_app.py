"""Django's hello, as bench/run measures it: no middleware, no templates, no database."""
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__, SECRET_KEY="bench", ALLOWED_HOSTS=["*"], DEBUG=False, MIDDLEWARE=[]
)
urlpatterns = [path("", lambda request: HttpResponse("Hello, World!"))]
app = get_wsgi_application()
