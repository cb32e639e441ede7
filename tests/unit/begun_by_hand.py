"""The folder of a training that a person began and that died."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from toy_trainer import Checkpoint

ARGS = "mode: train\nmodel: {model}\ndata: {data}\nepochs: 8\nproject: null\nname: train7\ndevice: '0,1'\npatience: 7\n"


def begin(base: Path) -> Path:
    """Make it: 3 of 8 epochs are saved, a fourth row is written, and the data set is named relatively."""
    made = base / "项目 project" / "runs" / "detect" / "train7"
    (made / "weights").mkdir(parents=True)
    for name in ("tiny.yaml", "data.yaml"):
        (made.parents[2] / name).touch()
    (made / "args.yaml").write_text(ARGS.format(model="tiny.yaml", data="./data.yaml"))
    (made / "results.csv").write_text("epoch,time\n1,1\n2,2\n3,3\n4,4\n")
    Checkpoint(made / "weights", 8).save(2, 0.5, torn=False)
    return made
