"""How a gateway of Istio treats the pods behind a service: connections, balance, bad pods."""

from __future__ import annotations

from slipway.core.service import ServerKind
from slipway.manifests.names import Object


def traffic_policy(kind: ServerKind) -> Object:
    """Return the `trafficPolicy` of a DestinationRule in front of servers of this kind."""
    return {
        # A model server's requests differ a hundredfold in length: count what is in flight.
        "loadBalancer": {"simple": "LEAST_REQUEST"},
        "connectionPool": {
            # One HTTP/1.1 connection per open stream: the most streams of one gateway pod.
            "tcp": {"maxConnections": 4096, "connectTimeout": "2s"},
            "http": {
                # Requests that wait for a connection being opened; enough for a burst, small enough
                # that overload is answered at once (503 UO) instead of hidden in a queue. At 200
                # streams a second 256 were too few for a gateway that had stood still for a second
                # (254 of 66,395 requests failed): five seconds' worth, as Envoy has by default.
                "http1MaxPendingRequests": 1024,
                "maxRetries": 64,
                # Shorter than any server's own keep-alive (5 s: llama.cpp, and uvicorn under vLLM).
                # A connection that the server closes just as it is used again fails a request (UC).
                "idleTimeout": "3s",
                # llama.cpp's server closes after every streamed answer, though it promises to keep
                # the connection: the request that reuses it fails (UC). 0 is no limit.
                "maxRequestsPerConnection": 1 if kind is ServerKind.LLAMA_CPP else 0,
            },
        },
        "outlierDetection": {
            "consecutive5xxErrors": 5,
            "consecutiveGatewayErrors": 3,
            "interval": "5s",
            "baseEjectionTime": "30s",
            # Istio's default of 10 % never ejects one of fewer than ten pods.
            "maxEjectionPercent": 50,
            # Once every pod that is left has been ejected, each request is lost for sure (503). One
            # may have recovered long before its 30 s are over: then they are asked nevertheless.
            "minHealthPercent": 1,
        },
    }
