"""Delivery of announcements: which channel, when again after a failure, and never faster than the channel takes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from supervisor.clock import Clock
from supervisor.core.actions import Action, Announce
from supervisor.core.events import Announced
from supervisor.effects.notify import slack, webhook
from supervisor.effects.notify.post import READ_S, WHOLE_S, Line, Reply, post
from supervisor.errors import PermanentError, RetryableError

HOUR_S = 3600.0
# After the advice of Standard Webhooks (5 s, 5 min, 30 min, 2 h, 5 h, ... 24 h), with quicker first tries.
SCHEDULE_S = (1.0, 5.0, 30.0, 300.0, 1800.0, 2 * HOUR_S, 5 * HOUR_S, 10 * HOUR_S, 14 * HOUR_S, 20 * HOUR_S, 24 * HOUR_S)
JITTER = 0.2
_ORIGIN = "notify"


class ChannelConfig(Protocol):
    """What the notifier needs of a configured channel; `kind` is slack or webhook."""

    @property
    def name(self) -> str:
        """The name that job files use."""

    @property
    def kind(self) -> str:
        """Whose format."""

    @property
    def url(self) -> str:
        """The address, which is a secret."""

    @property
    def secret(self) -> str:
        """The key to sign with; empty: no signature."""

    @property
    def proxy(self) -> str:
        """The way out; empty: direct."""

    @property
    def ca_file(self) -> Path | None:
        """The certificate authorities to trust; None: the usual ones."""


class Notifier:
    """The handler of Announce. Safe to call from several threads; it never waits for anything but the network."""

    def __init__(
        self,
        channels: Sequence[ChannelConfig],
        clock: Clock,
        server: str = "",
        *,
        whole_s: float = WHOLE_S,
        read_s: float = READ_S,
    ) -> None:
        """Deliver to these channels; `server` names this machine in the messages."""
        self._channels = {channel.name: channel for channel in channels}
        self._clock = clock
        self._server = server
        self._limits_s = (whole_s, read_s)
        self._lock = threading.Lock()
        self._tries: dict[str, int] = {}
        self._pacers = {name: _Pacer() for name in self._channels}

    def __call__(self, action: Action) -> tuple[Announced, ...]:
        """Try once to deliver. Returns only when the channel confirmed it.

        Raises RetryableError with the seconds until the next try, PermanentError where none can succeed.
        """
        if not isinstance(action, Announce):
            raise TypeError(f"not an announcement: {type(action).__name__}")
        channel = self._channels.get(action.channel)
        if channel is None:
            raise PermanentError(f"there is no channel named {action.channel} (any more)")
        self._take_turn(channel, action.key)
        with self._lock:
            tries = self._tries[action.key] = self._tries.get(action.key, 0) + 1
        try:
            self._deliver(channel, action)
        except RetryableError as error:
            raise RetryableError(str(error), self._later(channel, action.key, tries, error.after_s)) from None
        except PermanentError:
            self._forget(action.key)
            raise
        self._forget(action.key)
        return (Announced(at=self._clock.now(), origin=_ORIGIN, channel=action.channel, tries=tries),)

    def _deliver(self, channel: ChannelConfig, action: Announce) -> None:
        if channel.kind == "slack":
            slack.judge(self._post(channel, slack.request_body(action, self._server), {}))
            return
        body = webhook.request_body(action, self._server)
        headers = webhook.headers(action.key, self._clock.now(), body, channel.secret)
        webhook.judge(self._post(channel, body, headers))

    def _post(self, channel: ChannelConfig, body: bytes, headers: dict[str, str]) -> Reply:
        ca_file = str(channel.ca_file) if channel.ca_file else ""
        return post(Line(channel.url, channel.proxy, ca_file), body, headers, *self._limits_s)

    def _take_turn(self, channel: ChannelConfig, key: str) -> None:
        """Raise RetryableError where the channel takes no message yet: no try is used up by that."""
        gap_s = slack.GAP_S if channel.kind == "slack" else 0.0
        with self._lock:
            wait_s = self._pacers[channel.name].wait_s(key, self._clock.now(), gap_s)
        if wait_s > 0:
            raise RetryableError(f"channel {channel.name} takes one message in {gap_s:g} s", wait_s)

    def _later(self, channel: ChannelConfig, key: str, tries: int, asked_s: float) -> float:
        """Return the seconds until the next try; what the channel asked for holds for its other messages too."""
        if asked_s > 0:
            with self._lock:
                self._pacers[channel.name].hold(self._clock.now() + asked_s)
        return max(asked_s, retry_delay_s(key, tries))

    def _forget(self, key: str) -> None:
        with self._lock:
            self._tries.pop(key, None)


class _Pacer:
    """Turns in one channel: each waiting message has its own moment, so they do not all come at once again."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._turns: dict[str, float] = {}

    def wait_s(self, key: str, now: float, gap_s: float) -> float:
        """Return the seconds until this message's turn, 0.0 if it is now."""
        turn_at = self._turns.pop(key, None)
        if turn_at is None:
            turn_at = max(now, self._next_at)
            self._next_at = turn_at + gap_s
        if turn_at <= now:
            return 0.0
        self._turns[key] = turn_at
        return turn_at - now

    def hold(self, until: float) -> None:
        """Give no new turn before `until`."""
        self._next_at = max(self._next_at, until)


def retry_delay_s(key: str, tries: int) -> float:
    """Return the seconds to wait after so many failed tries: the schedule, stretched by up to a fifth.

    The stretch is the same for the same message and try, so that what was decided can be told again.
    """
    planned_s = SCHEDULE_S[min(tries, len(SCHEDULE_S)) - 1]
    digest = hashlib.sha256(f"{key}:{tries}".encode()).digest()
    return planned_s * (1.0 + JITTER * int.from_bytes(digest[:4], "big") / 2**32)
