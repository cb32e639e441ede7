"""The `time` budget of an Ultralytics training that goes on in another process.

The trainer (8.2 to 8.4.190) stops when its clock has run for `time` hours, and after each epoch it estimates the
number of all epochs: `time` by the mean duration of the epochs since `start_epoch`. Clock and mean start anew in
every process, the epochs count on. So a resumed trainer gets the whole `time`, its clock is set back by what was
used before, and the mean counts the epochs that it was used for: all is as if the training had never ended.
A smaller `time` would be taken for the whole training's and end it early.
"""

from __future__ import annotations

import csv
import os
from typing import Any


def go_on(plan: dict[str, Any], trainer: Any) -> float:
    """Set the trainer's clock back by the hours that were used before this process; return them.

    For `on_train_start`, where the clock was just started. 0, and nothing done, without a budget, in a training that
    does not resume the plan's checkpoint, and where no used time is known.
    """
    resume = plan.get("resume")
    if not resume or not getattr(trainer.args, "time", None) or trainer.start_epoch <= 0:
        return 0.0
    if os.path.realpath(str(trainer.args.model)) != os.path.realpath(resume):
        return 0.0
    used_s = used_time_s(os.path.join(str(trainer.save_dir), "results.csv"))
    trainer.train_time_start -= used_s
    return used_s / 3600


def count_all_epochs(trainer: Any) -> None:
    """Let the trainer's mean count the epochs of before, whose time is on its clock.

    For `on_train_epoch_end`, right before the estimate: until its first epoch is over the trainer needs the true
    `start_epoch`, to begin there and to try a smaller batch when memory is short.
    """
    trainer.start_epoch = 0


def used_time_s(results_file: str) -> float:
    """Return the training time in a results.csv; its `time` column starts anew where nobody set the clock back."""
    try:
        with open(results_file, encoding="utf-8", newline="") as file:
            rows = [{(name or "").strip(): value for name, value in row.items()} for row in csv.DictReader(file)]
    except OSError:
        return 0.0
    total = previous = 0.0
    for row in rows:
        try:
            at = float(row.get("time") or 0.0)
        except ValueError:
            continue  # a row that was cut by a kill
        if at < previous:
            total += previous
        previous = at
    return total + previous
