from __future__ import annotations

import hashlib

import pytest

from slipway.core.errors import InputError
from slipway.core.weights import digest_of_files, s3_folder


def test_digest_is_that_of_the_list_as_sha256sum_prints_it() -> None:
    files = [("a.json", "11" * 32), ("b/c.gguf", "22" * 32)]

    printed = "".join(f"{digest}  {path}\n" for path, digest in files)

    assert digest_of_files(files) == hashlib.sha256(printed.encode()).hexdigest()
    assert digest_of_files(files) != digest_of_files(reversed(files))


@pytest.mark.parametrize(
    ("source", "artifacts", "expected"),
    [
        ("s3://b/models/x/", "", "s3://b/models/x"),
        ("s3://b/models/x", "s3://other", "s3://b/models/x"),
        ("mlflow-artifacts:/1/r/artifacts/model", "s3://b", "s3://b/1/r/artifacts/model"),
        ("mlflow-artifacts:/1/r/model", "s3://b/deep/", "s3://b/deep/1/r/model"),
    ],
)
def test_place_of_the_files_is_found_in_s3(source: str, artifacts: str, expected: str) -> None:
    assert s3_folder(source, artifacts) == expected


@pytest.mark.parametrize(
    ("source", "artifacts"),
    [
        ("mlflow-artifacts:/1/r/model", ""),
        ("file:///srv/model", "s3://b"),
        ("s3://b", ""),
        ("s3:///x", ""),
        ("mlflow-artifacts:/", "s3://b"),
    ],
)
def test_place_that_pods_cannot_read_is_refused_with_what_to_set(
    source: str, artifacts: str
) -> None:
    with pytest.raises(InputError, match="no place in S3") as caught:
        s3_folder(source, artifacts)

    assert caught.value.code == "weights-source-unknown"
    assert "volume.artifacts" in caught.value.hint
