"""The agent's image, and a container of it as a kubelet would start one: by the chart's pod, its security context and its probes."""
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

from tools import run
from wharf import ROOT, until

# What `RuntimeDefault` is where Debian's container tools run.
SECCOMP = Path("/usr/share/containers/seccomp.json")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ENOSYS = 38


def static_binary():
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    return Path(os.environ.get("WHARF_STATIC") or target / f"{platform.machine()}-unknown-linux-musl/debug/wharf")


class Image:
    """Built by buildah, in a storage of its own."""

    def __init__(self, folder):
        self.folder, context = folder, folder / "context"
        binary = static_binary()
        assert binary.exists(), f"{binary} is missing: tests/run mesh builds it"
        context.mkdir()
        shutil.copy(binary, context / "wharf")
        self.buildah("bud", "--isolation", "chroot", "--file", ROOT / "deploy/Dockerfile.static", "--tag", "wharf", context)
        self.config = json.loads(self.buildah("inspect", "--type", "image", "wharf"))["OCIv1"]["config"]
        self.root = Path(self.buildah("mount", self.buildah("from", "wharf").strip()).strip())

    def buildah(self, command, *args):
        storage = ("--storage-driver", "vfs", "--root", self.folder / "storage", "--runroot", self.folder / "run")
        return run("buildah", *storage, command, *args)


def seccomp():
    """The rules for a process without capabilities, in the form of the OCI's runtime specification."""
    rules, machine = json.loads(SECCOMP.read_text()), {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    fits = lambda r: not (r.get("includes") or {}).get("caps") and machine in ((r.get("includes") or {}).get("arches") or [machine])
    kept = [{k: r[k] for k in ("names", "action", "args") if r.get(k)} | ({"errnoRet": r["errnoRet"]} if r.get("errnoRet") else {})
            for r in rules["syscalls"] if fits(r)]
    native = next(a for a in rules["archMap"] if a["architecture"].lower().endswith(platform.machine()))
    return {"defaultAction": rules["defaultAction"], "defaultErrnoRet": ENOSYS, "architectures": [native["architecture"]], "syscalls": kept}


class Container:
    """A pod's only container, in the network of this machine. Its file systems are the image's and what the pod mounts."""

    def __init__(self, image, pod, folder, *, env, mounts, fields):
        [container] = pod["containers"]
        self.container, self.folder, self.name = container, folder, f"wharf-{folder.name}"
        context, own = pod["securityContext"], container["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] and context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["capabilities"] == {"drop": ["ALL"]} and not own.get("privileged")
        told = {v["name"]: v.get("value") or fields[v["valueFrom"]["fieldRef"]["fieldPath"]] for v in container["env"]}
        volumes = [{"destination": at, "source": str(source), "type": "bind", "options": ["bind", "ro", "nosuid", "nodev"]} for at, source in mounts.items()]
        assert {m["mountPath"] for m in container["volumeMounts"]} <= set(mounts), "each volume of the pod has its files here"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({
            "ociVersion": "1.0.2", "root": {"path": str(image.root), "readonly": own["readOnlyRootFilesystem"]}, "hostname": self.name,
            "process": {
                "terminal": False, "cwd": image.config.get("WorkingDir") or "/", "args": image.config["Entrypoint"] + container["args"],
                "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]}, "capabilities": {},
                "noNewPrivileges": not own["allowPrivilegeEscalation"], "env": [f"{k}={v}" for k, v in {**told, **env}.items()]},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}, *volumes],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")], "seccomp": seccomp(),
                      "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"], "readonlyPaths": ["/proc/sys", "/proc/bus"]}}))

    def start(self):
        # crun refuses to run where old and new control groups are mixed, as on some machines that tests run on. It needs none here.
        crun = f"umount -l /sys/fs/cgroup/unified 2>/dev/null; exec crun --root {self.folder}/state --cgroup-manager=disabled run --bundle {self.folder} {self.name}"
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(["unshare", "--mount", "sh", "-c", crun], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        return self

    def crun(self, *args):
        return run("crun", "--root", self.folder / "state", *args)

    @property
    def pid(self):
        """The agent's process, as this machine counts."""
        return json.loads(self.crun("state", self.name))["pid"]

    def probe(self, kind, host):
        """What the pod's probe of this kind is answered."""
        asked = self.container[kind]["httpGet"]
        port = next(p["containerPort"] for p in self.container["ports"] if p["name"] == asked["port"])
        return run("curl", "-s", "-o", "/dev/null", "-m", self.container[kind]["timeoutSeconds"], "-w", "%{http_code}", f"http://{host}:{port}{asked['path']}", check=False)

    def until_ready(self, host):
        def ready():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return self.probe("readinessProbe", host) == "200"
        until("the container is ready", ready, 60)

    def stop(self, grace):
        """As a kubelet stops it. Gives the exit code."""
        if self.process.poll() is None:
            self.crun("kill", self.name, "TERM")
        try:
            return self.process.wait(grace)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.log.close()
