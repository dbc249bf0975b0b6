#!/usr/bin/env python3
"""Finds what the documents quote of the code and is not there: functions (`Type::function`), source files, metrics; and reasons that they do not explain.

    tests/lint/quotes.py
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = {path: path.read_text() for path in [*(ROOT / "src").rglob("*.rs"), *(ROOT / "benches").rglob("*.rs")]}
FOLDERS = ("", "src", "tests", "deploy", "deploy/kustomize")
ALL = "\n".join(CODE.values())


def functions(text):
    """`Type::function`, as it stands in backticks."""
    for owner, function in re.findall(r"`(?:\w+::)*([A-Z]\w+)::([a-z_]\w*)(?:\(\))?`", text):
        block = re.compile(rf"^(?:impl|(?:pub(?:\(\w+\))? )?trait)\b[^{{;]*\b{owner}\b", re.MULTILINE)
        if not any(block.search(code) and re.search(rf"\bfn {function}\b", code) for code in CODE.values()):
            yield f"there is no function {owner}::{function}"


def steps(text):
    """What a table names in its column `function`."""
    for row in re.findall(r"^\| \d+ \|(?:[^|\n]*)\|([^|\n]*)\|", text, re.MULTILINE):
        for name in re.findall(r"`(?:\w+::)*([a-z_]\w*)`", row):
            if not re.search(rf"\bfn {name}\b", ALL):
                yield f"there is no function {name}"


def files(text):
    """Paths of source files, from the root or from src/."""
    for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:rs|py|proto|yaml|toml))`", text):
        if not any((ROOT / folder / name).exists() for folder in FOLDERS) and "<" not in name:
            yield f"there is no file {name}"


def metrics(text):
    for name in re.findall(r"`(wharf_[a-z0-9_]+)", text):
        # The library appends the unit and `_total`.
        stem = re.sub(r"_(total|seconds|bytes|bucket|sum|count|info)$", "", name.removeprefix("wharf_"))
        stem = re.sub(r"_(seconds|bytes)$", "", stem)
        if f'"{stem}' not in ALL and f'"{name}' not in ALL and f'"{name.removeprefix("wharf_")}' not in ALL:
            yield f"there is no metric {name}"


def unexplained():
    """Reasons that a status has, and that no table of the reference explains: `wharf explain` reads those tables."""
    rows = [line for path in sorted((ROOT / "docs/reference").glob("*.md")) for line in path.read_text().splitlines() if line.startswith("|")]
    explained = {name for row in rows for cell in row.split("|")[1:3] for name in re.findall(r"`([A-Z]\w+)`", cell)}
    for path, code in CODE.items():
        for kind, reason in re.findall(r'Condition::new\(\s*"(\w+)",[^,]*,\s*"(\w+)"', code):
            for name in {kind, reason} - explained:
                yield f"{path.relative_to(ROOT)}: no table of docs/reference explains {name}"


def main():
    faults = quotes = 0
    for sentence in unexplained():
        faults += 1
        print(sentence, file=sys.stderr)
    for path in DOCUMENTS:
        text = path.read_text()
        for kind in (functions, steps, files, metrics):
            for sentence in kind(text):
                faults += 1
                print(f"{path.relative_to(ROOT)}: {sentence}", file=sys.stderr)
        quotes += len(re.findall(r"`(?:\w+::)*[A-Z]\w+::[a-z_]\w*(?:\(\))?`|`wharf_[a-z0-9_]+|`(?:[\w-]+/)+[\w-]+\.(?:rs|py|proto)`", text))
    print(f"{quotes} quotes of code in {len(DOCUMENTS)} documents, {faults} of them of what is not there")
    sys.exit(1 if faults or not quotes else 0)


if __name__ == "__main__":
    main()
