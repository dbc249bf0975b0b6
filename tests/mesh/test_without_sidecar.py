"""Callers without a sidecar: what they get, and the way that there is for them."""
import contextlib

import pytest

from calls import address
from conftest import DIRECT, EGRESS, HTTP_AT_THE_GATEWAY
from wharf import until


def plain(cluster):
    return cluster.pods.get("plain") or cluster.pod("default", "plain", sidecar=False)


def get(pod, ip, port, host, *flags):
    return pod.app("load", f"http://{host}:{port}/", "-to", f"{ip}:{port}", "-n", "1", "-timeout", "2s", *flags)[0]


@pytest.mark.parametrize("style,mode", [(EGRESS, "Cluster"), (DIRECT, "Workload")], ids=lambda v: v)
def test_the_name_alone_leads_a_caller_without_a_sidecar_nowhere(ways, style, mode):
    """The stub Service has no endpoints, and the gateways ask for a certificate: it fails, and is never let in."""
    way = ways(style, mode)
    way.through()
    pod = plain(way.acceptor)
    assert not get(pod, address(way.caller, way.name), 80, way.name).get("status")
    for gateway in (way.acceptor.pods["egress"], way.donor.pods["ingress"]):
        assert not get(pod, gateway.ip, 15443, way.host).get("status")


@contextlib.contextmanager
def between(way, port=80, subset="wharf", protocol="HTTP"):
    """A gateway of the acceptor's for callers without a sidecar: docs/sidecars.md has this configuration."""
    net = lambda kind, spec: {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": f"plain-{way.name}", "namespace": "istio-system"}, "spec": spec}
    to = {"host": "istio-egressgateway.istio-system.svc.cluster.local", "subset": subset, "port": {"number": 15443}} if way.style == EGRESS else {"host": way.host, "port": {"number": port}}
    authority = f"p{port}.local.{way.host}" if way.style == EGRESS else f"p{port}.{way.host}"
    mine = [net("Gateway", {"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 8088, "name": "http", "protocol": protocol}, "hosts": [way.host]}]}),
            net("VirtualService", {"hosts": [way.host], "gateways": [f"plain-{way.name}"], "http": [{"rewrite": {"authority": authority}, "route": [{"destination": to}]}]})]
    way.acceptor.apply(*mine)
    try:
        yield lambda *flags: get(plain(way.acceptor), way.acceptor.pods["ingress"].ip, 8088, way.host, *flags)
    finally:
        way.acceptor.delete(*mine)


@pytest.mark.parametrize("style,mode", HTTP_AT_THE_GATEWAY, ids=lambda v: v)
def test_a_gateway_of_the_acceptors_carries_callers_without_a_sidecar(ways, style, mode):
    way = ways(style, mode)
    way.through()
    with between(way) as ask:
        until("it carries", lambda: ask().get("status") == 200)
        assert ask()["pod"].endswith("cluster1")


@pytest.mark.parametrize("style,mode", HTTP_AT_THE_GATEWAY, ids=lambda v: v)
def test_so_it_does_with_http2(ways, style, mode):
    """In the style EGRESS_INGRESS by the subset of its own for HTTP/2 and gRPC."""
    way = ways(style, mode)
    way.service([("http2", 80, 8082)])
    way.expose(), way.bind()
    with between(way, subset="wharf-http2", protocol="HTTP2") as ask:
        until("it carries", lambda: ask("-h2c").get("status") == 200)
        assert ask("-h2c")["pod"].endswith("cluster1")


def test_a_binding_for_certain_clients_is_not_carried_for_others(ways):
    """It is the gateway that calls, and it is not one of them."""
    way, open_to_all = ways(EGRESS, "Cluster"), ways(EGRESS, "Cluster")
    way.service()
    way.expose(clients=[{"cluster": way.acceptor.name, "namespace": "default", "serviceAccount": "caller"}])
    way.bind()
    way.works()
    open_to_all.through()
    with between(way) as ask, between(open_to_all) as ask_the_other:
        until("the gateway is configured", lambda: ask_the_other().get("status") == 200)
        assert until("an answer", lambda: ask().get("status")) != 200
