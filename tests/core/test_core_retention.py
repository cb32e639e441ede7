from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core.retention import ARCHIVE, DELETE, KEEP, FileFacts, Retention, RunFacts, Words, decide

NOW = 1_800_000_000.0
DAY = 86400.0


def run(name, *, ended_days=10.0, **fields):
    """A finished run that nothing stands in the way of."""
    fields = {"phase": "SUCCEEDED", "finished": True, "bytes": 100, "project": "p", **fields}
    return RunFacts(id=f"{name}@1", name=name, ended_at=NOW - ended_days * DAY, **fields)


def failed(name, **fields):
    """A run that a person may retry."""
    return run(name, **{"phase": "FAILED", "finished": False, **fields})


def epoch(number, **fields):
    """A superseded epochN.pt that is in the backup too."""
    fields = {"superseded": True, "backed": True, "mtime": float(number), "bytes": 10, **fields}
    return FileFacts(path=f"train/weights/epoch{number}.pt", number=number, **fields)


def weights(name="good/epoch9-attempt1.pt", **fields):
    """A file of weights that every backup has."""
    return FileFacts(**{"path": name, "bytes": 10, "held": True, **fields})


def policy(project=None, **fields):
    """A policy; keep words beside the other keys."""
    words = {key: fields.pop(key) for key in tuple(fields) if key in Words.__struct_fields__}
    return Retention(words=Words(**words), projects=project or {}, **fields)


def actions(runs, kept):
    """What becomes of each directory, by name."""
    return {one.path.rpartition("/")[2]: one.action for one in decide(runs, kept, NOW) if not one.file}


def epochs(one, kept):
    """What becomes of the epochN.pt, by number."""
    numbers = {file.path: file.number for file in one.files}
    return {
        numbers[found.file]: found.action for found in decide([one], kept, NOW) if numbers.get(found.file) is not None
    }


def reason(one, kept):
    """Why the directory stays or goes."""
    return decide([one], kept, NOW)[0].reason


def test_keep_words_are_a_union():
    """A run stays that any word wants: the newest, the best, the young, the tagged. Only the rest goes."""
    runs = [
        run("new", ended_days=50, metric=0.1),
        run("best", ended_days=60, metric=0.9),
        run("tagged", ended_days=70, tags=("gold",)),
        run("rest", ended_days=80, metric=0.2),
    ]
    kept = policy(keep_last=1, keep_best=1, keep_tag=("gold",))
    assert actions(runs, kept) == {"new": KEEP, "best": KEEP, "tagged": KEEP, "rest": DELETE}
    assert actions(runs, policy(keep_within_s=65 * DAY)) == {
        "new": KEEP,
        "best": KEEP,
        "tagged": DELETE,
        "rest": DELETE,
    }


def test_each_project_by_itself_unless_across():
    """keep_last counts in each project; with `across` over all of them; a project's own words replace the common ones."""
    runs = [
        run("a", project="x", ended_days=1),
        run("b", project="y", ended_days=2),
        run("c", project="y", ended_days=3),
    ]
    assert actions(runs, policy(keep_last=1)) == {"a": KEEP, "b": KEEP, "c": DELETE}
    assert actions(runs, policy(keep_last=1, across=True)) == {"a": KEEP, "b": DELETE, "c": DELETE}
    own = policy(keep_last=1, across=True, project={"y": Words(keep_last=2)})
    assert actions(runs, own) == {"a": KEEP, "b": KEEP, "c": KEEP}


def test_failures_take_no_place_of_a_success():
    """A row of failed runs does not push the last good one out of keep_last."""
    runs = [
        run("good", ended_days=9),
        *(failed(f"bad{day}", ended_days=day, backup_configured=True, covered=True) for day in range(1, 4)),
    ]
    assert actions(runs, policy(keep_last=1)) == {"good": KEEP, "bad1": KEEP, "bad2": DELETE, "bad3": DELETE}


