"""What the gateway logs of every request, and the filter that measures its tokens.

Envoy's own durations know no tokens: the first body byte of a streamed chat answer is an event that
carries a role and no text, sent at once. So a small Lua filter walks the events as they pass,
without holding them back, and leaves the time of the first and of the last event with output, their
number and whether the closing `[DONE]` passed in the request's dynamic metadata, from where the log
prints them.

Sources: Envoy `configuration/observability/access_log/usage` and
`configuration/http/http_filters/lua_filter`; Istio `MeshConfig.accessLogFile`, `accessLogEncoding`,
`accessLogFormat`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway.core.routing import PURPOSE_HEADER, ROUTE_HEADER, SLOT_HEADER

METADATA_NAMESPACE = "slipway"
"""Dynamic metadata of a request that the filter writes."""

"""Response header that names the release which answered."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a row.

    Args:
        name: key in the JSON row.
        command: Envoy's command operator.
        meaning: what it holds, with its unit.
    """

    name: str
    command: str
    meaning: str


COLUMNS = (
    Column("time", "%START_TIME(%s.%9f)%", "first byte of the request, Unix seconds"),
    Column("route", "%ROUTE_NAME%", "name of the route that matched"),
    Column("route_revision", f"%RESP({ROUTE_HEADER.upper()})%", "which write of the route served"),
    Column("host", "%REQ(:AUTHORITY)%", "Host header"),
    Column(
        "cluster", "%UPSTREAM_CLUSTER_RAW%", "outbound|port|subset|service host: gives the slot"
    ),
    Column("slot", f"%RESP({SLOT_HEADER.upper()})%", "slot as the route names it; else: cluster"),
    Column("pod", "%UPSTREAM_HOST%", "address:port of the pod of the last attempt"),
    Column("status", "%RESPONSE_CODE%", "HTTP status, 0 when no answer began"),
    Column("flags", "%RESPONSE_FLAGS%", "Envoy's response flags, comma-separated"),
    Column("details", "%RESPONSE_CODE_DETAILS%", "why this status"),
    Column("method", "%REQ(:METHOD)%", "HTTP method"),
    Column("path", "%PATH(NQ)%", "path as the client sent it, without query"),
    Column("content_type", "%RESP(CONTENT-TYPE)%", "of the answer"),
    Column("content_length", "%RESP(CONTENT-LENGTH)%", "announced length of the answer, bytes"),
    Column("bytes_received", "%BYTES_RECEIVED%", "body of the request, bytes"),
    Column("bytes_sent", "%BYTES_SENT%", "body of the answer, bytes"),
    Column("duration_ms", "%DURATION%", "first byte of the request to last of the answer, ms"),
    Column("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "times it was sent on, 1 = no retry"),
    Column("request_id", "%REQ(X-REQUEST-ID)%", "x-request-id"),
    Column("session_id", "%REQ(X-SESSION-ID)%", "x-session-id: what a sticky split hashes"),
    Column("user_agent", "%REQ(USER-AGENT)%", "client"),
    Column(
        "purpose", f"%REQ({PURPOSE_HEADER.upper()})%", "set on our own traffic, which never counts"
    ),
    Column(
        "ttft_us",
        f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:ttft_us)%",
        "request start to the first event with output, µs",
    ),
    Column(
        "token_events",
        f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:token_events)%",
        "events with output",
    ),
    Column(
        "token_span_us",
        f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:token_span_us)%",
        "first to last event with output, µs",
    ),
    Column(
        "done_seen",
        f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:done_seen)%",
        "true when [DONE] passed: the stream is whole",
    ),
    Column(
        "error_seen",
        f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:error_seen)%",
        "true when an event carried an error",
    ),
)
"""The row, column by column. A value that a request does not have is null."""

TTFT_LUA = f"""\
-- Times the tokens of a streamed answer; see slipway/manifests/access_log.py.
local NAMESPACE = "{METADATA_NAMESPACE}"
local LONGEST_LINE = 262144  -- a longer line is passed on, but not looked at

-- A string value that is not empty, under one of the keys in which servers send output.
-- Text that contains such a key is escaped (\\"content\\"), so it cannot match.
local OUTPUT = {{
  '"content"%s*:%s*"[^"]',
  '"text"%s*:%s*"[^"]',
  '"reasoning_content"%s*:%s*"[^"]',
  '"reasoning"%s*:%s*"[^"]',
  '"arguments"%s*:%s*"[^"]',
}}

