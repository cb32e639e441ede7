"""Generic webhooks by the Standard Webhooks specification 1.0.0 (standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

import msgspec

from supervisor.core.actions import Announce
from supervisor.core.plain_text import plain
from supervisor.effects.notify.post import Reply
from supervisor.errors import PermanentError, RetryableError

BODY_MAX_BYTES = 20_000  # the specification's advice: below 20 kB
SECRET_PREFIX = "whsec_"  # noqa: S105 - the mark before a secret, not one
SECRET_BYTES = range(24, 65)


def request_body(action: Announce, server: str = "") -> bytes:
    """Return the payload, the same at every try: {"type", "timestamp", "data"}, below 20 kB."""
    data: dict[str, Any] = {
        "run": action.run,
        "what": action.what,
        "severity": action.severity,
        "server": plain(server),
        "title": plain(action.title),
        "text": plain(action.text),
        "todo": plain(action.todo),
        "facts": {plain(name): plain(value) for name, value in action.facts.items()},
    }
    payload = {"type": message_type(action), "timestamp": _iso(action.at), "data": data}
    while len(body := msgspec.json.encode(payload)) >= BODY_MAX_BYTES:
        _shorten_longest(data)
    return body


def message_type(action: Announce) -> str:
    """Return what happened as the specification names types: words with full stops between."""
    return f"run.{action.what}" if action.run else f"supervisor.{action.what}"


def headers(key: str, sent_at: float, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of one try. The id is the same for all tries: it lets a receiver drop repetitions.

    `secret` is empty (no signature), one `whsec_` secret, or several with blanks between while they are exchanged.
    Raises PermanentError for a secret that is none.
    """
    message_id = quote(key, safe="@/:+=,~#-_.")  # a header takes no line ends and no other letters
    timestamp = str(int(sent_at))
    named = {"webhook-id": message_id, "webhook-timestamp": timestamp}
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    signatures = [f"v1,{_signature(_key(part), signed)}" for part in secret.split()]
    return {**named, "webhook-signature": " ".join(signatures)} if signatures else named


def judge(reply: Reply) -> None:
    """Return if the receiver took the message (any 2xx).

    Raises PermanentError for what no repetition mends (410, or a message that it calls wrong), else RetryableError.
    """
    if 200 <= reply.status < 300:
        return
    text = f"the receiver answered {reply.status}"
    if reply.status == 410:
        raise PermanentError(f"{text}: it is disabled")
    if reply.redirects:
        raise RetryableError(f"{text}, a redirect, which is never followed: the url must be the final one")
    if reply.refuses:
        raise PermanentError(text)
    raise RetryableError(text, after_s=reply.retry_after_s)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in SECRET_BYTES:
        raise PermanentError(f"the channel's secret is not {SECRET_PREFIX} and the base64 of 24 to 64 bytes")
    return key


def _signature(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, tz=timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shorten_longest(data: dict[str, Any]) -> None:
    """Halve the longest text; of a log the end stays, of any other text the beginning."""
    facts: dict[str, str] = data["facts"]
    if len(facts) > 64:
        data["facts"] = dict(list(facts.items())[:64])
        return
    name = max(facts, key=lambda name: len(facts[name]) + len(name), default="")
    longest = max(("title", "text", "todo"), key=lambda part: len(data[part]))
    if name and len(facts[name]) + len(name) >= len(data[longest]):
        value = facts.pop(name)
        facts[name[:80]] = "…" + value[-(len(value) // 2) :] if len(value) > 1 else ""
    else:
        data[longest] = data[longest][: len(data[longest]) // 2] + "…"
