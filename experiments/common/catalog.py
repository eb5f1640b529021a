"""The list of experiments, each with its question."""

import ast
from pathlib import Path


def questions() -> dict[str, str]:
    """The name of every experiment and the question that its docstring begins with.

    The files are read and not imported, which would take seconds.

    >>> questions()["depth"]
    'Are more hidden layers better, and how fast does each of them learn?'
    """
    by_name = {}
    for path in sorted(Path(__file__).parent.parent.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        question = docstring.partition("\n")[0]
        if question.endswith("?"):
            by_name[path.stem] = question
    return by_name
