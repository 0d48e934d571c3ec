"""What the loopback network promises: the egress proxy and the discovery relay."""

from __future__ import annotations

from tests.mutations.model import EGRESS, NETWORK, RELAY, Rule, rule

_ADDRESSES = f"{NETWORK}/addresses.py"
_EGRESS = f"{NETWORK}/egress.py"
_REQUEST = f"{NETWORK}/request.py"
_SERVICES = f"{NETWORK}/services.py"
_RELAY = f"{NETWORK}/relay.py"

RULES: tuple[Rule, ...] = (
    rule(
        "network-pod",
        "A pod is reached at the address that the API shows.",
        "network model",
        (EGRESS, "test_pod_is_reached_at_the_address_the_api_shows"),
        (_ADDRESSES, "return Loopback(node_address(name))", 'return Loopback("127.0.0.1")'),
    ),
    rule(
        "network-node",
        "A node is reached by its name.",
        "egress selection",
        (EGRESS, "test_node_name_means_this_machine"),
        (_ADDRESSES, 'if name == "localhost" or name in _NODES:', 'if name == "localhost":'),
    ),
    rule(
        "network-service-turns",
        "Connections to a service go to its endpoints in turn.",
        "Service",
        (EGRESS, "test_service_is_reached_through_its_ready_endpoints_in_turn"),
        (_SERVICES, "next(self._turn) % len(known.endpoints)", "0"),
    ),
    rule(
        "network-service-ready",
        "Only ready endpoints of a service get connections.",
        "EndpointSlice, conditions",
        (EGRESS, "test_service_is_reached_through_its_ready_endpoints_in_turn"),
        (
            _SERVICES,
            '== port\n        for endpoint in one.get("endpoints") or []\n'
            '        if (endpoint.get("conditions") or {}).get("ready", True) is not False\n',
            '== port\n        for endpoint in one.get("endpoints") or []\n',
        ),
    ),
    rule(
        "network-service-names",
        "A service has the names NAME.NAMESPACE, with svc, and with svc.cluster.local.",
        "DNS",
        (EGRESS, "test_service_is_reached_through_its_ready_endpoints_in_turn"),
        (_ADDRESSES, '([], ["svc"], ["svc", "cluster", "local"])', '([], ["svc"])'),
    ),
    rule(
        "network-service-address",
        "A service is reached at its cluster address.",
        "Service, clusterIP",
        (EGRESS, "test_service_is_reached_through_its_ready_endpoints_in_turn"),
        (_ADDRESSES, "    if address in services:", "    if address not in services:"),
    ),
    rule(
        "network-service-port",
        "A port of a service becomes that of its pods; other ports are refused.",
        "Service, targetPort",
        (EGRESS, "test_port_of_a_service_becomes_the_port_of_its_pods"),
        (_SERVICES, 'if entry["port"] == port:', 'if entry["port"]:'),
    ),
    rule(
        "network-headless",
        "The name of a headless service means its pods; no port is translated.",
        "DNS, headless services",
        (EGRESS, "test_headless_service_is_its_ready_pods_on_whatever_port_is_asked_for"),
        (_SERVICES, 'found["spec"].get("clusterIP") == _HEADLESS', 'found["spec"] == _HEADLESS'),
    ),
    rule(
        "network-api-service",
        "The service of the API is the API server.",
        "API access from a pod",
        (EGRESS, "test_api_service_is_the_api_server_itself"),
        (_SERVICES, "            if name == _API_SERVICE:", "            if not name:"),
    ),
    rule(
        "network-service-not-ready",
        "A service without a ready endpoint is a passing trouble, 503.",
        "the sandbox",
        (EGRESS, "test_service_without_a_ready_endpoint_is_503"),
        (_EGRESS, '{"service-not-ready", "api-silent"} else', '{"api-silent"} else'),
    ),
    rule(
        "network-silent-pod",
        "A pod that does not listen is 502.",
        "RFC 9110, 15.6.3",
        (EGRESS, "test_pod_that_does_not_listen_is_502"),
        (_EGRESS, '"api-silent"} else 502', '"api-silent"} else 503'),
    ),
    rule(
        "network-outside",
        "Whatever is not part of the sandbox is refused with 403, and logged.",
        "the sandbox",
        (EGRESS, "test_anything_outside_is_refused_with_403_and_logged"),
        (_EGRESS, '{"outside-the-sandbox", "service-not-found"}:', '{"service-not-found"}:'),
    ),
    rule(
        "network-asked-seldom",
        "The API server is asked for a service once a second, not once a connection.",
        "the sandbox",
        (EGRESS, "test_service_is_asked_for_once_a_second_not_once_a_connection"),
        (_SERVICES, "_REMEMBERED_S = 1.0", "_REMEMBERED_S = -1.0"),
    ),
    rule(
        "network-early-start",
        "The proxy serves before there is a cluster, and uses it when it comes.",
        "egress selection",
        (EGRESS, "test_proxy_starts_before_the_cluster_exists"),
        (
            _SERVICES,
            "except OSError as error:\n            raise _unusable(self._kubeconfig",
            "except EOFError as error:\n            raise _unusable(self._kubeconfig",
        ),
    ),
    rule(
        "tunnel-half-close",
        "The end of one direction of a tunnel leaves the other one open.",
        "RFC 9110, 9.3.6",
        (EGRESS, "test_half_close_ends_one_direction_only"),
        (_EGRESS, "        target.write_eof()", "        target.close()"),
    ),
    rule(
        "tunnel-early-bytes",
        "Bytes that follow the head at once are part of the tunnel.",
        "RFC 9110, 9.3.6",
        (EGRESS, "test_bytes_sent_right_after_the_head_are_not_lost"),
        (_EGRESS, 'reader.readuntil(b"\\r\\n\\r\\n")', "reader.read(65536)"),
    ),
    rule(
        "tunnel-descriptors",
        "A connection that ended leaves no descriptor open.",
        "the sandbox",
        (EGRESS, "test_thousands_of_connections_leave_nothing_open"),
        (
            _EGRESS,
            "            await _close(pod_writer)",
            "            self._live.add(pod_writer)  # type: ignore",
        ),
    ),
    rule(
        "proxy-wrong-request",
        "A request that is not for a proxy is 400.",
        "RFC 9112, 3.2",
        (EGRESS, "test_request_for_a_web_server_is_400"),
        (_EGRESS, "        return 400\n", "        return 502\n"),
    ),
    rule(
        "proxy-long-head",
        "A head without an end is refused.",
        "RFC 9112, 3",
        (EGRESS, "test_endless_head_is_refused"),
        (
            _EGRESS,
            '            await _refuse(writer, 400, "the request\'s head is too long")\n',
            "",
        ),
    ),
    rule(
        "proxy-origin-form",
        "A plain request reaches the server in origin form, its Host taken from the URL.",
        "RFC 9112, 3.2.1 and 3.2.2",
        (EGRESS, "test_plain_http_request_is_passed_on_in_origin_form"),
        (
            _REQUEST,
            'start = f"{method} {path} {version}"',
            'start = f"{method} {target} {version}"',
        ),
    ),
    rule(
        "relay-endpoints",
        "Addresses of endpoints are mapped, on both kinds of stream.",
        "xDS, EDS",
        (RELAY, "test_both_methods_pass_bytes_and_map_endpoints_only"),
        (_ADDRESSES, "return _ENDPOINT.sub(mapped, message)", "return message"),
    ),
    rule(
        "relay-nothing-else",
        "Messages of every other type pass unchanged.",
        "xDS, type_url",
        (RELAY, "test_both_methods_pass_bytes_and_map_endpoints_only"),
        (
            f"{NETWORK}/discovery.py",
            "map_endpoints(message, doors) if type_url(message) == ENDPOINTS else message",
            "map_endpoints(message, doors)",
        ),
    ),
    rule(
        "relay-metadata",
        "Envoy's own metadata reach istiod.",
        "xDS, node identity",
        (RELAY, "test_both_methods_pass_bytes_and_map_endpoints_only"),
        (_RELAY, "metadata=_passed_on(context)", "metadata=()"),
    ),
    rule(
        "relay-size",
        "A message may have many megabytes.",
        "the sandbox",
        (RELAY, "test_message_of_many_megabytes_passes"),
        (_RELAY, '("grpc.max_receive_message_length", -1), ', ""),
    ),
    rule(
        "relay-waits",
        "A stream that was opened before istiod is served when istiod is there.",
        "gRPC, wait for ready",
        (RELAY, "test_stream_opened_before_istiod_is_served_once_it_starts"),
        (_RELAY, "wait_for_ready=True", "wait_for_ready=False"),
    ),
    rule(
        "relay-end-of-istiod",
        "The end of istiod ends the stream, and the next one is served.",
        "xDS, reconnection",
        (RELAY, "test_end_of_istiod_ends_the_stream_and_the_next_one_is_served"),
        (_RELAY, 'await context.abort(error.code(), error.details() or "")', "return"),
    ),
    rule(
        "relay-refusal",
        "A refusal of istiod reaches Envoy with its code and text.",
        "gRPC, status codes",
        (RELAY, "test_refusal_of_istiod_reaches_envoy_with_its_code"),
        (_RELAY, 'error.code(), error.details() or ""', 'grpc.StatusCode.UNKNOWN, ""'),
    ),
    rule(
        "relay-end",
        "The end of the relay is UNAVAILABLE to Envoy, which asks again, and is quiet.",
        "gRPC, status codes",
        (RELAY, "test_end_of_the_relay_is_quiet_and_envoy_sees_it"),
        (
            _RELAY,
            'await context.abort(grpc.StatusCode.UNAVAILABLE, "the discovery relay begins anew")',
            "return",
        ),
    ),
)
