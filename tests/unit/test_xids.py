"""The table of Xids: every row, how their lines are read, and what the administrator may change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import xid_rules
from supervisor.core.diagnosis import tables
from supervisor.core.gpus import xids
from supervisor.core.gpus.model import XidOverride
from supervisor.xid_rules import XidRow

ROWS = sorted(xids.TABLE.values(), key=lambda row: row.xid)
#: What the facts about GPUs say of each code: what the attempt gets, and what the GPU gets.
EXPECTED = {
    8: ("resume", "note"),
    **dict.fromkeys((11, 25, 32, 80), ("resume", "note")),
    13: ("resume", "note"),
    31: ("resume", "note"),
    **dict.fromkeys((37, 38, 66, 67, 121, 160, 161, 163), ("none", "note")),
    **dict.fromkeys((39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)), ("resume", "note")),
    43: ("resume", "none"),
    44: ("elsewhere", "note"),
    45: ("none", "none"),
    **dict.fromkeys((46, 61, 62, 110, 158, 169), ("end", "reset")),
    **dict.fromkeys((48, 95, 140, 171, 172), ("end", "reset")),
    **dict.fromkeys((54, 143), ("elsewhere", "quarantine")),
    **dict.fromkeys((60, 68, 69, 137, 94), ("resume", "note")),
    **dict.fromkeys((63, 156), ("none", "reset-idle")),
    **dict.fromkeys((64, 109, 136, 155, *range(144, 151)), ("elsewhere", "reset")),
    74: ("elsewhere", "last"),
    78: ("none", "note"),
    **dict.fromkeys((79, 167, 173), ("end", "reboot")),
    **dict.fromkeys((92, 157), ("none", "last")),
    **dict.fromkeys((119, 120), ("end", "reset")),
    154: ("end", "reset"),
    162: ("none", "none"),
}


def number(row):
    """The id of a row's test."""
    return str(row.xid)


# ---- every row
@pytest.mark.parametrize("row", ROWS, ids=number)
def test_each_row_is_known_by_its_line(row):
    """Its sample is read as that Xid of that GPU, with its process where the line names one."""
    found = xids.parse(row.sample)
    assert found is not None
    assert (found.xid, found.bus_id) == (row.xid, "0000:3b:00.0")
    assert (found.pid, found.process) == ((1733, "python") if "pid=1733" in row.sample else (0, ""))
    assert found.text.startswith(f"{row.xid}, ")


NEAR_MISSES = (
    lambda line: line.replace("NVRM: Xid", "nvidia-nvswitch0: SXid"),
    lambda line: line.replace("NVRM: Xid", "NVRM: SXid"),
    lambda line: line.replace("NVRM: ", "usb 1-1: Product: NVRM: "),
    lambda line: line.replace("NVRM: ", "NVRM "),
    lambda line: line.replace("0000:3b:00", "somewhere"),
    lambda line: re.sub(r"\): \d+", "): x", line),
    lambda line: line.replace("Xid (PCI:0000:3b:00):", "Xid"),
)


@pytest.mark.parametrize("row", ROWS, ids=number)
def test_a_near_miss_is_no_xid(row):
    """What only looks like it, or is somebody's name for a thing that he plugs in, is not taken for an error."""
    for spoil in NEAR_MISSES:
        assert spoil(row.sample) != row.sample
        assert xids.parse(spoil(row.sample)) is None


@pytest.mark.parametrize("row", ROWS, ids=number)
def test_each_row_can_be_carried_out(row):
    """Its words are known words, its cause is in the table of causes, and its texts have no unknown placeholder."""
    assert row.fault in xids.FAULTS
    assert row.attempt in xids.ATTEMPT_ACTIONS
    assert row.gpu in xids.GPU_ACTIONS
    assert row.cause in tables.CAUSES or (row.cause == "" and row.attempt == "none")
    assert row.title
    assert row.means.format(index=3, uuid="GPU-1")
    assert row.todo.format(index=3, uuid="GPU-1")
    assert re.match(r"(vendor|gpud|dcgm|nvsentinel|k8s|own): ", row.source)


