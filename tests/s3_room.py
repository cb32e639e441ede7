"""A real object store for tests: s3rver, a program that speaks S3 and keeps its objects in files.

It installs with `npm install --prefix .tools --no-save s3rver@3.7.1` (14 MB, needs Node.js), which `make tools` does.
YOLO_SUPERVISOR_S3_SERVER names the program where it lies elsewhere.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from supervisor import backup_config

REPOSITORY = Path(__file__).resolve().parents[1]
BUCKET = "backups"
KEY = "S3RVER"  # the only account that s3rver knows; its secret is the same word
START_S = 30.0
_LISTENING = re.compile(rb"listening on [\d.]+:(\d+)")
OBJECT = "._S3rver_object"


def server_program() -> Path | None:
    """Where s3rver is; None where it is not installed."""
    beside = REPOSITORY / ".tools" / "node_modules" / ".bin" / "s3rver"
    found = os.environ.get("YOLO_SUPERVISOR_S3_SERVER") or shutil.which("s3rver")
    return Path(found) if found else beside if beside.exists() else None


def demand_rclone() -> None:
    """Skip the test where rclone is not installed; fail it where CI says that everything is."""
    if shutil.which("rclone") is None:
        _lack("rclone is not installed (apt-get install rclone)")


def demand_store() -> None:
    """As demand_rclone, and for s3rver too."""
    demand_rclone()
    if server_program() is None and shutil.which("npm") is None:
        pytest.skip("s3rver needs Node.js and npm, which are not here")
    if server_program() is None:
        _lack("s3rver is not installed (npm install --prefix .tools --no-save s3rver@3.7.1)")


def _lack(text: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


class S3Room:
    """An S3 server on a free port, the bucket, and rclone's configuration for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = root / "objects"
        self.config = root / "rclone.conf"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it; again on the same port, with the objects of before."""
        program = server_program()
        assert program is not None
        words = [str(program), "-d", str(self.objects), "-a", "127.0.0.1", "-p", str(self.port), "--no-vhost-buckets"]
        self._process = subprocess.Popen(
            [*words, "--configure-bucket", BUCKET], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.port = self._announced(self._process)
        self._configure()

    def _announced(self, process: subprocess.Popen[bytes]) -> int:
        assert process.stdout is not None
        said = b""
        while True:
            ready, _, _ = select.select([process.stdout], [], [], START_S)
            data = os.read(process.stdout.fileno(), 4096) if ready else b""
            said += data
            if match := _LISTENING.search(said):
                return int(match[1])
            assert data, f"s3rver did not start: {said.decode(errors='replace')}"

    def _configure(self) -> None:
        """Remotes: `store`, and ones with a wrong key, a bad signature, a dead port and a name that nobody has."""
        url = f"http://127.0.0.1:{self.port}"
        sections = {
            "store": (KEY, KEY, url, ""),
            "wrong-key": ("NOBODY", KEY, url, ""),
            # s3rver proves signatures of version 2 only, and refuses those of rclone even with the right secret
            "bad-signature": (KEY, "not-shown", url, "v2_auth = true\n"),
            "dead": (KEY, KEY, "http://127.0.0.1:9", ""),
            "nowhere": (KEY, KEY, "http://s3.invalid", ""),
        }
        texts = [
            f"[{name}]\ntype = s3\nprovider = Other\naccess_key_id = {key}\nsecret_access_key = {secret}\n"
            f"endpoint = {endpoint}\nregion = us-east-1\nforce_path_style = true\n{more}"
            for name, (key, secret, endpoint, more) in sections.items()
        ]
        self.config.write_text("\n".join([*texts, "[disk]\ntype = local\n"]))

    def kill(self) -> None:
        """SIGKILL, as if its machine had lost power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            if self._process.stdout is not None:
                self._process.stdout.close()
        self._process = None

    def settings(
        self, *, remote: str = "store", path: str = f"{BUCKET}/yolo", name: str = "store", **more: object
    ) -> backup_config.Backup:
        """The [[backup]] section of a target in it."""
        to = f"rclone:{remote}:{path}"
        return backup_config.Backup(name=name, to=to, rclone_config=self.config, **more)  # type: ignore[arg-type]

    def object(self, key: str) -> Path:
        """The file that holds an object's bytes."""
        return self.objects / BUCKET / f"{key}{OBJECT}"

    def all_keys(self) -> list[str]:
        """The keys of all objects in the bucket."""
        folder = self.objects / BUCKET
        return sorted(str(path.relative_to(folder)).removesuffix(OBJECT) for path in folder.rglob(f"*{OBJECT}"))


@contextmanager
def s3_room(root: Path) -> Iterator[S3Room]:
    """A running one, gone afterwards."""
    room = S3Room(root)
    room.start()
    try:
        yield room
    finally:
        room.kill()
