"""What the daemon makes of failing GPUs: each fault goes from a fake driver or the kernel log to a training that runs.

    python -m benchmarks.gpu_faults [--json] [--only NAME …] [--quick] [--at-once 3]

The faults are those of the tests. What is expected of each: what must be on record, how the GPU stands afterwards, what
becomes of the training, and of what it is said to have died. `ended_s` is the time from the fault to the end of the
attempt, with the grace that the training is given to leave by itself. Exit code 1 if anything is not as expected.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.figures import VERSION, percentile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

import pytest  # noqa: E402 -- its tests say what this machine lacks
from gpu_fault_list import BY_NAME, GPU_FAULTS  # noqa: E402 -- found through the line above
from gpu_faults import AT_ONCE, GRACE, GpuFault, GpuMet, meet  # noqa: E402

Row = dict[str, Any]


def main() -> int:
    """Let the chosen faults happen, and say what came of them."""
    options = _options()
    before = machine.facts()
    faults = _chosen(options)
    with (
        contextlib.redirect_stdout(sys.stderr),  # what a daemon said that failed is no result
        tempfile.TemporaryDirectory(prefix="gpu-faults-") as folder,
        ThreadPoolExecutor(options.at_once) as threads,
    ):
        rows = list(threads.map(lambda fault: _row(fault, Path(folder)), faults))
    summary = _summary(rows)
    shown = {"version": VERSION, "machine": before, **summary, "rows": rows}
    print(json.dumps(shown, indent=2, ensure_ascii=False) if options.json else f"{_table(rows)}\n\n{_words(summary)}")
    return int(bool(summary["failed"]))


def _chosen(options: argparse.Namespace) -> Sequence[GpuFault]:
    if options.only:
        return [BY_NAME[name] for name in options.only]
    return [fault for fault in GPU_FAULTS if fault.quick or not options.quick]


def _row(fault: GpuFault, folder: Path) -> Row:
    expected = {"found": list(fault.found), "gpu": fault.gpu, "job": fault.job, "cause": fault.cause}
    about = {"scenario": fault.name, "compound": fault.compound, "expected": expected}
    try:
        met = meet(fault, folder / fault.name)
    except pytest.skip.Exception as reason:
        row: Row = {**about, "left_out": str(reason), "as_expected": False, "differs": ""}
    except Exception as error:  # noqa: BLE001 - the other faults are wanted all the same
        traceback.print_exc()
        row = {**about, "left_out": "", "as_expected": False, "differs": f"{type(error).__name__}: {error}"[:500]}
    else:
        row = {**about, "left_out": "", "as_expected": met.as_expected, "differs": met.differences(), **_seen(met)}
    state = (
        "left out" if row["left_out"] else "as expected" if row["as_expected"] else f"NOT as expected: {row['differs']}"
    )
    print(f"{fault.name}: {state}", file=sys.stderr, flush=True)
    return row


def _seen(met: GpuMet) -> Row:
    return {
        "found": list(met.found),
        "gpu": met.gpu,
        "job": met.job,
        "cause": met.cause,
        "attempts": met.attempts,
        "found_s": None if met.found_s is None else round(met.found_s, 3),
        "ended_s": None if met.ended_s is None else round(met.ended_s, 3),
        "took_s": round(met.took_s, 1),
    }


def _summary(rows: Sequence[Row]) -> Row:
    """Counts, and the times of those scenarios in which the daemon acted on what happened that moment."""
    made = [row for row in rows if not row["left_out"]]
    found, ended = ([row[name] for row in made if row.get(name) is not None] for name in ("found_s", "ended_s"))
    return {
        "scenarios": len(made),
        "compound": sum(row["compound"] for row in made),
        "passed": sum(row["as_expected"] for row in made),
        "failed": [{"scenario": row["scenario"], "differs": row["differs"]} for row in made if not row["as_expected"]],
        "left_out": [{"scenario": row["scenario"], "why": row["left_out"]} for row in rows if row["left_out"]],
        "grace": GRACE,
        "seconds": {"found": _times(found), "ended": _times(ended), "of_xids_ended": _times(_of_xids(made))},
    }


def _of_xids(rows: Sequence[Row]) -> list[float]:
    """From an Xid's line to the end of the attempt, where nothing else was in the way."""
    xids = [
        row for row in rows if not row["compound"] and any(word.startswith("xid ") for word in row["expected"]["found"])
    ]
    return [row["ended_s"] for row in xids if row.get("ended_s") is not None]


def _times(values: Sequence[float]) -> Row:
    if not values:
        return {"count": 0, "median": None, "p95": None, "max": None}
    median, most = percentile(values, 0.5), percentile(values, 0.95)
    return {"count": len(values), "median": median, "p95": most, "max": max(values)}


# ---- for people
def _table(rows: Sequence[Row]) -> str:
    cells = [("scenario", "on record", "GPU", "training", "cause", "ended", ""), *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(7)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cells(row: Row) -> tuple[str, str, str, str, str, str, str]:
    if "gpu" not in row:
        return row["scenario"], "-", "-", "-", "-", "-", row["left_out"] or row["differs"][:100]
    ended = "-" if row["ended_s"] is None else f"{row['ended_s']:.2f} s"
    wrong = "" if row["as_expected"] else f"NOT as expected: {row['differs'][:160]}"
    on_record = ", ".join(row["expected"]["found"]) or "-"
    return row["scenario"], on_record, row["gpu"], row["job"], row["cause"] or "-", ended, wrong


def _words(summary: Row) -> str:
    ended = summary["seconds"]["ended"]
    times = (
        f"attempts ended after {ended['median']:.2f} s (median), {ended['max']:.2f} s (worst)" if ended["count"] else ""
    )
    made = f"{summary['passed']} of {summary['scenarios']} as expected, {summary['compound']} of them compound"
    return "\n".join(filter(None, (made, times)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--only", nargs="+", choices=sorted(BY_NAME), metavar="NAME", help="only these scenarios")
    parser.add_argument("--quick", action="store_true", help="a dozen of them: to see that it works, not to quote")
    parser.add_argument(
        "--at-once", type=int, default=AT_ONCE, metavar="N", help=f"so many at a time (default {AT_ONCE})"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
