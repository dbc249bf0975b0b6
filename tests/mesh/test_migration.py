"""The pages on migration, followed word by word: docs/migrate-from-service-entries.md and docs/migrate-from-multi-primary.md.

Their commands are run as they stand. Their comments say which URL callers use from there on (`calls`), which one they use no more
(`no calls`), and which one answers (`answers`). Each URL is called forty times a second from the step that names it to the end, and no call
may fail: nothing is left out, also while objects are deleted."""
import base64
import contextlib
import json
import re
import subprocess
import time

import pytest

from api import obj
from calls import address, ok, split
from shell import PageShell
from test_own_gateways import carried
from tools import BIN
from wharf import GROUP, ROOT, until

BLOCK = re.compile(r"```sh\n(.*?)```|<!-- (calls|no calls|answers): (\S+) -->", re.DOTALL)
RATE = 40
VIP = {"inventory.store.global": "240.240.0.10"}  # cluster DNS would answer it (DNS capture)


class Callers:
    """Calls of one URL that go on until they are ended. Each is in the file as soon as it is done."""

    def __init__(self, pod, url, to, folder):
        self.url, self.path = url, folder / re.sub(r"\W+", "-", url)
        self.out = open(self.path, "w")
        command = pod.command(BIN / "labapp", "load", url, "-to", to, "-rate", RATE, "-for", "1h", "-timeout", "5s", "-bodies")
        self.process = subprocess.Popen(command, stdout=self.out, stderr=subprocess.STDOUT)

    def told(self):
        whole = self.path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def go_on(self, calls=RATE):
        """Waits for that many calls more, so that what was done last is seen by some."""
        before = len(self.told())
        until(f"more calls of {self.url}", lambda: len(self.told()) >= before + calls, 60)

    def end(self):
        self.process.terminate()
        self.process.wait(15)
        self.out.close()
        return self.told()


class Walk:
    """A page that is followed."""

    def __init__(self, lab, caller, folder, **env):
        self.lab, self.caller, self.folder = lab, caller, folder
        self.running, self.ended, self.steps = {}, [], []
        self.shell = PageShell(lab.clusters, folder, **env)

    def follow(self, text, before=lambda: None):
        """Runs the blocks of a text in order. `before` does beside them what a kubelet would."""
        for block, what, url in BLOCK.findall(text):
            if block:
                self.run(block)
                before()
            elif what == "no calls":
                self.stop(url)
            else:
                self.answers(url)
                if what == "calls":
                    self.running[url] = Callers(self.caller, url, self.address(url), self.folder)
            for callers in self.running.values():
                callers.go_on()

    def run(self, block):
        self.steps.append((time.time(), block.strip().splitlines()[0]))
        try:
            self.shell.run(block)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.statuses()}") from None

    def statuses(self):
        kinds = "serviceexpositionpolicies,remoteservicebindings"
        return "\n".join(c.kubectl("get", kinds, "--all-namespaces", "--output", "wide", check=False) for c in self.lab.clusters)

    def address(self, url):
        host, port, _ = split(url)
        return f"{VIP.get(host) or address(self.caller, host)}:{port}"

    def answers(self, url):
        """Waits until it answers: objects that are written reach the proxies a moment later."""
        to = lambda: self.caller.app("load", url, "-to", self.address(url), "-n", 1, "-timeout", "5s")[0]
        until(f"an answer of {url}", lambda: ok(to()), 60, told=to)

    def stop(self, url):
        callers = self.running.pop(url)
        callers.go_on()
        self.ended.append((url, callers.end()))

    def end(self):
        """Ends all calls. Gives those of each URL."""
        self.shell.kill()
        for url in list(self.running):
            self.ended.append((url, self.running.pop(url).end()))
        return self.ended


def no_call_failed(page, figures):
    for url, calls in page.end():
        failed = [c for c in calls if c.get("status") != 200]
        figures[url] = {"calls": len(calls), "failed": len(failed), "slowest": round(max(c["took"] for c in calls), 2)}
        assert not failed, (url, figures[url], [(c, [line for at, line in page.steps if at < c["at"]][-1:]) for c in failed[:3]])
        assert len(calls) >= RATE, (url, figures[url])
    print(figures)


