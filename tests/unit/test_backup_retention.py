"""Whatever was made, whatever is dropped, and whenever the removing is cut off: each manifest has all of its files."""

from __future__ import annotations

import contextlib
import hashlib
import random
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.backups.manifest import Manifest, Stored, run_folder, snapshot_name
from supervisor.effects.backup import retention
from supervisor.effects.backup.fetched import Holdings, place
from supervisor.effects.backup.targets.base import Found, removable

FOLDER = run_folder("default", "truck")
PATHS = ("train/results.csv", "train/labels.jpg", "good/epoch1-attempt1.pt", "good/epoch2-attempt1.pt", "mark")


class CutError(Exception):
    """The daemon was killed."""


@dataclass
class Shelf:
    """What a target holds, in memory. Files of one call go in any order, one by one, until `left` is used up."""

    files: dict[str, bytes] = field(default_factory=dict)
    append_only: bool = False
    left: int = 10**9
    seed: int = 0

    def listing(self, under: str) -> list[Found]:
        """See Target."""
        return [Found(path, len(data), 0.0) for path, data in self.files.items() if path.startswith(f"{under}/")]

    def read(self, path: str) -> bytes | None:
        """See Target."""
        return self.files.get(path)

    def remove(self, files: list[str]) -> int:
        """See Target."""
        order = removable(files)
        random.Random(self.seed).shuffle(order)
        count = 0
        for path in order:
            if self.left == 0:
                raise CutError
            self.left -= 1
            count += self.files.pop(path, None) is not None
        return count


@st.composite
def stories(draw):
    """Snapshots one after the other: which files each has, which of them are new, and whose training it is."""
    story = []
    for _ in range(draw(st.integers(1, 9))):
        held = draw(st.sets(st.sampled_from(PATHS), min_size=1))
        story.append((held, draw(st.sets(st.sampled_from(PATHS))), draw(st.sampled_from("aaab"))))
    return story


def told(story):
    """The shelf after such a story in which nothing was ever let go of, and its manifests, the newest last."""
    shelf, manifests = Shelf(), []
    for number, (held, changed, mark) in enumerate(story):
        name = snapshot_name(number, f"20260101T0000{number:02d}Z", f"{number:08x}")
        before = {file.path: file for file in manifests[-1].files} if manifests else {}
        files = []
        for path in sorted(held):
            if path in before and path not in changed:
                files.append(before[path])
                continue
            data = f"{path} of {name}".encode()
            digest = hashlib.sha256(data).hexdigest()
            files.append(Stored(path=path, bytes=len(data), sha256=digest, mtime_ns=1, at=name))
            shelf.files[f"{FOLDER}/{name}/{path}"] = data
        manifest = Manifest(
            server="gpu1", snapshot=name, created_at=1.0, project="default", name="truck", files=tuple(files), mark=mark
        )
        manifests.append(manifest)
        shelf.files[f"{FOLDER}/{name}/manifest.json"] = msgspec.json.encode(manifest)
    return shelf, manifests


def torn(shelf):
    """Files that a manifest names and that are not there."""
    manifests = Holdings(shelf, FOLDER).manifests(FOLDER)
    return [place(FOLDER, file) for one in manifests for file in one.files if place(FOLDER, file) not in shelf.files]


def let_go(shelf, newest, snapshots):
    """One backup's letting go."""
    return retention.let_go(shelf, FOLDER, Holdings(shelf, FOLDER), newest, snapshots, just_made=True)


@given(stories(), st.integers(1, 4), st.integers(0, 30), st.integers(0, 99))
def test_at_every_step_each_manifest_has_all_of_its_files(story, snapshots, cut, seed):
    """Cut off after any number of removals, in any order; and in the end nothing is left that nobody names."""
    shelf, manifests = told(story)
    shelf.files[f"{FOLDER}/{snapshot_name(0, '20250101T000000Z', 'ffffffff')}/left"] = b"of an interrupted try"
    shelf.files[f"{FOLDER}/latest"] = manifests[-1].snapshot.encode()
    shelf.left, shelf.seed = cut, seed
    with contextlib.suppress(CutError):
        let_go(shelf, manifests[-1], snapshots)
    assert torn(shelf) == []
    shelf.left = 10**9
    let_go(shelf, manifests[-1], snapshots)
    assert torn(shelf) == []
    staying = list(Holdings(shelf, FOLDER).manifests(FOLDER))
    mine = [one for one in reversed(manifests) if one.mark == manifests[-1].mark]
    assert [one.snapshot for one in staying if one.mark == manifests[-1].mark] == [
        one.snapshot for one in mine[:snapshots]
    ]
    assert {one.mark for one in staying} == {one.mark for one in manifests}
    needed = {place(FOLDER, file) for one in staying for file in one.files}
    needed |= {f"{FOLDER}/{one.snapshot}/manifest.json" for one in staying} | {f"{FOLDER}/latest"}
    assert set(shelf.files) == needed
    assert let_go(shelf, manifests[-1], snapshots) == 0


@given(stories(), st.integers(1, 4), st.integers(0, 8))
def test_nothing_is_removed_while_a_manifest_cannot_be_read(story, snapshots, which):
    """Nobody knows which files it needs."""
    shelf, manifests = told(story)
    rotten = manifests[which % len(manifests)]
    shelf.files[f"{FOLDER}/{rotten.snapshot}/manifest.json"] = b'{"server": "gpu1"'
    before = dict(shelf.files)
    assert let_go(shelf, manifests[-1], snapshots) == 0
    assert shelf.files == before


@given(stories())
def test_an_append_only_target_is_not_asked_to_remove_anything(story):
    """It could only refuse."""
    shelf, manifests = told(story)
    shelf.append_only, shelf.left = True, 0
    assert let_go(shelf, manifests[-1], 1) == 0


@pytest.mark.parametrize("path", ["latest", "README", "snapshot/x", "../x", "snap-1/x"])
def test_what_is_not_ours_is_never_a_candidate(path):
    """Only folders with a name that we make are looked into."""
    assert retention.unreferenced(FOLDER, [f"{FOLDER}/{path}"], [], "") == []


def test_so_much_at_once_is_let_go_of_and_no_more():
    """A thousand snapshots too many are not removed by one backup; the next ones go on."""
    story = [({"mark"}, {"mark"}, "a")] * 50
    shelf, manifests = told(story)
    assert let_go(shelf, manifests[-1], 3) == 2 * retention.MOST_DROPPED
    assert (torn(shelf), len(Holdings(shelf, FOLDER).snapshots(FOLDER))) == ([], 30)
