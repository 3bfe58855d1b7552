"""Draws the rooms of the package and what they import: ``python docs/rooms.py`` writes ``docs/_static/rooms.svg``.

The rooms and their order are those of the table in ``CONTRIBUTING.md``, the arrows are the imports in the code. The
tests use the same functions to see that no import goes against the order, and that the picture is that of the code.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.sax.saxutils import escape

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / "trvae_scvi"
PICTURE = TOP / "docs" / "_static" / "rooms.svg"

_ROW = 34
_LEFT, _WIDTH = 300, 118
_FOUNDATIONS = 5  # single files at the top, which nearly every room imports


def rooms() -> list[str]:
    """Names of the rooms in the order of the table in CONTRIBUTING.md."""
    text = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| ((?:`[^`|]+`(?:, )?)+) \|", text, flags=re.M)
    names = re.findall(r"`([^`]+)`", " ".join(table))
    return [name.removesuffix(".py").rstrip("/") for name in names]


def room_of(file: Path) -> str:
    """The room that a file of the package belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """Rooms that a file imports from, anywhere in it and for whatever reason, its own among them."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".")
        if node.level:  # of the same room; of another one in the package's own `__init__`
            found.add(parts[0] if file.parent == PACKAGE and parts[0] else room_of(file))
        elif parts[0] == "trvae_scvi":
            found |= set(parts[1:2] or (alias.name for alias in node.names))
    return {"model" if name == "TRVAE" else name for name in found}


def files() -> list[Path]:
    """All files of the package but the two that say what a user sees of it."""
    return sorted(file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or file.name != "__init__.py")


def _purpose(room: str) -> str:
    folder = PACKAGE / room / "__init__.py"
    source = folder if folder.exists() else PACKAGE / f"{room}.py"
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").split("\n")[0]


def draw() -> str:
    """The picture: a row for every room, and an arrow from every room to those that it imports from."""
    names = rooms()
    middle = {name: 30 + _ROW * i for i, name in enumerate(names)}
    arrows = sorted({(room_of(file), target) for file in files() for target in imports(file)})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1180" height="{_ROW * len(names) + 30}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#4477aa"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for source, target in arrows:
        start, end = middle[source] - 4, middle[target] + 4
        if source == target:
            continue
        reach = _LEFT - 16 - 0.5 * (start - end)
        light = ' stroke-opacity="0.25"' if target in names[:_FOUNDATIONS] else ""
        parts.append(
            f'<path d="M{_LEFT},{start} C{reach:.0f},{start} {reach:.0f},{end} {_LEFT},{end}" fill="none" '
            f'stroke="#4477aa"{light} marker-end="url(#tip)"/>'
        )
    for name, y in middle.items():
        parts += [
            f'<rect x="{_LEFT}" y="{y - 12}" width="{_WIDTH}" height="24" rx="5" fill="#eef3f8" stroke="#4477aa"/>',
            f'<text x="{_LEFT + _WIDTH / 2:.0f}" y="{y + 5}" text-anchor="middle">{name}</text>',
            f'<text x="{_LEFT + _WIDTH + 12}" y="{y + 5}" fill="#444" font-size="12">{escape(_purpose(name))}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
