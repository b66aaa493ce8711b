"""Beside PyMGRIT 1.0.6: the same iterates, and the wall time of both, in the same run.

PyMGRIT's multigrid reduction in time is Parareal with two levels and no C-relaxation. With FCF-relaxation it is
`pr.Relaxed`, with three levels `pr.Multilevel`; an iteration with FCF-relaxation counts as two here. It runs on one
process, in an environment of its own, since it needs mpi4py and NumPy below 2.4: the script makes one in out/pymgrit,
unless PYMGRIT_PYTHON names an interpreter that has it. Both solve with RK4, a step a slice as coarse propagator and a
step a block of slices as the coarser one, and as many iterations; PyMGRIT in NumPy, this package in torch. Run it with
`python benchmarks/pymgrit.py`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import parareal as pr

CASES: dict[str, dict[str, Any]] = {
    "FitzHugh-Nagumo": {"span": (0.0, 200.0), "u0": [-1.0, 1.0], "slices": 512, "steps": 128, "iterations": 4},
    "Lorenz": {"span": (0.0, 10.0), "u0": [5.0, -5.0, 20.0], "slices": 512, "steps": 128, "iterations": 4},
}

BLOCK = 4
VARIANTS: dict[str, dict[str, Any]] = {
    "2 levels": {"cf_iter": 0, "block": 0, "coarse": pr.RK4()},
    "2 levels, FCF": {"cf_iter": 1, "block": 0, "coarse": pr.Relaxed(pr.RK4()), "schedule": pr.Barrier()},
    "3 levels": {"cf_iter": 0, "block": BLOCK, "coarse": pr.Multilevel(pr.RK4(), pr.RK4(), BLOCK)},
    "3 levels, FCF": {
        "cf_iter": 1,
        "block": BLOCK,
        "coarse": pr.Relaxed(pr.Multilevel(pr.RK4(), pr.Relaxed(pr.RK4()), BLOCK)),
    },
}

THEIRS = """
import json, logging, sys, time
import numpy as np
from pymgrit.core.application import Application
from pymgrit.core.mgrit import Mgrit
from pymgrit.core.vector import Vector

logging.disable(logging.CRITICAL)

def fitzhugh_nagumo(t, u):
    return np.array([u[0] - u[0] ** 3 / 3 - u[1] + 0.5, 0.08 * (u[0] + 0.7 - 0.8 * u[1])])

def lorenz(t, u):
    return np.array([10.0 * (u[1] - u[0]), u[0] * (28.0 - u[2]) - u[1], u[0] * u[1] - 8.0 / 3.0 * u[2]])

class State(Vector):
    def __init__(self, value):
        super().__init__()
        self.value = value
    def __add__(self, other):
        return State(self.value + other.value)
    def __sub__(self, other):
        return State(self.value - other.value)
    def __mul__(self, other):
        return State(self.value * other)
    def norm(self):
        return np.linalg.norm(self.value)
    def clone(self):
        return State(self.value.copy())
    def clone_zero(self):
        return State(np.zeros_like(self.value))
    def clone_rand(self):
        return State(np.random.rand(*self.value.shape))
    def set_values(self, values):
        self.value = values
    def get_values(self):
        return self.value
    def pack(self):
        return self.value
    def unpack(self, values):
        self.value = values

class Problem(Application):
    def __init__(self, f, u0, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.f = f
        self.vector_template = State(np.zeros_like(u0))
        self.vector_t_start = State(u0)
    def step(self, u_start, t_start, t_stop):
        u, h, f = u_start.value, t_stop - t_start, self.f
        k1 = f(t_start, u)
        k2 = f(t_start + h / 2, u + h / 2 * k1)
        k3 = f(t_start + h / 2, u + h / 2 * k2)
        k4 = f(t_stop, u + h * k3)
        return State(u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))

case = json.loads(sys.argv[1])
f = {"FitzHugh-Nagumo": fitzhugh_nagumo, "Lorenz": lorenz}[case["name"]]
points = np.linspace(*case["span"], case["slices"] * case["steps"] + 1)
u0 = np.array(case["u0"])
levels = [Problem(f, u0, t_interval=points), Problem(f, u0, t_interval=points[:: case["steps"]])]
if case["block"]:
    levels.append(Problem(f, u0, t_interval=points[:: case["steps"] * case["block"]]))
iterates = []

def keep(solver):
    iterates.append([u.value.tolist() for u in solver.u[0][:: case["steps"]]])

