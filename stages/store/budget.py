"""What a long stage says before it starts, how much there is to do and about how long it takes; what a run needs."""

SECONDS = 8e-12  # per token and parameter: float32 on 2 cores, measured with Gemma 3 270M
BESIDE = 2_000_000_000  # bytes: torch, tables and activations beside the weights
RESULTS = 1_000_000_000  # bytes of data/ and DVC's cache after a few runs: 0.12 GB each with the default params


def announce(stage: str, prompts: int, tokens: int, parameters: int) -> str:
    """Return a line such as 'extract: 60 prompts, 35,875 tokens, about 1.3 min on 2 cores'."""
    minutes = tokens * parameters * SECONDS / 60
    return f"{stage}: {prompts:,} prompts, {tokens:,} tokens, about {minutes:.1f} min on 2 cores"


def memory(parameters: int, width: int = 4) -> int:
    """Return about how many bytes a stage takes: twice the weights, as loading does, and what is beside.

    width: bytes of a weight.
    """
    return 2 * width * parameters + BESIDE


def converted(parameters: int) -> int:
    """Return about how many bytes of the user's cache a model takes where it is converted to float32."""
    return 4 * parameters
