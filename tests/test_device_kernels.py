"""Triton's kernels without a GPU: its interpreter gives the operations' results, its compiler takes them.

And what happens where they are not there, or fail.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clipq import device_passes
from clipq.device_rows import DeviceRows
from clipq.device_weights import learn_by

CPU = torch.device("cpu")
I32, F32 = "*i32", "*fp32"
SIGNATURES: dict[str, dict[str, Any]] = {
    "_survey": {"X": F32, "layer_of": I32, "bins": I32, "n": "*i64", "extremes": F32, "ROW": 4096, "BINS": 65536},
    "_count_second": {"X": F32, "layer_of": I32, "table": I32, "bins": I32, "ROW": 4096, "BINS": 65536},
    "_assign": {
        "X": F32, "layer_of": I32, "bounds": F32, "code_of": "*u8", "scale": "*fp64", "counts": I32, "sums": "*i64",
        "codes": "*u8", "n_bounds": "i32", "step": "i32", "n_codes": "i32", "ROW": 4096, "LANES": 256,
    },
    "_write": {"codes": "*u8", "layer_of": I32, "values": F32, "quantized": F32, "n_codes": "i32", "ROW": 4096},
}  # fmt: skip


def test_in_the_interpreter_kernels_give_the_operations_results() -> None:
    pytest.importorskip("triton")
    code = (
        "import torch; from clipq.device_kernels import KernelRows; from clipq.device_weights import learn_by;"
        "from clipq.device_passes import gives_the_same;"
        "print(gives_the_same(KernelRows, torch.device('cpu'), learn_by))"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("capability", [70, 80, 90])
def test_kernels_compile(name: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code, whose additions nobody waits for and whose small numbers are not taken for zeros."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from clipq import device_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    arguments = SIGNATURES[name]
    source = ASTSource(
        fn=getattr(device_kernels, name),
        signature={k: v if isinstance(v, str) else "constexpr" for k, v in arguments.items()},
        constexprs={k: v for k, v in arguments.items() if not isinstance(v, str)},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
    assert compiled.asm["cubin"]
    assert not re.search(r"\batom\.|\.ftz", compiled.asm["ptx"])


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
    monkeypatch.setitem(sys.modules, "clipq.device_kernels", SimpleNamespace(KernelRows=kind))
    with pytest.warns(UserWarning, match=warning):
        assert device_passes._kernels.__wrapped__(CPU, learn_by) is None


def test_kernels_that_give_the_same_are_used_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clipq.device_kernels", SimpleNamespace(KernelRows=DeviceRows))
    assert device_passes._kernels.__wrapped__(CPU, learn_by) is DeviceRows
    monkeypatch.setattr(device_passes, "_kernels", lambda device, learn: Wrong)
    cuda = torch.device("cuda:0")
    assert device_passes.passes(cuda, torch.float32, learn_by) is Wrong
    assert device_passes.passes(cuda, torch.float64, learn_by) is DeviceRows
    assert device_passes.passes(CPU, torch.float32, learn_by) is DeviceRows


def test_without_triton_operations_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "clipq.device_kernels", raising=False)
    assert device_passes._kernels.__wrapped__(CPU, learn_by) is None
