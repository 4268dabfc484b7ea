"""Triton's kernels without a GPU: its interpreter gives the operations' results, its compiler takes them.

And what happens where they are not there, or fail.
"""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clipq.learning import device_passes
from clipq.learning.device_rows import DeviceRows
from clipq.learning.device_weights import learn_by

CPU = torch.device("cpu")
I32, I64, F32, F64, U8 = "*i32", "*i64", "*fp32", "*fp64", "*u8"
PART = {"table": I64, "n": I64, "start": I64, "layer_of": I32, "like": F32, "state": I32}
SUMS = {"scale": F64, "sums": I64, "counts": I32}
SIZE = {"ALIGNED": True, "PARTS": 4, "SIZE": 1024}
SIGNATURES: dict[str, dict[str, Any]] = {
    "device_kernels._survey": {
        "X": F32, "layer_of": I32, "bins": I32, "n": I64, "extremes": F32, "ROW": 4096, "BINS": 65536,
    },
    "device_kernels._count_second": {"X": F32, "layer_of": I32, "table": I32, "bins": I32, "ROW": 4096, "BINS": 65536},
    "device_kernels._assign": {
        "X": F32, "layer_of": I32, "bounds": F32, "code_of": U8, **SUMS, "codes": U8, "n_bounds": "i32", "step": "i32",
        "n_codes": "i32", "ROW": 4096, "LANES": 256,
    },
    "device_kernels._write": {
        "codes": U8, "layer_of": I32, "values": F32, "quantized": F32, "n_codes": "i32", "ROW": 4096,
    },
    "device_step_kernels.bracket": {
        "table": I64, "n": I64, "p": F64, "like": F32, "state": I32, "margin": "fp32", "SAMPLE": 4096,
    },
    "device_step_kernels.count": {**PART, "seen": I32, "bins": I32, "n_parts": "i32", "FIRST": True, "EACH": 8, **SIZE},
    "device_step_kernels.choose": {"p": F64, "state": I32, "seen": I32, "bins": I32, "FIRST": True},
    "device_step_kernels.partition": {
        "table": I64, "b": I32, "room": I64, "state": I32, "seen": I32, "scale": F64, "bounds": F32, "middles": F64,
        "n_layers": "i32", "N": 16,
    },
    "device_step_kernels.assign": {**PART, "p": F64, "bounds": F32, **SUMS, "N": 16, "LARGE": 1, "LANES": 256, **SIZE},
    "device_step_kernels.average": {
        "table": I64, "seen": I32, **SUMS, "middles": F64, "n_layers": "i32", "N": 16, "LANES": 256,
    },
    "device_step_kernels.write": {"table": I64, "layer_of": I32, "like": F32, "n_layers": "i32", "N": 16, "ROW": 4096},
}  # fmt: skip


PROOF = """
import torch
from clipq.learning import device_passes
from clipq.learning.device_weights import learn_by
found = device_passes.{name}.__wrapped__(torch.device("cpu"), learn_by)
print(found and found.__name__)
"""


@pytest.mark.parametrize(("name", "expected"), [("_kernels", "KernelRows"), ("_step", "learn_step")])
def test_in_the_interpreter_kernels_give_the_operations_results(name: str, expected: str) -> None:
    pytest.importorskip("triton")
    assert interpreted(PROOF.format(name=name)) == expected


#: A sample of few weights, from which a clip is expected to lie exactly where it says; and every layer is large.
MISLED = """
import torch
from functools import partial
from clipq.learning import device_passes, device_rows, device_step
from clipq.conventions import Conventions
from clipq.learning.device_rows import DeviceRows
from clipq.learning.device_weights import learn_by
device_step.SAMPLE, device_step.MARGIN, device_rows.LARGE = 16, -3.0, 1
step = lambda weights, settings, conventions: device_step.learn_step(weights, settings)
print(device_passes.gives_the_same(step, partial(learn_by, DeviceRows), torch.device("cpu"), [Conventions()]))
"""