@pytest.mark.parametrize("row", [row for row in ROWS if row.repeat], ids=number)
def test_each_rule_of_repetition_can_be_reached_and_changes_something(row):
    """It needs more than one, it leads to more than the row does by itself, and none hides a later one."""
    before = (0, row.gpu, row.attempt)
    for rule in row.repeat:
        gpu, attempt = rule.gpu or row.gpu, rule.attempt or row.attempt
        assert gpu in xids.GPU_ACTIONS
        assert attempt in xids.ATTEMPT_ACTIONS
        assert rule.count >= 2
        assert rule.within_s > row.burst_s
        assert rule.count > before[0] or rule.same_place
        assert xids.GPU_ACTIONS.index(gpu) >= xids.GPU_ACTIONS.index(before[1])
        assert xids.ATTEMPT_ACTIONS.index(attempt) >= xids.ATTEMPT_ACTIONS.index(before[2])
        assert (gpu, attempt) != before[1:]
        before = (rule.count, gpu, attempt)


@pytest.mark.parametrize("row", ROWS, ids=number)
def test_each_row_says_what_is_known_of_its_code(row):
    """The actions of every code, once more and by hand: a slip in the table is a GPU taken away, or one left in use."""
    video = (82, 83, 84, 86, 88, 89, *range(96, 106), 139)
    notes = (93, 106, 107, 141, 164, 165, 166, 170)
    rest = {**dict.fromkeys(video, ("resume", "note")), **dict.fromkeys(notes, ("none", "note"))}
    rest |= {151: ("resume", "note"), 159: ("resume", "note"), 168: ("elsewhere", "last")}
    assert (row.attempt, row.gpu) == {**EXPECTED, **rest}[row.xid]


def test_the_table_has_every_code_that_matters():
    """A code that is forgotten would be taken for one that nobody knows."""
    assert set(EXPECTED) <= set(xids.TABLE)
    assert re.fullmatch(r"\d{4}\.\d{1,2}\.\d+", xids.VERSION)


def test_special_rows():
    """Codes that follow from a kill, that stop all calls into the driver, that cancel, or that say it themselves."""
    assert {row.xid for row in ROWS if row.expected_after_kill} == {43, 45}
    assert {row.xid for row in ROWS if row.stops_nvml} == {119, 120}
    assert {row.xid: row.cancels for row in ROWS if row.cancels} == {162: 163}
    assert {row.xid for row in ROWS if row.by_severity} == set(range(144, 151))
    assert {row.xid for row in ROWS if row.by_action} == {154}
    assert {row.xid for row in ROWS if row.fault == "app"} == {13, 31, 69, 137}
    assert [rule.gpu for rule in xids.TABLE[13].repeat if rule.same_place] == ["test"]


def test_an_unknown_code_takes_no_gpu_away():
    """A newer driver may have codes that are harmless: somebody is told, and that is all."""
    row = xids.row(999)
    assert (row.xid, row.attempt, row.gpu, row.cause, row.repeat) == (999, "none", "note", "", ())
    assert row.todo


def test_a_table_with_a_slip_is_refused():
    """Two rows for one code, or an unknown key, are found when the program starts, not when the error comes."""
    row = {"xid": 1, "title": "x", "fault": "note"}
    with pytest.raises(ValueError, match="two rows"):
        xids.table_of({"row": [dict(row), dict(row)]})
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        xids.table_of({"row": [{**row, "actoin": "none"}]})


