"""`istioctl validate` and `istioctl analyze` find nothing in what translation writes: the examples, the inputs of its
snapshots, and inputs made at random (from fixed seeds). For these no cluster is needed. But many of istioctl's analyzers look at real
clusters only: the last test has them look at these, with all that may stand there."""
import json
import random
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from conftest import CARRIED, DIRECT, EGRESS
from test_behaviour import subsets, to, virtual_service
from tools import BIN
from wharf import ROOT, WHARF

EXAMPLES = ROOT / "tests/fast/translate/examples"
BOOKINFO = ROOT / "examples/bookinfo"
STYLES = ("EGRESS_INGRESS", "DIRECT_INGRESS")
MODES = ("Cluster", "Workload", "Passthrough")


VALIDATED = []  # what the tests of this file wrote: validated by one call at the end, since each costs seconds


def translate(*args, cwd=ROOT):
    done = subprocess.run([WHARF, "translate", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr  # 1: some of the input cannot be done, and the rest is printed
    return done.stdout


def facts(own):
    """What is in a cluster anyway, so that an analysis has what it may refer to."""
    gateway = lambda kind: {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"istio-{kind}gateway", "namespace": "istio-system"},
                            "spec": {"selector": {"istio": f"{kind}gateway"}, "ports": [{"name": "tls", "port": 15443}]}}
    pod = lambda kind: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": kind, "namespace": "istio-system", "labels": {"istio": f"{kind}gateway"}},
                        "spec": {"containers": [{"name": "istio-proxy", "image": "proxy"}]}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wharf-identity", "namespace": "istio-system"}}
    spaces = {o["metadata"].get("namespace", "default") for o in own} | {"istio-system"}
    names = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": {"istio-injection": "enabled"}}} for n in spaces]
    # The owner's own gateways, which their VirtualServices name.
    theirs = {g for o in own if o["kind"] == "VirtualService" for g in o["spec"].get("gateways", []) if g != "mesh"}
    hosts = sorted({h if "." in h else f"{h}.{o['metadata'].get('namespace', 'default')}.svc.cluster.local" for o in own if o["kind"] == "VirtualService" for h in o["spec"]["hosts"]})
    owners = [{"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": g, "namespace": own[0]["metadata"].get("namespace", "default")},
               "spec": {"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": hosts}]}} for g in sorted(theirs)]
    return [*owners, *names, gateway("ingress"), gateway("egress"), pod("ingress"), pod("egress"), secret, *own]


def opinion(tmp_path, written, own, remember=True):
    """Whatever istioctl has to say, except of the owners' own objects."""
    objects = [o for o in yaml.safe_load_all(written) if o]
    if not objects:
        return []
    out, there = tmp_path / "written.yaml", tmp_path / "there.yaml"
    out.write_text(written)
    names = {(o["kind"], o["metadata"].get("namespace", "default"), o["metadata"]["name"]) for o in objects}
    own = [o for o in own if o["kind"] in ("Service", "DestinationRule", "VirtualService", "Namespace")]
    there.write_text(yaml.safe_dump_all(o for o in facts(own) if (o["kind"], o["metadata"].get("namespace", "default"), o["metadata"]["name"]) not in names))
    if remember:
        VALIDATED.append(written)
    done = subprocess.run([BIN / "istioctl", "analyze", "--use-kube=false", "--all-namespaces", "-o", "json", "--failure-threshold", "Info", out, there], capture_output=True, text=True, timeout=120)
    try:
        messages = json.loads(done.stdout or "[]")
    except ValueError:
        return [done.stdout + done.stderr]
    ours = lambda m: any(f"{k} {ns}/{n}" == m["origin"] for k, ns, n in names)
    return [m for m in messages if ours(m) or m["level"] == "Error"]


