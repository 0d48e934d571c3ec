"""Pure: the type of a discovery message, read from its bytes without parsing the rest.

Source: `envoy/service/discovery/v3/discovery.proto` (DiscoveryResponse and DeltaDiscoveryResponse
both carry `type_url` as field 4), and the Protocol Buffers encoding guide.
"""

from __future__ import annotations

from slipway.sandbox.network.addresses import map_endpoints

ENDPOINTS = b"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
_TYPE_URL_FIELD = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def map_response(message: bytes, doors: frozenset[bytes] = frozenset()) -> bytes:
    """Return a discovery response for Envoy: pod addresses mapped where it carries endpoints.

    Args:
        message: as istiod sent it.
        doors: see `map_endpoints`.
    """
    return map_endpoints(message, doors) if type_url(message) == ENDPOINTS else message


def type_url(message: bytes) -> bytes:
    """Return the `type_url` of a (delta) discovery response; b"" when there is none."""
    position, found = 0, b""
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _BYTES:
            size, position = _varint(message, position)
            if tag >> 3 == _TYPE_URL_FIELD:
                found = message[position : position + size]  # the last one counts
            position += size
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            return b""
    return found


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, position
