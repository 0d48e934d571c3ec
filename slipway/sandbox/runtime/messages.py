"""The messages of CRI, made from `api.proto` when the module is loaded: no generated code is kept.

They are untyped (`Any`); only the border to gRPC, `service.py` and `translate.py`, sees them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc

_PROTO = "slipway/sandbox/runtime/api.proto"


def _load() -> Any:
    root = str(Path(__file__).resolve().parents[3])
    if root not in sys.path:  # where grpc looks for the file: an editable install may hide it
        sys.path.append(root)
    return grpc.protos(_PROTO)


cri: Any = _load()
