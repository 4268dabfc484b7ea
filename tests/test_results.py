"""The pages of results/: drawn from JSON alone, and known to be out of date when they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reports import example_report

from clipq.errors import DataError
from clipq.pages import PAGES
from clipq.pages.page import duration_in_words
from clipq.pages.paper_sizes import pruning_rate_for
from clipq.pages.site import outdated, write_site

ROOT = Path(__file__).resolve().parent.parent
ORIGIN = {
    "clipq": "0.1", "commit": "0123456789abcdef", "command": "x", "seed": 0, "started": "2026-01-02T03:04:05+00:00",
    "python": "3.11.2", "packages": {"numpy": "2.0", "torch": "2.5", "scipy": "1.0"},
    "hardware": {"system": "Linux", "processor": "A processor", "cores": 2, "threads": 1, "gpus": []},
}  # fmt: skip


def network(title: str, dense: float, compressed: float) -> dict[str, Any]:
    """A network whose file has (1 - p) b 3 MB with one coder, half of it with the other."""
    points = [
        {"p": p, "b": b, "kept": 5, "fixed": (1 - p) * b * 3e6, "entropy": (1 - p) * b * 1.5e6}
        for p in (0.5, 0.75, 1.0) for b in (2, 4)
    ]  # fmt: skip
    written = [{"p": 0.5, "b": 4, "coder": "fixed", "file": 6_060_000, "counted": 6_000_000, "same": True}]
    return {
        "network": title.lower(), "title": title, "dense": dense, "compressed": compressed, "accuracy": 0.7,
        "stored": 243_860_896, "points": points, "written": written, "seconds": 30.0,
    }  # fmt: skip


def claims() -> dict[str, Any]:
    """Two seeds whose errors are 1 and 3 %, and a search that is worse the more severe it is."""
    orders = [
        {
            "order": order, "seed": seed, "val_error": 0.01, "test_error": error, "kept": 100, "bytes": 400,
            "commit": "0123456789abcdef", "recovery": [{"came_back": 0.1, "new": 0.2}, {"came_back": 0.3, "new": 0.1}],
        }
        for order in ("in parallel", "in parallel, mask kept", "one after the other")
        for seed, error in enumerate((0.01, 0.03))
    ]  # fmt: skip
    searches = [
        {
            "search": search,
            "severity": severity,
            "seed": 0,
            "val_error": 0.01,
            "test_error": severity,
            "bytes": 5000,
            "commit": "0123456789abcdef+changes",
        }
        for search in ("bayesopt", "random", "uniform")
        for severity in (0.01, 0.02)
    ]
    return {
        "network": "lenet5", "epochs": 2, "uniform_bits": 3, "seconds": 60.0, "orders": orders, "searches": searches,
        "dense": [{"seed": 0, "val_error": 0.01, "test_error": 0.0125}], "provenance": ORIGIN,
        "diverged": [
            {"search": "uniform", "severity": 0.03, "seed": 1, "error": "NaN"},
            {"order": "in parallel", "seed": 2, "error": "NaN"},
        ],
    }  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with made measurements for every page."""
    operation = [{"what": "copy", "p": 0.9, "ms": 2.0, "copies": 1.0}, {"what": "torch.sort", "p": 0.9, "ms": 80.0, "copies": 40.0}]  # fmt: skip  # noqa: E501
    training = [{"network": "lenet5", "batch": 64, "dense_ms": 10.0, "clipq_ms": 13.0, "numpy_ms": 14.0, "plain_ms": 30.0, "ratio": 1.3}]  # fmt: skip  # noqa: E501
    searched = {"data": "MNIST", "images": 9, "evaluations": 4, "seconds": 3.0, "evaluation_seconds": 2.0, "passes": 1.6, "proposal_seconds": 1.0}  # fmt: skip  # noqa: E501
    speed = {
        "provenance": ORIGIN, "device": "cpu", "weights": 1000, "operation": operation, "training": training,
        "memory": {"largest_layer": 0.5, "dense": 3.0, "clipq": 4.0}, "search": searched,
    }  # fmt: skip
    effects = {
        "experiment": "mnist_lenet5", "overrides": {}, "seeds": 3, "provenance": ORIGIN,
        "base": {"error": 0.0100, "error_sd": 0.0005, "bytes": 10_000.0, "bytes_sd": 500.0},
        "variants": {
            "A01 all weights": {"error": 0.0130, "error_sd": 0.001, "bytes": 10_100, "bytes_sd": 500.0},
            "A08 wide": {"error": 0.0100, "error_sd": 0.0, "bytes": 15_000, "bytes_sd": 700.0},
        },
    }  # fmt: skip
    sizes = {"provenance": ORIGIN, "stand_in": "made", "networks": [network("AlexNet", 243.9e6, 4.5e6)]}
    mnist = example_report() | {
        "network": {"name": "lenet5", "parameters": 3_009},
        "provenance": ORIGIN | {"seconds": 12.0},
    }
    mnist["size"]["best"] = 500
    coders = {
        "clipq entropy": 900, "clipq entropy, Numba's kernels": 900, "clipq fixed": 2000, "brotli": 1300,
        "static tables": 1100, "NNCodec": 1000,
    }  # fmt: skip
    rows = [
        {
            "coder": name, "bytes": size, "times_h0": size / 1000, "encode": 0.5, "decode": 0.25, "lossless": True,
            "encode_memory": 4_000_000, "decode_memory": None, "counted": 891, "sections": 900, "count_seconds": 0.1,
        }
        for name, size in coders.items()
    ]  # fmt: skip
    rows.append({"coder": "the same with Huffman's code", "bytes": 1200, "times_h0": 1.2})
    made = {"set": "made", "weights": 1_000_000, "h0": 1000.0, "codebooks": 60, "rows": rows}
    fuzz = {
        "provenance": ORIGIN, "files": 3, "memory_limit": 2 << 30, "cases": 10, "slowest_seconds": 0.5, "seconds": 2.0,
        "compiled": True,
        "outcomes": {"plain: network": 1, "plain: ChecksumError": 4, "plain: MagicError": 2, "cut: TruncatedError": 3},
    }  # fmt: skip
    contents = {
        "codec/benchmark.json": {"provenance": ORIGIN, "sets": [made]}, "codec/fuzz.json": fuzz,
        "mnist/run.json": mnist, "claims/lenet5.json": claims(), "speed/cpu.json": speed,
        "assumptions/mnist_lenet5.json": effects, "paper_sizes/paper_sizes.json": sizes,
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_what_is_published_is_up_to_date():
    command = [sys.executable, ROOT / "scripts" / "make_results.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_is_written_once_and_then_up_to_date(results: Path):
    names = {"README.md"} | {f"{page.folder}/README.md" for page in PAGES}
    names |= {f"{page.folder}/{figure.name}" for page in PAGES for figure in page.figures}
    assert {complaint.removesuffix(": missing") for complaint in outdated(results, PAGES)} == {
        str(results / name) for name in names
    }
    written = write_site(results, PAGES)
    assert {str(path.relative_to(results)) for path in written} == names and len(written) == len(names)
    before = {path: path.read_bytes() for path in written}
    assert outdated(results, PAGES) == []
    write_site(results, PAGES)
    assert {path: path.read_bytes() for path in written} == before
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 200 and len(image.convert("L").getcolors(256)) > 10


def test_pages_without_measurements_are_left_out(tmp_path: Path):
    assert write_site(tmp_path, PAGES) == [tmp_path / "README.md"] and outdated(tmp_path, PAGES) == []


def test_other_measurements_put_page_figure_and_index_out_of_date(results: Path):
    write_site(results, PAGES)
    path = results / "speed" / "cpu.json"
    path.write_text(path.read_text().replace("13.0", "14.0").replace("1.3,", "1.4,").replace("1.3}", "1.4}"))
    complaints = [complaint.split(":")[0] for complaint in outdated(results, PAGES)]
    assert complaints == [str(results / name) for name in ("README.md", "speed/README.md", "speed/operation.png")]


def test_what_was_changed_by_hand_is_found(results: Path):
    write_site(results, PAGES)
    page, figure = results / "speed" / "README.md", results / "speed" / "operation.png"
    page.write_text(page.read_text(encoding="utf-8").replace("1.30", "1.00"), encoding="utf-8")
    Image.new("RGB", (10, 10)).save(figure)
    assert [complaint.split(":")[0] for complaint in outdated(results, PAGES)] == [str(page), str(figure)]


def test_a_figure_that_was_damaged_is_found(results: Path):
    """Cut short behind the name of what it was drawn from, or with a byte changed in its pixels."""
    write_site(results, PAGES)
    figure = results / "speed" / "operation.png"
    png = figure.read_bytes()
    cut = [png[:size] for size in (len(png) // 2, len(png) - 20, len(png) - 8)]
    for damaged in [*cut, png[: len(png) // 2] + bytes([png[len(png) // 2] ^ 1]) + png[len(png) // 2 + 1 :]]:
        figure.write_bytes(damaged)
        assert outdated(results, PAGES) == [f"{figure}: damaged, or not drawn from the JSON that is there"]


def test_a_file_that_is_not_json_is_named(results: Path):
    (results / "assumptions" / "mnist_lenet5.json").write_text("{")
    with pytest.raises(DataError, match=r"mnist_lenet5\.json: not JSON"):
        outdated(results, PAGES)


def test_what_the_pages_say(results: Path):
    write_site(results, PAGES)
    index = (results / "README.md").read_text(encoding="utf-8")
    sizes = (results / "paper_sizes" / "README.md").read_text(encoding="utf-8")
    for text in (index, sizes):
        assert "| AlexNet | 4.5 MB | 2 | < 0.5 | 0.62 | < 0.5 | < 0.5 |" in text, (
            "(1-p) 6 MB: 4.5 before, 2.25 at 0.625"
        )
        assert "| AlexNet | 4.5 MB | 4 | 0.62 | 0.81 | < 0.5 | 0.62 |" in text
    assert "| 0.5 | **3.00** / **1.50** | 6.00 / **3.00** |" in sizes and "-0.99 %" in sizes
    assert "A01 all weights changes the error most (+0.30 points, mnist_lenet5) and " in index
    assert "(+0.30 points, mnist_lenet5) and A08 wide the size (+50.0 %, mnist_lenet5)." in index
    assert "LeNet-5 17 times smaller at 4.50 % error (dense 4.00 %; 1 seed)" in index, "12,036 bytes to 700"
    assert "on LeNet-5 2.00 ± 1.00 % error in parallel" in index and "30 % (LeNet-5)" in index
    assert "| LeNet-5 | one after the other | 2.00 ± 1.00 % | 400 | 100 | 2 |" in index
    assert "1.30 to 1.30 dense ones" in index
    assert "| cpu | lenet5 | 64 | 10.00 ms | 13.00 ms | 14.00 ms | 30.00 ms | 1.30 |" in index
    codec = (results / "codec" / "README.md").read_text(encoding="utf-8")
    assert "10.0 to 10.0 % smaller on 1 sets of weights; 1 million weights are encoded at 8 and decoded at 16" in index
    assert "NumPy alone, encoded at 8 and decoded at 16 MB/s of float32 with Numba's kernels." in index
    assert "was the same with Numba's kernels as without." in codec
    assert "| clipq entropy | 900 | 0.900 | 8 | 16 | 1.00 | - | yes |" in codec and "-1.00 % off, in 0.10 s" in codec
    assert "| plain | 7 | 6 | 1 |" in codec and "| cut | 3 | 3 | 0 |" in codec
    for page in PAGES:
        assert page.command in index and f"]({page.folder}/README.md)" in index
        assert f"({page.folder}/{page.figures[0].name})" in index
        text = (results / page.folder / "README.md").read_text(encoding="utf-8")
        assert "A processor, 1 of 2 cores" in text and "commit `0123456789ab`" in text


def test_orders_whose_network_was_not_searched_have_a_section_of_their_own(results: Path):
    measured = claims()
    only = measured | {"network": "lenet300100", "searches": []}
    (results / "claims" / "lenet300100.json").write_text(json.dumps(only), encoding="utf-8")
    write_site(results, PAGES)
    page = (results / "claims" / "README.md").read_text(encoding="utf-8")
    diverged = "Diverged, and left out: uniform 0.03 (seed 1), in parallel (seed 2)."
    how = f"2 epochs of fine-tuning each. Dense: 1.25 %. {diverged}"
    assert f"## LeNet-300-100: the orders alone\n\n{how}\n\n" in page
    assert "| LeNet-300-100 | in parallel | 2.00" in page and "## LeNet-5: the search" in page


@given(st.floats(0.05, 0.95), st.floats(1e5, 1e7))
def test_the_rate_for_a_size_is_the_one_on_the_line(p: float, slope: float):
    points = [{"p": q, "b": 3, "fixed": slope * (1.5 - q)} for q in (0.0, 0.3, 1.0)]
    rate = pruning_rate_for({"points": points}, 3, "fixed", slope * (1.5 - p))
    assert rate == pytest.approx(p, abs=1e-6)
    assert pruning_rate_for({"points": points}, 3, "fixed", slope * 1.6) == float("-inf")
    assert pruning_rate_for({"points": points}, 3, "fixed", slope * 0.4) is None


def test_a_size_must_hold_from_the_rate_on():
    sizes = {0.2: 5.0, 0.4: 7.0, 0.6: 4.0, 0.8: 2.0}
    points = [{"p": p, "b": 2, "entropy": size} for p, size in sizes.items()]
    rates = [pruning_rate_for({"points": points}, 2, "entropy", target) for target in (7.0, 5.5, 3.0)]
    assert rates == [float("-inf"), pytest.approx(0.5), pytest.approx(0.7)]


def test_durations_in_words():
    assert [duration_in_words(s) for s in (3.2, 89.0, 540.0, 5399.0, 12_300.0)] == [
        "3 s",
        "89 s",
        "9 min",
        "1:30 h",
        "3:25 h",
    ]


def test_the_commands_of_the_pages_exist():
    for page in PAGES:
        program, script, *_ = page.command.split()
        assert program == "python" and (ROOT / script).is_file()
