"""The kernel log is followed: what it tells of GPUs, memory and disks, once each, over restarts, floods and lost rights."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from pathlib import Path

import pytest
from kernel_room import FakeJournal, KernelRoom, journal_line, quick
from msgspec.structs import replace

from supervisor.clock import current_boot
from supervisor.core.events import GpuFound, KernelSaid, XidSeen
from supervisor.core.gpus import xids
from supervisor.core.model import Boot
from supervisor.effects import kernel_log as effects_log
from supervisor.machine.kernel_log import KernelLog, clock_s, record_of
from supervisor.sources import kernel_feeds, kernel_log, xid_folding
from supervisor.sources.kernel_lines import Lines, Lost, Said

XID_13 = xids.TABLE[13].sample
XID_79 = xids.TABLE[79].sample
XID_119 = xids.TABLE[119].sample
OOM = "Memory cgroup out of memory: Killed process 1733 (python) total-vm:9kB, anon-rss:8kB, file-rss:0kB"
BAD_DISK = "I/O error, dev nvme0n1, sector 123 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2"
READ_ONLY = "EXT4-fs (nvme0n1p2): Remounting filesystem read-only"


@pytest.fixture
def room(tmp_path):
    """A source over a FIFO."""
    made = KernelRoom(tmp_path)
    yield made
    made.close()


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """A journalctl of pretence."""
    made = FakeJournal(tmp_path / "journal", monkeypatch)
    yield made
    made.close()


@pytest.fixture
def followed(room, monkeypatch):
    """The source of the room with its thread."""
    quick(monkeypatch)
    room.source.start()
    yield room
    room.source.stop()
    assert not room.source._thread.is_alive()


# ---- records
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"3,7,5000000,-;NVRM: x", (7, 5.0, 0, "NVRM: x")),
        (b"12,8,5000000,-;by a program", (8, 5.0, 1, "by a program")),
        (b"6,9,1,c,caller=T1;text; with; semicolons", (9, 1e-06, 0, "text; with; semicolons")),
        (rb"6,9,0,-;M\xc3\xbcll\x0atwo\\", (9, 0.0, 0, "Müll\ntwo\\\\")),
        (b"6,9,0,-;", (9, 0.0, 0, "")),
        (b" SUBSYSTEM=pci", None),
        (b" 6,9,0,-;a detail that looks like a record", None),
        (b"6,9;too short", None),
        (b"x,9,0,-;no number", None),
        (b"6,-1,0,-;no number", None),
        (b"no head", None),
        (b"", None),
    ],
)
def test_a_record_is_read_as_the_kernel_writes_it(line, expected):
    """Number, clock, facility and text; what the kernel escapes is itself again; details and nonsense are no record."""
    record = record_of(line)
    assert (None if record is None else tuple(record)) == expected


def test_records_that_come_in_pieces_are_put_together(room):
    """A FIFO gives bytes; lines that begin with a blank are details of the record before."""
    kernel = KernelLog(room.path)
    room.write("3,1,1,-;first\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n3,2,1,-;sec")
    assert [record.text for record in kernel.records()] == ["first"]
    room.write("ond\n3,3,1,-;third\n")
    assert [record.text for record in kernel.records()] == ["second", "third"]
    assert (kernel.ended, kernel.overwritten) == (False, 0)
    kernel.close()


def test_a_fifo_has_no_end_while_nobody_writes(tmp_path):
    """Its reader would else be woken for ever, as fast as it can run."""
    os.mkfifo(tmp_path / "fifo")
    kernel = KernelLog(tmp_path / "fifo")
    assert list(kernel.records()) == []
    assert not kernel.ended
    poll = select.poll()
    poll.register(kernel.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    kernel.close()


def test_what_is_no_log_does_not_fill_the_memory(tmp_path):
    """A file without line ends is read to its end, and nothing of it is kept."""
    (tmp_path / "file").write_bytes(b"x" * 1_000_000)
    kernel = KernelLog(tmp_path / "file")
    assert list(kernel.records()) == []
    assert kernel.ended
    assert len(kernel._rest) <= 64 * 1024
    kernel.close()


def test_records_that_were_overwritten_are_counted_and_reading_goes_on(room, monkeypatch):
    """EPIPE of the device means only that older records are gone."""
    real, broken = os.read, [True, True]

    def read(handle, size):
        if broken:
            broken.pop()
            raise BrokenPipeError
        return real(handle, size)

    monkeypatch.setattr(os, "read", read)
    room.say(XID_79)
    kernel = KernelLog(room.path)
    assert len(list(kernel.records())) == 1
    assert kernel.overwritten == 2
    kernel.close()


def test_the_real_log_of_this_machine_is_read():
    """Where it may be read: its numbers rise, and its clock is ours."""
    try:
        kernel = KernelLog()
    except OSError as error:
        pytest.skip(f"the kernel log may not be read here: {error}")
    records = list(kernel.records())
    kernel.close()
    assert records
    assert [record.seq for record in records] == sorted(record.seq for record in records)
    assert all(0 <= record.at_s <= clock_s() + 600 for record in records)


# ---- lines
@pytest.mark.parametrize(
    ("text", "bus_id", "uuid"),
    [
        ("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", "0000:3b:00.0", ""),
        ("NVRM: GPU at PCI:0000:3B:00: GPU-5a6b7c8d-0000-1111-2222-333344445555 has fallen off the bus.", "0000:3b:00.0", "GPU-5a6b7c8d-0000-1111-2222-333344445555"),
        ("NVRM: The NVIDIA GPU 0000:3b:00.0\nNVRM: (PCI ID: 10de:26b9) installed in this system has\nNVRM: fallen off the bus and is not responding to commands.", "0000:3b:00.0", ""),
        ("NVRM: The NVIDIA GPU 0000:3b:00.0 (PCI ID: 10de:26b9) installed in this system has fallen off the bus and is not responding to commands.", "0000:3b:00.0", ""),
    ],
)  # fmt: skip
def test_a_gpu_that_is_gone_is_known_without_an_xid(text, bus_id, uuid):
    """Both forms, on one line or on several."""
    found = Lines().read(text)
    assert found == Lost(bus_id, uuid, found.text)
    assert "fallen off the bus" in found.text


def test_the_long_form_may_come_as_several_records():
    """But only close together: a later end belongs to nothing."""
    parts = ["NVRM: The NVIDIA GPU 0000:3b:00.0", "NVRM: (PCI ID: 10de:26b9) installed in this system has", "NVRM: fallen off the bus and is not responding to commands."]  # fmt: skip
    lines = Lines()
    assert [type(lines.read(part)) for part in parts] == [type(None), type(None), Lost]
    assert lines.read(parts[2]) is None
    lines.read(parts[0])
    for _ in range(5):
        lines.read("NVRM: loading NVIDIA UNIX x86_64 Kernel Module")
    assert lines.read(parts[2]) is None


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: GPU 0000:3b:00.0: GPU is on Board 1234.",
        "NVRM: GPU at PCI:0000:3b:00: GPU-5a6b7c8d-0000-1111-2222-333344445555",
        "NVRM: nvGpuOpsReportFatalError: uvm encountered global fatal error 0x60, requiring os reboot to recover.",
        "python[1]: NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.",
        "usb 1-1: Product: Out of memory: Killed process 1733 (python) ",
        "usb 1-1: Product: I/O error, dev sda, sector 1",
        "oom_reaper: reaped process 1733 (python), now anon-rss:0kB",
        "python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "I/O error, dev fd0, sector 0 op 0x0:(READ)",
        "Buffer I/O error on dev sr0, logical block 0, async page read",
        "EXT4-fs (sda1): mounted filesystem with ordered data mode. Quota mode: none.",
        "EXT4-fs (sda1): re-mounted r/o",
        "XFS (sda1): Mounting V5 Filesystem",
        "nvme nvme0: 16/0/0 default/read/poll queues",
        "",
    ],
)
def test_other_lines_tell_nothing(text):
    """Near misses, drives without disks, and what somebody else may choose the words of."""
    assert Lines().read(text) is None


@pytest.mark.parametrize(
    ("text", "what", "device", "pid"),
    [
        (OOM, "oom", "python", 1733),
        ("Out of memory: Killed process 12 (pt_main_thread) total-vm:1kB", "oom", "pt_main_thread", 12),
        ("Out of memory (oom_kill_allocating_task): Killed process 12 (a) total-vm:1kB", "oom", "a", 12),
        ("Killed process 12 (a b) total-vm:1kB, anon-rss:1kB", "oom", "a b", 12),
        (BAD_DISK, "io-error", "nvme0n1", 0),
        ("blk_update_request: I/O error, dev sda, sector 8 op 0x0", "io-error", "sda", 0),
        ("critical medium error, dev sdb, sector 8", "io-error", "sdb", 0),
        ("critical space allocation error, dev sdb, sector 8", "io-error", "sdb", 0),
        ("Buffer I/O error on dev sda1, logical block 3, lost async page write", "io-error", "sda1", 0),
        ("EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm ls: reading directory", "io-error", "sda1", 0),
        ('XFS (dm-0): metadata I/O error in "xfs_trans_read" at daddr 0x1 len 8 error 5', "io-error", "dm-0", 0),
        ("BTRFS error (device sdc1 state EA): bdev /dev/sdc1 errs: wr 1", "io-error", "sdc1", 0),
        ("nvme nvme0: I/O 12 (I/O Cmd) QID 3 timeout, aborting", "io-error", "nvme0", 0),
        ("nvme nvme1: controller is down; will reset: CSTS=0xffffffff", "io-error", "nvme1", 0),
        ("ata3.00: failed command: READ FPDMA QUEUED", "io-error", "ata3", 0),
        ("sd 0:0:0:0: [sda] tag#5 Sense Key : Medium Error [current]", "io-error", "sda", 0),
        ("nfs: server nas1 not responding, still trying", "io-error", "nas1", 0),
        (READ_ONLY, "read-only", "nvme0n1p2", 0),
        ("BTRFS info (device sdc1): forced readonly", "read-only", "sdc1", 0),
        ("BTRFS info (device sdc1 state E): forced readonly", "read-only", "sdc1", 0),
        ("XFS (dm-0): Filesystem has been shut down due to log error (0x2).", "read-only", "dm-0", 0),
        ("XFS (dm-0): Corruption of in-memory data detected.  Shutting down filesystem", "read-only", "dm-0", 0),
    ],
)  # fmt: skip
def test_trouble_of_the_machine_is_told_with_what_it_is_about(text, what, device, pid):
    """Memory, disks and file systems, as kernels of several years write them."""
    found = Lines().read(text)
    assert isinstance(found, Said)
    assert (found.what, found.device, found.pid) == (what, device, pid)


# ---- what is told
def test_an_xid_is_told_with_whose_it_is_and_a_second_look_is_asked_for(room):
    """The GPU by its place on the bus, the attempt by the process, the time by the kernel's clock."""
    number = room.say(XID_13, ago_s=30.0)
    [event] = room.look()
    assert isinstance(event, XidSeen)
    assert (event.xid, event.gpu, event.bus_id, event.pid, event.process) == (
        13,
        "GPU-three",
        "0000:3b:00.0",
        1733,
        "python",
    )
    assert (event.source, event.seq, event.run, event.attempt, event.place) == (
        "kernel",
        number,
        "run-1",
        2,
        "GPC 2 TPC 1",
    )
    assert event.at == pytest.approx(room.time - 30, abs=2)
    assert not event.old
    assert (room.looked, room.left_alone) == (["GPU-three"], [])


