"""Listed callers get in; everybody else is refused, whatever they copy, claim or forge."""
import datetime
import json
import socket
import time

import pytest

from calls import Stranger, answer, call, ok, tcp, workload_certificate
from conftest import CARRIED, DIRECT, EGRESS
from tools import STATE
from wharf import Pki, until

MARK = "app.kubernetes.io/managed-by"


def gateway(way):
    return (way.donor.pods["ingress"].ip, 15443)


def refused(seen):
    """Not let through: TLS or the connection ended, or the gateway answered that it has nothing for this caller."""
    return seen in (403, 404) or isinstance(seen, str) and seen.startswith("refused")


def listed(way, cert=None):
    """Somebody with the credentials of the listed cluster."""
    if way.mode == "Cluster":
        pki = way.agent(way.acceptor).dir
        return Stranger(gateway(way), pki / "tls.crt", pki / "tls.key")
    return Stranger(gateway(way), *workload_certificate(way.acceptor, f"spiffe://{way.acceptor.trust_domain}/ns/default/sa/caller"))


def unlisted(way):
    """The same of a cluster that is trusted, and not listed."""
    if way.mode == "Cluster":
        pki = way.agent(way.other).dir
        return Stranger(gateway(way), pki / "tls.crt", pki / "tls.key")
    return Stranger(gateway(way), *workload_certificate(way.other, f"spiffe://{way.other.trust_domain}/ns/default/sa/caller"))


def test_the_listed_cluster_calls_through(way):
    way.through()
    assert answer(call(way.caller, way.url("/a/path?q=1")))["path"] == "/a/path?q=1"


def test_a_copied_configuration_does_not_open_the_gateway(way):
    """The operator of a trusted cluster that is not listed copies the listed cluster's Istio objects, and has its own credentials."""
    way.through()
    copies = [o for o in way.agent(way.acceptor).written() if way.name in str(o) or "shared" in str(o["metadata"]["labels"])]
    own = [o for o in copies if o["metadata"]["labels"].get("multicluster.istio.io/owner") != "shared"]
    assert own
    mine = [{**o, "metadata": {**o["metadata"], "labels": {}}} for o in copies]
    way.other.apply(*mine)
    try:
        thief = way.other.pods["caller"]
        # Its own configuration is in force when its proxy does try: only then a refusal is the donor's.
        until("the copy is tried", lambda: (c := call(thief, way.url())) and c.get("status") and c, 15)
        until("the donor's gateway is asked, and refuses", lambda: (c := call(thief, way.url())) and c["status"] in (403, 503) and c, 15)
        for _ in range(10):
            assert not ok(call(thief, way.url()))
        assert ok(call(way.caller, way.url()))
    finally:
        way.other.delete(*[o for o in mine if way.name in str(o)])


def test_a_trusted_cluster_that_is_not_listed_is_refused(way):
    way.through()
    if way.mode != "Passthrough":
        assert listed(way).get(way.sni) == 200
    assert refused(unlisted(way).get(way.sni))
    assert refused(unlisted(way).get(way.host)), "nor by the bare host"


def test_unknown_names_other_roots_and_no_certificate_are_refused(way, pki):
    way.through()
    other_root = STATE / "other-root"
    foreign = Pki(other_root) if not other_root.exists() else None
    strangers = {
        "no certificate": Stranger(gateway(way)),
        "a workload of an unknown trust domain": Stranger(gateway(way), *workload_certificate(way.other, "spiffe://nobody/ns/default/sa/caller")),
        "a workload whose trust domain begins alike": Stranger(gateway(way), *workload_certificate(way.other, f"spiffe://{way.acceptor.trust_domain}x/ns/default/sa/caller")),
        "a name that hides the listed one in its path": Stranger(gateway(way), *workload_certificate(way.other, f"spiffe://nobody/{way.acceptor.trust_domain}/ns/default/sa/caller")),
        "the right root, an unknown name": Stranger(gateway(way), *issue(pki, f"unknown-{way.name}")),
        "the listed name, another root": Stranger(gateway(way), *issue(foreign, way.acceptor.name)) if foreign else Stranger(gateway(way), other_root / f"{way.acceptor.name}.crt", other_root / f"{way.acceptor.name}.key"),
    }
    let_in = {who: seen for who, s in strangers.items() if not refused(seen := s.get(way.sni))}
    assert not let_in


