"""`adopt CARD`: go on here with a training that another server has published, from a copy of its last checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.cli.adopt import check_interpreter, check_job, refuse_name
from supervisor.cli.client import Client
from supervisor.cli.failures import BadInput, Failure, Refused
from supervisor.cli.proposal import Proposal, Wishes
from supervisor.core import cards
from supervisor.core.secrets import HIDDEN
from supervisor.toml_errors import format_value

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.core.checkpoints import Checkpoint

LARGEST_CARD_BYTES = 4 * 1024 * 1024
_FAMILY = "ultralytics"


def propose(config: Config, client: Client | None, wishes: Wishes) -> Proposal:
    """What would be done with the card that is named. Raises BadInput, Refused or UserError; writes nothing."""
    path = Path(wishes.folder or "").absolute()
    card = _read(path)
    check_interpreter(wishes, config)
    source = _checkpoint(path, card)
    found = _looked_at(source)
    name = wishes.name or card.name
    refuse_name(name, client)
    into = _folder(wishes, name, config)
    arguments, left_out = _arguments(card, wishes, found, into)
    text = _job_file(card, arguments, wishes, name, into)
    check_job(text, name, config)
    plan = (*_plan(card, found, arguments, into), *left_out, f"as the run {name}")
    return Proposal(
        name, text, _seen(into, arguments, found), None, plan, lambda: _bring(card, source, into, arguments)
    )


def _seen(into: Path, arguments: dict[str, Any], found: Checkpoint) -> Any:
    from supervisor.effects.run_folders import RunFolder

    return RunFolder(into, _FAMILY, arguments, (found,))


# ---- the card and its file
def _read(path: Path) -> cards.Card:
    try:
        if path.stat().st_size > LARGEST_CARD_BYTES:
            raise BadInput(f"{path} is too large for a card of published weights; give the JSON file beside them")
        card = cards.decode(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except cards.CardError as error:
        raise BadInput(f"{path}: {error}") from None
    if not card.config:
        raise Refused(
            f"{card.run} was trained by a command of its own: only trainings with [train] are adopted by card"
        )
    return card


def _checkpoint(path: Path, card: cards.Card) -> Path:
    """The last checkpoint beside the card, bit by bit what the card says."""
    from supervisor.effects.private_copy import sha256_of

    last = card.file("last")
    if last is None:
        best = card.file("best")
        hint = f"begin a new training from it, with model = {path.with_name(best.name)}" if best is not None else ""
        raise Refused(f"{path} names no checkpoint from which a training goes on, only weights\n  fix: {hint}")
    source = path.with_name(last.name)
    try:
        right = source.stat().st_size == last.bytes and sha256_of(source) == last.sha256
    except OSError as error:
        hint = "the card and its files belong into one folder: copy both"
        raise Refused(f"{source} cannot be read: {error.strerror}\n  fix: {hint}") from None
    if not right:
        raise Refused(f"{source} is not the file that the card names: its size or sha256 is another one")
    return source


def _looked_at(source: Path) -> Checkpoint:
    from supervisor.core.checkpoints import GOES_ON
    from supervisor.effects import checkpoints
    from supervisor.errors import RetryableError

    try:
        [found] = checkpoints.look([source], finite=True)
    except RetryableError as error:
        raise Failure(f"{source} cannot be looked at: {error}") from None
    if found.state not in GOES_ON:
        raise Refused(f"nothing goes on from {source}: it is {found.state}, {found.reason}")
    return found


def _folder(wishes: Wishes, name: str, config: Config) -> Path:
    """Where the training goes on: a folder that is not there yet."""
    into = Path(os.path.realpath(Path(wishes.into or name).expanduser()))
    runs_dir = Path(os.path.realpath(config.server.runs_dir))
    if into.is_relative_to(runs_dir):
        raise Refused(
            f"{into} lies below {runs_dir}, where only the daemon writes\n  fix: give another folder with --into"
        )
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise Refused(f"{into} is there already\n  fix: give a new folder with --into, or another --name")
    return into


# ---- what is trained
def _arguments(
    card: cards.Card, wishes: Wishes, found: Checkpoint, into: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The train arguments, as they fit this server; and what was left out."""
    from supervisor.job_rules import PATH_TRAIN_KEYS

    given = {**card.config, "data": _data(card, wishes), "epochs": _epochs(card, wishes, found)}
    if _is_gone(given.get("model")):
        given["model"] = str(into / "weights" / "last.pt")  # a resume reads its model from there
    foreign = {
        key for key, value in given.items() if key in set(PATH_TRAIN_KEYS) - {"data", "model"} and _is_gone(value)
    }
    hidden = {key for key, value in given.items() if value == HIDDEN}
    told = (f"{', '.join(sorted(foreign | hidden))} of the other server's job left out",) if foreign | hidden else ()
    return {key: value for key, value in given.items() if key not in foreign | hidden}, told