def test_after_a_firmware_timeout_the_driver_is_left_alone(room):
    """A call into it may never return, so no second look is asked for, on this GPU."""
    room.say(XID_119)
    room.say(XID_79.replace("3b", "5e"))
    assert [event.xid for event in room.look()] == [119, 79]
    assert (room.left_alone, room.looked) == (["GPU-three"], ["GPU-five"])


def test_an_xid_of_a_gpu_that_nobody_knows_is_told_without_one(room):
    """It may be of a GPU that was never listed; whom it belongs to can still be seen by the place."""
    room.say(XID_79.replace("3b", "99"))
    [event] = room.look()
    assert (event.gpu, event.bus_id) == ("", "0000:99:00.0")
    assert room.looked == []


def test_severity_and_action_come_with_the_event(room):
    """They are in the line only."""
    room.say(xids.TABLE[145].sample)
    room.say(xids.TABLE[154].sample)
    assert [(event.severity, event.action) for event in room.look()] == [("fatal", ""), ("", "reset")]


def test_what_programs_write_into_the_log_is_not_believed(room):
    """Else whoever may write there could take a GPU away from others."""
    room.say(XID_79, facility=1)
    room.say(XID_79, facility=3)
    room.say(OOM, facility=1)
    assert room.look() == []
    assert room.looked == []


