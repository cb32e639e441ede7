"""Trainer and model of the stand-in."""
