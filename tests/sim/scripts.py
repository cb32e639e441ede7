"""Scripts of moves from seeds, and how a script is carried out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fates import FATES
from simulation import Move, Simulation

WEIGHTS = {
    "act": 40, "train": 20, "look": 12, "submit": 6, "due": 12, "time": 6, "deliver": 8, "resync": 3, "order": 7,
    "restart": 2, "kill": 2, "half": 2, "fail": 2, "heal": 2, "orphans": 3, "edit": 2, "delete": 1, "drain": 1,
    "lineage": 6, "reboot": 2, "journal": 1, "disk": 1, "poison": 1, "speak": 2, "hang": 10, "back": 3,
    "undo": 1, "card": 12, "backup": 8, "target": 3, "spot": 2, "lose": 2,
}  # fmt: skip
MOVES = tuple(WEIGHTS)
#: What belongs together: chance alone would seldom bring a fault to a training at work, and then its answer.
COURSES = {"attempt": 8, "death": 10, "standstill": 6, "loss": 3}


def run_seed(seed: int, length: int = 120) -> None:
    """A script from a seed. What goes wrong is printed as the script that shows it."""
    chance = random.Random(seed)
    weights = {**WEIGHTS, **COURSES}
    names = chance.choices(list(weights), weights=list(weights.values()), k=length)
    script = [("submit", 0, chance.randrange(7))]
    for name in names:
        pick, how = chance.randrange(16), chance.randrange(64)
        script += course(name, pick, how) if name in COURSES else [(name, pick, how)]
    run_script(script, seed)


def course(name: str, pick: int, how: int) -> list[Move]:
    """A whole attempt: from its place, after the wait for it, to what befalls it, and what is decided then."""
    up: list[Move] = [("due", 0, 0), ("act", 0, 0), ("act", 0, 0), ("train", pick, 0)]
    if name == "death":
        return [*up, ("train", pick, FATES.index("die") + len(FATES) * (how % 4)), ("look", 0, 1), ("act", 0, 0)]
    if name == "standstill":
        return [*up, ("train", pick, FATES.index("hang")), ("hang", pick, 5 * how), *[("act", 0, 0)] * (how % 5)]
    if name == "loss":  # saved, backed up, dead, and all its files are gone
        saved: list[Move] = [("train", pick, 0), ("act", 0, 0), ("backup", 0, 1), *[("act", 1, 0)] * 4]
        death: list[Move] = [("train", pick, FATES.index("kill -9")), ("look", 0, 1), ("act", 0, 0), ("look", 0, 1)]
        return [*up, *saved, *death, ("act", 0, 0), ("lose", pick, how), ("due", 0, 0), *[("act", 0, 0)] * 4]
    return [*up, ("train", pick, how), ("look", 0, 1), ("act", 0, 0)]


def run_script(script: Sequence[Move], seed: int | None = None) -> None:
    """Carry out a script, heal, and let it settle."""
    simulation = Simulation()
    try:
        for name, pick, how in script:
            simulation.do(name, pick, how)
        simulation.settle()
        for pick in range(3):  # a second life: most runs can be rewound or extended only now
            simulation.do("lineage", pick, len(script) + pick)
            simulation.do("train", pick, len(script))
        simulation.settle()
    except Exception as error:
        lines = "\n".join(f"    {move!r}," for move in simulation.script)
        raise AssertionError(f"seed {seed}: {error!r}\nscript = [\n{lines}\n]") from error
