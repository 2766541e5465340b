"""What a long stage says before it starts: how much there is to do and about how long it takes."""

SECONDS = 8e-12  # per token and parameter: float32 on 2 cores, measured with Gemma 3 270M


def announce(stage: str, prompts: int, tokens: int, parameters: int) -> str:
    """Return a line such as 'extract: 60 prompts, 35,875 tokens, about 1.3 min on 2 cores'."""
    minutes = tokens * parameters * SECONDS / 60
    return f"{stage}: {prompts:,} prompts, {tokens:,} tokens, about {minutes:.1f} min on 2 cores"
