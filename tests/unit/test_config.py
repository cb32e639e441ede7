from __future__ import annotations

from pathlib import Path

import pytest

from supervisor import config
from supervisor.errors import UserError

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="


def load(tmp_path, text, mountinfo=""):
    """Load a configuration on a machine with these mounts."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(mountinfo)
    file = tmp_path / "config.toml"
    file.write_text(text)
    return config.load(file, mountinfo=mounts)


def refusal(tmp_path, text, mountinfo=""):
    """The problems of a configuration by their keys."""
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, mountinfo)
    return {problem.key: problem for problem in caught.value.problems}


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    """One reading tells all mistakes, each with its line, what was expected, what was got and the nearest key."""
    problems = refusal(
        tmp_path,
        '[server]\nnmae = "x"\nstate_dir = "relative"\n[jobs]\nsettle = 30\nallow_root = "yes"\n'
        '[defaults]\nrestart = { no_progress = 0, backof = "1s" }\n[gpu]\nkmsg = true\n',
    )
    lines = {key: problem.line for key, problem in problems.items()}
    assert lines == {
        "server.nmae": 2,
        "server.state_dir": 3,
        "jobs.settle": 5,
        "jobs.allow_root": 6,
        "defaults.restart.no_progress": 8,
        "defaults.restart.backof": 8,
        "gpu.kmsg": 10,
    }
    assert problems["server.nmae"].hint == "did you mean `name`?"
    assert problems["server.state_dir"].expected == "an absolute path"
    assert problems["jobs.allow_root"].expected == "true or false"
    assert problems["jobs.allow_root"].got == '"yes"'
    assert problems["defaults.restart.backof"].expected == "`backoff`"


@pytest.mark.parametrize("key", ["[server]\nlanguage = 'de'", "[api]", "[ping]", "[disk]\nwarn_below='1GB'"])
def test_what_is_not_built_is_unknown(tmp_path, key):
    """Keys of later versions are refused, never read and ignored."""
    assert any("unknown key" in problem.message for problem in refusal(tmp_path, key).values())


def test_runs_lie_below_the_state_directory(tmp_path):
    """runs_dir follows state_dir unless it is set."""
    assert load(tmp_path, '[server]\nstate_dir = "/s"').server.runs_dir == Path("/s/runs")
    assert load(tmp_path, '[server]\nstate_dir = "/s"\nruns_dir = "/r"').server.runs_dir == Path("/r")
    assert config.Config(server=config.Server(state_dir=tmp_path)).server.runs_dir == tmp_path / "runs"


def test_root_uses_the_systems_folders():
    """The daemon as root keeps to the folders of the system."""
    places = config.places({"HOME": "/root", "XDG_STATE_HOME": "/x"}, uid=0)
    assert places.config == Path("/etc/yolo-supervisor/config.toml")
    assert places.jobs == Path("/var/spool/yolo-supervisor/jobs")
    assert places.state_dir == Path("/var/lib/yolo-supervisor")
    assert places.socket == Path("/run/yolo-supervisor/socket")


def test_others_use_the_xdg_folders():
    """Without root, the XDG folders are used: those set, else the usual ones; relative ones are ignored."""
    places = config.places({"HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_DATA_HOME": "data"}, uid=7)
    assert places.config == Path("/home/a/.config/yolo-supervisor/config.toml")
    assert places.jobs == Path("/home/a/.local/share/yolo-supervisor/jobs")
    assert places.state_dir == Path("/home/a/.local/state/yolo-supervisor")
    assert places.socket == Path("/run/user/7/yolo-supervisor/socket")


def test_without_a_session_the_socket_lies_in_the_state_directory():
    """No XDG_RUNTIME_DIR: the socket is where the daemon may write anyway."""
    places = config.places({"HOME": "/home/a"}, uid=7)
    assert places.socket == Path("/home/a/.local/state/yolo-supervisor/socket")


MOUNTS = (
    "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "30 22 0:50 / /mnt/my\\040nas rw shared:1 - nfs4 nas:/export rw\n"
    "31 30 8:2 / /mnt/my\\040nas/local rw - xfs /dev/sdb1 rw\n"
    "32 22 0:51 / /home/x rw - fuse.sshfs host: rw\n"
)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/mnt/my nas/state", "nfs4"),
        ("/mnt/my nas/local/state", ""),
        ("/mnt/my nastier", ""),
        ("/home/x", "fuse.sshfs"),
        ("/var/lib/y", ""),
    ],
)
def test_a_state_directory_on_the_network_is_refused(tmp_path, folder, kind):
    """SQLite's locks do not hold on network file systems: the innermost mount decides."""
    text = f'[server]\nstate_dir = "{folder}"\nruns_dir = "/mnt/my nas/runs"'
    if kind:
        assert refusal(tmp_path, text, MOUNTS)["server.state_dir"].got == kind
    else:
        load(tmp_path, text, MOUNTS)


