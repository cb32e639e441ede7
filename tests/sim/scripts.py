"""Scripts of moves from seeds, and how a script is carried out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from simulation import Move, Simulation

WEIGHTS = {
    "act": 40, "train": 20, "look": 12, "submit": 6, "due": 12, "time": 6, "deliver": 8, "resync": 3, "order": 7,
    "restart": 2, "kill": 2, "half": 2, "fail": 2, "heal": 2, "orphans": 3, "edit": 2, "delete": 1, "drain": 1,
    "lineage": 6, "reboot": 2, "journal": 1, "disk": 1, "poison": 1, "speak": 2,
}  # fmt: skip
MOVES = tuple(WEIGHTS)


def run_seed(seed: int, length: int = 120) -> None:
    """A script from a seed. What goes wrong is printed as the script that shows it."""
    chance = random.Random(seed)
    names = chance.choices(MOVES, weights=list(WEIGHTS.values()), k=length)
    run_script(
        [("submit", 0, chance.randrange(7)), *((name, chance.randrange(16), chance.randrange(64)) for name in names)],
        seed,
    )


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
