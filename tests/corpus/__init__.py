"""The corpus of bad input: over a hundred cases, each of which must end in one clear error."""

from .case import Case, Outcome, meet
from .checkpoints import cases as checkpoint_cases
from .images import cases as image_cases
from .networks import cases as network_cases
from .pairs import cases as pair_cases
from .settings import cases as setting_cases
from .tables import cases as table_cases

__all__ = ["CASES", "Case", "Outcome", "meet"]

CASES: list[Case] = [
    *image_cases(),
    *table_cases(),
    *checkpoint_cases(),
    *setting_cases(),
    *network_cases(),
    *pair_cases(),
]
