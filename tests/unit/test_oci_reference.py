from __future__ import annotations

import pytest

from slipway.adapters.oci import OciImageStore
from slipway.core.errors import InputError

_DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("slipway/simulated:base", ("slipway/simulated", "base")),
        (f"slipway/simulated@{_DIGEST}", ("slipway/simulated", _DIGEST)),
        ("127.0.0.1:5000/slipway/simulated:base", ("slipway/simulated", "base")),
        (f"127.0.0.1:5000/a@{_DIGEST}", ("a", _DIGEST)),
    ],
)
def test_reference_is_split_into_repository_and_name(
    reference: str, expected: tuple[str, str]
) -> None:
    assert OciImageStore("http://127.0.0.1:5000")._parse(reference) == expected


@pytest.mark.parametrize(
    "reference",
    ["", "simulated", "slipway/simulated", "ghcr.io/a/b:1", "127.0.0.1:5001/a:1", ":base", "a:"],
)
def test_other_references_are_refused(reference: str) -> None:
    with pytest.raises(InputError, match="image-reference-invalid"):
        OciImageStore("http://127.0.0.1:5000")._parse(reference)
