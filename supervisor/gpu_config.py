"""The keys about GPUs: [gpu] of the configuration, `gpus` and `gpu` of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from supervisor import xid_rules
from supervisor.core.gpus.model import GpuPolicy, GpuWish
from supervisor.core.placeholders import expand, names_in
from supervisor.errors import Problem
from supervisor.toml_errors import AbsolutePath, Duration, Size, nearest, shown

UUID = r"GPU-[0-9a-fA-F][0-9a-fA-F-]{3,}"
#: What the words of a command for one GPU may hold.
COMMAND_PLACEHOLDERS = ("uuid", "index", "bus_id")
_FASTEST_S = 0.1  # a look at eight GPUs takes milliseconds, and more on a driver in trouble

GpuName = Annotated[int, msgspec.Meta(ge=0, le=1023)] | Annotated[str, msgspec.Meta(pattern=rf"\A{UUID}\Z")]
Gpus = Annotated[
    Annotated[int, msgspec.Meta(ge=0, le=1024)]
    | Literal["auto"]
    | Annotated[tuple[GpuName, ...], msgspec.Meta(max_length=1024)],
    msgspec.Meta(
        description='a number of GPUs from 0 to 1024, "auto", or a list of GPUs, each an index or a text "GPU-…"'
    ),
]
AtLeast = Annotated[int, msgspec.Meta(ge=0, le=1024, description="a whole number from 0 to 1024")]
Prefer = Literal["nvlink", "numa"]
Words = tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=4096)], ...]
PowerCap = Annotated[
    str, msgspec.Meta(pattern=r"\A(off|[5-9][0-9]%)\Z", description='"off", or a share from "50%" to "99%"')
]
OneLimit = Annotated[
    dict[str, bool | int | float | str],
    msgspec.Meta(description='a table with gpu = "GPU-…" and thresholds'),
]


class GpuDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """[defaults.gpu]: what a job wants of its GPUs, if it says nothing. A `min` of 0 means all of them."""

    min: AtLeast = 0
    memory: Size = 0
    share: bool = False
    prefer: Prefer = "nvlink"


class GpuTable(msgspec.Struct, frozen=True, kw_only=True):
    """`gpu` of a job file."""

    min: AtLeast | None = None
    memory: Size | None = None
    share: bool | None = None
    prefer: Prefer | None = None


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """[gpu]: how GPUs are watched, and what may be done about a broken one."""

    watch: bool = True
    kmsg: Annotated[str, msgspec.Meta(max_length=4096)] = "/dev/kmsg"
    pci: AbsolutePath = Path("/sys/bus/pci/devices")
    foreign: Literal["respect", "ignore"] = "respect"
    fast: Duration = 5.0
    slow: Duration = 60.0
    self_test: Literal["never", "quarantine", "start"] = "quarantine"
    reset_command: Words = ()
    reboot_command: Words = ()
    power_cap: PowerCap = "off"
    limits: dict[str, bool | int | float | str] = {}
    limit: tuple[OneLimit, ...] = ()
    xid: tuple[xid_rules.XidRow, ...] = ()


def problems(gpu: Gpu) -> Iterator[tuple[tuple[str, ...], Problem]]:
    """Yield what is wrong with [gpu]: the path below it, and what to say."""
    if gpu.kmsg and not gpu.kmsg.startswith("/"):
        yield ("kmsg",), Problem("wrong value", expected='an absolute path, or ""', got=shown(gpu.kmsg))
    if gpu.fast < _FASTEST_S:
        yield ("fast",), Problem("looking so often costs more than it finds", expected='at least "100ms"')
    if gpu.slow < gpu.fast:
        yield ("fast",), Problem("the slow round would come more often than the fast one", hint="raise slow as well")
    for key in ("reset_command", "reboot_command"):
        yield from (((key,), problem) for problem in _command_problems(getattr(gpu, key)))
    yield from ((("limits", key), problem) for key, problem in _limit_problems(gpu.limits))
    for place, table in enumerate(gpu.limit):
        yield from ((("limit", str(place), key), problem) for key, problem in _one_limit_problems(table))
    for row, key, problem in xid_rules.problems(gpu.xid):
        yield ("xid", str(row), key), problem


def name_problems(gpus: int | str | tuple[int | str, ...]) -> Iterator[Problem]:
    """Yield what is wrong with a list of GPUs."""
    if not isinstance(gpus, tuple):
        return
    if not gpus:
        yield Problem("this list names no GPU", got="[]", hint="write gpus = 0 to train on the CPU")
    folded = [one.lower() if isinstance(one, str) else one for one in gpus]
    again = next((one for one in folded if folded.count(one) > 1), None)
    if again is not None:
        yield Problem("this GPU is named twice", got=shown(gpus[folded.index(again)]), hint="keep one of them")


def wish_problems(gpus: int | str | tuple[int | str, ...], own: GpuTable) -> Iterator[tuple[str, Problem]]:
    """Yield what does not fit together in a job: the key of its `gpu`, and what to say. `gpus` is what it will have."""
    count = 1 if gpus == "auto" else len(gpus) if isinstance(gpus, tuple) else int(gpus)
    wishes = [key for key in own.__struct_fields__ if getattr(own, key) is not None]
    if wishes and not count:
        hint = "remove it, or write how many with gpus"
        yield wishes[0], Problem("this job wants no GPU (gpus = 0), so nothing can be wanted of one", hint=hint)
    elif own.min is not None and own.min > count:
        expected = (
            'at most 1, which is what gpus = "auto" takes' if gpus == "auto" else f"at most {count}, as gpus says"
        )
        wrong = Problem("the least number of GPUs is more than the whole", expected=expected, got=str(own.min))
        yield "min", wrong


def wish(gpus: int | str | tuple[int | str, ...], own: GpuTable, default: GpuDefaults) -> GpuWish:
    """Return what a job wants of its GPUs: its own word, else the default's."""
    count = len(gpus) if isinstance(gpus, tuple) else 1 if gpus == "auto" else int(gpus)
    if not count:
        return GpuWish()
    told = {
        key: getattr(default, key) if getattr(own, key) is None else getattr(own, key)
        for key in GpuTable.__struct_fields__
    }
    return GpuWish(
        named=tuple(str(one) for one in gpus) if isinstance(gpus, tuple) else (),
        min=min(told["min"], count),
        memory_bytes=told["memory"],
        share=told["share"],
        prefer=told["prefer"],
    )