# ---- what the line itself says
@pytest.mark.parametrize("xid", range(144, 151))
def test_nvlink_errors_are_as_bad_as_they_say(xid):
    """Fatal: what the row says. Nonfatal, or where the source has no words (NVML): a note."""
    sample = xids.TABLE[xid].sample
    fatal = xids.parse(sample)
    harmless = xids.parse(sample.replace("Fatal", "Nonfatal"))
    assert (fatal.severity, harmless.severity) == ("fatal", "nonfatal")
    assert xids.parse(sample.replace("Fatal", "Non-fatal")).severity == "nonfatal"
    row = xids.row(xid)
    assert xids.said(row, fatal.severity) == row
    for severity in ("nonfatal", ""):
        said = xids.said(row, severity)
        assert (said.attempt, said.gpu, said.repeat) == ("none", "note", ())


def test_the_word_fatal_counts_only_where_the_row_asks_for_it():
    """An Xid 74 says "fatal error" always."""
    assert xids.parse(xids.TABLE[74].sample).severity == ""
    assert xids.said(xids.TABLE[74]) == xids.TABLE[74]


@pytest.mark.parametrize(
    ("words", "action", "expected"),
    [
        ("0x0 (None)", "none", ("none", "none")),
        ("0x1 (GPU Reset Required)", "reset", ("end", "reset")),
        ("0x1 (PF FLR)", "reset", ("end", "reset")),
        ("0x2 (Node Reboot Required)", "reboot", ("end", "reboot")),
        ("0x2 (OS Reboot)", "reboot", ("end", "reboot")),
        ("0x3 (Drain P2P)", "drain", ("none", "last")),
        ("0x4 (Drain and Reset)", "drain-reset", ("none", "reset-idle")),
        ("0x5 (Recover IMEX)", "imex", ("none", "note")),
        ("0x6 (Bus Reset)", "bus-reset", ("end", "reset")),
        ("0x7 (System Reboot)", "reboot", ("end", "reboot")),
        ("0x2a (Something New)", "", ("none", "note")),
        ("nothing that has a number", "", ("none", "note")),
    ],
)
def test_the_drivers_own_verdict_is_followed(words, action, expected):
    """By its number, for the words differ between drivers; one that nobody knows is a note."""
    found = xids.parse(f"NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x1 (x) to {words}")
    assert found.action == action
    said = xids.said(xids.row(154), found.severity, found.action)
    assert (said.attempt, said.gpu) == expected


# ---- lines
BUSES = ["PCI:0000:3b:00", "PCI:0000:3B:00", "PCI:0000:3b:00.0", "0000:3b:00", "PCI:0000:3b:00 GPU-I:02", "3b:00.0"]


@pytest.mark.parametrize("bus", BUSES)
def test_all_spellings_of_a_place_on_the_bus_are_one(bus):
    """Older and newer drivers, MIG instances, capitals."""
    assert xids.parse(f"NVRM: Xid ({bus}): 79, GPU has fallen off the bus.").bus_id == "0000:3b:00.0"


