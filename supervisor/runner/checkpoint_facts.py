"""What the plain values at the top of a checkpoint's pickle say: of every family whose trainer keeps a dict there."""

from __future__ import annotations

from collections import deque
from typing import Any, Deque, Dict, List, Optional, Tuple

from .pickle_calls import Built

#: Limits of what is told: enough for every trainer's arguments, and an answer that always stays small.
_MOST_ENTRIES = 500
_MOST_VALUES = 4000
_DEPTH = 4
_TEXT_LENGTH = 4096
_MOST_CLASSES = 100_000
_MOST_MODULES = 10_000


def facts(top: Any) -> Dict[str, Any]:
    """Return the keys of `checkpoint.inspect` that the top level decides, `state` and `reason` among them."""
    if not isinstance(top, dict):
        return {"state": "weights_only", "reason": "not a training checkpoint: the top level is no dict"}
    arguments = _arguments(top)
    epoch, epochs = whole_number(top.get("epoch")), whole_number(arguments.get("epochs"))
    model = top.get("ema") if top.get("ema") is not None else top.get("model")
    has_optimizer = top.get("optimizer") is not None
    state, reason = _state(epoch, epochs, has_optimizer, model is not None)
    return {
        "state": state,
        "reason": reason,
        "epoch": epoch,
        "epochs": epochs,
        "has_optimizer": has_optimizer,
        "save_dir": _text(arguments.get("save_dir")),
        "best_fitness": number(top.get("best_fitness")),
        "version": _text(top.get("version")),
        "metrics": _metrics(top.get("train_metrics")),
        "updates": whole_number(top.get("updates")),
        "model": model.name or None if isinstance(model, Built) else None,
        "class_names": _class_names(top, model),
        "arguments": _Plain().of_dict(arguments, 1),
    }


def _state(epoch: Optional[int], epochs: Optional[int], has_optimizer: bool, has_weights: bool) -> Tuple[str, str]:
    if epoch is None or not has_weights:
        return "weights_only", f"not a training checkpoint: no {'epoch' if has_weights else 'model'} in it"
    if epoch < 0 and has_optimizer:
        return "weights_only", "saved before the first epoch"
    if epoch < 0:
        return "finished", "its training ended normally and stripped it"
    if not has_optimizer:
        return "weights_only", f"{epoch + 1} epochs, but without the optimizer's state"
    if epochs is not None and epoch + 1 >= epochs:
        return "done_not_stripped", f"holds the last of {epochs} epochs, but was not stripped"
    return "resumable", f"holds {epoch + 1} of {'an unknown number of' if epochs is None else epochs} epochs"


def _arguments(top: Dict[Any, Any]) -> Dict[Any, Any]:
    """Return the training's arguments: a dict in most families, the state of a Namespace in older ones."""
    for key in ("train_args", "opt"):
        value = top.get(key)
        found = value.state if isinstance(value, Built) else value
        if isinstance(found, dict):
            return found
    return {}


def _metrics(value: Any) -> Dict[str, float]:
    if not isinstance(value, dict):
        return {}
    pairs = ((key, number(one)) for key, one in list(value.items())[:_MOST_ENTRIES] if isinstance(key, str))
    return {text(key): one for key, one in pairs if one is not None}


def _class_names(top: Dict[Any, Any], model: Any) -> Optional[List[str]]:
    """Return the names of the classes that the model itself knows, nearest to its top first."""
    waiting: Deque[Any] = deque([model, top])
    seen = 0
    while waiting and seen < _MOST_MODULES:
        one = waiting.popleft()
        seen += 1
        state = one.state if isinstance(one, Built) else one
        if not isinstance(state, dict):
            continue
        names = _names(state.get("names"))
        if names is not None:
            return names
        modules = state.get("_modules")
        waiting.extend(list(modules.values())[:_MOST_ENTRIES] if isinstance(modules, dict) else ())
    return None


def _names(value: Any) -> Optional[List[str]]:
    if isinstance(value, dict) and all(type(key) is int for key in value):
        value = [value[key] for key in sorted(value)]
    if not isinstance(value, (list, tuple)) or not value or len(value) > _MOST_CLASSES:
        return None
    return [text(one) for one in value] if all(isinstance(one, str) for one in value) else None


def whole_number(value: Any) -> Optional[int]:
    """Return a whole number that fits into eight bytes, else None."""
    return value if type(value) is int and abs(value) < 2**63 else None


def number(value: Any) -> Optional[float]:
    """Return a finite number, else None."""
    if type(value) not in {int, float} or (type(value) is int and whole_number(value) is None):
        return None
    found = float(value)
    return found if abs(found) != float("inf") and found == found else None  # noqa: PLR0124 -- the NaN test


def text(value: str) -> str:
    """Return a text that every encoding of UTF-8 accepts, cut to a length that a person reads."""
    return value[:_TEXT_LENGTH].encode("utf-8", "replace").decode("utf-8")


def _text(value: Any) -> Optional[str]:
    return text(value) if isinstance(value, str) else None


class _Plain:
    """Copies plain values for JSON; a pickle can nest and share them without end, so the copy is counted."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES

    def of_dict(self, value: Dict[Any, Any], depth: int) -> Dict[str, Any]:
        pairs = [(key, one) for key, one in value.items() if isinstance(key, (str, int))][:_MOST_ENTRIES]
        return {text(key) if isinstance(key, str) else str(key)[:40]: self._of(one, depth) for key, one in pairs}

    def _of(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            return None
        if value is None or type(value) is bool:
            return value
        if isinstance(value, str):
            return text(value)
        if isinstance(value, dict):
            return self.of_dict(value, depth + 1)
        if isinstance(value, (list, tuple)):
            return [self._of(one, depth + 1) for one in value[:_MOST_ENTRIES]]
        return whole_number(value) if type(value) is int else number(value)