def issue(pki, name):
    return pki.issue(name)


def test_a_header_does_not_make_a_caller_somebody_else(http_way):
    """What a gateway tells itself of the caller's certificate cannot be told to it."""
    way = http_way
    way.through()
    claim = f"URI=spiffe://{way.acceptor.trust_domain}/ns/default/sa/caller"
    for name in ("x-forwarded-client-cert", "X-Forwarded-Client-Cert"):
        for value in (claim, f'By=spiffe://{way.donor.trust_domain}/ns/istio-system/sa/istio-ingressgateway;Hash=00;Subject="";{claim}', f"URI=spiffe://wharf/cluster/{way.acceptor.name}"):
            assert refused(unlisted(way).get(way.sni, headers=f"{name}: {value}\r\n"))


def test_a_forged_sni_leads_nowhere(http_way):
    """Beside the exposed name, no name of the donor's mesh leads anywhere, with the permitted credentials."""
    way = http_way
    way.through()
    me = listed(way)
    assert me.get(way.sni) == 200 and me.get(way.host) == 200
    for sni in ("secret.default.svc.cluster.local", "outbound_.8080_._.secret.default.svc.cluster.local", f"p81.{way.host}", f"x.{way.host}",
                "istiod.istio-system.svc.cluster.local", "kubernetes.default.svc.cluster.local", way.name, "*"):
        assert refused(me.get(sni)), sni
        assert refused(me.get(sni, host=way.sni)) and refused(me.get(sni, host=way.host)), sni


@pytest.mark.parametrize("style,mode", [c for c in CARRIED if c[1] != "Passthrough"], ids=lambda v: v)
def test_a_server_that_speaks_first_says_nothing_to_strangers(ways, style, mode):
    """A TCP server that greets, or sends all the time, before the caller has said anything."""
    way = ways(style, mode)
    way.service([("tcp", 7001, 7001)])
    way.expose()
    way.bind()
    me, other = listed(way), unlisted(way)
    for sni in (f"p7001.{way.host}", way.host):
        until("the listed one hears it", lambda: not refused(me.hear(sni)))
        assert not [heard for heard in (other.hear(sni) for _ in range(5)) if not refused(heard)]


def filter_chain(way):
    """The filter chain that a name has at the donor's gateway now, as text."""
    dump = json.loads(way.donor.pods["ingress"].envoy("config_dump?resource=dynamic_listeners"))
    listeners = (c.get("active_state", {}).get("listener", {}) for c in dump.get("configs", []))
    chains = (chain for listener in listeners for chain in listener.get("filter_chains", []))
    return next((json.dumps(c) for c in chains if way.sni in c.get("filter_chain_match", {}).get("server_names", [])), None)


def test_without_its_filter_a_permission_lets_in_nobody_who_is_not_listed(ways):
    """As if the gateway's Istio did not understand the EnvoyFilter, or somebody had removed it while the agent was away."""
    way = ways(DIRECT, "Workload")
    way.service([("http", 80, 8080), ("tcp", 7001, 7001)])
    way.expose()
    way.bind()
    way.works()
    tcp_host = f"p7001.{way.host}"
    me, other, agent = listed(way), unlisted(way), way.agent(way.donor)
    until("the listed one hears it", lambda: not refused(me.hear(tcp_host)))
    filters = [o for o in agent.written() if o["kind"] == "EnvoyFilter" and way.name in o["metadata"]["name"]]
    assert len(filters) == 1 and way.host in str(filters)
    agent.stop()
    try:
        way.donor.delete(*filters)
        until("the gateway has no filter", lambda: (chain := filter_chain(way)) and "wharf.permit" not in chain)
        for _ in range(5):
            assert refused(other.get(way.sni)) and refused(other.hear(tcp_host))
        assert me.get(way.sni) == 200 and refused(me.hear(tcp_host))
    finally:
        agent.start()
    until("it is written again", lambda: not refused(me.hear(tcp_host)))


