"""The jobs folder as people use it: real files, real inotify, every way of saving and copying."""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import threading
import time

import pytest

from supervisor.clock import WallClock
from supervisor.core.events import JobFileGone, JobFileSeen
from supervisor.sources.folder_watch import on_network
from supervisor.sources.spool import Spool
from supervisor.toml_errors import LARGEST_FILE_BYTES

JOB = b'name = "truck"\n\n[train]\nmodel = "/m.yaml"\nepochs = 300\n'
SETTLE_S = 0.6
QUIET_S = 0.3

pytestmark = pytest.mark.e2e


class Desk:
    """A jobs folder, the spool that watches it, and the events that came."""

    def __init__(self, folder, settle_s=SETTLE_S, rescan_s=0.25, known=None):
        self.folder = folder
        self.events = queue.Queue()
        self.spool = Spool(folder, self.events.put, WallClock(), settle_s, rescan_s, known=lambda: known or {})

    def __enter__(self):
        """Start the spool."""
        self.spool.start()
        return self

    def __exit__(self, *_):
        """Stop it, within its 2 s."""
        self.spool.stop()
        assert not self.spool._thread.is_alive()

    def next(self, within_s=3.0):
        """Wait for the next event."""
        return self.events.get(timeout=within_s)

    def seen(self, name, data=JOB, within_s=3.0):
        """Wait for the next event, which must be this content of this file."""
        event = self.next(within_s)
        assert isinstance(event, JobFileSeen), event
        assert (event.path, event.data) == (str(self.folder / name), data)
        assert event.revision == hashlib.sha256(data).hexdigest()
        return event

    def silent(self, for_s=QUIET_S):
        """Nothing comes for a while."""
        with pytest.raises(queue.Empty):
            print("unexpected:", self.events.get(timeout=for_s))

    def ready(self):
        """Wait until the first scan is done and the watch stands, by a file that is renamed in."""
        for number in range(50):
            rename_in(self.folder, f"ready-{number}.toml", b"x = 1\n")
            try:
                self.seen(f"ready-{number}.toml", b"x = 1\n", within_s=0.3)
            except queue.Empty:  # it came before the watch: it waits for its settle time
                (self.folder / f"ready-{number}.toml").unlink()
            else:
                return
        raise AssertionError("no rename was seen")


@pytest.fixture
def desk(tmp_path):
    folder = tmp_path / "jobs with 空格"
    folder.mkdir()
    with Desk(folder) as desk:
        desk.ready()
        yield desk


@pytest.fixture
def patient_desk(tmp_path):
    """Set up a desk whose settle time is never reached: what is taken was taken for its rename or close."""
    with Desk(tmp_path, settle_s=3600.0) as desk:
        desk.ready()
        yield desk


def rename_in(folder, name, data=JOB):
    outside = folder.parent / f"outside-{os.getpid()}-{name}"
    outside.write_bytes(data)
    outside.rename(folder / name)


def test_renamed_in_from_another_folder_is_taken_at_once(patient_desk):
    """`mv` from elsewhere is an arrival in one piece."""
    rename_in(patient_desk.folder, "a.toml")
    event = patient_desk.seen("a.toml")
    assert (event.owner, event.note) == (os.getuid(), "")


def test_written_and_closed_is_taken_at_once(patient_desk):
    """`cp`, a shell redirection and nano's save end with a close."""
    (patient_desk.folder / "a.toml").write_bytes(JOB)
    patient_desk.seen("a.toml")


def test_temporary_name_then_rename_is_taken_once(patient_desk):
    """As rsync does: it writes `.a.toml.XXXXXX` and renames: the temporary name is no job, the rename is."""
    temporary = patient_desk.folder / ".a.toml.Xy12ab"
    with temporary.open("wb") as file:
        file.write(JOB[:20])
        file.flush()
        file.write(JOB[20:])
    temporary.rename(patient_desk.folder / "a.toml")
    patient_desk.seen("a.toml")
    patient_desk.silent()


def test_saved_by_vim_is_one_new_revision(patient_desk):
    """Vim tries 4913, renames the old file to a backup, writes the new one, deletes the backup: nothing is gone."""
    file = patient_desk.folder / "a.toml"
    file.write_bytes(JOB)
    patient_desk.seen("a.toml")
    probe, backup = file.with_name("4913"), file.with_name("a.toml~")
    probe.touch()
    probe.unlink()
    file.rename(backup)
    file.write_bytes(JOB + b"batch = 8\n")
    backup.unlink()
    patient_desk.seen("a.toml", JOB + b"batch = 8\n")
    patient_desk.silent(1.5)


