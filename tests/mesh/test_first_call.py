"""docs/install.md, "The first call": its commands, run as they stand on two clusters without Wharf, and counted."""
import re

from api import obj
from test_migration import Walk
from test_tutorial import bare_clusters, troubles
from wharf import GROUP, ROOT

COMMAND = re.compile(r"^(?:until address=\$\()?(wharf|helm|kubectl) ", re.MULTILINE)


def section():
    text = (ROOT / "docs/install.md").read_text()
    return text.split("\n## The first call\n")[1].split("\n## ")[0]


def test_ten_commands_lead_from_two_clusters_to_the_first_call(lab, agents, tmp_path):
    one, two = lab[1], lab[2]
    commands = COMMAND.findall(section())
    assert len(commands) == 10 and "ten commands" in section(), commands
    serving, calling = one.pod("store", "stock", {"app": "inventory"}, http=8080), two.pod("store", "buyer")
    one.service("store", "inventory", [("http", 80, 8080)], {"app": "inventory"}, [serving])
    for pod in (serving, calling):
        pod.wait()
    try:
        with bare_clusters(lab, agents, {}) as kubelets:
            page = Walk(lab, calling, tmp_path, private_network="10.0.0.0/8")
            try:
                page.follow(section())
            except AssertionError as e:
                raise AssertionError(f"{e}\n{troubles(kubelets)}") from None
            finally:
                page.end()
                for c in (one, two):
                    for kind in ("ServiceExpositionPolicy", "RemoteServiceBinding"):
                        c.delete(obj(GROUP, kind, "inventory", "store"))
    finally:
        one.delete(obj("v1", "Service", "inventory", "store"), obj("discovery.k8s.io/v1", "EndpointSlice", "inventory-lab", "store"))
        for pod in (serving, calling):
            pod.remove()
