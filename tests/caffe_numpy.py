"""Caffe's layers in NumPy, written from the formulas of its C++ sources: loops over the output's places, float64."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def pool(x: np.ndarray, kind: str, kernel: int, stride: int, pad: int = 0) -> np.ndarray:
    """``PoolingLayer::Forward_cpu``: x [n, channels, height, width]."""
    height, width = x.shape[2:]
    rows = math.ceil((height + 2 * pad - kernel) / stride) + 1
    columns = math.ceil((width + 2 * pad - kernel) / stride) + 1
    if pad:
        rows -= (rows - 1) * stride >= height + pad
        columns -= (columns - 1) * stride >= width + pad
    y = np.zeros((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride - pad, j * stride - pad
            if kind == "MAX":
                window = x[:, :, max(top, 0) : min(top + kernel, height), max(left, 0) : min(left + kernel, width)]
                y[:, :, i, j] = window.max((2, 3))
            else:
                bottom, right = min(top + kernel, height + pad), min(left + kernel, width + pad)
                size = (bottom - top) * (right - left)
                window = x[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
                y[:, :, i, j] = window.sum((2, 3)) / size
    return y


def lrn(x: np.ndarray, size: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> np.ndarray:
    """``LRNLayer::CrossChannelForward_cpu``."""
    y = np.zeros_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(0, c - size // 2) : c + size // 2 + 1]
        y[:, c] = x[:, c] * (1 + alpha / size * (near**2).sum(1)) ** -beta
    return y


def conv(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, stride: int = 1, pad: int = 0, groups: int = 1
) -> np.ndarray:
    """Grouped convolution: x [n, channels, height, width], weight [outputs, channels / groups, kernel, kernel]."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    n, channels, kernel = len(x), x.shape[1], weight.shape[2]
    rows, columns = ((size - kernel) // stride + 1 for size in x.shape[2:])
    weight = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.zeros((n, groups, weight.shape[1], rows, columns))
    for i in range(kernel):
        for j in range(kernel):
            seen = x[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
            seen = seen.reshape(n, groups, channels // groups, rows, columns)
            y += np.einsum("ngchw,goc->ngohw", seen, weight[..., i, j], optimize=True)
    y = y.reshape(n, -1, rows, columns)
    return y if bias is None else y + bias[:, None, None]


class Net:
    """Layers by name, with the blobs of a state dict."""

    def __init__(self, blobs: Mapping[str, np.ndarray]) -> None:
        self.blobs = blobs

    def conv(self, x: np.ndarray, name: str, stride: int = 1, pad: int = 0, groups: int = 1) -> np.ndarray:
        return conv(x, self.blobs[f"{name}.weight"], self.blobs.get(f"{name}.bias"), stride, pad, groups)

    def fc(self, x: np.ndarray, name: str) -> np.ndarray:
        return x.reshape(len(x), -1) @ self.blobs[f"{name}.weight"].T + self.blobs[f"{name}.bias"]

    def norm(self, x: np.ndarray, batch_norm: str, scale: str) -> np.ndarray:
        """BatchNorm with global statistics, eps 1e-5, and Scale."""
        mean, variance = self.blobs[f"{batch_norm}.running_mean"], self.blobs[f"{batch_norm}.running_var"]
        x = (x - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
        return x * self.blobs[f"{scale}.weight"][:, None, None] + self.blobs[f"{scale}.bias"][:, None, None]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def alexnet(net: Net, x: np.ndarray, norm_first: bool) -> np.ndarray:
    for name, stride, pad, groups in (("conv1", 4, 0, 1), ("conv2", 1, 2, 2)):
        x = relu(net.conv(x, name, stride, pad, groups))
        x = pool(lrn(x), "MAX", 3, 2) if norm_first else lrn(pool(x, "MAX", 3, 2))
    x = relu(net.conv(x, "conv3", 1, 1))
    x = relu(net.conv(x, "conv4", 1, 1, 2))
    x = pool(relu(net.conv(x, "conv5", 1, 1, 2)), "MAX", 3, 2)
    return net.fc(relu(net.fc(relu(net.fc(x, "fc6")), "fc7")), "fc8")


def googlenet(net: Net, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every classifier's output, without dropout."""
    out = {}
    x = lrn(pool(relu(net.conv(x, "conv1/7x7_s2", 2, 3)), "MAX", 3, 2))
    x = relu(net.conv(relu(net.conv(x, "conv2/3x3_reduce")), "conv2/3x3", 1, 1))
    x = pool(lrn(x), "MAX", 3, 2)
    for name in ["3a", "3b", "pool3", "4a", "loss1", "4b", "4c", "4d", "loss2", "4e", "pool4", "5a", "5b"]:
        if name.startswith("pool"):
            x = pool(x, "MAX", 3, 2)
        elif name.startswith("loss"):
            if f"{name}/conv.weight" not in net.blobs:
                continue
            y = relu(net.conv(pool(x, "AVE", 5, 3), f"{name}/conv"))
            out[name] = net.fc(relu(net.fc(y, f"{name}/fc")), f"{name}/classifier")
        else:
            name = f"inception_{name}"
            five = net.conv(relu(net.conv(x, f"{name}/5x5_reduce")), f"{name}/5x5", 1, 2)
            three = net.conv(relu(net.conv(x, f"{name}/3x3_reduce")), f"{name}/3x3", 1, 1)
            pooled = net.conv(pool(x, "MAX", 3, 1, 1), f"{name}/pool_proj")
            x = relu(np.concatenate([net.conv(x, f"{name}/1x1"), three, five, pooled], 1))
    return out | {"loss3": net.fc(x.mean((2, 3)), "loss3/classifier")}


def resnet50(net: Net, x: np.ndarray) -> np.ndarray:
    def branch(x: np.ndarray, name: str, stride: int = 1, pad: int = 0) -> np.ndarray:
        return net.norm(net.conv(x, f"res{name}", stride, pad), f"bn{name}", f"scale{name}")

    x = pool(relu(net.norm(net.conv(x, "conv1", 2, 3), "bn_conv1", "scale_conv1")), "MAX", 3, 2)
    for name in ["2a", "2b", "2c", "3a", "3b", "3c", "3d", "4a", "4b", "4c", "4d", "4e", "4f", "5a", "5b", "5c"]:
        stride = 2 if name in ("3a", "4a", "5a") else 1
        y = relu(branch(x, f"{name}_branch2a", stride))
        y = branch(relu(branch(y, f"{name}_branch2b", 1, 1)), f"{name}_branch2c")
        x = relu(y + (branch(x, f"{name}_branch1", stride) if name.endswith("a") else x))
    return net.fc(x.mean((2, 3)), "fc1000")


def mobilenet(net: Net, x: np.ndarray) -> np.ndarray:
    def unit(x: np.ndarray, name: str, stride: int, pad: int, groups: int) -> np.ndarray:
        return relu(net.norm(net.conv(x, name, stride, pad, groups), f"{name}/bn", f"{name}/scale"))

    x = unit(x, "conv1", 2, 1, 1)
    for name in ["2_1", "2_2", "3_1", "3_2", "4_1", "4_2", "5_1", "5_2", "5_3", "5_4", "5_5", "5_6", "6"]:
        stride = 2 if name in ("2_2", "3_2", "4_2", "5_6") else 1
        x = unit(x, f"conv{name}/dw", stride, 1, x.shape[1])
        x = unit(x, f"conv{name}/sep", 1, 0, 1)
    return net.conv(x.mean((2, 3), keepdims=True), "fc7")[:, :, 0, 0]


def shufflenet(net: Net, x: np.ndarray) -> np.ndarray:
    def unit(x: np.ndarray, name: str, stride: int = 1, pad: int = 0, groups: int = 1) -> np.ndarray:
        return net.norm(net.conv(x, name, stride, pad, groups), f"{name}_bn", f"{name}_scale")

    x = pool(relu(unit(x, "conv1", 2, 1)), "MAX", 3, 2)
    for i in range(1, 17):
        first = i in (1, 5, 13)
        y = relu(unit(x, f"resx{i}_conv1", groups=1 if i == 1 else 3))
        if i > 1:  # ShuffleChannelLayer: out[k * group + g] = in[g * size + k]
            size = y.shape[1] // 3
            y = y[:, [g * size + k for k in range(size) for g in range(3)]]
        y = unit(y, f"resx{i}_conv2", 2 if first else 1, 1, y.shape[1])
        y = unit(y, f"resx{i}_conv3", groups=3)
        x = relu(np.concatenate([pool(x, "AVE", 3, 2), y], 1) if first else x + y)
    return net.conv(x.mean((2, 3), keepdims=True), "fc1000")[:, :, 0, 0]
