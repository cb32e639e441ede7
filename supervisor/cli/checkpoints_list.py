"""`checkpoints [NAME]...`: the copies in the ledger and the trainer's own files, and which one the next start takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from supervisor.cli import screen
from supervisor.cli.client import Target, View
from supervisor.cli.offline import reading
from supervisor.units import format_size

_HEADERS = ("", "FILE", "STATE", "EPOCH", "MAP50-95", "SIZE", "SHA256", "ATTEMPT", "LINE", "NOTE")
_HASH_CHARACTERS = 12
_DISPENSABLE = ("SHA256", "ATTEMPT", "LINE", "NOTE")  # on a narrow terminal, in this order
_LEAST_FILE = 8
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
        _show_table([_row(row, view["line"]) for row in view["checkpoints"]])
    for line in view["lines"]:
        reason = f": {line['reason']}" if line["reason"] else ""
        click.echo(f"line {line['number']} left line {line['parent']} after epoch {line['from_epoch']}{reason}")
    if view["next_start"] is not None:
        click.echo(_start_text(view))


def _show_table(rows: Sequence[Sequence[str]]) -> None:
    """The columns for which there is room; notes that were left out or cut come below."""
    columns = [dict(zip(_HEADERS, row, strict=True)) for row in rows]
    shown = _columns_with_room(columns)
    room = _room_for_file(columns, shown)
    for row in columns:
        row["FILE"] = screen.end_of(row["FILE"], room)
    cells = [[row[name] for name in shown] for row in columns]
    shortened = screen.show_table(shown, cells, whole_in_pipes=True)
    for place, whole in enumerate(rows):
        if whole[-1] and ("NOTE" not in shown or place in shortened):
            click.echo(f"{whole[_HEADERS.index('FILE')]}: {whole[-1]}")


def _columns_with_room(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """All columns in a pipe; on a terminal those that fit, so that no number is ever cut."""
    shown = list(_HEADERS)
    for name in _DISPENSABLE:
        if not screen.on_terminal() or _width(rows, shown) <= screen.width():
            break
        shown.remove(name)
    return shown


def _width(rows: Sequence[Mapping[str, str]], shown: Sequence[str]) -> int:
    """Columns of the terminal that a table takes at least."""
    widths = [max(map(screen.columns, (name, *(row[name] for row in rows)))) for name in shown[:-1]]
    return sum(widths) + screen.GAP * len(widths) + screen.LEAST_LAST


def _room_for_file(rows: Sequence[Mapping[str, str]], shown: Sequence[str]) -> int:
    longest = max(screen.columns(row["FILE"]) for row in rows)
    return max(_LEAST_FILE, longest - max(0, _width(rows, shown) - screen.width())) if screen.on_terminal() else longest


def _row(row: View, line: int) -> list[str]:
    metric, epoch = row["map50_95"], row["epoch"]
    of = f"/{row['epochs']}" if row["epochs"] else ""
    return [
        "*" if row["next"] else " ",
        screen.escaped(row["file"]),
        row["state"],
        f"{epoch or '?'}{of}" if epoch or row["where"] == "ledger" else "-",
        "-" if metric is None else f"{metric:.3f}",
        format_size(row["size_bytes"] or 0),
        (row["sha256"] or "-")[:_HASH_CHARACTERS],
        str(row["attempt"] or "-"),
        str(row["line"] or "-"),
        _note(row, line),
    ]


def _note(row: View, line: int) -> str:
    if row["reason"] and row["state"] != "resumable":  # how far that one is, EPOCH says
        return str(row["reason"])
    return f"beyond where line {line} begins" if row["where"] == "ledger" and not row["usable"] else ""


def _start_text(view: View) -> str:
    start = view["next_start"]
    chosen = next((row["file"] for row in view["checkpoints"] if row["next"]), start["path"])
    words = {"file": chosen, "epoch": start["epoch"] or "?", "reason": start["reason"]}
    return _STARTS[start["kind"]].format(**words)
