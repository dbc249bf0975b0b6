"""Whatever `wharf translate` lets through of VirtualServices and DestinationRules, the real istiod and the real Envoy take.

Tenants' objects are made at random, from fixed seeds, of good and bad pieces. What passes is written to a real API server, which an istiod
reads; Envoys with Istio's limit for regular expressions ask that for the ingress gateway's listeners, routes and clusters, as a
gateway does, and must reject nothing. All of it is on loopback and needs no root."""
import json
import os
import random
import socket
import subprocess
import urllib.request

import pytest
import yaml

from api import Api
from api import obj as any_obj
from test_istios_opinion import CONFIG
from tools import BIN, CACHE, run
from wharf import WHARF, until

ENVOY = CACHE / "venv/bin/envoy"
NAMESPACES, SERVICES = 2, 20  # of each seed
# Seeds, and of how many pieces one is bad.
SEEDS = {1: 60, 2: 200, 3: 1000}
# As Istio's bootstrap has it.
MAX_PROGRAM = 32768
ISTIO = "networking.istio.io/v1"


def obj(kind, name, ns, spec, version=ISTIO):
    return any_obj(version, kind, name, ns, spec)


# ---------------------------------------------------------------- tenants

class Tenant(random.Random):
    """Makes objects of pieces; one piece in `risk` is bad."""

    def __init__(self, seed, risk):
        super().__init__(seed)
        self.risk = risk

    def piece(self, good, bad):
        return self.choice(bad if self.randrange(self.risk) == 0 else good)

    def some(self, **makers):
        return {name: made for name, make in makers.items() if self.random() < 0.4 and (made := make()) not in ({}, [])}

    def several(self, make, most):
        return [make() for _ in range(self.randint(1, most))]

    def regex(self):
        if self.randrange(self.risk) == 0:
            return self.choice([r"/[\p{L}\p{N}\p{S}]{1000}" * 3, "(", r"(a)\1", "(?=a)", "a**", "[a-", "a{1001}", "(?:a{100}){11}", r"\Z", "(?<n>a)", "*a"])
        atoms = ["a", "/", ".", "[a-z]", "[^/]+", r"\d", r"\w*", r"\.", "(x|yy)", "(?:b|c)?", "(?P<n>c)", "(?i)k", "[[:alpha:]_-]", r"\x2f", "^", "$", "{", r"\/", "(?s:.)", r"[\d\s-]"]
        ends = ["", "", "", "*", "+?", "{3}", "{0,40}", "{2,}"]
        return "".join(a if a in "^$" or a[-1] in "*+?" else a + self.choice(ends) for a in self.choices(atoms, k=self.randint(1, 6)))

    def header(self):
        return self.piece(["x-a", "X-B", "cookie", "x_c", "authorization", "x~d"], ["host", ":authority", "x-forwarded-client-cert", "a b", "", "x\r\ny", "ä", "content-length", ":path", "x" * 200])

    def value(self):
        return self.piece(["a", "", "100%%", "%REQ(x-a)%", "%PROTOCOL%", "at %START_TIME%", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "%DOWNSTREAM_PEER_URI_SAN%",
                           "%DOWNSTREAM_LOCAL_ADDRESS%:%DOWNSTREAM_LOCAL_PORT%", "%DOWNSTREAM_TLS_VERSION%", "%%%REQ(:path)%%%", "\"quoted\" \\ {json}", "v" * 4000],
                          ["%BOGUS%", "%", "50% off", "%ENVIRONMENT(HOME)%", "%REQ(%", "%FILE_CONTENT(/etc/passwd)%", "%DYNAMIC_METADATA(a)%", "a\nb", "v" * 20000])

    def text(self):
        return self.piece(["a", "abc", "a b", "~"], ["", "a\nb", "é", "a" * 2000])

    def comparison(self, text, **more):
        kind = self.choice(["exact", "prefix", "regex", *more])
        return {"regex": self.regex()} if kind == "regex" else more[kind] if kind in more else {kind: text()}

    def path(self):
        return self.piece(["/", "/a", "/a/b%20c", "/~x/"], ["a", "", "/%BOGUS%", "/a b", "/\r\n", "/{x}"])

    def host(self):
        return self.piece(["example.com", "www.example.com:8443"], ["s0", "a b", "%REQ(x)%", "10.0.0.1", "example.com\n", ""])

    def duration(self):
        return self.piece(["1s", "500ms", "1m30s", "8760h"], ["0s", "-1s", "soon", "1ns", "999999999h"])

    def percentage(self):
        return {"value": self.piece([0, 0.0001, 33.3, 100], [-1, 101, 1e9])}

    def status(self):
        return self.piece([200, 404, 503, 599], [0, 100, 600, 99999])

    def header_rules(self):
        values = lambda: {self.header(): self.value() for _ in range(self.randint(1, 3))}
        side = lambda: self.some(set=values, add=values, remove=lambda: self.several(self.header, 2))
        return self.some(request=side, response=side)

    def match(self):
        conditions = lambda: {self.header(): self.comparison(self.text, present={}, star={"regex": "*"}) for _ in range(self.randint(1, 2))}
        name = lambda: self.piece(["a", "b.c-d_1"], ["a b", "%", "n" * 300])
        return self.some(uri=lambda: self.comparison(self.path), method=lambda: self.comparison(lambda: self.piece(["GET", "POST"], ["", "G T"])), headers=conditions,
                         withoutHeaders=conditions, queryParams=conditions, ignoreUriCase=lambda: True, name=name, statPrefix=name)

    def retries(self):
        made = self.some(perTryTimeout=self.duration, backoff=self.duration, retryOn=lambda: self.piece(["5xx,reset", "503,cancelled"], ["never", "1000"]))
        return {"attempts": self.piece([1, 25], [-1, 1000000]), **made}

    def rewrite(self):
        group = lambda: {"match": self.regex(), "rewrite": self.piece(["/b", r"/\0"], [r"/\9", "\\", ""])}
        return self.some(authority=self.host, **self.choice([{"uri": self.path}, {"uriRegexRewrite": group}]))

    def fault(self):
        delay = lambda: {"fixedDelay": self.duration(), "percentage": self.percentage()}
        abort = lambda: {"percentage": self.percentage(), **self.choice([{"httpStatus": self.status()}, {"grpcStatus": self.piece(["UNAVAILABLE"], ["FINE"])}])}
        return self.some(delay=delay, abort=abort)

    def cors(self):
        return self.some(allowOrigins=lambda: self.several(lambda: self.comparison(self.text), 2), allowMethods=lambda: [self.piece(["GET", "*"], ["G T", ""])],
                         allowHeaders=lambda: self.several(self.header, 2), exposeHeaders=lambda: self.several(self.header, 2), maxAge=lambda: self.piece(["60s"], ["1.5s", "x"]))

    def redirect(self):
        return {"authority": self.host(), **self.some(uri=self.path, scheme=lambda: self.piece(["http", "https"], ["ftp"]), port=lambda: self.piece([8443], [0, 70000]),
                                                      redirectCode=lambda: self.piece([302, 308], [304, 600]))}

    def route(self, name):
        made = self.some(headers=self.header_rules, corsPolicy=self.cors, match=lambda: self.several(self.match, 3), name=lambda: self.piece(["r"], ["r r", "r" * 300]))
        way = self.randrange(6)
        if way == 0:
            return {**made, "redirect": self.redirect()}
        if way == 1:
            return {**made, "directResponse": {"status": self.status(), **self.some(body=lambda: {"string": self.piece(["no", "x" * 4096], ["x" * 4097])})}}
        to = lambda: {"destination": {"host": name, **({"subset": "v1"} if self.random() < 0.5 else {})}, "weight": self.piece([1, 0, 100], [-1, 2**31 - 1]), **self.some(headers=self.header_rules)}
        more = self.some(timeout=self.duration, retries=self.retries, rewrite=self.rewrite, fault=self.fault, mirror=lambda: {"host": name}, mirrorPercentage=self.percentage)
        return {**made, **more, "route": self.several(to, 3)}

    def traffic_policy(self):
        number = lambda: self.piece([0, 1, 2**31 - 1], [-1, -2**31])
        share = lambda: self.piece([0, 50, 100], [-1, 101])
        http = lambda: self.some(http1MaxPendingRequests=number, http2MaxRequests=number, maxRequestsPerConnection=number, maxRetries=number, maxConcurrentStreams=number, idleTimeout=self.duration,
                                 h2UpgradePolicy=lambda: self.choice(["UPGRADE", "DO_NOT_UPGRADE"]), http2KeepAlive=lambda: {"interval": self.duration(), "timeout": self.duration()})
        tcp = lambda: self.some(maxConnections=number, connectTimeout=self.duration, idleTimeout=self.duration, maxConnectionDuration=self.duration,
                                tcpKeepalive=lambda: self.some(time=lambda: self.piece(["7200s"], ["0s", "1ms"]), probes=lambda: self.piece([1, 127], [-1, 1000])))
        outliers = lambda: self.some(consecutive5xxErrors=number, consecutiveGatewayErrors=number, interval=self.duration, baseEjectionTime=self.duration, maxEjectionPercent=share, minHealthPercent=share)
        cookie = lambda: {"name": self.piece(["user"], ["", "a;b", "a b"]), **self.some(path=self.path, ttl=lambda: self.piece(["0s", "1h"], ["x"]),
                          attributes=lambda: [{"name": self.piece(["SameSite"], ["", "a b"]), "value": self.text()}])}
        key = lambda: self.choice([{"httpHeaderName": self.header()}, {"httpCookie": cookie()}, {"useSourceIp": True}, {"httpQueryParameterName": self.header()}])
        algorithm = lambda: self.choice([{}, {"ringHash": {"minimumRingSize": self.piece([1, 1024, 65536], [9000000])}}, {"maglev": {"tableSize": self.piece([11, 65537], [4, 10000000])}}])
        simple = lambda: {"simple": self.piece(["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"], ["PASSTHROUGH"]), **self.some(warmup=lambda: {"duration": self.duration(), "aggression": self.piece([1, 2.5], [0, -1, 1e300])})}
        tls = lambda: {"mode": self.piece(["ISTIO_MUTUAL", "DISABLE", "SIMPLE"], ["MUTUAL"]), **self.some(sni=self.host, subjectAltNames=lambda: [self.text()])}
        pool = lambda: self.some(http=http, tcp=tcp)
        balancer = lambda: self.choice([lambda: {"consistentHash": {**key(), **algorithm()}}, simple])()
        budget = lambda: self.some(percent=lambda: self.piece([0, 100], [-1, 101]), minRetryConcurrency=lambda: self.piece([0, 5], [-1]), budgetInterval=self.duration)
        fields = {"connectionPool": pool, "outlierDetection": outliers, "loadBalancer": balancer, "tls": tls}
        ports = lambda: [{"port": {"number": self.piece([80], [0, 70000])}, **self.some(**fields)}]
        return self.some(**fields, portLevelSettings=ports, retryBudget=budget)

    def subset(self, name):
        return {"name": name, "labels": {"version": self.piece(["v1", ""], ["a b"])}, **self.some(trafficPolicy=self.traffic_policy)}


