"""Open requests from a model server's own page: no data is never zero."""

from __future__ import annotations

import pytest

from slipway.adapters.server_metrics import open_requests
from slipway.core.errors import PermanentError

_VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="chat"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="chat"} 2.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 90.0
"""
_GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting")


def test_running_and_waiting_requests_are_added() -> None:
    assert open_requests(_VLLM, _GAUGES, source="page") == 5


def test_series_of_several_engines_are_added() -> None:
    page = _VLLM + 'vllm:num_requests_running{engine="1",model_name="chat"} 4.0\n'
    assert open_requests(page, _GAUGES, source="page") == 9


def test_gauge_without_labels_is_read() -> None:
    page = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"
    gauges = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
    assert open_requests(page, gauges, source="page") == 1


def test_time_stamps_and_spaces_in_labels_are_not_taken_for_the_value() -> None:
    page = 'vllm:num_requests_running{model_name="my chat"} 3 1790000000000\n'
    assert open_requests(page, _GAUGES[:1], source="page") == 3


def test_idle_server_has_none_open() -> None:
    page = _VLLM.replace(" 3.0", " 0.0").replace(" 2.0", " 0.0")
    assert open_requests(page, _GAUGES, source="page") == 0


@pytest.mark.parametrize("page", ["", "vllm:num_requests_running 3\n", "other 1\n"])
def test_page_that_lacks_a_gauge_is_an_error_and_not_zero(page: str) -> None:
    with pytest.raises(PermanentError) as caught:
        open_requests(page, _GAUGES, source="http://100.100.1.7:8000/metrics")
    assert caught.value.code == "metric-missing"
    assert "http://100.100.1.7:8000/metrics" in caught.value.message


def test_gauge_whose_name_only_begins_alike_is_not_taken() -> None:
    page = "vllm:num_requests_running_total 8\n"
    with pytest.raises(PermanentError):
        open_requests(page, _GAUGES[:1], source="page")


@pytest.mark.parametrize("value", ["NaN", "+Inf", "many"])
def test_gauge_without_a_finite_value_is_an_error_and_not_zero(value: str) -> None:
    with pytest.raises(PermanentError) as caught:
        open_requests(f"vllm:num_requests_running {value}\n", _GAUGES[:1], source="page")
    assert caught.value.code == "metric-missing"
