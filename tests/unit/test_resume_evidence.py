"""The words of a resumed YOLOv5, v7 or v9 training: no healthy one is ever called wrong, for that would kill it."""

from __future__ import annotations

import pytest

from supervisor.core.model import Attempt
from supervisor.layout import run_directory
from supervisor.sources.course import Course
from supervisor.sources.start_watch import StartWatch

FROM_EPOCH = 3
HEADER = "\n      Epoch    GPU_mem   box_loss   obj_loss   cls_loss  Instances       Size\n"
BAR = "{}/{}     1.21G   0.0412   0.0321   0.0123        52       640:  {}%|█▏        | {}/8 [00:05<00:00]"


def frame(epoch, last=9):
    """An epoch's progress bar as tqdm draws it: the same line, over and over."""
    return HEADER + "".join(f"\r      {BAR.format(epoch, last, 12 * batch, batch)}" for batch in (1, 2, 8)) + "\n"


class Log:
    """The lines of a healthy resume after three epochs of ten, for variations."""

    def __init__(self, train):
        self.train = str(train)
        self.last = f"{train}/weights/last.pt"
        self.short = f"Resuming training from {self.last}\n"
        self.resuming = f"Resuming training from {self.last} from epoch 3 to 10 total epochs\n"
        self.before = "Image sizes 640 train, 640 val\nUsing 8 dataloader workers\n"
        self.starting = "Starting training for 10 epochs...\n"

    def folder(self, name=None):
        """Where it says that it saves."""
        return f"Logging results to {name or self.train}\n"

    def text(self, *, folder=None, resuming=None, first=None):
        """All of it; `folder` and `resuming` are whole lines instead of the usual ones."""
        parts = (resuming or self.resuming, self.before, folder or self.folder(), self.starting, first or frame(3))
        return "".join(parts)


