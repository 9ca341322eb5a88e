"""The page that lies in an exported folder: how to run the file, in ten lines, and what it gives."""

from __future__ import annotations

from adapters.export.onnx.tracing import SEGMENTS, inputs_of
from adapters.graft import Graft
from backbone.images import ImagePreprocessing

PAGE = """# {name}

{what}, exported from Topgraft as one ONNX file. It needs `onnxruntime`, `numpy` and {reader}, and no Topgraft.

```python
import json
import numpy as np, onnxruntime
{lines}
outputs = dict(zip(about["outputs"], session.run(about["outputs"], inputs)))
{answer}
```

Inputs: {inputs}. {lengths}

Outputs, float32:
{outputs}

{check}
"""

ANY_IMAGES = "`batch` may be any number."
ANY_TEXTS = (
    """Any `batch`, and up to {tokens} `tokens`. `mask` is 1 on tokens and 0 on padding, which changes no row."""
)

TEXTS = """from tokenizers import Tokenizer
about, session = json.load(open("manifest.json")), onnxruntime.InferenceSession("model.onnx")
rows = Tokenizer.from_file("tokenizer.json").encode_batch({texts})  # cuts and pads
inputs = {{"ids": np.array([row.ids for row in rows]), "mask": np.array([row.attention_mask for row in rows])}}"""

IMAGES = """from PIL import Image
about, session = json.load(open("manifest.json")), onnxruntime.InferenceSession("model.onnx")
picture = Image.open("picture.png").convert("{mode}")
picture = picture.resize({target}, Image.Resampling.{filter})
left, top = [(side - {size}) // 2 for side in picture.size]
pixels = np.asarray(picture.crop((left, top, left + {size}, top + {size})), np.uint8)
inputs = {{"pixels": pixels.reshape(1, {size}, {size}, {channels})}}"""


def readme(graft: Graft, name: str, outputs: tuple[str, ...], check: str) -> str:
    """Returns the page; `check` says how the file was compared with the graft."""
    preprocessing = graft.backbone.preprocessing
    images = isinstance(preprocessing, ImagePreprocessing)
    inputs = [f"`{item.name}` {item.stored} [{', '.join(map(str, item.shape))}]" for item in inputs_of(graft)]
    return PAGE.format(
        name=name,
        what=f"A graft with a head of kind {graft.model.head.kind} on a backbone in {graft.backbone.precision}",
        reader="`Pillow`" if images else "`tokenizers`",
        lines=_image_lines(preprocessing) if isinstance(preprocessing, ImagePreprocessing) else _text_lines(graft),
        answer=_answer(graft),
        inputs="; ".join(inputs),
        lengths=ANY_IMAGES if images else ANY_TEXTS.format(tokens=graft.max_tokens),
        outputs="\n".join(f"- `{output}`: {_meaning(graft, output)}" for output in outputs),
        check=check,
    )


def _text_lines(graft: Graft) -> str:
    """Returns the lines that make inputs of texts."""
    pair = graft.model.head.pair
    texts = {"none": '["a text", "another one"]', "cross": '[("a text", "its second text")]'}
    lines = TEXTS.format(texts=texts.get(pair, '["a text", "its second text"]'))
    if any(item.name == SEGMENTS for item in inputs_of(graft)):
        lines += '\ninputs["segments"] = np.array([row.type_ids for row in rows])'
    return lines


def _image_lines(preprocessing: ImagePreprocessing) -> str:
    """Returns the lines that make inputs of a file, as `backbone.images` does."""
    image, side = preprocessing.image, preprocessing.resize
    ratio = f"[int({side} * side / min(picture.size)) for side in picture.size]"
    return IMAGES.format(
        mode="L" if image.channels == 1 else "RGB",
        target=ratio if preprocessing.keep_ratio else f"({side}, {side})",
        filter=preprocessing.resample.upper(),
        size=image.size,
        channels=image.channels,
    )


def _answer(graft: Graft) -> str:
    """Returns the line that prints the answers."""
    head = graft.model.head
    if head.output == "value":
        return 'print(outputs["value"])'
    if head.threshold_of_labels is not None:
        return (
            'print([[about["labels"][n] for n in np.flatnonzero(row >= about["threshold"])] '
            'for row in outputs["probabilities"]])'
        )
    return 'print(np.array(about["labels"])[outputs["probabilities"].argmax(axis=-1)])'


def _meaning(graft: Graft, output: str) -> str:
    """Returns what an output holds."""
    head, labels = graft.model.head, len(graft.model.labels)
    each = "[batch, tokens, labels]" if head.one_answer_per != "row" else f"[batch, {labels}]"
    if output == "out_of_scope":
        return "[batch]; above 1 an input is unlike the rows of training"
    if output == "value":
        return "[batch]; the number that is the answer, in the units of the target"
    if output == "logits":
        return f"{each}; before the probabilities, in the order of `labels` in manifest.json"
    if head.one_answer_per == "word":
        return f"{each}; a word's answer is that of its first token"
    if head.threshold_of_labels is not None:
        return f"{each}; a label is given from {head.threshold_of_labels:g} on"
    return f"{each}; they sum to 1"
