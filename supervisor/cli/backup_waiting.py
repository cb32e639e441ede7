"""Waiting for what comes of an order about backups, and telling it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from supervisor.cli import screen
from supervisor.cli.client import Client, View
from supervisor.cli.failures import NoDaemon, TryLater
from supervisor.core.backups import causes, words
from supervisor.core.words import duration, size

LOOK_EVERY_S = 0.5
Place = tuple[str, str, str]  # verb, target, run
TRY_LATER = 75  # EX_TEMPFAIL: the target could not be asked
_VERBS = {"BackedUp": "run", "BackupFailed": "run", "BackupVerified": "verify", "Drilled": "drill"}
_GONE: View = {
    "doing": None, "cause": None, "retry_at": None, "todo": None, "due": (), "verify_due": False, "drill_due": False,
}  # fmt: skip
_PASSING = frozenset({"stopped", "stale"})  # of our own end, or of another attempt: tried again at once


def wait_for(client: Client, taken: View, sleep: Callable[[float], None] = time.sleep) -> tuple[list[View], int]:
    """Wait until all that was ordered is answered; the answers, and the exit code of the worst one.

    Each answer is told as it comes. A daemon that is exchanged meanwhile is waited for: its orders outlive it. What is
    left to a target in trouble is not waited for: nobody knows how long that lasts. Its answers are of kind "Left".
    """
    waiting: dict[Place, str] = {(one["verb"], one["target"], one["run"]): one["not_of"] for one in taken["ordered"]}
    after, results, code, begun = taken["after"], [], 0, time.monotonic()
    while waiting:
        targets = _targets(client)  # before the answers: what is no longer under way then has answered
        found, after = _look(client, after)
        for answer in [*found, *_left(waiting, targets, found)]:
            if not _is_awaited(answer, waiting):
                continue
            del waiting[_place(answer)]
            results.append(answer)
            code = max(code, _code(answer))
            _tell(answer)
        if waiting:
            _show_time(time.monotonic() - begun)
            sleep(LOOK_EVERY_S)
    return results, code


def _is_awaited(answer: View, waiting: Mapping[Place, str]) -> bool:
    """False for what was under way before the order, and for what is tried again at once."""
    place = _place(answer)
    if place not in waiting or answer.get("cause") in _PASSING:
        return False
    return not waiting[place] or answer.get("answers") != waiting[place]


def _targets(client: Client) -> dict[str, View] | None:
    """How each target stands; None while nobody answers."""
    try:
        return {one["name"]: one for one in client.get("/v1/backups")["targets"]}
    except (NoDaemon, TryLater):
        return None


def _look(client: Client, after: int) -> tuple[list[View], int]:
    try:
        view = client.get("/v1/backups/answers", after=after)
    except (NoDaemon, TryLater):
        return [], after
    return view["answers"], view["next"]


def _left(waiting: Iterable[Place], targets: Mapping[str, View] | None, found: Sequence[View]) -> list[View]:
    """What will not be answered soon: of a target that waits for its next try, or that has nothing of it to do."""
    answered = {_place(answer) for answer in found}
    rows: list[View] = []
    for verb, name, run in waiting if targets is not None else ():
        target = (targets or {}).get(name, _GONE)
        if (verb, name, run) in answered or target["doing"] is not None:
            continue
        about = {"kind": "Left", "verb": verb, "target": name, "run": run, "todo": target["todo"]}
        if target["cause"] and target["retry_at"] is not None:
            rows.append({**about, "cause": target["cause"], "text": target["text"]})
        elif not _is_due(target, verb, run):
            rows.append({**about, "cause": "failed", "text": "the order was dropped: there is nothing to do any more"})
    return rows


def _is_due(target: View, verb: str, run: str) -> bool:
    if verb == "run":
        return any((order["run"] or "") == run for order in target["due"])
    return bool(target[f"{verb}_due"])


def _place(answer: Mapping[str, Any]) -> Place:
    """What this answers. A target does one thing at a time, so that it needs no key."""
    verb = str(answer["verb"]) if answer["kind"] == "Left" else _VERBS[answer["kind"]]
    return (verb, answer["target"], str(answer.get("run") or "") if verb == "run" else "")


def _code(answer: View) -> int:
    if answer["kind"] == "Left":
        return TRY_LATER
    if answer["kind"] == "Drilled":
        return 0 if answer.get("ok") else TRY_LATER if answer.get("cause") else 1
    if answer["kind"] == "BackupVerified":
        return 1 if answer.get("damaged") else TRY_LATER if answer.get("cause") else 0
    if answer["kind"] == "BackupFailed":
        return 1 if causes.kind(str(answer.get("cause"))).of_run else TRY_LATER
    return 0


def _tell(answer: View) -> None:
    _clear_time()
    who = f"{answer['run']}: " if answer.get("run") else ""
    if answer["kind"] == "Left":
        screen.note(f"{who}{answer['target']} {answer['text']}; `yolo-supervisor backup ls` shows how it goes on")
        if answer["todo"]:
            screen.note(f"  fix: {answer['todo']}")
        return
    screen.note(f"{who}{words.sentences(duration, size)[answer['kind']](answer)}")
    todo = causes.kind(answer["cause"]).todo if answer.get("cause") else ""
    if todo:
        name = str(answer.get("run") or "").partition("@")[0]
        where = f"backup target {answer['target']}"
        screen.note(f"  fix: {todo.replace('NAME', name).replace('{to}', where).replace('{target}', answer['target'])}")


def _show_time(seconds: float) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r  {duration(seconds)} …", nl=False, err=True)


def _clear_time() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)


def drill_result(answer: View) -> View:
    """What a rehearsal found, for programs.

    `ok`: fetched, whole, loaded, with the epoch and metric of the manifest. `loaded`: the job's Python loaded it.
    `unable`: this machine could not load it, which says nothing against the backup and proves nothing for it.
    """
    return {
        "version": 1,
        "target": answer["target"],
        "run": answer.get("run") or None,
        "snapshot": answer.get("snapshot") or None,
        "ok": bool(answer.get("ok")),
        "loaded": bool(answer.get("loaded")),
        "unable": bool(answer.get("unable")),
        "trained": bool(answer.get("trained")),
        "untrained": answer.get("untrained") or None,
        "epoch": answer.get("epoch") or None,
        "epoch_wanted": answer.get("epoch_wanted") or None,
        "metric": answer.get("metric"),
        "metric_wanted": answer.get("metric_wanted"),
        "loss": answer.get("loss"),
        "seconds": answer.get("seconds", 0.0),
        "cause": answer.get("cause") or None,
        "text": answer.get("text") or None,
    }


def show_drill(answer: View, *, as_json: bool) -> None:
    """Tell what a rehearsal found."""
    result = drill_result(answer)
    if as_json:
        screen.show_json(result)
        return
    facts = (
        ("loaded", _yes(result["loaded"])),
        ("proven", _yes(result["ok"])),
        ("trained", _yes(result["trained"]) + (f" ({result['untrained']})" if result["untrained"] else "")),
        ("epoch", _both(result["epoch"], result["epoch_wanted"])),
        ("metric", _both(result["metric"], result["metric_wanted"])),
        ("took", duration(result["seconds"])),
        ("snapshot", result["snapshot"] or ""),
    )
    for label, text in facts:
        if text:
            click.echo(f"  {label:<10}{text}")


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _both(found: float | None, wanted: float | None) -> str:
    """What was found; what was noted at the backup only where that is something else."""
    if found is None and wanted is None:
        return ""
    shown = "none" if found is None else f"{found:g}"
    return shown if wanted in {None, found} else f"{shown}, and {wanted:g} was backed up"
