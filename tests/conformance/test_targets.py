"""What every backup target promises, whatever it is. The kinds are in conftest.KINDS."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from supervisor.effects.backup.targets import base
from supervisor.effects.backup.targets.base import Target, TargetError
from tests.conformance.conftest import SERVER, Place

SNAP = "runs/detect/night/snap-000012-20261122T183000Z-0a1b2c3d"
ODD = (
    "a plain name",
    "-rf",
    "--delete",
    'it\'s "quoted" $HOME `id` \\ ;&|',
    "naïve 训练 ✓",
    "*[a-z]?",
    "#comment; # \\#012",
    ".hidden",
    " leading and trailing ",
)


def _stage(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A staging folder with files as runs have them."""
    files = {f"notes/{name}": name.encode() for name in ODD}
    files |= {"train/weights/last.pt": os.urandom(3_000_000), "train/results.csv": b"epoch,loss\n1,2\n", "empty": b""}
    return _stage(tmp_path / "stage", files)


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# ---- sending
def test_what_is_staged_lies_there_whole_and_verified(target: Target, place: Place, stage: Path) -> None:
    """Sent files have their bytes, their names and their times there; nothing else lies beside them."""
    os.utime(stage / "train/results.csv", (1_700_000_000, 1_700_000_000))
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    assert _files(place.files / SNAP) == _files(stage)
    listed = {one.path: one for one in target.listing(SNAP)}
    assert set(listed) == {f"{SNAP}/{path}" for path in _files(stage)}
    assert listed[f"{SNAP}/train/results.csv"].bytes == len(b"epoch,loss\n1,2\n")
    assert listed[f"{SNAP}/train/results.csv"].mtime == pytest.approx(1_700_000_000, abs=1)


def test_names_with_an_end_of_line_arrive(target: Target, place: Place, tmp_path: Path) -> None:
    """No name is taken for two, also in lists and reports."""
    if place.bare["to"].startswith("rclone:"):
        pytest.skip("object stores are sent lists of lines: such a file is refused there, see test_rclone_lines")
    name = "two\nlines \\#012"
    stage = _stage(tmp_path / "stage", {name: b"x"})
    assert target.differing(stage, SNAP) == [name]
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    assert [one.path for one in target.listing(SNAP)] == [f"{SNAP}/{name}"]
    target.fetch([f"{SNAP}/{name}"], tmp_path)
    assert (tmp_path / SNAP / name).read_bytes() == b"x"
    assert target.remove([f"{SNAP}/{name}"]) == 1


def test_sending_again_does_no_harm(target: Target, place: Place, stage: Path) -> None:
    """A second time changes nothing, and what is new or changed is added."""
    target.send(stage, SNAP)
    target.send(stage, SNAP)
    (stage / "train/results.csv").write_bytes(b"epoch,loss\n1,2\n2,1\n")
    (stage / "new").write_bytes(b"new")
    assert set(target.differing(stage, SNAP)) == {"new", "train/results.csv"}
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    assert _files(place.files / SNAP) == _files(stage)


