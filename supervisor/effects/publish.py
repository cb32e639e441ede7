"""Carries out Publish: a run's weights and a card that says what they are, to where its job wants them.

Nothing that lies there is replaced: the same content is left as it is, other content gets a number. The card comes
after the files that it names, so that whoever finds one finds them. Exports come last, and each may fail by itself.
"""

from __future__ import annotations

import errno
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from supervisor import __version__, backup_config, layout
from supervisor.core import actions, cards, events
from supervisor.core.backups import causes
from supervisor.core.model import Job
from supervisor.core.numbers import finite
from supervisor.core.outlook import map50_95
from supervisor.core.secrets import hide
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.publish_export import Exporter
from supervisor.effects.publish_places import Folder, NotAllowedError, OnTarget, Place, TakenError
from supervisor.effects.publish_weights import Weights, fingerprint, gather, job_text
from supervisor.errors import PermanentError, RetryableError

STAGING = ".publishing"  # in the folder of the runs: no project can have that name
#: What passes by waiting is tried so often; then a person is told, and `publish NAME` tries again.
TRIES = 3
MOST_NUMBERS = 1000
_PASSES = frozenset({"unreachable", "timeout", "protocol"})
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class _Done:
    """The names under which all lies there, the card last; `unchanged`: it did before."""

    names: tuple[str, ...]
    stem: str
    unchanged: bool


