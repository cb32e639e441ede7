"""The card beside published weights: what they are, where they come from, and how to go on from them. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

from supervisor.core.consistency import Data
from supervisor.core.placeholders import expand, names_in
from supervisor.core.secrets import HIDDEN, hide

#: What a pattern of file names may hold.
PLACEHOLDERS = ("project", "name", "model", "data", "epoch", "metric")
SUFFIX = ".pt"
VERSION = 1

_LONGEST_NAME = 200  # characters; file systems take 255 bytes, and a role, a number and a suffix may follow
_TELLING = 6  # characters: shorter secrets are hidden only where they stand in quotes
_ROLE = re.compile(r"best|last", re.ASCII)
_FILE_NAME = re.compile(r"[^/\0\n]{1,255}")
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_UNFIT = re.compile(r"[^\w.=+@-]+")
#: File names that say nothing about a data set; its folder does.
_PLAIN_DATA = frozenset({"data", "dataset", "config", ""})


class CardError(ValueError):
    """A card that cannot be read, or must not be believed; the text is for a person."""


class CardFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file beside the card. `role` is best or last; `epoch` counts complete epochs from 1, 0: it does not say."""

    name: str
    role: str
    bytes: int
    sha256: str
    epoch: int = 0


class CardData(msgspec.Struct, frozen=True, kw_only=True):
    """The data set: how the job names it, and a digest of its classes and its lists of images (see `data_digest`)."""

    path: str = ""
    digest: str = ""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of published weights. `config` are the train arguments; `job` is the job file's text.

    Values with secret-looking names are hidden in both. `epochs` is how many the training was to have; `created_at`
    are Unix seconds.
    """

    version: int = VERSION
    run: str
    project: str
    name: str
    title: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    data: CardData = CardData()
    versions: dict[str, str] = {}
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = {}
    lineage: tuple[str, ...] = ()
    files: tuple[CardFile, ...] = ()
    created_at: float = 0.0
    server: str = ""
    job: str = ""

    def file(self, role: str) -> CardFile | None:
        """The file of this role, if there is one."""
        return next((file for file in self.files if file.role == role), None)


def encode(card: Card) -> bytes:
    """The card as people read it: indented JSON."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


def decode(text: bytes) -> Card:
    """Read a card that came from anywhere. Raises CardError; names of files lead nowhere else afterwards."""
    try:
        card = msgspec.json.decode(text, type=Card)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CardError(f"this is no card of published weights: {error}") from None
    if card.version > VERSION:
        raise CardError(f"this card has version {card.version}, only versions up to {VERSION} are understood")
    for file in card.files:
        if not _FILE_NAME.fullmatch(file.name) or file.name in {".", ".."}:
            raise CardError(f"the card names a file outside its own folder: {file.name!r}")
        if not _ROLE.fullmatch(file.role) or not _SHA256.fullmatch(file.sha256) or file.bytes < 0:
            raise CardError(f"what the card says of {file.name} cannot be: role, sha256 or bytes are wrong")
    return card


# ---- names
def pattern_problem(pattern: str) -> str:
    """What is wrong with a pattern of file names, for a person; empty if nothing is."""
    unknown = [name for name in names_in(pattern) if name not in PLACEHOLDERS]
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    if unknown:
        return f"{{{unknown[0]}}} is not known; there are {known}"
    if "/" in pattern or "\0" in pattern:
        return "a name of a file, not a path"
    if not pattern.endswith(SUFFIX) or not pattern.removesuffix(SUFFIX).strip(". "):
        return f"a name that ends with {SUFFIX}, such as {{name}}{SUFFIX}"
    return ""


def file_name(pattern: str, values: Mapping[str, str], role: str = "") -> str:
    """The name of a published file. With a `role` it gets `-ROLE` before its suffix: two files are published together.

    Whatever the values are, it is one part of a path, at most 220 characters long, and begins with no dot or dash.
    Raises ValueError for a pattern of which `pattern_problem` complains.
    """
    if problem := pattern_problem(pattern):
        raise ValueError(problem)
    whole = expand(pattern.removesuffix(SUFFIX), {name: values.get(name, "") for name in PLACEHOLDERS})
    stem = re.sub(r"_{2,}", "_", _UNFIT.sub("-", whole)).strip("._-")[:_LONGEST_NAME].rstrip("._-")
    return f"{stem or 'weights'}{f'-{role}' if role else ''}{SUFFIX}"


def values_of(card: Card, map50_95: float | None) -> dict[str, str]:
    """What stands in the place of the placeholders. What is not known is left out of the name."""
    return {
        "project": card.project,
        "name": card.name,
        "model": _stem(str(card.config.get("model") or "")),
        "data": _data_name(str(card.config.get("data") or "")),
        "epoch": str(card.epoch) if card.epoch else "",
        "metric": f"{map50_95:.3f}" if map50_95 is not None else "",
    }


def _stem(path: str) -> str:
    return PurePosixPath(path.rstrip("/")).stem


def _data_name(path: str) -> str:
    """The stem of the data file; of one that is only called data.yaml, and of a folder, the folder's name."""
    place = PurePosixPath(path.rstrip("/"))
    is_file = place.suffix.lower() in {".yaml", ".yml", ".json", ".txt"}
    if is_file and place.stem.lower() in _PLAIN_DATA:
        return place.parent.name or place.stem
    return place.stem if is_file else place.name


def numbered(name: str, number: int) -> str:
    """The name with a number before its suffix, from 2 on: the plain one is somebody else's."""
    return name if number < 2 else f"{name.removesuffix(SUFFIX)}-{number}{SUFFIX}"


def with_role(name: str, role: str) -> str:
    """The name of one of two files that are published together."""
    return f"{name.removesuffix(SUFFIX)}-{role}{SUFFIX}" if role else name


def card_name(name: str) -> str:
    """The card's name beside the weights."""
    return f"{name.removesuffix(SUFFIX)}.json"


# ---- what goes in
def data_digest(data: Data | None) -> str:
    """A digest of a data set that does not depend on where it lies; empty if too little is known of it."""
    if data is None or not any(split.listing for split in data.splits.values()):
        return ""
    lists = sorted((name, split.images, split.listing) for name, split in data.splits.items())
    text = msgspec.json.encode([data.names, lists])
    return hashlib.sha256(text).hexdigest()


def without_secrets(text: str, tables: Iterable[Mapping[str, Any]]) -> str:
    """The text of a job file without the values of secret-looking names in these tables of it.

    Where such a value is written in a way that is not found there, nothing of the text is left.
    """
    for value in sorted({value for table in tables for value in _secrets(table, hide(table))}, key=len, reverse=True):
        if value not in text:
            return ""
        for quote in ('"', "'"):
            text = text.replace(f"{quote}{value}{quote}", f"{quote}{HIDDEN}{quote}")
        text = text.replace(value, HIDDEN) if len(value) >= _TELLING else text
    return text


def _secrets(table: Mapping[str, Any], hidden: Mapping[str, Any]) -> Iterable[str]:
    for name, value in table.items():
        if isinstance(value, Mapping) and isinstance(hidden[name], Mapping):
            yield from _secrets(value, hidden[name])
        elif hidden[name] != value and str(value):
            yield str(value)
