"""Draws the diagrams of the pages, each for light and dark: ``python docs/diagrams/draw.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
THEMES = {
    "light": {
        "text": "#1f2328",
        "soft": "#59636e",
        "line": "#59636e",
        "box": "#f6f8fa",
        "accent": "#0969da",
        "good": "#1a7f37",
        "warn": "#9a6700",
        "bad": "#cf222e",
    },
    "dark": {
        "text": "#e6edf3",
        "soft": "#9198a1",
        "line": "#9198a1",
        "box": "#1c2128",
        "accent": "#58a6ff",
        "good": "#3fb950",
        "warn": "#d29922",
        "bad": "#f85149",
    },
}


class Drawing:
    """Boxes, arrows and text on a transparent ground.

    Args:
        width: in pixels, and so with the other measures.
        height: the height.
        colours: the colours of the theme, by their purpose.
    """

    def __init__(self, width: int, height: int, colours: dict[str, str]) -> None:
        self._size = (width, height)
        self._colours = colours
        self._parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        colour: str = "text",
        size: int = 14,
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """Write lines of text, the first with its middle at a point."""
        weight = ' font-weight="600"' if bold else ""
        for number, line in enumerate(text.split("\n")):
            self._parts.append(
                f'<text x="{x:g}" y="{y + number * (size + 4) + size * 0.35:g}" '
                f'font-size="{size}" text-anchor="{anchor}" fill="{self._colours[colour]}"{weight}>'
                f"{escape(line)}</text>"
            )

    def box(
        self, x: float, y: float, width: float, height: float, text: str, *, colour: str = "line"
    ) -> None:
        """Draw a box with lines of text in its middle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" '
            f'fill="{self._colours["box"]}" stroke="{self._colours[colour]}" stroke-width="1.5"/>'
        )
        lines = text.count("\n")
        self.text(x + width / 2, y + height / 2 - lines * 9, text, colour="text")

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Draw a filled bar."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'fill="{self._colours[colour]}" fill-opacity="0.75"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> None:
        """Draw a line."""
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{self._colours["line"]}" '
            f'stroke-width="1.5" fill="none"{dashes}/>'
        )

    def arrow(self, *points: tuple[float, float], colour: str = "line") -> None:
        """Draw an arrow along some points."""
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        self._parts.append(
            f'<path d="M{path}" stroke="{self._colours[colour]}" stroke-width="1.5" fill="none" '
            f'marker-end="url(#{colour})"/>'
        )

    def svg(self, title: str) -> str:
        """Return the picture."""
        width, height = self._size
        markers = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8Z" fill="{colour}"/></marker>'
            for name, colour in self._colours.items()
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" '
            'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif">'
            f"<title>{escape(title)}</title><defs>{markers}</defs>{''.join(self._parts)}</svg>\n"
        )


def parts(drawing: Drawing) -> None:
    """Draw what the package is made of, and what talks to what."""
    drawing.text(110, 20, "caller threads", bold=True)
    for number in range(3):
        drawing.box(30, 44 + number * 46, 160, 34, "get_access_token()")
    drawing.box(290, 62, 170, 84, "token cache\none snapshot\none lock", colour="accent")
    for number in range(3):
        drawing.arrow((190, 61 + number * 46), (288, 84 + number * 20), colour="accent")
    drawing.text(240, 38, "read,\nor wait", colour="soft", size=12)
    drawing.box(560, 62, 170, 84, "worker\none daemon thread\nper process", colour="accent")
    drawing.arrow((558, 90), (462, 90), colour="accent")
    drawing.text(510, 78, "publish", colour="soft", size=12)
    drawing.arrow((462, 120), (558, 120))
    drawing.text(510, 134, "due", colour="soft", size=12)
    for number, (name, what) in enumerate(
        (
            ("credential store", "memory, file, Redis"),
            ("identity-api", "registers the service"),
            ("token endpoint", "Keycloak"),
        )
    ):
        x = 160 + number * 210
        drawing.box(x, 236, 180, 54, f"{name}\n{what}")
        drawing.arrow((600 + number * 45, 146), (600 + number * 45, 176 + number * 14),
                      (x + 90, 176 + number * 14), (x + 90, 234))  # fmt: skip


