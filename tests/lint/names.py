#!/usr/bin/env python3
"""Counts how the production code of src/ names and describes things, and fails where it is worse than it was.

    tests/lint/names.py [--list]    what is counted; with --list the names behind the counts

A name of one word says what something is to those who know it. A type name that stands twice is two things for one word. A doc
comment that begins with What, Whether, Who, Of and the like has no subject. LIMITS says how much of each there may be: the
numbers only go down.
"""
import re
import sys
from collections import Counter
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "src"
LIMITS = {
    "functions of one word, %": 13,
    "types of one word, %": 8,
    "type names that stand more than once": 0,
    "doc comments without a subject, %": 2,
}
# Traits of others name these functions.
GIVEN = {"from", "fmt", "default", "next", "drop", "hash", "eq", "cmp", "deref", "clone", "main", "new", "serialize", "deserialize", "poll"}
# Traits of others name these types.
ASSOCIATED = {"Output", "Item", "Error", "Source", "Value", "Err", "Target", "Service", "Response", "Future", "Data", "Writer", "Scope"}
OPENINGS = ("What", "Whether", "Who", "Whom", "Whose", "Of", "Which", "Where", "How", "That", "Why")


def production(path):
    """The text of a file up to its tests. Strings and comments stay: what is searched for stands at the beginning of lines."""
    return re.split(r"^#\[cfg\(test\)\]\n(?:mod|pub mod) \w+ \{", path.read_text(), maxsplit=1, flags=re.MULTILINE)[0]


def files():
    for path in sorted(SOURCES.rglob("*.rs")):
        parts = path.relative_to(SOURCES).parts
        if "istio" in parts and "api" in parts or "tests" in parts or path.name.startswith("test"):
            continue
        yield path


def is_one_word(name):
    return "_" not in name.strip("_") if name[0].islower() or name[0] == "_" else len(re.findall(r"[A-Z][a-z0-9]*", name)) < 2


def count():
    functions, types, openings = [], [], []
    for path in files():
        text = production(path)
        place = str(path.relative_to(SOURCES))
        functions += [(name, place) for name in re.findall(r"^\s*(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe )*fn (\w+)", text, re.MULTILINE) if name not in GIVEN]
        types += [(name, place) for name in re.findall(r"^\s*(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|type|union) (\w+)(?=[^;]*[{;(=])", text, re.MULTILINE)]
        openings += [(first, place) for first in re.findall(r"^(?!\s*//[/!].*\n\s*//[/!])?\s*//[/!] (\w+)", re.sub(r"(^\s*//[/!].*\n)(?:\s*//[/!].*\n)+", r"\1", text, flags=re.MULTILINE), re.MULTILINE)]
    return functions, types, openings


def main():
    functions, types, openings = count()
    types = [(name, place) for name, place in types if name not in ASSOCIATED]
    twice = {name: places for name, places in Counter(name for name, _ in types).items() if places > 1}
    short = [f for f in functions if is_one_word(f[0])]
    plain = [t for t in types if is_one_word(t[0])]
    subjectless = [o for o in openings if o[0] in OPENINGS]
    counts = {
        "functions of one word, %": 100 * len(short) / len(functions),
        "types of one word, %": 100 * len(plain) / len(types),
        "type names that stand more than once": len(twice),
        "doc comments without a subject, %": 100 * len(subjectless) / len(openings),
    }
    if "--list" in sys.argv[1:]:
        for name, place in short + plain:
            print(f"  one word: {name} ({place})")
        for name, times in sorted(twice.items()):
            print(f"  {times} times: {name}")
        for name, place in subjectless:
            print(f"  begins with {name}: {place}")
    worse = 0
    for what, number in counts.items():
        print(f"{what}: {number:.0f} (limit {LIMITS[what]})")
        worse += number > LIMITS[what] + 0.5
    print(f"{len(functions)} functions, {len(types)} types, {len(openings)} doc comments")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
