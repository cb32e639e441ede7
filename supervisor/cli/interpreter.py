"""Whether an interpreter that a person named runs at all."""

from __future__ import annotations

import subprocess

from supervisor.cli.failures import BadInput

START_S = 30.0  # a Python on a slow network file system


def must_start(python: str) -> None:
    """Start this Python once, to do nothing. Raises BadInput where that fails."""
    command = [python, "-I", "-c", ""]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_S, check=False)
    except OSError as error:
        raise BadInput(f"{python} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise BadInput(f"{python} did not start within {START_S:.0f} s") from None
    if done.returncode:
        last = "".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])[:300]
        raise BadInput(f"{python} is no Python that runs: exit code {done.returncode}" + (f", {last}" if last else ""))
