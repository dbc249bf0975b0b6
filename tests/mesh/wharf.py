"""Agents beside real clusters, and what people write for them."""
import os, shutil, signal, subprocess, threading, time
from pathlib import Path

import yaml

from api import obj
from tools import STATE, run, spawn

ROOT = Path(__file__).resolve().parents[2]
WHARF = Path(os.environ.get("WHARF") or Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug/wharf")
GROUP = "multicluster.istio.io/v1alpha1"
MARK = "app.kubernetes.io/managed-by"
ORDER = ["AuthorizationPolicy", "DestinationRule", "ServiceEntry", "Gateway", "VirtualService", "Service"]


def until(what, probe, seconds=20, pause=0.05):
    """Waits for `probe` to give something true, and gives that; the last thing it gave is told if it never does."""
    deadline, last = time.monotonic() + seconds, None
    while True:
        last = probe()
        if last:
            return last
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not seen within {seconds} s; last: {last!r}")
        time.sleep(pause)


class Pki:
    """`wharf ca`, as an operator uses it."""

    def __init__(self, folder):
        self.dir = Path(folder)
        run(WHARF, "ca", "init", "--dir", self.dir)

    def issue(self, name, *options):
        run(WHARF, "ca", "issue", name, "--dir", self.dir, *options)
        return self.dir / f"{name}.crt", self.dir / f"{name}.key"

    @property
    def root(self):
        return self.dir / "ca.crt"


class Agent:
    """A cluster's agent. Its store is a folder, whose `istio/` is applied to the API server as soon as it changes."""

    def __init__(self, cluster, pki, peers, **settings):
        self.cluster, self.pki, self.peers, self.settings = cluster, pki, peers, settings
        self.dir = cluster.dir / "wharf"
        self.store = self.dir / "store"
        self.process = None
        self.applied = {}
        self.stopped = threading.Event()

    # ------------------------------------------------------------ its life

    def config(self):
        c = self.cluster
        return {
            "cluster": c.name, "listen": f"{c.host}:7443", "admin": f"127.0.0.1:{c.port + 50}", "trustDomain": c.trust_domain,
            "identity": {"certificate": str(self.dir / "tls.crt"), "key": str(self.dir / "tls.key"), "root": str(self.dir / "ca.crt")},
            "store": {"dir": str(self.store)}, "ingress": {"address": [f"10.7{c.index}.0.2"]},
            "peers": [{"name": p.name, "endpoint": f"{p.host}:7443", "consume": True, "trustDomain": p.trust_domain} for p in self.peers],
            **self.settings}

    def prepare(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        for kind in ORDER:
            version = {"Service": "v1", "AuthorizationPolicy": "security.istio.io/v1"}.get(kind, "networking.istio.io/v1")
            found = self.cluster.api.items(version, kind)
            self.cluster.delete(*({"apiVersion": version, "kind": kind, **o} for o in found if o["metadata"].get("labels", {}).get(MARK) == "wharf"))
        self.store.mkdir(parents=True)
        self.certify()
        threading.Thread(target=self.follow, daemon=True).start()

    def certify(self, root=None):
        """A new certificate, for the agent and (as its own store cannot) for the gateways."""
        cert, key = (self.pki.dir / f"{self.cluster.name}.{end}" for end in ("crt", "key"))
        cert.unlink(missing_ok=True), key.unlink(missing_ok=True)
        self.pki.issue(self.cluster.name, "--dns", self.cluster.host, "--ip", self.cluster.host)
        for source, name in ((key, "tls.key"), (cert, "tls.crt"), (root or self.pki.root, "ca.crt")):
            shutil.copy(source, self.dir / f"{name}.new")
            os.replace(self.dir / f"{name}.new", self.dir / name)
        self.credential()

    def credential(self):
        text = {name: (self.dir / name).read_text() for name in ("tls.crt", "tls.key", "ca.crt")}
        self.cluster.apply({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "stringData": text,
                            "metadata": {"name": "wharf-identity", "namespace": "istio-system"}})

    def start(self, **settings):
        self.settings.update(settings)
        (self.dir / "config.yaml").write_text(yaml.safe_dump(self.config()))
        self.process = spawn(self.dir / "log", WHARF, "agent", "--config", self.dir / "config.yaml", env={"WHARF_LOG": "info"})
        until(f"{self.cluster.name}'s agent", lambda: run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{self.cluster.port + 50}/readyz", check=False) == "200", 20)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(15)

    def restart(self, how=signal.SIGTERM, **settings):
        self.stop(how)
        self.start(**settings)

    # ------------------------------------------------------------ what people write

    def file(self, o):
        m = o["metadata"]
        return self.store / f"{o['kind'].lower()}_{m.get('namespace', 'default')}_{m['name']}.yaml"

    def put(self, *objects):
        """Policies and bindings."""
        for o in objects:
            new = self.dir / "new"
            new.write_text(yaml.safe_dump(o))
            os.replace(new, self.file(o))

    def remove(self, *objects):
        for o in objects:
            self.file(o).unlink(missing_ok=True)

    def own(self, *objects):
        """What the owner of a service has: Services, DestinationRules, VirtualServices. A folder has to be told of them."""
        self.cluster.apply(*objects)
        self.put(*objects)

    def disown(self, *objects):
        self.remove(*objects)
        self.cluster.delete(*objects)

    def status(self, o):
        m = o["metadata"]
        file = self.store / f".wharf/status/{o['kind'].lower()}/{m.get('namespace', 'default')}.{m['name']}.yaml"
        try:
            return yaml.safe_load(file.read_text()).get("status") or {}
        except (FileNotFoundError, AttributeError):
            return {}

    def condition(self, o, kind):
        for c in self.status(o).get("conditions", []):
            if c["type"] == kind:
                return c
        return {}

    def programmed(self, o):
        kinds = ("Exposed", "Programmed") if o["kind"] == "ServiceExpositionPolicy" else ("Bound", "Programmed")
        conditions = [self.condition(o, kind) for kind in kinds]
        return all(c.get("status") == "True" for c in conditions) or None

    # ------------------------------------------------------------ istio/ to the API server

    def follow(self):
        folder = self.store / "istio"
        while not self.stopped.is_set():
            try:
                found = {e.path: e.stat().st_mtime_ns for e in os.scandir(folder) if e.name.endswith(".yaml")}
            except FileNotFoundError:
                found = {}
            try:
                self.sync(found)
            except Exception as e:  # told, and tried again: the folder may have changed meanwhile
                with open(self.dir / "sync.log", "a") as log:
                    log.write(f"{e}\n")
            time.sleep(0.02)

    def sync(self, found):
        changed = []
        for path, stamp in found.items():
            if self.applied.get(path, (None,))[0] != stamp:
                try:
                    changed.append((path, stamp, yaml.safe_load(Path(path).read_text())))
                except FileNotFoundError:
                    return
        for path, stamp, o in sorted(changed, key=lambda c: ORDER.index(c[2]["kind"])):
            self.cluster.apply(o, manager="wharf")
            self.applied[path] = (stamp, o)
        gone = [(path, o) for path, (_, o) in self.applied.items() if path not in found]
        for path, o in sorted(gone, key=lambda g: -ORDER.index(g[1]["kind"])):
            self.cluster.delete(o)
            del self.applied[path]

    def written(self):
        """The Istio objects that Wharf has in this cluster now."""
        return [o for _, o in self.applied.values()]


def policy(name, *entries, ns="default"):
    return obj(GROUP, "ServiceExpositionPolicy", name, ns, {"exposed": list(entries)})


def binding(name, *remotes, ns="default"):
    """remotes: (cluster, {service}, {service}, ...)"""
    return obj(GROUP, "RemoteServiceBinding", name, ns, {"remote": [{"cluster": c, "services": list(s)} for c, *s in remotes]})
