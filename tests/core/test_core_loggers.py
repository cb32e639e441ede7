"""What keeps a logger's curve in one line over restarts."""

from __future__ import annotations

import re

import pytest

from supervisor.core.loggers import logger_environment


@pytest.mark.parametrize("version", ["8.3.253", "8.2.0", "8.3.74+fork"])
def test_old_versions_get_one_wandb_run_for_all_attempts(version):
    """The same id each time, in the characters that wandb takes, and other runs have another."""
    first = logger_environment(version, "gpu1:/runs/卡车/truck@1", {})
    assert first == logger_environment(version, "gpu1:/runs/卡车/truck@1", {"WANDB_PROJECT": "trucks"})
    assert first["WANDB_RESUME"] == "allow"
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", first["WANDB_RUN_ID"])
    assert "truck" in first["WANDB_RUN_ID"]
    assert logger_environment(version, "gpu2:/runs/卡车/truck@1", {}) != first


@pytest.mark.parametrize("version", ["8.4.0", "8.4.190", "9.0.1", None, "", "main"])
def test_versions_that_name_their_run_or_are_unknown_get_nothing(version):
    """Since 8.4 the name is given in the call, and the environment is not asked."""
    assert logger_environment(version, "truck@1", {}) == {}


@pytest.mark.parametrize("name", ["WANDB_RUN_ID", "WANDB_RESUME"])
def test_what_the_user_says_wins(name):
    """A job with its own opinion is left alone."""
    assert logger_environment("8.3.253", "truck@1", {name: "never"}) == {}
