"""LightningModules, one per method."""

from .context_encoder import ContextEncoder
from .deepfill import DeepFill
from .edge_connect import EdgeConnect
from .fills import Fill
from .restorer import Restorer

__all__ = ["ContextEncoder", "DeepFill", "EdgeConnect", "Fill", "Restorer"]