def test_a_lost_gpu_is_told_once_for_all_its_lines(room):
    """Its lines come together; a minute later it is news again. One that nobody listed is said in the log."""
    room.say("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.")
    room.say(
        "NVRM: The NVIDIA GPU 0000:3b:00.0 (PCI ID: 10de:1) installed in this system has fallen off the bus and is not responding to commands."
    )
    [event] = room.look()
    assert isinstance(event, GpuFound)
    assert (event.gpu, event.finding, event.source, event.open) == ("GPU-three", "lost", "kernel", True)
    assert room.looked == ["GPU-three"]
    room.time += 61
    room.say("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.")
    assert len(room.look()) == 1


def test_a_lost_gpu_that_nobody_listed_is_said_in_the_log(room, caplog):
    """There is no GPU to hold it against."""
    for _ in range(2):
        room.say("NVRM: GPU 0000:99:00.0: GPU has fallen off the bus.")
        assert room.look() == []
    assert len(caplog.records) == 1


def test_a_process_killed_for_memory_is_told_with_its_run(room):
    """Each one of ours; of others one of a name in a minute."""
    room.say(OOM)
    room.say(OOM.replace("1733", "2000"))
    room.say(OOM.replace("1733", "2001"))
    room.say(OOM)
    events = room.look()
    assert [(event.pid, event.run, event.device) for event in events] == [
        (1733, "run-1", "python"),
        (2000, "", "python"),
        (1733, "run-1", "python"),
    ]
    assert all(isinstance(event, KernelSaid) and event.what == "oom" and event.seq > 0 for event in events)


