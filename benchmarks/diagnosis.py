"""The figures about diagnosis: what a fault is taken for, how soon, and what follows; how sure the hang detector is.

    python -m benchmarks.diagnosis [--json] [--only faults hangs] [--quick]

The faults are those of the tests. Each is made to happen under a real daemon; what needs root is left out without it.
With --quick only the faster ones, and fewer simulated days.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.figures import VERSION, Figure, as_table, percentile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import pytest  # noqa: E402 -- its tests say what this machine lacks
from faults import GROUNDS, Fault, Met, meet  # noqa: E402 -- found through the line above
from toy_fault_list import TOY_FAULTS  # noqa: E402
from ultralytics_fault_list import ULTRALYTICS_FAULTS  # noqa: E402

from tests.sim import hang_watch  # noqa: E402

AT_ONCE = 3
RUN_DAYS, QUICK_RUN_DAYS = 1000, 100
SEED = 7
ENDS = {"SUCCEEDED": "recovered", "HELD": "held", "FAILED": "given up"}

Row = dict[str, Any]


def main() -> int:
    """Measure what was asked for; exit code 0 whatever came out, 1 if something could not be measured."""
    options = _options()
    before = machine.facts()
    rows: list[Row] = []
    figures: list[Figure] = []
    failed = False
    if "faults" in options.only:
        rows = fault_rows([fault for fault in (*TOY_FAULTS, *ULTRALYTICS_FAULTS) if not (options.quick and fault.slow)])
        figures += figures_of(rows)
        failed = any(row["trouble"] and not row["left_out"] for row in rows)
    if "hangs" in options.only:
        _say("simulating healthy trainings and hangs")
        figures += hang_figures(QUICK_RUN_DAYS if options.quick else RUN_DAYS)
    table = f"{_table(rows)}\n\n" if rows else ""
    print(_as_json(rows, figures, before) if options.json else table + as_table(figures, before))
    return int(failed)


# ---- faults
def fault_rows(faults: Sequence[Fault]) -> list[Row]:
    """Let each fault happen, a few at a time on one server; a row for each."""
    rows: list[Row] = []
    for ground in dict.fromkeys(fault.ground for fault in faults):
        chosen = [fault for fault in faults if fault.ground == ground]
        _say(f"{len(chosen)} faults, {ground}")
        try:
            with GROUNDS[ground]() as server, ThreadPoolExecutor(AT_ONCE) as threads:
                rows += threads.map(lambda fault: _row_of(server, fault), chosen)
        except pytest.skip.Exception as reason:
            rows += [{**_row(fault), "left_out": True, "trouble": str(reason)} for fault in chosen]
    return rows


def _row_of(server: Any, fault: Fault) -> Row:
    try:
        met = meet(server, fault)
    except pytest.skip.Exception as reason:
        return {**_row(fault), "left_out": True, "trouble": str(reason)}
    except Exception as error:  # noqa: BLE001 - the other faults are wanted all the same
        traceback.print_exc()
        return {**_row(fault), "trouble": str(error)[:500]}
    return {**_row(fault), **_found(met)}


def _row(fault: Fault) -> Row:
    real = fault in ULTRALYTICS_FAULTS
    nothing = {"detected_as": [], "remedies": [], "after_s": None, "ends": "", "as_expected": False}
    return {"fault": fault.name, "trainer": "real" if real else "toy", **nothing, "left_out": False, "trouble": ""}


def _found(met: Met) -> Row:
    """What the daemon made of it. A stop that somebody asked for is no incident."""
    told = [f"stands still ({met.fault.told})"] if met.fault.told else []
    return {
        "detected_as": [cause for cause, _ in met.incidents] or told,
        "remedies": [step for _, step in met.incidents] or (["left alone"] if told else []),
        "after_s": None if met.seconds is None else round(met.seconds, 2),
        "ends": ENDS.get(met.phase, met.phase),
        "as_expected": met.as_expected,
    }


def figures_of(rows: Sequence[Row]) -> list[Figure]:
    """How many were recognised, and how soon."""
    made = [row for row in rows if not row["left_out"]]
    right = sum(row["as_expected"] for row in made)
    dead = [row["after_s"] for row in made if row["after_s"] is not None and not _stood_still(row)]
    hung = [row["after_s"] for row in made if row["after_s"] is not None and _stood_still(row)]
    share = 100 * right / len(made) if made else float("nan")
    how = "from the fault, or the training's last movement, to the decision on record"
    return [
        Figure(
            "faults with the right cause, remedy and end", share, "%", 100, f"{right} of {len(made)}", at_most=False
        ),
        Figure("decision after a failure, median", percentile(dead, 0.5), "s", None, how),
        Figure("decision after a failure, worst", max(dead, default=float("nan")), "s", None, how),
        Figure("decision about a hang, median", percentile(hung, 0.5), "s", None, f"{how}; limits of 4 to 120 s"),
    ]


def _stood_still(row: Row) -> bool:
    return any(cause.startswith(("hang", "stands still")) for cause in row["detected_as"])


# ---- hangs
def hang_figures(run_days: int) -> list[Figure]:
    """How often a healthy, slow training would be ended, and how many hangs are seen, in simulated days."""
    found = hang_watch.measure(run_days, seed=SEED)
    how = f"{found['run_days']:.0f} simulated run-days with heavy-tailed phases, {found['looks']} looks"
    hangs = f"{found['seen']} of {found['injected']} hangs in them"
    return [
        Figure("healthy trainings ended", found["false_kills"], "", 0, how, details=found),
        Figure("hangs seen", 100 * found["seen_share"], "%", 99, hangs, at_most=False),
        Figure("from hang to verdict, p50", found["delay_p50_s"], "s", None, hangs),
        Figure("from hang to verdict, p95", found["delay_p95_s"], "s", None, hangs),
    ]


# ---- what is shown
def _as_json(rows: Sequence[Row], figures: Sequence[Figure], before: dict[str, Any]) -> str:
    content = {"version": VERSION, "machine": before, "faults": rows, "figures": [one.as_data() for one in figures]}
    return json.dumps(content, indent=2, ensure_ascii=False)


def _table(rows: Sequence[Row]) -> str:
    cells = [("fault", "trainer", "detected as", "after", "remedy", "ends"), *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cells(row: Row) -> tuple[str, str, str, str, str, str]:
    after = "-" if row["after_s"] is None else f"{row['after_s']:.1f} s"
    ends = f"left out: {row['trouble']}" if row["left_out"] else row["ends"] or f"MISSED: {row['trouble'][:100]}"
    ends += "" if row["as_expected"] or row["left_out"] else " (not as expected)"
    causes, remedies = " then ".join(row["detected_as"]) or "-", " then ".join(row["remedies"]) or "-"
    return row["fault"], row["trainer"], causes, after, remedies, ends


def _say(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    parts = ["faults", "hangs"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="NAME", help=", ".join(parts))
    parser.add_argument("--quick", action="store_true", help="few samples: to see that it works, not to quote")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
