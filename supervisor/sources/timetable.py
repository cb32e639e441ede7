"""What is due by the clock of backups and prunings: schedules as triggers, and the looks whether something is due."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Any

from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from supervisor import schedule_words
from supervisor.backup_config import Backup
from supervisor.config import Config
from supervisor.core import events
from supervisor.core.backups.model import Target
from supervisor.core.model import World
from supervisor.schedule_words import Cron, Every

HOUR_S = 3600.0
PART_S = 23 * HOUR_S  # a part of a target is read again each day; the look comes once an hour, so a day never slips
_SHORTEST_LOOK_S = 1.0
_JITTER_SHARE = 4  # of an interval: more would change how often it comes

Entries = dict[str, tuple[Any, Callable[[], None]]]
Put = Callable[[events.Event], None]


class Timetable:
    """Makes the events that are due by the clock. It decides nothing: the core knows what there is to do."""

    def __init__(
        self,
        settings: Callable[[], Config],
        world: Callable[[], World],
        put: Put,
        now: Callable[[], float],
        zone: tzinfo | None = None,
    ) -> None:
        """`settings` may change while running; `zone` is where times of day are meant, by default the machine's."""
        self._settings, self._world, self._put, self._now = settings, world, put, now
        self._zone = zone

    def entries(self) -> Entries:
        """Name → (trigger, what to call), for `Schedules`. To be asked again once the configuration was read again."""
        found: Entries = {}
        settings = self._settings()
        for target in settings.backup:
            found |= self._of_target(target, settings.server.name)
        if settings.backup:
            found["quiet"] = (self._at_once_and(CronTrigger(second="0", timezone=self._zone)), self._look_for_quiet)
        if settings.prune is not None:
            when = schedule_words.schedule(settings.prune.schedule)
            found["prune"] = (self._trigger(when, last_at=self._world().pruned_at), self._prune)
        return found

    def _of_target(self, target: Backup, server: str) -> Entries:
        name, when = target.name, schedule_words.schedule(target.schedule)
        known = self._target(name)
        last_at = known.state_at if known is not None else 0.0
        at_once = isinstance(when, Every)
        trigger = self._trigger(when, last_at=last_at, jitter_s=target.jitter, at_once=at_once)
        found: Entries = {f"backup/{name}": (trigger, functools.partial(self._back_up, name))}
        spread = zlib.crc32(f"{server}/{name}".encode())
        if target.verify_within:
            after_s = min(PART_S, target.verify_within / 2)
            call = functools.partial(self._look_for_verify, name, after_s)
            found[f"verify/{name}"] = (self._looks(after_s, spread % 60), call)
        if target.drill:
            call = functools.partial(self._look_for_drill, name, target.drill)
            found[f"drill/{name}"] = (self._looks(target.drill, (spread + 30) % 60), call)
        return found

    # ---- triggers
    def _trigger(self, when: Every | Cron, *, last_at: float, jitter_s: float = 0.0, at_once: bool = False) -> Any:
        """A trigger that makes up for what was missed since `last_at`, when no daemon ran.

        `at_once`: what was never done is done now.
        """
        now = self._now()
        if isinstance(when, Every):
            jitter_s = min(jitter_s, when.seconds / _JITTER_SHARE)
            first_at = min(last_at + when.seconds, now + when.seconds) if last_at else now if at_once else 0.0
            then: Any = IntervalTrigger(seconds=when.seconds, start_date=self._local(now + when.seconds))
        else:
            then = self._cron(when)
            next_at = then.get_next_fire_time(None, self._local(last_at)) if last_at else None
            first_at = now if next_at is not None and next_at.timestamp() <= now else 0.0
        first = [DateTrigger(self._local(max(first_at, now)))] if first_at else []
        return OrTrigger([*first, then], jitter=jitter_s or None)

    def _cron(self, when: Cron) -> Any:
        days = {"day": _listed(when.days)}
        weekdays = {"day_of_week": ",".join(schedule_words.WEEKDAYS[day] for day in when.weekdays)}
        times = {"minute": _listed(when.minutes), "hour": _listed(when.hours), "month": _listed(when.months)}
        wanted = [days, weekdays] if when.either else [days | weekdays]
        return OrTrigger([CronTrigger(**times, **one, second="0", timezone=self._zone) for one in wanted])

    def _looks(self, after_s: float, minute: int) -> Any:
        """Once an hour at a minute that differs by server and target; more often for what is due more often."""
        if after_s >= HOUR_S * _JITTER_SHARE:
            return CronTrigger(minute=str(minute), second="0", timezone=self._zone)
        return IntervalTrigger(seconds=max(_SHORTEST_LOOK_S, after_s / _JITTER_SHARE), timezone=self._zone)

    def _at_once_and(self, trigger: Any) -> Any:
        return OrTrigger([DateTrigger(self._local(self._now())), trigger])

    def _local(self, at: float) -> datetime:
        return datetime.fromtimestamp(at, self._zone).astimezone(self._zone)

    # ---- what is called
    def _back_up(self, name: str) -> None:
        self._put(events.BackupDue(at=self._now(), origin="schedule", target=name))

    def _prune(self) -> None:
        self._put(events.PruneAsked(at=self._now(), origin="schedule"))

    def _look_for_quiet(self) -> None:
        """Every minute: so neither a changed clock, nor a night with two hours of two, nor a reload is missed."""
        now = self._now()
        local = self._local(now)
        for target in self._settings().backup:
            quiet = schedule_words.is_quiet(schedule_words.quiet(target.quiet), local.hour * 60 + local.minute)
            known = self._target(target.name)
            if known is None or known.quiet != quiet:
                self._put(events.QuietSeen(at=now, origin="schedule", target=target.name, quiet=quiet))

    def _look_for_verify(self, name: str, after_s: float) -> None:
        target, now = self._target(name), self._now()
        if (
            target is not None
            and target.ok_at
            and _is_idle(target, "verify")
            and _over(target.verified_at, after_s, now)
        ):
            self._put(events.VerifyAsked(at=now, origin="schedule", target=name))

    def _look_for_drill(self, name: str, after_s: float) -> None:
        """The time of the last one is in the journal: a daemon that is restarted every day rehearses all the same."""
        target, now = self._target(name), self._now()
        if target is None or not _is_idle(target, "drill") or not _over(target.drilled_at, after_s, now):
            return
        world = self._world()
        backups = (run.backups.get(name) for run in (*world.live.values(), *world.ended.values()))
        if any(backed is not None and backed.epoch for backed in backups):
            self._put(events.DrillAsked(at=now, origin="schedule", target=name))

    def _target(self, name: str) -> Target | None:
        return self._world().targets.get(name)


def entries(
    settings: Callable[[], Config],
    world: Callable[[], World],
    put: Put,
    now: Callable[[], float],
    zone: tzinfo | None = None,
) -> Entries:
    """What a daemon calls by the clock for its backups and prunings; see Timetable."""
    return Timetable(settings, world, put, now, zone).entries()


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _is_idle(target: Target, verb: str) -> bool:
    """False while just that is ordered already, or under way."""
    ordered = target.verify_due if verb == "verify" else target.drill_due
    return not ordered and f"/{verb}-" not in target.doing


def _over(last_at: float, after_s: float, now: float) -> bool:
    """True if the last time is so long ago, or in the future: then the clock was wrong."""
    return not 0 <= now - last_at < after_s
