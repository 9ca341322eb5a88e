"""Grafts to and from Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.

One codec for each `peft_type`: LORA (rank-stabilised and DoRA too), IA3, VERA, LN_TUNING. A head that is one layer of a
model of transformers (task SEQ_CLS or TOKEN_CLS) lies inside the folder. Every other head lies beside it, in
`topgraft_head.safetensors`, and the folder is one for the plain encoder (FEATURE_EXTRACTION).

A config is read by PEFT's own rules (`adapters.export.peft.names`). What a graft has no place for is refused by name.
"""

from __future__ import annotations

from adapters.export.peft.exchange import Exchange, export_peft, import_peft

__all__ = ["Exchange", "export_peft", "import_peft"]
