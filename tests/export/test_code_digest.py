"""Cached weights and references are thrown away by an edit to the code that computes them alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tramontane.export import build
from tramontane.export.code_digest import code_digest, imported_files, imported_names
from tramontane.graphs.quantization.methods.all_methods import METHODS
from tramontane.graphs.targets.all_targets import TARGETS
from tramontane.validate.reference import recipe_reference, reference

ROOT = Path(build.__file__).parents[1]
FOLDERS = ("runtime", "console", "graphs", "export", "validate")
# What computes, by the digest that covers it, with what it starts as a process of its own.
COMPUTING = {
    "weights": (
        "graphs.pipeline",
        "graphs.writing.artifact",
        "export.calibrate.calibrate",
        "export.formats.checkpoint",
        "export.trace.bind_weights",
        "export.trace.trace",
        *(f"graphs.targets.{name}" for name in TARGETS),
        *(f"graphs.quantization.methods.{name}" for name in METHODS),
    ),
    "reference": ("export.formats.checkpoint", "export.model.load", "export.model.model"),
    "recipe": ("validate.reference.weights", "validate.reference.operators"),
}
USERS = {
    "weights": ("export/build.py", build.BESIDE_WEIGHTS),
    "reference": ("validate/reference/reference.py", reference.BESIDE_NUMBERS),
    "recipe": ("validate/reference/recipe_reference.py", recipe_reference.BESIDE_NUMBERS),
}
# Imports modules in a fresh process, whose packages run no code, and prints ours that are loaded.
LOADED = """
import importlib, sys, types
package = types.ModuleType("tramontane.runtime")
package.__path__ = [sys.argv[1] + "/runtime"]
sys.modules["tramontane.runtime"] = package
for name in sys.argv[2:]:
    importlib.import_module(f"tramontane.{name}")
for name, module in list(sys.modules.items()):
    if name.startswith("tramontane.") and getattr(module, "__file__", None):
        print(module.__file__)
