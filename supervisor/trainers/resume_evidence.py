"""What a training's own log says about where it starts, for the families that our hook does not watch.

YOLOv5 (since 6.2) and v9 say "Resuming training from PATH from epoch N to M total epochs", where N counts the complete
epochs; YOLOv7 and older YOLOv5 only "Resuming training from PATH", long before the model is built. All of them say
"Logging results to FOLDER" and "Starting training for M epochs" right before the first batch, whose progress bar counts
the complete epochs before it: "3/99" after three.

A training that is called wrong is killed, so nothing is wrong that could be right: loggers print lines of the same
words, the terminal's encoding may not know the folder's name, a formatter may quote it or break the line. Nothing is
wrong before the first progress bar either; no checkpoint is written before that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

_RESUMING = re.compile(r"Resuming training from (?P<path>.+?)(?: from epoch (?P<epoch>\d{1,9}) to \d+ total epochs)?$")
_FOLDER = re.compile(r"Logging results to ['\"`]?(?P<folder>/.*)$")
_STARTING = re.compile(r"Starting training for (?P<epochs>\d{1,9}) epochs")
_MORE = re.compile(r"has been trained for \d+ epochs\. Fine-tuning for \d+")
_FRAME = re.compile(r"^\s*(?P<epoch>\d{1,9})/(?P<last>\d{1,9})\s+[\d.]+G\s")
_AROUND_A_FOLDER = "'\"`/. "
_MOST_FOLDERS = 100
_LINE_MAX_CHARACTERS = 8192  # a path of Linux is at most 4096 bytes


class StartEvidence(NamedTuple):
    """Where a training starts by its own words. What the log has not said (yet) is None or empty.

    `epoch` counts complete epochs, `frame` does so by the first progress bar; `epochs` is what it announced right
    before that; `folders` are all that were named, by whomever; `tuning` is True once it has announced epochs on top of
    those in the checkpoint.
    """

    checkpoint: str = ""
    epoch: int | None = None
    epochs: int | None = None
    folders: tuple[str, ...] = ()
    tuning: bool = False
    frame: int | None = None

    @property
    def complete(self) -> bool:
        """True when it trains: the log has said all that it will say."""
        return self.frame is not None


def resume_evidence(lines: Iterable[str], known: StartEvidence | None = None) -> StartEvidence:
    """Add what these cleaned lines say, from the log's beginning on, to what is known from the lines before."""
    found = known or StartEvidence()
    for line in lines:
        if len(line) <= _LINE_MAX_CHARACTERS and not found.complete:
            found = _add(found, line.rstrip())
    return found


def contradiction(found: StartEvidence, *, from_epoch: int, checkpoint: str, folder: str) -> str:
    """Return what in the evidence is surely not the resume that was ordered, in one line, or an empty text."""
    if not found.complete:
        return ""
    if not found.checkpoint and found.frame != from_epoch:
        return f"it begins a new training instead of resuming {checkpoint}"
    if found.tuning:
        return f"{checkpoint} is complete, and it adds epochs to it"
    if not _starts_after(found, from_epoch):
        return f"it goes on after epoch {found.frame}, expected after epoch {from_epoch}"
    return wrong_folder(found, folder)


def wrong_folder(found: StartEvidence, folder: str) -> str:
    """Return that the training surely saves elsewhere, in one line, or an empty text."""
    if not found.complete or not found.folders or any(_may_be(one, folder) for one in found.folders):
        return ""
    return f"it saves into {found.folders[-1]}, expected {folder}"


def confirmed_folder(found: StartEvidence, folder: str, *, from_epoch: int | None = None) -> str:
    """Return the right folder as the training named it, if it goes on after that epoch too; else an empty text."""
    if from_epoch is not None and (found.tuning or not _starts_after(found, from_epoch)):
        return ""
    return next((one for one in found.folders if _is_same(one, folder)), "")


def _starts_after(found: StartEvidence, epoch: int) -> bool:
    return epoch in {found.epoch, found.frame}


def _is_same(said: str, folder: str) -> bool:
    """True for other names of the same folder, and where a formatter put something behind it."""
    return os.path.realpath(said) == os.path.realpath(folder) or said.startswith(f"{folder} ")


def _may_be(said: str, folder: str) -> bool:
    """True unless it is surely another folder: cut by a formatter, or changed by an encoding, it is not."""
    foreign = {one for one in said if one in "\\?" or not one.isascii()} - set(folder)
    return bool(foreign) or folder.startswith(said) or _is_same(said, folder)


def _add(found: StartEvidence, line: str) -> StartEvidence:
    if match := _RESUMING.search(line):
        epoch = int(match["epoch"]) if match["epoch"] else found.epoch
        return found._replace(checkpoint=match["path"], epoch=epoch)
    if match := _FOLDER.search(line):
        folder = match["folder"].rstrip(_AROUND_A_FOLDER)
        others = [one for one in found.folders if one != folder]
        return found._replace(folders=(*others, folder)[-_MOST_FOLDERS:])
    if _MORE.search(line):
        return found._replace(tuning=bool(found.checkpoint))
    if match := _STARTING.search(line):
        return found._replace(epochs=int(match["epochs"]))
    if found.epochs is not None and (match := _FRAME.match(line)):
        counts_from_1 = int(match["last"]) == found.epochs
        return found._replace(frame=int(match["epoch"]) - counts_from_1)
    return found
