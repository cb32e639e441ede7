"""What is gathered at the end of an attempt: log, kernel log, place, disks, mounts, and what could not be seen."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from supervisor.core.actions import Examine
from supervisor.core.consistency import Data, Fingerprint, Split
from supervisor.core.diagnosis import tables
from supervisor.core.diagnosis.evidence import Disk
from supervisor.core.diagnosis.signs import scan
from supervisor.core.diagnosis.tables import Rule
from supervisor.core.job import Mount
from supervisor.core.model import Job
from supervisor.effects import evidence, kernel_log, last_place, log_scan
from supervisor.effects.attempt_log import LogLines, chunks
from supervisor.effects.consistency import Record
from supervisor.effects.examine import Examiner
from supervisor.errors import PermanentError
from supervisor.layout import RunDirectory
from supervisor.machine import mounts, resources
from supervisor.machine.bounded import NoAnswerError
from supervisor.machine.resources import Room

MIB = 1024**2
NOW = 2_000_000.0
RULES = (Rule(name="full", match="No space left on device", cause="disk-full"),)


# ---- the lines of a log
def numbered(path: Path, **limits) -> list[tuple[int, str]]:
    """Each line with its number in the file."""
    log = LogLines(path, **limits)
    return [(log.number(given), line) for given, line in enumerate(log, start=1)]


def test_a_usual_log_is_read_whole(tmp_path):
    """Cleaned, in order, numbered as an editor would; a last line without its end is one too."""
    (tmp_path / "log").write_bytes(b"one\n\x1b[31mtwo\x1b[0m\n 1%\r 2%\nend")
    assert numbered(tmp_path / "log") == [(1, "one"), (2, "two"), (3, " 2%"), (4, "end")]
    assert numbered(tmp_path / "gone") == []


def test_of_a_huge_log_head_and_tail_are_read_with_their_numbers(tmp_path):
    """What lies between is skipped but counted, so that a line's number leads a person to it."""
    lines = [f"line {number} {'x' * 90}" for number in range(1, 20001)]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    log = LogLines(tmp_path / "log", head_bytes=1000, tail_bytes=5000)
    found = [(log.number(given), line) for given, line in enumerate(log, start=1)]
    whole = [(number, line) for number, line in found if len(line) > 95]
    assert len(whole) < 100
    assert log.skipped_bytes > 1_900_000
    assert all(line.startswith(f"line {number} ") for number, line in whole)
    assert whole[0][0] == 1
    assert whole[-1][0] == 20000


def test_a_patient_reader_gets_every_line(tmp_path, monkeypatch):
    """A person who asks may wait: neither the size nor the time leaves anything out, and no number is a guess."""
    monkeypatch.setattr("supervisor.effects.attempt_log.HEAD_S", -1.0)
    monkeypatch.setattr("supervisor.effects.attempt_log.TAIL_S", -1.0)
    monkeypatch.setattr("supervisor.effects.attempt_log.CHUNK_BYTES", 100)
    (tmp_path / "log").write_text("".join(f"line {number}\n" for number in range(1, 1001)))
    log = LogLines(tmp_path / "log", tail_bytes=50, patient=True)
    found = [(log.number(given), line) for given, line in enumerate(log, start=1)]
    assert found == [(number, f"line {number}") for number in range(1, 1001)]
    assert log.unread == ""


def test_what_is_found_behind_a_gap_has_the_numbers_of_the_file(tmp_path, monkeypatch):
    """Signs, notes and the last exception alike; where the gap could not be counted, none is named. The gap is told."""
    end = 'Traceback (most recent call last):\n  File "/x.py", line 1, in f\nOSError: [Errno 28] No space left on device\n'
    (tmp_path / "log").write_text("".join(f"{number} {'x' * 50}\n" for number in range(1, 5001)) + end)
    for count_s, number in ((3.0, 5003), (-1.0, 0)):
        monkeypatch.setattr("supervisor.effects.attempt_log.COUNT_S", count_s)
        log = LogLines(tmp_path / "log", head_bytes=200, tail_bytes=500)
        found = log_scan.numbered(scan(log, RULES), log)
        assert ([sign.number for sign in found.signs], found.error_line) == ([number], number)
        assert log.unread.endswith("in the middle of the log were not read: it is too long")


