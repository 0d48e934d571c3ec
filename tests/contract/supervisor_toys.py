"""Small real processes for the supervisor's suite, described by `toys.json` in its folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import FileReady, Part, Restart

_BODY = """
import os, pathlib, signal, subprocess, sys, time
name, kind, root = sys.argv[1:]
run = pathlib.Path(root, "run")

def note(file, text=name):
    with open(os.path.join(root, file), "a") as target:
        target.write(text + "\\n")

def stop(number, frame):
    note("stopped.txt")
    sys.exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if kind == "deaf" else stop)
print(name, "speaks", flush=True)
note("started.txt")
if kind == "dies":
    sys.exit(3)
if kind == "once" and open(os.path.join(root, "started.txt")).read().count(name) > 1:
    sys.exit(4)
if kind == "runtime":
    container = [sys.executable, "-S", "-c", "import time; time.sleep(600)", "sleep"]
    folder = os.path.join(root, "containers", "1")
    subprocess.Popen([*container, folder], start_new_session=True)
if kind == "parent":
    child = "import time; held = b'x' * 20_000_000; time.sleep(600)"
    subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
    subprocess.Popen([sys.executable, "-S", "-c", child], env={})
if kind == "environment":
    (run / "environment").write_text(repr(dict(os.environ)))
if kind != "never":
    (run / (name + ".ready")).touch()
while True:
    time.sleep(600)
"""


def write(home: SandboxHome, *toys: dict[str, object]) -> None:
    """Say which parts `parts` shall return: name, kind and fields of Part."""
    (home.root / "toys.json").write_text(json.dumps(toys))


def parts(home: SandboxHome) -> tuple[Part, ...]:
    """Return the described parts; the supervisor imports this by name."""
    toys = json.loads((home.root / "toys.json").read_text())
    return tuple(_part(home, **toy) for toy in toys)


def _part(home: SandboxHome, name: str, kind: str = "plain", **fields: object) -> Part:
    chosen: dict[str, object] = {
        "command": (sys.executable, "-S", "-c", _BODY, name, kind, str(home.root)),
        "stop_grace_s": 0.3,
    }
    lists = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    if isinstance(restart := fields.get("restart"), dict):
        lists["restart"] = Restart(**restart)
    if isinstance(keeps := fields.get("keeps"), str):
        lists["keeps"] = Path(keeps)
    return Part(
        name=name,
        ready=FileReady(Path(home.run / f"{name}.ready")),
        **(chosen | lists),  # type: ignore[arg-type]  # the suite names real fields
    )
