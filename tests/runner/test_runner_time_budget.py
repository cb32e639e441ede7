"""A `time` budget goes on in the next process: what is left of it, and as many epochs as fit into all of it."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from runner_lab import read_beats

from supervisor.runner import hook, time_budget
from supervisor.runner.session import Session

BUDGET_S = 3600.0
PLAN = {"save_dir": "", "resume": "/r/weights/last.pt", "expected_epoch": 33}


def row_s(epoch):
    """Return the clock at the end of an epoch (0-based) that took a minute, as all before."""
    return 60.0 * (epoch + 1)


@pytest.fixture
def trainer(tmp_path):
    """Give a trainer at its start, with the clock just begun, that resumes after 34 epochs of a minute each."""
    rows = "".join(f"{epoch + 1},{row_s(epoch)},0.5\n" for epoch in range(34))
    (tmp_path / "results.csv").write_text("epoch,time,loss\n" + rows)
    arguments = SimpleNamespace(time=BUDGET_S / 3600, model="/r/weights/last.pt", val=True)
    return SimpleNamespace(
        args=arguments, save_dir=tmp_path, start_epoch=34, epochs=60, train_time_start=10_000.0, resume=True
    )


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """Give a function that makes the hook follow a training with this plan, as this rank."""

    def follow(plan, rank=-1):
        monkeypatch.setenv("RANK", str(rank))
        attempt = tmp_path / "attempts" / "1"
        attempt.mkdir(parents=True, exist_ok=True)
        (attempt / "launch.json").write_text(json.dumps({"train": plan}))
        monkeypatch.setattr(hook, "_session", Session(str(attempt), controlled=True))
        return attempt / "beats.jsonl"

    return follow


def train(trainer, epoch_s):
    """Train to the end as the library does, with its callbacks and its arithmetic; return epochs and seconds."""
    now_s, epoch, stop = trainer.train_time_start, trainer.start_epoch, False
    hook.on_train_start(trainer)
    while not stop:
        now_s += epoch_s
        hook.on_train_epoch_end(trainer)
        used_s = now_s - trainer.train_time_start
        stop = epoch + 1 >= trainer.epochs or used_s > BUDGET_S
        trainer.epochs = math.ceil(BUDGET_S / (used_s / (epoch - trainer.start_epoch + 1)))
        stop = stop or epoch >= trainer.epochs
        epoch += 1
    return epoch, used_s


@pytest.mark.parametrize("rank", [-1, 0, 1])
def test_a_resumed_training_uses_what_is_left_of_its_budget(trainer, followed, rank):
    """The same number of epochs in the same time as without the kill, by the clock of every rank."""
    beats = followed(PLAN, rank)
    assert train(trainer, 60.0) == (60, BUDGET_S)
    notes = [beat["text"] for beat in read_beats(beats) if beat["kind"] == "note"]
    assert notes == ([] if rank > 0 else ["0.567 of 1.0 hours were used before this start"])


@pytest.mark.parametrize("epoch_s", [15.0, 300.0])
def test_another_speed_ends_with_the_budget_too(trainer, followed, epoch_s):
    """On a slower device the estimate never falls below what is trained; on a faster one there are more epochs."""
    followed(PLAN)
    epochs, used_s = train(trainer, epoch_s)
    assert BUDGET_S - epoch_s <= used_s <= BUDGET_S + epoch_s
    assert epochs == pytest.approx(34 + (BUDGET_S - row_s(33)) / epoch_s, abs=1)


def test_a_budget_that_is_used_up_ends_at_once(trainer, followed):
    """One epoch more at the most: the trainer itself stops in it, strips and validates."""
    followed(PLAN)
    trainer.args.time, trainer.epochs = 0.5, 100
    hook.on_train_start(trainer)
    assert 10_000.0 - trainer.train_time_start > trainer.args.time * 3600


@pytest.mark.parametrize("change", ["fresh", "other", "no budget", "no plan", "no rows"])
def test_only_the_planned_resume_of_a_budget_is_touched(trainer, followed, change):
    """Anything else keeps its own clock and its own first epoch."""
    followed({} if change == "no plan" else {**PLAN, "mode": "hook", "expected_epoch": None})
    if change == "fresh":
        trainer.start_epoch, hook._session.elsewhere = 0, True
    if change == "other":
        trainer.args.model = "/other/weights/last.pt"
    if change == "no budget":
        trainer.args.time = None
    if change == "no rows":
        (trainer.save_dir / "results.csv").unlink()
    first = trainer.start_epoch
    hook.on_train_start(trainer)
    hook.on_train_epoch_end(trainer)
    assert (trainer.train_time_start, trainer.start_epoch) == (10_000.0, first)


def test_the_first_epoch_knows_where_it_began(trainer, followed):
    """The trainer begins at `start_epoch` after its first callback; a smaller batch is tried in that epoch only."""
    followed(PLAN)
    hook.on_train_start(trainer)
    hook.on_train_epoch_start(trainer)
    assert trainer.start_epoch == 34
    hook.on_train_epoch_end(trainer)
    assert trainer.start_epoch == 0


def test_the_time_of_every_process_is_counted(tmp_path):
    """Where a clock started anew (a run of before, another tool) the rows of results.csv tell the processes apart."""
    path = tmp_path / "results.csv"
    path.write_text("epoch, time, loss\n1,600,1\n2,1200,1\n2,700,1\n3,1300,1\n3,100,1\n4,")
    assert time_budget.used_time_s(str(path)) == 1200 + 1300 + 100
    path.write_text("epoch,time\n1,600\n2,1200\n3,1900\n")
    assert time_budget.used_time_s(str(path)) == 1900
    assert time_budget.used_time_s(str(tmp_path / "none")) == 0
