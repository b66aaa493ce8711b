"""Formulas as MathML, made while the pages are built: a browser shows them without scripts, fonts or a network.

`pymdownx.arithmatex` marks what stands between dollar signs, in pages and docstrings alike; this hook converts it.
"""

import html
import logging
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\s*\\[(\[](?P<latex>.*?)\\[)\]]\s*</(?P=tag)>',
    re.DOTALL,
)

log = logging.getLogger("mkdocs.hooks.mathml")


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Replace every marked formula of a finished page; one that cannot be read is a warning, so `--strict` fails."""

    def mathml(match: re.Match[str]) -> str:
        latex = html.unescape(match["latex"]).strip()
        try:
            converted = convert(latex, display="block" if match["tag"] == "div" else "inline")
        except Exception as error:
            log.warning("%s: cannot read the formula %r: %r", page.file.src_path, latex, error)
            return match[0]
        if "\\" in converted:
            log.warning("%s: the formula %r holds a command that MathML has no word for", page.file.src_path, latex)
        return converted

    return FORMULA.sub(mathml, output)
