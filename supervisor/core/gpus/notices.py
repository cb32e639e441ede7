"""What people are told about a GPU in quarantine: who runs there, how it comes back, and what to do."""

from __future__ import annotations

from supervisor.core.gpus import leases
from supervisor.core.gpus.model import Gpu, Quarantine
from supervisor.core.model import World


def on_it(world: World, gpu: Gpu) -> str:
    """What becomes of the trainings that have the GPU, in words; empty if there are none."""
    runs = leases.on(world, gpu.uuid)
    ended = [run.name for run in runs if run.stop is not None and run.stop.of_gpu]
    stay = [run.name for run in runs if run.name not in ended]
    told = (
        f"{', '.join(ended)} cannot go on there: ended, and resumed elsewhere" if ended else "",
        f"{', '.join(stay)} {'runs' if len(stay) == 1 else 'run'} there and {'goes' if len(stay) == 1 else 'go'} on"
        if stay
        else "",
    )
    return "; ".join(filter(None, told))


def after(world: World, quarantine: Quarantine) -> str:
    """How the GPU comes back."""
    if quarantine.by or quarantine.needs == "person":
        return "It stays out until a person releases it."
    ready = quarantine.needs == "test" or quarantine.met
    if quarantine.asked and ready:
        return "It comes back when it has passed."
    if world.policy.gpu.self_test == "never":
        return "The self-test is switched off, so it stays out until a person releases it."
    if ready:
        return "It comes back by itself when it has passed its self-test."
    if quarantine.needs == "reset" and not world.policy.gpu.reset:
        return "After a reset it must pass its self-test."
    return f"After a {quarantine.needs} it is tested, and comes back by itself if it passes."


def todo(world: World, gpu: Gpu) -> str:
    """The one thing that a person does, as a command."""
    quarantine = gpu.quarantine
    if quarantine is None:
        return ""
    release = f"yolo-supervisor gpu release {gpu.index}"
    never = world.policy.gpu.self_test == "never"
    if quarantine.by:
        return release
    if quarantine.needs == "reset" and not quarantine.met:
        runs = ", ".join(run.name for run in leases.on(world, gpu.uuid))
        first = f"when {runs} no longer runs there (yolo-supervisor ls): " if runs else ""
        then = release if never else f"yolo-supervisor gpu test {gpu.index}"
        return f"{first}sudo nvidia-smi --gpu-reset -i {gpu.uuid}; then {then}"
    if quarantine.needs == "reboot" and not quarantine.met:
        then = f"; then {release}" if never else ""
        return f"yolo-supervisor drain; when nothing runs any more: sudo systemctl reboot{then}"
    if quarantine.needs == "person":
        return f"yolo-supervisor gpu bundle {gpu.index} collects the evidence; inspect the hardware; then {release}"
    return f"nothing; or without the test: {release}"
