"""Each threshold of a GPU: what begins a finding, what does not, and what ends it."""

from __future__ import annotations

import msgspec
import pytest
from gpu_thresholds import CASES, IDLE
from gpu_weather import GPU, SLOW_S, START, WELL, WITHOUT_MARGIN, Grows, Weather, failed
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gpu_replay
from supervisor.core.gpus import findings
from supervisor.core.gpus.judge import State, begin, judge
from supervisor.core.gpus.limits import Limits, for_gpu, replays_per_minute
from supervisor.core.gpus.model import Finding
from supervisor.core.gpus.readings import ABSENT, NAMES, Failed, Reading, Stale, number
from supervisor.core.gpus.rules import KINDS

#: Longer than all quiet times.
LONG_S = 4000.0


each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_each_kind_has_a_threshold_here_and_a_row():
    """No kind of finding is without its tests, and none without the words and consequences of core.gpus.findings."""
    assert {case.kind for case in CASES.values()} == KINDS
    assert set(findings.KINDS) >= KINDS


@each_case
def test_what_is_bad_is_found_once(case):
    """It is found in its time, with the numbers in words, and told once however long it lasts."""
    weather = case.weather().phase(case.within_s, case.bad)
    assert weather.told(case.kind) == [True]
    (found,) = [event for event in weather.events if event.finding == case.kind]
    assert found.gpu == GPU
    assert found.text.startswith(case.text)
    assert found.values
    assert all(isinstance(value, (int, float)) for value in found.values.values())
    weather.phase(LONG_S, case.bad)
    assert weather.told(case.kind) == [True]
    assert case.kind in weather.state.open()


@each_case
def test_just_below_is_not_found(case):
    """What is just not over the threshold is never found, however long it lasts."""
    assert case.weather().phase(LONG_S, case.below).told(case.kind) == []


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.short_s], ids=lambda case: case.kind)
def test_what_is_over_too_soon_is_not_found(case):
    """It must last: a little less, and then well, is no finding; a second time after a while neither."""
    weather = case.weather()
    for _ in range(3):
        weather.phase(case.short_s, case.bad).phase(1200)
    assert weather.told(case.kind) == []


@pytest.mark.parametrize("card", [{}, WITHOUT_MARGIN], ids=["margin", "no margin"])
@pytest.mark.parametrize("phase", [{}, IDLE], ids=["at work", "at rest"])
def test_a_card_that_is_well_is_left_alone(card, phase):
    """A card that works, or rests with PCIe slowed down, for a day: not one finding, and nothing is kept of it."""
    weather = Weather(base=card).phase(86400, phase, step_s=60)
    assert weather.events == []
    assert weather.state.tracks == {}


@pytest.mark.parametrize("missing", [ABSENT, Failed(3, "NotSupported"), Stale(90.0), None], ids=str)
def test_what_is_missing_begins_nothing(missing):
    """Absent, failed, stale or left out: that is never 0 and never too much."""
    values = dict.fromkeys(NAMES, missing) if missing is not None else {}
    weather = Weather()
    for _ in range(100):
        weather.at += 60
        weather.read(dict(values))
    assert weather.events == []


@each_case
@pytest.mark.parametrize("missing", [ABSENT, Failed(3, "NotSupported"), Stale(90.0)], ids=["absent", "failed", "stale"])
def test_what_is_missing_ends_nothing(case, missing):
    """When values cannot be read any more, what was found stays found."""
    weather = case.weather().phase(case.within_s, case.bad)
    for _ in range(200):
        weather.at += 60
        weather.read(dict.fromkeys(NAMES, missing))
    assert weather.told(case.kind) == [True]


@each_case
def test_it_is_over_after_it_was_well_for_a_while(case):
    """It ends once, not at the first good reading but after the quiet time, and says how long it lasted."""
    weather = case.weather().phase(case.within_s, case.bad).phase(55)
    assert weather.told(case.kind) == [True]
    weather.phase(LONG_S)
    assert weather.told(case.kind) == [True, False]
    (_, over) = [event for event in weather.events if event.finding == case.kind]
    assert over.text.startswith("well again for ")
    assert over.values["lasted_s"] >= 0
    assert case.kind not in weather.state.open()


