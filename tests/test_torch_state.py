"""Importing flowkit and a whole fit leave torch as they found it (spine-F10)."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import torch, torch.distributions

def state():
    members = {name: id(value) for name, value in vars(torch.distributions).items() if not name.startswith('_')}
    methods = {f'{name}.{key}': id(value) for name, cls in vars(torch.distributions).items() if isinstance(cls, type)
               for key, value in vars(cls).items() if not key.startswith('__')}
    nn = {f'{name}.{key}': id(value) for name, cls in vars(torch.nn).items() if isinstance(cls, type)
          for key, value in vars(cls).items() if not key.startswith('__')}
    return {
        'default dtype': torch.get_default_dtype(), 'default device': torch.get_default_device(),
        'validation': torch.distributions.Distribution._validate_args, 'threads': (torch.get_num_threads(), torch.get_num_interop_threads()),
        'grad': torch.is_grad_enabled(), 'deterministic': torch.are_deterministic_algorithms_enabled(),
        'matmul precision': torch.get_float32_matmul_precision(), 'rng': torch.get_rng_state().tolist(),
        'members': members, 'methods': methods, 'nn': nn,
    }

torch.manual_seed(11)
before = state()
import flowkit as fk
after_import = state()
x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
flow = fk.flows.NeuralSplineFlow(2, layers=1, hidden=(8,), bins=4)
drawn = torch.get_rng_state()
fk.fit(flow, x, validation=0.2, max_epochs=2, batch_size=64, seed=0, precision='bf16', ema=0.9, run_dir=RUN, progress=False)
fk.fit(fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine((2,))), x, max_steps=2, seed=0, compile=True, progress=False)
flow().sample((3,)), flow.sample((3,), generator=torch.Generator().manual_seed(0))
torch.set_rng_state(drawn)
fk.fit(flow, x, max_epochs=1, seed=0, progress=False)
assert torch.equal(drawn, torch.get_rng_state()), 'rng'
torch.manual_seed(11)
after_fit = state()
for name, other in (('import', after_import), ('fit', after_fit)):
    for key, value in before.items():
        assert other[key] == value, f'{key} changed by {name}'
print('unchanged')
"""


def test_import_and_fit_change_nothing(tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    program = PROGRAM.replace("RUN", repr(str(tmp_path_factory.mktemp("run") / "run")))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "unchanged", done.stderr[-2000:]
