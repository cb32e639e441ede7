"""Fixtures of the tests that run the real daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from daemon_harness import Site, site


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Give a running daemon; its configuration may be added to with `@pytest.mark.parametrize(..., indirect=True)`."""
    with site(**getattr(request, "param", {})) as made:
        yield made.start()


@pytest.fixture
def still() -> Iterator[Site]:
    """Give a server whose daemon the test starts itself."""
    with site() as made:
        yield made


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """On failure show what the daemon of the test said: it is gone with its folder afterwards."""
    outcome = yield
    report = outcome.get_result()
    made = getattr(item, "funcargs", {}).get("server") or getattr(item, "funcargs", {}).get("still")
    if report.when == "call" and report.failed and made is not None:
        report.sections.append(("daemon", made.said()[-6000:]))