MISTAKES = {
    "a subset that nobody defines": lambda o: o["kind"] == "VirtualService" and o["spec"]["http"][0]["route"][0]["destination"].update(subset="nobodys"),
    "a gateway that is not there": lambda o: o["kind"] == "VirtualService" and o["spec"].update(gateways=["nobodys"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_found(tmp_path, mistake):
    """Or else silence would say nothing."""
    policy, own = some_donor(random.Random(1))
    policy["spec"]["exposed"] = [{"name": own[0]["metadata"]["name"], "tls": "Cluster"}]
    (tmp_path / "in.yaml").write_text(yaml.safe_dump_all([policy, *own]))
    written = [o for o in yaml.safe_load_all(translate("--config", config(tmp_path, "cluster1"), "-f", tmp_path / "in.yaml")) if o]
    for o in written:
        if o["kind"] == "VirtualService":
            o["spec"]["http"] = [h for h in o["spec"]["http"] if "route" in h]
    assert [o for o in written if MISTAKES[mistake](o) is None]
    assert opinion(tmp_path, yaml.safe_dump_all(written), own, remember=False)


def documents(*files):
    return [o for f in files for o in yaml.safe_load_all(Path(f).read_text()) if o]


@pytest.mark.parametrize("mode", MODES)
def test_of_the_bookinfo_of_a_donor(tmp_path, mode):
    files = [BOOKINFO / "donor" / f for f in ("policy.yaml", "services.yaml", "rules.yaml")]
    written = translate("--config", ROOT / "examples/config/cluster1.yaml", "--tls", mode, "-f", *files)
    assert not opinion(tmp_path, written, documents(*files[1:]))


@pytest.mark.parametrize("style", STYLES)
def test_of_the_bookinfo_of_an_acceptor(tmp_path, style):
    written = translate("--config", ROOT / "examples/config/cluster2.yaml", "--style", style, "-f", BOOKINFO / "acceptor/binding.yaml")
    assert not opinion(tmp_path, written, [])


@pytest.mark.parametrize("example", sorted(e.name for e in EXAMPLES.iterdir() if e.is_dir() and e.name != "gen-binding"))
def test_of_each_example_of_translation(tmp_path, example):
    arguments = shlex.split((EXAMPLES / example / "args").read_text())
    files = [EXAMPLES / example / f for f in arguments if f.endswith(".yaml")]
    own = [o for f in files if f.exists() for o in documents(f) if isinstance(o, dict) and o.get("kind") in ("Service", "DestinationRule", "VirtualService")]
    assert not opinion(tmp_path, translate(*arguments, cwd=EXAMPLES / example), own)


# ---------------------------------------------------------------- at random

PORTS = [("http", "HTTP"), ("http2", "HTTP2"), ("grpc", "GRPC"), ("tcp", "TCP")]


def some_donor(r):
    own, entries = [], []
    for i in range(r.randint(1, 4)):
        name, ns = f"{r.choice(['till', 'ledger', 'a-b', 'books'])}{i}", "shop"
        ports = r.sample(PORTS, r.randint(1, 3))
        own.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": ns},
                    "spec": {"selector": {"app": name}, "ports": [{"name": p, "port": 80 + k} for k, (p, _) in enumerate(ports)]}})
        versions = r.random() < 0.6
        if versions:
            own.append({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name, "namespace": ns},
                        "spec": {"host": f"{name}.{ns}.svc.cluster.local", "subsets": [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]}})
        entry = {"name": name, "tls": r.choice(MODES)}
        if r.random() < 0.4:
            entry["alias"] = f"{name}-public"
        if r.random() < 0.3:
            entry["clients"] = [{"cluster": "cluster2", "namespace": "office", **({"serviceAccount": "clerk"} if r.random() < 0.5 else {})}]
        elif r.random() < 0.7:
            entry["clusters"] = ["cluster2"]
        if versions and r.random() < 0.4:
            entry["subset"] = "v1"
        elif versions and entry["tls"] != "Passthrough" and ports[0][1] in ("HTTP", "HTTP2") and r.random() < 0.6:
            own.append({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": ns},
                        "spec": {"hosts": [name], "http": [
                            {"match": [{"uri": {"prefix": "/v2"}}, {"headers": {"x": {"exact": "2"}}}], "timeout": "2s", "route": [{"destination": {"host": name, "subset": "v2", "port": {"number": 80}}}]},
                            {"retries": {"attempts": 2, "retryOn": "5xx"}, "route": [{"destination": {"host": name, "subset": "v1", "port": {"number": 80}}, "weight": 60},
                                                                                    {"destination": {"host": name, "subset": "v2", "port": {"number": 80}}, "weight": 40}]}]}})
            entry["virtualService"] = name
        entries.append(entry)
    policy = {"apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": {"exposed": entries}}
    return policy, own


def some_acceptor(r, style):
    offers, remote = [], []
    for cluster in r.sample(["cluster1", "cluster3"], r.randint(1, 2)):
        services = []
        for name in r.sample(["till", "ledger", "books"], r.randint(1, 3)):
            mode = r.choice(MODES[1:] if style == "DIRECT_INGRESS" else MODES)
            ports = r.sample(PORTS, r.randint(1, 3))
            offers.append({"cluster": cluster, "namespace": "shop", "name": name, "tls": mode,
                           "ports": [{"number": 80 + k, "name": n, "protocol": p} for k, (n, p) in enumerate(ports)],
                           "gateways": [{"address": a, "port": 15443} for a in r.sample(["192.0.2.1", "192.0.2.2", "gw.example.com", "2001:db8::1"], r.randint(1, 2))]})
            services.append({"name": name, "namespace": "shop", **({"alias": f"{name}-x"} if r.random() < 0.3 else {}), **({"weight": r.randint(1, 9)} if r.random() < 0.4 else {}),
                             **({"priority": r.randint(0, 1)} if r.random() < 0.3 else {})})
        remote.append({"cluster": cluster, "services": services})
    binding = {"apiVersion": "multicluster.istio.io/v1alpha1", "kind": "RemoteServiceBinding", "metadata": {"name": "b", "namespace": "office"}, "spec": {"remote": remote}}
    return binding, {"expositions": offers}


