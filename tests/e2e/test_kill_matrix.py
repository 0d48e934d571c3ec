"""A command killed at one of its writes, under users: whatever is left, reconcile ends it.

`make test` runs one cell by seed. All of them: `python -m tests.kill_matrix` (`make soak`).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.e2e.support import Sandbox, World
from tests.kill_matrix.cells import ROUNDS, every_cell
from tests.kill_matrix.killing import killing

pytestmark = pytest.mark.drawn_file("long")

SEED = int(os.environ.get("SLIPWAY_KILL_SEED", "20261127"))
RATE_PER_S = 10.0


@pytest.mark.timeout(900)
def test_command_killed_at_a_write_is_brought_to_an_end_and_users_notice_nothing(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    drawn = random.Random(SEED)
    round_ = drawn.choice(ROUNDS)
    with killing(World(sandbox, tmp_path), round_, rate=RATE_PER_S) as (service, crowd):
        cell = drawn.choice(every_cell(round_, service.writes()))
        assert service.outcome(cell, crowd).problem == ""
