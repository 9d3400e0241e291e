"""The readiness probe: ``path("", include("identity_client.integrations.django.urls"))``."""

from __future__ import annotations

from django.urls import URLPattern, path

from .views import IdentityHealthView

urlpatterns: list[URLPattern] = [
    path("health/identity", IdentityHealthView.as_view(), name="identity-health"),
]
