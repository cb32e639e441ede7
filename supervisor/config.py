"""config.toml as frozen values. The struct defaults are the built-in ones; config.example.toml lists them."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from supervisor import (
    backup_config,
    channel_rules,
    config_text,
    gpu_config,
    prune_config,
    toml_errors,
    units,
    user_rules,
)
from supervisor.backup_config import Backup
from supervisor.core.backups.model import TargetPolicy
from supervisor.core.model import Policy
from supervisor.errors import Problem, UserError
from supervisor.gpu_config import Gpu, GpuDefaults, Gpus
from supervisor.hang_config import Hang, Remedies, twice
from supervisor.prune_config import Prune
from supervisor.toml_errors import AbsolutePath, Duration, HangAfter, Interval, Name, Size, Source

if TYPE_CHECKING:
    from supervisor.core.diagnosis.tables import Rule

FILE_NAME = "config.toml"
_UNSET = Path()
_SOCKET_BYTES = 107  # sockaddr_un of Linux holds 108 bytes with the final zero
_NETWORK_FILE_SYSTEMS = re.compile(
    r"(fuse\.)?(nfs\d?|cifs|smb\d?|smbfs|9p|sshfs|lustre|ceph(-fuse)?|glusterfs|beegfs|gpfs|afs|ocfs2|gfs2|orangefs"
    r"|s3fs|rclone|davfs2?|moosefs|juicefs|mergerfs\.nfs)"
)
_OUR_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "gpus",
    "CUDA_DEVICE_ORDER": "gpus",
    "YOLO_CONFIG_DIR": "settings",
}

Text = Annotated[str, msgspec.Meta(max_length=4096, description="a text of at most 4096 characters")]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000, description="a whole number from 0 on")]
KeepLast = Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="a whole number from 1 on")]
KeepEpochs = Literal["none", "all", "exponential"]
Priority = Annotated[int, msgspec.Meta(ge=-100, le=100, description="a whole number from -100 to 100")]
Secret = Annotated[str, msgspec.Meta(description="a text", extra={"secret": True})]


@dataclass(frozen=True)
class Places:
    """Where things lie when the configuration does not say."""

    config: Path
    jobs: Path
    state_dir: Path
    socket: Path


def places(environ: dict[str, str] | None = None, uid: int | None = None) -> Places:
    """Return the system's folders for root, XDG folders for everybody else."""
    environ = dict(os.environ) if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    if uid == 0:
        return _SYSTEM
    home = Path(environ.get("HOME") or Path.home())
    config = _xdg(environ, "XDG_CONFIG_HOME", home / ".config")
    state = _xdg(environ, "XDG_STATE_HOME", home / ".local/state")
    data = _xdg(environ, "XDG_DATA_HOME", home / ".local/share")
    # without a login session there is no XDG_RUNTIME_DIR, and a guessed one may not exist
    runtime = _xdg(environ, "XDG_RUNTIME_DIR", state)
    return Places(config / FILE_NAME, data / "jobs", state, runtime / "socket")


def _xdg(environ: dict[str, str], variable: str, default: Path) -> Path:
    value = environ.get(variable, "")
    if not value.startswith("/"):  # the XDG specification: relative values are ignored
        return default if default.name == "yolo-supervisor" else default / "yolo-supervisor"
    return Path(value) / "yolo-supervisor"


_SYSTEM = Places(
    Path("/etc/yolo-supervisor") / FILE_NAME,
    Path("/var/spool/yolo-supervisor/jobs"),
    Path("/var/lib/yolo-supervisor"),
    Path("/run/yolo-supervisor/socket"),
)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all tables of the configuration."""


class Server(Table, frozen=True, kw_only=True):
    """[server]: who this is, and where it keeps things. An empty name stands for the host's name."""

    name: Text = ""
    state_dir: AbsolutePath = msgspec.field(default_factory=lambda: places().state_dir)
    runs_dir: AbsolutePath = _UNSET
    socket: AbsolutePath = msgspec.field(default_factory=lambda: places().socket)

    def __post_init__(self) -> None:
        """Put the runs below the state directory, unless told otherwise."""
        if self.runs_dir == _UNSET:
            msgspec.structs.force_setattr(self, "runs_dir", self.state_dir / "runs")


