"""The figures about backups, measured on this machine.

    python -m benchmarks.backup [--json] [--only throughput ssh scan validation training one-core torn] [--quick]
                                [--rounds 5] [--copies 3] [--copy-mb 228] [--saves 200]

Everything is written to a temporary folder ($TMPDIR), about four times --copies x --copy-mb. Ratios are medians of
pairs of one run, in swapped order. Exit code 1 if something could not be measured, if a torn checkpoint was accepted,
or if the bare rsync took too few torn files for that to mean anything; figures of speed never fail it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    backup_scan,
    backup_throughput,
    backup_torn,
    backup_training,
    backup_validation,
    machine,
)
from benchmarks.figures import Figure, as_json, as_table

Measurement = Callable[[Path, argparse.Namespace], list[Figure]]
MB = 1_000_000

MEASUREMENTS: dict[str, Measurement] = {
    "throughput": lambda folder, options: backup_throughput.measure_local(folder, _load(options), options.rounds),
    "ssh": lambda folder, options: backup_throughput.measure_ssh(folder, _load(options), options.rounds),
    "scan": lambda folder, options: backup_scan.measure(folder, options.small_files),
    "validation": lambda folder, options: backup_validation.measure(folder, options.copy_mb * MB),
    "training": lambda folder, options: backup_training.measure(folder, _load(options), options.slices),
    "one-core": lambda folder, options: backup_training.measure_on_one_core(folder, options.slices),
    "torn": lambda folder, options: backup_torn.measure(folder, options.saves),
}
#: Without what takes minutes and has no goal.
USUAL = tuple(name for name in MEASUREMENTS if name != "one-core")


def main() -> int:
    """Measure what was asked for; see the module for the exit code."""
    options = _options()
    before = machine.facts()
    figures: list[Figure] = []
    failed = False
    for name in options.only or USUAL:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="ysb-") as folder:
                figures += MEASUREMENTS[name](Path(folder), options)
        except Exception:  # noqa: BLE001 - the other figures are wanted all the same
            traceback.print_exc()
            failed = True
    print(as_json(figures, before) if options.json else as_table(figures, before))
    return int(failed or any(figure.ok is False for figure in figures if figure.name in backup_torn.MUST_HOLD))


def _load(options: argparse.Namespace) -> backup_throughput.Load:
    return backup_throughput.Load(copies=options.copies, copy_bytes=options.copy_mb * MB)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", action="store_true", help="JSON instead of a table")
    add("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help=", ".join(MEASUREMENTS))
    add("--quick", action="store_true", help="few and small samples: to see that it works, not to quote")
    add("--rounds", type=int, help="pairs of our backup and a bare rsync (default 5, quick 2)")
    add("--copies", type=int, help="checkpoints that are backed up (default 3, quick 2)")
    add("--copy-mb", type=int, help="size of each in MB (default 228, as of a yolo11x; quick 48)")
    add("--small-files", type=int, help="of the unchanged tree (default 20000, quick 2000)")
    add("--slices", type=int, help="backups beside the training (default 8, quick 2)")
    add("--saves", type=int, help="copies of the hot writer's file (default 200, quick 40)")
    given = parser.parse_args()
    for name, usual, quick in (
        ("rounds", 5, 2),
        ("copies", 3, 2),
        ("copy_mb", 228, 48),
        ("small_files", 20_000, 2000),
        ("slices", 8, 2),
        ("saves", 200, 40),
    ):
        if getattr(given, name) is None:
            setattr(given, name, quick if given.quick else usual)
    return given


if __name__ == "__main__":
    sys.exit(main())
