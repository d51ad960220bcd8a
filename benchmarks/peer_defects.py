"""Defects of nflows, normflows, zuko, FrEIA and Pyro, measured there and here.

    python benchmarks/peer_defects.py            # writes benchmarks/results/peer_defects.md
    python benchmarks/peer_defects.py pyro       # one peer, writes nothing

Every row is one measurement with one criterion, taken on the peer, which is expected to miss it, and on flowkit.
``tests/oracles/test_peer_defects.py`` asserts the same rows.
"""

from __future__ import annotations

import importlib.metadata
import sys

import torch
from _peer_defects import DEFECTS
from _peer_defects.case import PEERS
from _report import heading, write

ABOUT = """Each row states a measurement and a criterion once and applies both to the peer, as installed from the package index, and to flowkit.
Seeds are fixed. Sources are issues and pull requests of the peers, or rows and sections of our survey of their code; "found here"
marks what no issue led to. Where the peer raised, its exception stands in place of a number."""


def versions() -> dict[str, str]:
    """Installed peers."""
    found = {}
    for module, (distribution, _) in PEERS.items():
        try:
            found[module] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            print(f"{distribution} is not installed: its rows are left out")
    return found


def cell(value: object) -> str:
    """Text that cannot break a table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def rows(peers: dict[str, str]) -> list[list[str]]:
    """One row a defect of an installed peer."""
    made = []
    for defect in (defect for defect in DEFECTS if defect.peer in peers):
        theirs, ours = defect.on_peer(), defect.on_flowkit()
        did = cell(theirs) if defect.shown_by(theirs) else f"not reproduced: {cell(theirs)}"
        here = cell(ours) if ours.right else f"FAILS: {cell(ours)}"
        quantity = f"{defect.quantity}; wanted: {defect.wanted}"
        made.append([str(len(made) + 1), f"{defect.peer} {peers[defect.peer]}", f"{defect.statement} ({defect.source})", quantity, did, here])
        print(made[-1][0], defect.peer, defect.name, "|", did, "|", here)
    return made


def main() -> None:
    torch.set_num_threads(1)
    peers = versions()
    wanted = [name for name in sys.argv[1:] if name in peers]
    found = rows({name: peers[name] for name in wanted or peers})
    shown, right = (sum(not row[at].startswith(mark) for row in found) for at, mark in ((4, "not reproduced"), (5, "FAILS")))
    summary = f"{shown} of {len(found)} rows reproduced on the peer; flowkit meets the criterion in {right}."
    print(summary)
    if wanted:
        return
    names = ["#", "peer", "defect (source)", "measured", "the peer", "flowkit"]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [names, ["---"] * len(names), *found])
    packages = ("flowkit", "torch", *(PEERS[name][0] for name in peers))
    write("peer_defects.md", f"{heading('Defects of peer libraries, measured', packages)}\n{ABOUT}\n\n{summary}\n\n{table}\n")


if __name__ == "__main__":
    main()
