"""The verbs of `serving`: predict, serve. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass

from backbone.console.options import option
from backbone.console.verbs import InPrecision, OfGraft, OnBackbone, Verb
from serving.server.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Predict(OfGraft, OnBackbone, InPrecision, Verb, verb="predict"):
    texts: tuple[str, ...] = option((), "text to answer for; may be repeated", name="text", repeat=True)
    pairs: tuple[str, ...] = option(
        (), "second text of the --text at its place; may be repeated", name="text-pair", repeat=True
    )
    files: tuple[str, ...] = option(
        (),
        "file with a text a line (a pair: a tab between), - for standard input, or an image; may be repeated",
        name="file",
        repeat=True,
    )
    top: int = option(5, "probabilities shown for each text", min=1)

    def call(self) -> object:
        """Predicts the answers for texts or images."""
        from serving.predict import predict

        return predict(
            self.graft,
            self.texts,
            pairs=self.pairs,
            file=self.files,
            backbone=self.backbone,
            precision=self.precision,
            top=self.top,
        )


@dataclass(frozen=True, kw_only=True)
class Serve(Settings, Verb, verb="serve"):
    def call(self) -> object:
        """Serves answers over HTTP, following a registry or a folder of grafts."""
        from serving.server.serve import serve

        return serve(self)


VERBS: tuple[type[Verb], ...] = (Predict, Serve)
