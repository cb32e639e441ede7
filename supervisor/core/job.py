"""What the user asked for: a job file as frozen values."""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.core.gpus.model import GpuWish


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed attempt is tried again.

    `hang_after_s`: the user's own limit for a training that does not move; None: learned, 0: never. `remedies`: the
    rungs of the ladder that may be taken.
    """

    no_progress: int = 3
    backoff_s: float = 10.0
    backoff_max_s: float = 600.0
    hang_after_s: float | None = None
    remedies: tuple[str, ...] = ("workers", "cache", "checkpoint")


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """How a command job proves that it is finished; every given test must hold."""

    exit: int = 0
    log: str = ""
    file: str = ""


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Which private copies of checkpoints are kept, and whether the hook goes into the training.

    `keep_epochs` is none, all or exponential (the newest, then ever wider gaps).
    """

    keep_last: int = 3
    keep_best: int = 1
    keep_epochs: str = "none"
    hook: bool = True


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A planned change: from this epoch on (counted from 1) the training goes on with other arguments."""

    from_epoch: int
    args: dict[str, Any]


class StartFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Where a new job begins: at a checkpoint of another run. `weights`: only its weights count, not its state."""

    run: str
    epoch: int | None = None
    weights: bool = False


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """A training that a person started: it is watched, never killed, and resumed when it has died.

    A pid says nothing without the start time (clock ticks since boot), the boot and the pid namespace (its inode, 0
    if unknown) that it was read in.
    """

    pid: int
    start_time: int
    boot_id: str
    pid_namespace: int = 0


class PublishTo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights of a finished run go: a folder or the name of a backup target, and in which formats.

    `name` is a pattern of file names; `include` has best and last; `export` formats of Ultralytics.
    """

    to: str
    name: str = "{project}_{model}_{data}_{epoch}_{metric}.pt"
    include: tuple[str, ...] = ("best", "last")
    export: tuple[str, ...] = ()


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A file system that the job needs, as it was mounted at acceptance: `what` of the job lies below `point`."""

    what: str
    path: str
    point: str
    source: str
    type: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for, parsed and checked against this machine: one revision of one job file."""

    name: str
    revision: str
    project: str = "default"
    title: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    owner: int = 0
    file: str = ""
    python: str = ""
    cwd: str = ""
    priority: int = 0
    gpus: int = 0
    gpu: GpuWish = GpuWish()
    after: tuple[str, ...] = ()
    start_after_at: float | None = None
    time_limit_s: float | None = None
    log_max_bytes: int = 500 * 1024 * 1024
    restart: Restart = Restart()
    notify: tuple[str, ...] | None = None
    env: dict[str, str] = {}
    env_pass: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    train: dict[str, Any] | None = None
    command: tuple[str, ...] = ()
    resume_command: tuple[str, ...] = ()
    checkpoint_files: tuple[str, ...] = ()
    done: Done = Done()
    trainer_version: str = ""
    family: str = ""
    checkpoints: Checkpoints = Checkpoints()
    stages: tuple[Stage, ...] = ()
    start_from: StartFrom | None = None
    adopt: str = ""
    watch: Watch | None = None
    mounts: tuple[Mount, ...] = ()
    backup: tuple[str, ...] | None = None
    publish: PublishTo | None = None

    def train_after(self, epoch: int) -> dict[str, Any] | None:
        """The train arguments with which the epoch after `epoch` complete ones is trained: the stages are in."""
        if self.train is None:
            return None
        due = [stage.args for stage in self.stages if stage.from_epoch <= epoch + 1]
        return {name: value for table in (self.train, *due) for name, value in table.items()}

    @property
    def epochs(self) -> int | None:
        """How many epochs were asked for, where the job file says it."""
        epochs = (self.train or {}).get("epochs")
        return epochs if isinstance(epochs, int) else None
