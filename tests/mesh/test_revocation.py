"""What is taken away is taken away at once for new requests, and within a stated bound for what is open; and what is
not meant by a change is not disturbed by it."""
import os
import time

import pytest

from calls import address, call, ok
from conftest import CARRIED, DIRECT, EGRESS, HTTP_AT_THE_GATEWAY, TIMED
from test_who_gets_in import listed, refused
from wharf import policy, until

pytestmark = TIMED

DRAIN = float(os.environ.get("LAB_DRAIN", "5s").rstrip("s"))
PROMPT = 2.0  # seconds, from the write


def take_off_the_list(way, p):
    entry = {**p["spec"]["exposed"][0], "clusters": [way.other.name]}
    way.agent(way.donor).put(policy(p["metadata"]["name"], entry))


def delete_the_policy(way, p):
    way.agent(way.donor).remove(p)


WITHDRAWALS = {"a cluster taken off the list": take_off_the_list, "a policy deleted": delete_the_policy}


def refused_after(what, ask, withdrawn, seconds=10):
    """How long after the write the first call began that was refused."""
    began = until(what, lambda: (now := time.time()) and not ask() and now, seconds, pause=0.02)
    return began - withdrawn


@pytest.mark.parametrize("withdraw", WITHDRAWALS.values(), ids=lambda f: f.__name__)
def test_new_connections_fail_within_two_seconds(way, withdraw, record_property):
    p, _ = way.through()
    me = listed(way) if way.mode != "Passthrough" else None
    withdraw(way, p)
    withdrawn = time.time()
    took = refused_after("new calls refused", lambda: ok(call(way.caller, way.url(), timeout="2s")), withdrawn)
    if me:
        # The acceptor may have taken its objects away; the donor must refuse by itself.
        took = max(took, refused_after("the donor refuses", lambda: not refused(me.get(way.sni)), withdrawn))
    record_property("seconds", round(took, 2))
    print(f"{way.style} {way.mode}: refused after {took:.2f} s")
    assert took < PROMPT


@pytest.mark.parametrize("withdraw", WITHDRAWALS.values(), ids=lambda f: f.__name__)
def test_new_requests_on_open_connections_fail_within_two_seconds(http_way, withdraw):
    """Also on a connection that was idle meanwhile: kept ones must not outlive the permission."""
    way = http_way
    p, _ = way.through()
    busy, idle = listed(way), listed(way)
    kept = busy.connect(way.sni)
    waiting = [idle.connect(way.sni) for _ in range(3)]
    assert busy.get(way.sni, connection=kept) == 200
    assert [idle.get(way.sni, connection=c) for c in waiting] == [200] * 3
    withdraw(way, p)
    withdrawn = time.time()
    assert refused_after("refused", lambda: not refused(busy.get(way.sni, connection=kept)), withdrawn) < PROMPT
    time.sleep(max(0, withdrawn + PROMPT - time.time()))
    assert all(refused(idle.get(way.sni, connection=c)) for c in waiting)


def last_heard(told):
    """When the last byte came of what ended with an error. Envoy tells the caller of an HTTP/1.1 answer that it is broken off a second
    after that (`delayed_close_timeout`), and each proxy on the way does so."""
    return told.get("heard") or told["at"] + told.get("took", 0)


def test_open_answers_end_within_the_gateways_drain_time(way):
    """An answer that takes longer than the gateway drains ends with the permission; the status says that bound."""
    p, _ = way.through()
    slow = way.caller.app_later("load", way.url(f"/slow/{int(DRAIN * 4)}/1"), "-to", f"{address(way.caller, way.name)}:80", "-n", "1", "-timeout", "60s", "-for", "60s", "-begun")
    assert slow.begun()["status"] == 200
    withdrawn = time.time()
    take_off_the_list(way, p)
    told = slow.told()[-1]
    ended = last_heard(told) - withdrawn
    print(f"{way.style} {way.mode}: an open answer ended {ended:.1f} s after, {told.get('error')}")
    assert told.get("error") and ended < DRAIN + PROMPT


@pytest.mark.parametrize("style,mode", CARRIED, ids=lambda v: v)
def test_open_tcp_connections_end_within_the_gateways_drain_time(ways, style, mode):
    way = ways(style, mode)
    way.service([("tcp", 7000, 7000)])
    p = way.expose()
    way.bind()
    ip = until("an address", lambda: address(way.caller, way.name))
    until("TCP works", lambda: "text" in way.caller.app("tcp", f"{ip}:7000")[0])
    talk = way.caller.app_later("tcp", f"{ip}:7000", "-n", int(DRAIN * 8), "-every", "0.5s")
    assert talk.begun()["text"]
    withdrawn = time.time()
    take_off_the_list(way, p)
    last = talk.told()[-1]
    ended = last_heard(last) - withdrawn
    print(f"{style} {mode}: an open TCP connection ended {ended:.1f} s after, {last.get('error')}")
    assert last.get("error") and ended < DRAIN + PROMPT


def test_open_grpc_streams_end_within_the_gateways_drain_time(http_way):
    way = http_way
    way.service([("grpc", 9000, 9000)])
    p = way.expose()
    way.bind()
    ip = until("an address", lambda: address(way.caller, way.name))
    dial = ("grpc", f"{ip}:9000", "-authority", f"{way.name}:9000")
    until("gRPC works", lambda: way.caller.app(*dial)[0]["code"] == "OK")
    talk = way.caller.app_later(*dial, "-stream", "-n", int(DRAIN * 8), "-every", "0.5s", "-timeout", "60s")
    assert talk.begun()["code"] == "OK"
    withdrawn = time.time()
    take_off_the_list(way, p)
    talked = talk.told()[-1]
    ended = last_heard(talked) - withdrawn
    print(f"{way.style} {way.mode}: an open stream ended {ended:.1f} s after, {talked.get('error')}")
    assert talked["code"] != "OK" and ended < DRAIN + PROMPT


