"""The report's page and the text at the end of a run: their figures are those of the report, and sum up."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from reports import example_report

from clipq.report import errors_table, files, layers_table, markdown_page, terminal_table, write_report_page
from clipq.text_table import Table


@pytest.fixture
def report() -> dict[str, Any]:
    return example_report()


def column(table: Table, title: str) -> list[str]:
    return [row[table.header.index(title)] for row in table.rows]


def number(text: str) -> float:
    return float(text.replace(",", "").rstrip("x %"))


@pytest.mark.parametrize("n_layers", [1, 3, 60])
def test_the_bytes_of_the_rows_sum_to_the_file(n_layers: int):
    table = layers_table(example_report(n_layers))
    *parts, total = map(number, column(table, "bytes"))
    assert sum(parts) == total == example_report(n_layers)["size"]["file"]
    assert len(table.rows) == n_layers + 3


def test_a_row_says_what_the_report_says(report):
    table = layers_table(report)
    first = dict(zip(table.header, table.rows[0], strict=True))
    assert first == {
        "layer": "block0", "weights": "1,000", "p": "0.75", "b": "3", "kept %": "25.0", "index bits": "2",
        "bytes": "200", "ratio": "20.0x",
    }  # fmt: skip


def test_a_coder_without_an_index_has_a_dash(report):
    report["layers"][0]["index_bits"] = None
    assert column(layers_table(report), "index bits")[0] == "-"


def test_a_network_without_other_tensors_has_no_row_for_them(report):
    report["size"]["file"] -= report["size"]["sections"].pop("tensors")
    assert not any("tensors" in name for name in column(layers_table(report), "layer"))


def test_errors_are_percentages_of_images(report):
    assert errors_table(report).rows == [
        ("dense", "2.00 %", "4.00 %"),
        ("compressed", "3.00 %", "4.50 %"),
        ("decoded from the file", "", "4.50 %"),
    ]


def test_terminal_table_says_where_everything_lies(report):
    text = terminal_table(report, Path("results/example/first"))
    assert "results/example/first/" in text and "net.clipq" in text and "report.md" in text
    assert "results" not in terminal_table(report)
    lines = layers_table(report).plain().splitlines()
    assert len({len(line) for line in lines if not line[-1].isdigit()}) == 1  # they end where the last column does


def test_the_headline_counts_images(report):
    page = markdown_page(report)
    assert page.startswith(f"# example_net on images: {report['size']['ratio']:.1f} times smaller\n")
    assert "+0.50 points, +1 of 200 images" in page
    assert "not that of the network in memory" not in page


def test_a_file_that_does_not_give_the_networks_error_is_pointed_out(report):
    report["error"]["decoded_test"] = 0.055
    assert "**The file's error is not that of the network in memory (4.50 %).**" in markdown_page(report)


def test_readings_other_than_the_defaults_are_listed(report):
    assert "| A05 |" not in markdown_page(report)
    report["config"]["conventions"]["partition"] = "joined"
    page = markdown_page(report)
    assert "| A05 | `partition` | `joined` | `per_sign` |" in page and "| A04 |" not in page


@pytest.mark.parametrize(
    ("mode", "words"),
    [("uniform", "p = 0.9 and b = 4 for every layer"), ("given", "given for each layer"), ("random", "Random draws")],
)
def test_how_p_and_b_were_chosen(report, mode: str, words: str):
    report["config"]["search"]["mode"] = mode
    assert words in markdown_page(report)


def test_the_search_is_counted(report):
    assert "12 evaluations for 3 layers" in markdown_page(report)


def test_times_are_those_that_are_known(report):
    """The evaluations' are in the log; what a resumed process trained before it was killed is not known."""
    report["seconds"]["train"] = 0.0
    page = markdown_page(report)
    assert "12 evaluations for 3 layers took 0.1 s with this lambda." in page and "fine-tuning took" not in page


def test_a_lambda_that_is_accepted_is_told_from_the_best_of_none(report):
    tried = [{"lambda": 2.0, "val_error": 0.03}, {"lambda": 1.0, "val_error": 0.02}]
    report["selection"] = {"lambda": 1.0, "accepted": 0.02, "tried": tried}
    page = markdown_page(report)
    assert "until the network's error on the validation images was no more than 2.00 %, and the last one was" in page
    report["selection"]["accepted"] = 0.0112
    page = markdown_page(report)
    assert "None of the 2 lambdas brought the network's error on the validation images down to 1.12 %" in page
    assert "the one with the lowest error was taken: 3.00 % with 2, 2.00 % with 1." in page and "until" not in page


def test_images_that_were_left_out_are_told(report):
    report["config"]["data"]["images"] = {"skip_corrupt": True}
    report["data"]["left_out"] = {"val": 0, "test": 7}
    assert errors_table(report).header[1:] == (
        "validation (100 images)",
        "test (200 images, left out as unreadable: 7)",
    )
    page = markdown_page(report)
    assert "+1 of 200 images, left out as unreadable: 7." in page
    assert "640 training (less unreadable ones), 100 validation, 200 test images" in page
    assert "the error on 640 training images (less unreadable ones)" in page


def test_one_is_not_several(report):
    report["config"]["dense"]["epochs"] = 1
    page = markdown_page(report)
    assert "| trained here, 1 epoch |" in page and "2 cores, 1 thread |" in page


def test_every_search_of_the_run_is_listed(report):
    assert "search.jsonl" in markdown_page(report) and "search-1.jsonl" not in markdown_page(report)
    report["selection"]["tried"] = [{"lambda": 2.0, "val_error": 0.03}, {"lambda": 1.0, "val_error": 0.02}]
    page = markdown_page(report)
    assert "[`search.jsonl`](search.jsonl): the search's evaluations with lambda = 2" in page
    assert "[`search-1.jsonl`](search-1.jsonl): the search's evaluations with lambda = 1" in page
    report["search"] = []
    assert "jsonl" not in "\n".join(files(report))


def test_every_table_of_the_page_is_rectangular(report):
    report["config"]["experiment"]["description"] = "a | b"
    for block in re.split(r"\n\n", markdown_page(report)):
        if block.startswith("|"):
            bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(bars) == 1, block


def test_the_page_embeds_the_figures_that_are_there(report, tmp_path: Path):
    page = write_report_page(report, tmp_path)
    text = page.read_text(encoding="utf-8")
    embedded = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert {tmp_path / path for path in embedded} == set((tmp_path / "figures").iterdir()) and len(embedded) == 5


def test_a_figures_alternative_text_is_its_captions_first_sentence(report):
    page = markdown_page(report, {"a.png": "Linear below 0.1 [log above]. More.", "b.png": "Nothing else."})
    assert "![Linear below 0.1 (log above)](a.png)" in page and "![Nothing else](b.png)" in page


def test_a_report_read_from_json_gives_the_same_page(report, tmp_path: Path):
    assert markdown_page(json.loads(json.dumps(report))) == markdown_page(copy.deepcopy(report))


def test_table_plain_and_markdown():
    table = Table(("name", "n"), [("a|b", "1"), ("c", "20"), ("all", "21")], n_totals=1)
    assert table.plain() == "name   n\n--------\na|b    1\nc     20\n--------\nall   21"
    assert table.markdown() == "| name | n |\n| --- | ---: |\n| a\\|b | 1 |\n| c | 20 |\n| **all** | **21** |"