CONFIG = {"cluster": "", "identity": {"certificate": "c", "key": "k", "root": "r"}, "ingress": {"address": ["192.0.2.9"]}, "store": {"dir": "."}}


def config(tmp_path, cluster):
    peers = [{"name": f"cluster{i}", "endpoint": "192.0.2.8:7443", "consume": True, "trustDomain": f"cluster{i}"} for i in (1, 2, 3) if f"cluster{i}" != cluster]
    file = tmp_path / f"{cluster}.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, "cluster": cluster, "trustDomain": cluster, "peers": peers}))
    return file


@pytest.mark.parametrize("seed", range(30))
def test_of_donors_at_random(tmp_path, seed):
    policy, own = some_donor(random.Random(seed))
    (tmp_path / "in.yaml").write_text(yaml.safe_dump_all([policy, *own]))
    written = translate("--config", config(tmp_path, "cluster1"), "-f", tmp_path / "in.yaml")
    assert written
    assert not opinion(tmp_path, written, own)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(20))
def test_of_acceptors_at_random(tmp_path, style, seed):
    binding, offers = some_acceptor(random.Random(seed), style)
    (tmp_path / "in.yaml").write_text(yaml.safe_dump(binding))
    (tmp_path / "offers.yaml").write_text(yaml.safe_dump(offers))
    written = translate("--config", config(tmp_path, "cluster2"), "--style", style, "--expositions", tmp_path / "offers.yaml", "-f", tmp_path / "in.yaml")
    assert not opinion(tmp_path, written, [])


# What Istio says of each EnvoyFilter, whatever is in it. docs/decisions/0010 says why there is one, and what holds without it.
OF_EACH_ENVOY_FILTER = ("EnvoyFilter exposes internal implementation details that may change at any time. Prefer other APIs if possible, "
                        "and exercise extreme caution, especially around upgrades.")


def test_validate_finds_nothing_in_any_of_them(tmp_path):
    assert len(VALIDATED) > 20, "the tests above have written something"
    for i, written in enumerate(VALIDATED):
        (tmp_path / f"{i}.yaml").write_text(written)
    said = subprocess.run([BIN / "istioctl", "validate", "-f", tmp_path], capture_output=True, text=True, timeout=300)
    lines = [line.strip() for line in (said.stdout + said.stderr).splitlines()]
    found = [line for line in lines if line and not line.endswith((" is valid", " has warnings:"))]
    others = [line for line in found if not (line.startswith("* EnvoyFilter/") and line.endswith(OF_EACH_ENVOY_FILTER))]
    assert said.returncode == 0 and not others, others


CLIENTS_HOLD = [(EGRESS, "Cluster"), (DIRECT, "Workload")]


def test_analyze_finds_nothing_on_real_clusters(lab, ways):
    """One of each: modes and styles, HTTP, gRPC and TCP, a subset, a VirtualService's behaviour, clients, two donors."""
    for i, (style, mode) in enumerate(CARRIED):
        way = ways(style, mode)
        way.service([("http", 80, 8080), ("grpc", 9000, 9000), ("tcp", 7000, 7000)])
        way.own(way.donor, subsets(way.name), virtual_service(way.name, {"timeout": "5s", "route": [to(way.name, subset="v1")]}))
        more = {"virtualService": way.name} if mode != "Passthrough" and i % 2 else {"subset": "v2"}
        if (style, mode) in CLIENTS_HOLD:
            more["clients"] = [{"cluster": way.acceptor.name, "namespace": "default", "serviceAccount": "caller"}]
        way.expose(**more)
        way.bind()
    both = ways(EGRESS, "Cluster")
    for donor in (lab[1], lab[3]):
        both.service(cluster=donor)
        both.expose(cluster=donor, clusters=["cluster2"])
    both.bind(("cluster1", {"name": both.name}), ("cluster3", {"name": both.name, "priority": 1}), cluster=lab[2])
    written = {c.name: {(o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]) for o in both.agent(c).written()} for c in lab.clusters}
    assert {kind for objects in written.values() for kind, *_ in objects} >= {"Gateway", "VirtualService", "DestinationRule", "ServiceEntry", "AuthorizationPolicy", "EnvoyFilter", "Service"}
    said = {}
    for c in lab.clusters:
        done = subprocess.run([BIN / "istioctl", "analyze", "--kubeconfig", c.kubeconfig, "--all-namespaces", "-o", "json"], capture_output=True, text=True, timeout=120)
        for m in json.loads(done.stdout):
            if any(m["origin"] == f"{kind} {ns}/{name}" for kind, ns, name in written[c.name]):
                said[f"{c.name}: {m['origin']}"] = (m["code"], m["message"])
    assert not said, "\n".join(f"{what}: {code} {message}" for what, (code, message) in said.items())

