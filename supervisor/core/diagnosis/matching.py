"""Which rule a line matches, quickly: a search for a few rare words first, the rules' own patterns only where one is.

Logs of hundreds of megabytes hold almost nothing that any rule matches. Most patterns cannot match without one of a few
fixed words, so many lines together are searched for all these words at once. A rule without such a word, which may be
a user's, is tried line by line: over many lines at once a pattern may take a thousand times as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from supervisor.core.diagnosis.tables import Rule

_LEAST = 3  # characters of a word that is worth to be searched for
#: Letters from rare to frequent in logs of trainings; a search that starts at rare ones stops less often.
_RARE_FIRST = "XQZJKVYUWHGNDFBRMOCPLTISEAzqjxkvwybhfpgumdclonrtsiae"
_RANK = {letter: place for place, letter in enumerate(_RARE_FIRST)}
# One part of a pattern: a class, what cannot be read here, an escape, a group's ends, a quantifier, anything else.
_PART = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[xuUN].*|\\.|\(\?[a-zA-Z-]+[:)]|[()|]|[*?+]|\{[^}]*\}|.", re.DOTALL)


class Matcher:
    """The rules of a table, ready to be asked. `words` are further words that `suspicious` shall find."""

    def __init__(self, rules: Iterable[Rule], words: Sequence[str] = ()) -> None:
        """Compile everything: some ten milliseconds for the built-in table."""
        table = [(rule, fixed_words(rule.match)) for rule in rules]
        self._rules = [
            (rule, found, rule.pattern, re.compile(rule.within) if rule.within else None) for rule, found in table
        ]
        known = [word for _, found in table for word in found or ()]
        self._words = _search_for([*known, *words])
        self._loose = any(not found for _, found in table)

    def suspicious(self, text: str) -> bool:
        """False: no rule matches any line of this text. True: one may."""
        return self._loose or self._words.search(text) is not None

    def rule_of(self, line: str, frames: Sequence[str] = ()) -> Rule | None:
        """The first rule that matches a line; `frames` are those of the traceback that the line ends."""
        for rule, words, pattern, within in self._rules:
            for word in words:  # a loop, not any(): three times as fast, and this is where the time goes
                if word in line:
                    break
            else:
                if words:
                    continue
            if pattern.search(line) and (within is None or any(within.search(frame) for frame in frames)):
                return rule
        return None


@lru_cache(maxsize=8)
def matcher_of(rules: tuple[Rule, ...], words: tuple[str, ...] = ()) -> Matcher:
    """The matcher of a table, compiled once."""
    return Matcher(rules, words)


def fixed_words(pattern: str) -> tuple[str, ...]:
    """Words of which one is in every line that the pattern matches; none if that cannot be told."""
    words: list[str] = []
    for runs in _alternatives(pattern):
        longest = max(runs, key=lambda run: sum(map(str.isalpha, run)), default="")
        if len(longest) < _LEAST:
            return ()
        words.append(longest)
    return tuple(words)


def _alternatives(pattern: str) -> list[list[str]]:
    """Runs of fixed characters outside of groups, for each alternative; an empty list of runs where nothing is sure."""
    found: list[list[str]] = [[]]
    depth, run = 0, ""
    for part in _PART.findall(pattern):
        if part.startswith((r"\x", r"\u", r"\U", r"\N")) or re.match(r"\(\?[a-zA-Z-]+[:)]", part):
            return [[]]  # spelt characters and flags: not worth to be understood
        if part in "()" or depth:
            depth += {"(": 1, ")": -1}.get(part, 0)
            found[-1].append(run)
            run = ""
        elif part == "|":
            found[-1].append(run)
            found.append([])
            run = ""
        else:
            run, ended = _next(run, part)
            found[-1] += ended
    found[-1].append(run)
    return found


def _next(run: str, part: str) -> tuple[str, list[str]]:
    """The run with one more part, and what ended with it."""
    if part in {"*", "?"} or part.startswith("{"):
        return "", [run[:-1]]  # the character before may be missing
    if len(part) == 2 and part[0] == "\\" and not part[1].isalnum():
        return run + part[1], []
    if len(part) > 1 or part in ".^$+":
        return "", [run]
    return run + part, []


def _search_for(words: Iterable[str]) -> re.Pattern[str]:
    """One pattern for all words. It looks for their rarest letters, and only behind one of these for the rest."""
    groups: dict[str, set[str]] = {}
    for word in words:
        rest = word[_rarest(word) :]
        before = f"(?<={re.escape(word)})" if rest != word else ""
        groups.setdefault(rest[0], set()).add(re.escape(rest[1:]) + before)
    parts = (f"{re.escape(first)}(?:{'|'.join(sorted(rest))})" for first, rest in sorted(groups.items()))
    return re.compile("|".join(parts) or r"(?!)")


def _rarest(word: str) -> int:
    """Where in a word its rarest letter stands."""
    return min(range(len(word) - _LEAST + 1), key=lambda place: _RANK.get(word[place], len(_RANK)))
