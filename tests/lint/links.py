#!/usr/bin/env python3
"""Finds links in the project's documents that lead nowhere: to a file that is not there, or to a heading that it does not have.

    tests/lint/links.py [FILE]...    every Markdown file of the repository, if none is named

Anchors are made of headings as GitHub makes them. Links to other hosts are not followed: what others take away is no fault here.
"""
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


def without_code(text):
    """The same text with code blanked out: brackets in it are no links. Lines stay where they are."""
    blank = lambda found: re.sub(r"[^\n]", " ", found.group())
    text = re.sub(r"^(```|~~~).*?^\1", blank, text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)[^\n]*?[^`]?\1(?!`)", blank, text)


def anchors(path):
    """What a link to a part of this file may name."""
    text = path.read_text()
    found, times = set(re.findall(r'<a (?:id|name)="([^"]+)"', text)), {}
    for heading in re.findall(r"^#{1,6}\s+(.*?)\s*#*$", re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE):
        heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        times[slug] = times.get(slug, -1) + 1
        found.add(f"{slug}-{times[slug]}" if times[slug] else slug)
    return found


def faults(path):
    """The links of a file that lead nowhere, each as (line, sentence), and how many links it has."""
    text = without_code(path.read_text())
    found, links = [], 0
    for match in LINK.finditer(text):
        target = match.group(1) or match.group(2)
        if ELSEWHERE.match(target):
            continue
        links += 1
        place, _, anchor = target.partition("#")
        to = (path.parent / unquote(place)).resolve() if place else path
        line = text[: match.start()].count("\n") + 1
        if not to.is_relative_to(ROOT):
            found.append((line, f"{target} leads out of the repository"))
        elif not to.exists():
            found.append((line, f"{target}: there is no such file"))
        elif anchor and to.suffix == ".md" and anchor not in anchors(to):
            found.append((line, f"{target}: {to.relative_to(ROOT)} has no heading of that name"))
    return found, links


def main():
    named = [Path(name).resolve() for name in sys.argv[1:]]
    tracked = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(tracked, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    files = named or [ROOT / name for name in listed if name and (ROOT / name).exists()]
    bad = links = 0
    for path in files:
        found, seen = faults(path)
        links += seen
        bad += len(found)
        for line, sentence in found:
            print(f"{path.relative_to(ROOT)}:{line}: {sentence}", file=sys.stderr)
    print(f"{links} links in {len(files)} documents, {bad} of them lead nowhere")
    if not links:
        sys.exit("no link was found: the pattern no longer fits")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
