"""Pure decisions: no clock, no I/O, no randomness. Everything here can be replayed."""
