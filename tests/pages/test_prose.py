"""`make prose`: private words are found, code is passed over, and a count that is known may not rise."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
from pages import load

from parareal._core.checks import with_article

check = load("check_prose")
WORDS = check.rules(check.WORDS.read_text(encoding="utf-8"))


def found(text: str) -> list[str]:
    return [re.sub(r"[^\w ].*", "", complaint[1:]) for _, complaint in check.complaints(1, text, WORDS)]


@pytest.mark.parametrize(
    "text",
    [
        "The run is gone on with.",
        "lanes that set\nout now",
        "a nest of tensors",
        "one judge for each run",
        "a ODE",
        "an U-Net",
        "16 unless told otherwise",
        "letters with states",
        "a error",
    ],
)
def test_a_private_word_or_a_wrong_article_is_found(text: str) -> None:
    assert len(found(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The run resumes. It starts an ODE, a U-Net and a one-step method.",
        "Shape letters and Greek letters.",
        "`judge`, ``verdict`` and\n\n```python\nflight = cohort\n```\n",
        "::: parareal.Verdict",
        ">>> flight = 1",
    ],
)
def test_plain_words_and_code_are_not(text: str) -> None:
    assert found(text) == []


def test_a_complaint_has_the_line_of_its_page_or_docstring(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text('"""Fine."""\n\n\ndef f():\n    """Fine.\n\n    A cohort.\n    """\n    return "a cohort"\n')
    lines = [line for at, text in check.passages(source) for line, _ in check.complaints(at, text, WORDS)]
    assert lines == [7]


def test_a_page_has_no_allowance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nA cohort.\n")
    assert check.main([str(page)]) == 1
    assert "page.md:3: 'cohort" in capsys.readouterr().out
    page.write_text("# Title\n\nA stage group.\n")
    assert check.main([str(page)]) == 0


def test_counts_may_fall_and_not_rise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, listed = tmp_path / "module.py", tmp_path / "known.txt"
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "KNOWN", listed)
    monkeypatch.setattr(check, "files", lambda: [source])
    source.write_text('"""A cohort, and a nest."""\n')
    for count, status in ((1, 1), (2, 0), (3, 0)):
        listed.write_text(f"# Head.\nmodule.py {count}\n")
        assert check.main([]) == status
    assert check.main(["--update"]) == 0
    assert listed.read_text() == "# Head.\nmodule.py 2\n"


def test_a_list_without_a_replacement_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected PATTERN"):
        check.rules("cohort\n")


SOURCES = [path for package in ("parareal", "diffusion_adapters") for path in (check.ROOT / package).rglob("*.py")]
ARTICLE = re.compile(r"(?<![\w`.{(=-])[Aa]n? (?P<word>[A-Za-z]\w{2,})(?![\w.(=])")


def test_articles_are_right_in_every_text_of_the_packages() -> None:
    """Those of texts with a name filled in come from `with_article`, whatever the name is."""
    wrong: list[str] = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts = [one.value if isinstance(one, ast.Constant) else None for one in node.values]
                wrong += [
                    f"{path.name}:{node.lineno}: {text!r} before a value"
                    for text, following in pairwise(texts)
                    if following is None and re.search(r"\b[Aa]n? $", str(text))
                ]
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for match in ARTICLE.finditer(node.value):
                    if match[0].lower() != with_article(match["word"]).lower():
                        wrong.append(f"{path.name}:{node.lineno}: {match[0]}")
    assert len(SOURCES) > 200
    assert not wrong


@pytest.mark.parametrize("name", ["int", "ODE", "SDE", "MLP", "ndarray", "Euler", "ETDRK4", "RK4", "LMSDiscrete"])
def test_an(name: str) -> None:
    assert with_article(name) == f"an {name}"


@pytest.mark.parametrize("name", ["str", "UNet2DModel", "UniPC", "uint8", "SciPy", "NoneType", "DDIM", "list", "user"])
def test_a(name: str) -> None:
    assert with_article(name) == f"a {name}"
