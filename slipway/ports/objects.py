"""Objects of a cluster one by one, for who takes over what is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from slipway.ports.workloads import Manifest


class Objects(Protocol):
    """Any object that Slipway knows of, by kind, namespace and name; None is the cluster's own.

    Every verb may be repeated.
    """

    def get(self, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return the object as it is now; None when there is none."""

    def list(self, kind: str, namespace: str | None) -> tuple[Manifest, ...]:
        """Return all of a kind, in one namespace or in all; none of a kind that is not known."""

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Write what the manifest says, leave the rest of the object; return the object.

        Raises:
            PermanentError: refused, with the server's message.
        """

    def put(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Make the object exactly what the manifest says, be it there or not; return it.

        What its metadata says of `managedFields` holds afterwards, too.

        Raises:
            ConflictError: others keep writing it.
            PermanentError: refused, with the server's message.
        """

    def patch(
        self,
        found: Manifest,
        changes: Mapping[str, Any],
        *,
        dry_run: bool = False,
    ) -> Manifest:
        """Merge changes into an object that was found; return the object.

        Raises:
            ConflictError: it was replaced by another of its name.
            PermanentError: refused, with the server's message.
        """

    def delete(self, found: Manifest) -> None:
        """Delete an object that was found; one that is gone is no error.

        Raises:
            ConflictError: it was replaced by another of its name.
        """
