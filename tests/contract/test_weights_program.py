"""The program of the init container, against a real object store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.adapters.s3 import S3ObjectStore
from slipway.core.errors import PermanentError
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.images import boto_files, weights_files
from slipway.sandbox.parts import s3
from tests.contract.running_parts import object_store
from tests.contract.volume_toys import FILES, Shelf, shelf_below


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return shelf_below(tmp_path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxHome]:
    with object_store(tmp_path_factory.mktemp("s3")) as home:
        yield home


def _store(home: SandboxHome, environment: dict[str, str], prefix: str) -> S3ObjectStore:
    return S3ObjectStore(
        bucket=s3.MODELS_BUCKET,
        prefix=prefix,
        endpoint=s3.endpoint(home),
        access_key=environment["AWS_ACCESS_KEY_ID"],
        secret_key=environment["AWS_SECRET_ACCESS_KEY"],
        region=s3.REGION,
    )


@pytest.fixture
def in_s3(shelf: Shelf, home: SandboxHome) -> str:
    """Put the version into S3; returns its place there."""
    prefix = f"versions/{time.time_ns()}"
    store = _store(home, s3.environment(home), prefix)
    for name, body in shelf.source.files.items():
        store.put(name, body, content_type="application/octet-stream")
    return prefix


def _command(shelf: Shelf, prefix: str, folder: str | None = None) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "slipway.adapters.weights_volume", "place"),
        *("--version", shelf.digest, "--source", f"s3://{s3.MODELS_BUCKET}/{prefix}"),
        *("--folder", folder or str(shelf.folder)),
    ]


def _run(home: SandboxHome, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**s3.reader_environment(home), "PATH": os.environ["PATH"]}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_program_places_a_version_with_a_key_that_may_only_read(
    shelf: Shelf, home: SandboxHome, in_s3: str
) -> None:
    part = shelf.folder / f".part-{shelf.digest}" / "files" / "deep"
    part.mkdir(parents=True)
    (part / "weights.gguf").write_bytes(FILES["deep/weights.gguf"][:1234])

    done = _run(home, _command(shelf, in_s3))

    assert done.returncode == 0, done.stdout + done.stderr
    assert shelf.content() == FILES
    reader = _store(home, s3.reader_environment(home), in_s3)
    with pytest.raises(PermanentError, match="may not write"):
        reader.put("config.json", b"{}", content_type="application/json")


def test_program_says_by_its_exit_code_that_a_repeat_would_not_help(
    shelf: Shelf, home: SandboxHome, in_s3: str
) -> None:
    owner = _store(home, s3.environment(home), in_s3)
    owner.put("config.json", b'{"a": 2}', content_type="application/json")

    refused = _run(home, _command(shelf, in_s3))

    assert refused.returncode == 65, refused.stderr
    assert "checksum-mismatch: the file config.json in the object store" in refused.stdout
    assert not (shelf.folder / shelf.digest).exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [("size=4k", "MB are free"), ("size=1m,nr_inodes=5", "No space left on device")],
    ids=["bytes", "inodes"],
)
def test_full_volume_is_said_and_nothing_half_stays_there(
    shelf: Shelf, home: SandboxHome, in_s3: str, options: str, said: str
) -> None:
    place_ = " ".join(_command(shelf, in_s3, "/mnt/chat"))
    script = f"mount -t tmpfs -o {options} tmpfs /mnt && {{ {place_}; echo $?; ls -A /mnt/chat; }}"

    done = _run(home, ["unshare", "-Urm", "sh", "-c", script])

    lines = done.stdout.splitlines()
    assert f"volume-full: the volume of /mnt/chat is full: {said}"[:40] in done.stdout
    assert said in done.stdout, done.stdout + done.stderr
    assert lines[lines.index("65") + 1 :] == [".locks"]


def test_bytes_from_an_offset_on_are_the_rest_of_the_object(home: SandboxHome, in_s3: str) -> None:
    store = _store(home, s3.reader_environment(home), in_s3)
    body = FILES["deep/weights.gguf"]

    assert b"".join(store.chunks("deep/weights.gguf")) == body
    assert b"".join(store.chunks("deep/weights.gguf", offset=1234)) == body[1234:]
    with pytest.raises(PermanentError) as caught:
        next(store.chunks("nothing"))
    assert caught.value.code == "object-missing"


def test_files_of_the_image_are_all_that_the_program_imports(tmp_path: Path) -> None:
    for inside, local in {**weights_files(), **boto_files()}.items():
        copy = tmp_path / inside.removeprefix("/opt/server/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(local)
    # -S: neither this checkout nor its packages are to be found, only the files of the image.
    program = (sys.executable, "-S", "-m", "slipway.adapters.weights_volume", "--help")
    done = subprocess.run(
        program,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "place" in done.stdout
