"""Container images in any registry that speaks the OCI distribution API (`ImageStore`).

Sources: OCI distribution-spec 1.1 (pull, push, cross-repository mount), image-spec 1.1 (manifest, config,
layers). What is pushed is reproducible: layers are plain tar with sorted names, fixed owners, modes
and times; JSON is canonical; nothing in an image tells when or where it was made. Large files are
streamed, never held in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from slipway.adapters.oci_layer import Layer, file_layer, sha256_digest
from slipway.adapters.oci_session import (
    CONFIG_TYPE,
    INDEX_TYPES,
    MANIFEST_TYPE,
    TAR_TYPE,
    Descriptor,
    Session,
)
