"""Every exit code and message of rsync and ssh has the cause that people are told, and no success is made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.backups import causes
from supervisor.effects.backup.targets import rsync_codes

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key verification failed.
rsync: connection unexpectedly closed (0 bytes received so far) [sender]
rsync error: unexplained error (code 255) at io.c(231) [sender=3.2.7]
"""
UNKNOWN = """\
No ED25519 host key is known for box and you have requested strict checking.
Host key verification failed.
"""
SENT = (
    (255, CHANGED, "host-key"),
    (255, UNKNOWN, "host-unknown"),
    (255, "me@box: Permission denied (publickey,password).", "auth"),
    (255, "ssh: connect to host box port 22: Connection refused", "unreachable"),
    (255, "ssh: connect to host box port 22: No route to host", "unreachable"),
    (255, "ssh: connect to host box port 22: Connection timed out", "timeout"),
    (255, "ssh: Could not resolve hostname box: Name or service not known", "unreachable"),
    (255, "Timeout, server box not responding.", "timeout"),
    (255, "client_loop: send disconnect: Broken pipe", "protocol"),
    (255, "Connection to box closed by remote host.", "protocol"),
    (255, "", "unreachable"),
    (12, "rsync: connection unexpectedly closed (0 bytes received so far) [sender]", "protocol"),
    (12, "bash: line 1: rsync: command not found", "no-rsync"),
    (127, "sh: 1: rsync: not found", "no-rsync"),
    (126, "", "no-rsync"),
    (12, "/usr/bin/rrsync error: option --delete has been disabled on this server.", "refused"),
    (12, "/usr/bin/rrsync error: reading from write-only server is not allowed", "refused"),
    (12, "/usr/bin/rrsync error: Restricted directory does not exist!", "absent"),
    (12, "/usr/bin/rrsync error: Another instance of rrsync is already accessing this directory.", "busy"),
    (11, 'rsync: [receiver] write failed on "/b/x": No space left on device (28)', "full"),
    (11, 'rsync: [Receiver] mkdir "/b/nope/." failed: No such file or directory (2)', "absent"),
    (23, 'rsync: [receiver] mkstemp "/b/.x.a1b2c3" failed: Disk quota exceeded (122)', "quota"),
    (23, 'rsync: [generator] recv_generator: mkdir "/b/x" failed: Read-only file system (30)', "read-only"),
    (23, 'rsync: [receiver] mkstemp "/b/.x.a1b2c3" failed: Permission denied (13)', "permission"),
    (23, 'rsync: [sender] send_files failed to open "/s/x": Permission denied (13)', "source"),
    (23, 'rsync: [sender] read errors mapping "/s/x": Input/output error (5)', "source"),
    (23, 'rsync: [sender] link_stat "/s/x" failed: No such file or directory (2)', "source"),
    (24, 'file has vanished: "/s/x"\nrsync warning: some files vanished (code 24)', "failed"),
    (30, "rsync error: timeout in data send/receive (code 30)", "timeout"),
    (35, "", "timeout"),
    (25, "Deletions stopped due to --max-delete limit (3 skipped)", "refused"),
    (1, "rsync: --nonsense: unknown option", "refused"),
    (99, "who knows", "failed"),
    (-9, "", "failed"),
)
FETCHED = (
    (11, 'rsync: [receiver] write failed on "/scratch/x": No space left on device (28)', "no-room"),
    (23, 'rsync: [sender] link_stat "/b/x" failed: No such file or directory (2)', "failed"),
    (23, 'rsync: [sender] send_files failed to open "/b/x": Permission denied (13)', "permission"),
    (3, 'rsync: [sender] change_dir "/b/nope/." failed: No such file or directory (2)', "absent"),
)


@pytest.mark.parametrize(("code", "errors", "cause"), SENT)
def test_a_failed_sending_has_its_cause(code: int, errors: str, cause: str) -> None:
    """Which end a message comes from decides whose trouble it is."""
    found, text = rsync_codes.cause_of(code, errors)
    assert found == cause
    assert f"{abs(code)}" in text


@pytest.mark.parametrize(("code", "errors", "cause"), FETCHED)
def test_a_failed_fetching_has_its_cause(code: int, errors: str, cause: str) -> None:
    """Where files are written to here, a full disk is ours."""
    assert rsync_codes.cause_of(code, errors, pulling=True)[0] == cause


def test_the_text_is_the_line_that_tells_most() -> None:
    """Not the rows of @ around it, and not that the connection ended."""
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in rsync_codes.cause_of(255, CHANGED)[1]
    errors = "rsync: connection unexpectedly closed\nmkstemp failed: Disk quota exceeded (122)\nrsync error: x"
    assert rsync_codes.cause_of(12, errors)[1].startswith("mkstemp failed: Disk quota exceeded")


def test_another_host_key_is_told_with_its_fingerprint() -> None:
    """What is to be compared with the administrator's, and where the pinned one stands."""
    key = "SHA256:uNiVztksCsDhcc0u9e8BrqXUWEczSlnr3eXfNuzmDmc"
    shown = (
        f"The fingerprint for the ED25519 key sent by the remote host is\n{key}.\nPlease contact your administrator."
    )
    errors = f"{CHANGED}\n{shown}\nOffending ED25519 key in /etc/known:7\nHost key verification failed."
    text = rsync_codes.cause_of(255, errors)[1]
    assert f"it shows {key}; the pinned key is in /etc/known:7" in text


@given(st.integers(-64, 255), st.text(), st.booleans())
def test_whatever_comes_has_a_cause_that_people_know(code: int, errors: str, pulling: bool) -> None:
    """No message makes it fail, none comes out with control characters, none is endless."""
    cause, text = rsync_codes.cause_of(code, errors, pulling=pulling)
    assert cause in causes.KINDS
    assert text
    assert len(text) < rsync_codes.LONGEST_TEXT + 400
    assert "\x1b" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("here", "there", "protocol", "warning"),
    [
        ((3, 5, 0), (3, 5, 1), 32, ""),
        ((3, 5, 0), None, 32, ""),
        (None, None, None, ""),
        ((3, 2, 7), (3, 5, 0), 31, "rsync 3.2.7 here: 3.5.0 closes 33 security holes"),
        ((3, 5, 0), (3, 4, 1), 32, "rsync 3.4.1 there: 3.5.0 closes 33 security holes"),
        ((3, 2, 7), (3, 1, 3), 31, "rsync 3.2.7 here and 3.1.3 there: 3.5.0 closes 33 security holes"),
        ((3, 5, 0), None, 31, "rsync older than 3.4.0 there (protocol 31): 3.5.0 closes 33 security holes"),
    ],
)
def test_old_ends_are_warned_of(
    here: rsync_codes.Version | None, there: rsync_codes.Version | None, protocol: int | None, warning: str
) -> None:
    """Both ends, by their version or, where that is not told, by the protocol they speak."""
    assert rsync_codes.warning(here, there, protocol) == warning


def test_versions_are_read() -> None:
    """As `rsync --version` and `--debug=proto` tell them."""
    assert rsync_codes.version_in("rsync  version 3.5.0  protocol version 32\nCopyright") == (3, 5, 0)
    assert rsync_codes.version_in("rsync  version v3.2.0pre1  protocol version 31") == (3, 2, 0)
    assert rsync_codes.version_in("openrsync: protocol version 29") is None
    assert rsync_codes.protocol_in("(Client) Protocol versions: remote=31, negotiated=31") == 31
    assert rsync_codes.protocol_in("") is None
