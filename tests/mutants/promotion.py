"""Mutants of what goes live: the gate of a retraining, and promotion in the registry."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

TARGETS = "trainers/runs/targets.py"
GATE, DATABASE, LEASES = "trainers/retrain/gate.py", "registry/database.py", "registry/leases.py"
ON_GATE = "tests/trainers/retrain/test_gate.py"
ON_REGISTRY = "tests/registry/test_registry.py"
AGAINST = f"{ON_GATE}::test_the_gate_against_a_champion"
FORGETTING = f"{ON_GATE}::test_forgetting_is_judged_on_the_rows_that_the_champion_knew"
SUSPECTS = "tests/trainers/retrain/test_suspects.py"
FIRST = f"{ON_GATE}::test_the_first_version_has_a_rule"
BUDGETS = f"{ON_GATE}::test_budgets_and_what_was_not_measured"
BOUNDS = f"{ON_GATE}::test_bounds_by_slice"
PROMOTION_TEST = f"{ON_REGISTRY}::test_promotion_compares_switches_and_logs[sqlite]"
ROLLBACK = f"{ON_REGISTRY}::test_rollback_goes_back_and_never_to_what_was_rolled_back[sqlite]"
STALE = f"{ON_REGISTRY}::test_a_stale_fence_writes_nothing[sqlite]"

PROMOTION = (
    # the gate
    Mutant(
        GATE,
        '"PASS" if interval[0] >= -tolerance',
        '"PASS" if difference >= -tolerance',
        AGAINST,
        "a doubt would pass",
    ),
    Mutant(
        GATE,
        '"FAIL" if difference < -tolerance else "PASS"',
        '"PASS" if difference < -tolerance else "PASS"',
        AGAINST,
        "a worse version would go live",
    ),
    Mutant(
        GATE,
        "[(1 - confidence) / 2, (1 + confidence) / 2]",
        "[1 - confidence, confidence]",
        AGAINST,
        "the interval would be narrower than it says",
    ),
    Mutant(GATE, "if len(rows) >= gate.min_rows:", "if len(rows) >= 0:", AGAINST, "a handful of rows would decide"),
    Mutant(
        GATE,
        'slices["old rows"], gate.metric, gate.forgetting',
        'slices["all rows"], gate.metric, gate.forgetting',
        FORGETTING,
        "forgetting would be averaged away",
    ),
    Mutant(
        GATE,
        '"FAIL" if "FAIL" in verdicts else "NO_EVIDENCE" if "NO_EVIDENCE" in verdicts else "PASS"',
        '"NO_EVIDENCE" if "NO_EVIDENCE" in verdicts else "FAIL" if "FAIL" in verdicts else "PASS"',
        f"{ON_GATE}::test_a_failure_outweighs_what_is_not_known",
        "a failure would be reported as missing evidence",
    ),
    Mutant(
        GATE,
        "enough = interval[0] > 0 if doubt else gain > 0",
        "enough = gain >= 0",
        FIRST,
        "a first version no better than the majority would go live",
    ),
    Mutant(
        GATE,
        'Check("first", "NO_EVIDENCE", None',
        'Check("first", "PASS", None',
        FIRST,
        "a gate that asks nothing would pass",
    ),
    Mutant(
        GATE,
        "if bound.max_drop is not None and compared:",
        "if bound.max_drop is not None:",
        f"{ON_GATE}::test_a_drop_needs_a_champion",
        "the first version would be compared with the majority label",
    ),
    Mutant(GATE, "if bound.at_least:", "if False:", BOUNDS, "the least score of a slice would be read by nothing"),
    Mutant(
        TARGETS,
        'joules.quality == "measured_counter"',
        "joules.quality",
        BUDGETS,
        "modelled joules would count as measured",
    ),
    Mutant(
        GATE,
        '"NO_EVIDENCE" if limit.met is None else',
        '"PASS" if limit.met is None else',
        BUDGETS,
        "a budget that was not measured would pass",
    ),
    Mutant(
        GATE,
        "out[:, i] = logits[:, number]",
        "out[:, i] = logits[:, i % logits.shape[1]]",
        f"{ON_GATE}::test_logits_in_another_order_of_labels",
        "a champion with another order of labels would answer wrongly",
    ),
    Mutant(
        GATE,
        "labels)), UNLIKELY, np.float32)",
        "labels)), 0, np.float32)",
        f"{ON_GATE}::test_logits_in_another_order_of_labels",
        "a champion would answer with a label that it does not know",
    ),
    # promotion
    Mutant(
        DATABASE,
        "if present == expected:",
        "if present >= expected:",
        PROMOTION_TEST,
        "a promotion that saw an older state would win",
    ),
    Mutant(
        DATABASE,
        "if live is not None and live.version == number:",
        "if False:",
        PROMOTION_TEST,
        "promoting the live version would write another entry",
    ),
    Mutant(
        DATABASE,
        "live.version if live else None, entry)",
        "None, entry)",
        ROLLBACK,
        "a rollback would have nowhere to go",
    ),
    Mutant(
        DATABASE,
        "before = before_in([*((number, verdict) for number, verdict in entries), (version.number, ROLLBACK)])",
        "before = live.version",
        ROLLBACK,
        "a second rollback would return to the version that was rolled back",
    ),
    Mutant(
        DATABASE,
        "            stack.pop()\n",
        "            stack.append(number)\n",
        ROLLBACK,
        "a rollback would count as a promotion",
    ),
    Mutant(
        DATABASE,
        "if fence is None:\n            return self.database.time(connection)",
        "if True:\n            return self.database.time(connection)",
        STALE,
        "a run whose lease was lost would promote",
    ),
    Mutant(
        DATABASE,
        "elif known is not None and known != (other := store.identity()):",
        "elif known is None and known != (other := store.identity()):",
        f"{ON_REGISTRY}::test_what_is_not_there_or_not_sound_is_refused[sqlite]",
        "a version would lie in a store that nobody else sees",
    ),
    Mutant(
        DATABASE,
        "from_version=live.version if live else None",
        "from_version=None",
        PROMOTION_TEST,
        "the log would not say what was replaced",
    ),
    Mutant(
        "trainers/retrain/suspects.py",
        "wrong = usual - here - doubt > limit",
        "wrong = here - usual - doubt > limit",
        f"{SUSPECTS}::test_the_rows_to_look_at_are_those_with_wrong_labels",
        "wrong labels of added rows would be trained",
    ),
    Mutant(
        "trainers/retrain/suspects.py",
        "cosine[row, np.searchsorted(places, start + row)] = -1.0",
        "pass",
        f"{SUSPECTS}::test_a_row_is_familiar_if_it_lies_among_former_ones",
        "a former row would be its own neighbour, and no new row familiar",
    ),
    Mutant(
        "trainers/retrain/suspects.py",
        "wrong = share > limits.max_relabelled",
        "wrong = False",
        f"{SUSPECTS}::test_shuffled_labels_are_refused_before_training_and_the_verdict_stands",
        "a label column that was shuffled would be trained",
    ),
    Mutant(
        "trainers/retrain/beforehand.py",
        "if min(lost, gone) > limits.max_label_lost:",
        "if max(lost, gone) < 0:",
        f"{SUSPECTS}::test_a_corruption_of_a_fifth_of_the_new_rows_is_refused[a label lost by a join]",
        "a label would vanish without a word",
    ),
    Mutant(
        "trainers/retrain/beforehand.py",
        "share, limit = copies / added, usual + limits.max_copies",
        "share, limit = 0.0, usual + limits.max_copies",
        f"{SUSPECTS}::test_a_corruption_of_a_fifth_of_the_new_rows_is_refused[yesterday's rows again]",
        "a file that came twice would be trained",
    ),
    Mutant(
        "registry/database.py",
        "runs = runs.where(outcome.is_(None) | outcome.not_in(but))",
        "pass",
        f"{SUSPECTS}::test_a_daily_limit_is_kept_however_often_it_refused",
        "refusals would make a daily limit forget its training",
    ),
)