def open_things(way, tcp_way, lasting):
    """A slow answer, a gRPC stream and a TCP connection that last longer than the gateway drains."""
    ip, tcp_ip = address(way.caller, way.name), address(tcp_way.caller, tcp_way.name)
    return {
        "an answer": way.caller.app_later("load", way.url(f"/slow/{lasting}/1"), "-to", f"{ip}:80", "-n", "1", "-timeout", "90s", "-for", "90s", "-begun"),
        "a gRPC stream": way.caller.app_later("grpc", f"{ip}:9000", "-authority", f"{way.name}:9000", "-stream", "-n", lasting * 2, "-every", "0.5s", "-timeout", "90s"),
        "a TCP connection": tcp_way.caller.app_later("tcp", f"{tcp_ip}:7000", "-n", lasting * 2, "-every", "0.5s"),
    }


def lasting_services(ways, style, mode):
    way, tcp_way = ways(style, mode), ways(style, mode)
    way.service([("http", 80, 8080), ("grpc", 9000, 9000)])
    way.expose(), way.bind()
    tcp_way.service([("tcp", 7000, 7000)])
    tcp_way.expose(), tcp_way.bind()
    way.works()
    until("gRPC", lambda: way.caller.app("grpc", f"{address(way.caller, way.name)}:9000", "-authority", f"{way.name}:9000")[0]["code"] == "OK")
    until("TCP", lambda: "text" in way.caller.app("tcp", f"{address(way.caller, tcp_way.name)}:7000")[0])
    return way, tcp_way


def cut_by(way, tcp_way, change):
    """What of the others is cut while `change` is made, and for longer than the gateway drains."""
    open_ = open_things(way, tcp_way, int(DRAIN * 2 + 6))
    for later in open_.values():
        later.begun()
    change()
    cut = {}
    for what, later in open_.items():
        told = later.told()
        if any(t.get("error") for t in told):
            cut[what] = told[-1]
    return cut


def comes_changes_and_goes(another):
    """Another exposition: exposed, its permission widened, withdrawn."""
    p = another.expose()
    another.bind()
    time.sleep(1)
    another.agent(another.donor).put(policy(another.name, {**p["spec"]["exposed"][0], "clusters": [another.acceptor.name, another.other.name]}))
    time.sleep(1)
    another.agent(another.donor).remove(p)


# Of the other one: its TLS mode, its port, its pods. What passes through is guarded at its own pods.
OTHERS = [("Cluster", ("http", 80, 8080), "echo"), ("Cluster", ("tcp", 7000, 7000), "echo"),
          ("Workload", ("http", 80, 8080), "echo"), ("Workload", ("tcp", 7000, 7000), "echo"),
          ("Passthrough", ("http", 80, 8080), "secret"), ("Passthrough", ("tcp", 8080, 8080), "secret")]


@pytest.mark.parametrize("changed,port,pods", OTHERS, ids=lambda v: v if isinstance(v, str) else v[0])
@pytest.mark.parametrize("style,mode", HTTP_AT_THE_GATEWAY, ids=lambda v: v)
def test_a_change_of_one_exposition_cuts_nothing_of_any_other(ways, style, mode, changed, port, pods):
    """Another one comes, changes its permission and goes: answers, streams and connections of the others go on."""
    way, tcp_way = lasting_services(ways, style, mode)
    another = ways(EGRESS if changed == "Cluster" else style, changed)
    another.service([port], selector={"app": pods})
    assert not cut_by(way, tcp_way, lambda: comes_changes_and_goes(another))


@pytest.mark.parametrize("style,mode", [(EGRESS, "Cluster"), (DIRECT, "Workload")], ids=lambda v: v)
def test_a_change_of_clients_cuts_nothing_of_any_other(ways, style, mode):
    """Wherever they are enforced: at the acceptor's egress gateway, or at the donor's gateway."""
    way, tcp_way = lasting_services(ways, style, mode)
    another = ways(style, mode)
    another.service([("http", 80, 8080), ("tcp", 7000, 7000)])
    client = {"cluster": another.acceptor.name, "namespace": "default"}

    def change():
        p = another.expose(clients=[{**client, "serviceAccount": "caller"}])
        another.bind()
        another.works()
        for clients in ([client], [{**client, "serviceAccount": "caller"}, {**client, "namespace": "other"}]):
            another.agent(another.donor).put(policy(another.name, {**p["spec"]["exposed"][0], "clients": clients}))
            time.sleep(1)
        another.agent(another.donor).remove(p)

    assert not cut_by(way, tcp_way, change)


def test_the_one_permission_that_disturbs_others_is_told(ways):
    """What passes through the gateway is guarded at the provider's pods, where one filter chain serves all callers."""
    way = ways(DIRECT, "Passthrough")
    way.service([("tcp", 7000, 7000)])
    p = way.expose()
    message = way.agent(way.donor).status(p)["exposed"][0]["message"]
    assert "what others have open with them ends when their sidecars have drained" in message
    assert "a server that speaks first is heard by callers who are not permitted" in message
    for mode in ("Cluster", "Workload"):
        way = ways(EGRESS, mode)
        way.service()
        p = way.expose()
        assert "what others have open" not in way.agent(way.donor).status(p)["exposed"][0].get("message", "")
