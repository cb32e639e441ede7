"""Does a resumed training go on where the one before it ended? Judged from its epochs. Pure.

Each quantity has the yardstick that fits it:

- Epoch numbers and the EMA's count of updates must go on counting.
- The learning rate has no noise: it must lie between "stays" and "goes on as in the last two epochs", give or take
  what a schedule of this length can bend.
- Losses and mAP have noise. The step into the first epoch after the resume is compared with the run's own steps from
  epoch to epoch: the newest STEPS of them, their median as the trend, and as their spread the median absolute
  deviation from it, which a single wild epoch does not move. Early epochs change fast, so their steps differ among
  themselves, the spread is wide, and so is what is allowed. Fewer than FEW_STEPS say nothing about noise: then only
  what no training does by itself is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

import msgspec

from supervisor.core import outlook
from supervisor.core.curve import Point, numbers
from supervisor.core.model import Job

STEPS = 20  # steps from epoch to epoch that tell about trend and noise
FEW_STEPS = 4
#: Makes the median absolute deviation an estimate of a normal standard deviation: 1 / Φ⁻¹(3/4). Rousseeuw and Croux,
#: "Alternatives to the Median Absolute Deviation", Journal of the American Statistical Association 88 (1993) 1273.
MAD_TO_DEVIATION = 1.4826
#: How many deviations a step may be off its trend. Of few steps the deviation is easily underestimated, so n of them
#: get (1 + 4/n) times as many. Measured on pure noise of 10 %: at most one false alarm in 400 resumes.
DEVIATIONS = 6.0
SMALL_SAMPLE = 4.0

#: Least and most that is allowed, in logarithms for losses (a resume is never exact: weights come from the EMA in half
#: precision, the shuffle begins anew) and in points for mAP. A fall of a loss harms nobody, a rise of mAP neither.
LOSS_RISE = (math.log(1.15), math.log(2.2))
LOSS_FALL = (math.log(1.5), math.log(10.0))
MAP_RISE = (0.10, 1.0)
MAP_FALL = (0.05, 0.5)

RATE_SLACK = 0.05
#: The steepest part of a cosine over E epochs falls by π/2 · 1/E of its height per epoch; a line by 1/E.
STEEPEST = math.pi / 2 * 1.2
#: With one epoch before, the warm-up may be under way: in the second epoch a ramp from zero at most triples (2 batches
#: an epoch), and the rate of the biases, which comes from above, falls to a quarter at most (1.5 epochs of warm-up).
FIRST_RATE = (1 / 6, 4.0)

_DEFAULT_CLOSE_MOSAIC = 10  # Ultralytics' own


class Verdict(msgspec.Struct, frozen=True):
    """Whether the training went on smoothly, and for a person what was found: jumps, or why one is no jump."""

    continuous: bool
    findings: tuple[str, ...] = ()


def judge(
    before: Sequence[Point], after: Sequence[Point], *, from_epoch: int | None = None, planned: Sequence[str] = ()
) -> Verdict:
    """Compare the first epochs after a resume with those before it, both in the order in which they were trained.

    `from_epoch`: the complete epochs in the checkpoint, those after it were lost; default: the last epoch of `before`.
    `planned`: arguments that were changed on purpose with this resume, so that losses may move.
    """
    if not after:
        return Verdict(True, ("there is no record of an epoch after the resume to compare",))
    last = from_epoch if from_epoch is not None else (before[-1].epoch if before else 0)
    before = [point for point in before if point.epoch <= last]
    jumps = _epochs(last, after)
    remark = ""
    if before:
        remark = _other_length(before[-1], after[0])
        jumps += [] if remark else _rates(before, after[0])
        jumps += _updates(before, after[0], planned=bool(planned))
        jumps += _losses(before, after[0], planned=bool(planned))
        jumps += _metric(before, after[0], planned=bool(planned))
    return Verdict(not jumps, (*jumps, *([remark] if remark else [])))


def planned_changes(job: Job, epoch: int) -> tuple[str, ...]:
    """The arguments that change by plan at `epoch`, the first one after a resume: a stage's, or the end of mosaic.

    Ultralytics ends mosaic `close_mosaic` epochs before the last one; a run that is not longer than that keeps it,
    but loses it at its first resume.
    """
    stages = tuple(name for stage in job.stages if stage.from_epoch == epoch for name in stage.args)
    args = job.train_after(epoch - 1)
    if args is None or not isinstance(epochs := args.get("epochs", 100), int):
        return stages
    close = args.get("close_mosaic", _DEFAULT_CLOSE_MOSAIC)
    begins = epochs - close if isinstance(close, int) and close else epochs
    return (*stages, "close_mosaic") if begins < 0 or epoch == begins + 1 else stages


# ---- what counts
def _epochs(last: int, after: Sequence[Point]) -> list[str]:
    found = []
    for point in after:
        if point.epoch == last + 2:
            found.append(f"epoch {last + 1} is missing: epoch {point.epoch} came after epoch {last}")
        elif point.epoch > last + 2:
            found.append(f"epochs {last + 1} to {point.epoch - 1} are missing: epoch {point.epoch} came after {last}")
        elif point.epoch <= last:
            found.append(f"epoch {point.epoch} was trained again although epoch {last} was complete")
        last = point.epoch
    return found


def _updates(before: Sequence[Point], first: Point, *, planned: bool) -> list[str]:
    counts = [(point.epoch, point.updates) for point in before[-STEPS:] if point.updates is not None]
    if not counts or first.updates is None:
        return []
    epoch, old = counts[-1]
    new = first.updates
    if new <= old:
        return [f"the count of EMA updates went from {old} to {new} at epoch {first.epoch}: it began anew"]
    steps = [(b - a) / (j - i) for (i, a), (j, b) in pairwise(counts) if j > i]
    usual = max([*steps, old / epoch])
    most = 3 * usual * max(1, first.epoch - epoch) + 5  # accumulation changes how many steps an epoch has
    if new - old <= most or planned:
        return []
    change = f"the count of EMA updates went from {old} to {new} at epoch {first.epoch}"
    return [f"{change}, where about {usual:.0f} more were expected"]


# ---- the learning rate
def _other_length(last: Point, first: Point) -> str:
    """Another number of epochs means another schedule: that is said, and its learning rate is no jump."""
    if not last.epochs or not first.epochs or last.epochs == first.epochs:
        return ""
    common = [name for name in last.rates if name in first.rates][:1]
    rate = "".join(f" ({_short(last.rates[name])} → {_short(first.rates[name])})" for name in common)
    changed = f"the number of epochs changed from {last.epochs} to {first.epochs}"
    return f"{changed}: the learning rate follows the new schedule{rate}"


def _rates(before: Sequence[Point], first: Point) -> list[str]:
    found: dict[str, list[str]] = {}
    for name, new in first.rates.items():
        history = [point.rates[name] for point in before if name in point.rates]
        if history and not _allowed_rate(history, new, epochs=first.epochs):
            restarted = new > max(history[-1], max(history) / 2) or math.isclose(new, history[0], rel_tol=0.1)
            meaning = "the schedule began anew" if restarted else "that is not where the schedule was"
            change = f"went from {_short(history[-1])} to {_short(new)} at epoch {first.epoch}: {meaning}"
            found.setdefault(change, []).append(name)
    return [
        f"the learning rate {'' if len(groups) == len(first.rates) else f'of {_list(groups)} '}{change}"
        for change, groups in found.items()
    ]


def _allowed_rate(history: Sequence[float], new: float, *, epochs: int) -> bool:
    last = history[-1]
    if len(history) == 1:
        return last <= 0 or FIRST_RATE[0] * last <= new <= FIRST_RATE[1] * last
    ahead = 2 * last - history[-2]
    bend = _bend(history)
    peak = max(history)
    fall = STEEPEST * peak / epochs if epochs else peak / 4
    low, high = min(last, ahead) - bend - fall, max(last, ahead) + bend
    return low - RATE_SLACK * last <= new <= high + RATE_SLACK * high


def _bend(history: Sequence[float]) -> float:
    """How much the slope usually changes from one epoch to the next."""
    recent = history[-7:]
    slopes = [b - a for a, b in pairwise(recent)]
    return median([abs(b - a) for a, b in pairwise(slopes)] or [0.0])


# ---- what is noisy
def _losses(before: Sequence[Point], first: Point, *, planned: bool) -> list[str]:
    found = []
    for name in first.losses:
        series = [value for point in before if (value := point.losses.get(name)) is not None]
        new, old = first.losses[name], before[-1].losses.get(name)
        if old is None or not series:
            continue
        if new is None:
            found.append(f"{name} is not a number at epoch {first.epoch}; it was {_short(old)}")
        elif min(series[-STEPS - 1 :]) > 0 <= new:
            steps = _steps([math.log(value) for value in series])
            step = math.log(new) - math.log(old) if new else -math.inf
            if not _usual(step, steps, rise=LOSS_RISE, fall=LOSS_FALL, planned=planned):
                found.append(_jump(name, old, new, first.epoch, _factors(steps)))
    return found


def _metric(before: Sequence[Point], first: Point, *, planned: bool) -> list[str]:
    """MAP50-95, else the trainer's own fitness."""
    name = "mAP50-95"
    series = [value for point in before if (value := _map50_95(point.metrics)) is not None]
    new = _map50_95(first.metrics)
    if not series or new is None:
        name, new = "fitness", first.fitness
        series = [point.fitness for point in before if point.fitness is not None]
    if not series or new is None:
        return []
    steps = _steps(series)
    if _usual(new - series[-1], steps, rise=MAP_RISE, fall=MAP_FALL, planned=planned):
        return []
    usual = f"{min(steps):+.3f} to {max(steps):+.3f}" if steps else ""
    return [_jump(name, series[-1], new, first.epoch, usual)]


