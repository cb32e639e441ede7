"""The rclone target against a real S3 server: what arrives, what is refused, and what an accident leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_room import BUCKET, S3Room, demand_store, s3_room
from torch_files import checkpoint

from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import Target, TargetError
from tests.unit.test_publish import Workshop

pytestmark = pytest.mark.e2e

SNAP = "runs/default/truck/snap-000003-20260101T000000-abcdef"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[S3Room]:
    """A server with an empty bucket."""
    demand_store()
    with s3_room(tmp_path / "s3") as made:
        yield made


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """What a transaction would send."""
    folder = tmp_path / "stage"
    (folder / "good").mkdir(parents=True)
    (folder / "good" / "epoch3-attempt1.pt").write_bytes(os.urandom(3_000_000))
    (folder / "results.csv").write_text("epoch\n1\n")
    (folder / "-x $(id) ; 名字.png").write_bytes(b"plot")
    return folder


def target_of(room: S3Room, tmp_path: Path, **settings: object) -> Target:
    """The target of the server `gpu one`."""
    return open_target(room.settings(**settings), "gpu one", tmp_path / "state", stop=threading.Event())  # type: ignore[arg-type]


def cause_of(target: Target) -> tuple[str, str]:
    """What the target says is wrong with it."""
    with pytest.raises(TargetError) as caught:
        target.facts()
    return caught.value.cause, caught.value.text


def test_what_is_sent_lies_there_and_comes_back(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """Sent, proven by reading it back, listed with sizes, fetched to other paths with the same bytes."""
    target = target_of(room, tmp_path)
    assert target.facts().free_bytes is None
    assert target.listing("") == []
    seen: list[int] = []
    target.send(stage, SNAP, progress=seen.append)
    assert target.differing(stage, SNAP) == []
    assert seen[-1] >= 3_000_000
    assert {found.path.removeprefix(f"{SNAP}/"): found.bytes for found in target.listing("runs")} == {
        "good/epoch3-attempt1.pt": 3_000_000,
        "results.csv": 8,
        "-x $(id) ; 名字.png": 4,
    }
    wanted = [f"{SNAP}/good/epoch3-attempt1.pt", f"{SNAP}/-x $(id) ; 名字.png"]
    target.fetch(wanted, tmp_path / "back")
    for path in wanted:
        assert (tmp_path / "back" / path).read_bytes() == (stage / path.removeprefix(f"{SNAP}/")).read_bytes()
    assert all(key.startswith("yolo/gpu-one/") for key in room.all_keys())


def test_small_files_are_there_whole_or_not(room: S3Room, tmp_path: Path) -> None:
    """A small file holds what was put last, an empty one too; one that was never put is None, not empty."""
    target = target_of(room, tmp_path)
    assert target.read("runs/p/n/latest") is None
    for data in (b"snap-1", b"snap-2", b"", b"a\r\nb\0\n"):
        target.put("runs/p/n/latest", data)
        assert target.read("runs/p/n/latest") == data


def test_a_missing_bucket_is_said_and_not_made(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """A bucket that is not there is as a disk that is not mounted: an error, never a new empty one."""
    target = target_of(room, tmp_path, path="other/yolo")
    assert cause_of(target)[0] == "absent"
    for call in (lambda: target.send(stage, SNAP), lambda: target.listing("runs"), lambda: target.read("owner.json")):
        with pytest.raises(TargetError) as caught:
            call()
        assert caught.value.cause == "absent"
    assert not (room.objects / "other").exists()


@pytest.mark.parametrize(
    ("remote", "cause"),
    [("wrong-key", "auth"), ("bad-signature", "auth"), ("dead", "unreachable"), ("nowhere", "unreachable")],
)
def test_each_trouble_has_its_cause(room: S3Room, tmp_path: Path, remote: str, cause: str) -> None:
    """Wrong keys, a server that is down and a name that nobody has are told apart; no text shows a secret."""
    found, text = cause_of(target_of(room, tmp_path, remote=remote))
    assert found == cause, text
    assert "not-shown" not in text


def test_a_remote_that_is_not_configured_is_said(room: S3Room, tmp_path: Path) -> None:
    """A name that rclone's configuration does not have is told as such."""
    cause, text = cause_of(target_of(room, tmp_path, remote="nobody"))
    assert (cause, "config" in text) == ("absent", True)


