"""What the journal tells of one GPU."""

from __future__ import annotations

import msgspec
from journal_bench import journal, path, writer

from supervisor.core import events
from supervisor.core.gpus.model import Gpu

__all__ = ["journal", "path", "writer"]  # fixtures


def test_the_history_of_a_gpu_has_its_events_only(writer):
    """Oldest first, the newest ones where there are many; nothing of other GPUs, and no reports of progress."""
    writer.submit()
    for number in range(5):
        writer.tell(events.GpuOrdered(at=float(number), gpu="GPU-a", what="drain", by=f"ann {number}"))
        writer.tell(events.GpuOrdered(at=float(number), gpu="GPU-b", what="drain", by="bob"))
    rows = writer.journal.gpu_history("GPU-a")
    assert [row.body["by"] for row in rows] == [f"ann {number}" for number in range(5)]
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    assert [row.body["by"] for row in writer.journal.gpu_history("GPU-a", 2)] == ["ann 3", "ann 4"]
    assert writer.journal.gpu_history("GPU-c") == []


def test_it_is_found_by_an_index(journal):
    """However many reports of progress there are, they are not read for it."""
    query = "SELECT seq FROM events WHERE kind IN ('GpuFound', 'GpuHeld', 'XidSeen', 'GpuTested', 'GpuTreated', 'GpuOrdered')"
    plan = journal._connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    assert any("events_of_gpus" in step[3] for step in plan), plan


def test_a_gpu_that_an_older_version_wrote_can_be_read():
    """With fields that are derived from others now: what they said still holds."""
    row = b'{"uuid":"a","facts":{"uuid":"a","index":0},"test_key":"k","quarantine":{"reason":"x","since":1.0,"needs":"reset","met":true,"met_at":3.0,"testing":true}}'
    gpu = msgspec.json.decode(row, type=Gpu)
    assert gpu.testing
    assert gpu.quarantine.met
