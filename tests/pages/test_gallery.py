"""The gallery shows what the examples print. `make examples` compares all of it; here the quick ones are run."""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pages import load

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("gallery", "plots")}
QUICK = ("kepler", "geometric_brownian_motion")


check = load("check_gallery")
SHOWN: dict[str, str] = check.sections(PAGES["gallery"])


@pytest.mark.parametrize("name", QUICK)
def test_the_page_shows_what_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert check.differences(SHOWN[name], capsys.readouterr().out) == []


def test_every_example_has_its_place() -> None:
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    elsewhere = {"diffusers_tiny": "diffusers", "distributed_ode": "distributed", "distributed_digits": "distributed"}
    elsewhere |= {"neural_ode": "training", "latent_training": "training"}
    assert set(SHOWN) == scripts - set(elsewhere)
    for name, page in elsewhere.items():
        assert f"examples/{name}.py" in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_there_and_small(page: str) -> None:
    names = re.findall(r"!\[[^\]]+\]\(images/(\w+\.png)\)", PAGES[page])
    assert len(names) == {"gallery": 6, "plots": 7}[page]
    for name in names:
        assert 2_000 < (ROOT / "docs" / "images" / name).stat().st_size < 60_000


def test_a_changed_count_is_noticed_and_a_changed_time_is_not() -> None:
    shown = "rounds: 2048 in sequence, 622 in parallel\nerror 3.0e-07 in 0.033 s, 2 threads\npicture: out/a.png\n"
    same = "rounds: 2048 in sequence,  622 in parallel\nerror 9.1e-08 in 1.250 s, 16 threads\npicture: b/a.png\n"
    assert check.differences(shown, same) == []
    assert len(check.differences(shown, same.replace("622", "623"))) == 1
    assert len(check.differences(shown, same.replace("error", "errors"))) == 1
    assert len(check.differences(shown, same + "more\n")) == 1
    many = "lanes 14410\n"
    assert check.differences(many, "lanes 14411\n") == []  # a slice within its tolerance or not: rounding
    assert len(check.differences(many, "lanes 14460\n")) == 1


def test_what_is_quickest_on_one_machine_is_passed_over() -> None:
    shown = "1024 here   14   1024   14\n1024 window   22\n"
    assert check.differences(shown, "1024 here: nothing that was tried is quicker\n1024 window  22\n") == []
    assert len(check.differences(shown, shown.replace("22", "23"))) == 1
    assert len(check.differences(shown, shown.replace("1024 here", "100 here"))) == 1


def test_the_first_row_of_the_demo_is_one_that_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    demo = importlib.import_module("quickstart")
    made: list[float] = []

    def rows(*ratios: float) -> Iterator[Any]:
        for ratio in ratios:
            made.append(ratio)
            yield SimpleNamespace(ratio=ratio)

    assert demo.first_to_win(rows(0.9, 1.0, 1.4, 3.0)).ratio == 1.4
    assert made == [0.9, 1.0, 1.4]
    assert demo.first_to_win(rows(0.9, 0.2)) is None