begun = time.perf_counter()
solver = Mgrit(
    levels, cf_iter=case["cf_iter"], nested_iteration=True, max_iter=case["iterations"], tol=0.0, logging_lvl=50,
    output_fcn=keep, output_lvl=2,
)
solver.solve()
seconds = time.perf_counter() - begun
keep(solver)
print("RESULT" + json.dumps({"iterates": iterates, "seconds": seconds}))
"""


F64 = {"dtype": torch.float64}
NEURON, DRIVE = torch.tensor([[1.0, 0.08], [-1.0, -0.064]], **F64), torch.tensor([0.5, 0.056], **F64)
CUBE = torch.tensor([-1 / 3, 0.0], **F64)
LORENZ = torch.tensor([[-10.0, 28.0, 0.0], [10.0, -1.0, 0.0], [0.0, 0.0, -8 / 3]], **F64)
SIGNS = torch.tensor([0.0, -1.0, 1.0], **F64)


def fitzhugh_nagumo(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """u = (v, w), of all lanes, in few operations."""
    return torch.addcmul(torch.addmm(DRIVE, u, NEURON), u * u * u, CUBE)


def lorenz(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """u = (x, y, z), of all lanes, in few operations: what is not linear is (0, -xz, xy)."""
    products = torch.nn.functional.pad(u[:, :1] * u[:, 1:].flip(1), (1, 0))
    return torch.addcmul(u @ LORENZ, products, SIGNS)


FUNCTIONS = {"FitzHugh-Nagumo": fitzhugh_nagumo, "Lorenz": lorenz}


def interpreter() -> tuple[str, dict[str, str]] | None:
    """A Python that has PyMGRIT, and the variables with which it finds MPI; makes one where it is not there."""
    environment = dict(os.environ)
    given = os.environ.get("PYMGRIT_PYTHON")
    if given:
        return given, environment
    folder = Path(os.environ.get("PARAREAL_OUT", "out")) / "pymgrit"
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = ["pymgrit==1.0.6", "numpy<2.4", "mpi4py", "mpich"]
        pip = [str(python), "-m", "pip", "install", "--quiet", *wanted]
        subprocess.run(pip, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"PyMGRIT could not be installed ({error}); name an interpreter that has it: PYMGRIT_PYTHON=...")
        return None
    library = folder.resolve() / "lib" / "libmpi.so.12"
    return str(python), {**environment, "MPI4PY_LIBMPI": str(library), "LD_LIBRARY_PATH": str(library.parent)}


def theirs(name: str, case: dict[str, Any], python: str, environment: dict[str, str]) -> dict[str, Any]:
    """Iterates and seconds of PyMGRIT."""
    given = json.dumps({"name": name, **case})
    run = subprocess.run([python, "-c", THEIRS, given], env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise RuntimeError(f"PyMGRIT failed: {run.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(lines[0][len("RESULT") :])
    return result


def _iterates(given: list[Any], count: int) -> list[Any]:
    """Those after iterations 1 ... count: the first of all is that of the coarse solve."""
    return given[1 : count + 1]


def main() -> int:
    """Runs both, prints the table."""
    found = interpreter()
    if found is None:
        return 0
    torch.set_num_threads(1)
    header = f"{'problem':<17}{'slices':>7}{'steps':>6}  {'levels':<15}{'iterations':>11}{'difference':>12}"
    print(f"{header}{'PyMGRIT':>10}{'ours':>10}{'ratio':>7}")
    for (name, case), (variant, how) in itertools.product(CASES.items(), VARIANTS.items()):
        settings = {key: how[key] for key in ("cf_iter", "block")}
        other = theirs(name, {**case, **settings}, *found)
        problem = pr.ODE(FUNCTIONS[name], batching="native")
        u0 = torch.tensor(case["u0"], dtype=torch.float64)
        grid = pr.TimeGrid.uniform(*case["span"], slices=case["slices"], steps=case["steps"])
        options = {"fine": pr.RK4(), "coarse": how["coarse"], "schedule": how.get("schedule")}
        worst, seconds = 0.0, []
        with torch.no_grad():
            for k, expected in enumerate(_iterates(other["iterates"], case["iterations"]), 1):
                for _ in range(3 if k == case["iterations"] else 1):
                    begun = time.perf_counter()
                    sol = pr.solve(problem, u0, grid, stop=pr.Iterations(k * (1 + how["cf_iter"])), **options)
                    seconds.append(time.perf_counter() - begun)
                want = torch.tensor(expected, dtype=torch.float64)
                worst = max(worst, float(((sol.us - want).abs() / want.abs().amax()).max()))
        ours = min(seconds[-3:])
        print(
            f"{name:<17}{case['slices']:>7}{case['steps']:>6}  {variant:<15}{case['iterations']:>11}{worst:>12.1e}"
            f"{other['seconds']:>9.2f}s{ours:>9.3f}s{other['seconds'] / ours:>7.1f}"
        )
    print("difference: the largest of all iterates at all slice edges, relative to the largest state; one process each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
