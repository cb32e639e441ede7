"""Makes one backup for each line that it reads, as the daemon would: a process of its own beside a training.

python -m benchmarks.backup_beside FOLDER COPIES COPY_BYTES [--nice 10]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from benchmarks.backup_place import Shop, local_place, make_run


def main() -> int:
    """Answer each `go` with `done`, and each `clean` too: the target is empty then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("copies", type=int)
    parser.add_argument("copy_bytes", type=int)
    parser.add_argument("--nice", type=int, default=0)
    options = parser.parse_args()
    shop = Shop(options.folder, local_place(options.folder / "target"))
    job, _ = make_run(shop, "load", copies=options.copies, copy_bytes=options.copy_bytes)
    os.nice(options.nice)
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "go\n":
            shop.back_up(job)
        else:
            for path in shop.place.folder.iterdir():
                shutil.rmtree(path)
            os.sync()
        print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