def test_saved_in_place_is_one_new_revision(patient_desk):
    """As nano does: it truncates and writes the same inode; saving without a change tells nothing."""
    file = patient_desk.folder / "a.toml"
    file.write_bytes(JOB)
    patient_desk.seen("a.toml")
    with file.open("r+b") as handle:
        handle.truncate(0)
        handle.write(JOB + b"batch = 8\n")
    patient_desk.seen("a.toml", JOB + b"batch = 8\n")
    file.write_bytes(JOB + b"batch = 8\n")
    patient_desk.silent()


def test_copied_slowly_is_taken_whole_when_it_is_closed(desk):
    """A copy in pieces, with pauses below the settle time, is never taken in part."""
    file = desk.folder / "a.toml"
    with file.open("wb", buffering=0) as handle:
        for start in range(0, len(JOB), 15):
            handle.write(JOB[start : start + 15])
            desk.silent(0.2)
    desk.seen("a.toml")


def test_stalled_copy_that_nobody_closes_is_taken_after_the_settle_time(desk):
    """Seen only lying there and unchanged, it is taken after the settle time, and its last line warned of."""
    file = desk.folder / "a.toml"
    with file.open("wb", buffering=0) as handle:
        handle.write(b"epochs = 3")
        started = time.monotonic()
        event = desk.seen("a.toml", b"epochs = 3")
        assert time.monotonic() - started >= 2 * SETTLE_S - 0.05
        assert "cut short" in event.note
        handle.write(b"00\n")
    assert desk.seen("a.toml", b"epochs = 300\n").note == ""


def test_other_names_and_other_kinds_are_left_alone(desk, tmp_path):
    """Dotfiles, backups, half copies, links, pipes and folders are no jobs, and a pipe blocks nothing."""
    for name in (".a.toml", "a.toml~", ".a.toml.swp", "a.toml.part", "a.toml.error", "a.txt", "#a.toml#"):
        (desk.folder / name).write_bytes(JOB)
    secret = tmp_path / "secret"
    secret.write_bytes(JOB)
    (desk.folder / "link.toml").symlink_to(secret)
    os.mkfifo(desk.folder / "pipe.toml")
    (desk.folder / "folder.toml").mkdir()
    desk.silent(3 * SETTLE_S)
    rename_in(desk.folder, "real.toml")
    desk.seen("real.toml")


def test_a_file_that_is_too_large_is_passed_on_one_byte_too_large(desk):
    """Whoever parses it refuses it by its size; nobody reads a gigabyte."""
    rename_in(desk.folder, "big.toml", b"# \n" * LARGEST_FILE_BYTES)
    assert len(desk.next().data) == LARGEST_FILE_BYTES + 1


def test_deleted_file_is_told_once_and_may_come_back(desk):
    """Gone is gone after a moment; the same content later counts as new."""
    rename_in(desk.folder, "a.toml")
    desk.seen("a.toml")
    (desk.folder / "a.toml").unlink()
    event = desk.next()
    assert isinstance(event, JobFileGone)
    assert event.path == str(desk.folder / "a.toml")
    rename_in(desk.folder, "a.toml")
    desk.seen("a.toml")


def test_deleted_before_it_was_complete_is_forgotten(desk):
    """What never was a job leaves no word."""
    (desk.folder / "a.toml").write_bytes(b"epochs = 3")
    desk.silent(0.1)
    (desk.folder / "a.toml").unlink()
    desk.silent(3 * SETTLE_S)