def test_every_line_comes_once_wherever_the_parts_meet(tmp_path):
    """Parts end at lines, not inside them: nothing twice, nothing torn, each with its own number."""
    lines = [f"{number} {'x' * (number % 37)}" for number in range(1, 400)]
    (tmp_path / "log").write_text("\n".join(lines))
    size = (tmp_path / "log").stat().st_size
    for head in range(1, 200, 7):
        found = numbered(tmp_path / "log", head_bytes=head, tail_bytes=size // 3 + head)
        assert all(line == lines[number - 1] for number, line in found)
        assert len({number for number, _ in found}) == len(found)
        assert found[-1][0] == 399


def test_of_a_log_that_is_slow_to_search_the_end_is_read_all_the_same(tmp_path, monkeypatch):
    """Whoever takes the lines has used up the time: head and tail are cut short, the last part never is."""
    monkeypatch.setattr("supervisor.effects.attempt_log.HEAD_S", -1.0)
    monkeypatch.setattr("supervisor.effects.attempt_log.TAIL_S", -1.0)
    monkeypatch.setattr("supervisor.effects.attempt_log.CHUNK_BYTES", 1000)
    monkeypatch.setattr("supervisor.effects.attempt_log.LAST_BYTES", 3000)
    lines = [f"line {number}" for number in range(1, 20001)]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    found = numbered(tmp_path / "log")
    assert all(line == lines[number - 1] for number, line in found)
    assert (found[0][0], found[-1][0]) == (1, 20000)
    assert len(found) < 600


def test_a_tail_that_begins_with_a_line_has_that_line(tmp_path):
    """Only what was torn by the cut is left out."""
    (tmp_path / "log").write_text("".join(f"{number:03}\n" for number in range(1, 101)))
    assert numbered(tmp_path / "log", head_bytes=4, tail_bytes=8) == [(1, "001"), (99, "099"), (100, "100")]
    assert numbered(tmp_path / "log", head_bytes=4, tail_bytes=7) == [(1, "001"), (100, "100")]


def test_a_line_that_nobody_counted_has_no_number(tmp_path, monkeypatch):
    """A slow disk: counting ends after its time, and 0 says that the number is not known."""
    monkeypatch.setattr("supervisor.effects.attempt_log.COUNT_S", -1.0)
    (tmp_path / "log").write_bytes(b"abc\n" * 4_000_000)
    found = numbered(tmp_path / "log", head_bytes=1000, tail_bytes=1000)
    assert found[0] == (1, "abc")
    assert found[-1] == (0, "abc")


def test_a_hole_in_a_log_costs_nothing(tmp_path):
    """The shim gave the middle back to the disk: half a terabyte of nothing is passed at once."""
    with (tmp_path / "log").open("wb") as file:
        file.write(b"head\n")
        file.seek(512 * 1024**3)
        file.write(b"\ntail\n")
    assert [line for _, line in numbered(tmp_path / "log") if line] == ["head", "tail"]
    with (tmp_path / "log").open("rb") as file:
        begun = time.monotonic()
        assert b"".join(chunks(file)) == b"head\n\ntail\n"
        assert time.monotonic() - begun < 10


def test_a_log_that_ends_in_a_hole_ends_there(tmp_path):
    """The file was made longer than it is: nothing is read of the terabyte behind."""
    with (tmp_path / "log").open("wb") as file:
        file.write(b"head\n")
        file.truncate(1024**4)
    begun = time.monotonic()
    assert [line for _, line in numbered(tmp_path / "log") if line] == ["head"]
    assert time.monotonic() - begun < 2


def test_the_older_half_of_a_log_comes_first(tmp_path):
    """Where files cannot have holes the shim moves it aside; its lines have no numbers in the log."""
    (tmp_path / "log.1").write_bytes(b"first failure\n")
    (tmp_path / "log").write_bytes(b"echo\n")
    assert [line for _, line in numbered(tmp_path / "log")] == ["first failure", "echo"]
    assert {number for number, _ in numbered(tmp_path / "log")} == {0}


def test_a_line_without_end_is_cut(tmp_path):
    """Memory does not grow with what a trainer writes without a line end."""
    (tmp_path / "log").write_bytes(b"x" * 5_000_000 + b"\nend\n")
    found = numbered(tmp_path / "log")
    assert found[-1][1] == "end"
    assert max(len(line) for _, line in found) <= 2 * MIB


# ---- the kernel's log
class Kernel:
    """A stand-in for /dev/kmsg: each write is a record of its own."""

    def __init__(self):
        self._read, self._write = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        self.device = Path(f"/proc/self/fd/{self._read}")

    def say(self, text: str, *, ago_s: float = 0.0) -> None:
        """Write a line that is so old."""
        at = time.clock_gettime(time.CLOCK_MONOTONIC) - ago_s
        os.write(self._write, f"6,809,{max(0, int(at * 1e6))},-;{text}\n SUBSYSTEM=x\n".encode())

    def close(self) -> None:
        """Give the handles back."""
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def kernel():
    """An empty kernel log."""
    made = Kernel()
    yield made
    made.close()


OOM = "Out of memory: Killed process 4711 (python) total-vm:9kB, anon-rss:8kB, file-rss:0kB, shmem-rss:0kB, UID:0"
XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


def test_the_kernels_lines_of_the_attempts_time_are_kept(kernel):
    """Killed for memory, GPU errors, failing disks; not what is older, and not what tells nothing."""
    kernel.say("Out of memory: Killed process 1 (old)", ago_s=100)
    kernel.say("usb 1-1: new high-speed USB device", ago_s=5)
    kernel.say(OOM, ago_s=4)
    kernel.say(XID, ago_s=3)
    kernel.say("blk_update_request: I/O error, dev sda, sector 1", ago_s=2)
    kernel.say("python[4711]: segfault at 0 ip 0 sp 0 error 4", ago_s=1)
    lines = kernel_log.read(NOW - 50, NOW, kernel.device)
    assert [line.split()[0] for line in lines] == ["Out", "NVRM:", "blk_update_request:", "python[4711]:"]
    assert kernel_log.killed_pids(lines) == [4711]


def test_a_flood_of_one_kind_does_not_wash_the_others_away(kernel):
    """A GPU that writes thousands of lines leaves the one about memory where it is."""
    kernel.say(OOM)
    for _ in range(kernel_log.KEPT + 4):  # a pipe holds sixteen records
        kernel.say(XID)
    lines = kernel_log.read(NOW - 50, NOW, kernel.device)
    assert lines[0] == OOM
    assert lines.count(XID) == kernel_log.KEPT


def test_a_kernel_log_whose_end_is_not_reached_is_not_known(kernel, monkeypatch):
    """A flood that never ends, or a slow machine: the newest lines, which matter, were not seen, and that is said."""
    monkeypatch.setattr(kernel_log, "LIMIT_S", -1.0)
    kernel.say(OOM)
    with pytest.raises(TimeoutError, match="its end was not reached"):
        kernel_log.read(NOW - 50, NOW, kernel.device)


def test_old_lines_of_the_kernel_are_not_searched(kernel, monkeypatch):
    """A buffer of megabytes from before the attempt costs no search."""
    searched = []

    class Kind:
        def search(self, text):
            searched.append(text)

    monkeypatch.setattr(kernel_log, "_KINDS", (Kind(),))
    for _ in range(10):
        kernel.say(OOM, ago_s=100)
    kernel.say("usb 1-1: new", ago_s=1)
    assert kernel_log.read(NOW - 50, NOW, kernel.device) == ()
    assert searched == ["usb 1-1: new"]


def test_a_kernel_clock_that_is_behind_hides_nothing(kernel, monkeypatch):
    """The kernel stamps by a clock that nobody corrects: after months it may be minutes behind the corrected one."""
    real = time.clock_gettime
    drift_s = {time.CLOCK_MONOTONIC: 300.0, time.CLOCK_MONOTONIC_RAW: 0.0}
    kernel.say(OOM, ago_s=1)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real(time.CLOCK_MONOTONIC) + drift_s[clock])
    assert kernel_log.read(NOW - 50, NOW, kernel.device) == (OOM,)


