"""Writes tests/data/logs: a whole log for each rule of the table, with traps, decoys and echoes; and clean ones.

Run it from the root of the repository: python -m tests.data.make_logs. A case says by itself which rule must explain
its log; nothing here reads the table of rules.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.data.log_cases import CASES
from tests.data.log_parts import Log, in_worker, traceback

LOGS = Path(__file__).with_name("logs")
CLEAN = ("ultralytics", "old", "yolov5", "yolov7", "yolov9", "ddp")

# what looks like an end and was none: the training goes on after it
DECOYS = (
    ("WARNING ⚠️ upload of metrics failed, it will be tried again: OSError: [Errno 28] No space left on device",),
    ("wandb: Network error (ConnectionError), entering retry loop.",),
    (
        *traceback("validation", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 900.00 MiB."),
        "plots skipped",
    ),
    ("backup.sh: line 12: 4711 Killed                  rsync -a runs/ nas:/runs",),
    ("sync: RuntimeError: CUDA error: an illegal memory access was encountered (in another process, seen in its log)",),
    (*traceback("loader", "ConnectionResetError: [Errno 104] Connection reset by peer"), "monitor: connected again"),
    ("PermissionError: [Errno 13] Permission denied: '/var/log/metrics' (metrics are not written)",),
    ("ModuleNotFoundError: No module named 'tensorrt' (export to engine will not be possible)",),
)
# what worries and does not end a training
WARNINGS = (
    "WARNING ⚠️ Download failure for Arial.ttf, another font is used. Environment may be offline.",
    "WARNING ⚠️ train: No labels found in /data/nan_killed/labels/extra.cache, training may not work correctly.",
    "UserWarning: CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up environment",
)
# what comes after the real reason because of it
ECHOES = (
    (
        "Exception in thread Thread-3 (_pin_memory_loop):",
        *traceback("loader", "ConnectionResetError: [Errno 104] Connection reset by peer"),
    ),
    (
        "Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__ at 0x7f2b1c0d5a80>",
        *traceback("loader", "RuntimeError: DataLoader worker (pid 4120) is killed by signal: Aborted. "),
    ),
    ("terminate called without an active exception",),
    ("BrokenPipeError: [Errno 32] Broken pipe",),
)


@dataclass(frozen=True)
class Made:
    """A log as it is written, and the rule that must explain it; `-` for none."""

    name: str
    rule: str
    content: bytes


def made() -> list[Made]:
    """All logs."""
    return [*map(_of_case, CASES), *map(_clean, CLEAN)]


def _of_case(case: dict[str, object]) -> Made:
    rule, family, stage = str(case["rule"]), str(case["family"]), str(case["stage"])
    body = [str(line) for line in case["body"]]  # type: ignore[attr-defined]
    chance = random.Random(rule)
    log = Log(rule, family)
    log.begin()
    _STAGES[stage](log, chance, body)
    if stage not in {"info", "start"} and not case["last"]:
        log.add(*chance.choice(ECHOES))
    return Made(rule, rule, log.bytes())


def _start(log: Log, chance: random.Random, body: list[str]) -> None:
    """It dies before the first epoch; where an error tells why, warnings before it are none."""
    if body[0].startswith("Traceback"):
        log.add(chance.choice(WARNINGS))
    log.add(*body)


def _train(log: Log, chance: random.Random, body: list[str]) -> None:
    """It dies in the middle of an epoch: the last frame has no line end."""
    _two_epochs(log, chance)
    log.epoch(3, until=log.batches // 2)
    log.add("", *body)


def _validation(log: Log, chance: random.Random, body: list[str]) -> None:
    _two_epochs(log, chance)
    log.epoch(3, validated=False)
    log.add(*body)


def _save(log: Log, chance: random.Random, body: list[str]) -> None:
    _two_epochs(log, chance)
    log.epoch(3)
    log.add(*body)


def _info(log: Log, chance: random.Random, body: list[str]) -> None:
    """It is said by the way, and the training ends well."""
    del chance
    log.training_begins()
    log.epoch(1)
    log.add(*body)
    log.epoch(2)
    log.end()


def _losses(log: Log, chance: random.Random, body: list[str]) -> None:
    """All losses are NaN until somebody pulls the plug: the frames are all there is."""
    _two_epochs(log, chance)
    for number in (3, 4):
        log.epoch(number, losses=f"{'nan':>11}" * 3)
    log.add(*body)


def _two_epochs(log: Log, chance: random.Random) -> None:
    log.training_begins()
    log.epoch(1)
    log.add(*chance.choice(DECOYS))
    log.epoch(2)


_STAGES: dict[str, Callable[[Log, random.Random, list[str]], None]] = {
    "start": _start,
    "train": _train,
    "validation": _validation,
    "save": _save,
    "info": _info,
    "losses": _losses,
}


def _clean(family: str) -> Made:
    log = Log(f"clean-{family}", family)
    log.begin()
    log.training_begins()
    for number in (1, 2, 3, 4):
        log.epoch(number)
    log.end()
    return Made(f"clean-{family}", "-", log.bytes())


def write() -> None:
    """Write all logs, and remove what is none of them."""
    LOGS.mkdir(exist_ok=True)
    wanted = {one.name: one.content for one in made()}
    for path in LOGS.glob("*.log"):
        if path.stem not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (LOGS / f"{name}.log").write_bytes(content)


__all__ = ["LOGS", "Made", "in_worker", "made", "write"]

if __name__ == "__main__":
    write()
