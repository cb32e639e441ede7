"""Where an attempt runs. One protocol, one file per engine."""