class Jobs(Table, frozen=True, kw_only=True):
    """[jobs]: the folder that is watched for job files, and what these may do."""

    folder: AbsolutePath = msgspec.field(default_factory=lambda: places().jobs)
    settle: Duration = 30.0
    rescan: Interval = 10.0
    progress_every: Duration = 86400.0
    allow_root: bool = False
    allow_download: bool = False


class Limits(Table, frozen=True, kw_only=True):
    """[defaults.limits] and a job's `limits`."""

    log_max: Size = 500 * 1024**2


class Restarts(Table, frozen=True, kw_only=True):
    """[defaults.restart] and a job's `restart`."""

    no_progress: Annotated[int, msgspec.Meta(ge=1, le=1000, description="a whole number from 1 to 1000")] = 3
    backoff: Duration = 10.0
    backoff_max: Duration = 600.0
    hang_after: HangAfter = units.AUTO_S
    remedies: Remedies = ("workers", "cache", "checkpoint")


class Checkpoints(Table, frozen=True, kw_only=True):
    """[defaults.checkpoints] and a job's `checkpoints`."""

    keep_last: KeepLast = 3
    keep_best: Count = 1
    keep_epochs: KeepEpochs = "none"
    hook: bool = True


class Defaults(Table, frozen=True, kw_only=True):
    """[defaults]: what a job file may leave out. The values here are the built-in ones."""

    python: AbsolutePath | None = None
    conda: Annotated[str, msgspec.Meta(max_length=255)] = ""
    project: Name = "default"
    priority: Priority = 0
    gpus: Gpus = "auto"
    gpu: GpuDefaults = GpuDefaults()
    time_limit: Duration | None = None
    notify: tuple[Name, ...] | None = None
    backup: tuple[Name, ...] | None = None
    env: dict[str, str] = {}
    env_pass: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    limits: Limits = Limits()
    restart: Restarts = Restarts()
    checkpoints: Checkpoints = Checkpoints()


class Queue(Table, frozen=True, kw_only=True):
    """[queue]: how many trainings may run and wait. 0 is no limit, for max_running: one for each GPU, at least one."""

    max_running: Count = 0
    max_running_per_owner: Count = 0
    max_queued_per_owner: Count = 0
    start_gap: Duration = 0.0
    stop_grace: Duration = 60.0


class Disk(Table, frozen=True, kw_only=True):
    """[disk]: how little free space is too little.

    Below `prune_below` the [prune] policy is carried out at once. Below `pause_below` no job is accepted or started,
    and the least valuable training is paused.
    """

    prune_below: Size = 10 * 1024**3
    pause_below: Size = 2 * 1024**3


class Channel(Table, frozen=True, kw_only=True):
    """[[channel]]: somebody to tell. Address and secret never show in logs."""

    name: Name
    kind: Literal["slack", "webhook"]
    url: Secret
    secret: Secret = ""
    proxy: Secret = ""
    ca_file: AbsolutePath | None = None

    def __repr__(self) -> str:
        """Show everything but the secrets: whoever knows a Slack address may write there."""
        return f"Channel(name={self.name!r}, kind={self.kind!r}, url={redact_url(self.url)!r})"

    def __rich_repr__(self) -> Any:
        """Show in rich what __repr__ shows."""
        yield "name", self.name
        yield "kind", self.kind
        yield "url", redact_url(self.url)


