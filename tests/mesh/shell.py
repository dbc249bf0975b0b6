"""The shell in which a page of the documentation is followed."""
import json
import os
import subprocess

from tools import BIN
from wharf import ROOT, WHARF, until


class PageShell:
    """One shell for all blocks of a page, with `wharf` and the lab's tools, and a kubeconfig with a context for each cluster."""

    def __init__(self, clusters, folder, **env):
        self.folder, self.out, self.tools, self.blocks = folder, folder / "out", folder / "bin", 0
        kube = folder / "kubeconfig"
        kube.write_text(merged(clusters))
        self.tools.mkdir()
        (self.tools / "wharf").symlink_to(WHARF)
        env = {**os.environ, "KUBECONFIG": str(kube), "HOME": str(folder), "PATH": f"{self.tools}:{BIN}:{os.environ['PATH']}", **env}
        self.process = subprocess.Popen(["bash", "-eu", "-o", "pipefail"], stdin=subprocess.PIPE, stdout=open(self.out, "w"), stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=env)

    def run(self, block, patience=120, troubles=lambda: None):
        """Runs a block to its end, which must be a good one. `troubles` says early why there will be none."""
        self.blocks += 1
        done = self.folder / f"done-{self.blocks}"
        self.process.stdin.write(f"{block}\n: > {done}\n")
        self.process.stdin.flush()
        ended = lambda: done.exists() or self.process.poll() is not None
        until(f"the commands\n{block}", lambda: ended() or troubles(), patience)
        assert ended(), troubles()
        assert self.process.poll() is None, f"{block}\n{self.out.read_text()[-3000:]}"

    def kill(self):
        self.process.kill()


def merged(clusters):
    """One kubeconfig with a context for each cluster."""
    config = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
    for c in clusters:
        one = json.loads(c.kubeconfig.read_text())
        config["clusters"] += one["clusters"]
        config["users"].append({"name": c.name, "user": one["users"][0]["user"]})
        config["contexts"].append({"name": c.name, "context": {"cluster": c.name, "user": c.name}})
    return json.dumps(config)
