"""Backups: a run or the journal is copied to a target, verified there, and only then counted as backed up."""
