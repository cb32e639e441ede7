"""Rules about what the driver says of a GPU as a whole: whether it answers, what it wants, a load that is not there."""

from __future__ import annotations

from supervisor.core.gpus.readings import LOST, RESET_REQUIRED, UNKNOWN
from supervisor.core.gpus.rules.base import Judge, Rule, Said, Say, Seen, Verdict, bad_if, load, long

#: Field 230 (nvml.h: nvmlDeviceGpuRecoveryAction_t): the kind of finding, and what it wants.
ACTIONS: dict[int, tuple[str, str]] = {
    1: ("recovery-reset", "a reset of the GPU"),
    2: ("recovery-reboot", "a restart of the machine"),
    3: ("recovery-drain", "that its traffic with other GPUs ends"),
    4: ("recovery-drain", "that nothing new starts on it, and a reset when it is idle"),
    5: ("recovery-drain", "that its IMEX domain is recovered"),
    6: ("recovery-reset", "a reset of its bus"),
    7: ("recovery-reboot", "a restart of the whole system"),
}
#: What a newer driver may want: nothing new is started there.
_OTHER = ("recovery-drain", "something unknown")


def _answers(code: int) -> Judge:
    """Another error than this one says neither that it is there nor that it is over."""

    def judge(seen: Seen) -> Verdict:
        error = seen.numbers["error"]
        return None if error not in (0, code) else bad_if(error == code)

    return judge


def _says(text: str) -> Say:
    def say(seen: Seen) -> Said:
        return Said(text, {"error": seen.numbers["error"]})

    return say


def _wants(kind: str) -> Judge:
    def judge(seen: Seen) -> Verdict:
        action = int(seen.numbers["recovery_action"])
        return bad_if(action != 0 and ACTIONS.get(action, _OTHER)[0] == kind)

    return judge


def _say_action(seen: Seen) -> Said:
    action = int(seen.numbers["recovery_action"])
    wish = ACTIONS.get(action, _OTHER)[1]
    return Said(f"it wants {wish} (recovery action {action})", {"recovery_action": float(action)})


def _stuck(seen: Seen) -> Verdict:
    share, processes = load(seen), seen.numbers.get("processes")
    if share is None or processes is None:
        return None
    full = seen.numbers["gpu_utilization"] >= seen.limits.stuck_utilization_share
    return bad_if(full and not processes and share < seen.limits.idle_share)


def _say_stuck(seen: Seen) -> Said:
    share, used = load(seen) or 0.0, seen.numbers["gpu_utilization"]
    text = f"{used:.0%} utilization for {long(seen.seconds)} with no process on it, at {share:.0%} of its power limit"
    return Said(text, {"gpu_utilization": used, "load": share, "seconds": seen.seconds})


def _answer_rule(kind: str, code: int, text: str) -> Rule:
    return Rule(kind=kind, needs="error", judge=_answers(code), say=_says(text), quiet_s="answer_quiet_s")


def _action_rule(kind: str) -> Rule:
    return Rule(
        kind=kind,
        needs="recovery_action",
        judge=_wants(kind),
        say=_say_action,
        quiet_s="state_quiet_s",
        slow=True,
    )


RULES = (
    _answer_rule("lost", LOST, "the driver says that it is lost (error 15)"),
    _answer_rule("reset-required", RESET_REQUIRED, "the driver says that it must be reset (error 16)"),
    _answer_rule("unknown-error", UNKNOWN, "the driver answers with an unknown error (999)"),
    _action_rule("recovery-reset"),
    _action_rule("recovery-reboot"),
    _action_rule("recovery-drain"),
    Rule(
        kind="stuck-utilization",
        needs="gpu_utilization",
        judge=_stuck,
        say=_say_stuck,
        for_s="stuck_for_s",
        quiet_s="heat_quiet_s",
    ),
)
