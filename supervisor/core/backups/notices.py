"""What people are told of backups, restores, disks, prunings and publications."""

from __future__ import annotations

from supervisor.core import events
from supervisor.core.backups import causes
from supervisor.core.backups.model import Target
from supervisor.core.model import Run
from supervisor.core.turn import Turn
from supervisor.core.words import duration


def troubled(turn: Turn, target: Target, wait_s: float) -> None:
    """Nothing can be sent to a target."""
    kind = causes.kind(target.cause)
    text = f"{target.said}. Nothing is sent there before a try succeeds; the next one is in {duration(wait_s)}"
    since = f", nothing has arrived since {duration(turn.now - target.ok_at)}" if target.ok_at else ""
    where = next((one.to for one in turn.world.policy.backups if one.name == target.name), "")
    todo = causes.todo(target.cause, target.name, where)
    severity = "page" if todo else "notice"
    turn.announce(
        None, "backup-failed", severity, f"Backup target {target.name} {kind.means}", f"{text}{since}.", todo=todo
    )


def well(turn: Turn, target: Target) -> None:
    """A target that people were told of works again."""
    lasted = duration(turn.now - target.failing_since) if target.failing_since else "a while"
    text = f"It could not be used for {lasted}; what is due is sent now."
    turn.announce(None, "backup-ok", "info", f"Backup target {target.name} works again", text)


def another_vault(turn: Turn, target: Target) -> None:
    """The folder of a target was exchanged or emptied."""
    text = (
        "Its folder is not the one that was there before: nothing of what was backed up lies in it. All is sent anew."
    )
    todo = f"if that was not meant, look what is mounted at backup target {target.name}"
    turn.announce(None, "another-vault", "page", f"Backup target {target.name} is another one", text, todo=todo)


def unbacked(turn: Turn, run: Run, event: events.BackupFailed) -> None:
    """A run cannot be backed up, for a reason of its own."""
    kind = causes.kind(event.cause)
    severity = "page" if kind.page else "notice"
    todo = kind.todo.replace("NAME", run.name)
    title = f"{run.name}: its backup to {event.target} {kind.means}"
    backed = run.backups.get(event.target)
    last = f"The last backup there is of epoch {backed.epoch}." if backed is not None else "There is none of it there."
    turn.announce(run, "unbacked", severity, title, f"{event.text}. {last}", todo=todo)


def state_unbacked(turn: Turn, event: events.BackupFailed) -> None:
    """The journal cannot be backed up: a new server would know the checkpoints, and nothing of the jobs."""
    kind = causes.kind(event.cause)
    title = f"The journal's backup to {event.target} {kind.means}"
    todo = "look at the disk of [server] state_dir: a journal that cannot be read may be damaged"
    text = f"{event.text}. The runs are backed up all the same."
    turn.announce(None, "state-unbacked", "page", title, text, todo=todo)


def backed_up_after_all(turn: Turn, run: Run, event: events.BackedUp) -> None:
    """What could not be backed up, is."""
    text = f"Epoch {event.epoch} lies there, verified." if event.epoch else "All its files lie there, verified."
    turn.announce(run, "backed-up", "info", f"{run.name} is backed up to {event.target} again", text)


def damaged(turn: Turn, target: Target, paths: tuple[str, ...]) -> None:
    """Files on a target are not what was stored there."""
    shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    text = f"Read again and found damaged: {shown}. What is still here of these runs is sent anew."
    todo = f"look at the disk of backup target {target.name}: bytes that were once right there are not any more"
    turn.announce(None, "backup-damaged", "page", f"Backup target {target.name} has damaged files", text, todo=todo)


def unproven(turn: Turn, target: Target, event: events.Drilled) -> None:
    """A rehearsed restore did not work."""
    proven = f" The last one that worked was {duration(turn.now - target.proven_at)} ago." if target.proven_at else ""
    text = f"{event.run}: {event.text}.{proven}"
    if event.unable:
        title = f"No restore from {target.name} is proven: its checkpoint could not be loaded here"
        turn.announce(None, "unproven", "notice", title, text)
        return
    todo = f"look at `yolo-supervisor backup verify {target.name}` and at the text above"
    turn.announce(None, "unproven", "page", f"A restore from {target.name} did not work", text, todo=todo)


def proven_again(turn: Turn, target: Target, event: events.Drilled) -> None:
    """A rehearsed restore works again."""
    text = f"{event.run} was restored at epoch {event.epoch}, into a scratch folder, and loaded."
    turn.announce(None, "proven", "info", f"A restore from {target.name} works again", text)


def restored(turn: Turn, run: Run, event: events.Restored) -> None:
    """A run goes on from a backup."""
    text = f"Its own checkpoints were gone or damaged: epoch {event.epoch} came from backup target {event.target}."
    turn.announce(run, "restored", "notice", f"{run.name} goes on from its backup", text)


def unrestored(turn: Turn, run: Run, event: events.Restored) -> None:
    """A backup was of no help: the run does what it would have done without."""
    text = f"Its own checkpoints are gone or damaged, and backup target {event.target} was of no help: {event.text}."
    turn.announce(run, "unrestored", "notice", f"{run.name} could not be fetched from its backup", text)


def waits_for_target(turn: Turn, run: Run, reason: str) -> None:
    """A run cannot go on before a target answers."""
    todo = f"bring the target back; without its [[backup]] in the configuration {run.name} goes on with what is here"
    turn.announce(run, "waits-restore", "page", f"{run.name} waits for its backup", reason, todo=todo)


def disk(turn: Turn, title: str, text: str, *, page: bool, todo: str) -> None:
    """A file system is filling up, is full, or has room again."""
    turn.announce(None, "disk", "page" if page else "notice", title, text, todo=todo)


def pruned(turn: Turn, event: events.Pruned, text: str) -> None:
    """The policy was carried out."""
    del event
    turn.announce(None, "pruned", "info", "Old runs were pruned", text)


def published(turn: Turn, run: Run, event: events.Published, text: str) -> None:
    """Weights were published, or could not be."""
    if event.ok:
        turn.announce(run, "published", "info", f"{run.name} is published", text)
    else:
        todo = f"mend what the text says, then `yolo-supervisor publish {run.name}`"
        turn.announce(run, "unpublished", "page", f"{run.name} could not be published", text, todo=todo)