class Config(Table, frozen=True, kw_only=True):
    """The whole configuration."""

    server: Server = msgspec.field(default_factory=Server)
    jobs: Jobs = msgspec.field(default_factory=Jobs)
    defaults: Defaults = Defaults()
    queue: Queue = Queue()
    gpu: Gpu = Gpu()
    hang: Hang = Hang()
    disk: Disk = Disk()
    channel: tuple[Channel, ...] = ()
    rule: tuple[user_rules.UserRule, ...] = ()
    backup: tuple[Backup, ...] = ()
    prune: Prune | None = None


def default_config_path() -> Path:
    """Where the configuration is looked for when nobody says: the system's for root, else the user's."""
    return places().config


def find_config() -> Path | None:
    """Return the user's configuration, else the system's, else nothing: then the built-in defaults hold."""
    return next((path for path in (default_config_path(), _SYSTEM.config) if path.is_file()), None)


def load(path: Path | None = None, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> Config:
    """Read the configuration from `path`, else from where it usually lies. Raises UserError."""
    path = path or find_config()
    if path is None:
        return parse(b"", "built-in defaults", mountinfo=mountinfo)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the configuration: {error.strerror}", file=str(path)) from None
    return parse(data, str(path), mountinfo=mountinfo)


def parse(data: bytes, file: str, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> Config:
    """Read the configuration from `data`; `file` only names it in messages. Raises UserError."""
    table, source = toml_errors.read(data, file)
    config = toml_errors.convert(table, Config, source)
    problems = [*_server_problems(config, source, mountinfo), *_defaults_problems(config, source)]
    for place, key, found in channel_rules.problems(config.channel):
        problems.append(source.problem(("channel", str(place), key), found))
    problems += (source.problem(("gpu", *path), found) for path, found in gpu_config.problems(config.gpu))
    for place, key, found in user_rules.problems(config.rule):
        problems.append(source.problem(("rule", str(place), key), found))
    ours = (config.server.runs_dir, config.server.state_dir)
    for place, key, found in backup_config.problems(config.backup, ours):
        problems.append(source.problem(("backup", str(place), key), found))
    if config.prune is not None:
        pruning = prune_config.problems(config.prune, ours, config.backup)
        problems += (source.problem(("prune", *path), found) for path, found in pruning)
    if problems:
        raise toml_errors.refusal(file, problems)
    return config


def rules(config: Config) -> tuple[Rule, ...]:
    """Return what lines of logs are signs of: the rules of the configuration, then the built-in ones."""
    return user_rules.as_rules(config.rule)


def reloaded(running: Config, read: Config) -> tuple[Config, list[str]]:
    """Return what holds once the file was read again: limits and rules; and the tables whose changes need a restart.

    What stays of pruning counts at once, as quiet hours and limits of bandwidth do; other targets need a restart.
    """
    gpu = gpu_config.reloaded(running.gpu, read.gpu)
    backup = backup_config.reloaded(running.backup, read.backup)
    now = msgspec.structs.replace(running, queue=read.queue, rule=read.rule, gpu=gpu, backup=backup, prune=read.prune)
    return now, [name for name in Config.__struct_fields__ if getattr(now, name) != getattr(read, name)]


def policy(config: Config, gpu_count: int) -> Policy:
    """Return the part of the configuration that deciding depends on."""
    queue = config.queue
    return Policy(
        max_running=queue.max_running,
        max_running_per_owner=queue.max_running_per_owner,
        max_queued_per_owner=queue.max_queued_per_owner,
        start_gap_s=queue.start_gap,
        gpu_count=gpu_count,
        gpu=gpu_config.policy(config.gpu),
        channels=tuple(channel.name for channel in config.channel),
        stop_grace_s=queue.stop_grace,
        server=config.server.name or socket.gethostname(),
        backups=tuple(
            TargetPolicy(name=one.name, to=one.to, on_best=one.on_best, verify_s=one.verify_within, drill_s=one.drill)
            for one in config.backup
        ),
        prunes=config.prune is not None,
    )


def show(config: Config) -> dict[str, Any]:
    """Return the configuration in effect as plain data, in the words of the file; secrets are left out."""
    shown: dict[str, Any] = config_text.plain(config)
    for channel, plain in zip(config.channel, shown["channel"], strict=True):
        plain |= {"url": redact_url(channel.url)}
        plain |= {key: "(set)" for key in ("secret", "proxy") if plain[key]}
    return shown


def show_text(config: Config) -> str:
    """Return `show` as TOML text."""
    return config_text.text(show(config))


def environment_problems(env: dict[str, str]) -> list[tuple[str, Problem]]:
    """Find the variables that cannot be set, or that are ours to set: CUDA_VISIBLE_DEVICES and the like."""
    problems = []
    for name in env:
        ours = name.startswith("YOLO_SUPERVISOR_")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            expected = "letters, digits and underlines, the first no digit"
            problems.append((name, Problem("this is no name of a variable", expected=expected)))
        elif name in _OUR_VARIABLES or ours:
            hint = "remove it" if ours else f"use the key {_OUR_VARIABLES[name]}"
            problems.append((name, Problem("the supervisor sets this variable itself", hint=hint)))
    return problems


def network_file_system(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the network file system that holds `path` (or will), or an empty text."""
    try:
        lines = mountinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ""  # cannot observe is not a failure: no /proc, no answer
    resolved, best, kind = path.resolve(), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        if resolved.is_relative_to(mount) and len(mount.parts) >= best:  # of equal ones the later hides the earlier
            best, kind = len(mount.parts), after.split()[0]
    return kind if is_network_type(kind) else ""


def is_network_type(kind: str) -> bool:
    """Return whether the type of a mount names a file system that a server elsewhere holds."""
    return _NETWORK_FILE_SYSTEMS.fullmatch(kind) is not None


def redact_url(url: str) -> str:
    """Return scheme and host of an address: the rest is often the secret."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "…"
    return f"{parts.scheme}://{host}/…" if host else "…"


def _server_problems(config: Config, source: Source, mountinfo: Path) -> list[Problem]:
    problems = []
    if kind := network_file_system(config.server.state_dir, mountinfo):
        hint = "set state_dir to a folder on a local disk; runs_dir may stay where it is"
        wrong = Problem("the state directory must not lie on a network file system", got=kind, hint=hint)
        problems.append(source.problem(("server", "state_dir"), wrong))
    if len(os.fsencode(config.server.socket)) > _SOCKET_BYTES:
        wrong = Problem("the socket's path is too long", expected=f"at most {_SOCKET_BYTES} bytes")
        problems.append(source.problem(("server", "socket"), wrong))
    return problems


def _defaults_problems(config: Config, source: Source) -> list[Problem]:
    defaults = config.defaults
    problems = [source.problem(("defaults", "env", name), found) for name, found in environment_problems(defaults.env)]
    if defaults.restart.backoff > defaults.restart.backoff_max:
        wrong = Problem("the first wait is longer than the longest", hint="raise backoff_max")
        problems.append(source.problem(("defaults", "restart", "backoff"), wrong))
    if (again := twice(defaults.restart.remedies)) is not None:
        problems.append(source.problem(("defaults", "restart", "remedies"), again))
    if defaults.python is not None and defaults.conda:
        wrong = Problem("python and conda both name the interpreter", hint="keep one of them")
        problems.append(source.problem(("defaults", "conda"), wrong))
    problems += (source.problem(("defaults", "gpus"), found) for found in gpu_config.name_problems(defaults.gpus))
    names = {channel.name for channel in config.channel}
    for name in defaults.notify or ():
        if name not in names:
            wrong = Problem("there is no such [[channel]]", got=toml_errors.shown(name))
            problems.append(source.problem(("defaults", "notify"), wrong))
    wanted = backup_config.name_problems(defaults.backup, [target.name for target in config.backup])
    problems += (source.problem(("defaults", "backup"), found) for found in wanted)
    return problems
