"""The notebook in examples/: free of outputs, its code compiles, and it runs from top to bottom."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")

FILE = Path(__file__).resolve().parents[1] / "examples/first_look.ipynb"
SHORT = "steps, num_train, num_val, output = 4, 8, 4, 'output'"


@pytest.fixture
def notebook():
    if not FILE.exists():
        pytest.skip("examples are not in the wheel")
    return nbformat.read(FILE, as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_a_notebook_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert not cell.outputs and cell.execution_count is None


def test_its_code_compiles(notebook):
    for cell in code_cells(notebook):
        compile(cell.source, cell.id, "exec")


def test_its_links_lead_somewhere(notebook):
    for cell in notebook.cells:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", cell.source):
            assert (FILE.parent / target).exists(), target


@pytest.mark.slow  # two trainings, two evaluations, and a kernel that imports torch
def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    for module in ("ipykernel", "lightning"):
        if not find_spec(module):
            pytest.skip(f"{module} is not installed")
    (parameters,) = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())
    ]
    parameters.source = SHORT
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    texts = [
        output.get("text", "")
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream"
    ]
    printed = "".join(texts)
    assert "AP: attentive" in printed
    assert "largest weight" in printed
    assert "several runs of each" in printed  # the verdict, and what it does not cover
    pictures = [
        cell
        for cell in code_cells(notebook)
        if any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    assert len(pictures) == 3  # of the dataset, with detections, and the heads' maps
    assert (tmp_path / "output/attentive/model_final.pth").exists()
