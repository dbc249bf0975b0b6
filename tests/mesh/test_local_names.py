"""A local name belongs to its binding: while no donor is behind it, callers read why, at once, at the same address; and when it is
granted again, calls work again and none is broken off."""
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from calls import address, call, grpc, ok, tcp
from conftest import CARRIED, DIRECT, EGRESS, TIMED
from test_revocation import PROMPT
from wharf import until

pytestmark = TIMED

AT_ONCE = 0.05  # seconds: half of all refusals take less
PORTS = [("http", 80, 8080), ("http2", 8082, 8082), ("grpc", 9000, 9000), ("tcp", 7000, 7000)]


def everything(ways, style, mode):
    """A service that speaks all that Wharf carries, bound and seen to work."""
    way = ways(style, mode)
    way.service(PORTS)
    way.policy = way.expose()
    way.bind()
    way.works()
    until("HTTP/2", lambda: ok(h2(way)))
    until("gRPC", lambda: grpc(way.caller, way.name)[0]["code"] == "OK")
    until("TCP", lambda: "text" in tcp(way.caller, way.name, 7000)[0])
    return way


def h2(way):
    return call(way.caller, f"http://{way.name}:8082/", "-h2c", timeout="2s")


def withdraw(way):
    """Returns the time of the write."""
    way.agent(way.donor).remove(way.policy)
    return time.time()


def grant(way):
    way.agent(way.donor).put(way.policy)
    return time.time()


def is_refused(called, why):
    return called.get("status") == 503 and why in called.get("body", "")


def head(way, port=80):
    """The header of one answer, as the caller's application gets it."""
    ip = address(way.caller, way.name)
    text = way.caller.sh("curl", "-s", "-i", "-m", "5", "--resolve", f"{way.name}:{port}:{ip}", f"http://{way.name}:{port}/", root=False)
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith("nothing"))


@pytest.mark.parametrize("style,mode", CARRIED, ids=lambda v: v)
def test_callers_read_at_once_why_nothing_is_behind_the_name(ways, style, mode, record_property):
    way = everything(ways, style, mode)
    ip, why = address(way.caller, way.name), f"NotExposed by {way.donor.name}"
    withdrawn = withdraw(way)
    began = until("the reason", lambda: (now := time.time()) and is_refused(call(way.caller, way.url(), timeout="2s"), why) and now, 10, pause=0.02)
    assert address(way.caller, way.name) == ip
    told = call(way.caller, way.url(), n=200, timeout="5s")
    assert len(told) == 200 and all(is_refused(t, why) for t in told), [t for t in told if not is_refused(t, why)][:3]
    took = sorted(t["took"] for t in told)
    half, most = statistics.median(took), took[-1]
    print(f"{style} {mode}: refused {began - withdrawn:.2f} s after the write; then in {half * 1000:.1f} ms (p50), {most * 1000:.1f} ms (most)")
    record_property("seconds", round(began - withdrawn, 2))
    record_property("milliseconds", round(half * 1000, 1))
    assert head(way)["x-wharf-reason"] == why
    assert is_refused(h2(way), why)
    code = until("gRPC", lambda: (c := grpc(way.caller, way.name)[0]) and c["code"] == "Unavailable" and why in c["error"] and c)
    closed = until("TCP is closed", lambda: (c := tcp(way.caller, way.name, 7000)[0]) and c.get("error") and c)
    assert "timeout" not in closed["error"] and closed["after"] < 2, closed
    print(f"{style} {mode}: gRPC: {code['error']!r} in {code['took'] * 1000:.1f} ms; TCP: {closed['error']!r} in {closed['after'] * 1000:.1f} ms")
    assert half < AT_ONCE and most < 2
    assert began - withdrawn < PROMPT