def tenants(seed, risk):
    """Policies with their Services, VirtualServices and DestinationRules."""
    made = []
    for n in range(NAMESPACES):
        t, ns, entries = Tenant(f"{seed}-{n}", risk), f"team-{seed}-{n}", []
        for i in range(SERVICES):
            name = f"s{i}"
            made.append(obj("Service", name, ns, {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}, "v1"))
            made.append(obj("VirtualService", name, ns, {"hosts": [name], "http": t.several(lambda: t.route(name), 3)}))
            made.append(obj("DestinationRule", name, ns, {"host": name, "subsets": [t.subset("v1"), t.subset("v2")], **t.some(trafficPolicy=t.traffic_policy)}))
            entries.append({"name": name, "virtualService": name})
        made.append(obj("ServiceExpositionPolicy", "all", ns, {"exposed": entries}, "multicluster.istio.io/v1alpha1"))
    return made


def translated(folder, own, port):
    """What Wharf writes for them, and what it says of those that it refuses."""
    (folder / "in.yaml").write_text(yaml.safe_dump_all(own))
    peers = [{"name": "cluster2", "endpoint": "192.0.2.8:7443", "consume": True, "trustDomain": "cluster2"}]
    config = {**CONFIG, "cluster": "cluster1", "trustDomain": "cluster1", "peers": peers, "ingress": {"address": ["192.0.2.9"], "port": port}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run([WHARF, "translate", "--config", folder / "config.yaml", "-f", folder / "in.yaml"], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    written = [o for o in yaml.safe_load_all(done.stdout) if o]
    for o in written:
        for server in o["spec"].get("servers", []) if o["kind"] == "Gateway" else []:
            server["bind"] = "127.0.0.1"  # where nobody else meets the listener
    return written, done.stderr


# ---------------------------------------------------------------- the mesh

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def answers(port, path):
    try:
        return get(port, path) is not None
    except OSError:
        return False


class Envoy:
    """An Envoy that has part of the ingress gateway's configuration from istiod, and nothing to serve. One alone would wait for the
    certificates of its clusters, which nobody gives it, before it asked for listeners."""

    NODE = {"id": "router~127.0.0.9~ingress.istio-system~istio-system.svc.cluster.local", "cluster": "ingress",
            "metadata": {"NAMESPACE": "istio-system", "CLUSTER_ID": "Kubernetes", "LABELS": {"istio": "ingressgateway"}}}

    def __init__(self, mesh, part):
        name = f"envoy-{self.NODE['cluster']}-{part}"
        self.admin, self.log = free_port(), mesh.folder / f"{name}.log"
        file = mesh.folder / f"{name}.json"
        file.write_text(json.dumps(self.bootstrap(part, mesh.xds)))
        mesh.start(name, ENVOY, "-c", file, "--use-dynamic-base-id", "--log-level", "warning", ready=lambda: answers(self.admin, "/server_info"))

    def bootstrap(self, part, xds):
        ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
        protocol = {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}
        address = lambda port: {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
        cluster = lambda name, port: {"name": name, "type": "STATIC", "connect_timeout": "5s", "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
                                      "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": address(port)}]}]}}
        return {"node": self.NODE,
                "admin": address(self.admin),
                "layered_runtime": {"layers": [{"name": "istio", "static_layer": {"re2.max_program_size.error_level": MAX_PROGRAM}}]},
                "dynamic_resources": {f"{part}_config": ads, "ads_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "istiod"}}]}},
                # Where a gateway has its certificates from; nobody is there.
                "static_resources": {"clusters": [cluster("istiod", xds), cluster("sds-grpc", 9)]}}

    def rejected(self):
        """The updates that it did not take, by what they were of."""
        lines = get(self.admin, "/stats?filter=update_rejected").splitlines()
        return {name: int(value) for name, _, value in (line.rpartition(": ") for line in lines) if value != "0"}

    def dumped(self, part, kinds, field):
        configs = json.loads(get(self.admin, "/config_dump"))["configs"]
        return [c[field] for dump in configs if dump["@type"].endswith(part) for kind in kinds for c in dump.get(kind, []) if field in c]

    def routes(self):
        """The virtual hosts that it has, by route configuration."""
        return {c["name"]: c.get("virtual_hosts", []) for c in self.dumped("RoutesConfigDump", ["dynamic_route_configs"], "route_config")}

    def clusters(self):
        return {c["name"] for c in self.dumped("ClustersConfigDump", ["dynamic_active_clusters", "dynamic_warming_clusters"], "cluster")}

    def said(self):
        return self.log.read_text()


class Mesh:
    """An API server, an istiod that reads it, and two Envoys as its ingress gateway."""

    def __init__(self, folder, **settings):
        self.folder, self.started, self.settings = folder, [], {"trustDomain": "cluster1", **settings}
        self.xds, self.listener = free_port(), free_port()

    def start(self, name, *command, env=None, ready):
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **(env or {})})
        self.started.append(process)
        until(name, lambda: process.poll() is not None or ready(), 120)
        assert process.poll() is None, (self.folder / f"{name}.log").read_text()[-3000:]

    def stop(self):
        for process in reversed(self.started):
            process.kill()
            process.wait()

    def up(self):
        self.start_api_server()
        self.start_istiod()
        self.routing, self.calling = Envoy(self, "lds"), Envoy(self, "cds")

    def start_api_server(self):
        port, client, peer = free_port(), free_port(), free_port()
        urls = [f"http://127.0.0.1:{p}" for p in (client, peer)]
        self.start("etcd", BIN / "etcd", "--data-dir", self.folder / "etcd", "--listen-client-urls", urls[0], "--advertise-client-urls", urls[0], "--listen-peer-urls", urls[1], "--unsafe-no-fsync",
                   "--log-level", "error", ready=lambda: answers(client, "/health"))
        run("openssl", "genrsa", "-out", self.folder / "sa.key", "2048")
        (self.folder / "tokens.csv").write_text('lab,admin,admin,"system:masters"\n')
        self.api = Api("127.0.0.1", port, "lab")
        self.start("kube-apiserver", BIN / "kube-apiserver", f"--etcd-servers={urls[0]}", "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", f"--secure-port={port}", f"--cert-dir={self.folder}/certs",
                   "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={self.folder}/sa.key", f"--service-account-signing-key-file={self.folder}/sa.key",
                   f"--token-auth-file={self.folder}/tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount", ready=self.is_ready)
        cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        self.kubeconfig = self.folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "here", "clusters": [{"name": "here", "cluster": cluster}],
                                               "users": [{"name": "admin", "user": {"token": "lab"}}], "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}]}))
        run(BIN / "kubectl", "--kubeconfig", self.kubeconfig, "apply", "--server-side", "-f", CACHE / "crd-all.gen.yaml")
        self.api.apply(any_obj("v1", "Namespace", "istio-system"))

    def is_ready(self):
        try:
            return self.api.call("GET", "/readyz") == "ok" and self.api.get("v1", "Namespace", "default")
        except Exception:
            return False

    def start_istiod(self):
        http, monitoring = free_port(), free_port()
        (self.folder / "mesh.yaml").write_text(json.dumps(self.settings))
        # The last three switch off what only Istio's own build of Envoy has.
        env = {"POD_NAMESPACE": "istio-system", "POD_NAME": "istiod", "REVISION": "default", "CLUSTER_ID": "Kubernetes", "ENABLE_CA_SERVER": "false", "PILOT_CERT_PROVIDER": "none",
               "INJECT_ENABLED": "false", "VALIDATION_WEBHOOK_CONFIG_NAME": "", "ENABLE_LEADER_ELECTION": "false", "PILOT_ENABLE_ANALYSIS": "false",
               "PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false", "PILOT_ENABLE_TELEMETRY_LABEL": "false"}
        self.start("istiod", BIN / "pilot-discovery", "discovery", "--kubeconfig", self.kubeconfig, "--domain", "cluster.local", "--meshConfig", self.folder / "mesh.yaml",
                   "--httpAddr", f"127.0.0.1:{http}", "--grpcAddr", f"127.0.0.1:{self.xds}", "--secureGRPCAddr", "", "--httpsAddr", "", "--monitoringAddr", f"127.0.0.1:{monitoring}",
                   "--ctrlz_port", "0", "--log_output_level", "default:warn", env=env, ready=lambda: answers(http, "/ready"))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    try:
        mesh.up()
        yield mesh
    finally:
        mesh.stop()


