"""Learn RLHF by doing it: fine-tuning, a reward model and PPO on a laptop, offline, in minutes."""

__version__ = "0.1.0"
