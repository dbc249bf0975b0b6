"""The image is built, and runs as the chart's pod says: by a container runtime, without rights, beside a real API server."""
import re
from pathlib import Path

import pytest

from image import ACCOUNT, Container, Image
from tools import run
from wharf import ROOT, until

# From Linux' proc_pid_status(5).
FILTERED = "2"


@pytest.fixture(scope="module")
def image(lab, tmp_path_factory):
    image = Image(tmp_path_factory.mktemp("image"))
    yield image
    image.buildah("rm", "--all")


def last_stage(dockerfile):
    text = [line for line in (ROOT / dockerfile).read_text().splitlines() if line and not line.startswith("#")]
    return [line.replace("--from=build /wharf", "wharf") for line in text[len(text) - 1 - text[::-1].index("FROM scratch"):]]


def test_both_recipes_make_the_same_image():
    assert last_stage("deploy/Dockerfile") == last_stage("deploy/Dockerfile.static")


def test_the_image_holds_one_static_program_and_names_no_root(image):
    assert [str(p.relative_to(image.root)) for p in image.root.rglob("*") if p.is_file()] == ["wharf"]
    assert "statically linked" in run("ldd", image.root / "wharf", check=False) + run("sh", "-c", f"ldd {image.root / 'wharf'} 2>&1", check=False)
    assert image.config["User"] == "65532:65532"
    assert image.config["Entrypoint"] == ["/wharf"]


def test_a_container_of_the_image_is_ready_under_the_charts_security_context(image, agents, tmp_path):
    """Its account, its configuration and its probes are the chart's; peers are heard, and it stops when it is told to."""
    agent = agents["cluster2"]
    c = agent.cluster
    deployment = next(o for o in agent.render() if o["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    files, account, hosts = tmp_path / "config", tmp_path / "account", tmp_path / "hosts"
    files.mkdir(), account.mkdir()
    (files / "config.yaml").write_text((agent.dir / "config.yaml").read_text())
    (account / "token").write_text(c.token("wharf-system", pod["serviceAccountName"], "https://kubernetes.default.svc"))
    (account / "ca.crt").write_text((c.dir / "certs/apiserver.crt").read_text())
    (account / "namespace").write_text("wharf-system")
    hosts.write_text("127.0.0.1 localhost\n")  # a kubelet writes this file, too; the API server's certificate has this name
    for path in (tmp_path, hosts, files, account, *files.iterdir(), *account.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    fields = {"metadata.name": "wharf-image", "metadata.namespace": "wharf-system", "metadata.uid": ""}
    container = Container(image, pod, tmp_path / "bundle", fields=fields, mounts={"/etc/wharf": files, ACCOUNT: account, "/etc/hosts": hosts},
                          env={"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": c.port})
    agent.stop()
    try:
        container.start()
        container.until_ready(c.host)
        assert container.probe("livenessProbe", c.host) == "200"
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{container.pid}/status").read_text().splitlines() if ":\t" in line)
        assert set(status["Uid"].split()) == {"65532"}
        assert {int(status[sort], 16) for sort in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", FILTERED)
        metrics = lambda: run("curl", "-s", f"http://{c.host}:7444/metrics", check=False)
        until("a donor's stream", lambda: re.search(r'^wharf_peer_connected\{[^}]*"cluster1"[^}]*\} 1$', metrics(), re.MULTILINE), 30)
        assert container.stop(pod["terminationGracePeriodSeconds"]) == 0, (tmp_path / "bundle/log").read_text()
    finally:
        container.stop(5)
        agent.start()
