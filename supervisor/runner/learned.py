"""Which tensors of a checkpoint tell whether its training is sound: those that it learned and goes on with.

Others hold such numbers on purpose: RT-DETR keeps the anchors of the last image, with Inf for those outside of it,
attention masks are buffers of -Inf, a trainer remembers a loss that was NaN once. None of that spoils the next step.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Set, Tuple

from .pickle_calls import Built, Tensor
from .pickle_scan import Damaged

#: What a storage may hold, from the laxest on. NaN that is only told is worth a look and no more.
NAN_IS_TOLD, INF_ALLOWED, FINITE = range(3)

#: The largest known model has some ten thousand; far above that it is an attack or an accident.
_MOST_CONTAINERS = 500_000
_MODELS = ("ema", "model")
#: How the walk looks at a value: every tensor counts, the name of each says whether it does, or none does.
_LEARNED, _NAMED, _REMEMBERED = range(3)

Step = Tuple[str, Any, int]


def is_statistic(name: str) -> bool:
    """Return whether a buffer of this name holds running statistics, which are learned as parameters are."""
    return name.rpartition(".")[2].startswith("running_")


def is_learned(name: str) -> bool:
    """Return whether a tensor of this name in a state dict is surely learned."""
    return name.rpartition(".")[2] in {"weight", "bias"} or is_statistic(name)


def limits(top: Any) -> Dict[str, int]:
    """Return what each storage may hold, by its key, for the value at the top of a pickle; the others may hold all.

    Parameters, running statistics and the optimizer's state must be finite. A state dict does not tell parameters from
    buffers: what has another name than theirs may hold Inf. NaN in all else of a model is told. Raises Damaged.
    """
    whole = top if isinstance(top, dict) else {}
    models = [whole[key] for key in _MODELS if whole.get(key) is not None]
    if not models:  # somebody's own format
        return _walked([("", top, _NAMED)], NAN_IS_TOLD)
    optimizer = whole.get("optimizer")
    state = optimizer.get("state") if isinstance(optimizer, dict) else None
    return _walked([("", state, _LEARNED), *(("", model, _NAMED) for model in models)], INF_ALLOWED)


def _walked(waiting: List[Step], unnamed: int) -> Dict[str, int]:
    """Go through all values, without recursion: a pickle may nest them without end, or in a circle."""
    found: Dict[str, int] = {}
    seen: Set[Tuple[int, int]] = set()
    while waiting:
        name, value, how = waiting.pop()
        if isinstance(value, Tensor):
            limit = {_LEARNED: FINITE, _REMEMBERED: NAN_IS_TOLD}.get(how, FINITE if is_learned(name) else unnamed)
            found[value.storage.key] = max(limit, found.get(value.storage.key, limit))
            continue
        content = value.state if isinstance(value, Built) else value
        if isinstance(content, (dict, list, tuple)) and (id(content), how) not in seen:
            seen.add((id(content), how))
            if len(seen) > _MOST_CONTAINERS:
                raise Damaged(f"its model has more than {_MOST_CONTAINERS} parts")
            opened = isinstance(value, Built) and isinstance(content, dict) and "_buffers" in content and how == _NAMED
            waiting.extend(_of_module(content) if opened else _inside(name, content, how))
    return found


def _inside(name: str, content: Any, how: int) -> Iterator[Step]:
    pairs = content.items() if isinstance(content, dict) else ((name, one) for one in content)
    return ((key if isinstance(key, str) else name, one, how) for key, one in pairs)


def _of_module(state: Any) -> Iterator[Step]:
    ways = {"_parameters": _LEARNED, "_buffers": _REMEMBERED, "_modules": _NAMED}
    buffers = state["_buffers"] if isinstance(state["_buffers"], dict) else {}
    for name, tensor in buffers.items():
        if is_statistic(str(name)):
            yield str(name), tensor, _LEARNED
    for key, value in state.items():
        yield str(key), value, ways.get(key, _REMEMBERED)
