"""Files that are never half: the new content takes the old one's place in one step, or not at all."""

from __future__ import annotations

import copy
import errno
import os
import pathlib
import pickle
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
from runner_lab import FAKE, REPOSITORY, interrupted, names, write_checkpoint

from supervisor.runner import safe_saves, whole_files
from supervisor.runner.checkpoint import inspect


@pytest.fixture
def small_files():
    """Let this process write at most 64 KiB into a file: a full disk, for whoever writes more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))  # Python ignores SIGXFSZ: the write says EFBIG
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_new_content_is_a_new_file(tmp_path):
    """A reader that has the old file open goes on reading the old content, whole."""
    path = tmp_path / "last.pt"
    path.write_bytes(b"old" * 1000)
    with path.open("rb") as reader:
        whole_files.write(str(path), b"new")
        assert reader.read() == b"old" * 1000
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["last.pt"]


def test_a_full_disk_costs_the_new_content_only(tmp_path, small_files):
    """The error reaches the trainer, the old file is whole, and no temporary file stays."""
    path = safe_saves.WholePath(tmp_path / "last.pt")
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="File too large"):
        path.write_bytes(bytes(100_000))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["last.pt"]


def test_mode_and_owner_are_those_of_the_file_that_is_replaced(tmp_path):
    """Writing in place would keep them; a new file gets what the umask gives."""
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    path.chmod(0o640)
    whole_files.write(str(path), b"new")
    assert path.stat().st_mode & 0o777 == 0o640
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
        whole_files.write(str(path), b"newer")
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)
    umask = os.umask(0o027)
    whole_files.write(str(tmp_path / "other"), b"")
    os.umask(umask)
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path):
    """A last.pt that points to another disk is replaced there."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real.pt").write_bytes(b"old")
    (tmp_path / "last.pt").symlink_to("disk/real.pt")
    whole_files.write(str(tmp_path / "last.pt"), b"new")
    assert (tmp_path / "last.pt").is_symlink()
    assert (tmp_path / "disk" / "real.pt").read_bytes() == b"new"


def test_a_copy_is_equal_and_its_own(tmp_path):
    """Later changes of the source do not reach it."""
    source = write_checkpoint(tmp_path / "last.pt", **interrupted(4))
    content = source.read_bytes()
    whole_files.copy(str(source), str(tmp_path / "final.pt"))
    with source.open("r+b") as file:
        file.write(b"xxxx")
    assert (tmp_path / "final.pt").read_bytes() == content


def test_only_what_a_killed_save_left_is_removed(tmp_path):
    """Exactly our names, older than this process, of a process that is gone; anything else stays."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    left = f".last.pt.yolo-supervisor-{gone.pid}.tmp"
    stay = [
        f".last.pt.yolo-supervisor-{alive.pid}.tmp",
        f"last.pt.yolo-supervisor-{gone.pid}.tmp",
        f".last.pt.yolo-supervisor-{gone.pid}.tmp2",
        ".last.pt.tmp",
        "last.pt",
    ]
    for name in [left, *stay]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    new = f".best.pt.yolo-supervisor-{gone.pid}.tmp"
    (tmp_path / new).touch()
    try:
        assert whole_files.remove_leftovers(str(tmp_path)) == [left]
    finally:
        alive.communicate()
    assert names(tmp_path) == sorted([*stay, new])
    assert whole_files.remove_leftovers(str(tmp_path / "nowhere")) == []


def test_what_is_joined_to_a_whole_path_is_one(tmp_path):
    """epochN.pt is written through the folder's path; everything else about a path is as ever."""
    folder = safe_saves.WholePath(tmp_path)
    assert isinstance(folder / "epoch3.pt", safe_saves.WholePath)
    assert folder / "epoch3.pt" == tmp_path / "epoch3.pt"
    assert hash(folder) == hash(pathlib.Path(tmp_path))
    assert f"{folder}" == str(tmp_path)


def test_a_model_that_remembers_its_path_can_be_loaded_without_us(tmp_path):
    """A pickled or copied path is a plain one: a file that names our class would not load elsewhere."""
    path = safe_saves.WholePath(tmp_path / "last.pt")
    assert type(pickle.loads(pickle.dumps(path))) is type(pathlib.Path())
    assert copy.deepcopy(path) == path


