"""Verbs that look and change nothing: ls, show, why, status. They also work while the daemon is down."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

import click

from supervisor.cli import incidents, screen
from supervisor.cli.client import Target, View, complete_run, target_options
from supervisor.cli.disk_lines import disk_lines
from supervisor.cli.examples import examples
from supervisor.cli.failures import NoDaemon
from supervisor.cli.offline import Reading, reading
from supervisor.cli.screen import duration_text, phase_text, time_text
from supervisor.core.diagnosis import rungs
from supervisor.core.gpus.words import gpu_name
from supervisor.core.placeholders import expand
from supervisor.units import format_size

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
WATCH_EVERY_S = 2.0
_HEADERS = ("NAME", "PHASE", "EPOCH", "MAP50-95", "ETA", "RESTARTS", "WAITING FOR / REASON")
_LEAST_WIDTHS = (0, 0, 0, 78, 66, 72, 0)
_TICKS = {"yes": "✓", "no": "behind", "trouble": "failing", "none": "-"}
_HAS_GPUS = frozenset({"PREPARING", "STARTING", "RUNNING", "STOPPING"})


@click.command(
    "ls",
    epilog=examples(
        "yolo-supervisor ls",
        "yolo-supervisor ls --watch",
        "yolo-supervisor ls --all --json | jq '.runs[] | select(.phase == \"FAILED\") | .name'",
    ),
)
@click.option("--all", "-a", "every", is_flag=True, help="Also runs that ended more than a day ago.")
@click.option("--watch", "-w", is_flag=True, help="Show it anew every 2 s until Ctrl-C.")
@json_option
@target_options
@click.pass_obj
def ls_verb(target: Target, *, every: bool, watch: bool, as_json: bool) -> None:
    """List the runs: those that live and those that ended within a day."""
    source = reading(target)
    view = source.runs(every=every)
    while watch:
        if screen.on_terminal() and not as_json:
            screen.clear()
        _show_runs(view, as_json=as_json)
        time.sleep(WATCH_EVERY_S)
        source, view = _again(target, source, view, every=every)
    _show_runs(view, as_json=as_json)


def _again(target: Target, source: Reading, view: View, *, every: bool) -> tuple[Reading, View]:
    """The next view; a daemon that is being exchanged is waited for."""
    try:
        return source, source.runs(every=every)
    except NoDaemon:
        screen.note("the daemon does not answer just now")
    try:
        source = reading(target)
        return source, source.runs(every=every)
    except NoDaemon:
        return source, view


def _show_runs(view: View, *, as_json: bool) -> None:
    if as_json:
        screen.show_json(view)
        return
    if view["draining"]:
        screen.note("draining: nothing starts until `yolo-supervisor drain --off` or a new daemon")
    if view["runs"]:
        _show_table(view["runs"])
    else:
        click.echo("no runs; drop a job file into the jobs folder, or `yolo-supervisor submit FILE`")
    if view["not_shown"]:
        one = view["not_shown"] == 1
        screen.note(f"{view['not_shown']} older run{' is' if one else 's are'} not shown (--all shows them)")


def _show_table(rows: Sequence[View]) -> None:
    """A column more where there are backup targets."""
    ticks = [_TICKS.get(row.get("backed_up") or "") for row in rows]
    if not any(ticks):
        screen.show_columns(_HEADERS, [_line(row) for row in rows], _LEAST_WIDTHS)
        return
    lines = [[*_line(row)[:-1], tick or "-", _line(row)[-1]] for row, tick in zip(rows, ticks, strict=True)]
    headers = (*_HEADERS[:-1], "BACKUP", _HEADERS[-1])
    screen.show_columns(headers, lines, (*_LEAST_WIDTHS[:-1], 84, _LEAST_WIDTHS[-1]))


def _line(row: View) -> list[str]:
    metric = row["map50_95"]
    return [
        row["name"] if row["newest"] else row["id"],
        row["phase"],
        epoch_text(row),
        "-" if metric is None else f"{metric:.3f}",
        duration_text(row["eta_s"]),
        str(row["restarts"]),
        row["stalled"] or _waits_for(row["waiting_for"]) or row["reason"],
    ]


def _waits_for(waiting_for: str) -> str:
    """What it waits for; of GPUs only which and why, the word itself stands in it."""
    return waiting_for.removeprefix("GPU: ")


def epoch_text(row: View) -> str:
    """`12/300`; `-` before the first one."""
    if not row["epoch"] and not row["epochs"]:
        return "-"
    return f"{row['epoch']}/{row['epochs'] or '?'}"


@click.command(
    "show",
    epilog=examples(
        "yolo-supervisor show truck",
        "yolo-supervisor show truck@1 --json | jq .attempts",
    ),
)
@click.argument("name", shell_complete=complete_run)
@json_option
@target_options
@click.pass_obj
def show_verb(target: Target, name: str, *, as_json: bool) -> None:
    """Show everything about a run: NAME is its name (the newest run of it) or its id, such as truck@2."""
    view = reading(target).run(name)
    if as_json:
        screen.show_json(view)
        return
    click.echo(f"{view['id']}  {phase_text(view['phase'])}  {view['explanation']}")
    for label, text in _facts(view):
        click.echo(f"  {label:<12}{text}")
    _show_last_incident(view)
    for attempt in view["attempts"]:
        click.echo(f"  attempt {attempt['number']:<4}{_attempt_text(attempt, view['at'])}")
        for note in attempt.get("notes", ()):
            click.echo(f"              {note}")
        for finding in attempt.get("findings", ()):
            click.echo(f"              {'' if attempt.get('continuous', True) else 'a jump: '}{finding}")
    _show_commands(view)


def _show_last_incident(view: View) -> None:
    if view["last_incident"] is not None:
        first, second = incidents.summary(view["last_incident"], view["at"])
        click.echo(f"  {'incident':<12}{first}")
        click.echo(f"  {'':<12}{second}")


def _facts(view: View) -> list[tuple[str, str]]:
    job, now = view["job"], view["at"]
    facts = [
        ("project", f"{view['project']}" + (f" ({job['title']})" if job["title"] else "")),
        ("trains", _what(job)),
        ("progress", _progress_text(view)),
        ("saved", f"epoch {view['saved_epoch']}" if view["saved_epoch"] else "no epoch yet"),
        ("kept", f"verified copy of epoch {view['kept_epoch']}" if view["kept_epoch"] else ""),
        *(("backup", text) for text in _backups(view)),
        ("archived", "its weights lie in the backup only" if view.get("archived") else ""),
        ("published", str(view.get("published") or "")),
        ("metrics", "  ".join(f"{name} {value:.4g}" for name, value in view["metrics"].items())),
        ("losses", "  ".join(f"{name} {value:.4g}" for name, value in view["losses"].items())),
        ("next save", f"in about {duration_text(view['next_save_s'])}" if view["next_save_s"] is not None else ""),
        *(("stage", _stage_text(stage)) for stage in view.get("stages", ())),
        *(("changed", _change_text(change)) for change in view.get("changes", ())),
        ("avoids", _avoids_text(view.get("avoid_gpus", ()))),
        ("failures", f"{view['failures']} in a row without progress" if view["failures"] else ""),
        ("priority", str(view["priority"])),
        ("GPUs", _gpus_text(view)),
        ("created", time_text(view["created_at"], now)),
        ("since", f"{time_text(view['phase_since_at'], now)} {view['phase']}"),
        ("directory", view["directory"]),
        ("job file", job["file"] or "-"),
        ("older run", view["predecessor"]),
        *(("lineage", text) for text in _lineage(view["lineage"])),
    ]
    return [(label, text) for label, text in facts if text]


def _backups(view: View) -> list[str]:
    """A line for each target: what lies there, and why there is none newer."""
    found = []
    for one in view.get("backups", ()):
        what = f"epoch {one['epoch']}" if one["epoch"] else "files" if one["snapshot"] else "nothing yet"
        when = f", {duration_text(view['at'] - one['at'])} ago" if one["at"] else ""
        state = one["text"] or ("" if one["covered"] or not one["wanted"] else "not all that is kept here")
        found.append(f"{one['target']}: {what}{when}{f' ({state})' if state else ''}")
    return found


def _lineage(lineage: View) -> list[str]:
    """Where the run comes from, and what comes from it; nothing for a run that simply began."""
    line = [f"{one['run']} {one['how']}" for one in lineage["line"]]
    begun = lineage["origin"] is not None or len(line) > 1
    branches = [f"{one['run']} begins here" + _after(one["epoch"]) for one in lineage["branches"]]
    changed = [f"other than there: {change}" for change in (lineage["origin"] or {}).get("changed", ())]
    return [*(line if begun else ()), *changed, *branches]


def _after(epoch: int | None) -> str:
    return f" after epoch {epoch}" if epoch else ""


def _stage_text(stage: View) -> str:
    changes = ", ".join(f"{name} = {value}" for name, value in stage["args"].items())
    return f"from epoch {stage['from_epoch']}: {changes} ({stage['state']})"


def _change_text(change: View) -> str:
    """`workers 4 instead of 8 since attempt 3, because the machine's memory ran out`.

    `attempt` is the one that failed: the next one was the first with the change.
    """
    return f"{rungs.words(change)} since attempt {change['attempt'] + 1}, because {change['because']}"


def _avoids_text(gpus: Sequence[str]) -> str:
    names = ", ".join(gpu_name({"gpu": gpu}) for gpu in gpus)
    return f"{names}: others are given first" if gpus else ""


def _gpus_text(view: View) -> str:
    """How many it wants, and which it has."""
    has = view["attempts"][-1].get("gpus") if view["attempts"] and view["phase"] in _HAS_GPUS else None
    return str(view["gpus"]) + (f": it has GPU {', '.join(map(str, has))}" if has else "")


def _what(job: View) -> str:
    train = job["train"]
    if train is None:
        return shlex.join(expand(word, {"python": job["python"] or "{python}"}) for word in job["command"])
    return f"{train.get('model')} on {train.get('data')}"


def _progress_text(view: View) -> str:
    parts = [f"epoch {epoch_text(view)}"]
    if view["percent"] is not None:
        parts.append(f"{view['percent']:g} %")
    if view["images_per_s"]:
        parts.append(f"{view['images_per_s']:.0f} images/s")
    if view["eta_s"] is not None:
        parts.append(f"{duration_text(view['eta_s'])} to go")
    if view["heard_of_at"]:
        parts.append(f"heard of at {time_text(view['heard_of_at'], view['at'])}")
    return ", ".join(parts)


def _attempt_text(attempt: View, now: float) -> str:
    starts = {
        "fresh": "from the beginning",
        "resume": f"after epoch {attempt.get('from_epoch')}",
        "watch": "started by a person, watched",
    }
    if attempt.get("start") == "refused" and not attempt.get("started_at"):
        return "not launched: nothing was started"
    start = starts.get(str(attempt.get("start")), str(attempt.get("start") or ""))
    times = f"{time_text(attempt.get('started_at'), now)} to {time_text(attempt.get('ended_at'), now)}"
    pid = f"pid {attempt['pid']}" if attempt.get("pid") and not attempt.get("ended_at") else ""
    smooth = "no jump" if attempt.get("continuous") and not attempt.get("findings") else ""
    return "  ".join(part for part in (times, start, smooth, pid, attempt["ending"]) if part)


def _show_commands(view: View) -> None:
    if view["commands"]:
        click.echo("what to do:")
    for command in view["commands"]:
        click.echo(f"  {command}")


@click.command(
    "why",
    epilog=examples(
        "yolo-supervisor why truck",
        "yolo-supervisor why truck --events",
        "yolo-supervisor why truck@1 --json | jq '.incidents[-1]'",
    ),
)
@click.argument("name", shell_complete=complete_run)
@click.option("--events", "--all", "chain", is_flag=True, help="Print the full chain of events instead.")
@json_option
@target_options
@click.pass_obj
def why_verb(target: Target, name: str, *, chain: bool, as_json: bool) -> None:
    """Tell how a run came to where it is.

    First what went wrong, the newest last: what was seen, what it means, what was done, what it cost and what you can
    do. Then how it stands now. Of a run that nothing ever went wrong with: what happened, and what was done then.
    """
    view = reading(target).why(name)
    if as_json:
        screen.show_json(view)
        return
    if view["incidents"] and not chain:
        incidents.show_incidents(view["incidents"], name, view["at"])
    else:
        for step in view["steps"]:
            _show_step(step, view["at"])
    _show_now(view)
    _show_commands(view)


def _show_now(view: View) -> None:
    """Where it stands, wrapped to the terminal; what its last incident says already is not said again."""
    label = f"now: {view['phase']}: "
    text = _short(view)
    lines = screen.wrapped(text, "", len(label) - screen.GAP) if text else [""]
    for place, line in enumerate(lines):
        click.echo(f"now: {phase_text(view['phase'])}: {line.strip()}" if place == 0 else line)


def _short(view: View) -> str:
    """The reason; where its last incident has told how it ended, only what that means and what is done."""
    text = str(view["explanation"])
    last = view["incidents"][-1] if view["incidents"] else {"title": "", "done": ""}
    short = ": ".join(filter(None, (last["title"], last["done"])))
    return short if short and text.endswith(last["done"] or last["title"]) else text


def _show_step(step: View, now: float) -> None:
    count = f" ({step['count']} reports)" if step["count"] > 1 else ""
    click.echo(f"{time_text(step['at'], now)}  {step['what']}{count}")
    before, after = step["phase_before"], step["phase_after"]
    if after and before != after:
        moved = f"{before or 'new'} → {phase_text(after)}"
        click.echo(f"          {moved}" + (f": {step['reason']}" if step["reason"] else ""))
    if step["then"]:
        click.echo(f"          then: {', '.join(step['then'])}")


@click.command(
    "status",
    epilog=examples(
        "yolo-supervisor status",
    ),
)
@json_option
@target_options
@click.pass_obj
def status_verb(target: Target, *, as_json: bool) -> None:
    """Show how the server stands: phases, places, GPUs, refused job files."""
    view = reading(target).status()
    if as_json:
        screen.show_json(view)
        return
    for line in _status_lines(view):
        click.echo(line)


def _status_lines(view: View) -> list[str]:
    daemon: dict[str, Any] = view.get("daemon", {})
    lines = [f"server {view['server'] or '-'}"]
    if daemon:
        lines[0] += f"  daemon {daemon.get('version', '?')}, pid {daemon.get('pid', '?')}"
    if daemon.get("degraded"):
        lines.append(f"DEGRADED: the journal cannot be written ({daemon['degraded']}); nothing is decided")
    if view["draining"]:
        lines.append("draining: nothing starts until `yolo-supervisor drain --off` or a new daemon")
    lines.append(f"{view['busy']} of {view['max_running']} places, {view['gpus_given']} of {view['gpus']} GPUs taken")
    if view.get("gpu_summary"):
        lines.append(f"GPUs: {view['gpu_summary']}")
    kernel = view.get("kernel_log") or ""
    if kernel and not kernel.startswith(("followed", "starting")):
        lines.append(f"kernel log: {kernel}")
    if "free_bytes" in daemon and "memory_available_bytes" in daemon:
        free, memory = format_size(daemon["free_bytes"]), format_size(daemon["memory_available_bytes"])
        lines.append(f"{free} free for runs, {memory} of memory available")
    lines += disk_lines(daemon.get("disks") or (), view.get("disk_marks") or {})
    lines += [f"paused until there is room: {run['name']} ({run['text']})" for run in view.get("paused", ())]
    backups: dict[str, Any] = view.get("backups", {})
    lines += [f"backup {line}" for line in backups.get("lines", ())[: backups.get("targets", 0)]]
    lines += backups.get("lines", ())[backups.get("targets", 0) :]
    lines += [f"warning: {warning}" for warning in backups.get("warnings", ())]
    lines += [f"  {count:>6} {phase_text(phase)}" for phase, count in view["phases"].items() if count]
    for path, text in view["refused_files"].items():
        lines.append(f"refused: {path}: {text.replace(f'{path}: ', '')}")  # most of them begin with it
    return lines
