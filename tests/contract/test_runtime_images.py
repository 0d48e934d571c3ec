"""What OCI and CRI promise of images, each rule with its source."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.contract.runtime_toys import Link, ToyNode, archive, digest_of, toy_node

GOOD = {"app/main.txt": b"good\n"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyNode]:
    with toy_node(tmp_path_factory.mktemp("n")) as started:
        yield started


def refused(node: ToyNode, name: str) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        node.cri.pull(name)
    return caught.value


# -- names and ids --------------------------------------------------------------------------------


def test_image_id_is_the_digest_of_its_config_and_names_are_kept(node: ToyNode) -> None:
    """OCI image-spec, "ImageID"; Image.repo_tags and repo_digests in api.proto."""
    named = node.registry.add("ids", [archive(GOOD)], {"User": "1000:1000"}, tag="v1")
    tagged = f"{node.registry.address}/ids:v1"
    assert node.cri.pull(named) == node.cri.pull(tagged)
    image = node.cri.image("ImageStatus", image={"image": tagged}).image
    assert image.id in {digest_of(blob) for blob in node.registry.blobs.values()}
    assert list(image.repo_digests) == [named]
    assert list(image.repo_tags) == [tagged]
    assert (image.uid.value, image.size) == (1000, len(GOOD["app/main.txt"]))
    for name in (image.id, named, f"{tagged}@{named.partition('@')[2]}"):
        assert node.cri.image("ImageStatus", image={"image": name}).image.id == image.id


def test_status_of_an_unknown_image_is_empty_not_an_error(node: ToyNode) -> None:
    """ImageStatus in api.proto: "If the image is not present, returns a response with … nil"."""
    name = f"{node.registry.address}/nobody:knows"
    assert not node.cri.image("ImageStatus", image={"image": name}).HasField("image")


def test_tag_that_moved_belongs_to_the_new_image_only(node: ToyNode) -> None:
    """A tag names one image; the kubelet pulls it again with imagePullPolicy Always."""
    tagged = f"{node.registry.address}/moving:latest"
    ids = []
    for content in (b"old", b"new"):
        node.registry.add("moving", [archive({"x": content})], tag="latest")
        ids.append(node.cri.pull(tagged))
    assert ids[0] != ids[1]
    assert node.cri.image("ImageStatus", image={"image": tagged}).image.id == ids[1]
    old = node.cri.image("ImageStatus", image={"image": ids[0]}).image
    assert list(old.repo_tags) == []


def test_container_reports_the_digest_it_runs(node: ToyNode) -> None:
    """ContainerStatus.image_ref in api.proto: what `kubectl get pod` shows as imageID."""
    named = node.registry.add("reported", [archive(GOOD)], {"Cmd": ["true"]})
    status = node.ended(node.start(named))
    assert (status.image_ref, status.image.image) == (named, named)
    assert status.image_id == node.cri.pull(named)


def test_image_of_another_registry_is_refused(node: ToyNode) -> None:
    """DESIGN §6: the sandbox dials nothing outside itself."""
    error = refused(node, "docker.io/library/busybox:latest")
    assert "is not in this sandbox's registry" in error.details()


def test_unknown_image_is_named_with_the_registrys_answer(node: ToyNode) -> None:
    error = refused(node, f"{node.registry.address}/nobody@{digest_of(b'')}")
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "404" in error.details()


def test_silent_registry_is_a_passing_trouble(tmp_path_factory: pytest.TempPathFactory) -> None:
    with toy_node(tmp_path_factory.mktemp("n")) as node:
        node.cri.call("Version")
        node.kill()
        node.registry.address = "127.0.0.1:1"
        node.restart()
        assert refused(node, "127.0.0.1:1/any:tag").code() is grpc.StatusCode.UNAVAILABLE


# -- digests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", ["manifest", "config", "layer", "truncated layer"])
def test_damaged_content_is_refused_naming_both_digests(node: ToyNode, damaged: str) -> None:
    """OCI distribution-spec, "Pulling blobs": a client SHOULD verify what it got."""
    name = node.registry.add(damaged.replace(" ", "-"), [archive({damaged: b"x" * 70000})])
    repository, digest = name.partition("/")[2].split("@")
    manifest = node.registry.manifests[f"{repository}/{digest}"]
    blobs = [blob for blob in node.registry.blobs if blob.encode() in manifest]
    config = next(blob for blob in blobs if not node.registry.blobs[blob].startswith(b"\x1f\x8b"))
    layer = next(blob for blob in blobs if blob != config)
    if damaged == "manifest":
        expected = digest
        node.registry.manifests[f"{repository}/{digest}"] = manifest + b"\n"
    elif damaged == "config":
        expected = config
        changed = node.registry.blobs[config].replace(b"linux", b"linuX")
        node.registry.blobs[config] = changed
    else:
        expected = layer
        whole = bytearray(node.registry.blobs[layer])
        whole[len(whole) // 2] ^= 1
        node.registry.blobs[layer] = bytes(whole if damaged == "layer" else whole[:-20])
    error = refused(node, name)
    assert "digest mismatch" in error.details()
    assert f"expected {expected}, got sha256:" in error.details()
    assert not node.cri.image("ImageStatus", image={"image": name}).HasField("image")


def test_pull_after_the_registry_was_repaired_succeeds(node: ToyNode) -> None:
    """Nothing of a failed pull stays: the next one starts from what is whole."""
    name = node.registry.add("repaired", [archive({"big": b"y" * 50000})])
    whole = dict(node.registry.blobs)
    layers = [digest for digest, blob in whole.items() if blob.startswith(b"\x1f\x8b")]
    node.registry.blobs = whole | {digest: whole[digest][:-1] for digest in layers}
    refused(node, name)
    node.registry.blobs = whole
    node.cri.pull(name)
    assert node.output(name, "wc -c < /big") == ["50000"]
    assert list((node.root / "images" / "drafts").iterdir()) == []


def test_wrong_diff_id_is_refused(node: ToyNode) -> None:
    """OCI image-spec, rootfs.diff_ids: digests of the uncompressed archives."""
    name = node.registry.add("diff", [archive({"z": b"1"})])
    other = archive({"z": b"2"})
    repository, digest = name.partition("/")[2].split("@")
    manifest = node.registry.manifests[f"{repository}/{digest}"]
    packed = gzip.compress(other, mtime=0)
    old = gzip.compress(archive({"z": b"1"}), mtime=0)
    changed = manifest.replace(digest_of(old).encode(), digest_of(packed).encode())
    changed = changed.replace(f'"size": {len(old)}'.encode(), f'"size": {len(packed)}'.encode())
    node.registry.blobs[digest_of(packed)] = packed
    node.registry.manifests[f"{repository}/{digest_of(changed)}"] = changed
    error = refused(node, f"{node.registry.address}/{repository}@{digest_of(changed)}")
    assert "a layer's archive" in error.details()


# -- layers ---------------------------------------------------------------------------------------


def test_layers_are_laid_on_each_other_with_whiteouts(node: ToyNode) -> None:
    """OCI image-spec, "Whiteouts" and "Opaque Whiteout"."""
    base = archive(
        {
            "d/keep": b"keep",
            "d/gone": b"gone",
            "d/replaced": b"old",
            "opaque/old": b"old",
            "dir/inner": b"x",
            "link": Link("d/keep"),
        }
    )
    top = archive(
        {
            "d/.wh.gone": b"",
            "d/replaced": b"new",
            "opaque/.wh..wh..opq": b"",
            "opaque/new": b"new",
            ".wh.dir": b"",
            "link/now-a-folder": b"x",
        }
    )
    name = node.registry.add("whiteouts", [base, top])
    script = "cd /; ls d opaque link; cat d/replaced; echo; test -e dir || echo no dir"
    assert node.output(name, script) == [
        *("d:", "keep", "replaced", ""),
        *("link:", "now-a-folder", ""),
        *("opaque:", "new", "new", "no dir"),
    ]


def test_shared_layer_is_fetched_once_and_stays_while_one_image_needs_it(node: ToyNode) -> None:
    """Layers are content-addressed: a second image costs only what is new."""
    shared = archive({"shared": b"s" * 1000})
    first = node.registry.add("first", [shared, archive({"one": b"1"})])
    second = node.registry.add("second", [shared, archive({"two": b"2"})])
    node.cri.pull(first)
    node.registry.asked.clear()
    node.cri.pull(second)
    fetched = [path for path in node.registry.asked if "/blobs/" in path]
    assert len(fetched) == 2  # config and the layer that is new
    node.cri.image("RemoveImage", image={"image": first})
    assert node.output(second, "wc -c < /shared; cat /two") == ["1000", "2"]
    third = node.registry.add("third", [shared, archive({"three": b"3"})])
    node.registry.asked.clear()
    node.cri.pull(third)
    assert len([path for path in node.registry.asked if "/blobs/" in path]) == 2


def test_hard_and_symbolic_links_work_inside_the_image(node: ToyNode) -> None:
    """OCI image-spec, "File Types"; an absolute link target means the image's root."""
    files = archive(
        {
            "real/file": b"content",
            "hard": Link("real/file", hard=True),
            "soft": Link("/real/file"),
        }
    )
    name = node.registry.add("links", [files])
    assert node.output(name, "cat /hard; echo; cat /soft; echo") == ["content", "content"]


