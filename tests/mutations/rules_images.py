"""What images promise: names, digests, layers, housekeeping."""

from __future__ import annotations

from tests.mutations.model import IMAGES, RUNTIME, Rule, rule

_DISTRIBUTION = f"{RUNTIME}/distribution.py"
_ENGINE = f"{RUNTIME}/engine.py"
_IMAGES = f"{RUNTIME}/images.py"
_SERVICE = f"{RUNTIME}/service.py"
_UNPACK = f"{RUNTIME}/unpack.py"

RULES: tuple[Rule, ...] = (
    rule(
        "image-names",
        "An image is known by its id, which is the digest of its config, its tags and its digests.",
        "api.proto, Image",
        (IMAGES, "test_image_id_is_the_digest_of_its_config_and_names_are_kept"),
        (
            _IMAGES,
            "digests=_with(image.digests, reference.pinned(digest))",
            "digests=image.digests",
        ),
    ),
    rule(
        "image-status-unknown",
        "The status of an image that is not here is empty, no error.",
        "api.proto, ImageStatus",
        (IMAGES, "test_status_of_an_unknown_image_is_empty_not_an_error"),
        (
            _SERVICE,
            "            return cri.ImageStatusResponse()\n",
            "            return cri.ImageStatusResponse(image=cri.Image(id='none'))\n",
        ),
    ),
    rule(
        "image-tag-moves",
        "A tag names one image: the one that was pulled by it last.",
        "images, imagePullPolicy",
        (IMAGES, "test_tag_that_moved_belongs_to_the_new_image_only"),
        (_IMAGES, "in other.tags and other.id != image.id", "in other.tags and not other.id"),
    ),
    rule(
        "image-reference",
        "A container's status names the digest that it runs.",
        "api.proto, ContainerStatus.image_ref",
        (IMAGES, "test_container_reports_the_digest_it_runs"),
        (
            _ENGINE,
            "image_ref=image.digests[0] if image.digests else image.id",
            "image_ref=image.id",
        ),
    ),
    rule(
        "image-size",
        "The size of an image is more than 0.",
        "api.proto, Image.size",
        (IMAGES, "test_image_of_empty_files_has_a_size"),
        (f"{RUNTIME}/translate.py", "size=max(image.size_bytes, 1)", "size=image.size_bytes"),
    ),
    rule(
        "image-list-filter",
        "A list may be of one image.",
        "api.proto, ListImagesRequest.filter",
        (IMAGES, "test_list_of_images_may_be_of_one_image"),
        (
            _SERVICE,
            "images = () if found is None else (found,)",
            "images = self._engine.images.all()",
        ),
    ),
    rule(
        "registry-foreign",
        "An image of another registry is refused by name, and not looked for elsewhere.",
        "the sandbox",
        (IMAGES, "test_image_of_another_registry_is_refused"),
        (
            _IMAGES,
            "        if reference.registry != self._registry:\n",
            "        reference = replace(reference, registry=self._registry)\n"
            "        if not self._registry:\n",
        ),
    ),
    rule(
        "registry-unknown-image",
        "An image that the registry does not have is NOT_FOUND, with its answer.",
        "distribution-spec, Pulling manifests",
        (IMAGES, "test_unknown_image_is_named_with_the_registrys_answer"),
        (_DISTRIBUTION, '"image-not-found" if response.status == 404 else ', ""),
    ),
    rule(
        "registry-silent",
        "A registry that does not answer is a passing trouble.",
        "gRPC, UNAVAILABLE",
        (IMAGES, "test_silent_registry_is_a_passing_trouble"),
        (
            _DISTRIBUTION,
            'return TransientError(\n        f"registry',
            'return PermanentError(\n        f"registry',
        ),
    ),
    rule(
        "digest-checked",
        "Content that does not have its digest is refused, both digests named.",
        "distribution-spec, Pulling blobs",
        (IMAGES, "test_damaged_content_is_refused_naming_both_digests"),
        (_DISTRIBUTION, "    if got != expected:", "    if not got:"),
    ),
    rule(
        "digest-of-archive",
        "A layer's archive has the diff id that the config states.",
        "image config, rootfs.diff_ids",
        (IMAGES, "test_wrong_diff_id_is_refused"),
        (_IMAGES, '    check_digest("a layer\'s archive", diff_id, archive.digest)\n', ""),
    ),
    rule(
        "pull-leaves-nothing",
        "A pull that failed leaves nothing, and the next one succeeds.",
        "the sandbox",
        (IMAGES, "test_pull_after_the_registry_was_repaired_succeeds"),
        (_IMAGES, "shutil.rmtree(path, ignore_errors=True)", "pass"),
    ),
    rule(
        "layer-whiteout",
        "A whiteout removes a file of the layers below.",
        "image layers, Whiteouts",
        (IMAGES, "test_layers_are_laid_on_each_other_with_whiteouts"),
        (_UNPACK, "            _clear(target / hidden)\n", "            pass\n"),
    ),
    rule(
        "layer-opaque-whiteout",
        "An opaque whiteout hides all of a folder of the layers below.",
        "image layers, Opaque Whiteout",
        (IMAGES, "test_layers_are_laid_on_each_other_with_whiteouts"),
        (_UNPACK, "    if _OPAQUE in names:", "    if _OPAQUE in ():"),
    ),
    rule(
        "layer-links",
        "Hard and symbolic links lead to files of the image.",
        "image layers, File Types",
        (IMAGES, "test_hard_and_symbolic_links_work_inside_the_image"),
        (_UNPACK, "            elif member.islnk():", "            elif member.isblk():"),
    ),
    rule(
        "layer-escape",
        "An archive with an entry outside of the image is refused.",
        "image layers, Layer Filesystem Changeset",
        (IMAGES, "test_archive_that_leads_out_of_the_image_is_refused"),
        (_UNPACK, '            raise _outside("/".join(parts))', "            folder.unlink()"),
    ),
    rule(
        "layer-shared",
        "A layer that is here is not fetched again.",
        "image-spec",
        (IMAGES, "test_shared_layer_is_fetched_once_and_stays_while_one_image_needs_it"),
        (_IMAGES, "        if place.is_dir() and size.exists():", "        if not place:"),
    ),
    rule(
        "layer-kept",
        "A layer stays as long as one image needs it.",
        "image-spec",
        (IMAGES, "test_shared_layer_is_fetched_once_and_stays_while_one_image_needs_it"),
        (_IMAGES, "for layer in set(image.layers) - kept:", "for layer in set(image.layers):"),
    ),
    rule(
        "image-remove-idempotent",
        "Removing an image that is gone is no error.",
        "api.proto, RemoveImage",
        (IMAGES, "test_remove_is_idempotent_and_frees_the_files"),
        (
            _ENGINE,
            "        if image is None:\n            return\n",
            '        if image is None:\n            raise _not_found("image", name)\n',
        ),
    ),
    rule(
        "image-remove-files",
        "Removing an image frees its files.",
        "api.proto, RemoveImage",
        (IMAGES, "test_remove_is_idempotent_and_frees_the_files"),
        (_IMAGES, "        self._discard(self.tree(image))\n        kept", "        kept"),
    ),
    rule(
        "image-remove-names",
        "Removing an image by one name removes it with all names.",
        "api.proto, RemoveImage",
        (IMAGES, "test_removing_one_name_removes_all_names_of_the_image"),
        (
            _ENGINE,
            "            await asyncio.to_thread(self.images.remove, image.id)",
            "            if len(image.tags) < 2:\n"
            "                await asyncio.to_thread(self.images.remove, image.id)",
        ),
    ),
    rule(
        "image-in-use",
        "An image that a container needs is not removed.",
        "the sandbox",
        (IMAGES, "test_image_that_a_container_needs_is_not_removed"),
        (_ENGINE, "        if users:", "        if len(users) > 9:"),
    ),
    rule(
        "image-list-kept",
        "A runtime that starts again has the images of the one before.",
        "the sandbox",
        (IMAGES, "test_image_list_survives_a_restart"),
        (_IMAGES, "if self.tree(image).is_dir():", "if not self.tree(image).is_dir():"),
    ),
)
