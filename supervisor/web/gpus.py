"""The routes of the API about GPUs: how they stand, and what people order about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from supervisor.core import views as run_views
from supervisor.core.gpus import views
from supervisor.core.gpus.model import Gpu
from supervisor.core.gpus.readings import Reading
from supervisor.core.model import World
from supervisor.layout import with_directories
from supervisor.web import answers, gpu_orders
from supervisor.web.answers import JsonResponse
from supervisor.web.gpu_orders import GpuOrder

MOST_EVENTS = 5000
_EVENTS = 20


class Daemon(Protocol):
    """What is needed of the daemon; see api.Parts."""

    @property
    def world(self) -> Callable[[], World]:
        """The world after the last step."""

    @property
    def put(self) -> Callable[[Any], None]:
        """Give it an event."""

    @property
    def history(self) -> Callable[[], Any]:
        """Open the journal for reading."""

    @property
    def runs_dir(self) -> Path:
        """Where the runs are."""

    @property
    def clock(self) -> Any:
        """What time it is."""

    @property
    def gpu_readings(self) -> Callable[[], Mapping[str, Reading]]:
        """What was read last, by UUID."""

    @property
    def kernel_state(self) -> Callable[[], str]:
        """How the kernel's log is followed."""


class GpuRoutes:
    """The handlers. All run in the web thread, are short, and wait for nothing but the world."""

    def __init__(self, daemon: Daemon, until: Callable[[Callable[[], bool]], Awaitable[Any]]) -> None:
        """`until` waits for a while until something is so, and returns whether it is."""
        self._daemon = daemon
        self._until = until

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/gpus", self.gpus),
            Route("/v1/gpus/{gpu}", self.gpu),
            Route("/v1/gpus/{gpu}/orders", self.order, methods=["POST"]),
        ]

    async def gpus(self, _request: Request) -> Response:
        """GET /v1/gpus."""
        daemon = self._daemon
        now, kernel = daemon.clock.now(), daemon.kernel_state()
        return JsonResponse(views.gpus_view(daemon.world(), daemon.gpu_readings(), now, kernel=kernel))

    async def gpu(self, request: Request) -> Response:
        """GET /v1/gpus/{gpu}[?events=N]: by index, UUID, the beginning of one, or bus id; with its newest events."""
        world = self._daemon.world()
        gpu = gpu_orders.find(world, request.path_params["gpu"])
        limit = min(MOST_EVENTS, answers.whole_number(request, "events", _EVENTS))
        return JsonResponse(await run_in_threadpool(self._view, world, gpu, limit))

    async def order(self, request: Request) -> Response:
        """POST /v1/gpus/{gpu}/orders {"what": …, "reason": …, "for_s": …}: answered when its effect shows."""
        order, peer, daemon = await answers.body(request, GpuOrder), answers.peer(request), self._daemon
        world, now = daemon.world(), daemon.clock.now()
        gpu = gpu_orders.find(world, request.path_params["gpu"])
        gpu_orders.check(peer, world, gpu, order, daemon.gpu_readings().get(gpu.uuid))
        text = gpu_orders.nothing_to_do(gpu, order, now)
        if not text:
            daemon.put(gpu_orders.event(gpu, order, peer.by, now))
            if not await self._until(lambda: gpu_orders.done(daemon.world(), gpu, order)):
                return answers.not_yet(gpu.label)
            text = gpu_orders.what_next(daemon.world(), gpu, order, now)
        return JsonResponse({"version": run_views.VERSION, "done": True, "next": text, "gpu": self._row(gpu)})

    def _row(self, gpu: Gpu) -> views.View | None:
        daemon = self._daemon
        world = daemon.world()
        after = world.gpus.get(gpu.uuid)
        reading = daemon.gpu_readings().get(gpu.uuid)
        return views.row(after, world, reading, daemon.clock.now()) if after is not None else None

    def _view(self, world: World, gpu: Gpu, limit: int) -> views.View:
        daemon = self._daemon
        with closing(daemon.history()) as journal:
            rows = journal.gpu_history(gpu.uuid, limit) if limit else ()
        now, kernel = daemon.clock.now(), daemon.kernel_state()
        view = views.gpu_view(world, gpu.uuid, daemon.gpu_readings(), now, rows=rows, kernel=kernel)
        return with_directories(view, daemon.runs_dir)
