"""What must hold for a [[channel]] of the configuration beside the kinds of its values."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from supervisor.errors import Problem
from supervisor.toml_errors import shown

if TYPE_CHECKING:
    from supervisor.config import Channel


def problems(channels: Sequence[Channel]) -> Iterator[tuple[int, str, Problem]]:
    """Yield what is wrong with the channels: the place of each in the list, the key, and what to say."""
    names = [channel.name for channel in channels]
    for place, channel in enumerate(channels):
        for key, found in _of_one(channel):
            yield place, key, found
        if channel.name in names[:place]:
            yield place, "name", Problem("another channel has this name", got=shown(channel.name))


def _of_one(channel: Channel) -> Iterator[tuple[str, Problem]]:
    if not _is_web_address(channel.url):
        yield "url", Problem("wrong value", expected="an address that starts with https:// or http://")
    if channel.proxy and not _is_web_address(channel.proxy):
        yield "proxy", Problem("wrong value", expected="an address that starts with http://")
    if channel.secret and channel.kind != "webhook":
        yield "secret", Problem("only a webhook is signed", hint="remove it, or set kind")
    if channel.secret and channel.kind == "webhook" and not _is_signing_secret(channel.secret):
        hint = "make one: echo whsec_$(head -c 24 /dev/urandom | base64)"
        expected = '"whsec_" and then 24 to 64 bytes in base64 (Standard Webhooks)'
        yield "secret", Problem("wrong value", expected=expected, got="(not shown)", hint=hint)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return usable and parts.scheme in {"http", "https"}


def _is_signing_secret(secret: str) -> bool:
    prefix, _, encoded = secret.partition("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return not prefix and 24 <= len(key) <= 64
