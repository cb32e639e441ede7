"""The kinds of backup targets, each with a real place: a folder, accounts behind a real sshd, an object store."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from supervisor.backup_config import Backup
from supervisor.effects.backup.targets import open_target
from supervisor.effects.backup.targets.base import Target
from tests.s3_room import BUCKET, OBJECT, S3Room, demand_store, s3_room
from tests.sshd_room import Sshd, demand_programs, sshd

SERVER = "gpu box #1"  # a folder cannot be named so everywhere
FOLDER = "gpu-box--1"

#: Adding a kind: how its place is made from the test's request and folder.
KINDS: dict[str, Callable[[pytest.FixtureRequest, Path], Place]] = {}


@dataclass
class Place:
    """Where a target keeps its files: `root` on this machine, for a look (and harm) behind its back.

    `bare`: the settings of a [[backup]] section besides its name. `resumes`: how much of one large file an interrupted
    transfer may have to send again: "all" or "part".
    """

    root: Path
    bare: dict[str, Any]
    state: Path
    resumes: str = "part"
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def files(self) -> Path:
        """The server's folder."""
        return self.root / FOLDER

    def settings(self, **more: Any) -> Backup:
        """The section."""
        return Backup(name="offsite", **{**self.bare, **more})

    def open(self, **more: Any) -> Target:
        """The target, as the daemon opens it."""
        return open_target(self.settings(**more), SERVER, self.state, stop=self.stop)


@dataclass
class StorePlace(Place):
    """A place whose objects are seen as files: hard links, so that harm done to them is done to the objects."""

    objects: Path = Path()

    @property
    def files(self) -> Path:
        """The server's folder, as it is now."""
        seen = self.root / FOLDER
        shutil.rmtree(seen, ignore_errors=True)
        for path in self.objects.rglob(f"*{OBJECT}"):
            link = seen / str(path.relative_to(self.objects)).removesuffix(OBJECT)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(path)
        return seen


def _local(_: pytest.FixtureRequest, folder: Path) -> Place:
    root = folder / "disk"
    root.mkdir()
    return Place(root, {"to": str(root)}, folder / "state", resumes="all")


#: An account that never removes anything is not asked to: that it refuses has a test of its own.
_REMOVING = {
    "test_names_with_an_end_of_line_arrive",
    "test_exactly_what_is_named_is_removed",
    "test_too_many_at_once_are_refused",
}


def _ssh(account: str, **limits: Any) -> Callable[[pytest.FixtureRequest, Path], Place]:
    def make(request: pytest.FixtureRequest, folder: Path) -> Place:
        if limits.get("append_only") and request.node.originalname in _REMOVING:
            pytest.skip("nothing is ever removed there")
        room: Sshd = request.getfixturevalue("ssh_server")
        path = f"/{folder.name} with a space"
        root = Path(f"{room.root}{path}")
        root.mkdir()
        keys = {"ssh_key": room.key(account), "known_hosts": room.known_hosts}
        return Place(root, {"to": room.to(account, path), **keys, **limits}, folder / "state")

    return make


#: Promises that are looked at behind the store's back, where s3rver's files are not what a store shows.
_OTHERWISE = {
    "test_what_is_missing_or_short_differs": "tests/e2e/test_backup_s3.py takes objects away",
    "test_a_missing_root_is_never_made": "tests/e2e/test_backup_s3.py has no bucket",
    "test_a_killed_sender_is_resumed_and_leaves_nothing": "tests/e2e/test_backup_s3.py kills the server and the sender",
    "test_a_put_is_whole_or_not_at_all": "an upload is one request: the store sees to that",
}


def _store(request: pytest.FixtureRequest, folder: Path) -> Place:
    """A bucket of a real S3 server, which keeps its objects in files."""
    demand_store()
    if elsewhere := _OTHERWISE.get(request.node.originalname):
        pytest.skip(elsewhere)
    room: S3Room = request.getfixturevalue("s3_server")
    return StorePlace(
        folder / "seen",
        {"to": f"rclone:store:{BUCKET}/{folder.name}", "rclone_config": room.config},
        folder / "state",
        resumes="objects",
        objects=room.objects / BUCKET / folder.name / FOLDER,
    )


KINDS["local"] = _local
KINDS["rclone"] = _store
KINDS["ssh"] = _ssh("full")
KINDS["ssh-rrsync"] = _ssh("rrsync")
KINDS["ssh-rrsync-no-del"] = _ssh("rrsync-no-del", append_only=True)


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd for all tests."""
    demand_programs()
    folder = tmp_path_factory.mktemp("sshd")
    with sshd(folder / "server", folder / "served") as room:
        yield room


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Room]:
    """A real S3 server for all tests."""
    with s3_room(tmp_path_factory.mktemp("s3")) as room:
        yield room


# Logging in takes half a second each time: of the accounts the one that is recommended is in the fast set.
_SLOW = {"ssh", "ssh-rrsync-no-del"}


@pytest.fixture(params=[pytest.param(kind, marks=[pytest.mark.slow] * (kind in _SLOW)) for kind in sorted(KINDS)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of each kind, empty."""
    return KINDS[request.param](request, tmp_path)


@pytest.fixture
def target(place: Place) -> Target:
    """The target in it."""
    return place.open()