def test_a_kernel_log_that_may_not_be_read_is_an_error(tmp_path):
    """It says so; nothing is concluded from silence."""
    with pytest.raises(OSError, match="No such file"):
        kernel_log.read(NOW, NOW, tmp_path / "kmsg")


# ---- where it stood
def beats(path: Path, *rows: dict) -> Path:
    """A file of heartbeats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"v": 1, **row}) + "\n" for row in rows))
    return path


BATCH = {"kind": "batch", "epoch": 3, "epochs": 5, "batch": 12, "batches": 40, "losses": {}, "images_per_s": 8.0}


def test_the_place_is_that_of_the_last_heartbeat(tmp_path):
    """Epochs count from 1 for people; what ends a training is no movement."""
    path = beats(
        tmp_path / "beats.jsonl",
        {"kind": "start", "at": 1.0, "phase": "import"},
        {"kind": "phase", "at": 2.0, "phase": "train"},
        {**BATCH, "at": 3.0},
        {"kind": "stopping", "at": 9.0, "signal": 15},
    )
    assert last_place.of_beats(path) == last_place.Place(phase="train", epoch=4, batch=12, told_at=9.0, moved_at=3.0)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ({"epoch": 3, "batch": 17}, (4, 17, True)),
        ({"epoch": 3}, (4, 12, False)),
        ({"epoch": 4}, (5, 0, False)),
        ({"epoch": None}, (4, 12, False)),
    ],
    ids=["it told the batch", "an older runner", "the batch was of another epoch", "it ended before any epoch"],
)
def test_the_end_record_knows_best(tmp_path, end, expected):
    """Only where the trainer itself tells epoch and batch is the place exact."""
    record = {"kind": "end", "at": 4.0, "result": "error", "code": 1, **end}
    place = last_place.of_beats(beats(tmp_path / "beats.jsonl", {**BATCH, "at": 3.0}, record))
    assert (place.epoch, place.batch, place.exact) == expected
    assert place.moved_at == 3.0


def test_a_trainer_without_heartbeats_is_placed_by_its_progress_bar(tmp_path):
    """Epoch and batch from the log, the time from log and table; what was there before the start does not count."""
    log, table = tmp_path / "log", tmp_path / "results.csv"
    log.write_text(
        "Starting training for 3 epochs...\n  2/3  1.2G  0.1  0.2  0.3  4  640:  50%|##  | 5/10 [00:01<00:01, 5it/s]\n"
    )
    table.write_text("epoch\n")
    os.utime(log, (500.0, 500.0))
    os.utime(table, (400.0, 400.0))
    place = last_place.of_log(log, [table, tmp_path / "gone"], 450.0)
    assert (place.epoch, place.batch, place.moved_at, place.told_at) == (2, 5, 500.0, None)
    assert last_place.of_log(log, [table], 501.0).moved_at == 0.0


# ---- all of it
@pytest.fixture
def run(tmp_path, monkeypatch, kernel):
    """An ended attempt of a run whose machine is fine."""
    monkeypatch.setattr(kernel_log.read, "__defaults__", (kernel.device,))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run_dir = RunDirectory(tmp_path / "runs" / "p" / "truck")
    attempt = run_dir.attempt(1)
    attempt.root.mkdir(parents=True)
    attempt.log.write_text("fine\n")
    started = {
        "shim_pid": 4000,
        "shim_start_time": 1,
        "pid": 4711,
        "start_time": 1,
        "boot_id": "b",
        "pid1_start_time": 1,
    }
    attempt.started.write_text(json.dumps({**started, "started_at": NOW - 60}))
    return run_dir


def ended(run: RunDirectory, **facts) -> None:
    """Write exit.json."""
    record = {"code": None, "signal": 9, "ended_at": NOW - 1, "started_at": NOW - 60, "oom_kills": None, **facts}
    run.attempt(1).exit.write_text(json.dumps(record))


def examined(run: RunDirectory, rules=RULES, *, code=1, **changes):
    """Examine attempt 1."""
    train = {"data": str(run.root.parents[2] / "data.yaml"), "epochs": 5}
    job = msgspec.structs.replace(Job(name="truck", project="p", revision="r", train=train), **changes)
    (event,) = Examiner(run.root.parents[1], lambda: NOW, lambda: rules)(
        Examine(key="k", run="truck@1", attempt=1, job=job, code=code)
    )
    return event


def fingerprint(run: RunDirectory, **data) -> None:
    """What was known of the data when the attempt was prepared."""
    print_ = Fingerprint(data=Data(name="data.yaml", **data))
    (run.root / "fingerprint.json").write_bytes(msgspec.json.encode(Record(attempt=1, reference=print_, last=print_)))


def test_signs_come_with_the_lines_numbers(run):
    """By the rules that the examiner was given; the number is that in the file."""
    run.attempt(1).log.write_text("one\ntwo\nOSError: [Errno 28] No space left on device\n")
    (sign,) = examined(run).evidence.signs
    assert (sign.rule, sign.cause, sign.number) == ("full", "disk-full", 3)
    assert "No space left" in sign.line
    assert examined(run, ()).evidence.signs == ()


def test_the_age_of_the_heartbeats_counts_from_the_end(run):
    """Not from when somebody looked; and what the training wrote after its end is no movement."""
    beats(run.attempt(1).beats, {"kind": "phase", "at": NOW - 21, "phase": "train"}, {**BATCH, "at": NOW - 11})
    ended(run)
    event = examined(run)
    assert event.evidence.beat_age_s == 10.0
    assert (event.evidence.phase, event.evidence.epoch, event.evidence.batch) == ("train", 4, 12)
    assert event.moved_at == NOW - 11


@pytest.mark.parametrize(
    ("table", "log", "epoch"),
    [
        ("epoch,time,train/box_loss\n1,1,1\n2,2,1\n3,3,1\n4,4,1\n", "", 4),
        ("", "      Epoch    GPU_mem   box_loss  Instances       Size\n        4/4         0G      1.168         12         64: 100%|██| 8/8\n", 4),
        ("", "done\n", 0),
    ],
    ids=["by its table", "by its log", "nothing tells"],
)  # fmt: skip
def test_a_command_that_was_too_fast_to_be_seen_has_its_last_epoch(run, table, log, epoch):
    """Its checkpoint is stripped and nobody saw it saved: table or log say how far it came. One that failed tells none."""
    ended(run, signal=None, code=0)
    run.attempt(1).log.write_text(log)
    run.results.parent.mkdir(parents=True, exist_ok=True)
    run.results.write_text(table)
    command = {"train": None, "command": ("./train.sh",), "checkpoint_files": (str(run.weights / "last.pt"),)}
    assert examined(run, code=0, **command).saved_epoch == epoch
    assert examined(run, code=1, **command).saved_epoch == 0
    os.utime(run.results, (1, 1))  # of an older training
    assert examined(run, code=0, **command).saved_epoch == (epoch if log else 0)


def test_a_log_that_grows_after_the_end_is_no_movement(run):
    """What the training left behind writes on for a moment."""
    ended(run)
    os.utime(run.attempt(1).log, (NOW, NOW))
    assert examined(run).moved_at == NOW - 1
    os.utime(run.attempt(1).log, (NOW - 30, NOW - 30))
    assert examined(run).moved_at == NOW - 30


def test_without_heartbeats_their_age_is_unknown(run):
    """None, not 0."""
    ended(run)
    assert examined(run).evidence.beat_age_s is None


def test_the_shims_count_of_memory_kills_is_believed(run):
    """Also a count of none; it is known then."""
    ended(run, oom_kills=2)
    assert examined(run).evidence.oom_kills == 2
    ended(run, oom_kills=0)
    assert examined(run).evidence.oom_kills == 0


def test_without_a_count_the_kernels_words_about_our_process_count(run, kernel):
    """It names the trainer: that also tells who sent the signal. Somebody else's process says nothing about ours."""
    ended(run)
    kernel.say(OOM.replace("4711", "99"), ago_s=3)
    found = examined(run).evidence
    assert (found.oom_kills, found.sender) == (None, "")
    kernel.say(OOM, ago_s=2)
    ended(run, oom_kills=0)  # counted in another cgroup
    found = examined(run).evidence
    assert (found.oom_kills, found.sender) == (1, "the kernel's out-of-memory killer")
    assert found.kernel == (OOM,)


