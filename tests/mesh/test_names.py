"""The local name is the acceptor's to choose, and works in all its forms."""
import pytest

from calls import address, call, ok
from conftest import DIRECT, EGRESS
from wharf import until


def reached(way, url, pod=None, seconds=20):
    return until(url, lambda: (c := call(pod or way.caller, url)) and ok(c) and c, seconds)


def test_the_exposed_name_may_be_an_alias(way):
    way.service()
    way.expose(alias=f"{way.name}-public")
    way.bind((way.donor.name, {"name": f"{way.name}-public"}))
    reached(way, f"http://{way.name}-public:80/")


def test_the_local_name_and_port_may_be_others(way):
    way.service()
    way.expose()
    way.bind((way.donor.name, {"name": way.name, "alias": f"{way.name}-here", "port": 8088}))
    reached(way, f"http://{way.name}-here:8088/")
    assert not address(way.caller, way.name)


def test_short_and_full_names_reach_it(way):
    way.through()
    for host in (way.name, f"{way.name}.default", f"{way.name}.default.svc", way.host):
        for port in ("", ":80"):
            assert ok(call(way.caller, f"http://{host}{port}/")), host + port


def test_another_namespace_here_and_at_the_donor(way):
    """The donor's namespace is `default`; the local name is in the binding's."""
    way.service()
    way.expose()
    way.acceptor.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "office"}})
    way.bind((way.donor.name, {"name": way.name, "namespace": "default"}), ns="office")
    reached(way, f"http://{way.name}.office:80/")
    assert not address(way.caller, f"{way.name}.default")


def test_one_service_bound_in_two_namespaces(way):
    way.service()
    way.expose()
    way.acceptor.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "office"}})
    way.bind()
    way.bind((way.donor.name, {"name": way.name, "namespace": "default"}), ns="office", name=f"{way.name}-office")
    reached(way, f"http://{way.name}.office:80/")
    reached(way, f"http://{way.name}.default:80/")


def test_several_bindings_at_once(way):
    way.service()
    way.service(name=f"{way.name}-b")
    way.expose()
    way.expose(name=f"{way.name}-b")
    way.bind(name=f"{way.name}-one")
    way.bind((way.donor.name, {"name": f"{way.name}-b"}), name=f"{way.name}-two")
    way.bind((way.donor.name, {"name": way.name, "alias": f"{way.name}-c"}), name=f"{way.name}-three")
    for name in (way.name, f"{way.name}-b", f"{way.name}-c"):
        reached(way, f"http://{name}:80/")


@pytest.mark.parametrize("style,mode", [(DIRECT, "Workload"), (DIRECT, "Passthrough")], ids=lambda v: v)
def test_a_service_offered_and_consumed_under_the_same_name(ways, style, mode):
    """cluster1 donates `x` to cluster3 while cluster3 donates its own `y` to cluster1's name of the same letters."""
    way = ways(style, mode)
    way.through()
    back = ways(EGRESS, "Cluster")
    there = f"{way.name}-mine"
    back.service(cluster=way.acceptor, name=there)
    back.expose(cluster=way.acceptor, name=there, clusters=[way.donor.name], alias=way.name)
    back.bind((way.acceptor.name, {"name": way.name, "alias": there}), cluster=way.donor, name=there)
    reached(way, f"http://{there}:80/", pod=way.donor.pods["local"])
    assert call(way.donor.pods["local"], f"http://{there}:80/")["pod"] == "echo-v1.cluster3"
    assert call(way.caller, way.url())["pod"].endswith("cluster1")


@pytest.mark.parametrize("first", ["Service", "ServiceEntry"])
def test_the_stub_service_and_the_service_entry_in_either_order(way, first):
    """Whichever istiod hears of last, the name works: the other one is taken away and put back."""
    way.through()
    agent = way.agent(way.acceptor)
    mine = [o for o in agent.written() if way.name in o["metadata"]["name"]]
    last = [o for o in mine if o["kind"] in ("Service", "ServiceEntry") and o["kind"] != first]
    agent.stop()  # it would put them back at once
    try:
        way.acceptor.delete(*last)
        until("it is noticed", lambda: not ok(call(way.caller, way.url(), timeout="1s")), 10)
        way.acceptor.apply(*last, manager="wharf")
        reached(way, way.url())
    finally:
        agent.start()