def refuse(monkeypatch, call, number):
    """Let one call of the file system fail for ever; `open` only for temporary names."""

    def refused(*given, **_):
        if call == "open" and not str(given[0]).endswith(".tmp"):
            return pathlib.Path(given[0]).open(*given[1:])
        raise OSError(number, os.strerror(number))

    at = (whole_files, "open") if call == "open" else (os, call)
    monkeypatch.setattr(*at, refused, raising=False)


UNABLE = [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EROFS]


@pytest.mark.parametrize("number", UNABLE, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "fchmod", "fchown", "fsync", "replace"])
def test_a_file_system_that_cannot_is_written_in_place(tmp_path, monkeypatch, call, number):
    """No new file, no sync, no rename: where the library could save, it still can, and that is said in one sentence."""
    said = []
    trainer = Trainer(tmp_path)
    safe_saves.arm(trainer, said.append)
    pathlib.Path(trainer.last).write_bytes(b"old")
    if os.geteuid() == 0:
        os.chown(trainer.last, 12345, 54321)
    trainer.last.chmod(0o604)
    refuse(monkeypatch, call, number)
    for content in (b"newer" * 1000, b"new"):
        trainer.last.write_bytes(content)
        assert trainer.last.read_bytes() == content
    assert names(tmp_path) == ["last.pt"]
    if not call.startswith("fch"):  # an owner or mode that may not be set is no reason to write in place
        assert (len(said), len(set(said))) == (2, 1)
        assert said[0].endswith(f"in place, a kill in a save can tear them: {os.strerror(number)}")


def full_for_a_second_copy(monkeypatch, number=errno.ENOSPC):
    """Let every new file meet a full disk."""
    refuse(monkeypatch, "open", number)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_disk_without_room_for_a_second_copy_takes_the_save_in_place(tmp_path, monkeypatch, number):
    """If another whole checkpoint of the run is there: beside it, or a copy in the run's own folders."""
    said = []
    for place in ("weights", "good"):
        folder = tmp_path / place
        trainer = Trainer(folder / "weights")
        write_checkpoint(folder / place / "best.pt", **interrupted(1))
        last = write_checkpoint(trainer.last, **interrupted(2))
        safe_saves.arm(trainer, said.append, (str(folder / "gone"), str(folder / "good")))
        with monkeypatch.context() as disk:
            full_for_a_second_copy(disk, number)
            trainer.last.write_bytes(last.read_bytes()[:-1])
        assert inspect(str(last))["state"] == "torn"  # really written
    assert len(said) == 2
    assert os.strerror(number) in said[0]


@pytest.mark.parametrize("other", [None, b"torn"])
def test_a_full_disk_never_costs_the_only_whole_checkpoint(tmp_path, monkeypatch, other):
    """Then the trainer gets the error, as it would; also where the new content would not fit in the old one's place."""
    trainer = Trainer(tmp_path)
    write_checkpoint(trainer.last, **interrupted(2))
    safe_saves.arm(trainer)
    before = trainer.last.read_bytes()
    if other:
        pathlib.Path(trainer.best).write_bytes(other)
    full_for_a_second_copy(monkeypatch)
    with pytest.raises(OSError, match="No space"):
        trainer.last.write_bytes(b"new")
    monkeypatch.undo()
    write_checkpoint(trainer.best, **interrupted(1))
    full_for_a_second_copy(monkeypatch)
    with pytest.raises(OSError, match="No space"):
        trainer.last.write_bytes(bytes(10 * len(before)))
    with pytest.raises(OSError, match="No space"):
        (trainer.wdir / "epoch2.pt").write_bytes(b"new")
    assert trainer.last.read_bytes() == before


class Trainer:
    """As much of a trainer as `arm` knows."""

    def __init__(self, folder):
        self.wdir = folder
        self.last, self.best = folder / "last.pt", folder / "best.pt"

    def final_eval(self):
        """Strip through the global name, as the library does."""
        return strip_optimizer(self.last, updates={"train_results": 1})


def strip_optimizer(f, s="", updates=None):
    """Break in the middle of writing if the update says so."""
    with pathlib.Path(s or f).open("wb") as file:
        file.write(b"strip")
        if updates == "break":
            raise OSError(28, "No space left on device")
    return updates