@each_case
def test_coming_and_going_is_one_finding(case):
    """What is bad half of the time is one finding, not one for each time."""
    weather = case.weather().phase(case.within_s, case.bad)
    for _ in range(30):
        weather.phase(60).phase(60, case.bad)
    assert weather.told(case.kind) == [True]


@each_case
def test_silence_says_nothing(case):
    """While the probe is down nothing ends and no time counts: neither towards a finding nor towards its end."""
    weather = case.weather().phase(case.within_s, case.bad).silence(LONG_S).phase(5)
    assert weather.told(case.kind) == [True]
    if case.short_s:
        weather = case.weather().phase(case.short_s / 2, case.bad).silence(LONG_S)
        assert weather.phase(case.short_s / 2, case.bad).told(case.kind) == []


@each_case
def test_a_judge_that_begins_anew_ends_what_the_old_one_found(case):
    """After a restart nothing is told a second time, and what is over is told to be over."""
    old = case.weather().phase(case.within_s, case.bad)
    (event,) = [event for event in old.events if event.finding == case.kind]
    weather = Weather(case.limits, case.base)
    weather.at, weather.slow_at = old.at + 600, old.at + 600
    weather.counters = dict(old.counters)
    found = Finding(kind=case.kind, source="nvml", text=event.text, since=event.at, values=event.values)
    weather.state = begin({case.kind: found})
    assert weather.phase(700, case.bad).told(case.kind) == []
    assert weather.phase(LONG_S).told(case.kind) == [False]


def test_what_others_found_is_not_the_judges():
    """A finding of the kernel log or of sysfs is not over because NVML answers."""
    kinds = {"lost": "sysfs", "unresponsive": "nvml", "hot": "kernel"}
    found = {kind: Finding(kind=kind, source=source, text="", since=START) for kind, source in kinds.items()}
    assert begin(found).open() == frozenset()


@pytest.mark.parametrize(
    ("base", "hot", "in_the_band"),
    [({}, {"margin_c": 5.0}, {"margin_c": 7.0}), (WITHOUT_MARGIN, {"temperature_c": 85.0}, {"temperature_c": 83.0})],
)
def test_in_the_band_it_is_not_over(base, hot, in_the_band):
    """A card that is just no longer over the threshold stays there; beyond the band it is over."""
    weather = Weather(base=base).phase(305, hot).phase(LONG_S, in_the_band)
    assert weather.told("hot") == [True]
    assert weather.phase(600).told("hot") == [True, False]


@given(st.lists(st.sampled_from([4.0, 5.0, 6.0, 7.0]), min_size=200, max_size=400))
def test_a_value_that_swings_at_its_threshold_does_not_flap(margins):
    """In and about the band, whatever the order, a finding begins at most once and does not end."""
    weather = Weather()
    for margin in margins:
        weather.phase(5, {"margin_c": margin})
    assert weather.told("hot") in ([], [True])


@pytest.mark.parametrize(
    ("kind", "bad", "last_s"),
    [
        ("throttled", {"clocks_event_reasons": 0x48}, 100.0),
        ("slowed", {"clocks_event_reasons": 0x8}, 700.0),
        ("slow-by-heat", {"clocks_event_reasons": 0x20}, 600.0),
    ],
)
def test_the_end_of_a_slowdown_says_how_long_it_was_slow(kind, bad, last_s):
    """The seconds of a slowdown are those in which it was seen, from the first on, without pauses, and begin anew."""
    weather = Weather().phase(300)
    for _ in range(2):
        weather.phase(last_s / 2, bad).phase(100).phase(last_s / 2, bad).phase(2000)
    ends = [event for event in weather.events if event.finding == kind and not event.open]
    assert [end.values["throttled_s"] for end in ends] == [last_s, last_s]


def test_three_of_five_readings():
    """Two of five over the slowdown limit are not enough, three are, in whatever order; after a gap it counts anew."""
    over, under = {"margin_c": -3.0}, {"margin_c": 8.0}
    weather = Weather()
    for _ in range(50):
        weather.phase(5, over).phase(5, under).phase(5, over).phase(10, under)
    assert weather.told("too-hot") == []
    weather = Weather().phase(5, over).phase(5, under).phase(5, over).phase(5, under)
    assert weather.told("too-hot") == []
    assert weather.phase(5, over).told("too-hot") == [True]
    weather = Weather().phase(10, over).silence(40).phase(10, over)
    assert weather.told("too-hot") == []


