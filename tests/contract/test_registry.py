"""What `slipway.ports.Registry` promises, kept by MLflow (a real server and S3) and a stand-in."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from slipway.adapters import model_manifest
from slipway.adapters.mlflow import MANIFEST_TAG, MlflowRegistry
from slipway.adapters.s3 import S3ObjectStore
from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.ports.models import ModelFile, ModelVersion, Registry
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.parts import mlflow, s3
from tests.contract.running_parts import running, without_doors


@dataclass
class MemoryRegistry:
    """The stand-in: versions in a dictionary, files in a folder."""

    root: Path
    versions: dict[str, list[ModelVersion]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)

    def register(self, model: str, folder: Path, *, description: str = "") -> ModelVersion:
        manifest = model_manifest.of_folder(folder)
        known = self.versions.setdefault(model, [])
        number = str(len(known) + 1)
        source = self.root / model / number
        shutil.copytree(folder, source)
        made = ModelVersion(
            model=model,
            version=number,
            source=str(source),
            files=manifest.files,
            chat_template_sha256=manifest.chat_template_sha256,
            config_sha256=manifest.config_sha256,
        )
        known.append(made)
        return made

    def version(self, model: str, version: str) -> ModelVersion:
        if model not in self.versions:
            raise InputError(f"no model {model}", code="unknown-model", hint="register it")
        for known in self.versions[model]:
            if known.version == version:
                return known
        raise InputError(f"no version {version}", code="unknown-version", hint="see the list")

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        for file in version.files:
            body = (Path(version.source) / file.path).read_bytes()
            got = hashlib.sha256(body).hexdigest()
            if got != file.sha256:
                raise PermanentError(
                    f"{file.path}: {got}, not {file.sha256}", code="checksum-mismatch", hint="-"
                )
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.path).write_bytes(body)
        return folder

    def alias(self, model: str, alias: str) -> str | None:
        if model not in self.versions:
            raise InputError(f"no model {model}", code="unknown-model", hint="register it")
        return self.aliases.get((model, alias))

    def set_alias(self, model: str, alias: str, version: str | None) -> None:
        if version is None:
            self.aliases.pop((model, alias), None)
        else:
            self.aliases[model, alias] = self.version(model, version).version


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxHome]:
    home = SandboxHome(tmp_path_factory.mktemp("registry"))
    home.create()
    without_doors(home, "s3", "mlflow")
    s3.prepare(home)
    mlflow.prepare(home)
    with running(home, (*s3.parts(home), *mlflow.parts(home))):
        s3.set_up(home)
        mlflow.set_up(home)
        yield home


@pytest.fixture
def mlflow_registry(home: SandboxHome, tmp_path: Path) -> MlflowRegistry:
    return MlflowRegistry(mlflow.url(home), tmp_path / "cache")


@pytest.fixture(params=["mlflow", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "memory":
        return MemoryRegistry(tmp_path / "registry")
    found: MlflowRegistry = request.getfixturevalue("mlflow_registry")
    return found


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name of its own for every test: the server is shared."""
    return f"m{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 1000)
    (folder / "chat_template.jinja").write_text("{{ messages }}\n")
    (folder / "simulated.json").write_text('{"ttft_ms": 5}')
    (folder / "deep" / "er" / "ünï code.bin").write_bytes(b"")
    return folder


def test_a_registered_folder_comes_back_byte_for_byte(
    registry: Registry, model: str, folder: Path, tmp_path: Path
) -> None:
    made = registry.register(model, folder, description="first")
    found = registry.version(model, made.version)
    assert found == made
    assert [file.path for file in found.files] == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    assert registry.fetch(found, tmp_path / "out") == tmp_path / "out"
    for file in found.files:
        body = (tmp_path / "out" / file.path).read_bytes()
        assert body == (folder / file.path).read_bytes()
        assert file.size_bytes == len(body)
        assert file.sha256 == hashlib.sha256(body).hexdigest()
    template = hashlib.sha256((folder / "chat_template.jinja").read_bytes()).hexdigest()
    assert found.chat_template_sha256 == template
    assert found.config_sha256 == hashlib.sha256(b'{"ttft_ms": 5}').hexdigest()


def test_the_same_folder_twice_makes_two_versions(
    registry: Registry, model: str, folder: Path
) -> None:
    first = registry.register(model, folder)
    second = registry.register(model, folder)
    assert (first.version, second.version) == ("1", "2")
    assert first.files == second.files


