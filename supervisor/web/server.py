"""The API's thread: a unix socket bound by us, served by uvicorn, which neither ticks nor touches signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from supervisor.clock import Clock
from supervisor.core.checkpoints import Saved
from supervisor.core.events import Event
from supervisor.core.gpus.readings import Reading
from supervisor.core.model import Run, World
from supervisor.errors import UserError
from supervisor.web.api import Api, History, LiveBoard, Parts
from supervisor.web.orders import Peer
from supervisor.web.prune import NoPruning, Pruning

log = logging.getLogger("yolo-supervisor")

SOCKET_MODE = 0o660
BACKLOG = 128
START_WITHIN_S = 10.0
STOP_WITHIN_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class PeerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which puts into each request's state who is at the other end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel once per connection."""
        super().connection_made(transport)
        peer = peer_of(transport.get_extra_info("socket"))
        self.app_state = {**self.app_state, "peer": peer}


def peer_of(connection: socket.socket) -> Peer:
    """Who connected, as the kernel noted at connect()."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(data))


class QuietServer(uvicorn.Server):
    """uvicorn without its tick of 10 Hz: without a date header and a count of requests nothing needs it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        """Call `ready` when connections are accepted."""
        super().__init__(config)
        self._ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None

    async def main_loop(self) -> None:
        """Sleep until `end`."""
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._ready()
        await self._end.wait()
        await self._accept_no_more(self._loop)

    async def _accept_no_more(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let what was accepted come into being before the servers are closed.

        asyncio loses a connection whose server is closed between accept and connection_made: its socket stays open.
        """
        for listener in (one for server in self.servers for one in server.sockets):
            loop.remove_reader(listener)
        for _ in range(3):  # accepted → transport → connection_made, one turn of the event loop each
            await asyncio.sleep(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is idle, finish what is being answered, and hang up on whoever is left after the time-out."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def end(self) -> None:
        """Stop serving; may be called from any thread, and again."""
        self.should_exit = True
        if self._loop is not None and self._end is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(self._end.set)


def bind(path: Path) -> socket.socket:
    """Listen at `path`, mode 0660. A socket that nobody answers on is removed first.

    Raises UserError if somebody answers there, if the path is no socket or too long (108 bytes).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), SOCKET_MODE)  # bind takes the mode from here: never open to all, even briefly
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)  # bind took the umask off
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(f"the socket {path} cannot be made: {error}") from error
    listener.setblocking(False)
    return listener


def _make_way(path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_socket():
        raise UserError(f"{path} is there and is no socket; move it away or set [server] socket to another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise UserError(f"the socket {path} is there and cannot be tried: {error}") from error
        owner = peer_of(probe)
    raise UserError(f"another daemon (pid {owner.pid}) answers on {path}; stop it or set [server] socket")


class ApiServer:
    """The API in its own thread: served when `start` returns, its socket gone when `stop` returns."""

    def __init__(
        self,
        *,
        world: Callable[[], World],
        put: Callable[[Event], None],
        board: LiveBoard,
        history: Callable[[], History],
        config_view: Callable[[], Mapping[str, Any]],
        clock: Clock,
        socket_path: Path,
        runs_dir: Path,
        server: Callable[[], Mapping[str, Any]] = dict,
        saved: Callable[[Run, int | None], Saved] = lambda _run, _epoch: Saved(),
        checkpoints: Callable[[Run], Mapping[str, Any]] = lambda _run: {},
        gpu_readings: Callable[[], Mapping[str, Reading]] = dict,
        kernel_state: Callable[[], str] = str,
        pruning: Pruning = NoPruning(),  # noqa: B008 - has no state
    ) -> None:
        """`history` opens a read-only journal for one request; for what has a default see Parts."""
        looks = (server, saved, checkpoints, gpu_readings, kernel_state, pruning)
        parts = Parts(world, put, board, history, config_view, clock, runs_dir, *looks)
        self._application = Api(parts).application()
        self._path = socket_path
        self._ready = threading.Event()
        self._server: QuietServer | None = None
        self._thread: threading.Thread | None = None
        self._inode = 0

    def start(self) -> None:
        """Bind and serve. Raises UserError if the socket cannot be had."""
        listener = bind(self._path)
        self._inode = self._path.stat().st_ino
        server = self._server = QuietServer(self._configuration(), self._ready.set)
        self._thread = threading.Thread(target=self._serve, args=(server, listener), name="api", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_WITHIN_S):
            raise UserError(f"the API did not start within {START_WITHIN_S:.0f} s; the log says why")

    def _configuration(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._application,
            http=PeerProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=2,
        )

    @staticmethod
    def _serve(server: QuietServer, listener: socket.socket) -> None:
        try:
            server.run(sockets=[listener])
        except Exception:
            log.exception("the API ended by a bug; trainings are not touched")
        finally:
            listener.close()

    def stop(self) -> None:
        """Finish what is being answered (2 s at most), then remove the socket."""
        if self._server is None or self._thread is None:
            return
        self._server.end()
        self._thread.join(STOP_WITHIN_S)
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:  # not the socket of the next daemon
                self._path.unlink()
        self._server = self._thread = None
