"""A world of short tales whose grammar and logic a program can check."""

from rlhf_mini.tales.grammar import compose, is_held_out, openings, write
from rlhf_mini.tales.panel import PANEL, Annotator, gold_reward, preference_probability
from rlhf_mini.tales.probability import log_probability
from rlhf_mini.tales.reader import Attributes, Reading, read, skeleton

__all__ = ["PANEL", "Annotator", "Attributes", "Reading", "compose", "gold_reward", "is_held_out", "log_probability",
           "openings", "preference_probability", "read", "skeleton", "write"]
