"""Layers: bits with and without the monitor, and values against differences of gradients."""

from __future__ import annotations

import pytest

from tests.compat.check import check_run, check_values
from tests.compat.layers import LAYERS
from tests.compat.rows import Row, with_twin
from tests.support.studies import without

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated"),
    # the pictures of what the hooks of old norms leave on their layers
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


# rows that are read, and left as they were, as another one is: a layer with another option or formula
LIKE_ANOTHER = (
    "TransformerEncoderLayer, norm_first",
    "TransformerEncoderLayer, positions first",
    "TransformerEncoderLayer, key padding mask",
    "LSTM, two layers, dropout",
    "LSTM, bidirectional",
    "GRU",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "weight_norm, parametrization",
    "spectral_norm, parametrization",
    "stochastic depth, each example",
    "EmbeddingBag, hvp='difference'",
    "EmbeddingBag, sparse, hvp='difference'",
    "ctc_loss, hvp='difference'",
    "cdist, hvp='difference'",
    "scaled_dot_product_attention",
    "MultiheadAttention",
)


@pytest.mark.parametrize("row", without(LAYERS, leave=LIKE_ANOTHER, key=str), ids=str)
def test_run(row: Row) -> None:
    check_run(row)


@pytest.mark.parametrize("row", without(with_twin(LAYERS), leave=LIKE_ANOTHER, key=str), ids=str)
def test_values(row: Row) -> None:
    check_values(row)
