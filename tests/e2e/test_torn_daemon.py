"""Torn, poisoned and lost checkpoints under the real daemon: the run goes on from a verified copy, never from scratch."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from daemon_harness import REPOSITORY, Site, alive, can, needs, site, until

from supervisor import layout
from supervisor.core.ledger import Ledger, usable
from supervisor.effects import ledger
from tests.torch_files import ZEROS, checkpoint

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
SEED = int(os.environ.get("YOLO_SUPERVISOR_SEED") or random.SystemRandom().randrange(2**32))
NAN = (*ZEROS, float("nan"))


def kept(server: Site, name: str) -> Ledger:
    """The ledger of a run."""
    return ledger.read(layout.RunDirectory(server.run_dir(name)))


def wait_kept(server: Site, name: str, epoch: int) -> None:
    """Wait until that epoch or a later one is in the ledger."""
    until(lambda: any(one.epoch >= epoch for one in kept(server, name).entries), f"epoch {epoch} of {name} is kept")


def last_of(server: Site, name: str) -> Path:
    """The file that the trainer writes in place."""
    return server.run_dir(name) / "train" / "weights" / "last.pt"


def starts(server: Site, name: str) -> list[tuple[str, int]]:
    """How each attempt started, by the trainer's own words: fresh or resumed, after how many epochs."""
    found = [server.attempt(name, number).beats() for number in server.attempts(name)]
    begun = [next(beat for beat in beats if beat["kind"] in {"fresh", "resumed"}) for beats in found]
    return [(beat["kind"], beat.get("from_epoch", -1) + 1) for beat in begun]


def kill_in_save(pid: int, path: Path, whole: int, within_s: float = 30.0) -> int:
    """SIGKILL while the file has neither its whole size nor none; polled without a pause. The size that was seen."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        size = path.stat().st_size
        if 0 < size < whole:
            os.kill(pid, signal.SIGKILL)
            return size
    raise AssertionError(f"no save of {path} was seen within {within_s} s")


def test_killed_inside_the_save_again_and_again(server):
    """SIGKILL while last.pt is being written in place, three times: each time the ledger's copy takes its place.

    Never from scratch, the torn files are kept for study, and results.csv has each epoch once.
    """
    server.train("big", f"--epoch-s 0.6 --no-best --padding {64 * MIB}", epochs=16)
    torn, number = 0, 1
    while torn < 3:
        attempt = server.attempt("big", number)
        begun_after = attempt.wait_for_beat("resumed")["from_epoch"] + 1 if number > 1 else 0
        wait_kept(server, "big", begun_after + 1)
        kill_in_save(attempt.pid, last_of(server, "big"), 64 * MIB)
        attempt.json("exit.json")
        number += 1
        server.attempt("big", number).json("started.json")
        torn += (server.attempt("big", number).directory / "aside" / "last.pt").exists()
        assert number < 9, f"only {torn} of the kills left a torn file"
    server.wait("big", "SUCCEEDED", within_s=60)
    begun = starts(server, "big")
    assert begun[0] == ("fresh", 0)
    assert all(kind == "resumed" and epoch >= 1 for kind, epoch in begun[1:])
    assert server.epochs_in_table("big") == list(range(1, 17))
    notes = [note for row in server.history("big@1", "Prepared") for note in row.body.get("notes", ())]
    assert sum("took the place of last.pt" in note for note in notes) >= 3
    assert [one.epoch for one in kept(server, "big").entries][-1] >= begun[-1][1]


def test_a_poisoned_checkpoint_is_passed_over(server):
    """NaN in the weights of last.pt and best.pt: whole, loadable, newer, and not taken; the copy from before is."""
    server.train("boxes", "--epoch-s 0.3", epochs=40)
    wait_kept(server, "boxes", 1)
    server.order("stop", "boxes")
    server.wait("boxes", "HELD")
    until(
        lambda: server.run("boxes")["saved_epoch"] == kept(server, "boxes").entries[-1].epoch, "the last save is kept"
    )
    saved = kept(server, "boxes").entries[-1].epoch
    for name in ("last.pt", "best.pt"):
        last_of(server, "boxes").with_name(name).write_bytes(checkpoint(saved + 3, epochs=40, numbers=NAN))
    server.order("resume", "boxes")
    server.attempt("boxes", 2).wait_for_beat("resumed", from_epoch=saved - 1)
    server.order("cancel", "boxes", now=True)
    server.wait("boxes", "CANCELLED")
    rows = server.epochs_in_table("boxes")
    assert rows == sorted(set(rows))
    [prepared] = [row for row in server.history("boxes@1", "Prepared") if row.body["attempt"] == 2]
    assert any("poisoned" in note for note in prepared.body["notes"])


def test_a_lost_training_folder_is_continued_from_the_ledger(server):
    """Somebody deletes the whole save directory of a stopped run: it goes on from the copy, not from the beginning."""
    server.train("boxes", "--epoch-s 0.3", epochs=40)
    wait_kept(server, "boxes", 1)
    server.order("stop", "boxes")
    server.wait("boxes", "HELD")
    until(
        lambda: server.run("boxes")["saved_epoch"] == kept(server, "boxes").entries[-1].epoch, "the last save is kept"
    )
    saved = kept(server, "boxes").entries[-1].epoch
    subprocess.run(["rm", "-r", str(last_of(server, "boxes").parents[1])], check=True)
    server.order("resume", "boxes")
    server.attempt("boxes", 2).wait_for_beat("resumed", from_epoch=saved - 1)


def test_a_daemon_killed_while_it_copies_keeps_what_it_promised(server):
    """SIGKILL of the daemon, again and again during copies: the record names whole files only, and nothing is left over."""
    server.train("big", f"--epoch-s 0.4 --padding {24 * MIB}", epochs=60)
    wait_kept(server, "big", 1)
    dice = random.Random(SEED)
    print("seed", SEED)
    for _ in range(4):
        run_dir = layout.RunDirectory(server.run_dir("big"))
        until(lambda: list(run_dir.good.glob(".incoming-*")), "a copy is under way", 15)  # noqa: B023 - used at once
        time.sleep(dice.random() * 0.05)
        server.end()
        recorded = msgspec.json.decode((run_dir.good / "ledger.json").read_bytes(), type=Ledger)
        assert recorded.entries
        assert all(ledger.verify_entry(run_dir, one) for one in recorded.entries)
        server.start()
    server.order("cancel", "big", now=True)
    server.wait("big", "CANCELLED")
    until(lambda: not list(run_dir.good.glob(".incoming-*")), "leftovers are swept")


# ---- a full disk
@pytest.fixture
def small_disk() -> Iterator[Site]:
    """A server whose runs lie on a disk of 64 MiB; its state lies elsewhere."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(site())
        made.runs_dir = made.root / "runs"
        made.runs_dir.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(made.runs_dir)]
        needs(can(*mount), "root and mount, for a disk that can be filled")
        stack.callback(subprocess.run, ["umount", "-l", str(made.runs_dir)], check=True)
        made.tables["server"]["runs_dir"] = str(made.runs_dir)
        made.write_config()
        yield made


