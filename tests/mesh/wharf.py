"""Agents beside real clusters, and what people write for them."""
import base64
import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import yaml

from api import ApiError, obj
from tools import BIN, run, spawn

ROOT = Path(__file__).resolve().parents[2]
WHARF = Path(os.environ.get("WHARF") or Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug/wharf")
GROUP = "multicluster.istio.io/v1alpha1"
MARK = "app.kubernetes.io/managed-by"
VERSIONS = {"Service": "v1", "AuthorizationPolicy": "security.istio.io/v1", "EnvoyFilter": "networking.istio.io/v1alpha3"}
ORDER = ["AuthorizationPolicy", "EnvoyFilter", "DestinationRule", "ServiceEntry", "Gateway", "VirtualService", "Service"]


def until(what, probe, seconds=20, pause=0.05, told=None):
    """Waits for `probe` to give something true, and gives that; the last thing it gave, or `told`, is told if it never does."""
    deadline, last = time.monotonic() + seconds, None
    while True:
        last = probe()
        if last:
            return last
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not seen within {seconds} s; last: {told() if told else last!r}")
        time.sleep(pause)


def peering_endpoints(cluster):
    """The endpoints of the agent's Service, as a cluster would make them: here the agent is a process beside it."""
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "wharf-peering-lab", "namespace": "wharf-system", "labels": {"kubernetes.io/service-name": "wharf-peering"}},
            "ports": [{"name": "tls-peering", "port": 7443, "protocol": "TCP"}],
            "endpoints": [{"addresses": [cluster.host], "conditions": {"ready": True}}]}


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
    """A cluster's agent, as in a cluster: installed by the chart, with the chart's ServiceAccount and nothing more. Only the
    kubelet is missing: the process runs beside the cluster, with the ConfigMap's configuration and the account's token."""

    def __init__(self, cluster, pki, peers, **settings):
        self.cluster, self.pki, self.peers, self.settings = cluster, pki, peers, settings
        self.dir = cluster.dir / "wharf"
        self.process = None

    # ------------------------------------------------------------ its life

    def values(self):
        c = self.cluster
        return {"cluster": c.name, "trustDomain": c.trust_domain, "log": {"format": "text"}, "passthrough": {"trustSidecars": True}, "metrics": {"statusFrom": ["10.0.0.0/8"]},
                "peers": [{"name": p.name, "endpoint": f"{p.host}:7443", "consume": True, "trustDomain": p.trust_domain, "allowedGateways": ["10.0.0.0/8"]} for p in self.peers], **self.settings}

    def render(self, **values):
        """What `helm install` would apply, with these values besides the agent's own."""
        (self.dir / "values.yaml").write_text(yaml.safe_dump({**self.values(), **values}))
        text = run(BIN / "helm", "template", "wharf", ROOT / "deploy/chart", "--kube-version", "1.36.0", "--namespace", "wharf-system", "--values", self.dir / "values.yaml",
                   env={**os.environ, "HOME": str(self.dir)})
        return [o for o in yaml.safe_load_all(text) if o]

    def prepare(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        c = self.cluster
        c.apply(obj("v1", "Namespace", "wharf-system"), *yaml.safe_load_all(run(WHARF, "crds")))
        until("the definitions are served", lambda: served(c), 30)
        for kind in ("ServiceExpositionPolicy", "RemoteServiceBinding", "ClusterPeering"):
            c.delete(*({"apiVersion": GROUP, "kind": kind, **o} for o in c.api.items(GROUP, kind)))
        self.sweep()
        self.install()
        c.delete(obj("v1", "Secret", "wharf-certificate", "wharf-system"))
        self.certify()

    def sweep(self, namespace=None):
        """What a lab that was kept still has of an agent before."""
        c = self.cluster
        for kind in ORDER:
            found = c.api.items(VERSIONS.get(kind, "networking.istio.io/v1"), kind, namespace)
            c.delete(*({"apiVersion": VERSIONS.get(kind, "networking.istio.io/v1"), "kind": kind, **o} for o in found if o["metadata"].get("labels", {}).get(MARK) == "wharf"))
        if namespace:
            return
        maps = c.api.items("v1", "ConfigMap", "wharf-system")
        c.delete(*({"apiVersion": "v1", "kind": "ConfigMap", **o} for o in maps if o["metadata"]["name"].startswith("wharf-")))
        c.delete(*(obj("v1", "Secret", "wharf-identity", ns) for ns in ("istio-system", "wharf-gateways")), obj("coordination.k8s.io/v1", "Lease", "wharf", "wharf-system"))

    def install(self):
        kinds = ("Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ConfigMap")
        rendered = [o for o in self.render() if o["kind"] in kinds]
        self.cluster.apply(*sorted(rendered, key=lambda o: kinds.index(o["kind"])))
        own = lambda kind: next(o for o in rendered if o["kind"] == kind and o["metadata"]["namespace"] == "wharf-system")
        config = own("ConfigMap")["data"]
        # A pod would listen on all addresses of its own; here those of all clusters are on one machine.
        (self.dir / "config.yaml").write_text(config["config.yaml"].replace("0.0.0.0:", f"{self.cluster.host}:"))
        account = own("ServiceAccount")["metadata"]["name"]
        c = self.cluster
        (self.dir / "kubeconfig").write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "agent", "contexts": [{"name": "agent", "context": {"cluster": "here", "user": "agent"}}],
            "clusters": [{"name": "here", "cluster": {"server": f"https://127.0.0.1:{c.port}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "agent", "user": {"token": c.token("wharf-system", account, "https://kubernetes.default.svc")}}]}))

    def uninstall(self, **values):
        """As if the chart had never been here, installed with these values besides."""
        c = self.cluster
        releases = [o["metadata"]["name"] for o in c.api.items("v1", "Secret", "wharf-system") if o["metadata"]["name"].startswith("sh.helm.")]
        c.delete(*self.render(**values), *(obj("v1", "Secret", name, "wharf-system") for name in releases), *yaml.safe_load_all(run(WHARF, "crds")))
        self.sweep()
        c.delete(obj("v1", "Secret", "wharf-certificate", "wharf-system"))
        # Nobody finalizes namespaces here: without their objects they would stay for ever.
        c.api.finalize("wharf-system")
        c.api.finalize("wharf-gateways")

    def certify(self, root=None, crl=None):
        """A new certificate for the cluster. The gateways' Secret is the agent's business."""
        cert, key = (self.pki.dir / f"{self.cluster.name}.{end}" for end in ("crt", "key"))
        cert.unlink(missing_ok=True), key.unlink(missing_ok=True)
        self.pki.issue(self.cluster.name, "--dns", self.cluster.host, "--ip", self.cluster.host)
        for name, source in {"tls.key": key, "tls.crt": cert, "ca.crt": root or self.pki.root}.items():
            shutil.copy(source, self.dir / name)
        self.put_identity(crl)

    def put_identity(self, crl=None):
        """The identity's Secret: the certificate that there is, and a revocation list."""
        files = {name: self.dir / name for name in ("tls.key", "tls.crt", "ca.crt")} | ({"ca.crl": crl} if crl else {})
        self.cluster.apply({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "wharf-certificate", "namespace": "wharf-system"},
                            "data": {name: base64.b64encode(Path(source).read_bytes()).decode() for name, source in files.items()}})

    def start(self, **settings):
        if settings:
            self.settings.update(settings)
            self.install()
        self.process = self.run(WHARF, f"wharf-{self.cluster.name}", self.cluster.host)

    def run(self, binary, pod, host):
        """An agent's process, as the pod of this name at this address, until it is ready."""
        config = self.dir / f"{pod}.yaml"
        config.write_text((self.dir / "config.yaml").read_text().replace(f"{self.cluster.host}:7443", f"{host}:7443").replace(f"{self.cluster.host}:7444", f"{host}:7444"))
        env = {"WHARF_LOG": "info", "KUBECONFIG": str(self.dir / "kubeconfig"), "POD_NAMESPACE": "wharf-system", "POD_NAME": pod}
        process = spawn(self.dir / "log", binary, "agent", "--config", config, env=env)
        ready = lambda: run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{host}:7444/readyz", check=False) == "200"
        until(f"{self.cluster.name}'s agent", ready, 60)
        return process

    @contextlib.contextmanager
    def upgraded(self, binary):
        """A rolling upgrade: the new pod is ready before the old one is told to stop, and from then on the agent's Service leads new
        connections to it. In the end, the same back."""
        c, other = self.cluster, self.cluster.host[:-1] + "4"
        rule = ("OUTPUT", "-t", "nat", "-d", c.host, "-p", "tcp", "--dport", "7443", "-j", "DNAT", "--to-destination", f"{other}:7443")
        run("ip", "addr", "add", f"{other}/16", "dev", "lab0")
        try:
            new = self.run(binary, f"wharf-{c.name}-new", other)
            run("iptables", "-I", *rule)
            try:
                self.stop()
                yield other
            finally:
                self.process = self.run(WHARF, f"wharf-{c.name}", c.host)
                run("iptables", "-D", *rule)
                new.send_signal(signal.SIGTERM)
                new.wait(15)
        finally:
            run("ip", "addr", "del", f"{other}/16", "dev", "lab0")

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(15)

    def restart(self, how=signal.SIGTERM, **settings):
        self.stop(how)
        self.start(**settings)

    # ------------------------------------------------------------ what people write

    def put(self, *objects):
        self.cluster.apply(*objects, manager="operator")

    def remove(self, *objects):
        self.cluster.delete(*objects)

    own, disown = put, remove

    def status(self, o):
        m = o["metadata"]
        found = self.cluster.api.get(o["apiVersion"], o["kind"], m["name"], m.get("namespace"))
        status = (found or {}).get("status") or {}
        # What was said of an earlier text says nothing of this one.
        return status if found and status.get("observedGeneration") == found["metadata"]["generation"] else {}

    def condition(self, o, kind):
        return next((c for c in self.status(o).get("conditions", []) if c["type"] == kind), {})

    def programmed(self, o):
        status = self.status(o)
        kinds = ("Exposed", "Programmed") if o["kind"] == "ServiceExpositionPolicy" else ("Bound", "Programmed")
        true = {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}
        return set(kinds) <= true

    def in_step(self, host=None):
        """Whether it is subscribed to all its donors, and holds all that they offer. `host`: of another of its pods."""
        text = run("curl", "-s", f"http://{host or self.cluster.host}:7444/status", check=False)
        peers = json.loads(text or "{}").get("peers", [])
        connected = [c["status"] for p in peers for c in p["status"].get("conditions", []) if c["type"] == "Connected"]
        return connected and set(connected) == {"True"}

    def versions(self):
        """Which version each object has that Wharf has written."""
        kinds = [(VERSIONS.get(kind, "networking.istio.io/v1"), kind, None) for kind in ORDER] + [("v1", "Secret", "istio-system")]
        return {(kind, o["metadata"]["namespace"], o["metadata"]["name"]): o["metadata"]["resourceVersion"]
                for version, kind, ns in kinds for o in self.cluster.api.items(version, kind, ns) if o["metadata"].get("labels", {}).get(MARK) == "wharf"}

    def written(self):
        """The Istio objects that Wharf has in this cluster now, as somebody would copy them."""
        found = []
        for kind in ORDER:
            version = VERSIONS.get(kind, "networking.istio.io/v1")
            for o in self.cluster.api.items(version, kind):
                m = o["metadata"]
                if m.get("labels", {}).get(MARK) == "wharf":
                    spec = {k: v for k, v in o["spec"].items() if k not in ("clusterIP", "clusterIPs")}
                    found.append({"apiVersion": version, "kind": kind, "spec": spec, "metadata": {k: m[k] for k in ("name", "namespace", "labels", "annotations") if k in m}})
        return found


def served(cluster):
    try:
        return all(cluster.api.items(GROUP, kind) is not None for kind in ("ServiceExpositionPolicy", "RemoteServiceBinding", "ClusterPeering"))
    except ApiError:
        return None


def policy(name, *entries, ns="default"):
    return obj(GROUP, "ServiceExpositionPolicy", name, ns, {"exposed": list(entries)})


def binding(name, *remotes, ns="default"):
    """remotes: (cluster, {service}, {service}, ...)"""
    return obj(GROUP, "RemoteServiceBinding", name, ns, {"remote": [{"cluster": c, "services": list(s)} for c, *s in remotes]})
