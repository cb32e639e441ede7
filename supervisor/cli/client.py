"""Asking the daemon: HTTP over its unix socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import click

from supervisor.cli.failures import BadInput, Failure, NoDaemon, NoSuchBackup, NoSuchGpu, NoSuchRun, Refused, TryLater

if TYPE_CHECKING:
    from supervisor.config import Config

TIMEOUT_S = 30.0  # an order is answered after 3 s at most; a loaded machine may need longer
SOCKET_VARIABLE = "YOLO_SUPERVISOR_SOCKET"
_FAILURES: dict[int, type[Failure]] = {
    202: TryLater,
    403: Refused,
    409: Refused,
    413: BadInput,
    422: BadInput,
    503: TryLater,
}

View = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Target:
    """Where the user said that the daemon is: a socket, or the configuration that names it."""

    socket: str | None = None
    config: str | None = None


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        """Connect to `path` when first used."""
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """One daemon. Every request is one connection: the daemon may be exchanged between two of them."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        """Talk to the daemon at the socket `path`."""
        self.path = path
        self._timeout_s = timeout_s

    def get(self, path: str, /, **query: object) -> View:
        """Read. Raises NoDaemon, or Failure with the daemon's own words."""
        return self._request("GET", f"{path}?{urlencode(query)}" if query else path, None)

    def post(self, path: str, **body: object) -> View:
        """Order. Raises as `get`."""
        return self._request("POST", path, json.dumps(body))

    def _request(self, method: str, path: str, body: str | None) -> View:
        connection = UnixConnection(self.path, self._timeout_s)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return _judge(answer.status, answer.read(), path)
        except PermissionError:
            text = f"you may not use {self.path}; its group may (`ls -l {self.path}`)"
            raise Refused(text) from None
        except TimeoutError:
            text = f"the daemon at {self.path} did not answer within {self._timeout_s:.0f} s; try again later"
            raise TryLater(text) from None
        except (OSError, http.client.HTTPException) as error:
            raise NoDaemon(f"no daemon answers at {self.path} ({error})") from error
        finally:
            connection.close()


def _judge(status: int, data: bytes, path: str) -> View:
    try:
        view = json.loads(data)
    except ValueError:
        raise Failure(f"the daemon answered {path} with something that is not JSON (HTTP {status})") from None
    if not isinstance(view, dict):
        raise Failure(f"the daemon answered {path} with something unexpected (HTTP {status})")
    if status == 200:
        return view
    text = str(view.get("error") or view.get("next") or f"HTTP {status}")
    if status == 404 and path.startswith("/v1/runs/"):
        raise NoSuchRun(text)
    if status == 404 and path.startswith("/v1/gpus/"):
        raise NoSuchGpu(text)
    if status == 404 and path.startswith("/v1/backups"):
        raise NoSuchBackup(text)
    raise _FAILURES.get(status, Failure)(text)


def run_path(name: str, verb: str = "") -> str:
    """Where a run is in the API."""
    return f"/v1/runs/{quote(name, safe='')}" + (f"/{verb}" if verb else "")


def gpu_path(name: str, verb: str = "") -> str:
    """Where a GPU is in the API."""
    return f"/v1/gpus/{quote(name, safe='')}" + (f"/{verb}" if verb else "")


def connect(target: Target, timeout_s: float = TIMEOUT_S) -> Client:
    """Find the first daemon that answers: --socket, the environment, --config, the user's, the system's.

    Raises NoDaemon with how to start one.
    """
    tried = []
    for path in _candidates(target):
        if path in tried:
            continue
        tried.append(path)
        if _answers(path):
            return Client(path, timeout_s)
    where = " or ".join(tried)
    raise NoDaemon(
        f"no daemon answers at {where}\n"
        "  fix: start it with `systemctl start yolo-supervisor`, or `yolo-supervisor run` in a terminal; "
        f"if it runs elsewhere, give --socket or {SOCKET_VARIABLE}"
    )


def _candidates(target: Target) -> Iterator[str]:
    if target.socket:
        yield target.socket
        return
    if os.environ.get(SOCKET_VARIABLE):
        yield os.environ[SOCKET_VARIABLE]
        return
    from supervisor import config

    if not target.config:
        yield str(config.places().socket)
        yield str(config.places(uid=0).socket)
    yield str(settings(target).server.socket)


def settings(target: Target) -> Config:
    """Read the configuration that the user named, else the one that is found. Raises UserError."""
    from pathlib import Path

    from supervisor import config

    return config.load(Path(target.config) if target.config else None)


def _answers(path: str) -> bool:
    """True if somebody listens, or if only a lack of rights keeps us from knowing: then the request says so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(TIMEOUT_S)
        try:
            probe.connect(path)
        except PermissionError:
            return True
        except OSError:
            return False
    return True


def target_options(command: F) -> F:
    """Let a verb take --socket and --config after its name too."""
    for name, metavar, text in (
        ("--config", "FILE", "The configuration to find the daemon, or its journal, by."),
        ("--socket", "PATH", "The daemon's socket."),
    ):
        option = click.option(name, metavar=metavar, help=text, expose_value=False, callback=_remember)
        command = option(command)
    return command


def _remember(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and parameter.name is not None:
        before = ctx.find_object(Target) or Target()
        ctx.obj = Target(**{**before.__dict__, parameter.name: value})


def complete_run(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of runs for the shell's completion; silent where no daemon answers."""
    try:
        runs = connect(ctx.find_object(Target) or Target(), timeout_s=1.0).get("/v1/runs")["runs"]
    except Exception:  # noqa: BLE001 - a broken completion must not write into a person's command line
        return []
    return [run["name"] for run in runs if run["name"].startswith(incomplete)]


def complete_gpu(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Indices and UUIDs of GPUs for the shell's completion; silent where no daemon answers."""
    try:
        gpus = connect(ctx.find_object(Target) or Target(), timeout_s=1.0).get("/v1/gpus")["gpus"]
    except Exception:  # noqa: BLE001 - a broken completion must not write into a person's command line
        return []
    names = [name for gpu in gpus for name in (str(gpu["index"]), gpu["uuid"] or "")]
    return [name for name in names if name and name.startswith(incomplete)]


def complete_backup_target(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of backup targets for the shell's completion; silent where no daemon answers."""
    try:
        targets = connect(ctx.find_object(Target) or Target(), timeout_s=1.0).get("/v1/backups")["targets"]
    except Exception:  # noqa: BLE001 - a broken completion must not write into a person's command line
        return []
    return [one["name"] for one in targets if one["name"].startswith(incomplete)]
