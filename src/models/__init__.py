"""LightningModules, one per method."""

from .autoencoder import Autoencoder
from .context_encoder import ContextEncoder
from .deepfill import DeepFill
from .edge_connect import EdgeConnect
from .fills import Fill
from .restorer import Restorer
from .translator import Translator

__all__ = ["Autoencoder", "ContextEncoder", "DeepFill", "EdgeConnect", "Fill", "Restorer", "Translator"]