def _command_problems(words: Words) -> Iterator[Problem]:
    for name in (name for word in words for name in names_in(word)):
        if name not in COMMAND_PLACEHOLDERS:
            names = " ".join(f"{{{known}}}" for known in COMMAND_PLACEHOLDERS)
            yield Problem("unknown placeholder", expected=f"one of {names}", got=f"{{{name}}}")
    if words and "/" in words[0] and not words[0].startswith("/"):
        yield Problem("a relative path means nothing to a daemon", got=shown(words[0]))


def _one_limit_problems(table: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    thresholds = {key: value for key, value in table.items() if key != "gpu"}
    name = table.get("gpu")
    if not isinstance(name, str) or not name.startswith("GPU-"):
        hint = "`yolo-supervisor gpus` shows the UUIDs; thresholds for all GPUs stand in [gpu.limits]"
        yield "gpu", Problem("this names no GPU", expected='a text "GPU-…"', got=shown(name or ""), hint=hint)
    if not thresholds:
        yield "gpu", Problem("this table changes no threshold", hint="remove it, or write one")
    yield from _limit_problems(thresholds)


def _limit_problems(table: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    """Find thresholds that are not known, and values that they cannot have."""
    if not table:
        return
    from supervisor.core.gpus import limits  # not for those who change none

    known = limits.Limits.__struct_fields__
    for key, value in table.items():
        if key not in known:
            near = nearest(key, list(known))
            hint = f"did you mean `{near}`?" if near else "docs/gpus.md lists the thresholds"
            yield key, Problem("unknown threshold", got=f"`{key}`", hint=hint)
            continue
        try:
            limits.for_gpu("", {key: value})
        except msgspec.ValidationError as error:
            yield key, Problem(f"wrong value ({str(error).partition(' - at')[0]})", got=shown(value))


def thresholds(gpu: Gpu, uuid: str) -> tuple[dict[str, Any], ...]:
    """Return the tables of thresholds for one GPU, for `core.gpus.limits.for_gpu`: what is for it alone comes last."""
    own = [table for table in gpu.limit if uuid.lower().startswith(str(table["gpu"]).lower())]
    return (gpu.limits, *({key: value for key, value in table.items() if key != "gpu"} for table in own))


def command(words: Words, *, uuid: str, index: int, bus_id: str) -> list[str]:
    """Return the words of `reset_command` or `reboot_command` for one GPU."""
    values = {"uuid": uuid, "index": str(index), "bus_id": bus_id}
    return [expand(word, values) for word in words]


def policy(gpu: Gpu) -> GpuPolicy:
    """Return the part of [gpu] that deciding depends on."""
    return GpuPolicy(
        watch=gpu.watch,
        foreign=gpu.foreign,
        self_test=gpu.self_test,
        reset=bool(gpu.reset_command),
        reboot=bool(gpu.reboot_command),
        power_cap=0.0 if gpu.power_cap == "off" else int(gpu.power_cap.rstrip("%")) / 100,
        xids=xid_rules.as_overrides(gpu.xid),
    )


def reloaded(running: Gpu, read: Gpu) -> Gpu:
    """Return what holds once the file was read again: what is decided by. How GPUs are watched needs a restart."""
    return msgspec.structs.replace(
        running, foreign=read.foreign, self_test=read.self_test, power_cap=read.power_cap, xid=read.xid
    )
