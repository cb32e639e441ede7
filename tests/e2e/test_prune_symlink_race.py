"""Somebody who may write in the run directories exchanges folders for links while the policy is carried out."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import time

import pytest

from supervisor.effects.prune import handles
from tests.prune_room import Room, snapshot

RUNS = 6


def attack(runs_dir, outside, seed, ended):
    """Exchange run, project, file and parent folders for links to the canaries and back, without a pause."""
    chance = random.Random(seed)
    project, parent = runs_dir / "p", runs_dir.parent
    while not ended.is_set():
        target = chance.choice(
            [
                project,
                runs_dir,
                parent,
                *(project / f"old{number}" for number in range(RUNS)),
                project / "live" / "train" / "weights",
                project / "live" / "train",
                project / f"old{chance.randrange(RUNS)}" / "train" / "weights" / "best.pt",
                project / "live" / "train" / "weights" / "epoch1.pt",
            ]
        )
        exchange(target, counterpart(target, runs_dir, outside, chance), chance.random() * 0.01)


def counterpart(target, runs_dir, outside, chance):
    """Mostly the folder or file outside that looks just like the target, sometimes any."""
    if target == runs_dir.parent:
        return outside.parent / "above"  # holds a folder `runs` that looks as ours does
    if chance.random() < 0.8:
        return outside / target.relative_to(runs_dir)
    return chance.choice([outside, outside / "p", outside / "p" / "old0", outside / "p" / "live"])


def exchange(target, canary, pause_s):
    """Let a link stand where something was, for a moment."""
    aside = target.with_name(f"{target.name}.aside")
    try:
        target.rename(aside)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            target.symlink_to(canary)
        time.sleep(pause_s)
    finally:
        with contextlib.suppress(OSError):
            target.unlink()
        with contextlib.suppress(OSError):
            aside.rename(target)


class Bait:
    """Lays out runs that may go, by the handle of the project's folder: the test itself must not follow a link."""

    def __init__(self, room, workshop):
        self.room, self.workshop = room, workshop
        self.project = os.open(room.runs_dir / "p", handles.FOLDER)

    def lay_out(self, round_number):
        """Every run anew."""
        for number in range(RUNS):
            name = f"old{number}"
            one = self.room.run(name, run_id=f"{name}@{round_number}")
            made = Room(self.workshop / f"{round_number}-{number}")
            made.disk(one)
            with contextlib.suppress(OSError, handles.UnsafeError):
                handles.remove(self.project, name)
                os.rename(made.dir(name).root, name, dst_dir_fd=self.project)


def race(tmp_path, seconds):
    """Prune again and again while a process attacks; what of canaries and live run is left."""
    room = Room(tmp_path, runs_dir=tmp_path / "home" / "parent" / "runs", keep_epochs="none")
    live = room.run("live", "RUNNING")
    room.disk(live, copies=(9,), epochs=(1, 2, 3))
    bait = Bait(room, tmp_path / "workshop")
    bait.lay_out(1)
    outside = tmp_path / "outside"  # looks as ours does, marks and all
    shutil.copytree(room.runs_dir, outside, dirs_exist_ok=True)
    (tmp_path / "above").mkdir()
    shutil.copytree(room.runs_dir, tmp_path / "above" / "runs")
    before, live_before = [snapshot(outside), snapshot(tmp_path / "above")], snapshot(room.dir("live").root)
    context = multiprocessing.get_context("fork")
    ended = context.Event()
    attacker = context.Process(target=attack, args=(room.runs_dir, outside, 7, ended))
    attacker.start()
    moved = skipped = rounds = 0
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            rounds += 1
            event = room.prune(key=f"server/prune-{rounds}", at_once=rounds % 2 == 0)
            moved, skipped = moved + event.moved_files, skipped + len(event.skipped)
            bait.lay_out(rounds + 1)
    finally:
        ended.set()
        attacker.join(30)
        os.close(bait.project)
    assert attacker.exitcode == 0
    assert [snapshot(outside), snapshot(tmp_path / "above")] == before, "nothing outside is touched"
    left = snapshot(room.dir("live").root)
    may_go = {f"train/weights/epoch{number}.pt" for number in (1, 2)}
    assert {path: found for path, found in live_before.items() if path not in may_go | set(left)} == {}
    assert all(left[path] == found for path, found in live_before.items() if path in left)
    print(f"{rounds} rounds, {moved} files moved, {skipped} skipped")
    return rounds, moved, skipped


@pytest.mark.e2e
def test_links_for_three_seconds(tmp_path):
    """While folders are exchanged for links, nothing outside and nothing of a live run is touched; the rest is pruned."""
    rounds, moved, skipped = race(tmp_path, 3.0)
    assert rounds > 2
    assert moved > 0, "the race was never won by pruning: the test shows nothing"
    assert skipped > 0, "the race was never won by the attacker: the test shows nothing"


@pytest.mark.e2e
@pytest.mark.slow
def test_links_for_a_minute(tmp_path):
    """The same for sixty seconds."""
    rounds, moved, skipped = race(tmp_path, 60.0)
    assert min(rounds, moved, skipped) > 10
