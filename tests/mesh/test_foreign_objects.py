"""What a real istiod makes of others' DestinationRules beside Wharf's at an acceptor, and that Wharf tells of those, and only of those, that
take calls away.

A caller's sidecar asks the istiod for its clusters. Nothing is called. All of it is on loopback and needs no root."""
import json
import subprocess

import pytest
import yaml

from api import obj as any_obj
from test_envoy_accepts import Envoy, Mesh, free_port, obj
from test_istios_opinion import CONFIG
from wharf import WHARF, binding, until

OFFICE, ROOT = "office", "istio-system"
GATEWAY = f"istio-egressgateway.{ROOT}.svc.cluster.local"
# The style, with its local name and the mode in which it is offered.
STYLES = {"EGRESS_INGRESS": ("checkout", "Cluster"), "DIRECT_INGRESS": ("stock", "Workload")}
RANDOM = {"trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}


class Caller(Envoy):
    NODE = {"id": f"sidecar~127.0.0.8~caller.{OFFICE}~{OFFICE}.svc.cluster.local", "cluster": f"caller.{OFFICE}",
            "metadata": {"NAMESPACE": OFFICE, "CLUSTER_ID": "Kubernetes", "LABELS": {"app": "caller"}}}


class Case:
    """A rule of somebody else. `lost`: callers in the office lose their way; `said`: the words in which Wharf tells of it."""

    def __init__(self, style, ns, host, export_to=None, lost=False, said="", first=False, selector=None):
        self.style, self.lost, self.said, self.first = style, lost, said, first
        more = {**({"exportTo": export_to} if export_to else {}), **({"workloadSelector": {"matchLabels": selector}} if selector else {})}
        self.rule = obj("DestinationRule", "a-leftover", ns, {"host": host, **RANDOM, **more})


HERE, SOME = "calls from this namespace fail: its DestinationRule a-leftover", "calls from this namespace may fail: a DestinationRule for the egress gateway"
TAKEN = "the DestinationRule a-leftover sets how calls of"
CASES = {
    "a rule of the callers for the gateway": Case("EGRESS_INGRESS", OFFICE, GATEWAY, lost=True, said=HERE),
    "a rule of the callers for everything": Case("EGRESS_INGRESS", OFFICE, "*.local", lost=True, said=HERE),
    "a rule of the callers that they alone see": Case("EGRESS_INGRESS", OFFICE, "*.local", ["."], lost=True, said=HERE),
    "a rule for the caller alone": Case("EGRESS_INGRESS", OFFICE, GATEWAY, lost=True, said=HERE, selector={"app": "caller"}),
    "a rule for another workload beside the caller": Case("EGRESS_INGRESS", OFFICE, GATEWAY, lost=True, said=HERE, selector={"app": "other"}),
    "a rule for everything, for another workload beside the caller": Case("EGRESS_INGRESS", OFFICE, "*.local", lost=True, said=HERE, selector={"app": "other"}),
    "a rule beside the gateway, for some workloads there": Case("EGRESS_INGRESS", ROOT, GATEWAY, selector={"app": "caller"}),
    "a rule of the callers for others": Case("EGRESS_INGRESS", OFFICE, GATEWAY, ["lab"]),
    "a rule of others": Case("EGRESS_INGRESS", "lab", GATEWAY),
    "a rule for everybody": Case("EGRESS_INGRESS", ROOT, "*.local"),
    "a rule beside the gateway": Case("EGRESS_INGRESS", ROOT, GATEWAY, ["*"]),
    "a newer rule beside the gateway, for the callers": Case("EGRESS_INGRESS", ROOT, GATEWAY, [OFFICE], lost=True, said=SOME),
    "a newer rule beside the gateway, for others": Case("EGRESS_INGRESS", ROOT, GATEWAY, ["lab"]),
    "an older rule beside the gateway, for others": Case("EGRESS_INGRESS", ROOT, GATEWAY, ["lab"], first=True),
    "an older rule beside the gateway, for all by name": Case("EGRESS_INGRESS", ROOT, GATEWAY, ["*", OFFICE], first=True),
    "a short name that is none": Case("EGRESS_INGRESS", OFFICE, "istio-egressgateway.istio-system"),
    "a leftover rule of the name": Case("DIRECT_INGRESS", OFFICE, "stock", lost=True, said=TAKEN),
    "a leftover rule of the full name": Case("DIRECT_INGRESS", OFFICE, "stock.office.svc.cluster.local", lost=True, said=TAKEN),
    "a leftover rule of the name, for the caller alone": Case("DIRECT_INGRESS", OFFICE, "stock", lost=True, said=TAKEN, selector={"app": "caller"}),
    "a wider rule beside the name": Case("DIRECT_INGRESS", OFFICE, "*.office.svc.cluster.local"),
    "a leftover rule of the name for everybody": Case("DIRECT_INGRESS", ROOT, "stock.office.svc.cluster.local"),
}


def translated(folder, style, *theirs):
    """What Wharf writes for the local name of a style beside objects of others, and what it says."""
    name, mode = STYLES[style]
    identity = "spiffe://wharf/cluster/cluster1" if mode == "Cluster" else f"spiffe://cluster1/ns/{ROOT}/sa/istio-ingressgateway"
    offer = {"cluster": "cluster1", "name": "till", "namespace": "shop", "tls": mode, "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "identities": [identity],
             "gateways": [{"address": "192.0.2.9", "port": 15443}]}
    config = {**CONFIG, "cluster": "cluster2", "style": style, "trustDomain": "cluster2", "peers": [{"name": "cluster1", "endpoint": "192.0.2.8:7443", "trustDomain": "cluster1"}]}
    own = [binding("suppliers", ("cluster1", {"name": "till", "namespace": "shop", "alias": name, "port": 80}), ns=OFFICE), *theirs]
    for file, documents in (("config.yaml", [config]), ("in.yaml", own), ("offers.yaml", [{"expositions": [offer]}])):
        (folder / file).write_text(yaml.safe_dump_all(documents))
    done = subprocess.run([WHARF, "translate", "--config", folder / "config.yaml", "-f", folder / "in.yaml", "--expositions", folder / "offers.yaml"], capture_output=True, text=True, timeout=60)
    return [o for o in yaml.safe_load_all(done.stdout) if o], done.stderr


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    mesh = Mesh(tmp_path_factory.mktemp("mesh"), proxyListenPort=free_port(), proxyInboundListenPort=free_port())
    try:
        mesh.start_api_server()
        mesh.api.apply(*(any_obj("v1", "Namespace", ns) for ns in (OFFICE, "lab")))
        mesh.api.apply(any_obj("v1", "Service", "istio-egressgateway", ROOT, {"selector": {"istio": "egressgateway"}, "ports": [{"name": "tls", "port": 15443}]}),
                       any_obj("v1", "Service", "marker", OFFICE, {"selector": {"app": "marker"}, "ports": [{"name": "http", "port": 80}]}))
        mesh.written = {}
        for style in STYLES:
            mesh.written[style], said = translated(mesh.folder, style)
            assert mesh.written[style] and not said, said
            mesh.api.apply(*mesh.written[style])
        mesh.start_istiod()
        mesh.caller = Caller(mesh, "cds")
        yield mesh
    finally:
        mesh.stop()


def has_its_way(mesh, style):
    """Whether callers in the office have the cluster that leads on: to the egress gateway's listener, or with the donor's name in TLS."""
    clusters = {c["name"]: c for c in mesh.caller.dumped("ClustersConfigDump", ["dynamic_active_clusters", "dynamic_warming_clusters"], "cluster")}
    if style == "EGRESS_INGRESS":
        return f"outbound|15443|wharf|{GATEWAY}" in clusters
    return "till.shop.svc.cluster.local" in json.dumps(clusters.get("outbound|80||stock.office.svc.cluster.local", {}).get("transport_socket", {}))


marks = iter(range(1000))


def settle(mesh):
    """Waits until the caller has what was written before: istiod hears of rules in the order in which they were written."""
    mark = f"m{next(marks)}"
    mesh.api.apply(obj("DestinationRule", "marker", OFFICE, {"host": "marker", "subsets": [{"name": mark}]}))
    until("the last change", lambda: f"outbound|80|{mark}|marker.office.svc.cluster.local" in mesh.caller.clusters(), 30)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_wharf_tells_of_the_rules_that_take_calls_away_and_of_no_others(mesh, case):
    settle(mesh)
    assert has_its_way(mesh, case.style)
    again = [o for o in mesh.written[case.style] if o["kind"] == "DestinationRule"] if case.first else []
    try:
        mesh.api.delete(*again)
        mesh.api.apply(case.rule)
        mesh.api.apply(*again)
        settle(mesh)
        assert has_its_way(mesh, case.style) != case.lost
        said = translated(mesh.folder, case.style, case.rule)[1]
        told = [line for line in said.splitlines() if "RemoteServiceBinding" in line]
        assert any(case.said in line for line in told) if case.said else not told, said
    finally:
        mesh.api.delete(case.rule)
        mesh.api.delete(*again)
        mesh.api.apply(*again)
