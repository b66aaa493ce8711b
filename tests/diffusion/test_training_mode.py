"""Networks that are no function of their input, and tolerances that came twice: said before anything is computed."""

from __future__ import annotations

import collections
import dataclasses
import functools
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import diffusion_adapters as da
import parareal as pr
from diffusion_adapters.models._held_networks import networks_of


class Net(nn.Module):
    """A layer on channels, (B, 4, 2, 2), between two of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(4, 4, 1), layer

    def forward(self, x: Tensor, t: Tensor, **_: Any) -> Tensor:
        return torch.tanh(self.layer(self.first(x)))


class Asking(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x if self.training else 0.4 * x


class DropPath(nn.Module):
    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        return x


class Caller:
    def __init__(self, network: nn.Module, other: nn.Module) -> None:
        self.network, self.other = network, other

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t)

    def method(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t)


UNSOUND: list[Callable[[], nn.Module]] = [
    lambda: nn.Dropout(0.1),
    lambda: nn.Dropout2d(0.1),
    lambda: nn.AlphaDropout(0.1),
    lambda: nn.BatchNorm2d(4),
    lambda: nn.BatchNorm2d(4, track_running_stats=False),
    lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    lambda: nn.RReLU(),
    lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.Dropout(0.3))),
    lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
    lambda: DropPath(0.2),
]
SOUND: list[Callable[[], nn.Module]] = [
    nn.Identity,
    lambda: nn.Dropout(0.0),
    lambda: nn.GroupNorm(2, 4),
    lambda: nn.InstanceNorm2d(4),
    lambda: DropPath(0.0),
    lambda: nn.Dropout(0.1).eval(),
    lambda: nn.BatchNorm2d(4).eval(),
]
NOISE = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))


def drawn(network: Any, **options: Any) -> da.SampleResult:
    return da.sample(da.DiffusionModel(network, da.VP()), NOISE, **{"steps": 6, **options})


@pytest.mark.parametrize("make", UNSOUND)
@pytest.mark.parametrize("parallel", [True, False])
def test_layers_that_differ_in_training_are_refused_until_eval(make: Callable[[], nn.Module], parallel: bool) -> None:
    network = Net(make())
    with pytest.raises(ValueError, match=r"training mode.*Net\.layer.*network\.eval\(\)"):
        drawn(network, parallel=parallel)
    assert drawn(network.eval(), parallel=parallel).solution.converged


@pytest.mark.parametrize("make", SOUND)
def test_other_networks_may_be_in_training_mode(make: Callable[[], nn.Module]) -> None:
    assert drawn(Net(make())).solution.converged


def wrapped(network: nn.Module) -> dict[str, Any]:
    fine = Net(nn.Identity())
    model = da.DiffusionModel(lambda x, t, label: network(x, t), da.VP())
    label = torch.zeros(2)
    return {
        "a function": lambda x, t: network(x, t),
        "a partial": functools.partial(network, scale=1.0),
        "a partial with a network": functools.partial(lambda x, t, net: net(x, t), net=network),
        "a method": network.forward,
        "an object": Caller(network, fine),
        "an object's method": Caller(network, fine).method,
        "no_grad": torch.no_grad()(lambda x, t: network(x, t)),
        "guided": da.guided(model, 2.0, {"label": label}, {"label": label}),
    }


NETWORKS: dict[Any, Any] = {}
"""A global container."""


class Holder:
    """An object that holds something and calls nothing."""

    def __init__(self, held: Any) -> None:
        self.held = held


class Slots(NamedTuple):
    held: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    held: Any

    @property
    def shown(self) -> Any:
        return self.held


class Each:
    """Calls all that it has, by a method and through a property."""

    def __init__(self, *parts: Any) -> None:
        self.parts = [*parts]

    @property
    def first(self) -> Any:
        return self.parts[0]

    def run(self, x: Tensor, t: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x, t)
        return x

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.run(x, t)


class Through(Each):
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.first(x, t)


class Unregistered(nn.Module):
    """A module whose ``eval`` does not reach the network that it calls."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.parts = {"one": [network]}

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.run(x, t)

    def run(self, x: Tensor, t: Tensor) -> Tensor:
        return self.parts["one"][0](x, t)


