"""A repository in memory, a folder to back up, and a place to restore to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slipway.backup.codec import Codec, PlainCodec
from slipway.backup.removing import Removed, remove
from slipway.backup.repository import Repository, make_repository
from slipway.backup.restoring import Restored, Wanted, restore
from slipway.backup.sending import Pace, Progress
from slipway.backup.taking import Order, Surroundings, Taken, take
from slipway.core.backup.cuts import CutRules
from slipway.core.backup.manifest import Manifest, Origin
from slipway.core.backup.names import ManifestName
from slipway.core.backup.settings import Algorithm, StoreFacts
from tests.fakes.backups import FakeBackupStore

HONEST = StoreFacts(checks_sha256=True, checks_crc32c=True, conditional_writes=True)
PLAIN = (Algorithm.SHA256, Algorithm.BLAKE3)
ORIGIN = Origin(place="/models/chat", tool="slipway 1")
BYTES = random.Random(1).randbytes(5_000)
TENSORS = {f"blk.{n}.w": BYTES[1_000 * n :][:1_000] for n in range(4)}


class House:
    """A repository in memory, a folder to back up, and a place to restore to."""

    def __init__(self, folder: Path, algorithm: Algorithm = Algorithm.SHA256, **store: Any) -> None:
        self.folder = folder / "model"
        self.target = folder / "restored"
        self.folder.mkdir()
        self.store = FakeBackupStore(**store)
        made = make_repository(
            self.store, "memory", at_ns=0, random_bits=1, facts=HONEST, algorithm=algorithm
        )
        small = CutRules(chunk_bytes=512, group_below_bytes=64)
        self.repository = Repository(self.store, replace(made.settings, cuts=small), "memory")
        self.now_ns = 10**18
        self.threads = 3
        self.progress: Progress = lambda _read, _sent: None
        self.codec: Codec = PlainCodec(algorithm)

    def write(self, path: str, content: bytes) -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return place

    def take(self, **changes: Any) -> Taken:
        order = Order(model="chat", folder=self.folder, origin=ORIGIN, **changes)
        return take(self.repository, self.codec, order, self.surroundings())

    def remove(self, names: Sequence[ManifestName]) -> Removed:
        return remove(
            self.repository, names, now_ns=lambda: self.now_ns, random_bits=lambda: 1 << 70
        )

    def surroundings(self) -> Surroundings:
        self.now_ns += 10**9
        rng = random.Random(self.now_ns)
        return Surroundings(
            now_ns=lambda: self.now_ns,
            random_bits=lambda: rng.getrandbits(80),
            pace=Pace(threads=self.threads, progress=self.progress),
        )

    def restore(self, manifest: Manifest, **changes: Any) -> Restored:
        wanted = Wanted(target=self.target, **changes)
        return restore(manifest, wanted, [self.store], self.codec)


def other_repository(house: House, store: FakeBackupStore | None = None) -> Repository:
    """Return a repository that can be a replica of the house's."""
    made = make_repository(
        store if store is not None else FakeBackupStore(),
        "replica",
        at_ns=1,
        random_bits=2,
        facts=HONEST,
        algorithm=house.repository.settings.algorithm,
    )
    return replace(made, settings=replace(made.settings, cuts=house.repository.settings.cuts))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
