"""What holds of the project as a whole: lint, types, import rules, the lines that README and CI share."""

import ast
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEST_LINE = (
    "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[test]' && .venv/bin/python -m pytest"
)
HEAVY = {"matplotlib", "bayes_opt", "sklearn", "PIL"}
NUMERICS = (
    "ws_learn_one_layer.py", "learning/*.py", "conventions.py", "quantized_net.py", "weight_sharing.py", "ws_train.py",
    "bits.py", "relative_index.py", "bayesian/expected_improvement.py", "bayesian/gaussian_process.py",
)  # fmt: skip
FILES_AND_ARGUMENTS = {"argparse", "pathlib", "tqdm", "matplotlib", "tomllib", "urllib"}


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_lint_and_types(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def imports(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_package_never_imports_what_stands_above_it():
    for path in (ROOT / "clipq").rglob("*.py"):
        assert not roots(imports(path, top_level_only=False)) & {"scripts", "matlab_parity", "tests"}, path


def test_importing_the_package_is_light():
    code = "import sys, clipq; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(result.stdout.split())


def test_numerics_know_nothing_of_files_arguments_or_progress():
    for path in chain.from_iterable((ROOT / "clipq").glob(name) for name in NUMERICS):
        assert not roots(imports(path, top_level_only=False)) & FILES_AND_ARGUMENTS, path
        assert "print(" not in path.read_text(encoding="utf-8"), path


def test_the_decoder_never_imports_the_encoder():
    seen, todo = set(), ["clipq.decode_sparse_quantized_net_v2"]
    while todo:
        name = todo.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        if name in seen or not path.exists():
            continue
        seen.add(name)
        todo += [m for m in imports(path, top_level_only=False) if m.startswith("clipq.")]
    assert "clipq.entropy.plane_walk" in seen
    assert "clipq.encode_sparse_quantized_net_v2" not in seen


def test_only_files_that_were_walked_come_to_scipys_reader():
    found = {path.name for top in ("clipq", "matlab_parity") for path in (ROOT / top).rglob("*.py")
             if "scipy.io.loadmat(" in path.read_text(encoding="utf-8")}  # fmt: skip
    assert found == {"mat_elements.py"}


def test_readme_and_ci_run_the_same_line():
    assert TEST_LINE in (ROOT / "README.md").read_text(encoding="utf-8")
    assert TEST_LINE in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
