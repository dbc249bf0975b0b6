"""Which donor is used, beyond priority: the near one, the one whose gateway answers; and what can be had for TCP."""
import threading
import time

import pytest

from calls import address
from conftest import DIRECT, EGRESS, TIMED
from test_donors import Two, break_dropped, break_frozen, break_killed
from wharf import until

pytestmark = TIMED

AWAY = 22  # seconds, for which a donor is away


@pytest.fixture
def two(request, ways, agents):
    two = Two(ways, agents, *request.param)
    two.style = request.param[0]
    yield two


@pytest.fixture(scope="module", autouse=True)
def style_back(agents):
    yield
    if agents["cluster2"].settings["style"] != EGRESS:
        agents["cluster2"].restart(style=EGRESS)


both_styles = pytest.mark.parametrize("two", [(EGRESS, "Cluster"), (DIRECT, "Workload")], ids=lambda p: f"{p[0]}-{p[1]}", indirect=True)


# ---------------------------------------------------------------- localities

@pytest.fixture
def places(lab, agents):
    """cluster1 is near, cluster3 far; the acceptor's proxies know where they are, as from the labels of their nodes."""
    for name, where in (("cluster1", "near/a"), ("cluster3", "far/b")):
        agents[name].restart(ingress={"namespace": "istio-system", "locality": where})
    proxies = [lab[2].pods[name] for name in ("egress", "caller")]
    for pod in proxies:
        pod.move({"istio-locality": "near.a"})
    yield
    for pod in proxies:
        pod.move({"istio-locality": None})
    for name in ("cluster1", "cluster3"):
        agents[name].settings.pop("ingress")
        agents[name].install()
        agents[name].restart()


@both_styles
def test_the_near_donor_is_used_while_it_answers(places, two):
    two.serve()
    two.bind({}, {})
    until("the near one", lambda: set(two.reached(5)) == {"cluster1"})
    assert set(two.reached(100)) == {"cluster1"}
    gateway = two.donors[0].pods["ingress"]
    lost, other = failing(two, break_frozen(gateway), 6)
    assert not lost and other < 2.5, (lost[:3], other)
    until("the near one again", lambda: set(two.reached(5)) == {"cluster1"}, 30)


def failing(two, mend, seconds):
    """Calls while the preferred donor is away. What was lost, and when the other donor answered first."""
    way, began = two.way, time.time()
    try:
        told = way.caller.app("load", way.url(), "-to", f"{address(way.caller, way.name)}:80", "-rate", "30", "-connections", "6", "-for", f"{seconds}s")
    finally:
        mend()
    good = [t for t in told if t.get("status") == 200]
    other = min((t["at"] + t["took"] - began for t in good if t["pod"].endswith("cluster3")), default=99)
    print(f"{two.style}: {len(told)} calls, {len(told) - len(good)} lost, the other after {other:.1f} s")
    return [t for t in told if t.get("status") != 200], other


# ---------------------------------------------------------------- several gateways of one donor

@pytest.fixture
def second(lab):
    """Another pod of the donor's ingress gateway, with an address of its own."""
    donor, service = lab[1], lab[1].api.get("v1", "Service", "istio-ingressgateway", "istio-system")
    pod = donor.gateway("ingress", "ingress-2", "10.71.0.8")
    pods = [donor.pods["ingress"], pod]
    donor.endpoints("istio-system", "istio-ingressgateway", [("tls", 15443, 15443)], pods)
    pod.wait()
    donor.load_balancer(service, *(p.ip for p in pods))
    yield pod
    donor.load_balancer(service, pods[0].ip)
    donor.endpoints("istio-system", "istio-ingressgateway", [("tls", 15443, 15443)], pods[:1])
    pod.remove()


@both_styles
def test_of_two_gateways_of_one_donor_the_one_that_is_left_carries_all(second, two):
    way = two.way
    way.service()
    way.expose(clusters=["cluster2"])
    way.bind((way.donor.name, {"name": way.name}))
    way.works()
    proxy = way.acceptor.pods["egress"] if two.style == EGRESS else way.caller
    ip = address(way.caller, way.name)
    used = lambda: [proxy.connections_to(f"{p.ip}:15443") for p in (way.donor.pods["ingress"], second)]
    until("both are used", lambda: way.caller.app("load", way.url(), "-to", f"{ip}:80", "-n", "12", "-connections", "6", "-rate", "100") and all(used()))
    load = way.caller.app_later("load", way.url(), "-to", f"{ip}:80", "-rate", "30", "-connections", "6", "-for", "9s")
    begun = time.time()
    until("it has begun", lambda: time.time() > begun + 1)
    second.kill()
    told = load.told()
    lost = [t for t in told if t.get("status") != 200]
    print(f"{two.style}: {len(told)} calls, {len(lost)} lost, slowest {max(t['took'] for t in told):.2f} s")
    assert len(told) > 200 and not lost, lost[:3]


