"""Everything about one GPU, for a person: how it stands, its numbers, its record for life, what happened last."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from supervisor.cli import screen
from supervisor.cli.client import View
from supervisor.cli.gpu_table import COLOURS, show_waiting, trouble
from supervisor.cli.gpu_values import detail, failed, is_told, number, percent, size, whole
from supervisor.cli.screen import duration_text, time_text

_LABEL = 13
_NOTES = 10  # of the passport; --json has all
_EVENTS = 10
_ROWS = (("remapped_rows", " remapped"), ("retired_pages", " pages retired"))


def show_gpu(view: View) -> None:
    """Write it."""
    state = (
        click.style(view["state"], fg=COLOURS.get(view["state"]), bold=True) if screen.colourful() else view["state"]
    )
    click.echo(f"{view['label']}  {state}")
    for label, line in trouble(view):
        if line:
            _write(label, line)
    for part in (_identity, _use, _numbers, _health, _record):
        for label, line in part(view):
            _write(label, line)
    _show_notes(view)
    _show_history(view)
    for waiting in view["queue"]:
        if re.search(rf"\bGPU {view['index']}\b", waiting["text"]):
            show_waiting(waiting, view["at"])
    if view.get("offline"):
        screen.note("no daemon runs: temperature, power and memory are not live, so they are not shown")


def _write(label: str, line: str) -> None:
    for shown in screen.wrapped(line, label, _LABEL):
        click.echo(shown)


def _identity(view: View) -> Iterator[tuple[str, str]]:
    if view["uuid"]:
        yield "UUID", view["uuid"]
    links = f"NVLink to GPU {', '.join(map(str, view['linked_to']))}" if view["linked_to"] else ""
    node = f"NUMA node {view['numa']}" if view["numa"] is not None else ""
    mode = {True: "persistence mode on", False: "persistence mode off: a start takes longer"}.get(
        view["persistence"], ""
    )
    slot = ", ".join(filter(None, (view["bus_id"] or "", node, links, mode, "MIG on" if view["mig"] else "")))
    if slot:
        yield "slot", slot
    driver = view["driver"]
    told = ", ".join(filter(None, (driver["version"] or "", driver["words"])))
    if told:
        yield "driver", told


def _use(view: View) -> Iterator[tuple[str, str]]:
    for lease in view["leases"]:
        since = time_text(lease["since_at"], view["at"])
        shared = ", shares it" if lease["share"] else ""
        yield "run", f"{lease['name']} attempt {lease['attempt']} since {since} ({lease['phase']}{shared})"
    for holder in view["holders"]:
        used = f" holds {size(holder['used_bytes'])}" if holder["used_bytes"] is not None else ""
        command = f" ({screen.flat(holder['command'])})" if holder["command"] else ""
        yield "others", f"pid {holder['pid']} of {holder['user'] or 'an unknown user'}{command}{used}"
    held, drain = view["quarantine"], view["drain"]
    if held is not None and view["state"] not in {"quarantined", "testing"}:
        yield "quarantine", f"since {time_text(held['since_at'], view['at'])}: {held['reason']}"
    if drain is not None:
        until = f" until {time_text(drain['until_at'], view['at'])}" if drain["until_at"] else ""
        why = f": {drain['reason']}" if drain["reason"] else ""
        yield "drain", f"by {drain['by']} since {time_text(drain['since_at'], view['at'])}{until}{why}"
    if view["power_limited"]:
        yield "power limit", "lowered by the supervisor, because it is too hot"
    if view["reset_when_idle"]:
        yield "reset", f"at the next occasion: {view['reset_when_idle']}"


def _numbers(view: View) -> Iterator[tuple[str, str]]:
    values = view["values"]
    if reason := failed(values):
        yield "values", f"cannot be read ({reason})"
    if view.get("offline") or reason:
        return
    total = number(values["memory_total_bytes"])
    of = f" of {size(total)}" if total and number(values["memory_used_bytes"]) is not None else ""
    yield "memory", detail(values["memory_used_bytes"], size) + of
    yield "temperature", _temperature(values)
    limit = number(values["power_limit_w"])
    of = f" of {limit:.0f} W" if limit and number(values["power_w"]) is not None else ""
    yield "power", detail(values["power_w"], whole(" W" if not of else "")) + of
    load = detail(values["gpu_utilization"], percent)
    slowed = values["throttle"].get("value") or ()
    yield "load", load + (f", slowed by: {', '.join(slowed)}" if slowed else "")
    if view["read_at"]:
        yield "read at", time_text(view["read_at"], view["at"])


def _temperature(values: View) -> str:
    shown = detail(values["temperature_c"], whole(" °C"))
    margin = number(values["margin_c"])
    slowdown = number(values["slowdown_c"])
    if margin is not None:
        return f"{shown}, {abs(margin):.0f} °C {'below' if margin >= 0 else 'over'} its limit"
    return shown + (f", slows down at {slowdown:.0f} °C" if slowdown is not None else "")


def _health(view: View) -> Iterator[tuple[str, str]]:
    values = view["values"]
    if failed(values):
        return
    yield from _told("ECC errors", values, (("ecc_uncorrected", " not corrected"), ("ecc_corrected", " corrected")))
    rows = [detail(values[name], whole(unit)) for name, unit in _ROWS if is_told(values[name])]
    rows += ["one waits for a reset"] if number(values["remap_pending"]) else []
    rows += ["one could not be remapped"] if number(values["remap_failed"]) else []
    if rows:
        yield "memory rows", ", ".join(rows)
    if is_told(values["pcie_width"]):
        yield "PCIe", _pcie(values)
    yield from _told("NVLink", values, (("nvlink_down", " links down"), ("nvlink_errors", " errors")))


def _told(label: str, values: View, parts: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, str]]:
    """Those that the board has, on one line."""
    told = [detail(values[name], whole(unit)) for name, unit in parts if is_told(values[name])]
    if told:
        yield label, ", ".join(told)


def _pcie(values: View) -> str:
    lanes, most = detail(values["pcie_width"], whole()), number(values["pcie_width_max"])
    parts = [f"{lanes} of {most:.0f} lanes" if most else f"{lanes} lanes"]
    if (generation := number(values["pcie_generation"])) is not None:
        most = number(values["pcie_generation_max"])
        parts.append(f"generation {generation:.0f}" + (f" of {most:.0f}" if most else ""))
    if is_told(values["pcie_replays"]):
        parts.append(detail(values["pcie_replays"], whole(" repeats")))
    return ", ".join(parts)


def _record(view: View) -> Iterator[tuple[str, str]]:
    passport = view["passport"]
    counts = (
        ("attempts", "attempt", "attempts"),
        ("failures", "of them failed by it", "of them failed by it"),
        ("quarantines", "quarantine", "quarantines"),
        ("resets", "reset", "resets"),
        ("reboots", "restart of the machine", "restarts of the machine"),
    )
    told = [f"{passport[key]} {one if passport[key] == 1 else many}" for key, one, many in counts if passport[key]]
    told += [f"{duration_text(passport['busy_s'])} of training"] if passport["busy_s"] else []
    told += [f"slowed down for {duration_text(passport['throttled_s'])}"] if passport["throttled_s"] else []
    told += [f"{passport['remapped_rows']} rows remapped"] if passport["remapped_rows"] else []
    since = f"since {time_text(passport['first_seen_at'])}: " if passport["first_seen_at"] else ""
    yield "record", since + (", ".join(told) or "nothing yet")
    for xid in passport["xids"]:
        yield "", f"{xid['count']} x Xid {xid['xid']}: {xid['title']}"


def _show_notes(view: View) -> None:
    notes = view["passport"]["notes"]
    if len(notes) > _NOTES:
        screen.note(f"{len(notes) - _NOTES} older notes are in --json")
    for note in notes[-_NOTES:]:
        run = f" ({note['run']})" if note["run"] else ""
        _write(time_text(note["at"])[5:16], f"{note['what']}{': ' if note['text'] else ''}{note['text']}{run}")


def _show_history(view: View) -> None:
    if not view["history"]:
        return
    click.echo("what was reported last:")
    for event in view["history"][-_EVENTS:]:
        _write(time_text(event["at"])[5:16], event["what"])
