#!/usr/bin/env python3
"""Finds dependencies that nothing uses.

    tests/lint/crates.py

A crate of Cargo.toml counts as used if its name stands in the code that may use it: in src/ those of [dependencies], besides in
tests/ and benches/ those of [dev-dependencies], and in build.rs those of [build-dependencies]. Code that is generated may use what no
text names: such crates stand here, with the reason.
"""
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {
    "tonic-prost": "the code that build.rs makes of the protocol uses it",
}


def texts(*places):
    files = [file for place in places for file in ([ROOT / place] if place.endswith(".rs") else (ROOT / place).rglob("*.rs"))]
    return "\n".join(file.read_text() for file in files)


def main():
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    code, tests, build = texts("src"), texts("src", "tests", "benches"), texts("build.rs")
    faults = []
    for table, text in (("dependencies", code), ("dev-dependencies", tests), ("build-dependencies", build)):
        for crate in manifest[table]:
            used = re.search(rf"\b{crate.replace('-', '_')}\b", text)
            if not used and crate not in GENERATED:
                faults.append(f"Cargo.toml: [{table}] {crate}: nothing uses it; remove it")
            if used and crate in GENERATED:
                faults.append(f"tests/lint/crates.py: {crate} is used by name, and needs no reason")
    for fault in faults:
        print(fault)
    print(f"{sum(len(manifest[t]) for t in manifest if t.endswith('dependencies'))} dependencies, {len(faults)} of them without use")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
