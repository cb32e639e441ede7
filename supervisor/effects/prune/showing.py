"""What a pruning would do, file by file with the reason; what lies in the trash; and taking back from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from supervisor.core.retention import ARCHIVE, DELETE, KEEP, REFUSED, Decision, Retention
from supervisor.effects.prune import handles, policy, trash
from supervisor.effects.prune.carry_out import NO_POLICY, Pruner
from supervisor.effects.prune.handles import UnsafeError
from supervisor.effects.prune.look import Seen, said
from supervisor.effects.prune.move import Place
from supervisor.effects.prune.trash import Held
from supervisor.errors import UserError

VERSION = 1
MOST_ROWS = 200_000
View = dict[str, Any]


class Showing:
    """What people see of pruning. Called in threads of the API's; changes nothing but by `undo`."""

    def __init__(self, pruner: Pruner) -> None:
        """Of this one."""
        self._pruner = pruner

    def refused(self) -> str:
        """Why nothing is pruned at all; empty if there is a policy."""
        settings = self._pruner.settings
        if settings is None:
            return NO_POLICY
        return REFUSED if policy.of(settings).empty else ""

    def plan(self) -> View:
        """Every directory and every file of it, with keep, delete or archive and the reason; totals by action.

        `refused`: why nothing is done at all. `problems`: folders that could not be looked at.
        """
        settings = self._pruner.settings
        retention = policy.of(settings) if settings is not None else Retention()
        rows: list[View] = []
        problems: list[str] = []
        for place in self._pruner.places(settings):
            self._look(place, retention, rows, problems)
        if settings is None:
            rows = [{**row, "reason": NO_POLICY} for row in rows]
        return {
            "version": VERSION,
            "at": self._pruner.now(),
            "policy": _policy(retention) if settings is not None else None,
            "refused": self.refused() or None,
            "rows": rows[:MOST_ROWS],
            "left_out": max(0, len(rows) - MOST_ROWS),
            "totals": _totals(rows),
            "problems": problems,
            "trash": self._held(),
        }

    def _look(self, place: Place, retention: Retention, rows: list[View], problems: list[str]) -> None:
        try:
            with handles.absolute(place.path) as root:
                for seen, found in self._pruner.decided(place, root, retention):
                    rows += _rows(place, seen, found)
        except (OSError, UnsafeError) as error:
            problems.append(f"{place.path}: {said(error)}")

    def trash(self) -> View:
        """What lies in the trash, the oldest first, and until when it can be taken back."""
        return {"version": VERSION, "at": self._pruner.now(), "trash": self._held()}

    def undo(self, identifier: str) -> View:
        """Take something back. Raises UserError where there is no such thing or its place is taken; RetryableError.

        What could go back has gone back also where something else could not.
        """
        with self._pruner.exclusively():
            for place in self._pruner.places(self._pruner.settings):
                found = self._taken_back(place, identifier)
                if found is not None:
                    return found
        raise UserError(f"nothing in the trash has the id {identifier[:80]!r}; `yolo-supervisor prune trash` lists it")

    def _taken_back(self, place: Place, identifier: str) -> View | None:
        try:
            with handles.absolute(place.path) as root, trash.opened(root, place.trash) as bin_:
                held = next((one for one in bin_.held() if one.id == identifier), None)
                if held is None:
                    return None
                problems = bin_.take_back(held, root)
        except (OSError, UnsafeError) as error:
            raise UserError(f"{place.path / place.trash}: {said(error)}") from error
        back = [
            item.path for item in held.record.items if not any(one.startswith(f"{item.path}: ") for one in problems)
        ]
        if problems:
            raise UserError(f"{len(back)} of {len(held.record.items)} were taken back; not: {'; '.join(problems[:5])}")
        return {
            "version": VERSION,
            "taken_back": [str(place.path / path) for path in back],
            "what": held.record.what,
            "run": held.record.run,
        }

    def _held(self) -> list[View]:
        settings = self._pruner.settings
        keep_s = settings.trash if settings is not None else None
        return [row for place in self._pruner.places(settings) for row in _held_in(place, keep_s)]


def _held_in(place: Place, keep_s: float | None) -> list[View]:
    """What lies in the trash of a place; nothing where it cannot be looked at, which the plan tells."""
    with suppress(OSError, UnsafeError), handles.absolute(place.path) as root:
        if handles.look(root, place.trash) is not None:
            with trash.opened(root, place.trash) as bin_:
                return [_held_row(place, one, keep_s) for one in bin_.held()]
    return []


def _held_row(place: Place, held: Held, keep_s: float | None) -> View:
    record = held.record
    kept = record.what == "stray" or keep_s is None
    return {
        "id": held.id,
        "what": record.what,
        "run": record.run or None,
        "at": record.at,
        "by": record.by or None,
        "until_at": None if kept else record.at + (keep_s or 0.0),
        "files": record.files,
        "bytes": record.bytes,
        "items": [{"path": str(place.path / item.path), "reason": item.reason} for item in record.items],
    }


def _rows(place: Place, seen: Seen, found: Sequence[Decision]) -> Iterator[View]:
    """The row of a directory, then one for each file that lies in it."""
    directory, by_file = found[0], {one.file: one for one in found[1:]}
    base = place.path.joinpath(*seen.parts)
    common = {"run": seen.facts.id, "project": seen.facts.project, "name": seen.facts.name}
    yield {**common, "kind": "run", "path": str(base), **_words(directory)}
    for file in seen.files:
        decision = by_file.get(file.path)
        words = _words(decision) if decision is not None else _with_run(directory)
        yield {**common, "kind": "file", "path": str(base / file.path), **words, "bytes": file.bytes}


def _words(decision: Decision) -> View:
    return {"action": decision.action, "reason": decision.reason, "bytes": decision.bytes}


def _with_run(directory: Decision) -> View:
    """What becomes of a file that is no weights."""
    if directory.action == DELETE:
        return {"action": DELETE, "reason": "goes with its run"}
    if directory.action == ARCHIVE:
        return {"action": KEEP, "reason": "only weights go when a run is archived"}
    return {"action": KEEP, "reason": f"stays with its run: {directory.reason}"}


def _totals(rows: Sequence[View]) -> View:
    files = [row for row in rows if row["kind"] == "file"]
    return {
        action: {
            "runs": sum(row["kind"] == "run" and row["action"] == action for row in rows),
            "files": sum(row["action"] == action for row in files),
            "bytes": sum(row["bytes"] for row in files if row["action"] == action),
        }
        for action in (KEEP, ARCHIVE, DELETE)
    }


def _policy(retention: Retention) -> View:
    def words(one: Any) -> View:
        return {
            "keep_last": one.keep_last or None,
            "keep_best": one.keep_best or None,
            "keep_within_s": one.keep_within_s or None,
            "keep_tag": list(one.keep_tag),
        }

    return {
        **words(retention.words),
        "across": retention.across,
        "keep_epochs": retention.keep_epochs,
        "archive_after_s": retention.archive_after_s,
        "projects": {name: words(one) for name, one in retention.projects.items()},
    }
