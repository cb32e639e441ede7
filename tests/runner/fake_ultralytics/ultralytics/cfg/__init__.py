"""Configuration of the stand-in: none."""
