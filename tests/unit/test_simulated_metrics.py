from __future__ import annotations

from slipway.sandbox.servers.simulated_metrics import Histogram, Metrics


def test_histogram_buckets_are_cumulative_and_bounds_belong_to_their_bucket() -> None:
    histogram = Histogram()
    for value_s in (0.001, 0.3, 1000.0):
        histogram.observe(value_s)
    lines = histogram.lines("h", 'a="b"')
    assert 'h_bucket{a="b",le="0.001"} 1' in lines
    assert 'h_bucket{a="b",le="0.3"} 2' in lines
    assert 'h_bucket{a="b",le="80.0"} 2' in lines
    assert 'h_bucket{a="b",le="+Inf"} 3' in lines
    assert 'h_count{a="b"} 3' in lines


def test_model_name_is_escaped_in_labels() -> None:
    assert r'model_name="a\"b\\c"' in Metrics().render('a"b\\c')


def test_vllm_names_are_all_there() -> None:
    text = Metrics().render("m")
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_bucket",
        "vllm:e2e_request_latency_seconds_bucket",
    ):
        assert f"\n{name}{{" in f"\n{text}"
