"""Two writers and two removers in one repository, stopped and killed between any two requests.

A mender may be there too, and chunks that rot.

They run what production runs, as greenlets: a seed decides at each request who goes on, how much
time passes meanwhile, and who is killed. What is listed arrives in small pages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from greenlet import getcurrent, greenlet

from slipway.backup.codec import PlainCodec
from slipway.backup.removing import remove
from slipway.backup.repairing import Remedies, repair
from slipway.backup.repository import Repository
from slipway.backup.sending import Pace
from slipway.backup.taking import Order, Surroundings, take
from slipway.backup.verifying import verify
from slipway.core.backup import manifest as manifests
from slipway.core.backup import names
from slipway.core.backup.cuts import CutRules
from slipway.core.backup.manifest import Origin
from slipway.core.backup.settings import RepositorySettings, StoreFacts
from slipway.core.errors import SlipwayError
from tests.fakes.backups import FakeBackupStore

_LIFETIME_S = 1_000
_CHUNK_BYTES = 8
_PACES = (1, 1, 3, 3, 2)
"""How often each is the next: who reads every manifest would never get through."""

_KILLED, _SLEEPS = 0.002, 0.005
"""How likely at each step one is killed, or sleeps for longer than a run may last."""

_EXPECTED = frozenset({"run-ended", "chunks-vanished", "removal-overtaken"})


class KilledError(BaseException):
    """Nobody catches it; what would tidy up fails by it too."""


@dataclass
class Actor:
    """Somebody who works in the repository until it is killed."""

    name: str
    thread: greenlet = field(init=False)
    killed: bool = False


@dataclass
class BackupWorld:
    """A bucket and those who work in it."""

    folders: tuple[Path, ...]
    rng: random.Random
    objects: dict[str, bytes] = field(default_factory=dict)
    has_mender: bool = False
    now_ns: int = 10**18
    committed: int = 0
    removed: int = 0
    healed: int = 0
    _hub: greenlet = field(default_factory=getcurrent)
    _chunks: dict[bytes, frozenset[str]] = field(default_factory=dict)

    def run(self, steps: int) -> None:
        """Go on for so many steps; after each one nothing that is named may be missing."""
        works = [self._take, self._take, self._remove, self._remove]
        works += [self._mend] if self.has_mender else []
        actors = [self._actor(str(place), work) for place, work in enumerate(works)]
        for _ in range(steps):
            (place,) = self.rng.choices(range(len(actors)), _PACES[: len(actors)])
            actor = actors[place]
            self.now_ns += self._passes_ns()
            if self.rng.random() < _KILLED:
                actor.killed = True
            actor.thread.switch()
            if actor.thread.dead:
                assert actor.killed, actor.name
                actors[place] = self._actor(actor.name, works[place])
            self.check()

    def check(self) -> None:
        """Every chunk that a backup names is there."""
        for key, stored in self.objects.items():
            if names.read_manifest_key(key) is None or not stored:
                continue
            missing = self._named(stored) - self.objects.keys()
            assert not missing, f"{key} has lost {sorted(missing)}"

    def _named(self, stored: bytes) -> frozenset[str]:
        if stored not in self._chunks:
            found = manifests.from_storage(stored, "manifest").chunk_keys()
            self._chunks[stored] = frozenset(map(str, found))
        return self._chunks[stored]

    def _passes_ns(self) -> int:
        if self.rng.random() < _SLEEPS:
            return 2 * _LIFETIME_S * 10**9
        return self.rng.randrange(5 * 10**9)

    def _actor(self, name: str, work: Callable[[Repository], None]) -> Actor:
        actor = Actor(name)
        actor.thread = greenlet(lambda: self._works(actor, work))
        return actor

    def _works(self, actor: Actor, work: Callable[[Repository], None]) -> None:
        """Work again and again, until it is killed."""
        store = FakeBackupStore(self.objects, around=self._switching(actor), page=3)
        cuts = CutRules(chunk_bytes=_CHUNK_BYTES, group_below_bytes=1)
        facts = StoreFacts(checks_sha256=True, conditional_writes=True)
        settings = RepositorySettings(id="r", cuts=cuts, store=facts)
        while not actor.killed:
            try:
                work(Repository(store, settings, "memory"))
            except SlipwayError as error:
                if error.code not in _EXPECTED:
                    raise
            except KilledError:
                return

    def _take(self, repository: Repository) -> None:
        order = Order(
            model="m",
            folder=self.rng.choice(self.folders),
            origin=Origin(place="here", tool="test"),
            lifetime_s=_LIFETIME_S,
            reads_all=self.rng.random() < 0.5,
        )
        take(repository, PlainCodec(), order, self._surroundings())
        self.committed += 1

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            now_ns=lambda: self.now_ns,
            random_bits=lambda: self.rng.getrandbits(80),
            pace=Pace(threads=1),
        )

    def _mend(self, repository: Repository) -> None:
        """A chunk rots; it is found, and healed from the files, if a backup needs it by then."""
        chunks = sorted(key for key in self.objects if key.startswith(names.CHUNKS))
        if chunks:
            self.objects[self.rng.choice(chunks)] = self.rng.choice((b"", b"damaged!", b"x"))
        verify(repository, PlainCodec(), self._surroundings())
        remedies = Remedies(folders={"m": self.folders})
        self.healed += len(repair(repository, PlainCodec(), self._surroundings(), remedies).healed)

    def _remove(self, repository: Repository) -> None:
        there = repository.manifests()
        going = self.rng.sample(there, max(0, len(there) - self.rng.randint(0, 3)))
        self.removed += remove(
            repository,
            going,
            now_ns=lambda: self.now_ns,
            random_bits=lambda: self.rng.getrandbits(80),
        ).chunks

    def _switching(self, actor: Actor) -> Callable[[], None]:
        def around() -> None:
            if not actor.killed:
                self._hub.switch()
            if actor.killed:
                raise KilledError

        return around
