"""What is due by the clock: triggers made of what people write, at times that the tests set."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from supervisor import config
from supervisor.core import events
from supervisor.core.backups.model import Backed, Target
from supervisor.core.model import Job, Phase, Run, World
from supervisor.sources import timetable
from supervisor.sources.schedules import Schedules

ZONE = ZoneInfo("Europe/Berlin")
DAY = 86400.0
START = datetime(2027, 3, 1, 12, 0, tzinfo=ZONE).timestamp()  # a Monday


class Clockwork:
    """A timetable of a configuration, a world and a clock that the test sets."""

    def __init__(self, text, target=None, at=START):
        self.settings = config.parse(text.encode(), "config.toml")
        targets = {one.name: target or Target(name=one.name) for one in self.settings.backup}
        self.world, self.at, self.put = World(targets=targets), at, []
        self.entries = self.make()

    def make(self):
        """The entries as a daemon that starts now has them."""
        return timetable.entries(lambda: self.settings, lambda: self.world, self.put.append, lambda: self.at, ZONE)

    def times(self, name, count, at=None):
        """The next times of an entry, as local text."""
        trigger, found = self.entries[name][0], []
        before, now = None, datetime.fromtimestamp(at or self.at, ZONE)
        for _ in range(count):
            before = now = trigger.get_next_fire_time(before, now)
            found.append(f"{before.astimezone(ZONE):%a %d.%m. %H:%M:%S}")
        return found

    def call(self, name, at=None):
        """What an entry puts when it is called."""
        self.at = at or self.at
        self.put.clear()
        self.entries[name][1]()
        return list(self.put)

    def quiet(self, at):
        """What the look for quiet hours puts, and what the core makes of it."""
        found = self.call("quiet", at)
        for event in found:
            self.world = World(targets={event.target: replace(self.world.targets[event.target], quiet=event.quiet)})
        return [event.quiet for event in found]


def target(schedule, *more):
    """A configuration with one target."""
    return f'[[backup]]\nname = "nas"\nto = "/mnt/nas"\njitter = "0s"\nschedule = "{schedule}"\n' + "\n".join(more)


def local(*parts):
    """A local time as Unix seconds."""
    return datetime(*parts, tzinfo=ZONE).timestamp()


# ---- backups by their schedules
def test_an_interval_begins_at_once_and_goes_on():
    """What was never backed up is due now, then again and again."""
    room = Clockwork(target("6h"))
    assert room.times("backup/nas", 3) == ["Mon 01.03. 12:00:00", "Mon 01.03. 18:00:00", "Tue 02.03. 00:00:00"]


def test_an_interval_outlives_the_daemon():
    """A daemon that is restarted more often than the interval still backs up in time: the last time is in the journal."""
    room = Clockwork(target("6h"), Target(name="nas", state_at=START - 5 * 3600))
    assert room.times("backup/nas", 2) == ["Mon 01.03. 13:00:00", "Mon 01.03. 19:00:00"]
    room = Clockwork(target("6h"), Target(name="nas", state_at=START - 5 * DAY))
    assert room.times("backup/nas", 1) == ["Mon 01.03. 12:00:00"]
    room = Clockwork(target("6h"), Target(name="nas", state_at=START + 5 * DAY))  # the clock was wrong then
    assert room.times("backup/nas", 1) == ["Mon 01.03. 18:00:00"]


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        ("04:00", ["Tue 02.03. 04:00:00", "Wed 03.03. 04:00:00"]),
        ("30 */8 * * *", ["Mon 01.03. 16:30:00", "Tue 02.03. 00:30:00"]),
        ("0 4 * * 0", ["Sun 07.03. 04:00:00", "Sun 14.03. 04:00:00"]),
        ("0 4 * * 7", ["Sun 07.03. 04:00:00", "Sun 14.03. 04:00:00"]),
        ("0 4 * * 1-2", ["Tue 02.03. 04:00:00", "Mon 08.03. 04:00:00"]),
        ("0 4 * * fri-sun", ["Fri 05.03. 04:00:00", "Sat 06.03. 04:00:00"]),
        ("0 4 1 * *", ["Thu 01.04. 04:00:00", "Sat 01.05. 04:00:00"]),
        ("0 4 3 * sat", ["Wed 03.03. 04:00:00", "Sat 06.03. 04:00:00"]),
        ("0 4 31 jan,mar *", ["Wed 31.03. 04:00:00", "Mon 31.01. 04:00:00"]),
        ("0 4 29 2 *", ["Tue 29.02. 04:00:00"]),
    ],
)
def test_cron_means_what_cron_means(schedule, times):
    """Sunday is 0 and 7, a day of the month or of the week is enough where both are given, and times are local."""
    assert Clockwork(target(schedule)).times("backup/nas", len(times)) == times


def test_a_time_of_day_that_was_missed_is_made_up_for():
    """The daemon was down at four: it is due at its start; not if it was done then, and not if it was never done."""
    missed = Target(name="nas", state_at=local(2027, 2, 28, 4, 1))
    assert Clockwork(target("04:00"), missed).times("backup/nas", 2) == ["Mon 01.03. 12:00:00", "Tue 02.03. 04:00:00"]
    done = Target(name="nas", state_at=local(2027, 3, 1, 4, 1))
    assert Clockwork(target("04:00"), done).times("backup/nas", 1) == ["Tue 02.03. 04:00:00"]
    assert Clockwork(target("04:00")).times("backup/nas", 1) == ["Tue 02.03. 04:00:00"]


def test_times_of_day_follow_the_clocks_of_people():
    """When clocks are changed a time of day comes at that time, and one that does not exist an hour later."""
    room = Clockwork(target("04:00"), at=local(2027, 3, 27, 12))
    assert room.times("backup/nas", 2) == ["Sun 28.03. 04:00:00", "Mon 29.03. 04:00:00"]
    room = Clockwork(target("02:30"), at=local(2027, 3, 27, 12))
    trigger = room.entries["backup/nas"][0]
    found = trigger.get_next_fire_time(None, datetime.fromtimestamp(room.at, ZONE))
    assert found.timestamp() == local(2027, 3, 28, 3, 30)


def test_jitter_only_delays_and_never_much():
    """Up to the configured time later, and at most a quarter of the interval."""
    text = target("1h").replace('jitter = "0s"', 'jitter = "40m"')
    trigger = Clockwork(text, Target(name="nas", state_at=START - 1800)).entries["backup/nas"][0]
    now = datetime.fromtimestamp(START, ZONE)
    delays = [trigger.get_next_fire_time(None, now).timestamp() - START - 1800 for _ in range(200)]
    assert 0 <= min(delays) < max(delays) <= 900
    assert max(delays) > 300


def test_each_target_has_a_schedule_of_its_own():
    """Two targets are independent, and each one's event names it."""
    text = target("04:00") + '\n[[backup]]\nname = "oss"\nto = "rclone:oss:b/y"\nschedule = "1h"\n'
    room = Clockwork(text)
    assert {"backup/nas", "backup/oss", "quiet"} <= room.entries.keys()
    assert room.call("backup/oss") == [events.BackupDue(at=START, origin="schedule", target="oss")]


