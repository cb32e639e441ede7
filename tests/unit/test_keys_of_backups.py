"""The keys about backups, prunings and publications: [[backup]], [prune], `backup` and `publish` of a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_machine import Machine, accepted, refused

from supervisor import config, jobspec
from supervisor.backup_config import Backup, address
from supervisor.cli.absolute import make_absolute
from supervisor.config import Defaults
from supervisor.core.backups.model import TargetPolicy
from supervisor.core.job import PublishTo
from supervisor.errors import UserError

TRAIN = 'python = "/env/bin/python"\n[train]\nmodel = "yolo11s.yaml"\ndata = "/data/truck.yaml"\n'
SERVER = '[server]\nstate_dir = "/var/lib/ys"\nruns_dir = "/data/runs"\n'


def read(text):
    """The configuration of a text."""
    return config.parse(text.encode(), "config.toml")


def wrong(text):
    """What is wrong with a configuration, by key."""
    with pytest.raises(UserError) as caught:
        read(text)
    return {problem.key: problem for problem in caught.value.problems}


def target(*lines, to="/mnt/nas", name="nas"):
    """One [[backup]] table."""
    return "\n".join(["[[backup]]", f'name = "{name}"', f'to = "{to}"', *lines, ""])


# ---- where targets lie
@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("/mnt/nas/yolo", "local", ("", "", "/mnt/nas/yolo", 22)),
        ("ann@nas:backups", "ssh", ("ann", "nas", "backups", 22)),
        ("nas.example.org:", "ssh", ("", "nas.example.org", "", 22)),
        ("ssh://ann@nas:2222/srv", "ssh", ("ann", "nas", "/srv", 2222)),
        ("rclone:oss:bucket/yolo", "rclone", ("", "oss", "bucket/yolo", 22)),
    ],
)
def test_addresses(text, kind, parts):
    """Each kind of address is read, and written as it was."""
    found = address(text)
    assert (found.kind, (found.user, found.host, found.path, found.port)) == (kind, parts)
    assert str(found) == text
    read(SERVER + target(to=text))


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("nas", "no address"),
        ("-oProxyCommand=x:y", "no address"),
        ("ann@-nas:x", "no address"),
        ("ssh://nas:99999/x", "no such port"),
        ("ssh://nas:0/x", "no such port"),
        ("ann@nas:../x", "climbs"),
        ("/mnt/../data/runs", "climbs"),
        ("rclone:oss:", "no bucket"),
        ("/data/runs/backup", "inside /data/runs"),
        ("/data//runs", "inside /data/runs"),
        ("/var/lib/ys", "inside /var/lib/ys"),
        ("/data", "/data/runs lies inside"),
        ("/", "lies inside"),
    ],
)
def test_bad_places_are_refused(to, words):
    """What is no address, and a folder that would be backed up into itself, with line and key."""
    problem = wrong(SERVER + target(to=to))["backup[1].to"]
    assert words in problem.message
    assert problem.line == 6


@pytest.mark.parametrize(
    ("lines", "to", "key", "words"),
    [
        (['ssh_key = "/k"'], "/mnt/nas", "ssh_key", "only a target by ssh"),
        (['known_hosts = "/k"'], "rclone:r:b", "known_hosts", "only a target by ssh"),
        (['rclone_config = "/k"'], "a@b:c", "rclone_config", "only a target by rclone"),
        (['schedule = "hourly"'], "/mnt/nas", "schedule", "no schedule"),
        (['schedule = "61 * * * *"'], "/mnt/nas", "schedule", "minute"),
        (['quiet = "8-18"'], "/mnt/nas", "quiet", "no quiet hours"),
        (['bwlimit = "10B"'], "/mnt/nas", "bwlimit", "no transfer"),
        (["snapshots = 0"], "/mnt/nas", "snapshots", "wrong value"),
        (["keep = { keep_last = 0 }"], "/mnt/nas", "keep.keep_last", "wrong value"),
        (['keep = { keep_epochs = "some" }'], "/mnt/nas", "keep.keep_epochs", "wrong value"),
    ],
)
def test_bad_values_are_refused(lines, to, key, words):
    """With key, what was expected, and what to do."""
    problem = wrong(SERVER + target(*lines, to=to))[f"backup[1].{key}"]
    assert words in problem.message
    assert problem.expected or problem.hint


def test_targets_are_told_apart():
    """Names and places are unique: two targets in one folder would be taken for two servers."""
    problems = wrong(SERVER + target() + target())
    assert problems["backup[2].name"].message == "another target has this name"
    assert problems["backup[2].to"].line == 9
    read(SERVER + target() + target(name="oss", to="/mnt/other"))


def test_what_deciding_needs_reaches_the_policy():
    """The core knows names, whether a new best is sent at once, and what is read again and rehearsed."""
    text = target("on_best = false", 'verify_within = "10d"', 'drill = "0s"') + "[prune]\nkeep_last = 1\n"
    policy = config.policy(read(text), 0)
    assert policy.backups == (TargetPolicy(name="nas", to="/mnt/nas", on_best=False, verify_s=864000.0, drill_s=0.0),)
    assert policy.prunes
    assert not config.policy(config.Config(), 0).prunes


def test_what_is_shown_means_the_same():
    """`config show` prints targets and policy so that they are read back; without [prune] it prints none."""
    text = target('schedule = "0 */6 * * *"', 'ssh_key = "/k"', "keep = { keep_best = 3 }", to="a@b:c")
    text += '[prune]\nkeep_within = "90d"\nfolders = ["/old"]\n[[prune.project]]\nname = "p"\nkeep_tag = ["x"]\n'
    assert read(config.show_text(read(text))) == read(text)
    assert "[prune]" not in config.show_text(config.Config())
    assert config.show(config.Config())["prune"] is None


# ---- reading the file again
def test_quiet_hours_bandwidth_and_the_policy_change_while_running():
    """All else of a target needs a restart, and that is said: a transfer may be under way."""
    running = read(target())
    now, ignored = config.reloaded(running, read(target('quiet = "08:00-18:00"', 'bwlimit = "1MiB"')))
    assert (now.backup[0].quiet, now.backup[0].bwlimit, ignored) == ("08:00-18:00", 1024**2, [])
    now, ignored = config.reloaded(running, read(target() + "[prune]\nkeep_last = 1\n"))
    assert (now.prune.keep_last, ignored) == (1, [])
    assert config.reloaded(now, running)[0].prune is None


@pytest.mark.parametrize(
    "text", [target('schedule = "2h"'), target(to="/mnt/x"), target(name="x"), target() + target(name="x", to="/x"), ""]
)
def test_other_changes_of_targets_need_a_restart(text):
    """What runs stays as it was."""
    running = read(target())
    now, ignored = config.reloaded(running, read(text))
    assert (now.backup, ignored) == (running.backup, ["backup"])


# ---- what stays
@pytest.mark.parametrize(
    "words", ["", 'schedule = "04:00"', 'keep_epochs = "none"', "keep_tag = []", 'keep_within = "0s"', 'trash = "1d"']
)
def test_a_policy_that_keeps_nothing_is_refused(words):
    """As restic does: a forgotten line must not let go of everything."""
    problem = wrong(f"[prune]\n{words}\n")["prune"]
    assert problem.message == "this policy keeps nothing"
    assert problem.line == 1


@pytest.mark.parametrize("words", ["keep_last = 1", "keep_best = 1", 'keep_within = "1d"', 'keep_tag = ["paper"]'])
def test_one_word_is_a_policy(words):
    """Any of restic's words is enough."""
    assert read(f"[prune]\n{words}\n").prune is not None


