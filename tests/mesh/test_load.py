"""Change under load: HTTP and gRPC go on while agents, certificates, policies and gateways change."""
import shutil
import signal
import time

import pytest

from calls import address, call, ok
from conftest import DIRECT, EGRESS, TIMED
from wharf import WHARF, policy, until

pytestmark = TIMED

LOAD = 12


class Steady:
    """HTTP and gRPC from a pod of the acceptor, 20 calls a second each."""

    def __init__(self, ways, style, mode):
        self.way = way = ways(style, mode)
        way.service([("http", 80, 8080), ("grpc", 9000, 9000)])
        self.policy = way.expose()
        way.bind()
        way.works()
        self.ip = address(way.caller, way.name)
        self.grpc = ("grpc", f"{self.ip}:9000", "-authority", f"{way.name}:9000")
        until("gRPC", lambda: way.caller.app(*self.grpc)[0]["code"] == "OK")

    def under_load(self, change):
        way = self.way
        http = way.caller.app_later("load", way.url(), "-to", f"{self.ip}:80", "-rate", "20", "-connections", "2", "-for", f"{LOAD}s")
        rpc = way.caller.app_later(*self.grpc, "-n", LOAD * 20, "-every", "50ms")
        time.sleep(1)
        change()
        told, called = http.told(), rpc.told()
        lost = [t for t in told if t.get("status") != 200] + [t for t in called if t["code"] != "OK"]
        assert len(told) > LOAD * 15 and len(called) > LOAD * 15
        return lost


@pytest.fixture(params=[(EGRESS, "Cluster"), (DIRECT, "Workload")], ids=lambda p: f"{p[0]}-{p[1]}")
def steady(request, ways):
    return Steady(ways, *request.param)


def test_agents_restarted_on_both_sides_lose_nothing(steady):
    way = steady.way

    def change():
        for how in (signal.SIGTERM, signal.SIGKILL):
            for c in (way.donor, way.acceptor):
                way.agent(c).restart(how)

    assert not steady.under_load(change)


def test_agents_upgraded_on_both_sides_lose_nothing_and_write_nothing(steady, tmp_path):
    """Another binary, two replicas under one Lease meanwhile, the donor's agent first."""
    way = steady.way
    binary = tmp_path / "wharf-new"
    shutil.copy(WHARF, binary)
    both = [way.agent(way.donor), way.agent(way.acceptor)]
    before = [a.versions() for a in both]
    assert all(before)

    def change():
        for a in both:
            with a.upgraded(binary) as host:
                until("the new one leads", lambda: leads(a, "-new"), 30)
                until("it is in step", lambda: a.in_step(host))
            until("the old one leads again", lambda: leads(a, a.cluster.name), 30)
            until("it is in step again", a.in_step)

    assert not steady.under_load(change)
    assert [a.versions() for a in both] == before
    # They are alive, and follow what comes next.
    way.agent(way.donor).remove(steady.policy)
    until("withdrawn", lambda: not ok(call(way.caller, way.url(), timeout="2s")))


def leads(agent, end):
    lease = agent.cluster.api.get("coordination.k8s.io/v1", "Lease", "wharf", "wharf-system")
    return (lease["spec"].get("holderIdentity") or "").endswith(end)


def test_a_policy_touched_without_change_loses_nothing(steady):
    way = steady.way

    def change():
        for i in range(5):
            way.agent(way.donor).put({**steady.policy, "metadata": {**steady.policy["metadata"], "annotations": {"touched": str(i)}}})
            time.sleep(0.5)

    assert not steady.under_load(change)


def test_another_cluster_added_to_the_list_loses_nothing(steady):
    way = steady.way
    entry = steady.policy["spec"]["exposed"][0]

    def change():
        way.agent(way.donor).put(policy(way.name, {**entry, "clusters": [way.acceptor.name, way.other.name]}))

    assert not steady.under_load(change)


def test_a_new_leaf_certificate_loses_nothing(steady):
    def change():
        for agent in steady.way.agents.values():
            agent.certify()
        time.sleep(2)

    assert not steady.under_load(change)


def test_a_new_root_with_both_in_the_bundle_loses_nothing(steady, pki, tmp_path_factory):
    """Bundle of both roots first, then leaves of the new one, then back."""
    from wharf import Pki
    new = Pki(tmp_path_factory.mktemp("new-root"))
    both = new.dir / "both.crt"
    both.write_text(pki.root.read_text() + new.root.read_text())
    agents = steady.way.agents.values()

    def change():
        for root in (pki, new, pki):
            for agent in agents:
                agent.pki = root
                agent.certify(root=both)
            time.sleep(2.5)

    try:
        assert not steady.under_load(change)
    finally:
        for agent in agents:
            agent.pki = pki
            agent.certify()
        time.sleep(1)


def test_an_exposition_withdrawn_and_restored_works_again(steady):
    """While it is withdrawn calls fail; the number is what a second of absence costs, and no more."""
    way = steady.way

    def change():
        way.agent(way.donor).remove(steady.policy)
        time.sleep(1)
        way.agent(way.donor).put(steady.policy)

    lost = steady.under_load(change)
    span = max(t["at"] for t in lost) - min(t["at"] for t in lost) if lost else 0
    print(f"{way.style} {way.mode}: {len(lost)} lost, over {span:.1f} s")
    assert span < 5
    assert ok(call(way.caller, way.url()))


def test_a_port_changed_is_followed(steady):
    """The provider moves to another port of its Service. No object of Wharf's changes: what istiod tells the gateway and the provider's
    sidecar may cross, and a call or two at that moment meet a port that is not there yet. That is stated."""
    way = steady.way
    pods = [p for p in way.donor.pods.values() if p.labels.get("app") == "echo"]

    def change():
        service = way.donor.service("default", way.name, [("http", 80, 8082), ("grpc", 9000, 9000)], {"app": "echo"}, pods)
        way.agent(way.donor).own(service)

    before = way.agent(way.donor).versions()
    lost = steady.under_load(change)
    print(f"{way.style} {way.mode}: {len(lost)} lost")
    assert way.agent(way.donor).versions() == before
    assert len(lost) <= 5 and all(t.get("status") == 503 or t.get("code") == "Unavailable" for t in lost), lost


def test_a_donors_gateway_that_moves_loses_nothing(steady):
    """Its Service gets another address; the old one goes when nobody uses it any more, as when a load balancer is replaced."""
    way = steady.way
    gateway, new, service = way.donor.pods["ingress"], "10.71.0.7", way.donor.api.get("v1", "Service", "istio-ingressgateway", "istio-system")
    proxy = way.acceptor.pods["egress"] if way.style == EGRESS else way.caller

    def move(before, after):
        gateway.add_address(after)
        way.donor.load_balancer(service, after)
        until("it is followed", lambda: not proxy.connections_to(f"{before}:15443") and proxy.connections_to(f"{after}:15443"), 20)
        gateway.drop_address(before)

    def change():
        move(gateway.ip, new)
        move(new, gateway.ip)

    assert not steady.under_load(change)


def test_istiod_restarted_on_both_sides_loses_nothing(steady):
    way = steady.way

    def change():
        for c in (way.donor, way.acceptor):
            c.restart_istiod()

    assert not steady.under_load(change)
