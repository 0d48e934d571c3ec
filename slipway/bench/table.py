"""The request table as bytes: JSON between processes, Parquet as evidence."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slipway.bench.values import BenchmarkPlan, RequestRow, RequestTable, Status, Target

if TYPE_CHECKING:
    import pyarrow as pa

_META = ("started_ns", "window_s", "ended_at_ns", "client_cpu_percent")


def to_parquet(table: RequestTable) -> bytes:
    """Return the table as Parquet (zstd), typed; the run's own figures stand in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [asdict(row) for row in table.rows]
    meta = {f"slipway.{name}": json.dumps(getattr(table, name)) for name in _META}
    data = pa.Table.from_pylist(rows, schema=_schema(pa).with_metadata(meta))
    sink = io.BytesIO()
    parquet.write_table(data, sink, compression="zstd")
    return sink.getvalue()


def from_parquet(body: bytes) -> RequestTable:
    """Read what `to_parquet` wrote: the same rows, the same figures."""
    from pyarrow import parquet

    data = parquet.read_table(io.BytesIO(body))
    meta = data.schema.metadata
    return RequestTable(
        rows=tuple(_row(item) for item in data.to_pylist()),
        **{name: json.loads(meta[f"slipway.{name}".encode()]) for name in _META},
    )


def to_json(table: RequestTable) -> str:
    """Return the table as JSON, for the process that asked for it."""
    return json.dumps(asdict(table))


def from_json(text: str) -> RequestTable:
    """Read what `to_json` wrote."""
    value = json.loads(text)
    rows = tuple(_row(item) for item in value.pop("rows"))
    return RequestTable(rows=rows, **value)


def order_to_json(
    target: Target, plan: BenchmarkPlan, run_id: str, stable: Target | None = None
) -> str:
    """Return a benchmark's order, for the process that carries it out."""
    return json.dumps(
        {
            "target": asdict(target),
            "plan": asdict(plan),
            "run_id": run_id,
            "stable": asdict(stable) if stable else None,
        }
    )


def order_from_json(text: str) -> tuple[Target, BenchmarkPlan, str, Target | None]:
    """Read what `order_to_json` wrote."""
    value = json.loads(text)
    plan, stable = value["plan"], value["stable"]
    plan["prompts"] = tuple(plan["prompts"])
    return (
        _target(value["target"]),
        BenchmarkPlan(**plan),
        value["run_id"],
        _target(stable) if stable else None,
    )


def _target(item: dict[str, Any]) -> Target:
    headers = tuple((name, field) for name, field in item["headers"])
    return Target(**{**item, "headers": headers})


def _row(item: dict[str, Any]) -> RequestRow:
    return RequestRow(**{**item, "status": Status(item["status"])})


def _schema(pa: Any) -> pa.Schema:
    return pa.schema(
        [
            pa.field("request_id", pa.string(), nullable=False),
            pa.field("scenario", pa.string(), nullable=False),
            pa.field("start_ns", pa.int64(), nullable=False),
            pa.field("ttft_ms", pa.float64()),
            pa.field("latency_ms", pa.float64()),
            pa.field("itl_ms", pa.float64()),
            pa.field("input_tokens", pa.int64()),
            pa.field("output_tokens", pa.int64(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", pa.string(), nullable=False),
        ]
    )
