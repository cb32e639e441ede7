"""[[gpu.xid]] of the configuration: what an Xid of the GPU driver leads to here, where the table is not to hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec

from supervisor.core.gpus.model import XidOverride
from supervisor.errors import Problem
from supervisor.toml_errors import shown

XidNumber = Annotated[int, msgspec.Meta(ge=1, le=99_999, description="the number of an Xid, such as 79")]
#: The words of core.gpus.xids, in the same order.
AttemptAction = Literal["none", "resume", "elsewhere", "end"]
GpuAction = Literal["none", "note", "last", "reset-idle", "test", "reset", "reboot", "quarantine", "rma"]


class XidRow(msgspec.Struct, frozen=True, kw_only=True):
    """One [[gpu.xid]]. What is left out stays as the table has it; an Xid that the table lacks is fine."""

    xid: XidNumber
    attempt: AttemptAction | None = None
    gpu: GpuAction | None = None
    cause: str | None = None


def problems(rows: Sequence[XidRow]) -> Iterator[tuple[int, str, Problem]]:
    """Yield what is wrong with the rows: the place of each in the list, the key, and what to say."""
    seen: set[int] = set()
    for place, row in enumerate(rows):
        if row.xid in seen:
            yield place, "xid", Problem("another row is for the same Xid", got=shown(row.xid), hint="keep one of them")
        seen.add(row.xid)
        if row.attempt is None and row.gpu is None and row.cause is None:
            hint = "say with attempt, gpu or cause what it shall lead to"
            yield place, "xid", Problem("this row changes nothing", got=shown(row.xid), hint=hint)
        if row.cause is not None and not _is_cause(row.cause):
            hint = "`yolo-supervisor explain-log --rules` lists the causes"
            yield place, "cause", Problem("the table has no such cause", got=shown(row.cause), hint=hint)
        elif row.attempt == "end" and not row.cause and not _has_cause(row.xid):
            hint = 'add `cause = "gpu-fault"` or another of `yolo-supervisor explain-log --rules`'
            yield place, "attempt", Problem("for the end of a training a cause is needed", got=shown("end"), hint=hint)


def as_overrides(rows: Sequence[XidRow]) -> tuple[XidOverride, ...]:
    """Return the rows in the words of the core."""
    return tuple(XidOverride(xid=row.xid, attempt=row.attempt, gpu=row.gpu, cause=row.cause) for row in rows)


def _is_cause(name: str) -> bool:
    from supervisor.core.diagnosis import tables  # ten milliseconds: not for those who do not need them

    return name in tables.CAUSES


def _has_cause(xid: int) -> bool:
    from supervisor.core.gpus import xids

    return bool(xids.row(xid).cause)
