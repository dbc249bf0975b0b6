"""A gateway that refuses what istiod sends it: the agent tells it within a minute, and that it is over."""
import pytest

from api import obj
from wharf import policy, until

ISTIO = "networking.istio.io/v1"
MINUTE = 60


def somebody_elses(name, headers):
    """A Gateway of somebody else on the shared ingress gateway, and a route of theirs."""
    gateway = obj(ISTIO, "Gateway", name, "default", {"selector": {"istio": "ingressgateway"}, "servers": [
        {"port": {"number": 8099, "name": "http", "protocol": "HTTP"}, "hosts": ["default/elsewhere.example"]}]})
    route = obj(ISTIO, "VirtualService", name, "default", {"hosts": ["elsewhere.example"], "gateways": [name], "http": [
        {"headers": headers, "route": [{"destination": {"host": "elsewhere.example"}}]}]})
    return gateway, route


@pytest.fixture
def donor(lab, agents):
    """The donor's agent, which asks the lab's istiod."""
    agent, cluster = agents["cluster1"], lab[1]
    agent.stop()
    agent.start(istiod={"metrics": f"http://{cluster.host}:{cluster.xds + 4}/metrics", "interval": "5s", "ingressPods": "ingress", "egressPods": "egress"})
    yield agent
    agent.stop()
    del agent.settings["istiod"]
    agent.start(style=agent.settings["style"])


def test_a_gateway_that_refuses_its_routes_is_told_within_a_minute_and_recovers(lab, donor):
    cluster = lab[1]
    service = cluster.service("default", "refusing", [("http", 80, 8080)], {"app": "echo"}, [])
    donor.own(service)
    p = policy("refusing", {"name": "refusing", "clusters": ["cluster2"]})
    donor.put(p)
    told = lambda: next((c for c in donor.status(p).get("conditions", []) if c["type"] == "GatewayAccepts"), None)
    gateway, route = somebody_elses("elsewhere", {"response": {"set": {"x-a": "%BOGUS%"}}})
    try:
        until("the policy is programmed", lambda: any(c["type"] == "Programmed" and c["status"] == "True" for c in donor.status(p).get("conditions", [])), 30)
        assert (told() or {}).get("reason") != "GatewayRejects"
        cluster.apply(gateway, route)
        condition = until("the refusal", lambda: (c := told()) and c["reason"] == "GatewayRejects" and c, MINUTE)
        assert "refuses the routes" in condition["message"] and "ingress.istio-system" in condition["message"], condition
        cluster.delete(route)
        until("the gateway takes its routes again", lambda: not told(), MINUTE)
    finally:
        cluster.delete(route, gateway)
        donor.remove(p)
        donor.disown(service)
        cluster.delete(obj("discovery.k8s.io/v1", "EndpointSlice", "refusing-lab", "default"))
