"""SeaweedFS with a proxy before it that does wrong when told to, for tests that ask for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.s3_fault_proxy import Proxy, fault_proxy
from tests.contract.s3_servers import S3Server, seaweedfs


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[Proxy]:
    with fault_proxy(server.endpoint) as running:
        yield running