class Class:
    network: Any = None


def held(network: nn.Module) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Functions that call the network, which something holds."""
    fine = Net(nn.Identity())
    NETWORKS["known"] = NETWORKS[1] = network
    by_name, in_list, nested = {"eps": network, "other": fine}, [fine, network], {"all": [({"eps": network},)]}
    endless: list[Any] = [network]
    endless.append(endless)
    many: list[Any] = [*range(100_000)]
    return {
        "a dictionary": lambda x, t: by_name["eps"](x, t),
        "a dictionary, by a name": lambda x, t, key="eps": by_name[key](x, t),
        "a dictionary, by a method": lambda x, t: by_name.get("eps", fine)(x, t),
        "a global": lambda x, t: NETWORKS["known"](x, t),
        "a list": lambda x, t: in_list[1](x, t),
        "the end of a list": lambda x, t: in_list[-1](x, t),
        "a tuple": lambda x, t, nets=(network,): nets[0](x, t),
        "a set": lambda x, t, nets=frozenset({network}): next(iter(nets))(x, t),
        "a default": lambda x, t, *, net=network: net(x, t),
        "an ordered dictionary": lambda x, t, nets=collections.OrderedDict(a=network): nets["a"](x, t),
        "nested": lambda x, t: nested["all"][0][0]["eps"](x, t),
        "two uses": lambda x, t: by_name["other"](x, t) + next(iter(by_name.values()))(x, t),
        "itself": lambda x, t: endless[0](x, t),
        "beside numbers": lambda x, t: in_list[many[1]](x, t),
        "an object": lambda x, t, one=Holder(network): one.held(x, t),
        "objects": lambda x, t, one=Holder({"a": Holder(network)}): one.held["a"].held(x, t),
        "a namespace": lambda x, t, one=types.SimpleNamespace(net=network): one.net(x, t),
        "a named tuple": lambda x, t, one=Slots(network): one.held(x, t),
        "slots": lambda x, t, one=Slotted(network): one.shown(x, t),
        "a class": lambda x, t, one=type("One", (Class,), {"network": network}): one.network(x, t),
        "a partial": functools.partial(lambda x, t, nets: nets["a"](x, t), nets={"a": network}),
        "an attribute": Each(fine, network),
        "a property": Through(network),
        "a method": Each(lambda x, t: network(x, t)).run,
        "a module": Unregistered(network),
        "a cache": functools.lru_cache(lambda x, t: in_list[1](x, t)),
    }


@pytest.mark.parametrize("how", list(held(nn.Identity())))
def test_networks_are_found_in_what_holds_them(how: str) -> None:
    network = Net(nn.BatchNorm2d(4))
    model = da.DiffusionModel(held(network)[how], da.VP())
    with pytest.raises(ValueError, match=r"Net\.layer.*network\.eval\(\)"):
        da.sample(model, NOISE, steps=6)
    network.eval()
    assert any(found is network for found in networks_of(model.network))
    da.plan(model, NOISE, steps=6)


def test_items_that_no_code_asks_for_are_left_alone() -> None:
    """A network in training, and its mean, which is sampled from, often lie side by side."""
    one, other = Net(nn.Identity()), Net(nn.Dropout(0.2))
    nets, trainer = {"mean": one, "trained": other}, types.SimpleNamespace(mean=[one], trained=[other])

    class Both:
        def __init__(self) -> None:
            self.nets, self.trained = {"mean": (one, other)}, other

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return self.nets["mean"][0](x, t)

    for function in (lambda x, t: nets["mean"](x, t), lambda x, t: trainer.mean[0](x, t), Both()):
        assert networks_of(function) == [one]


class Counted(list[Any]):
    """A list that counts what is taken from it."""

    taken: ClassVar[int] = 0

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            Counted.taken += 1
            yield item


def test_of_large_containers_only_a_part_is_looked_at() -> None:
    numbers, tree = Counted([0.5] * 100_000), Counted(Counted([] for _ in range(100)) for _ in range(1000))
    network, Counted.taken = Net(nn.Identity()), 0
    assert networks_of(lambda x, t: network(x, t) + sum(numbers) + len(tree[0])) == [network]
    assert Counted.taken < 10_000


@pytest.mark.parametrize("how", list(wrapped(nn.Identity())))
def test_networks_are_found_behind_what_calls_them(how: str) -> None:
    network = Net(nn.Dropout(0.2))
    model = wrapped(network)[how]
    model = model if isinstance(model, da.DiffusionModel) else da.DiffusionModel(model, da.VP())
    with pytest.raises(ValueError, match=r"network\.eval\(\)"):
        da.sample(model, NOISE, steps=6)
    with pytest.raises(ValueError, match=r"network\.eval\(\)"):
        da.plan(model, NOISE, steps=6)
    flow = da.probability_flow(model)
    grid = flow.grid(da.VP().times(6), 3)
    with pytest.raises(ValueError, match=r"network\.eval\(\)"):
        pr.solve(flow.problem, NOISE, grid, fine=pr.Euler(), coarse=pr.Identity())
    network.eval()
    assert da.sample(model, NOISE, steps=6).solution.converged


def test_what_an_object_holds_and_does_not_call_is_left_alone() -> None:
    assert drawn(Caller(Net(nn.Identity()), Net(nn.Dropout(0.2)))).solution.converged


def test_from_denoiser_looks_at_what_it_was_given() -> None:
    network = Net(nn.BatchNorm2d(4))
    model = da.from_denoiser(lambda x, sigma: network(x, sigma))
    with pytest.raises(ValueError, match=r"network\.eval\(\)"):
        da.sample(model, NOISE, steps=6)


def test_code_that_asks_for_the_mode_is_warned_about() -> None:
    with pytest.warns(RuntimeWarning, match=r"Asking.*self\.training.*network\.eval\(\)"):
        drawn(Asking())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(Asking().eval())


def test_random_numbers_inside_a_plain_function_are_warned_about() -> None:
    with pytest.warns(RuntimeWarning, match=r"draws random numbers from torch's global generator.*network\.eval"):
        drawn(lambda x, t: nn.functional.dropout(x, 0.1), throw=False)


@pytest.mark.parametrize("batching", ["native", "loop"])
def test_stochastic_right_hand_sides_are_warned_about(batching: Any) -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, 4)
    options: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Identity(), "stop": pr.Iterations(2)}
    drew: list[Tensor] = []

    def noisy(t: Tensor, u: Tensor) -> Tensor:
        return 0.01 * torch.randn(u.shape, dtype=u.dtype) - u

    def sets_up(t: Tensor, u: Tensor) -> Tensor:  # a layer made in the first call, for example
        if not drew:
            drew.append(torch.randn(3))
        return -u

    with pytest.warns(RuntimeWarning, match=r"f draws random numbers.*pr\.SDE.*check_propagator"):
        pr.solve(pr.ODE(noisy, batching=batching), torch.ones(3), grid, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pr.solve(pr.ODE(sets_up, batching=batching), torch.ones(3), grid, **options)
    assert drew


@pytest.mark.parametrize("stop", [pr.Iterations(3), pr.Tolerance(1e-3)])
def test_rtol_and_stop_together_are_refused(stop: pr.StoppingRule) -> None:
    with pytest.raises(ValueError, match=r"rtol=0\.01 came with stop=.*expected one of them"):
        drawn(Net(nn.Identity()), rtol=1e-2, stop=stop)
    with pytest.raises(ValueError, match=r"rtol=0\.01 came with stop="):
        drawn(Net(nn.Identity()), rtol=1e-2, stop=stop, parallel=False)


def test_the_default_tolerance_is_what_the_documentation_says() -> None:
    network = Net(nn.Identity())
    default, given = drawn(network), drawn(network, rtol=1e-3)
    assert torch.equal(default.samples, given.samples)
    assert default.solution.stats.rounds == given.solution.stats.rounds
    assert drawn(network, stop=pr.Iterations(2), coarse="none", throw=False).solution.iterations.tolist() == [2, 2]