@pytest.mark.parametrize(
    ("told", "pid", "process"),
    [
        ("pid=1733, name=python3, Ch 0000000b", 1733, "python3"),
        ("pid='<unknown>', name=<unknown>, Ch 0000000b", 0, ""),
        ("pid=<unknown>, name=<unknown>, Ch 0000000b", 0, ""),
        ("pid=1733, Ch 0000000b", 1733, ""),
        ("pid=1733, name=pt_main_thread", 1733, "pt_main_thread"),
        ("Ch 0000000b", 0, ""),
        ("Ch 0000000b, pid=9", 0, ""),
        ("pid=1733, name=a\x1b[31mb, Ch", 1733, "ab"),
    ],
)
def test_the_process_is_named_where_the_line_names_it(told, pid, process):
    """With and without a name; what is unknown stays unknown. Programs choose their names: no colours get through."""
    found = xids.parse(f"NVRM: Xid (PCI:0000:3b:00): 109, {told}")
    assert (found.pid, found.process) == (pid, process)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("154, pid=1733, name=a, to 0x7, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", ("", "", "reset")),
        ("154, pid=1733, name=a, to 0x7,, GPU recovery action changed", ("", "", "")),
        ("145, pid=1733, name=a,Fatal, RLW_RSPCOL Nonfatal XC0 i0 Link 04 (0x85)", ("link 04", "nonfatal", "")),
        ("145, pid=1733, name=a,Nonfatal, RLW_RSPCOL Fatal XC0 i0 Link 04 (0x85)", ("link 04", "fatal", "")),
        ("145, pid=1733, name=Fatal, RLW_RSPCOL", ("", "", "")),
        ("145, pid=1733, name='Fatal), (', RLW_RSPCOL Nonfatal", ("", "nonfatal", "")),
        ("145, pid=1733, name=a\nFatal, link 7, RLW_RSPCOL", ("", "", "")),
        ("13, pid=1733, name=,GPC 1, TPC 1, Graphics SM Warp Exception on (GPC 2, TPC 1, SM 0)", ("GPC 2 TPC 1", "", "")),
        ("13, pid=1733, name=,GPC 1, TPC 1, Graphics Exception", ("", "", "")),
        ("145, pid='<unknown>', name=<unknown>, RLW_RSPCOL Fatal XC0 i0 Link 04", ("link 04", "fatal", "")),
        ("145, pid=1733, name=Fatal", ("", "", "")),
    ],
)  # fmt: skip
def test_what_a_process_is_called_is_not_taken_for_the_drivers_words(line, expected):
    """Whoever names a process "a,Fatal" cannot have a GPU reset, nor keep a bad one in use."""
    found = xids.parse(f"NVRM: Xid (PCI:0000:3b:00): {line}")
    assert (found.place, found.severity, found.action) == expected


@given(st.text(alphabet="aFtl 0x,')(:GPC1to\n", max_size=15))
def test_no_name_changes_the_verdict(name):
    """Names have up to 15 bytes, of whatever kind."""
    for xid, words in ((154, "changed from 0x0 (None) to 0x2 (x)"), (145, "RLW Nonfatal Link 04"), (13, "no place")):
        plain, named = (
            xids.parse(f"NVRM: Xid (PCI:0000:3b:00): {xid}, pid=7, name={one}, {words}") for one in ("python", name)
        )
        assert (named.pid, named.severity, named.action, named.place) == (7, plain.severity, plain.action, plain.place)


@pytest.mark.parametrize(
    ("xid", "place"),
    [(13, "GPC 2 TPC 1"), (31, "GPC 1 client 3"), (48, "partition 6.0"), (74, "link 3"), (147, "link 04"), (79, "")],
)
def test_the_place_on_the_chip_is_told_where_the_line_has_it(xid, place):
    """So that two errors at one place can be told from two anywhere."""
    assert xids.parse(xids.TABLE[xid].sample).place == place


def test_lines_as_dmesg_shows_them_are_read_too():
    """People paste those."""
    assert xids.parse(f"[151236.281102] {xids.TABLE[79].sample}").xid == 79


def test_a_long_line_is_cut_and_has_no_control_characters():
    """It stands in messages and on screens."""
    found = xids.parse("NVRM: Xid (PCI:0000:3b:00): 62, \x1b[2J" + "0" * 5000 + "\nmore")
    assert len(found.text) == xids.LINE_LENGTH
    assert "\x1b" not in found.text


@given(st.text(max_size=200) | st.text(max_size=100).map(lambda rest: f"NVRM: Xid (PCI:0000:3b:00): 31{rest}"))
def test_no_line_makes_the_reader_fail(line):
    """Whatever stands in the log: it is an Xid or it is none."""
    found = xids.parse(line)
    assert found is None or found.bus_id


def test_places_on_the_bus_are_compared_whatever_their_spelling():
    """NVML has eight digits for the domain, the kernel four; nothing is not the same as nothing."""
    assert xids.same_bus("00000000:3B:00.0", "0000:3b:00.0")
    assert xids.same_bus("PCI:0000:3b:00", "3b:00")
    assert not xids.same_bus("0000:3b:00.0", "0000:3c:00.0")
    assert not xids.same_bus("0000:3b:00.0", "0001:3b:00.0")
    assert not xids.same_bus("", "")
    assert not xids.same_bus("GPU-1", "GPU-1")


