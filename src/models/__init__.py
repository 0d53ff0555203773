"""LightningModules, one per method."""

from .context_encoder import ContextEncoder
from .fills import Fill
from .restorer import Restorer

__all__ = ["ContextEncoder", "Fill", "Restorer"]
