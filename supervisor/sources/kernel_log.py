"""What the kernel says: errors of GPUs (Xids), GPUs that are gone, processes killed for memory, disks that fail.

One thread follows its log from the first record that was not yet acted upon: what was said while the daemon was away
counts, what was said before its first start in this boot is only noted. It answers also where the GPU driver hangs.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from supervisor import durable
from supervisor.clock import current_boot, wait_for_boot
from supervisor.core import events
from supervisor.core.gpus import xids
from supervisor.core.gpus.xids import ParsedXid
from supervisor.core.model import World
from supervisor.core.words import duration
from supervisor.machine.kernel_log import KERNEL, Record, clock_s
from supervisor.sources.kernel_feeds import JournalFeed, KernelFeed, opened
from supervisor.sources.kernel_lines import Lines, Lost, Said
from supervisor.sources.rounds import Safely
from supervisor.sources.xid_folding import Folder

log = logging.getLogger("yolo-supervisor")

PATIENCE_S = 5.0
STILL_S = 12 * PATIENCE_S
_FOLLOWED = {"kmsg": "followed", "journald": "followed by journald"}
AGAIN_S = 60.0  # a log that may not be read is tried again: rights can be given while we run
BEFORE_START_S = 2.0  # the clocks of kernel and system are two
FLOOD_S = 1.0
SAME_S = {"io-error": 600.0, "read-only": 600.0, "lost": 60.0, "oom": 60.0}
#: A record that was told so long ago is in the journal; until then, whoever starts after a crash reads it again.
SETTLED_S = 5.0
SAVE_EVERY_S = 60.0
TODO = (
    "give the daemon CAP_SYSLOG (AmbientCapabilities=CAP_SYSLOG in its unit), or its user the group systemd-journal; "
    "errors of GPUs are then known from NVML alone, without process and place"
)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the watch works. `way`: kmsg, journald, starting or none; `text`: why none, and what to do.

    `read_at`: when it was last looked at and could be read, in Unix seconds, 0.0: never. `overwritten`: how often
    records were gone before they were read.
    """

    way: str = "starting"
    text: str = ""
    read_at: float = 0.0
    overwritten: int = 0

    def words(self, now: float) -> str:
        """How it stands; begins with "followed" where all is well: a watch that silently does not run must be seen."""
        if self.way not in _FOLLOWED:
            return self.text or self.way
        if self.read_at and now - self.read_at > STILL_S:
            return f"not looked at for {duration(now - self.read_at)}"
        lost = f"; {self.overwritten} times records were overwritten before they were read" if self.overwritten else ""
        return f"{_FOLLOWED[self.way]}{lost}"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log was read: the number of a record (-1: they have none) and the kernel's time of it."""

    path: str = ""
    boot_id: str = ""
    seq: int = -1
    at_s: float = 0.0


