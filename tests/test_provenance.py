"""What a record's digest depends on: the code that a run could use, and nothing else."""

import ast
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib import provenance
from ubnlib.provenance import code_of, source_digest
from ubnlib.spiral.experiment import SpiralConfig, run_spiral

FILES = sorted(provenance.ROOT.rglob("*.py"))
SPIRAL = "ubnlib.spiral.experiment"


# --- the code of a file --------------------------------------------------------------------------


SOURCE = '''\
"""Module."""

import math  # used below


# A remark.
@cached(size="#1")
def area(radius):
    """Return it."""
    label = f"{radius:#x} # no comment"  # one
    """Not a docstring: a string in the middle."""
    return math.pi * radius**2, label


async def wait():
    """Wait."""
    await nothing()


class Shape:
    """A shape.

    With an example.
    """

    sides = 0
    """Not a docstring either."""

    def text(self):
        r"""Name it."""

        return """
first

  # in a string
"""
'''
CODE = '''\
import math
@cached(size="#1")
def area(radius):
    label = f"{radius:#x} # no comment"
    """Not a docstring: a string in the middle."""
    return math.pi * radius**2, label
async def wait():
    await nothing()
class Shape:
    sides = 0
    """Not a docstring either."""
    def text(self):
        return """
first

  # in a string
"""'''


def test_comments_docstrings_and_empty_lines_go_and_all_else_stays():
    assert code_of(SOURCE) == CODE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1  # one"),
        ("x = 1", "\n\n# one\nx = 1\n\n"),
        (
            'def f():\n    """One."""\n    return 1',
            'def f():\n    """Two.\n\n    More."""\n    return 1',
        ),
        ('async def f():\n    """One."""\n    return 1', "async def f():\n    return 1"),
        ('class A:\n    r"""One."""\n    x = 1', "class A:\n    x = 1"),
        ('"""One.\n\n# no comment\n"""\nx = 1', "x = 1"),
        ("x = (\n    1,  # one\n\n    2,\n)", "x = (\n    1,\n    2,\n)"),
        ("def f():\n    # é\n    'é'  # ü\n    return 'ü'", "def f():\n    return 'ü'"),
    ],
)
def test_prose_does_not_count(one, other):
    assert code_of(one) == code_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = '#1'", "x = '#2'"),
        ("x = f'{y}#1'", "x = f'{y}#2'"),
        ("x = '''a\n# b\n'''", "x = '''a\n# c\n'''"),
        ("x = '''a\n\nb'''", "x = '''a\nb'''"),
        ("x = '''a \nb'''", "x = '''a\nb'''"),
        ("x = f'''{y}\n\nb'''", "x = f'''{y}\nb'''"),
        ("f()\n'''one'''", "f()\n'''two'''"),
        ("@one\ndef f():\n    '''Doc.'''", "@two\ndef f():\n    '''Doc.'''"),
        ("def f(): 'doc'", "def g(): 'doc'"),
        ("def f():\n    'doc'; x = 1", "def f():\n    'doc'; x = 2"),
        ("def f():\n    'doc' + g()", "def f():\n    'doc' + h()"),
        ("if x:\n    y()\n    z()", "if x:\n    y()\nz()"),
        ("x = {'''a\n''': 1}  # one", "x = {'''a\n''': 2}  # one"),
    ],
)
def test_code_counts(one, other):
    assert code_of(one) != code_of(other)