def test_an_empty_policy_is_refused():
    """Without any keep word nothing goes, whatever keep_epochs and archive_after say, and the reason says so."""
    one = run("a", files=(epoch(1), epoch(2)), backup_configured=True, covered=True, has_copy=True)
    for kept in (policy(), policy(keep_epochs="none", archive_after_s=0.0), policy(project={"p": Words()})):
        found = decide([one], kept, NOW)
        assert {each.action for each in found} == {KEEP}
        assert all("empty policy" in each.reason for each in found)


def test_a_project_without_words_keeps_all():
    """Only projects that have words are pruned; of the others no run is let go."""
    runs = [run("a", project="x"), run("b", project="y", ended_days=3)]
    kept = policy(project={"x": Words(keep_last=1)}, keep_epochs="none")
    assert actions([*runs, run("c", project="x", ended_days=99)], kept) == {"a": KEEP, "b": KEEP, "c": DELETE}


def test_backup_comes_first():
    """Where a backup is configured a run goes only when it lies there verified; a failed one never without a backup."""
    kept = policy(keep_tag=("none",))
    assert actions([run("a", backup_configured=True)], kept) == {"a": KEEP}
    assert "not verified in its backup yet" in reason(run("a", backup_configured=True), kept)
    assert actions([run("a", backup_configured=True, covered=True)], kept) == {"a": DELETE}
    assert actions([failed("a")], kept) == {"a": KEEP}
    assert "can be retried" in reason(failed("a"), kept)
    assert actions([failed("a", backup_configured=True, covered=True)], kept) == {"a": DELETE}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"live": True, "phase": "RUNNING", "finished": False}, "unfinished: RUNNING"),
        ({"hindrance": "not marked as ours"}, "not marked as ours"),
        ({"open": True}, "open"),
    ],
)
def test_what_holds_a_directory(fields, word):
    """A live run, one in use, and one that cannot be vouched for stay, with that reason."""
    assert actions([run("a", **fields)], policy(keep_tag=("x",))) == {"a": KEEP}
    assert word in reason(run("a", **fields), policy(keep_tag=("x",)))


def test_archive_leaves_weights_to_the_backup():
    """After archive_after weights go if the backup has them; the run stays. Without a backup it says why not."""
    kept = policy(keep_last=5, archive_after_s=5 * DAY)
    proven = {"backup_configured": True, "covered": True, "has_copy": True}
    one = run("a", files=(weights(), weights("train/weights/best.pt"), epoch(3), epoch(4)), **proven)
    assert [each.action for each in decide([one], kept, NOW)] == [ARCHIVE, ARCHIVE, ARCHIVE, KEEP, KEEP]
    dropping = replace(kept, keep_epochs="none")
    assert [each.action for each in decide([one], dropping, NOW)] == [ARCHIVE] * 5
    assert actions([replace(one, ended_at=NOW - DAY)], kept) == {"a": KEEP}
    for short in ({"covered": False}, {"backup_configured": False}, {"has_copy": False}):
        assert ARCHIVE not in {each.action for each in decide([replace(one, **short)], kept, NOW)}
    assert "it has no backup" in reason(replace(one, backup_configured=False, covered=False), kept)


def test_weights_that_are_in_no_backup_stay():
    """An archive leaves them here with that reason, and a run that has nothing else to give is not archived."""
    kept = policy(keep_last=5, archive_after_s=5 * DAY)
    proven = {"backup_configured": True, "covered": True, "has_copy": True}
    bare = weights("train/weights/swa_final.pt", held=False)
    found = decide([run("a", files=(weights(), bare), **proven)], kept, NOW)
    assert [each.action for each in found] == [ARCHIVE, ARCHIVE, KEEP]
    assert "in no backup" in found[2].reason
    for archived in (False, True):
        only = run("a", files=(bare,), archived=archived, **proven)
        assert [each.action for each in decide([only], kept, NOW)] == [KEEP, KEEP]


