"""One version that cannot be backed up does not keep the others from it, and is not forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.core.errors import PermanentError
from tasks import backups
from tasks.backups import Source, require_all_taken, take_each


def test_others_are_backed_up_when_one_version_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [Source(model="chat", version=str(number), uses=()) for number in range(3)]

    def take(_: Any, source: Source) -> str:
        if source.version == "1":
            raise PermanentError("its file is gone", code="source-missing", hint="look")
        return source.version

    monkeypatch.setattr(backups, "take_backup", take)
    taken, failed = take_each(None, sources)  # type: ignore[arg-type]  # nothing is opened
    assert list(map(str, taken)) == ["0", "2"]
    assert list(failed) == [sources[1]]
    with pytest.raises(PermanentError, match=r"chat version 1 .* its file is gone") as caught:
        require_all_taken(failed)
    assert caught.value.code == "backup-incomplete"
    require_all_taken({})
