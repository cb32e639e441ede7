"""Waiting for what comes of an order about backups, and telling it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from supervisor.cli import screen
from supervisor.cli.client import Client, View
from supervisor.cli.failures import NoDaemon, TryLater
from supervisor.core.backups import causes, words
from supervisor.core.words import duration, size

LOOK_EVERY_S = 0.5
TRY_LATER = 75  # EX_TEMPFAIL: the target could not be asked
_VERBS = {"BackedUp": "run", "BackupFailed": "run", "BackupVerified": "verify", "Drilled": "drill"}
_PASSING = frozenset({"stopped", "stale"})  # of our own end, or of another attempt: tried again at once


def wait_for(client: Client, taken: View, sleep: Callable[[float], None] = time.sleep) -> tuple[list[View], int]:
    """Wait until all that was ordered is answered; the answers, and the exit code of the worst one.

    Each answer is told as it comes. A daemon that is exchanged meanwhile is waited for: its orders outlive it.
    """
    waiting = {(one["verb"], one["target"], one["run"]) for one in taken["ordered"]}
    after, results, code, begun = taken["after"], [], 0, time.monotonic()
    while waiting:
        found, after = _look(client, after)
        for answer in found:
            place = _place(answer)
            if place in waiting and answer.get("cause") not in _PASSING:
                waiting.discard(place)
                results.append(answer)
                code = max(code, _code(answer))
                _tell(answer)
        if waiting:
            _show_time(time.monotonic() - begun)
            sleep(LOOK_EVERY_S)
    return results, code


def _look(client: Client, after: int) -> tuple[list[View], int]:
    try:
        view = client.get("/v1/backups/answers", after=after)
    except (NoDaemon, TryLater):
        return [], after
    return view["answers"], view["next"]


def _place(answer: Mapping[str, Any]) -> tuple[str, str, str]:
    """What this answers. A target does one thing at a time, so that it needs no key."""
    verb = _VERBS[answer["kind"]]
    return (verb, answer["target"], str(answer.get("run") or "") if verb == "run" else "")


def _code(answer: View) -> int:
    if answer["kind"] == "Drilled":
        return 0 if answer.get("ok") else TRY_LATER if answer.get("cause") else 1
    if answer["kind"] == "BackupVerified":
        return 1 if answer.get("damaged") else TRY_LATER if answer.get("cause") else 0
    return 1 if answer["kind"] == "BackupFailed" else 0


def _tell(answer: View) -> None:
    _clear_time()
    who = f"{answer['run']}: " if answer.get("run") else ""
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
    """What a rehearsal found, for programs. `loaded`: fetched, whole, and loaded with the epoch of the manifest."""
    return {
        "version": 1,
        "target": answer["target"],
        "run": answer.get("run") or None,
        "snapshot": answer.get("snapshot") or None,
        "loaded": bool(answer.get("ok")),
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
