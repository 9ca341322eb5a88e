"""Grafts to and from Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.

One codec for each `peft_type`: LORA (rank-stabilised and DoRA too), IA3, VERA, LN_TUNING. With
`head.pooling = pooler` the folder is one for `BertForSequenceClassification` (task SEQ_CLS), head
included. Other poolings have no class in transformers: the folder is one for the plain encoder
(FEATURE_EXTRACTION) and the head lies beside it in `topgraft_head.safetensors`.
"""

from __future__ import annotations

from adapters.export.peft.exchange import Exchange, export_peft, import_peft

__all__ = ["Exchange", "export_peft", "import_peft"]