def test_three_brakes_in_a_minute():
    """Three within a minute are found; three over more than that are not."""
    brake = {"clocks_event_reasons": 0x80}
    weather = Weather().phase(5, brake).phase(25).phase(5, brake).phase(25)
    assert weather.told("throttled") == []
    assert weather.phase(5, brake).told("throttled") == [True]
    weather = Weather()
    for _ in range(100):
        weather.phase(5, brake).phase(26)
    assert weather.told("throttled") == []


def test_six_of_ten_minutes():
    """Once a minute in six of ten is found; five of ten minutes, again and again, are not."""
    slowed = {"clocks_event_reasons": 0x8}
    weather = Weather()
    for minute in range(10):
        weather.phase(5, slowed if minute % 2 or minute == 8 else {}).phase(55)
    assert weather.told("slowed") == [True]
    weather = Weather()
    for _ in range(100):
        weather.phase(5, slowed).phase(115)
    assert weather.told("slowed") == []


def test_more_than_half_of_ten_minutes():
    """Slowed down by heat for 40 % of the time costs little and is not told; for 60 % it is."""
    heat = {"clocks_event_reasons": 0x20}
    for share_s, told in ((40, []), (60, [True])):
        weather = Weather()
        for _ in range(20):
            weather.phase(share_s, heat).phase(100 - share_s)
        assert weather.told("slow-by-heat") == told


def test_a_counter_that_begins_anew():
    """A driver that was loaded again counts from 0: that is no rate, and what was counted before counts no more."""
    weather = Weather().phase(300).phase(540, {"ecc_corrected": Grows(200)})
    weather.phase(60, {"ecc_corrected": 0}).phase(540, {"ecc_corrected": Grows(200)})
    assert weather.told("ecc-rate") == []
    weather = Weather().phase(300, {"pcie_replays": 1_000_000})
    assert weather.phase(300, {"pcie_replays": 12}).told("pcie-replays") == []


def test_a_great_count_from_before_is_no_rate():
    """What a counter had before the first reading, or grew to while nobody looked, says nothing of now."""
    weather = Weather().phase(120, {"ecc_corrected": 10**9, "pcie_replays": 10**6, "nvlink_errors": 500})
    weather.silence(LONG_S).phase(120, {"ecc_corrected": 10**10, "pcie_replays": 10**7, "nvlink_errors": 900})
    assert weather.events == []


def test_two_readings_at_once_make_no_rate():
    """A look on command a second after another does not make a storm of one replay."""
    weather = Weather().phase(65)
    for replays in range(10):
        weather.at += 1
        weather.read(WELL | {"pcie_replays": 12 + replays})
    assert weather.events == []


def test_an_action_that_changes():
    """When the driver wants another thing, the new one is told at once, and the old one ends after its quiet time."""
    weather = Weather().phase(120, {"recovery_action": 1}).phase(65, {"recovery_action": 2})
    assert weather.state.open() == {"recovery-reset", "recovery-reboot"}
    weather.phase(180, {"recovery_action": 2})
    assert weather.state.open() == {"recovery-reboot"}


def test_a_gpu_that_cannot_be_read_is_not_well():
    """While a GPU is lost, what else was found of it stays, and other errors do not say that it is back."""
    weather = Weather().phase(120, {"ecc_uncorrected": 2}).phase(LONG_S, failed(15)).phase(LONG_S, failed(10))
    assert weather.state.open() == {"ecc-uncorrected", "lost"}
    assert weather.phase(LONG_S).state.open() == frozenset()


def test_links_without_a_bridge_are_always_down():
    """Only links that were up and are not any more are told; when they come back, that is told too."""
    weather = Weather(base={"nvlink_down": 18}).phase(LONG_S)
    assert weather.events == []
    weather.phase(300, {"nvlink_down": 0})
    assert weather.phase(65, {"nvlink_down": 2}).told("nvlink-down") == [True]
    assert weather.phase(300, {"nvlink_down": 0}).told("nvlink-down") == [True, False]


def test_a_card_with_a_margin_is_judged_by_that_alone():
    """A slowdown temperature beside a margin is not used, also while the margin cannot be read."""
    hot = {"temperature_c": 95.0, "slowdown_c": 90.0}
    weather = Weather().phase(60).phase(1200, hot).phase(1200, hot | {"margin_c": Failed(999)})
    assert weather.events == []


