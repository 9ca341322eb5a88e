"""Mutants of what must never be wrong in silence: labels, rows, tokenizers, names in PEFT, known answers, prices."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

SPELLING, CELLS, SCHEMES = (f"adapters/labels/{name}.py" for name in ("spelling", "cells", "tag_schemes"))
SPLITS, PREPARE, HEADERS = (f"trainers/data/{name}.py" for name in ("splits", "prepare", "headers"))
NAMES, TASK = (f"adapters/export/peft/{name}.py" for name in ("names", "task"))
MACHINE, RESULTS = "adapters/machine.py", "benchmarks/results.py"

ON_LABELS = "tests/adapters/test_labels.py"
ON_ROWS = "tests/trainers/data/test_labels_of_rows.py"
ON_HEADERS = "tests/trainers/data/test_headers.py"
ON_TOKENIZERS = "tests/backbone/test_published_tokenizer.py"
ON_TASKS = "tests/adapters/test_peft_tasks.py"
WAYS = f"{ON_LABELS}::test_spellings_are_counted_and_look_alikes_named"
KEYS = "tests/adapters/test_machine.py::test_flags_and_programs_are_part_of_the_key"
MOVED = f"{ON_ROWS}::test_a_row_that_was_moved_stands_for_its_label"

EXACTNESS = (
    # labels
    Mutant(SPELLING, "set(ways) != {label}", "len(ways) > 1", WAYS, "one odd spelling would not be told"),
    Mutant(SPELLING, "label.casefold() in MISSING", "label in MISSING", WAYS, "NULL would be a class without a word"),
    Mutant(
        CELLS,
        "commas not in (len(items) - 1, len(items))",
        "commas > len(items)",
        f"{ON_LABELS}::test_texts_that_are_no_list",
        "two texts with no comma between would be two labels",
    ),
    Mutant(
        SCHEMES,
        "tag[0] in OPENS + GOES_ON and place == len(tags) - 1",
        "tag[0] in OPENS and place == len(tags) - 1",
        "tests/adapters/test_tag_schemes.py::test_what_no_scheme_allows_is_a_fault_of_a_word",
        "an entity without its end would be read",
    ),
    # rows
    Mutant(
        SPLITS,
        ".casefold().split()",
        ".lower().split()",
        "tests/trainers/data/test_prepare.py::test_rows_never_change_sides",
        "copies of a text could be on two sides",
    ),
    Mutant(
        PREPARE,
        "if before and place_hash(row.content) in before for label",
        "if False for label",
        MOVED,
        "more rows would move than training needs",
    ),
    Mutant(
        PREPARE,
        "if data.moved else key)",
        "if False else key)",
        MOVED,
        "rows prepared without a move would be taken for those with it",
    ),
    Mutant(
        PREPARE,
        "    for rows in splits.values():\n        rows.sort(key=_canonical)\n",
        "",
        f"{ON_ROWS}::test_the_row_that_moves_is_the_same_in_any_order_of_the_file",
        "the order in a file would change a run",
    ),
    Mutant(
        PREPARE,
        "dev_fraction = 0.0 if data.dev else data.dev_fraction",
        "dev_fraction = data.dev_fraction",
        f"{ON_ROWS}::test_numbers_and_ones_own_development_rows_do_not_move",
        "train rows would be held out beside a development file",
    ),
    Mutant(
        HEADERS,
        "numbers >= DECISIVE * len(filled)",
        "numbers > 0",
        f"{ON_HEADERS}::test_a_single_cell_below_says_nothing_about_a_name",
        "a header would be read as a row",
    ),
    Mutant(
        HEADERS,
        "if not first or (stated and stated <= set(first)):",
        "if not first:",
        f"{ON_HEADERS}::test_names_that_a_person_sets_decide",
        "a header that a person named would be read as a row",
    ),
    Mutant(
        "trainers/data/inference.py",
        "[*contents[::step], max(contents, key=len)]",
        "contents[:MAX_MEASURED]",
        "tests/trainers/data/test_inference.py::test_lengths_are_those_of_rows_in_the_whole_file",
        "long rows at the end of a file would be cut",
    ),
    Mutant(
        "trainers/data/overview.py",
        'labels if column.labels_per == "word" else tuple(sorted(labels))',
        "tuple(sorted(labels))",
        "tests/trainers/data/test_overview.py"
        "::test_labels_in_another_order_contradict_where_their_order_says_something",
        "sentences whose tags contradict would not be told",
    ),
    Mutant(
        "trainers/data/formats/separated.py",
        "delimiter or match[1]) if match",
        "match[1]) if match",
        "tests/trainers/data/test_delimiters.py::test_a_named_delimiter_and_excels_own_line",
        "data.delimiter would be read by nothing",
    ),
    Mutant(
        "trainers/data/token_lines.py",
        "if len(others) != 1:",
        "if not others:",
        "tests/trainers/data/test_token_lines.py::test_files_that_leave_doubt_are_refused_by_line",
        "the first of two columns of tags would be taken",
    ),
    # files and tokenizers
    Mutant(
        "backbone/compression.py",
        "max(MIN_LIMIT, MAX_RATIO * len(content))",
        "min(MIN_LIMIT, MAX_RATIO * len(content))",
        "tests/backbone/test_texts.py::test_the_limit_is_200_times_the_packed_bytes_or_256_mib_whichever_is_more",
        "large files that are packed would be refused",
    ),
    Mutant(
        "backbone/exchange/tokenizer_files.py",
        "named = (files.roles.get(role) for role in ROLES)",
        "named = files.roles.values()",
        f"{ON_TOKENIZERS}::test_ids_are_those_of_autotokenizer",
        "an added token would be found in another case than by AutoTokenizer",
    ),
    Mutant(
        "backbone/exchange/published_tokenizer.py",
        'if content["model"].get("dropout"):',
        "if False:",
        f"{ON_TOKENIZERS}::test_files_of_byte_pairs_are_refused_by_line",
        "ids would be drawn at random",
    ),
    Mutant(
        "backbone/exchange/importing.py",
        "if Path(name).name != name or not (folder / name).is_file():",
        "if not (folder / name).is_file():",
        "tests/backbone/test_importing.py::test_an_index_names_files_of_its_folder_alone",
        "weights outside of the folder would be read",
    ),
    # PEFT
    Mutant(
        NAMES,
        r'[r".*?\.[^.]*\.(?P<number>\d+)\."]',
        r'[r".*\.[^.]*\.(?P<number>\d+)\."]',
        "tests/adapters/test_peft_names.py::test_the_number_of_a_layer_is_the_first_one_of_its_name",
        "other layers would be adapted than in PEFT",
    ),
    Mutant(
        TASK,
        "[names.get(str(number)) for number in range(count)]",
        "list(names.values())",
        f"{ON_TASKS}::test_names_come_from_the_wrapped_model",
        "names would belong to other outputs",
    ),
    # known answers, prices, provenance
    Mutant(
        MACHINE,
        '"versions": _versions(), "flags": _flags(), "programs"',
        '"flags": _flags(), "programs"',
        KEYS,
        "a new jaxlib would be taken for the one that was right",
    ),
    Mutant(
        "trainers/retrain/decide.py",
        "known = (newer or known)[:HISTORY]",
        "known = newer or known",
        "tests/trainers/retrain/test_decide.py::test_history_holds_the_whole_verb_of_the_newest_runs",
        "runs of long ago would price the next",
    ),
    Mutant(
        "trainers/pricing/climb.py",
        "if labels < MANY_LABELS:",
        "if labels <= MANY_LABELS:",
        "tests/trainers/pricing/test_price.py"
        "::test_with_many_labels_a_probe_is_likely_and_top_is_given_up_after_an_epoch",
        "the other end of the range would be likely",
    ),
    Mutant(
        RESULTS,
        '(one["machine"], one["code"])',
        '(one["code"],)',
        "tests/test_results.py::test_sums_are_made_over_one_machine_and_one_code",
        "figures of two machines would be summed",
    ),
    # what a retraining shares with the one before it, and with other tasks
    Mutant(
        "trainers/fitting/features.py",
        "if np.allclose(logits[sample], computed,",
        "if True or np.allclose(logits[sample], computed,",
        "tests/trainers/fitting/test_features.py::test_a_cache_that_gives_other_logits_is_not_used",
        "a gate would share the faults of the cache that its candidate was fitted to",
    ),
    Mutant(
        "backbone/storage.py",
        "if path not in _KEPT or _KEPT[path][0] != key:",
        "if path not in _KEPT:",
        "tests/backbone/test_storage.py::test_a_backbone_is_kept_while_no_file_of_it_changes",
        "a backbone that was replaced on disk would go on being used",
    ),
    Mutant(
        "trainers/retrain/history.py",
        'detail.get("gate_rows", rows) == rows',
        'bool(detail.get("gate_rows", rows))',
        "tests/trainers/retrain/test_retrain.py::test_a_verdict_is_repeated_with_its_reason_until_gate_rows_come",
        "a verdict would stand whatever rows came to judge by",
    ),
    Mutant(
        "trainers/retrain/workers.py",
        "if not by_itself:",
        "if True:",
        "tests/trainers/retrain/test_workers.py::test_scripts_with_code_of_their_own_share_no_process",
        "two scripts that give one tag to different things would share a process",
    ),
)