def test_weights_that_are_in_no_backup_hold_their_directory():
    """If there is a backup; the reason names them. Without one the words decide."""
    kept = policy(keep_tag=("none",))
    one = run("a", backup_configured=True, covered=True, lacking="before-1/last.pt")
    assert "but before-1/last.pt is in no backup" in reason(one, kept)
    assert actions([one], kept) == {"a": KEEP}
    assert actions([replace(one, backup_configured=False)], kept) == {"a": DELETE}


def test_archiving_is_done_once():
    """An archived run without weights is not archived again; one of which nobody noted it is."""
    kept = policy(keep_last=5, archive_after_s=0.0)
    one = run("a", backup_configured=True, covered=True, has_copy=True)
    assert actions([one], kept) == {"a": ARCHIVE}
    assert actions([replace(one, archived=True)], kept) == {"a": KEEP}


def test_exponential_epochs():
    """Of epochN.pt stay 10, 20, 40, 80 (the first from there on) and the newest."""
    one = run("a", files=tuple(epoch(number) for number in range(0, 100, 5)))
    kept = epochs(one, policy(keep_last=1, keep_epochs="exponential"))
    assert [number for number, action in kept.items() if action == KEEP] == [10, 20, 40, 80, 95]
    odd = run("a", files=tuple(epoch(number) for number in (0, 7, 14, 21, 28, 35, 42, 49)))
    assert [
        n for n, action in epochs(odd, policy(keep_last=1, keep_epochs="exponential")).items() if action == KEEP
    ] == [14, 21, 42, 49]


def test_epochs_of_live_runs():
    """Of a live run superseded ones go, never the newest (by number or time), an open one, or one that nothing stands for."""
    files = (epoch(1), epoch(2, open=True), epoch(3, superseded=False), epoch(4), epoch(5), epoch(0, mtime=99.0))
    one = run("a", live=True, phase="RUNNING", finished=False, files=files)
    kept = policy(keep_last=1, keep_epochs="none")
    assert epochs(one, kept) == {1: DELETE, 2: KEEP, 3: KEEP, 4: DELETE, 5: KEEP, 0: KEEP}
    assert set(epochs(replace(one, starting=True), kept).values()) == {KEEP}
    unbacked = replace(one, backup_configured=True, files=(epoch(1, backed=False), epoch(2), epoch(3)))
    assert epochs(unbacked, kept) == {1: KEEP, 2: DELETE, 3: KEEP}