def test_without_targets_and_policy_there_is_nothing():
    """The default configuration wakes nobody."""
    assert Clockwork("").entries == {}


# ---- quiet hours
def test_quiet_hours_begin_and_end_to_the_minute():
    """Each change is told once, also over midnight; at the start of the daemon too."""
    room = Clockwork(target("1h", 'quiet = "22:00-06:00,12:30-13:00"'))
    assert room.times("quiet", 3) == ["Mon 01.03. 12:00:00", "Mon 01.03. 12:01:00", "Mon 01.03. 12:02:00"]
    assert room.quiet(START) == []
    assert room.quiet(local(2027, 3, 1, 12, 29, 59)) == []
    assert room.quiet(local(2027, 3, 1, 12, 30)) == [True]
    assert room.quiet(local(2027, 3, 1, 12, 59)) == []
    assert room.quiet(local(2027, 3, 1, 13, 0)) == [False]
    assert room.quiet(local(2027, 3, 1, 22, 0)) == [True]
    assert room.quiet(local(2027, 3, 2, 5, 59)) == []
    assert room.quiet(local(2027, 3, 2, 6, 0)) == [False]


def test_a_daemon_that_starts_in_quiet_hours_says_so():
    """Also where the journal does not know the target yet."""
    room = Clockwork(target("1h", 'quiet = "10:00-14:00"'))
    room.world = World()
    found = room.call("quiet")
    assert found == [events.QuietSeen(at=START, origin="schedule", target="nas", quiet=True)]


def test_quiet_hours_follow_the_clocks_of_people():
    """The night when 02:00 is 03:00: what begins at 02:30 has begun by 03:00, and ends at 05:00 of the new time."""
    room = Clockwork(target("1h", 'quiet = "02:30-05:00"'), at=local(2027, 3, 28, 1, 59))
    assert room.quiet(local(2027, 3, 28, 1, 59)) == []
    assert room.quiet(local(2027, 3, 28, 3, 0)) == [True]
    assert room.quiet(local(2027, 3, 28, 4, 59)) == []
    assert room.quiet(local(2027, 3, 28, 5, 0)) == [False]


def test_quiet_hours_change_with_the_configuration():
    """Read again while the daemon runs, they count within a minute."""
    room = Clockwork(target("1h", 'quiet = "10:00-14:00"'))
    assert room.quiet(START) == [True]
    room.settings, _ = config.reloaded(room.settings, config.parse(target("1h").encode(), "config.toml"))
    assert room.quiet(START + 60) == [False]


