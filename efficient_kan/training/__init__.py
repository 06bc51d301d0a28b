"""Training: one loop for KANs and for networks that contain one."""

from efficient_kan.training.history import Record as Record
from efficient_kan.training.history import Trained as Trained
from efficient_kan.training.loop import train as train

__all__ = ["Record", "Trained", "train"]
