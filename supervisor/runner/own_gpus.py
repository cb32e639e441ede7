"""Keep this process, and what it starts, on the GPUs that the supervisor gave to its attempt.

CUDA reads CUDA_VISIBLE_DEVICES once, at its first use, and sees no other GPUs than those. Much writes it over shortly
before: Ultralytics up to 8.4.86, YOLOv5, YOLOv7 and YOLOv9 put their `device` argument there, many a script has a line
with "0" at its top. That "0" means the first GPU of the machine then, whoever trains on it. So the variable is guarded:
what a program writes into it are places among its own GPUs, as they are for everything that does not write it over.

The processes that a program starts inherit the true value, and guard it themselves where the hook is loaded.
"""

from __future__ import annotations

import functools
import itertools
import os
from types import ModuleType
from typing import Any, ClassVar, List, Sequence, Tuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
#: Our own variable: all GPUs of the attempt, by UUID, or by index in PCI order where nobody watches GPUs.
LEASE = "YOLO_SUPERVISOR_GPUS"
_SHORTEST_ID = len("GPU-") + 4
_NOTHING = ("nodevfiles", "none")  # beside negative numbers: what is written to hide all GPUs

_Environment: Any = type(os.environ)


class HeldEnvironment(_Environment):  # type: ignore[misc]
    """An `os.environ` whose CUDA_VISIBLE_DEVICES never leaves `own`, the GPUs that this process began with."""

    own: ClassVar[Tuple[str, ...]] = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a variable; of CUDA_VISIBLE_DEVICES what `translated` makes of the value."""
        if key == VISIBLE and isinstance(value, str):
            value = translated(value, self.own, self.get(VISIBLE))
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        """Remove a variable. CUDA and what is started from here still find CUDA_VISIBLE_DEVICES."""
        super().__delitem__(key)
        if key == VISIBLE:  # gone for the program, not for CUDA, which would take all GPUs of the machine
            os.putenv(VISIBLE, ",".join(self.own))


def hold() -> None:
    """Guard the variable in this process from now on. Without a lease in the environment nothing is done."""
    if LEASE not in os.environ or isinstance(os.environ, HeldEnvironment):
        return
    lease = tuple(_parts(os.environ[LEASE]))
    begun_with = os.environ.get(VISIBLE, ",".join(lease))
    visible = begun_with if _hides_all(begun_with) else _chosen(begun_with, lease, _by_id, _by_place)
    os.environ[VISIBLE] = visible
    HeldEnvironment.own = lease if _hides_all(visible) else tuple(_parts(visible))
    os.environ.__class__ = HeldEnvironment


def translated(wanted: str, own: Sequence[str], now: str | None = None) -> str:
    """Return what the variable shall hold where a program writes `wanted` and it holds `now`.

    Numbers are places among `own`. What names others than those gets as many of its own, from the first on: a program
    that names a GPU of the machine shall train, but on its own. Hiding all GPUs stays as it is ("-1", "NoDevFiles").
    """
    if wanted == now or _hides_all(wanted):
        return wanted
    return _chosen(wanted, own, _by_place, _by_id)


def tell_places(module: ModuleType) -> None:
    """Let trainers of `ultralytics.engine.trainer` keep places in `args.device`, not what the variable holds.

    Ultralytics 8.3 to 8.4.86 reads the variable back into `args.device`, from where it goes to the ranks, into
    args.yaml and into checkpoints: an id means nothing to other machines, and "-1" within one means "any idle GPU".
    The first that is done with the arguments afterwards is to ask for the folder.
    """
    get_save_dir = getattr(module, "get_save_dir", None)
    if get_save_dir is None:
        return

    @functools.wraps(get_save_dir)
    def get_save_dir_of_places(args: Any, *given: Any, **keywords: Any) -> Any:
        if isinstance(os.environ, HeldEnvironment):
            args.device = _as_places(getattr(args, "device", None), os.environ.own)
        return get_save_dir(args, *given, **keywords)

    module.get_save_dir = get_save_dir_of_places  # type: ignore[attr-defined]


def _as_places(device: Any, own: Sequence[str]) -> Any:
    if not isinstance(device, str) or _hides_all(device) or device != os.environ.get(VISIBLE):
        return device
    places = _by_id(_parts(device), own)
    return device if places is None else ",".join(map(str, places))


def _chosen(wanted: str, own: Sequence[str], *ways: Any) -> str:
    parts = _parts(wanted)
    found = next((places for way in ways for places in [way(parts, own)] if places is not None), None)
    places = range(min(len(parts), len(own))) if found is None else found
    return ",".join(dict.fromkeys(own[place] for place in places))


def _by_place(parts: Sequence[str], own: Sequence[str]) -> List[int] | None:
    """Return the places that are named; None if not all of them are places."""
    if all(part.isdigit() and int(part) < len(own) for part in parts):
        return [int(part) for part in parts]
    return None


def _by_id(parts: Sequence[str], own: Sequence[str]) -> List[int] | None:
    """Return the places of what is named by id, whole or shortened, in whatever case; None if not all are ids."""
    found = [_place(part.lower(), own) for part in parts]
    return None if None in found else [place for place in found if place is not None]


def _place(part: str, own: Sequence[str]) -> int | None:
    folded = [one.lower() for one in own]
    if part in folded:
        return folded.index(part)
    long_enough = part.startswith("gpu-") and len(part) >= _SHORTEST_ID
    return next((place for place, one in enumerate(folded) if long_enough and one.startswith(part)), None)


def _hides_all(value: str) -> bool:
    return not _parts(value)


def _parts(value: str) -> List[str]:
    """Return what is named, up to the first that names none: CUDA takes no more from there on."""
    parts = [part.strip() for part in value.split(",") if part.strip()]
    return list(itertools.takewhile(lambda part: not part.startswith("-") and part.lower() not in _NOTHING, parts))
