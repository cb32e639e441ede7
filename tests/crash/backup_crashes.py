"""A program: backs a run up and dies, before each step and at every N-th touch of the file system, and looks afterwards.

Each try is a fork that leaves by os._exit, so that nothing is tidied up: one JSON object a line tells where it died
and what was found wrong, right after it and after the same order was carried out again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from supervisor.core.backups.events import BackedUp
from tests.backup_room import BackupRoom
from tests.torch_files import checkpoint

TOUCHES = frozenset({
    "open", "os.rename", "os.remove", "os.link", "os.utime", "os.chmod", "os.mkdir", "os.rmdir", "os.truncate",
})  # fmt: skip
SURVIVED, DIED = 0, 9
KEY = "truck@1/backup-7/nas"


def scene(root: Path) -> None:
    """A run that was backed up three times: the next one lets the first snapshot go, and has something of each kind."""
    room = BackupRoom(root, snapshots=2)
    for number in (1, 2, 3):
        room.saved(number)
        room.write("train/labels.jpg", bytes(100 * number))
        assert isinstance(room.back_up(), BackedUp)
    room.saved(4)
    room.write("train/results.csv", b"epoch,loss\n1,2\n2,2\n3,1\n4,1\n")
    room.save(checkpoint(3, stripped=True), room.dir.weights / "best.pt")


class Copy(BackupRoom):
    """The same scene once more."""

    def order(self, **more: object):
        """The order that is cut off, and carried out again."""
        return self.back_up(**{"key": KEY, "ended": True, "phase": "SUCCEEDED", **more})


def copy_of(original: Path, root: Path) -> Copy:
    """With the times of its files; its target is its own."""
    shutil.copytree(original, root, symlinks=True)
    return Copy(root, snapshots=2)


def dying(room: Copy, *, at_step: int = 0, at_touch: int = 0) -> int:
    """Do it in a fork that dies there; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = {"step": at_step, "touch": at_touch}

    def count(what: str) -> None:
        left[what] -= 1
        if left[what] == 0:
            os._exit(DIED)

    if at_touch:
        sys.addaudithook(lambda event, _: count("touch") if event in TOUCHES else None)
    answer = room.order(before_step=lambda _: count("step"))
    os._exit(SURVIVED if isinstance(answer, BackedUp) else 1)


def wrong(room: Copy, newest: str) -> list[str]:
    """What a person would complain about: right after the crash, after the same order, and after the next one."""
    found = [f"after the crash: {one}" for one in room.wrong()]
    there = [one.snapshot for one in room.manifests()]
    if newest not in there:
        found.append("after the crash: the last good snapshot is gone")
    answer = room.order()
    if not isinstance(answer, BackedUp):
        return [*found, f"again: {answer}"]
    manifest = room.manifests()[0]
    found += [f"again: {one}" for one in room.wrong()]
    if (answer.snapshot, answer.epoch, answer.kept_epoch) != (manifest.snapshot, 4, 4) or not manifest.ended:
        found.append(f"again: it is not the newest state: {answer}")
    if (room.target.root / room.folder / "latest").read_text() != manifest.snapshot:
        found.append("again: latest points elsewhere")
    if room.left_staged():
        found.append(f"again: left here: {room.left_staged()}")
    named = {f"{file.at}/{file.path}" for one in room.manifests() for file in one.files}
    named |= {"latest", *(f"{one.snapshot}/manifest.json" for one in room.manifests())}
    if room.there() != named:
        found.append(f"again: left there: {sorted(room.there() ^ named)}")
    if len(room.manifests()) != 2:
        found.append(f"again: {len(room.manifests())} snapshots stay")
    return found


def main(folder: Path, stride: int) -> None:
    """Every step, and every `stride`-th touch."""
    scene(folder / "scene")
    newest = Copy(folder / "scene", snapshots=2).manifests()[0].snapshot
    tries = [("step", number) for number in range(1, 40)] + [("touch", number) for number in range(1, 3000, stride)]
    done: set[str] = set()
    for what, number in tries:
        if what in done:
            continue
        root = folder / f"{what}-{number}"
        room = copy_of(folder / "scene", root)
        code = dying(room, **{f"at_{what}": number})
        print(json.dumps({"what": what, "number": number, "code": code, "wrong": wrong(room, newest)}), flush=True)
        shutil.rmtree(root)
        if code == SURVIVED:
            done.add(what)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