FILES = st.lists(
    st.builds(
        FileFacts,
        path=st.integers(0, 200).map(lambda n: f"train/weights/epoch{n}.pt"),
        bytes=st.integers(0, 9),
        number=st.none() | st.integers(0, 200),
        mtime=st.floats(0, 300),
        superseded=st.booleans(),
        backed=st.booleans(),
        held=st.booleans(),
        open=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda file: file.path,
).map(tuple)
PHASES = st.sampled_from(["QUEUED", "RUNNING", "HELD", "SUCCEEDED", "FAILED", "CANCELLED"])


@st.composite
def listings(draw):
    """Any directories, as odd as they like, but with phases that say what they are."""
    found = []
    for number in range(draw(st.integers(0, 7))):
        phase = draw(PHASES)
        flags = {
            name: draw(st.booleans())
            for name in ("starting", "backup_configured", "covered", "has_copy", "archived", "open")
        }
        found.append(
            RunFacts(
                id=f"n{number}@1",
                project=draw(st.sampled_from(["p", "q"])),
                name=f"n{number}",
                phase=phase,
                live=phase in {"QUEUED", "RUNNING", "HELD"},
                finished=phase == "SUCCEEDED",
                tags=tuple(draw(st.lists(st.sampled_from(["a", "b"]), max_size=2))),
                ended_at=NOW - draw(st.floats(-DAY, 100 * DAY)),
                metric=draw(st.none() | st.floats(0, 1)),
                bytes=draw(st.integers(0, 99)),
                hindrance=draw(st.sampled_from(["", "", "", "not ours"])),
                lacking=draw(st.sampled_from(["", "", "before-1/last.pt"])),
                files=draw(FILES),
                **flags,
            )
        )
    return found


WORDS = st.builds(
    Words,
    keep_last=st.integers(0, 3),
    keep_best=st.integers(0, 3),
    keep_within_s=st.sampled_from([0.0, DAY, 50 * DAY]),
    keep_tag=st.sampled_from([(), ("a",), ("a", "b")]),
)
POLICIES = st.builds(
    Retention,
    words=WORDS,
    projects=st.dictionaries(st.sampled_from(["p", "q"]), WORDS),
    across=st.booleans(),
    keep_epochs=st.sampled_from(["all", "none", "exponential"]),
    archive_after_s=st.none() | st.sampled_from([0.0, DAY, 50 * DAY]),
)


def _goes(found):
    return [one for one in found if one.action != KEEP]


@settings(max_examples=600, deadline=None)
@given(listings(), POLICIES)
def test_pruning_never_regrets(runs, kept):
    """Whatever the listing and the policy, each directory and file gets one decision with a reason.

    And nothing goes that is live, in use, of others, the last verified checkpoint of an unfinished run, or not backed up.
    """
    decisions = decide(runs, kept, NOW)
    assert len(decisions) == len({(one.path, one.file) for one in decisions}) == sum(1 + len(one.files) for one in runs)
    assert all(one.reason and one.action in {KEEP, DELETE, ARCHIVE} for one in decisions)
    if kept.empty:
        assert not _goes(decisions)
    for one in runs:
        directory, *files = [found for found in decisions if found.path == one.path]
        facts = {file.path: file for file in one.files}
        gone = _goes(files)
        if one.live or one.hindrance or one.open:
            assert directory.action == KEEP
        if one.hindrance:
            assert not gone
        if not one.finished and not (one.backup_configured and one.covered):
            assert directory.action == KEEP, "an unfinished run goes only into a verified backup"
            assert all(facts[found.file].number is not None for found in gone), "its verified copies stay"
        if one.backup_configured and not one.covered:
            assert directory.action == KEEP
            assert all(facts[found.file].backed for found in gone)
        if directory.action == ARCHIVE:
            assert all((one.backup_configured, one.covered, one.has_copy))
        if directory.action != DELETE:
            assert all(facts[found.file].superseded for found in gone if facts[found.file].number is not None)
        if directory.action == KEEP:
            numbers = [file.number for file in one.files if file.number is not None]
            assert all(facts[found.file].number != max(numbers) or numbers.count(max(numbers)) > 1 for found in gone)
            assert not any(facts[found.file].open for found in gone)


@settings(max_examples=300, deadline=None)
@given(listings(), POLICIES)
def test_only_what_backups_have_is_left_to_them(runs, kept):
    """An archive takes just the files that every backup has; no directory goes with weights that one has not."""
    decisions = decide(runs, kept, NOW)
    for one in runs:
        directory, *files = [found for found in decisions if found.path == one.path]
        facts = {file.path: file for file in one.files}
        if one.backup_configured and one.lacking:
            assert directory.action != DELETE
        for file in (facts[found.file] for found in _goes(files) if found.action == ARCHIVE):
            assert file.backed if file.number is not None else file.held


@settings(max_examples=200, deadline=None)
@given(listings(), POLICIES)
def test_another_word_keeps_no_less(runs, kept):
    """A policy that says one thing more lets go of nothing that stayed before, and deciding twice gives the same."""
    more = replace(kept, words=replace(kept.words, keep_tag=("a", "b")))
    if kept.words.empty:
        return
    before, after = decide(runs, kept, NOW), decide(runs, more, NOW)
    gone = {one.path for one in before if one.action == DELETE and not one.file}
    assert {one.path for one in after if one.action == DELETE and not one.file} <= gone
    assert decide(runs, kept, NOW) == before
