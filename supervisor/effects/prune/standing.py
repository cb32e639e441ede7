"""How a run directory stands in the world: which runs share it, whether one lives, who needs it, what is backed up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from supervisor.core import ancestry
from supervisor.core.backups import targets
from supervisor.core.ledger import run_number
from supervisor.core.model import Phase, Run, World

_STARTING = frozenset({Phase.PREPARING, Phase.STARTING})


@dataclass(frozen=True)
class Standing:
    """A directory by its runs. `newest` speaks for it; `worked` is the newest that was ever begun, and wrote there."""

    project: str
    name: str
    runs: tuple[Run, ...]

    @property
    def newest(self) -> Run:
        """The run that speaks for the directory."""
        return self.runs[-1]

    @property
    def worked(self) -> Run:
        """The run whose backups have what lies there."""
        return next((run for run in reversed(self.runs) if run.attempts), self.newest)

    @property
    def live(self) -> Run | None:
        """The run of it that has not ended."""
        return next((run for run in self.runs if not run.phase.terminal), None)

    @property
    def starting(self) -> bool:
        """True while an attempt is being prepared or started."""
        return any(run.phase in _STARTING for run in self.runs)

    @property
    def ids(self) -> frozenset[str]:
        """The ids of its runs: what its marker may name."""
        return frozenset(run.id for run in self.runs)

    @property
    def token(self) -> int:
        """The highest fence token that the journal knows of."""
        return max((run.attempt.token for run in self.runs if run.attempt is not None), default=0)


def all_of(world: World) -> list[Standing]:
    """Every directory that a run of the journal has, by project and name."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in _everyone(world):
        groups.setdefault((run.job.project, run.name), []).append(run)
    return [_standing(project, name, runs) for (project, name), runs in sorted(groups.items())]


def of(world: World, project: str, name: str) -> Standing | None:
    """How one directory stands now; None if no run has it."""
    runs = [run for run in _everyone(world) if (run.job.project, run.name) == (project, name)]
    return _standing(project, name, runs) if runs else None


def _everyone(world: World) -> Iterator[Run]:
    yield from tuple(world.live.values())
    yield from tuple(world.ended.values())


def _standing(project: str, name: str, runs: list[Run]) -> Standing:
    return Standing(project, name, tuple(sorted(runs, key=lambda run: (run_number(run.id), run.created_at))))


def needed(world: World, found: Standing, directory: Path) -> str:
    """Why somebody else needs what lies there, for a person; empty if nobody does."""
    busy = [target.name for target in world.targets.values() if target.doing_run in found.ids]
    if busy:
        return f"it is being backed up to {busy[0]} just now"
    run = found.newest
    if run.phase is Phase.SUCCEEDED and run.job.publish is not None and not run.published_ok:
        return f"its weights are not published yet (`yolo-supervisor publish {run.name}`)"
    for other in world.live.values():
        if other.id not in found.ids and _needs(world, other, found, directory):
            return f"{other.name}, which has not ended, begins from it or names a file of it"
    return ""


def _needs(world: World, other: Run, found: Standing, directory: Path) -> bool:
    source = ancestry.source_of(world, other.job) if other.job.start_from is not None else None
    if source is not None and source.id in found.ids:
        return True
    text = msgspec.json.encode(other.job).decode()
    return any(f"{directory}{end}" in text for end in ("/", '"', " "))


def is_backed_up(world: World, run: Run) -> bool:
    """True if a backup is configured for it: then nothing goes that does not lie there verified."""
    return bool(targets.of_run(world, run))


def is_covered(world: World, run: Run, ledger_epoch: int = 0) -> bool:
    """True if, as far as the journal knows, an ended run lies verified on every target that it is backed up to.

    What of it lies there only proof.of knows. `ledger_epoch`: the newest epoch that its ledger has on this disk.
    """
    backed = [run.backups.get(name) for name in targets.of_run(world, run)]
    whole = all(one is not None and one.ended and one.kept_epoch >= ledger_epoch for one in backed)
    return whole and targets.covered(world, run)
