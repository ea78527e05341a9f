"""Checks for the exercises of the notebooks: each calls your function on small cases and returns what it found.

The result prints as one line; it has `.points` (2, 1 or 0), `.reasons` and `.to_dict()`. `keep` writes an accepted
function to a file, from which a later notebook takes it.

`diagnose` runs a check, `plain` one whose answer is no tensor, `calling` calls the student's function, `compare`
compares answers, and `exercise` says what an exercise is. The other modules hold the exercises: their cases and the
usual wrong answers.
"""

from rlhf_mini.checks.advantages import check_gae
from rlhf_mini.checks.blind import check_blind, check_win_rate
from rlhf_mini.checks.clinic import check_diagnosis, check_ratio_alarm
from rlhf_mini.checks.control_gain import check_control_gain
from rlhf_mini.checks.decoding import check_temperature, check_top_k
from rlhf_mini.checks.ending_reward import check_ending_reward
from rlhf_mini.checks.groups import check_dpo_loss, check_grpo_advantages, check_implicit_reward, check_rloo_advantages
from rlhf_mini.checks.head_swap import check_swap_head
from rlhf_mini.checks.judgements import check_agreement, check_first_wins, check_pairs, check_tie_groups
from rlhf_mini.checks.keep import keep, kept
from rlhf_mini.checks.kl_terms import check_k3, check_shaped_rewards
from rlhf_mini.checks.mean_loss import check_mean_nll
from rlhf_mini.checks.ppo_parts import check_policy_gradient, check_value_loss
from rlhf_mini.checks.preferences import check_pair_loss, check_plackett_luce
from rlhf_mini.checks.prompts import check_choose_batch
from rlhf_mini.checks.reward_parts import check_ceiling, check_scores
from rlhf_mini.checks.rows import check_labels, check_padded_batch, check_row
from rlhf_mini.checks.runs import check_best_of_n, check_best_score, check_kl_per_ending
from rlhf_mini.checks.scales import check_adapt_kl_coef, check_whiten
from rlhf_mini.checks.surrogate import check_policy_loss
from rlhf_mini.checks.tokens import check_sft_loss, check_token_logprobs
from rlhf_mini.checks.whole_iteration import check_ppo_iteration
from rlhf_mini.checks.wrong_reward import check_best_policy, check_without_length, check_worth_of_words

__all__ = ["check_adapt_kl_coef", "check_agreement", "check_best_of_n", "check_best_policy", "check_best_score",
           "check_blind", "check_ceiling", "check_choose_batch", "check_control_gain", "check_diagnosis",
           "check_dpo_loss", "check_ending_reward", "check_first_wins", "check_gae", "check_grpo_advantages",
           "check_implicit_reward", "check_k3", "check_kl_per_ending", "check_labels", "check_mean_nll",
           "check_padded_batch", "check_pair_loss", "check_pairs", "check_plackett_luce", "check_policy_gradient",
           "check_policy_loss", "check_ppo_iteration", "check_ratio_alarm", "check_rloo_advantages", "check_row",
           "check_scores", "check_sft_loss", "check_shaped_rewards", "check_swap_head", "check_temperature",
           "check_tie_groups", "check_token_logprobs", "check_top_k", "check_value_loss", "check_whiten",
           "check_win_rate", "check_without_length", "check_worth_of_words", "keep", "kept"]
