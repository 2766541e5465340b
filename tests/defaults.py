"""Whether reports/ and data/ may be those of the default run: of other params they are a user's, and say other things.

Tests of what the default run found are skipped then; all others hold whatever was run.
"""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
EDITED = yaml.safe_load((ROOT / "params.yaml").read_text()) != yaml.safe_load((ROOT / "tests/params.yaml").read_text())
of_the_default_run = pytest.mark.skipif(EDITED, reason="params.yaml is edited: what was run is no default run")
