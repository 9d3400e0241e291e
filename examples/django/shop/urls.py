from django.urls import include, path

from . import views

urlpatterns = [
    path("orders/<item>", views.order),
    path("", include("identity_client.integrations.django.urls")),
]
