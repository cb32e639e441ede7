"""What went wrong, for a person: the incidents of one run or of all, and how they stand."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View, complete_run, target_options
from supervisor.cli.examples import examples
from supervisor.cli.failures import BadInput
from supervisor.cli.offline import reading
from supervisor.cli.screen import duration_text, time_text

_LABEL = 11  # columns before the text of a line
LEAST_TOLD_S = 0.05
_MOST = 10  # incidents that `why` tells in full
_HEADERS = ("WHEN", "RUN", "TRY", "COST", "STATE", "WHAT")
_WIDE = 110
_SHORT_RUN = 18
_LEAST_WIDTHS = (0, 0, 100, 75, 75, 0)


def show_incidents(incidents: Sequence[View], name: str, now: float) -> None:
    """Tell the newest incidents of a run in full, the newest last."""
    if (older := len(incidents) - _MOST) > 0:
        screen.note(f"{older} older incident{'' if older == 1 else 's'}: `yolo-supervisor incidents {name}`")
    for incident in incidents[-_MOST:]:
        _show_incident(incident, now)


def _show_incident(incident: View, now: float) -> None:
    title = f"{time_text(incident['seen_at'], now)}  attempt {incident['attempt']}: {incident['title']}"
    bold = screen.colourful()
    click.echo(click.style(title, bold=True, fg="red" if incident["open"] else None) if bold else title)
    for label, text in _lines(incident):
        for line in screen.wrapped(text, label, _LABEL) if text else ():
            click.echo(line)
    click.echo("")


def _lines(incident: View) -> Iterator[tuple[str, str]]:
    yield "seen", screen.flat(incident["seen"]) or "nothing but the end itself"
    yield "", ", ".join(filter(None, (incident["log"] if incident["line"] else "", incident["place"])))
    yield "autopsy", f"{incident['autopsy']} (attempts/{incident['attempt']}/autopsy)" if incident["autopsy"] else ""
    yield "means", incident["means"]
    yield "done", incident["what"]
    yield "cost", cost_text(incident)
    yield "stands", incident["stands"]
    yield "you can", incident["fix"]


def cost_text(incident: View) -> str:
    """What it cost, part by part; parts that are not known or took no time are left out."""
    cost = incident["cost"]
    parts = (
        ("detect_s", "to see it"),
        ("wait_s", "of waiting"),
        ("start_s", "to start"),
        ("redone_s", "of work done again"),
    )
    told = [f"{duration_text(cost[key])} {text}" for key, text in parts if cost[key] and cost[key] >= LEAST_TOLD_S]
    total = duration_text(cost["total_s"]) + (" so far" if incident["open"] else "")
    return total + (f": {', '.join(told)}" if told else "")


def summary(incident: View, now: float) -> tuple[str, str]:
    """An incident in two lines: what it was and how it stands, and what was done."""
    at = time_text(incident["seen_at"], now)
    return f"{at} attempt {incident['attempt']}: {incident['title']} ({incident['stands']})", incident["what"]


@click.command(
    "incidents",
    epilog=examples(
        "yolo-supervisor incidents",
        "yolo-supervisor incidents --open",
        "yolo-supervisor incidents truck --since 30d",
        "yolo-supervisor incidents --json | jq '.incidents | group_by(.cause) | map({(.[0].cause): length}) | add'",
    ),
)
@click.argument("name", required=False, shell_complete=complete_run)
@click.option("--open", "is_open", is_flag=True, help="Only those that are not over.")
@click.option("--since", metavar="DURATION", help="Leave out those that were over before, such as 30d ago.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@target_options
@click.pass_obj
def incidents_verb(target: Target, name: str | None, since: str | None, *, is_open: bool, as_json: bool) -> None:
    """List what went wrong, in one run or in all, the newest last; `why NAME` tells each in full.

    TRY is the attempt, COST what it took: to see it, to wait, to start again, and the work that was lost. An incident
    is over when an epoch is saved that had not been there before, or when its run has ended; one that was followed by
    the next before that is superseded. Below: what is wrong with backup targets now.
    """
    view = reading(target).incidents(name, is_open=is_open, since_at=since_when(since))
    if as_json:
        screen.show_json(view)
        return
    if view["incidents"]:
        short = screen.on_terminal() and screen.width() < _WIDE
        rows = [_row(incident, short=short) for incident in view["incidents"]]
        screen.show_columns(_HEADERS, rows, _LEAST_WIDTHS, whole_in_pipes=True)
    else:
        click.echo("no open incidents" if is_open else "no incidents")
    for run in view.get("stalled", ()):
        _show_stalled(run)
    _show_targets(view.get("targets", ()), view["at"])


def _show_stalled(run: View) -> None:
    """What is no incident, and still needs somebody."""
    for label, text in ((f"{run['name']} stands still", f"{run['text']}."), ("you can", run["todo"])):
        click.echo("\n".join(screen.wrapped(f"{label}: {text}", "", 0)) if text else "")


def _show_targets(troubles: Sequence[View], now: float) -> None:
    """What is wrong with backup targets now: since when, when the next try is, and what to do."""
    if troubles:
        click.echo("\nbackup targets:")
    for one in troubles:
        since = f"since {duration_text(now - one['since_at'])}" if one["since_at"] else ""
        again = f"next try in {duration_text(one['retry_at'] - now)}" if one["retry_at"] else ""
        times = f" ({', '.join(filter(None, (since, again)))})" if since or again else ""
        text = f": {screen.flat(one['text'])}" if one["text"] else ""
        lines = screen.wrapped(f"{one['target']}: {one['title']}{times}{text}", "", 0)
        lines += screen.wrapped(f"you can: {one['todo']}", "", 2) if one["todo"] else []
        click.echo("\n".join(lines))


def since_when(since: str | None) -> float:
    """The time that lies so long back, in Unix seconds; 0 where nothing was given. Raises BadInput."""
    from supervisor.errors import UserError
    from supervisor.units import parse_duration

    try:
        return time.time() - parse_duration(since) if since is not None else 0.0
    except UserError as error:
        raise BadInput(f"--since: {error}") from None


def _row(incident: View, *, short: bool) -> list[str]:
    at = time_text(incident["seen_at"])
    return [
        at[5:16] if short else at[:16],
        screen.end_of(incident["run"], _SHORT_RUN) if short else incident["run"],
        str(incident["attempt"]),
        duration_text(incident["cost"]["total_s"]),
        incident["state"],
        f"{incident['title']} → {incident['what']}",
    ]
