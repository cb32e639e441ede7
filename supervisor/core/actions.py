"""Things to do, imperative and idempotent, each with a key. They are written to the journal before they are done."""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.core.model import Goal, Job, Progress


class Action(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all actions. The key names it for ever: doing it twice must do no harm."""

    key: str
    run: str = ""


class CheckJob(Action, frozen=True, kw_only=True, tag=True):
    """Parse a job file and check it against this machine. Answered by JobAccepted or JobRefused."""

    path: str
    data: bytes
    revision: str
    owner: int
    note: str = ""


class MarkFile(Action, frozen=True, kw_only=True, tag=True):
    """Leave a trace beside a job file: `what` is refused (text goes to NAME.error), accepted (removes it) or done."""

    path: str
    what: str
    text: str = ""
    revision: str = ""


class Prepare(Action, frozen=True, kw_only=True, tag=True):
    """Make the run directory, write the fence token, choose the checkpoint. Answered by Prepared or PrepareFailed.

    `scratch_allowed`: the run never had a checkpoint that was proven good, so a start from scratch loses nothing.
    `set_aside`: what an older run left under this name is moved aside, not continued. `goal`: what this run on an
    older run's directory is for. `accepted`: the digest of the differences that a person agreed to. `gpus`: how many
    the attempt before had. `origin`: project/name of the run that the job's start_from names. `distrust_from`: the
    epoch from which on no checkpoint is to be used, while an older one is there (0: all may be). `gpu_ids` are the GPUs
    that it will get, `gpu_names` their products where they are known: `check_gpus` if they must be looked at first,
    `test_gpus` if the self-test is to run on them.
    """

    attempt: int
    token: int
    job: Job
    scratch_allowed: bool
    set_aside: bool = False
    goal: Goal | None = None
    accepted: str = ""
    gpus: int = 0
    origin: str = ""
    distrust_from: int = 0
    gpu_ids: tuple[str, ...] = ()
    gpu_names: tuple[str, ...] = ()
    check_gpus: bool = False
    test_gpus: bool = False


class Launch(Action, frozen=True, kw_only=True, tag=True):
    """Start the shim of an attempt, at most once ever. Answered by Launched or LaunchFailed.

    `changes`: train arguments that differ from the job's, because of what went wrong before. `gpu_ids`: what the
    training is shown in CUDA_VISIBLE_DEVICES, UUIDs or indices.
    """

    attempt: int
    token: int
    job: Job
    gpus: tuple[int, ...]
    start: str
    checkpoint: str
    from_epoch: int
    epochs_override: int = 0
    changes: dict[str, Any] = {}
    gpu_ids: tuple[str, ...] = ()


class Keep(Action, frozen=True, kw_only=True, tag=True):
    """Copy the newest checkpoint, verify the copy and enter it in the ledger. Answered by Kept.

    `path` is a copy that the trainer left for us; without one the trainer's own files are looked at.
    """

    attempt: int
    token: int
    job: Job
    path: str = ""


class Compare(Action, frozen=True, kw_only=True, tag=True):
    """Compare the first epoch after a resume with those before. Answered by Compared."""

    attempt: int
    job: Job
    from_epoch: int


class Terminate(Action, frozen=True, kw_only=True, tag=True):
    """End the training. Answered by SignalSent.

    `how`: term (ask the trainer), abort (SIGABRT to the trainer, which leaves its stacks) or kill (its whole tree).
    """

    attempt: int
    how: str
    project: str
    name: str


class Examine(Action, frozen=True, kw_only=True, tag=True):
    """Read what an ended attempt left behind. Answered by Examined."""

    attempt: int
    job: Job
    code: int | None = None
    signal: int | None = None
    moved_at: float = 0.0


class Autopsy(Action, frozen=True, kw_only=True, tag=True):
    """Write down what a hanging attempt does before it is ended, within seconds. Answered by AutopsyDone."""

    attempt: int
    job: Job
    reason: str


class TestGpu(Action, frozen=True, kw_only=True, tag=True):
    """Run the self-test on a GPU that nobody uses, in a job's interpreter. Answered by GpuTested."""

    gpu: str
    python: str
    memory_bytes: int = 0


class TreatGpu(Action, frozen=True, kw_only=True, tag=True):
    """Reset a GPU, reboot the machine, or limit a GPU's power to a share of its default. Answered by GpuTreated.

    Resets and reboots are ordered only where the administrator lets them be done. `share` 1 lifts the limit:
    back to `watts`, which were in force before (0: to the board's default).
    """

    gpu: str
    what: str
    share: float = 1.0
    watts: float = 0.0


class BackUp(Action, frozen=True, kw_only=True, tag=True):
    """Copy a run (`job` None: the journal) to a target, verified there. Answered by BackedUp or BackupFailed.

    `token`: the fence of the run's newest attempt; whoever finds a newer one in the directory stops. `ended`: the run
    is over. `accept`: a person agreed that it holds less than before.
    """

    target: str
    job: Job | None = None
    token: int = 0
    attempt: int = 0
    ended: bool = False
    accept: bool = False
    why: str = ""
    phase: str = ""
    progress: Progress = Progress()


class VerifyBackup(Action, frozen=True, kw_only=True, tag=True):
    """Read files of a target again: those not read for longest, or (`whole`) all. Answered by BackupVerified.

    `expected`: by project/name the snapshot of each run that is believed to lie there; one that is not there (nor a
    newer one) is missing.
    """

    target: str
    whole: bool = False
    expected: dict[str, str] = {}


class Drill(Action, frozen=True, kw_only=True, tag=True):
    """Rehearse a restore: of the run whose `name` and `project` are given, or of any. Answered by Drilled.

    `seed` decides which one, so that it is the same when it is repeated. `pythons`: the interpreters of the runs'
    jobs, by project/name.
    """

    target: str
    project: str = ""
    name: str = ""
    seed: str = ""
    pythons: dict[str, str] = {}


class Restore(Action, frozen=True, kw_only=True, tag=True):
    """Fetch what a run lacks from its newest backup into its directory. Answered by Restored.

    `token`: as of BackUp. `beyond`: a backup is of use only with a checkpoint of a later epoch than that.
    """

    target: str
    job: Job
    token: int = 0
    attempt: int = 0
    beyond: int = 0


class Prune(Action, frozen=True, kw_only=True, tag=True):
    """Carry out the [prune] policy; `at_once`: the disk is filling up, so the trash is emptied too. Answered by Pruned.

    What it looks at is the world as it is then: the policy is read from the configuration.
    """

    by: str = ""
    at_once: bool = False


class Publish(Action, frozen=True, kw_only=True, tag=True):
    """Publish a run's weights with a card, and export them, as its job says. Answered by Published."""

    job: Job
    by: str = ""
    phase: str = ""
    progress: Progress = Progress()
    lineage: tuple[str, ...] = ()


class Announce(Action, frozen=True, kw_only=True, tag=True):
    """Tell one channel. Answered by Announced or AnnounceFailed; retried until then.

    `severity` is page (a person must act), notice or info; a page names one action in `todo`.
    """

    channel: str
    what: str
    severity: str
    title: str
    text: str
    todo: str = ""
    at: float = 0.0
    facts: dict[str, str] = {}


AnyAction = (
    CheckJob | MarkFile | Prepare | Launch | Terminate | Examine | Announce | Keep | Compare | Autopsy | TestGpu
    | TreatGpu | BackUp | VerifyBackup | Drill | Restore | Prune | Publish
)  # fmt: skip
