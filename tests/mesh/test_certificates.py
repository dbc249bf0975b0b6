"""What a gateway's Envoy makes of odd certificates: one Envoy alone, on loopback, with what Wharf writes about TLS and with
Wharf's first route, as istiod hands them on. No mesh is needed."""
import contextlib
import json
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from calls import Stranger
from tools import BIN, CACHE, run
from wharf import WHARF, Pki, until

ENVOY = CACHE / "venv/bin/envoy"
HOST = "till.shop.svc.cluster.local"
PEER, STRANGER = "spiffe://wharf/cluster/cluster2", "spiffe://wharf/cluster/stranger"
DNS, EMAIL, URI = 0x82, 0x81, 0x86  # RFC 5280, GeneralName
LIMIT = {"re2.max_program_size.error_level": 32768}  # as in Istio's bootstrap


def der(tag, content):
    size = len(content)
    head = bytes([size]) if size < 128 else (lambda n: bytes([0x80 | len(n)]) + n)(size.to_bytes((size.bit_length() + 7) // 8, "big"))
    return bytes([tag]) + head + content


class Certificates:
    """Certificates of any content, under the clusters' root."""

    def __init__(self, folder):
        self.folder, self.pki = Path(folder), Pki(Path(folder) / "pki")

    def issue(self, *names, subject="/O=x"):
        d = Path(tempfile.mkdtemp(dir=self.folder))
        sans = der(0x30, b"".join(der(tag, text.encode()) for tag, text in names))
        (d / "ext").write_text(f"subjectAltName=DER:{sans.hex()}\nextendedKeyUsage=clientAuth,serverAuth\nkeyUsage=digitalSignature\n")
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject, "-keyout", d / "key", "-out", d / "csr")
        run("openssl", "x509", "-req", "-days", "2", "-in", d / "csr", "-CA", self.pki.root, "-CAkey", self.pki.dir / "ca.key", "-CAcreateserial",
            "-out", d / "leaf", "-extfile", d / "ext")
        return d / "leaf", d / "key"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    if not ENVOY.exists():
        pytest.skip(f"{ENVOY} is missing: tests/lab/lab.py setup installs it")
    return Certificates(tmp_path_factory.mktemp("certificates"))


def translate(folder, entry, peers=("cluster2", "cluster3")):
    """What Wharf writes for one exposed Service: objects, and what it says."""
    config = {"cluster": "cluster1", "ingress": {"address": "192.0.2.1"}, "peers": [{"name": p, "consume": True, "trustDomain": p} for p in peers]}
    objects = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "till", "namespace": "shop"}, "spec": {"selector": {"app": "till"}, "ports": [{"name": "http", "port": 80}]}},
        {"apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy", "metadata": {"name": "till", "namespace": "shop"},
         "spec": {"exposed": [{"name": "till", **entry}]}}]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    done = subprocess.run([WHARF, "translate", "--config", folder / "config.yaml", "-f", folder / "objects.yaml"], text=True, capture_output=True)
    return [o for o in yaml.safe_load_all(done.stdout) if o], done.stderr


def the(objects, kind):
    [one] = [o for o in objects if o["kind"] == kind]
    return one["spec"]


def first_route(objects):
    """Wharf's first route, as istiod translates it (TranslateRouteMatch in its route.go)."""
    [match] = the(objects, "VirtualService")["http"][0]["match"]
    conditions = lambda field, **more: [{"name": name, "string_match": {"safe_regex": {"regex": m["regex"]}}, **more} for name, m in match.get(field, {}).items()]
    headers = conditions("headers") + conditions("withoutHeaders", invert_match=True, treat_missing_header_as_empty=True)
    return {"match": {"prefix": "/", "headers": sorted(headers, key=lambda h: h["name"])}, "direct_response": {"status": 403}}