def test_a_failing_disk_is_told_once_in_ten_minutes(room):
    """Each device by itself; that it became read-only is another thing."""
    for text in (BAD_DISK, BAD_DISK, BAD_DISK.replace("nvme0n1", "sda"), READ_ONLY, READ_ONLY):
        room.say(text)
    assert [(event.what, event.device) for event in room.look()] == [
        ("io-error", "nvme0n1"),
        ("io-error", "sda"),
        ("read-only", "nvme0n1p2"),
    ]
    room.time += 599
    room.say(BAD_DISK)
    assert room.look() == []
    room.time += 2
    room.say(BAD_DISK)
    assert len(room.look()) == 1


def test_a_record_that_cannot_be_understood_does_not_end_the_watch(room, monkeypatch, caplog):
    """A bug in reading one line must not hide the next one."""
    real = room.source._lines.read
    monkeypatch.setattr(room.source._lines, "read", lambda text: 1 / 0 if text == "x" else real(text))
    room.say("x")
    room.say(XID_79)
    assert [event.xid for event in room.look()] == [79]
    assert "a bug" in caplog.text


# ---- floods
def test_equal_lines_are_told_once_and_then_as_a_number(room):
    """The first at once; the others together, when a minute is over; then it begins anew."""
    for _ in range(500):
        room.say(XID_79)
    [first] = room.look()
    assert room.look() == []
    room.time += 60
    [total] = room.look()
    assert total == replace(first, seq=-1, at=total.at, text=f"{first.text} (500 times)")
    assert room.looked == ["GPU-three"]
    room.time += 1
    assert room.look() == []
    room.say(XID_79)
    [again] = room.look()
    assert (again.text, again.seq) == (first.text, room.seq)
    room.time += 61
    assert room.look() == []