@pytest.mark.parametrize("style,mode", CARRIED, ids=lambda v: v)
def test_calls_work_again_when_it_is_granted_and_no_connection_is_broken_off(ways, style, mode):
    """20 calls a second each of HTTP and gRPC, over connections that are kept. While both clusters hear of a change, a gateway that has not
    heard yet may answer for itself: that is an answer, and no connection is lost over it."""
    way = everything(ways, style, mode)
    ip = address(way.caller, way.name)
    http = way.caller.app_later("load", way.url(), "-to", f"{ip}:80", "-rate", "20", "-connections", "2", "-for", "40s", "-bodies")
    rpc = way.caller.app_later("grpc", f"{ip}:9000", "-authority", f"{way.name}:9000", "-n", "800", "-every", "50ms")
    pool, granted = ThreadPoolExecutor(2), []
    http, rpc = pool.submit(http.told), pool.submit(rpc.told)  # read at once: who tells does not wait
    for _ in range(2):
        time.sleep(2)  # of load, in each state
        withdraw(way)
        until("refused", lambda: call(way.caller, way.url(), timeout="2s").get("status") == 503)
        until("its ways are gone", lambda: not [o for o in way.agent(way.acceptor).written() if o["kind"] == "ServiceEntry" and way.name in o["metadata"]["name"]])
        time.sleep(1)
        granted.append(grant(way))
        way.works()
    assert address(way.caller, way.name) == ip
    until("TCP", lambda: "text" in tcp(way.caller, way.name, 7000)[0])
    told, called = http.result(), rpc.result()
    assert len(told) > 400 and len(called) > 400
    why = f"NotExposed by {way.donor.name}"
    broken = [t for t in told if t.get("error")] + [t for t in called if any(word in t.get("error", "") for word in ("connection error", "broken pipe", "read tcp", "EOF"))]
    others = [t for t in told if t.get("status") != 200 and not is_refused(t, why)] + [t for t in called if t["code"] != "OK" and why not in t["error"]]
    first = [min((t["at"] for t in told if t.get("status") == 200 and t["at"] > g), default=0) - g for g in granted]
    print(f"{style} {mode}: {len(told)} and {len(called)} calls, {len(broken)} broken off, {len(others)} answers of gateways that had not heard; works {first} s after the grant")
    assert not broken
    assert all(t.get("status") == 200 for t in told[-20:]) and all(t["code"] == "OK" for t in called[-20:])


@pytest.mark.parametrize("style,mode", [(EGRESS, "Cluster"), (DIRECT, "Workload")], ids=lambda v: v)
def test_a_port_that_goes_is_refused_and_the_others_work(ways, style, mode):
    way = everything(ways, style, mode)
    ip = address(way.caller, way.name)
    way.agent(way.donor).put({**way.policy, "spec": {"exposed": [{**way.policy["spec"]["exposed"][0], "ports": [80]}]}})
    why = f"PortNotExposed by {way.donor.name}"
    until("gRPC is refused", lambda: (c := grpc(way.caller, way.name)[0]) and c["code"] == "Unavailable" and why in c["error"])
    until("HTTP/2 is refused", lambda: is_refused(h2(way), why))
    closed = until("TCP is closed", lambda: (c := tcp(way.caller, way.name, 7000)[0]) and c.get("error") and c)
    assert "timeout" not in closed["error"], closed
    assert way.works() and address(way.caller, way.name) == ip
    way.agent(way.donor).put(way.policy)
    until("gRPC", lambda: grpc(way.caller, way.name)[0]["code"] == "OK")
    until("HTTP/2", lambda: ok(h2(way)))
    until("TCP", lambda: "text" in tcp(way.caller, way.name, 7000)[0])


@pytest.mark.parametrize("style,mode", [(EGRESS, "Cluster"), (DIRECT, "Workload")], ids=lambda v: v)
def test_a_name_goes_with_its_binding(ways, style, mode):
    way = ways(style, mode)
    way.policy, b = way.through()
    withdraw(way)
    until("refused", lambda: call(way.caller, way.url(), timeout="2s").get("status") == 503, 10)
    way.agent(way.acceptor).remove(b)
    until("the name is gone", lambda: not address(way.caller, way.name))
