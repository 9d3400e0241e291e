"""README.rst is the site's first page, too: its absolute links lead to the pages of the site.

In README.rst a link has to be absolute, as package indexes show the page elsewhere. On the site it
is a reference to the page, so a link to a page or an anchor that is missing fails the build.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

REPOSITORY = "https://github.com/xemahq/identity-client-python"
PAGE = re.compile(rf"{REPOSITORY}/blob/main/(docs/)?(?P<page>[\w/-]+)\.rst(#(?P<anchor>.+))?$")
IMAGE = re.compile(
    r"https://raw\.githubusercontent\.com/xemahq/identity-client-python/main/docs/(.+)$"
)
# Files outside of docs/ that a page of the site includes.
INCLUDED = {"CHANGELOG": "changelog", "CONTRIBUTING": "development/contributing"}


class ReadmeLinks(SphinxTransform):
    """Turn links to this repository's pages into references, and its images into local files."""

    default_priority = 700  # after named references got their addresses

    def apply(self, **_: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            if found := IMAGE.match(image["uri"]):
                image["uri"] = f"/{found[1]}"
                figure = nodes.figure("", classes=["diagram"])  # scrolls on a phone
                image.replace_self(figure)
                figure += image
        for reference in list(self.document.findall(nodes.reference)):
            if found := PAGE.match(reference.get("refuri", "")):
                reference.replace_self(self._to_page(reference, found["page"], found["anchor"]))

    def _to_page(self, reference: nodes.reference, page: str, anchor: str | None) -> nodes.Node:
        page = INCLUDED.get(page, page)
        domain, kind, target = ("std", "doc", f"/{page}")
        if anchor:
            domain, kind, target = ("std", "ref", anchor)
        return pending_xref(
            "",
            nodes.inline("", reference.astext()),
            refdomain=domain,
            reftype=kind,
            reftarget=target,
            refdoc=self.env.docname,
            refexplicit=True,
            refwarn=True,
        )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(ReadmeLinks)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
