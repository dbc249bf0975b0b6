"""A peering that ends, and a certificate that is revoked: what the peer has at the donor's gateway ends with them, on connections
that are open too. The acceptor's agent is stopped meanwhile, so that what refuses is the donor."""
import shutil
import time

import pytest

from api import obj
from calls import address, call, grpc, ok
from conftest import TIMED
from test_revocation import DRAIN, PROMPT, last_heard, lasting_services, open_things, refused_after
from test_who_gets_in import Stranger, gateway, listed, refused
from tools import STATE, run
from wharf import GROUP, WHARF, until

pytestmark = TIMED

LOAD = 8


def peering(cluster):
    return obj(GROUP, "ClusterPeering", cluster.name, spec={"consume": True, "trustDomain": cluster.trust_domain})


@pytest.fixture(scope="module")
def peered(lab, agents):
    """The donor has its peers as objects, and none in its configuration."""
    donor, others = agents["cluster1"], lab.clusters[1:]
    donor.restart(peers=[])
    donor.put(*map(peering, others))
    yield
    donor.settings.pop("peers")
    donor.restart()
    donor.install()
    donor.remove(*map(peering, others))
    donor.restart()


class Ending:
    """What ends a cluster's right to call, and how it gets it back."""

    def __init__(self, way):
        self.way, self.donor, self.acceptor = way, way.agent(way.donor), way.agent(way.acceptor)

    def begin(self):
        """Before the service is exposed."""

    def deafen(self):
        self.acceptor.stop()

    def end(self):
        raise NotImplementedError

    def mend(self):
        raise NotImplementedError

    def hear(self):
        self.acceptor.start()


class PeeringDeleted(Ending):
    def end(self):
        self.donor.remove(peering(self.way.acceptor))

    def mend(self):
        self.donor.put(peering(self.way.acceptor))


class CertificateRevoked(Ending):
    """The agent's connection is closed, and Envoy looks at lists in handshakes only: what is open is ended by the donor's agent."""

    def begin(self):
        (self.donor.pki.dir / "ca.crl").unlink(missing_ok=True)
        run(WHARF, "ca", "revoke", "--dir", self.donor.pki.dir)
        self.donor.certify(crl=self.donor.pki.dir / "ca.crl")
        self.acceptor.restart()  # so that it has shown the certificate that it has now

    def end(self):
        run(WHARF, "ca", "revoke", self.acceptor.dir / "tls.crt", "--dir", self.donor.pki.dir)
        self.donor.put_identity(crl=self.donor.pki.dir / "ca.crl")

    def mend(self):
        self.acceptor.certify()


@pytest.fixture(params=[PeeringDeleted, CertificateRevoked], ids=lambda e: e.__name__)
def ending(request, peered, ways, agents):
    """Makes one for a way; afterwards everything is as it was."""
    made = []

    def make(way):
        made.append(request.param(way))
        made[-1].begin()
        return made[-1]

    yield make
    for e in made:
        e.mend()
        if e.acceptor.process.poll() is not None:
            e.hear()
        if request.param is CertificateRevoked:
            e.donor.certify()


def last_good(told, good, withdrawn):
    """How long after the write the last call began that was answered."""
    return max((t["at"] for t in told if good(t)), default=0) - withdrawn


