"""Draw loss and mAP of a results.csv, with restarts marked: draw_curve.py RESULTS.csv OUT.png '[[epoch, "label"], …]'."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """Read, draw, save."""
    table, picture, marks = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    rows = list(csv.DictReader(table.open(), skipinitialspace=True))
    epochs = [int(float(row["epoch"])) for row in rows]
    figure, loss_axis = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for name in ("train/box_loss", "train/cls_loss", "val/box_loss"):
        loss_axis.plot(epochs, [float(row[name]) for row in rows], marker=".", label=name)
    loss_axis.set(xlabel="epoch", ylabel="loss")
    metric_axis = loss_axis.twinx()
    metric_axis.plot(epochs, [float(row["metrics/mAP50-95(B)"]) for row in rows], "k--", label="mAP50-95")
    metric_axis.set_ylabel("mAP50-95")
    for epoch, label in marks:
        loss_axis.axvline(epoch + 0.5, color="crimson", linestyle=":")
        loss_axis.annotate(label, (epoch + 0.55, 0.97), xycoords=("data", "axes fraction"), color="crimson", va="top")
    lines = [*loss_axis.get_lines(), *metric_axis.get_lines()]
    shown = [line for line in lines if not line.get_label().startswith("_")]
    loss_axis.legend(shown, [line.get_label() for line in shown], loc="center right")
    loss_axis.set_title("One training, killed and resumed")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
