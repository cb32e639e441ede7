"""Pruning: what may go is looked for, moved into a trash folder on the same file system, and purged later.

`look` and `foreign` gather facts, `core.retention` decides, `carry_out` moves, `trash` records, takes back and purges.
All of it is done relative to verified handles of folders, see `handles`.
"""