@contextlib.contextmanager
def walk(lab, agents, name, tmp_path):
    """The pods of a page: one that serves in cluster1, and one that calls in cluster2."""
    one, two = lab[1], lab[2]
    pods = [one.pod("store", name, http=8080), two.pod("store", f"of-{name}")]
    for pod in pods:
        pod.wait()
    page = Walk(lab, pods[1], tmp_path)
    try:
        yield page
    finally:
        page.end()
        for c in (one, two):
            for kind in ("ServiceExpositionPolicy", "RemoteServiceBinding"):
                c.delete(*({"apiVersion": GROUP, "kind": kind, **o} for o in c.api.items(GROUP, kind, "store")))
            for kind in ("ServiceEntry", "DestinationRule"):
                c.delete(*(obj("networking.istio.io/v1", kind, o["metadata"]["name"], "store") for o in c.api.items("networking.istio.io/v1", kind, "store")))
            c.delete(obj("networking.istio.io/v1", "Gateway", "cross-network-gateway", "istio-system"), obj("v1", "Service", name, "store"),
                     obj("discovery.k8s.io/v1", "EndpointSlice", f"{name}-lab", "store"))
        for pod in pods:
            pod.remove()


def test_a_service_entry_is_replaced_while_its_callers_go_on(lab, agents, tmp_path):
    one, figures = lab[1], {}
    with walk(lab, agents, "inventory", tmp_path) as page:
        pod = one.pods["inventory"]
        page.follow((ROOT / "docs/migrate-from-service-entries.md").read_text(), before=lambda: one.endpoints("store", "inventory", [("http", 80, 8080)], [pod]))
        no_call_failed(page, figures)
        assert len(figures) == 2, figures
        carried = lab[2].pods["egress"].envoy("clusters")
        assert "remote.inventory.store" in carried, "calls went by the binding"


def remote_secret(here, there):
    """As `istioctl create-remote-secret --name=<there>` makes it."""
    config = {"apiVersion": "v1", "kind": "Config", "current-context": there.name,
              "clusters": [{"name": there.name, "cluster": {"server": f"https://{there.host}:{there.port}",
                                                            "certificate-authority-data": base64.b64encode((there.dir / "certs/apiserver.crt").read_bytes()).decode()}}],
              "users": [{"name": there.name, "user": {"token": "lab"}}], "contexts": [{"name": there.name, "context": {"cluster": there.name, "user": there.name}}]}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {
        "name": f"istio-remote-secret-{there.name}", "namespace": "istio-system", "labels": {"istio/multiCluster": "true"},
        "annotations": {"networking.istio.io/cluster": there.name}}, "stringData": {there.name: json.dumps(config)}}


@pytest.fixture
def one_mesh(lab):
    """istiod of cluster2 reads cluster1, too, and takes its pods for its own."""
    two = lab[2]
    secret = remote_secret(two, lab[1])
    two.mesh_settings = {"trustDomainAliases": [lab[1].trust_domain]}
    try:
        two.apply(secret)
        two.restart_istiod()
        yield
    finally:
        two.mesh_settings = {}
        two.delete(obj("v1", "Secret", secret["metadata"]["name"], "istio-system"))
        two.restart_istiod()


def test_a_service_leaves_a_multi_primary_mesh_while_its_callers_go_on(lab, agents, one_mesh, tmp_path):
    one, figures = lab[1], {}
    with walk(lab, agents, "pricing", tmp_path) as page:
        pod = one.pods["pricing"]
        page.follow((ROOT / "docs/migrate-from-multi-primary.md").read_text(), before=lambda: one.endpoints("store", "pricing", [("http", 80, 8080)], [pod]))
        no_call_failed(page, figures)
        assert carried(one.pods["ingress"], "pricing") > 2 * RATE, "callers were led to the binding"
