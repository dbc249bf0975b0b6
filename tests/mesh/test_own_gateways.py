"""Gateways of Wharf's own, as the chart makes them (`gateways.create`): the donor's ingress and the acceptor's egress gateway. istiod's own
injector, or its controller of the Gateway API, makes the pods; the lab starts them as they say."""
import pytest
import yaml

from api import obj
from calls import Stranger, call, ok
from conftest import EGRESS
from test_who_gets_in import refused
from tools import CACHE
from wharf import binding, policy, until

NAMESPACE = "wharf-gateways"
DRAIN = 6  # seconds; the lab's own are others
PATIENCE = 180  # seconds: an API server that takes in new definitions is slow, and what failed meanwhile is tried again after up to 30
GATEWAYS = "gateways.gateway.networking.k8s.io"


class OwnGateway:
    """The gateway of one side in one cluster, from the chart's rendered objects to a proxy that runs."""

    def __init__(self, agent, way, side):
        self.agent, self.cluster, self.way, self.side = agent, agent.cluster, way, side
        self.name = f"wharf-{side}gateway"
        # The cluster's other gateway stays as it is.
        other = {"ingress": "egress", "egress": "ingress"}[side]
        self.values = {"create": way, "drainSeconds": DRAIN, other: {"enabled": False}}
        self.made = []

    def take_over(self):
        self.agent.stop()
        self.agent.start(gateways=self.values)

    def start(self):
        """Applies what is rendered besides the agent's own, and starts a pod of it."""
        rendered = [o for o in self.agent.render() if o["metadata"].get("namespace") == NAMESPACE]
        self.made = rendered.copy()
        self.cluster.apply(*(o for o in rendered if o["kind"] != "Gateway"))
        if self.way == "Deployment":
            template = next(o for o in rendered if o["kind"] == "Deployment")["spec"]["template"]
            pod = self.cluster.injected(NAMESPACE, template)
            service = self.cluster.api.get("v1", "Service", self.name, NAMESPACE)
        else:
            pod, service = self.managed(rendered)
        self.pod = self.cluster.gateway_of(NAMESPACE, f"own-{self.side}", pod, service)
        return pod

    def managed(self, rendered):
        """What istiod makes of the Gateway."""
        for kind in ("gatewayclasses", "gateways"):
            self.cluster.kubectl("apply", "--server-side", "-f", CACHE / f"gateway.networking.k8s.io_{kind}.yaml")
        until("Gateways are served", lambda: GATEWAYS in self.cluster.kubectl("api-resources", "-o", "name", check=False).split(), 60)
        self.cluster.apply(*(o for o in rendered if o["kind"] == "Gateway"))
        made = lambda version, kind: self.cluster.api.get(version, kind, f"{self.name}-istio", NAMESPACE)
        # The budget is the last thing that istiod writes.
        until("istiod has made the gateway", lambda: made("policy/v1", "PodDisruptionBudget"), 60)
        deployment, service = made("apps/v1", "Deployment"), made("v1", "Service")
        self.made += [{"apiVersion": version, "kind": kind, "metadata": {"name": f"{self.name}-istio", "namespace": NAMESPACE}}
                      for version, kind in (("apps/v1", "Deployment"), ("v1", "Service"), ("v1", "ServiceAccount"), ("policy/v1", "PodDisruptionBudget"))]
        assert deployment["spec"]["replicas"] == 2 and deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        return deployment["spec"]["template"], service

    def go(self):
        """The agent goes back to the lab's gateway, and nothing is left of this one."""
        c, agent = self.cluster, self.agent
        agent.stop()
        agent.settings.pop("gateways", None)
        # Nobody collects here what belongs to a Gateway that is gone: first the Gateway, so that istiod does not write it again.
        c.delete(*(o for o in self.made if o["kind"] == "Gateway"))
        c.delete(*self.made, obj("v1", "Secret", "wharf-identity", NAMESPACE))
        if pod := c.pods.get(f"own-{self.side}"):
            pod.remove()
            c.delete(*({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **s} for s in c.api.items("discovery.k8s.io/v1", "EndpointSlice", NAMESPACE)))
        agent.sweep(NAMESPACE)
        c.api.finalize(NAMESPACE)
        agent.start(style=EGRESS)