def test_stripping_replaces_the_file_in_one_step(tmp_path, monkeypatch):
    """The final stripping, too, leaves the old file or the new one, and returns what it always returned."""
    monkeypatch.setitem(globals(), "strip_optimizer", strip_optimizer)
    trainer = Trainer(tmp_path)
    trainer.last.write_bytes(b"old")
    safe_saves.arm(trainer)
    wrapped = globals()["strip_optimizer"]
    safe_saves.arm(trainer)
    assert globals()["strip_optimizer"] is wrapped
    inode = trainer.last.stat().st_ino
    assert trainer.final_eval() == {"train_results": 1}
    assert (trainer.last.read_bytes(), trainer.last.stat().st_ino != inode) == (b"strip", True)
    with pytest.raises(OSError, match="No space"):
        wrapped(trainer.best, str(trainer.last), updates="break")
    assert trainer.last.read_bytes() == b"strip"
    assert names(tmp_path) == ["last.pt"]


def strip_where_nothing_new_fits(f, s="", updates=None):
    """Fail as torch does, without the number of the error, if the result is a new file."""
    if s:
        raise RuntimeError(updates)
    pathlib.Path(f).write_bytes(b"strip")
    return {"stripped": 1}


def test_stripping_falls_back_to_in_place_as_a_save_does(tmp_path, monkeypatch):
    """Where nothing new may be made; and on a full disk where the file is not the only whole checkpoint."""
    said = []
    trainer = Trainer(tmp_path)
    write_checkpoint(trainer.last, **interrupted(4))
    safe_saves.arm(trainer, said.append)
    strip = safe_saves.stripping_whole(strip_where_nothing_new_fits)
    with pytest.raises(RuntimeError, match="file write failed"):
        strip(trainer.last, updates="file write failed")
    assert inspect(str(trainer.last))["state"] == "done_not_stripped"
    write_checkpoint(trainer.best, **interrupted(3))
    assert strip(trainer.last, updates="file write failed") == {"stripped": 1}
    trainer.last.unlink()
    monkeypatch.setattr(whole_files, "beside", lambda _: "/sys/refused.tmp")
    assert strip(trainer.best, updates="cannot be opened") == {"stripped": 1}
    assert [text.rpartition(": ")[2] for text in said] == ["file write failed", "cannot be opened"]


def test_an_unknown_trainer_is_left_as_it_is(tmp_path):
    """A trainer without the known attributes is not half changed."""
    trainer = SimpleNamespace(wdir=tmp_path, last=tmp_path / "last.pt")
    with pytest.raises(AttributeError):
        safe_saves.arm(trainer)
    assert type(trainer.wdir) is type(tmp_path)


KILLED = """
import os, signal, sys
from supervisor.runner import whole_files
real = os.{call}
os.{call} = lambda *arguments, **keywords: os.kill(os.getpid(), signal.SIGKILL)
whole_files.write(sys.argv[1], b"new" * 1000)
"""


@pytest.mark.e2e
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_at_any_step_leaves_a_whole_file(tmp_path, call):
    """Killed before the sync or before the rename: the old content, and a leftover that the next start removes."""
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED.format(call=call), path], cwd=REPOSITORY, check=False)
    assert killed.returncode == -9
    assert path.read_bytes() == b"old"
    code = f"from supervisor.runner import whole_files; print(whole_files.remove_leftovers({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert "last.pt.yolo-supervisor" in done.stdout
    assert names(tmp_path) == ["last.pt"]


READING = """
import sys
from pathlib import Path
from supervisor.runner import safe_saves
from supervisor.runner.checkpoint import inspect
sys.path.insert(0, sys.argv[2])
from ultralytics.utils.files import checkpoint_bytes
path = {path}(sys.argv[1])
content = checkpoint_bytes({{"epoch": 1, "optimizer": 1, "ema": 1, "train_args": {{"epochs": 5}}}}) + bytes(0)
print("ready", flush=True)
for _ in range(300):
    path.write_bytes(content)
"""


@pytest.mark.e2e
def test_a_reader_never_sees_a_torn_file_while_it_is_saved(tmp_path):
    """Whoever looks at any moment of 300 saves finds a whole checkpoint."""
    path = write_checkpoint(tmp_path / "last.pt", **interrupted(1))
    code = READING.format(path="safe_saves.WholePath")
    writer = subprocess.Popen(
        [sys.executable, "-c", code, path, FAKE], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "ready\n"
    states = set()
    while writer.poll() is None:
        states.add(inspect(str(path))["state"])
    writer.stdout.close()
    assert writer.returncode == 0
    assert states == {"resumable"}
