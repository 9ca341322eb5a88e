"""A space of 25 points: a probe, and LoRA in the top one or two blocks."""

from trainers.search.space import Space


def get_space() -> Space:
    return Space(
        grids=(
            {"adapter.method": ("probe",), "plan.stages": ("all",)},
            {
                "adapter.method": ("lora",),
                "adapter.rank": (2, 4, 8, 16),
                "plan.stages": ("top(1)", "top(2)"),
                "optimizer.learning_rate": (3e-4, 1e-3, 3e-3),
            },
        )
    )
