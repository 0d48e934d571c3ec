"""One kube-apiserver of any version, from the Go module proxy, beside the sandbox's other parts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from slipway.sandbox.build import BINARY_NAME, control_plane, crds, find_go

_MAIN = """package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
"""
# The sandbox calls its one binary with the part's name first.
_DISPATCH = """#!/bin/sh
if [ "$1" = apiserver ]; then
    shift
    exec "{apiserver}" {flags} "$@"
fi
exec "{others}" "$@"
"""
# The sandbox's own policy that shows pods at addresses which EndpointSlices take.
_BETA_POLICIES = (
    "--feature-gates=MutatingAdmissionPolicy=true "
    "--runtime-config=admissionregistration.k8s.io/v1beta1=true"
)
_STAGING = re.compile(r"^\s*(?:replace )?(k8s\.io/[a-z0-9-]+) v0\.0\.0$", re.MULTILINE)


def binary_with(version: str, folder: Path) -> Path:
    """Return a control plane of the sandbox whose API server has another version.

    Args:
        version: of Kubernetes, for example `1.35.4`.
        folder: keeps what was built; a second call is quick.
    """
    own = control_plane(lambda text: print(text, flush=True))
    place = folder / version
    built = place / "kube-apiserver"
    if not built.exists():
        place.mkdir(parents=True, exist_ok=True)
        _build(version, place, built)
    known = crds(place / BINARY_NAME)
    if not known.exists():
        known.symlink_to(crds(own))
    made = place / BINARY_NAME
    flags = _BETA_POLICIES if version < "1.36" else ""
    made.write_text(_DISPATCH.format(apiserver=built, others=own, flags=flags))
    made.chmod(0o755)
    return made


def _build(version: str, place: Path, built: Path) -> None:
    go = find_go(os.environ.get("PATH", "")).program
    assert go is not None, "the control plane has just been built with it"
    (place / "main.go").write_text(_MAIN)
    module = f"k8s.io/kubernetes@v{version}"
    found = _run(go, place, "mod", "download", "-json", module)
    said = re.search(r'"GoMod": "(.+)"', found)
    assert said is not None, found
    # Its own staging modules are named v0.0.0 there; they were released as v0.MINOR.PATCH.
    names = sorted(set(_STAGING.findall(Path(said[1]).read_text())))
    lines = [f"replace {name} => {name} v0.{version.partition('.')[2]}" for name in names]
    stated = f"module skew\n\ngo 1.24\n\nrequire k8s.io/kubernetes v{version}\n\n"
    (place / "go.mod").write_text(stated + "\n".join(lines) + "\n")
    _run(go, place, "mod", "tidy")
    major, minor, _ = version.split(".")
    stamps = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{k}={v}" for k, v in stamps.items())
    began_s = time.monotonic()
    _run(go, place, "build", "-trimpath", f"-ldflags=-s -w {flags}", "-o", f"{built}.new", ".")
    Path(f"{built}.new").rename(built)
    print(f"kube-apiserver {version}: built in {time.monotonic() - began_s:.0f} s", flush=True)


def _run(go: Path, place: Path, *arguments: str) -> str:
    environment = {**os.environ, "GOFLAGS": "-mod=mod -buildvcs=false", "GOWORK": "off"}
    done = subprocess.run(
        (str(go), *arguments),
        cwd=place,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"go {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout
