"""What a run in parallel in time gains on one GPU, and what the engine costs there, in 8 minutes.

`python benchmarks/gpu.py` needs a GPU, torch and this package. It prints, in bfloat16 for networks of the shapes of
Stable Diffusion 1.5's U-Net and of DiT-XL/2:

1. the time of a call against its lanes;
2. launches and synchronisations of the engine in a round, as the profiler sees them, beside those of
   `benchmarks/launches.py`, and its time of a round;
3. Newton's method over many slices, and an ensemble of equations;
4. wall times of samplers, called eagerly, captured as CUDA graphs (`pr.Captured`), and compiled.

What no longer fits into the time (`--minutes`) is left out, and listed. `--tiny` runs all of it on a CPU, with networks
that are small: for a test of this script, since its figures say nothing.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import statistics
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gpu_networks
import launches
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

import diffusion_adapters as da
import parareal as pr

NETWORK = "the network"
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


class OutOfTimeError(Exception):
    """The time is over."""


@dataclass
class Bench:
    """What all parts share."""

    tiny: bool
    device: torch.device
    end: float
    skipped: list[str] = field(default_factory=list)
    calls: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.tiny else torch.bfloat16

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def fits(self, what: str, seconds: float) -> bool:
        """Whether there is time; what there is not is listed at the end."""
        if seconds < self.left:
            return True
        self.skipped.append(f"{what} (about {seconds:.0f} s, {max(0.0, self.left):.0f} s left)")
        return False

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], Any], times: int = 3) -> float:
        """The median of a few calls, after one that warms up; of fewer where they take long."""
        call()
        taken, times = list[float](), 1 if self.tiny else times
        while len(taken) < times and sum(taken) < 2.0:
            self.wait()
            begun = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)

    def networks(self) -> dict[str, Callable[[], nn.Module]]:
        if self.tiny:
            return {
                "U-Net": lambda: gpu_networks.UNet((32, 64), context=8, heads=2, tokens=3),
                "DiT": lambda: gpu_networks.DiT(32, 2, 2, 8),
            }
        return {"U-Net of SD 1.5": gpu_networks.UNet, "DiT-XL/2": gpu_networks.DiT}

    def shape(self, name: str) -> tuple[int, ...]:
        side = 8 if self.tiny else 64 if "U-Net" in name else 32
        return (4, side, side)

    def build(self, name: str) -> nn.Module:
        torch.manual_seed(0)
        with torch.device(self.device):
            return self.networks()[name]().to(self.dtype).eval().requires_grad_(False)


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


@contextmanager
def alarm(seconds: float) -> Generator[None]:
    """Ends what takes longer, such as a compilation, where the system has such alarms."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, over)
    # Again and again: Python swallows what is raised while it runs a finalizer or the callback of a weak reference.
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- 1. calls ---------------------------------------------------------------------------------------------------------


def lanes_of(bench: Bench) -> tuple[int, ...]:
    return (1, 2, 4) if bench.tiny else (1, 2, 4, 8, 16, 32, 64, 100)


