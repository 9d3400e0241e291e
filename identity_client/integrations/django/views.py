from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, JsonResponse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache

from .._shared import readiness
from ._identity import get_identity


@method_decorator([never_cache, login_not_required], name="dispatch")
class IdentityHealthView(View):
    """A readiness probe, which makes no request and shows no secret.

    503 before the first token, and when the service has failed for good; 200 otherwise, also in an
    outage. The state is in the JSON document.

    Attributes:
        strict: whether it is 503 as well when there is no usable token:
            ``IdentityHealthView.as_view(strict=True)``.
    """

    strict = False

    def get(self, request: HttpRequest) -> JsonResponse:  # noqa: ARG002  # Django's signature
        status, document = readiness(get_identity(), strict=self.strict)
        return JsonResponse(document, status=status)
