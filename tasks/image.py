"""The image of a model version: the pinned base plus one layer that holds the model.

With the weights on a volume it is the base alone: every pod checks them by their digest instead.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from slipway.core.release.record import Phase, with_candidate
from slipway.core.release.stages import IMAGE
from slipway.manifests.servers import MODEL_FOLDER
from slipway.ports.models import Image
from tasks.model import registered_version
from tasks.session import ReleaseSession
from tasks.stage import release_stage


@release_stage(IMAGE)
def build_image(session: ReleaseSession) -> str:
    """Append the model layer to the base image, push what is missing, and read every blob back."""
    images, volume = session.ports.images, session.spec.volume
    base = images.resolve(session.spec.server.image)
    image = _append(session, base) if volume is None else base
    images.verify(image)
    digests = replace(session.record.digests, image=image.digest)
    session.save(with_candidate(replace(session.record, digests=digests), image=image.reference))
    if volume is None:
        said = "pushed" if image.pushed else "was there already"
    else:
        said = f"of the server, weights {digests.weights[:12]}… on claim {volume.claim}"
    session.advance(Phase.BUILT, f"{image.digest} {said}")
    return f"{image.digest[:19]}… {said}"


def _append(session: ReleaseSession, base: Image) -> Image:
    version, images = registered_version(session), session.ports.images
    session.intend(f"image of {version.model} version {version.version}")
    with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
        files = session.ports.registry.fetch(version, Path(folder))
        return images.append(
            base,
            repository=f"models/{version.model}",
            files={f"{MODEL_FOLDER}/{item.path}": files / item.path for item in version.files},
            # Only what the model is: the same files on the same base give the same digest.
            labels={"slipway.dev/weights": session.record.digests.weights},
        )
