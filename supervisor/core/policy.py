"""When a failed attempt is tried again, and when it is not. Progress decides, never the count alone."""

from __future__ import annotations

import hashlib

import msgspec

from supervisor.core.job import Restart
from supervisor.core.model import Run

PREPARING_S = 600.0
STARTING_S = 60.0
OBSERVED_S = 1800.0  # a run that nobody saw for so long is reported; it is never killed for that
EXAMINING_S = 300.0
CLEARING_S = 60.0
WAITING_S = 600.0  # what a run waits for is looked at all the time; it is tried anyway after so long
AUTOPSY_S = 30.0
ABORT_S = 10.0  # from SIGABRT, which leaves stacks in the log, to SIGKILL
ORPHANED_S = 5.0  # a shim ends what its trainer left within seconds; where it was killed, the daemon does
KILL_AGAIN_S = 30.0
STOPPED_FROM_OUTSIDE = 75
INTERRUPTIONS = 10  # stops from outside in a row without a saved epoch; further ones count as failures
FALL_BACKS = 3  # resumes from older checkpoints whose epochs count as progress once more, until a new epoch is saved
FINAL_S = 900.0  # the final validation and the strip may take so long (contract: 15 min for validation, save and end)
REBOOT_START_GAP_S = 30.0
AFTER_BOOT_S = 600.0
LIMIT_OVERRUN = 0.05  # a run over its time limit may finish its epoch within this share of the limit


class Verdict(msgspec.Struct, frozen=True):
    """What follows a failure: another try after `delay_s`, or the end (`delay_s` None)."""

    delay_s: float | None
    failures: int
    reason: str


def fraction(*parts: object) -> float:
    """A number in [0, 1) that looks random and is the same in every replay."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def backoff_s(restart: Restart, failures: int, *identity: object) -> float:
    """Exponential backoff with full jitter: uniform in [0, min(backoff_max, backoff · 2^(failures-1))].

    Full jitter as in Marc Brooker, "Exponential Backoff And Jitter" (2015). Never under a second, so that a trainer
    that dies at once cannot spin.
    """
    ceiling = min(restart.backoff_max_s, restart.backoff_s * 2.0 ** min(failures - 1, 30))
    return max(1.0, ceiling * fraction(*identity))


def after_failure(run: Run, saved_epoch: int) -> Verdict:
    """Whether, and when, a failed run is tried again. `saved_epoch` is the newest epoch that is in a checkpoint."""
    if saved_epoch > run.failed_at_epoch:
        return Verdict(0.0, 0, f"it had saved epoch {saved_epoch} since the last failure: tried again at once")
    if run.kept_anew:
        return Verdict(0.0, 0, "a new checkpoint was verified since the last failure: tried again at once")
    failures = run.failures + 1
    limit = run.job.restart.no_progress
    if failures >= limit:
        return Verdict(
            None,
            failures,
            f"{_failures(failures)} in a row without a newly saved epoch (no_progress = {limit})",
        )
    delay_s = backoff_s(run.job.restart, failures, run.id, run.attempts)
    return Verdict(delay_s, failures, f"failure {failures} of {limit} without progress: tried again in {delay_s:.0f} s")


def _failures(count: int) -> str:
    return "1 failure" if count == 1 else f"{count} failures"