@pytest.fixture(params=["Deployment", "GatewayAPI"])
def own(request, agents):
    """The donor's ingress gateway and the acceptor's egress gateway, and the pods as the API servers have them."""
    ingress, egress = OwnGateway(agents["cluster1"], request.param, "ingress"), OwnGateway(agents["cluster2"], request.param, "egress")
    try:
        for gateway in (ingress, egress):
            gateway.take_over()
        yield ingress, egress, [gateway.start() for gateway in (ingress, egress)]
    finally:
        for gateway in (ingress, egress):
            gateway.go()


def carried(pod, name):
    """How many requests a gateway's Envoy has sent on to a service."""
    lines = (line.split("::") for line in pod.envoy("clusters").splitlines())
    return sum(int(line[-1]) for line in lines if f"{name}." in line[0] and line[-2:-1] == ["rq_total"])


def contained(pod):
    """Whether a gateway's pod may no more than a proxy needs."""
    spec, [proxy] = pod["spec"], pod["spec"]["containers"]
    limits = proxy["securityContext"]
    return (limits["runAsNonRoot"] and limits["readOnlyRootFilesystem"] and not limits["allowPrivilegeEscalation"] and limits["capabilities"]["drop"] == ["ALL"]
            and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"} and spec["automountServiceAccountToken"] is False)


def test_a_call_goes_through_own_gateways_and_the_stock_ones_see_nothing_of_it(lab, ways, own):
    ingress, egress, pods = own
    for gateway, pod in zip((ingress, egress), pods, strict=True):
        proxy = pod["spec"]["containers"][0]
        assert proxy["image"] != "auto" and proxy["args"][:2] == ["proxy", "router"], "istiod has filled it in"
        assert proxy["readinessProbe"]["httpGet"]["path"] == "/healthz/ready" and proxy["readinessProbe"]["periodSeconds"] == 5
        assert proxy["resources"]["limits"]["memory"] in ("1Gi", "1024Mi"), "as Istio's own gateways"
        assert contained(pod), pod
        assert gateway.pod.proxy_config["drainDuration"] == f"{DRAIN}s" and pod["spec"]["terminationGracePeriodSeconds"] == DRAIN + 15
        gateway.pod.wait()
    config = yaml.safe_load((ingress.agent.dir / "config.yaml").read_text())
    assert config["ingress"]["drain"] == f"{DRAIN}s", "statuses tell the same bound"

    stock = (lab[1].pods["ingress"], lab[2].pods["egress"])
    way = ways(EGRESS, "Cluster")
    way.service()
    exposed = policy(way.name, {"name": way.name, "tls": way.mode, "clusters": [way.acceptor.name]})
    way.put(way.donor, exposed, wait=False)
    until("the policy is programmed", lambda: ingress.agent.programmed(exposed), PATIENCE, told=lambda: ingress.agent.status(exposed).get("conditions"))
    bound = binding(way.name, (way.donor.name, {"name": way.name}))
    way.put(way.acceptor, bound, wait=False)
    until("the binding is programmed", lambda: egress.agent.programmed(bound), PATIENCE, told=lambda: egress.agent.status(bound).get("conditions"))
    way.works(PATIENCE)
    assert ok(call(way.caller, way.url()))
    assert way.sni in ingress.pod.envoy("config_dump?resource=dynamic_listeners"), "the call's server is here"
    assert carried(ingress.pod, way.name) and carried(egress.pod, way.name)
    for pod in stock:
        assert not carried(pod, way.name), "no request of it"
        assert way.host not in pod.envoy("config_dump?resource=dynamic_listeners"), "and no server"

    door, listed, stranger = (ingress.pod.ip, 15443), way.agent(lab[2]).dir, way.agent(lab[3]).dir
    assert Stranger(door, listed / "tls.crt", listed / "tls.key").get(way.sni) == 200, "the door is open for whom it is meant"
    assert refused(Stranger(door, stranger / "tls.crt", stranger / "tls.key").get(way.sni)), "a cluster that is trusted, and not listed"
    assert refused(Stranger(door).get(way.sni)), "nobody known"
    assert refused(Stranger((stock[0].ip, 15443), listed / "tls.crt", listed / "tls.key").get(way.sni)), "the stock gateway knows nothing of it"
    for gateway in (ingress, egress):
        secrets = [s["metadata"]["name"] for s in gateway.cluster.api.items("v1", "Secret", NAMESPACE)]
        assert secrets == ["wharf-identity"], "there is nothing else that the gateways' accounts could read"
