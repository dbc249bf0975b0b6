"""docs/tutorial.md, followed word by word: its commands are run as they stand, and the page is seen in headless Chromium.

What a cluster has and the lab has not is done here: pods for Deployments (the shop's own programs, the agent with the chart's
ServiceAccount, and its gateways as istiod injects them), addresses of LoadBalancers, DNS, and `kubectl port-forward`."""
import contextlib
import json
import re
import socket
import subprocess
import tempfile
import threading
import traceback
from pathlib import Path

import pytest

from shell import PageShell
from tools import BIN, STATE, run, spawn
from wharf import ROOT, WHARF, peering_endpoints, until

BLOCK = re.compile(r"```sh\n(.*?)```|<!-- page: (.*?) -->", re.DOTALL)
SHOP = ROOT / "examples/shop"
GATEWAYS = "wharf-gateways"


class Kubelet(threading.Thread):
    """Pods for the Deployments of one cluster, endpoints and names for its Services."""

    def __init__(self, cluster, programs):
        super().__init__(daemon=True)
        self.cluster, self.programs, self.ended, self.agent = cluster, programs, threading.Event(), None
        self.trouble, self.failed = None, 0

    def run(self):
        while not self.ended.wait(0.3):
            try:
                for deployment in self.cluster.api.items("apps/v1", "Deployment"):
                    m = deployment["metadata"]
                    if m["namespace"] == "shop" and m["name"] not in self.cluster.pods:
                        self.pod(deployment)
                    if m["namespace"] == "wharf-system" and not self.agent:
                        self.wharf()
                    if m["namespace"] == GATEWAYS and m["name"] not in self.cluster.pods:
                        self.gateway(deployment)
                self.services()
                self.failed = 0
            except Exception:  # told by the test, if it stays
                self.trouble, self.failed = traceback.format_exc(), self.failed + 1

    def pod(self, deployment):
        template = deployment["spec"]["template"]
        container = template["spec"]["containers"][0]
        name = deployment["metadata"]["name"]
        kept = Path("/run/netns", f"{self.cluster.name}-{name}").exists()
        pod = self.cluster.pod("shop", name, template["metadata"]["labels"], account="default")
        environment = {e["name"]: e["value"] for e in container.get("env", [])}
        if not kept:
            pod.start(*self.programs[container["name"]], env=environment)
        pod.wait()

    def gateway(self, deployment):
        name = deployment["metadata"]["name"]
        if service := self.cluster.api.get("v1", "Service", name, GATEWAYS):
            self.cluster.gateway_of(GATEWAYS, name, self.cluster.injected(GATEWAYS, deployment["spec"]["template"]), service)

    def wharf(self):
        api = self.cluster.api
        config = api.get("v1", "ConfigMap", "wharf", "wharf-system")
        if not config:
            return
        d = self.cluster.dir / "tutorial"
        d.mkdir(exist_ok=True)
        text = config["data"]["config.yaml"].replace("0.0.0.0:", f"{self.cluster.host}:")
        (d / "config.yaml").write_text(text)
        (d / "kubeconfig").write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "agent", "contexts": [{"name": "agent", "context": {"cluster": "here", "user": "agent"}}],
            "clusters": [{"name": "here", "cluster": {"server": f"https://127.0.0.1:{self.cluster.port}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "agent", "user": {"token": self.cluster.token("wharf-system", "wharf", "https://kubernetes.default.svc")}}]}))
        env = {"KUBECONFIG": str(d / "kubeconfig"), "POD_NAMESPACE": "wharf-system", "POD_NAME": "wharf-0"}
        self.agent = spawn(d / "log", WHARF, "agent", "--config", d / "config.yaml", env=env)
        self.cluster.apply(peering_endpoints(self.cluster))

    def services(self):
        names = {}
        for service in self.cluster.api.items("v1", "Service", "shop"):
            name, spec = service["metadata"]["name"], service["spec"]
            names[name] = spec["clusterIP"]
            if selector := spec.get("selector"):
                pods = [p for p in self.cluster.pods.values() if p.ns == "shop" and selector.items() <= p.labels.items()]
                self.cluster.endpoints("shop", name, [(p["name"], p["port"], p["port"]) for p in spec["ports"]], pods)
        for pod in self.cluster.pods.values():
            if pod.ns == "shop":
                hosts = Path("/etc/netns") / pod.net / "hosts"
                kept = [line for line in hosts.read_text().splitlines() if not line.endswith(" #shop")]
                text = "\n".join([*kept, *(f"{ip} {name} #shop" for name, ip in names.items())]) + "\n"
                if text != hosts.read_text():
                    with open(hosts, "r+") as f:  # the same file: a namespace holds on to it
                        f.write(text), f.truncate()


def forward(pod, port):
    """`kubectl port-forward`, which needs a kubelet."""
    server = socket.create_server(("127.0.0.1", port))

    def copy(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve():
        while True:
            try:
                a, _ = server.accept()
            except OSError:
                return
            try:
                b = socket.create_connection((pod().ip, port), timeout=10)
            except (OSError, KeyError):  # there is none yet
                a.close()
                continue
            for pair in ((a, b), (b, a)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return server


def chromium(*what):
    """What a browser of its own says. One that hangs has shown nothing: who waits for something looks again."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--no-proxy-server",
             "--window-size=900,800"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        command = ["chromium", *flags, f"--user-data-dir={own}", *what, "http://localhost:8080/"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
        except subprocess.TimeoutExpired:
            return ""


def page():
    """The page as a browser has it."""
    return chromium("--dump-dom")


def photograph(name):
    chromium(f"--screenshot={STATE / name}")


@pytest.fixture
def programs(lab):
    out = STATE / "shop"
    run("go", "build", "-trimpath", "-o", f"{out}/", "./catalog", "./storefront", cwd=SHOP)
    return {"storefront": [out / "storefront"], "catalog": [out / "catalog"], "reviews": ["/usr/bin/python3", SHOP / "reviews/reviews.py"],
            "stock": ["node", SHOP / "stock/stock.mjs"]}


@contextlib.contextmanager
def bare_clusters(lab, agents, programs):
    """The clusters without the tests' agents, for a page that installs its own. Gives the kubelets that start what it installs."""
    for a in agents.values():
        a.stop()
        a.uninstall(gateways={"create": "Deployment"})
        a.cluster.delete(*({"apiVersion": "apps/v1", "kind": "Deployment", **o} for o in a.cluster.api.items("apps/v1", "Deployment", "shop")))
    kubelets = [Kubelet(c, programs) for c in lab.clusters]
    try:
        for k in kubelets:
            k.start()
        yield kubelets
    finally:
        for k in kubelets:
            k.ended.set()
            k.join(10)
            if k.agent:
                k.agent.terminate()
        for a in agents.values():
            a.uninstall(gateways={"create": "Deployment"})
            for pod in [p for p in a.cluster.pods.values() if p.ns == GATEWAYS]:
                pod.remove()
            a.cluster.delete(*({"apiVersion": "apps/v1", "kind": "Deployment", **o} for o in a.cluster.api.items("apps/v1", "Deployment", "shop")))
            a.prepare()
            a.start()


def test_the_tutorial_works_as_it_is_written(lab, agents, programs, tmp_path):
    with bare_clusters(lab, agents, programs) as kubelets:
        follow_tutorial(lab, kubelets, tmp_path)


def follow_tutorial(lab, kubelets, tmp_path):
    shell = PageShell(lab.clusters, tmp_path, private_network="10.0.0.0/8")
    # The one command that needs a kubelet is done by this test.
    kubectl = shell.tools / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncase \" $* \" in *' port-forward '*) exit 0 ;; esac\nexec {BIN / 'kubectl'} \"$@\"\n")
    kubectl.chmod(0o755)
    server = None
    try:
        server = forward(lambda: lab[2].pods["storefront"], 8080)
        seen = 0
        for n, (block, text) in enumerate(BLOCK.findall((ROOT / "docs/tutorial.md").read_text())):
            if block:
                shell.run(block, 90, lambda: troubles(kubelets))
            else:
                until(f"{text!r} on the page", lambda: text in page(), 120, pause=0.5)
                photograph(f"page-{n}.png")
                seen += 1
        assert seen > 8
    finally:
        shell.kill()
        if server:
            server.close()


def troubles(kubelets):
    """What a kubelet could not do again and again."""
    return [k.trouble for k in kubelets if k.failed > 20] or None
