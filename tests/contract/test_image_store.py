"""The image store against a real OCI registry (the reference implementation)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from slipway.adapters.oci import ImageConfig, OciImageStore
from slipway.core.errors import InputError, PermanentError, SlipwayError, TransientError
from slipway.ports.models import Image
from slipway.sandbox import build, images
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import HttpReady, Part
from tests.contract.running_parts import running

CONFIG = ImageConfig(
    entrypoint=("python3", "/opt/server/x.py"), environment={"A": "1"}, labels={"base": "yes"}
)


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry and the folder of its files."""

    url: str
    folder: Path

    @property
    def host(self) -> str:
        """Return `HOST:PORT`, as references say it."""
        return self.url.removeprefix("http://")

    def blob(self, digest: str) -> Path:
        """Return the file of a blob, as the filesystem driver lays it out."""
        name = digest.removeprefix("sha256:")
        return self.folder / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    home = SandboxHome(tmp_path_factory.mktemp("registry"))
    home.create()
    port = home.port("registry")
    file = home.config("registry") / "config.json"
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(home.data("registry"))}},
        "http": {"addr": f"127.0.0.1:{port}", "relativeurls": True, "secret": "x"},
    }
    file.write_text(json.dumps(settings))
    url = f"http://127.0.0.1:{port}"
    part = Part(
        name="registry",
        command=(str(build.control_plane(lambda _line: None)), "registry", "serve", str(file)),
        ready=HttpReady(f"{url}/v2/"),
        environment={"OTEL_TRACES_EXPORTER": "none"},
    )
    with running(home, [part]):
        yield Registry(url, home.data("registry"))


@pytest.fixture
def store(registry: Registry) -> OciImageStore:
    return OciImageStore(registry.url)


@pytest.fixture
def model(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "weights").write_bytes(tmp_path.name.encode() * 200_000)
    (tmp_path / "template").write_text("{{ messages }}")
    return {
        "/model/model.gguf": tmp_path / "weights",
        "/model/chat_template.jinja": tmp_path / "template",
    }


@pytest.fixture
def base(store: OciImageStore, tmp_path: Path) -> Image:
    (tmp_path / "server.py").write_text(f"print({tmp_path.name!r})")
    return store.push_image(
        "base/server", tmp_path.name.lower(), [{"/opt/server/x.py": tmp_path / "server.py"}], CONFIG
    )


def manifest_of(registry: Registry, image: Image) -> dict[str, list[dict[str, str]]]:
    manifest: dict[str, list[dict[str, str]]] = json.loads(registry.blob(image.digest).read_bytes())
    return manifest


def config_of(registry: Registry, image: Image) -> dict[str, Any]:
    manifest = json.loads(registry.blob(image.digest).read_bytes())
    config: dict[str, Any] = json.loads(registry.blob(manifest["config"]["digest"]).read_bytes())
    return config


def test_pushed_image_is_resolved_by_tag_and_digest_to_the_same_reference(
    store: OciImageStore, registry: Registry, base: Image, tmp_path: Path
) -> None:
    by_tag = store.resolve(f"base/server:{tmp_path.name.lower()}")
    by_digest = store.resolve(f"{registry.host}/base/server@{base.digest}")
    assert by_tag == by_digest
    assert by_tag.reference == f"{registry.host}/base/server@{base.digest}"


def test_base_image_pushed_again_is_the_same_and_sends_nothing(
    store: OciImageStore, base: Image, tmp_path: Path
) -> None:
    layers = [{"/opt/server/x.py": tmp_path / "server.py"}]
    again = store.push_image("base/server", tmp_path.name.lower(), layers, CONFIG)
    assert base.pushed
    assert again == Image(reference=base.reference, digest=base.digest, pushed=False)


def test_tag_moves_when_the_image_changes(
    store: OciImageStore, base: Image, tmp_path: Path
) -> None:
    (tmp_path / "server.py").write_text("print('changed')")
    layers = [{"/opt/server/x.py": tmp_path / "server.py"}]
    changed = store.push_image("base/server", tmp_path.name.lower(), layers, CONFIG)
    assert changed.digest != base.digest
    assert store.resolve(f"base/server:{tmp_path.name.lower()}").digest == changed.digest


def test_append_adds_one_layer_and_keeps_what_the_base_says(
    store: OciImageStore, registry: Registry, base: Image, model: dict[str, Path]
) -> None:
    image = store.append(base, repository="models/a", files=model, labels={"version": "1"})
    layers = manifest_of(registry, image)["layers"]
    assert layers[:-1] == manifest_of(registry, base)["layers"]
    config = config_of(registry, image)
    assert config["config"]["Entrypoint"] == list(CONFIG.entrypoint)
    assert config["config"]["Env"] == ["A=1"]
    assert config["config"]["Labels"] == {"base": "yes", "version": "1"}
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in layers]
    assert config["created"] == "1970-01-01T00:00:00Z"


def test_append_of_the_same_inputs_gives_the_same_digest_and_sends_nothing(
    store: OciImageStore, base: Image, model: dict[str, Path]
) -> None:
    first = store.append(base, repository="models/b", files=model, labels={"version": "1"})
    again = store.append(
        base, repository="models/b", files=dict(reversed(model.items())), labels={"version": "1"}
    )
    assert (first.pushed, again.pushed) == (True, False)
    assert first.reference == again.reference


