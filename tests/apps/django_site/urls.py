from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import path, re_path

from django_site import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", views.index),
    path("upload", views.upload),
    path("stream", views.stream),
    path("download", views.download),
    path("broken", views.broken),
    re_path(r"^static/(?P<path>.*)$", serve, {"insecure": True}),
]
