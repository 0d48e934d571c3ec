"""A release as Markdown: the stage table, the verdicts, the route as a drawing."""

from __future__ import annotations

from collections.abc import Sequence

from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.routing import Slot

Stage = tuple[str, float, str]
"""Name, seconds, proof."""


def release_markdown(record: ReleaseRecord, stages: Sequence[Stage], *, now_ns: int) -> str:
    """Return the report of a release.

    Args:
        record: as it stands at the end.
        stages: of this process, in order.
        now_ns: Unix time.
    """
    total_s = (now_ns - record.started_at_ns) / 1e9
    parts = [
        f"# {record.release_id}: {_outcome(record)}",
        _facts(record, total_s),
        "## Stages",
        _stage_table(stages),
        "## Verdicts",
        _verdict_table(record),
        "## Route",
        route_drawing(record),
    ]
    return "\n\n".join(parts) + "\n"


def amount_of_files(count: int, size_bytes: int) -> str:
    """Return how many files and how large together, for people: `3 files, 4.2 MB`."""
    files = "1 file" if count == 1 else f"{count} files"
    return f"{files}, " + (
        f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes} bytes"
    )


def _outcome(record: ReleaseRecord) -> str:
    if record.phase is Phase.DONE:
        return "live"
    if record.phase is Phase.ROLLED_BACK:
        return "refused, users unharmed on the former version"
    return f"unfinished in phase {record.phase}"


def _facts(record: ReleaseRecord, total_s: float) -> str:
    return _table(
        ("what", "value"),
        [
            ("model", f"{record.model} version {record.version}"),
            ("reason", record.reason),
            ("duration", f"{total_s:.1f} s since it was requested"),
            ("slot", f"{record.candidate} (users before: {record.stable or 'no slot'})"),
            ("image", f"`{record.digests.image or 'not built'}`"),
            ("weights", f"`{record.digests.weights[:16] or 'not read'}`"),
        ],
    )


def _stage_table(stages: Sequence[Stage]) -> str:
    # The run page cuts wide cells, so a proof of several parts takes a line each.
    rows = [
        (name, f"{seconds:.1f}", proof.replace("; ", "<br>")) for name, seconds, proof in stages
    ]
    return _table(("stage", "seconds", "proof"), rows) if rows else "No stage ended."


def _verdict_table(record: ReleaseRecord) -> str:
    rows = [(item.stage, str(item.verdict), "<br>".join(item.reasons)) for item in record.verdicts]
    return _table(("stage", "verdict", "reasons"), rows) if rows else "No gate was asked."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def route_drawing(record: ReleaseRecord) -> str:
    """Return who serves the users at the end of the release, as a mermaid drawing."""
    lines = ["```mermaid", "flowchart LR", "  users([users]) --> gateway[gateway]"]
    for slot in Slot:
        holds = record.slot(slot)
        version = f"version {holds.version}" if holds.version else "empty"
        if holds.version and record.terminal and record.live_slot is not slot:
            version += ", scaled to zero"
        lines.append(f'  {slot}["{slot}<br>{version}"]')
        if record.live_slot is slot:
            lines.append(f"  gateway -- 100 % --> {slot}")
    lines.append("```")
    return "\n".join(lines)
