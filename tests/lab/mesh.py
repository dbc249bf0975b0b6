"""A real multi-cluster Istio on one Linux machine, without Docker or a kubelet.

Every part that decides anything is the real one: etcd, kube-apiserver, istiod (with its CA), pilot-agent and Envoy. All
clusters share one root; each istiod signs with an intermediate of its own, and has a trust domain of its own, unless
one is named for all."""
import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from cluster import Cluster
from tools import BIN, STATE, fail, run


def missing():
    """Why no mesh can run here, or nothing."""
    if os.geteuid() != 0:
        return "root is needed for network namespaces"
    probe = subprocess.run(["ip", "netns", "add", "wharf-probe"], capture_output=True, text=True)
    if probe.returncode:
        return f"network namespaces cannot be made: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", "wharf-probe"])
    return None


def build_app():
    """The lab's application, anew if its sources are newer."""
    source, target = Path(__file__).resolve().parent / "app", BIN / "labapp"
    if not target.exists() or any(f.stat().st_mtime > target.stat().st_mtime for f in source.iterdir()):
        run("go", "build", "-trimpath", "-o", target, ".", cwd=source)


class Lab:
    def __init__(self, clusters=2, trust_domain=None, drain="5s"):
        names = [f"cluster{i + 1}" for i in range(clusters)]
        domains = [trust_domain or name for name in names]
        self.clusters = [Cluster(i + 1, domains[i], sorted(set(domains)), drain) for i in range(clusters)]

    def __getitem__(self, i):
        return self.clusters[i - 1]

    def up(self, keep=False):
        """Starts it. With `keep`, one that runs already is taken as it is."""
        build_app()
        if not (keep and (STATE / "up").exists()):
            self.start()
        for c in self.clusters:
            c.gateway("ingress")
            c.gateway("egress")
        self.wait()
        return self

    def start(self):
        down()
        STATE.mkdir(parents=True)
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/O=Lab/CN=Shared root", "-keyout",
            STATE / "root-key.pem", "-out", STATE / "root-cert.pem")
        run("ip", "link", "add", "lab0", "type", "bridge")
        run("ip", "link", "set", "lab0", "up")
        for c in self.clusters:
            run("ip", "addr", "add", f"{c.host}/16", "dev", "lab0")
        run("sysctl", "-w", "net.ipv4.ip_forward=1")
        for c in self.clusters:
            c.begin()
        for c in self.clusters:
            c.finish()
        (STATE / "up").touch()

    def wait(self):
        for c in self.clusters:
            for pod in c.pods.values():
                if pod.proxied:
                    pod.wait()


def down():
    """Ends what `up` started, by pid, and nothing else; also the network of one whose processes are gone already."""
    names = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.startswith("cluster")]
    if not STATE.exists() and any(run("ip", "netns", "pids", net).split() for net in names):
        fail(f"another mesh runs on this machine, and its state is not in {STATE}: end it with its own LAB_STATE, `tests/lab/lab.py down`")
    ours = {int(p) for p in (STATE / "pids").read_text().split()} if (STATE / "pids").exists() else set()
    for net in names:
        ours |= {int(p) for p in run("ip", "netns", "pids", net).split()}
    for sig in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        time.sleep(0 if sig == signal.SIGCONT else 1)
    # What one of them started meanwhile would keep its network, and the names of the links into it.
    for net in names:
        for pid in map(int, run("ip", "netns", "pids", net).split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for net in names:
        run("ip", "netns", "del", net, check=False)
        shutil.rmtree(f"/etc/netns/{net}", ignore_errors=True)
    run("ip", "link", "del", "lab0", check=False)
    shutil.rmtree(STATE, ignore_errors=True)