def test_a_sample_that_misleads_changes_nothing() -> None:
    pytest.importorskip("triton")
    assert interpreted(MISLED) == "True"


#: First where nothing may be learned, as in a validation, then in a training.
MODES = """
import torch
from clipq.learning.device_step import learn_step
from clipq.quantized_net import LayerSetting
x, theta = torch.linspace(-1, 1, 1000).sin(), LayerSetting(0.5, 3)
with torch.inference_mode():
    first = learn_step([x], [theta]).layer(0, 3).codes.tolist()
print(learn_step([x], [LayerSetting(0.9, 3)]).layer(0, 3).codes.tolist() != first)
print(learn_step([x], [theta]).layer(0, 3).codes.tolist() == first)
"""


def test_a_plan_serves_in_every_mode() -> None:
    pytest.importorskip("triton")
    assert interpreted(MODES) == "True\nTrue"


def interpreted(code: str) -> str:
    """What the code prints, its kernels run by Triton's interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("capability", [70, 80, 90])
def test_kernels_compile(name: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code whose additions nobody waits for, that does not take small numbers for zeros, nor contracts what
    decides about a bit."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module, function = name.split(".")
    arguments = SIGNATURES[name]
    source = ASTSource(
        fn=getattr(import_module(f"clipq.learning.{module}"), function),
        signature={k: v if isinstance(v, str) else "constexpr" for k, v in arguments.items()},
        constexprs={k: v for k, v in arguments.items() if not isinstance(v, str)},
    )
    options = {"num_warps": 4, "enable_fp_fusion": function not in ("partition", "average")}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.asm["cubin"]
    assert ".ftz" not in compiled.asm["ptx"]
    if capability > 70:  # what disassemblers of CUDA 13 know
        assert not re.search(r"\bATOMG?\.", disassembled(compiled.asm["cubin"], tmp_path))
    if not options["enable_fp_fusion"]:
        assert "fma.rn.f64" not in compiled.asm["ptx"] and "div.rn.f64" in compiled.asm["ptx"]


def disassembled(cubin: bytes, folder: Path) -> str:
    """By the program that Triton brings along."""
    triton = pytest.importorskip("triton")
    (folder / "cubin").write_bytes(cubin)
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    return subprocess.run([program, folder / "cubin"], capture_output=True, text=True, check=True).stdout


class Wrong(DeviceRows):
    """One weight is not as it should be."""

    def write(self, values: torch.Tensor) -> None:
        super().write(values)
        self.quantized.view(-1)[1] += 1e-6


class Failing(DeviceRows):
    def write(self, values: torch.Tensor) -> None:
        raise RuntimeError("no compiler")


@pytest.mark.parametrize(("kind", "warning"), [(Wrong, "other results"), (Failing, "no compiler")])
def test_kernels_that_fail_are_not_used(kind: type, warning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clipq.learning.device_kernels", SimpleNamespace(KernelRows=kind))
    with pytest.warns(UserWarning, match=warning):
        assert device_passes._kernels.__wrapped__(CPU, learn_by) is None


def test_kernels_that_give_the_same_are_used_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clipq.learning.device_kernels", SimpleNamespace(KernelRows=DeviceRows))
    assert device_passes._kernels.__wrapped__(CPU, learn_by) is DeviceRows
    monkeypatch.setattr(device_passes, "_kernels", lambda device, learn: Wrong)
    cuda = torch.device("cuda:0")
    assert device_passes.passes(cuda, torch.float32, learn_by) is Wrong
    assert device_passes.passes(cuda, torch.float64, learn_by) is DeviceRows
    assert device_passes.passes(CPU, torch.float32, learn_by) is DeviceRows


def test_without_triton_operations_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "clipq.learning.device_kernels", raising=False)
    assert device_passes._kernels.__wrapped__(CPU, learn_by) is None
