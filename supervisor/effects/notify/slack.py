"""Slack's incoming webhooks: what a message looks like, and what Slack's answers mean.

Sources: Slack's Block Kit reference (limits) and incoming webhook page (errors, escaping).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

import msgspec

from supervisor.core.actions import Announce
from supervisor.core.plain_text import one_line, plain
from supervisor.effects.notify.post import Reply
from supervisor.errors import PermanentError, RetryableError

HEADER_MAX = 150
TEXT_MAX = 2800  # a section takes 3,000; the whole message about 13,200 (slackapi/bolt-js issue 2509)
TODO_MAX = 1000
FIELD_MAX = 250  # a field takes 2,000
FIELDS_PER_SECTION = 10
FACTS_MAX = 20
LOG_MAX = 2800
GAP_S = 1.0  # one message a second and channel
PERMANENT_ERRORS = frozenset(
    {
        "action_prohibited",
        "channel_is_archived",
        "channel_not_found",
        "invalid_blocks",
        "invalid_payload",
        "invalid_token",
        "msg_blocks_too_long",
        "no_active_hooks",
        "no_service",
        "no_service_id",
        "no_team",
        "no_text",
        "posting_to_general_channel_denied",
        "team_disabled",
        "too_many_attachments",
        "user_not_found",
    },
)
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SIGNS = {"page": "\U0001f534", "notice": "\U0001f7e1", "info": "\U0001f7e2"}  # red, yellow, green circle
_ERROR_CODE = re.compile(rb"[a-z_]{1,60}")

Block = dict[str, Any]


def request_body(action: Announce, server: str = "") -> bytes:
    """Return the JSON of a message. Nothing in it that a job wrote is live: no mention, no link, no format code."""
    heading = _signed(action)
    message = {
        "text": escape(heading, HEADER_MAX),
        "blocks": list(_blocks(action, heading, server)),
        "link_names": False,
        "parse": "none",
        "unfurl_links": False,
        "unfurl_media": False,
    }
    return msgspec.json.encode(message)


def judge(reply: Reply) -> None:
    """Return if Slack took the message: only `200` with the body `ok` says so.

    Raises PermanentError for what no repetition mends, else RetryableError.
    """
    code = reply.body.strip()
    if reply.status == 200 and code == b"ok":
        return
    shown = code.decode() if _ERROR_CODE.fullmatch(code) else ""
    text = f"Slack answered {reply.status}" + (f" {shown}" if shown else "")
    if shown in PERMANENT_ERRORS:
        raise PermanentError(text)
    if reply.redirects:
        raise RetryableError(f"{text}, a redirect, which is never followed: the url is not Slack's own")
    if reply.refuses:
        raise PermanentError(text)
    raise RetryableError(text, after_s=reply.retry_after_s)


def escape(text: str, limit: int) -> str:
    """Return plain text with & < > escaped, in at most `limit` of Slack's characters, never cut inside an escape."""
    return _cut((_ESCAPES.get(character, character) for character in plain(text)), limit)


def _escape_end(text: str, limit: int) -> str:
    """Return the last `limit` characters instead, for logs: their end tells."""
    pieces = [_ESCAPES.get(character, character) for character in plain(text)]
    kept: list[str] = []
    for piece in reversed(pieces):
        limit -= _length(piece)
        if limit < 0:
            break
        kept.append(piece)
    return "".join(reversed(kept))


def _cut(pieces: Iterable[str], limit: int) -> str:
    kept: list[str] = []
    length = 0
    for piece in pieces:
        length += _length(piece)
        kept.append(piece)
        if length > limit:
            while kept and length > limit - 1:
                length -= _length(kept.pop())
            return "".join(kept) + "…"
    return "".join(kept)


def _length(text: str) -> int:
    """Return the length in UTF-16 units, the most that Slack may count: an emoji is two."""
    return len(text) + sum(character > "\uffff" for character in text)


def _signed(action: Announce) -> str:
    prefix = _SIGNS.get(action.severity, "")
    return one_line(f"{prefix} {action.title}")


def _blocks(action: Announce, heading: str, server: str) -> Iterator[Block]:
    yield {"type": "header", "text": {"type": "plain_text", "text": escape(heading, HEADER_MAX), "emoji": False}}
    if text := escape(action.text, TEXT_MAX).strip():
        yield {"type": "section", "text": _markdown(text)}
    if todo := escape(action.todo, TODO_MAX).strip():
        yield {"type": "section", "text": _markdown(f"*To do:* {todo}")}
    short, long = split_facts(action.facts)
    fields = [_markdown(f"*{escape(name, 60)}*\n{escape(value, FIELD_MAX)}") for name, value in short]
    for start in range(0, len(fields), FIELDS_PER_SECTION):
        yield {"type": "section", "fields": fields[start : start + FIELDS_PER_SECTION]}
    for name, value in long:
        yield {"type": "section", "text": _markdown(f"*{escape(name, 60)}*\n{_code(value, LOG_MAX // len(long))}")}
    yield {"type": "context", "elements": [_markdown(escape(_context(action, server), 500))]}


def split_facts(facts: dict[str, str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the facts of one line, and the logs (several lines, or called so); empty ones are left out."""
    filled = [(name, value) for name, value in facts.items() if value.strip()][:FACTS_MAX]
    logs = [(name, value) for name, value in filled if "\n" in value.strip() or name == "log"]
    return [fact for fact in filled if fact not in logs], logs


def _code(text: str, limit: int) -> str:
    """Return a code block, which a text cannot leave by bringing its own end of one."""
    inner = _escape_end(text.replace("```", "'''"), limit).strip("\n")
    return f"```\n{inner}\n```"


def _markdown(text: str) -> Block:
    """Return a text object in which Slack looks for no names, channels and links of its own accord."""
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _context(action: Announce, server: str) -> str:
    when = datetime.fromtimestamp(action.at, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return one_line(" · ".join(part for part in ("yolo-supervisor", server, action.run, when) if part))
