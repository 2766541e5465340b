"""About how long training and measuring small models takes: products counted, and what any step costs besides.

train induction: 6 runs, 4,800 steps, about 0.5 min
"""

from torch.nn import functional

from stages.model.cost import product
from stages.recipes.lesson import Lesson
from stages.recipes.settings import Architecture, Training
from stages.store.cost import calculation

OPENED = 800  # small calculations that take as long as processes to begin and what they share to be imported
STEP = 0.004  # seconds of one thread for a step's calls, the smallest model's as well
CHECKPOINT = 90  # small calculations that take as long as reading a checkpoint and measuring it, on one thread
BACKWARD = 3  # a step forward and back multiplies so many times what a pass does


def weights(architecture: Architecture, symbols: int) -> int:
    """Return about how many weights a token meets: attention, MLP and the output layer."""
    width = architecture.width
    return architecture.layers * (4 * width * width + 2 * width * architecture.inner) + width * symbols


def training(runs: list[tuple[Lesson, Training, int]], processes: int) -> str:
    """Return how long runs take, (lesson, training, steps) each, that so many processes share: 'about 1.0 min'."""
    take, seconds = product(multiply=functional.linear), OPENED * calculation()
    for lesson, asked, steps in runs:
        tokens = asked.batch * lesson.positions
        each = BACKWARD * tokens * weights(asked.architecture, lesson.symbols) * take + STEP / processes
        seconds += steps * each
    return f"about {seconds / 60:.1f} min"


def measuring(checkpoints: int, processes: int) -> str:
    """Return about how long it takes to measure checkpoints."""
    return f"about {(OPENED + checkpoints * CHECKPOINT / processes) * calculation() / 60:.1f} min"
