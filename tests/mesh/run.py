#!/usr/bin/env python3
"""Runs the tests on real meshes, several meshes side by side: most of a test is waiting.

Each mesh has a network and a table of mounts of its own (unshare(1)), so that names of links, addresses and ports are the same in all
of them and nothing outside is touched. Whichever mesh comes to a file of tests first runs it. Each test is a line of output, which
begins with the number of the mesh; the last line sums up.

    run.py [--meshes N] [pytest's options and files]"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))
import mesh

OWN_FOLDERS = ("/run/netns", "/etc/netns")  # of `ip netns`


def enter(argv):
    """Goes on as pytest, in the namespaces of one mesh."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for folder in OWN_FOLDERS:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *argv])


class Mesh:
    """The tests that run in one mesh."""

    def __init__(self, number, claims, argv):
        state = os.environ.get("LAB_STATE") or "/tmp/wharf-lab"
        env = {**os.environ, "MESH_CLAIMS": claims, "LAB_STATE": f"{state}-{number}"}
        command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-u", __file__, "--enter", *argv]
        self.number, self.last = number, ""
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.reader = threading.Thread(target=self.tell)
        self.reader.start()

    def tell(self):
        for line in self.process.stdout:
            print(f"mesh {self.number}: {line}", end="", flush=True)
            self.last = line.strip() or self.last

    def end(self):
        """The exit code, and how many tests of each outcome there were."""
        self.reader.join()
        return self.process.wait(), Counter({what: int(n) for n, what in re.findall(r"(\d+) ([a-z]+)", self.last)})


def main():
    if sys.argv[1:2] == ["--enter"]:
        enter(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", type=int, default=2, help="how many side by side (default: 2)")
    args, argv = parser.parse_known_args()
    argv = ["-v", "-p", "no:cacheprovider", "-rs", *(argv or [str(HERE)])]
    if mesh.missing():
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *argv])  # which says why, of each test
    mesh.build_app()
    for folder in OWN_FOLDERS:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wharf-mesh-") as claims:
        ended = [m.end() for m in [Mesh(n + 1, claims, argv) for n in range(args.meshes)]]
        ran, collected = (Path(claims, name).read_text().split() if Path(claims, name).exists() else [] for name in ("ran", "collected"))
    codes, sums = [code for code, _ in ended], sum((told for _, told in ended), Counter())
    if not any(codes) and set(collected) != {str(sum(map(int, ran)))}:
        codes.append(1)
        print(f"of {collected} tests {ran} were run")
    print("meshes:", ", ".join(f"{sums[what]} {what}" for what in ("failed", "errors", "error", "passed", "skipped", "rerun") if sums[what]))
    sys.exit(1 if any(codes) or not sums["passed"] else 0)


if __name__ == "__main__":
    main()
