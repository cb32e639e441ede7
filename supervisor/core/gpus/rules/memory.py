"""Rules about the memory of a GPU: errors that could not be corrected, too many that were, rows and pages given up."""

from __future__ import annotations

from supervisor.core.gpus.rules.base import Rule, Said, Seen, Verdict, bad_if, between, long


def _uncorrected(seen: Seen) -> Verdict:
    return bad_if(seen.numbers["ecc_uncorrected"] > seen.limits.ecc_uncorrected)


def _say_uncorrected(seen: Seen) -> Said:
    count = seen.numbers["ecc_uncorrected"]
    errors = "memory error that could not be corrected" if count == 1 else "memory errors that could not be corrected"
    return Said(f"{count:,.0f} {errors} since its last reset", {"ecc_uncorrected": count})


def _ecc_rate(seen: Seen) -> Verdict:
    rate, most = seen.numbers["ecc_corrected_per_min"] / 60, seen.limits.ecc_corrected_per_s
    return between(bad=rate > most, good=rate <= most / 2)


def _say_ecc_rate(seen: Seen) -> Said:
    rate, most = seen.numbers["ecc_corrected_per_min"] / 60, seen.limits.ecc_corrected_per_s
    text = f"{rate:,.0f} memory errors corrected a second for {long(seen.seconds)}; {most:,.0f} are too many"
    return Said(text, {"per_s": rate, "seconds": seen.seconds})


def _pending(seen: Seen) -> Verdict:
    return bad_if(seen.numbers["remap_pending"] != 0)


def _say_pending(seen: Seen) -> Said:
    return Said("a bad memory row is replaced at its next reset", {"remap_pending": seen.numbers["remap_pending"]})


def _failed(seen: Seen) -> Verdict:
    return bad_if(seen.numbers["remap_failed"] != 0)


def _say_failed(seen: Seen) -> Said:
    return Said("no spare row was left for a bad memory row", {"remap_failed": seen.numbers["remap_failed"]})


def _rows(seen: Seen) -> Verdict:
    return bad_if(seen.numbers["remapped_rows"] >= seen.limits.remapped_rows)


def _say_rows(seen: Seen) -> Said:
    rows, most = seen.numbers["remapped_rows"], seen.limits.remapped_rows
    return Said(f"{rows:,.0f} memory rows were replaced; {most:,} are too many", {"remapped_rows": rows})


def _pages(seen: Seen) -> Verdict:
    return bad_if(seen.numbers["retired_pages"] >= seen.limits.retired_pages)


def _say_pages(seen: Seen) -> Said:
    pages, most = seen.numbers["retired_pages"], seen.limits.retired_pages
    return Said(f"{pages:,.0f} memory pages were retired; {most:,} are too many", {"retired_pages": pages})


RULES = (
    Rule(
        kind="ecc-uncorrected",
        needs="ecc_uncorrected",
        judge=_uncorrected,
        say=_say_uncorrected,
        quiet_s="state_quiet_s",
        slow=True,
    ),
    Rule(
        kind="ecc-rate",
        needs="ecc_corrected_per_min",
        judge=_ecc_rate,
        say=_say_ecc_rate,
        for_s="ecc_corrected_for_s",
        quiet_s="memory_quiet_s",
        slow=True,
    ),
    Rule(
        kind="remap-pending",
        needs="remap_pending",
        judge=_pending,
        say=_say_pending,
        quiet_s="state_quiet_s",
        slow=True,
    ),
    Rule(kind="remap-failed", needs="remap_failed", judge=_failed, say=_say_failed, quiet_s="state_quiet_s", slow=True),
    Rule(kind="rows-worn", needs="remapped_rows", judge=_rows, say=_say_rows, quiet_s="state_quiet_s", slow=True),
    Rule(kind="pages-worn", needs="retired_pages", judge=_pages, say=_say_pages, quiet_s="state_quiet_s", slow=True),
)
