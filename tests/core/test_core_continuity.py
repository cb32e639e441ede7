"""Whether a resumed training goes on where it had ended: what is reported, and what is not."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core.continuity import judge, planned_changes
from supervisor.core.curve import Point
from supervisor.core.job import Stage
from supervisor.core.model import Job

MAP = "metrics/mAP50-95(B)"
EPOCHS = 100


def rate(epoch, epochs=EPOCHS, *, first=0.01, cosine=False, warm=3):
    """The learning rate at the end of an epoch: a ramp, then a line or a cosine, as Ultralytics has them."""
    done = (epoch - 1) / epochs
    share = 0.01 + 0.99 * ((1 + math.cos(math.pi * done)) / 2 if cosine else 1 - done)
    return first * share * min(1.0, epoch / warm)


def training(epochs, *, noise=0.0, seed=0, fall=0.15, of=EPOCHS, **schedule):
    """The points of an uninterrupted training: losses fall, mAP rises, both with noise."""
    chance = random.Random(seed)
    return [
        Point(
            epoch=epoch,
            epochs=of,
            losses={
                name: (low + 3 * math.exp(-fall * epoch)) * math.exp(chance.gauss(0, noise))
                for name, low in (("box_loss", 1.0), ("cls_loss", 0.5))
            },
            metrics={MAP: 0.6 * (1 - math.exp(-fall * epoch)) + chance.gauss(0, noise / 5)},
            rates={"lr/pg0": rate(epoch, of, **schedule), "lr/pg1": rate(epoch, of, **schedule)},
            updates=120 * epoch,
        )
        for epoch in range(1, epochs + 1)
    ]


def judged(points, **change):
    """The verdict on the last of these points, changed."""
    return judge(points[:-1], [replace(points[-1], **change)])


# ---- no false alarms
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("of", [5, 10, 100, 300])
@pytest.mark.parametrize("warm", [1, 3, 8])
def test_an_uninterrupted_training_has_no_jump_anywhere(of, cosine, warm):
    """Cut after any epoch, the rest goes on: in the warm-up, at its end, and at the foot of the schedule."""
    points = training(of, of=of, cosine=cosine, warm=warm)
    for cut in range(1, of):
        assert judge(points[:cut], points[cut : cut + 3]) == judge(points[:cut], points[cut : cut + 1])
        assert judge(points[:cut], points[cut:]).findings == ()


def test_the_rate_of_the_biases_comes_from_above():
    """In the warm-up the biases' learning rate falls from ten times the usual one: that is no jump."""
    points = training(12)
    falling = [replace(p, rates={**p.rates, "lr/pg2": max(rate(p.epoch), 0.1 - 0.03 * p.epoch)}) for p in points]
    for cut in range(1, 12):
        assert judge(falling[:cut], falling[cut : cut + 1]).continuous


def test_noise_alone_rarely_fires():
    """Of 2,000 resumes of noisy trainings (3 to 10 %), fewer than 0.5 % are called a jump."""
    alarms = 0
    for seed in range(2000):
        points = training(2 + seed % 40, noise=(0.03, 0.06, 0.10)[seed % 3], seed=seed)
        alarms += not judge(points[:-1], points[-1:]).continuous
    assert alarms < 10


def test_a_wild_epoch_long_ago_does_not_widen_what_is_allowed():
    """One spike in the history is no noise: a tripled loss is still seen."""
    points = training(20, noise=0.02)
    points[9] = replace(points[9], losses={"box_loss": 50.0, "cls_loss": 40.0})
    assert not judged(points, losses={"box_loss": 3 * points[-1].losses["box_loss"]}).continuous


def test_little_known_is_little_said():
    """Without a record after the resume, or before it, nothing is called a jump; the former is said."""
    points = training(5)
    assert judge(points, []).continuous
    assert "no record" in judge(points, []).findings[0]
    assert judge([], points[4:], from_epoch=4).findings == ()
    bare = [Point(epoch=1), Point(epoch=2)]
    assert judge(bare[:1], bare[1:]).findings == ()


# ---- jumps
@given(st.integers(1, 60), st.integers(0, 1000), st.booleans())
def test_a_tenfold_learning_rate_always_fires(cut, seed, cosine):
    """Ten times the rate that was due is seen after any number of epochs, and the sentence has both values."""
    points = training(cut + 1, noise=0.05, seed=seed, cosine=cosine)
    old, new = points[-2].rates["lr/pg0"], 10 * points[-1].rates["lr/pg0"]
    verdict = judged(points, rates=dict.fromkeys(points[-1].rates, new))
    assert not verdict.continuous
    assert f"the learning rate went from {old:.3g} to {new:.3g} at epoch {cut + 1}" in verdict.findings[0]


@given(st.integers(1, 60), st.integers(0, 1000), st.sampled_from(["box_loss", "cls_loss"]))
def test_a_tripled_loss_always_fires(cut, seed, name):
    """Three times the loss that was due is seen after any number of epochs, and only this loss is named."""
    points = training(cut + 1, noise=0.02, seed=seed, fall=0.1)
    losses = points[-1].losses
    verdict = judged(points, losses={**losses, name: 3 * losses[name]})
    assert not verdict.continuous
    assert [finding.partition(" ")[0] for finding in verdict.findings] == [name]


