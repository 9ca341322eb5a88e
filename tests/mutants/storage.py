"""Mutants of what is stored: keys of cached rows, the states below live blocks, the artefact and its canary."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CACHE, CACHED = "backbone/cache.py", "trainers/fitting/cached_states.py"
WRITE, READ = "adapters/artefact/write.py", "adapters/artefact/read.py"
ON_CACHE = "tests/backbone/test_cache.py"
ON_CACHED = "tests/trainers/fitting/test_cached_states.py"
ON_ARTEFACT = "tests/adapters/test_artifact.py"
KEYS = "tests/trainers/data/test_pairs_and_tags.py::test_the_key_of_a_row_names_all_of_it"
SHARED = f"{ON_CACHED}::test_a_prefix_without_adapters_is_shared_and_a_trained_one_is_not"
EXCHANGED = f"{ON_ARTEFACT}::test_tensors_exchanged_with_a_right_checksum_are_still_refused"

STORAGE = (
    # keys
    Mutant(
        CACHE,
        "if len(parts) > 1 or parts[0].ndim > 1:",
        "if False:",
        KEYS,
        "a pair and its texts one behind the other would be one row",
    ),
    Mutant(
        CACHE,
        'len(part).to_bytes(8, "little") + bytes([part.ndim])',
        "bytes([part.ndim])",
        KEYS,
        "a pair that is cut elsewhere would be the same row",
    ),
    Mutant(
        CACHE,
        'return state.digest()[:15] + b"\\x01"',
        "return state.digest()[:16]",
        KEYS,
        "rows whose digest ends in a zero would never be found again",
    ),
    Mutant(
        CACHE,
        "place.bucket == bucket and self._mapped",
        "self._mapped",
        f"{ON_CACHE}::test_what_comes_back[float32]",
        "states of another padding would be read",
    ),
    *(
        Mutant(
            CACHE,
            "root / digest(variant.identity())",
            f'root / digest({{k: v for k, v in variant.identity().items() if k != "{field}"}})',
            f"{ON_CACHE}::test_variants_never_share_rows",
            f"states of another {field} would be read",
        )
        for field in ("weights_id", "boundary", "prefix_id", "compute_dtype", "backend", "storage", "pooling", "layout")
    ),
    Mutant(
        CACHE,
        "(verify and sha256_file(file) != sha256)",
        "False",
        f"{ON_CACHE}::test_damage_is_found_and_removed",
        "damaged bytes would be trained on",
    ),
    Mutant(
        CACHE,
        "                    self._take(number)\n            try:",
        "                    pass\n            try:",
        f"{ON_CACHED}::test_who_waited_for_another_writer_computes_nothing_again",
        "rows that another process has just stored would be computed again",
    ),
    # states below live blocks
    Mutant(
        CACHED, "if int(block) < boundary}", "if int(block) <= boundary}", SHARED, "a live block would be in the key"
    ),
    Mutant(
        CACHED,
        "return content_hash(below, canonical_json([encode(spec) for spec in model.methods]))",
        'return content_hash(below, "")',
        SHARED,
        "the same leaves under another alpha would be one prefix",
    ),
    Mutant(
        CACHED,
        'return pooling if model.sides == 1 else f"{pooling} {model.head.pair}"',
        'return "" if model.sides == 1 else f"{pooling} {model.head.pair}"',
        f"{ON_CACHED}::test_pooled_states_are_of_their_pooling",
        "the mean and the first state would share rows",
    ),
    Mutant(
        CACHED,
        "if not difference <= TOLERANCE[self._storage]",
        "if difference < 0 * TOLERANCE[self._storage]",
        f"{ON_CACHED}::test_stored_states_that_are_not_what_is_computed_are_computed_again",
        "states of other libraries would be trained on",
    ),
    Mutant(
        CACHED,
        "if needed > self._max_bytes:",
        "if False:",
        f"{ON_CACHED}::test_a_cache_that_would_not_fit_is_not_begun",
        "a cache would fill the disk",
    ),
    Mutant(
        CACHED,
        "max(size, SAMPLE * self._layout.shards)",
        "size",
        f"{ON_CACHED}::test_a_row_alone_has_the_bits_of_a_row_among_others",
        "a row that is filled alone would have other bits",
    ),
    # the artefact and its canary
    Mutant(
        WRITE,
        "if not worst <= allowed:",
        "if worst > allowed:",
        f"{ON_ARTEFACT}::test_a_graft_whose_canary_is_not_a_number_is_refused",
        "a machine that computes NaN would pass",
    ),
    Mutant(
        WRITE,
        "{key: value * scale for key, value in tolerances(backbone.precision).items()}",
        "{key: value * scale * 1e4 for key, value in tolerances(backbone.precision).items()}",
        f"{ON_ARTEFACT}::test_a_graft_that_does_not_reproduce_its_canary_is_refused",
        "a canary would allow any answer",
    ),
    Mutant(
        WRITE,
        '("weights_id", trained is not None),',
        '("weights_id", True),',
        f"{ON_ARTEFACT}::test_another_backbone_is_refused",
        "a graft would answer on another backbone",
    ),
    Mutant(
        WRITE,
        '("preprocessing_id", backbone.preprocessing_id == manifest.preprocessing_id),',
        '("preprocessing_id", True),',
        f"{ON_ARTEFACT}::test_another_tokenizer_is_refused",
        "a graft would read the tokens of another tokenizer",
    ),
    Mutant(
        WRITE,
        "if backbone.precision not in (trained, *manifest.variants):",
        "if False:",
        "tests/adapters/test_precisions.py::test_another_precision_is_refused_by_name",
        "a graft would answer on a trunk on which nobody has scored it",
    ),
    Mutant(
        WRITE,
        "content_id=content_hash(host, identity(manifest))",
        'content_id=content_hash(host, "")',
        f"{ON_ARTEFACT}::test_what_is_loaded_is_what_was_saved",
        "grafts that differ in a setting would have one id",
    ),
    Mutant(
        WRITE,
        "if not np.isfinite(leaf).all()]",
        "if False]",
        f"{ON_ARTEFACT}::test_values_that_are_not_finite_are_not_saved",
        "a graft that diverged would be stored",
    ),
    Mutant(
        READ,
        "if sha256_file(file) != manifest.files.get(name):",
        "if False:",
        f"{ON_ARTEFACT}::test_a_flipped_byte_anywhere_is_an_error",
        "altered bytes would be served",
    ),
    Mutant(
        READ,
        "if content_hash(params, identity(manifest)) != manifest.content_id:",
        "if False:",
        EXCHANGED,
        "exchanged tensors would pass with a right checksum",
    ),
)
