"""The command line against a daemon without hands, in this process and as a process of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor import jobspec
from supervisor.cli.program import PROGRAM, program
from supervisor.config import Defaults
from supervisor.core import events
from supervisor.errors import UserError
from tests.web.conftest import daemon  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """No test finds the daemon or the folders of whoever runs it."""
    for name in ("YOLO_SUPERVISOR_SOCKET", "XDG_RUNTIME_DIR", "NO_COLOR", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def cli(daemon):  # noqa: F811 - the fixture imported above
    """Call a verb in this process; the result has exit_code, stdout and stderr."""

    def call(*arguments, stdin=None):
        chosen = ["--socket", str(daemon.socket_path), *map(str, arguments)]
        return CliRunner().invoke(program, chosen, input=stdin, prog_name=PROGRAM, catch_exceptions=False)

    return call


def process(*arguments, **options):
    """Run the program as a process of its own."""
    environment = {**os.environ, **options.pop("env", {})}
    command = [sys.executable, "-m", "supervisor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False, **options)


class FakeSpool:
    """Takes files from the jobs folder as soon as they are there, and judges them by the real rules."""

    def __init__(self, daemon):  # noqa: F811 - the fake itself
        self.daemon, self.seen, self.ended = daemon, {}, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        """Look until the test ends."""
        while not self.ended.wait(0.01):
            for path in self.daemon.jobs_folder.glob("[!.]*.toml"):
                try:
                    data = path.read_bytes()
                except FileNotFoundError:  # the verb under test took back what was refused
                    continue
                if self.seen.get(path) != data:
                    self.seen[path] = data
                    self.take(path, data)

    def take(self, path, data):
        """Accept or refuse one file."""
        at = self.daemon.clock.now()
        defaults = Defaults(python=Path("/bin/sh"))
        revision = hashlib.sha256(data).hexdigest()
        self.daemon.put(events.JobFileSeen(at=at, path=str(path), data=data, revision=revision, owner=os.getuid()))
        try:
            job = jobspec.parse(data, path=str(path), owner=os.getuid(), defaults=defaults, now=at).job
        except UserError as error:
            self.daemon.put(events.JobRefused(at=at, path=str(path), revision=revision, problem=str(error)))
            return
        if "refuse" in job.tags:
            self.daemon.put(events.JobRefused(at=at, path=str(path), revision=revision, problem="the machine says no"))
            return
        self.daemon.put(events.JobAccepted(at=at, path=str(path), job=job))


@pytest.fixture
def spool(daemon):  # noqa: F811 - the fixture imported above
    """Somebody who takes what lies in the jobs folder."""
    taker = FakeSpool(daemon)
    taker.thread.start()
    yield taker
    taker.ended.set()
    taker.thread.join()
