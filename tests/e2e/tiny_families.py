"""Tiny trainings of the real YOLOv5, v7 and v9 scripts: a model of a few layers, a few pictures, on the CPU."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from daemon_harness import TESTS, Site
from family_runs import PYTHON, drop

EPOCHS = 8
LAYERS = "[[-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [32, 3, 2]], [-1, 1, Conv, [32, 3, 2]], [-1, 1, Conv, [32, 3, 2]]]"
ANCHORS = "[[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]]"


@dataclass(frozen=True)
class Family:
    """How a tiny training of one family is begun."""

    name: str
    script: str
    sizes: tuple[str, ...]
    hyp: str
    head: str
    anchors: str = "3"
    rows_from_csv: bool = True

    def model(self) -> str:
        """The smallest model that this family trains."""
        top = f"nc: 2\ndepth_multiple: 1.0\nwidth_multiple: 1.0\nanchors: {self.anchors}\n"
        return f"{top}backbone:\n  {LAYERS}\nhead:\n  {self.head}\n"


V5 = Family(
    "yolov5", "train.py", ("64",), "data/hyps/hyp.scratch-low.yaml", "[[[2, 3], 1, Detect, [nc, anchors]]]", ANCHORS
)
V7 = Family(
    "yolov7", "train.py", ("64", "64"), "data/hyp.scratch.p5.yaml", "[[[2, 3], 1, Detect, [nc, anchors]]]", ANCHORS,
    rows_from_csv=False,
)  # fmt: skip
V9 = Family(
    "yolov9", "train_dual.py", ("64",), "data/hyps/hyp.scratch-high.yaml", "[[[2, 3, 2, 3], 1, DualDDetect, [nc]]]"
)


def data_of(server: Site) -> Path:
    """A data set whose description all three families read."""
    folder = server.root / "data"
    made = [PYTHON, TESTS / "training_data.py", folder, "--train", "64", "--val", "16"]
    subprocess.run(made, check=True, capture_output=True)
    lines = [f"{split}: {folder}/images/{split}" for split in ("train", "val")]
    (folder / "data.yaml").write_text("\n".join([*lines, "nc: 2", "names: [red, blue]", ""]))
    return folder / "data.yaml"


def font(server: Site) -> Path:
    """A folder with the font that YOLOv5 and v9 fetch otherwise."""
    folder = server.root / "fonts"
    folder.mkdir()
    ask = "import matplotlib; print(matplotlib.get_data_path())"
    found = subprocess.run([PYTHON, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(Path(found) / "fonts" / "ttf" / "DejaVuSans.ttf", folder / "Arial.ttf")
    return folder


def begin(server: Site, family: Family, folder: Path, *, epochs: int = EPOCHS) -> None:
    """Drop a job "boxes" that runs the family's script in `folder`."""
    model = server.root / "tiny.yaml"
    model.write_text(family.model())
    words = [family.script, "--img", *family.sizes, "--epochs", epochs, "--batch-size", 8, "--workers", 0]
    words += ["--cfg", model, "--weights", "", "--hyp", folder / family.hyp, "--data", data_of(server)]
    environment = {"YOLOV5_CONFIG_DIR": str(font(server)), "GIT_TERMINAL_PROMPT": "0"}
    drop(server, "boxes", family.name, folder, *words, env=environment)


def epochs_trained(server: Site, family: Family) -> list[int]:
    """The epochs of the family's own table, in its order."""
    if family.rows_from_csv:
        return server.epochs_in_table("boxes")
    rows = (server.run_dir("boxes") / "train" / "results.txt").read_text().splitlines()
    return [int(row.partition("/")[0]) for row in rows]