def _is_gone(value: Any) -> bool:
    """True for a path of another machine; a bare name is looked for by the trainer."""
    return isinstance(value, str) and value.startswith(("/", "~")) and not Path(value).expanduser().exists()


def _data(card: cards.Card, wishes: Wishes) -> str:
    data = str(Path(wishes.data).expanduser().absolute()) if wishes.data else card.data.path
    if _is_gone(data):
        where = "" if wishes.data else f" (so it was called on {card.server or 'the other server'})"
        raise Refused(f"the data set is not there: {data}{where}\n  fix: say where it lies here, with --data FILE")
    return data


def _epochs(card: cards.Card, wishes: Wishes, found: Checkpoint) -> int:
    planned = found.epochs or card.epochs
    wanted = wishes.epochs or planned
    if wanted < planned:
        raise Refused(f"this training is planned for {planned} epochs: --epochs can only be more")
    if found.done_epochs >= wanted:
        hint = f"--epochs N with N above {found.done_epochs} trains on; the learning-rate schedule is stretched then"
        raise Refused(f"all {found.done_epochs} epochs are trained\n  fix: {hint}")
    return wanted


def _job_file(card: cards.Card, arguments: dict[str, Any], wishes: Wishes, name: str, into: Path) -> str:
    from supervisor import drafts

    python = str(Path(wishes.python).expanduser().absolute()) if wishes.python else ""
    if not python and not wishes.conda:
        python = drafts.active_interpreter(os.environ)
    decided = {"name": name, "project": wishes.project or card.project, "gpus": wishes.gpus, "adopt": str(into)}
    environment = drafts.Environment(Path.cwd(), python=python, conda=wishes.conda, decided=decided)
    text = drafts.draft_from_arguments(arguments, environment, f"the card of {card.run} on {card.server}")
    said = {"title": card.title, "notes": card.notes, "tags": card.tags}
    lines = "".join(f"{key} = {format_value(value)}\n" for key, value in said.items() if value)
    head, table, rest = text.partition("\n[train]\n")
    return f"{head}{lines}{table}{rest}"


def _plan(card: cards.Card, found: Checkpoint, arguments: dict[str, Any], into: Path) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items() if name != "yolo-supervisor")
    metrics = ", ".join(f"{name} {value:g}" for name, value in sorted(card.metrics.items()) if "mAP" in name)
    lines = [f"{card.run} of {card.server or 'an unknown server'}" + (f", trained with {versions}" if versions else "")]
    lines += [f"  {line}" for line in card.lineage]
    lines += [f"  its best weights: {metrics}"] if metrics else []
    lines.append(f"would resume after epoch {found.done_epochs} of {arguments['epochs']} in {into}, from a copy")
    lines.append(f"  data: {arguments['data']}")
    if card.job:
        lines.append("  environment and settings are this server's: those of the other job file are in the card")
    return lines


# ---- bringing it here
def _bring(card: cards.Card, source: Path, into: Path, arguments: dict[str, Any]) -> None:
    """Make the folder, with a copy that is proven to be what the card names. Raises Failure; then nothing is left."""
    from supervisor import durable
    from supervisor.effects.private_copy import private_copy
    from supervisor.errors import RetryableError

    weights, last = into / "weights", card.file("last")
    try:
        weights.mkdir(parents=True)
        copied = private_copy(source, weights / ".last.pt.incoming")
        if last is None or copied.sha256 != last.sha256:
            raise Refused(f"{source} changed while it was copied")
        lines = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in arguments.items())
        durable.write(into / "args.yaml", lines.encode(), mode=0o644)
        (weights / ".last.pt.incoming").replace(weights / "last.pt")
        durable.sync(weights)
    except (OSError, RetryableError) as error:
        raise Failure(f"{source} could not be copied to {into}: {error}") from None
    finally:
        (weights / ".last.pt.incoming").unlink(missing_ok=True)
