"""Copies elsewhere: what is backed up when, what is known of each target, and what a backup holds. Pure."""
