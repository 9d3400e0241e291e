"""A Django project in the process of the tests; its settings are changed with override_settings."""

from __future__ import annotations

import sys
from types import ModuleType

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from identity_client.integrations.django import get_identity

SLOW = "/slow"


async def slow(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await get_identity().aget_access_token())


async def fast(request: HttpRequest) -> HttpResponse:
    return HttpResponse("no token is needed here")


urls = ModuleType("urls_of_the_tests")
urls.urlpatterns = [  # type: ignore[attr-defined]  # a module of its own
    path("slow", slow),
    path("fast", fast),
    path("", include("identity_client.integrations.django.urls")),
]
sys.modules[urls.__name__] = urls

settings.configure(
    ALLOWED_HOSTS=["testserver"],
    DATABASES={},
    INSTALLED_APPS=["identity_client.integrations.django"],
    ROOT_URLCONF=urls.__name__,
    SECRET_KEY="of-the-tests",
)
django.setup()
