"""Where the time went: the report of one run, or of all runs of the server."""

from __future__ import annotations

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View, complete_run, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput
from supervisor.cli.incidents import since_when
from supervisor.cli.offline import reading
from supervisor.cli.screen import duration_text, time_text

MEANINGS = {
    "training": "batches and saves that were kept",
    "validation": "after each epoch, and at the end",
    "start_up": "preparing, imports, model, data and label cache",
    "lost": "work after the last checkpoint that survived",
    "detection": "from the death, or the last movement of a hang, to the decision",
    "backoff": "the delay before the next try",
    "waiting": "for a place, a GPU, a time, another run, a disk or memory",
    "held": "until a person decided",
}
_HEADERS = ("RUN", "PHASE", "TOTAL", "GOODPUT", "LOST", "DETECTION", "GPU-HOURS", "ATTEMPTS", "FAILURES")
_SHORT = ("RUN", "PHASE", "TOTAL", "GOOD", "LOST", "DETECT", "GPU-H", "TRIES", "FAILED")
_LEAST_WIDTHS = (0, 95, 0, 0, 0, 75, 80, 70, 0)
_WIDE = 110
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
_BAR = 20


@click.command(
    "report",
    epilog=examples(
        "yolo-supervisor report truck",
        "yolo-supervisor report truck@1",
        "yolo-supervisor report --all --since 30d",
        "yolo-supervisor report --all --json | jq '.seconds'",
    ),
)
@click.argument("name", required=False, shell_complete=complete_run)
@click.option("--all", "every", is_flag=True, help="All runs and their sum; the same without NAME.")
@click.option("--since", metavar="DURATION", help="Only the time since then, such as 30d ago.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@target_options
@click.pass_obj
def report_verb(target: Target, name: str | None, since: str | None, *, every: bool, as_json: bool) -> None:
    """Tell where the time of a run went, from its submission until now or its end.

    Each moment is of one class, so that they add up to the wall clock exactly: training and validation (kept work:
    the goodput), start_up, lost (work that must be done again), detection, backoff, waiting and held. NAME is a run's
    name (its newest run) or its id, such as truck@2. GPU-hours count while the run has its GPUs. A failure is an
    attempt that ended unfinished though nobody asked for that.
    """
    if name and every:
        raise BadInput("give a NAME or --all, not both")
    view = reading(target).report(name, since_at=since_when(since))
    if as_json:
        screen.show_json(view)
    elif name:
        _show_run(view)
    else:
        _show_all(view)


def _show_run(view: View) -> None:
    until = time_text(view["ended_at"]) if view["phase"] in ENDED else "now"
    click.echo(f"{view['id']}  {screen.phase_text(view['phase'])}  {time_text(view['began_at'])} to {until}")
    _show_classes(view)
    click.echo(f"  {_counts(view)}")
    for note in view["notes"]:
        click.echo(f"  note: {note}")


def _show_all(view: View) -> None:
    if not view["runs"]:
        click.echo("no runs")
        return
    headers = _SHORT if screen.on_terminal() and screen.width() < _WIDE else _HEADERS
    screen.show_columns(headers, [_row(run) for run in view["runs"]], _LEAST_WIDTHS)
    click.echo("")
    since = f" since {time_text(view['since_at'])}" if view["since_at"] else ""
    count = len(view["runs"])
    click.echo(f"{count} run{'' if count == 1 else 's'} in all{since}")
    _show_classes(view)
    click.echo(f"  {_counts(view)}")


def _row(run: View) -> list[str]:
    seconds = run["seconds"]
    return [
        run["id"],
        run["phase"],
        duration_text(run["total_s"]),
        _percent(run["goodput"]),
        duration_text(seconds["lost"]),
        duration_text(seconds["detection"]),
        f"{run['gpu_hours_total']:.1f}",
        str(run["attempts"]),
        str(run["failures"]),
    ]


def _show_classes(view: View) -> None:
    """A line for each class: how long, which share, GPU-hours, a bar, and what it means."""
    total_s, hours = view["total_s"], view["gpu_hours"]
    on_gpus = view["gpu_hours_total"] > 0
    for name, meaning in MEANINGS.items():
        seconds = view["seconds"][name]
        share = seconds / total_s if total_s else 0.0
        bar = "█" * round(share * _BAR) if share * _BAR >= 0.5 else "▏" if seconds else ""
        gpu = f"{hours[name]:>10.2f}" if on_gpus else ""
        line = f"  {name:<11}{_time(seconds):>9}{share:>8.1%}{gpu}  {bar:<{_BAR}}  {meaning}"
        click.echo(screen.cut(line, screen.width()) if screen.on_terminal() else line)
    gpu = f"{'':>8}{view['gpu_hours_total']:>10.2f} GPU-hours" if on_gpus else ""
    click.echo(f"  {'total':<11}{_time(total_s):>9}{gpu}")


def _counts(view: View) -> str:
    attempts, failures = view["attempts"], view["failures"]
    return (
        f"goodput {_percent(view['goodput'])}, "
        f"{attempts} attempt{'' if attempts == 1 else 's'}, {failures} failure{'' if failures == 1 else 's'}"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.1f}s" if 0 < seconds < 60 else duration_text(seconds)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