class KernelLogSource:
    """Reports XidSeen, GpuFound (lost) and KernelSaid; `unreadable` of the latter is about the log itself."""

    def __init__(
        self,
        path: Path,
        put: Callable[[events.Event], None],
        world: Callable[[], World],
        now: Callable[[], float],
        *,
        whose: Callable[[int, float], tuple[str, int]],
        uuid_of: Callable[[str], str],
        look_now: Callable[[str], None],
        leave_alone: Callable[[str], None],
        place_file: Path,
    ) -> None:
        """Follow `path`, else systemd's journal.

        `whose` names run and attempt of a process at a time (Unix seconds), ("", 0) if it is none of ours; it must know
        processes for a while after their end, for the line often comes later than that. `uuid_of` names the GPU with a
        bus id (0000:3b:00.0), empty if there is none. `look_now` has a GPU read at once, for a second opinion;
        `leave_alone`: no call into the driver for it any more, it may never return. None of these may block.
        `place_file` keeps how far was read.
        """
        self._path = path
        self._put = put
        self._world = world
        self._now = now
        self._whose = whose
        self._uuid_of = uuid_of
        self._look_now = look_now
        self._leave_alone = leave_alone
        self._place_file = place_file
        self._boot_id = current_boot().boot_id
        self._way = "starting"
        self._text = ""
        self._read_at = self._record_at = 0.0
        self._overwritten = 0
        self._lines = Lines()
        self._folder = Folder()
        self._told: dict[tuple[str, str], float] = {}
        self._seq = -1
        self._at_s = self._from_s = 0.0
        self._saved = Place()
        self._saved_at = 0.0
        self._put_at = 0.0
        self._judge_age = False
        self._warned: set[str] = set()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wait_s = AGAIN_S
        self._safely = Safely("following the kernel log")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kernel-log", daemon=True)

    # ---- from other threads
    @property
    def state(self) -> State:
        """Whether it can be read, and when it last was."""
        return State(way=self._way, text=self._text, read_at=self._read_at, overwritten=self._overwritten)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End within 2 s."""
        self._stopping.set()
        os.write(self._wake_write, b"x")
        if self._thread.is_alive():
            self._thread.join(2.0)

    # ---- the thread
    def _work(self) -> None:
        wait_for_boot(self._world, self._stopping)
        self._begin()
        while not self._stopping.is_set():
            self._safely(self._round)
            self._stopping.wait(self._wait_s)
        self._save(SETTLED_S)

    def _round(self) -> None:
        self._wait_s = AGAIN_S
        try:
            self._wait_s = self._follow()
        except OSError as error:
            self._not_readable(f"the kernel log cannot be read: {error.strerror or error}; {TODO}")

    def _begin(self) -> None:
        """Go on behind what was read, by our own file or by what was acted upon; else tell old from new by the time."""
        world, place = self._world(), self._kept()
        if place.boot_id == self._boot_id and place.path == str(self._path):
            self._seq, self._at_s = place.seq, place.at_s
        if world.kernel_boot.boot_id == self._boot_id:
            self._seq = max(self._seq, world.kernel_seq)
        self._saved = self._place()

    def _kept(self) -> Place:
        try:
            return msgspec.json.decode(self._place_file.read_bytes(), type=Place)
        except (OSError, msgspec.MsgspecError):
            return Place()  # there is none yet, or it was damaged: the journal knows nearly as much

    def _follow(self) -> float:
        """Read until told to stop, or until it is at an end; then the seconds after which it may have more."""
        feed = opened(self._path)
        try:
            self._way, self._text = feed.way, ""
            self._warned.discard("none")
            self._from_s = self._at_s
            self._judge_age = not self._at_s and (self._seq < 0 or feed.way != KernelFeed.way)
            poll = select.poll()
            for handle in (feed.fileno(), self._wake_read):
                poll.register(handle, select.POLLIN)
            while not self._stopping.is_set():
                self.look(feed)
                if feed.ended:  # a journalctl that died, or a plain file
                    break
                poll.poll(self._patience_s() * 1000)
        finally:
            feed.close()
        return PATIENCE_S

    def look(self, feed: KernelFeed | JournalFeed) -> None:
        """Take all that is there now. Called by the thread."""
        for record in feed.records():
            self._take(record)
            if self._stopping.is_set():
                return
            if self._record_at - self._read_at >= FLOOD_S:
                self._tidy(feed)
        self._judge_age = False  # from here on everything is new
        self._tidy(feed)

    def _tidy(self, feed: KernelFeed | JournalFeed) -> None:
        """Do what is due from time to time, also while more comes than can ever be read to its end."""
        now = self._now()
        for event in self._folder.over(now):
            self._tell(event)
        self._read_at, self._overwritten = now, feed.overwritten
        if feed.overwritten:
            self._warn("overwritten", "the kernel log was overwritten before it was read: some records are lost")
        self._save(SAVE_EVERY_S)

    def _patience_s(self) -> float:
        until_total = self._folder.patience_s(self._now())
        return PATIENCE_S if until_total is None else min(PATIENCE_S, until_total + 0.001)

    def _take(self, record: Record) -> None:
        if self._is_known(record):
            return
        self._seq, self._at_s = record.seq, record.at_s
        self._record_at = self._now()
        if record.facility != KERNEL:
            return  # whoever may write into the log could take a GPU away from others
        self._safely(partial(self._read, record))  # the next record may be the one that matters

    def _is_known(self, record: Record) -> bool:
        if record.seq >= 0 and self._seq >= 0:
            return record.seq <= self._seq
        return record.at_s <= self._from_s

    def _read(self, record: Record) -> None:
        found = self._lines.read(record.text)
        if found is None:
            return
        now = self._now()
        at = min(now, now - (clock_s() - record.at_s))
        old = self._judge_age and at < self._world().booted_at - BEFORE_START_S
        if isinstance(found, ParsedXid):
            self._xid(found, record.seq, at, old=old)
        elif old:
            return  # what lasts is found by looking, and what does not is history
        elif isinstance(found, Lost):
            self._lost(found, at)
        else:
            self._said(found, record.seq, at)

    def _xid(self, found: ParsedXid, seq: int, at: float, *, old: bool) -> None:
        group = (found.bus_id, found.xid)
        details = (found.pid, found.place, found.severity, found.action, old)
        if self._folder.again(group, details, at):
            return
        gpu = self._uuid_of(found.bus_id)
        run, attempt = self._whose(found.pid, at) if found.pid and not old else ("", 0)
        event = events.XidSeen(
            at=at,
            origin="kernel-log",
            xid=found.xid,
            text=found.text,
            gpu=gpu,
            bus_id=found.bus_id,
            pid=found.pid,
            process=found.process,
            source="kernel",
            seq=seq,
            run=run,
            attempt=attempt,
            severity=found.severity,
            action=found.action,
            place=found.place,
            old=old,
        )
        self._folder.told(group, details, event, self._now())
        self._tell(event)
        if gpu and not old:
            self._poke(gpu, found.xid)

    def _poke(self, gpu: str, xid: int) -> None:
        """Have a second opinion at once; but never from a driver that may not answer."""
        if xids.row(xid).stops_nvml:
            self._leave_alone(gpu)
        else:
            self._look_now(gpu)

    def _lost(self, found: Lost, at: float) -> None:
        gpu = self._uuid_of(found.bus_id) or found.uuid
        if not gpu:
            self._warn(f"lost {found.bus_id}", f"the kernel log tells of a GPU that nobody has listed: {found.text}")
        elif self._is_news("lost", gpu):
            lost = events.GpuFound(
                at=at, origin="kernel-log", gpu=gpu, finding="lost", source="kernel", text=found.text
            )
            self._tell(lost)
            self._look_now(gpu)

    def _said(self, found: Said, seq: int, at: float) -> None:
        run, _ = self._whose(found.pid, at) if found.pid else ("", 0)
        if not run and not self._is_news(found.what, found.device):
            return
        self._tell(
            events.KernelSaid(
                at=at,
                origin="kernel-log",
                what=found.what,
                text=found.text,
                device=found.device,
                pid=found.pid,
                seq=seq,
                run=run,
            )
        )

    def _is_news(self, what: str, device: str) -> bool:
        """False if it was told a short while ago: a failing disk writes thousands of lines."""
        now = self._now()
        self._told = {key: at for key, at in self._told.items() if now - at < SAME_S[key[0]]}
        news = (what, device) not in self._told
        self._told.setdefault((what, device), now)
        return news

    def _tell(self, event: events.Event) -> None:
        self._put_at = self._now()
        self._put(event)

    # ---- what is kept, and what people are told
    def _save(self, every_s: float) -> None:
        """Keep how far was read, once what was told of it is surely in the journal."""
        now = self._now()
        soon = self._put_at > self._saved_at
        place = self._place()
        if place == self._saved or now - self._put_at < SETTLED_S:
            return
        if not soon and now - self._saved_at < every_s:
            return
        try:
            durable.write(self._place_file, msgspec.json.encode(place))
        except OSError as error:
            self._warn("place", f"cannot keep how far the kernel log was read: {self._place_file}: {error.strerror}")
        self._saved, self._saved_at = place, now

    def _place(self) -> Place:
        return Place(path=str(self._path), boot_id=self._boot_id, seq=self._seq, at_s=self._at_s)

    def _not_readable(self, text: str) -> None:
        self._way, self._text = "none", text
        if "none" not in self._warned:
            self._tell(events.KernelSaid(at=self._now(), origin="kernel-log", what="unreadable", text=text))
        self._warn("none", text)

    def _warn(self, about: str, text: str) -> None:
        """Say it once."""
        if about not in self._warned:
            self._warned.add(about)
            log.warning("%s", text)
