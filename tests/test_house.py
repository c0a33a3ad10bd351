"""The plan of the house: imports run downward only, in no circle, and take nothing that is not offered."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "hf_immunize"
#: Folder → floor; modules beside the folders are what every floor stands on.
FLOORS = {
    "": 0,
    "spectra": 1,
    "data": 1,
    "models": 2,
    "objectives": 3,
    "attacks": 3,
    "metrics": 3,
    "linear": 4,
    "release": 4,
    "training": 5,
    "cli": 6,
}
#: The page of a Hub Space, which runs where the package may not be installed.
APART = {"metrics.rir.app"}
MOST_LINES = 330


def modules() -> dict[str, Path]:
    """Dotted name below the package → file; the package itself is no room."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and name not in APART:
            found[name] = path
    return found


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Module below the package and name taken from it, wherever in the file the import stands."""
    return taken(path.read_text(encoding="utf-8"))


def taken(text: str) -> Iterator[tuple[str, str]]:
    """Of a file's text; also what is read off a module that was imported whole (``forward.unwrap``)."""
    whole: dict[str, str] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"from {'.' * node.level}{node.module or ''} import …: name the package"
            if (node.module or "").split(".")[0] != "hf_immunize":
                continue
            source = (node.module or "").removeprefix("hf_immunize").lstrip(".")
            for one in node.names:
                yield source, one.name
                if target(source, one.name) != source:
                    whole[one.asname or one.name] = target(source, one.name)
        elif isinstance(node, ast.Import):
            assert not any(one.name.split(".")[0] == "hf_immunize" for one in node.names), ast.unparse(node)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in whole:
            yield whole[node.value.id], node.attr


def room(module: str) -> str:
    return module.split(".")[0] if module.split(".")[0] in FLOORS and module else ""


def target(module: str, name: str) -> str:
    """The module that an import really reads."""
    inner = f"{module}.{name}".lstrip(".")
    return inner if inner in modules() else module


def test_every_folder_has_its_floor():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOORS) - {""}
    assert len({floor for floor in FLOORS.values() if floor}) == 6


def test_at_most_two_modules_stand_beside_the_folders():
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 2


@pytest.mark.parametrize("module", modules())
def test_imports_run_downward(module):
    check_downward(module, imports(modules()[module]))


def check_downward(module, found):
    for source, name in found:
        read = target(source, name)
        if read == "":
            # The version, and nothing else, is read off the package itself.
            assert name == "__version__", (module, name)
            continue
        own, other = room(module), room(read)
        assert own == other or FLOORS[other] < FLOORS[own], f"{module} imports {read} from a floor that is not below it"


def test_imports_run_in_no_circle():
    found = {module: list(imports(path)) for module, path in modules().items()}
    check_no_circle(found)
    # Two rooms of one folder that read each other.
    found["data.names"] = [*found["data.names"], ("data.reading", "Reading")]
    with pytest.raises(CycleError):
        check_no_circle(found)


def check_no_circle(found):
    graph = {module: {target(*one) for one in those} - {module, ""} for module, those in found.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", modules())
def test_nothing_is_taken_that_is_not_offered(module):
    check_offered(module, imports(modules()[module]))


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (check_downward, "from hf_immunize.training.trainer import ImmunizationTrainer"),
        (check_downward, "def late():\n    from hf_immunize.models.head import find_head"),
        (check_downward, "from hf_immunize import load_model"),
        (check_downward, "from hf_immunize.models import forward\nforward.unwrap(1)"),
        (check_downward, "from ..models.head import find_head"),
        (check_downward, "from . import names"),
        (check_downward, "import hf_immunize"),
        (check_downward, "import hf_immunize.models.head as head"),
        ("offered", "from hf_immunize.data.names import _loose"),
        ("offered", "from hf_immunize.data import names\nnames._loose('x')"),
        ("offered", "from hf_immunize.data.names import defaultdict"),
    ],
)
def test_what_is_not_allowed_is_seen(check, text):
    """Each in a room of the first floor."""
    with pytest.raises(AssertionError):
        (check_offered if check == "offered" else check)("data.columns", taken(text))


def check_offered(module, found):
    for source, name in found:
        if target(source, name) != source or source == "":
            continue
        assert not name.startswith("_"), f"{module} takes {source}.{name}"
        assert name in importlib.import_module(f"hf_immunize.{source}").__all__, f"{source} does not offer {name}"


@pytest.mark.parametrize("module", modules())
def test_a_room_has_one_purpose(module):
    assert len(modules()[module].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("module", [name for name, path in modules().items() if path.name != "__init__.py"])
def test_every_module_has_its_test_file(module):
    folder, _, name = module.rpartition(".")
    own = TESTS / folder.partition(".")[0] / f"test_{name}.py"
    assert own.is_file(), f"{module} has no tests/{own.relative_to(TESTS)}"
    assert "def test_" in own.read_text(encoding="utf-8")
