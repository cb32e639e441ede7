"""Every GPU fault that is made to happen under a real daemon; see gpu_faults.py for how."""

from __future__ import annotations

from gpu_compound_faults import COMPOUND_FAULTS
from gpu_driver_faults import DRIVER_FAULTS
from gpu_lease_faults import LEASE_FAULTS
from gpu_xid_faults import XID_FAULTS

GPU_FAULTS = (*XID_FAULTS, *DRIVER_FAULTS, *LEASE_FAULTS, *COMPOUND_FAULTS)
BY_NAME = {fault.name: fault for fault in GPU_FAULTS}