def test_a_worker_that_was_killed_for_memory_is_known_by_the_log(run, kernel):
    """The kernel gives a number, and a line of the log says that this number was a worker of ours."""
    ended(run, signal=None, code=1)
    kernel.say(OOM.replace("4711", "5005"), ago_s=2)
    line = "RuntimeError: DataLoader worker (pid 5005) is killed by signal: Killed. "
    run.attempt(1).log.write_text(f"{line}\n")
    rules = (Rule(name="worker", match="DataLoader worker .* is killed", cause="worker-killed"),)
    assert examined(run, rules).evidence.oom_kills == 1


def test_a_kernel_log_that_is_shut_is_told(run, monkeypatch):
    """Nothing is concluded from it."""
    monkeypatch.setattr(kernel_log.read, "__defaults__", (Path("/nowhere/kmsg"),))
    ended(run)
    found = examined(run).evidence
    assert found.kernel == ()
    assert found.oom_kills is None
    assert "kernel log: No such file or directory" in found.unseen


def test_memory_and_disks_are_told(run):
    """Each file system once, with all that lies there; the runs first."""
    found = examined(run).evidence
    assert 0 < found.memory_available_bytes <= found.memory_total_bytes
    assert 0 <= found.shm_free_bytes <= found.shm_total_bytes
    assert found.disks[0].path == str(run.root)
    assert found.disks[0].what == "runs, temporary files, home, save folder, data"


