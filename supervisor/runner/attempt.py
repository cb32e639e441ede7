"""One attempt from launch.json to its end record: what refuses comes before what changes anything."""

from __future__ import annotations

import glob
import json
import os
import sys
import traceback
from typing import Any

from . import arguments, checkpoint, hook, inputs
from .session import Session, read_json

FINISHED, ERROR, BAD_LAUNCH, REFUSED, MISSING, STOPPED, PERSON_NEEDED, WRONG_PLACE = (
    0,
    1,
    2,
    65,
    66,
    75,
    76,
    77,
)

_HERE = os.path.dirname(os.path.abspath(__file__))


class Leave(Exception):  # noqa: N818 -- read as a word: raise Leave
    """This attempt ends here: the result and code of its end record, and the reason for a person."""

    def __init__(self, result: str, code: int, reason: str, **fields: Any) -> None:
        super().__init__(reason)
        self.result = result
        self.code = code
        self.reason = reason
        self.fields = fields


def read_launch(attempt_dir: str) -> dict[str, Any]:
    """Return the content of launch.json; raises Leave with code 2 when it is not what this program runs."""
    try:
        with open(os.path.join(attempt_dir, "launch.json"), encoding="utf-8") as file:
            launch: dict[str, Any] = json.load(file)
        problem = _problem(launch)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Leave("error", BAD_LAUNCH, f"launch.json: {error!r}") from error
    if problem:
        raise Leave("error", BAD_LAUNCH, f"launch.json: {problem}")
    return launch


def _problem(launch: dict[str, Any]) -> str | None:
    plan = launch["train"]
    if launch["version"] != 1:
        return f"version {launch['version']}, this runner knows 1"
    if not isinstance(plan, dict):
        return "train is not there: not a job for this runner"
    given, resume = plan["args"], plan["resume"]
    demands = {
        "train.args is no object": isinstance(given, dict),
        "train.device is no string": isinstance(plan["device"], str),
        "train.save_dir is not absolute": os.path.isabs(plan["save_dir"]),
        "train.run_token_file is not absolute": os.path.isabs(plan["run_token_file"]),
        "train.resume is not absolute": resume is None or os.path.isabs(resume),
        "train.expected_epoch is no number": resume is None or isinstance(plan["expected_epoch"], int),
        "train.args.model is not there": resume is not None or bool(given.get("model")),
        "train.args.data is a list: one run trains on one data set": not isinstance(given.get("data"), list),
    }
    return next((problem for problem, met in demands.items() if not met), None)


def check_token(launch: dict[str, Any]) -> None:
    """Raise Leave unless the run directory carries our token: whoever comes later has taken the run over."""
    path = launch["train"]["run_token_file"]
    holder = read_json(path).get("token")
    if holder != launch["token"]:
        raise Leave("refused", PERSON_NEEDED, f"{path} holds token {holder}, ours is {launch['token']}")


def check_checkpoint(plan: dict[str, Any]) -> dict[str, Any] | None:
    """Look at the checkpoint to resume from, or make sure that a fresh start destroys none; raises Leave.

    Returns what the checkpoint is, or None for a fresh start.
    """
    if plan["resume"] is None:
        for path in sorted(glob.glob(os.path.join(glob.escape(plan["save_dir"]), "weights", "*.pt"))):
            state = checkpoint.inspect(path)["state"]
            if state not in {"torn", "missing", "weights_only"}:
                raise Leave("refused", REFUSED, f"a fresh start would destroy {path} ({state})")
        return None
    found = checkpoint.inspect(plan["resume"])
    if found["state"] not in {"resumable", "done_not_stripped"}:
        raise Leave("refused", REFUSED, f"{plan['resume']} is {found['state']}: {found['reason']}")
    if found["epoch"] != plan["expected_epoch"]:
        reason = f"{plan['resume']} holds epoch {found['epoch']}, expected {plan['expected_epoch']}"
        raise Leave("wrong_place", WRONG_PLACE, reason)
    return found


def _check_inputs(missing: str | None) -> None:
    if missing:
        raise Leave("missing", MISSING, missing)


