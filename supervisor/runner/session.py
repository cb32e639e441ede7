"""What one process knows about the training it runs: where it should be, how far it is, why it ended."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any, Callable, NoReturn

from . import beats, stacks, stopping, versions, whole_files
from .outcome import FINISHED, PERSON_NEEDED, STOPPED, WRONG_PLACE

#: Tells the ranks of a multi-GPU training which training of its program they are.
TRAINING_VARIABLE = "YOLO_SUPERVISOR_TRAINING"


def read_json(path: str) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty dict when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def place_error(plan: dict[str, Any], trainer: Any) -> str | None:
    """Return what is wrong with where the trainer works, or None; a plan may leave the place to the program."""
    save_dir = os.path.realpath(str(trainer.save_dir))
    if not plan["save_dir"] or save_dir == os.path.realpath(plan["save_dir"]):
        return None
    return f"trains into {save_dir}, expected {plan['save_dir']}"


def resume_error(plan: dict[str, Any], trainer: Any) -> str | None:
    """Return that a training begins anew where one should be resumed, or None."""
    if plan["resume"] is None or getattr(trainer, "resume", False):
        return None
    return f"starts anew instead of resuming {plan['resume']}"


def epoch_error(plan: dict[str, Any], trainer: Any) -> str | None:
    """Return what is wrong with the first epoch, or None."""
    resume, known = plan["resume"], plan["expected_epoch"]
    if resume is not None and known is None and plan.get("mode") == "hook":  # of such a file it may be unknown
        return None if trainer.start_epoch > 0 else f"starts anew instead of resuming {resume}"
    expected = 0 if resume is None else known + 1
    if trainer.start_epoch == expected:
        return None
    return f"starts at epoch {trainer.start_epoch}, expected {expected} (0-based)"


def tell(text: str) -> None:
    """Say one line to a person, in the log. Nothing comes of it if that is not possible."""
    try:
        print(f"yolo-supervisor: {text}", file=sys.stderr, flush=True)
    except Exception:  # noqa: BLE001 -- a stand-in of the user's for stderr, which lacks something
        with contextlib.suppress(OSError):
            os.write(2, f"yolo-supervisor: {text}\n".encode("utf-8", "replace"))


class Session:
    """What this process knows about the training it runs, and its heartbeats.

    `controlled` says that our own runner drives the training: it proves the end and writes the last record.
    In any other program the hook writes it at the trainer's teardown.
    """

    def __init__(self, attempt_dir: str, controlled: bool) -> None:
        launch = read_json(os.path.join(attempt_dir, "launch.json"))
        self.attempt_dir = attempt_dir
        self.controlled = controlled
        self.plan: dict[str, Any] = launch.get("train") or {}
        self.token = launch.get("token")
        run_dir = os.path.dirname(os.path.dirname(os.path.abspath(attempt_dir)))
        self.token_file = self.plan.get("run_token_file") or os.path.join(run_dir, "token")
        self.rank = int(os.environ.get("RANK", "-1"))
        self.beats = beats.BeatWriter(os.path.join(attempt_dir, "beats.jsonl"))
        self.stop = stopping.StopRequest(self._stop_was_asked, self._leave_by_force)
        self.phase = ""
        self.begun_s = time.monotonic()
        self.started = False
        #: Counts the trainings of this program from 1; ranks are told by their parent.
        self.training_number = int(os.environ.get(TRAINING_VARIABLE, "1")) - 1 if self.rank >= 0 else 0
        #: The plan's resume was handed to a training of this process; or it belongs to another one (elsewhere).
        self.resume_taken = self.elsewhere = False
        self._said: set[str] = set()
        self.stacks_signal: int | None = None
        #: Reason and fields of the end record once all files are final: from then on a stop means finished.
        self.final_record: tuple[str, dict[str, Any]] | None = None
        self.begin()

    def begin(self) -> None:
        """Forget the last training of this process: a script may run several."""
        self.earlier_finished: bool = getattr(self, "train_ended", True)
        self.trainer: Any = None
        self.training = False
        self.in_epoch = False
        #: Hours of a `time` budget that earlier processes of this training used.
        self.used_before_h = 0.0
        self.train_ended = False
        self.ended = False
        self.validated = False
        self.batch = 0
        self.batches: int | None = None
        self.last_beat_s: float | None = None
        self.images = 0
        self.images_from_s = 0.0

    @property
    def leads(self) -> bool:
        """True in the one process of a training that reports: alone, or rank 0."""
        return self.rank in {-1, 0}

    @property
    def copies(self) -> tuple[str, ...]:
        """The folders in which copies of this run's checkpoints may lie, beside those of the trainer."""
        run_dir = os.path.dirname(os.path.dirname(os.path.abspath(self.attempt_dir)))
        return self.attempt_dir, os.path.join(run_dir, "good")

    @property
    def follows_only(self) -> bool:
        """True for a program of the user's own that trains what nobody planned: nothing is expected of it."""
        if self.plan.get("mode", "runner") != "hook":
            return False
        return self.plan.get("resume") is None or self.training_number > 1 or self.elsewhere

    def note(self, text: str) -> None:
        """Say one line to a person, in the log and as a beat."""
        tell(text)
        if self.leads:
            self.beats.write("note", text=" ".join(text.split()))

    def note_once(self, text: str) -> None:
        """Note a text that may come with every epoch the first time only."""
        if text not in self._said:
            self._said.add(text)
            self.note(text)

    def arm_stacks(self) -> None:
        """Let a signal dump all stacks into the attempt's folder, unless somebody else handles that signal.

        Also let the daemon look at them from outside, and a crash leave them in the log.
        """
        self._attempt("no look from outside", stacks.let_look)
        self._attempt("no stacks of a crash", stacks.tell_of_crashes)
        self.stacks_signal = self._attempt("no stack dumps", lambda: stacks.arm(self.attempt_dir, self.rank))

    def _attempt(self, otherwise: str, step: Callable[[], Any]) -> Any:
        """Return what a step that is worth less than the training returns; None, and a note, where it fails."""
        try:
            return step()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the training goes on
            self.note(f"{otherwise}: {error!r}")
            return None

    def start(self, phase: str) -> None:
        """Write the first beat of this process."""
        self.started = True
        self.phase = phase
        armed = {} if self.stacks_signal is None else {"stacks_signal": self.stacks_signal}
        self.beats.write(
            "start",
            pid=os.getpid(),
            python=sys.version.split()[0],
            ultralytics=versions.source_version("ultralytics"),
            torch=versions.source_version("torch"),
            phase=phase,
            **armed,
        )

    def enter(self, phase: str) -> None:
        """Write a phase beat if the phase is a new one."""
        if phase != self.phase:
            self.phase = phase
            self.beats.write("phase", phase=phase)

    def end(self, result: str, code: int, reason: str, **fields: Any) -> None:
        """Write the end record, once per training: the first that knows why it ended wins.

        After an error `phase`, and inside an epoch `batch` (complete ones of `epoch`, as in the beats of batches), say
        where it was raised: a failure at the same place twice is no accident.
        """
        if self.ended:
            return
        self.ended = True
        trainer = self.trainer
        best = str(getattr(trainer, "best", ""))
        record = {
            "epoch": getattr(trainer, "epoch", None),
            "epochs": getattr(trainer, "epochs", None),
            "best": best if best and os.path.exists(best) else None,
            "metrics": beats.metrics_of(trainer) if self.train_ended else {},
        }
        if result == "error":
            record["phase"] = self.phase
            if self.in_epoch:
                record["batch"] = self.batch
        record.update(fields)
        self.beats.write("end", result=result, code=code, reason=" ".join(reason.split()), **record)

    def leave(self, result: str, code: int, reason: str, **fields: Any) -> NoReturn:
        """End the training here: the record, then SystemExit, which lets the dataloader close its workers."""
        tell(reason)
        self.end(result, code, reason, **fields)
        raise SystemExit(code)

    def launches_ranks(self) -> None:
        """Note that this process is only the parent of a multi-GPU training: rank 0 reports and decides.

        Called right before the ranks start, which inherit the environment.
        """
        self.training_number += 1
        os.environ[TRAINING_VARIABLE] = str(self.training_number + self.elsewhere)
        if not self.controlled:
            self.stop.forwards = True
            self.stop.listen(replace=False)

    def keep_last_save(self, path: str) -> str | None:
        """Copy the last checkpoint of a training, which is stripped in a moment, into the attempt's folder.

        Returns the copy, or None if it could not be made, which is said and never more than that.
        """
        kept = os.path.join(os.path.abspath(self.attempt_dir), "final.pt")
        try:
            whole_files.copy(path, kept, self.note_once)
        except OSError as error:
            self.note(f"the last checkpoint is not kept with its optimizer: {error}")
            return None
        return kept

    def files_are_final(self, reason: str, fields: dict[str, Any]) -> None:
        """Note that a stop from now on ends the attempt as finished, with this reason; leaves if one is due."""
        self.final_record = (reason, fields)
        self.stop.set_final(False)
        self.stop_if_due()

    def stop_if_due(self) -> None:
        """Leave if somebody asked for it and no checkpoint is being written: with code 75, or 0 if all is done."""
        if not self.stop.due:
            return
        if self.final_record is not None:
            reason, fields = self.final_record
            self.leave("finished", FINISHED, reason, **fields)
        self.leave("stopped", STOPPED, f"stopped by signal {self.stop.signal_number} in phase {self.phase}")

    def stop_for_next_stage(self, epoch: int) -> None:
        """Leave with code 75 if the job plans other arguments after this epoch (0-based), which is saved."""
        last = self.plan.get("stop_after")
        if last is not None and epoch >= last:
            self.leave("stopped", STOPPED, f"epoch {epoch + 1} is saved: the next stage of the job begins")

    def check_fence(self) -> None:
        """Leave with code 76 if the run directory now belongs to another attempt.

        A token that cannot be read says nothing: storage may be away for a moment.
        """
        holder = read_json(self.token_file).get("token")
        if holder is not None and self.token is not None and holder != self.token:
            self.leave("refused", PERSON_NEEDED, f"the run now holds token {holder}, ours is {self.token}")

    def check_start(self, *checks: Callable[[dict[str, Any], Any], str | None]) -> None:
        """Leave with code 77 unless every check of the plan passes.

        A check that cannot be made has not passed. Without a plan (a user's own script) nothing is expected.
        """
        if not self.plan or self.follows_only:
            return
        try:
            wrong = next(filter(None, (check(self.plan, self.trainer) for check in checks)), None)
        except Exception as error:  # noqa: BLE001 -- training on without the proof is what must not happen
            wrong = f"cannot verify where the training starts: {error!r}"
        if wrong:
            self.leave("wrong_place", WRONG_PLACE, wrong)

    def _stop_was_asked(self, number: int) -> None:
        if self.leads:
            self.beats.write("stopping", signal=number)

    def _leave_by_force(self) -> int:
        """Write the end record for a process that leaves at once; return its exit code."""
        if self.final_record is not None:
            reason, fields = self.final_record
            self.end("finished", FINISHED, reason, **fields)
            return FINISHED
        if self.leads:
            reason = f"stopped by signal {self.stop.signal_number} in phase {self.phase}, before any callback came"
            self.end("stopped", STOPPED, reason)
        return STOPPED