def test_a_clock_that_is_set_back_counts_no_time():
    """Neither a step back nor one ahead makes minutes of heat out of seconds, and nothing ends by it."""
    hot = {"margin_c": 3.0}
    weather = Weather().phase(150, hot).silence(-3600).phase(200, hot).silence(3600).phase(200, hot)
    assert weather.told("hot") == []
    weather.phase(200, hot).silence(-3600).phase(200)
    assert weather.told("hot") == [True]
    assert Weather().phase(150, hot).silence(-3600).phase(305, hot).told("hot") == [True]
    brake = {"clocks_event_reasons": 0x80}
    assert Weather().phase(60).phase(10, brake).silence(-3600).phase(10, brake).told("throttled") == []


def test_an_old_reading_says_nothing():
    """What comes late, from a probe that hung, is not taken for how it is now."""
    reading = Reading(gpu=GPU, at=START, values={"ecc_uncorrected": 5})
    assert judge(State(), reading, Limits(), START + 500) == (State(), ())
    assert judge(State(), reading, Limits(), START + 5)[1]


def test_limits_follow_the_card_the_tiers_and_the_configuration():
    """What the configuration says comes before what is known of the card, of this GPU before that of all."""
    assert for_gpu("NVIDIA L40S").slowdown_margin_c == -2.0
    assert for_gpu("NVIDIA GB200").slowdown_margin_c == -2.0
    assert for_gpu("NVIDIA B200").slowdown_margin_c == -3.0
    everywhere, here = {"slowdown_margin_c": -5, "hot_for_s": 60}, {"slowdown_margin_c": -1.5}
    limits = for_gpu("NVIDIA B200", everywhere, here, fast_s=30, slow_s=300)
    assert (limits.slowdown_margin_c, limits.hot_for_s) == (-1.5, 60)
    assert limits.fast_gap_s > 2 * 30
    assert limits.slow_gap_s > 2 * 300


@pytest.mark.parametrize("table", [{"hot_for": 60}, {"hot_for_s": "long"}, {"load_share": 2}, {"brake_samples": 0}])
def test_limits_that_cannot_be_are_refused(table):
    """A name that there is not, and a value of the wrong kind or out of all bounds, is an error with the name in it."""
    with pytest.raises(msgspec.ValidationError, match=next(iter(table))):
        for_gpu("", table)


@pytest.mark.parametrize(
    ("lanes", "generation", "usual"), [(16, 4, 16), (16, 1, 3), (8, 3, 4), (16, 6, 62), (4, 2, 2), (16, 9, None)]
)
def test_usual_replays(lanes, generation, usual):
    """DCGM's table, rounded up; a generation that is not in it is not judged."""
    assert replays_per_minute(lanes, generation) == usual


def test_a_reading_survives_the_wire():
    """Each kind of value arrives as what it was, and only numbers are numbers."""
    values = {
        "power_w": 3.5,
        "processes": 2,
        "margin_c": ABSENT,
        "mig": Failed(3, "NotSupported"),
        "energy_j": Stale(7.0),
    }
    reading = Reading(gpu=GPU, at=START, values=values, error=Failed(15, "GpuIsLost"))
    again = msgspec.json.decode(msgspec.json.encode(reading), type=Reading)
    assert again == reading
    assert [number(again, name) for name in (*values, "temperature_c")] == [3.5, 2, None, None, None, None]


def test_the_state_stays_small():
    """Whatever comes for days, what is kept of a GPU does not grow."""
    weather = Weather()
    sizes = []
    for _ in range(3):
        for turn in range(60):
            bits = (0x20, 0x8, 0x48, 0x80, 0x4)[turn % 5]
            weather.phase(1440, {"clocks_event_reasons": bits, "margin_c": float(turn % 12 - 6)}, step_s=SLOW_S / 4)
        sizes.append(len(msgspec.json.encode(weather.state)))
    assert max(sizes) < 4000


def test_a_drawn_day():
    """Four GPUs through a day of drawn faults: each is found and over once, and nothing else; far below 150 µs each."""
    outcome = gpu_replay.replay(4, 24.0, seed=7)
    assert outcome.readings == 4 * 86400 / 5
    assert outcome.expected
    assert outcome.wrong == 0, (outcome.found - outcome.expected, outcome.expected - outcome.found)
    assert outcome.judged_s / outcome.readings < 150e-6
