"""A space of some hundred points: features, five methods, sizes, ranges of blocks, rates and pooling."""

from trainers.search.space import Space

RATES = (3e-4, 1e-3, 3e-3)
STAGES = ("top(1)", "top(2)", "top(3)")


def get_space() -> Space:
    common = {"plan.stages": STAGES, "optimizer.learning_rate": RATES}
    return Space(
        grids=(
            {"adapter.method": ("probe",), "plan.stages": ("all",), "head.pooling": ("mean", "first")},
            {"adapter.method": ("lora", "dora"), "adapter.rank": (1, 2, 4, 8, 16), **common},
            {"adapter.method": ("bottleneck",), "adapter.width": (8, 16, 32, 64), **common},
            {"adapter.method": ("ia3", "bias"), **common},
        )
    )
