"""Which events tell how a run spent its time: few, even of a training that reported its progress for weeks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

# Beside these each change of a run's phase is one.
KINDS = (
    "Prepared",
    "PrepareFailed",
    "Launched",
    "LaunchFailed",
    "StartConfirmed",
    "Progressed",
    "SaveSeen",
    "HangSeen",
    "AttemptExited",
    "Examined",
    "WaitOver",
)
#: Events about one GPU (`gpu` is its UUID). They are few among the reports of progress, and looked for by it.
OF_A_GPU = ("GpuFound", "GpuHeld", "XidSeen", "GpuTested", "GpuTreated", "GpuOrdered")


class _Report(msgspec.Struct, frozen=True):
    """What of a report of progress tells whether it is news."""

    attempt: int = 0
    saved_epoch: int = 0


def thinned(rows: Iterable[tuple[Any, ...]], *, kind: int, body: int) -> Iterator[tuple[Any, ...]]:
    """The rows without most reports of progress: the first one of each saved epoch, and the last one before any other.

    `kind` and `body` (JSON) are the places of these columns. Nothing else of a row is looked at.
    """
    decoder, told, latest = msgspec.json.Decoder(_Report), _Report(), None
    for row in rows:
        if row[kind] == "Progressed":
            report = decoder.decode(row[body])
            if report == told:
                latest = row
                continue
            told = report
        if latest is not None:
            yield latest
            latest = None
        yield row
    if latest is not None:
        yield latest
