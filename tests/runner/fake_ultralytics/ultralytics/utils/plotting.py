"""The course of a training as a picture."""

import os
from pathlib import Path


def plot_results(file):
    """Leave a picture beside the results."""
    if os.environ.get("FAKE_PLOT_RAISE"):
        raise ModuleNotFoundError("No module named 'scipy'")
    Path(file).with_name("results.png").touch()
