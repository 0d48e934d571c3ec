"""What the kill matrix runs, and what it keeps: a run that is killed goes on where it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.kill_matrix.cells import ROUNDS, Board, Outcome, Results, Write, every_cell
from tests.kill_matrix.page import page

ROUND = ROUNDS[0]
WRITES = (Write("PATCH a", 0.0), Write("PATCH b", 0.01), Write("PATCH c", 2.0))
RIGHT = Outcome(ended="done", problem="", requests=100, harmed=0, took_s=30.0)


def test_moment_before_a_write_is_a_cell_of_its_own_only_when_time_has_passed() -> None:
    cells = [(cell.side, cell.write) for cell in every_cell(ROUND, WRITES)]
    assert cells == [("after", 1), ("after", 2), ("after", 3), ("before", 1), ("before", 3)]


def test_results_survive_a_kill_and_what_went_wrong_is_run_again(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    results = Results(file)
    results.count(ROUND, WRITES)
    right, harmed, wrong, *_ = results.due(ROUND)
    results.keep(right, RIGHT)
    results.keep(harmed, replace(RIGHT, harmed=1))
    results.keep(wrong, replace(RIGHT, problem="held lease"))
    with file.open("a") as half:
        half.write('{"cell": "cana')
    again = Results(file)
    assert again.known() == {right.name}
    again.keep(wrong, RIGHT)
    known = Results(file)
    assert known.known() == {right.name, wrong.name}
    assert known.due(ROUND) == results.due(ROUND)
    assert "held lease" in page(known)
    assert f"{harmed.name} (**still so**)" in page(known)


def test_cells_are_taken_once_and_who_is_done_helps_the_longest_round() -> None:
    cells = every_cell(ROUND, WRITES)
    board = Board((ROUND,), {cells[0].name}, few=2)
    assert board.join() == ROUND
    assert board.join() is None
    board.leave(ROUND)  # its service broke down before anything was counted
    assert board.join() == ROUND
    board.open(ROUND, cells)
    assert board.take(ROUND) == cells[1]
    assert board.join() == ROUND
    board.open(ROUND, cells)  # whoever joins has counted, too
    taken = [board.take(ROUND) for _ in cells[1:]]
    assert taken == [*cells[2:], None]
    assert board.join() is None
