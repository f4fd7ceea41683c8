import hashlib

from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt


def index(request):
    return HttpResponse("Django page for %s" % request.user)


@csrf_exempt
def upload(request):
    digest = hashlib.sha256()
    for block in request.FILES["file"].chunks():
        digest.update(block)
    return JsonResponse({"name": request.FILES["file"].name, "size": request.FILES["file"].size,
                         "sha256": digest.hexdigest(), "title": request.POST.get("title")})


def stream(request):
    return StreamingHttpResponse("line %d\n" % number for number in range(1000))


def download(request):
    return FileResponse(open(__file__, "rb"), as_attachment=True, filename="views.py")


def broken(request):
    raise ValueError("broken on purpose")
