"""What importing the package leaves behind in a process: nothing."""

import subprocess
import sys

# In a process of its own, where nothing of the package has been imported yet.
CODE = """
import logging, pkgutil, random, signal, warnings
import numpy, torch, torch.distributed.tensor  # brings sympy, which adds a filter of its own

def state():
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(),
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "products": torch.get_float32_matmul_precision(),
        "random": (torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()),
        "warnings": list(warnings.filters),
        "logging": (logging.root.level, list(logging.root.handlers), logging.raiseExceptions),
        "interrupt": signal.getsignal(signal.SIGINT),
    }

before = state()
import vilg
names = [module.name for module in pkgutil.walk_packages(vilg.__path__, "vilg.")]
for name in names:
    if not name.endswith("__main__"):
        __import__(name)
assert len(names) > 60, names
for name, value in state().items():
    assert value == before[name], name
"""


def test_importing_every_module_changes_nothing_global() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