def channel(**values):
    """One [[channel]] table."""
    values = {"name": "ops", "kind": "webhook", "url": "https://hooks.example/secret-path", **values}
    return "[[channel]]\n" + "".join(f'{key} = "{value}"\n' for key, value in values.items() if value is not None)


def test_secrets_never_show(tmp_path):
    """Neither printing nor `config show` gives away an address, a signing secret or a proxy's password."""
    loaded = load(tmp_path, channel(secret=SECRET, proxy="http://me:hunter2@proxy:3128"))
    for text in (repr(loaded), str(config.show(loaded)), config.show_text(loaded)):
        assert "secret-path" not in text
        assert SECRET not in text
        assert "hunter2" not in text
        assert "hooks.example" in text


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"url": "hooks.example"}, "url"),
        ({"url": "ftp://hooks.example"}, "url"),
        ({"url": "https://[bad"}, "url"),
        ({"url": None}, "url"),
        ({"kind": "email"}, "kind"),
        ({"secret": "hunter2hunter2hunter2"}, "secret"),
        ({"secret": "whsec_QUJD"}, "secret"),
        ({"kind": "slack", "secret": SECRET}, "secret"),
        ({"proxy": "proxy:3128"}, "proxy"),
        ({"ca_file": "ca.pem"}, "ca_file"),
        ({"name": "o p s"}, "name"),
    ],
)
def test_channels_are_checked(tmp_path, values, key):
    """A channel that could never deliver is refused at the start, and its secrets are not in the message."""
    problems = refusal(tmp_path, channel(**values))
    assert problems.keys() == {f"channel[1].{key}"}
    assert "hunter2" not in problems[f"channel[1].{key}"].render()


def test_two_channels_of_one_name_are_refused(tmp_path):
    """Jobs choose channels by name, so names are unique."""
    problems = refusal(tmp_path, channel() + channel())
    assert problems["channel[2].name"].message == "another channel has this name"
    assert problems["channel[2].name"].line == 6


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[defaults]\npython = "/p"\nconda = "c"', "defaults.conda"),
        ('[defaults]\nnotify = ["nobody"]', "defaults.notify"),
        ('[defaults.env]\nCUDA_VISIBLE_DEVICES = "0"', "defaults.env.CUDA_VISIBLE_DEVICES"),
        ('[defaults.restart]\nbackoff = "1h"', "defaults.restart.backoff"),
        ('[jobs]\nrescan = "0s"', "jobs.rescan"),
        (f'[server]\nsocket = "/{"x" * 120}"', "server.socket"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, text, key):
    """Values that are right by themselves and wrong together are found too."""
    assert key in refusal(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """A configuration that was asked for and is not there is an error, not the defaults."""
    with pytest.raises(UserError, match=r"nowhere\.toml"):
        config.load(tmp_path / "nowhere.toml")


def test_the_policy_carries_what_deciding_needs(tmp_path):
    """Queue limits, channels and the server's name reach the pure part."""
    loaded = load(tmp_path, '[server]\nname = "gpu1"\n[queue]\nmax_running = 3\nstop_grace = "5s"\n' + channel())
    policy = config.policy(loaded, gpu_count=4)
    assert (policy.max_running, policy.stop_grace_s, policy.gpu_count) == (3, 5.0, 4)
    assert (policy.channels, policy.server) == (("ops",), "gpu1")
    assert config.policy(config.Config(), 0).server


def test_what_is_shown_uses_units(tmp_path):
    """`config show` writes durations and sizes as the file does."""
    shown = config.show(load(tmp_path, '[jobs]\nsettle = "90s"\n[disk]\npause_below = "1536MiB"'))
    assert shown["jobs"]["settle"] == "1m30s"
    assert shown["disk"]["pause_below"] == "1536MiB"