# ---- reading again
def test_a_part_is_read_again_each_day():
    """Once an hour it is looked whether the last reading was yesterday; the minute differs by target."""
    room = Clockwork(target("1h"), Target(name="nas", ok_at=START - 10 * DAY, verified_at=START - DAY))
    first, second = room.times("verify/nas", 2)
    assert first[-5:] == second[-5:]
    assert first != second
    assert room.call("verify/nas") == [events.VerifyAsked(at=START, origin="schedule", target="nas")]
    room.world = World(targets={"nas": Target(name="nas", ok_at=START - DAY, verified_at=START - 22 * 3600)})
    assert room.call("verify/nas") == []


@pytest.mark.parametrize(
    "standing",
    [
        {"ok_at": 0.0},
        {"ok_at": START, "verify_due": True},
        {"ok_at": START, "doing": "server/verify-7/nas"},
    ],
)
def test_nothing_is_read_again_where_nothing_lies_or_it_is_ordered(standing):
    """An order that is there already is not given again."""
    assert Clockwork(target("1h"), Target(name="nas", **standing)).call("verify/nas") == []


def test_never_is_never():
    """With "0s" nothing is read again and nothing rehearsed."""
    entries = Clockwork(target("1h", 'verify_within = "0s"', 'drill = "0s"')).entries
    assert entries.keys() == {"backup/nas", "quiet"}


# ---- rehearsals
def with_run(room, epoch=3, **standing):
    """A world with a run that is backed up at this epoch."""
    backed = {"nas": Backed(snapshot="snap", epoch=epoch)}
    run = Run(id="truck@1", job=Job(name="truck", revision="r"), phase=Phase.RUNNING, created_at=0, phase_since=0, backups=backed)  # fmt: skip
    room.world = World(live={run.id: run}, targets={"nas": Target(name="nas", **standing)})
    return room


def test_a_daemon_that_is_restarted_every_day_still_rehearses_weekly():
    """The time of the last rehearsal decides, and not how long the daemon has run."""
    asked = [events.DrillAsked(at=START, origin="schedule", target="nas")]
    for days, expected in ((6.9, []), (7, asked), (30, asked), (-1, asked)):
        room = with_run(Clockwork(target("1h")), drilled_at=START - days * DAY)
        assert room.call("drill/nas") == expected, days


def test_a_first_rehearsal_comes_with_the_first_checkpoint():
    """Where no checkpoint lies there is nothing to rehearse; the first one is proven within the hour."""
    assert Clockwork(target("1h")).call("drill/nas") == []
    assert with_run(Clockwork(target("1h")), epoch=0).call("drill/nas") == []
    assert len(with_run(Clockwork(target("1h"))).call("drill/nas")) == 1
    assert with_run(Clockwork(target("1h")), drill_due=True).call("drill/nas") == []
    assert with_run(Clockwork(target("1h")), doing="server/drill-3/nas").call("drill/nas") == []


def test_looks_come_more_often_for_what_is_due_more_often():
    """A target whose files are all read again within minutes is not looked at once an hour."""
    room = Clockwork(target("1h", 'verify_within = "80s"', 'drill = "1s"'))
    assert room.entries["verify/nas"][0].interval_length == 10
    assert room.entries["drill/nas"][0].interval_length == 1


# ---- pruning
PRUNE = "[prune]\nkeep_last = 3\n"


def test_prunings_come_at_four_and_are_made_up_for():
    """By default at 04:00 local time; one that was missed comes at the start, a first one never does."""
    room = Clockwork(PRUNE)
    assert room.entries.keys() == {"prune"}
    assert room.times("prune", 2) == ["Tue 02.03. 04:00:00", "Wed 03.03. 04:00:00"]
    assert room.call("prune") == [events.PruneAsked(at=START, origin="schedule")]
    room.world = World(pruned_at=START - 2 * DAY)
    room.entries = room.make()
    assert room.times("prune", 2) == ["Mon 01.03. 12:00:00", "Tue 02.03. 04:00:00"]


def test_an_interval_of_prunings_does_not_begin_at_once():
    """Who has just written a policy has time to look at `prune --dry-run`."""
    room = Clockwork(PRUNE + 'schedule = "2h"\n')
    trigger = room.entries["prune"][0]
    assert len(trigger.triggers) == 1


# ---- the scheduler
def test_the_scheduler_takes_triggers_beside_intervals():
    """Entries that come by the configuration can be replaced and taken away; the others stay as they are."""
    room = Clockwork(target("1h") + "\n" + PRUNE)
    schedules = Schedules({"rescan": (10.0, print), "off": (0, print)}, room.entries)
    names = lambda: {job.id for job in schedules._scheduler.get_jobs()}  # noqa: E731 - what is scheduled is the promise
    assert names() == {"rescan", *room.entries}
    room.settings = config.parse(target("1h").encode(), "config.toml")
    schedules.change(room.make())
    assert names() == {"rescan", *room.entries} - {"prune"}
    schedules.change({})
    assert names() == {"rescan"}
