"""Callbacks, as the library exports them."""

from .base import default_callbacks, get_default_callbacks

__all__ = ["default_callbacks", "get_default_callbacks"]
