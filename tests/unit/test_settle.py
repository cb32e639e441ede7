"""When a job file counts as complete: every way of arriving, every cut, under a virtual clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.settle import How, Patience, Reading, Settling, Take, Wait, changed_while_read, judge

PATIENCE = Patience()
RESCAN_S = 10.0
JOB = b"""# a real job file, with a number that stays valid when it is cut
name = "truck-s-640"
project = "vehicles"
gpus = 2
restart = { no_progress = 3, backoff = "10s", backoff_max = "10m" }

[train]
model = "/models/yolo11s.yaml"
data = "/data/truck/\xe5\x8d\xa1\xe8\xbd\xa6.yaml"
epochs = 300
batch = 64
"""


@dataclass
class Folder:
    """One file in a folder with a virtual clock, looked at as the spool looks: on hints, on scans, when due."""

    now: float = 1_000_000.0
    content: bytes = b""
    mtime_ns: int = 0
    state: Settling | None = None
    due_at: float = 0.0
    taken: list[tuple[bytes, str]] = field(default_factory=list)

    def write(self, content: bytes) -> None:
        """Give the file a new content, now."""
        self.content, self.mtime_ns = content, int(self.now * 1e9)

    def look(self, how: How) -> None:
        """Look at the file as the spool does, and take it when the judge says so."""
        seen = Reading(
            size=len(self.content),
            mtime_ns=self.mtime_ns,
            inode=7,
            how=how,
            ends_with_newline=self.content.endswith(b"\n"),
            at=self.now,
        )
        if self.taken and self.state is not None and self.state.identity == seen.identity and not how.completes:
            return
        self.state, verdict = judge(self.state, seen, PATIENCE)
        if isinstance(verdict, Take):
            self.taken.append((self.content, verdict.note))
        else:
            self.due_at = verdict.until

    def let_pass(self, seconds: float) -> None:
        """Time passes; scans come every 10 s and a look at each due time."""
        end = self.now + seconds
        while self.now < end:
            steps = [end, (self.now // RESCAN_S + 1) * RESCAN_S] + [self.due_at] * (self.due_at > self.now)
            self.now = min(steps)
            self.look(How.SCAN)


CUTS = range(len(JOB) + 1)


@pytest.mark.parametrize("stall_s", [0.5, 29.0, 29.9])
def test_cut_at_every_byte_and_stalled_below_the_limit_is_never_taken(stall_s):
    """A copy that stalls for less than the limit, at any byte, is taken once, whole and without a warning."""
    for cut in CUTS:
        folder = Folder()
        folder.write(JOB[:cut])
        folder.look(How.CHANGED)
        folder.let_pass(stall_s)
        assert folder.taken == [], cut
        folder.write(JOB)
        folder.look(How.CLOSED)
        folder.let_pass(200)
        assert folder.taken == [(JOB, "")], cut


def test_a_long_stall_at_every_byte_is_taken_at_its_limit_and_warned_of():
    """Stalled for ever: a cut between lines is taken after 30 s, any other one after 60 s with a warning."""
    for cut in CUTS:
        folder = Folder()
        folder.write(JOB[:cut])
        folder.look(How.CHANGED)
        ends = JOB[:cut].endswith(b"\n")
        folder.let_pass(29.99 if ends else 59.99)
        assert folder.taken == [], cut
        folder.let_pass(0.02)
        assert [content for content, _ in folder.taken] == [JOB[:cut]], cut
        assert bool(folder.taken[0][1]) is not ends, cut


def test_a_slow_copy_seen_only_by_scans_is_taken_whole():
    """Every byte arrives alone, 25 s apart, and no event tells of it: it is taken once, at the end."""
    folder = Folder()
    for cut in CUTS[1:]:
        folder.write(JOB[:cut])
        folder.let_pass(25)
        assert folder.taken == []
    folder.let_pass(40)
    assert folder.taken == [(JOB, "")]


@pytest.mark.parametrize("how", [How.MOVED, How.CLOSED])
def test_renamed_or_closed_is_taken_at_once(how):
    """Rename into place and close after writing need no wait, where the last line has its end."""
    folder = Folder()
    folder.write(JOB)
    folder.look(how)
    assert folder.taken == [(JOB, "")]


@pytest.mark.parametrize("how", [How.MOVED, How.CLOSED])
def test_renamed_or_closed_without_final_newline_waits_and_warns(how):
    """`epochs = 3` of `epochs = 300` is valid TOML, so a rename or a close alone proves nothing here."""
    folder = Folder()
    folder.write(b"epochs = 3")
    folder.look(how)
    folder.let_pass(59)
    assert folder.taken == []
    folder.let_pass(1)
    assert folder.taken[0][0] == b"epochs = 3"
    assert "cut short" in folder.taken[0][1]


def test_an_empty_file_is_taken_late_and_called_empty():
    """`touch job.toml` alone is told about after a minute, not swallowed for ever."""
    folder = Folder()
    folder.write(b"")
    folder.look(How.CLOSED)
    folder.let_pass(60)
    assert "empty" in folder.taken[0][1]


def test_any_change_restarts_the_wait():
    """Size, time and inode each restart it."""
    first = Reading(size=5, mtime_ns=1, inode=1, how=How.SCAN, ends_with_newline=True, at=100.0)
    state, _ = judge(None, first, PATIENCE)
    for change in ({"size": 6}, {"mtime_ns": 2}, {"inode": 2}):
        later = Reading(**{**_fields(first), "at": 125.0, **change})
        _, verdict = judge(state, later, PATIENCE)
        assert verdict == Wait(155.0)


def test_a_write_after_a_close_is_no_longer_complete():
    """Closed, then written again by someone who has not closed yet: the earlier close says nothing any more."""
    folder = Folder()
    folder.write(b"epochs = 3")
    folder.look(How.CLOSED)
    folder.now += 1
    folder.write(b"epochs = 300\nbatch")
    folder.look(How.CHANGED)
    folder.now += 1
    folder.write(b"epochs = 300\nbatch = 1\n")
    folder.look(How.CHANGED)
    assert folder.taken == []


def test_old_files_at_start_are_taken_at_once_and_young_ones_wait():
    """What lay there untouched before the daemon started needs no second wait."""
    for age_s, expected in ((31.0, Take()), (29.0, Wait(1030.0))):
        mtime_ns = int((1000.0 - age_s) * 1e9)
        seen = Reading(size=1, mtime_ns=mtime_ns, inode=1, how=How.START, ends_with_newline=True, at=1000.0)
        assert judge(None, seen, PATIENCE)[1] == expected


def test_an_old_time_stamp_proves_nothing_later():
    """`cp -p` and a server with a slow clock give old time stamps to files that are being written now."""
    seen = Reading(size=1, mtime_ns=0, inode=1, how=How.SCAN, ends_with_newline=True, at=1000.0)
    assert judge(None, seen, PATIENCE)[1] == Wait(1030.0)


def test_a_file_from_the_future_at_start_waits():
    """A time stamp ahead of our clock is not old."""
    seen = Reading(size=1, mtime_ns=int(9e18), inode=1, how=How.START, ends_with_newline=True, at=1000.0)
    assert judge(None, seen, PATIENCE)[1] == Wait(1030.0)


def test_changed_while_read_waits_anew_and_forgets_the_close():
    """Two looks that differ mean a writer at work, whatever an older event said."""
    seen = Reading(size=1, mtime_ns=1, inode=1, how=How.CLOSED, ends_with_newline=True, at=1000.0)
    state, verdict = changed_while_read(seen, PATIENCE)
    assert verdict == Wait(1030.0)
    assert state.complete is False


@given(st.lists(st.tuples(st.floats(0.1, 100.0), st.sampled_from(list(How)), st.integers(0, 3)), max_size=30))
def test_never_taken_before_its_limit_unless_the_writer_said_so(looks):
    """Whatever the order of looks, changes and pauses: taking needs a rename, a close, or a full quiet limit."""
    state, now, changed_at, said = None, 1000.0, 1000.0, False
    for pause_s, how, size in looks:
        now += pause_s
        if state is None or state.identity[0] != size:
            changed_at, said = now, False
        said = said or how.completes
        ends = size % 2 == 1
        seen = Reading(size=size, mtime_ns=int(9e18), inode=1, how=how, ends_with_newline=ends, at=now)
        state, verdict = judge(state, seen, PATIENCE)
        quiet_s = now - changed_at
        if isinstance(verdict, Take):
            assert (said and ends) or quiet_s >= (30.0 if ends else 60.0) - 1e-6
            assert bool(verdict.note) is not ends
        else:
            assert now < verdict.until <= now + 60.0


def _fields(reading):
    return {name: getattr(reading, name) for name in reading.__struct_fields__}
