"""One cluster: etcd, kube-apiserver and istiod as they are, on this machine."""
import base64
import json
import os
import signal
import ssl
import urllib.request
from pathlib import Path

import yaml

from api import Api, obj
from pods import Pod
from tools import BIN, CACHE, STATE, run, spawn, wait_for


def alive(pid):
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


class Cluster:
    def __init__(self, index, trust_domain, all_domains, drain):
        self.index, self.name = index, f"cluster{index}"
        self.trust_domain, self.all_domains, self.drain = trust_domain, all_domains, drain
        self.dir = STATE / self.name
        self.host = f"10.7{index}.0.1"  # this cluster's side of the bridge: its API server, istiod and agent listen here
        self.port = 17000 + 100 * index
        self.xds = self.port + 20
        self.api = Api("127.0.0.1", self.port, "lab")
        self.mesh_settings = {}  # MeshConfig besides the lab's own, from the next start of istiod on
        self.pods = {}
        self.names = {}  # what cluster DNS would resolve for proxies: there is no kube-proxy, so to pods
        self.addresses = iter(range(10, 250))

    @property
    def kubeconfig(self):
        return self.dir / "kubeconfig"

    def kubectl(self, *args, **kw):
        return run("kubectl", "--kubeconfig", self.kubeconfig, *args, **kw)

    def apply(self, *objects, **kw):
        self.api.apply(*objects, **kw)

    def delete(self, *objects):
        self.api.delete(*objects)

    def token(self, ns, account, audience):
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [audience], "expirationSeconds": 86400}}
        return self.api.call("POST", f"/api/v1/namespaces/{ns}/serviceaccounts/{account}/token", json.dumps(body))["status"]["token"]

    # ------------------------------------------------------------ the control plane

    def begin(self):
        self.dir.mkdir(parents=True)
        self.make_ca()
        self.start_api_server()

    def finish(self):
        wait_for(f"{self.name} kube-apiserver", self.api_ready, 120)
        self.kubectl("apply", "--server-side", "-f", CACHE / "crd-all.gen.yaml")
        self.apply(obj("v1", "Namespace", "istio-system"))
        self.kubectl("apply", "--server-side", "-f", CACHE / "istio-injector.yaml")
        self.start_istiod()

    def api_ready(self):
        try:
            return self.api.call("GET", "/readyz") == "ok" and self.api.get("v1", "Namespace", "default")
        except Exception:
            return False

    def make_ca(self):
        """An intermediate CA under the shared root, in the file names of Istio's `cacerts` secret."""
        d = self.dir / "cacerts"
        d.mkdir()
        ext = d / "ext"
        ext.write_text("basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n")
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/O=Lab/CN={self.name} CA", "-keyout", d / "ca-key.pem", "-out", d / "csr")
        run("openssl", "x509", "-req", "-days", "3000", "-in", d / "csr", "-CA", STATE / "root-cert.pem", "-CAkey", STATE / "root-key.pem",
            "-CAcreateserial", "-out", d / "ca-cert.pem", "-extfile", ext)
        root = (STATE / "root-cert.pem").read_text()
        (d / "cert-chain.pem").write_text((d / "ca-cert.pem").read_text() + root)
        (d / "root-cert.pem").write_text(root)

    def start_api_server(self):
        d, client, peer = self.dir, self.port + 1, self.port + 2
        spawn(d / "etcd.log", BIN / "etcd", "--data-dir", d / "etcd", "--listen-client-urls", f"http://127.0.0.1:{client}", "--unsafe-no-fsync",
              "--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--log-level", "error")
        run("openssl", "genrsa", "-out", d / "sa.key", "2048")
        (d / "tokens.csv").write_text('lab,admin,admin,"system:masters"\n')
        spawn(d / "apiserver.log", BIN / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={self.port}", f"--advertise-address={self.host}",
              f"--cert-dir={d}/certs", "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={d}/sa.key",
              f"--service-account-signing-key-file={d}/sa.key", f"--token-auth-file={d}/tokens.csv", "--authorization-mode=RBAC",
              "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount", "--api-audiences=https://kubernetes.default.svc,istio-ca")
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": self.name,
            "clusters": [{"name": self.name, "cluster": {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "admin", "user": {"token": "lab"}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": "admin"}}]}))

    def start_istiod(self):
        d = self.dir / "istiod"
        d.mkdir(exist_ok=True)
        root = (STATE / "root-cert.pem").read_text()
        (d / "mesh.yaml").write_text(json.dumps({
            "trustDomain": self.trust_domain, "accessLogFile": "/dev/stdout", "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
            # Which trust domains' workloads the providers' sidecars accept; what passes through needs it.
            "caCertificates": [{"pem": root, "trustDomains": self.all_domains}], **self.mesh_settings}))
        # The last three switch off what only Istio's own build of Envoy has.
        env = {"POD_NAMESPACE": "istio-system", "POD_NAME": "istiod", "REVISION": "default", "CLUSTER_ID": "Kubernetes",
               "ROOT_CA_DIR": str(self.dir / "cacerts"), "ISTIOD_CUSTOM_HOST": "istiod-lab",
               "INJECTION_WEBHOOK_CONFIG_NAME": "", "VALIDATION_WEBHOOK_CONFIG_NAME": "", "ENABLE_LEADER_ELECTION": "false", "PILOT_ENABLE_ANALYSIS": "false",
               "PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false", "PILOT_ENABLE_TELEMETRY_LABEL": "false"}
        x = self.xds
        istiod = spawn(d / "log", BIN / "pilot-discovery", "discovery", "--kubeconfig", self.kubeconfig, "--domain", "cluster.local", "--meshConfig",
                       d / "mesh.yaml", "--httpAddr", f":{x}", "--grpcAddr", f":{x+1}", "--secureGRPCAddr", f":{x+2}", "--httpsAddr", f":{x+3}",
                       "--monitoringAddr", f":{x+4}", "--ctrlz_port", "0", "--log_output_level", "default:warn", cwd=d, env=env)
        (d / "pid").write_text(str(istiod.pid))
        wait_for(f"{self.name} istiod", lambda: run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{x}/ready", check=False) == "200", 120)

    @property
    def istiod_pid(self):
        return int((self.dir / "istiod/pid").read_text())

    def restart_istiod(self):
        pid = self.istiod_pid
        os.kill(pid, signal.SIGTERM)
        wait_for(f"{self.name} istiod: gone", lambda: not alive(pid), 30)
        self.start_istiod()

    # ------------------------------------------------------------ pods

    def service(self, ns, name, ports, selector, pods=(), kind="ClusterIP"):
        """A Service of `(name, port, target)`, and the endpoints that a controller would write."""
        spec = {"selector": selector, "ports": [{"name": n, "port": p, "targetPort": t} for n, p, t in ports]}
        spec.update({"clusterIP": "None"} if kind == "Headless" else {"type": kind})
        service = obj("v1", "Service", name, ns, spec)
        self.apply(service)
        self.endpoints(ns, name, ports, pods)
        return service

    def endpoints(self, ns, name, ports, pods):
        endpoint = lambda p: {"addresses": [p.ip], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": p.name, "namespace": ns}}
        self.apply({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": {"name": f"{name}-lab", "namespace": ns, "labels": {"kubernetes.io/service-name": name}},
                    "ports": [{"name": n, "port": t, "protocol": "TCP"} for n, _, t in ports], "endpoints": [endpoint(p) for p in pods]})

    def load_balancer(self, service, *ips):
        self.api.merge(service, {"status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ips]}}}, "status")

    def gateway(self, kind, name=None, ip=None):
        """A gateway pod of `istio-<kind>gateway`. The first one makes its Service too."""
        account, labels = f"istio-{kind}gateway", {"istio": f"{kind}gateway"}
        first = name is None
        pod = Pod(self, "istio-system", name or kind, ip or f"10.7{self.index}.0.{2 if kind == 'ingress' else 3}", labels, account, role="router")
        self.names.setdefault(f"{account}.istio-system.svc.cluster.local", pod.ip)
        self.pods[pod.name] = pod
        pod.proxied = True
        if pod.exists():
            return pod
        pod.create()
        if first:
            # As Istio's charts do: a gateway may read the Secrets that `credentialName` names.
            role = {"apiVersion": "rbac.authorization.k8s.io/v1"}
            self.apply({**role, "kind": "Role", "metadata": {"name": f"{account}-sds", "namespace": "istio-system"},
                        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}]},
                       {**role, "kind": "RoleBinding", "metadata": {"name": f"{account}-sds", "namespace": "istio-system"},
                        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": f"{account}-sds"},
                        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "istio-system"}]})
            service = self.service("istio-system", account, [("tls", 15443, 15443)], labels, [pod], "LoadBalancer" if kind == "ingress" else "ClusterIP")
            if kind == "ingress":
                self.load_balancer(service, pod.ip)
        pod.start_proxy(wait=False)
        return pod

    def injected(self, ns, template):
        """The pod that istiod's injector makes of a Deployment's template, as the API server would ask for it at the pod's creation."""
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"generateName": "lab-", **template["metadata"]}}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "lab", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": ns, "operation": "CREATE", "object": pod}}
        request = urllib.request.Request(f"https://127.0.0.1:{self.xds + 3}/inject", json.dumps(review).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=30) as answer:
            response = json.load(answer)["response"]
        assert response["allowed"] and response.get("patch"), response
        (self.dir / "pod.json").write_text(json.dumps(pod))
        patch = base64.b64decode(response["patch"]).decode()
        return json.loads(self.kubectl("patch", "--local", "--type=json", "--patch", patch, "--filename", self.dir / "pod.json", "--output", "json"))

    def gateway_of(self, ns, name, pod, service):
        """A gateway's pod as an API server has it (injected, or of a Deployment of istiod's), and endpoints for its Service."""
        [proxy] = pod["spec"]["containers"]
        settings = {e["name"]: e.get("value", "") for e in proxy["env"]}
        started = Pod(self, ns, name, f"10.7{self.index}.0.{next(self.addresses)}", pod["metadata"]["labels"], pod["spec"]["serviceAccountName"], role="router")
        # pilot-agent reads both, the annotation last.
        annotation = pod["metadata"]["annotations"].get("proxy.istio.io/config", "")
        started.proxy_config = {**json.loads(settings["PROXY_CONFIG"]), **yaml.safe_load(annotation or "{}")}
        started.spec = pod["spec"]
        self.pods[name] = started
        started.create()
        started.start_proxy(wait=False)
        m, spec = service["metadata"], service["spec"]
        assert spec["selector"].items() <= started.labels.items(), "the Service leads to the pod"
        self.endpoints(ns, m["name"], [(p["name"], p["port"], p.get("targetPort", p["port"])) for p in spec["ports"]], [started])
        if spec["type"] == "LoadBalancer":
            self.load_balancer(service, started.ip)
        return started

    def pod(self, ns, name, labels=None, account=None, sidecar=True, **ports):
        """An application pod that serves `ports` (http=8080, grpc=9000, ...)."""
        labels = {"app": name, **({"security.istio.io/tlsMode": "istio"} if sidecar else {}), **(labels or {})}
        pod = Pod(self, ns, name, f"10.7{self.index}.0.{next(self.addresses)}", labels, account or name)
        self.pods[name] = pod
        pod.proxied, pod.ports = sidecar, ports
        if pod.exists():
            pod.ip = run("ip", "-n", pod.net, "-4", "-o", "addr", "show", "eth0").split()[3].split("/")[0]
            return pod
        self.apply(obj("v1", "Namespace", ns))
        pod.create()
        if ports:
            pod.serve(**ports)
        if sidecar:
            pod.redirect()
            pod.start_proxy(wait=False)
        return pod

    def address(self, name, ns):
        """What cluster DNS would answer."""
        service = self.api.get("v1", "Service", name, ns)
        return service and service["spec"].get("clusterIP")