def test_what_has_folders_is_refused(room: S3Room, tmp_path: Path) -> None:
    """On a disk or an SFTP account rclone writes files under their own names: half of one would look whole."""
    cause, text = cause_of(target_of(room, tmp_path, remote="disk", path=str(tmp_path)))
    assert (cause, "object stores" in text) == ("refused", True)


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_is_gone_on_with(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """Killed while a file is on its way: a cause that passes; then only what is missing is sent, and it is whole."""
    (stage / "good" / "epoch4-attempt1.pt").write_bytes(os.urandom(16_000_000))
    slow = target_of(room, tmp_path, bwlimit=1_000_000)
    with pytest.raises(TargetError) as caught:
        slow.send(stage, SNAP, progress=lambda count: room.kill() if count else None)  # told after five seconds
    assert caught.value.cause in {"unreachable", "protocol", "timeout"}, caught.value.text
    room.start()
    target, sent = target_of(room, tmp_path), list[int]()
    sizes = {found.path.removeprefix(f"{SNAP}/"): found.bytes for found in target.listing("runs")}
    whole = [name for name, size in sizes.items() if (stage / name).stat().st_size == size]
    assert "results.csv" in whole
    assert "good/epoch4-attempt1.pt" not in whole  # s3rver, unlike the great stores, may show a part of it
    target.send(stage, SNAP, progress=sent.append)
    assert target.differing(stage, SNAP) == []
    assert sent[-1] == 19_000_012 - sum(sizes[name] for name in whole)


def test_a_flipped_byte_is_seen_and_sent_again(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """A byte that rotted there has the size, the time and the ETag of before: it is seen, and the next transfer mends it."""
    target = target_of(room, tmp_path)
    target.send(stage, SNAP)
    path = room.object(f"yolo/gpu-one/{SNAP}/good/epoch3-attempt1.pt")
    with path.open("r+b") as file:
        file.seek(1_500_000)
        byte = file.read(1)
        file.seek(1_500_000)
        file.write(bytes([byte[0] ^ 1]))
    assert target.differing(stage, SNAP) == ["good/epoch3-attempt1.pt"]
    target.send(stage, SNAP)
    assert target.differing(stage, SNAP) == []


def test_what_is_missing_or_shorter_is_seen(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """An object that somebody took away, and one that they replaced by less, are seen; of nothing sent, all is missing."""
    target = target_of(room, tmp_path)
    everything = sorted(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file())
    assert target.differing(stage, SNAP) == everything
    target.send(stage, SNAP)
    target.remove([f"{SNAP}/good/epoch3-attempt1.pt"])
    target.put(f"{SNAP}/results.csv", b"epoch\n")
    assert target.differing(stage, SNAP) == ["good/epoch3-attempt1.pt", "results.csv"]


def test_nothing_of_a_complete_snapshot_is_replaced(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """Below a manifest a file with other content is refused, and what lay there still lies there."""
    target = target_of(room, tmp_path)
    target.send(stage, SNAP)
    target.put(f"{SNAP}/manifest.json", b"{}")
    (stage / "results.csv").write_text("something else")
    with pytest.raises(TargetError) as caught:
        target.send(stage, SNAP)
    assert caught.value.cause == "refused"
    assert target.read(f"{SNAP}/results.csv") == b"epoch\n1\n"


def test_only_what_is_named_is_removed(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """Named files of snapshots go, missing ones are not counted; nothing above, outside or on an append-only target."""
    target = target_of(room, tmp_path)
    target.send(stage, SNAP)
    target.put("owner.json", b"{}")
    assert target.remove([f"{SNAP}/results.csv", f"{SNAP}/never"]) == 1
    assert target.remove([f"{SNAP}/-x $(id) ; 名字.png"]) == 1
    assert [found.path for found in target.listing("runs")] == [f"{SNAP}/good/epoch3-attempt1.pt"]
    for path in ("owner.json", "../other/runs/x", f"/{SNAP}/good/epoch3-attempt1.pt", "runs"):
        with pytest.raises(TargetError) as caught:
            target.remove([path])
        assert caught.value.cause == "refused"
    with pytest.raises(TargetError):
        target_of(room, tmp_path, append_only=True).remove([f"{SNAP}/good/epoch3-attempt1.pt"])
    assert len(room.all_keys()) == 2


def test_a_file_that_is_missing_there_is_an_error(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """Of a file that is not there rclone says nothing; a restore must not believe that it has it."""
    target = target_of(room, tmp_path)
    target.send(stage, SNAP)
    with pytest.raises(TargetError, match="not there"):
        target.fetch([f"{SNAP}/results.csv", f"{SNAP}/lost.pt"], tmp_path / "back")


def test_the_end_of_the_daemon_ends_the_transfer(room: S3Room, stage: Path, tmp_path: Path) -> None:
    """A stop in the middle of a slow transfer is no fault of the target; the next one sends what is missing."""
    stop = threading.Event()
    target = open_target(room.settings(bwlimit=200_000), "gpu one", tmp_path / "state", stop=stop)
    with pytest.raises(TargetError) as caught:
        target.send(stage, SNAP, progress=lambda _: stop.set())
    assert caught.value.cause == "stopped"
    again = target_of(room, tmp_path)
    again.send(stage, SNAP)
    assert again.differing(stage, SNAP) == []


def test_options_cannot_come_from_the_environment(
    room: S3Room, stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RCLONE_* and AWS_* of the daemon's environment change nothing: what counts is written down."""
    monkeypatch.setenv("RCLONE_DRY_RUN", "true")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere")
    target_of(room, tmp_path).send(stage, SNAP)
    assert f"yolo/gpu-one/{SNAP}/results.csv" in room.all_keys()
    assert (room.objects / BUCKET).is_dir()


def test_weights_are_published_to_a_bucket(room: S3Room, tmp_path: Path) -> None:
    """Best, last and card lie in `published` there; the same again changes nothing, other weights get a number."""
    workshop = Workshop(tmp_path)
    workshop.backups = (room.settings(),)
    first = workshop.publish(to="store")
    assert first.ok, first.text
    assert [key for key in room.all_keys() if not key.startswith("yolo/gpu-one/published/")] == []
    assert workshop.publish(to="store").files == first.files
    workshop.best.write_bytes(checkpoint(stripped=True, map50_95=0.5319, numbers=(1.0,) * 16))
    assert workshop.publish(to="store").files[-1].endswith("-2.json")
    assert len(room.all_keys()) == 6
