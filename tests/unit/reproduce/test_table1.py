from pathlib import Path

import pytest

from reproduce.published import TABLE1
from reproduce.report import read_rows
from reproduce.table1 import TH, integrated_volume, table1, truncated, volume

#: S and grad D to four digits, th = 0.5.
EXACT = {
    0.1: (0.0583, -0.3167),
    0.3: (0.1616, -0.2134),
    0.5: (0.2280, -0.1470),
    0.7: (0.2430, -0.1320),
    0.9: (0.2044, -0.1706),
}


@pytest.mark.parametrize("theta", EXACT)
def test_the_published_table_comes_out_to_the_digit_by_formula_and_by_integration(theta: float):
    plane = integrated_volume("sum", theta)
    assert plane == pytest.approx(3 * TH**3, abs=1e-9)
    for found in (volume(theta), integrated_volume("sincos", theta), integrated_volume("sinsum", theta)):
        assert found == pytest.approx(EXACT[theta][0], abs=5e-5)
        assert found - plane == pytest.approx(EXACT[theta][1], abs=5e-5)
        assert (truncated(found), truncated(found - plane)) == TABLE1[theta]


def test_the_released_fusion_has_another_volume():
    assert abs(integrated_volume("nested", 0.5) - volume(0.5)) > 1e-3


def test_truncation_is_no_rounding():
    assert (truncated(0.0583), truncated(-0.3167)) == (0.05, -0.31)
    assert truncated(0.0583) != round(0.0583, 2)


def test_what_is_written(command, tmp_path: Path):
    code, printed, complaints = command("table1", "--out", tmp_path / "results")
    assert (code, complaints) == (0, "")
    assert "table1.md" in printed
    rows = {float(row["theta"]): row for row in read_rows(tmp_path / "results" / "table1.csv")}
    assert len(rows) == 9
    for theta, (s, d) in TABLE1.items():
        assert (float(rows[theta]["S published"]), float(rows[theta]["grad D published"])) == (s, d)
        assert float(rows[theta]["S integrated"]) == pytest.approx(volume(theta))
        assert rows[theta]["agree"] == "yes"
    assert rows[0.2]["S published"] == rows[0.2]["agree"] == ""
    committed = read_rows(Path(__file__).parents[3] / "results" / "table1.csv")
    for found, row in zip(rows.values(), committed, strict=True):
        assert found.pop("agree") == row.pop("agree")
        assert [float(cell or "nan") for cell in found.values()] == pytest.approx(
            [float(cell or "nan") for cell in row.values()], nan_ok=True
        )
    text = (tmp_path / "results" / "table1.md").read_text()
    assert "5 agree to the digit" in text
    assert "- Commit: " in text
    assert "- Machine: " in text
    assert str(tmp_path) not in text
    assert (tmp_path / "results" / "table1.png").read_bytes().startswith(b"\x89PNG")


def test_disagreement_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(TABLE1, 0.5, (0.23, -0.14))
    table1(tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert "4 agree to the digit" in text
    assert text.count("| no |") == 1
