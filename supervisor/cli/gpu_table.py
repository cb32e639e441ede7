"""The list of GPUs for a person: a headline, a table that fits the terminal, what is wrong, and who waits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import click

from supervisor.cli import gpu_values, screen
from supervisor.cli.client import View
from supervisor.cli.gpu_values import percent, text, whole
from supervisor.cli.screen import duration_text

COLOURS = {
    "free": "green",
    "busy": "cyan",
    "held": "yellow",
    "resting": "yellow",
    "draining": "yellow",
    "drained": "yellow",
    "testing": "yellow",
    "quarantined": "magenta",
    "hot": "red",
    "unreadable": "red",
    "failing": "red",
    "reset-needed": "red",
    "reboot-needed": "red",
    "unresponsive": "red",
    "unreachable": "red",
    "missing": "red",
    "lost": "red",
}
_QUIET = ("free", "busy", "resting")
_HEADERS = ("GPU", "NAME", "STATE", "TEMP", "POWER", "MEMORY", "LOAD", "RUN")
_LIVE = frozenset({"TEMP", "POWER", "MEMORY", "LOAD"})
_RIGHT = frozenset({"GPU", "TEMP", "POWER", "LOAD"})
# dropped one after the other until the table fits; without the power a temperature tells enough
_DISPENSABLE = ("NAME", "POWER", "LOAD", "TEMP")
_LEAST_RUN = 18
_BAR = 8
_WIDE = 96
_LABEL = 9
HOT_C = 5.0  # degrees below the limit: as the judge warns
WARM_C = 10.0

Cell = tuple[str, str]  # text, style of rich


def show_gpus(view: View) -> None:
    """Write the whole list."""
    click.echo("\n".join(screen.wrapped(_headline(view), "", 0)).strip())
    for line in _driver_lines(view["driver"]):
        click.echo(line)
    if view["gpus"]:
        _show_table(view)
    if view.get("offline"):
        screen.note("no daemon runs: temperatures, memory and load are not live, so they are not shown")
    elif any("stale_s" in cell for gpu in view["gpus"] for cell in gpu["values"].values()):
        screen.note("a value with ? is old: the GPU or its driver has not answered since")
    for gpu in view["gpus"]:
        if gpu["state"] != "unreachable":  # that is said of the driver, once for all
            _show_trouble(gpu)
    for waiting in view["queue"]:
        show_waiting(waiting, view["at"])
    if view["kernel_log"] and not view["kernel_log"].startswith("followed"):
        screen.note(f"kernel log: {view['kernel_log']}")


def show_waiting(waiting: View, now: float) -> None:
    """`truck waits for GPU 3: pid 4242 of alice holds 18 GiB (for 12m now)`."""
    line = f"{waiting['name']} waits for {waiting['text']} (for {duration_text(now - waiting['since_at'])} now)"
    click.echo("\n".join(screen.wrapped(line, "", 0)).strip())


def _headline(view: View) -> str:
    names = list(dict.fromkeys(gpu["name"] for gpu in view["gpus"] if gpu["name"]))
    what = names[0] if len(names) == 1 else "GPU"
    count = f"{len(view['gpus'])} x {what}" if view["gpus"] else "no GPUs"
    version = view["driver"]["version"]
    parts = (count, f"driver {version}" if version else "", view["summary"])
    return ", ".join(filter(None, parts))


def _driver_lines(driver: View) -> Iterator[str]:
    if not driver["words"]:
        return
    told = f": {driver['text']}" if driver["text"] and driver["text"] not in driver["words"] else ""
    yield from screen.wrapped(f"{driver['words']}{told}", "driver", _LABEL)
    if driver["todo"]:
        yield from screen.wrapped(driver["todo"], "you can", _LABEL)


# ---- table
def _show_table(view: View) -> None:
    same_name = len({gpu["name"] for gpu in view["gpus"]}) == 1
    rows = [_cells(gpu, view["at"]) for gpu in view["gpus"]]
    left_out = {"NAME"} if same_name else set()
    left_out |= _LIVE if view.get("offline") else set()
    headers = _columns_with_room(rows, [name for name in _HEADERS if name not in left_out])
    table = [[row[name] for name in headers] for row in rows]
    if screen.on_terminal():
        _rich_table(headers, table)
        return
    plain = [list(headers), *[[cell for cell, _ in row] for row in table]]
    widths = [max(screen.columns(row[place]) for row in plain) for place in range(len(headers) - 1)]
    click.echo("\n".join(screen.aligned(plain, widths)))


def _columns_with_room(rows: Sequence[dict[str, Cell]], headers: list[str]) -> list[str]:
    """All columns in a pipe; on a terminal those that fit beside what runs there."""
    room = screen.width() if screen.on_terminal() else sys.maxsize
    for name in _DISPENSABLE:
        if _width(rows, headers) <= room:
            break
        headers = [one for one in headers if one != name]
    return headers


def _width(rows: Sequence[dict[str, Cell]], headers: Sequence[str]) -> int:
    """Columns of the terminal that the table takes at least."""
    widths = [max(screen.columns(cell) for cell in (name, *(row[name][0] for row in rows))) for name in headers[:-1]]
    return sum(widths) + screen.GAP * len(widths) + _LEAST_RUN


def _cells(gpu: View, now: float) -> dict[str, Cell]:
    values = gpu["values"]
    if gpu_values.failed(values):  # said once is enough
        values = {name: {"unknown": True} for name in values} | {"temperature_c": values["temperature_c"]}
    return {
        "GPU": (str(gpu["index"]), "bold"),
        "NAME": (gpu["name"] or "-", ""),
        "STATE": (state_text(gpu), COLOURS.get(gpu["state"], "")),
        "TEMP": (text(values["temperature_c"], whole(" °C")), _heat(gpu)),
        "POWER": (_pair(values["power_w"], values["power_limit_w"], whole(), " W"), ""),
        "MEMORY": (_memory(values), ""),
        "LOAD": (text(values["gpu_utilization"], percent), ""),
        "RUN": (_run_text(gpu, now), ""),
    }


def state_text(gpu: View) -> str:
    """`lost, in quarantine`: what is worse than quarantine does not hide it."""
    held = gpu["quarantine"] is not None and gpu["state"] not in {"quarantined", "testing"}
    return f"{gpu['state']}, in quarantine" if held else str(gpu["state"])


def _heat(gpu: View) -> str:
    margin = gpu_values.number(gpu["values"]["margin_c"])
    if gpu["state"] == "hot" or (margin is not None and margin <= HOT_C):
        return "red"
    return "yellow" if margin is not None and margin <= WARM_C else ""


def _pair(part: gpu_values.Cell, of: gpu_values.Cell, form: Callable[[float], str], unit: str) -> str:
    """`287/350 W`, `?` behind what is old."""
    value, total = gpu_values.number(part), gpu_values.number(of)
    if value is None:
        return text(part, form)
    limit = f"/{total:.0f}" if total is not None and unit != " GiB" else f"/{form(total)}" if total is not None else ""
    return f"{form(value)}{limit.removesuffix('.0')}{unit}" + ("?" if gpu_values.is_old(part) else "")


def _memory(values: View) -> str:
    """`██████▏  36.1/48 GiB`; the bar only for people with room for it."""
    used, total = values["memory_used_bytes"], values["memory_total_bytes"]
    filled = gpu_values.share(used, total)
    numbers = _pair(used, total, gpu_values.gibibytes, " GiB")
    with_bar = filled is not None and screen.on_terminal() and screen.width() >= _WIDE
    return f"{gpu_values.bar(filled or 0.0, _BAR)} {numbers:>13}" if with_bar else numbers


def _run_text(gpu: View, now: float) -> str:
    """Who has it, or why nobody gets it."""
    runs = [f"{lease['name']} for {duration_text(now - lease['since_at'])}" for lease in gpu["leases"]]
    why = screen.flat(gpu["why"]) if gpu["state"] not in {"free", "busy", "unreachable"} else ""
    return "; ".join([*runs, *([why] if why else ())])


def _rich_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = screen.colourful()
    widths = [
        max(screen.columns(one) for one in (name, *(row[place][0] for row in rows)))
        for place, name in enumerate(headers[:-1])
    ]
    shown = Table(box=None, pad_edge=False, padding=(0, screen.GAP, 0, 0), header_style="bold" if colours else "")
    for header, size in zip(headers, [*widths, screen.room_left(widths)], strict=True):
        shown.add_column(header, width=size, no_wrap=True, justify="right" if header in _RIGHT else "left")
    for row in rows:
        cells = [*row[:-1], (screen.cut(row[-1][0], screen.room_left(widths)), row[-1][1])]
        shown.add_row(*[Text(cell, style=style if colours else "") for cell, style in cells])
    Console(no_color=not colours, highlight=False, width=screen.width()).print(shown)


# ---- what is wrong
def _show_trouble(gpu: View) -> None:
    """In full what is wrong with a GPU and what can be done; findings that do not keep it from being used too."""
    name = f"GPU {gpu['index']}"
    for label, line in trouble(gpu):
        told = f"{gpu['words']}: {line}" if label == "why" else line
        for shown in screen.wrapped(told.removesuffix(": "), "you can" if label == "you can" else name, _LABEL):
            click.echo(shown)


def trouble(gpu: View) -> Iterator[tuple[str, str]]:
    """Lines, as (why, finding or you can, text); nothing for a GPU that is well."""
    if gpu["state"] not in _QUIET:
        yield "why", gpu["why"]
        if gpu["todo"]:
            yield "you can", gpu["todo"]
    for finding in gpu["findings"]:
        if finding["text"] not in gpu["why"] or gpu["state"] in _QUIET:
            yield "finding", finding["text"] or finding["title"]
            if finding["todo"] and finding["todo"] != gpu["todo"]:
                yield "you can", finding["todo"]
