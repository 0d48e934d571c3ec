"""A sandbox's folder for unit tests, which open no sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slipway.sandbox.home import SandboxHome


@contextmanager
def home_without_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxHome]:
    """A fresh folder with an authority; ports are counted: a free one is found by binding it."""
    counter = iter(range(20_000, 30_000))
    unused = "slipway.sandbox.home._free_port"
    monkeypatch.setattr(unused, lambda _taken, _usable, first: next(counter))
    # Not tmp_path: it is longer than what a kubelet's socket leaves for the folder.
    with tempfile.TemporaryDirectory(prefix="sb") as folder:
        made = SandboxHome(Path(folder))
        made.create()
        (made.pki / "ca.crt").write_text("authority")
        yield made
