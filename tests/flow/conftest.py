"""One Prefect server for all flow tests, and a world of fakes for each of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from prefect import settings as prefect_settings
from prefect.context import SyncClientContext
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import temporary_settings

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.parts import prefect as prefect_part
from tests.flow.world import World


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start a server on a database that was migrated once per machine, and use it.

    The migrations take two thirds of the start of Prefect's own `prefect_test_harness`.
    """
    home = SandboxHome(tmp_path_factory.mktemp("prefect"))
    home.create()
    prefect_part.prepare(home)
    database = home.data("prefect-server") / "prefect.sqlite"
    quiet = {
        prefect_settings.PREFECT_HOME: home.data("prefect"),
        prefect_settings.PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{database}",
        prefect_settings.PREFECT_SERVER_ANALYTICS_ENABLED: False,
        prefect_settings.PREFECT_LOGGING_TO_API_ENABLED: False,
        prefect_settings.PREFECT_LOGGING_LEVEL: "CRITICAL",
        prefect_settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
    }
    with temporary_settings(quiet):
        server = SubprocessASGIServer(port=home.port("prefect"))
        server.start(timeout=60)
        # Thirty events a release, each a write of the server: nobody here reads them.
        EventsWorker.set_client_override(NullEventsClient)
        try:
            with (
                temporary_settings({prefect_settings.PREFECT_API_URL: server.api_url}),
                SyncClientContext.get_or_create(),  # one client: each would load the CA bundle
            ):
                yield
        finally:
            server.stop()


@pytest.fixture(scope="session")
def fresh_world() -> World:
    """Return an installed service that has never been released; only ever copied."""
    return World()


@pytest.fixture(scope="session")
def released_world(fresh_world: World, prefect_server: None) -> World:
    """Return the world after the first release, version 1 in slot blue; only ever copied."""
    world = fresh_world.copy()
    with pytest.MonkeyPatch.context() as patch:
        world.enter(patch)
        world.release("1")
    return world


@pytest.fixture
def fresh(fresh_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world of one's own in which the service has never been released."""
    world = fresh_world.copy()
    world.enter(monkeypatch)
    return world


@pytest.fixture
def world(released_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world of one's own in which version 1 is live in slot blue."""
    world = released_world.copy()
    world.enter(monkeypatch)
    return world


@pytest.fixture(autouse=True)
def quiet_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the progress lines of this test go to the stream that pytest captures now."""
    monkeypatch.setattr("tasks.session.Progress.__init__.__kwdefaults__", {"stream": sys.stderr})
