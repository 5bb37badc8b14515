"""Does docs/models.md list what tests make, and does its command say what it cannot export?"""

from __future__ import annotations

from pathlib import Path

import pytest
from tramontane.bench.pages import models as models_page
from tramontane.bench.pages.models import ROOT, Trained, as_markdown, situations, try_model
from tramontane.runtime.errors import ConfigError

MODEL = Trained(name="m", publisher="p", folder="models/m")


def test_the_page_lists_the_files_that_tests_make() -> None:
    """If this fails: make models, or python -m tramontane.bench.pages.models with --page and --out."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    found = situations()
    assert len(found) > 5
    expected = as_markdown([], found).partition("## Kinds of files")[2]
    assert page.partition("## Kinds of files")[2] == expected


def test_each_trained_model_has_a_row_of_the_page() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for model in models_page.TRAINED:
        assert f"| {model.name} | {model.publisher} |" in page


def test_rows_of_a_page_are_kept_while_its_files_are_listed_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out = ROOT / "docs" / "models.md", tmp_path / "models.md"
    assert models_page.main([f"--page={page}", f"--out={out}"]) == 0
    assert out.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == page.read_text(encoding="utf-8").strip()
    with pytest.raises(
        ConfigError, match="has no row of stdlib-5m, expected one; run make models"
    ):
        models_page.main([f"--page={tmp_path / 'none.md'}"])
    out.write_text("| stdlib-5m | bundled |\n")
    with pytest.raises(
        ConfigError, match="the row of stdlib-5m has 2 cells, expected 8; run make"
    ):
        models_page.main([f"--page={out}"])
    out.write_bytes(b"| stdlib-5m | \xff")
    with pytest.raises(ConfigError, match=f"--page {out}: .*; name a UTF-8 text file"):
        models_page.main([f"--page={out}"])


def test_mark_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_any.py").write_text(
        "import pytest\n\n@pytest.mark.situation('a file')\ndef test_it() -> None: ...\n"
    )
    with pytest.raises(ConfigError, match=r"test_any\.py:3: .*'a file'.*, expected pytest\.mark"):
        situations(tmp_path)


def test_folder_without_tests_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder, expected the tests; clone the repos"):
        situations(tmp_path / "none")


def test_model_that_is_absent_or_refused_is_a_row_that_says_so(tmp_path: Path) -> None:
    assert "absent here" in try_model(MODEL, tmp_path)
    assert "absent here" in try_model(MODEL, None)
    (tmp_path / "models" / "m").mkdir(parents=True)
    row = try_model(MODEL, tmp_path)
    assert any(cell.startswith("refused: m: not a checkpoint") for cell in row)
    assert str(tmp_path) not in " ".join(row)


@pytest.mark.slow
def test_bundled_model_is_exported_and_compared() -> None:
    row = try_model(models_page.TRAINED[0], None)
    assert row[:6] == [
        *("stdlib-5m", "bundled", "Hugging Face, BF16", "5 573 888", "sentencepiece", "passed")
    ]