HEALTHY = {
    "yolov5": lambda log: log.text(),
    "yolov7": lambda log: log.text(resuming=log.short),
    "coloured": lambda log: log.text(
        resuming=f"\x1b[34m\x1b[1m{log.resuming[:-1]}\x1b[0m\n",
        folder=f"Logging results to \x1b[1m{log.train}\x1b[0m\n",
    ),
    "with the prefixes of a formatter": lambda log: (
        "".join(f"2026-11-22 10:00:00 INFO {line}\n" for line in log.text(first="x\n").splitlines()) + frame(3)
    ),
    "over bars": lambda log: f"train: Scanning\r train: Scanning 50%\r{log.resuming}val: 1/2\rval: 2/2\r{log.text()}",
    "a slash behind": lambda log: log.text(folder=log.folder(f"{log.train}/")),
    "quoted": lambda log: log.text(folder=log.folder(f"'{log.train}'")),
    "double quoted": lambda log: log.text(folder=log.folder(f'"{log.train}/"')),
    "with dots": lambda log: log.text(folder=log.folder(f"{log.train}...")),
    "not normalised": lambda log: log.text(folder=log.folder(f"{log.train}/../train//.")),
    "relative": lambda log: log.text(folder=log.folder("runs/train/exp3")),
    "no path": lambda log: log.text(folder=log.folder("PosixPath('/x')")),
    "broken by a formatter": lambda log: log.text(folder=log.folder(f"\n{log.train}")),
    "broken in its middle": lambda log: log.text(folder=log.folder(f"{log.train[:20]}\n{log.train[20:]}")),
    "a place behind": lambda log: log.text(folder=log.folder(f"{log.train}       train.py:233")),
    "gbk": lambda log: log.text().encode("gbk"),
    "utf-16 surrogates": lambda log: log.text().encode("ascii", "backslashreplace"),
    "question marks": lambda log: log.text().encode("ascii", "replace"),
    "twice encoded": lambda log: log.text().encode().decode("latin1"),
    "octal": lambda log: log.text(folder=log.folder(r"/\346\225\260/train")),
    "a logger first": lambda log: f"wandb: Logging results to https://wandb.ai/x\n{log.text()}",
    "a logger's folder first": lambda log: f"ClearML: Logging results to /var/log/clearml\n{log.text()}",
    "a logger's folder between": lambda log: log.text(folder=f"{log.folder()}wandb: Logging results to /tmp/wandb\n"),
    "a logger starts first": lambda log: (
        f"Logging results to /tmp/x\nStarting training for 10 epochs, says the wrapper\n{log.text()}"
    ),
    "wandb between": lambda log: log.text(
        resuming=f"{log.resuming}wandb: Currently logged in as: me\nwandb: Tracking run with wandb version 0.16\n",
        folder=f"{log.folder()}wandb: View run at https://wandb.ai/x\n",
    ),
    "every rank": lambda log: log.resuming * 4 + log.before * 4 + log.folder() * 4 + log.starting * 4 + frame(3) * 4,
    "resumed twice": lambda log: (
        log.text() + log.text(resuming=log.resuming.replace("epoch 3", "epoch 5"), first=frame(5))
    ),
    "another resume's words first": lambda log: (
        f"Resuming training from /x.pt from epoch 1 to 5 total epochs\n{log.text()}"
    ),
    "counted from 1": lambda log: log.text(resuming=log.short, first=frame(4, 10)),
    "words of its own": lambda log: log.text(resuming=f"Continue with {log.last}\n"),
    "silent": lambda log: frame(3),
    "never a bar": lambda log: log.folder() + log.starting + "epoch 4 loss 0.1\n" * 9,
    "a bar of something else": lambda log: f"0/9  2.5G downloaded\n{log.text()}",
}
TELL_TOO_LITTLE = {"silent", "never a bar"}
WRONG = {
    "fresh": (lambda log: log.folder() + log.starting + frame(0), "begins a new training"),
    "another epoch": (
        lambda log: log.text(resuming=log.resuming.replace("epoch 3", "epoch 2"), first=frame(2)),
        "after epoch 2, expected after epoch 3",
    ),
    "v7 from its beginning": (lambda log: log.text(resuming=log.short, first=frame(0)), "after epoch 0, expected"),
    "another folder": (lambda log: log.text(folder=log.folder(f"{log.train}2")), "it saves into"),
    "a folder elsewhere": (lambda log: log.text(folder=log.folder("/elsewhere/train")), "it saves into /elsewhere"),
    "epochs on top": (
        lambda log: log.text(
            resuming=f"{log.resuming}{log.last} has been trained for 3 epochs. Fine-tuning for 10 more epochs.\n"
        ),
        "adds epochs",
    ),
}


@pytest.fixture(params=["plain", "数据 卡车"])
def place(tmp_path, request):
    """A run's directory, with a name that not every encoding knows."""
    directory = run_directory(tmp_path / request.param, "default", "truck")
    directory.attempt(2).root.mkdir(parents=True)
    return directory


def watched(place, data, *, pieces):
    """What a watch tells that polls after each piece of a log."""
    data = data.encode() if isinstance(data, str) else data
    files, course = place.attempt(2), Course()
    attempt = Attempt(number=2, token=1, start="resume", from_epoch=FROM_EPOCH, checkpoint="/last.pt")
    watch = StartWatch(place, attempt, files, course)
    size = -(-len(data) // pieces)
    for start in range(0, len(data), size):
        with files.log.open("ab") as file:
            file.write(data[start : start + size])
        watch.poll()
    return course


@pytest.mark.parametrize("pieces", [1, 3, 40])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_resume_is_never_called_wrong(place, name, pieces):
    """Whatever others print, however the folder is written, in whatever pieces the log comes."""
    course = watched(place, HEALTHY[name](Log(place.train)), pieces=pieces)
    assert course.wrong_start == ""
    assert course.start is None if name in TELL_TOO_LITTLE else course.start[0] == FROM_EPOCH


@pytest.mark.parametrize("pieces", [1, 40])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_start_is_told_at_its_first_bar(place, name, pieces):
    """And not before: until then a line may follow that explains the others."""
    make, reason = WRONG[name]
    text = make(Log(place.train))
    assert reason in watched(place, text, pieces=pieces).wrong_start
    place.attempt(2).log.unlink()
    course = watched(place, text.partition(HEADER)[0] + "\n", pieces=pieces)
    assert course.wrong_start == ""
