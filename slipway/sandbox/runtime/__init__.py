"""A CRI runtime that runs each container as a local process from the files of its OCI image.

`python -m slipway.sandbox.runtime` serves a kubelet on a Unix socket. What it promises is stated by
tests/contract/test_runtime*.py; what it does not enforce: resource limits, securityContext,
NetworkPolicy. `api.proto` is k8s.io/cri-api v0.36.3, unchanged (Apache-2.0, its notice on top).
"""