def test_what_differs_is_not_folded(room):
    """Another GPU, another Xid, another process, another place, another verdict of the driver."""
    for text in (
        XID_13,
        XID_13.replace("3b", "5e"),
        xids.TABLE[31].sample,
        XID_13.replace("1733", "1734"),
        XID_13.replace("TPC 1", "TPC 2"),
        xids.TABLE[154].sample,
        xids.TABLE[154].sample.replace("to 0x1 (GPU Reset", "to 0x2 (Node Reboot"),
    ):
        room.say(text)
        room.say(text)
    assert len(room.look()) == 7


def test_a_flood_of_different_lines_is_bounded_and_hides_no_other_xid(room):
    """A thousand processes with the same error are some of them and a number; the GPU's end is still told at once."""
    for pid in range(1000):
        room.say(XID_13.replace("1733", str(5000 + pid)))
        if pid % 100 == 99:
            room.look()
    room.say(XID_79)
    room.look()
    xid_13 = [event for event in room.events if event.xid == 13]
    assert len(xid_13) == xid_folding.DIFFERENT
    assert room.events[-1].xid == 79
    room.time += 61
    totals = room.look()
    assert sum(int(event.text.rpartition("(")[2].split()[0]) for event in totals) == 1000 - xid_folding.DIFFERENT + 1


def test_a_storm_of_lines_costs_little(room):
    """17,000 lines a second of one kind, as a GPU with failing memory writes them, must leave a core free."""
    record = record_of(f"3,1,{int(clock_s() * 1e6)},-;{XID_79}".encode())
    begun = time.thread_time()
    for seq in range(17_000):
        room.source._take(record._replace(seq=seq + 1))
    assert time.thread_time() - begun < 1.0
    assert len(room.events) == 1


def test_a_flood_that_never_ends_does_not_hold_up_the_rest(room):
    """Totals are told, and the watch is seen to be alive, while more comes than can be read."""

    class Endless:
        overwritten = 0
        ended = False

        def records(self):
            for seq in range(1, 200):
                room.time += 1.0
                yield record_of(f"3,{seq},{int(clock_s() * 1e6)},-;{XID_79}".encode())

    room.source.look(Endless())
    assert len([event for event in room.events if "times)" in event.text]) == 3
    assert room.source.state.read_at == room.time


# ---- over restarts
def test_what_was_acted_upon_is_not_told_again(room):
    """The world knows the newest record; the log is read from its beginning after a restart."""
    done = room.say(XID_79)
    room.look()
    room.world = replace(room.world, kernel_seq=done, kernel_boot=current_boot())
    room.say(XID_79, seq=done)
    new = room.say(xids.TABLE[48].sample)
    assert [event.seq for event in room.begin(room.new_source())] == [new]


def test_what_was_said_while_nobody_looked_counts(room):
    """A GPU that fell off the bus while the daemon was down is not history."""
    room.world = replace(room.world, kernel_seq=50, kernel_boot=current_boot(), booted_at=room.time)
    room.say(XID_79, ago_s=20)
    [event] = room.begin(room.new_source())
    assert not event.old
    assert room.looked == ["GPU-three"]


