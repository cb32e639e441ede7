"""What a training's logger needs from outside to go on in one line after a restart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

#: From this version on Ultralytics names its wandb run itself (since 8.4.40 it finds that name again in
#: `save_dir/wandb` when it resumes), and what the environment says is not asked any more.
NAMES_ITS_OWN = (8, 4)
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_-]+")


def logger_environment(version: str | None, run_id: str, user_env: Mapping[str, str]) -> dict[str, str]:
    """The variables that make every attempt of a run one wandb run, for a version of Ultralytics.

    `run_id` must be the same for all attempts and belong to no other run of the same wandb project, not even on
    another server: a second owner would write into the first one's curves. Only for jobs that train once. Empty
    where the version looks after it itself or is unknown, and where the user has an opinion.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= NAMES_ITS_OWN:
        return {}
    if "WANDB_RUN_ID" in user_env or "WANDB_RESUME" in user_env:
        return {}
    readable = _NOT_IN_AN_ID.sub("-", run_id).strip("-")[:40]
    return {
        "WANDB_RUN_ID": f"{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:12]}".lstrip("-"),
        "WANDB_RESUME": "allow",
    }