def test_a_full_disk_says_what_it_has_and_what_it_needs(run, monkeypatch):
    """Also one that only the line of the log names."""
    ended(run, signal=None, code=1)
    run.attempt(1).log.write_text("OSError: [Errno 28] No space left on device: '/elsewhere/last.pt'\n")
    full = resources.Room(7, 100 * 1024**3, 1024**2, 10**6, read_only=False)
    plenty = resources.Room(1, 100 * 1024**3, 50 * 1024**3, 10**6, read_only=False)
    monkeypatch.setattr(resources, "room", lambda path, _within_s=0: full if "/elsewhere" in str(path) else plenty)
    lacks = [one.lack for one in examined(run).evidence.disks if one.lack]
    assert lacks == ["1MiB are free under /elsewhere/last.pt (named in the error), 16MiB are needed"]


def test_disks_are_told_apart_and_read_only_ones_have_no_room(run, monkeypatch):
    """An image of a data set is always full: that is no shortage."""
    tables = {"/data": Room(2, 9, 0, None, True), "/scratch": Room(3, 99, 7, 5, False)}
    monkeypatch.setenv("TMPDIR", "/scratch")
    monkeypatch.setattr(resources, "room", lambda path, _within_s=0: tables.get(str(path), Room(1, 99, 50, 40, False)))
    fingerprint(run, root="/data")
    found = examined(run).evidence.disks
    assert [(one.what.split(",")[0], one.free_bytes, one.free_inodes) for one in found] == [
        ("runs", 50, 40),
        ("temporary files", 7, 5),
    ]
    assert isinstance(found[0], Disk)