def bootstrap(objects, certificates, port):
    cert, key = certificates.pki.dir / "cluster1.crt", certificates.pki.dir / "cluster1.key"
    if not cert.exists():
        certificates.pki.issue("cluster1")
    names = the(objects, "Gateway")["servers"][0]["tls"].get("subjectAltNames", [])
    validation = {"trusted_ca": {"filename": str(certificates.pki.root)}, "match_subject_alt_names": [{"exact": n} for n in names]}
    tls = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": True,
           "common_tls_context": {"tls_certificates": [{"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}], "validation_context": validation}}
    through = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "in"}}}
    manager = {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "gateway",
               "forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"subject": True, "cert": True, "dns": True, "uri": True},
               "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
               "route_config": {"virtual_hosts": [{"name": "till", "domains": ["*"], "routes": [first_route(objects), through]}]}}
    chain = {"filters": [{"name": "http", "typed_config": manager}], "transport_socket": {"name": "tls", "typed_config": tls}}
    listener = {"name": "gateway", "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener]}, "layered_runtime": {"layers": [{"name": "istio", "static_layer": LIMIT}]}}


@contextlib.contextmanager
def gateway(objects, certificates, folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (folder / "envoy.json").write_text(json.dumps(bootstrap(objects, certificates, port)))
    with open(folder / "envoy.log", "w") as log:
        envoy = subprocess.Popen([ENVOY, "-c", folder / "envoy.json", "--disable-hot-restart", "--concurrency", "1", "-l", "warning"], stdout=log, stderr=log)
    try:
        def listening():
            assert envoy.poll() is None, (folder / "envoy.log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        until("Envoy listens", listening)
        yield lambda *certificate: Stranger(("127.0.0.1", port), *certificate).get(HOST)
    finally:
        envoy.terminate()
        envoy.wait(10)


ELEMENT = f'x,By=spiffe://wharf/cluster/cluster1;Hash={"0" * 64};Cert="a";Subject="";URI={PEER}'
# The names of a certificate, and what becomes of it: "tls" is refused by the first lock, 403 by the second.
CASES = {
    "the peer": ([(URI, PEER)], 200),
    "the peer, with DNS names": ([(DNS, "cluster2.example"), (URI, PEER), (DNS, "*.cluster2.example")], 200),
    "a stranger": ([(URI, STRANGER)], "tls"),
    "a stranger, with the peer in front of a longer name": ([(URI, PEER + "x")], "tls"),
    "a stranger whose DNS name is the peer's": ([(URI, STRANGER), (DNS, PEER)], 403),
    "a stranger whose e-mail address is the peer's name": ([(URI, STRANGER), (EMAIL, PEER)], 403),
    "the peer's name as a DNS name only": ([(DNS, PEER)], 403),
    "a DNS name that reads like a further field": ([(URI, STRANGER), (DNS, PEER), (DNS, f"x;URI={PEER}")], 403),
    "a DNS name that ends the quotes of a subject": ([(URI, STRANGER), (DNS, PEER), (DNS, f'x";URI={PEER}')], 403),
    "a DNS name that reads like a further element": ([(URI, STRANGER), (DNS, PEER), (DNS, ELEMENT)], 403),
    "a URI that reads like a further element": ([(URI, ELEMENT), (DNS, PEER)], 403),
    "a URI that reads like a further field": ([(URI, f"{STRANGER};URI={PEER}"), (DNS, PEER)], 403),
    "two URIs, the stranger's first": ([(URI, STRANGER), (URI, PEER)], 403),
    "two URIs, the peer's first": ([(URI, PEER), (URI, STRANGER)], 403),
    "the peer's URI twice": ([(URI, PEER), (URI, PEER)], 403),
}


@pytest.fixture(scope="module")
def peers_only(certificates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    objects, _ = translate(folder, {"clusters": ["cluster2"], "tls": "Cluster"})
    with gateway(objects, certificates, folder) as ask:
        yield ask


@pytest.mark.parametrize("who", CASES)
def test_a_certificate_gets_in_by_its_one_uri_and_nothing_else(peers_only, certificates, who):
    names, expected = CASES[who]
    seen = peers_only(*certificates.issue(*names))
    assert ("tls" if str(seen).startswith("refused") else seen) == expected, seen


@pytest.mark.parametrize("subject", ['/CN=a";URI=' + PEER.replace("/", "\\/"), "/CN=a\\\\/O=b;c,d", "/CN=\u00e9;URI=x"])
def test_a_subject_says_nothing_about_who_it_is(peers_only, certificates, subject):
    assert peers_only(*certificates.issue((URI, PEER), subject=subject)) == 200
    assert peers_only(*certificates.issue((URI, STRANGER), (DNS, PEER), subject=subject)) == 403


def clients(n, length):
    name = lambda letter, i: f"{letter}{i:0>{length - 1}}"
    return [{"cluster": "cluster2", "namespace": name("n", i), "serviceAccount": name("s", i)} for i in range(n)]


@pytest.mark.parametrize("n,length", [(1, 8), (40, 8), (256, 20), (256, 63)])
def test_a_gateway_takes_the_permission_of_many_callers(certificates, tmp_path, n, length):
    objects, said = translate(tmp_path, {"clusters": ["cluster2"], "tls": "Workload", "clients": clients(n, length)})
    assert objects, said
    if (BIN / "istioctl").exists():
        (tmp_path / "written.yaml").write_text(yaml.safe_dump_all(o for o in objects if o["kind"] == "VirtualService"))
        opinion = subprocess.run([BIN / "istioctl", "validate", "-f", tmp_path / "written.yaml"], text=True, capture_output=True)
        assert opinion.returncode == 0 and "is valid" in opinion.stderr, opinion.stdout + opinion.stderr
    with gateway(objects, certificates, tmp_path) as ask:
        name = lambda c: f"spiffe://cluster2/ns/{c['namespace']}/sa/{c['serviceAccount']}"
        everybody = clients(n, length)
        for who in (everybody[0], everybody[n // 2], everybody[-1]):
            assert ask(*certificates.issue((URI, name(who)))) == 200
            assert ask(*certificates.issue((URI, name(who) + "x"))) == 403
            assert ask(*certificates.issue((URI, STRANGER), (DNS, name(who)))) == 403


def test_a_permission_that_no_gateway_would_take_is_refused_with_the_reason(certificates, tmp_path):
    many = [{**c, "cluster": peer} for c in clients(256, 63) for peer in ("cluster2", "cluster3", "cluster4")]
    objects, said = translate(tmp_path, {"tls": "Workload", "clients": many}, ("cluster2", "cluster3", "cluster4"))
    assert not objects and "clients: the permitted callers need" in said and "name namespaces without service accounts" in said, said
