"""`make prose`: private words are found, code is passed over, and a count that is known may not rise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import load

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
