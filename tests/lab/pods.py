"""Pods without a kubelet: a network namespace each, whose traffic is redirected to its sidecar by pilot-agent's own rules.

What a kubelet would write (Pod, its status, endpoints) is written to the real API server."""
import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from api import obj
from tools import BIN, CACHE, STATE, run, spawn, wait_for

APP_UID = "65534"  # apps run as nobody; uid 0 is the proxy's and is not redirected
ENVOY = CACHE / "venv/bin/envoy"


class Pod:
    """A pod, with a sidecar, without one, or a gateway."""

    def __init__(self, cluster, ns, name, ip, labels, account, role="sidecar"):
        self.cluster, self.ns, self.name, self.ip, self.labels, self.account, self.role = cluster, ns, name, ip, labels, account, role
        self.net = f"{cluster.name}-{name}"
        self.dir = cluster.dir / "pods" / name
        self.proxied = False
        self.ports = {}
        self.proxy_config = {}  # of its own, besides the lab's
        self.spec = None  # as an API server has it; None: containers that stand for it

    # ------------------------------------------------------------ made and started

    def exists(self):
        """Whether it is there from a lab that was kept."""
        return Path("/run/netns", self.net).exists()

    def create(self):
        link = f"v{self.cluster.index}{self.name}"[:15]
        run("ip", "netns", "add", self.net)
        run("ip", "link", "del", link, check=False)  # of a mesh before: the kernel ends a network some time after its name
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.net)
        run("ip", "link", "set", link, "master", "lab0", "up")
        for cmd in (f"addr add {self.ip}/16 dev eth0", "link set eth0 up", "link set lo up", f"route add default via {self.cluster.host}"):
            run("ip", "-n", self.net, *cmd.split())
        # An address that goes must not take with it the one that a pod has moved to.
        self.sh("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")
        hosts = Path("/etc/netns") / self.net / "hosts"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        names = {"istiod.istio-system.svc": self.cluster.host, **self.cluster.names}
        # Of other names is said at once that nobody knows them, as a cluster's DNS would.
        (hosts.parent / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in names.items()))
        self.publish()

    def publish(self):
        api = self.cluster.api
        # As after injection: by the proxy's container istioctl knows which pods are in the mesh.
        containers = [{"name": name, "image": name} for name in ("app", "istio-proxy")[self.role != "sidecar":1 + self.proxied]]
        spec = {**(self.spec or {"serviceAccountName": self.account, "containers": containers}), "nodeName": "lab"}
        pod = obj("v1", "Pod", self.name, self.ns, spec, metadata={"labels": self.labels})
        api.apply(obj("v1", "ServiceAccount", self.account, self.ns), pod)
        api.merge(pod, {"status": {"phase": "Running", "podIP": self.ip, "podIPs": [{"ip": self.ip}], "hostIP": self.cluster.host,
                                   "conditions": [{"type": "Ready", "status": "True"}]}}, "status")

    def serve(self, **ports):
        self.ports = ports
        spawn(STATE / "apps.log", *self.command(BIN / "labapp", "serve", f"{self.name}.{self.cluster.name}", *(f"{k}={v}" for k, v in ports.items())))

    def start(self, *cmd, env=None, cwd=None):
        """An application of somebody else's."""
        return spawn(STATE / "apps.log", *self.command(*cmd), env=env, cwd=cwd)

    def redirect(self):
        run("ip", "netns", "exec", self.net, BIN / "pilot-agent", "istio-iptables", "-p", "15001", "-z", "15006", "-u", "0", "-g", "0",
            "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "15090,15021,15020")

    def start_proxy(self, wait=True):
        """Istio's own agent and an Envoy, configured by this cluster's istiod and holding a certificate of its CA."""
        d, c = self.dir, self.cluster
        self.proxied = True
        shutil.rmtree(d, ignore_errors=True)
        for sub in ("var/run/secrets/tokens", "var/run/secrets/istio", "var/lib/istio/envoy", "etc/istio/proxy"):
            (d / sub).mkdir(parents=True)
        shutil.copyfile(STATE / "root-cert.pem", d / "var/run/secrets/istio/root-cert.pem")
        shutil.copyfile(CACHE / "envoy_bootstrap.json", d / "var/lib/istio/envoy/envoy_bootstrap_tmpl.json")
        (d / "var/run/secrets/tokens/istio-token").write_text(c.token(self.ns, self.account, "istio-ca"))
        istiod = f"istiod.istio-system.svc:{c.xds + 2}"
        config = {"discoveryAddress": istiod, "binaryPath": str(ENVOY), "configPath": str(d / "etc/istio/proxy"), "concurrency": 1,
                  "serviceCluster": self.name, "drainDuration": c.drain, "terminationDrainDuration": "1s",
                  **{k: v for k, v in self.proxy_config.items() if k.endswith("rainDuration")}}
        env = {"POD_NAME": self.name, "POD_NAMESPACE": self.ns, "INSTANCE_IP": self.ip, "SERVICE_ACCOUNT": self.account, "TRUST_DOMAIN": c.trust_domain,
               "ISTIO_META_CLUSTER_ID": "Kubernetes", "ISTIO_META_MESH_ID": "lab", "CA_ADDR": istiod, "PILOT_CERT_PROVIDER": "istiod",
               "ISTIO_METAJSON_LABELS": json.dumps(self.labels), "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
               # A build of one's own does not know it. That of components.ISTIO.
               "ISTIO_META_ISTIO_VERSION": "1.31-dev", "PROXY_CONFIG": json.dumps(config)}
        spawn(d / "log", "ip", "netns", "exec", self.net, BIN / "pilot-agent", "proxy", "sidecar" if self.role == "sidecar" else "router",
                           "--domain", f"{self.ns}.svc.cluster.local", "--proxyLogLevel=warning", cwd=d, env=env)
        if wait:
            self.wait()

    def move(self, labels):
        """Other labels (none: without), for the pod and its proxy."""
        self.labels = {k: v for k, v in {**self.labels, **labels}.items() if v is not None}
        self.publish()
        self.kill()
        self.start_proxy()

    def remove(self):
        """As if it had never been."""
        for pid in run("ip", "netns", "pids", self.net).split():
            os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "del", self.net)
        shutil.rmtree(Path("/etc/netns") / self.net, ignore_errors=True)
        self.cluster.delete(obj("v1", "Pod", self.name, self.ns))
        self.cluster.pods.pop(self.name, None)

    def wait(self):
        wait_for(f"{self.net} Envoy", lambda: self.sh("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:15021/healthz/ready") == "200", 90)

    # ------------------------------------------------------------ used

    def command(self, *cmd, root=False):
        drop = [] if root else ["setpriv", "--reuid", APP_UID, "--regid", APP_UID, "--clear-groups"]
        return ["ip", "netns", "exec", self.net, *drop, *map(str, cmd)]

    def sh(self, *cmd, root=True):
        return run(*self.command(*cmd, root=root), check=False)

    def app(self, *args, timeout=120):
        """A client in this pod, through its sidecar; what it tells."""
        done = subprocess.run(self.command(BIN / "labapp", *args), capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def app_later(self, *args):
        """The same beside what the test does meanwhile; `.told()` waits for its end."""
        return Later(subprocess.Popen(self.command(BIN / "labapp", *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))

    def envoy(self, what, method="GET"):
        return self.sh("curl", "-s", "-X", method, f"http://127.0.0.1:15000/{what}")

    def stats(self, pattern):
        lines = self.envoy(f"stats?filter={pattern}").splitlines()
        return {k: int(v) for k, v in (line.rsplit(": ", 1) for line in lines if ": " in line) if v.isdigit()}

    def connections_to(self, address):
        """How many connections are open from here to an address. Not as its Envoy tells: that forgets a host which is removed, and goes
        on with what is under way there."""
        ip, port = address.split(":")
        there = socket.inet_aton(ip)[::-1].hex().upper() + f":{int(port):04X}"
        sockets = (line.split() for line in self.sh("cat", "/proc/net/tcp").splitlines()[1:])
        return sum(1 for s in sockets if s[2] == there and s[3] == "01")

    # ------------------------------------------------------------ disturbed

    def envoy_pid(self):
        for pid in run("ip", "netns", "pids", self.net).split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == "envoy":
                return int(pid)
        raise AssertionError(f"no Envoy runs in {self.net}")

    def memory(self):
        """Resident memory of its Envoy, in MiB."""
        for line in Path(f"/proc/{self.envoy_pid()}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024

    def freeze(self):
        os.kill(self.envoy_pid(), signal.SIGSTOP)

    def thaw(self):
        os.kill(self.envoy_pid(), signal.SIGCONT)

    def kill(self):
        for pid in run("ip", "netns", "pids", self.net).split():
            if Path(f"/proc/{pid}/comm").read_text().strip() in ("envoy", "pilot-agent"):
                os.kill(int(pid), signal.SIGKILL)
        wait_for(f"{self.net}: gone", lambda: "envoy" not in [Path(f"/proc/{p}/comm").read_text().strip() for p in run("ip", "netns", "pids", self.net).split() if Path(f"/proc/{p}").exists()], 10)

    def drop(self, port):
        for chain, flag in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            self.sh("iptables", "-I", chain, "-p", "tcp", flag, port, "-j", "DROP")

    def undrop(self, port):
        for chain, flag in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            self.sh("iptables", "-D", chain, "-p", "tcp", flag, port, "-j", "DROP")

    def add_address(self, ip):
        run("ip", "-n", self.net, "addr", "add", f"{ip}/16", "dev", "eth0")

    def drop_address(self, ip):
        run("ip", "-n", self.net, "addr", "del", f"{ip}/16", "dev", "eth0")
        run("ip", "-n", self.net, "route", "replace", "default", "via", self.cluster.host)


class Later:
    def __init__(self, process):
        self.process, self.first = process, ""

    def begun(self):
        """Waits for the first thing that it tells, and gives that."""
        self.first = self.process.stdout.readline()
        return json.loads(self.first)

    def told(self, timeout=120):
        out, err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, err
        return [json.loads(line) for line in (self.first + out).splitlines()]