# ---- what the administrator changes
@pytest.mark.parametrize("row", [*ROWS, xids.row(999)], ids=number)
def test_every_row_can_be_overridden(row):
    """For the first time and for the tenth; what is not named stays."""
    for gpu in xids.GPU_ACTIONS:
        override = XidOverride(xid=row.xid, gpu=gpu, attempt="resume", cause="gpu-busy")
        found = xids.said(xids.row(row.xid, (override,)), "fatal", "reset")
        assert (found.gpu, found.attempt, found.cause, found.repeat) == (gpu, "resume", "gpu-busy", ())
        assert found.title == row.title
        only = xids.row(row.xid, (XidOverride(xid=row.xid, gpu=gpu),))
        assert (only.attempt, only.cause) == (row.attempt, row.cause)
        assert all(not rule.gpu and rule.attempt for rule in only.repeat)


def test_an_override_of_one_xid_leaves_the_others():
    """And the last of two for the same counts."""
    overrides = (XidOverride(xid=109, gpu="note"), XidOverride(xid=109, gpu="test"))
    assert xids.row(109, overrides).gpu == "test"
    assert xids.row(79, overrides) == xids.TABLE[79]
    assert xids.row(109) == xids.TABLE[109]


def test_the_words_of_the_configuration_are_those_of_the_table():
    """One list each, in one order."""
    assert get_args(xid_rules.AttemptAction) == xids.ATTEMPT_ACTIONS
    assert get_args(xid_rules.GpuAction) == xids.GPU_ACTIONS


def test_rows_of_the_configuration_become_overrides():
    """What is left out stays open; a code that the table lacks is fine."""
    rows = (XidRow(xid=31, gpu="note"), XidRow(xid=60000, attempt="end", cause="gpu-fault"))
    assert list(xid_rules.problems(rows)) == []
    assert xid_rules.as_overrides(rows) == (
        XidOverride(xid=31, gpu="note"),
        XidOverride(xid=60000, attempt="end", cause="gpu-fault"),
    )


@pytest.mark.parametrize(
    ("rows", "key", "words"),
    [
        ((XidRow(xid=31, cause="gpu-fautl"),), "cause", "no such cause"),
        ((XidRow(xid=31, gpu="note"), XidRow(xid=31, gpu="test")), "xid", "same Xid"),
        ((XidRow(xid=31),), "xid", "changes nothing"),
        ((XidRow(xid=63, attempt="end"),), "attempt", "a cause is needed"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused(rows, key, words):
    """At the place where it stands in the file, with what is wrong."""
    [(place, found, problem)] = xid_rules.problems(rows)
    assert (place, found) == (len(rows) - 1, key)
    assert words in str(problem)


def test_words_that_do_not_exist_are_refused_when_the_file_is_read():
    """An action with a slip in it would else be no action."""
    for wrong in ({"xid": 31, "gpu": "tset"}, {"xid": 31, "attempt": "hold"}, {"xid": 0, "gpu": "note"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, XidRow)


def test_the_rules_for_logs_know_the_same_causes():
    """The line of an Xid in the evidence of an attempt and the event of it do not name two causes."""
    patterns = [(rule, rule.pattern) for rule in tables.RULES if rule.name.startswith("xid")]
    wrong = []
    for row in ROWS:
        rule = next(rule for rule, pattern in patterns if pattern.search(row.sample))
        if row.attempt == "end" and (rule.cause != row.cause or rule.kind != "cause"):
            wrong.append((row.xid, rule.name, rule.cause, row.cause))
    assert wrong == []


def test_the_table_is_where_the_package_has_its_data():
    """It is read from beside its module, so it must be there after an installation too."""
    assert Path(xids.__file__).with_name("xids.toml").is_file()