def build_arguments(plan: dict[str, Any], found: dict[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of `YOLO.train`; raises Leave if this version would resume into another folder."""
    if found is None:
        return arguments.for_fresh_start(plan)
    from ultralytics.engine.trainer import BaseTrainer

    honoured = arguments.honoured_on_resume(BaseTrainer)
    home = os.path.realpath(found["save_dir"] or "")
    if "save_dir" not in honoured and home != os.path.realpath(plan["save_dir"]):
        reason = f"this Ultralytics resumes into the checkpoint's own {found['save_dir']}, not {plan['save_dir']}"
        raise Leave("wrong_place", WRONG_PLACE, reason)
    return arguments.for_resume(plan, honoured)


def train(session: Session, plan: dict[str, Any], found: dict[str, Any] | None) -> None:
    """Import Ultralytics and train; returns when `YOLO.train` does."""
    from ultralytics import YOLO

    if plan.get("settings"):
        from ultralytics import settings

        settings.update(plan["settings"])  # of the run's own copy of settings.json; refuses unknown keys
    session.stop_if_due()
    session.enter("setup")
    _check_inputs(inputs.missing_name(plan["args"], found is not None))
    keywords = build_arguments(plan, found)
    model = YOLO(plan["resume"] or plan["args"]["model"], task=plan["args"].get("task"))
    session.stop_if_due()
    if "," in plan["device"]:
        _inject_into_ranks()
        session.stop.forwards = True
    model.train(**keywords)


def _inject_into_ranks() -> None:
    """Let the ranks that torchrun starts load the hook: rank 0 writes the heartbeats, we only wait for it."""
    inherited = os.environ.get("PYTHONPATH")
    inject = os.path.join(_HERE, "inject")
    os.environ["PYTHONPATH"] = inject + (os.pathsep + inherited if inherited else "")


def prove_finished(session: Session, plan: dict[str, Any]) -> None:
    """Raise Leave: "finished" if the trainer's own end state says so, else "error"; a return proves nothing."""
    last = os.path.join(plan["save_dir"], "weights", "last.pt")
    found = checkpoint.inspect(last)
    if not session.train_ended and not session.stop.forwards:
        raise Leave("error", ERROR, "YOLO.train returned, but the trainer never reached its end")
    if found["state"] not in {"finished", "done_not_stripped"}:
        raise Leave("error", ERROR, f"YOLO.train returned, but {last} is {found['state']}: {found['reason']}")
    raise Leave("finished", FINISHED, "the trainer reached its end")


def finish_without_training(session: Session, plan: dict[str, Any], found: dict[str, Any]) -> None:
    """Strip the checkpoints of a training that was killed after its last epoch was saved; raises Leave.

    Some versions refuse to resume such a file, others train an epoch too many. The final validation of
    best.pt, which changes no file, is left out.
    """
    from ultralytics.utils.torch_utils import strip_optimizer

    session.stop.set_final(True)
    session.enter("end")
    weights = os.path.join(plan["save_dir"], "weights")
    for name in ("best.pt", "last.pt"):  # last.pt last: while it is whole, this can be repeated
        path = plan["resume"] if name == "last.pt" else os.path.join(weights, name)
        if checkpoint.inspect(path)["state"] in {"resumable", "done_not_stripped"}:
            _strip(strip_optimizer, path, os.path.join(weights, name))
    best = os.path.join(weights, "best.pt")
    best_state = checkpoint.inspect(best)["state"]
    raise Leave(
        "finished",
        FINISHED,
        f"all {found['epochs']} epochs were trained before; last.pt is stripped now, best.pt is {best_state}",
        epoch=found["epoch"],
        epochs=found["epochs"],
        best=best if best_state == "finished" else None,
    )


def _strip(strip_optimizer: Any, source: str, target: str) -> None:
    """Put a stripped copy of `source` at `target` in one step, so that no kill can leave half a file."""
    copy = f"{target}.stripped"
    strip_optimizer(source, s=copy)
    state = checkpoint.inspect(copy)["state"]
    if state != "finished":
        raise Leave("error", ERROR, f"stripping {source} gave a file that is {state}")
    with open(copy, "rb") as file:
        os.fsync(file.fileno())
    os.replace(copy, target)


def _explain(session: Session, error: BaseException) -> Leave:
    """Turn whatever came out of the training into a result."""
    if isinstance(error, Leave):
        return error
    asked = session.stop.signal_number is not None and not session.stop.writing and not session.stop.final
    if isinstance(error, KeyboardInterrupt) or asked:
        # A dataloader worker or another rank may have got the same signal and have died first.
        return Leave("stopped", STOPPED, f"stopped: {type(error).__name__}: {error}")
    traceback.print_exception(type(error), error, error.__traceback__)
    return Leave("error", ERROR, f"{type(error).__name__}: {error}")


def _told_by_rank_zero(session: Session, seen_bytes: int, outcome: Leave) -> Leave:
    """Return how a multi-GPU training ended: torchrun loses the exit code of a rank, its end record has it.

    Our own view wins where rank 0 says that it finished and the files say otherwise.
    """
    try:
        with open(session.beats.path, "rb") as file:
            file.seek(seen_bytes)
            records = [json.loads(line) for line in file if b'"end"' in line]
    except (OSError, ValueError):
        return outcome
    told = next((record for record in reversed(records) if record.get("kind") == "end"), None)
    if told is None or (told["code"] == FINISHED and outcome.code != FINISHED):
        return outcome
    session.ended = True  # its record stands
    return Leave(told["result"], int(told["code"]), str(told["reason"]))


def run(attempt_dir: str) -> int:
    """Run the attempt and return its exit code."""
    session = hook.install(attempt_dir, controlled=True)
    session.start("import")
    session.stop.listen(replace=True)
    seen_bytes = os.path.getsize(session.beats.path) if os.path.exists(session.beats.path) else 0
    try:
        _attempt(session, attempt_dir)
    except SystemExit as left:
        if session.ended:  # by the hook, which wrote why
            return int(left.code or 0)
        outcome = Leave("error", ERROR, f"something in the training called sys.exit({left.code!r})")
    except BaseException as error:  # noqa: BLE001 -- every way out of a training needs its record
        outcome = _explain(session, error)
    if session.stop.forwards:
        outcome = _told_by_rank_zero(session, seen_bytes, outcome)
    session.end(outcome.result, outcome.code, outcome.reason, **outcome.fields)
    if outcome.code != FINISHED:
        print(f"yolo-supervisor: {outcome.reason}", file=sys.stderr, flush=True)
    return outcome.code


def _attempt(session: Session, attempt_dir: str) -> None:
    """Do everything in its order: what refuses comes before what changes anything."""
    launch = read_launch(attempt_dir)
    plan = launch["train"]
    check_token(launch)
    _check_inputs(inputs.missing_path(plan["args"], plan["resume"] is not None))
    found = check_checkpoint(plan)
    session.stop_if_due()
    if found is not None and found["state"] == "done_not_stripped":
        finish_without_training(session, plan, found)
    train(session, plan, found)
    prove_finished(session, plan)


def main(argv: list[str]) -> int:
    """Check the command line and run the attempt."""
    if len(argv) != 2 or not os.path.isdir(argv[1]):
        print("usage: train.py ATTEMPT_DIR", file=sys.stderr)
        return BAD_LAUNCH
    return run(os.path.abspath(argv[1]))
