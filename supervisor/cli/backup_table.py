"""How backups stand, for people: the targets, what of which run lies there, and the verdict."""

from __future__ import annotations

import click

from supervisor.cli import screen
from supervisor.cli.client import View
from supervisor.cli.screen import duration_text
from supervisor.core.words import duration, size

_TARGETS = ("TARGET", "STATE", "LAST BACKUP", "READ AGAIN", "PROVEN", "FREE", "WHAT")
_TARGET_WIDTHS = (0, 0, 60, 90, 76, 104, 0)
_RUNS = ("RUN", "PHASE", "KEPT EPOCH", "TARGET", "BACKED UP", "AT STAKE", "")
_RUN_WIDTHS = (0, 84, 0, 0, 0, 0, 60)
NOTHING = "nothing is backed up: there is no [[backup]] in the configuration (docs/backup.md)"


def show(view: View) -> None:
    """Print `backups_view`."""
    if not view["targets"]:
        click.echo(NOTHING)
        return
    now = view["at"]
    screen.show_columns(_TARGETS, [_target(one, now) for one in view["targets"]], _TARGET_WIDTHS)
    rows = [_run(run, on, now) for run in view["runs"] for on in run["targets"]]
    if rows:
        click.echo()
        screen.show_columns(_RUNS, rows, _RUN_WIDTHS)
    click.echo()
    for line in view["lines"][len(view["targets"]) :]:
        click.echo(line)
    _show_trouble(view)


def _show_trouble(view: View) -> None:
    for one in view["targets"]:
        if one["cause"]:
            click.echo(f"{one['name']}: {one['text']}")
        if one["todo"]:
            click.echo(f"  fix: {one['todo']}")
    for warning in view["warnings"]:
        click.echo(f"warning: {warning}")


def _target(target: View, now: float) -> list[str]:
    free, proven = target["free_bytes"], target["proven"]
    return [
        target["name"],
        target["state"],
        _ago(target["ok_at"], now),
        _ago(target["verified_at"], now),
        f"{_ago(proven['at'], now)}" if proven is not None else "-",
        "-" if free is None else size(free),
        target["cause"] or target["doing"] or target["to"] or "",
    ]


def _run(run: View, on: View, now: float) -> list[str]:
    backed = f"epoch {on['epoch']}" if on["epoch"] else "files" if on["snapshot"] else "-"
    when = f", {_ago(on['at'], now)}" if on["at"] else ""
    return [
        run["name"],
        run["phase"],
        str(run["kept_epoch"] or "-"),
        on["target"] if on["wanted"] else f"({on['target']})",
        f"{backed}{when}",
        duration_text(on["age_s"]),
        on["text"]
        or ("covered" if on["covered"] else "its folder is gone" if on["gone"] else "due" if on["due"] else ""),
    ]


def _ago(at: float | None, now: float) -> str:
    return f"{duration(now - at)} ago" if at else "-"
