"""What a training's own log says about where it starts, for the families that our hook does not watch.

YOLOv5 (since 6.2) and v9 say "Resuming training from PATH from epoch N to M total epochs", where N counts the complete
epochs; YOLOv7 and older YOLOv5 only "Resuming training from PATH", long before the model is built. All of them say
"Logging results to FOLDER" and "Starting training for M epochs" right before the first batch, whose progress bar counts
the complete epochs before it: "3/99" after three.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_RESUMING = re.compile(r"Resuming training from (?P<path>.+?)(?: from epoch (?P<epoch>\d{1,9}) to \d+ total epochs)?$")
_FOLDER = re.compile(r"Logging results to (?P<folder>.+)$")
_STARTING = re.compile(r"Starting training for \d+ epochs")
_MORE = re.compile(r"has been trained for \d+ epochs\. Fine-tuning for \d+")
_FRAME = re.compile(r"^\s*(?P<epoch>\d{1,9})/\d{1,9}\s+[\d.]+G\s")
_LINE_MAX_CHARACTERS = 8192  # a path of Linux is at most 4096 bytes


class StartEvidence(NamedTuple):
    """Where a training starts by its own words. What the log has not said (yet) is None or empty.

    `epoch` counts complete epochs; `fresh` is True once it starts without having spoken of a resume; `tuning` once it
    has announced epochs on top of those in the checkpoint.
    """

    epoch: int | None = None
    folder: str | None = None
    fresh: bool = False
    checkpoint: str = ""
    tuning: bool = False

    @property
    def complete(self) -> bool:
        """True when the log has said all that it will say."""
        return self.folder is not None and self.epoch is not None


def resume_evidence(lines: Iterable[str], known: StartEvidence | None = None) -> StartEvidence:
    """Add what these cleaned lines say, from the log's beginning on, to what is known from the lines before."""
    found = known or StartEvidence()
    for line in lines:
        if len(line) <= _LINE_MAX_CHARACTERS and not found.complete:
            found = _add(found, line.rstrip())
    return found


def contradiction(found: StartEvidence, *, from_epoch: int, checkpoint: str, folders: Iterable[str]) -> str:
    """Return what in the evidence is not the resume that was ordered, in one line, or an empty text.

    `folders` are the right folder's names: as it was ordered, and with links resolved.
    """
    if found.fresh:
        return f"it begins a new training instead of resuming {checkpoint}"
    if found.tuning:
        return f"{checkpoint} is complete, and it adds epochs to it"
    if found.epoch is not None and found.epoch != from_epoch:
        return f"it goes on after epoch {found.epoch}, expected after epoch {from_epoch}"
    return wrong_folder(found, folders)


def wrong_folder(found: StartEvidence, folders: Iterable[str]) -> str:
    """Return that the training saves elsewhere, in one line, or an empty text."""
    if found.folder is None or found.folder in set(folders):
        return ""
    return f"it saves into {found.folder}, expected {next(iter(folders))}"


def _add(found: StartEvidence, line: str) -> StartEvidence:
    if match := _RESUMING.search(line):
        epoch = int(match["epoch"]) if match["epoch"] else found.epoch
        return found._replace(checkpoint=match["path"], epoch=epoch)
    if match := _FOLDER.search(line):
        return found._replace(folder=match["folder"].strip(), fresh=not found.checkpoint)
    if _MORE.search(line):
        return found._replace(tuning=bool(found.checkpoint))
    if _STARTING.search(line):
        return found._replace(fresh=not found.checkpoint)
    if found.folder is not None and (match := _FRAME.match(line)):
        return found._replace(epoch=int(match["epoch"]))
    return found
