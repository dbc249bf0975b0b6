"""An exposed service behaves through both gateways as it does at home, or is refused by a condition."""
import pytest

from calls import address, answer, call, grpc, ok
from conftest import EGRESS
from wharf import policy, until


def virtual_service(name, *http, **more):
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "default"},
            "spec": {"hosts": [name], "http": list(http), **more}}


def subsets(name):
    return {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name, "namespace": "default"},
            "spec": {"host": name, "subsets": [{"name": v, "labels": {"version": v}} for v in ("v1", "v2")]}}


def to(name, **more):
    return {"destination": {"host": name, **more}}


def behaves(way, *http):
    """Exposes the service with the behaviour of a VirtualService of its owner."""
    way.service()
    way.own(way.donor, subsets(way.name), virtual_service(way.name, *http))
    way.expose(virtualService=way.name)
    way.bind()
    until("a pod answers", lambda: ok(call(way.caller, way.url("/ready"))), 20)


def test_a_timeout_cuts_as_at_home(http_way):
    way = http_way
    behaves(way, {"timeout": "1s", "route": [to(way.name)]})
    until("it works", lambda: ok(call(way.caller, way.url())))
    seen = call(way.caller, way.url("/delay/4"))
    assert seen["status"] == 504 and 0.9 < seen["took"] < 2, seen


def test_retries_are_made_at_the_donor(http_way):
    way = http_way
    behaves(way, {"retries": {"attempts": 3, "retryOn": "5xx", "perTryTimeout": "2s"}, "route": [to(way.name)]})
    before = requests(way)
    assert call(way.caller, way.url("/status/500"))["status"] == 500
    until("one attempt and three more", lambda: requests(way) - before == 4, 5)


def requests(way, subset=""):
    """How many requests the donor's gateway has sent to the service."""
    lines = way.donor.pods["ingress"].envoy("clusters").splitlines()
    return sum(int(line.rsplit("::", 1)[1]) for line in lines if f"{subset}|{way.name}.default" in line and "::rq_total::" in line)


def test_matches_by_header_and_path_choose_subsets(http_way):
    way = http_way
    behaves(way, {"match": [{"headers": {"x-version": {"exact": "one"}}}], "route": [to(way.name, subset="v1")]},
            {"match": [{"uri": {"prefix": "/two"}}], "route": [to(way.name, subset="v2")]}, {"route": [to(way.name, subset="v1")]})
    for _ in range(5):
        assert pod(way, "/two", "-headers", "x-version=one") == "echo-v1.cluster1"
        assert pod(way, "/two/x") == "echo-v2.cluster1"
        assert pod(way, "/other") == "echo-v1.cluster1"


def pod(way, path, *flags):
    """The pod that answers a call, or all that is known of a call that none answers."""
    seen = call(way.caller, way.url(path), *flags)
    return seen.get("pod", seen)


def test_weights_share_between_versions(http_way):
    way = http_way
    behaves(way, {"route": [{**to(way.name, subset="v1"), "weight": 80}, {**to(way.name, subset="v2"), "weight": 20}]})
    pods = [c.get("pod") for c in call(way.caller, way.url(), n=200)]
    assert 20 <= pods.count("echo-v2.cluster1") <= 65 and pods.count(None) == 0, {p: pods.count(p) for p in set(pods)}


def test_redirect_rewrite_and_headers(http_way):
    way = http_way
    behaves(way, {"match": [{"uri": {"exact": "/old"}}], "redirect": {"uri": "/new", "authority": "example.com"}},
            {"match": [{"uri": {"prefix": "/outer/"}}], "rewrite": {"uri": "/inner/"}, "headers": {"request": {"set": {"x-added": "yes"}, "remove": ["x-gone"]}, "response": {"set": {"x-pod": "hidden"}}},
             "route": [to(way.name)]}, {"route": [to(way.name)]})
    assert call(way.caller, way.url("/old"))["status"] == 301
    seen = call(way.caller, way.url("/outer/a"), "-headers", "x-gone=1")
    told = answer(seen)
    assert told["path"] == "/inner/a" and told["headers"]["x-added"] == "yes" and "x-gone" not in told["headers"] and seen["pod"] == "hidden"


def test_faults_are_injected(http_way):
    way = http_way
    behaves(way, {"match": [{"uri": {"prefix": "/abort"}}], "fault": {"abort": {"httpStatus": 418, "percentage": {"value": 100}}}, "route": [to(way.name)]},
            {"match": [{"uri": {"prefix": "/late"}}], "fault": {"delay": {"fixedDelay": "1s", "percentage": {"value": 100}}}, "route": [to(way.name)]}, {"route": [to(way.name)]})
    until("it works", lambda: ok(call(way.caller, way.url())))
    assert call(way.caller, way.url("/abort"))["status"] == 418
    seen = call(way.caller, way.url("/late"))
    assert ok(seen) and seen["took"] > 0.9


