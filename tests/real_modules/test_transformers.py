"""Models of Hugging Face's transformers, small and untrained; `make test-modules` runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.compat.check import check_run, check_values
from tests.compat.rows import Row
from tests.support.modules import Classifier

transformers = pytest.importorskip("transformers")

WORDS, LENGTH = 11, 5


class Language(Classifier):
    """A transformers model on batches that are its keyword arguments."""

    def loss(self, batch: Any) -> Tensor:
        return self.net(**batch).loss


class Words(Language):
    """The next word's cross-entropy, computed in the precision of the model and not in float32."""

    def loss(self, batch: Any) -> Tensor:
        logits = self.net(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def gpt2(*, dropout: float = 0.1, attention: str = "sdpa", checkpointing: bool = False) -> Any:
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_embd=4,
        n_layer=2,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
        use_cache=False,
    )
    model = transformers.GPT2LMHeadModel(config)
    if checkpointing:
        model.activation_checkpointing_enable()
    return model.train()


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=6,
        max_position_embeddings=LENGTH,
        num_labels=3,
        pad_token_id=0,
    )
    return transformers.BertForSequenceClassification(config).train()


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=LENGTH,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config).train()


def of(net: Callable[[], Any], kind: type[Language] = Language) -> Callable[[], Language]:
    return lambda: kind(net())


def texts(*, as_dict: bool = False, classes: bool = False) -> Callable[[], DataLoader]:
    """Random words, the last of some texts padding."""
    kind = dict if as_dict else transformers.BatchEncoding

    def collate(rows: list[Tensor]) -> Any:
        words = torch.stack(rows)
        mask = torch.ones_like(words)
        mask[0, -1] = 0
        labels = words.sum(dim=1) % 3 if classes else words.masked_fill(mask == 0, -100)
        return kind({"input_ids": words, "attention_mask": mask, "labels": labels})

    def loader() -> DataLoader:
        words = torch.randint(0, WORDS, (12, LENGTH), generator=torch.Generator().manual_seed(4))
        return DataLoader(list(words), batch_size=4, collate_fn=collate)

    return loader


PADDING = {"net.bert.embeddings.word_embeddings.weight": 0}
ROWS = [
    Row("GPT-2, BatchEncoding", of(gpt2), data=texts()),
    Row("GPT-2, dict", of(gpt2), data=texts(as_dict=True)),
    Row("GPT-2, bf16-mixed", of(gpt2), data=texts(), options={"precision": "bf16-mixed"}),
    Row("Llama", of(llama), data=texts()),
]
# some models, and the loss of the others, compute in float32 whatever the precision is
WITH_TWIN = [
    Row("GPT-2", of(gpt2, Words), data=texts()),
    Row("GPT-2, eager attention", of(lambda: gpt2(attention="eager"), Words), data=texts()),
    Row("GPT-2, checkpointing", of(lambda: gpt2(checkpointing=True), Words), data=texts()),
    Row("BERT", of(bert), data=texts(classes=True), masked=PADDING),
]


@pytest.mark.parametrize("row", [*ROWS, *WITH_TWIN], ids=str)
def test_run(row: Row) -> None:
    check_run(row)


@pytest.mark.parametrize("row", WITH_TWIN, ids=str)
def test_values(row: Row) -> None:
    check_values(row)
