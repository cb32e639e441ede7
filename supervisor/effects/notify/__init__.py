"""Telling people: what goes to which channel, in its own format, until the channel itself confirms it."""

from supervisor.effects.notify.delivery import ChannelConfig, Notifier

__all__ = ["ChannelConfig", "Notifier"]
