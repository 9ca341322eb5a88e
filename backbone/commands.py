"""The verbs of `backbone`: import-backbone, export-backbone, sign, verify. Imports no jax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbone.console.options import argument, option, required
from backbone.console.verbs import IntoFolder, Verb
from backbone.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ImportBackbone(IntoFolder, Verb, verb="import-backbone"):
    source: str = argument("folder in the Hugging Face layout, hf:org/name[@revision], or minilm")
    replace: bool = option(False, "replace an existing folder")

    def call(self) -> object:
        """Imports pretrained weights into a backbone folder."""
        from backbone.exchange.importing import import_backbone

        return import_backbone(self.source, self.out, replace=self.replace)


@dataclass(frozen=True, kw_only=True)
class ExportBackbone(IntoFolder, Verb, verb="export-backbone"):
    backbone: str = argument("backbone folder, or folder of a run of train-backbone")
    format: Literal["hf"] = required("layout of the folder; hf: Hugging Face transformers")

    def call(self) -> object:
        """Writes a backbone for other software."""
        from backbone.exchange.exporting import export_hf

        return export_hf(self.backbone, self.out)


@dataclass(frozen=True, kw_only=True)
class Signing(Verb):
    """The folder whose signatures a verb is about."""

    folder: str = argument("graft or backbone folder")


@dataclass(frozen=True, kw_only=True)
class Sign(Signing, verb="sign"):
    key: str = required("private key in PEM, on the curve P-256, P-384 or P-521")

    def call(self) -> object:
        """Signs every file of a graft or backbone, in the form of OpenSSF Model Signing."""
        from backbone.signing.bundle import sign_folder

        return sign_folder(self.folder, self.key)


@dataclass(frozen=True, kw_only=True)
class Verify(Signing, verb="verify"):
    keys: tuple[str, ...] = option(
        (), "public key in PEM that must have signed; may be repeated", name="key", repeat=True
    )

    def call(self) -> object:
        """Verifies that the named keys signed exactly the files of a graft or backbone."""
        from backbone.signing.bundle import verify_folder
        from backbone.signing.keys import read_public

        if not self.keys:
            raise InputError("--key: name the public key of each signer that you trust")
        keys = [read_public(file) for file in self.keys]
        result = verify_folder(self.folder, keys)
        if missing := [key.file for key in keys if key.fingerprint not in result.fingerprints]:
            signers = ", ".join((*result.fingerprints, *result.others)) or "nobody"
            raise InputError(
                f"{self.folder}: no signature by {', '.join(missing)}; signed by {signers} (fingerprints of keys); "
                "sign it with `topgraft sign`, or name a key that did"
            )
        return result


VERBS: tuple[type[Verb], ...] = (ImportBackbone, ExportBackbone, Sign, Verify)
