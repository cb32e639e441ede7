"""One attempt from launch.json to its end record: what refuses comes before what changes anything."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from . import arguments, checkpoint, finish, hook, inputs, multi_gpu, rewrite
from .outcome import BAD_LAUNCH, ERROR, FINISHED, MISSING, PERSON_NEEDED, REFUSED, STOPPED, WRONG_PLACE, Leave
from .session import Session, read_json

_HERE = os.path.dirname(os.path.abspath(__file__))


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
        precious = multi_gpu.precious(plan["save_dir"])
        if precious:
            raise Leave("refused", REFUSED, f"a fresh start would destroy {precious[0]} ({precious[1]})")
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
    """Return the arguments of `YOLO.train`; a checkpoint of a moved run is told its new folder where that is needed."""
    if found is None:
        return arguments.for_fresh_start(plan)
    from ultralytics.engine.trainer import BaseTrainer

    honoured = arguments.honoured_on_resume(BaseTrainer)
    rewrite.new_home(plan["resume"], found, plan["save_dir"], honoured)
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
    found = check_checkpoint(plan)
    session.stop_if_due()
    found = rewrite.more_epochs(plan, found)
    if found is not None and found["state"] == "done_not_stripped":
        finish.finish_without_training(session, plan, found)  # what it needs of the data is the metrics only
    _check_inputs(inputs.missing_path(plan["args"], plan["resume"] is not None))
    session.stop_if_due()
    train(session, plan, found)
    prove_finished(session, plan)


def main(argv: list[str]) -> int:
    """Check the command line and run the attempt."""
    if len(argv) != 2 or not os.path.isdir(argv[1]):
        print("usage: train.py ATTEMPT_DIR", file=sys.stderr)
        return BAD_LAUNCH
    return run(os.path.abspath(argv[1]))