def test_a_host_header_of_another_service_leads_nowhere(http_way):
    way = http_way
    way.service(name="secret2", selector={"app": "secret"})
    way.through()
    me = listed(way)
    for host in ("secret.default.svc.cluster.local", "secret2.default.svc.cluster.local:80", "secret2", "localhost", "10.71.0.1", f"{way.name}", f"x.{way.host}", "*"):
        assert refused(me.get(way.sni, host=host)), host


def test_a_request_path_cannot_leave_its_route(http_way):
    way = http_way
    own = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": way.name, "namespace": "default"},
           "spec": {"hosts": [way.name], "http": [{"match": [{"uri": {"prefix": "/public/"}}], "route": [{"destination": {"host": way.name}}]}]}}
    way.own(way.donor, own)
    way.service()
    way.expose(virtualService=way.name)
    way.bind()
    until("the public part", lambda: ok(call(way.caller, way.url("/public/x"))))
    me = listed(way)
    for path in ("/private", "/public/../private", "/public/%2e%2e/private", "/public%2f..%2fprivate", "//private", "/./private", "/public\\..\\private",
                 "http://secret.default.svc.cluster.local/public/", "/public/..;/private", "/PUBLIC/x"):
        seen = me.get(way.sni, path=path)
        inside = call(way.caller, way.url("/private")).get("status")
        assert seen in (400, 404, 403) or refused(seen), (path, seen)
        assert inside == 404
    assert me.get(way.sni, path="/public/x") == 200


def test_a_scan_finds_exactly_what_is_exposed(ways):
    """All names of the donor's mesh, with all credentials that are worth trying: only the exposed ones answer."""
    exposed, others = ways(EGRESS, "Cluster"), ways(DIRECT, "Workload")
    exposed.through()
    others.through()
    exposed.service(name=f"{exposed.name}-not")
    who = {"cluster": listed(exposed), "workload": listed(others), "nobody": Stranger(gateway(exposed))}
    donor = exposed.donor
    names = [f"{s['metadata']['name']}.{s['metadata']['namespace']}.svc.cluster.local" for s in donor.api.items("v1", "Service")]
    ports = {p["port"] for s in donor.api.items("v1", "Service") for p in s["spec"]["ports"]}
    found = set()
    for name in names:
        for sni in (name, *(f"outbound_.{p}_._.{name}" for p in ports), *(f"p{p}.{name}" for p in ports)):
            for credentials, stranger in who.items():
                if not refused(stranger.get(sni)):
                    found.add((sni, credentials))
    ours = {(exposed, "cluster"), (others, "workload")}
    assert found == {(sni, credentials) for way, credentials in ours for sni in (way.host, way.sni)}


def test_the_gateway_listens_where_its_service_says_and_for_its_own_health_only(ways):
    way = ways()
    way.through()
    ip = gateway(way)[0]
    open_ports = {p for p in range(1, 65536) if connects(ip, p)}
    # 15020, 15021, 15090: the proxy's own health and metrics, which its Service does not lead to.
    assert open_ports - {15020, 15021, 15090} == {15443}


def connects(ip, port):
    s = socket.socket()
    s.settimeout(0.5)
    try:
        return s.connect_ex((ip, port)) == 0
    finally:
        s.close()


def test_callers_inside_the_donors_mesh_are_not_touched(way):
    way.service()
    local = way.donor.pods["local"]
    until("before", lambda: ok(call(local, way.url())))
    way.expose()
    way.bind()
    way.works()
    assert all(ok(c) for c in call(local, way.url(), n=20))