def test_calls_fail_within_two_seconds_on_new_and_on_open_connections(ending, http_way):
    """HTTP/1.1 kept alive, HTTP/2 and gRPC, all through the acceptor's proxies as they are; and a stranger with its credentials."""
    way = http_way
    e = ending(way)
    way.service([("http", 80, 8080), ("http2", 81, 8082), ("grpc", 9000, 9000)])
    way.expose(), way.bind()
    way.works()
    ip = address(way.caller, way.name)
    until("gRPC", lambda: grpc(way.caller, way.name)[0]["code"] == "OK")
    until("HTTP/2", lambda: ok(call(way.caller, f"http://{way.name}:81/", "-h2c")))
    me = listed(way)
    kept = me.connect(way.sni)
    idle = [me.connect(way.sni) for _ in range(3)]
    assert [me.get(way.sni, connection=c) for c in (kept, *idle)] == [200] * 4
    e.deafen()
    load = lambda port, *flags: way.caller.app_later("load", f"http://{way.name}:{port}/", "-to", f"{ip}:{port}", "-rate", "20", "-connections", "2", "-for", f"{LOAD}s", "-timeout", "2s", *flags)
    loads = {"HTTP/1.1": load(80), "HTTP/2": load(81, "-h2c"),
             "gRPC": way.caller.app_later("grpc", f"{ip}:9000", "-authority", f"{way.name}:9000", "-n", LOAD * 20, "-every", "50ms", "-timeout", "2s")}
    begun = time.time()
    until("all have called", lambda: time.time() - begun > 1.5)
    e.end()
    withdrawn = time.time()
    new = refused_after("new connections refused", lambda: not refused(me.get(way.sni)), withdrawn)
    old = refused_after("a kept one refused", lambda: not refused(me.get(way.sni, connection=kept)), withdrawn)
    until("all have been tried", lambda: time.time() > withdrawn + PROMPT)
    assert all(refused(me.get(way.sni, connection=c)) for c in idle)
    seen = {"new connections": new, "kept": old}
    for what, later in loads.items():
        told = later.told()
        good = (lambda t: t["code"] == "OK") if what == "gRPC" else (lambda t: t.get("status") == 200)
        assert sum(1 for t in told if good(t) and t["at"] < withdrawn) > 15, f"{what} worked before"
        assert sum(1 for t in told if t["at"] > withdrawn + PROMPT) > 20, f"{what} was tried after"
        seen[what] = last_good(told, good, withdrawn)
    print(f"{way.style} {way.mode}:", {k: round(v, 2) for k, v in seen.items()})
    assert max(seen.values()) < PROMPT, seen


def test_new_connections_that_pass_through_fail_within_two_seconds(ending, ways):
    """In the mode Passthrough connections end at the provider, which lets in by trust domain."""
    way = ways("DIRECT_INGRESS", "Passthrough")
    e = ending(way)
    way.through()
    e.deafen()
    e.end()
    withdrawn = time.time()
    took = refused_after("new calls refused", lambda: ok(call(way.caller, way.url(), timeout="2s")), withdrawn)
    print(f"{way.style} {way.mode}: refused after {took:.2f} s")
    assert took < PROMPT


@pytest.mark.parametrize("style,mode", [("EGRESS_INGRESS", "Cluster"), ("DIRECT_INGRESS", "Workload")], ids=lambda v: v)
def test_what_is_open_ends_within_the_gateways_drain_time(ending, ways, style, mode):
    """An answer that takes long, a gRPC stream, a TCP connection."""
    first = ways(style, mode)
    e = ending(first)
    way, tcp_way = lasting_services(ways, style, mode)
    e.deafen()
    open_ = open_things(way, tcp_way, int(DRAIN * 4))
    assert open_["an answer"].begun()["status"] == 200
    assert open_["a gRPC stream"].begun()["code"] == "OK" and open_["a TCP connection"].begun()["text"]
    e.end()
    withdrawn = time.time()
    ended = {}
    for what, later in open_.items():
        last = later.told()[-1]
        assert last.get("error"), (what, last)
        ended[what] = last_heard(last) - withdrawn
    print(f"{style} {mode}: ended", {k: round(v, 1) for k, v in ended.items()})
    assert max(ended.values()) < DRAIN + PROMPT, ended


def test_a_cluster_that_was_renewed_loses_nothing_when_its_old_certificate_is_revoked(peered, ways):
    """Its agent's stream is of the old one still: it ends, and comes back with the new one."""
    way = ways("EGRESS_INGRESS", "Cluster")
    e = CertificateRevoked(way)
    e.begin()
    try:
        way.through()
        ip = address(way.caller, way.name)
        old = STATE / "old.crt"
        shutil.copy(e.acceptor.dir / "tls.crt", old)
        load = way.caller.app_later("load", way.url(), "-to", f"{ip}:80", "-rate", "20", "-connections", "2", "-for", f"{LOAD + 4}s")
        before = secret(way.acceptor)
        e.acceptor.certify()
        until("its gateways have the new one", lambda: secret(way.acceptor) != before)
        run(WHARF, "ca", "revoke", old, "--dir", e.donor.pki.dir)
        e.donor.put_identity(crl=e.donor.pki.dir / "ca.crl")
        told = load.told()
        assert len(told) > LOAD * 15 and not [t for t in told if t.get("status") != 200]
        who = Stranger(gateway(way), e.acceptor.dir / "tls.crt", e.acceptor.dir / "tls.key")
        assert who.get(way.sni) == 200
    finally:
        e.donor.certify()


def secret(cluster):
    return cluster.api.get("v1", "Secret", "wharf-identity", "istio-system")["data"]["tls.crt"]