NAS = ("[[backup]]", 'name = "nas"', 'to = "/nas/b"')


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        (['schedule = "4"'], "prune.schedule", "no schedule"),
        (['archive_after = "30d"'], "prune.archive_after", "no backup has"),
        (['keep_tag = [""]'], "prune.keep_tag", "not empty"),
        (['folders = ["/data/runs"]'], "prune.folders", "inside /data/runs"),
        (['folders = ["/"]'], "prune.folders", "lies inside this"),
        (['folders = ["/old", "/old"]'], "prune.folders", "named twice"),
        (['folders = ["/nas/b/gpu2"]', *NAS], "prune.folders", "inside /nas/b"),
        (['folders = ["/nas"]', *NAS], "prune.folders", "/nas/b lies inside this"),
        (["[[prune.project]]", 'name = "p"', 'keep_tag = [""]'], "prune.project[1].keep_tag", "not empty"),
        (
            ["[[prune.project]]", 'name = "p"', "keep_last = 1", "[[prune.project]]", 'name = "p"', "keep_last = 2"],
            "prune.project[2].name",
            "another table",
        ),
    ],
)
def test_bad_policies_are_refused(lines, key, words):
    """With the key and what is wrong."""
    text = "\n".join([SERVER, "[prune]", "keep_last = 3", *lines, ""])
    assert words in wrong(text)[key].message


