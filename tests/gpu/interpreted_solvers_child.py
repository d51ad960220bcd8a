"""Run the checks of the solvers' kernels through Triton's interpreter: ``python interpreted_solvers_child.py CHECK...``; a line of JSON each."""

from __future__ import annotations

import json
import os
import sys
import traceback

os.environ["TRITON_INTERPRET"] = "1"


def main(checks: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    import solver_checks

    for check in checks:
        try:
            solver_checks.run(check, "cpu")
            failure = None
        except Exception:
            failure = traceback.format_exc()
        sys.stdout.write(json.dumps({"check": check, "failure": failure}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
