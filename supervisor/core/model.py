"""What the supervisor knows: jobs, runs, attempts and the world. Frozen values, replaced and never changed."""

from __future__ import annotations

from enum import Enum

import msgspec

from supervisor.core.backups.events import Spot
from supervisor.core.backups.model import Backed, Target, TargetPolicy
from supervisor.core.diagnosis.evidence import Change, Incident, Spent
from supervisor.core.gpus.model import Driver, Gpu, GpuPolicy
from supervisor.core.job import Job


class Phase(str, Enum):
    """Where a run stands. The names are the contract's."""

    QUEUED = "QUEUED"
    PREPARING = "PREPARING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    COOLING = "COOLING"
    HELD = "HELD"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """True for phases that are never left."""
        return self in _TERMINAL

    @property
    def needs_deadline(self) -> bool:
        """True for phases that something outside must end, so that a lost event is noticed."""
        return not self.terminal and self not in {Phase.QUEUED, Phase.HELD}


_TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})


class Wanted(str, Enum):
    """What a person asked of the run, apart from where it stands."""

    UP = "up"
    DOWN = "down"
    HELD = "held"


class Boot(msgspec.Struct, frozen=True):
    """One life of the machine (or container): the kernel's boot id and the start time of pid 1 in clock ticks."""

    boot_id: str = ""
    pid1_start_time: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the training is, as last written to the journal. Epochs count from 1 here, as people count."""

    epoch: int = 0
    epochs: int = 0
    saved_epoch: int = 0
    losses: dict[str, float] = {}
    metrics: dict[str, float] = {}
    epoch_s: float = 0.0
    eta_s: float | None = None
    at: float = 0.0


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of the training process for a run.

    `gpu_ids` are the UUIDs of its GPUs (their indices where nobody watches GPUs), `gpus` their indices in PCI order.
    `gpu_fault`: the cause that an error of one of them is (at `gpu_fault_at`), `gpu_text` the words of the driver,
    `gpu_blamed` its UUID. `gpu_hint`: the same of an error that a program causes itself. `oom_text`: the kernel's words
    when it killed it.
    """

    number: int
    token: int
    revision: str = ""
    gpus: tuple[int, ...] = ()
    gpu_ids: tuple[str, ...] = ()
    gpu_fault: str = ""
    gpu_fault_at: float = 0.0
    gpu_hint: str = ""
    gpu_blamed: str = ""
    oom_text: str = ""
    gpu_text: str = ""
    boot: Boot = Boot()
    start: str = ""
    checkpoint: str = ""
    from_epoch: int = 0
    pid: int = 0
    shim_pid: int = 0
    launches: int = 0
    refused_launches: tuple[str, ...] = ()
    kills: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    code: int | None = None
    signal: int | None = None
    cleared: bool = False
    examined: bool = False
    confirmed: bool = False
    epochs_override: int = 0
    compared: bool = False
    moved_at: float = 0.0
    autopsy: str = ""

    @property
    def watched(self) -> bool:
        """True for a person's training that is only watched: nothing may end it."""
        return self.start == "watch"

    @property
    def over(self) -> bool:
        """True when nothing of this attempt is left and everything about its end is known."""
        return self.cleared and self.examined


class StopOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt is being ended, how, and which phase follows.

    `cause`: the attempt failed with this cause, as `seen` says, while it still lived, and that was known at `seen_at`:
    it hung, or (`of_gpu`) a GPU failed under it. Its remedy decides what follows, unless somebody ordered something
    else than to go on.
    """

    how: str
    then: Phase
    by: str
    reason: str
    limit: bool = False
    cause: str = ""
    seen: str = ""
    seen_at: float = 0.0
    of_gpu: bool = False

    @property
    def hung(self) -> bool:
        """True if it is ended because it hung."""
        return bool(self.cause) and not self.of_gpu


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a run on an older run's directory is for: to go back to `epoch` (rewind), or on to `epochs` (extend)."""

    kind: str
    epoch: int = 0
    epochs: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One submission's life until a terminal phase.

    `differences` is the digest of what has changed around it and a person must agree to, `accepted` of what one agreed
    to. `fall_backs` counts resumes from older checkpoints since `peak_epoch`, the highest epoch saved before them.

    What was tried: `spent` says by cause how far its plan is used up (verified progress refills it), `changes` what
    differs from the job file since, `distrust_from` the epoch from which on checkpoints are not to be used,
    `avoided_gpus` which GPUs the next attempt had better not get. `last_failure` is what the last failure was, and
    where, `last_failed_at` when that was known. `kept_anew`: since then a copy without an epoch (`kept_file`) was
    verified. `stalled` says what stands still without being the training's fault, `stalled_todo` what a person can do
    about that. `diverged_from`: the epoch since which no loss is a number, 0 if some are. `incidents`: the newest ones,
    the oldest first.

    `backups`: the newest backup by target, `unbacked`: why there is none newer, as far as people were told.
    `restoring`: the target from which something is to be fetched for it, beyond the epoch `restore_beyond`;
    `restore_key`: that is under way. `restored_from`: targets that were tried since its last launch. `published`: where
    its weights were published, or (not `published_ok`) why not. `archived`: its weights are only in the backup,
    `removed`: its folder was pruned. `began`: one of its own attempts was launched.
    """

    id: str
    job: Job
    phase: Phase
    wanted: Wanted = Wanted.UP
    reason: str = ""
    waiting_for: str = ""
    priority: int = 0
    created_at: float
    phase_since: float
    deadline_at: float | None = None
    attempts: int = 0
    attempt: Attempt | None = None
    progress: Progress = Progress()
    failures: int = 0
    failed_at_epoch: int = 0
    fall_backs: int = 0
    peak_epoch: int = 0
    used_s: float = 0.0
    stop: StopOrder | None = None
    next_job: Job | None = None
    predecessor: str = ""
    set_aside: bool = False
    interruptions: int = 0
    told_waiting: str = ""
    goal: Goal | None = None
    differences: str = ""
    accepted: str = ""
    kept_epoch: int = 0
    keeping: str = ""
    keep_again: bool = False
    keeps: int = 0
    unkept: int = 0
    told_unkept: str = ""
    findings: tuple[str, ...] = ()
    spent: dict[str, Spent] = {}
    changes: tuple[Change, ...] = ()
    distrust_from: int = 0
    avoided_gpus: tuple[str, ...] = ()
    last_failure: str = ""
    last_failed_at: float = 0.0
    kept_file: str = ""
    kept_anew: bool = False
    stalled: str = ""
    stalled_todo: str = ""
    diverged_from: int = 0
    incidents: tuple[Incident, ...] = ()
    backups: dict[str, Backed] = {}
    restoring: str = ""
    restore_key: str = ""
    restore_beyond: int = 0
    began: bool = False
    removed: bool = False
    published_ok: bool = False
    restored_from: tuple[str, ...] = ()
    unbacked: dict[str, str] = {}
    published: str = ""
    archived: bool = False

    @property
    def name(self) -> str:
        """The job's name; one live run carries it."""
        return self.job.name

    @property
    def busy(self) -> bool:
        """True while a process of this run may exist or be about to exist."""
        return self.phase in BUSY or (
            self.attempt is not None and self.attempt.launches > 0 and not self.attempt.cleared
        )


BUSY = frozenset({Phase.PREPARING, Phase.STARTING, Phase.RUNNING, Phase.STOPPING})


class FileNote(msgspec.Struct, frozen=True):
    """What became of a job file: the revision seen last, and the run or the refusal that it led to."""

    revision: str
    run: str = ""
    refused: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the administrator configured, as far as deciding needs it."""

    max_running: int = 0
    max_running_per_owner: int = 0
    max_queued_per_owner: int = 0
    start_gap_s: float = 0.0
    gpu_count: int = 0
    gpu: GpuPolicy = GpuPolicy()
    channels: tuple[str, ...] = ()
    stop_grace_s: float = 60.0
    server: str = ""
    backups: tuple[TargetPolicy, ...] = ()
    prunes: bool = False


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that deciding depends on.

    `gpus` by UUID: all that were ever seen. `told`: what was said once about the server, and when. `kernel_seq` is the
    newest record of the kernel log that was acted upon, of the boot `kernel_boot`. `targets`: of backups, by name;
    `spots`: file systems by a place on them. `pruning`: the key of the pruning that is under way.
    """

    live: dict[str, Run] = {}
    ended: dict[str, Run] = {}
    latest: dict[str, str] = {}
    files: dict[str, FileNote] = {}
    policy: Policy = Policy()
    boot: Boot = Boot()
    booted_at: float = 0.0
    draining: bool = False
    next_token: int = 1
    next_number: int = 1
    last_launch_at: float = 0.0
    gpus: dict[str, Gpu] = {}
    driver: Driver = Driver()
    kernel_seq: int = -1
    kernel_boot: Boot = Boot()
    told: dict[str, float] = {}
    targets: dict[str, Target] = {}
    spots: dict[str, Spot] = {}
    pruning: str = ""
    pruned_at: float = 0.0

    def run(self, run_id: str) -> Run | None:
        """The run with this id, live or ended."""
        return self.live.get(run_id) or self.ended.get(run_id)

    def named(self, name: str) -> Run | None:
        """The newest run that carries this name."""
        return self.run(self.latest.get(name, ""))

    def with_run(self, run: Run) -> World:
        """The world in which `run` stands as given."""
        if run.phase.terminal:
            live = {key: value for key, value in self.live.items() if key != run.id}
            return msgspec.structs.replace(self, live=live, ended={**self.ended, run.id: run})
        return msgspec.structs.replace(self, live={**self.live, run.id: run})

    def with_gpu(self, gpu: Gpu) -> World:
        """The world in which `gpu` stands as given."""
        return msgspec.structs.replace(self, gpus={**self.gpus, gpu.uuid: gpu})

    def without_gpu(self, uuid: str) -> World:
        """The world that has forgotten a GPU."""
        return msgspec.structs.replace(self, gpus={key: gpu for key, gpu in self.gpus.items() if key != uuid})
