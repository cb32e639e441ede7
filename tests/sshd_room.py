"""A real sshd on a free port of this machine, with its own host key and accounts that may do more or less."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

READY_S = 20.0
ACCOUNTS = ("full", "rrsync", "rrsync-no-del", "rrsync-wo")
_PRIVILEGES = Path("/run/sshd")  # compiled in: where sshd's unprivileged half lives


def missing_programs() -> str:
    """Name what has to be installed for these tests; empty if nothing."""
    wanted = {"rsync": "rsync", "rrsync": "rsync", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
    lacking = {package for program, package in wanted.items() if shutil.which(program) is None}
    if _sshd() is None:
        lacking.add("openssh-server")
    return " ".join(sorted(lacking))


def demand_programs() -> None:
    """Skip, and say so, where a program is missing; on a build server that is a failure."""
    lacking = missing_programs()
    if lacking and os.environ.get("CI") == "true":
        pytest.fail(f"install {lacking}")
    if lacking:
        pytest.skip(f"needs {lacking}")


def _sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def new_key(path: Path) -> Path:
    """Make a key pair without a passphrase."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


@dataclass
class Sshd:
    """A running server. `root` is the folder that all accounts write to; the restricted ones see it as "/"."""

    folder: Path
    root: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def user(self) -> str:
        """Who logs in: whoever runs the test."""
        return pwd.getpwuid(os.getuid()).pw_name

    @property
    def known_hosts(self) -> Path:
        """The file with the pinned key."""
        return self.folder / "known_hosts"

    def key(self, account: str) -> Path:
        """The private key of an account."""
        return self.folder / f"key-{account}"

    def to(self, account: str, path: str = "/", port: int = 0) -> str:
        """The address of a folder below `root`, as the account names it."""
        shown = path if account != "full" else f"{self.root}{path}"
        return f"ssh://{self.user}@127.0.0.1:{port or self.port}{shown}"

    def said(self) -> str:
        """What the server logged."""
        return (self.folder / "log").read_text()

    def pin(self, port: int, key: Path | None = None) -> None:
        """Let the known_hosts file hold the host's key (or another one) for a port, and no other line for it."""
        public = (key or self.folder / "host").with_suffix(".pub").read_text().split()
        name = f"[127.0.0.1]:{port}"
        lines = self.known_hosts.read_text().splitlines() if self.known_hosts.exists() else []
        kept = [line for line in lines if not line.startswith(f"{name} ")]
        self.known_hosts.write_text("\n".join([*kept, f"{name} {public[0]} {public[1]}"]) + "\n")


def _configuration(folder: Path, port: int) -> str:
    return f"""\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
LogLevel VERBOSE
"""


def _authorize(folder: Path, root: Path) -> None:
    rrsync = shutil.which("rrsync")
    limits = {
        "full": "",
        "rrsync": f'restrict,command="{rrsync} -no-lock {root}" ',
        "rrsync-no-del": f'restrict,command="{rrsync} -no-del -no-lock {root}" ',
        "rrsync-lock": f'restrict,command="{rrsync} {root}" ',
        "rrsync-wo": f'restrict,command="{rrsync} -wo -no-del -no-lock {root}" ',
    }
    lines = []
    for account, limit in limits.items():
        key = new_key(folder / f"key-{account}")
        lines.append(f"{limit}{key.with_suffix('.pub').read_text().strip()}\n")
    (folder / "authorized_keys").write_text("".join(lines))


@contextmanager
def sshd(folder: Path, root: Path) -> Iterator[Sshd]:
    """Run an sshd until the block ends; its files lie in `folder`, what it serves in `root`."""
    demand_programs()
    folder.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        _PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    new_key(folder / "host")
    _authorize(folder, root)
    (folder / "config").write_text(_configuration(folder, port))
    with (folder / "log").open("wb") as log:
        argv = [_sshd() or "sshd", "-D", "-e", "-f", str(folder / "config")]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    room = Sshd(folder, root, port, process)
    try:
        _await(room)
        room.pin(port)
        yield room
    finally:
        process.terminate()
        process.wait(READY_S)


def _await(room: Sshd) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if room.process.poll() is not None:
            raise AssertionError(f"sshd ended:\n{room.said()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", room.port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"sshd does not listen:\n{room.said()}")