def test_what_is_gone_though_its_mount_is_there_is_missing(run, tmp_path):
    """Of a folder that is gone only itself is named, not all that was in it."""
    (tmp_path / "data.yaml").write_text("path: x\n")
    (tmp_path / "set" / "val").mkdir(parents=True)
    root = str(tmp_path / "set")
    fingerprint(
        run, root=root, splits={"train": Split(sources=(f"{root}/train",)), "val": Split(sources=(f"{root}/val",))}
    )
    assert examined(run).evidence.missing == (f"{root}/train",)
    (tmp_path / "set" / "val").rmdir()
    (tmp_path / "set").rmdir()
    assert examined(run).evidence.missing == (root,)


def test_what_lies_below_a_mount_that_is_gone_is_not_missing(run, tmp_path):
    """It is unmounted; waiting helps."""
    (tmp_path / "data.yaml").write_text("path: x\n")
    mount = Mount(what="data", path="/nowhere/set", point="/nowhere", source="nas:/export", type="nfs4")
    fingerprint(run, root="/nowhere/set", splits={"train": Split(sources=("/nowhere/set/train",))})
    found = examined(run, mounts=(mount,)).evidence
    assert found.unmounted == ("/nowhere",)
    assert found.missing == ()
    assert examined(run).evidence.missing == ("/nowhere/set",)


def test_a_resumed_attempt_does_not_miss_its_model(run, tmp_path):
    """The weights that it began with are read by a first start only."""
    (tmp_path / "data.yaml").write_text("path: x\n")
    train = {"model": "/nowhere/best.pt", "data": str(tmp_path / "data.yaml")}
    assert examined(run, train=train).evidence.missing == ("/nowhere/best.pt",)
    launch = {
        "run": "truck@1",
        "attempt": 1,
        "token": 1,
        "argv": [],
        "env": {},
        "cwd": "/",
        "umask": 0,
        "log_max_bytes": 0,
    }
    plan = {"args": {}, "device": "cpu", "save_dir": "", "resume": "/runs/last.pt", "run_token_file": ""}
    run.attempt(1).launch.write_text(json.dumps({**launch, "train": plan}))
    assert examined(run, train=train).evidence.missing == ()


