"""Run the checks of the Triton maps through Triton's interpreter: ``python interpreted_child.py quick|thorough``; one line of JSON each.

The interpreter is chosen when kernels are defined, so it needs a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

os.environ["TRITON_INTERPRET"] = "1"

from kernel_cases import QUICK, THOROUGH


def main(which: str) -> None:
    import torch

    torch.set_num_threads(1)
    import scalar_map_checks

    from flowkit.kernels.gpu import scalar_map

    ops = scalar_map_checks.judged("cpu", thorough=which == "thorough")
    sizes = scalar_map.SLOTS, scalar_map.CELLS
    for check, op in QUICK if which == "quick" else THOROUGH:
        # many elements: few large tiles, because the interpreter takes its time for each
        scalar_map.SLOTS, scalar_map.CELLS = (8192, 65536) if check == "float32_error" else sizes
        try:
            scalar_map_checks.CHECKS[check](ops[op])
            failure = None
        except Exception:
            failure = traceback.format_exc()
        sys.stdout.write(json.dumps({"check": check, "op": op, "failure": failure}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
