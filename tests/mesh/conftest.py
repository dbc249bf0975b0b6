"""Three clusters for all tests: cluster1 donates, cluster2 consumes in the style EGRESS_INGRESS, cluster3 in DIRECT_INGRESS.

A test has services and policies of its own, under names of its own, and takes them away again. LAB_KEEP=1 keeps the clusters for the
next run, LAB_DRAIN sets the gateways' drain time (5s)."""
import itertools
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "lab"), str(Path(__file__).resolve().parent)]

import mesh
from api import obj
from calls import call, ok
from tools import STATE
from wharf import Agent, Pki, binding, policy, until

ECHO = {"http": 8080, "h2c": 8082, "grpc": 9000, "tcp": 7000, "greet": 7001}
EGRESS, DIRECT = "EGRESS_INGRESS", "DIRECT_INGRESS"
CARRIED = [(EGRESS, "Cluster"), (EGRESS, "Workload"), (EGRESS, "Passthrough"), (DIRECT, "Workload"), (DIRECT, "Passthrough")]
# Of tests that are about seconds, of which other work on the machine takes some: what is missed once is measured once more. The run
# ends with what was missed, and its last line counts it ("rerun"). Who gets in is asked once.
TIMED = pytest.mark.flaky(reruns=1)
HTTP_AT_THE_GATEWAY = [c for c in CARRIED if c[1] != "Passthrough"]


CLAIMS = os.environ.get("MESH_CLAIMS")  # of meshes side by side: see run.py
claimed, ran = {}, []


def pytest_collection_modifyitems(items):
    if CLAIMS:
        # The longest first, so that no mesh is left alone with one.
        many = Counter(item.path for item in items)
        items.sort(key=lambda item: (-many[item.path], item.path.name))


def is_ours(path):
    """Whether this mesh runs the tests of a file: it does if it comes to it first."""
    if path not in claimed:
        try:
            os.close(os.open(Path(CLAIMS, path.name), os.O_CREAT | os.O_EXCL))
            claimed[path] = True
        except FileExistsError:
            claimed[path] = False
    return claimed[path]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    if CLAIMS and not is_ours(item.path):
        return True
    ran.append(item)
    return None


def pytest_sessionfinish(session):
    if CLAIMS:
        for name, number in (("ran", len(ran)), ("collected", session.testscollected)):
            with open(Path(CLAIMS, name), "a") as told:
                told.write(f"{number}\n")


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.write_line(f"measured once more: {report.nodeid}: {report.longrepr.reprcrash.message}")


@pytest.fixture(scope="session")
def lab():
    if why := mesh.missing():
        pytest.skip(f"no mesh can run here: {why}")
    keep = bool(os.environ.get("LAB_KEEP"))
    lab = mesh.Lab(3, drain=os.environ.get("LAB_DRAIN", "5s")).up(keep)
    one, two, three = lab.clusters
    for c in (one, three):
        for version in ("v1", "v2") if c is one else ("v1",):
            c.pod("default", f"echo-{version}", {"app": "echo", "version": version}, account="echo", **ECHO)
    one.pod("default", "secret", http=8080)
    one.pod("default", "local")
    two.pod("default", "caller")
    two.pod("other", "stranger")
    three.pod("default", "caller")
    lab.wait()
    yield lab
    if not keep:
        mesh.down()


@pytest.fixture(scope="session")
def pki(lab):
    shutil.rmtree(STATE / "pki", ignore_errors=True)
    shutil.rmtree(STATE / "other-root", ignore_errors=True)
    return Pki(STATE / "pki")


@pytest.fixture(scope="session")
def agents(lab, pki):
    agents = {c.name: Agent(c, pki, [p for p in lab.clusters if p is not c], style=DIRECT if c.index == 3 else EGRESS) for c in lab.clusters}
    for a in agents.values():
        a.prepare()
    for a in agents.values():
        a.start()
    yield agents
    for a in agents.values():
        a.stop()


names = itertools.count(1)


class Way:
    """A service of the donor, exposed in one TLS mode, and an acceptor of one style."""

    def __init__(self, lab, agents, style, mode):
        self.lab, self.agents, self.style, self.mode = lab, agents, style, mode
        self.donor = lab[1]
        self.acceptor, self.other = (lab[2], lab[3]) if style == EGRESS else (lab[3], lab[2])
        self.caller = self.acceptor.pods["caller"]
        self.name = f"s{next(names)}"
        self.host = f"{self.name}.default.svc.cluster.local"
        # Acceptors call each port by a host of its own; the bare one is there for peers of 0.1, of an only port.
        self.sni = f"p80.{self.host}"
        self.made = []

    def agent(self, cluster):
        return self.agents[cluster.name]

    def own(self, cluster, *objects):
        self.agent(cluster).own(*objects)
        self.made += [(self.agent(cluster).disown, o) for o in objects]

    def put(self, cluster, *objects, wait=True):
        agent = self.agent(cluster)
        agent.put(*objects)
        self.made += [(agent.remove, o) for o in objects]
        for o in objects if wait else ():
            until(f"{o['kind']} {o['metadata']['name']} programmed", lambda: agent.programmed(o), 40)

    def service(self, ports=(("http", 80, 8080),), cluster=None, name=None, selector=None, ns="default", **kw):
        cluster, selector = cluster or self.donor, selector or {"app": "echo"}
        pods = [p for p in cluster.pods.values() if p.ns == ns and all(p.labels.get(k) == v for k, v in selector.items())]
        service = cluster.service(ns, name or self.name, ports, selector, pods, **kw)
        self.own(cluster, service)
        # Nobody else takes the endpoints away, and whoever has this name next would have them.
        self.made.append((cluster.delete, obj("discovery.k8s.io/v1", "EndpointSlice", f"{service['metadata']['name']}-lab", ns)))
        return service

    def expose(self, cluster=None, clusters=None, name=None, **entry):
        cluster = cluster or self.donor
        p = policy(name or self.name, {"name": name or self.name, "tls": self.mode, "clusters": clusters or [self.acceptor.name], **entry})
        self.put(cluster, p)
        return p

    def bind(self, *remotes, cluster=None, name=None, ns="default"):
        b = binding(name or self.name, *(remotes or [(self.donor.name, {"name": self.name})]), ns=ns)
        self.put(cluster or self.acceptor, b)
        return b

    def url(self, path="/"):
        return f"http://{self.name}:80{path}"

    def works(self, seconds=20):
        told = []

        def answered():
            told[:] = [call(self.caller, self.url())]
            return told[0] if ok(told[0]) else None

        try:
            return until(f"{self.name} over {self.style}, {self.mode}", answered, seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}; answered: {told[0]}") from None

    def through(self, **entry):
        """The usual: one HTTP service, exposed to the acceptor, bound, and seen to work."""
        self.service()
        p = self.expose(**entry)
        b = self.bind()
        self.works()
        return p, b

    def clean(self):
        for undo, o in reversed(self.made):
            undo(o)


@pytest.fixture
def ways(lab, agents):
    made = []

    def way(style=EGRESS, mode="Cluster"):
        made.append(Way(lab, agents, style, mode))
        return made[-1]

    yield way
    for w in made:
        w.clean()


@pytest.fixture(params=CARRIED, ids=lambda c: f"{c[0]}-{c[1]}")
def way(request, ways):
    return ways(*request.param)


@pytest.fixture(params=HTTP_AT_THE_GATEWAY, ids=lambda c: f"{c[0]}-{c[1]}")
def http_way(request, ways):
    return ways(*request.param)
