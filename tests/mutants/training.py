"""Mutants of what trains: the step, the state of the loop, the loop, schedules, the order of rows, the climb."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

STEP, STATE, LOOP = (f"trainers/fitting/{name}.py" for name in ("step", "state", "loop"))
TASK, CLIMB, ORDER = "trainers/fitting/task.py", "trainers/fitting/climb.py", "trainers/data/order.py"
LINEAR = "trainers/fitting/linear_head.py"
OPTIONS = "trainers/fitting/head_comparison.py"
GEOMETRIC, EXPLICIT, TOP = (f"trainers/freezing/{name}.py" for name in ("geometric", "explicit", "top"))
RATIO, SCHEDULE = "trainers/freezing/gradient_ratio.py", "trainers/freezing/schedule.py"

ON_STEP = "tests/trainers/fitting/test_step.py"
ON_STAGES = "tests/trainers/fitting/test_stages.py"
ON_PLANS = "tests/trainers/freezing/test_plans.py"
ON_ORDER = "tests/trainers/data/test_order.py"
ON_CLIMB = "tests/trainers/fitting/test_climb.py"
ON_HEADS = "tests/trainers/fitting/test_head_options.py"
ON_OPTIONS = "tests/trainers/test_train_options.py"
BY_HAND = f"{ON_STAGES}::test_what_stays_live_keeps_its_moments_and_its_rate"
MID_RUN = f"{ON_STAGES}::test_another_boundary_in_mid_run_changes_no_bit_where_the_live_tree_stays"
ONE_STEP = f"{ON_STEP}::test_one_step_equals_the_same_step_by_hand_and_touches_only_what_is_live"
NOT_FINITE = f"{ON_STEP}::test_a_gradient_that_is_not_finite_leaves_moments_and_sums_alone"
INTERRUPTED = f"{ON_STAGES}::test_interrupted_in_mid_stage_and_resumed"
RATES = f"{ON_STEP}::test_the_schedule_at_its_boundaries"
NAMED = f"{ON_PLANS}::test_schedules_by_name"
ROUNDED = f"{ON_PLANS}::test_explicit_stages_end_on_optimiser_steps"
PARTS = f"{ON_ORDER}::test_a_part_of_an_epoch_draws_from_its_open_rows"
ONCE = f"{ON_ORDER}::test_without_a_curriculum_an_epoch_is_every_row_once"
FORMULA = f"{ON_ORDER}::test_competence_by_the_formula"
AGAIN = f"{ON_ORDER}::test_any_batch_of_any_epoch_can_be_found_again"
UNSEEN = "tests/trainers/fitting/test_linear_head.py::test_a_row_is_judged_by_a_probe_that_never_saw_it_or_its_copies"
KEPT = f"{ON_CLIMB}::test_where_a_probe_is_not_enough_a_trained_step_is_kept"
GIVEN_UP = f"{ON_CLIMB}::test_a_trained_step_that_lies_behind_after_an_epoch_is_given_up"

TRAINING = (
    # the step
    Mutant(
        STEP,
        "live = {path: leaf for path, leaf in leaves.items() if is_live(path)}",
        "live = {path: leaf for path, leaf in leaves.items() if not is_live(path)}",
        ONE_STEP,
        "what is frozen would be trained",
    ),
    Mutant(STEP, "decay], [warmup])", "decay], [0])", RATES, "warm-up would be left out"),
    Mutant(STEP, "max(1, steps - warmup)", "max(1, steps)", RATES, "the rate would not reach zero after a warm-up"),
    Mutant(
        STEP,
        "leaf.ndim >= 2",
        "leaf.ndim >= 1",
        f"{ON_STEP}::test_weight_decay_shrinks_matrices_and_leaves_vectors",
        "biases would decay",
    ),
    Mutant(
        STEP,
        "[optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []",
        "[]",
        f"{ON_STEP}::test_gradients_are_clipped_to_their_norm",
        "clip_norm would be read by nothing",
    ),
    Mutant(
        STEP,
        "optax.MultiSteps(optimizer, config.accumulate) if config.accumulate > 1 else optimizer",
        "optimizer",
        f"{ON_STEP}::test_accumulated_micro_batches_equal_one_large_batch",
        "every micro-batch would be a step",
    ),
    Mutant(
        STEP,
        "known.get(jax.tree_util.keystr(path), leaf), fresh)",
        "leaf, fresh)",
        BY_HAND,
        "moments and rate would begin anew in every stage",
    ),
    Mutant(
        STEP,
        "jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))",
        "jnp.isfinite(loss)",
        NOT_FINITE,
        "a gradient of NaN would be applied",
    ),
    Mutant(
        STEP,
        '"optimizer": kept(optimizer_state, state["optimizer"])',
        '"optimizer": optimizer_state',
        NOT_FINITE,
        "moments would stay NaN for the rest of the run",
    ),
    Mutant(
        STEP,
        '"loss": jnp.where(finite, loss * rows, 0)',
        '"loss": jnp.where(finite, loss, 0)',
        ONE_STEP,
        "the logged loss would not be a mean over rows",
    ),
    Mutant(
        STEP,
        'jax.random.fold_in(jax.random.key(frozen["seed"] if seed is None else seed), state["step"])',
        "jax.random.key(seed)",
        f"{ON_STEP}::test_every_step_has_a_random_key_of_its_own",
        "every step would drop the same units",
    ),
    Mutant(
        STEP,
        '(model.head.loss(logits, batch["labels"]) * batch["weights"]).sum() / divisor, rows',
        'model.head.loss(logits, batch["labels"]).mean(), rows',
        BY_HAND,
        "the filling of a batch would be trained on",
    ),
    Mutant(
        STEP,
        'kept(jax.tree.map(jnp.add, state["gradient"], gradient), state["gradient"])',
        'kept(gradient, state["gradient"])',
        f"{ON_STEP}::test_gradients_are_summed_for_a_schedule_that_reads_them",
        "a schedule would judge by one batch",
    ),
    # the state of the loop
    Mutant(
        STATE, "self.arrays = carry(before, self.arrays)", "pass", BY_HAND, "moments would begin anew in every stage"
    ),
    Mutant(
        STATE,
        "if boundary != self.progress.boundary:",
        "if boundary > self.progress.boundary + 1:",
        BY_HAND,
        "a boundary that moves by one block would not freeze it",
    ),
    Mutant(
        STATE,
        "self.progress.boundary if self.progress.stage_until == span.until else self._decided()",
        "self._decided()",
        f"{INTERRUPTED}[gradient_ratio]",
        "a stage that is resumed would be decided twice",
    ),
    Mutant(
        STATE,
        'self.done = int(self.arrays["step"])',
        "self.done = 0",
        f"{INTERRUPTED}[geometric(0.5)]",
        "a resumed run would begin anew",
    ),
    Mutant(
        STATE,
        "max(self.progress.boundary, min(adapted, default=self.task.blocks))",
        "self.progress.boundary",
        f"{ON_PLANS}::test_gradient_ratio_judges_only_blocks_with_adapters",
        "blocks without adapters would hold the median at nothing",
    ),
    Mutant(
        STATE,
        'self.arrays["gradient"] = jax.tree.map(jnp.zeros_like, self.arrays["gradient"])',
        "pass",
        f"{ON_PLANS}::test_gradient_ratio_reads_the_gradients_of_one_stage",
        "an interval would hold the gradients of those before",
    ),
    Mutant(
        STATE,
        'self.arrays = {**self.arrays, "sums": self.task.layout.whole(no_sums())}',
        "pass",
        f"{ON_OPTIONS}::test_a_logged_loss_is_that_of_the_steps_since_the_one_before",
        "the logged loss would be a mean since the run's start",
    ),
    Mutant(
        STATE,
        'self.progress.skipped += int(sums["skipped"])',
        'self.progress.skipped = int(sums["skipped"])',
        "tests/trainers/test_train.py::test_batches_that_are_not_finite_are_told_when_a_run_stops_early",
        "only the last skipped batches would be reported",
    ),
    Mutant(
        STATE,
        'if self.progress.note(self.done, scores, task.metric if self.done >= task.kept_from else ""):',
        'if self.progress.note(self.done, scores, task.metric if self.done >= task.kept_from else "") or True:',
        f"{ON_OPTIONS}::test_the_best_evaluation_is_kept_or_the_last",
        "the last evaluation would be kept for the best",
    ),
    Mutant(
        STATE,
        "0 < task.patience <= self.progress.epochs_without_gain",
        "0 < task.patience < self.progress.epochs_without_gain",
        f"{ON_OPTIONS}::test_patience_ends_a_run_that_no_longer_gains",
        "a run would wait an epoch too long",
    ),
    Mutant(
        STATE,
        "if stages and stages[-1].until == span.until:",
        "if False:",
        f"{ON_STAGES}::test_stages_that_are_all_live_equal_plain_training_bit_for_bit",
        "each epoch would be reported as a stage",
    ),
    Mutant(
        STATE,
        "        self._counts = {}\n        self.prefix",
        "        self.prefix",
        f"{ON_STAGES}::test_work_falls_from_stage_to_stage_and_nothing_compiles_inside_one",
        "a stage would be counted with the work of the one before",
    ),
    # the loop
    Mutant(
        LOOP, "min(span.until, pause)", "pause", MID_RUN, "a stage that ends in mid-epoch would run to the epoch's end"
    ),
    Mutant(
        LOOP,
        "state.done == pause or state.done % task.log_every == 0",
        "state.done == pause",
        f"{ON_OPTIONS}::test_scalars_are_logged_at_every_so_many_steps_and_at_an_epochs_end",
        "log_every would be read by nothing",
    ),
    Mutant(
        "trainers/runs/interruption.py",
        "return self.due or self.over",
        "return self.over",
        f"{INTERRUPTED}[geometric(0.5)]",
        "no checkpoint would be written inside an epoch",
    ),
    Mutant(
        LOOP,
        "if paused or interruption.over or interruption.due:",
        "if interruption.over or interruption.due:",
        f"{ON_STAGES}::test_an_epochs_end_is_saved_whatever_the_clock_says",
        "an epoch would be lost where checkpoints are far apart",
    ),
    Mutant(
        LOOP,
        "state.progress.stopped |= stop_if(state.progress)",
        "pass",
        GIVEN_UP,
        "a hopeless step would run to its end",
    ),
    Mutant(
        LOOP,
        "if done < span.until)",
        "if done < span.until - 1)",
        f"{ON_STAGES}::test_interrupted_in_mid_stage_and_resumed[geometric(0.5)]",
        "a stage would begin a batch early",
    ),
    # the task
    Mutant(TASK, "return int(rest[1]) >= boundary", "return int(rest[1]) > boundary", BY_HAND, "one block too few"),
    Mutant(
        TASK,
        "return min(model.taps) >= boundary",
        "return True",
        "tests/trainers/fitting/test_cached_states.py::test_a_ladder_that_reads_below_a_boundary_is_not_fed_from_it",
        "a model would read states that the cache has not",
    ),
    Mutant(
        TASK,
        "return -(-self.total_steps // self.config.optimizer.accumulate)",
        "return self.total_steps",
        BY_HAND,
        "the rate would not reach zero",
    ),
    Mutant(
        TASK,
        "state.prefix.boundary < boundary and store.lossless else None",
        "state.prefix.boundary < boundary else None",
        "tests/trainers/fitting/test_cached_states.py"
        "::test_what_a_stage_caches_does_not_depend_on_the_stage_before[bfloat16]",
        "a resumed run would read other bits",
    ),
    # schedules
    Mutant(GEOMETRIC, "min(shape.blocks - 1,", "min(shape.blocks,", NAMED, "the top block would freeze"),
    Mutant(GEOMETRIC, "** epoch)", "** (epoch + 1))", NAMED, "blocks would freeze an epoch early"),
    Mutant(EXPLICIT, "shape.rounded(min(end, shape.total))", "int(min(end, shape.total))", ROUNDED, "half a step"),
    Mutant(
        EXPLICIT, "stage.until_step * shape.accumulate", "stage.until_step", ROUNDED, "steps taken for micro-batches"
    ),
    Mutant(TOP, "return blocks - self.k", "return max(0, blocks - self.k - 1)", NAMED, "one block too many"),
    Mutant(RATIO, "np.median(ratio)", "np.mean(ratio)", f"{ON_PLANS}::test_the_gradient_rule", "another rule"),
    Mutant(
        RATIO,
        "np.abs(old - new) / np.maximum(old, 1e-30)",
        "np.abs(old - new)",
        f"{ON_PLANS}::test_the_gradient_rule",
        "a block with large gradients would never settle",
    ),
    Mutant(
        SCHEDULE, "math.ceil(step / self.accumulate - 1e-9)", "int(step / self.accumulate)", ROUNDED, "a step early"
    ),
    Mutant(
        SCHEDULE,
        "- before) / min(1.0, self.epochs - whole)",
        "- before) / 1.0",
        f"{ON_PLANS}::test_stages_of_a_last_epoch_that_is_a_part",
        "half an epoch would be taken for a whole one",
    ),
    # the order of rows
    Mutant(ORDER, "min(1.0, time / curriculum.duration)", "min(1.0, time)", FORMULA, "duration read by nothing"),
    Mutant(ORDER, "t * (1 - curriculum.start**2)", "t * (1 - curriculum.start)", FORMULA, "another formula"),
    Mutant(
        ORDER,
        "if self.curriculum.control:",
        "if False:",
        f"{ON_ORDER}::test_the_control_has_the_same_pacing_and_no_order",
        "the control would be the curriculum",
    ),
    Mutant(
        ORDER, 'np.argsort(self.difficulty, kind="stable")', "np.argsort(-self.difficulty)", PARTS, "hard rows first"
    ),
    Mutant(ORDER, "self._rank[: max(1, round(share * count))]", "self._rank", PARTS, "every row would be open"),
    Mutant(ORDER, "(epoch + part / PARTS) / self.epochs", "epoch / self.epochs", PARTS, "one share for a whole epoch"),
    Mutant(ORDER, 'np.argsort(positions, kind="stable")', "draw.permutation(len(batches))", PARTS, "parts are mixed"),
    Mutant(
        ORDER,
        "draw = np.random.default_rng([self.seed, number])",
        "draw = np.random.default_rng([self.seed])",
        AGAIN,
        "every epoch would have one order",
    ),
    Mutant(
        ORDER,
        "draw = np.random.default_rng([self.seed, number])",
        "draw = np.random.default_rng([number])",
        AGAIN,
        "the seed would not move the order",
    ),
    Mutant(
        ORDER,
        "return draw.permutation(count)[:total]",
        "return draw.permutation(count)",
        f"{ON_ORDER}::test_random_subsets_are_others_in_each_epoch",
        "subset would be read by nothing",
    ),
    Mutant(
        ORDER,
        "return draw.permutation(count)[:total]",
        "return draw.permutation(total)",
        f"{ON_ORDER}::test_random_subsets_are_others_in_each_epoch",
        "every epoch would draw the same subset",
    ),
    Mutant(
        ORDER, "math.ceil(part * self._length(whole) - 1e-9)", "int(part * self._length(whole))", AGAIN, "too short"
    ),
    Mutant(ORDER, "if done < end), len(self.ends) - 1)", "if done <= end), len(self.ends) - 1)", AGAIN, "a batch late"),
    Mutant(
        ORDER,
        "surprise[row].sum()",
        "surprise[row].mean()",
        f"{ON_ORDER}::test_difficulties",
        "long rows of common words would be easy",
    ),
    Mutant(
        LINEAR,
        "inside, outside = fold != number, fold == number",
        "inside, outside = fold >= 0, fold == number",
        UNSEEN,
        "a row would be judged by a probe that saw it",
    ),
    Mutant(
        LINEAR,
        "if len(place) > 1 else np.arange(len(keys))",
        "if len(place) > len(keys) else np.arange(len(keys))",
        UNSEEN,
        "a copy of a row would give its label away",
    ),
    # the climb
    Mutant(CLIMB, "        if gain > 0:\n", "        if gain >= 0:\n", KEPT, "a tie would go to the dearer step"),
    Mutant(CLIMB, "elif candidate.steps:", "elif False:", GIVEN_UP, "a climb would go on where training does not pay"),
    Mutant(
        CLIMB,
        "return progress.best_score < kept.score - noise",
        "return False",
        GIVEN_UP,
        "a step that lies behind would be trained to the end",
    ),
    Mutant(
        CLIMB,
        "if target.min_score and kept.score >= target.min_score:",
        "if False:",
        f"{ON_CLIMB}::test_a_target_ends_the_climb",
        "target.min_score would be read by nothing",
    ),
    Mutant(
        CLIMB,
        'lowest if name == "all" else boundary, kept',
        "lowest, kept",
        KEPT,
        "the step `top` would train every block",
    ),
    # the choice of a probe
    Mutant(
        OPTIONS,
        "Part(final & (fold != k), fold == k)",
        "Part(final, fold == k)",
        f"{ON_HEADS}::test_no_head_has_seen_the_rows_that_it_is_scored_on",
        "rows would be scored by heads that saw them",
    ),
    Mutant(
        OPTIONS,
        "np.ones(train + dev, bool) if shared else ~is_dev",
        "~is_dev",
        f"{ON_HEADS}::test_who_is_fitted_and_who_is_scored",
        "development rows would be lost to the final head",
    ),
    Mutant(
        OPTIONS,
        "CAUTION * gain.std",
        "0 * gain.std",
        f"{ON_HEADS}::test_the_first_option_stays_unless_another_is_clearly_better",
        "chance would choose between the options of few rows",
    ),
    Mutant(
        "trainers/fitting/head_options.py",
        "losses.sum(axis=1, keepdims=True) - losses",
        "losses.sum(axis=1, keepdims=True)",
        f"{ON_HEADS}::test_an_average_has_the_weights_that_unseen_rows_give",
        "a row would have a say in the weights of its own average",
    ),
)