@pytest.fixture(scope="module")
def exposed(mesh):
    """The VirtualServices that Wharf writes for all tenants; the mesh has them."""
    own = [o for seed, risk in SEEDS.items() for o in tenants(seed, risk)]
    written, told = translated(mesh.folder, own, mesh.listener)
    services = [o for o in own if o["kind"] == "Service"]
    for ns in sorted({o["metadata"]["namespace"] for o in services}):
        mesh.api.apply(any_obj("v1", "Namespace", ns))
    # An API server with Istio's own definitions takes all of it, too.
    mesh.api.apply(*services, *written)
    routes = [o for o in written if o["kind"] == "VirtualService"]
    assert 20 < len(routes) < len(services) - 20, f"some are exposed, some are refused: {len(routes)} of {len(services)}\n{told}"
    return routes


def test_envoy_takes_whatever_wharf_lets_through(mesh, exposed):
    routing, calling = mesh.routing, mesh.calling
    # Each host has a server of its own: the port's, and the bare one of an entry with one port.
    wanted = {f"https.{mesh.listener}.https{'-80' if name.startswith('p80.') else ''}.{o['spec']['gateways'][0]}.istio-system.127.0.0.1": name
              for o in exposed for name in o["spec"]["hosts"]}
    assert len(wanted) == 2 * len(exposed)
    until("all routes", lambda: routing.rejected() or wanted.keys() <= routing.routes().keys(), 60, 0.5)
    assert not routing.rejected(), routing.said()[-3000:]
    for name, hosts in routing.routes().items():
        if name in wanted:
            (host,) = hosts
            assert host["name"].startswith(wanted[name]) and len(host["routes"]) > 1, "there is more than the refusal of strangers"
    subsets = {f"outbound|80|{r['destination']['subset']}|{r['destination']['host']}" for o in exposed for h in o["spec"]["http"] for r in h.get("route", []) if "subset" in r["destination"]}
    assert len(subsets) > 20
    until("all clusters", lambda: calling.rejected() or subsets <= calling.clusters(), 60, 0.5)
    assert not calling.rejected(), calling.said()[-3000:]


