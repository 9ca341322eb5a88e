"""Mutants of what goes live: the gate of a retraining, and promotion in the registry."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

TARGETS = "trainers/runs/targets.py"
GATE, DATABASE, LEASES = "trainers/retrain/gate.py", "registry/database.py", "registry/leases.py"
LOG, COLLECT, STANDING = "registry/log.py", "registry/collect.py", "serving/live/standing.py"
ON_GATE = "tests/trainers/retrain/test_gate.py"
ON_REGISTRY = "tests/registry/test_registry.py"
ON_STORE = "tests/registry/test_shared_store.py"
ON_STANDING = "tests/serving/test_standing.py"
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
        "registry/rows.py",
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
        "before = log.before_in([*((number, verdict) for number, verdict in entries), (version.number, ROLLBACK)])",
        "before = live.version",
        ROLLBACK,
        "a second rollback would return to the version that was rolled back",
    ),
    Mutant(
        LOG,
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
        LOG,
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
        f"{SUSPECTS}::test_a_label_whose_rows_are_gone_is_refused_and_one_that_shrank_is_not",
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
    Mutant(
        LOG,
        '"entry": uuid.uuid4().hex',
        '"entry": ""',
        f"{ON_STANDING}::test_two_changes_that_cancel_out_are_seen",
        "a lost promotion and another one would look like what was there",
    ),
    Mutant(
        STANDING,
        "if self._is_former(now, head):",
        "if False:",
        f"{ON_STANDING}::test_a_replica_that_lags_is_not_followed_until_it_goes_on",
        "a replica that lags would bring old versions back",
    ),
    Mutant(
        STANDING,
        "            if not names:\n",
        "            if True:\n",
        f"{ON_STANDING}::test_a_registry_made_anew_is_followed_once_it_has_every_task",
        "a registry made anew would end tasks",
    ),
    Mutant(
        COLLECT,
        "if size is None or self._shared(name):",
        "if size is None:",
        f"{ON_STORE}::test_gc_of_one_registry_takes_nothing_of_another",
        "gc would remove what another registry serves",
    ),
    Mutant(
        COLLECT,
        "if path.name not in PARTS or not stat.S_ISREG(info.st_mode)",
        "if False",
        f"{ON_STORE}::test_what_is_nobodys_is_left",
        "gc would remove what somebody put beside a graft",
    ),
    Mutant(
        COLLECT,
        "            if self.uses is None or not self.uses.others(folder.name):\n                return gone",
        "            if True:\n                return gone",
        f"{ON_STORE}::test_a_publisher_and_a_collector_that_meet",
        "gc would take an artefact from under a publisher",
    ),
    Mutant(
        COLLECT,
        "    if known == here:",
        "    if True:",
        f"{ON_STORE}::test_a_copy_of_a_registry_collects_nothing",
        "the copy of a registry would remove what its original serves",
    ),
)
