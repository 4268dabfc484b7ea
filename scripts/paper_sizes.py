"""File sizes of the paper's three networks over uniform (p, b), with both coders, beside its Table 4.

ImageNet's trained weights are not needed: stand-ins for every layer's weights are drawn independently from a Laplace
distribution of mean 0 and He's variance 2 / fan_in (the scale changes no size), biases and normalization parameters
from a normal one.  All tensors have their real shapes.  A size is the whole file's, its layers counted by
``clipq.bits``, those of one shape once, as they differ by chance alone; at a few points the file is made, compared
with the count, and decoded.

Writes results/paper_sizes/paper_sizes.json; `python scripts/make_results.py` draws table and figure from it.  About ten
minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipq.atomic_file import write_text
from clipq.bits import Coder, dense_bits, layer_bits
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.layers import CompressibleLayer, compressible_layers
from clipq.networks import NETWORKS
from clipq.provenance import provenance
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.verified_file import differences
from clipq.weight_sharing import quantized_net
from clipq.ws_learn_one_layer import ws_learn_one_layer
from scripts.argument_types import at_least

RESULT = Path(__file__).resolve().parent.parent / "results" / "paper_sizes" / "paper_sizes.json"
CODERS: tuple[Coder, ...] = ("fixed", "entropy")
P = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
B = (2, 3, 4, 6)
#: Where the file is written and decoded.
WRITTEN = (LayerSetting(0.6, 4), LayerSetting(0.9, 3))
MB = 10**6


@dataclass(frozen=True)
class Published:
    """A row of the paper's Table 4: bytes of the dense and of the compressed network, change of top-1 accuracy in %."""

    network: str
    title: str
    dense: float
    compressed: float
    accuracy: float


TABLE_4 = (
    Published("alexnet", "AlexNet", 243.9 * MB, 4.8 * MB, +0.7),
    Published("googlenet", "GoogLeNet", 28.0 * MB, 2.8 * MB, +0.0),
    Published("resnet50", "ResNet-50", 102.5 * MB, 6.7 * MB, +0.6),
)


@torch.no_grad()
def fill(model: nn.Module, layers: Sequence[CompressibleLayer], seed: int) -> None:
    """Stand-ins for a trained network's tensors, in place; each depends on the seed and its number alone."""
    weights = {id(layer.weight) for layer in layers}
    for number, tensor in enumerate(model.state_dict(keep_vars=True).values()):
        rng = np.random.default_rng([seed, number])
        if id(tensor) in weights:
            values = rng.laplace(0.0, tensor[0].numel() ** -0.5, tensor.shape)
        else:
            values = rng.normal(0.0, 1.0, tensor.shape)
        tensor.copy_(torch.from_numpy(values))


def count(layers: Sequence[CompressibleLayer], title: str) -> dict[tuple[float, int], dict[str, int]]:
    """(p, b) -> kept weights, and bytes of all layers' sections by coder."""
    totals = {(p, b): dict.fromkeys(("kept", *CODERS), 0) for p in P for b in B}
    of_shape: dict[torch.Size, list[CompressibleLayer]] = {}
    for layer in layers:
        of_shape.setdefault(layer.weight.shape, []).append(layer)
    with tqdm(total=sum(shape.numel() for shape in of_shape), desc=title, unit="", unit_scale=True) as bar:
        for shape, alike in of_shape.items():
            for p in P:
                near = None
                for b in B:
                    learned = ws_learn_one_layer(alike[0].weight, p, b, name=alike[0].name, near=near)
                    near = (learned.c_neg, learned.c_pos)
                    totals[p, b]["kept"] += len(alike) * int(torch.count_nonzero(learned.codes))
                    for coder in CODERS:
                        totals[p, b][coder] += (
                            len(alike) * layer_bits(learned.codes, b, coder=coder, levels=learned.levels) // 8
                        )
            bar.update(shape.numel())
    return totals


def encode_and_decode(net: QuantizedNet, coder: Coder) -> tuple[int, int, bool]:
    """Bytes of the file, those of them that are no layer's, and whether it decodes to the same weights."""
    encoded = encode_sparse_quantized_net_v2(net, coder)
    data = encoded.to_bytes()
    same = not list(differences(net, decode_sparse_quantized_net_v2(data)))
    return len(data), len(data) - sum(layer.n_bytes for layer in encoded.layers), same


def measure(published: Published, seed: int) -> dict[str, Any]:
    """A network's sizes."""
    started = time.monotonic()
    model = NETWORKS[published.network]()
    layers = compressible_layers(model)
    fill(model, layers, seed)
    totals = count(layers, published.title)
    rest, written = {}, []
    for theta in WRITTEN:
        net = quantized_net(model, layers, {layer.name: theta for layer in layers})
        for coder in CODERS:
            n_bytes, rest[coder], same = encode_and_decode(net, coder)
            counted = totals[theta.p, theta.b][coder] + rest[coder]
            written.append(
                {"p": theta.p, "b": theta.b, "coder": coder, "file": n_bytes, "counted": counted, "same": same}
            )
    return {
        **asdict(published),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights": sum(layer.weight.numel() for layer in layers),
        "layers": [{"name": x.name, "shape": list(x.weight.shape)} for x in layers],
        "stored": sum(dense_bits(tuple(t.shape)) // 8 for t in model.state_dict().values()),
        "rest": rest,
        "points": [
            {"p": p, "b": b, "kept": total["kept"], **{coder: total[coder] + rest[coder] for coder in CODERS}}
            for (p, b), total in totals.items()
        ],
        "written": written,
        "seconds": round(time.monotonic() - started, 1),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the stand-in weights")
    parser.add_argument("--threads", type=at_least(1), default=1, help="of torch")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "provenance": provenance(options.seed),
        "stand_in": "independent Laplace, mean 0, variance 2 / fan_in",
        "networks": [measure(published, options.seed) for published in TABLE_4],
    }
    wrong = [f"{x['title']}: {w}" for x in report["networks"] for w in x["written"] if not w["same"]]
    if wrong:
        print(*wrong, "decodes to something else", sep="\n", file=sys.stderr)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(f"{options.out}; now run: python scripts/make_results.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