def test_what_was_said_before_our_first_start_in_this_boot_is_only_noted(room):
    """Old Xids are told as old, and nobody is asked to look; other old news are not told at all."""
    room.world = replace(room.world, booted_at=room.time - 10, kernel_seq=10**6, kernel_boot=Boot(boot_id="another"))
    room.say(XID_13, ago_s=20)
    room.say(BAD_DISK, ago_s=20)
    room.say("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", ago_s=20)
    room.say(xids.TABLE[48].sample, ago_s=5)
    events = room.begin(room.source)
    assert [(event.xid, event.old, event.run) for event in events] == [(13, True, ""), (48, False, "run-1")]
    assert room.looked == ["GPU-three"]
    room.say(XID_79, ago_s=3600)
    assert [event.old for event in room.look()] == [False]


def test_how_far_was_read_is_kept_for_the_next_life(room):
    """Also what leads to no Xid, such as a disk: it is not told a second time. Only what is surely journalled counts."""
    room.say(BAD_DISK)
    room.look()
    room.time += 4
    room.look()
    assert not (room.folder / "place.json").exists()
    room.time += 2
    room.look()
    room.say(BAD_DISK, seq=room.seq)
    new = room.say(XID_79)
    assert [event.seq for event in room.begin(room.new_source())] == [new]


def test_a_kept_place_of_another_boot_or_log_is_not_used(room, tmp_path):
    """Numbers begin anew with each boot, and each log has its own."""
    place = tmp_path / "place.json"
    for text in (
        '{"path": "/dev/kmsg", "boot_id": "%s", "seq": 999999}',
        '{"path": "%s", "boot_id": "x", "seq": 999999}',
        "{",
    ):
        place.write_text(text % current_boot().boot_id if "/dev" in text else text % room.path if "%" in text else text)
        room.say(XID_79)
        assert len(room.begin(room.new_source())) == 1


def test_a_place_that_cannot_be_kept_is_said_once(room, caplog, tmp_path):
    """A full disk must not stop the watching of GPUs."""
    (tmp_path / "place.json").mkdir()
    for _ in range(2):
        room.say(BAD_DISK)
        room.time += 700
        room.look()
        room.time += 100
        room.look()
    assert len([one for one in caplog.records if "cannot keep how far" in one.message]) == 1
    assert len(room.events) == 2


# ---- the thread
def test_a_line_is_told_at_once(followed):
    """The thread sleeps until there is something to read, and says how it is."""
    followed.until(lambda: followed.source.state.way == "kmsg")
    begun = time.monotonic()
    followed.say(XID_79)
    followed.until(lambda: followed.events)
    assert time.monotonic() - begun < 1.0
    followed.until(lambda: followed.source.state.read_at)
    assert followed.source.state.text == ""


def test_a_quiet_log_is_seen_to_be_watched(followed):
    """No record is not no watch: the time of the last look goes on."""
    followed.until(lambda: followed.source.state.read_at)
    followed.time += 100
    followed.until(lambda: followed.source.state.read_at == followed.time)


def test_a_total_is_told_without_anything_new(followed):
    """When the minute is over, not when the next line comes."""
    followed.say(XID_79)
    last = followed.say(XID_79)
    followed.until(lambda: followed.source._place().seq == last)
    followed.time += 61
    followed.until(lambda: len(followed.events) == 2)
    assert followed.events[1].text.endswith("(2 times)")


def test_the_world_of_the_last_boot_is_not_taken_for_this_one(room, monkeypatch):
    """The event that names the new boot comes through the same inbox: it is waited for."""
    quick(monkeypatch)
    room.world = replace(room.world, boot=Boot(boot_id="before"))
    asked = threading.Event()
    real = room.source._begin
    monkeypatch.setattr(room.source, "_begin", lambda: (asked.set(), real()))
    room.source.start()
    assert not asked.wait(0.05)
    room.world = replace(room.world, boot=current_boot())
    assert asked.wait(5)
    room.source.stop()


