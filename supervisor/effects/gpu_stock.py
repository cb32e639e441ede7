"""Which GPUs this server has, and whether what a job wants of them can ever be met."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from supervisor.core.gpus import leases, lookup, model
from supervisor.core.gpus.model import Gpu, GpuFacts, GpuWish
from supervisor.core.model import World
from supervisor.errors import Problem, RetryableError
from supervisor.toml_errors import shown
from supervisor.units import format_size

#: After so long it is asked again which GPUs there are: a driver takes up to some ten seconds for its first answer.
AGAIN_S = 0.25
BROKEN_AGAIN_S = 5.0
#: A driver in trouble may be well in a moment; after so long the jobs that wait for it shall be seen to wait.
BROKEN_S = 60.0
_LISTED = 16  # GPUs in a message
_UUID = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class GpuStock(msgspec.Struct, frozen=True):
    """The GPUs of a server in PCI order, lost ones too: they may come back, and what wants them waits.

    Not `watched`: nobody tells who they are, so that an index is all that names one. `counted`: for now only.
    """

    gpus: tuple[Gpu, ...] = ()
    watched: bool = True
    counted: bool = False


def of_world(world: World, now: float) -> GpuStock:
    """Return what a daemon knows.

    Raises RetryableError while the driver has not answered since the daemon's start. A driver that is in trouble and
    never told of a GPU is asked again as well; after BROKEN_S the number of GPUs will do, where the kernel tells one:
    what is accepted then waits where people see it.
    """
    if not leases.known(world):
        raise RetryableError("it is not known yet which GPUs there are: the driver has not answered", AGAIN_S)
    devices, watched = leases.devices(world), leases.watched(world)
    if devices or not watched or world.driver.state in {model.OK, model.NONE}:
        return GpuStock(devices, watched)
    if world.policy.gpu_count and now - world.driver.since >= BROKEN_S:
        return msgspec.structs.replace(numbered(world.policy.gpu_count), watched=True, counted=True)
    why = world.driver.text or f"the driver is not usable ({world.driver.state})"
    raise RetryableError(f"it is not known which GPUs there are: {why}", BROKEN_AGAIN_S)


def numbered(count: int) -> GpuStock:
    """Return `count` GPUs of which nothing else is known."""
    facts = (GpuFacts(uuid=str(index), index=index) for index in range(count))
    return GpuStock(tuple(Gpu(uuid=one.uuid, facts=one) for one in facts), watched=False)


def of_view(view: Mapping[str, Any]) -> GpuStock:
    """Return what a daemon's API tells of its GPUs: the answer to GET /v1/gpus."""
    rows = view["gpus"]
    facts = [
        GpuFacts(
            uuid=row["uuid"] or str(row["index"]),
            index=row["index"],
            bus_id=row["bus_id"] or "",
            name=row["name"] or "",
            memory_bytes=row["memory_bytes"] or 0,
        )
        for row in rows
    ]
    gpus = tuple(Gpu(uuid=one.uuid, facts=one, present=row["present"]) for one, row in zip(facts, rows, strict=True))
    return GpuStock(gpus, watched=view["watched"])


def count_of(wanted: int | str, stock: GpuStock) -> int:
    """Return the number of GPUs that a job gets: "auto" is one where there is any."""
    return min(1, len(stock.gpus)) if wanted == "auto" else int(wanted)


def settled(wish: GpuWish, count: int, stock: GpuStock) -> GpuWish:
    """Return the wish with its GPUs by UUID: an index may be another GPU's after the next boot.

    Where nobody watches GPUs it stays an index. What `problems` finds fault with stays as it is.
    """
    if not count:
        return GpuWish()
    found = [(name, lookup.matches(stock.gpus, name)) for name in wish.named]
    named = (gpus[0].uuid if len(gpus) == 1 else name for name, gpus in found)
    return msgspec.structs.replace(wish, named=tuple(named))


def problems(wish: GpuWish, count: int, stock: GpuStock) -> Iterator[Problem]:
    """Yield why a job could never get its GPUs here."""
    unknown = [name for name in wish.named if not _may_be_there(name, stock)]
    if count > len(stock.gpus) and not unknown:
        hint = "write gpus = 0 to train on the CPU" if not stock.gpus else ""
        expected = f"at most {len(stock.gpus)}, which is what this server has"
        yield Problem("too many GPUs", key="gpus", expected=expected, got=str(count), hint=hint)
    for name in unknown:
        yield _unknown(name, stock)
    named = settled(wish, count, stock).named
    for again in sorted({name for name in named if named.count(name) > 1}):
        yield Problem("this GPU is named twice, by index and by UUID", key="gpus", got=shown(again))
    if not unknown and count <= len(stock.gpus):
        yield from _memory_problems(wish, count, [gpu for gpu in stock.gpus if not named or gpu.uuid in named])


def _may_be_there(name: str, stock: GpuStock) -> bool:
    return len(lookup.matches(stock.gpus, name)) == 1 or (stock.counted and _UUID.fullmatch(name) is not None)


def _unknown(name: str, stock: GpuStock) -> Problem:
    expected = f"one of {_listed(stock.gpus)}" if stock.gpus else "gpus = 0: this server has none"
    if stock.counted and not name.isdigit():
        wrong = "the driver does not tell now which GPU this is"
        return Problem(wrong, key="gpus", expected=f"{expected}, or a whole UUID", got=name)
    if name.startswith("GPU-") and stock.gpus and not stock.watched:
        return Problem("GPUs have no UUIDs here, because nobody watches them", key="gpus", expected=expected, got=name)
    wrong = lookup.no_such_gpu(stock.gpus, name)
    if name.isdigit():  # which indices there are is said already
        return Problem(wrong, key="gpus", expected="" if stock.gpus else expected)
    return Problem(wrong, key="gpus", expected=expected, got=shown(name))


def _listed(gpus: Sequence[Gpu]) -> str:
    """Each GPU with its index, name and UUID, as far as they are known."""
    words = [", ".join(part for part in (str(gpu.index), gpu.facts.name, _uuid(gpu)) if part) for gpu in gpus[:_LISTED]]
    return "; ".join(words) + (f" and {len(gpus) - _LISTED} more" if len(gpus) > _LISTED else "")


def _uuid(gpu: Gpu) -> str:
    return gpu.uuid if gpu.uuid != str(gpu.index) else ""


def _memory_problems(wish: GpuWish, count: int, gpus: Sequence[Gpu]) -> Iterator[Problem]:
    needed = wish.min or count
    large = sorted((gpu.facts.memory_bytes or wish.memory_bytes for gpu in gpus), reverse=True)  # unknown may do
    if not wish.memory_bytes or not needed or large[needed - 1] >= wish.memory_bytes:
        return
    most = large[needed - 1]
    wrong = "no GPU here has so much memory" if needed == 1 else "too few GPUs here have so much memory"
    expected = f"at most {format_size(most)}" + (f", which {needed} of its GPUs have" if needed > 1 else "")
    # what a driver tells is often a little less than the name of the card: 23.99 GiB of a "24 GB" one
    hint = f'write "{most // 1024**3}GiB"' if most * 1.1 > wish.memory_bytes else ""
    yield Problem(wrong, key="gpu.memory", expected=expected, got=format_size(wish.memory_bytes), hint=hint)
