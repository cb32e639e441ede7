"""Checkpoints that nobody can ever read torn.

Ultralytics (8.2 to 8.4.190) writes last.pt, best.pt and epochN.pt in place with `Path.write_bytes`, and its final
`strip_optimizer` saves onto the same file. `arm` gives one trainer paths whose `write_bytes` replaces the file in
one step, and lets the final stripping do the same; no method of the trainer is touched.

None of this ends a training that would have gone on without it. Where the file system refuses, the file is written
in place (whole_files.py). Where a second copy does not fit on the disk, too, if the file fits without it and another
whole checkpoint of the run is there: the only one is never put at risk, then the trainer gets the error of the disk.
"""

from __future__ import annotations

import errno
import functools
import os
import pathlib
from typing import Any, Callable, ClassVar, Iterator

from . import checkpoint, whole_files

_PlainPath: Any = type(pathlib.Path())
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_WHOLE = frozenset({"resumable", "done_not_stripped", "finished"})


class WholePath(_PlainPath):  # type: ignore[misc]
    """A path whose `write_bytes` is all or nothing; what is joined to it with `/` is one too."""

    #: Of the one training of this process, set by `arm`: tells a person something; folders with copies.
    say: ClassVar[Callable[[str], None]] = staticmethod(whole_files.say_on_stderr)
    copies: ClassVar[tuple[str, ...]] = ()

    def write_bytes(self, data: Any) -> int:
        """Replace the file's content in one step; raises OSError, and then the old content is still whole."""
        try:
            whole_files.write(str(self), data, WholePath.say)
        except OSError as error:
            if error.errno not in _FULL or not _may_overwrite(str(self), len(data)):
                raise
            WholePath.say(whole_files.in_place(str(self), error))
            return int(_PlainPath.write_bytes(self, data))
        return len(data)

    def __reduce__(self) -> Any:
        """Be pickled as a plain path: a model that remembers its file must load where nothing of ours is."""
        return _PlainPath(str(self)).__reduce__()


def _may_overwrite(path: str, needed_bytes: int) -> bool:
    """Return whether a content fits in the place of the old one, and this is not the run's only whole checkpoint."""
    try:
        old_bytes, room = os.stat(path).st_blocks * 512, os.statvfs(path)
    except OSError:  # above all: no old one that would make room
        return False
    fits = needed_bytes <= old_bytes + room.f_bavail * room.f_frsize
    return fits and any(checkpoint.inspect(other)["state"] in _WHOLE for other in _others(path))


def _others(path: str) -> Iterator[str]:
    path = os.path.realpath(path)
    for folder in (os.path.dirname(path), *WholePath.copies):
        for other in sorted(pathlib.Path(folder).glob("*.pt")):
            if os.path.realpath(other) != path:
                yield str(other)


def arm(trainer: Any, say: Callable[[str], None] = whole_files.say_on_stderr, copies: tuple[str, ...] = ()) -> None:
    """Let this trainer save and strip its checkpoints in one step each, and clean up after a killed save.

    `say` is told, possibly at each save, when a file has to be written in place. `copies` are the folders that may
    hold other checkpoints of the run, beside the trainer's own. Raises AttributeError or TypeError if the trainer
    is built otherwise than any version that we know; then it is left as it was.
    """
    paths = {name: WholePath(str(getattr(trainer, name))) for name in ("wdir", "last", "best")}
    WholePath.say, WholePath.copies = staticmethod(say), copies
    whole_files.remove_leftovers(str(paths["wdir"]))
    for kind in type(trainer).__mro__:
        if "final_eval" in vars(kind):
            _strip_whole_in(getattr(vars(kind)["final_eval"], "__globals__", {}))
    for name, path in paths.items():
        setattr(trainer, name, path)


def _strip_whole_in(names: dict[str, Any]) -> None:
    """Wrap `strip_optimizer` among the global names of the method that ends a training."""
    strip = names.get("strip_optimizer")
    if strip is not None and not hasattr(strip, "strips_whole"):
        names["strip_optimizer"] = stripping_whole(strip)


def stripping_whole(strip: Callable[..., Any]) -> Callable[..., Any]:
    """Return Ultralytics' `strip_optimizer`, writing its result in one step where that can be done."""

    @functools.wraps(strip)
    def strip_whole(f: Any = "best.pt", s: Any = "", *arguments: Any, **keywords: Any) -> Any:
        target = str(s or f)
        try:
            with whole_files.replacing(target, WholePath.say) as temporary:
                return strip(f, temporary, *arguments, **keywords)
        except (OSError, RuntimeError) as error:  # torch tells of a full disk without its number
            smaller_bytes = 0  # than what it replaces: it fits
            if whole_files.takes_new_file(target) and not _may_overwrite(target, smaller_bytes):
                raise
            WholePath.say(whole_files.in_place(target, error))
        return strip(f, s, *arguments, **keywords)

    strip_whole.strips_whole = True  # type: ignore[attr-defined]
    return strip_whole
