"""Which backup people mean."""

from __future__ import annotations

from slipway.backup.repository import Repository
from slipway.core.backup.names import ManifestName
from slipway.core.errors import InputError


def find(repository: Repository, text: str) -> ManifestName:
    """Return the backup that a text names.

    Args:
        repository: to look in.
        text: a model, for its newest backup, or the beginning of a name as they are listed.

    Raises:
        InputError: `version-unknown` or `version-ambiguous`.
    """
    model, at, _ = text.rpartition("@")
    names = repository.manifests(model if at else text)
    found = [name for name in names if str(name).startswith(text)] if at else names[-1:]
    if len(found) == 1:
        return found[0]
    what = "several backups are" if found else "there is no backup"
    raise InputError(
        f"{what} {text} in {repository.place}",
        code="version-ambiguous" if found else "version-unknown",
        hint=f"write one as it is listed: slipway backup list --repository {repository.place}",
    )


def newest_of_version(repository: Repository, model: str, version: str) -> ManifestName:
    """Return the newest backup of a version of the registry.

    Raises:
        InputError: `version-unknown`.
    """
    for name in reversed(repository.manifests(model)):
        if repository.load(name).origin.registry_version == version:
            return name
    raise InputError(
        f"there is no backup of version {version} of {model} in {repository.place}",
        code="version-unknown",
        hint="take one: the flow `backup`, or slipway backup take",
    )