@pytest.mark.parametrize(
    "entries",
    [
        {"../escape": b"x"},
        {"a/../../escape": b"x"},
        {"out": Link("/tmp"), "out/escape": b"x"},
        {"out": Link("../../.."), "out/escape": b"x"},
        {"stolen": Link("../../../etc/passwd", hard=True)},
        {"d/.wh...": b""},
    ],
    ids=["dots", "inner dots", "absolute link", "relative link", "hard link", "whiteout"],
)
def test_archive_that_leads_out_of_the_image_is_refused(
    node: ToyNode, entries: dict[str, bytes | Link]
) -> None:
    """OCI image-spec, "Layer Filesystem Changeset": paths are relative to the image's root."""
    before = set(Path("/tmp").iterdir())
    error = refused(node, node.registry.add("escape", [archive({"d/f": b"1"}), archive(entries)]))
    assert "leads out of the image" in error.details()
    assert not any(path.name == "escape" for path in {*Path("/tmp").iterdir()} - before)
    assert not (node.root / "images" / "escape").exists()


# -- housekeeping ---------------------------------------------------------------------------------


def test_remove_is_idempotent_and_frees_the_files(node: ToyNode) -> None:
    """RemoveImage in api.proto: idempotent, "must not return an error" when already removed."""
    name = node.registry.add("removed", [archive({"only-here": b"x" * 5000})])
    before = _used_bytes(node)
    layers = sorted((node.root / "images" / "layers").iterdir())
    node.cri.pull(name)
    assert _used_bytes(node) == before + 5000
    for _ in range(2):
        node.cri.image("RemoveImage", image={"image": name})
    assert _used_bytes(node) == before
    assert list((node.root / "images").rglob("only-here")) == []
    assert sorted((node.root / "images" / "layers").iterdir()) == layers