def test_folder_removed_and_made_anew_is_watched_again(tmp_path):
    """After `rm -r` and `mkdir` renames are seen at once again, and the lost files are told gone."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    with Desk(folder, settle_s=3600.0, rescan_s=0.2) as desk:
        desk.ready()
        for _ in range(2):
            shutil.rmtree(folder)
            desk.silent(1.0)  # a folder that cannot be read says nothing about its files
            folder.mkdir()
            assert isinstance(desk.next(), JobFileGone)
            desk.ready()
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        assert isinstance(desk.next(), JobFileGone)
        desk.ready()


def test_folder_that_comes_later_is_found(tmp_path):
    """The daemon may start before its jobs folder is there."""
    folder = tmp_path / "later"
    with Desk(folder, settle_s=3600.0, rescan_s=0.2) as desk:
        desk.silent()
        folder.mkdir()
        time.sleep(0.5)
        desk.ready()


def test_files_there_at_start(tmp_path):
    """Old files are told at once and in the order of their age; a young one waits; a known one is not repeated."""
    revision = hashlib.sha256(JOB).hexdigest()
    for name, age_s in (("b.toml", 200), ("a.toml", 100), ("known.toml", 300), ("young.toml", 0)):
        (tmp_path / name).write_bytes(JOB)
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    known = {
        str(tmp_path / "known.toml"): revision,
        str(tmp_path / "gone.toml"): "00",
        "/elsewhere/x.toml": "00",
    }
    with Desk(tmp_path, known=known) as desk:
        desk.seen("b.toml")
        desk.seen("a.toml")
        desk.seen("young.toml")
        gone = desk.next()
        assert isinstance(gone, JobFileGone)
        assert gone.path.endswith("gone.toml")
        desk.silent()


def test_without_events_scans_find_everything(tmp_path, monkeypatch):
    """On a network file system nobody tells of changes: files are found by scans and taken when they are quiet."""
    monkeypatch.setattr("supervisor.sources.folder_watch.on_network", lambda _: True)
    with Desk(tmp_path, rescan_s=0.2) as desk:
        started = time.monotonic()
        (tmp_path / "a.toml").write_bytes(JOB)
        desk.seen("a.toml")
        assert time.monotonic() - started >= SETTLE_S
        (tmp_path / "a.toml").unlink()
        assert isinstance(desk.next(), JobFileGone)


def test_rescan_looks_at_once(tmp_path, monkeypatch):
    """A scan asked from outside does not wait for the spool's own turn."""
    monkeypatch.setattr("supervisor.sources.folder_watch.on_network", lambda _: True)
    with Desk(tmp_path, settle_s=0.0, rescan_s=3600.0) as desk:
        desk.silent()
        (tmp_path / "a.toml").write_bytes(JOB)
        desk.spool.rescan()
        desk.seen("a.toml", within_s=1.0)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_logged_once_and_taken_when_it_can_be_read(desk, caplog):
    """A file without read access is no reason to fall silent for ever."""
    (desk.folder / ".hidden").write_bytes(JOB)
    (desk.folder / ".hidden").chmod(0)
    (desk.folder / ".hidden").rename(desk.folder / "a.toml")
    desk.silent(1.0)
    assert len([record for record in caplog.records if "cannot read" in record.message]) == 1
    (desk.folder / "a.toml").chmod(0o600)
    desk.seen("a.toml")


def test_a_thousand_files_at_once_in_two_seconds(patient_desk):
    """Each of 1,000 files dropped at once is told exactly once, within 2 s."""
    ready = patient_desk.folder.parent / f"many-{os.getpid()}"
    ready.mkdir()
    for number in range(1000):
        (ready / f"job-{number:04}.toml").write_bytes(JOB + b"# %d\n" % number)
    started = time.monotonic()
    for file in ready.iterdir():
        file.rename(patient_desk.folder / file.name)
    paths = [patient_desk.next().path for _ in range(1000)]
    assert time.monotonic() - started < 2.0
    assert len(set(paths)) == 1000
    patient_desk.silent()


def test_written_again_and_again_ends_with_the_newest_content(patient_desk):
    """A writer that never rests, in place and by rename in turns: the last word is the last content."""
    file = patient_desk.folder / "a.toml"
    for number in range(200):
        data = JOB + b"# %d\n" % number
        if number % 2:
            file.write_bytes(data)
        else:
            rename_in(patient_desk.folder, "a.toml", data)
    newest = b""
    while newest != JOB + b"# 199\n":
        newest = patient_desk.next().data
    patient_desk.silent()


def test_stop_ends_all_threads(tmp_path):
    """Nothing of the spool is left running after stop."""
    before = set(threading.enumerate())
    with Desk(tmp_path) as desk:
        desk.ready()
    assert set(threading.enumerate()) <= before


MOUNTS = """\
22 1 0:20 / / rw - ext4 /dev/vda rw
30 22 0:40 / /srv/nas\\040one rw shared:1 - nfs4 server:/x rw
31 30 0:41 / /srv/nas\\040one/local rw - xfs /dev/sdb rw
32 22 0:42 / /mnt rw - nfs server:/y rw
33 22 0:43 / /mnt rw - ext4 /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/var/jobs", False),
        ("/srv/nas one", True),
        ("/srv/nas one/jobs", True),
        ("/srv/nas one/local/jobs", False),
        ("/srv/nas", False),
        ("/mnt/jobs", False),
    ],
)
def test_network_file_systems_are_told_by_the_innermost_mount(tmp_path, folder, expected):
    """The mount that holds the folder decides, and the later one where two lie on one point."""
    assert on_network(type(tmp_path)(folder), MOUNTS) is expected