def inputs(bench: Bench, name: str, lanes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(lanes)
    x = torch.randn(lanes, *bench.shape(name), generator=generator).to(bench.device)
    return x, torch.linspace(0.1, 0.9, lanes).to(bench.device)


def calls(bench: Bench, name: str, network: nn.Module) -> None:
    """The time of a call against its lanes."""
    title(f"{name}: milliseconds of a call")
    print(f"{'lanes':>6}{'eager':>9}{'a lane':>9}{'captured':>10}{'a lane':>9}")
    task = gpu_networks.Task(network, bench.dtype)
    captured, before = pr.Captured(task, max_graphs=len(lanes_of(bench))), 0.0
    for lanes in lanes_of(bench):
        if not bench.fits(f"{name}, a call of {lanes} lanes", 10 * 2 * before):
            break
        x, t = inputs(bench, name, lanes)
        row: list[float] = []
        for fn in (task, captured):
            row.append(bench.seconds(lambda fn=fn, x=x, t=t: fn(x, t), 5))
        bench.calls[name, lanes], before = row[0], row[0]
        figures = "".join(f"{1e3 * s:{w}.2f}{1e3 * s / lanes:9.2f}" for s, w in zip(row, (9, 10), strict=True))
        print(f"{lanes:6}{figures}", flush=True)


def call_seconds(bench: Bench, name: str, lanes: int) -> float:
    """From the table, along a straight line beyond its end; 0.1 s where there is none."""
    known = sorted((n, s) for (which, n), s in bench.calls.items() if which == name)
    if not known:
        return 0.1
    return next((s for n, s in known if n >= lanes), known[-1][1] * lanes / known[-1][0])


# --- 2. the engine ----------------------------------------------------------------------------------------------------


def engine(bench: Bench) -> None:
    """Launches, synchronisations and time of the engine in a round."""
    on_gpu = bench.device.type == "cuda"
    title("Engine, a round outside the network, states of 4 x 64 x 64" + (" (tiny: 4 x 8 x 8)" if bench.tiny else ""))
    seen = "profiler" if on_gpu else "operations, without a GPU"
    print(f"{'':28}{'rounds':>7}{'launches':>10}{seen:>27}{'syncs':>7}{'profiler':>10}{'milliseconds':>14}")
    shape = (4, 8, 8) if bench.tiny else (4, 64, 64)
    for name, options in launches.CASES.items():
        options = dict(options)
        batch = options.pop("batch", 1)
        if bench.tiny:
            if name not in ("default, DDIM", "serial"):
                continue
            options.update(steps=8)
        if not bench.fits(f"engine, {name}", 5.0):
            continue
        counted = launches.measure(name, batch=batch, **options)
        noise = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(bench.device)

        def run(noise: Tensor = noise, options: dict[str, Any] = options) -> pr.Solution:
            return da.sample(da.DiffusionModel(_cheap, da.VP()), noise, **options).solution

        rounds = run().stats.rounds
        each = bench.seconds(run) / rounds
        started, waited = profiled(run, on_gpu)
        print(
            f"{name:28}{rounds:7}{counted.launches:10.1f}{started:27.1f}{counted.waits:7.1f}{waited:10.1f}"
            f"{1e3 * each:14.2f}",
            flush=True,
        )


def _cheap(x: Tensor, t: Tensor) -> Tensor:
    with record_function(NETWORK):
        return launches.network(x, t)


def profiled(run: Callable[[], Any], on_gpu: bool) -> tuple[float, float]:
    """Launches and synchronisations between two calls of the network, the mean over calls in the middle of a run.

    Without a GPU, operations that are not made of others.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        run()
    events = found.events() or []
    spans = sorted((e.time_range.start, e.time_range.end) for e in events if e.name == NETWORK and not on_device(e))
    gaps = [(one[1], two[0]) for one, two in itertools.pairwise(spans)][2:-1]
    if on_gpu:
        starts = [e.time_range.start for e in events if e.name in LAUNCHES]
    else:
        starts = [e.time_range.start for e in events if e.name.startswith("aten::") and not e.cpu_children]
    waits = [e.time_range.start for e in events if e.name in SYNCS]
    counts = [sum(a <= start < b for a, b in gaps for start in kind) / max(1, len(gaps)) for kind in (starts, waits)]
    return counts[0], counts[1]


def on_device(event: Any) -> bool:
    """Whether it is the span of an annotation on the GPU, which has the same name as that on the host."""
    return event.device_type != torch.autograd.DeviceType.CPU


# --- 3. equations -----------------------------------------------------------------------------------------------------


def equations(bench: Bench) -> None:
    """Newton's method over many slices, and many initial states at once."""
    title("Equations: seconds")
    print(f"{'':44}{'serial':>9}{'parallel':>10}{'rounds':>8}{'rounds':>8}{'distance':>10}")
    size = 256 if bench.tiny else 16_384
    weights = (torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) / 4).to(bench.device)

    def neurons(t: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(u @ weights.T) - u + 0.3 * torch.cos(t)[:, None].to(u.dtype)

    u0 = torch.linspace(-1.0, 1.0, 16).to(bench.device)
    grid = pr.TimeGrid.uniform(0.0, 40.0, size)
    newton = {"coarse": pr.Jacobian(), "stop": pr.Tolerance(1e-5, 1e-6)}
    compare(
        bench, f"Newton's scan, {size:,} steps of 16 neurons", pr.ODE(neurons, "native"), u0, grid, pr.Euler(), newton
    )

    def lorenz(t: Tensor, u: Tensor) -> Tensor:
        x, y, z = u.unbind(-1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)

    members, steps = (8, 4) if bench.tiny else (65_536, 16)
    u0 = torch.randn(members, 3, generator=torch.Generator().manual_seed(0)).to(bench.device)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=32, steps=steps)
    options = {"coarse": pr.RK4(), "schedule": pr.Wavefront(), "stop": pr.Tolerance(1e-4, 1e-4)}
    compare(bench, f"Lorenz, {members:,} members, 32 slices", pr.ODE(lorenz, "native"), u0, grid, pr.RK4(), options)