def test_a_project_may_have_words_of_its_own_or_none():
    """One with words is a policy, also alone; one without any keeps everything of that project."""
    project = '[[prune.project]]\nname = "p"\n'
    assert read(f"[prune]\n{project}keep_last = 3\n").prune.project[0].keep_last == 3
    assert read(f"[prune]\nkeep_last = 3\n{project}").prune.project[0].keep_last is None
    assert wrong(f"[prune]\n{project}")["prune"].message == "this policy keeps nothing"


def test_weights_can_be_left_to_a_backup():
    """Where there is one."""
    assert read(target() + '[prune]\nkeep_last = 3\narchive_after = "30d"\n').prune.archive_after == 30 * 86400


# ---- jobs
def job(text, defaults=None):
    """The job of a text."""
    return jobspec.parse(text.encode(), path="/jobs/truck.toml", owner=7, defaults=defaults or Defaults(), now=0).job


def job_refusal(text):
    """What is wrong with a job, by key."""
    with pytest.raises(UserError) as caught:
        job(text)
    return {problem.key: problem for problem in caught.value.problems}


def test_a_job_chooses_its_targets():
    """Its own word wins, then that of [defaults], else all; an empty list is none."""
    assert job(TRAIN).backup is None
    assert job(TRAIN, Defaults(backup=("nas",))).backup == ("nas",)
    assert job('backup = ["oss"]\n' + TRAIN, Defaults(backup=("nas",))).backup == ("oss",)
    assert job("backup = []\n" + TRAIN, Defaults(backup=("nas",))).backup == ()


def test_unknown_targets_are_refused(tmp_path):
    """In [defaults] and in a job, with the nearest name; also where weights are to be published."""
    assert wrong(target() + '[defaults]\nbackup = ["nsa"]\n')["defaults.backup"].hint == "did you mean `nas`?"
    assert "there is none" in wrong('[defaults]\nbackup = ["nas"]\n')["defaults.backup"].expected
    machine = Machine(tmp_path)
    checker = machine.checker(gpu_count=0, backup=(Backup(name="nas", to="/mnt/nas"),))
    assert accepted(checker, machine.text(head='backup = ["nas"]')).backup == ("nas",)
    assert "line 1, backup: there is no such backup target" in refused(checker, machine.text(head='backup = ["oss"]'))
    assert "named twice" in refused(checker, machine.text(head='backup = ["nas", "nas"]'))
    assert "line 1, publish.to: there is no such" in refused(checker, machine.text(head='publish = { to = "oss" }'))
    assert accepted(checker, machine.text(head='publish = { to = "nas" }')).publish == PublishTo(to="nas")


def test_what_is_published():
    """All keys have a default but the place."""
    assert job('publish = { to = "/nas/models" }\n' + TRAIN).publish == PublishTo(to="/nas/models")
    text = 'publish = { to = "nas", name = "{model}_{metric}.pt", include = ["best"], export = ["onnx", "engine"] }\n'
    expected = PublishTo(to="nas", name="{model}_{metric}.pt", include=("best",), export=("onnx", "engine"))
    assert job(text + TRAIN).publish == expected


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('publish = { name = "x.pt" }', "to"),
        ('publish = { to = "nas/models" }', "to"),
        ('publish = { to = "/nas/../x" }', "to"),
        ('publish = { to = "/x", name = "{modell}.pt" }', "name"),
        ('publish = { to = "/x", name = "a/b.pt" }', "name"),
        ('publish = { to = "/x", include = [] }', "include"),
        ('publish = { to = "/x", include = ["best", "best"] }', "include"),
        ('publish = { to = "/x", include = ["worst"] }', "include"),
        ('publish = { to = "/x", export = ["../sh"] }', "export"),
        ('publish = { to = "/x", format = "onnx" }', "format"),
    ],
)
def test_bad_publications_are_refused(line, key):
    """With key and line."""
    problem = job_refusal(f"{line}\n{TRAIN}")[f"publish.{key}"]
    assert problem.line == 1


def test_submit_makes_the_place_absolute():
    """A relative folder is one of the author's; a name is a target's and stays."""
    text = 'publish = { to = "./models" }\n' + TRAIN
    assert b'to = "/home/ann/models"' in make_absolute(text.encode(), Path("/home/ann"), "truck.toml")
    text = 'publish = { to = "nas" }\n' + TRAIN
    assert make_absolute(text.encode(), Path("/home/ann"), "truck.toml") == text.encode()