def test_image_of_empty_files_has_a_size(node: ToyNode) -> None:
    """Image.size in api.proto: must be > 0; cri-client takes 0 for a broken answer."""
    name = node.registry.add("hollow", [archive({"empty": b""})])
    node.cri.pull(name)
    assert node.cri.image("ImageStatus", image={"image": name}).image.size > 0


def test_removing_one_name_removes_all_names_of_the_image(node: ToyNode) -> None:
    """RemoveImage in api.proto: by a single tag, all of its tags, across repositories."""
    files = [archive({"many": b"names"})]
    tagged = []
    for repository, tag in (("many", "v1"), ("many", "v2"), ("other/many", "latest")):
        node.registry.add(repository, files, tag=tag)
        tagged.append(f"{node.registry.address}/{repository}:{tag}")
    assert len({node.cri.pull(name) for name in tagged}) == 1
    node.cri.image("RemoveImage", image={"image": tagged[1]})
    for name in tagged:
        assert not node.cri.image("ImageStatus", image={"image": name}).HasField("image")
        assert not node.cri.image("ListImages", filter={"image": {"image": name}}).images


def test_list_of_images_may_be_of_one_image(node: ToyNode) -> None:
    """ListImagesRequest.filter in api.proto."""
    names = [node.registry.add(one, [archive({one: b"x"})]) for one in ("list-a", "list-b")]
    ids = [node.cri.pull(name) for name in names]
    (found,) = node.cri.image("ListImages", filter={"image": {"image": names[1]}}).images
    assert found.id == ids[1]
    assert set(ids) <= {image.id for image in node.cri.image("ListImages").images}


def test_image_that_a_container_needs_is_not_removed(node: ToyNode) -> None:
    name = node.registry.add("needed", [archive({"needed": b"x"})])
    pod = node.pod("needs")
    container = node.create(pod, name, "exit 0")
    with pytest.raises(grpc.RpcError) as caught:
        node.cri.image("RemoveImage", image={"image": name})
    assert "in use" in caught.value.details()
    node.cri.call("RemoveContainer", container_id=container)
    node.cri.image("RemoveImage", image={"image": name})


def test_image_list_survives_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    with toy_node(tmp_path_factory.mktemp("n")) as node:
        name = node.registry.add("stays", [archive(GOOD)])
        image_id = node.cri.pull(name)
        node.kill()
        node.restart()
        (image,) = node.cri.image("ListImages").images
        assert (image.id, list(image.repo_digests)) == (image_id, [name])
        node.registry.asked.clear()
        node.cri.pull(name)
        assert not [path for path in node.registry.asked if "/blobs/" in path]


def _used_bytes(node: ToyNode) -> int:
    (filesystem,) = node.cri.image("ImageFsInfo").image_filesystems
    assert Path(filesystem.fs_id.mountpoint).is_dir()
    return int(filesystem.used_bytes.value)
