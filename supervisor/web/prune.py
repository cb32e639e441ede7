"""The routes of the API about pruning: what would go and why, doing it, the trash, and taking back from there."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from typing import Any, Protocol

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from supervisor.core import views
from supervisor.core.events import PruneAsked, TakenBack
from supervisor.core.model import World
from supervisor.errors import RetryableError, UserError
from supervisor.web import answers
from supervisor.web.answers import JsonResponse
from supervisor.web.orders import Peer, RefusedOrder, user_name

_NEWEST_EVENTS = 500
View = Mapping[str, Any]


class Pruning(Protocol):
    """Who looks at the disk and moves things there: it may take long, and is asked in threads beside the requests."""

    def refused(self) -> str:
        """Why nothing is pruned at all; empty if there is a policy."""
        ...

    def plan(self) -> View:
        """What would become of every directory and file, and why."""
        ...

    def trash(self) -> View:
        """What lies in the trash."""
        ...

    def undo(self, identifier: str) -> View:
        """Take something back. Raises UserError, RetryableError."""
        ...


class NoPruning:
    """Where nobody looks at the disk."""

    def refused(self) -> str:
        """See Pruning."""
        return "nothing is pruned here"

    def plan(self) -> View:
        """See Pruning."""
        raise RefusedOrder(409, self.refused())

    def trash(self) -> View:
        """See Pruning."""
        raise RefusedOrder(409, self.refused())

    def undo(self, identifier: str) -> View:
        """See Pruning."""
        del identifier
        raise RefusedOrder(409, self.refused())


class PruneOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an order. `id`: what is to be taken back from the trash."""

    id: str = ""


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
    def clock(self) -> Any:
        """What time it is."""

    @property
    def pruning(self) -> Pruning:
        """Who looks at the disk."""


class PruneRoutes:
    """The handlers."""

    def __init__(self, daemon: Daemon, until: Callable[[Callable[[], bool]], Awaitable[Any]]) -> None:
        """`until` waits for a while until something is so, and returns whether it is."""
        self._daemon = daemon
        self._until = until

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/prune", self.plan),
            Route("/v1/prune", self.order, methods=["POST"]),
            Route("/v1/prune/newest", self.newest),
            Route("/v1/prune/trash", self.trash),
            Route("/v1/prune/undo", self.undo, methods=["POST"]),
        ]

    async def plan(self, _request: Request) -> Response:
        """GET /v1/prune: every directory and file with keep, delete or archive and the reason."""
        return JsonResponse(await run_in_threadpool(self._daemon.pruning.plan))

    async def trash(self, _request: Request) -> Response:
        """GET /v1/prune/trash."""
        return JsonResponse(await run_in_threadpool(self._daemon.pruning.trash))

    async def order(self, request: Request) -> Response:
        """POST /v1/prune: answered when it has begun; `newest` tells what came of it."""
        await answers.body(request, PruneOrder)
        peer, daemon = answers.peer(request), self._daemon
        _check(peer)
        refused = daemon.pruning.refused()
        if refused or not daemon.world().policy.prunes:
            raise RefusedOrder(409, refused or "there is no [prune] section: nothing is pruned")
        before = daemon.world()
        if before.pruning:
            return JsonResponse(self._under_way("a pruning is under way already"))
        daemon.put(PruneAsked(at=daemon.clock.now(), origin="api", by=peer.by))
        if not await self._until(lambda: _has_begun(before, daemon.world())):
            return answers.not_yet("pruning")
        return JsonResponse(self._under_way("what the policy lets go is moved into the trash"))

    def _under_way(self, text: str) -> View:
        return {"version": views.VERSION, "done": True, "next": text, "pruning": bool(self._daemon.world().pruning)}

    async def newest(self, _request: Request) -> Response:
        """GET /v1/prune/newest: whether a pruning is under way, and what the newest one that ended has done."""
        return JsonResponse(await run_in_threadpool(self._newest))

    def _newest(self) -> View:
        world = self._daemon.world()
        with closing(self._daemon.history()) as journal:
            rows = [row for row in journal.recent(0, _NEWEST_EVENTS) if row.kind == "Pruned"]
        result = dict(rows[-1].body) if rows and not world.pruning else None
        return {"version": views.VERSION, "pruning": bool(world.pruning), "result": result}

    async def undo(self, request: Request) -> Response:
        """POST /v1/prune/undo {"id": …}: move it back to where it was; nothing that is there now is replaced."""
        order, peer = await answers.body(request, PruneOrder), answers.peer(request)
        _check(peer)
        try:
            done = await run_in_threadpool(self._daemon.pruning.undo, order.id)
        except UserError as error:
            raise RefusedOrder(409, str(error)) from error
        except (RetryableError, OSError) as error:
            raise RefusedOrder(503, f"nothing can be taken back just now: {error}") from error
        if done.get("run"):
            clock = self._daemon.clock
            self._daemon.put(TakenBack(at=clock.now(), origin="api", run=done["run"], by=peer.by))
        text = "it is back where it was; the next pruning lets it go again unless the policy is changed before"
        return JsonResponse({**done, "done": True, "next": text})


def _has_begun(before: World, now: World) -> bool:
    return bool(now.pruning) or now.pruned_at != before.pruned_at


def _check(peer: Peer) -> None:
    if peer.uid not in {0, os.geteuid()}:
        daemon = user_name(os.geteuid())
        raise RefusedOrder(403, f"pruning is about everybody's runs: only root and {daemon} may order it")
