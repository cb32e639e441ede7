"""What a target holds is read with suspicion, and what comes back is what was stored, or is said not to be."""

from __future__ import annotations

import os
import threading

import msgspec
import pytest

from supervisor.core.backups.manifest import Manifest, Stored
from supervisor.effects.backup import fetched, placing
from supervisor.effects.backup.fetched import Fetcher, Holdings, NoRoomError
from supervisor.effects.backup.lasting import forget_old, lasting_folder, lasting_of
from supervisor.effects.backup.targets.base import Found, TargetError
from supervisor.errors import RetryableError
from tests.backup_room import BackupRoom


@pytest.fixture
def room(tmp_path):
    """A run with two backups of it: epochs 1 and 2, then 3."""
    room = BackupRoom(tmp_path, snapshots=5)
    room.saved(1, 2)
    room.back_up()
    room.saved(3)
    room.write("train/results.csv", b"epoch,loss\n1,2\n2,2\n3,2\n")
    room.back_up()
    return room


def manifest_path(room, place=0):
    """Where a manifest lies on the target, the newest first."""
    return room.target.root / room.folder / room.manifests()[place].snapshot / "manifest.json"


def flip(path, place=100):
    """Turn one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 4
    path.write_bytes(data)


def stored(room, path):
    """A file of the newest manifest, and where its bytes lie."""
    file = room.manifests()[0].stored(path)
    return file, room.target.root / fetched.place(room.folder, file)


def fetch(room, *paths, **options):
    """Fetch files of the newest manifest."""
    holdings = Holdings(room.target, room.folder)
    manifest = holdings.newest(room.folder)
    with fetched.scratch_folder(room.state_dir / "scratch") as scratch:
        got = Fetcher(holdings, scratch, **options).fetch(room.folder, [manifest.stored(path) for path in paths])
        return {path: place.read_bytes() for path, place in got.files.items()}, got


def test_the_newest_manifest_comes_first_and_a_damaged_one_is_skipped(room):
    """A restore takes the backup before the one whose manifest cannot be read, and the damage is told."""
    older = room.manifests()[1]
    manifest_path(room).write_bytes(b'{"kind": "run"')
    holdings = Holdings(room.target)
    assert holdings.folders == [room.folder]
    assert holdings.newest(room.folder) == older
    assert len(holdings.damaged(room.folder)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"snapshot": "snap-000001-20200101T000000Z-00000000"},
        {"files": (Stored(path="../../x", bytes=1, sha256="0" * 64, mtime_ns=0, at="snap-000001-20200101T000000Z-00000000"),)},
        {"files": (Stored(path="/etc/x", bytes=1, sha256="0" * 64, mtime_ns=0, at="snap-000001-20200101T000000Z-00000000"),)},
        {"files": (Stored(path="a//b", bytes=1, sha256="0" * 64, mtime_ns=0, at="snap-000001-20200101T000000Z-00000000"),)},
        {"files": (Stored(path="x", bytes=1, sha256="0" * 64, mtime_ns=0, at="../../other"),)},
        {"files": (Stored(path="x", bytes=1, sha256="zz", mtime_ns=0, at="snap-000001-20200101T000000Z-00000000"),)},
    ],
)  # fmt: skip
def test_a_manifest_that_lies_is_a_damaged_one(room, change):
    """Another run's manifest, a path that climbs out, a snapshot that is none: nothing of it is believed."""
    path = manifest_path(room)
    right = msgspec.json.decode(path.read_bytes(), type=Manifest)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(right, **{"checkpoints": (), **change})))
    holdings = Holdings(room.target, room.folder)
    assert [one.snapshot for one in holdings.manifests(room.folder)] == [room.manifests()[-1].snapshot]
    assert len(holdings.damaged(room.folder)) == 1


def test_all_manifests_are_read_in_one_fetch(room):
    """A verification of hundreds of runs does not open a connection for each manifest."""
    room.target.calls.clear()
    holdings = Holdings(room.target)
    holdings.read_all(room.state_dir / "scratch")
    assert len(list(holdings.manifests(room.folder))) == 2
    assert room.target.calls == ["listing", "fetch"]
    assert not (room.state_dir / "scratch").exists()


def test_files_come_back_bit_by_bit(room):
    """Also those that an older snapshot holds."""
    paths = [file.path for file in room.manifests()[0].files]
    data, got = fetch(room, *paths)
    assert not got.wrong
    assert data == {path: stored(room, path)[1].read_bytes() for path in paths}
    assert {file.at for file in room.manifests()[0].files} == {one.snapshot for one in room.manifests()}


def test_a_damaged_file_is_replaced_by_the_same_bytes_of_another_snapshot(room):
    """The trainer's last save is its copy in the ledger elsewhere: whatever has the right hash will do."""
    room.write("train/notes.txt", b"the same words")
    room.back_up()
    room.write("train/notes.txt", b"other words")
    room.back_up()
    room.write("train/notes.txt", b"the same words")
    room.back_up()
    file, place = stored(room, "train/notes.txt")
    flip(place)
    data, got = fetch(room, "train/notes.txt")
    assert data == {"train/notes.txt": b"the same words"}
    assert got.damaged == {fetched.place(room.folder, file)}


