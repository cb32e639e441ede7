"""Who gets which GPU: what may be given out, how many a run gets, and which of them fit together best."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from supervisor.core.gpus import model
from supervisor.core.gpus.findings import KINDS
from supervisor.core.gpus.model import Gpu, GpuFacts, Holder
from supervisor.core.model import Job, Run, World

LAST_S = 24 * 3600.0  # after an Xid of the kind "last" a GPU is given out last for so long
_SHOWN = 2  # reasons that a waiting run names


class Choice(msgspec.Struct, frozen=True):
    """The GPUs that a run gets, or why it gets none."""

    gpus: tuple[Gpu, ...] = ()
    reason: str = ""


def watched(world: World) -> bool:
    """True if GPUs are given out by UUID, as a probe tells of them; else by index.

    Without the driver's library that is so only where no GPU was ever seen: what is held against one counts on.
    """
    return world.policy.gpu.watch and (bool(world.gpus) or world.driver.state not in model.UNWATCHED)


def devices(world: World) -> tuple[Gpu, ...]:
    """All GPUs that this server is known to have, also lost ones, in PCI order."""
    if not watched(world):
        return tuple(_by_index(world, index) for index in range(world.policy.gpu_count))
    return tuple(sorted(world.gpus.values(), key=lambda gpu: (gpu.index, gpu.uuid)))


def _by_index(world: World, index: int) -> Gpu:
    """A GPU that nobody watches. What people and errors held against the one at that place counts on."""
    facts = GpuFacts(uuid=str(index), index=index)
    past = next((gpu for gpu in world.gpus.values() if gpu.index == index and gpu.present), None)
    if past is None:
        return Gpu(uuid=facts.uuid, facts=facts)
    return Gpu(uuid=facts.uuid, facts=facts, quarantine=past.quarantine, drain=past.drain)


def known(world: World) -> bool:
    """True once it is known which GPUs there are."""
    return not world.policy.gpu.watch or world.driver.state != model.STARTING


def holder_words(holders: Sequence[Holder]) -> str:
    """`pid 4242 of alice holds 18 GiB`, the largest one first."""
    first = max(holders, key=lambda one: one.used_bytes or 0)
    size = f"{first.used_bytes / 1024**3:.0f} GiB" if first.used_bytes is not None else "it"
    others = f" and {len(holders) - 1} more processes" if len(holders) > 1 else ""
    return f"pid {first.pid} of {first.user or 'an unknown user'} holds {size}{others}"


def broken(gpu: Gpu, world: World) -> str:
    """Why a GPU cannot be used before something is mended; empty if it can."""
    if watched(world) and world.driver.state not in {model.OK, model.STARTING}:
        return world.driver.text or f"the driver is not usable ({world.driver.state})"
    if not gpu.present:
        return "is lost"
    if gpu.quarantine is not None:
        return f"is in quarantine: {gpu.quarantine.reason}"
    blocking = (KINDS[one.kind].title for one in gpu.findings.values() if KINDS[one.kind].blocks)
    return next(blocking, "")


def withheld(gpu: Gpu, world: World, now: float) -> str:
    """Why a GPU is not given out for longer than a moment: it is broken, drained, or somebody else's; else empty."""
    why = broken(gpu, world)
    if why:
        return why
    if gpu.drain is not None and (gpu.drain.until_at is None or now < gpu.drain.until_at):
        return f"is drained by {gpu.drain.by}"
    if gpu.holders and world.policy.gpu.foreign == "respect":
        return holder_words(gpu.holders)
    return ""


def unusable(gpu: Gpu, world: World, now: float) -> str:
    """Why a GPU is not given out at this moment, apart from trainings of ours on it; empty if it may be."""
    moment = gpu.not_before_reason or "was busy a moment ago" if now < gpu.not_before else ""
    return withheld(gpu, world, now) or moment


def on(world: World, uuid: str) -> list[Run]:
    """The runs whose attempt has this GPU now."""
    return [run for run in world.live.values() if run.busy and run.attempt and uuid in run.attempt.gpu_ids]


def counted(world: World) -> World:
    """The world whose policy knows how many GPUs there are, lost ones included, where a probe tells of them."""
    told = world.driver.state in {model.OK, model.NONE} and watched(world)
    if not told or world.policy.gpu_count == len(world.gpus):
        return world
    return replace(world, policy=replace(world.policy, gpu_count=len(world.gpus)))


def changes_at(gpu: Gpu) -> Iterable[float]:
    """When a GPU may be given out again for reasons of time alone."""
    if gpu.drain is not None and gpu.drain.until_at is not None:
        yield gpu.drain.until_at
    yield gpu.not_before


def is_idle(world: World, gpu: Gpu) -> bool:
    """True if no attempt of ours has the GPU."""
    return not on(world, gpu.uuid)


def eligible(job: Job, gpu: Gpu) -> bool:
    """True if the job could ever get this GPU."""
    wish = job.gpu
    names = {gpu.uuid, str(gpu.index)}
    big_enough = not wish.memory_bytes or not gpu.facts.memory_bytes or gpu.facts.memory_bytes >= wish.memory_bytes
    return big_enough and (not wish.named or not names.isdisjoint(wish.named))


