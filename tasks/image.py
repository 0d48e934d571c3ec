"""The image of a model version: the pinned base plus one layer that holds the model."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from slipway.core.release import Phase, with_candidate
from tasks.model import registered_version
from tasks.session import ReleaseSession
from tasks.stage import release_stage

_MODEL_FOLDER = "/model"


@release_stage("image", proves=Phase.BUILT)
def build_image(session: ReleaseSession) -> str:
    """Append the model layer to the base image, push what is missing, and read every blob back."""
    spec, images = session.spec, session.ports.images
    version = registered_version(session)
    base = images.resolve(spec.server.image)
    session.intend(f"image of {version.model} version {version.version}")
    with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
        files = session.ports.registry.fetch(version, Path(folder))
        image = images.append(
            base,
            repository=f"models/{version.model}",
            files={f"{_MODEL_FOLDER}/{item.path}": files / item.path for item in version.files},
            # Only what the model is: the same files on the same base give the same digest.
            labels={"slipway.dev/weights": session.record.digests.weights},
        )
    images.verify(image)
    digests = replace(session.record.digests, image=image.digest)
    session.save(replace(with_candidate(session.record, image=image.reference), digests=digests))
    said = "pushed" if image.pushed else "was there already"
    session.advance(Phase.BUILT, f"{image.digest} {said}")
    return f"{image.digest[:19]}… {said}"
