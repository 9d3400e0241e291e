"""What the public modules export is on the pages, all of it and nothing else.

Public classes say that they live in ``identity_client``; autodoc finds their source here.

The package loads its names lazily, so its ``__init__.py`` has no source of theirs. Without this,
autodoc would know neither the order of members nor the docstrings below attributes.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.logging import getLogger
from sphinx.util.nodes import make_refnode

import identity_client

_log = getLogger(__name__)

# Methods that docstrings name without their class.
_HOMES = ("identity_client.IdentityBootstrapService", "identity_client.IdentityBootstrapConfig")


def _analyze(_: Sphinx) -> None:
    sources = []
    for name in identity_client._MODULES:
        module = import_module(f"identity_client.{name}")
        sources.append(Path(module.__file__ or "").read_text(encoding="utf-8"))
    analyzer = ModuleAnalyzer.for_string("\n".join(sources), "identity_client")
    ModuleAnalyzer.cache["module", "identity_client"] = analyzer


@cache
def public_modules() -> tuple[ModuleType, ...]:
    """Return the public modules that say what they export; a missing extra fails the build."""
    modules = [identity_client]
    prefix = f"{identity_client.__name__}."
    for found in pkgutil.walk_packages(identity_client.__path__, prefix, _fail):
        if "._" not in found.name and ".cli" not in found.name:
            try:
                module = import_module(found.name)
            except ImportError:
                _fail(found.name)
            else:
                if hasattr(module, "__all__"):
                    modules.append(module)
    return tuple(modules)


def _fail(name: str) -> None:
    _log.warning("%s cannot be imported; the environment of the site needs its extra", name)


def _compare(_: Sphinx, env: BuildEnvironment) -> list[str]:
    names = env.domaindata["py"]["objects"]
    documented = {module: _documented_in(module, names) for module in public_modules()}
    objects = {id(getattr(module, name)) for module in documented for name in documented[module]}
    for module, found in documented.items():
        # What a module passes on from another one may be documented there.
        missing = [
            name
            for name in module.__all__
            if name not in found and id(getattr(module, name)) not in objects
        ]
        unknown = found - set(module.__all__)
        if missing or unknown:
            _log.warning("%s: not documented: %s", module.__name__, sorted(missing))
            _log.warning("%s: not exported: %s", module.__name__, sorted(unknown))
    return []


def _documented_in(module: ModuleType, names: Iterable[str]) -> set[str]:
    prefix = f"{module.__name__}."
    modules = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", ()))}
    found = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return {name for name in found if name.isidentifier() and name not in modules}


def _by_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Resolve a public name without its module, as docstrings and guides write it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    for home in (*(module.__name__ for module in public_modules()), *_HOMES):
        name = f"{home}.{target}"
        if found := env.domaindata["py"]["objects"].get(name):
            return make_refnode(
                app.builder, node["refdoc"], found.docname, found.node_id, contnode, name
            )
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _analyze)
    app.connect("env-updated", _compare)
    app.connect("missing-reference", _by_short_name)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
