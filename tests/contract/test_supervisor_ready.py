"""Ready probes against real sockets and files."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from slipway.sandbox.part import FileReady, HttpReady, SocketReady, TcpReady
from slipway.sandbox.supervisor_ready import probe


def test_probes_look_at_sockets_and_files(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(path))
        host, port = tcp.getsockname()
        looks = (probe(TcpReady(host, port)), probe(SocketReady(path)))
        assert [look() for look in looks] == [False, False]
        tcp.listen()
        unix.listen()
        assert [look() for look in looks] == [True, True]
    assert not probe(HttpReady(f"http://127.0.0.1:{port}/"))()
    assert probe(FileReady(path))()
    assert not probe(FileReady(tmp_path / "nothing"))()


@pytest.mark.parametrize(("status", "ready"), [(200, True), (302, True), (401, True), (503, False)])
def test_http_probe_judges_the_status(status: int, *, ready: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/health"

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert b"Authorization: Bearer token" in connection.recv(4096)
                connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        assert probe(HttpReady(url, bearer="token", accept=(401,)))() is ready
        thread.join()
