"""The figures about checkpoints, measured on this machine.

    python -m benchmarks.checkpoints [--json] [--only speed corruption loop hook] [--quick]

Files are written to a temporary folder, at most 2 GB at a time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import checkpoint_speed, corruption, hook_throughput, loop_latency, machine
from benchmarks.figures import Figure, as_json, as_table

Measurement = Callable[[Path, bool], list[Figure]]
QUICK_BYTES = 500_000_000

MEASUREMENTS: dict[str, Measurement] = {
    "speed": lambda folder, quick: (
        checkpoint_speed.measure(folder, 3, QUICK_BYTES) if quick else checkpoint_speed.measure(folder)
    ),
    "corruption": lambda folder, quick: corruption.measure(folder, 200 if quick else 2000),
    "loop": lambda folder, quick: (
        loop_latency.measure(folder, 6, QUICK_BYTES) if quick else loop_latency.measure(folder)
    ),
    "hook": lambda folder, quick: hook_throughput.measure(folder, 1, 5) if quick else hook_throughput.measure(folder),
}


def main() -> int:
    """Measure what was asked for; exit code 0 whatever came out, 1 if something could not be measured."""
    options = _options()
    before = machine.facts()
    figures: list[Figure] = []
    failed = False
    for name in options.only or MEASUREMENTS:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="ysb-") as folder:
                figures += MEASUREMENTS[name](Path(folder), options.quick)
        except Exception:  # noqa: BLE001 - the other figures are wanted all the same
            traceback.print_exc()
            failed = True
    print(as_json(figures, before) if options.json else as_table(figures, before))
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--quick", action="store_true", help="few samples: to see that it works, not to quote")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
