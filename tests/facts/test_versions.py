import re
from pathlib import Path

from vanishing import facts
from vanishing.facts import versions

TABLES = (
    *(facts.CELLS, facts.CORNERS, facts.EMBEDDINGS, facts.KERNELS),
    *(facts.NORMS, facts.RANGES, facts.STOPS),
)


def test_every_row_that_is_measured_names_a_library_and_its_version():
    stated = {text for name, text in vars(versions).items() if name.isupper()}
    assert all(re.fullmatch(r"[A-Z]\w+ [\d.]+( and [\d.]+)?", text) for text in stated)
    parts = {part for text in stated for part in re.findall(r"[\w.]+", text)}
    rows = [row for table in TABLES for row in table]
    assert all(set(re.findall(r"[\w.]+", row.version)) <= parts for row in rows)


def test_every_table_has_its_own_file_and_test():
    files = {path.stem for path in Path(facts.__file__).parent.glob("*.py")} - {"__init__"}
    assert len(files) == len(TABLES) + 2  # of theory, and the versions