@pytest.mark.parametrize("cut", [5, 25, 60])
def test_a_schedule_that_began_anew_is_called_that(cut):
    """The classic bug: warm-up and schedule start over, so the rate is that of epoch 1."""
    points = training(cut + 1)
    verdict = judged(points, rates=points[0].rates)
    assert "the schedule began anew" in verdict.findings[0]
    straight = judged(points, rates=dict.fromkeys(points[0].rates, 0.01))
    assert straight.continuous is (cut == 5)  # a rate of 0.0094 that becomes 0.01 again is within its slack
    assert all("the schedule began anew" in finding for finding in straight.findings)


def test_one_group_of_several_is_named():
    """Where only some groups jump, the sentence says which."""
    points = training(20)
    verdict = judged(points, rates={**points[-1].rates, "lr/pg1": 0.5})
    assert verdict.findings == (
        "the learning rate of lr/pg1 went from 0.00822 to 0.5 at epoch 20: the schedule began anew",
    )


def test_the_count_of_ema_updates_goes_on():
    """A count that began anew, stands still, or leaps is a jump; a little more or less is accumulation."""
    points = training(20)
    assert "it began anew" in judged(points, updates=120).findings[0]
    assert "it began anew" in judged(points, updates=points[-2].updates).findings[0]
    assert "where about 120 more were expected" in judged(points, updates=9000).findings[0]
    assert judged(points, updates=points[-2].updates + 60).continuous
    assert judged(points, updates=points[-2].updates + 240).continuous


def test_epochs_are_counted_without_gap_and_repetition():
    """A missing epoch and one that was trained again are told by number."""
    points = training(20)
    assert judge(points[:10], points[11:13]).findings == ("epoch 11 is missing: epoch 12 came after epoch 10",)
    assert "epochs 11 to 14 are missing" in judge(points[:10], points[14:15]).findings[0]
    assert "epoch 10 was trained again" in judge(points[:10], points[9:10]).findings[0]
    assert "epoch 12 was trained again" in judge(points[:10], [*points[10:12], points[11]]).findings[0]


def test_epochs_that_were_lost_are_trained_again_by_right():
    """After a fall-back to an older checkpoint its epochs come again: `from_epoch` says from where."""
    points = training(20)
    assert judge(points[:10], points[8:12], from_epoch=8).continuous is True
    assert judge(points[:8], points[8:12], from_epoch=8).findings == ()


def test_a_loss_that_is_no_number_any_more():
    """NaN after the resume is told, with the value before; one that was none before is no news."""
    points = training(20)
    verdict = judged(points, losses={"box_loss": None, "cls_loss": points[-1].losses["cls_loss"]})
    assert verdict.findings == ("box_loss is not a number at epoch 20; it was 1.17",)
    points[-2] = replace(points[-2], losses={"box_loss": None})
    assert judged(points, losses={"box_loss": None}).continuous


def test_a_loss_that_is_suddenly_zero():
    """A loss that falls to nothing means that nothing is trained; one that was always 0 is fine."""
    points = training(20)
    assert "box_loss went from 1.17 to 0" in judged(points, losses={"box_loss": 0.0}).findings[0]
    flat = [replace(point, losses={"dfl_loss": 0.0}) for point in points]
    assert judge(flat[:-1], flat[-1:]).continuous


def test_a_map_that_collapsed():
    """mAP50-95 back at 0 is told with what was usual; without mAP the fitness stands in."""
    points = training(30, noise=0.02)
    verdict = judged(points, metrics={MAP: 0.0})
    assert verdict.findings[0].startswith("mAP50-95 went from 0.5")
    assert "its steps before were" in verdict.findings[0]
    plain = [replace(point, metrics={}, fitness=0.7) for point in points]
    assert "fitness went from 0.7 to 0.1" in judge(plain[:-1], [replace(plain[-1], fitness=0.1)]).findings[0]


# ---- changes on purpose
def test_another_number_of_epochs_is_another_schedule():
    """After `extend` the rate jumps by design: that is said, and is no jump."""
    points = training(101, of=100)
    verdict = judge(points[:100], [replace(points[100], epochs=150, rates={"lr/pg0": 0.0034})])
    assert verdict.continuous
    assert verdict.findings == (
        "the number of epochs changed from 100 to 150: the learning rate follows the new schedule (0.000199 → 0.0034)",
    )


def test_planned_changes_may_move_losses_but_not_triple_them():
    """With a stage's new arguments a loss may rise by half; beyond that it is told all the same."""
    points = training(30, noise=0.01)
    losses = points[-1].losses
    moved, tripled = ({name: factor * value for name, value in losses.items()} for factor in (1.6, 3.0))
    assert not judged(points, losses=moved).continuous
    assert judge(points[:-1], [replace(points[-1], losses=moved)], planned=["imgsz"]).continuous
    assert not judge(points[:-1], [replace(points[-1], losses=tripled)], planned=["imgsz"]).continuous


@pytest.mark.parametrize(
    ("args", "epoch", "expected"),
    [
        ({"epochs": 100}, 50, ("imgsz", "freeze")),
        ({"epochs": 100}, 51, ()),
        ({"epochs": 100}, 91, ("close_mosaic",)),
        ({"epochs": 100}, 92, ()),
        ({"epochs": 100, "close_mosaic": 0}, 91, ()),
        ({"epochs": 8}, 3, ("close_mosaic",)),
        ({"epochs": "many"}, 3, ()),
        (None, 91, ()),
    ],
)
def test_what_changes_by_plan(args, epoch, expected):
    """A stage's arguments at its epoch; the end of mosaic, which a short run meets at its first resume."""
    stages = (Stage(from_epoch=50, args={"imgsz": 512, "freeze": 10}),)
    assert planned_changes(Job(name="a", revision="r", train=args, stages=stages), epoch) == expected
