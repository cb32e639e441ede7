"""Which GPU a person means: by its index in PCI order, its UUID or the beginning of it, or its place on the bus."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from supervisor.core.gpus.model import Gpu

_LONGEST_INDEX = 3  # digits; what is longer begins a UUID
_NAMED = 3
_UUID_PREFIX = "gpu-"
_FIRST_DOMAIN = "0000:"


def short_bus_id(bus_id: str) -> str:
    """`3b:00.0` of `00000000:3B:00.0`; the domain stays where it is not 0."""
    from supervisor.core.gpus.xids import normal_bus_id  # late: its table is read with it, and `ls` needs none

    return normal_bus_id(bus_id).removeprefix(_FIRST_DOMAIN) or bus_id


def full_label(gpu: Gpu) -> str:
    """`GPU 3 (NVIDIA L40S, 3b:00.0)`."""
    known = ", ".join(filter(None, (gpu.facts.name, short_bus_id(gpu.facts.bus_id))))
    return f"{gpu.label} ({known})" if known else gpu.label


def matches(gpus: Sequence[Gpu], name: str) -> list[Gpu]:
    """All GPUs that `name` may mean: none, one, or several. GPUs that are there come before those that are gone."""
    from supervisor.core.gpus.xids import same_bus

    name = name.strip()
    found = [gpu for gpu in gpus if name.isdigit() and len(name) <= _LONGEST_INDEX and gpu.index == int(name)]
    if not found:
        found = [gpu for gpu in gpus if same_bus(gpu.facts.bus_id, name)]
    if not found and name:
        found = [gpu for gpu in gpus if _begins(gpu.uuid, name)]
    there = [gpu for gpu in found if gpu.present]
    return there or found


def no_such_gpu(gpus: Sequence[Gpu], name: str) -> str:
    """What to say about a name that no GPU has, or that several have."""
    found = matches(gpus, name)
    if len(found) > 1:
        names = [gpu.uuid for gpu in found[:_NAMED]] + (["others"] if len(found) > _NAMED else [])
        return f"{name} may mean {' or '.join(names)}; give more of the UUID"
    if not gpus:
        return f"there is no GPU {name}: this server has no GPUs"
    if name.isdigit():
        return f"there is no GPU {name}; there are {_indices(gpus)}"
    known = {key: gpu for gpu in gpus for key in (gpu.uuid, short_bus_id(gpu.facts.bus_id)) if key}
    near = [key for key in difflib.get_close_matches(name, known, n=2, cutoff=0.7) if key != name]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {_indices(gpus)}"
    return f"there is no GPU {name}; {hint}"


def replaced(gpus: Sequence[Gpu]) -> set[str]:
    """The UUIDs of GPUs that are gone and in whose slot another one is now."""
    from supervisor.core.gpus.xids import normal_bus_id

    taken = {normal_bus_id(gpu.facts.bus_id) for gpu in gpus if gpu.present} - {""}
    return {gpu.uuid for gpu in gpus if not gpu.present and normal_bus_id(gpu.facts.bus_id) in taken}


def _begins(uuid: str, name: str) -> bool:
    whole, begun = uuid.lower(), name.lower()
    return whole.startswith(begun) or (whole.startswith(_UUID_PREFIX) and whole[len(_UUID_PREFIX) :].startswith(begun))


def _indices(gpus: Sequence[Gpu]) -> str:
    numbers = sorted({gpu.index for gpu in gpus})
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"GPUs {numbers[0]} to {numbers[-1]}"
    return "GPU " + ", ".join(map(str, numbers))