def test_a_damaged_file_without_a_twin_is_said_to_be_damaged(room):
    """It is never handed out, and the others are."""
    file, place = stored(room, "train/labels.jpg")
    flip(place)
    data, got = fetch(room, "train/labels.jpg", "mark")
    assert set(data) == {"mark"}
    assert "other bytes" in got.wrong["train/labels.jpg"]
    assert got.damaged == {fetched.place(room.folder, file)}


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_missing_or_cut_file_is_known_from_the_listing(room, harm):
    """Nothing is fetched for it."""
    _, place = stored(room, "train/labels.jpg")
    harm(place)
    _, got = fetch(room, "train/labels.jpg")
    assert "not there" in got.wrong["train/labels.jpg"]


def test_one_file_that_cannot_be_fetched_does_not_cost_the_others(room):
    """A batch that fails is fetched file by file."""
    holdings = Holdings(room.target, room.folder)
    manifest = holdings.newest(room.folder)
    stored(room, "train/labels.jpg")[1].unlink()  # after the listing
    with fetched.scratch_folder(room.state_dir / "scratch") as scratch:
        files = [manifest.stored(path) for path in ("mark", "train/labels.jpg", "token")]
        got = Fetcher(holdings, scratch).fetch(room.folder, files)
    assert set(got.files) == {"mark", "token"}
    assert "could not be fetched" in got.wrong["train/labels.jpg"]


def test_a_target_that_cannot_be_reached_is_no_damaged_file(room):
    """The cause goes up: nothing is said about the files."""
    holdings = Holdings(room.target, room.folder)
    manifest = holdings.newest(room.folder)

    def fails(_call):
        raise TargetError("unreachable", "no route")

    room.target.fails = fails
    with fetched.scratch_folder(room.state_dir / "scratch") as scratch, pytest.raises(TargetError) as told:
        Fetcher(holdings, scratch).fetch(room.folder, manifest.files)
    assert told.value.cause == "unreachable"


def test_a_fetch_ends_with_the_daemon(room):
    """No further batch is begun."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(TargetError) as told:
        fetch(room, "mark", stop=stop)
    assert told.value.cause == "stopped"


def test_nothing_is_fetched_that_does_not_fit(room, monkeypatch):
    """Both numbers are told."""
    monkeypatch.setattr(fetched, "free_bytes", lambda _folder: 1000)
    with pytest.raises(NoRoomError, match="are needed"):
        fetch(room, "mark")


def test_scratch_is_empty_at_the_start_and_gone_at_the_end(tmp_path):
    """Also after a failure, and where a crash left something."""
    (tmp_path / "scratch" / "old").mkdir(parents=True)

    def fail():
        with fetched.scratch_folder(tmp_path / "scratch") as scratch:
            raise KeyError(list(scratch.iterdir()))

    with pytest.raises(KeyError, match=r"\[\]"):
        fail()
    assert not (tmp_path / "scratch").exists()


def test_a_link_in_the_place_of_scratch_is_not_followed(tmp_path):
    """What it leads to is not removed."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "scratch").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"), fetched.scratch_folder(tmp_path / "scratch"):
        pass
    assert (tmp_path / "precious" / "file").exists()


# ---- many files
class Shelf:
    """A target that holds three manifests of one run with very many files, all of them whole."""

    name, append_only = "shelf", False

    def __init__(self, count, content=lambda number: f"{number:064x}"):
        self.files, self.data = {}, {}
        self.names = [f"snap-00000{number}-2026010{number}T000000Z-0a1b2c3d" for number in (1, 2, 3)]
        for name in self.names:
            files = tuple(
                Stored(path=f"f/{number}", bytes=7, sha256=content(number), mtime_ns=1, at=name)
                for number in range(count)
            )
            made = Manifest(server="s", snapshot=name, created_at=1.0, project="p", name="n", files=files)
            self.data[f"runs/p/n/{name}/manifest.json"] = msgspec.json.encode(made)
            self.files |= {f"runs/p/n/{name}/{file.path}": 7 for file in files}

    def listing(self, _under):
        """All of it."""
        sizes = {**self.files, **{path: len(data) for path, data in self.data.items()}}
        return [Found(path, size, 1.0) for path, size in sizes.items()]

    def read(self, path):
        """A manifest."""
        return self.data[path]


def test_what_is_planned_grows_with_the_files_and_not_with_their_square(monkeypatch):
    """Two hundred thousand files are a matter of seconds: each is looked at once for each manifest."""
    count, calls = 2000, []
    holdings = Holdings(Shelf(count), "runs/p/n")
    real = fetched.place
    monkeypatch.setattr(fetched, "place", lambda folder, file: calls.append(1) or real(folder, file))
    files = holdings.newest("runs/p/n").files
    places = [holdings.places("runs/p/n", file) for file in files]
    assert all([path.split("/")[3][10] for path in found] == ["3", "2", "1"] for found in places)
    assert len(calls) <= 4 * count