def test_links_and_pipes_are_not_sent(target: Target, place: Place, stage: Path, tmp_path: Path) -> None:
    """A link in the staging folder shows nobody a file outside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    (stage / "link").symlink_to(tmp_path / "secret")
    (stage / "folder").symlink_to("/etc")
    os.mkfifo(stage / "pipe")
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    there = {one.path.removeprefix(f"{SNAP}/").split("/")[0] for one in target.listing(SNAP)}
    assert there == {"empty", "notes", "train"}
    assert place.files.is_dir()


def test_progress_is_told(target: Target, stage: Path) -> None:
    """Whoever asks hears how many bytes are there."""
    told: list[int] = []
    target.send(stage, SNAP, progress=told.append)
    assert told == sorted(told)
    assert 3_000_000 <= told[-1] < 3_100_000


def test_a_flipped_byte_is_seen_and_mended(target: Target, place: Place, stage: Path) -> None:
    """Same size, same time, other bytes: found by reading them, and the next sending puts it right."""
    target.send(stage, SNAP)
    there = place.files / SNAP / "train/weights/last.pt"
    before = there.stat()
    with there.open("r+b") as file:
        file.seek(1_234_567)
        byte = file.read(1)
        file.seek(1_234_567)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert target.differing(stage, SNAP) == ["train/weights/last.pt"]
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []


def test_what_is_missing_or_short_differs(target: Target, place: Place, stage: Path) -> None:
    """A file that is not there, and one that was cut, are not what was staged."""
    assert set(target.differing(stage, SNAP)) == set(_files(stage))
    target.send(stage, SNAP)
    (place.files / SNAP / "notes/-rf").unlink()
    os.truncate(place.files / SNAP / "train/weights/last.pt", 1000)
    assert target.differing(stage, SNAP) == ["notes/-rf", "train/weights/last.pt"]


def test_a_missing_root_is_never_made(place: Place, stage: Path) -> None:
    """Where the folder of the target is not there a disk is not mounted: "absent", and nothing is written."""
    place.root.rmdir()
    target = place.open()
    for call in (target.facts, lambda: target.send(stage, SNAP), lambda: target.put("owner.json", b"{}")):
        with pytest.raises(TargetError) as refused:
            call()
        assert refused.value.cause == "absent"
    assert not place.root.exists()


# ---- interrupted
_SENDER = """
import sys, threading
from pathlib import Path
import msgspec
from supervisor.backup_config import Backup
from supervisor.effects.backup.targets import open_target
settings = msgspec.json.decode(sys.argv[1], type=Backup, dec_hook=lambda kind, text: kind(text))
target = open_target(settings, sys.argv[2], Path(sys.argv[3]), stop=threading.Event())
print("begins", flush=True)
target.send(Path(sys.argv[4]), sys.argv[5])
"""


def test_a_killed_sender_is_resumed_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    """SIGKILL in the middle: no half file under its own name, the next sending completes it, and nothing is left."""
    data = {f"{number}.pt": os.urandom(2_000_000) for number in range(4)}
    stage = _stage(tmp_path / "stage", data)
    settings = msgspec.json.encode(place.settings(bwlimit=2_000_000), enc_hook=str).decode()
    argv = [sys.executable, "-c", _SENDER, settings, SERVER, str(place.state), str(stage), SNAP]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"begins\n"
        _await(lambda: any(path.is_file() for path in place.root.rglob("*")))
        time.sleep(1.0)  # in the middle of about four seconds
        for process in psutil.Process(killed.pid).children(recursive=True):
            process.kill()
        killed.kill()
    _await_quiet(place.root)
    for path, found in _files(place.files / SNAP).items():
        assert path not in data or found == data[path]
    target = place.open()
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    assert _files(place.files) == {f"{SNAP}/{path}": content for path, content in data.items()}


def _await(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _await_quiet(folder: Path) -> None:
    """Until whoever still writes at the other end has noticed that nobody sends any more."""
    seen: object = None
    while (now := sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))) != seen:
        seen = now
        time.sleep(1.0)


def test_a_stop_ends_it_soon(place: Place, tmp_path: Path) -> None:
    """The daemon's end is not kept waiting: "stopped" within seconds, and all that follows too."""
    stage = _stage(tmp_path / "stage", {"last.pt": os.urandom(8_000_000)})
    target = place.open(bwlimit=500_000)
    timer = threading.Timer(1.5, place.stop.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(TargetError) as stopped:
        target.send(stage, SNAP)
    timer.join()
    assert stopped.value.cause == "stopped"
    assert time.monotonic() - began < 10
    with pytest.raises(TargetError, match="stops") as stopped:
        target.read("owner.json")
    assert stopped.value.cause == "stopped"


def test_the_bandwidth_limit_holds(place: Place, tmp_path: Path) -> None:
    """A transfer takes at least as long as the limit says."""
    stage = _stage(tmp_path / "stage", {"last.pt": os.urandom(3_000_000)})
    target = place.open(bwlimit=1_500_000)
    target.facts()
    began = time.monotonic()
    target.send(stage, SNAP)
    assert time.monotonic() - began > 1.4


# ---- small files
def test_a_small_file_is_put_and_read(target: Target, place: Place) -> None:
    """Whole, again, with folders that were not there; what is not there is None."""
    assert target.read("owner.json") is None
    assert target.read(f"{SNAP}/manifest.json") is None
    target.put("owner.json", b"one")
    target.put("owner.json", b"two")  # as long as before, in the same second
    target.put(f"{SNAP}/manifest.json", b"{}" * 1000)
    assert target.read("owner.json") == b"two"
    assert target.read(f"{SNAP}/manifest.json") == b"{}" * 1000
    assert target.read(f"{SNAP}") is None
    assert set(_files(place.files)) == {"owner.json", f"{SNAP}/manifest.json"}


def test_a_put_is_whole_or_not_at_all(target: Target, place: Place) -> None:
    """Whoever reads meanwhile sees the old content or the new one, never a part."""
    contents = {bytes([letter]) * 2_000_000 for letter in b"ab"}
    target.put("latest", min(contents))
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add((place.files / "latest").read_bytes())

    looker = threading.Thread(target=look)
    looker.start()
    for content in (*sorted(contents, reverse=True), *sorted(contents)):
        target.put("latest", content)
    over.set()
    looker.join()
    assert seen <= contents


# ---- listing, fetching, removing
def test_nothing_is_listed_where_nothing_is(target: Target, stage: Path) -> None:
    """An empty target, and a folder that is not there, have no files. What lies elsewhere is not listed."""
    assert target.listing("") == []
    assert target.listing("runs") == []
    target.send(stage, SNAP)
    assert target.listing("runs/detect/day") == []
    assert len(target.listing("")) == len(target.listing("runs/detect/night")) == len(_files(stage))


def test_exactly_what_is_asked_for_is_fetched(target: Target, stage: Path, tmp_path: Path) -> None:
    """The named files, under their paths, with their bytes and times; nothing else."""
    target.send(stage, SNAP)
    into = tmp_path / "into"
    into.mkdir()
    wanted = [f"{SNAP}/notes/{name}" for name in ODD] + [f"{SNAP}/train/weights/last.pt"]
    target.fetch(wanted, into)
    assert _files(into) == {path: (stage / path.removeprefix(f"{SNAP}/")).read_bytes() for path in wanted}
    ours, theirs = (stage / "train/weights/last.pt").stat(), (into / SNAP / "train/weights/last.pt").stat()
    assert theirs.st_mtime == pytest.approx(ours.st_mtime, abs=1)


def test_a_missing_file_is_not_fetched_silently(target: Target, stage: Path, tmp_path: Path) -> None:
    """A fetch that lacks one file has failed; so has one from an empty target."""
    into = tmp_path / "into"
    into.mkdir()
    for _ in range(2):
        with pytest.raises(TargetError) as failed:
            target.fetch([f"{SNAP}/empty", f"{SNAP}/nothing"], into)
        assert failed.value.cause == "failed"
        target.send(stage, SNAP)


def test_exactly_what_is_named_is_removed(target: Target, place: Place, stage: Path) -> None:
    """Named files go, folders that are left empty go, everything else stays; what is not there is not counted."""
    other = SNAP.replace("night", "day")
    target.send(stage, SNAP)
    target.send(stage, other)
    target.put("owner.json", b"{}")
    named = [f"{SNAP}/notes/{name}" for name in ODD]
    assert target.remove([*named, f"{SNAP}/nothing", "runs/nobody/nothing/x"]) == len(ODD)
    assert set(_files(place.files / SNAP)) == {"empty", "train/weights/last.pt", "train/results.csv"}
    if place.resumes != "objects":
        assert not (place.files / SNAP / "notes").exists()
    assert _files(place.files / other) == _files(stage)
    target.remove([one.path for one in target.listing(SNAP)])
    assert not (place.files / "runs/detect/night").exists()
    assert _files(place.files / other) == _files(stage)
    assert not (place.files / "runs/nobody").exists()
    assert target.read("owner.json") == b"{}"


_ELSEWHERE = ("../x", "runs/../../x", "/etc/passwd", "runs//x", "runs/./x", "", "runs/a\0b")


def test_paths_that_lead_elsewhere_are_refused(target: Target, place: Place, stage: Path) -> None:
    """Nothing is removed if one path is wrong, not even what else was named; nor is it read, written or fetched."""
    target.send(stage, SNAP)
    for path in (*_ELSEWHERE, "owner.json", "runs", "other/x"):
        with pytest.raises(TargetError) as refused:
            target.remove([f"{SNAP}/empty", path])
        assert refused.value.cause == "refused"
    assert (place.files / SNAP / "empty").exists()
    for path in _ELSEWHERE:
        for call in (target.read, lambda path: target.put(path, b""), lambda path: target.fetch([path], stage)):
            with pytest.raises(TargetError) as refused:
                call(path)
            assert refused.value.cause == "refused"


def test_too_many_at_once_are_refused(target: Target) -> None:
    """Nothing needs so much removed at once."""
    with pytest.raises(TargetError, match="too many") as refused:
        target.remove([f"{SNAP}/{number}" for number in range(base.MOST_REMOVED + 1)])
    assert refused.value.cause == "refused"


def test_an_append_only_target_removes_nothing(place: Place, stage: Path) -> None:
    """It takes and verifies, and refuses to forget."""
    target = place.open(append_only=True)
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []
    with pytest.raises(TargetError, match="append-only") as refused:
        target.remove([f"{SNAP}/empty"])
    assert refused.value.cause == "refused"
    assert (place.files / SNAP / "empty").exists()


def test_a_target_in_reach_tells_its_facts(target: Target) -> None:
    """Nothing is wrong with one that was just made."""
    facts = target.facts()
    assert facts.free_bytes is None or 0 < facts.free_bytes <= (facts.total_bytes or 0)


def test_nobody_else_may_read_what_lies_there(target: Target, place: Place, stage: Path) -> None:
    """Whatever the rights of the files were here: folders 0700, files 0600."""
    if place.resumes == "objects":
        pytest.skip("object stores have no modes")
    target.send(stage, SNAP)
    target.put("owner.json", b"{}")
    assert {path.stat().st_mode & 0o777 for path in place.files.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in place.files.rglob("*") if path.is_dir()} == {0o700}
