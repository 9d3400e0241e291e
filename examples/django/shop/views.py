"""Orders: asks the inventory service, which requires an access token, what is in stock."""

import requests
from django.conf import settings
from django.http import JsonResponse

from identity_client.integrations.django import IdentityError, get_identity


def order(request, item):
    url = f"{settings.INVENTORY_URL}/items/{item}"
    try:
        response = requests.get(url, auth=get_identity().auth(), timeout=10)
        response.raise_for_status()
    except (IdentityError, requests.RequestException):
        problem = {"error": "the inventory is not available"}
        return JsonResponse(problem, status=503, headers={"Retry-After": "5"})
    return JsonResponse({"item": item, "can_be_delivered": response.json()["in_stock"] > 0})
