"""Where the lab keeps things, and how it runs programs."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CACHE = Path(os.environ.get("LAB_CACHE") or Path.home() / ".cache/wharf-lab")  # what is built once
STATE = Path(os.environ.get("LAB_STATE") or "/tmp/wharf-lab")  # what runs now
BIN = CACHE / "bin"


def fail(*lines):
    sys.exit("lab.py: " + "\n  ".join(str(line) for line in lines))


def tell(text):
    print(text, flush=True)


def run(*cmd, check=True, **kw):
    """Runs a program to its end and gives what it printed. One that fails ends the lab, with all that it said."""
    words = [str(c) for c in cmd]
    try:
        done = subprocess.run(words, text=True, capture_output=True, **kw)
    except FileNotFoundError:
        fail(f"{words[0]} is missing")
    if check and done.returncode:
        fail(f"{' '.join(words)[:300]} failed ({done.returncode})", *(done.stdout + done.stderr).splitlines())
    return done.stdout


def need(tool, cure):
    """The path of a program that somebody has to have installed."""
    return shutil.which(tool) or fail(f"{tool} is missing: {cure}")


def spawn(log, *cmd, cwd=None, env=None):
    """Starts a daemon and remembers its pid, so that `down` ends what `up` started and nothing else."""
    with open(log, "ab") as out:
        process = subprocess.Popen([str(c) for c in cmd], stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=cwd,
                                   env={**os.environ, **(env or {})}, start_new_session=True)
    with open(STATE / "pids", "a") as pids:
        pids.write(f"{process.pid}\n")
    return process


def wait_for(what, probe, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if probe():
            return
        time.sleep(0.25)
    fail(f"{what}: not ready after {seconds} s; the logs are under {STATE}")