def fill(path: Path) -> None:
    """Leave no free block."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(65536))


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_of_a_save(small_disk):
    """ENOSPC tears last.pt and ends the training: with room again it goes on from the ledger, each epoch once."""
    server = small_disk.start()
    server.train("boxes", f"--epoch-s 0.4 --no-best --padding {6 * MIB}", epochs=12)
    wait_kept(server, "boxes", 1)
    pid = server.attempt("boxes").pid
    while alive(pid):  # what the trainer truncates is taken before it writes it anew
        fill(server.runs_dir / "ballast")
    until(lambda: not alive(pid), "the training ends")
    assert b"No space left" in (server.attempt("boxes").directory / "log").read_bytes()
    run_dir = layout.RunDirectory(server.run_dir("boxes"))
    before = [one for one in usable(kept(server, "boxes")) if ledger.verify_entry(run_dir, one)]
    assert before
    (server.runs_dir / "ballast").unlink()
    server.wait("boxes", "SUCCEEDED", within_s=150)
    assert all(kind == "resumed" for kind, _ in starts(server, "boxes")[1:])
    assert starts(server, "boxes")[1][1] >= before[0].epoch
    assert server.epochs_in_table("boxes") == list(range(1, 13))


# ---- power cuts
@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An ext4 file system in a file, mounted: (image, mount point)."""
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    formatted = can("mkfs.ext4", "-q", str(image))
    needs(formatted and can("mount", "-o", "loop,commit=1", str(image), str(mounted)), "root and loop mounts")
    yield image, mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The program that saves and enters without a pause."""
    command = [sys.executable, str(REPOSITORY / "tests" / "e2e" / "power_cut_writer.py"), str(folder)]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as program:
        try:
            yield program
        finally:
            program.kill()


def cut(image: Path, target: Path) -> None:
    """Copy what has reached the disk, and only that. The same twice: nothing was written while it was copied."""
    before = b""
    while before != (data := image.read_bytes()):
        before = data
    target.write_bytes(data)


def promises(program: subprocess.Popen[str], promised: int) -> int:
    """The newest epoch that the program said was safe, without waiting for it to say more."""
    assert program.stdout is not None
    os.set_blocking(program.stdout.fileno(), False)
    text = program.stdout.read() or ""
    return max([promised, *(int(word) for word in text.split("\n")[:-1] if word)])


def after_the_cut(image: Path, mounted: Path) -> tuple[list[int], list[str]]:
    """What the machine finds when it comes up again: usable epochs, and what the record says that is not so."""
    mounted.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        run_dir = layout.run_directory(mounted, "default", "truck")
        record = run_dir.good / "ledger.json"
        recorded = msgspec.json.decode(record.read_bytes(), type=Ledger) if record.exists() else Ledger()
        wrong = [
            one.file
            for one in recorded.entries
            if not ledger.path_of(run_dir, one).exists() or not ledger.verify_entry(run_dir, one)
        ]
        return [one.epoch for one in usable(ledger.read(run_dir))], wrong
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_power_cut_never_costs_a_copy(disk, tmp_path):
    """Twelve cuts at random moments: after each the record names whole files only, and has what was said to be safe.

    The writer is stopped, and what has reached the block device by then is copied: what only the page cache has is
    lost, as with a real cut. Cuts in the middle of a single block are not part of this.
    """
    image, mounted = disk
    dice = random.Random(SEED)
    print(shlex.join(["YOLO_SUPERVISOR_SEED", str(SEED)]))
    promised, trusted = 0, []
    with writing(mounted) as program:
        until((mounted / "default" / "truck" / "good" / "ledger.json").exists, "the first epoch is entered")
        for number in range(12):
            time.sleep(0.1 + dice.random() * 0.4)
            assert program.poll() is None
            program.send_signal(signal.SIGSTOP)
            promised = promises(program, promised)
            cut(image, tmp_path / "cut")
            program.send_signal(signal.SIGCONT)
            found, wrong = after_the_cut(tmp_path / "cut", tmp_path / "after")
            assert wrong == [], f"cut {number}: the record names what is not whole"
            assert not promised or max(found, default=0) >= promised, f"cut {number}: epoch {promised} was promised"
            trusted.append(promised)
    assert len(set(trusted)) > 3, "it went on between the cuts"
