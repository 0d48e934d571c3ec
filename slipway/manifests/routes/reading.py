"""What reading a router's objects back has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slipway.core.errors import InputError, PermanentError
from slipway.core.routing import PREVIEW_RULE, Route, Slot
from slipway.manifests.names import SLOTS_ANNOTATION
from slipway.manifests.routes.splitting import is_users_rule


def read_back(service: str, kinds: str, read: Callable[[], Route]) -> Route:
    """Return what `read` makes of the objects.

    Args:
        service: whose they are.
        kinds: of the objects, as kubectl names them.
        read: fails on objects that Slipway does not write.

    Raises:
        PermanentError: somebody else changed them into something Slipway does not write.
    """
    try:
        return read()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, InputError) as error:
        raise PermanentError(
            f"the route objects of service {service} are not as Slipway writes them:"
            f" {type(error).__name__}: {error}",
            code="route-foreign",
            hint=f"somebody else edited them; compare kubectl get {kinds} {service} -o yaml with"
            " the release record, and undo the edit",
        ) from error


def users_and_preview(
    rules: Sequence[Mapping[str, Any]],
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return the rule of the users, and that of the preview if there is one.

    Raises:
        KeyError: a rule has no name.
        ValueError: there are other rules than these.
    """
    names = [rule["name"] for rule in rules]
    users = [rule for rule in rules if is_users_rule(rule["name"])]
    previews = [rule for rule in rules if rule["name"] == PREVIEW_RULE]
    if len(users) != 1 or len(previews) > 1 or len(rules) != len(users) + len(previews):
        raise ValueError(f"its rules are {sorted(names)}")
    return users[0], previews[0] if previews else None


def slots_text(slots: frozenset[Slot]) -> str:
    """Return slots as the value of an annotation."""
    return ",".join(sorted(slots))


def slots_of(metadata: Mapping[str, Any]) -> frozenset[Slot]:
    """Return the slots that an object's annotation names.

    Raises:
        KeyError: there is no such annotation.
        ValueError: it names something else.
    """
    text = metadata["annotations"][SLOTS_ANNOTATION]
    return frozenset(Slot(item) for item in text.split(",") if item)
