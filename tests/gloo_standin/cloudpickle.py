"""Stands for the package that Ultralytics pickles a trainer with for its ranks: plain pickle, for what has a name."""

from __future__ import annotations

from pickle import *  # noqa: F403
