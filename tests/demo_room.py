"""What every act of the demo needs: where everything lies, the daemon, the command line, and how a promise is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NAME = "boxes"
TIMEOUT_S = 300.0
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ


class PromiseError(Exception):
    """Something that the supervisor promises did not hold."""


def say(text: str, colour: str = "0") -> None:
    """One line; in colour on a terminal."""
    print(f"\x1b[{colour}m{text}\x1b[0m" if COLOURS else text, flush=True)


def headline(text: str) -> None:
    """Begin a part of the demo."""
    say(f"\n== {text}", "1;36")


@dataclass
class Demo:
    """Where everything lies, and what was noted on the way."""

    python: str
    out: Path
    epochs: int
    seed: int
    facts: dict[str, Any] = field(default_factory=dict)
    daemon: subprocess.Popen[bytes] | None = None
    receiver: subprocess.Popen[str] | None = None
    started_at: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> Path:
        """The daemon's configuration."""
        return self.out / "config.toml"

    @property
    def run_dir(self) -> Path:
        """The run's directory."""
        return self.out / "state" / "runs" / "demo" / NAME

    @property
    def messages(self) -> Path:
        """What the webhook receiver got, one JSON a line."""
        return self.out / "webhook.jsonl"

    def attempt(self, number: int) -> Path:
        """The directory of an attempt."""
        return self.run_dir / "attempts" / str(number)

    def remaining_s(self) -> float:
        """How long the demo may still take."""
        return TIMEOUT_S - (time.monotonic() - self.started_at)


# ---- the supervisor
def start_daemon(demo: Demo) -> int:
    """Start the daemon in the background and wait until it answers. Returns its pid."""
    log = (demo.out / "daemon.log").open("ab")
    demo.daemon = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "run", "--config", str(demo.config)], stdout=log, stderr=log, cwd=ROOT
    )
    log.close()
    wait_for(
        demo, "the daemon to answer", lambda: _listens(demo) and command(demo, "status", check=False).returncode == 0
    )
    return demo.daemon.pid


def _listens(demo: Demo) -> bool:
    """The command line alone would not tell: without a daemon it reads the journal."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(demo.out / "s")) == 0


def command(demo: Demo, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `yolo-supervisor …` as a user would."""
    line = [sys.executable, "-m", "supervisor", "--config", str(demo.config), *words]
    return subprocess.run(line, capture_output=True, text=True, check=check, cwd=ROOT)


def wait_for(demo: Demo, what: str, test: Any, patience_s: float = 120.0) -> Any:
    """Poll until `test` gives something true. Raises PromiseError when it takes too long."""
    end = time.monotonic() + min(patience_s, demo.remaining_s())
    while time.monotonic() < end:
        found = test()
        if found:
            return found
        time.sleep(0.02)
    raise PromiseError(f"waited in vain for {what}")


def expect(promise: str, held: bool, detail: str) -> None:
    """Report one promise."""
    say(f"   {'ok ' if held else 'NOT'}  {promise}: {detail}", "32" if held else "1;31")
    if not held:
        raise PromiseError(promise)


def close(demo: Demo) -> None:
    """End what the demo started, and only that."""
    for child in (demo.daemon, demo.receiver):
        if child is not None and child.poll() is None:
            child.terminate()
            child.wait(10)