def test_of_thousands_of_equal_files_a_few_places_are_tried():
    """Empty files are all the same."""
    holdings = Holdings(Shelf(3000, lambda _number: "a" * 64), "runs/p/n")
    files = holdings.newest("runs/p/n").files
    found = [holdings.places("runs/p/n", file) for file in files]
    assert all(paths[0] == fetched.place("runs/p/n", file) for paths, file in zip(found, files, strict=True))
    assert max(map(len, found)) <= fetched.MOST_PLACES + 1


def test_a_stop_ends_planning_and_hashing(tmp_path):
    """Before a file is looked for, and between two blocks of one."""
    holdings, stop = Holdings(Shelf(10), "runs/p/n"), threading.Event()
    stop.set()
    with pytest.raises(TargetError, match="interrupted"):
        Fetcher(holdings, tmp_path / "scratch", stop).fetch("runs/p/n", holdings.newest("runs/p/n").files)
    (tmp_path / "large").write_bytes(bytes(20_000_000))
    steps = iter([None, None, KeyError("enough")])

    def step():
        if (error := next(steps)) is not None:
            raise error

    file = Stored(path="x", bytes=20_000_000, sha256="0" * 64, mtime_ns=0, at="s")
    with pytest.raises(KeyError):
        fetched.difference(tmp_path / "large", file, step)


# ---- scratch that outlasts a try
def test_what_came_stays_where_the_target_broke_off(tmp_path):
    """For the next try; not where the disk is full, nor after a success or a bug."""
    folder = lasting_of(tmp_path / "scratch", "truck@1")

    def tried(error=None):
        with lasting_folder(folder) as scratch:
            before = [path.name for path in scratch.iterdir()]
            (scratch / "file").touch()
            if error is not None:
                raise error
        return before

    for error in (TargetError("unreachable", "gone"), RetryableError("later", 1.0)):
        with pytest.raises(type(error)):
            tried(error)
        assert tried() == ["file"]
        assert not (tmp_path / "scratch").exists()
    for error in (TargetError("no-room", "full"), KeyError("bug")):
        with pytest.raises(type(error)):
            tried(error)
        assert not (tmp_path / "scratch").exists()


def test_scratch_to_which_nobody_came_back_is_removed(tmp_path):
    """And no other one, and nothing that a link leads to."""
    for name in ("old", "new", "precious"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "old").rename(scratch / "old")
    (tmp_path / "new").rename(scratch / "new")
    (scratch / "link").symlink_to(tmp_path / "precious")
    os.utime(scratch / "old", (1, 1))
    os.utime(scratch / "link", (1, 1), follow_symlinks=False)
    forget_old(scratch, 1000.0)
    assert [path.name for path in scratch.iterdir()] == ["new"]
    assert (tmp_path / "precious" / "file").exists()
    forget_old(tmp_path / "none", 1000.0)


# ---- putting in place
def put(tmp_path, path, *, data=b"data", mode=0o644, **options):
    """Put a file into the folder `root`."""
    (tmp_path / "root").mkdir(exist_ok=True)
    source = tmp_path / "source"
    source.write_bytes(data)
    file = Stored(path=path, bytes=len(data), sha256="0" * 64, mtime_ns=10**18 + 7, at="s", mode=mode)
    return placing.put_in_place(source, tmp_path / "root", file, **options)


def test_a_file_gets_its_time_and_a_bounded_mode(tmp_path):
    """A manifest cannot make a file setuid or writable for all."""
    assert put(tmp_path, "a/b/c", mode=0o6777)
    status = (tmp_path / "root/a/b/c").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o7777) == (10**18 + 7, 0o755)
    assert not (tmp_path / "source").exists()


def test_what_is_there_stays(tmp_path):
    """Unless it is to be replaced; nothing of ours is left beside it."""
    put(tmp_path, "a")
    assert not put(tmp_path, "a", data=b"new")
    assert (tmp_path / "root/a").read_bytes() == b"data"
    assert put(tmp_path, "a", data=b"new", over=True)
    assert (tmp_path / "root/a").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["a"]


def test_no_link_leads_out_of_the_folder(tmp_path):
    """Neither on the way nor in the place of the file."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="link"):
        put(tmp_path, "link/x")
    (tmp_path / "root/file").symlink_to(tmp_path / "outside/x")
    assert not put(tmp_path, "file")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "."])
def test_a_path_that_climbs_is_refused(tmp_path, path):
    """Whoever calls."""
    with pytest.raises(OSError, match="not a path"):
        put(tmp_path, path)


def test_a_file_comes_across_file_systems(tmp_path, monkeypatch):
    """Where a rename cannot, a copy does."""
    real = os.rename

    def rename(source, target, **options):
        if "src_dir_fd" not in options:
            raise OSError(18, "Invalid cross-device link")
        real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    assert put(tmp_path, "a/b", mode=0o600)
    assert (tmp_path / "root/a/b").read_bytes() == b"data"
    assert (tmp_path / "root/a/b").stat().st_mtime_ns == 10**18 + 7
    assert not (tmp_path / "source").exists()
