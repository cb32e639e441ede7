"""Who is left alone, and until when."""

from __future__ import annotations

from supervisor.sources.gpu_silence import Silences


class Probe:
    """An ended probe, as far as it matters here: it may still be there."""

    def __init__(self):
        self.code = None

    def ended(self):
        """Its exit code."""
        return self.code


def silences():
    """First try after 30 s, at most 100 s between two."""
    return Silences(30.0, 100.0)


def test_a_gpu_that_hung_is_tried_again_ever_more_seldom():
    """30, 60, 100, 100 s; the first hang after an answer counts from the beginning."""
    one = silences()
    waits = []
    for _ in range(4):
        waits.append(one.begin("a", None, 0.0))
        assert one.over(waits[-1] - 1) == []
        assert one.over(waits[-1]) == ["a"]
    assert waits == [30.0, 60.0, 100.0, 100.0]
    one.answered("a")
    assert one.begin("a", None, 0.0) == 30.0


def test_a_change_lets_it_be_tried_at_once():
    """A kernel line or a change on the bus; once."""
    one = silences()
    one.begin("a", None, 0.0)
    assert one.changed("a")
    assert not one.changed("a")
    assert one.names() == []


def test_never_a_second_probe_beside_one_that_hangs():
    """As long as the old probe hangs in the kernel neither time nor change counts; that it came out does."""
    one, probe = silences(), Probe()
    one.begin("a", probe, 0.0)
    assert one.stuck == 1
    assert not one.changed("a")
    assert one.over(1e9) == []
    probe.code = -15
    assert one.over(1.0) == ["a"]
    assert one.stuck == 0


def test_what_is_to_be_left_alone_is_left_alone():
    """After an Xid of the firmware neither time nor change counts: only that it was treated."""
    one = silences()
    one.leave("a")
    one.begin("a", None, 0.0)
    assert not one.changed("a")
    assert one.over(1e9) == []
    assert one.names() == ["a"]
    one.end("a")
    assert one.names() == []


def test_the_driver_as_a_whole_is_no_gpu():
    """A driver that hung at its opening is not asked while a probe hangs there."""
    one, probe = silences(), Probe()
    assert one.of_driver(probe, 0.0) == 30.0
    assert one.names() == []
    assert not one.driver_may_be_asked()
    probe.code = 0
    assert one.driver_may_be_asked()
