"""PyTorch's side of `benchmarks.device.speed`: BERT's blocks with SDPA and `torch.compile`, LoRA and AdamW.

The blocks are written out, so that no library stands between PyTorch and the device. No row has padding, and SDPA gets
no mask, so that it may take its fastest kernel. `float32` allows TF32,
`float32_exact` does not; in `bfloat16` weights and states are bfloat16. PyTorch has no products of int8 of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from backbone.spec import EncoderSpec
from benchmarks.device.shapes import Work, works
from benchmarks.device.turns import Side, obey

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RANK = 8


class Adapted(nn.Module):
    """A frozen dense layer with LoRA on its first and last thirds: query and value of a joint product."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)
        self.down = nn.Parameter(torch.randn(width, 2 * RANK) / width**0.5)
        self.up = nn.Parameter(torch.zeros(2, RANK, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.dense(x).chunk(3, -1)
        low = x @ self.down.to(x.dtype)
        up = self.up.to(x.dtype)
        return torch.cat([query + low[..., :RANK] @ up[0], key, value + low[..., RANK:] @ up[1]], -1)


class Block(nn.Module):
    """A post-norm block (Devlin et al. 2018)."""

    def __init__(self, spec: EncoderSpec, adapted: bool):
        super().__init__()
        width = spec.width
        self.heads = spec.heads
        self.qkv = Adapted(width) if adapted else nn.Linear(width, 3 * width)
        self.output, self.up = nn.Linear(width, width), nn.Linear(width, spec.mlp_width)
        self.down = nn.Linear(spec.mlp_width, width)
        self.first, self.second = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.first(x + self.output(mixed))
        return self.second(x + self.down(functional.gelu(self.up(x))))


class Model:
    """Random weights of a shape, and the rows that it reads."""

    def __init__(self, work: Work, precision: str, adapted_from: int):
        torch.manual_seed(0)
        torch.backends.cuda.matmul.allow_tf32 = precision == "float32"
        torch.backends.cudnn.allow_tf32 = precision == "float32"
        self.work, spec = work, work.spec
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.words = nn.Embedding(spec.vocabulary, spec.width).to(DEVICE, self.dtype).requires_grad_(False)
        blocks = [Block(spec, index >= adapted_from).to(DEVICE) for index in range(spec.blocks)]
        for block in blocks:
            for name, leaf in block.named_parameters():
                adapter = name in ("qkv.down", "qkv.up")  # the adapter stays float32, as here
                leaf.requires_grad_(adapter)
                leaf.data = leaf.data if adapter else leaf.data.to(self.dtype)
        self.blocks = [torch.compile(block) for block in blocks]
        self.head = nn.Linear(spec.width, work.classes, device=DEVICE)
        adapters = [leaf for block in blocks for leaf in block.parameters() if leaf.requires_grad]
        if adapters:
            self.optimizer = torch.optim.AdamW([*adapters, *self.head.parameters()], 1e-4, fused=DEVICE == "cuda")
        draw = np.random.default_rng(0)
        self.ids = torch.from_numpy(draw.integers(1000, 20000, (work.rows, work.tokens)))
        self.labels = torch.from_numpy(draw.integers(0, work.classes, work.rows))

    def run_blocks(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        for block in self.blocks[start:stop]:
            x = block(x)
        return x

    def fill(self, fetched: bool) -> Side:
        ids, last = self.ids[: self.work.filled], self.work.spec.blocks - 2

        @torch.inference_mode()
        def run(steps: int) -> None:
            for _ in range(steps):
                states = self.run_blocks(self.words(ids.to(DEVICE)), 0, last)
                if fetched:
                    states.float().cpu()
            waited()

        return run

    def steps(self, boundary: int, table: torch.Tensor | None) -> Side:
        draw = np.random.default_rng(2)

        def run(steps: int) -> None:
            for _ in range(steps):
                rows = torch.from_numpy(draw.choice(self.work.rows, self.work.batch, replace=False))
                if table is None:
                    x = self.words(self.ids[rows].to(DEVICE))
                else:
                    x = table[rows.to(table.device)].to(DEVICE, self.dtype)
                x = self.run_blocks(x, boundary, self.work.spec.blocks).float().mean(1)
                loss = functional.cross_entropy(self.head(x), self.labels[rows].to(DEVICE))
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
            waited()

        return run


def waited() -> None:
    """Returns when the device has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    sizes = works(parser.parse_args().tiny)

    def prepare(shape: str, precision: str) -> Mapping[str, Side]:
        if precision.startswith("int8"):
            return {}
        work, arithmetic = sizes[shape], precision.removesuffix(" every block")
        torch.compiler.reset()
        if precision.endswith(" every block"):
            return {"every block": Model(work, arithmetic, 0).steps(0, None)}
        boundary = work.spec.blocks - 2
        plain, adapted = Model(work, arithmetic, work.spec.blocks), Model(work, arithmetic, boundary)
        host = torch.from_numpy(np.random.default_rng(1).normal(size=(work.rows, work.tokens, work.spec.width))).float()
        return {
            "fill": plain.fill(fetched=False),
            "fill, fetched": plain.fill(fetched=True),
            "top two, states on the host": adapted.steps(boundary, host),
            "top two, states on the device": adapted.steps(boundary, host.to(DEVICE)),
        }

    obey(prepare)


if __name__ == "__main__":
    main()