def compare(
    bench: Bench,
    name: str,
    problem: pr.ODE,
    u0: Tensor,
    grid: pr.TimeGrid,
    fine: pr.Integrator,
    options: dict[str, Any],
) -> None:
    if not bench.fits(name, 30.0):
        return
    runs = [lambda: pr.serial(problem, u0, grid, fine=fine), lambda: pr.solve(problem, u0, grid, fine=fine, **options)]
    with torch.no_grad():
        (ref, serial), (sol, parallel) = ((run(), bench.seconds(run, 1)) for run in runs)
    distance = float((sol.u - ref.u).norm() / ref.u.norm())
    print(f"{name:44}{serial:9.3f}{parallel:10.3f}{ref.stats.rounds:8}{sol.stats.rounds:8}{distance:10.1e}", flush=True)


# --- 4. samplers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampler:
    """A row of the table."""

    name: str
    options: dict[str, Any]
    lanes: int
    share: float
    """About how many rounds it takes, as a part of the steps: only to tell whether there is time."""


def samplers(bench: Bench, steps: int) -> list[Sampler]:
    widths = [w for w in ((4,) if bench.tiny else (4, 8, 16, 32, 64, 100)) if w <= steps]
    return [
        Sampler("serial", {"parallel": False}, 1, 1.0),
        *(Sampler(f"default, width {w}", {"width": w}, w, 0.5) for w in widths),
        Sampler("SRDS", {"coarse": "same"}, 2 * int(steps**0.5), 0.6),
        *(Sampler(f"Picard, width {w}", {"coarse": "none", "width": w}, w, 0.6) for w in widths),
    ]


def sizes_of(lanes: int, most: int = 6) -> tuple[int, ...]:
    """Numbers of lanes to pad to: powers of two up to the widest."""
    return (*(2**k for k in range(lanes.bit_length()) if 2**k < lanes), lanes)[-most:]


def sampling(bench: Bench, name: str, network: nn.Module, steps: int) -> None:
    """Wall times of samplers, called eagerly and captured."""
    title(f"{name}, {steps} steps of DDIM, one sample: seconds")
    print(f"{'':22}{'rounds':>7}{'eager':>9}{'captured':>10}")
    task = gpu_networks.Task(network, bench.dtype)
    captured = pr.Captured(task, max_graphs=32)
    for one in samplers(bench, steps):
        about = one.share * steps * call_seconds(bench, name, one.lanes)
        if not bench.fits(f"{name}, {steps} steps, {one.name}", 6 * about):
            continue
        rounds, eager = timed_sample(bench, name, task, steps, one, None)
        executor = pr.Batched(pad_to=sizes_of(one.lanes))
        _, replayed = timed_sample(bench, name, captured, steps, one, executor)
        print(f"{one.name:22}{rounds:7}{eager:9.3f}{replayed:10.3f}", flush=True)


def timed_sample(
    bench: Bench, name: str, network: Any, steps: int, one: Sampler, executor: pr.Executor | None
) -> tuple[int, float]:
    model = da.DiffusionModel(network, gpu_networks.Task.schedule)
    noise = torch.randn(1, *bench.shape(name), generator=torch.Generator().manual_seed(0)).to(bench.device)
    found: list[pr.Solution] = []

    def run() -> None:
        options = {"steps": steps, "executor": executor, "throw": False, **one.options}
        found.append(da.sample(model, noise, **options).solution)

    seconds = bench.seconds(run, 2)
    return found[-1].stats.rounds, seconds


