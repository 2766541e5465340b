"""What a run needs: memory and disk."""

BESIDE = 2_000_000_000  # bytes: torch, tables and activations beside the weights
RESULTS = 1_000_000_000  # bytes of data/ and DVC's cache after a few runs: 0.12 GB each with the default params


def memory(parameters: int, width: int = 4) -> int:
    """Return about how many bytes a stage takes: twice the weights, as loading does, and what is beside.

    width: bytes of a weight.
    """
    return 2 * width * parameters + BESIDE


def converted(parameters: int) -> int:
    """Return about how many bytes of the user's cache a model takes where it is converted to float32."""
    return 4 * parameters
