"""The figures of a report: which there are, what they show, and that they are always the same ones."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from reports import example_report

from clipq.figure_layers import bytes_per_layer, weights
from clipq.figure_search import search, search_progress
from clipq.figure_training import training
from clipq.figures import draw_figures

ALL = ["training.png", "bytes.png", "weights.png", "search.png", "search_progress.png"]


def figure_class() -> Any:
    from matplotlib.figure import Figure

    return Figure


def pixels(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(png))


@pytest.mark.parametrize("n_layers", [1, 31])
def test_every_number_of_layers(n_layers: int):
    drawings = list(draw_figures(example_report(n_layers)))
    assert [d.name for d in drawings] == ALL
    for drawing in drawings:
        image = pixels(drawing.png)
        assert image[..., :3].std() > 0.01 and max(image.shape) < 2500, drawing.name
        says_so = "of 31 layers" in drawing.caption or "30 layers" in drawing.caption
        assert says_so == (n_layers == 31 and drawing.name != "training.png")


def test_the_same_report_gives_the_same_bytes_whatever_the_users_settings():
    import matplotlib

    report = example_report(1)
    first = [d.png for d in draw_figures(report)]
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "black"}):
        for drawing, png in zip(draw_figures(report), first, strict=True):
            assert drawing.png == png, drawing.name
            assert matplotlib.rcParams["font.size"] == 20


def test_another_report_gives_other_pictures():
    changed = example_report(1)
    changed["history"]["train"]["epochs"][1]["val_error"] = 0.5
    changed["layers"][0]["parts"]["codes"] = 10
    changed["histograms"][0]["after"]["counts"][1] = 3
    changed["search"][1]["value"] = -0.9
    for one, other in zip(draw_figures(example_report(1)), draw_figures(changed), strict=True):
        assert one.png != other.png, one.name


def test_without_a_search_or_a_training_there_is_no_figure_of_it():
    report = example_report()
    report["search"] = []
    report["history"] = {"dense": {"steps": [], "epochs": []}, "train": {"steps": [], "epochs": []}}
    assert [d.name for d in draw_figures(report)] == ["bytes.png", "weights.png"]


@pytest.mark.parametrize(("phase", "n_panels"), [("dense", 4), ("train", 2)])
def test_one_training_alone(phase: str, n_panels: int):
    report = example_report()
    report["history"][phase] = {"steps": [], "epochs": []}
    figure, caption = training(report, figure_class())
    assert len(figure.axes) == n_panels and " and CLIP-Q" not in caption


def test_validation_is_drawn_at_the_end_of_each_epoch():
    report = example_report()  # 640 images, batches of 128: five iterations an epoch
    figure, _ = training(report, figure_class())
    lines = [line for line in figure.axes[0].lines if line.get_label() == "validation"]
    assert [line.get_xdata().tolist() for line in lines] == [[5, 10, 15], [20, 25]]
    assert lines[0].get_ydata().tolist() == [2, 2, 2]


@pytest.mark.parametrize("n_layers", [1, 60])
def test_the_bars_sum_to_the_file_and_to_the_dense_network(n_layers: int):
    report = example_report(n_layers)
    figure, _ = bytes_per_layer(report, figure_class())
    dense, stored = (sum(bar.get_width() for bar in panel.patches) * 1e3 for panel in figure.axes)
    assert round(dense) == report["size"]["dense"] and round(stored) == report["size"]["file"]


def test_small_layers_together_leave_the_others_their_scale():
    """Each takes half of its axis; what is cut short says its bytes, and is worth as much as ever."""
    report = example_report(200)
    figure, caption = bytes_per_layer(report, figure_class())
    for panel, layer in zip(figure.axes, (4.0, 0.2), strict=True):  # kB
        assert layer / max(panel.get_xlim()) > 0.4
        assert max(bar.get_width() for bar in panel.patches) > 10 * layer
    texts = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert (
        "680.0 kB" in texts and "34.0 kB (50 % codes, 32 % index, 14 % codebook, 4 % header, checksum)  20.0x" in texts
    )
    assert "goes on beyond its axis" in caption
    assert "goes on beyond its axis" not in bytes_per_layer(example_report(30), figure_class())[1]


def test_layers_whose_names_end_alike_are_told_apart():
    report = example_report(6)
    for i, name in enumerate(layer["name"] for layer in example_report(6)["layers"]):
        new = f"encoder.{'down' if i < 3 else 'up'}_blocks.{i % 3}.transformer_blocks.0.attention.query.weight"
        for place in (
            report["layers"][i],
            report["histograms"][i],
            *(e for e in report["search"] if e["layer"] == name),
        ):
            place["name" if "name" in place else "layer"] = new
    for draw in (bytes_per_layer, weights, search, search_progress):
        figure, caption = draw(report, figure_class())
        titles = [panel.get_title().split("\n")[0] for panel in figure.axes]
        bars = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert len({text for text in [*titles, *bars] if text.endswith("query")}) == 6, draw.__name__
        assert "Long names are cut" in caption


def test_a_report_of_the_histograms_that_are_shown_gives_the_same_figure():
    whole, part = example_report(31), example_report(31)
    part["histograms"] = part["histograms"][:12]
    assert list(draw_figures(whole)) == list(draw_figures(part))


def test_levels_that_a_weight_takes_are_stems_of_their_count():
    figure, _ = weights(example_report(1), figure_class())
    stems = next(line for line in figure.axes[0].lines if line.get_linestyle() == "None")
    assert stems.get_xydata().tolist() == [[-0.9, 10], [-0.5, 50], [-0.4, 40], [-0.35, 25], [0.4, 60], [0.5, 65]]


def test_the_legend_has_what_any_layer_shows():
    """The first one has no stems, as nothing of it is kept."""
    report = example_report(2)
    for when in ("before", "after"):
        report["histograms"][0][when]["level_counts"] = [0] * 7
    figure, _ = weights(report, figure_class())
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["weights in a bin", "pruned, between the clips", "level, weights that take it"]


def test_a_layer_of_equal_weights_and_one_all_pruned():
    report = example_report(1)
    for h in report["histograms"][0].values():
        if isinstance(h, dict):
            h.update(low=0.5, high=0.5, c_pos=0.5, c_neg=0.0, level_counts=[0] * 7)
    report["layers"][0]["kept"] = 0
    assert len(list(draw_figures(report))) == 5


def test_the_ring_is_at_the_chosen_setting_the_first_of_equals():
    figure, _ = search(example_report(1), figure_class())
    points, ring = figure.axes[0].collections
    assert ring.get_offsets().tolist() == [[0.25, 3]] and len(points.get_offsets()) == 4


def test_best_so_far_never_rises():
    figure, _ = search_progress(example_report(1), figure_class())
    evaluations, best = figure.axes[0].lines
    assert np.allclose(evaluations.get_ydata(), [46, 0, 2, 0])
    assert np.allclose(best.get_ydata(), [46, 0, 0, 0])


def test_names_are_text_not_formulas():
    report = example_report(1)
    for place in (report["layers"][0], report["histograms"][0], *report["search"]):
        key = "name" if "name" in place else "layer"
        place[key] = "a$b$_{c.weight"
    assert len(list(draw_figures(report))) == 5


def test_importing_figures_and_report_does_not_import_matplotlib():
    code = "import sys, clipq.figures, clipq.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
