"""Texts and data that leave this machine, without secrets and, if wanted, without the names of people and of the host.

Nobody can find every secret in a text. What is known to be one is taken out wherever it stands; beside that go what is
named like one (`API_KEY=…`, `--token …`, `password: …`), what is shaped like one (keys of well-known services, private
keys), and of addresses everything behind the host: a webhook's address is its password.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from supervisor.core.secrets import HIDDEN, is_secret

LEAST_SECRET = 5  # characters: what is shorter stands in too many other words
#: Around a telling word a name may have so many characters: without a bound a log of one long word would take hours.
_REST = r"{0,100}"
_NAME = r"(?:key|token|secret|passw(?:or)?d|passphrase|pwd|credentials?|auth)"
_VALUE = r"""(?:"[^"\n]*"|'[^'\n]*'|[^\s,;&"'\])}]+)"""
_OPTION = re.compile(rf"--?[\w-]{_REST}{_NAME}[\w-]{_REST}", re.IGNORECASE)
_NO_SECRETS = frozenset({"false", "never", "always", "none", "null", "auto", "true", "https", "http", HIDDEN})

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    # the address of a page says what it is; that of a webhook or a camera lets whoever knows it in
    (
        re.compile(
            r"\b((?!file:)[a-z][a-z0-9+.-]{1,20}://)(?:[^\s/@\"'<>]*@)?([^\s/\"'<>?#]+)[/?#][^\s\"'<>]+", re.IGNORECASE
        ),
        rf"\1\2/{HIDDEN}",
    ),
    (re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://)[^\s/@\"'<>]+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (
        re.compile(r"""(authorization["']?\s*[:=]\s*["']?)(?:(?:bearer|basic|token)\s+)?[^\s"']+""", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"(?<![\w])({_OPTION.pattern}\s+)(?!-){_VALUE}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"([\w.-]{_REST}{_NAME}[\w.-]{_REST}[\"']?\s?=\s?){_VALUE}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"([\w.-]{_REST}{_NAME}[\"']?\s*:\s*){_VALUE}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[a-z]-|ya29\.)[\w-]{10,}"), HIDDEN),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
    (re.compile(r"(?<![0-9a-f-])[0-9a-f]{40}(?![0-9a-f])"), HIDDEN),
)
_HOME = re.compile(r"(?<![\w.])(/(?:home|Users|export/home|usr/home|data/home|nfs/home|mnt/home))/([A-Za-z_][\w.-]*)")
_PERSON = re.compile(r"\b([A-Za-z_][\w.-]{0,63}) \(uid \d+\)")
_ADDRESS = re.compile(r"\b[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+\b")
_NOBODY = frozenset({"root", "nobody", "daemon", "user", "users", "shared", "ubuntu"})


class Redactor:
    """Takes out what is known as secret, and what looks like it. Learn everything first, then ask for it."""

    def __init__(self, *, names: bool = True) -> None:
        """`names`: also those of people and of the host."""
        self._names = names
        self._secrets: set[str] = set()
        self._people: dict[str, str] = {}
        self._hosts: set[str] = set()

    # ---- what is known
    def learn_secret(self, *values: str) -> None:
        """These are secrets, wherever they stand."""
        for value in values:
            if len(value) >= LEAST_SECRET and value.lower() not in _NO_SECRETS and not value.isdigit():
                self._secrets.add(value)

    def learn_from(self, data: Any) -> None:
        """What is named like a secret in this data is one in all others too."""
        self.learn_secret(*_secrets_in(data))

    def learn_person(self, *names: str) -> None:
        """These are people."""
        for name in names:
            if len(name) > 1 and name not in _NOBODY:
                self._people.setdefault(name, f"user{len(self._people) + 1}")

    def learn_host(self, *names: str) -> None:
        """These are names of this machine; what stands before the first point is one too."""
        self._hosts |= {one for name in names for one in (name, name.partition(".")[0]) if len(one) > 1}
        self._hosts -= {"localhost"}

    def learn_people_in(self, text: str) -> None:
        """Who has a home folder in this text, or is told with a uid, is a person."""
        self.learn_person(*(match[2] for match in _HOME.finditer(text)), *_PERSON.findall(text))

    # ---- what is left
    def text(self, text: str) -> str:
        """The text without all that."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return self._without_names(text) if self._names else text

    def data(self, data: Any) -> Any:
        """Data with the same keys; values of secret-looking names are hidden, at every depth."""
        return self._data(data, hidden=False)

    def _data(self, data: Any, *, hidden: bool) -> Any:
        if isinstance(data, Mapping):
            return {
                self._key(key): self._data(value, hidden=hidden or is_secret(str(key))) for key, value in data.items()
            }
        if isinstance(data, Sequence) and not isinstance(data, str | bytes):
            return [self._data(item, hidden=hidden or secret) for item, secret in _arguments(data)]
        if hidden and data not in (None, "", True, False):
            return HIDDEN
        return self.text(data) if isinstance(data, str) else data

    def _key(self, key: Any) -> Any:
        return self.text(key) if isinstance(key, str) and "/" in key else key

    def _without_names(self, text: str) -> str:
        text = _HOME.sub(lambda match: f"{match[1]}/{self._people.get(match[2], match[2])}", text)
        for name, instead in self._people.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", instead, text)
        for host in sorted(self._hosts, key=len, reverse=True):
            text = re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "host", text)
        return _ADDRESS.sub("(address)", text)


def _arguments(items: Sequence[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it is the value of an option that is named like a secret."""
    before = ""
    for item in items:
        yield item, bool(isinstance(item, str) and _OPTION.fullmatch(before) and not item.startswith("-"))
        before = item if isinstance(item, str) else ""


def _secrets_in(data: Any, *, named: bool = False) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _secrets_in(value, named=named or is_secret(str(key)))
    elif isinstance(data, str):
        if named:
            yield data
    elif isinstance(data, Collection) and not isinstance(data, bytes):
        for item, secret in _arguments(list(data)):
            yield from _secrets_in(item, named=named or secret)
            if isinstance(item, str) and _OPTION.match(item) and "=" in item:
                yield item.partition("=")[2]
