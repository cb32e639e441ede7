"""How ssh is called: with one key, the pinned host keys, and nothing that could be answered by a person."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from supervisor.backup_config import Address, Backup
from supervisor.effects.backup.targets.base import TargetError

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


def command(settings: Backup, address: Address) -> list[str]:
    """Return ssh with its options, up to the host. TargetError "refused" for a path that ssh cannot be told."""
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


def _word(path: Path | str) -> str:
    """A path as one word of ssh's configuration: it splits at spaces, and knows %-tokens, ~ and ${VARIABLES}."""
    text = str(path)
    if any(sign in text for sign in '"\\\n') or "${" in text:
        raise TargetError("refused", f"{text!r}: ssh takes no path with quotes, backslashes or ${{}} in it")
    return f'"{text.replace("%", "%%")}"'


def shell_word(word: str) -> str:
    """A word for rsync's -e: it splits at spaces, and within quotes a doubled quote stands for itself."""
    return "'" + word.replace("'", "''") + "'"
