"""Checkpoints that nobody can ever read torn.

Ultralytics (8.2 to 8.4.190) writes last.pt, best.pt and epochN.pt in place with `Path.write_bytes`, and its final
`strip_optimizer` saves onto the same file. `arm` gives one trainer paths whose `write_bytes` replaces the file in
one step, and lets the final stripping do the same; no method of the trainer is touched.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
from typing import Any, Callable

from . import whole_files

_PlainPath: Any = type(pathlib.Path())


class WholePath(_PlainPath):  # type: ignore[misc]
    """A path whose `write_bytes` is all or nothing; what is joined to it with `/` is one too."""

    def write_bytes(self, data: Any) -> int:
        """Replace the file's content in one step; raises OSError, and then the old content is still whole."""
        if not os.access(os.path.dirname(os.path.realpath(str(self))), os.W_OK):
            return _in_place(self, data)
        whole_files.write(str(self), data)
        return len(data)

    def __reduce__(self) -> Any:
        """Be pickled as a plain path: a model that remembers its file must load where nothing of ours is."""
        return _PlainPath(str(self)).__reduce__()


def _in_place(path: WholePath, data: Any) -> int:
    """Write as the library would, where the folder takes no second file; said each time."""
    print(f"yolo-supervisor: {path} is written in place: no new file may be made there", file=sys.stderr, flush=True)
    return int(_PlainPath.write_bytes(path, data))


def arm(trainer: Any) -> None:
    """Let this trainer save and strip its checkpoints in one step each, and clean up after a killed save.

    Raises AttributeError or TypeError if the trainer is built otherwise than any version that we know; then it is
    left as it was.
    """
    paths = {name: WholePath(str(getattr(trainer, name))) for name in ("wdir", "last", "best")}
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
    """Return Ultralytics' `strip_optimizer`, writing its result in one step."""

    @functools.wraps(strip)
    def strip_whole(f: Any = "best.pt", s: Any = "", *arguments: Any, **keywords: Any) -> Any:
        with whole_files.replacing(str(s or f)) as temporary:
            return strip(f, temporary, *arguments, **keywords)

    strip_whole.strips_whole = True  # type: ignore[attr-defined]
    return strip_whole
