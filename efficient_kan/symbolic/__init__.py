"""Formulas of networks: functions with names for edges, fitted, chosen, refitted (KAN paper, arXiv 2404.19756, 2.5.1)."""

from efficient_kan.symbolic.choice import Candidate as Candidate
from efficient_kan.symbolic.comparison import Comparison as Comparison
from efficient_kan.symbolic.layer import SymbolicLayer as SymbolicLayer
from efficient_kan.symbolic.library import LIBRARY as LIBRARY
from efficient_kan.symbolic.library import Function as Function
from efficient_kan.symbolic.network import SymbolicKAN as SymbolicKAN

__all__ = ["LIBRARY", "Candidate", "Comparison", "Function", "SymbolicKAN", "SymbolicLayer"]
