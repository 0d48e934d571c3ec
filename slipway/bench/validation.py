"""Is the request table what a benchmark should have produced? Asked before any figure is formed.

A table that breaks a rule makes the benchmark invalid: it is measured again, and never judged. The
rules run in Great Expectations 1.24; what it does by itself, and must not here, stands beside each.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway.bench.values import BenchmarkPlan, RequestTable, Status
from slipway.core.errors import TransientError

if TYPE_CHECKING:
    import pandas as pd

_CLOCK_SLACK_S = 1.0

# A context registers itself as the process's own: two at a time would see each other's names.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """What the rules found.

    Args:
        valid: every rule held.
        problems: one line per broken rule.
        rules: how many were asked.
    """

    valid: bool
    problems: tuple[str, ...]
    rules: int

    def require_valid(self) -> None:
        """Do nothing for a valid table.

        Raises:
            TransientError: `benchmark-invalid`; the measurement is to be repeated.
        """
        if not self.valid:
            raise TransientError(
                f"the benchmark is invalid, so it says nothing: {'; '.join(self.problems)}",
                code="benchmark-invalid",
                hint="it is measured again; when it stays invalid, look at the stored table",
            )


def validate(table: RequestTable, plan: BenchmarkPlan) -> TableReport:
    """Check the table against its schema and its plan.

    Importing Great Expectations takes 5–7 s of CPU, so it happens here, unless `preload` did it.

    Args:
        table: every recorded request.
        plan: what was asked.
    """
    frame = to_frame(table)
    with _ONE_AT_A_TIME:
        gx = _great_expectations()
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        suite = gx.ExpectationSuite(name="requests", expectations=_rules(gx, table, plan))
        asset = context.data_sources.add_pandas("run").add_dataframe_asset("requests")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        found = batch.validate(suite, result_format="BASIC")
    problems = tuple(_problem(result) for result in found.results if not result.success)
    return TableReport(valid=not problems, problems=problems, rules=len(found.results))


def preload() -> None:
    """Import Great Expectations while something else is waited for: then `validate` takes 0.3 s."""
    with _ONE_AT_A_TIME:
        _great_expectations()


def to_frame(table: RequestTable) -> pd.DataFrame:
    """Return the rows as a data frame with fixed types; figures that do not exist are NaN or NA."""
    import pandas as pd

    rows = table.rows
    return pd.DataFrame(
        {
            "request_id": pd.Series([row.request_id for row in rows], dtype="str"),
            "scenario": pd.Series([row.scenario for row in rows], dtype="str"),
            "start_ns": pd.Series([row.start_ns for row in rows], dtype="int64"),
            "ttft_ms": _figures(row.ttft_ms for row in rows),
            "latency_ms": _figures(row.latency_ms for row in rows),
            "itl_ms": _figures(row.itl_ms for row in rows),
            "input_tokens": pd.Series([row.input_tokens for row in rows], dtype="Int64"),
            "output_tokens": pd.Series([row.output_tokens for row in rows], dtype="int64"),
            "status": pd.Series([row.status.value for row in rows], dtype="str"),
            "error": pd.Series([row.error for row in rows], dtype="str"),
        }
    )


def _great_expectations() -> Any:
    with warnings.catch_warnings():
        # It imports a module that Python deprecates; nobody here can mend that.
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations

    return great_expectations


def _rules(gx: Any, table: RequestTable, plan: BenchmarkPlan) -> list[Any]:
    """Return the expectations: whole table, every row, rows that ended well."""
    from great_expectations.expectations.row_conditions import Column

    expect = gx.expectations
    ok = {"row_condition": Column("status") == Status.OK.value}
    last_ns = table.started_ns + int((table.window_s + _CLOCK_SLACK_S) * 1e9)
    return [
        # First the count: Great Expectations passes every other rule on an empty table.
        expect.ExpectTableRowCountToEqual(value=plan.requests),
        expect.ExpectColumnValuesToNotBeNull(column="request_id"),
        expect.ExpectColumnValuesToBeUnique(column="request_id"),
        expect.ExpectColumnValuesToBeInSet(column="scenario", value_set=[plan.scenario]),
        expect.ExpectColumnValuesToBeInSet(
            column="status", value_set=[status.value for status in Status]
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="start_ns", min_value=table.started_ns, max_value=last_ns
        ),
        # An all-NaN column passes "between", and infinity passes a lower bound alone: so not null,
        # and a ceiling, for each figure of a request that ended well.
        *(
            rule
            for column in ("ttft_ms", "latency_ms")
            for rule in (
                expect.ExpectColumnValuesToNotBeNull(column=column, **ok),
                expect.ExpectColumnValuesToBeBetween(
                    column=column,
                    min_value=0,
                    strict_min=True,
                    max_value=plan.timeout_s * 1000,
                    **ok,
                ),
            )
        ),
        expect.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="latency_ms", column_B="ttft_ms", or_equal=True, **ok
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="output_tokens", min_value=1, max_value=plan.max_tokens, **ok
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="itl_ms", min_value=0, max_value=plan.timeout_s * 1000, **ok
        ),
    ]


def _problem(result: Any) -> str:
    """Say which rule broke and on what; a rule that could not be asked is said to be that."""
    config = result.expectation_config
    column = config.kwargs.get("column") or config.kwargs.get("column_A") or "table"
    name = f"{column}: {config.type.removeprefix('expect_')}"
    raised = _exceptions(result.exception_info)
    if raised:
        return f"{name} could not be checked ({raised})"
    detail = result.result
    if "observed_value" in detail:
        return f"{name} found {detail['observed_value']}, {config.kwargs.get('value')} is right"
    examples = ", ".join(str(value) for value in detail.get("partial_unexpected_list", ())[:3])
    return f"{name} broken by {detail.get('unexpected_count', '?')} rows ({examples})"


def _exceptions(info: Any) -> str:
    """Return the messages in `exception_info`: one of them, or one per metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    return "; ".join(
        str(entry["exception_message"]) for entry in entries if entry["raised_exception"]
    )


def _figures(values: Iterable[float | None]) -> pd.Series[float]:
    import pandas as pd

    return pd.Series([math.nan if value is None else value for value in values], dtype="float64")
