"""Which runs and which epochN.pt may go: restic's words over facts. Pure; every decision has its reason.

One directory is one subject: a retry, a rewind or an extension goes on in the directory of the run before it, so the
newest run there speaks for all of them. Nothing is decided for what nobody could look at: it stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from supervisor.core.words import duration

KEEP, DELETE, ARCHIVE = "keep", "delete", "archive"
IN_NO_BACKUP = "in no backup: the newest snapshot on each target must have just this file"
FIRST_MARK = 10  # of exponential: epochs 10, 20, 40, 80 …
REFUSED = (
    "refused: [prune] has no keep_last, keep_best, keep_within or keep_tag: an empty policy would let everything go"
)


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of the runs of a group: what any of these wants, stays. As in restic, a zero wants nothing.

    `keep_last`: so many of the newest finished runs, and as many of the newest unfinished ones (a row of failures
    takes no finished run's place). `keep_best`: so many of the highest mAP50-95. `keep_within_s`: all that ended at
    most so long ago. `keep_tag`: all with one of these tags.
    """

    keep_last: int = 0
    keep_best: int = 0
    keep_within_s: float = 0.0
    keep_tag: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """True if nothing is said: then no run of the group is let go."""
        return not (self.keep_last or self.keep_best or self.keep_within_s or self.keep_tag)

    def __str__(self) -> str:
        """As a person would write them."""
        parts = (
            f"keep_last {self.keep_last}" if self.keep_last else "",
            f"keep_best {self.keep_best}" if self.keep_best else "",
            f"keep_within {duration(self.keep_within_s)}" if self.keep_within_s else "",
            f"keep_tag {', '.join(self.keep_tag)}" if self.keep_tag else "",
        )
        return "; ".join(filter(None, parts))


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """The whole policy. `projects` has those with words of their own; `across`: all others are one group."""

    words: Words = Words()
    projects: dict[str, Words] = {}
    across: bool = False
    keep_epochs: str = "all"
    archive_after_s: float | None = None

    @property
    def empty(self) -> bool:
        """True if it has no keep word at all: it is refused, and nothing goes, no epochN.pt either."""
        return self.words.empty and all(words.empty for words in self.projects.values())

    def of(self, project: str) -> Words:
        """The words that hold for a project."""
        return self.projects.get(project, self.words)


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A file of weights in a run directory; `path` is relative to it. `number`: the N of an epochN.pt, else None.

    `superseded`: the ledger has a verified copy of the same or a later epoch that is not older. `backed`: every backup
    that the run goes to has that very copy, too. `held`: every one has this very file.
    """

    path: str
    bytes: int = 0
    number: int | None = None
    mtime: float = 0.0
    superseded: bool = False
    backed: bool = False
    held: bool = False
    open: bool = False


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A directory, by its newest run. `live`: a run of it has not ended. `finished`: the newest one SUCCEEDED.

    `covered`: what it was at its end lies verified on every target that it is backed up to. `has_copy`: that backup has
    a checkpoint. `lacking`: the path of weights that would go with the directory and that a backup has not; empty if
    there are none. `archived`: it is known that its weights are only there. `starting`: an attempt is being prepared
    just now. `hindrance`: why nothing of it may be touched, for a person; empty if something may.
    """

    id: str
    project: str
    name: str
    phase: str
    tags: tuple[str, ...] = ()
    ended_at: float = 0.0
    metric: float | None = None
    bytes: int = 0
    live: bool = False
    finished: bool = False
    starting: bool = False
    backup_configured: bool = False
    covered: bool = False
    has_copy: bool = False
    lacking: str = ""
    archived: bool = False
    open: bool = False
    hindrance: str = ""
    files: tuple[FileFacts, ...] = ()

    @property
    def path(self) -> str:
        """The directory, relative to the folder of all runs."""
        return f"{self.project}/{self.name}"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a directory (`file` empty) or of one of its weights, and why. `path` is as RunFacts.path."""

    subject: str
    path: str
    action: str
    reason: str
    bytes: int = 0
    file: str = ""


def decide(runs: Sequence[RunFacts], policy: Retention, now: float) -> list[Decision]:
    """One decision for each directory, and one for each of its files of weights, in the order given."""
    wanted = _wanted(runs, policy, now)
    return [one for run in runs for one in _of_run(run, policy, wanted.get(run.path, ""), now)]


def _of_run(run: RunFacts, policy: Retention, wanted: str, now: float) -> Iterator[Decision]:
    action, reason = _of_directory(run, policy, wanted, now)
    yield Decision(subject=run.id, path=run.path, action=action, reason=reason, bytes=run.bytes)
    newest = _newest(run)
    for file in run.files:
        if action == DELETE:
            found = (DELETE, "goes with its run")
        elif file.number is None:
            found = _of_weights(file, reason, archived=action == ARCHIVE)
        else:
            found = _of_epoch(run, policy, file, newest, archived=action == ARCHIVE)
        yield Decision(
            subject=run.id, path=run.path, file=file.path, action=found[0], reason=found[1], bytes=file.bytes
        )


def _of_weights(file: FileFacts, reason: str, *, archived: bool) -> tuple[str, str]:
    if not archived:
        return KEEP, f"stays with its run: {reason}"
    return (ARCHIVE, reason) if file.held else (KEEP, IN_NO_BACKUP)


# ---- directories
def _of_directory(run: RunFacts, policy: Retention, wanted: str, now: float) -> tuple[str, str]:
    held = _held(run, policy)
    if held:
        return KEEP, held
    words = policy.of(run.project)
    if words.empty or wanted:
        kept = wanted or "the policy has no keep word for runs: none is let go"
        archived = _archive(run, policy, now)
        return (ARCHIVE, f"{archived}; {kept}") if archived else (KEEP, _with_archive_hint(run, policy, kept, now))
    if run.backup_configured and not run.covered:
        return KEEP, f"{_unwanted(words)}, but it is not verified in its backup yet"
    if run.backup_configured and run.lacking:
        return KEEP, f"{_unwanted(words)}, but {run.lacking} is in no backup"
    if not run.finished and not run.backup_configured:
        return KEEP, f"{run.phase}: it can be retried, and without a backup its records and last checkpoint stay"
    proof = "; verified in its backup" if run.backup_configured else ""
    return DELETE, f"{_unwanted(words)}; ended {duration(max(0.0, now - run.ended_at))} ago{proof}"


def _held(run: RunFacts, policy: Retention) -> str:
    """Why a directory stays whatever the words say."""
    if policy.empty:
        return REFUSED
    if run.live:
        return f"unfinished: {run.phase}"
    if run.hindrance:
        return run.hindrance
    return "in use: a process has a file of it open" if run.open else ""


def _unwanted(words: Words) -> str:
    return f"no keep word wants it ({words})"


def _archive(run: RunFacts, policy: Retention, now: float) -> str:
    """Why its weights go; empty if they stay."""
    if not _archive_due(run, policy, now) or not (run.backup_configured and run.covered and run.has_copy):
        return ""
    weights = [file for file in run.files if file.number is None]
    if not any(file.held for file in weights) and (run.archived or weights):
        return ""
    return f"archive_after {duration(policy.archive_after_s or 0.0)}: its weights are verified in its backup"


def _archive_due(run: RunFacts, policy: Retention, now: float) -> bool:
    return policy.archive_after_s is not None and now - run.ended_at >= policy.archive_after_s


def _with_archive_hint(run: RunFacts, policy: Retention, kept: str, now: float) -> str:
    if not _archive_due(run, policy, now) or run.archived:
        return kept
    if not run.backup_configured:
        return f"{kept}; not archived: it has no backup"
    if not run.covered:
        return f"{kept}; not archived: it is not verified in its backup yet"
    return f"{kept}; not archived: no weights of it are in its backup"


# ---- restic's words
def _wanted(runs: Sequence[RunFacts], policy: Retention, now: float) -> dict[str, str]:
    """Why a directory stays by the words, for each that does."""
    groups: dict[tuple[str, str], list[RunFacts]] = {}
    for run in runs:
        if not run.live:
            groups.setdefault(_group(run, policy), []).append(run)
    found: dict[str, list[str]] = {}
    for (kind, name), members in groups.items():
        words = policy.projects[name] if kind == "own" else policy.words
        where = "of all projects" if kind == "all" else f"of {name}"
        for path, reason in _wishes(members, words, where, now):
            found.setdefault(path, []).append(reason)
    return {path: "; ".join(reasons) for path, reasons in found.items()}


def _group(run: RunFacts, policy: Retention) -> tuple[str, str]:
    if run.project in policy.projects:
        return ("own", run.project)
    return ("all", "") if policy.across else ("project", run.project)


def _wishes(members: Sequence[RunFacts], words: Words, where: str, now: float) -> Iterator[tuple[str, str]]:
    newest = sorted(members, key=lambda run: (run.ended_at, run.id), reverse=True)
    for finished, what in ((True, "finished"), (False, "unfinished")):
        ranked = [run for run in newest if run.finished is finished]
        for place, run in enumerate(ranked[: words.keep_last], 1):
            yield run.path, f"keep_last {words.keep_last}: number {place} of the {what} runs {where}"
    measured = [run for run in newest if run.metric is not None]
    measured.sort(key=lambda run: run.metric or 0.0, reverse=True)
    for place, run in enumerate(measured[: words.keep_best], 1):
        yield run.path, f"keep_best {words.keep_best}: number {place} {where}, mAP50-95 {run.metric:.4g}"
    for run in newest:
        if words.keep_within_s and now - run.ended_at <= words.keep_within_s:
            ago = duration(max(0.0, now - run.ended_at))
            yield run.path, f"keep_within {duration(words.keep_within_s)}: ended {ago} ago"
        tags = sorted(set(run.tags) & set(words.keep_tag))
        if tags:
            yield run.path, f"keep_tag: {', '.join(tags)}"


# ---- epochN.pt
def _newest(run: RunFacts) -> frozenset[str]:
    """The newest epochN.pt, by number and by time."""
    files = [file for file in run.files if file.number is not None]
    if not files:
        return frozenset()
    by_number = max(files, key=lambda file: (file.number or 0, file.mtime))
    return frozenset({by_number.path, max(files, key=lambda file: file.mtime).path})


def _of_epoch(
    run: RunFacts, policy: Retention, file: FileFacts, newest: frozenset[str], *, archived: bool
) -> tuple[str, str]:
    held = _held_epoch(run, policy, file)
    if held:
        return KEEP, held
    if policy.keep_epochs == "all":
        return KEEP, "keep_epochs = all"
    if archived:
        return ARCHIVE, "goes with the run's weights: a later epoch is verified in its backup"
    if file.path in newest:
        return KEEP, "the newest of its kind always stays"
    if policy.keep_epochs == "exponential" and (mark := _marks(run).get(file.path)):
        return KEEP, f"keep_epochs = exponential: stands for epoch {mark}"
    return DELETE, f"keep_epochs = {policy.keep_epochs}: the ledger has a verified copy of this or a later epoch"


def _held_epoch(run: RunFacts, policy: Retention, file: FileFacts) -> str:
    """Why an epochN.pt stays whatever keep_epochs says."""
    if policy.empty or run.hindrance:
        return REFUSED if policy.empty else run.hindrance
    if run.starting:
        return "an attempt is being prepared just now, and might go on from it"
    if file.open:
        return "in use: a process has it open"
    if not file.superseded:
        return "the ledger has no verified copy of this or a later epoch"
    unproven = run.backup_configured and not file.backed
    return "no copy of this or a later epoch is both in the ledger and in its backup" if unproven else ""


def _marks(run: RunFacts) -> dict[str, int]:
    """By path, for which of the epochs 10, 20, 40, 80 … a file stands: it is the first one from there on."""
    files = sorted((file for file in run.files if file.number is not None), key=lambda file: file.number or 0)
    found: dict[str, int] = {}
    mark = FIRST_MARK
    while files and mark <= (files[-1].number or 0):
        first = next(file for file in files if (file.number or 0) >= mark)
        found.setdefault(first.path, mark)
        mark *= 2
    return found