def test_cors_is_answered(http_way):
    way = http_way
    behaves(way, {"corsPolicy": {"allowOrigins": [{"exact": "https://example.com"}], "allowMethods": ["GET"], "maxAge": "60s"}, "route": [to(way.name)]})
    until("it works", lambda: ok(call(way.caller, way.url())))
    flags = ("-method", "OPTIONS", "-headers", "origin=https://example.com,access-control-request-method=GET")
    seen = call(way.caller, way.url(), *flags)
    assert seen["status"] == 200 and not seen.get("pod"), "the gateway answers the preflight itself"


def test_mirrored_requests_arrive(http_way):
    way = http_way
    behaves(way, {"route": [to(way.name, subset="v1")], "mirror": {"host": way.name, "subset": "v2"}, "mirrorPercentage": {"value": 100}})
    before = requests(way, "-v2")
    assert all(c["pod"] == "echo-v1.cluster1" for c in call(way.caller, way.url(), n=10))
    until("ten mirrored", lambda: requests(way, "-v2") - before >= 10, 5)


def test_a_subset_alone_is_exposed(way):
    way.service()
    way.own(way.donor, subsets(way.name))
    way.expose(subset="v2")
    way.bind()
    way.works()
    assert {c.get("pod") for c in call(way.caller, way.url(), n=20)} == {"echo-v2.cluster1"}


def test_behaviour_that_cannot_be_carried_is_refused_by_a_condition(ways):
    way = ways(EGRESS, "Cluster")
    way.service()
    way.own(way.donor, virtual_service(way.name, {"match": [{"sourceLabels": {"app": "local"}}], "route": [to(way.name)]}))
    p = policy(way.name, {"name": way.name, "virtualService": way.name, "clusters": [way.acceptor.name]})
    way.put(way.donor, p, wait=False)
    until("a reason", lambda: way.agent(way.donor).condition(p, "Exposed").get("reason") == "VirtualServiceUnusable")


def test_http2_without_tls(way):
    way.service([("http2", 80, 8082)])
    way.expose(), way.bind()
    until("it works", lambda: ok(call(way.caller, way.url(), "-h2c")))
    seen = call(way.caller, way.url(), "-h2c")
    assert answer(seen)["proto"] == "HTTP/2.0"


def test_grpc_unary_calls_streams_and_errors(way):
    way.service([("grpc", 9000, 9000)])
    way.expose(), way.bind()
    until("it works", lambda: address(way.caller, way.name) and grpc(way.caller, way.name)[0]["code"] == "OK")
    told = grpc(way.caller, way.name, "-n", "20")
    assert [t["code"] for t in told] == ["OK"] * 20 and {t["text"] for t in told} <= {"echo-v1.cluster1: hello", "echo-v2.cluster1: hello"}
    talk = grpc(way.caller, way.name, "-stream", "-n", "20")
    assert [t["code"] for t in talk] == ["OK"] * 20 and len({t["text"] for t in talk}) == 1
    assert grpc(way.caller, way.name, "-say", "fail it")[0]["code"] == "FailedPrecondition"


def test_a_websocket_lasts(way):
    way.through()
    told = way.caller.app("ws", way.url("/ws"), "-to", f"{address(way.caller, way.name)}:80", "-n", "8", "-every", "500ms")
    assert told[0] == {"status": 101} and len(told) == 9 and all("text" in t for t in told[1:]), told


@pytest.mark.parametrize("port,greeting", [(7000, False), (7001, True)], ids=["client-first", "server-first"])
def test_tcp(way, port, greeting):
    way.service([("tcp", port, port)])
    way.expose(), way.bind()
    until("an address", lambda: address(way.caller, way.name))
    flags = ["-greeting"] if greeting else []
    dial = lambda *more: way.caller.app("tcp", f"{address(way.caller, way.name)}:{port}", *flags, *more)
    until("it works", lambda: "text" in dial()[0])
    told = dial("-n", "5")
    assert all("text" in t for t in told) and len(told) == 5 + greeting, told
    if greeting:
        assert told[0]["text"].startswith("hello from echo-")


def test_several_ports_of_one_service(way):
    way.service([("http", 80, 8080), ("grpc", 9000, 9000), ("tcp", 7000, 7000), ("http-two", 81, 8082)])
    way.expose(), way.bind()
    way.works()
    assert answer(call(way.caller, f"http://{way.name}:81/"))["port"] == "8082"
    until("gRPC", lambda: grpc(way.caller, way.name)[0]["code"] == "OK")
    until("TCP", lambda: "text" in way.caller.app("tcp", f"{address(way.caller, way.name)}:7000")[0])


def test_a_headless_service(way):
    way.service(kind="Headless")
    way.expose(), way.bind()
    way.works()
    pods = {c.get("pod") for c in call(way.caller, way.url(), n=30)}
    # What passes through is one connection from end to end, so one pod; else requests are shared out.
    assert pods <= {"echo-v1.cluster1", "echo-v2.cluster1"} and len(pods) == (1 if way.mode == "Passthrough" else 2), pods


def test_methods_bodies_and_slow_answers(way):
    way.through()
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        told = answer(call(way.caller, way.url("/x"), "-method", method, "-body", "some text"))
        assert (told["method"], told["body"]) == (method, "some text")
    assert ok(call(way.caller, way.url("/delay/4"), timeout="10s")), "slow answers are not cut"