def states(drawing: Drawing) -> None:
    """Draw the states of a service."""
    drawing.box(20, 80, 120, 50, "PENDING")
    drawing.box(240, 80, 120, 50, "READY", colour="good")
    drawing.box(460, 80, 120, 50, "DEGRADED", colour="warn")
    drawing.box(680, 80, 140, 50, "UNAVAILABLE", colour="bad")
    drawing.box(20, 220, 120, 50, "FAILED", colour="bad")
    drawing.box(680, 220, 140, 50, "CLOSED")
    drawing.arrow((140, 105), (238, 105))
    drawing.text(189, 92, "first token", colour="soft", size=12)
    drawing.arrow((360, 95), (458, 95))
    drawing.text(409, 82, "refresh fails", colour="soft", size=12)
    drawing.arrow((458, 118), (362, 118))
    drawing.text(410, 132, "new token", colour="soft", size=12)
    drawing.arrow((580, 105), (678, 105))
    drawing.text(629, 92, "token expires", colour="soft", size=12)
    drawing.arrow((750, 78), (750, 30), (300, 30), (300, 78))
    drawing.text(525, 18, "new token", colour="soft", size=12)
    drawing.arrow((65, 130), (65, 218))
    drawing.text(58, 164, "attempts\nused up", colour="soft", size=12, anchor="end")
    drawing.arrow((95, 218), (95, 132))
    drawing.text(102, 174, "start()", colour="soft", size=12, anchor="start")
    drawing.arrow((300, 245), (678, 245))
    drawing.text(490, 232, "close(), from every state", colour="soft", size=12)


def life(drawing: Drawing) -> None:
    """Draw a token of 300 s, to scale."""
    left, scale, top = 30, 2.6, 70
    due, latest, usable, end = 243, 270, 290, 300

    def at(second: float) -> float:
        return left + second * scale

    drawing.bar(at(0), top, due * scale, 34, "good")
    drawing.bar(at(due), top, (latest - due) * scale, 34, "accent")
    drawing.bar(at(latest), top, (usable - latest) * scale, 34, "warn")
    drawing.bar(at(usable), top, (end - usable) * scale, 34, "bad")
    drawing.text(at(due / 2), top + 17, "fresh: returned without a lock")
    drawing.text(
        at((due + latest) / 2), top - 30, "the refresh is due\nat a random moment", size=12
    )
    drawing.text(at(0), top + 74, "requested", colour="soft", size=12, anchor="start")
    for second in (0, due, latest, usable, end):
        drawing.line(at(second), top + 34, at(second), top + (46 if second != usable else 62))
        drawing.text(at(second), top + (56 if second != usable else 72), f"{second} s", size=12)
    retries = (latest + usable) / 2
    drawing.line(at(retries), top + 34, at(retries), top + 84, dashed=True)
    drawing.text(at(retries), top + 94, "usable, while retries go on", colour="soft", size=12)
    drawing.text(at(end) + 8, top + 17, "expires", colour="soft", size=12, anchor="start")


def replicas(drawing: Drawing) -> None:
    """Draw the race of two replicas, without a shared store and with one."""
    alone = (
        (0, "register: secret 1", "line"),
        (1, "regenerate: secret 2", "line"),
        (0, "rejected: new secret 3", "bad"),
        (1, "rejected: new secret 4", "bad"),
        (0, "rejected: and so on", "bad"),
    )
    shared = (
        (0, "lock, register: secret 1", "good"),
        (0, "save secret 1, unlock", "good"),
        (1, "wait for the lock", "line"),
        (1, "load secret 1", "good"),
    )
    _sequence(drawing, 15, "memory: each replica by itself", "identity-api", alone)
    _sequence(drawing, 465, "a shared store", "identity-api, store", shared)
    drawing.text(660, 318, "both have a token", size=13, colour="good", bold=True)


def _sequence(
    drawing: Drawing, left: int, title: str, middle: str, steps: tuple[tuple[int, str, str], ...]
) -> None:
    columns = (left + 30, left + 195, left + 360)
    drawing.text(columns[1], 18, title, bold=True)
    for x, name in zip(columns, ("replica A", middle, "replica B"), strict=True):
        drawing.text(x, 48, name, size=13)
        drawing.line(x, 62, x, 300, dashed=True)
    for number, (side, text, colour) in enumerate(steps):
        x, y = columns[2 * side], 98 + 46 * number
        drawing.arrow((x, y), (columns[1], y), colour=colour)
        drawing.text((x + columns[1]) / 2, y - 12, text, size=12)


DIAGRAMS = {
    "parts": (parts, 800, 305, "The parts of the package"),
    "states": (states, 840, 290, "The states of a service"),
    "life": (life, 880, 175, "The life of a token of 300 seconds"),
    "replicas": (replicas, 880, 335, "Two replicas, without and with a shared store"),
}


def main(folder: Path) -> None:
    for name, (draw, width, height, title) in DIAGRAMS.items():
        for theme, colours in THEMES.items():
            drawing = Drawing(width, height, colours)
            draw(drawing)
            (folder / f"{name}-{theme}.svg").write_text(drawing.svg(title), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
