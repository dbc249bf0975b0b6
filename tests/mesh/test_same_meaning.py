"""What istiod makes of a VirtualService and the DestinationRules for a sidecar in the mesh, and what it makes of Wharf's objects for the
donor's ingress gateway, mean the same: the same matches lead to the same actions, over clusters of the same settings.

Every feature that is carried has a case. A real istiod reads a real API server, and two Envoys each ask it for the configuration of a
caller's sidecar and of the gateway. Nothing is called. All of it is on loopback and needs no root. What means something else at the
gateway is refused: docs/reference/translation.md has the table."""
import copy
import json

import pytest

from api import obj as any_obj
from test_envoy_accepts import Envoy, Mesh, free_port, obj, translated
from wharf import until

HTTP, ROOT = 80, "istio-system"
PORTS = [{"name": "http", "port": HTTP}, {"name": "tcp", "port": 90}]
SUBSETS = [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]


def to(subset=None, host="till", port=None, **more):
    return {"destination": {"host": host, **({"subset": subset} if subset else {}), **({"port": {"number": port}} if port else {})}, **more}


def way(**more):
    return {"route": [to()], **more}


def on(*matches, status=403):
    """Some requests are answered, the others go on."""
    return [{"match": list(matches), "directResponse": {"status": status}}, way()]


def subsets(*rules, **policy):
    return [{"host": "till", "subsets": SUBSETS, **({"trafficPolicy": policy} if policy else {})}, *rules]


class Case:
    """What an owner has. `about`: the field that makes the difference, and that the last test leaves out."""

    def __init__(self, about, http=None, tcp=None, rules=(), root=(), ports=PORTS, entry=None):
        self.about, self.http, self.tcp, self.rules, self.root, self.ports = about, http, tcp, rules, root, ports
        self.entry = {"name": "till", **({"virtualService": "till"} if http or tcp else {}), **(entry or {})}

    def objects(self, ns):
        yield any_obj("v1", "Service", "till", ns, {"selector": {"app": "till"}, "ports": self.ports})
        yield any_obj("v1", "Service", "desk", ns, {"selector": {"app": "desk"}, "ports": [{"name": "http", "port": HTTP}]})
        yield any_obj("v1", "Service", "hall", ns, {"selector": {"app": "hall"}, "ports": [{"name": "http", "port": HTTP}, {"name": "http-b", "port": 81}, {"name": "tcp", "port": 90}]})
        if self.http or self.tcp:
            yield obj("VirtualService", "till", ns, {"hosts": ["till"], **({"http": self.http} if self.http else {}), **({"tcp": self.tcp} if self.tcp else {})})
        for i, rule in enumerate(self.rules):
            yield obj("DestinationRule", f"rule-{i}", ns, rule)
        for i, rule in enumerate(self.root):
            yield obj("DestinationRule", f"{ns}-{i}", ROOT, {"host": f"*.{ns}.svc.cluster.local", **rule})


HASH = lambda **key: [{"host": "till", "trafficPolicy": {"loadBalancer": {"consistentHash": key}}, "subsets": SUBSETS}]
V1 = {"subset": "v1"}

