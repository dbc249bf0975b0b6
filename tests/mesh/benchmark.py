#!/usr/bin/env python3
"""What an exposed service costs, and what latency Wharf's configuration adds, on two real meshes.

    python3 tests/mesh/benchmark.py [cost] [latency] [--sizes 10,100,1000]

Run with the Python of the lab (it needs PyYAML), as root. Prints the tables of docs/benchmarks.md."""
import argparse
import re
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "lab"), str(Path(__file__).resolve().parent)]

import mesh
from api import obj
from calls import address, call, ok
from tools import STATE, run
from wharf import Agent, Pki, binding, policy, until


def start():
    lab = mesh.Lab(2).up()
    one, two = lab.clusters
    one.pod("default", "echo", http=8080)
    two.pod("default", "caller")
    lab.wait()
    pki = Pki(STATE / "pki")
    agents = [Agent(c, pki, [p for p in lab.clusters if p is not c]) for c in lab.clusters]
    for a in agents:
        a.prepare(), a.start()
    return lab, agents


def service(cluster, name):
    return cluster.service("default", name, [("http", 80, 8080)], {"app": "echo"}, [cluster.pods["echo"]])


def metric(cluster, name):
    text = run("curl", "-s", f"http://127.0.0.1:{cluster.xds + 4}/metrics", check=False)
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line))


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def cost(lab, agents, sizes):
    one, two = lab.clusters
    proxies = {"donor's gateway": one.pods["ingress"], "acceptor's gateway": two.pods["egress"], "a sidecar": two.pods["caller"]}
    empty = {what: p.memory() for what, p in proxies.items()}
    print("| services | objects a binding | all applied after | all written after | all could be called after | istiod's CPU, donor / acceptor | mean of a push, donor / acceptor | " + " | ".join(proxies) + " |")
    print("|---|---|---|---|---|---|---|" + "---|" * len(proxies))
    made = 0
    for size in sizes:
        names = [f"n{i}" for i in range(made, size)]
        for name in names:
            agents[0].own(service(one, name))
        time.sleep(3)
        before = [(cpu(c.istiod_pid), metric(c, "pilot_proxy_convergence_time_sum"), metric(c, "pilot_proxy_convergence_time_count")) for c in lab.clusters]
        started = time.monotonic()
        agents[0].put(*(policy(name, {"name": name, "clusters": ["cluster2"]}) for name in names))
        agents[1].put(*(binding(name, ("cluster1", {"name": name})) for name in names))
        applied = time.monotonic() - started
        last = binding(names[-1], ("cluster1", {"name": names[-1]}))
        until("the last is written", lambda: agents[1].programmed(last) and len(two.api.items("networking.istio.io/v1", "ServiceEntry")) >= size, 600, pause=1)
        written = time.monotonic() - started
        caller = two.pods["caller"]
        for name in (names[0], names[len(names) // 2], names[-1]):
            until(name, lambda: ok(call(caller, f"http://{name}:80/")), 600, pause=0.3)
        took = time.monotonic() - started
        time.sleep(5)
        after = [(cpu(c.istiod_pid), metric(c, "pilot_proxy_convergence_time_sum"), metric(c, "pilot_proxy_convergence_time_count")) for c in lab.clusters]
        spent = " / ".join(f"{a[0] - b[0]:.1f} s" for a, b in zip(after, before, strict=True))
        push = " / ".join(f"{(a[1] - b[1]) / max(1, a[2] - b[2]) * 1000:.0f} ms" for a, b in zip(after, before, strict=True))
        objects = len([o for o in agents[1].written() if o["metadata"]["labels"].get("multicluster.istio.io/owner") != "shared"]) / size
        memory = " | ".join(f"+{p.memory() - empty[what]:.0f} MiB" for what, p in proxies.items())
        print(f"| {size} | {objects:.0f} | {applied:.1f} s | {written:.1f} s | {took:.1f} s | {spent} | {push} | {memory} |", flush=True)
        made = size


def by_hand(name, gateway):
    """What an experienced operator writes: a listener chain and a route at each gateway, the cluster's certificate between."""
    host, remote, egress = f"{name}.default.svc.cluster.local", f"{name}.remote", "istio-egressgateway.istio-system.svc.cluster.local"
    net = lambda kind, n, ns, spec: obj("networking.istio.io/v1", kind, n, ns, spec)
    donor = [
        net("Gateway", f"hand-{name}", "istio-system", {"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": 15443, "name": "https", "protocol": "HTTPS"}, "hosts": [host],
             "tls": {"mode": "MUTUAL", "credentialName": "wharf-identity", "subjectAltNames": ["spiffe://wharf/cluster/cluster2"]}}]}),
        net("VirtualService", f"hand-{name}", "istio-system", {"hosts": [host], "exportTo": ["."], "gateways": [f"hand-{name}"],
            "http": [{"route": [{"destination": {"host": host, "port": {"number": 80}}}]}]})]
    acceptor = [
        obj("v1", "Service", name, "default", {"ports": [{"name": "http", "port": 80}]}),
        net("Gateway", f"hand-{name}", "istio-system", {"selector": {"istio": "egressgateway"}, "servers": [
            {"port": {"number": 15443, "name": "https", "protocol": "HTTPS"}, "hosts": [host], "tls": {"mode": "ISTIO_MUTUAL"}}]}),
        # In the gateway's namespace: one in the caller's would hide Wharf's for the same gateway.
        net("DestinationRule", f"hand-{name}", "istio-system", {"host": egress, "subsets": [{"name": f"hand-{name}", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL", "sni": host}}}]}),
        net("VirtualService", f"hand-{name}", "default", {"hosts": [host], "gateways": ["mesh"], "http": [{"rewrite": {"authority": host}, "route": [
            {"destination": {"host": egress, "subset": f"hand-{name}", "port": {"number": 15443}}}]}]}),
        net("VirtualService", f"hand-{name}-out", "istio-system", {"hosts": [host], "exportTo": ["."], "gateways": [f"hand-{name}"],
            "http": [{"route": [{"destination": {"host": remote, "port": {"number": 15443}}}]}]}),
        net("ServiceEntry", f"hand-{name}", "istio-system", {"hosts": [remote], "exportTo": ["."], "location": "MESH_EXTERNAL", "resolution": "STATIC",
            "ports": [{"number": 15443, "name": "http", "protocol": "HTTP"}], "endpoints": [{"address": gateway, "ports": {"http": 15443}}]}),
        net("DestinationRule", f"hand-{name}-out", "istio-system", {"host": remote, "exportTo": ["."], "trafficPolicy": {
            "tls": {"mode": "MUTUAL", "credentialName": "wharf-identity", "sni": host, "subjectAltNames": ["spiffe://wharf/cluster/cluster1"]},
            "connectionPool": {"tcp": {"connectTimeout": "1s"}, "http": {"h2UpgradePolicy": "UPGRADE", "http2KeepAlive": {"interval": "1s", "timeout": "1s"}}},
            "outlierDetection": {"consecutiveGatewayErrors": 1, "consecutive5xxErrors": 0, "interval": "1s", "baseEjectionTime": "10s", "maxEjectionPercent": 100, "minHealthPercent": 1}}})]
    return donor, acceptor


def latency(lab, agents):
    one, two = lab.clusters
    caller = two.pods["caller"]
    for name in ("hand", "wharf"):
        agents[0].own(service(one, name))
    donor, acceptor = by_hand("hand", one.pods["ingress"].ip)
    one.apply(*donor)
    two.apply(*acceptor)
    agents[0].put(policy("wharf", {"name": "wharf", "clusters": ["cluster2"]}))
    agents[1].put(binding("wharf", ("cluster1", {"name": "wharf"})))
    took = {"hand": [], "wharf": []}
    for name in took:
        until(name, lambda: ok(call(caller, f"http://{name}:80/")), 60)
    for _ in range(10):  # in turns, so that what else the machine does hits both
        for name, all_of in took.items():
            told = caller.app("load", f"http://{name}:80/", "-to", f"{address(caller, name)}:80", "-rate", "200", "-connections", "2", "-n", "400", "-for", "20s")
            assert all(t.get("status") == 200 for t in told), told[-1]
            all_of.append([t["took"] * 1000 for t in told[20:]])
    print("| configuration | p50 | p90 | p99 |\n|---|---|---|---|")
    for name, rounds in took.items():
        every = sorted(t for r in rounds for t in r)
        at = lambda q: every[int(len(every) * q)]
        print(f"| {'written by hand' if name == 'hand' else 'of Wharf'} | {at(.5):.2f} ms | {at(.9):.2f} ms | {at(.99):.2f} ms |")
    medians = {name: [statistics.median(r) for r in rounds] for name, rounds in took.items()}
    print(f"\nmedian of the rounds' differences of p50: {statistics.median(w - h for w, h in zip(medians['wharf'], medians['hand'], strict=True)):+.3f} ms")
    one.delete(*donor)
    two.delete(*acceptor)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["latency", "cost"])
    parser.add_argument("--sizes", default="10,100,1000")
    args = parser.parse_args()
    if why := mesh.missing():
        sys.exit(f"benchmark: {why}")
    lab, agents = start()
    try:
        if "latency" in args.parts:
            latency(lab, agents)
        if "cost" in args.parts:
            cost(lab, agents, [int(n) for n in args.sizes.split(",")])
    finally:
        for a in agents:
            a.stop()
        mesh.down()


if __name__ == "__main__":
    main()
