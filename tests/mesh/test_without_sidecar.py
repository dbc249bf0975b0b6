"""Callers without a sidecar: what they get, and the way that there is for them."""
import pytest

from calls import address
from conftest import DIRECT, EGRESS
from wharf import until


def plain(cluster):
    return cluster.pods.get("plain") or cluster.pod("default", "plain", sidecar=False)


def get(pod, ip, port, host):
    return pod.app("load", f"http://{host}:{port}/", "-to", f"{ip}:{port}", "-n", "1", "-timeout", "2s")[0]


@pytest.mark.parametrize("style,mode", [(EGRESS, "Cluster"), (DIRECT, "Workload")], ids=lambda v: v)
def test_the_name_alone_leads_a_caller_without_a_sidecar_nowhere(ways, style, mode):
    """The stub Service has no endpoints, and the gateways ask for a certificate: it fails, and is never let in."""
    way = ways(style, mode)
    way.through()
    pod = plain(way.acceptor)
    assert not get(pod, address(way.caller, way.name), 80, way.name).get("status")
    for gateway in (way.acceptor.pods["egress"], way.donor.pods["ingress"]):
        assert not get(pod, gateway.ip, 15443, way.host).get("status")


@pytest.mark.parametrize("style,mode", [(EGRESS, "Cluster"), (DIRECT, "Workload")], ids=lambda v: v)
def test_a_gateway_of_the_acceptors_carries_callers_without_a_sidecar(ways, style, mode):
    """docs/sidecars.md has this configuration."""
    way = ways(style, mode)
    way.through()
    net = lambda kind, spec: {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": f"plain-{way.name}", "namespace": "istio-system"}, "spec": spec}
    to = ({"host": "istio-egressgateway.istio-system.svc.cluster.local", "subset": "wharf", "port": {"number": 15443}} if style == EGRESS else {"host": way.host, "port": {"number": 80}})
    mine = [net("Gateway", {"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 8088, "name": "http", "protocol": "HTTP"}, "hosts": [way.host]}]}),
            net("VirtualService", {"hosts": [way.host], "gateways": [f"plain-{way.name}"], "http": [{"rewrite": {"authority": way.host}, "route": [{"destination": to}]}]})]
    way.acceptor.apply(*mine)
    try:
        seen = lambda: get(plain(way.acceptor), way.acceptor.pods["ingress"].ip, 8088, way.host)
        until("it carries", lambda: seen().get("status") == 200)
        assert seen()["pod"].endswith("cluster1")
    finally:
        way.acceptor.delete(*mine)
