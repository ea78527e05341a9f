"""The terms of the series, each with its meaning, the notebook that explains it, and its name in Chinese."""

from __future__ import annotations

from typing import NamedTuple


class Term(NamedTuple):
    """One term."""

    meaning: str
    notebook: int  # where it first stands, and is explained
    chinese: str


GLOSSARY = {
    "advantage": Term("How much better an ending turned out, from a token on, than the value expected.", 5, "优势"),
    "agreement": Term("The share of pairs that two annotators put in the same order.", 3, "一致率"),
    "annotator": Term("Somebody who compares endings; here five programs, the simulated panel, or you.", 3, "标注者"),
    "baseline": Term("A number that is subtracted from the reward in a policy gradient: it changes the noise, not the "
                     "mean.", 5, "基线"),
    "batch": Term("The texts that one step of training uses.", 2, "批次"),
    "best of n": Term("Sample n endings of a prompt and keep the one with the highest score.", 6, "N 选一"),
    "calibration": Term("Whether of the pairs called 80 % sure, 80 % are right.", 4, "校准"),
    "ceiling": Term("The accuracy of a reward model that knows the panel's taste exactly: noise keeps it below 100 %.",
                    4, "上限"),
    "clip": Term("Stop an update where the ratio leaves 1 ± 0.2, if the move would be rewarded further.", 5, "裁剪"),
    "coherent": Term("The reader program found the right hero, pronouns and things in the whole story. A coherent "
                     "ending is also grammatical.", 0, "连贯"),
    "demonstration": Term("A prompt with an ending that somebody has written well.", 2, "示范"),
    "ending": Term("What a model writes after a prompt: the completion, or response.", 0, "结尾（补全）"),
    "entropy": Term("How unsure a distribution is, in nats; 0 where one token has all the probability.", 1, "熵"),
    "EOS": Term("The end-of-text token: the model writes it when its ending is finished.", 2, "结束符"),
    "episode": Term("One prompt, one sampled ending and its reward: a game of the agent from start to end.", 5, "回合"),
    "fine-tune": Term("Train a pretrained model further, on fewer texts of the kind that is needed.", 2, "微调"),
    "GAE": Term("Generalised advantage estimation: advantages from rewards and values; λ says how far to trust the "
                "values.", 5, "广义优势估计"),
    "gold": Term("What the panel thinks of an ending without noise: the truth, on which no model is trained. Mean 0 "
                 "and standard deviation 1 over the stories of the grammar.", 0, "真实奖励"),
    "head": Term("The last layer: it makes logits, a value or a score of a hidden state.", 4, "输出头"),
    "KL divergence": Term("How far a policy has moved from the reference: the mean of ln π − ln π_ref, in nats per "
                          "ending. The penalty takes it, times a coefficient, from the score.", 0, "KL 散度"),
    "KL coefficient": Term("What a nat of KL costs in units of the score; β in formulas.", 5, "KL 系数"),
    "log-probability": Term("The natural logarithm of a probability, in nats.", 1, "对数概率"),
    "logit": Term("A number for each token before softmax makes probabilities of them.", 1, "logit（未归一化得分）"),
    "loss": Term("The number that training makes smaller.", 1, "损失"),
    "mask": Term("Ones where a token counts and zeros where it does not, such as the padding.", 2, "掩码"),
    "nat": Term("The unit of natural logarithms: one nat of probability is a factor of e = 2.718.", 1, "奈特"),
    "padding": Term("Tokens that make rows equally long and mean nothing.", 2, "填充"),
    "perplexity": Term("e to the power of the loss: a choice among so many equally likely tokens has the same loss.",
                       1, "困惑度"),
    "Plackett–Luce": Term("A model of rankings: take the best by softmax over the scores, then the best of the rest, "
                          "and so on.", 4, "Plackett–Luce 模型"),
    "policy": Term("The language model that is being trained by reinforcement learning: the agent.", 0, "策略"),
    "position bias": Term("A preference for a card because of its place on the screen.", 3, "位置偏差"),
    "policy gradient": Term("The gradient of the expected reward: the mean, over samples, of reward times ∇ ln π.", 5,
                            "策略梯度"),
    "PPO": Term("Proximal policy optimisation: a policy gradient with clipped, repeated updates on each batch.", 5,
                "近端策略优化"),
    "preference pair": Term("A prompt with two endings, of which one was chosen and one rejected.", 3, "偏好对"),
    "pretraining": Term("Training on a large corpus to predict the next token, without labels.", 1, "预训练"),
    "prompt": Term("What a model is given to continue; here the opening of a story.", 0, "提示"),
    "proxy": Term("The score of the reward model where it stands against gold.", 0, "代理奖励"),
    "ranking": Term("Endings of one prompt in order, best first; equal ones form a tie group.", 3, "排序"),
    "rating": Term("Points for one ending, from 1 to 7; 7 is the best.", 3, "评分"),
    "ratio": Term("A token's probability under the policy now, divided by that when it was sampled.", 5, "概率比"),
    "reference": Term("The frozen copy of the fine-tuned model from which the KL is measured.", 0, "参考模型"),
    "return": Term("The reward that is still to come, from a token on.", 5, "回报"),
    "reward model": Term("A language model with a head that gives one number, the score, fitted to judgements.", 0,
                         "奖励模型"),
    "RLHF": Term("Reinforcement learning from human feedback.", 0, "基于人类反馈的强化学习"),
    "rollout": Term("A batch of endings that the policy has sampled, with their log-probabilities.", 5, "采样轨迹"),
    "score": Term("The number that a reward model gives to an ending. Mean 0 and standard deviation 1 over endings of "
                  "the fine-tuned model.", 0, "得分"),
    "temperature": Term("What logits are divided by before softmax: below 1 the likely tokens gain.", 1, "温度"),
    "tie group": Term("Endings that an annotator finds equally good.", 3, "并列组"),
    "token": Term("A piece of text with a number: a word, a part of one, or a punctuation mark.", 1, "词元"),
    "top-k": Term("Only the k tokens with the largest logits can be drawn; all others get probability 0.", 1,
                  "top-k 采样"),
    "trunk": Term("The model without its head: tokens go in, a hidden state for each comes out.", 4, "主干"),
    "value": Term("What the value head expects to come from a token on.", 5, "价值"),
    "whiten": Term("Subtract the mean and divide by the standard deviation.", 5, "标准化"),
}


def page() -> str:
    """The glossary as Markdown: `notebooks/guide/glossary.md`."""
    rows = [f"| **{name}** | {term.meaning} | {term.notebook:02d} | {term.chinese} |"
            for name, term in sorted(GLOSSARY.items(), key=lambda item: item[0].lower())]
    return "\n".join(["# Glossary", "", "Each term is explained where it first stands in the series.", "",
                      "| term | meaning | first in | Chinese |", "|---|---|---|---|", *rows, ""])
