"""The simulated server's metrics, under the names that vLLM gives them.

Names and meanings: docs.vllm.ai, "Production metrics" (v0.32). Histograms have finer buckets than
vLLM's defaults, as `--custom-histogram-buckets` would give, because simulated answers are fast.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0),
)


class Histogram:
    """A Prometheus histogram in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BUCKETS_S) + 1)
        self._sum_s = 0.0

    def observe(self, value_s: float) -> None:
        """Count one value."""
        self._counts[bisect_left(_BUCKETS_S, value_s)] += 1
        self._sum_s += value_s

    def lines(self, name: str, labels: str) -> list[str]:
        """Return the samples in the text format; buckets are cumulative."""
        lines, total = [], 0
        for bound, count in zip((*_BUCKETS_S, "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
        return [
            *lines,
            f"{name}_sum{{{labels}}} {self._sum_s}",
            f"{name}_count{{{labels}}} {total}",
        ]


class Metrics:
    """Everything the server counts."""

    def __init__(self) -> None:
        self.running = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.success: Counter[str] = Counter({"stop": 0, "length": 0, "abort": 0})
        self.time_to_first_token = Histogram()
        self.inter_token_latency = Histogram()
        self.e2e_latency = Histogram()

    def render(self, model_name: str) -> str:
        """Return the Prometheus text exposition (version 0.0.4)."""
        escaped = model_name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        labels = f'engine="0",model_name="{escaped}"'
        lines: list[str] = []
        for name, kind, value in (
            ("vllm:num_requests_running", "gauge", self.running),
            # Nothing ever queues here: the simulated model has no limit of concurrent requests.
            ("vllm:num_requests_waiting", "gauge", 0),
            ("vllm:kv_cache_usage_perc", "gauge", 0),
            ("vllm:num_preemptions_total", "counter", 0),
            ("vllm:prompt_tokens_total", "counter", self.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", self.generation_tokens),
        ):
            lines += [f"# TYPE {name} {kind}", f"{name}{{{labels}}} {value}"]
        lines.append("# TYPE vllm:request_success_total counter")
        for reason, count in sorted(self.success.items()):
            full = f'{labels},finished_reason="{reason}"'
            lines.append(f"vllm:request_success_total{{{full}}} {count}")
        for name, histogram in (
            ("vllm:time_to_first_token_seconds", self.time_to_first_token),
            ("vllm:inter_token_latency_seconds", self.inter_token_latency),
            ("vllm:e2e_request_latency_seconds", self.e2e_latency),
        ):
            lines += [f"# TYPE {name} histogram", *histogram.lines(name, labels)]
        return "\n".join(lines) + "\n"
