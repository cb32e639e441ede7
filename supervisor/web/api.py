"""The routes of the API. Reading shows the world as it was after the last step; orders are put as events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from supervisor import curve_files
from supervisor.clock import Clock
from supervisor.core import ancestry, goodput_view, incidents_view, secrets, story, views
from supervisor.core.backups import views as backup_views
from supervisor.core.checkpoints import Saved
from supervisor.core.events import DrainAsked, Event
from supervisor.core.gpus.readings import Reading
from supervisor.core.model import Run, World
from supervisor.errors import RetryableError
from supervisor.layout import run_directory
from supervisor.web import answers, orders
from supervisor.web.answers import JsonResponse, flag, whole_number
from supervisor.web.backups import BackupRoutes
from supervisor.web.gpus import GpuRoutes
from supervisor.web.orders import Order, RefusedOrder
from supervisor.web.prune import NoPruning, PruneRoutes, Pruning

T = TypeVar("T")

EFFECT_WAIT_S = 3.0  # how long an answer waits for the world to show the effect of an order
EFFECT_LOOK_S = 0.02
MOST_EVENTS = 1000


class History(Protocol):
    """The reading side of the journal; opened for one request and closed after it."""

    def history(self, run_id: str, limit: int = 1000) -> Sequence[story.Row]:
        """The newest events of a run, oldest first."""
        ...

    def milestones(self, run_id: str) -> Sequence[story.Row]:
        """What tells how a run spent its time, oldest first."""
        ...

    def recent(self, after_seq: int = 0, limit: int = 200) -> Sequence[story.Row]:
        """The events after `after_seq`, oldest first."""
        ...

    def gpu_history(self, uuid: str, limit: int = 200) -> Sequence[story.Row]:
        """The newest events about a GPU, oldest first."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class LiveBoard(Protocol):
    """The newest heartbeats between two journalled reports of progress."""

    def snapshot(self) -> Mapping[str, Any]:
        """Run id → newest heartbeat; see views.Live."""
        ...


@dataclass(frozen=True)
class Parts:
    """What the API needs of the daemon. `history` opens a reader; `server` adds facts to the status.

    `saved` looks for the epochs that a run can go back to; at one epoch closely, where one is given. `checkpoints`
    lists all that a run has. `gpu_readings` are the newest ones by UUID, `kernel_state` tells how the kernel's log is
    followed. `pruning` looks at what would be pruned.
    """

    world: Callable[[], World]
    put: Callable[[Event], None]
    board: LiveBoard
    history: Callable[[], History]
    config_view: Callable[[], Mapping[str, Any]]
    clock: Clock
    runs_dir: Path
    server: Callable[[], Mapping[str, Any]] = dict
    saved: Callable[[Run, int | None], Saved] = lambda _run, _epoch: Saved()
    checkpoints: Callable[[Run], Mapping[str, Any]] = lambda _run: {}
    gpu_readings: Callable[[], Mapping[str, Reading]] = dict
    kernel_state: Callable[[], str] = str
    pruning: Pruning = field(default_factory=NoPruning)