"""


def digests(package: Path) -> dict[str, str]:
    return {
        user: code_digest(package / module, beside=beside, package=package)
        for user, (module, beside) in USERS.items()
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("code") / "tramontane"
    for folder in FOLDERS:
        pattern = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, package / folder, ignore=pattern)
    return package


@pytest.fixture(scope="module")
def unedited(tree: Path) -> dict[str, str]:
    return digests(tree)


@pytest.fixture
def edited(request: pytest.FixtureRequest, tree: Path) -> Iterator[Path]:
    path = tree / request.param
    before = path.read_bytes()
    path.write_bytes(before + b"\nEDITED = True\n")
    yield tree
    path.write_bytes(before)


def test_the_digests_are_those_of_the_users_own_modules(unedited: dict[str, str]) -> None:
    assert build.weights_code_digest() == unedited["weights"]
    assert len(set(unedited.values())) == len(unedited)


@pytest.mark.parametrize("user", USERS)
def test_what_is_left_out_by_name_is_there(user: str) -> None:
    _, beside = USERS[user]
    paths = [ROOT / name.replace(".", "/") for name in beside]
    missing = [path for path in paths if not (path.is_dir() or path.with_suffix(".py").is_file())]
    assert missing == []


@pytest.mark.parametrize(
    "edited",
    [
        "console/progress.py",
        "console/text_file.py",
        "export/write_gguf.py",
        "export/planning/plan.py",
        "export/planning/plan_table.py",
        "export/sidecars/card.py",
        "export/sidecars/genai_config.py",
        "export/sidecars/sidecars.py",
        "export/sidecars/upstream_metadata.py",
        "export/synthesize/synthesize.py",
        "graphs/lint/rules.py",
        "graphs/lint/weights.py",
        "graphs/writing/description.py",
        "graphs/writing/staging.py",
        "runtime/session.py",
        "validate/report/page.py",
    ],
    indirect=True,
)
def test_an_edit_to_what_computes_no_number_leaves_weights_and_reference_alone(
    edited: Path, unedited: dict[str, str]
) -> None:
    found = digests(edited)
    assert found["weights"] == unedited["weights"]
    assert found["reference"] == unedited["reference"]


@pytest.mark.parametrize(
    "edited",
    [
        "export/build.py",
        "export/calibrate/calibrate.py",
        "export/trace/trace.py",
        "graphs/passes/fuse_rms_norm.py",
        "graphs/passes/lower_attention.py",
        "graphs/quantization/methods/smooth_then_round.py",
        "graphs/quantization/packing/pack_for_web.py",
        "graphs/quantization/recipes/recipe.py",
        "graphs/targets/portable.py",
        "graphs/writing/external_data.py",
    ],
    indirect=True,
)
def test_an_edit_to_a_pass_or_the_recipe_changes_the_weights_alone(
    edited: Path, unedited: dict[str, str]
) -> None:
    found = digests(edited)
    assert found["weights"] != unedited["weights"]
    assert found["reference"] == unedited["reference"]


@pytest.mark.parametrize(
    "edited",
    [
        "export/model/attention.py",
        "export/formats/weight_files/stored_tensor.py",
        "export/config.py",
    ],
    indirect=True,
)
def test_an_edit_to_the_model_or_the_formats_changes_all(
    edited: Path, unedited: dict[str, str]
) -> None:
    found = digests(edited)
    assert all(found[user] != unedited[user] for user in USERS)


@pytest.mark.parametrize(
    "edited", ["validate/reference/operators.py", "validate/probe.py"], indirect=True
)
def test_an_edit_to_the_recipes_reference_changes_that_alone(
    edited: Path, unedited: dict[str, str]
) -> None:
    found = digests(edited)
    assert found.pop("recipe") != unedited["recipe"]
    assert found == {user: unedited[user] for user in found}


def test_a_module_that_is_moved_changes_the_digest(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    root, content = tmp_path / "root.py", "from tramontane.{} import number\n"
    found = []
    for name in ("first", "inner.first", "second"):
        root.write_text(content.format("first"))
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.write_text("number = 1\n")
        root.write_text(content.format(name))
        found.append({file.name for file in imported_files(root, package=tmp_path)})
        found[-1].add(code_digest(root, package=tmp_path))
    assert [len(names) for names in found] == [3, 3, 3]
    assert len(set.union(*found)) == 3 + 3  # three names of files, and three digests


def test_imports_are_followed_wherever_and_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    written = {
        "root.py": "import tramontane.a.one\nSTARTED = 'tramontane.a.two'\n",
        "a/one.py": "from .three import x\nfrom . import four\nfrom ..console import rows\n",
        "a/two.py": "def late():\n    from ..five import x\n",
        "a/three.py": "x = 'tramontane is no module; tramontane.nor is this'\n",
        "a/four.py": "import numpy.random\n",
        "a/unread.py": "",
        "five.py": "from tramontane import six\n",
        "six.py": "from . import root\n",
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    found = imported_files(tmp_path / "root.py", package=tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in found} == {*written} - {
        "a/unread.py"
    }


def test_a_list_that_imports_by_name_imports_all_modules_of_its_folder(tmp_path: Path) -> None:
    written = {
        "root.py": "from .kinds import known\n",
        "kinds/known.py": "import importlib\ndef find(name): importlib.import_module(name)\n",
        "kinds/one.py": "from .. import two\n",
        "kinds/inner/three.py": "",
        "two.py": "",
        "unread.py": "",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = imported_files(tmp_path / "root.py", package=tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in found}
    assert names == {*written} - {"unread.py"}


def test_a_module_that_is_being_edited_changes_the_digest_and_is_no_error(tmp_path: Path) -> None:
    root, found = tmp_path / "root.py", set()
    for content in ("x = 1\n", "x = (\n"):
        root.write_text(content)
        found.add(code_digest(root, package=tmp_path))
    assert len(found) == 2


def test_what_stands_beside_is_covered_where_something_else_imports_it(tmp_path: Path) -> None:
    for name, text in {
        "root.py": "from . import one, two\n",
        "one.py": "from . import two\n",
        "two.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    for beside, expected in (
        ((), {"root", "one", "two"}),
        (("two",), {"root", "one", "two"}),
        (("one",), {"root", "two"}),
        (("one", "two"), {"root"}),
    ):
        found = imported_files(tmp_path / "root.py", beside=beside, package=tmp_path)
        assert {path.stem for path in found} == expected, beside


@pytest.mark.slow
@pytest.mark.parametrize("user", COMPUTING)
def test_every_module_that_is_loaded_to_compute_is_covered(user: str) -> None:
    module, beside = USERS[user]
    covered = imported_files(ROOT / module, beside=beside)
    command = [sys.executable, "-c", LOADED, str(ROOT), *COMPUTING[user]]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    missing = {
        path.relative_to(ROOT).as_posix()
        for path in map(Path, loaded.splitlines())
        if path not in covered and path.name != "__init__.py"
    }
    missing.discard("runtime/untrusted/environment.py")  # of which console reads how to print
    assert {name for name in missing if not name.startswith("console/")} == set()


@pytest.mark.parametrize("user", USERS)
def test_every_name_beside_is_imported(user: str) -> None:
    module, beside = USERS[user]
    names = list(imported_names(ROOT / module))
    for name in beside:
        assert any(f"{one}.".startswith(f"{name}.") for one in names), name
