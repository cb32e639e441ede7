"""A process with the real binding, nvidia-ml-py, on the fake driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.fake_nvml.room import FakeDriver

# Evaluates a line, tells what came of it as a line of JSON: a value, or the code of an NVMLError.
CLIENT = """
import json, sys, threading, time
import pynvml
from pynvml import *

def plain(value):
    if hasattr(value, "_fields_"):
        return {name: plain(getattr(value, name)) for name, _ in value._fields_ if name not in ("device", "value")}
    if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)):
        return [plain(item) for item in value]
    return value if isinstance(value, (int, str, float, type(None))) else str(value)

h = []
for line in sys.stdin:
    try:
        value = eval(line)
        answer = {"value": plain(value)}
    except NVMLError as error:
        answer = {"code": error.value}
    except Exception as error:
        answer = {"raised": type(error).__name__}
    print(json.dumps(answer), flush=True)
"""


class Binding:
    """A process with the real binding, told line by line what to evaluate; `h` is its list of handles."""

    def __init__(self, driver: FakeDriver) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env={**os.environ, **driver.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def tell(self, line: str) -> None:
        """Begin to evaluate a line."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")

    def answer(self) -> dict[str, Any]:
        """What came of the oldest line: value, code or raised."""
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def __call__(self, line: str) -> Any:
        """The value of a line. AssertionError if it raised."""
        self.tell(line)
        answer = self.answer()
        assert "value" in answer, (line, answer)
        return answer["value"]

    def code(self, line: str) -> int:
        """The code of the NVMLError that a line raises."""
        self.tell(line)
        answer = self.answer()
        assert "code" in answer, (line, answer)
        return int(answer["code"])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def until_called(driver: FakeDriver, call: str, times: int) -> None:
    """Wait until a call was made so often."""
    until(lambda: driver.calls(call) >= times)


def until(look: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for something."""
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)