BAD = {"a header": {"headers": {"response": {"set": {"x-a": "%BOGUS%"}}}}, "a regular expression": {"match": [{"uri": {"regex": r"/[\p{L}\p{N}\p{S}]{1000}" * 3}}]}}


@pytest.mark.parametrize("bad", BAD)
def test_a_route_that_envoy_does_not_take_would_be_found(mesh, exposed, bad):
    """Or else silence would say nothing."""
    good, routing = exposed[0], mesh.routing
    route = {**BAD[bad], "route": [{"destination": {"host": good["spec"]["hosts"][0], "port": {"number": 80}}}]}
    before = sum(routing.rejected().values())
    mesh.api.apply({**good, "spec": {**good["spec"], "http": [route]}})
    until("a rejection", lambda: sum(routing.rejected().values()) > before, 30)
    assert "RouteConfiguration rejected" in routing.said()
    mesh.api.apply(good)


def test_a_cluster_that_envoy_does_not_take_would_be_found(mesh, exposed):
    good = mesh.api.items(ISTIO, "DestinationRule", "istio-system")[0]
    table = {"loadBalancer": {"consistentHash": {"useSourceIp": True, "maglev": {"tableSize": 4}}}}
    mesh.api.apply(obj("DestinationRule", good["metadata"]["name"], "istio-system", {**good["spec"], "trafficPolicy": table}))
    until("a rejection", mesh.calling.rejected, 30)