def _map50_95(metrics: Mapping[str, float | None]) -> float | None:
    return outlook.map50_95(numbers(metrics))


def _steps(series: Sequence[float]) -> list[float]:
    newest = series[-STEPS - 1 :]
    return [b - a for a, b in pairwise(newest)]


def _usual(
    step: float, steps: Sequence[float], *, rise: tuple[float, float], fall: tuple[float, float], planned: bool
) -> bool:
    """True for a step between "stays" and "goes on by the trend", give or take what the run's noise allows."""
    trend = median(steps) if steps else 0.0
    noise = math.inf
    if len(steps) >= FEW_STEPS and not planned:
        deviation = MAD_TO_DEVIATION * median([abs(one - trend) for one in steps])
        noise = DEVIATIONS * (1 + SMALL_SAMPLE / len(steps)) * deviation
    up, down = (min(max(noise, least), most) for least, most in (rise, fall))
    return min(0.0, trend) - down <= step <= max(0.0, trend) + up


def _factors(steps: Sequence[float]) -> str:
    return f"{math.exp(min(steps)):.2f} to {math.exp(max(steps)):.2f} times the one before" if steps else ""


def _jump(name: str, old: float, new: float, epoch: int, usual: str) -> str:
    text = f"{name} went from {_short(old)} to {_short(new)} at epoch {epoch}"
    return f"{text}; its steps before were {usual}" if usual else text


def _short(value: float) -> str:
    """Three digits that say something: 0.0041, 1.25, 3.2e-05."""
    return f"{value:.3g}"


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