class Api:
    """The handlers. All run in the web thread, are short, and wait for nothing but the world."""

    def __init__(self, parts: Parts) -> None:
        """Serve `parts`."""
        self._parts = parts

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/status", self.status),
            Route("/v1/runs", self.runs),
            Route("/v1/runs/{name}", self.run),
            Route("/v1/runs/{name}/why", self.why),
            Route("/v1/runs/{name}/curve", self.curve),
            Route("/v1/runs/{name}/checkpoints", self.checkpoints),
            Route("/v1/runs/{name}/saved", self.saved),
            Route("/v1/runs/{name}/incidents", self.incidents),
            Route("/v1/runs/{name}/report", self.report),
            Route("/v1/runs/{name}/{verb}", self.order, methods=["POST"]),
            Route("/v1/incidents", self.incidents),
            Route("/v1/report", self.report),
            Route("/v1/events", self.events),
            Route("/v1/config", self.config),
            Route("/v1/files", self.files),
            Route("/v1/drain", self.drain, methods=["POST"]),
            *GpuRoutes(self._parts, self._until).routes(),
            *BackupRoutes(self._parts, self._until).routes(),
            *PruneRoutes(self._parts, self._until).routes(),
        ]
        handlers: Mapping[Any, Callable[[Request, Any], Awaitable[Response]]] = {
            HTTPException: self._http_error,
            RefusedOrder: self._refused,
            Exception: self._bug,
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    # ---- reading
    async def status(self, _request: Request) -> Response:
        """GET /v1/status."""
        parts = self._parts
        world = parts.world()
        view = views.status_view(world, parts.clock.now())
        room = {"disk_marks": parts.config_view().get("disk") or {}, "paused": backup_views.paused(world)}
        return JsonResponse({**view, "kernel_log": parts.kernel_state() or None, "daemon": parts.server(), **room})

    async def runs(self, request: Request) -> Response:
        """GET /v1/runs, with ?all=1 also the runs that ended long ago."""
        parts = self._parts
        every = flag(request, "all")
        view = views.runs_view(parts.world(), parts.board.snapshot(), parts.clock.now(), every=every)
        return JsonResponse(view)

    async def run(self, request: Request) -> Response:
        """GET /v1/runs/{name}."""
        world = self._parts.world()
        return JsonResponse(self._run_view(world, self._find(world, request)))

    async def why(self, request: Request) -> Response:
        """GET /v1/runs/{name}/why."""
        parts = self._parts
        run = self._find(parts.world(), request)
        live = parts.board.snapshot().get(run.id)
        return JsonResponse(views.why_view(run, self._history(run), live, parts.clock.now()))

    async def curve(self, request: Request) -> Response:
        """GET /v1/runs/{name}/curve: read from the files of all attempts, beside the requests of others."""
        parts = self._parts
        world = parts.world()
        run = self._find(world, request)
        rows = [row for one in ancestry.ancestors(world, run) for row in self._history(one)]
        try:
            view = await run_in_threadpool(curve_files.curve_view, run, parts.runs_dir, rows, parts.clock.now())
        except OSError as error:
            raise HTTPException(503, f"the files of {run.name} cannot be read just now: {error}") from None
        return JsonResponse(view)

    async def checkpoints(self, request: Request) -> Response:
        """GET /v1/runs/{name}/checkpoints: the ledger and the trainer's own files, looked at beside other requests."""
        run = self._find(self._parts.world(), request)
        return JsonResponse(await self._looked_at(run, self._parts.checkpoints, run))

    async def saved(self, request: Request) -> Response:
        """GET /v1/runs/{name}/saved[?epoch=N]: the epochs that can be gone back to; of N it is certain."""
        run = self._find(self._parts.world(), request)
        found = await self._saved(run, whole_number(request, "epoch", 0) or None)
        return JsonResponse({"version": views.VERSION, "epochs": found.epochs, "stripped": found.stripped})

    async def incidents(self, request: Request) -> Response:
        """GET /v1/incidents or /v1/runs/{name}/incidents, both with ?open=1&since=UNIX_SECONDS: the newest last."""
        world = self._parts.world()
        run = self._find(world, request) if "name" in request.path_params else None
        since_at, is_open = float(whole_number(request, "since", 0)), flag(request, "open")
        now = self._parts.clock.now()
        view = incidents_view.server_view(world, now, run=run, is_open=is_open, since_at=since_at)
        return JsonResponse({**view, "targets": backup_views.troubles(world, now) if run is None else []})

    async def report(self, request: Request) -> Response:
        """GET /v1/report or /v1/runs/{name}/report, both with ?since=UNIX_SECONDS: where the time of the runs went."""
        world = self._parts.world()
        run = self._find(world, request) if "name" in request.path_params else None
        since_at = whole_number(request, "since", 0) or None
        return JsonResponse(await run_in_threadpool(self._report, world, run, since_at))

    def _report(self, world: World, run: Run | None, since_at: float | None) -> views.View:
        now, board = self._parts.clock.now(), self._parts.board.snapshot()
        with closing(self._parts.history()) as journal:
            if run is None:
                return goodput_view.server_view(world, journal.milestones, now, board=board, since_at=since_at)
            rows, live = journal.milestones(run.id), board.get(run.id)
            return goodput_view.report_view(run, rows, now, live=live, since_at=since_at)

    async def events(self, request: Request) -> Response:
        """GET /v1/events?after=SEQ&limit=N: the newest ones without `after`."""
        after = whole_number(request, "after", 0)
        limit = min(MOST_EVENTS, whole_number(request, "limit", 200))
        with closing(self._parts.history()) as journal:
            return JsonResponse(story.events_view(journal.recent(after, limit)))

    async def config(self, _request: Request) -> Response:
        """GET /v1/config, without secrets."""
        shown = dict(self._parts.config_view())
        if isinstance(defaults := shown.get("defaults"), Mapping):
            hidden = {key: secrets.hide(defaults[key]) for key in ("env", "settings") if key in defaults}
            shown["defaults"] = {**defaults, **hidden}
        return JsonResponse({"version": views.VERSION, "config": shown})

    async def files(self, request: Request) -> Response:
        """GET /v1/files?revision=…[&path=…][&since=…]: what became of this content of a job file.

        With `path` only the file there counts; a run made from the content counts if it is from `since` or later.
        """
        asked = request.query_params
        revision = asked.get("revision", "")
        if not revision:
            raise HTTPException(422, "revision: expected the hash of a job file's content, got nothing")
        since_at = float(whole_number(request, "since", 0))
        view = views.files_view(self._parts.world(), revision, asked.get("path", ""), since_at)
        return JsonResponse(view)

    # ---- orders
    async def order(self, request: Request) -> Response:
        """POST /v1/runs/{name}/{verb}: answered when the effect shows, at most EFFECT_WAIT_S later."""
        verb = request.path_params["verb"]
        if verb not in orders.VERBS:
            raise HTTPException(404, f"there is no order `{verb}`; orders are {', '.join(orders.VERBS)}")
        order, peer, parts = await answers.body(request, Order), answers.peer(request), self._parts
        world = parts.world()
        run = self._find(world, request)
        orders.check_permission(peer, run.job.owner, run.name)
        orders.check_order(verb, world, run, order)
        if verb in orders.NEED_A_CHECKPOINT:
            await self._check_saved(verb, run, order)
        live, now = parts.board.snapshot().get(run.id), parts.clock.now()
        parts.put(orders.order_event(verb, run, order, peer.by, now))
        after = await self._until(lambda: orders.outcome(verb, parts.world(), run, order))
        if after is None:
            return answers.not_yet(run.name)
        text = orders.what_next(verb, run, after, live, now)
        view = self._run_view(parts.world(), after)
        return JsonResponse({"version": views.VERSION, "done": True, "next": text, "run": view})

    async def _check_saved(self, verb: str, run: Run, order: Order) -> None:
        orders.check_saved(verb, run, order, await self._saved(run, order.epoch))

    async def _saved(self, run: Run, epoch: int | None) -> Saved:
        return await self._looked_at(run, self._parts.saved, run, epoch)

    async def _looked_at(self, run: Run, look: Callable[..., T], *arguments: object) -> T:
        """Look at the run's checkpoints, beside the requests of others."""
        try:
            return await run_in_threadpool(look, *arguments)
        except (RetryableError, OSError) as error:
            raise RefusedOrder(503, f"the checkpoints of {run.name} cannot be looked at now: {error}") from error

    async def drain(self, request: Request) -> Response:
        """POST /v1/drain."""
        order, peer, parts = await answers.body(request, Order), answers.peer(request), self._parts
        orders.check_drain(peer)
        now, before = parts.clock.now(), parts.world()
        parts.put(DrainAsked(at=now, origin="api", by=peer.by, at_once=order.now, off=order.off))
        wanted = not order.off
        done = await self._until(lambda: parts.world().draining is wanted and parts.world() is not before)
        if not done and before.draining is not wanted:
            return answers.not_yet("the server")
        text = orders.drain_sentence(parts.world(), parts.board.snapshot(), order, now)
        return JsonResponse({"version": views.VERSION, "done": True, "next": text, "draining": wanted})

    async def _until(self, look: Callable[[], T | None]) -> T | None:
        deadline = time.monotonic() + EFFECT_WAIT_S
        while not (found := look()) and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread swaps the world
            await asyncio.sleep(EFFECT_LOOK_S)
        return found

    # ---- common
    def _find(self, world: World, request: Request) -> Run:
        name = request.path_params["name"]
        run = views.find_run(world, name)
        if run is None:
            raise HTTPException(404, views.no_such_run(world, name))
        return run

    def _history(self, run: Run) -> Sequence[story.Row]:
        with closing(self._parts.history()) as journal:
            return journal.history(run.id)

    def _run_view(self, world: World, run: Run) -> views.View:
        parts = self._parts
        directory = str(run_directory(parts.runs_dir, run.job.project, run.name).root)
        live = parts.board.snapshot().get(run.id)
        now, rows = parts.clock.now(), self._history(run)
        return views.run_view(run, world, live, rows, now=now, directory=directory)

    async def _http_error(self, _request: Request, error: HTTPException) -> Response:
        return answers.error(error.status_code, str(error.detail))

    async def _refused(self, _request: Request, error: RefusedOrder) -> Response:
        return answers.error(error.status, str(error))

    async def _bug(self, _request: Request, error: Exception) -> Response:
        return answers.error(500, f"internal error, please report it: {type(error).__name__}: {error}")
