"""What may befall a training, and what is seen then."""

from __future__ import annotations

from supervisor.core.diagnosis.evidence import Disk, Evidence, Sign

FATES = (
    "save",
    "save",
    "save",
    "torn",
    "exit 0",
    "exit 1",
    "exit 75",
    "exit 137",
    "exit 66",
    "kill -9",
    "hang",
    "deaf",
    "fork",
    "die",
    "die",
)
#: What is seen when a training died with the fate "die": signs in its log, or what the machine says.
EVIDENCE = (
    Evidence(signs=(Sign(rule="a", cause="cuda-oom", line="CUDA out of memory"),), oom_kills=0),
    Evidence(signs=(Sign(rule="a", cause="shm-full", line="Bus error"),)),
    Evidence(signs=(Sign(rule="a", cause="nan", line="loss is nan"),)),
    Evidence(signs=(Sign(rule="a", cause="wrong-class-count", line="wrong"), Sign(rule="b", cause="nan", line="nan"))),
    Evidence(signs=(Sign(rule="a", cause="nccl-timeout", line="Watchdog"),)),
    Evidence(signs=(Sign(rule="mine", cause="our-own", line="our storage", remedy="wait-disk", means="it is slow"),)),
    Evidence(signs=(Sign(rule="mine", cause="permission", line="our lock", remedy="retry"),)),
    Evidence(oom_kills=1, kernel=("Out of memory: Killed process 9",)),
    Evidence(unmounted=("/data",), missing=("/data/images",)),
    Evidence(disks=(Disk(path="/runs", what="runs", free_bytes=0),)),
    Evidence(error="ValueError: x", site="loss.py:7 in loss", phase="train", epoch=1, batch=3, exact=True),
    Evidence(error="KeyError: 'y'", site="data.py:1 in get", phase="train", epoch=1),
)
SILENT = Evidence()
ENDS_AT_ONCE = frozenset({"wrong-class-count"})  # causes of these whose plan is nothing but its end
