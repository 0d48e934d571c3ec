"""Serve the doors of a sandbox: `python -m slipway.sandbox.faults --run FOLDER --door …`."""

from __future__ import annotations

import asyncio
import signal
import sys

from slipway.sandbox.faults.control import Control
from slipway.sandbox.faults.service import FaultService
from slipway.sandbox.faults.settings import Settings, parse


async def serve(settings: Settings) -> None:
    """Serve until TERM or INT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    service = FaultService(settings)
    await service.start()
    control = Control(service)
    settings.socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(control.serve, settings.socket)
    settings.socket.chmod(0o600)
    keeping = asyncio.create_task(service.keep())
    sys.stdout.write(f"doors of {', '.join(settings.ways)}; faults: {len(service.active)}\n")
    sys.stdout.flush()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, keeping}, return_when=asyncio.FIRST_COMPLETED)
    server.close()
    control.close()
    keeping.cancel()
    settings.socket.unlink(missing_ok=True)
    await service.stop()
    if not stop.is_set():
        keeping.result()  # lets out what ended it


if __name__ == "__main__":
    asyncio.run(serve(parse(sys.argv[1:])))