def test_two_first_versions_at_once_are_both_registered(
    mlflow_registry: MlflowRegistry, model: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the model nor the experiment is there when both of them look."""
    from mlflow.tracking.client import MlflowClient

    monkeypatch.setattr("slipway.adapters.mlflow.EXPERIMENT", f"of-{model}")
    for verb in ("create_registered_model", "create_experiment"):
        monkeypatch.setattr(MlflowClient, verb, together(getattr(MlflowClient, verb), 2))
    with ThreadPoolExecutor(2) as both:
        asked = [both.submit(mlflow_registry.register, model, folder) for _ in range(2)]
        assert {made.result(60).version for made in asked} == {"1", "2"}


def together(verb: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Let so many have come to a call before the first one makes it."""
    come = threading.Barrier(count, timeout=30)

    def called(*args: Any, **named: Any) -> Any:
        come.wait()
        return verb(*args, **named)

    return called


def test_an_unknown_model_is_named(registry: Registry, model: str) -> None:
    for ask in (lambda: registry.version(model, "1"), lambda: registry.alias(model, "live")):
        with pytest.raises(InputError, match=model) as caught:
            ask()
        assert caught.value.code == "unknown-model"


@pytest.mark.parametrize("version", ["2", "-1", "latest", "", "1.0"])
def test_an_unknown_version_is_named(
    registry: Registry, model: str, folder: Path, version: str
) -> None:
    registry.register(model, folder)
    with pytest.raises(InputError) as caught:
        registry.version(model, version)
    assert caught.value.code == "unknown-version"
    with pytest.raises(InputError):
        registry.set_alias(model, "live", version)


def test_an_alias_moves_and_goes_and_may_be_set_twice(
    registry: Registry, model: str, folder: Path
) -> None:
    registry.register(model, folder)
    registry.register(model, folder)
    assert registry.alias(model, "live") is None
    registry.set_alias(model, "live", "1")
    registry.set_alias(model, "live", "2")
    registry.set_alias(model, "live", "2")
    assert registry.alias(model, "live") == "2"
    registry.set_alias(model, "live", None)
    registry.set_alias(model, "live", None)
    assert registry.alias(model, "live") is None


def test_bytes_that_are_not_the_registered_ones_are_refused_with_both_sums(
    registry: Registry, model: str, folder: Path, tmp_path: Path
) -> None:
    made = registry.register(model, folder)
    other = "0" * 64
    lied = replace(made, files=(ModelFile(path="model.gguf", sha256=other, size_bytes=256_004),))
    true = hashlib.sha256((folder / "model.gguf").read_bytes()).hexdigest()
    with pytest.raises(PermanentError) as caught:
        registry.fetch(lied, tmp_path / "out")
    assert caught.value.code == "checksum-mismatch"
    assert all(text in str(caught.value) for text in ("model.gguf", other, true))
    assert not (tmp_path / "out" / "model.gguf").exists()


@pytest.mark.parametrize("what", ["missing", "empty", "link"])
def test_a_folder_that_is_no_model_is_refused(
    mlflow_registry: MlflowRegistry, model: str, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "bad"
    if what != "missing":
        folder.mkdir()
    if what == "link":
        (folder / "model.gguf").symlink_to("/etc/hostname")
    with pytest.raises(InputError) as caught:
        mlflow_registry.register(model, folder)
    assert caught.value.code.startswith("model-folder")
    with pytest.raises(InputError, match="no model"):
        mlflow_registry.alias(model, "live")


def test_a_changed_object_in_the_store_is_found_out(
    mlflow_registry: MlflowRegistry, home: SandboxHome, model: str, folder: Path, tmp_path: Path
) -> None:
    made = mlflow_registry.register(model, folder)
    store = _models(home)
    key = next(key for key in store.list("") if _run(made) in key and key.endswith("model.gguf"))
    body = store.get(key)
    store.put(key, body[:-1] + b"?", content_type="application/octet-stream")
    with pytest.raises(PermanentError, match=r"model\.gguf") as caught:
        mlflow_registry.fetch(made, tmp_path / "out")
    assert caught.value.code == "checksum-mismatch"


def test_a_changed_manifest_is_found_out(
    mlflow_registry: MlflowRegistry, home: SandboxHome, model: str, folder: Path
) -> None:
    made = mlflow_registry.register(model, folder)
    store = _models(home)
    key = next(key for key in store.list("") if _run(made) in key and "slipway-manifest" in key)
    store.put(key, store.get(key) + b" ", content_type="application/json")
    with pytest.raises(PermanentError) as caught:
        mlflow_registry.version(model, made.version)
    assert caught.value.code == "checksum-mismatch"


def test_a_version_without_checksums_is_refused(
    mlflow_registry: MlflowRegistry, model: str, folder: Path
) -> None:
    made = mlflow_registry.register(model, folder)
    mlflow_registry._client.delete_model_version_tag(model, made.version, MANIFEST_TAG)
    with pytest.raises(InputError) as caught:
        mlflow_registry.version(model, made.version)
    assert caught.value.code == "checksums-missing"


def test_a_second_fetch_downloads_nothing_but_still_checks(
    mlflow_registry: MlflowRegistry, model: str, folder: Path, tmp_path: Path
) -> None:
    made = mlflow_registry.register(model, folder)
    mlflow_registry.fetch(made, tmp_path / "one")
    away = MlflowRegistry("http://127.0.0.1:9", mlflow_registry.cache)
    away.fetch(made, tmp_path / "two")
    assert (tmp_path / "two" / "model.gguf").read_bytes() == (folder / "model.gguf").read_bytes()
    # A cached file whose bytes rotted is fetched anew.
    rotten = mlflow_registry.cache / made.files[-1].sha256
    rotten.unlink()
    rotten.write_bytes(b"rotten")
    mlflow_registry.fetch(made, tmp_path / "one")
    last = made.files[-1].path
    assert (tmp_path / "one" / last).read_bytes() == (folder / last).read_bytes()


def test_a_registry_that_is_not_there_may_be_asked_again(tmp_path: Path) -> None:
    away = MlflowRegistry("http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(TransientError) as caught:
        away.version("any", "1")
    assert caught.value.code == "registry-unreachable"


def _models(home: SandboxHome) -> S3ObjectStore:
    return S3ObjectStore(
        bucket=s3.MODELS_BUCKET,
        endpoint=s3.endpoint(home),
        access_key=s3.ACCESS_KEY,
        secret_key=home.secret("s3-secret-key"),
        region=s3.REGION,
    )


def _run(version: ModelVersion) -> str:
    return version.source.split("/")[-3]
