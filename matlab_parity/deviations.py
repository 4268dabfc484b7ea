"""Everything that is done otherwise than in the original on purpose, for ``DEVIATIONS.md``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """original, port: what each does.  switch: ``module:attribute`` that brings the original's behaviour, or None.
    test: the file of the project's tests that holds the port to it."""

    id: str
    title: str
    original: str
    port: str
    why: str
    switch: str | None
    test: str


DEVIATIONS = (
    Deviation(
        "D01", "Gradients",
        "Caffe's backward pass through matcaffe; the quantized weights are written into the net before each iteration.",
        "A parametrization of the layer: its forward gives the quantized weights, its gradient passes straight "
        "through to the full-precision ones.",
        "Any module, optimizer and device then works as it is. The iterates are the same: `ws_train.m` writes the "
        "gradients by hand and agrees to 15 digits.",
        None, "tests/test_parity.py",
    ),
    Deviation(
        "D02", "Momentum when the learning rate changes",
        "Caffe: v = mu v + lr g, w = w - v: the rate of a step stays in v.",
        "PyTorch: v = mu v + g, w = w - lr v: a new rate acts on all of v at once.",
        "It is what every PyTorch user expects; with a constant rate the two are the same.",
        None, "tests/test_parity.py",
    ),
    Deviation(
        "D03", "Weight decay of biases",
        "Caffe decays every blob unless its decay_mult says otherwise.",
        "Only weights are decayed: no bias, no parameter of normalization, and no other one of a single dimension.",
        "Biases and normalization parameters are not compressed; decaying them only shifts their optimum.",
        "clipq.train_config:TrainConfig.decay_biases", "tests/test_parity.py",
    ),
    Deviation(
        "D04", "Levels in single precision",
        "MATLAB computes in double unless told otherwise; whether the original rounds its levels is not known.",
        "A level is the mean summed in float64 and rounded to float32 once; training uses the rounded one.",
        "The forward pass of training then sees exactly the values that the file stores.",
        None, "tests/test_parity.py",
    ),
    Deviation(
        "D05", "NaN and Inf",
        "MATLAB's sort puts NaN last and goes on.",
        "An error that names the layer, also for a weight beyond single precision's range, which no level has.",
        "A network that has diverged must not be written to a file.",
        None, "tests/test_ws_learn_one_layer.py",
    ),
    Deviation(
        "D06", "What counts as the size",
        "The paper gives MB of 10^6 bytes; what is counted in them is not said.",
        "The size of the file on disk: codebooks, biases, names, checksums and header in it.",
        "It is the figure that a user can check. `count_codebook = \"no\"` (A09) leaves the codebook out of the "
        "search's count.",
        "clipq.conventions:Conventions.count_codebook", "tests/test_bits.py",
    ),
    Deviation(
        "D07", "The file",
        "A .mat file.",
        "A `.clipq` file (docs/format.md) with a checksum for each section, and the .mat struct beside it.",
        "Damage is found before any weight is used; MATLAB can still read the network.",
        "clipq.matlab_net:write_mat", "tests/test_matlab_net.py",
    ),
    Deviation(
        "D08", "Candidates of the search",
        "mlcircus draws its first two candidates as floor(rand*grid_size): 0 (an error) or twice the same may come.",
        "Two different candidates, each as likely as any other.",
        "A fault of the original; the traces of its runs are reproduced from their own first two points.",
        None, "tests/test_bayesopt_parity.py",
    ),
    Deviation(
        "D09", "A covariance that is singular in double precision",
        "GPML predicts NaN there.",
        "The least jitter on the diagonal that lets it be factored.",
        "A search must not end because two candidates are close.",
        None, "tests/test_bayesopt_parity.py",
    ),
    Deviation(
        "D10", "Which iterate is kept",
        "Not known; a MATLAB loop that ends at max iterations keeps the last.",
        "The epoch with the lowest error on the validation images, of equals the later; without a validation function, "
        "or with `keep = \"last\"`, the last.",
        "A fine-tuning under a changing quantization is noisy. But the lowest of many errors is an optimistic one.",
        "clipq.train_config:TrainConfig.keep", "tests/test_parity.py",
    ),
    Deviation(
        "D11", "Indices and order of axes",
        "1-based, column-major; matcaffe's blobs are width x height x channels x num.",
        "0-based, C order, num x channels x height x width.",
        "The linear order is the same, so index streams need no transposition.",
        None, "tests/test_parity.py",
    ),
    Deviation(
        "D12", "A pruning rate that rises (off by default)",
        "p from the first iteration to the last.",
        "With `schedule.ramp` > 0 the rate rises to p over that part of the fine-tuning.",
        "At high rates the other weights need time to take over. The experiments named `_small` use it.",
        "clipq.pruning_schedule:PruningSchedule", "tests/test_pruning_schedule.py",
    ),
    Deviation(
        "D13", "Biases of fewer digits (off by default)",
        "Nothing is said of biases and normalization.",
        "With `encode.tensors` they are rounded to float16 or bfloat16 after the training, before errors are measured.",
        "In a network that is 300 times smaller they are a third of the file. The experiments named `_small` use it.",
        "clipq.experiment:EncodeConfig.tensors", "tests/test_pruning_schedule.py",
    ),
    Deviation(
        "D14", "Distillation (off by default)",
        "The labels' cross entropy, as far as is known.",
        "With `distillation.weight` > 0 the fine-tuned network also learns the dense one's outputs.",
        "A network with few weights errs less with it. `mnist_lenet5_small` uses it.",
        "clipq.distillation:DistillationConfig", "tests/test_distillation.py",
    ),
    Deviation(
        "D15", "Lambda chosen on held-out images (off by default)",
        "Not known (A12); one lambda for a network, as far as the objective says.",
        "With `selection.attempts` > 1 smaller and smaller ones are tried, until the fine-tuned network errs on the "
        "held-out images no more than the dense one, or, with `selection.tolerance`, about as much.",
        "How much of the damage the fine-tuning mends depends on network and data. The experiments named `_small` use "
        "it.",
        "clipq.selection:SelectionConfig", "tests/test_run.py",
    ),
    Deviation(
        "D16", "Training images moved at random (off by default)",
        "Not known; Caffe's MNIST is used as it is.",
        "With `data.shift` > 0 each training image is moved by up to so many pixels, for the dense network as for "
        "CLIP-Q.",
        "Both networks err less with it.",
        "clipq.experiment:DataConfig.shift", "tests/test_datasets.py",
    ),
    Deviation(
        "D17", "Units that do nothing (off by default)",
        "Not known; what is left of them is stored.",
        "With `encode.dead_units = \"fold\"` a unit of a fully connected layer that has lost all incoming weights "
        "moves into the next layer's bias, one without outgoing weights is pruned.",
        "The network computes the same from a smaller file. The experiments named `_small` use it.",
        "clipq.dead_units:fold_dead_units", "tests/test_dead_units.py",
    ),
)  # fmt: skip