# ---------------------------------------------------------------- TCP

class Talks:
    """What TCP callers of the preferred donor see when it fails. Of connections that are open: one on which something is sent each half
    second, one on which nothing is. And new ones, one after the other. Each is greeted by who serves it."""

    def __init__(self, way):
        self.way, self.new, self.stop = way, [], threading.Event()
        self.address = f"{address(way.caller, way.name)}:7001"
        dial = lambda *flags: way.caller.app_later("tcp", self.address, "-greeting", "-timeout", f"{AWAY + 10}s", *flags)
        self.open = {"busy": dial("-n", AWAY * 4, "-every", "250ms"), "idle": dial("-n", "1", "-hold", f"{AWAY + 4}s")}
        assert all("cluster1" in later.begun()["text"] for later in self.open.values())
        self.asking = threading.Thread(target=self.ask)
        self.asking.start()

    def ask(self):
        while not self.stop.is_set():
            told = self.way.caller.app("tcp", self.address, "-greeting", "-n", "0", "-timeout", "5s")[0]
            self.new.append((told["at"] - told["after"], told["at"], told.get("text", "")))
            self.stop.wait(0.1)

    def seen(self, failed, mended):
        """Seconds after the failure, or the mending, and counts."""
        self.stop.set()
        self.asking.join()
        after = [(began, done, text) for began, done, text in self.new if failed < began < mended]
        lost = [round(began - failed, 1) for began, _, text in after if not text]
        figures = {"new": len(after), "new lost": len(lost), "of which at first": sum(1 for at in lost if at < 2), "lost at": lost,
                   "other after": round(min((done for _, done, text in after if "cluster3" in text), default=failed + 99) - failed, 1),
                   "slowest new": round(max(done - began for began, done, text in after if text), 1)}
        for what, later in self.open.items():
            last = later.told(AWAY + 20)[-1]
            ended = last["at"] - failed if last.get("error") and "timeout" not in last["error"] else None
            figures[f"{what} ended after"] = None if ended is None else round(ended, 1)
        return figures


@both_styles
@pytest.mark.parametrize("how", [break_killed, break_frozen, break_dropped], ids=lambda f: f.__name__)
def test_what_can_be_had_for_tcp(two, how):
    """New connections go to the other donor. An open one ends when the failure is seen: nothing sees a frozen gateway, whose kernel
    answers, and lost packets are seen by the keep-alive if nothing is sent."""
    two.serve([("tcp", 7001, 7001)])
    two.bind({"priority": 0}, {"priority": 1})
    way = two.way
    ip = until("an address", lambda: address(way.caller, way.name))
    who = lambda: way.caller.app("tcp", f"{ip}:7001", "-greeting", "-n", "0")[0].get("text", "")
    until("the preferred", lambda: "cluster1" in who(), 30)
    talks = Talks(way)
    failed = time.time()
    mend = how(two.donors[0].pods["ingress"])
    until("it was away for long enough", lambda: time.time() > failed + AWAY, AWAY + 5)
    mended = time.time()
    mend()
    f = talks.seen(failed, mended)
    print(f"{two.style} {how.__name__}: {f}")
    two.donors[0].pods["ingress"].wait()
    assert f["new"] > 10 and f["other after"] < 2.5 and f["slowest new"] < 2.5, f
    # At first, and for a second when its ejection ends (10 s) and it is tried again: one by one where it takes the timeout to see it.
    assert f["of which at first"] <= 2 and all(at < 2 or 9 < at < 13 for at in f["lost at"]), f
    if how is break_killed:
        assert f["busy ended after"] < 1 and f["idle ended after"] < 1, f
    if how is break_dropped:
        assert 14 < f["idle ended after"] < 19, f
    until("preferred again", lambda: "cluster1" in who(), 40)