def test_the_owners_rules_hold_beside_wharfs(way):
    """The owner's AuthorizationPolicy for callers of the donor's own mesh."""
    way.service()
    way.expose()
    way.bind()
    way.works()
    local = way.donor.pods["local"]
    rule = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": way.name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "echo"}}, "action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/forbidden"]}}]}]}}
    way.donor.apply(rule)
    try:
        until("the owner's rule", lambda: call(local, way.url("/forbidden")).get("status") == 403)
        until("for callers of other clusters too", lambda: {c.get("status") for c in call(way.caller, way.url("/forbidden"), n=6)} == {403})
        assert ok(call(way.caller, way.url("/")))
    finally:
        way.donor.delete(rule)


@pytest.mark.parametrize("style,mode,place", [(EGRESS, "Cluster", "acceptor"), (DIRECT, "Workload", "donor"), (DIRECT, "Passthrough", "provider"), (EGRESS, "Passthrough", "provider")])
def test_clients_hold_where_the_status_says(ways, style, mode, place):
    way = ways(style, mode)
    acceptor = way.acceptor
    other = acceptor.pods.get("bystander") or acceptor.pod("default", "bystander")
    other.wait()
    way.service([("http", 80, 8080), ("tcp", 7000, 7000)])
    p = way.expose(clients=[{"cluster": acceptor.name, "namespace": "default", "serviceAccount": "caller"}])
    way.bind()
    way.works()
    talks = lambda pod: "text" in tcp(pod, way.name, 7000)[0]
    until("TCP works", lambda: talks(way.caller))
    message = way.agent(way.donor).status(p)["exposed"][0]["message"]
    assert {"acceptor": "acceptor's egress gateway", "donor": "this cluster's ingress gateway", "provider": "provider's sidecars"}[place] in message
    for _ in range(5):
        assert not ok(call(other, way.url())) and not talks(other)
    assert ok(call(way.caller, way.url()))


LISTENER = "istio-system/wharf-egress"


def routes(name, host, *http, gateways=(LISTENER,)):
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "other"},
            "spec": {"hosts": [host], "gateways": list(gateways), "http": list(http)}}


@pytest.mark.parametrize("mode", ["Cluster", "Workload"])
def test_a_virtual_service_of_somebody_else_does_not_attach_to_the_egress_listener(ways, mode):
    """A tenant of the acceptor attaches routes to the listener that all HTTP bindings share: for the name of another tenant, and for a name of
    its own that leads past `clients`."""
    way, guarded = ways(EGRESS, mode), ways(EGRESS, "Cluster")
    acceptor = way.acceptor
    way.through()
    guarded.service()
    guarded.expose(clients=[{"cluster": acceptor.name, "namespace": "default", "serviceAccount": "caller"}])
    guarded.bind()
    guarded.works()
    tenant, door = acceptor.pods["stranger"], f"door-{way.name}"
    host, egress = f"{door}.other.svc.cluster.local", "istio-egressgateway.istio-system.svc.cluster.local"
    there = {"rewrite": {"authority": guarded.host}, "route": [{"destination": {"host": f"remote.{guarded.host}", "port": {"number": 80}}}]}
    catch = {"match": [{"uri": {"regex": "/.*"}}], "directResponse": {"status": 418}}
    out = {"match": [{"gateways": ["mesh"]}], "rewrite": {"authority": host},
           "route": [{"destination": {"host": egress, "subset": "wharf", "port": {"number": 15443}}}]}
    mine = [routes(f"catch-{way.name}", way.host, catch),
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": door, "namespace": "other"}, "spec": {"ports": [{"name": "http", "port": 80}]}},
            routes(door, host, out, {"match": [{"gateways": [LISTENER]}], **there}, gateways=("mesh", LISTENER))]
    acceptor.apply(*mine)
    try:
        # The gateway has been reached by the tenant's own route, so that what it attached would be in force as well.
        told = until("the gateway answers the tenant", lambda: (c := call(tenant, f"http://{door}.other:80/")) and c.get("status") in (200, 403, 404) and c, 20)
        assert told["status"] == 404, f"the tenant's route is at the listener: {told}"
        for _ in range(10):
            assert not ok(call(tenant, f"http://{door}.other:80/"))
            for method in ("GET", "POST"):
                assert ok(call(way.caller, way.url(), "-method", method)), "a call of another tenant was caught"
        assert ok(call(guarded.caller, guarded.url()))
    finally:
        acceptor.delete(*mine)