def test_overwritten_records_are_said_once(room, caplog):
    """They may have been the ones that mattered; the state counts them."""

    class Feed:
        overwritten = 3
        ended = False

        def records(self):
            return iter(())

    room.source.look(Feed())
    room.source.look(Feed())
    assert [one.levelno for one in caplog.records] == [logging.WARNING]
    assert room.source.state.overwritten == 3


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (kernel_log.State(), "starting"),
        (kernel_log.State(way="none", text="it may not be read"), "it may not be read"),
        (kernel_log.State(way="kmsg", read_at=990.0), "followed"),
        (kernel_log.State(way="journald", read_at=990.0), "followed by journald"),
        (kernel_log.State(way="kmsg", read_at=400.0), "not looked at for 10 min"),
        (kernel_log.State(way="kmsg", read_at=990.0, overwritten=3), "followed; 3 times records were overwritten before they were read"),
    ],
)  # fmt: skip
def test_how_the_log_is_followed_is_told_in_words(state, words):
    """What begins with "followed" needs nobody's attention; all else is shown with the GPUs."""
    assert state.words(1000.0) == words


# ---- journald
def test_where_the_log_may_not_be_opened_the_journal_is_followed(room, journal, monkeypatch):
    """Text and process are the same; records have no number there. Only the kernel's own messages count."""
    quick(monkeypatch)
    journal.had(
        journal_line("Linux version 6.1", ago_s=50),
        journal_line(XID_79, transport="syslog", ago_s=40),
        journal_line(XID_79, facility="1", ago_s=40),
        journal_line(list(XID_79.encode()), ago_s=30),
        "no json\n",
        journal_line(None, MESSAGE=None, ago_s=20),
    )
    source = room.source = room.new_source(Path("/nowhere/kmsg"))
    source.start()
    room.until(lambda: room.events)
    journal.says(journal_line(XID_13))
    room.until(lambda: len(room.events) == 2)
    source.stop()
    assert source.state.way == "journald"
    assert [(event.xid, event.seq, event.run) for event in room.events] == [(79, -1, ""), (13, -1, "run-1")]
    assert room.events[0].at == pytest.approx(room.time - 30, abs=2)
    assert all({"-k", "-o", "json", "--no-pager"} <= set(call.split()) for call in journal.calls())
    assert "--follow" in journal.calls()[1]


def test_a_journalctl_that_dies_is_started_anew_and_nothing_is_told_twice(room, journal, monkeypatch):
    """It shows the whole boot again; the kernel's time tells what is new."""
    quick(monkeypatch)
    first = journal_line(XID_79, ago_s=30)
    journal.had(first)
    (journal.folder / "dies").touch()
    source = room.source = room.new_source(Path("/nowhere/kmsg"))
    source.start()
    room.until(lambda: len(journal.calls()) >= 4)
    room.time += 100  # long enough for the same line to be news
    journal.had(first, journal_line(XID_13, ago_s=1))
    (journal.folder / "dies").unlink()
    room.until(lambda: len(room.events) >= 2)
    source.stop()
    assert [event.xid for event in room.events] == [79, 13]