CASES = {
    # What a request is asked for.
    "exact": Case("exact", on({"uri": {"exact": "/admin"}})),
    "prefix": Case("uri", on({"uri": {"prefix": "/admin"}})),
    "regex": Case("uri", on({"uri": {"regex": "/v[0-9]+/.*"}})),
    "case": Case("ignoreUriCase", on({"uri": {"prefix": "/admin"}, "ignoreUriCase": True})),
    "method": Case("method", on({"method": {"exact": "DELETE"}, "uri": {"prefix": "/"}})),
    "headers": Case("x-c", on({"headers": {"x-a": {"exact": "1"}, "x-b": {"prefix": "b"}, "x-c": {"regex": "c+"}, "x-d": {}}})),
    "without": Case("withoutHeaders", on({"uri": {"prefix": "/a"}, "withoutHeaders": {"x-a": {"exact": "1"}, "x-b": {}}})),
    "query": Case("queryParams", on({"uri": {"prefix": "/a"}, "queryParams": {"q": {"exact": "1"}, "r": {"regex": "a|b"}}})),
    "either": Case("x-a", on({"uri": {"prefix": "/a"}}, {"headers": {"x-a": {"exact": "1"}}})),
    "order": Case("timeout", [{"match": [{"uri": {"prefix": "/a"}}], **way(timeout="1s")}, {"match": [{"uri": {"prefix": "/a/b"}}], **way(timeout="2s")}, way(timeout="3s")]),
    "nothing-else": Case("uri", [{"match": [{"uri": {"prefix": "/only"}}], **way()}]),
    # Where a route is for.
    "by-port": Case("timeout", [{"match": [{"port": 80}], **way(timeout="1s")}, {"match": [{"port": 81}], **way(timeout="2s")}], ports=[*PORTS, {"name": "http-b", "port": 81}]),
    "one-port": Case("timeout", [{"match": [{"port": 81}], **way(timeout="2s")}], ports=[*PORTS, {"name": "http-b", "port": 81}]),
    "gateways": Case("timeout", [{"match": [{"gateways": ["front"]}], **way(timeout="1s")}, {"match": [{"gateways": ["mesh", "front"], "uri": {"prefix": "/a"}}], **way(timeout="2s")}, way(timeout="3s")]),
    "suffix": Case("timeout", [way(timeout="1s")], ports=[{"name": "web", "port": HTTP, "appProtocol": "http-web"}, PORTS[1]]),
    "grpc": Case("timeout", [way(timeout="1s")], ports=[{"name": "grpc", "port": HTTP}, PORTS[1]]),
    "grpc-web": Case("timeout", [way(timeout="1s")], ports=[{"name": "any", "port": HTTP, "appProtocol": "grpc-web-text"}, PORTS[1]]),
    # What is done with it.
    "timeout": Case("timeout", [way(timeout="7s")]),
    "retries": Case("retryOn", [way(retries={"attempts": 4, "perTryTimeout": "2s", "retryOn": "5xx,503,reset"})]),
    "retries-off": Case("retries", [way(retries={"attempts": 0})]),
    "retries-pace": Case("backoff", [way(retries={"attempts": 2, "backoff": "40ms", "retryRemoteLocalities": True, "retryIgnorePreviousHosts": False})]),
    "set": Case("set", [way(headers={"request": {"set": {"x-a": "1", "x-from": "%REQ(x-b)%"}}})]),
    "add": Case("add", [way(headers={"request": {"add": {"x-a": "1"}}, "response": {"add": {"x-b": "100%%"}}})]),
    "remove": Case("remove", [way(headers={"request": {"remove": ["cookie"]}, "response": {"remove": ["server", "x-envoy-upstream-service-time"]}})]),
    "headers-of-one": Case("headers", [{"route": [to("v1", weight=50, headers={"request": {"set": {"x-a": "1"}}, "response": {"remove": ["x-b"]}}), to("v2", weight=50)]}], rules=subsets()),
    "rewrite": Case("rewrite", [{"match": [{"uri": {"prefix": "/a/"}}], **way(rewrite={"uri": "/b/"})}, way()]),
    "rewrite-regex": Case("rewrite", [way(rewrite={"uriRegexRewrite": {"match": "^/a/([^/]+)/(.*)$", "rewrite": "/b/\\2/\\1"}})]),
    "rewrite-host": Case("authority", [way(rewrite={"uri": "/b", "authority": "inner.example:8080"})]),
    "redirect": Case("uri", [{"redirect": {"authority": "example.com", "uri": "/new"}}]),
    "redirect-more": Case("port", [{"redirect": {"authority": "example.com", "scheme": "https", "port": 8443, "redirectCode": 308}}]),
    "redirect-prefix": Case("redirectCode", [{"match": [{"uri": {"prefix": "/old"}}], "redirect": {"authority": "example.com", "prefixRewrite": "/new", "redirectCode": 302}}, way()]),
    "answer": Case("body", [{"directResponse": {"status": 503, "body": {"string": "closed"}}, "headers": {"response": {"set": {"x-a": "1"}}}}]),
    "answer-bytes": Case("body", [{"directResponse": {"status": 200, "body": {"bytes": "Y2xvc2Vk"}}}]),
    "delay": Case("percentage", [way(fault={"delay": {"fixedDelay": "2s", "percentage": {"value": 12.5}}})]),
    "abort": Case("fault", [way(fault={"abort": {"httpStatus": 418, "percentage": {"value": 0.1}}})]),
    "abort-grpc": Case("fault", [way(fault={"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}})]),
    "mirror": Case("mirrorPercentage", [way(mirror={"host": "desk"}, mirrorPercentage={"value": 5})]),
    "mirrors": Case("mirrors", [way(mirrors=[{"destination": {"host": "desk"}}, {"destination": {"host": "hall", "port": {"number": 81}}, "percentage": {"value": 50}}])]),
    "cors": Case("maxAge", [way(corsPolicy={"allowOrigins": [{"exact": "https://example.com"}, {"regex": "https://.*[.]example[.]org"}], "allowMethods": ["GET", "PUT"], "allowHeaders": ["x-a"],
                                            "exposeHeaders": ["x-b"], "maxAge": "24h", "allowCredentials": True, "unmatchedPreflights": "IGNORE"})]),
    "name": Case("timeout", [way(name="the-way", timeout="1s"), ]),
    # Where it goes.
    "weights": Case("weight", [{"route": [to("v1", weight=90), to("v2", weight=10)]}], rules=subsets()),
    "weight-0": Case("weight", [{"route": [to("v1", weight=100), to("v2", weight=0)]}], rules=subsets()),
    "elsewhere": Case("timeout", [{"match": [{"uri": {"prefix": "/desk"}}], "route": [to(host="desk")], "timeout": "1s"}, way()]),
    "elsewhere-called": Case("timeout", [{"route": [to(host="hall")], "timeout": "1s"}]),
    "elsewhere-port": Case("timeout", [{"route": [to(host="hall", port=81)], "timeout": "1s"}]),
    "full-name": Case("timeout", [{"route": [to(host="till.full-name.svc.cluster.local")], "timeout": "1s"}]),
    "tcp": Case("weight", tcp=[{"route": [to(weight=30), to(host="hall", port=90, weight=70)]}]),
    "tcp-subset": Case("subset", tcp=[{"match": [{"port": 90}], "route": [to("v1")]}], rules=subsets()),
    "tcp-and-http": Case("timeout", [{"match": [{"port": 80}], **way(timeout="1s")}], tcp=[{"match": [{"port": 90}], "route": [to("v2")]}], rules=subsets()),
    # How its pods are treated.
    "hash-header": Case("consistentHash", [{"route": [to("v1")]}], rules=HASH(httpHeaderName="x-user")),
    "hash-cookie": Case("consistentHash", [{"route": [to("v1")]}], rules=HASH(httpCookie={"name": "user", "path": "/", "ttl": "1h", "attributes": [{"name": "SameSite", "value": "Strict"}]}, maglev={"tableSize": 65537})),
    "hash-query": Case("consistentHash", [{"route": [to("v1")]}], rules=HASH(httpQueryParameterName="user", ringHash={"minimumRingSize": 2048})),
    "pool": Case("maxConnections", entry=V1, rules=subsets(connectionPool={"tcp": {"maxConnections": 7, "connectTimeout": "2s", "idleTimeout": "1m", "tcpKeepalive": {"time": "60s", "interval": "5s", "probes": 4}},
                 "http": {"http1MaxPendingRequests": 3, "http2MaxRequests": 4, "maxRequestsPerConnection": 5, "maxRetries": 6, "idleTimeout": "30s", "h2UpgradePolicy": "UPGRADE", "maxConcurrentStreams": 9}})),
    "outliers": Case("consecutive5xxErrors", entry=V1, rules=subsets(outlierDetection={"consecutive5xxErrors": 3, "consecutiveGatewayErrors": 2, "interval": "4s", "baseEjectionTime": "20s", "maxEjectionPercent": 50, "minHealthPercent": 20})),
    "balance": Case("loadBalancer", entry=V1, rules=subsets(loadBalancer={"simple": "RANDOM"})),
    "warmup": Case("warmup", entry=V1, rules=subsets(loadBalancer={"simple": "ROUND_ROBIN", "warmup": {"duration": "30s", "aggression": 1.5, "minimumPercent": 20}})),
    "locality": Case("localityLbSetting", entry=V1, rules=subsets(outlierDetection={"consecutive5xxErrors": 3}, loadBalancer={"localityLbSetting": {"enabled": True, "failoverPriority": ["topology.kubernetes.io/region"]}})),
    "tls": Case("sni", entry=V1, rules=subsets(tls={"mode": "SIMPLE", "sni": "till.example.com", "subjectAltNames": ["till.example.com"], "insecureSkipVerify": False})),
    "tls-off": Case("tls", entry=V1, rules=subsets(tls={"mode": "DISABLE"})),
    "by-its-port": Case("portLevelSettings", entry=V1, rules=subsets(loadBalancer={"simple": "RANDOM"}, portLevelSettings=[{"port": {"number": HTTP}, "loadBalancer": {"simple": "ROUND_ROBIN"}, "connectionPool": {"tcp": {"maxConnections": 2}}}])),
    "of-a-subset": Case("connectionPool", entry=V1, rules=[{"host": "till", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}, "subsets": [{**SUBSETS[0], "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 3}}}}, SUBSETS[1]]}]),
    "budget": Case("retryBudget", entry=V1, rules=subsets(retryBudget={"percent": 25, "minRetryConcurrency": 4})),
    # Which rules hold.
    "two-rules": Case("maxConnections", entry=V1, rules=[{"host": "till", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 1}}}}, {"host": "till", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 2}}}, "subsets": SUBSETS}]),
    "unseen-rule": Case("maxConnections", entry=V1, rules=[{"host": "till", "exportTo": ["."], "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 1}}}}, {"host": "till", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 2}}}, "subsets": SUBSETS}]),
    "apart": Case("maxConnections", entry=V1, rules=[{"host": "till", "exportTo": ["*"], "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 1}}}}, {"host": "till", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 2}}}, "subsets": SUBSETS}]),
    "wide-rule": Case("maxConnections", entry=V1, rules=[{"host": "*.wide-rule.svc.cluster.local", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 1}}}, "subsets": SUBSETS}, {"host": "*.local", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}]),
    "root-rule": Case("maxConnections", entry=V1, root=[{"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 8}}}, "subsets": SUBSETS}]),
    "root-hidden": Case("loadBalancer", entry=V1, root=[{"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 8}}}}], rules=subsets(loadBalancer={"simple": "RANDOM"})),
}

# ---------------------------------------------------------------- the mesh


class Caller(Envoy):
    NODE = {"id": "sidecar~127.0.0.8~caller.callers~callers.svc.cluster.local", "cluster": "caller.callers",
            "metadata": {"NAMESPACE": "callers", "CLUSTER_ID": "Kubernetes", "LABELS": {"app": "caller"}}}


class Side:
    """What one of the two has: its listeners and routes from one Envoy, its clusters from another."""

    def __init__(self, of, mesh):
        self.envoys = of(mesh, "lds"), of(mesh, "cds")

    def look(self):
        routing, calling = self.envoys
        self.hosts = {host["name"]: host["routes"] for hosts in routing.routes().values() for host in hosts}
        self.clusters = {c["name"]: c for c in calling.dumped("ClustersConfigDump", ["dynamic_active_clusters", "dynamic_warming_clusters"], "cluster")}
        states = [state for kind in ("active_state", "warming_state") for state in routing.dumped("ListenersConfigDump", ["dynamic_listeners"], kind)]
        self.listeners = {state["listener"]["name"]: state["listener"] for state in states if "listener" in state}

    def rejected(self):
        return [e.said()[-1500:] for e in self.envoys if e.rejected()]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    mesh = Mesh(tmp_path_factory.mktemp("mesh"), proxyListenPort=free_port(), proxyInboundListenPort=free_port())
    try:
        mesh.start_api_server()
        mesh.api.apply(*(any_obj("v1", "Namespace", ns) for ns in ("callers", *CASES)))
        mesh.own = [o for ns, case in CASES.items() for o in case.objects(ns)]
        policies = [obj("ServiceExpositionPolicy", "all", ns, {"exposed": [case.entry]}, "multicluster.istio.io/v1alpha1") for ns, case in CASES.items()]
        mesh.api.apply(*mesh.own)
        # With the ages that the API server gives them, as an agent has them.
        aged = [mesh.api.get(o["apiVersion"], o["kind"], o["metadata"]["name"], o["metadata"]["namespace"]) | {"apiVersion": o["apiVersion"], "kind": o["kind"]} for o in mesh.own]
        mesh.written, told = translated(mesh.folder, [*aged, *policies], mesh.listener)
        assert ": warning:" not in told and "not exposed" not in told, told
        mesh.api.apply(*mesh.written)
        mesh.start_istiod()
        mesh.caller, mesh.gateway = Side(Caller, mesh), Side(Envoy, mesh)
        yield mesh
    finally:
        mesh.stop()


# ---------------------------------------------------------------- the meaning

# What a route or cluster is called, where it comes from, and what is only counted.
NAMES = {"name", "metadata", "decorator", "stat_prefix", "alt_stat_name", "service_name", "cluster_name"}


def meaning(value, own):
    """A value without names, and without what makes no difference: the order of conditions that must all hold, and a default that is
    written out. `own` are the names of Wharf's subsets, each with the owner's."""
    if isinstance(value, dict):
        told = {k: meaning(v, own) for k, v in value.items() if k not in NAMES and (k, v) != ("case_sensitive", True)}
        return {k: sorted(v, key=json.dumps) if k in ("headers", "query_parameters") and isinstance(v, list) else v for k, v in told.items()}
    if isinstance(value, list):
        return [meaning(v, own) for v in value]
    if isinstance(value, str):
        for ours, theirs in own.items():
            value = value.replace(ours, theirs)
    return value


def leads_to(value):
    """The clusters that a route leads to, wherever it names them."""
    if isinstance(value, str):
        return {value} if value.startswith("outbound|") else set()
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return set().union(*map(leads_to, values))


def in_the_mesh(route):
    """Inside the mesh a request comes over HTTP, and so does a redirect that names no scheme; at the gateway it has to say so."""
    if "redirect" in route and "scheme_redirect" not in route["redirect"]:
        return {**route, "redirect": {**route["redirect"], "scheme_redirect": "http"}}
    return route


def as_called(route, ns):
    """The gateway gives the provider the exposed name, by whichever of its names the port was called."""
    action = route.get("route", {})
    if action.get("host_rewrite_literal") != f"till.{ns}.svc.cluster.local":
        return route
    return {**route, "route": {k: v for k, v in action.items() if k != "host_rewrite_literal"}}


def tcp_ways(listener, host=None):
    chains = [c for c in listener["filter_chains"] if host is None or host in c.get("filter_chain_match", {}).get("server_names", [])]
    filters = [f["typed_config"] for c in chains for f in c["filters"] if f["name"] == "envoy.filters.network.tcp_proxy"]
    return [{k: v for k, v in f.items() if k not in ("@type", "access_log", "stat_prefix")} for f in filters]


def at_gateway(found, ns, port):
    """What has this port's host at the gateway."""
    host = f"p{port}.till.{ns}.svc.cluster.local"
    return next(filter(None, (found(host, name) for name in (host, f"{host}:"))), None)


def http_pair(mesh, ns, port):
    there = mesh.caller.hosts.get(f"till.{ns}.svc.cluster.local:{port}")
    here = at_gateway(lambda host, name: next((r for n, r in mesh.gateway.hosts.items() if n == name or n.startswith(host + ":")), None), ns, port)
    return there and [in_the_mesh(r) for r in there], here and [as_called(r, ns) for r in here[1:]]  # the first refuses strangers


def tcp_pair(mesh, ns, port):
    address = next(iter(mesh.api.get("v1", "Service", "till", ns)["spec"]["clusterIPs"]))
    listener = mesh.caller.listeners.get(f"{address}_{port}")
    gateway = next((found for n, found in mesh.gateway.listeners.items() if n.endswith(f"_{mesh.listener}")), None)
    here = gateway and at_gateway(lambda host, _: tcp_ways(gateway, host), ns, port)
    return listener and tcp_ways(listener), here


def differences(mesh, ns, case):
    """Where the caller's sidecar and the gateway differ; nothing if they mean the same."""
    subsets = {s["name"] for o in mesh.written if o["kind"] == "DestinationRule" for s in o["spec"].get("subsets", [])}
    own = {name: name.removeprefix("wharf-till-") for name in subsets if name.startswith("wharf-till-")}
    if "subset" in case.entry:
        # The entry chooses the pods; callers in the mesh choose them by a VirtualService, which it does not need.
        own["||till."] = "|v1|till."
    found = []
    for port in case.ports:
        pair = (http_pair if is_http(port) else tcp_pair)(mesh, ns, port["port"])
        there, here = (meaning(side, own) for side in pair)
        if not there or not here:
            found.append(f"{port['port']}: nothing there yet: {bool(there)}, {bool(here)}")
            continue
        if there != here:
            found.append(f"{port['port']}: in the mesh {json.dumps(there)}\n  at the gateway {json.dumps(here)}")
        for name in sorted(leads_to(pair[1])):
            theirs = name.replace("wharf-till-", "")
            clusters = mesh.caller.clusters.get(theirs), mesh.gateway.clusters.get(name)
            told = [c and json.dumps(meaning(c, own), sort_keys=True) for c in clusters]
            if None in told or told[0] != told[1]:
                found.append(f"cluster {name}: in the mesh {told[0]}\n  at the gateway {told[1]}")
    return found


def is_http(port):
    return port.get("appProtocol", port["name"]).startswith(("http", "grpc"))


def all_differences(mesh):
    mesh.caller.look(), mesh.gateway.look()
    return {ns: found for ns, case in CASES.items() if (found := differences(mesh, ns, case))}


def test_what_is_carried_means_at_the_gateway_what_it_means_in_the_mesh(mesh):
    assert len(CASES) >= 40
    last = {}

    def same():
        last.clear()
        last.update(all_differences(mesh))
        return not last

    try:
        until("the same meaning", same, 40, 1)
    except AssertionError:
        told = "\n".join(f"{ns}: {line}" for ns, found in last.items() for line in found)
        raise AssertionError(f"{len(last)} of {len(CASES)} cases differ:\n{told}") from None
    assert not mesh.caller.rejected() and not mesh.gateway.rejected()


def without(value, field):
    """The same without a field, and without what has nothing left then. Without any weight, istiod would crash (TCP), and Envoy reject it:
    all of them are alike instead."""
    if isinstance(value, dict) and field == "weight" and field in value:
        return {**value, field: 1}
    if isinstance(value, dict):
        left = {k: (v, without(v, field)) for k, v in value.items() if k != field}
        return {k: after for k, (before, after) in left.items() if after or not before}
    return [without(v, field) for v in value] if isinstance(value, list) else value


def test_a_field_that_is_not_carried_would_be_found(mesh):
    """Or else the comparison would say nothing: each case's field is left out of what Wharf wrote."""
    broken = []
    for o in mesh.written:
        case = next((c for ns, c in CASES.items() if ns in o["metadata"]["labels"].get("multicluster.istio.io/owner", "").split(".")), None)
        spec = copy.deepcopy(o["spec"])
        if o["kind"] == "VirtualService":
            refusal = spec.get("http", [])[:1]
            spec = {**without(spec, case.about), **({"http": refusal + without(spec["http"][1:], case.about)} if refusal else {})}
        elif o["kind"] == "DestinationRule":
            spec = without(spec, case.about)
        if spec != o["spec"]:
            broken.append({**o, "spec": spec})
    mesh.api.apply(*broken)
    same = lambda: sorted(CASES.keys() - all_differences(mesh).keys())
    try:
        until("a difference in each case", lambda: not same(), 40, 1)
    except AssertionError:
        raise AssertionError(f"nothing is missed in {same()}") from None