def test_a_dead_mount_costs_a_bounded_time_and_is_named(run, monkeypatch):
    """Twenty hanging places: the looks together end; nothing of it is taken for missing, unmounted or full."""
    asked = []

    def hangs(path, within_s=0.0):
        asked.append(within_s)
        raise NoAnswerError(str(path), within_s)

    monkeypatch.setattr(evidence, "LOOKS_S", 0.0)
    monkeypatch.setattr(mounts, "of", hangs)
    monkeypatch.setattr(resources, "room", hangs)
    monkeypatch.setattr(evidence, "_is_there", hangs)
    points = tuple(Mount(what="data", path=f"/nas{n}/x", point=f"/nas{n}", source="n:/", type="nfs") for n in range(20))
    found = examined(run, mounts=points).evidence
    assert (found.unmounted, found.missing, found.disks) == ((), (), ())
    assert all(any(text.startswith(f"/nas{n}: no answer") for text in found.unseen) for n in range(20))
    assert max(asked) <= 0.011


# ---- rules of the configuration
SLOW = Rule(name="mine", match=r"^(\w+\s?)*;$", cause="data-wrong")


def test_a_rule_that_never_ends_costs_no_more_than_its_time(run, monkeypatch):
    """A pattern in a hurry: the daemon goes on meanwhile, then the built-in rules alone decide, and that is told."""
    monkeypatch.setattr("supervisor.effects.log_scan.CPU_S", 1)
    run.attempt(1).log.write_text("a word and more words and more and more words!\nMemoryError\n")
    ticks = []
    ticker = threading.Thread(target=lambda: ticks.extend(iter(lambda: over.wait(0.05), True)))
    over = threading.Event()
    ticker.start()
    begun = time.monotonic()
    found = examined(run, (SLOW, *tables.RULES)).evidence
    took_s = time.monotonic() - begun
    over.set()
    ticker.join()
    assert took_s < 20
    assert len(ticks) > 10
    assert [sign.rule for sign in found.signs] == ["memory-error"]
    [told] = [text for text in found.unseen if "[[rule]]" in text]
    assert told == (
        "the log by your [[rule]] mine: not done within 1 s of processor time; only the built-in rules were tried"
    )


def test_a_rule_that_stands_still_is_left_behind(run, monkeypatch):
    """No processor time, no answer: the wall clock ends it."""
    monkeypatch.setattr("supervisor.effects.log_scan.LIMIT_S", 0.01)
    found = examined(run, (SLOW, *tables.RULES)).evidence
    assert any("not done within 0 s" in text for text in found.unseen)


def test_a_loose_rule_is_tried_line_by_line(run):
    """A pattern without a fixed word on a long log: what is quick on each line is quick on all of them."""
    loose = Rule(name="mine", match=r"(\d+\s*)+x$", cause="data-wrong")
    lines = [f"{number} {number}" for number in range(3000)]
    run.attempt(1).log.write_text("\n".join([*lines, "12 x"]) + "\n")
    found = examined(run, (loose, *tables.RULES)).evidence
    assert [(sign.rule, sign.number) for sign in found.signs] == [("mine", 3001)]
    assert not any("[[rule]]" in text for text in found.unseen)


def test_rules_are_asked_for_at_each_examination(run):
    """A configuration that was read again counts from the next end on."""
    run.attempt(1).log.write_text("QUOTA\n")
    rules = list(tables.RULES)
    job = Job(name="truck", project="p", revision="r", train={"epochs": 5})
    examine = Examiner(run.root.parents[1], lambda: NOW, lambda: rules)
    action = Examine(key="k", run="truck@1", attempt=1, job=job, code=1)
    assert examine(action)[0].evidence.signs == ()
    rules.insert(0, Rule(name="mine", match="QUOTA", cause="disk-full"))
    assert [sign.rule for sign in examine(action)[0].evidence.signs] == ["mine"]


def test_the_end_of_a_command_is_found_in_its_log(run):
    """A line that matches done.log, in a process of its own; without a log there is none."""
    log = run.attempt(1).log
    log.write_text("epoch 1\nall done after 3 epochs\n")
    assert log_scan.matches(log, r"done after \d+ epochs")
    assert not log_scan.matches(log, "never said")
    assert not log_scan.matches(log.with_name("missing"), "x")


def test_a_done_pattern_that_never_ends_is_no_verdict(run):
    """Nothing is known then: the daemon went on meanwhile, and a person is told instead of a guess."""
    run.attempt(1).log.write_text("a word and more words and more and more words!\n")
    with pytest.raises(PermanentError, match="1 s of processor time"):
        log_scan.matches(run.attempt(1).log, r"^(\w+\s?)*$", cpu_s=1)
