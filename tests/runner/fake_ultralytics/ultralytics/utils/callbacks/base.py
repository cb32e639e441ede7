"""The table of default callbacks, copied deeply for every trainer as in the library."""

from collections import defaultdict
from copy import deepcopy

EVENTS = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_val_start",
    "on_val_batch_start",
    "on_val_batch_end",
    "on_val_end",
    "on_model_save",
    "on_fit_epoch_end",
    "on_train_end",
    "teardown",
)
default_callbacks = {event: [lambda _source: None] for event in EVENTS}


def get_default_callbacks():
    """Return a copy for one trainer."""
    return defaultdict(list, deepcopy(default_callbacks))
