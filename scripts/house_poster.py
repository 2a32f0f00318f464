"""Draws the rooms of mmjax and what imports what: docs/house.svg.

  python scripts/house_poster.py

Floors and arrows are read from the imports. An import that follows from a chain of arrows is not drawn, nor one of a
room's fields (`config.py`), which every room gives to `config`.
"""

import ast
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mmjax"
POSTER = ROOT / "docs" / "house.svg"
# Column, and what is in it.
ROOMS = {
    "cli": (1, "the commands"),
    "search": (0, "images of a folder by words"),
    "plugin": (2, "all that a plugin may import"),
    "plan": (1, "what a step costs elsewhere"),
    "inference": (0, "mmjax.load, eval, convert"),
    "training": (1, "loop, step, state, checkpoints"),
    "report": (1, "the page of a run"),
    "evaluation": (1, "evaluators, prompts, suites"),
    "interop": (0, "weights of other libraries"),
    "tasks": (1, "a model and its objectives"),
    "config": (1, "fields, recipes, overrides"),
    "models": (1, "towers, fusion, generation"),
    "nn": (1, "attention, transformer, pooling"),
    "objectives": (2, "losses: contrast, captions, ..."),
    "data": (0, "sources, decoding, tokens, order"),
    "parallel": (1.5, "mesh, partition, processes"),
    "metrics": (0, "ranks, top-1, CIDEr, in NumPy"),
    "plugin_imports": (2, "packages that register"),
    "io": (1, "paths, readers, locks"),
    "plugin_calls": (2, "whose fault an error is"),
    "utils": (1, "small data structures"),
    "registry": (2, "all names of a config"),
    "errors": (1, "a mistake in one line"),
}
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, ROOF = 210, 44, 34, 34, 40, 96
BUILDING = 3 * WIDTH + 2 * GAP_X + 2 * MARGIN
INK, SOFT, LINE, ACCENT = "#1b1f24", "#667080", "#c9d1dc", "#2f6fde"


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(text: str) -> set[str]:
    """What a file imports, by its full name, wherever in the file."""
    result = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            result |= {f"{node.module}.{alias.name}" for alias in node.names}
    return result


def is_fields(name: str) -> bool:
    """Whether what is imported is a room's `config.py` or another file of fields, or of one."""
    return re.match(r"mmjax(\.\w+)+\.(image_|text_|slot_|towers_)?config(\.\w+)?$", name) is not None


def read_imports() -> dict[str, set[str]]:
    """The rooms that each room imports, wherever in its files."""
    rooms: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        if room != "__init__":
            names = {name for name in imported_names(path.read_text()) if name.startswith("mmjax.")}
            rooms[room] |= {name.split(".")[1] for name in names if not is_fields(name)}
    return {room: others - {room, "__version__"} for room, others in rooms.items()}


def reachable(rooms: Mapping[str, set[str]], room: str) -> set[str]:
    """All rooms that a room imports, or rooms that it imports do."""
    return rooms[room].union(*(reachable(rooms, other) for other in rooms[room]))


def shortest(rooms: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports that follow from no others."""
    return {
        room: {other for other in others if not any(other in reachable(rooms, via) for via in others - {other})}
        for room, others in rooms.items()
    }


def floor(rooms: Mapping[str, set[str]], room: str) -> int:
    """One above the highest room that it imports."""
    return 1 + max((floor(rooms, other) for other in rooms[room]), default=-1)


def draw(rooms: Mapping[str, set[str]]) -> str:
    """The poster as the text of an SVG file."""
    arrows = shortest(rooms)
    floors = {room: floor(arrows, room) for room in arrows}
    top = max(floors.values())
    height = ROOF + (top + 1) * (HEIGHT + GAP_Y) + MARGIN
    corner = {
        room: (
            MARGIN + ROOMS[room][0] * (WIDTH + GAP_X),
            ROOF + (top - floors[room]) * (HEIGHT + GAP_Y) + GAP_Y // 2,
        )
        for room in arrows
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {BUILDING} {height + 44}" role="img"'
        ' font-family="system-ui, sans-serif" text-anchor="middle">',
        "<title>The rooms of mmjax; an arrow leads to what is imported</title>",
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0.6 7.4 4 0 7.4z" fill="{ACCENT}"/></marker></defs>',
        f'<rect width="{BUILDING}" height="{height + 44}" fill="#fff"/>',
        f'<path d="M12 {ROOF} {BUILDING / 2:g} 10 {BUILDING - 12} {ROOF}V{height}H12z" fill="#f6f7f9" stroke="{LINE}"'
        ' stroke-width="2" stroke-linejoin="round"/>',
        f'<text x="{BUILDING / 2:g}" y="{ROOF - 24}" font-size="26" font-weight="600" fill="{INK}">mmjax</text>',
    ]
    for room, others in arrows.items():
        x, y = corner[room]
        # Past a floor between the two an arrow leaves at the side, so as to cross no room.
        beside = {other for other in others if floors[room] - floors[other] > 1 and abs(corner[other][0] - x) > WIDTH}
        below = sorted(others - beside, key=corner.__getitem__)
        for other in sorted(others, key=corner.__getitem__):
            users = sorted((user for user in arrows if other in arrows[user]), key=corner.__getitem__)
            end_x, end_y = corner[other][0] + WIDTH * (users.index(room) + 1) / (len(users) + 1), corner[other][1] - 1
            if other in beside:
                start_x, start_y = x + WIDTH * (end_x > x), y + HEIGHT // 2
                bend = f"{end_x:g} {start_y} {end_x:g} {start_y}"
            else:
                start_x, start_y = x + WIDTH * (below.index(other) + 1) / (len(below) + 1), y + HEIGHT
                middle = (start_y + end_y) / 2
                bend = f"{start_x:g} {middle:g} {end_x:g} {middle:g}"
            lines.append(
                f'<path d="M{start_x:g} {start_y}C{bend} {end_x:g} {end_y}" fill="none" stroke="{ACCENT}"'
                ' stroke-width="1.6" marker-end="url(#tip)"/>'
            )
    for room, (x, y) in corner.items():
        centre = x + WIDTH / 2
        lines += [
            f'<rect x="{x:g}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff" stroke="{LINE}"/>',
            f'<text x="{centre:g}" y="{y + 19}" font-size="15" font-weight="600" fill="{INK}">{room}</text>',
            f'<text x="{centre:g}" y="{y + 35}" font-size="11.5" fill="{SOFT}">{escape(ROOMS[room][1])}</text>',
        ]
    note = "An arrow leads to what a room imports; what a chain of arrows leads to it may import too."
    lines.append(f'<text x="{BUILDING / 2:g}" y="{height + 26}" font-size="13" fill="{SOFT}">{note}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    POSTER.write_text(draw(read_imports()))
