"""Code that runs inside the job's own Python: executed by file path, imports nothing of `supervisor`."""
