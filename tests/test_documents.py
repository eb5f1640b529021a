"""The documents: their links, their length, and the tables that must say what other files say."""

import doctest
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

import vanishing
from experiments.common import catalog
from tests.commands import Running
from vanishing import layers, meanfield

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for folder in (".", ".github", "experiments", "scripts", "vanishing")
    for path in (ROOT / folder).glob("*.md")
)
FENCED = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)


def text_of(path):
    return (ROOT / path).read_text()


def anchors(path):
    """The names by which a document's headings are linked to, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text_of(path)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def rows(path, heading):
    """The cells of the first table below a heading, without its head."""
    _, _, below = text_of(path).partition(f"## {heading}\n")
    table = re.search(r"^\|.*?(?=^[^|]|\Z)", below, flags=re.MULTILINE | re.DOTALL)
    assert table, f"{path} has no table below {heading!r}"
    lines = table.group().strip().splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_the_documents_are_there():
    expected = {
        ".github/CONTRIBUTING.md",
        ".github/DESIGN.md",
        "README.md",
        "experiments/README.md",
        "scripts/README.md",
        "vanishing/README.md",
    }
    assert expected <= {path.as_posix() for path in DOCUMENTS}
    paths = tomllib.loads(text_of("pyproject.toml"))["tool"]["pytest"]["ini_options"]["testpaths"]
    assert expected - {"README.md"} <= set(paths), "their code is run by pytest"


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_to_files_and_headings_that_exist(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text_of(path))):
        if re.match(r"https?:", target):
            continue
        name, _, heading = target.partition("#")
        file = (ROOT / path).parent / name if name else ROOT / path
        assert file.exists(), f"{path} links to {target}"
        assert not heading or heading in anchors(file), f"{path} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_files_that_are_named_exist(path):
    names = re.findall(r"`((?:vanishing|experiments|scripts|tests)/[\w./]*)`", text_of(path))
    absent = [name for name in names if not (ROOT / name).exists()]
    assert path.name == "CHANGELOG.md" or not absent, f"{path} names {absent}"


def test_the_table_of_experiments_is_what_their_command_lists():
    texts = {f"`experiments.{name}`": text for name, text in catalog.questions().items()}
    table = text_of("experiments/README.md").partition("## ")[0]
    assert dict(re.findall(r"^\| (`experiments\.\w+`) \| (.*) \|$", table, re.MULTILINE)) == texts


def test_the_first_page_is_short():
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_first_page_prints_what_it_says_when_a_user_runs_it_as_a_script(tmp_path):
    examples = doctest.DocTestParser().get_examples(text_of("README.md"))
    script, end = tmp_path / "first_page.py", "--- the end of an example"
    script.write_text("".join(f"{example.source}print({end!r})\n" for example in examples))
    process = Running(str(script)).ended()
    assert process.returncode == 0, process.stderr
    *printed, rest = process.stdout.split(f"{end}\n")
    assert (len(printed), rest) == (len(examples), "")
    check, options = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for example, text in zip(examples, printed, strict=True):
        assert check.check_output(example.want, text, options), f"{example.source}{text}"


def test_the_workflow_tests_the_supported_versions_and_the_bounds_are_theirs():
    documented_versions = rows("vanishing/README.md", "Supported versions")
    workflow = text_of(".github/workflows/tests.yml")
    workflow_versions = re.findall(r'- \{python: "([\d.]+)", jax: "?([\w.]+)"?\}', workflow)
    assert workflow_versions == documented_versions
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    (oldest_python, oldest_jax), (_, newest_jax) = documented_versions[0], documented_versions[-1]
    assert project["requires-python"] == f">={oldest_python}"
    assert newest_jax == "newest"
    bounds = [name for name in project["dependencies"] if re.match(r"jax(lib)?\W", name)]
    assert len(bounds) == 2
    for bound in bounds:
        at_least, _, under = bound.partition(",<")
        assert at_least.endswith(f">={oldest_jax}")
        assert f"not with, {under}" in " ".join(text_of("vanishing/README.md").split())


@pytest.fixture(scope="module")
def docs():
    """The script that writes the reference, as a module."""
    spec = importlib.util.spec_from_file_location("docs", ROOT / "scripts" / "docs.py")
    sys.modules["docs"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["docs"]


def test_every_public_name_has_a_docstring_that_names_nothing_unknown(docs):
    assert docs.problems() == []
    names = {(entry.module.__name__, entry.name) for entry in docs.documented()}
    assert {
        ("vanishing", ""),
        ("vanishing.train", "fit"),
        ("vanishing.probing", "Trace.budget"),
        ("vanishing.layers", "ACTIVATIONS"),
        ("vanishing.optimizers", "by_name"),
    } <= names


@pytest.mark.parametrize(
    ("reference", "exists"),
    [
        ("vanishing.theory.predict", True),
        ("theory.predict", True),
        ("theory.foretell", False),
        ("vanishing.sweep.parallel", True),
        ("experiments.activation", True),
        ("experiments.nothing", False),
        ("jax.nn.relu", True),
        ("jax.nn.rely", False),
        ("Activation.largest_slope", True),
        ("Activation.largest", False),
        ("config.json", True),
    ],
)
def test_names_in_docstrings_are_looked_up(docs, reference, exists):
    entry = docs.Documented(layers, layers.activations, "Activation", "")
    assert docs.resolves(reference, entry) == exists


def test_pages_say_comments_as_they_are_and_the_names_of_a_table(docs):
    assert docs.comments(meanfield.signals, "Signal")["log_q"] == "log E[h^2]"
    assert docs.remark("dC/dz_l", None) == "dC/dz_l"
    assert docs.remark("kinds", {"plain": 1, "deep": 2}) == "kinds\n\nNames: `plain`, `deep`."


@pytest.mark.parametrize("quote", ['"', r"\""], ids=["page", "search"])
def test_pages_and_their_search_shorten_the_names_of_types(docs, quote):
    def dotted(*parts):
        dot = f"</span><span class={quote}o{quote}>.</span><span class={quote}n{quote}>"
        return dot.join(parts)

    assert docs.LONG_NAMES.sub("", dotted("jaxtyping", "Float")) == "Float"
    assert docs.LONG_NAMES.sub("", dotted("jaxlib", "_jax", "Array")) == "Array"


def test_a_missing_docstring_and_a_broken_reference_are_named(docs, monkeypatch):
    def undocumented():
        yield docs.Documented(vanishing, layers.activations, "thing", "")
        yield docs.Documented(vanishing, layers.activations, "other", "See `layers.thing`.")

    monkeypatch.setattr(docs, "documented", undocumented)
    place = "(vanishing/layers/activations.py)"
    assert docs.problems() == [
        f"vanishing.thing {place} has no docstring.",
        f"vanishing.other {place} names `layers.thing`, which does not exist.",
    ]


def test_a_broken_link_of_the_reference_is_named(docs, tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html#y"></a><a href="#x"></a></p>')
    (tmp_path / "b.html").write_text('<a href="a.html#x"></a><script src="https://cdn.org/x.js">')
    assert sorted(docs.broken_links(tmp_path)) == [
        "a.html links to b.html#y, which does not exist.",
        "b.html links to https://cdn.org/x.js, which does not exist.",
    ]
