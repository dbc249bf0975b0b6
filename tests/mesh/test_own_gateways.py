"""Gateways of Wharf's own, as the chart makes them (`gateways.create`): the donor's ingress and the acceptor's egress gateway. istiod's own
injector, or its controller of the Gateway API, makes the pods; the lab starts them as they say."""
import pytest
import yaml

from api import obj
from calls import Stranger, call, ok
from conftest import EGRESS
from test_who_gets_in import refused
from tools import CACHE
from wharf import GROUP, Pki, binding, peering_endpoints, policy, until

NAMESPACE = "wharf-gateways"
PEERING = "peering.wharf.invalid"  # the server name that agents send
PORT = 15443
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, section 3.4
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
        self.cluster.apply(*(o for o in rendered if not is_managed(o)))
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
        self.cluster.apply(*(o for o in rendered if is_managed(o)))
        made = lambda version, kind: self.cluster.api.get(version, kind, f"{self.name}-istio", NAMESPACE)
        # The budget is the last thing that istiod writes.
        until("istiod has made the gateway", lambda: made("policy/v1", "PodDisruptionBudget"), 60)
        deployment, service = made("apps/v1", "Deployment"), made("v1", "Service")
        self.made += [{"apiVersion": version, "kind": kind, "metadata": {"name": f"{self.name}-istio", "namespace": NAMESPACE}}
                      for version, kind in (("apps/v1", "Deployment"), ("v1", "Service"), ("v1", "ServiceAccount"), ("policy/v1", "PodDisruptionBudget"))]
        assert deployment["spec"]["replicas"] == 2 and deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        return deployment["spec"]["template"], service

    def let_peers_in(self):
        """The agent's Service, and the endpoints that it has in a cluster: here the agent is beside it."""
        [service] = [o for o in self.agent.render() if o["kind"] == "Service" and o["metadata"]["name"] == "wharf-peering"]
        assert service["spec"]["type"] == "ClusterIP", "a donor has one load balancer"
        slice_ = peering_endpoints(self.cluster)
        self.cluster.apply(service, slice_)
        self.made += [service, slice_]

    def go(self):
        """The agent goes back to the lab's gateway, and nothing is left of this one."""
        c, agent = self.cluster, self.agent
        agent.stop()
        agent.settings.pop("gateways", None)
        # Nobody collects here what belongs to a Gateway that is gone: first the Gateway, so that istiod does not write it again.
        c.delete(*(o for o in self.made if is_managed(o)))
        c.delete(*self.made, obj("v1", "Secret", "wharf-identity", NAMESPACE))
        if pod := c.pods.get(f"own-{self.side}"):
            pod.remove()
            c.delete(*({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **s} for s in c.api.items("discovery.k8s.io/v1", "EndpointSlice", NAMESPACE)))
        agent.sweep(NAMESPACE)
        c.api.finalize(NAMESPACE)
        agent.start(style=EGRESS)


def is_managed(o):
    """Whether it is a Gateway of the Gateway API, which istiod makes pods of."""
    return o["kind"] == "Gateway" and o["apiVersion"].startswith("gateway.networking.k8s.io/")


def peering_of(donor, acceptor, host):
    """The acceptor's entry for the donor: all that it knows is the gateway's address."""
    spec = {"endpoint": f"{host}:{PORT}", "consume": True, "trustDomain": donor.trust_domain, "allowedGateways": ["10.0.0.0/8"]}
    return obj(GROUP, "ClusterPeering", donor.name, spec=spec)


@pytest.fixture(params=["Deployment", "GatewayAPI"])
def own(request, agents):
    """The donor's ingress gateway and the acceptor's egress gateway, and the pods as the API servers have them. The acceptor dials the
    donor's agent through that gateway."""
    ingress, egress = OwnGateway(agents["cluster1"], request.param, "ingress"), OwnGateway(agents["cluster2"], request.param, "egress")
    peering = None
    try:
        for gateway in (ingress, egress):
            gateway.take_over()
        pods = [gateway.start() for gateway in (ingress, egress)]
        ingress.let_peers_in()
        peering = peering_of(ingress.cluster, egress.cluster, ingress.pod.ip)
        egress.agent.put(peering)
        yield ingress, egress, pods, peering
    finally:
        if peering:
            egress.agent.remove(peering)
        for gateway in (ingress, egress):
            gateway.go()


