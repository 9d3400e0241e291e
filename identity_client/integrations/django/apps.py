from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register

from .checks import check_deployment, check_settings


class IdentityClientConfig(AppConfig):
    """The app; it starts nothing, because `ready` runs in every management command."""

    name = "identity_client.integrations.django"
    label = "identity_client"

    def ready(self) -> None:
        register(check_settings, "identity_client")
        register(check_deployment, Tags.security, deploy=True)
