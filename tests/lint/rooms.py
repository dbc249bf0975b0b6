#!/usr/bin/env python3
"""Holds the table of rooms: which room of src/ may use which other.

    tests/lint/rooms.py

The table stands at the head of src/lib.rs, and again in docs/architecture.md. Each `crate::<room>` in the production code of a
room must be allowed there, each folder of src/ must have a row, both tables must say the same, and what a row allows must be used.
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^(?://! )?\| (?:\[`(\w+)`\]|`(\w+)`) \| .* \| ([^|]+) \|$", re.MULTILINE)


def table(path):
    """Each room of the table with the rooms that it may know, as they are written there."""
    return {first or second: known.strip() for first, second, known in ROW.findall(path.read_text())}


def allowed(known, rooms):
    """The rooms that a cell names: some by name, all, or all but some."""
    named = set(re.findall(r"`(\w+)`", known))
    return rooms - named if known.startswith("all") else named


def used(room, rooms):
    """Each other room that a room's production code names, with the places."""
    files = [*(ROOT / "src" / room).rglob("*.rs"), ROOT / "src" / f"{room}.rs"]
    places = {}
    for path in files:
        if not path.exists() or "tests" in path.relative_to(ROOT).parts or path.name.startswith("test"):
            continue
        code = re.split(r"^#\[cfg\(test\)\]\nmod \w+ \{", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
        for number, line in enumerate(code.splitlines(), 1):
            # A link in a comment is read by people, not by the compiler.
            for other in re.findall(r"\bcrate::(\w+)", line.split("//")[0]):
                if other in rooms and other != room:
                    places.setdefault(other, f"{path.relative_to(ROOT)}:{number}")
    return places


def main():
    library, page = ROOT / "src/lib.rs", ROOT / "docs/architecture.md"
    rows, shown = table(library), table(page)
    rooms = {path.stem for path in (ROOT / "src").iterdir()} - {"lib", "main"}
    faults = [f"src/lib.rs: the table has no row for {room}" for room in sorted(rooms - rows.keys())]
    faults += [f"src/lib.rs: the table has a row for {room}, which is not there" for room in sorted(rows.keys() - rooms)]
    for room, known in rows.items():
        if shown.get(room) != known:
            faults.append(f"docs/architecture.md: {room} may know {shown.get(room)}, and in src/lib.rs {known}")
        places = used(room, rooms)
        for other in sorted(places.keys() - allowed(known, rooms)):
            faults.append(f"{places[other]}: {room} uses {other}; src/lib.rs allows it {known}")
        if not known.startswith("all"):
            for other in sorted(allowed(known, rooms) - places.keys()):
                faults.append(f"src/lib.rs: {room} may know {other}, and does not use it")
    for fault in faults:
        print(fault)
    print(f"{len(rows)} rooms, {len(faults)} faults")
    sys.exit(1 if faults or not rows else 0)


if __name__ == "__main__":
    main()
