"""Wherever tensors lie: every byte is in one chunk, and what stays equal stays the same chunk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slipway.core.backup.cuts import CutRules, Part, Piece, fits, layer_of, pieces

RULES = CutRules(chunk_bytes=64, group_below_bytes=16)
LAYERS = ("blk.0.a", "blk.0.b", "blk.1.a", "output", "")


@st.composite
def files(draw: st.DrawFn) -> tuple[tuple[Part, ...], int]:
    parts, at = [], 0
    for _ in range(draw(st.integers(0, 12))):
        at += draw(st.sampled_from((0, 0, 0, 3, 70)))
        size = draw(st.integers(0, 200))
        name = draw(st.sampled_from(LAYERS))
        parts.append(Part(name=name, offset_bytes=at, size_bytes=size, alone=draw(st.booleans())))
        at += size
    return tuple(parts), at + draw(st.sampled_from((0, 1, 100)))


@given(files())
def test_each_byte_is_in_one_piece_and_none_is_empty_or_too_large(
    file: tuple[tuple[Part, ...], int],
) -> None:
    parts, size = file
    assert fits(parts, size)
    end = 0
    for piece in pieces(parts, size, RULES):
        assert piece.offset_bytes == end
        assert 0 < piece.size_bytes <= RULES.chunk_bytes
        end += piece.size_bytes
    assert end == size


@given(files(), st.integers(0, 12), st.integers(1, 500))
def test_what_is_inserted_before_a_tensor_moves_its_pieces_and_changes_none(
    file: tuple[tuple[Part, ...], int], place: int, inserted: int
) -> None:
    parts, size = file
    large = [part for part in parts if part.size_bytes >= RULES.group_below_bytes or part.alone]
    at = parts[place].offset_bytes if place < len(parts) else size
    moved = tuple(
        Part(
            name=part.name,
            offset_bytes=part.offset_bytes + (inserted if part.offset_bytes >= at else 0),
            size_bytes=part.size_bytes,
            alone=part.alone,
        )
        for part in parts
    )
    new = Part(name="new", offset_bytes=at, size_bytes=inserted, alone=True)
    behind = sorted((*moved, new), key=lambda part: (part.offset_bytes, part.size_bytes))
    after = set(pieces(behind, size + inserted, RULES))
    for part in large:
        shift = inserted if part.offset_bytes >= at else 0
        for start in range(0, part.size_bytes, RULES.chunk_bytes):
            length = min(RULES.chunk_bytes, part.size_bytes - start)
            assert Piece(part.offset_bytes + shift + start, length) in after


def test_small_neighbours_of_one_layer_are_one_piece_up_to_the_limit() -> None:
    def small(name: str, at: int) -> Part:
        return Part(name=name, offset_bytes=at, size_bytes=15)

    names = ["blk.0.a", "blk.0.b", "blk.1.a", "blk.1.b", "blk.1.c", "blk.1.d", "blk.1.e"]
    found = pieces([small(name, 15 * n) for n, name in enumerate(names)], 15 * 7, RULES)
    assert [piece.size_bytes for piece in found] == [30, 60, 15]


def test_header_stands_alone_beside_small_tensors() -> None:
    header = Part(name="", offset_bytes=0, size_bytes=5, alone=True)
    norm = Part(name="norm", offset_bytes=5, size_bytes=5)
    assert pieces([header, norm], 10, RULES) == (Piece(0, 5), Piece(5, 5))


def test_file_of_unknown_format_is_cut_at_fixed_places() -> None:
    assert [piece.size_bytes for piece in pieces((), 150, RULES)] == [64, 64, 22]
    assert pieces((), 0, RULES) == ()


def test_parts_that_overlap_or_end_behind_the_file_do_not_fit() -> None:
    one = Part(name="", offset_bytes=0, size_bytes=10)
    assert fits([one], 10)
    assert not fits([one], 9)
    assert not fits([one, Part(name="", offset_bytes=9, size_bytes=1)], 20)
    assert not fits([Part(name="", offset_bytes=5, size_bytes=-1)], 20)


def test_layer_is_all_up_to_the_first_number() -> None:
    assert layer_of("model.layers.12.mlp.0.weight") == "model.layers.12"
    assert layer_of("lm_head.weight") == ""