class Publisher:
    """Carries out Publish. Again does no harm. Used by one thread at a time."""

    def __init__(
        self,
        runs_dir: Path,
        state_dir: Path,
        server: str,
        backups: Sequence[backup_config.Backup],
        now: Callable[[], float],
        *,
        stop: threading.Event,
        exporter: Exporter | None = None,
    ) -> None:
        """`server` is this server's name; `now` stamps cards and answers; `stop` ends what is under way."""
        self._runs_dir = runs_dir
        self._state_dir = state_dir
        self._server = server
        self._backups = {backup.name: backup for backup in backups}
        self._now = now
        self._stop = stop
        self._exporter = exporter or Exporter()
        self._tries: dict[str, int] = {}

    def __call__(self, action: actions.Publish) -> tuple[events.Event, ...]:
        """Answer with Published. RetryableError for what passes, a few times."""
        stage = self._runs_dir / STAGING / _UNFIT.sub("-", action.key)
        try:
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir(parents=True, mode=0o700)
            event = self._published(action, stage)
        except TargetError as error:
            self._try_again(action, error.cause in _PASSES or error.cause == "stopped", error.cause, error.text)
            event = self._failed(action, error.text)
        except OSError as error:
            self._try_again(action, error.errno in {errno.EIO, errno.ESTALE, errno.EINTR}, "failed", str(error))
            event = self._failed(action, str(error))
        except (NotAllowedError, PermanentError) as error:
            event = self._failed(action, str(error))
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        self._tries.pop(action.key, None)
        return (event,)

    def _try_again(self, action: actions.Publish, passes: bool, cause: str, text: str) -> None:
        """RetryableError while that makes sense. A daemon that stops has not failed at anything."""
        if cause == "stopped":
            raise RetryableError(text, causes.kind(cause).after_s)
        self._tries[action.key] = self._tries.get(action.key, 0) + 1
        if passes and self._tries[action.key] < TRIES:
            raise RetryableError(text, causes.kind(cause).after_s)

    def _failed(self, action: actions.Publish, text: str) -> events.Published:
        return events.Published(at=self._now(), origin="publish", run=action.run, ok=False, text=text)

    # ---- one publication
    def _published(self, action: actions.Publish, stage: Path) -> events.Published:
        job = action.job
        wish = job.publish
        if wish is None:
            raise PermanentError("the job does not say where it is published")
        if problem := cards.pattern_problem(wish.name):
            raise PermanentError(f"publish.name: {problem}")
        run_dir = layout.run_directory(self._runs_dir, job.project, job.name)
        found, lacking = gather(job, run_dir, stage)
        chosen = [weights for weights in found if weights.role in wish.include]
        if not chosen:
            raise PermanentError("; ".join(lacking.values()) or "there are no weights to publish")
        place = self._place(job, wish.to, stage)
        try:
            done = self._bring(self._card(action, chosen, run_dir), chosen, wish.name, place, stage)
            exports = {role: text for role, text in lacking.items() if role in wish.include}
            exports |= self._export(job, found, place, done, stage)
        finally:
            place.close()
        return events.Published(
            at=self._now(),
            origin="publish",
            run=action.run,
            ok=True,
            files=tuple(place.shown(name) for name in done.names),
            exports=exports,
        )

    def _place(self, job: Job, to: str, stage: Path) -> Place:
        if to.startswith("/"):
            try:
                return Folder(Path(to), job.owner, stop=self._stop)
            except FileNotFoundError:
                raise PermanentError(f"neither {to} nor the folder above it is there: is a disk not mounted?") from None
            except NotADirectoryError:
                raise PermanentError(f"{to} is no folder") from None
        settings = self._backups.get(to)
        if settings is None:
            known = ", ".join(self._backups) or "there are none"
            raise PermanentError(f"publish.to: {to!r} is neither a folder nor a backup target ({known})")
        target = open_target(settings, self._server, self._state_dir, stop=self._stop)
        target.facts()
        return OnTarget(target, stage / "sending")

    def _bring(self, card: cards.Card, found: Sequence[Weights], pattern: str, place: Place, stage: Path) -> _Done:
        """Put the files and their card there, under the first number that is free or holds just these files."""
        metric = found[0].map50_95 if found[0].map50_95 is not None else map50_95(card.metrics)
        plain = cards.file_name(pattern, cards.values_of(card, metric))
        for number in range(1, MOST_NUMBERS):
            base = cards.numbered(plain, number)
            named = [(cards.with_role(base, one.role if len(found) > 1 else ""), one) for one in found]
            files = tuple(
                cards.CardFile(name=name, role=one.role, bytes=one.bytes, sha256=one.sha256, epoch=one.epoch)
                for name, one in named
            )
            before = _stands(place, cards.card_name(base), files)
            if before is False or not _fits(place, {name: one.path for name, one in named}):
                continue
            try:
                for name, one in named:
                    place.put(one.path, name)
                if before is None:
                    _put_card(place, cards.card_name(base), msgspec.structs.replace(card, files=files), stage)
            except TakenError:
                continue
            names = (*(file.name for file in files), cards.card_name(base))
            return _Done(names, base.removesuffix(cards.SUFFIX), before is True)
        raise PermanentError(f"{MOST_NUMBERS} publications are called {plain} there already")

    def _card(self, action: actions.Publish, found: Sequence[Weights], run_dir: layout.RunDirectory) -> cards.Card:
        job, progress, record = action.job, action.progress, fingerprint(run_dir)
        train = dict(job.train or {})
        versions = {**record.versions, "yolo-supervisor": __version__}
        if job.trainer_version:
            versions.setdefault("ultralytics" if job.train is not None else "trainer", job.trainer_version)
        return cards.Card(
            run=action.run,
            project=job.project,
            name=job.name,
            title=job.title,
            notes=job.notes,
            tags=job.tags,
            config=hide(train),
            data=cards.CardData(path=str(train.get("data") or ""), digest=cards.data_digest(record.data)),
            versions=versions,
            epoch=max([progress.saved_epoch, *(one.epoch for one in found)]),
            epochs=progress.epochs or job.epochs or 0,
            metrics=finite(found[0].metrics or progress.metrics),
            lineage=action.lineage,
            created_at=self._now(),
            server=self._server,
            job=job_text(run_dir, job),
        )

    # ---- exports
    def _export(self, job: Job, found: Sequence[Weights], place: Place, done: _Done, stage: Path) -> dict[str, str]:
        """Format → where its file lies (as a path that begins with "/"), or what went wrong."""
        formats = job.publish.export if job.publish is not None else ()
        told: dict[str, str] = {}
        for kind in formats:
            if self._stop.is_set():
                raise RetryableError("the daemon stops", causes.kind("stopped").after_s)
            try:
                made = self._exporter.export(found[0].path, kind, job, stage / "export")  # the best, if there is one
                told[kind] = made.text if made.path is None else _put_export(place, made.path, made.ending, done)
            except (OSError, TargetError) as error:
                told[kind] = str(error)
        return told


def _fits(place: Place, files: Mapping[str, Path]) -> bool:
    """True if no name is taken by something else."""
    there = place.present(tuple(files))
    return place.same({name: path for name, path in files.items() if name in there})


def _stands(place: Place, card_name: str, files: Sequence[cards.CardFile]) -> bool | None:
    """Whether a card stands there for just these files: True, False for others, None where there is no card."""
    text = place.read(card_name)
    if text is None:
        return None
    try:
        return cards.decode(text).files == tuple(files)
    except cards.CardError:
        return False


def _put_card(place: Place, name: str, card: cards.Card, stage: Path) -> None:
    path = stage / "card.json"
    path.write_bytes(cards.encode(card))
    place.put(path, name)


def _put_export(place: Place, made: Path, ending: str, done: _Done) -> str:
    """Bring an export beside its weights. Where these were there before, so may be the export: it stays as it is."""
    for number in range(1, MOST_NUMBERS):
        name = f"{done.stem}{'' if number < 2 else f'-{number}'}{ending}"
        try:
            place.put(made, name)
        except TakenError:
            if not done.unchanged:
                continue
        shown = place.shown(name)
        return shown if shown.startswith("/") else f"/{shown}"
    return f"{MOST_NUMBERS} exports are called {done.stem}{ending} there already"