def compiled(bench: Bench, name: str, network: nn.Module) -> None:
    """The same, compiled for one lane and for a width: one graph for each."""
    steps, width = (8, 4) if bench.tiny else (50, 16)
    about = 5.0 if bench.tiny else 90.0 if "U-Net" in name else 45.0
    if not bench.fits(f"{name}, compiled", 2 * about):
        return
    title(f"{name}, {steps} steps of DDIM, compiled for 1 and {width} lanes: seconds")
    print(f"{'':22}{'rounds':>7}{'compiled':>10}{'first call':>12}")
    torch._dynamo.config.recompile_limit = 64
    options: dict[str, Any] = {"dynamic": False, **({"backend": "eager"} if bench.tiny else {})}
    if isinstance(network, gpu_networks.DiT):  # blocks of one shape, which share their graphs
        for block in network.blocks:
            block.compile(**options)
    else:
        network.compile(**options)
    task = gpu_networks.Task(network, bench.dtype)
    for one in samplers(bench, steps):
        lanes = 1 if one.name == "serial" else width
        if one.options.get("width", width) != width or not bench.fits(f"{name}, compiled, {one.name}", about):
            continue
        executor, begun = pr.Batched(pad_to=lanes), time.perf_counter()
        call = inputs(bench, name, lanes)
        task(*call)
        bench.wait()
        first = time.perf_counter() - begun
        rounds, seconds = timed_sample(bench, name, task, steps, one, executor)
        print(f"{one.name:22}{rounds:7}{seconds:10.3f}{first:12.1f}", flush=True)


# --- all of it --------------------------------------------------------------------------------------------------------


def parts(bench: Bench) -> Generator[tuple[str, Callable[[], None]]]:
    """What is measured, the most telling first."""
    made = {name: bench.build(name) for name in bench.networks()}
    every: Sequence[int] = (8,) if bench.tiny else (50, 100, 25)
    for name, network in made.items():
        yield f"{name}: calls", lambda name=name, network=network: calls(bench, name, network)
    yield "engine", lambda: engine(bench)
    yield "equations", lambda: equations(bench)
    for steps, (name, network) in itertools.product(every, made.items()):
        yield f"{name}: samplers", lambda n=name, net=network, s=steps: sampling(bench, n, net, s)
        if steps == every[0] and name != next(iter(made)):  # of both, after their first tables
            for each in reversed(made):
                if bench.tiny and each == "U-Net":  # so many kinds of layers take long to trace
                    continue
                yield f"{each}: compiled", lambda n=each: compiled(bench, n, bench.build(n))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small networks on the CPU: a test of this script")
    parser.add_argument("--minutes", type=float, default=8.0, help="time to spend")
    args = parser.parse_args(arguments)
    begun = time.monotonic()
    tiny = args.tiny or not torch.cuda.is_available()
    if tiny and not args.tiny:
        print("There is no GPU here: this is the test of the script that --tiny runs, and its figures say nothing.")
    bench = Bench(tiny, torch.device("cpu" if tiny else "cuda"), begun + 60 * args.minutes)
    where = "CPU, tiny" if tiny else f"{torch.cuda.get_device_name()}, {bench.dtype}"
    print(f"{where}; torch {torch.__version__}, parareal {pr.__version__}; within {args.minutes:g} minutes")
    with torch.no_grad():
        for name, part in parts(bench):
            if bench.left <= 0:  # an alarm could ring in the part's first import
                bench.skipped.append(name)
                continue
            try:
                with alarm(bench.left):
                    part()
            except OutOfTimeError:
                bench.skipped.append(f"{name}, from where it was")
            except Exception as error:  # out of memory, say: the other parts are worth having
                bench.skipped.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
    title(f"Ended after {(time.monotonic() - begun) / 60:.1f} minutes.")
    if bench.skipped:
        print("Left out:", *bench.skipped, sep="\n  ")
    if not tiny:
        print(f"Most memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
