from __future__ import annotations

import json
import signal
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.sandbox.runtime.model import (
    Container,
    ContainerState,
    Image,
    Mount,
    Pod,
    container_from_json,
    image_from_json,
    pod_from_json,
    to_json,
)
from slipway.sandbox.runtime.pod_addresses import next_address
from slipway.sandbox.runtime.process import (
    Host,
    arguments,
    environment,
    process_of,
    stop_signal,
)
from slipway.sandbox.runtime.reference import Reference, parse_reference
from slipway.sandbox.runtime.unpack import merge_layers

NETWORK = IPv4Network("127.100.1.0/24")
DIGEST = "sha256:" + "a" * 64
HOST = Host(system=("/usr",), prefix="", binaries="/py/bin", hidden=(), api="127.0.0.1:6443")
POD = Pod(id="p", name="n", uid="u", namespace="ns", attempt=0, hostname="n", log_directory="/logs")


def container(**changes: object) -> Container:
    fields: dict[str, object] = {
        "id": "c",
        "pod_id": "p",
        "name": "main",
        "attempt": 0,
        "image": "i",
    }
    return Container(**(fields | changes))  # type: ignore[arg-type]  # a test's own shorthand


# -- pod addresses --------------------------------------------------------------------------------


def test_first_address_leaves_room_for_the_kubelet() -> None:
    assert next_address(NETWORK, (), "") == "127.100.1.2"


def test_next_address_follows_the_last_one_even_when_earlier_ones_are_free() -> None:
    assert next_address(NETWORK, (), "127.100.1.9") == "127.100.1.10"
    assert next_address(NETWORK, {"127.100.1.10"}, "127.100.1.9") == "127.100.1.11"


def test_addresses_go_round_at_the_end() -> None:
    assert next_address(NETWORK, (), "127.100.1.254") == "127.100.1.2"


def test_last_address_of_another_network_is_ignored() -> None:
    assert next_address(NETWORK, (), "127.100.2.9") == "127.100.1.2"


def test_full_network_has_no_address() -> None:
    taken = {f"127.100.1.{number}" for number in range(2, 255)}
    with pytest.raises(TransientError, match="no free pod address"):
        next_address(NETWORK, taken, "127.100.1.7")
    assert next_address(NETWORK, taken - {"127.100.1.5"}, "127.100.1.7") == "127.100.1.5"


# -- image names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("127.0.0.1:5000/a/b:v1", Reference("127.0.0.1:5000", "a/b", "v1")),
        ("127.0.0.1:5000/a", Reference("127.0.0.1:5000", "a", "latest")),
        (f"127.0.0.1:5000/a@{DIGEST}", Reference("127.0.0.1:5000", "a", "", DIGEST)),
        (f"localhost/a:v1@{DIGEST}", Reference("localhost", "a", "v1", DIGEST)),
    ],
)
def test_image_name_is_taken_apart(name: str, expected: Reference) -> None:
    assert parse_reference(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "busybox",
            "library/busybox",
            "r.io/UPPER",
            "r.io/a@sha256:short",
            "r.io/a@",
            "r.io/",
        ),
        *("r.io/a:", "r.io/../x", "r.io/a:bad tag", f"r.io/a@{DIGEST}x", "r.io/a/"),
    ],
)
def test_text_that_is_no_image_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not an image name"):
        parse_reference(name)


# -- the process ----------------------------------------------------------------------------------


def test_container_without_any_command_is_refused() -> None:
    with pytest.raises(InputError, match="no command specified"):
        arguments(container(), Image(id=DIGEST))


def test_path_begins_with_the_interpreter_wherever_path_comes_from() -> None:
    image = Image(id=DIGEST, env=("PATH=/image", "X=a=b"))
    assert environment(container(), image, POD, HOST)["PATH"] == "/py/bin:/image"
    own = container(env=(("PATH", "/own"),))
    assert environment(own, image, POD, HOST)["PATH"] == "/py/bin:/own"
    assert environment(container(), Image(id=DIGEST), POD, HOST)["PATH"].endswith(":/sbin:/bin")
    assert environment(container(), image, POD, HOST)["X"] == "a=b"


def test_api_address_is_replaced_only_where_the_kubelet_gave_one() -> None:
    given = container(env=(("KUBERNETES_SERVICE_HOST", "10.96.0.1"),))
    env = environment(given, Image(id=DIGEST), POD, HOST)
    assert env["KUBERNETES_SERVICE_HOST"] == "127.0.0.1"
    assert "KUBERNETES_SERVICE_PORT" not in env


def test_process_writes_its_log_below_the_pods_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    asked = container(
        command=("x",),
        log_path="main/0.log",
        mounts=(Mount(str(tmp_path / "link"), "/data", readonly=True),),
    )
    image = Image(id=DIGEST, working_dir="/app", stop_signal="SIGINT")
    process = process_of(
        asked, pod=POD, image=image, tree=Path("/tree"), folder=Path("/folder"), host=HOST
    )
    assert process.log == "/logs/main/0.log"
    assert (process.cwd, process.stop) == ("/app", signal.SIGINT)
    assert process.mounts == ((str(tmp_path / "real"), "/data", True),)


@pytest.mark.parametrize(
    ("name", "number"),
    [("", 15), ("SIGINT", 2), ("INT", 2), ("9", 9), ("SIGRTMIN+3", signal.SIGRTMIN + 3)],
)
def test_stop_signal_is_read_in_every_spelling(name: str, number: int) -> None:
    assert stop_signal(name) == number


@pytest.mark.parametrize("name", ["SIGNOTHING", "0", "999"])
def test_unknown_stop_signal_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="stop signal"):
        stop_signal(name)


# -- values and files -----------------------------------------------------------------------------


def test_values_survive_json() -> None:
    image = Image(id=DIGEST, tags=("a",), env=("A=1",), size_bytes=7)
    full = container(
        env=(("A", "1"),),
        mounts=(Mount("/h", "/c"),),
        command=("x", "y"),
        state=ContainerState.RUNNING,
        labels={"l": "v"},
    )
    assert pod_from_json(json.loads(json.dumps(to_json(POD)))) == POD
    assert container_from_json(json.loads(json.dumps(to_json(full)))) == full
    assert image_from_json(json.loads(json.dumps(to_json(image)))) == image


def test_merging_never_writes_into_a_layer(tmp_path: Path) -> None:
    for name, content in (("one", "old"), ("two", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
    (tmp_path / "out").mkdir()
    merge_layers([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert (tmp_path / "one" / "file").read_text() == "old"


def test_whiteout_of_a_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layer" / "d").mkdir(parents=True)
    (tmp_path / "layer" / "d" / ".wh...").write_text("")
    (tmp_path / "out").mkdir()
    with pytest.raises(PermanentError, match="leads out of the image"):
        merge_layers([tmp_path / "layer"], tmp_path / "out")
