"""The figures of the README, measured on this machine.

    python -m benchmarks.daemon [--json] [--minutes 10] [--only exits footprint flood throughput hook] [--quick]

Every measurement starts a daemon of its own in a temporary folder and ends whatever it started.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable

from benchmarks import exits, flood, footprint, hook_cost, machine, throughput
from benchmarks.figures import Figure, as_json, as_table

Measurement = Callable[[argparse.Namespace], list[Figure]]

MEASUREMENTS: dict[str, Measurement] = {
    "exits": lambda options: exits.measure(8 if options.quick else 48),
    "footprint": lambda options: footprint.measure(0.5 if options.quick else options.minutes),
    "flood": lambda options: flood.measure(3 if options.quick else 20),
    "throughput": lambda options: throughput.measure(2, 5) if options.quick else throughput.measure(),
    "hook": lambda options: hook_cost.measure(1, 2) if options.quick else hook_cost.measure(),
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
            figures += MEASUREMENTS[name](options)
        except Exception:  # noqa: BLE001 - the other figures are wanted all the same
            traceback.print_exc()
            failed = True
    print(as_json(figures, before) if options.json else as_table(figures, before))
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the footprint is watched")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--quick", action="store_true", help="few samples: to see that it works, not to quote")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
