"""What this machine has, and whether it is what a job needs. Readings; a look that may never return is bounded."""