def test_what_somebody_else_writes_later_takes_no_binding_away(ways):
    """VirtualServices of another namespace for a bound name: one that nobody else sees, and one that everybody does."""
    way = ways()
    _, bound = way.through()
    agent, acceptor = way.agent(way.acceptor), way.acceptor
    mine = lambda: acceptor.api.get("networking.istio.io/v1", "VirtualService", f"wharf-{way.name}-default", "default")["metadata"]
    uid = lambda: mine()["uid"]
    before = uid()
    # Times of creation are whole seconds, and of one second Istio takes the first by name.
    made = datetime.datetime.fromisoformat(mine()["creationTimestamp"]).timestamp()
    until("a later second", lambda: time.time() >= made + 1)
    service = lambda: agent.status(bound)["services"][0]
    answered = {"directResponse": {"status": 418}}
    unseen = routes(f"unseen-{way.name}", way.host, answered, gateways=("mesh",))
    unseen["spec"]["exportTo"] = ["."]
    seen = routes(f"seen-{way.name}", way.host, answered, gateways=("mesh",))
    acceptor.apply(unseen)
    try:
        until("it is in force where it is seen", lambda: call(acceptor.pods["stranger"], f"http://{way.name}.default:80/").get("status") == 418)
        assert service()["reason"] == "Bound" and ok(call(way.caller, way.url()))
        acceptor.apply(seen)
        until("the conflict is told", lambda: service()["reason"] == "NameConflict" and service()["bound"])
        assert "other" not in service()["message"].replace("another", ""), service()["message"]
        assert ok(call(way.caller, way.url())), "the older routes hold"
    finally:
        acceptor.delete(unseen, seen)
    until("all is well", lambda: service()["reason"] == "Bound")
    assert before == uid(), "it was never away"
    assert ok(call(way.caller, way.url()))


def test_clients_that_nobody_could_tell_apart_are_refused(ways):
    """Behind an egress gateway the donor sees the gateway's certificate: no pretence."""
    way = ways(EGRESS, "Workload")
    way.service()
    way.expose(clients=[{"cluster": way.acceptor.name, "namespace": "default", "serviceAccount": "caller"}])
    from wharf import binding
    b = binding(way.name, (way.donor.name, {"name": way.name}))
    way.put(way.acceptor, b, wait=False)
    until("a reason", lambda: way.agent(way.acceptor).condition(b, "Bound").get("reason") == "StyleCannotCarry")
    assert not ok(call(way.caller, way.url()))


def test_nobody_gets_in_before_during_or_after(way):
    """From before the policy to after its deletion, a trusted cluster that is not listed asks without pause, and is never let in."""
    way.service()
    import threading
    seen, stop = [], threading.Event()
    stranger = unlisted(way)

    def ask():
        while not stop.is_set():
            seen.append((time.time(), stranger.get(way.sni)))

    done = []

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(3):
            done.append((time.time(), "exposed"))
            p = way.expose()
            way.bind()
            way.works()
            done.append((time.time(), "withdrawn"))
            way.agent(way.donor).remove(p)
            until("gone", lambda: not ok(call(way.caller, way.url())))
            from wharf import binding
            way.agent(way.acceptor).remove(binding(way.name))
    finally:
        stop.set()
        asker.join()
    let_in = [(at, s) for at, s in seen if not refused(s)]
    last = lambda at: max((d for d in done if d[0] < at), default=(at, "nothing"))
    told = [f"{s}, {at - last(at)[0]:.2f} s after it was {last(at)[1]}" for at, s in let_in]
    assert len(seen) > 12 and not let_in, told