def carried(pod, name):
    """How many requests a gateway's Envoy has sent on to a service."""
    lines = (line.split("::") for line in pod.envoy("clusters").splitlines())
    return sum(int(line[-1]) for line in lines if f"{name}." in line[0] and line[-2:-1] == ["rq_total"])


def greeting(door, certificate=None, key=None):
    """What the agent behind a gateway says to a client of HTTP/2: its settings, or why it says nothing."""
    try:
        with Stranger(door, certificate, key).connect(PEERING, alpn=("h2",)) as c:
            c.settimeout(10)
            c.sendall(HELLO)
            return c.recv(9) or "refused: closed"
    except OSError as e:
        return f"refused: {e}"


def peered(ingress, egress, peering):
    """Whether the acceptor's stream is in step, on a connection from the donor's gateway to its agent."""
    through = ingress.pod.connections_to(f"{ingress.cluster.host}:7443")
    return through and egress.agent.condition(peering, "Connected").get("status") == "True"


def contained(pod):
    """Whether a gateway's pod may no more than a proxy needs."""
    spec, [proxy] = pod["spec"], pod["spec"]["containers"]
    limits = proxy["securityContext"]
    return (limits["runAsNonRoot"] and limits["readOnlyRootFilesystem"] and not limits["allowPrivilegeEscalation"] and limits["capabilities"]["drop"] == ["ALL"]
            and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"} and spec["automountServiceAccountToken"] is False)


def test_a_call_goes_through_own_gateways_and_the_stock_ones_see_nothing_of_it(lab, ways, own, tmp_path):
    ingress, egress, pods, peering = own
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

    told = lambda: egress.agent.status(peering).get("conditions")
    until("the clusters peer through the donor's gateway", lambda: peered(ingress, egress, peering), PATIENCE, told=told)
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

    door, listed, stranger = (ingress.pod.ip, PORT), way.agent(lab[2]).dir, way.agent(lab[3]).dir
    assert Stranger(door, listed / "tls.crt", listed / "tls.key").get(way.sni) == 200, "the door is open for whom it is meant"
    assert refused(Stranger(door, stranger / "tls.crt", stranger / "tls.key").get(way.sni)), "a cluster that is trusted, and not listed"
    assert refused(Stranger(door).get(way.sni)), "nobody known"
    assert refused(Stranger((stock[0].ip, 15443), listed / "tls.crt", listed / "tls.key").get(way.sni)), "the stock gateway knows nothing of it"
    for gateway in (ingress, egress):
        secrets = [s["metadata"]["name"] for s in gateway.cluster.api.items("v1", "Secret", NAMESPACE)]
        assert secrets == ["wharf-identity"], "there is nothing else that the gateways' accounts could read"

    other_root = Pki(tmp_path / "other")
    assert isinstance(greeting(door, listed / "tls.crt", listed / "tls.key"), bytes), "the gateway leads peers to the agent"
    assert refused(greeting(door, *other_root.issue(way.acceptor.name))), "the agent refuses a certificate under another root"
    assert refused(greeting(door)), "and a client without one"

    before = egress.agent.versions()
    ingress.pod.kill()
    until("the stream breaks with the gateway", lambda: egress.agent.condition(peering, "Connected").get("status") != "True", 60, told=told)
    assert egress.agent.versions() == before, "what is bound stays as it is"
    ingress.pod.start_proxy()
    until("the clusters peer again", lambda: peered(ingress, egress, peering), PATIENCE, told=told)
    assert egress.agent.versions() == before
    way.works(PATIENCE)