def test_append_of_a_changed_byte_gives_another_digest(
    store: OciImageStore, base: Image, model: dict[str, Path]
) -> None:
    first = store.append(base, repository="models/c", files=model, labels={})
    with model["/model/model.gguf"].open("r+b") as file:
        file.write(b"\xff")
    assert store.append(base, repository="models/c", files=model, labels={}).digest != first.digest


def test_untouched_image_passes_verification(
    store: OciImageStore, base: Image, model: dict[str, Path]
) -> None:
    store.verify(store.append(base, repository="models/d", files=model, labels={}))


def test_changed_byte_in_the_registry_is_found(
    store: OciImageStore, registry: Registry, base: Image, model: dict[str, Path]
) -> None:
    image = store.append(base, repository="models/e", files=model, labels={"e": "1"})
    layer = manifest_of(registry, image)["layers"][-1]["digest"]
    with registry.blob(layer).open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff")
    with pytest.raises(PermanentError, match=layer) as caught:
        store.verify(image)
    assert caught.value.code == "image-damaged"


def test_missing_blob_is_found(
    store: OciImageStore, registry: Registry, base: Image, model: dict[str, Path]
) -> None:
    image = store.append(base, repository="models/f", files=model, labels={"f": "1"})
    registry.blob(manifest_of(registry, image)["layers"][-1]["digest"]).unlink()
    with pytest.raises(PermanentError) as caught:
        store.verify(image)
    assert caught.value.code == "image-damaged"


def test_damaged_base_config_is_never_built_upon(
    store: OciImageStore, registry: Registry, base: Image, model: dict[str, Path]
) -> None:
    manifest = json.loads(registry.blob(base.digest).read_bytes())
    registry.blob(manifest["config"]["digest"]).write_text("{}")
    with pytest.raises(PermanentError) as caught:
        store.append(base, repository="models/g", files=model, labels={})
    assert caught.value.code == "image-damaged"


@pytest.mark.parametrize("name", [":nothing", f"@sha256:{'0' * 64}"])
def test_unknown_image_is_an_input_error(store: OciImageStore, name: str) -> None:
    with pytest.raises(InputError) as caught:
        store.resolve(f"base/unknown{name}")
    assert caught.value.code == "image-not-found"


def test_missing_model_file_is_an_input_error(store: OciImageStore, base: Image) -> None:
    with pytest.raises(InputError) as caught:
        store.append(base, repository="m", files={"/model/a": Path("/nowhere")}, labels={})
    assert caught.value.code == "layer-file-missing"


def test_simulated_base_image_is_pushed_once(store: OciImageStore) -> None:
    first, again = images.push_simulated(store), images.push_simulated(store)
    assert (first.pushed, again.pushed) == (True, False)
    assert store.resolve("slipway/simulated:base").digest == first.digest
    store.verify(first)


def test_stopped_registry_is_a_transient_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(TransientError) as caught:
        OciImageStore(f"http://127.0.0.1:{port}").resolve("a:b")
    assert caught.value.code == "registry-unreachable"


@contextmanager
def answering(status: int, headers: dict[str, str]) -> Iterator[str]:
    """Run a server that answers every GET alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run an HTTP server; gives its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (503, TransientError, "registry-unavailable"),
        (429, TransientError, "registry-unavailable"),
        (401, PermanentError, "registry-forbidden"),
        (403, PermanentError, "registry-forbidden"),
        (400, PermanentError, "registry-refused"),
    ],
)
def test_refusal_is_mapped_by_its_status(status: int, kind: type[SlipwayError], code: str) -> None:
    with answering(status, {"retry-after": "0"}) as url, pytest.raises(kind) as caught:
        OciImageStore(url).resolve("a:b")
    assert caught.value.code == code
    if isinstance(caught.value, TransientError):
        assert caught.value.retry_after_s == 0


@contextmanager
def unsteady(registry: Registry) -> Iterator[tuple[str, set[str]]]:
    """Run a way to the registry on which the first request of each sort is answered 503."""
    failed = set[str]()

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            _, _, digest = self.path.partition("digest=")  # an upload's path is new every time
            sort = f"{self.command} {digest or self.path}"
            if sort not in failed:
                failed.add(sort)
                self._answer(503, {"retry-after": "0"}, b"")
                return
            asked = {
                name: self.headers[name]
                for name in ("accept", "content-type")
                if name in self.headers
            }
            got = httpx.request(
                self.command, registry.url + self.path, headers=asked, content=body, trust_env=False
            )
            self._answer(got.status_code, dict(got.headers), got.content)

        do_GET = do_HEAD = do_POST = do_PUT = _pass_on  # noqa: N815  # names of http.server

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, failed


def test_image_is_pushed_whole_over_a_way_on_which_every_first_request_fails(
    registry: Registry, store: OciImageStore, model: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "server.py").write_text(f"print({tmp_path.name!r})")
    with unsteady(registry) as (url, failed):
        bumpy = OciImageStore(url)
        base = bumpy.push_image("bumpy/base", "x", [{"/x.py": tmp_path / "server.py"}], CONFIG)
        image = bumpy.append(base, repository="bumpy/model", files=model, labels={})
        bumpy.verify(image)
    assert {sort.partition(" ")[0] for sort in failed} == {"GET", "HEAD", "POST", "PUT"}
    store.verify(store.resolve(f"bumpy/model@{image.digest}"))


def test_silent_registry_is_a_transient_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TransientError) as caught:
            OciImageStore(url, timeout_s=0.2).resolve("a:b")
    assert caught.value.code == "registry-unreachable"