def test_no_way_to_read_is_said_once_with_what_to_do(room, monkeypatch, caplog, tmp_path):
    """It is in the state for whoever asks, and in the log once; rights that come later are used."""
    quick(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    later = tmp_path / "later"
    source = room.source = room.new_source(later)
    source.start()
    room.until(lambda: source.state.way == "none")
    text = source.state.text
    room.until(lambda: (later.write_text(f"3,1,1,-;{XID_79}\n"), len(room.events) > 1)[1])
    source.stop()
    assert [(type(event), getattr(event, "what", "")) for event in room.events] == [
        (KernelSaid, "unreadable"),
        (XidSeen, ""),
    ]
    assert room.events[0].text == text
    assert f"{later}: No such file or directory" in text
    assert "journalctl: it is not installed" in text
    assert "CAP_SYSLOG" in text
    assert len([one for one in caplog.records if "cannot be read" in one.message]) == 1
    assert source.state.way == "kmsg"
    assert source.state.text == ""


@pytest.mark.parametrize("shut", ["No journal files were opened due to insufficient permissions.", ""])
def test_a_journal_that_shows_nothing_is_no_watch(journal, shut):
    """Every boot has messages of the kernel; to follow an empty one would be a watch that silently does not run."""
    if shut:
        (journal.folder / "shut").write_text(shut)
    with pytest.raises(OSError, match=shut or "holds no messages of the kernel"):
        kernel_feeds.JournalFeed()


def test_a_journal_that_does_not_answer_is_given_up(journal, monkeypatch):
    """It may hang on a broken disk."""
    monkeypatch.setattr(kernel_feeds, "CANARY_S", 0.05)
    (journal.folder / "lines").unlink()
    os.mkfifo(journal.folder / "lines")
    with pytest.raises(TimeoutError, match="no answer"):
        kernel_feeds.JournalFeed()


@pytest.mark.parametrize("kind", ["null", "console", "file", "fifo", "folder"])
def test_what_lies_in_the_place_of_the_kernels_device_is_not_followed(tmp_path, monkeypatch, kind):
    """Containers have /dev/null or a console there, from which no word would ever come: a watch that sees nothing."""
    kmsg = tmp_path / "kmsg"
    if kind in {"null", "console"}:
        kmsg.symlink_to(f"/dev/{'null' if kind == 'null' else 'tty'}")
    else:
        {"file": kmsg.touch, "fifo": lambda: os.mkfifo(kmsg), "folder": kmsg.mkdir}[kind]()
    monkeypatch.setattr("supervisor.machine.kernel_log.KMSG", kmsg)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="it is not the device of the kernel log; journalctl: it is not installed"):
        kernel_feeds.opened(kmsg)


def test_a_stand_in_is_followed_where_the_configuration_names_one(tmp_path):
    """A FIFO or a file elsewhere; but no other device."""
    for make in (Path.touch, os.mkfifo):
        make(tmp_path / make.__name__)
        feed = kernel_feeds.opened(tmp_path / make.__name__)
        assert feed.way == "kmsg"
        feed.close()
    with pytest.raises(OSError, match="not the device"):
        KernelLog(Path("/dev/null"))


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch])
def test_a_device_without_any_record_is_no_watch(tmp_path, make):
    """Every boot has messages of the kernel: whether it would block or is at its end, nothing comes from it."""
    make(tmp_path / "log")
    handle = os.open(tmp_path / "log", os.O_RDWR | os.O_NONBLOCK)
    with pytest.raises(OSError, match="holds no messages of the kernel"):
        kernel_feeds.prove_device(handle)
    os.close(handle)


def test_a_device_that_has_records_is_read_from_the_first_on(tmp_path):
    """The look whether there is any takes none away."""
    (tmp_path / "log").write_bytes(b"3,1,1,-;first\n")
    handle = os.open(tmp_path / "log", os.O_RDONLY)
    kernel_feeds.prove_device(handle)
    assert os.read(handle, 99) == b"3,1,1,-;first\n"
    os.close(handle)


def test_a_bug_while_following_is_said_once_and_it_goes_on(room, monkeypatch, caplog):
    """A watch that dies of an exception would be one that nobody misses; one that lasts must not fill the log."""
    quick(monkeypatch)
    real, broken = kernel_log.opened, [True] * 3

    def opened(path):
        if broken.pop() if broken else False:
            raise ZeroDivisionError
        return real(path)

    monkeypatch.setattr(kernel_log, "opened", opened)
    room.say(XID_79)
    room.source.start()
    room.until(lambda: room.events)
    room.source.stop()
    assert caplog.text.count("a bug: following the kernel log failed") == 1


def test_the_evidence_of_an_attempts_end_is_the_kernels_own_too(room):
    """What a program wrote into the log is none, there as here: one reader serves both."""
    room.say(XID_79, facility=1)
    room.say(OOM)
    assert effects_log.read(room.time - 50, room.time, room.path) == (OOM,)
