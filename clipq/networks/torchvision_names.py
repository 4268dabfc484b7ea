"""torchvision's names of weights -> the names here, for the networks whose architecture is the same."""

from __future__ import annotations

from collections.abc import Mapping


def _weights_and_biases(modules: Mapping[str, str]) -> dict[str, str]:
    return {f"{a}.{kind}": f"{b}.{kind}" for a, b in modules.items() for kind in ("weight", "bias")}


def _normalization(torchvision: str, batch_norm: str, scale: str) -> dict[str, str]:
    """A batch normalization, which is two layers in Caffe."""
    names = {f"{torchvision}.{kind}": f"{scale}.{kind}" for kind in ("weight", "bias")}
    return names | {f"{torchvision}.{kind}": f"{batch_norm}.{kind}" for kind in ("running_mean", "running_var")}


#: Indices in torchvision's ``features`` of the convolutions of each block.
_VGG16 = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))

VGG16_NAMES = _weights_and_biases(
    {f"features.{at}": f"conv{b}_{i}" for b, block in enumerate(_VGG16, 1) for i, at in enumerate(block, 1)}
    | {"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "fc8"}
)

ALEXNET_NAMES = _weights_and_biases(
    {f"features.{at}": f"conv{i}" for i, at in enumerate((0, 3, 6, 8, 10), 1)}
    | {"classifier.1": "fc6", "classifier.4": "fc7", "classifier.6": "fc8"}
)


def resnet50_names(stages: Mapping[int, tuple[int, int]]) -> dict[str, str]:
    """stages: Caffe's number of a stage -> (blocks, channels); torchvision's ``layer1`` is stage 2."""
    names = {"conv1.weight": "conv1.weight"} | _normalization("bn1", "bn_conv1", "scale_conv1")
    for stage, (blocks, _) in stages.items():
        for i in range(blocks):
            theirs, ours = f"layer{stage - 1}.{i}", f"{stage}{'abcdef'[i]}"
            pairs = [(f"conv{k}", f"bn{k}", f"_branch2{'abc'[k - 1]}") for k in (1, 2, 3)]
            if i == 0:
                pairs.append(("downsample.0", "downsample.1", "_branch1"))
            for conv, norm, branch in pairs:
                names[f"{theirs}.{conv}.weight"] = f"res{ours}{branch}.weight"
                names |= _normalization(f"{theirs}.{norm}", f"bn{ours}{branch}", f"scale{ours}{branch}")
    return names | _weights_and_biases({"fc": "fc1000"})
