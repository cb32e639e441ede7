"""The routes of the API about backups: how targets and runs stand, what people order, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from supervisor.core.backups import views
from supervisor.core.backups.model import Target
from supervisor.core.model import Run, World
from supervisor.core.story import Row, clean_body
from supervisor.core.views import find_run, no_such_run
from supervisor.web import answers, backup_orders
from supervisor.web.answers import JsonResponse
from supervisor.web.backup_orders import BackupOrder

ANSWERS = frozenset({"BackedUp", "BackupFailed", "BackupVerified", "Drilled"})
_PAGE = 1000
_MOST_PAGES = 50


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
    def config_view(self) -> Callable[[], Mapping[str, Any]]:
        """The configuration in effect, without secrets."""


class BackupRoutes:
    """The handlers. All run in the web thread, are short, and wait for nothing but the world."""

    def __init__(self, daemon: Daemon, until: Callable[[Callable[[], bool]], Awaitable[Any]]) -> None:
        """`until` waits for a while until something is so, and returns whether it is."""
        self._daemon = daemon
        self._until = until

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/v1/backups", self.backups),
            Route("/v1/backups/answers", self.answers),
            Route("/v1/backups/{verb}", self.order, methods=["POST"]),
        ]

    async def backups(self, request: Request) -> Response:
        """GET /v1/backups[?run=NAME][&all=1]."""
        daemon, name = self._daemon, request.query_params.get("run", "")
        world = daemon.world()
        run = find_run(world, name) if name else None
        if name and run is None:
            raise HTTPException(404, no_such_run(world, name))
        where = {str(one["name"]): str(one["to"]) for one in daemon.config_view().get("backup") or ()}
        every = answers.flag(request, "all")
        view = views.backups_view(world, daemon.clock.now(), addresses=where, run=run, every=every)
        return JsonResponse(view)

    async def answers(self, request: Request) -> Response:
        """GET /v1/backups/answers?after=SEQ: what came of backups, readings and rehearsals since; `next` to go on."""
        after = answers.whole_number(request, "after", 0)
        return JsonResponse(await run_in_threadpool(self._answers, after))

    def _answers(self, after: int) -> views.View:
        found: list[views.View] = []
        with closing(self._daemon.history()) as journal:
            for _ in range(_MOST_PAGES):
                rows: Sequence[Row] = journal.recent(after, _PAGE)
                found += [_answer(row) for row in rows if row.kind in ANSWERS]
                last, after = after, rows[-1].seq if rows else after
                if not last or len({row.seq for row in rows}) < _PAGE:
                    break
        unique = {answer["seq"]: answer for answer in found}
        return {"version": views.VERSION, "answers": list(unique.values()), "next": after}

    async def order(self, request: Request) -> Response:
        """POST /v1/backups/run|verify|drill {"name", "target", "accept_loss", "whole"}: answered when it was taken.

        `ordered` lists what is to come, `after` is the place in the journal from which on /v1/backups/answers tells.
        """
        verb = request.path_params["verb"]
        if verb not in backup_orders.VERBS:
            words = ", ".join(backup_orders.VERBS)
            raise HTTPException(404, f"there is no order `{verb}` about backups; orders are {words}")
        order, peer, daemon = await answers.body(request, BackupOrder), answers.peer(request), self._daemon
        world, now = daemon.world(), daemon.clock.now()
        run, known = backup_orders.chosen(world, order)
        backup_orders.check(peer, verb, world, run, order)
        if verb == "drill":
            known = [backup_orders.for_drill(world, run, known)]
        after = await run_in_threadpool(self._newest)
        for event in backup_orders.order_events(verb, run, known, order, by=peer.by, at=now):
            daemon.put(event)
        if not await self._until(lambda: self._is_taken(world, known)):
            return answers.not_yet("the backup")
        return JsonResponse(self._taken(verb, run, known, order, after))

    def _newest(self) -> int:
        with closing(self._daemon.history()) as journal:
            rows = journal.recent(0, 1)
        return rows[-1].seq if rows else 0

    def _is_taken(self, before: World, known: Sequence[Target]) -> bool:
        after = self._daemon.world()
        return all(after.targets.get(one.name) is not before.targets.get(one.name) for one in known)

    def _taken(self, verb: str, run: Run | None, known: Sequence[Target], order: BackupOrder, after: int) -> views.View:
        world = self._daemon.world()
        return {
            "version": views.VERSION,
            "done": True,
            "next": backup_orders.what_next(verb, world, run, known, order),
            "ordered": backup_orders.ordered(verb, world, run, known),
            "after": after,
        }


def _answer(row: Row) -> views.View:
    return {"seq": row.seq, "at": row.at, "kind": row.kind, **clean_body(row.body)}