def choose(run: Run, job: Job, free: Collection[Gpu], world: World, now: float) -> Choice:
    """The GPUs of `free` that the run gets; with fewer than it wants only if the job allows and the rest is broken."""
    if not known(world):
        return Choice(reason="GPU: the driver has not answered yet")
    fitting = [gpu for gpu in free if eligible(job, gpu) and not unusable(gpu, world, now)]
    count = _count(run, job, fitting, world, now)
    if not count:
        return Choice(reason=_why_not(job, world, now))
    return Choice(gpus=_best(fitting, count, run.avoided_gpus, job.gpu.prefer, now))


def _count(run: Run, job: Job, fitting: Sequence[Gpu], world: World, now: float) -> int:
    """How many GPUs the run gets now; 0 if it must wait."""
    if len(fitting) >= job.gpus:
        return job.gpus
    in_order = [gpu for gpu in devices(world) if eligible(job, gpu) and not broken(gpu, world)]
    in_order = [gpu for gpu in in_order if now >= gpu.not_before]  # a look found it in use, and nobody says by whom
    if not job.gpu.min or (len(in_order) >= job.gpus and not lost_one(run)):
        return 0  # the others are only busy: they come back
    return next((n for n in range(len(fitting), job.gpu.min - 1, -1) if _divides(run, job, n)), 0)


def lost_one(run: Run) -> bool:
    """True if a GPU failed under the last attempt, which had several: the run goes on with the rest at once."""
    attempt = run.attempt
    return attempt is not None and bool(attempt.gpu_fault) and len(attempt.gpu_ids) > 1


def _divides(run: Run, job: Job, count: int) -> bool:
    """True if the next batch of the run can be spread over so many GPUs."""
    arguments = job.train_after(run.progress.saved_epoch)
    if arguments is None:
        return True
    return divides({**arguments, **{one.name: one.after for one in run.changes}}, count)


def divides(arguments: Mapping[str, Any] | None, count: int) -> bool:
    """True if the batch of train arguments can be spread over so many GPUs. Nobody knows that of a command.

    A batch that the trainer sizes by the GPU's memory (below 1) would be another one in total.
    """
    if arguments is None:
        return True
    batch = arguments.get("batch", 16)
    return isinstance(batch, int) and batch >= 1 and batch % count == 0


def _why_not(job: Job, world: World, now: float) -> str:
    """What a run without GPUs waits for: `GPU`, and what stands in the way, if it is more than other trainings."""
    if not watched(world) and any(name.startswith("GPU-") for name in job.gpu.named):
        return "GPU: the job names GPUs by UUID, and nothing tells which is which while GPUs are not watched"
    if watched(world) and world.driver.state not in {model.OK, model.STARTING}:
        return f"GPU: {world.driver.text or world.driver.state}"
    mine = [gpu for gpu in devices(world) if eligible(job, gpu)]
    if len(mine) < job.gpus and not job.gpu.min:
        return f"GPU: it wants {job.gpus}, and {len(mine)} fit" if watched(world) else "GPU"
    reasons = [f"{gpu.label} {why}" for gpu in mine if (why := _said(gpu, world, now))]
    return f"GPU: {'; '.join(reasons[:_SHOWN])}" if reasons else "GPU"


def _said(gpu: Gpu, world: World, now: float) -> str:
    why = unusable(gpu, world, now)
    return f"is in use: {why}" if why.startswith("pid ") else why


def _best(gpus: Sequence[Gpu], count: int, avoid: Collection[str], prefer: str, now: float) -> tuple[Gpu, ...]:
    """The best group: none to avoid, joined by NVLink, behind one processor, the lowest indices.

    Grown greedily from each GPU; with at most 16 of them that finds the pairs and boards that exist.
    """
    if count == 0 or not gpus:
        return ()

    def place(gpu: Gpu) -> tuple[bool, bool, int]:
        return gpu.uuid in avoid, is_last(gpu, now), gpu.index

    groups = []
    for seed in sorted(gpus, key=place):
        group = [seed]
        while len(group) < count:
            rest = (gpu for gpu in gpus if gpu not in group)
            group.append(min(rest, key=lambda gpu: (*place(gpu)[:2], _apart([*group, gpu], prefer), gpu.index)))
        groups.append(group)
    best = min(
        groups, key=lambda group: (sum(place(gpu)[0] for gpu in group), _lasts(group, now), *_score(group, prefer))
    )
    return tuple(sorted(best, key=lambda gpu: gpu.index))


def _lasts(group: Iterable[Gpu], now: float) -> int:
    return sum(is_last(gpu, now) for gpu in group)


def _score(group: Sequence[Gpu], prefer: str) -> tuple[float | int | list[int], ...]:
    return (*_apart(group, prefer), sorted(gpu.index for gpu in group))


def _apart(group: Sequence[Gpu], prefer: str) -> tuple[int, int]:
    """How badly a group is connected: missing NVLink pairs and processors used, the preferred one first."""
    uuids = {gpu.uuid for gpu in group}
    linked = sum(link in uuids for gpu in group for link in gpu.facts.links)
    nodes = len({gpu.facts.numa for gpu in group})
    return (nodes, -linked) if prefer == "numa" else (-linked, nodes)


def is_last(gpu: Gpu, now: float) -> bool:
    """True for a GPU with a doubtful record: it is given out when no other is free."""
    doubtful = any(one.kind in {"ecc-rate", "remap-pending", "hot"} for one in gpu.findings.values())
    return doubtful or any(note.last and now - note.at < LAST_S for note in gpu.xids)
