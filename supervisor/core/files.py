"""What becomes of job files: new ones are checked and become runs, edits become revisions, repeats are refused."""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.core import ancestry, events
from supervisor.core.actions import CheckJob, MarkFile
from supervisor.core.model import FileNote, Job, Phase, Run
from supervisor.core.orders import open_run
from supervisor.core.revisions import resume_differences
from supervisor.core.turn import Turn
from supervisor.errors import Problem


def seen(turn: Turn, event: events.JobFileSeen) -> None:
    """A complete job file: have it checked, unless this content is a run already. A refused one is checked anew."""
    known = turn.world.files.get(event.path)
    settled = known is not None and not known.refused and known.run not in turn.world.ended
    if settled and known is not None and known.revision == event.revision:
        return
    _note(turn, event.path, FileNote(event.revision))
    turn.act(
        CheckJob(
            key=f"check-{turn.number()}",
            path=event.path,
            data=event.data,
            revision=event.revision,
            owner=event.owner,
            note=event.note,
        ),
    )


def gone(turn: Turn, event: events.JobFileGone) -> None:
    """A job file was deleted or moved: its run goes on, and `cancel` is the way to stop it."""
    known = turn.world.files.get(event.path)
    if known is None:
        return
    turn.world = replace(
        turn.world, files={path: note for path, note in turn.world.files.items() if path != event.path}
    )
    run = turn.world.live.get(known.run)
    if run is not None:
        way = f"`yolo-supervisor cancel {run.name}` is the way to stop it"
        text = f"Its job file {event.path} is gone. The run goes on; {way}."
        turn.announce(run, "file-gone", "info", f"{run.name}: job file gone", text)


def refused(turn: Turn, event: events.JobRefused) -> None:
    """A job file that cannot become a run: say why beside it, and tell."""
    known = turn.world.files.get(event.path)
    if known is not None and known.revision == event.revision:
        refuse(turn, event.path, event.revision, event.problem)


def refuse(turn: Turn, path: str, revision: str, problem: str, run: Run | None = None) -> None:
    """Write the reasons beside the file and tell them."""
    _note(turn, path, FileNote(revision, run.id if run is not None else "", problem))
    turn.act(MarkFile(key=f"mark-{turn.number()}", path=path, what="refused", text=problem, revision=revision))
    name = path.rpartition("/")[2]
    todo = f"mend {path} and save it again; the reasons are also in {path}.error"
    turn.announce(run, "refused", "page", f"Job file {name} was refused", problem, todo=todo)


def accepted(turn: Turn, event: events.JobAccepted) -> None:
    """A checked job: a new run, a new revision of a live one, or one too many."""
    known = turn.world.files.get(event.path)
    if known is None or known.revision != event.job.revision:
        return
    newest = turn.world.named(event.job.name)
    problem = _taken_elsewhere(turn, event) or _too_many(turn, event.job)
    if not problem and (newest is None or newest.phase.terminal or newest.attempts == 0):
        problem = ancestry.branch_problem(turn.world, event.job)
    if problem:
        refuse(turn, event.path, event.job.revision, problem)
    elif newest is None:
        _open(turn, event, None)
    elif newest.phase.terminal:
        _after_the_end(turn, event, newest)
    else:
        revise(turn, event, newest)


def _taken_elsewhere(turn: Turn, event: events.JobAccepted) -> str:
    """Why the name or the file belongs to another live run, or nothing."""
    for run in turn.world.live.values():
        if run.job.file == event.path and run.name != event.job.name:
            text, hint = f"this file belongs to the live run {run.name}", "put the new job into a file of its own"
            return Problem(text, key="name", expected=repr(run.name), got=repr(event.job.name), hint=hint).render()
        if (
            run.name == event.job.name
            and run.job.file
            and run.job.file != event.path
            and run.job.file in turn.world.files
        ):
            text, hint = f"the live run of {run.job.file} has this name", f"choose another name, or edit {run.job.file}"
            return Problem(text, key="name", expected="a name of its own", got=repr(run.name), hint=hint).render()
    return ""


def _too_many(turn: Turn, job: Job) -> str:
    limit = turn.world.policy.max_queued_per_owner
    if not limit or turn.world.named(job.name) in turn.world.live.values():
        return ""
    waiting = sum(run.phase is Phase.QUEUED and run.job.owner == job.owner for run in turn.world.live.values())
    return (
        f"{waiting} runs of this owner wait already (queue.max_queued_per_owner = {limit})" if waiting >= limit else ""
    )


def _after_the_end(turn: Turn, event: events.JobAccepted, newest: Run) -> None:
    """The name of an ended run again: the same content never runs twice, another content is a new run."""
    if event.job.revision in {newest.job.revision, newest.next_job.revision if newest.next_job is not None else ""}:
        text = f"exactly this job has run already as {newest.id} ({newest.phase.value})"
        hint = f"`yolo-supervisor retry {newest.name}` runs it again; or change the file"
        refuse(turn, event.path, event.job.revision, Problem(text, hint=hint).render())
    else:
        _open(turn, event, newest)


def _open(turn: Turn, event: events.JobAccepted, predecessor: Run | None) -> None:
    set_aside = predecessor is not None and predecessor.attempts > 0
    reason = "accepted" if not set_aside else "accepted; what an older run of this name left is set aside, not deleted"
    reason = f"{reason}; {event.note}" if event.note else reason
    run = open_run(turn, event.job, reason, predecessor=predecessor, set_aside=set_aside)
    _attach(turn, event, run)
    if event.note:
        turn.announce(run, "odd-file", "notice", f"{run.name}: odd job file", event.note)


def _attach(turn: Turn, event: events.JobAccepted, run: Run) -> None:
    _note(turn, event.path, FileNote(event.job.revision, run.id))
    turn.act(MarkFile(key=f"mark-{turn.number()}", path=event.path, what="accepted", revision=event.job.revision))


def revise(turn: Turn, event: events.JobAccepted, run: Run) -> None:
    """An edited file of a live run: replaces it before its first attempt; later only what a resume may change."""
    if event.job.owner != run.job.owner:
        text = f"the live run {run.name} belongs to another user"
        refuse(turn, event.path, event.job.revision, Problem(text, key="name", hint="choose another name").render())
        return
    if run.job.revision == event.job.revision:
        turn.put(replace(run, job=replace(run.job, file=event.path), next_job=None))
        _attach(turn, event, turn.world.live[run.id])
        return
    if run.attempts == 0 or (run.set_aside and run.attempt is None):
        turn.put(
            replace(
                run,
                job=event.job,
                next_job=None,
                priority=event.job.priority,
                reason="its job file was edited before the first start",
            )
        )
        _attach(turn, event, turn.world.live[run.id])
        return
    changed, problems = resume_differences(run.job, event.job)
    if problems:
        text = "\n".join(problem.render() for problem in problems)
        refuse(turn, event.path, event.job.revision, f"{text}\n  the run {run.name} goes on unchanged", run)
        return
    run = turn.put(replace(run, next_job=event.job, priority=event.job.priority))
    _attach(turn, event, run)
    text = f"{', '.join(changed) or 'Nothing that matters'} changed in the job file: takes effect at the next attempt."
    turn.announce(run, "revised", "info", f"{run.name}: new revision", text)


def _note(turn: Turn, path: str, note: FileNote) -> None:
    turn.world = replace(turn.world, files={**turn.world.files, path: note})