def without_docstrings(source):
    """The same by another way: through the syntax tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()] * (node is not tree)
    return ast.unparse(tree)


def with_bodies(code):
    """Put `pass` where a class or function has lost its whole body."""
    empty = r"(?m)^( *)((?:class|def|async def) .*:)\n(?!\1 )"
    return re.sub(empty, r"\1\2\n\1    pass\n", code + "\n")


def test_no_code_of_ubnlib_is_lost():
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        assert without_docstrings(with_bodies(code_of(source))) == without_docstrings(source), path


TEXT = st.text(st.sampled_from("a#'\"\\ \n\té{"), max_size=12)


@settings(max_examples=200, deadline=None)
@given(value=TEXT, other=TEXT, comment=TEXT, doc=TEXT)
def test_any_string_counts_and_any_comment_does_not(value, other, comment, doc):
    def source(value, comment, doc):
        comment = comment.replace("\n", " ")
        return f"def f():\n    {doc!r}  # {comment}\n    # {comment}\n\n    return {value!r}\n"

    assert code_of(source(value, comment, doc)) == code_of(source(value, "", ""))
    same = code_of(source(value, "", "")) == code_of(source(other, "", ""))
    assert same == (value == other)


# --- the digest of a module ----------------------------------------------------------------------

PACKAGE = {
    "__init__.py": "",
    "run.py": "from ubnlib.near import one",
    "near.py": "import math\nfrom ubnlib import far\none = 1",
    "far.py": "import ubnlib.folder.deep as deep",
    "folder/__init__.py": "",
    "folder/deep.py": "from ubnlib.far import circle",
    "folder/unrelated.py": "",
    "other.py": "import ubnlib.near",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a small package, in the place of the real one."""
    root = tmp_path / "ubnlib"
    for name, text in PACKAGE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def digest(module="ubnlib.run"):
    return source_digest.__wrapped__(module)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("run.py", True),
        ("near.py", True),
        ("far.py", True),
        ("folder/deep.py", True),
        ("folder/__init__.py", True),  # runs when a module of the folder is imported
        ("__init__.py", True),
        ("folder/unrelated.py", False),
        ("other.py", False),
    ],
)
def test_code_counts_where_it_is_imported_near_or_far(package, name, counts):
    before, path = digest(), package / name
    path.write_text(f'"""Prose."""\n\n# More.\n{PACKAGE[name]}\n')
    assert digest() == before, "prose must not count"
    path.write_text(f"{PACKAGE[name]}\nnew = 1\n")
    assert (digest() != before) == counts
    path.write_text(PACKAGE[name])
    assert digest() == before


@pytest.mark.parametrize(
    "statement",
    [
        "import ubnlib.extra",
        "import ubnlib.extra as other",
        "from ubnlib import extra",
        "from ubnlib import (\n    near,\n    extra as other,\n)",
        "from ubnlib.extra import something",
        "from ubnlib.extra import *",
        "def late():\n    from ubnlib.extra import something",
        "class Late:\n    import math, ubnlib.extra",
    ],
)
def test_every_kind_of_import_counts(package, statement):
    (package / "far.py").write_text(statement)
    digests = []
    for text in ("something = 1", "something = 2", "something = 2  # two"):
        (package / "extra.py").write_text(text)
        digests.append(digest())
    assert digests[0] != digests[1] == digests[2]


def test_a_modules_name_counts(package):
    before = digest()
    (package / "far.py").rename(package / "afar.py")
    (package / "near.py").write_text(PACKAGE["near.py"].replace("far", "afar"))
    assert digest() != before


@pytest.mark.parametrize("module", ["__main__", "functools", "ubnlib_of_others", "ubnlib.gone"])
def test_all_of_ubnlib_counts_for_what_is_no_module_of_it(package, module):
    before = digest(module)
    assert before == digest("elsewhere")
    (package / "folder" / "unrelated.py").write_text("new = 1")
    assert digest(module) != before


def test_the_spiral_depends_on_what_trains_it_and_not_on_kitti():
    used = {path.relative_to(provenance.ROOT) for path in provenance._imported_by(SPIRAL)}
    assert {"spiral", "ensemble.py", "layers.py", "kernels.py"} <= {path.parts[0] for path in used}
    unused = {"kitti", "synthetic", "figures", "claims.py", "depth_experiment.py"}
    assert not unused & {path.parts[0] for path in used}


def test_imports_are_absolute():
    """Relative ones would not be followed."""
    relative = [
        path.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


# --- what a record says --------------------------------------------------------------------------


def test_a_record_names_the_module_and_its_digest():
    made = run_spiral(SpiralConfig(steps=1)).provenance
    assert made.module == SPIRAL
    assert made.source == source_digest(SPIRAL) != source_digest("ubnlib")
    assert made.threads == 1 and made.cpu and made.finished.tzinfo
    assert set(made.versions) == {"ubnlib", "python", "torch"}


def test_outside_a_repository_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance._revision() == (None, None)
    monkeypatch.setenv("PATH", "")  # no git at all
    assert provenance._revision() == (None, None)


def test_peak_memory_is_in_megabytes():
    """Whatever the machine: torch alone takes dozens, and no test takes a terabyte."""
    assert 20 < provenance.peak_memory_mb() < 1e6
