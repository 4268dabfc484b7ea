"""The map from each ``.m`` file and function to its Python counterpart, for ``FUNCTIONS.md``."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """m_file, function: of our reference, or of mlcircus' bayesopt; python: ``module:attribute``.
    status: ``reconstructed`` from the paper, or ``behaviour`` compared with the original's own traces."""

    m_file: str
    function: str
    python: str
    status: str
    test: str


_LAYER, _TRAIN = "ws_learn_one_layer.m", "ws_train.m"
_ENCODE, _DECODE = "encode_sparse_quantized_net_v2.m", "decode_sparse_quantized_net_v2.m"
_BAYESOPT = "mlcircus-bayesopt/bayesopt.m"
_PARITY, _SEARCH = "tests/test_parity.py", "tests/test_bayesopt_parity.py"

FUNCTIONS = (
    Row(_LAYER, "ws_learn_one_layer", "clipq.ws_learn_one_layer:ws_learn_one_layer", "reconstructed", _PARITY),
    Row(_LAYER, "clipping", "clipq.ws_learn_one_layer:_clip", "reconstructed", _PARITY),
    Row(_LAYER, "clip_one", "clipq.ws_learn_one_layer:_side", "reconstructed", _PARITY),
    Row(_LAYER, "partition_per_sign", "clipq.learning.partition:intervals", "reconstructed", _PARITY),
    Row(_LAYER, "partition_joined", "clipq.learning.partition:intervals", "reconstructed", _PARITY),
    Row(_LAYER, "assign", "clipq.learning.partition:thresholds", "reconstructed", _PARITY),
    Row("ws_conventions.m", "ws_conventions", "clipq.conventions:Conventions", "reconstructed", _PARITY),
    Row(_TRAIN, "ws_train", "clipq.ws_train:ws_train", "reconstructed", _PARITY),
    Row(_TRAIN, "loss_and_gradient", "clipq.weight_sharing:straight_through", "reconstructed", _PARITY),
    Row("ws_search.m", "ws_search", "clipq.search:search", "reconstructed", _PARITY),
    Row("ws_search.m", "order_of", "clipq.search:search", "reconstructed", _PARITY),
    Row("ws_search.m", "encoded_bits", "clipq.bits:layer_bits", "reconstructed", _PARITY),
    Row(_ENCODE, "encode_sparse_quantized_net_v2",
        "clipq.encode_sparse_quantized_net_v2:encode_sparse_quantized_net_v2", "reconstructed", _PARITY),
    Row(_ENCODE, "index_width", "clipq.bits:choose_index_bits", "reconstructed", _PARITY),
    Row(_ENCODE, "entries_of", "clipq.relative_index:relative_index", "reconstructed", _PARITY),
    Row(_ENCODE, "section_size", "clipq.bits:fixed_parts", "reconstructed", _PARITY),
    Row(_ENCODE, "pack_bits", "clipq.bit_stream:pack_bits", "reconstructed", _PARITY),
    Row(_DECODE, "decode_sparse_quantized_net_v2",
        "clipq.decode_sparse_quantized_net_v2:decode_sparse_quantized_net_v2", "reconstructed", _PARITY),
    Row(_DECODE, "unpack_bits", "clipq.bit_stream:unpack_bits", "reconstructed", _PARITY),
    Row(_BAYESOPT, "bayesopt", "clipq.bayesopt:bayesopt", "behaviour", _SEARCH),
    Row(_BAYESOPT, "gp (GPML)", "clipq.bayesian.gaussian_process:posterior", "behaviour", _PARITY),
    Row(_BAYESOPT, "gp (GPML), marginal likelihood", "clipq.bayesian.gaussian_process:nlml", "behaviour", _PARITY),
    Row(_BAYESOPT, "minimize (GPML)", "clipq.bayesian.conjugate_gradient:minimize", "behaviour", _SEARCH),
    Row(_BAYESOPT, "expected improvement",
        "clipq.bayesian.expected_improvement:expected_improvement", "behaviour", _PARITY),
)  # fmt: skip
