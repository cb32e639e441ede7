"""`checkpoints [NAME]...`: the copies in the ledger and the trainer's own files, and which one the next start takes."""

from __future__ import annotations

from collections.abc import Sequence

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View
from supervisor.cli.offline import reading
from supervisor.units import format_size

_HEADERS = ("", "FILE", "STATE", "EPOCH", "MAP50-95", "SIZE", "SHA256", "ATTEMPT", "LINE", "NOTE")
_HASH_CHARACTERS = 12
_STARTS = {
    "resume": "the next start goes on from {file}, after epoch {epoch}",
    "finish": "the next start only finishes the training, from {file}",
    "finished": "all epochs were trained: nothing is left to start",
    "fresh": "the next start begins from the beginning: no checkpoint is there",
    "refused": "the next start would be held: {reason}",
}


def list_checkpoints(target: Target, names: Sequence[str], *, as_json: bool) -> None:
    """Show the checkpoints of these runs, or of all that are listed by `ls`. Raises NoSuchRun, NoDaemon."""
    source = reading(target)
    wanted = names or [row["id"] for row in source.runs(every=False)["runs"]]
    found = [source.checkpoints(name) for name in wanted]
    if as_json:
        screen.show_json(found[0] if len(names) == 1 else {"version": 1, "runs": found})
        return
    if not found:
        click.echo("no runs")
    for place, view in enumerate(found):
        if place:
            click.echo()
        _show(view)


def _show(view: View) -> None:
    kept = view["kept"]
    copies = "copy" if kept["count"] == 1 else "copies"
    size = f", {format_size(kept['bytes'])}" if kept["count"] else ""
    click.echo(f"{view['id']}  {kept['count'] or 'no'} verified {copies}{size}  {view['directory']}")
    if view["checkpoints"]:
        screen.show_table(_HEADERS, [_row(row, view["line"]) for row in view["checkpoints"]])
    for line in view["lines"]:
        reason = f": {line['reason']}" if line["reason"] else ""
        click.echo(f"line {line['number']} left line {line['parent']} after epoch {line['from_epoch']}{reason}")
    if view["next_start"] is not None:
        click.echo(_start_text(view))


def _row(row: View, line: int) -> list[str]:
    metric, epoch = row["map50_95"], row["epoch"]
    of = f"/{row['epochs']}" if row["epochs"] else ""
    return [
        "*" if row["next"] else " ",
        row["file"],
        row["state"],
        f"{epoch or '?'}{of}" if epoch or row["where"] == "ledger" else "-",
        "-" if metric is None else f"{metric:.3f}",
        format_size(row["size_bytes"] or 0),
        (row["sha256"] or "-")[:_HASH_CHARACTERS],
        str(row["attempt"] or "-"),
        str(row["line"] or "-"),
        row["reason"] or _note(row, line),
    ]


def _note(row: View, line: int) -> str:
    if row["where"] != "ledger" or row["usable"]:
        return ""
    return f"beyond where line {line} begins"


def _start_text(view: View) -> str:
    start = view["next_start"]
    chosen = next((row["file"] for row in view["checkpoints"] if row["next"]), start["path"])
    words = {"file": chosen, "epoch": start["epoch"] or "?", "reason": start["reason"]}
    return _STARTS[start["kind"]].format(**words)
