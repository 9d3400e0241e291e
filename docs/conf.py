"""The site: Sphinx with furo. ``tox -e docs`` builds it, and a warning fails the build."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "identity-client"
author = "Xema"
project_copyright = "Xema"
version = release = version_of("xemahq-identity-client")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_llm_friendly",
    "door_modules",
    "generated",
    "readme_links",
]
exclude_patterns = ["_build", "identity-api.openapi.yaml"]

highlight_language = "text"  # of blocks that name none
nitpicky = True
default_role = "py:obj"
# What annotations name that no page documents: private types, and types of libraries.
_PRIVATE = [
    "AcceptedTokens",
    "Celery",
    "Change",
    "Clock",
    "Flask",
    "TimedPart",
    "TokenGetter",
    "TokenInvalidator",
    "TokenService",
]
_LIBRARIES = [
    "attr",
    "attrs",
    "celery",
    "click",
    "flask",
    "google",
    "grpc",
    "opentelemetry",
    "prometheus_client",
    "pytest",
    "redis",
    "requests",
    "rich",
    "starlette",
    "werkzeug",
]
_STANDARD = ["collections", "contextlib", "enum", "logging", "pathlib", "threading", "typing"]
nitpick_ignore_regex = [
    ("py:.*", r"_\w+|.*\._\w+.*"),
    ("py:class", rf"(.*\.)?({'|'.join(_PRIVATE)})"),
    ("py:.*", rf"({'|'.join([*_LIBRARIES, *_STANDARD])})\..*"),
]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"identity-client {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "source_repository": "https://github.com/xemahq/identity-client-python/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_exclude = ".linenos, .gp, .go"
pygments_style = "friendly"
pygments_dark_style = "monokai"

linkcheck_ignore = [r"http://(localhost|127\.0\.0\.1|identity-api|keycloak).*"]
