"""How ssh is called: with one key, the pinned host keys, and nothing that could be answered by a person."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from supervisor.backup_config import Address, Backup
from supervisor.effects import short_child
from supervisor.effects.backup.targets.base import TargetError
from supervisor.effects.backup.targets.programs import environment

CONNECT_S = 15
ALIVE_S = 15  # between questions to a silent server; after three without an answer the link is dead
ALIVE_COUNT = 3

#: They win over ~/.ssh/config, which is read for what an administrator needs there: host aliases and jump hosts.
_OPTIONS: Mapping[str, str] = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "VerifyHostKeyDNS": "no",
    "CheckHostIP": "no",
    "PreferredAuthentications": "publickey",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "ConnectTimeout": str(CONNECT_S),
    "ConnectionAttempts": "1",
    "ServerAliveInterval": str(ALIVE_S),
    "ServerAliveCountMax": str(ALIVE_COUNT),
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ControlMaster": "no",
    "ControlPath": "none",
    "LogLevel": "INFO",
}
#: Of processors with AES the fastest by far, and no weaker than what would be chosen else, which stays allowed.
FAST_CIPHER = "^aes128-gcm@openssh.com"
_KNOWS_CARET = (8, 0)
VERSION_S = 10.0

_VERSION = re.compile(r"OpenSSH_(\d+)\.(\d+)")


def command(settings: Backup, address: Address) -> list[str]:
    """Return ssh with its options, up to the host. TargetError "refused" for a path that ssh cannot be told.

    The first value that ssh is told of an option is the one that counts.
    """
    options = dict(_OPTIONS)
    argv = ["ssh", "-x", "-a"]
    if settings.known_hosts is not None:
        options["UserKnownHostsFile"] = _word(settings.known_hosts)
        options["GlobalKnownHostsFile"] = "/dev/null"  # pinned: no other file knows better
    if settings.ssh_key is not None:
        options["IdentitiesOnly"] = "yes"
        options["IdentityAgent"] = "none"
        options["IdentityFile"] = _word(settings.ssh_key)
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    if address.port != Address("ssh", "").port:
        argv += ["-p", str(address.port)]
    if address.user:
        argv += ["-l", address.user]
    return argv


@functools.cache
def preference() -> tuple[str, ...]:
    """Options for a cipher that costs little; none where ssh is too old to be told what it prefers."""
    try:
        ended = short_child.run(["ssh", "-V"], environment(), VERSION_S)
    except OSError:  # whoever calls it for a transfer says so
        return ()
    found = _VERSION.search(ended.errors + ended.out)
    if found is None or (int(found[1]), int(found[2])) < _KNOWS_CARET:
        return ()
    return ("-o", f"Ciphers={FAST_CIPHER}")


def _word(path: Path | str) -> str:
    """A path as one word of ssh's configuration: it splits at spaces, and knows %-tokens, ~ and ${VARIABLES}."""
    text = str(path)
    if any(sign in text for sign in '"\\\n') or "${" in text:
        raise TargetError("refused", f"{text!r}: ssh takes no path with quotes, backslashes or ${{}} in it")
    return f'"{text.replace("%", "%%")}"'


def shell_word(word: str) -> str:
    """A word for rsync's -e: it splits at spaces, and within quotes a doubled quote stands for itself."""
    return "'" + word.replace("'", "''") + "'"