local function now_us(handle)
  -- timestamp() knows milliseconds only. The name is unknown while the script loads.
  return tonumber(handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
end

local function put(handle, key, value)
  -- Fetched each time: such objects do not outlive a chunk.
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, key, value)
end

local function has_output(line)
  for _, pattern in ipairs(OUTPUT) do
    if line:find(pattern) then return true end
  end
  return false
end

-- Looks at one whole line of the stream; returns "output", "done", "error" or nil.
local function kind_of(line)
  if line:sub(1, 5) ~= "data:" then return nil end
  if has_output(line) then return "output" end
  if line:find("^data:%s*%[DONE%]") then return "done" end
  if line:find('"error"%s*:%s*[{{"]') then return "error" end
  return nil
end

function envoy_on_request(handle)
  put(handle, "start_us", now_us(handle))
end

function envoy_on_response(handle)
  local content_type = handle:headers():get("content-type")
  if content_type == nil or content_type:sub(1, 17) ~= "text/event-stream" then return end
  local noted = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if noted == nil then return end
  local start_us, first_us, events = noted["start_us"], nil, 0
  local rest, skipping = "", false  -- rest: the beginning of a line whose end is in a later chunk
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size > 0 then
      local text, from, before = rest .. chunk:getBytes(0, size), 1, events
      local stop = text:find("\\n", from, true)
      while stop do
        local kind = nil
        if not skipping then kind = kind_of(text:sub(from, stop - 1)) end
        skipping = false
        if kind == "output" then events = events + 1
        elseif kind ~= nil then put(handle, kind .. "_seen", true) end
        from = stop + 1
        stop = text:find("\\n", from, true)
      end
      rest = text:sub(from)
      if skipping or #rest > LONGEST_LINE then rest, skipping = "", true end
      if events > before then
        -- Written at every chunk: a stream that is cut never comes to the end of this loop.
        local now = now_us(handle)
        if first_us == nil then
          first_us = now
          put(handle, "ttft_us", now - start_us)
        end
        put(handle, "token_events", events)
        put(handle, "token_span_us", now - first_us)
      end
    end
  end
  if kind_of(rest) == "done" then put(handle, "done_seen", true) end
end
"""
"""The filter's program. Only streams cost anything: one pass over their lines, no buffering."""


def mesh_fields(path: Path) -> dict[str, object]:
    """Return the fields of Istio's mesh config that log every request of a gateway as a JSON row.

    Args:
        path: the log file, in the file system of the Envoy that writes it (`/dev/stdout` in a pod).
    """
    row = {column.name: column.command for column in COLUMNS}
    return {
        "accessLogFile": str(path),
        "accessLogEncoding": "JSON",
        "accessLogFormat": json.dumps(row),
    }


_MANAGER = "envoy.filters.network.http_connection_manager"


def ttft_filter(namespace: str, labels: Mapping[str, str]) -> dict[str, object]:
    """Return the EnvoyFilter that times tokens at the gateways with these labels.

    Args:
        namespace: of the gateways.
        labels: of the gateways' pods.
    """
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {
            "name": "slipway-token-timing",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "slipway"},
        },
        "spec": {
            "workloadSelector": {"labels": dict(labels)},
            "configPatches": [_before_router(), _keep_request_ids()],
        },
    }


def _keep_request_ids() -> dict[str, object]:
    """Keep the `x-request-id` that the client sent.

    An edge Envoy would replace it by its own, and writes the trace decision into one digit of those
    it samples (1 % by Istio's default): neither could be found again in the client's books.
    """
    manager = (
        "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager"
    )
    return {
        "applyTo": "NETWORK_FILTER",
        "match": {
            "context": "GATEWAY",
            "listener": {"filterChain": {"filter": {"name": _MANAGER}}},
        },
        "patch": {
            "operation": "MERGE",
            "value": {
                "typed_config": {
                    "@type": manager,
                    "preserve_external_request_id": True,
                    "request_id_extension": {
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3."
                            "UuidRequestIdConfig",
                            "pack_trace_reason": False,
                        }
                    },
                }
            },
        },
    }


def _before_router() -> dict[str, object]:
    """Last before the router: what the filter sees is what the server sent, when it sent it."""
    return {
        "applyTo": "HTTP_FILTER",
        "match": {
            "context": "GATEWAY",
            "listener": {
                "filterChain": {
                    "filter": {
                        "name": _MANAGER,
                        "subFilter": {"name": "envoy.filters.http.router"},
                    }
                }
            },
        },
        "patch": {
            "operation": "INSERT_BEFORE",
            "value": {
                "name": "slipway.token_timing",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": TTFT_LUA},
                },
            },
        },
    }
